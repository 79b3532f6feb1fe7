//! Every key with its versions, in key order.

use crate::key_range::KeyRange;
use netsy_api::ids::{LeaseId, Position, Revision};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Says in [`Version::slot`] that the value is not in the cache.
pub(crate) const SLOT_NONE: u32 = u32::MAX;
/// Says in [`Version::slot`] that the value is empty.
pub(crate) const SLOT_EMPTY: u32 = u32::MAX - 1;

/// One version of a key; a delete is one, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) position: Position,
    pub(crate) main: Revision,
    pub(crate) create: Revision,
    /// 0: the key is gone with this.
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
    pub(crate) sub: u32,
    /// Where the cache may have the value.
    pub(crate) slot: u32,
}

impl Version {
    pub(crate) fn is_live(&self) -> bool {
        self.version != 0
    }
}

/// The versions of a key, at least one. Most keys have one only: it costs no allocation of its own.
#[derive(Clone, Debug)]
pub(crate) struct Versions {
    newest: Version,
    /// Ascending. A thin pointer, as it is nothing for most keys.
    #[allow(clippy::box_collection)]
    older: Option<Box<Vec<Version>>>,
}

impl Versions {
    pub(crate) fn newest(&self) -> &Version {
        &self.newest
    }

    /// The version that is current at `revision`, if the key exists then.
    pub(crate) fn at(&self, revision: Revision) -> Option<&Version> {
        self.last_at(revision).filter(|v| v.is_live())
    }

    /// The last version up to `revision`, deletes included.
    pub(crate) fn last_at(&self, revision: Revision) -> Option<&Version> {
        if self.newest.main <= revision {
            return Some(&self.newest);
        }
        let older = self.older.as_deref()?;
        older[..older.partition_point(|v| v.main <= revision)].last()
    }

    /// The version before the one with this position, if the key existed then.
    pub(crate) fn before(&self, position: Position) -> Option<&Version> {
        if self.newest.position < position {
            return Some(&self.newest).filter(|v| v.is_live());
        }
        let older = self.older.as_deref()?;
        older[..older.partition_point(|v| v.position < position)].last().filter(|v| v.is_live())
    }

    pub(crate) fn newest_mut(&mut self) -> &mut Version {
        &mut self.newest
    }

    fn push(&mut self, version: Version) {
        let before = std::mem::replace(&mut self.newest, version);
        self.older.get_or_insert_default().push(before);
    }

    /// Takes the newest; the key is left with `false` if there is no other.
    fn pop(&mut self) -> (Version, bool) {
        let popped = self.newest;
        let Some(before) = self.older.as_mut().and_then(|o| o.pop()) else { return (popped, false) };
        self.newest = before;
        if self.older.as_ref().is_some_and(|o| o.is_empty()) {
            self.older = None;
        }
        (popped, true)
    }

    /// Drops what no reader at `floor` or above can see, oldest first (etcd.md 2.4): all but the last version up to
    /// `floor`, and that one, too, if it is a delete below `floor`. Returns whether the key is left.
    fn compact(&mut self, floor: Revision, mut dropped: impl FnMut(&Version)) -> bool {
        let gone = |v: &Version| !v.is_live() && v.main < floor;
        if let Some(older) = self.older.as_deref_mut() {
            let up_to = older.partition_point(|v| v.main <= floor);
            let keep_from = if self.newest.main <= floor {
                older.len()
            } else {
                // The last of them is what readers at the floor see.
                up_to.saturating_sub(1) + usize::from(up_to > 0 && gone(&older[up_to - 1]))
            };
            older[..keep_from].iter().for_each(&mut dropped);
            older.drain(..keep_from);
            if older.is_empty() {
                self.older = None;
            } else {
                older.shrink_to_fit();
            }
        }
        if self.older.is_none() && gone(&self.newest) {
            dropped(&self.newest);
            return false;
        }
        true
    }
}

/// All keys.
#[derive(Debug, Default)]
pub(crate) struct KeyIndex {
    keys: BTreeMap<Box<[u8]>, Versions>,
}

impl KeyIndex {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Versions> {
        self.keys.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Versions> {
        self.keys.get_mut(key)
    }

    /// Keys with any version, deleted ones that are not compacted away included.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Adds the newest version of a key; returns the one before, if any.
    pub(crate) fn push(&mut self, key: &[u8], version: Version) -> Option<Version> {
        if let Some(versions) = self.keys.get_mut(key) {
            let before = *versions.newest();
            versions.push(version);
            return Some(before);
        }
        self.keys.insert(key.into(), Versions { newest: version, older: None });
        None
    }

    /// Adds a put, whose `create` and `version` follow from the version before, which is returned if it is live.
    pub(crate) fn push_put(&mut self, key: &[u8], version: &mut Version) -> Option<Version> {
        let Some(versions) = self.keys.get_mut(key) else {
            self.keys.insert(key.into(), Versions { newest: *version, older: None });
            return None;
        };
        let before = Some(*versions.newest()).filter(Version::is_live);
        if let Some(before) = before {
            version.create = before.create;
            version.version = before.version.saturating_add(1);
        }
        versions.push(*version);
        before
    }

    /// Takes back the newest version of a key; returns it and the one that is newest now.
    pub(crate) fn pop(&mut self, key: &[u8]) -> Option<(Version, Option<Version>)> {
        let versions = self.keys.get_mut(key)?;
        let (popped, left) = versions.pop();
        if left {
            return Some((popped, Some(*versions.newest())));
        }
        self.keys.remove(key);
        Some((popped, None))
    }

    /// The keys of `range` after `after`, in order.
    pub(crate) fn iter<'a>(
        &'a self,
        range: &KeyRange,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a Versions)> + use<'a> {
        let found = range.bounds(after).map(|bounds| self.keys.range::<[u8], _>(bounds));
        found.into_iter().flatten().map(|(key, versions)| (&**key, versions))
    }

    /// Compacts the next `budget` keys after `after` to `floor`. Returns the last key looked at, or `None` if the
    /// end was reached.
    pub(crate) fn compact(
        &mut self,
        after: Option<&[u8]>,
        budget: usize,
        floor: Revision,
        mut dropped: impl FnMut(&Version),
    ) -> Option<Box<[u8]>> {
        let mut last: Option<&[u8]> = None;
        let mut looked_at = 0;
        let mut emptied: Vec<Box<[u8]>> = Vec::new();
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, versions) in self.keys.range_mut::<[u8], _>((lower, Bound::Unbounded)).take(budget) {
            looked_at += 1;
            last = Some(key);
            if !versions.compact(floor, &mut dropped) {
                emptied.push(key.clone());
            }
        }
        let last = last.filter(|_| looked_at == budget).map(Into::into);
        for key in emptied {
            self.keys.remove(&key);
        }
        last
    }
}
