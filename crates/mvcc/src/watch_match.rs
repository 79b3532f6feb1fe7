//! Which watchers want a key's change.
//!
//! Watchers of the same key or range share one entry. Exact keys are in a hash map; ranges in a treap ordered by
//! start, each node knowing how far to the right its subtree reaches, so that a key visits little more than the
//! ranges it is in.

use crate::key_range::KeyRange;
use std::cmp::Ordering;
use std::collections::HashMap;

/// Names a watcher in a [`Matcher`] until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MatchId(u32);

const NONE: u32 = u32::MAX;

/// A watcher: its tag, and where it is in its group.
#[derive(Clone, Copy, Debug)]
struct Watcher {
    tag: u32,
    group: u32,
    place: u32,
}

/// All watchers of one range.
#[derive(Debug)]
struct Group {
    range: KeyRange,
    members: Vec<u32>,
    // The treap's; unused for exact keys.
    left: u32,
    right: u32,
    priority: u32,
    /// Where the ranges of the subtree end at most; `None`: nowhere.
    reach: Option<Box<[u8]>>,
}

/// See above.
#[derive(Debug, Default)]
pub struct Matcher {
    watchers: Vec<Option<Watcher>>,
    free_watchers: Vec<u32>,
    groups: Vec<Option<Group>>,
    free_groups: Vec<u32>,
    exact: HashMap<Box<[u8]>, u32>,
    root: Option<u32>,
    random: u32,
}

impl Matcher {
    /// Adds a watcher; `tag` is given back for each match.
    pub fn add(&mut self, range: KeyRange, tag: u32) -> MatchId {
        let id = self.free_watchers.pop().unwrap_or_else(|| {
            self.watchers.push(None);
            (self.watchers.len() - 1) as u32
        });
        let group = self.group_of(range);
        let mut place = 0;
        if let Some(found) = self.groups[group as usize].as_mut() {
            place = found.members.len() as u32;
            found.members.push(id);
        }
        self.watchers[id as usize] = Some(Watcher { tag, group, place });
        MatchId(id)
    }

    /// Removes a watcher; one that is gone is ignored.
    pub fn remove(&mut self, id: MatchId) {
        let Some(watcher) = self.watchers.get_mut(id.0 as usize).and_then(Option::take) else { return };
        self.free_watchers.push(id.0);
        let Some(group) = self.groups[watcher.group as usize].as_mut() else { return };
        group.members.swap_remove(watcher.place as usize);
        if let Some(moved) = group.members.get(watcher.place as usize).copied()
            && let Some(moved) = self.watchers[moved as usize].as_mut()
        {
            moved.place = watcher.place;
        }
        let Some(group) = &self.groups[watcher.group as usize] else { return };
        if group.members.is_empty() {
            self.drop_group(watcher.group);
        }
    }

    /// Calls `each` with the tag of every watcher that wants `key`.
    pub fn for_each_match(&self, key: &[u8], mut each: impl FnMut(u32)) {
        if let Some(&group) = self.exact.get(key) {
            self.each_member(group, &mut each);
        }
        let mut to_visit: Vec<u32> = self.root.into_iter().collect();
        while let Some(at) = to_visit.pop() {
            let Some(group) = &self.groups[at as usize] else { continue };
            if group.reach.as_ref().is_some_and(|reach| **reach <= *key) {
                continue;
            }
            to_visit.extend(Some(group.left).filter(|l| *l != NONE));
            if *group.range.start() <= *key {
                if group.range.ends_after(key) {
                    self.each_member(at, &mut each);
                }
                to_visit.extend(Some(group.right).filter(|r| *r != NONE));
            }
        }
    }

    /// Watchers.
    pub fn len(&self) -> usize {
        self.watchers.len() - self.free_watchers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn each_member(&self, group: u32, each: &mut impl FnMut(u32)) {
        for &member in self.groups[group as usize].iter().flat_map(|g| &g.members) {
            if let Some(watcher) = &self.watchers[member as usize] {
                each(watcher.tag);
            }
        }
    }

    fn group_of(&mut self, range: KeyRange) -> u32 {
        if let Some(key) = range.single() {
            if let Some(&group) = self.exact.get(key) {
                return group;
            }
            let key: Box<[u8]> = key.into();
            let group = self.new_group(range);
            self.exact.insert(key, group);
            return group;
        }
        let mut at = self.root;
        while let Some(group) = at.and_then(|at| self.groups[at as usize].as_ref()) {
            let child = match range.cmp(&group.range) {
                Ordering::Equal => break,
                Ordering::Less => group.left,
                Ordering::Greater => group.right,
            };
            at = Some(child).filter(|c| *c != NONE);
        }
        if let Some(found) = at {
            return found;
        }
        let group = self.new_group(range);
        let (less, greater) = self.split(self.root.unwrap_or(NONE), group);
        let left = self.merge(less, group);
        let root = self.merge(left, greater);
        self.root = Some(root);
        group
    }

    fn new_group(&mut self, range: KeyRange) -> u32 {
        // Only the treap's balance hangs on this; xorshift.
        self.random = self.random.max(0x9E37);
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let reach = range.end().map(Into::into);
        let group = Group { range, members: Vec::new(), left: NONE, right: NONE, priority: self.random, reach };
        match self.free_groups.pop() {
            Some(at) => {
                self.groups[at as usize] = Some(group);
                at
            }
            None => {
                self.groups.push(Some(group));
                (self.groups.len() - 1) as u32
            }
        }
    }

    fn drop_group(&mut self, at: u32) {
        let Some(range) = self.groups[at as usize].as_ref().map(|g| g.range.clone()) else { return };
        if let Some(key) = range.single() {
            self.exact.remove(key);
        } else {
            let (less, rest) = self.split(self.root.unwrap_or(NONE), at);
            let greater = self.without_first(rest);
            self.root = Some(self.merge(less, greater)).filter(|r| *r != NONE);
        }
        self.groups[at as usize] = None;
        self.free_groups.push(at);
    }

    fn children(&self, at: u32) -> (u32, u32) {
        self.groups.get(at as usize).and_then(Option::as_ref).map_or((NONE, NONE), |g| (g.left, g.right))
    }

    fn set_children(&mut self, at: u32, left: u32, right: u32) {
        let reach_of = |child: u32| self.groups.get(child as usize).and_then(Option::as_ref).map(|g| &g.reach);
        let Some(group) = self.groups[at as usize].as_ref() else { return };
        let mut reach: Option<Box<[u8]>> = group.range.end().map(Into::into);
        for other in [reach_of(left), reach_of(right)].into_iter().flatten() {
            reach = match (reach, other) {
                (Some(mine), Some(other)) => Some(if *other > mine { other.clone() } else { mine }),
                _ => None,
            };
        }
        if let Some(group) = self.groups[at as usize].as_mut() {
            (group.left, group.right, group.reach) = (left, right, reach);
        }
    }

    /// Parts a subtree into what is below the range of `pivot`, and the rest, `pivot` included if it is there.
    fn split(&mut self, at: u32, pivot: u32) -> (u32, u32) {
        if at == NONE {
            return (NONE, NONE);
        }
        let (left, right) = self.children(at);
        let below = match (&self.groups[at as usize], &self.groups[pivot as usize]) {
            (Some(at), Some(pivot)) => at.range < pivot.range,
            _ => false,
        };
        if below {
            let (less, rest) = self.split(right, pivot);
            self.set_children(at, left, less);
            (at, rest)
        } else {
            let (less, rest) = self.split(left, pivot);
            self.set_children(at, rest, right);
            (less, at)
        }
    }

    /// Joins two subtrees; all of `a` is below `b`.
    fn merge(&mut self, a: u32, b: u32) -> u32 {
        if a == NONE {
            return b;
        }
        if b == NONE {
            return a;
        }
        let priority = |at: u32| self.groups[at as usize].as_ref().map_or(0, |g| g.priority);
        if priority(a) > priority(b) {
            let (left, right) = self.children(a);
            let right = self.merge(right, b);
            self.set_children(a, left, right);
            a
        } else {
            let (left, right) = self.children(b);
            let left = self.merge(a, left);
            self.set_children(b, left, right);
            b
        }
    }

    /// A subtree without its first.
    fn without_first(&mut self, at: u32) -> u32 {
        if at == NONE {
            return NONE;
        }
        let (left, right) = self.children(at);
        if left == NONE {
            return right;
        }
        let left = self.without_first(left);
        self.set_children(at, left, right);
        at
    }
}
