//! Every key with its versions, in key order.
//!
//! A tree of three levels: a list of branches, each a block of leaves, each a block of keys. Keys are packed, so that
//! a key costs little more than its versions, and neighbours lie side by side.

use crate::block::{Block, KeyParts};
use crate::key_range::KeyRange;
use netsy_api::ids::{LeaseId, Position, Revision};
use std::ops::ControlFlow;

/// Says in [`Version::slot`] that the value is not in the cache.
pub(crate) const SLOT_NONE: u32 = u32::MAX;
/// Says in [`Version::slot`] that the value is empty.
pub(crate) const SLOT_EMPTY: u32 = u32::MAX - 1;
/// Keys in a leaf at most.
const LEAF_KEYS_MAX: usize = if cfg!(test) { 6 } else { 32 };
/// Leaves with fewer keys are joined with a neighbour where both fit into three quarters of one.
const LEAF_KEYS_MIN: usize = LEAF_KEYS_MAX / 4;
/// Leaves in a branch at most.
const BRANCH_LEAVES_MAX: usize = if cfg!(test) { 4 } else { 256 };
const NO_HISTORY: u32 = u32::MAX;

/// One version of a key; a delete is one, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) position: Position,
    pub(crate) main: Revision,
    pub(crate) create: Revision,
    /// 0: the key is gone with this.
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
    /// Where the cache may have the value.
    pub(crate) slot: u32,
    /// Of a key's newest version: where the older ones are. Kept here as it fills a gap of the layout.
    history: u32,
}

impl Version {
    pub(crate) fn put(position: Position, main: Revision, lease: LeaseId) -> Self {
        Self { position, main, create: main, version: 1, lease, slot: SLOT_NONE, history: NO_HISTORY }
    }

    pub(crate) fn delete(position: Position, main: Revision) -> Self {
        Self { create: Revision(0), version: 0, ..Self::put(position, main, LeaseId(0)) }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.version != 0
    }
}

/// The versions before the newest of the keys that have any: ascending.
#[derive(Debug, Default)]
struct Histories {
    lists: Vec<Vec<Version>>,
    free: Vec<u32>,
}

impl Histories {
    fn of(&self, newest: &Version) -> &[Version] {
        self.lists.get(newest.history as usize).map_or(&[], |list| list)
    }

    /// `next` comes after `newest`, and takes its place.
    fn push(&mut self, newest: &mut Version, next: Version) {
        let mut before = std::mem::replace(newest, next);
        newest.history = std::mem::replace(&mut before.history, NO_HISTORY);
        match self.lists.get_mut(newest.history as usize) {
            Some(list) => list.push(before),
            None => {
                let list = vec![before];
                newest.history = match self.free.pop() {
                    Some(at) => {
                        self.lists[at as usize] = list;
                        at
                    }
                    None => {
                        self.lists.push(list);
                        (self.lists.len() - 1) as u32
                    }
                };
            }
        }
    }

    /// The version before the newest takes its place; `false`: there is none.
    fn pop(&mut self, newest: &mut Version) -> bool {
        let at = newest.history;
        let Some(mut before) = self.lists.get_mut(at as usize).and_then(Vec::pop) else { return false };
        before.history = at;
        *newest = before;
        self.tidy(newest);
        true
    }

    /// Gives an empty list back, and memory that is not needed.
    fn tidy(&mut self, newest: &mut Version) {
        let Some(list) = self.lists.get_mut(newest.history as usize) else { return };
        if list.is_empty() {
            *list = Vec::new();
            self.free.push(newest.history);
            newest.history = NO_HISTORY;
        } else if list.capacity() > 2 * list.len() {
            list.shrink_to_fit();
        }
    }

    /// Drops what no reader at `floor` or above can see, oldest first (etcd.md 2.4): all but the last version up to
    /// `floor`, and that one, too, if it is a delete below `floor`. Returns whether the key is left.
    fn compact(&mut self, newest: &mut Version, floor: Revision, mut dropped: impl FnMut(&Version)) -> bool {
        let gone = |v: &Version| !v.is_live() && v.main < floor;
        if let Some(older) = self.lists.get_mut(newest.history as usize) {
            let up_to = older.partition_point(|v| v.main <= floor);
            let keep_from = if newest.main <= floor {
                older.len()
            } else {
                // The last of them is what readers at the floor see.
                up_to.saturating_sub(1) + usize::from(up_to > 0 && gone(&older[up_to - 1]))
            };
            older[..keep_from].iter().for_each(&mut dropped);
            older.drain(..keep_from);
            self.tidy(newest);
        }
        if newest.history == NO_HISTORY && gone(newest) {
            dropped(newest);
            return false;
        }
        true
    }
}

/// The versions of a key.
#[derive(Clone, Copy)]
pub(crate) struct Versions<'a> {
    newest: &'a Version,
    histories: &'a Histories,
}

impl<'a> Versions<'a> {
    pub(crate) fn newest(&self) -> &'a Version {
        self.newest
    }

    /// The version that is current at `revision`, if the key exists then.
    pub(crate) fn at(&self, revision: Revision) -> Option<&'a Version> {
        let version = if self.newest.main <= revision {
            self.newest
        } else {
            let older = self.histories.of(self.newest);
            older[..older.partition_point(|v| v.main <= revision)].last()?
        };
        Some(version).filter(|v| v.is_live())
    }

    /// The version before the one with this position, if the key existed then.
    pub(crate) fn before(&self, position: Position) -> Option<&'a Version> {
        let version = if self.newest.position < position {
            self.newest
        } else {
            let older = self.histories.of(self.newest);
            older[..older.partition_point(|v| v.position < position)].last()?
        };
        Some(version).filter(|v| v.is_live())
    }
}

type Leaf = Block<Version>;

/// A leaf is filed under a key that is not above its own keys, and above those of the leaf before; the first one takes
/// what is below, too.
#[derive(Debug)]
struct Branch {
    /// Not above its keys, and above those of the branch before; empty in the first.
    start: Box<[u8]>,
    leaves: Block<Leaf>,
}

/// All keys. No leaf and no branch is empty.
#[derive(Debug, Default)]
pub(crate) struct KeyIndex {
    branches: Vec<Branch>,
    histories: Histories,
    keys: usize,
}

/// Where the leaf is that a key belongs to.
#[derive(Clone, Copy)]
struct Place {
    branch: usize,
    leaf: usize,
}

impl KeyIndex {
    fn place(&self, key: &[u8]) -> Option<Place> {
        let branch = self.branches.partition_point(|b| *b.start <= *key).saturating_sub(1);
        let leaf = match self.branches.get(branch)?.leaves.find(key) {
            Ok(at) => at,
            Err(at) => at.saturating_sub(1),
        };
        Some(Place { branch, leaf })
    }

    fn leaf(&self, place: Place) -> Option<&Leaf> {
        self.branches.get(place.branch)?.leaves.item(place.leaf)
    }

    fn leaf_mut(&mut self, place: Place) -> Option<&mut Leaf> {
        self.branches.get_mut(place.branch)?.leaves.item_mut(place.leaf)
    }

    fn next_leaf(&self, place: Place) -> Option<Place> {
        let branch = self.branches.get(place.branch)?;
        if place.leaf + 1 < branch.leaves.len() {
            return Some(Place { leaf: place.leaf + 1, ..place });
        }
        Some(Place { branch: place.branch + 1, leaf: 0 }).filter(|p| p.branch < self.branches.len())
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Versions<'_>> {
        let leaf = self.leaf(self.place(key)?)?;
        let newest = leaf.item(leaf.find(key).ok()?)?;
        Some(Versions { newest, histories: &self.histories })
    }

    /// The newest version of a key.
    pub(crate) fn newest_mut(&mut self, key: &[u8]) -> Option<&mut Version> {
        let leaf = self.place(key).and_then(|place| self.leaf_mut(place))?;
        let at = leaf.find(key).ok()?;
        leaf.item_mut(at)
    }

    /// Keys with any version, deleted ones that are not compacted away included.
    pub(crate) fn len(&self) -> usize {
        self.keys
    }

    /// Adds the newest version of a key, which `finish` may complete from the one before; returns that one.
    pub(crate) fn push(
        &mut self,
        key: &[u8],
        mut version: Version,
        finish: impl FnOnce(&mut Version, Option<&Version>),
    ) -> Option<Version> {
        let Some(place) = self.place(key) else {
            finish(&mut version, None);
            let (mut leaf, mut leaves) = (Leaf::new(), Block::new());
            leaf.insert(0, key, version);
            leaves.insert(0, key, leaf);
            self.branches.push(Branch { start: Box::default(), leaves });
            self.keys = 1;
            return None;
        };
        let leaf = self.branches[place.branch].leaves.item_mut(place.leaf)?;
        match leaf.find(key) {
            Ok(at) => {
                let newest = leaf.item_mut(at)?;
                let before = *newest;
                finish(&mut version, Some(&before));
                self.histories.push(newest, version);
                Some(before)
            }
            Err(at) => {
                finish(&mut version, None);
                leaf.insert(at, key, version);
                self.keys += 1;
                self.split_leaf(place);
                None
            }
        }
    }

    fn split_leaf(&mut self, place: Place) {
        let Some(branch) = self.branches.get_mut(place.branch) else { return };
        let last = place.leaf + 1 == branch.leaves.len();
        let Some(leaf) = branch.leaves.item_mut(place.leaf) else { return };
        if !leaf.is_over(LEAF_KEYS_MAX) {
            return;
        }
        // Keys that come in order fill their leaves: only the newest goes over.
        let tail = leaf.split_off(if last { leaf.len() - 1 } else { leaf.len() / 2 });
        if place.leaf == 0 {
            // It may have taken keys below what it was filed under.
            let first = leaf.key(0).to_vec();
            let leaf = branch.leaves.remove(0);
            branch.leaves.insert(0, &first, leaf);
        }
        let start = tail.key(0).to_vec();
        branch.leaves.insert(place.leaf + 1, &start, tail);
        if branch.leaves.is_over(BRANCH_LEAVES_MAX) {
            let len = branch.leaves.len();
            let last = place.branch + 1 == self.branches.len();
            let leaves = self.branches[place.branch].leaves.split_off(if last { len - 1 } else { len / 2 });
            let start = leaves.key(0).to_vec().into();
            self.branches.insert(place.branch + 1, Branch { start, leaves });
        }
    }

    /// Takes back the newest version of a key; returns it and the one that is newest now.
    pub(crate) fn pop(&mut self, key: &[u8]) -> Option<(Version, Option<Version>)> {
        let place = self.place(key)?;
        let leaf = self.branches.get_mut(place.branch)?.leaves.item_mut(place.leaf)?;
        let at = leaf.find(key).ok()?;
        let newest = leaf.item_mut(at)?;
        let popped = *newest;
        if self.histories.pop(newest) {
            return Some((popped, Some(*newest)));
        }
        leaf.remove(at);
        self.keys -= 1;
        self.tidy_leaf(place);
        Some((popped, None))
    }

    /// Removes an empty leaf, joins a small one with the next.
    fn tidy_leaf(&mut self, place: Place) {
        let Some(branch) = self.branches.get_mut(place.branch) else { return };
        let leaf_len = |at: usize| branch.leaves.item(at).map_or(usize::MAX, |leaf| leaf.len());
        let (here, next) = (leaf_len(place.leaf), leaf_len(place.leaf + 1));
        if here == 0 {
            branch.leaves.remove(place.leaf);
            if branch.leaves.len() == 0 {
                self.branches.remove(place.branch);
                if let Some(first) = self.branches.first_mut() {
                    first.start = Box::default();
                }
            }
        } else if here < LEAF_KEYS_MIN && next.saturating_add(here) <= LEAF_KEYS_MAX * 3 / 4 {
            let next = branch.leaves.remove(place.leaf + 1);
            if let Some(leaf) = branch.leaves.item_mut(place.leaf) {
                leaf.append(next);
            }
            self.split_leaf(place);
        }
    }

    /// Calls `each` with the keys of `range` after `after`, in order, until it breaks.
    pub(crate) fn for_each<'a, B>(
        &'a self,
        range: &KeyRange,
        after: Option<&[u8]>,
        mut each: impl FnMut(KeyParts<'a>, Versions<'a>) -> ControlFlow<B>,
    ) -> Option<B> {
        let after = after.filter(|after| **after >= *range.start());
        let from = after.unwrap_or(range.start());
        let mut place = self.place(from);
        let mut first = true;
        while let Some(at) = place {
            let leaf = self.leaf(at)?;
            let start = if std::mem::take(&mut first) {
                leaf.find(from).map_or_else(|at| at, |at| at + usize::from(after.is_some()))
            } else {
                0
            };
            let stop = match range.stop() {
                None => leaf.len(),
                Some(stop) => leaf.find(stop).map_or_else(|at| at, |at| at + usize::from(range.single().is_some())),
            };
            for n in start..stop {
                let Some(newest) = leaf.item(n) else { break };
                if let ControlFlow::Break(b) = each(leaf.key(n), Versions { newest, histories: &self.histories }) {
                    return Some(b);
                }
            }
            if stop < leaf.len() {
                return None;
            }
            place = self.next_leaf(at);
        }
        None
    }

    /// Compacts leaves of the next `budget` keys, or a few more, after `after` to `floor`. Returns the last key looked at,
    /// or `None` if the end was reached.
    pub(crate) fn compact(
        &mut self,
        after: Option<&[u8]>,
        budget: usize,
        floor: Revision,
        mut dropped: impl FnMut(&Version),
    ) -> Option<Box<[u8]>> {
        let mut cursor: Option<Box<[u8]>> = after.map(Into::into);
        let mut looked_at = 0;
        loop {
            let mut place = self.place(cursor.as_deref().unwrap_or_default())?;
            let leaf = self.leaf(place)?;
            let mut start = match &cursor {
                Some(after) => leaf.find(after).map_or_else(|at| at, |at| at + 1),
                None => 0,
            };
            if start >= leaf.len() {
                place = self.next_leaf(place)?;
                start = 0;
            }
            let leaf = self.branches.get_mut(place.branch)?.leaves.item_mut(place.leaf)?;
            cursor = Some(leaf.key(leaf.len() - 1).to_vec().into());
            while let Some(newest) = leaf.item_mut(start) {
                looked_at += 1;
                if self.histories.compact(newest, floor, &mut dropped) {
                    start += 1;
                } else {
                    leaf.remove(start);
                    self.keys -= 1;
                }
            }
            self.tidy_leaf(place);
            if looked_at >= budget {
                return cursor;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    type Map = BTreeMap<Vec<u8>, Vec<Version>>;

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % n
        }

        fn key(&mut self, keys: u64) -> Vec<u8> {
            let n = self.below(keys);
            let tail = ["", "\0", "/x", "a rest longer than eight"][n as usize & 3];
            format!("{}{:03}{tail}", ["/registry/", "/other/", ""][n as usize % 3], n / 4).into_bytes()
        }
    }

    fn check(index: &KeyIndex, map: &Map, random: &mut Random, keys: u64) {
        assert_eq!(index.len(), map.len());
        let starts: Vec<&[u8]> = index.branches.iter().map(|b| &*b.start).collect();
        assert!(starts.is_sorted_by(|a, b| a < b), "{starts:?}");
        let (start, end) = (random.key(keys), random.key(keys));
        let end = match random.below(4) {
            0 => vec![0],
            1 => vec![],
            _ => end,
        };
        let after = (random.below(2) == 0).then(|| random.key(keys));
        let range = KeyRange::new(&start, &end);
        let mut found = Vec::new();
        index.for_each(&range, after.as_deref(), |key, versions| {
            found.push((key.to_vec(), versions.newest().position));
            ControlFlow::<()>::Continue(())
        });
        let wanted = map.iter().filter(|(key, _)| {
            // A start after the range's has no meaning before it.
            range.contains(key) && after.as_ref().is_none_or(|after| after < &start || *key > after)
        });
        assert!(found.iter().cloned().eq(wanted.map(|(k, v)| (k.clone(), v[v.len() - 1].position))));
        if let Some((key, versions)) = map.iter().nth(random.below(map.len().max(1) as u64) as usize) {
            let got = index.get(key).unwrap();
            for at in versions {
                let seen = versions.iter().rfind(|v| v.main <= at.main).filter(|v| v.is_live());
                assert_eq!(got.at(at.main).map(|v| v.position), seen.map(|v| v.position));
            }
        }
    }

    /// The same with lists, key by key.
    fn compact(map: &mut Map, floor: Revision) -> Vec<Position> {
        let mut dropped = Vec::new();
        map.retain(|_, versions| {
            let keep = versions
                .iter()
                .rposition(|v| v.main <= floor)
                .map_or(0, |last| last + usize::from(!versions[last].is_live() && versions[last].main < floor));
            dropped.extend(versions.drain(..keep).map(|v| v.position));
            !versions.is_empty()
        });
        dropped
    }

    #[test]
    fn does_what_a_map_of_lists_does() {
        for seed in 0..8 {
            let (mut index, mut map, mut random) = (KeyIndex::default(), Map::new(), Random(seed));
            // Few keys make long histories, many make a deep tree; they go and come back.
            let keys = [20, 200, 2_000, 8_000][seed as usize % 4];
            for n in 1..8_000u64 {
                let key =
                    if seed >= 4 && n < 3_000 { format!("/in/order/{n:06}").into_bytes() } else { random.key(keys) };
                let (position, main) = (Position(n), Revision(n as i64));
                match random.below(10) {
                    0 => {
                        let popped = index.pop(&key).map(|(v, before)| (v.position, before.map(|b| b.position)));
                        let expected = map
                            .get_mut(&key)
                            .and_then(|list| list.pop().map(|v| (v.position, list.last().map(|b| b.position))));
                        assert_eq!(popped, expected);
                        map.retain(|_, list| !list.is_empty());
                    }
                    1..3 => {
                        index.push(&key, Version::delete(position, main), |_, _| {});
                        map.entry(key).or_default().push(Version::delete(position, main));
                    }
                    _ => {
                        let version = Version::put(position, main, LeaseId(0));
                        let before = index.push(&key, version, |_, _| {}).map(|v| v.position);
                        let list = map.entry(key).or_default();
                        assert_eq!(before, list.last().map(|v| v.position));
                        list.push(version);
                    }
                }
                if n % 1_500 == 0 {
                    let floor = Revision(random.below(n) as i64);
                    let (mut after, mut dropped) = (None::<Box<[u8]>>, Vec::new());
                    loop {
                        after = index.compact(after.as_deref(), 7, floor, |v| dropped.push(v.position));
                        if after.is_none() {
                            break;
                        }
                    }
                    assert_eq!(dropped, compact(&mut map, floor));
                }
                if n % 16 == 0 {
                    check(&index, &map, &mut random, keys);
                }
            }
            for key in map.keys().cloned().collect::<Vec<_>>() {
                while index.pop(&key).is_some() {}
            }
            assert!(
                index.len() == 0
                    && index.branches.is_empty()
                    && index.histories.free.len() == index.histories.lists.len()
            );
        }
    }
}
