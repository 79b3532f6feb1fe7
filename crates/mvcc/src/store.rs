//! The state machine's state.

use crate::Error;
use crate::alarms::Alarms;
use crate::compaction::Compaction;
use crate::key_index::{KeyIndex, Version};
use crate::lessor::{Lease, Lessor};
use crate::pins::{Pin, Pins};
use crate::types::{KvRef, ValueRef, ValueSource};
use crate::value_cache::ValueCache;
use bytes::Bytes;
use netsy_api::ids::{LeaseId, LogIndex, Position, Revision, Term};
use netsy_api::log::{AlarmKind, Entry};
use std::collections::VecDeque;
use std::sync::Arc;

/// Limits of a [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Bytes of values kept in memory. What is not yet in the local database is kept beyond it.
    pub value_cache_bytes_max: usize,
    /// Compares, or operations of a branch, in a transaction (etcd's `--max-txn-ops`).
    pub txn_ops_max: usize,
    /// Keys that the compares and ranges of one transaction look at together, so that none can hold the writer up
    /// for long; more is refused as too many operations. etcd has no such limit.
    pub txn_scan_keys_max: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { value_cache_bytes_max: 64 << 20, txn_ops_max: 128, txn_scan_keys_max: 10_000_000 }
    }
}

/// A point in the log and what the state is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) revision: Revision,
    pub(crate) next_position: Position,
    pub(crate) compact: Revision,
}

/// How to take back what is not found in the key index.
#[derive(Debug)]
pub(crate) enum Undo {
    Grant(LeaseId),
    Revoke(LeaseId),
    Checkpoint(LeaseId, i64, Option<Position>),
    Compact(Option<Position>),
    Alarm(u64, AlarmKind, Option<Position>),
}

/// An entry that readers do not see yet.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) entry: Arc<Entry>,
    /// The state after it.
    pub(crate) after: Mark,
    /// One for each mutation that is no key change, in order.
    pub(crate) undo: Vec<Undo>,
}

/// A row that says nothing about the state any more since the entry `by`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadRow {
    pub(crate) by: LogIndex,
    /// That entry's revision.
    pub(crate) revision: Revision,
    pub(crate) position: Position,
}

/// The state: every key with its versions, leases, alarms. Two points of the log matter: the *head*, against which
/// the writer evaluates, and the *visible* point, up to which readers see.
#[derive(Debug)]
pub struct Store {
    pub(crate) config: StoreConfig,
    pub(crate) index: KeyIndex,
    pub(crate) cache: ValueCache,
    pub(crate) lessor: Lessor,
    pub(crate) alarms: Alarms,
    pub(crate) head: Mark,
    pub(crate) visible: Mark,
    /// Entries after the visible point, ascending. Bounded by what the node lets wait for a commit.
    pub(crate) pending: VecDeque<Pending>,
    /// Ascending by `by`; each prefix may be deleted without the rest.
    pub(crate) dead_rows: VecDeque<DeadRow>,
    /// The row of the newest compaction.
    pub(crate) compact_row: Option<Position>,
    pub(crate) pins: Pins,
    pub(crate) compaction: Compaction,
    /// The newest row loaded.
    pub(crate) loaded: Position,
}

impl Store {
    /// An empty state: revision 1, nothing compacted.
    pub fn new(config: StoreConfig) -> Self {
        let start = Mark {
            index: LogIndex(0),
            term: Term(0),
            revision: Revision(1),
            next_position: Position(1),
            compact: Revision(-1),
        };
        Self {
            config,
            index: KeyIndex::default(),
            cache: ValueCache::new(config.value_cache_bytes_max),
            lessor: Lessor::default(),
            alarms: Alarms::default(),
            head: start,
            visible: start,
            pending: VecDeque::new(),
            dead_rows: VecDeque::new(),
            compact_row: None,
            pins: Pins::default(),
            compaction: Compaction::default(),
            loaded: Position(0),
        }
    }

    /// Index of the newest entry.
    pub fn last_index(&self) -> LogIndex {
        self.head.index
    }

    /// Term of the newest entry.
    pub fn last_term(&self) -> Term {
        self.head.term
    }

    /// Position that the next mutation gets.
    pub fn next_position(&self) -> Position {
        self.head.next_position
    }

    /// Revision of the newest state.
    pub fn head_revision(&self) -> Revision {
        self.head.revision
    }

    /// Index up to which readers see.
    pub fn visible_index(&self) -> LogIndex {
        self.visible.index
    }

    /// Revision that readers see.
    pub fn visible_revision(&self) -> Revision {
        self.visible.revision
    }

    /// Lowest revision that stays readable, as readers see it; -1: nothing was compacted yet.
    pub fn compact_revision(&self) -> Revision {
        self.visible.compact
    }

    /// Active alarms at the newest state, by member.
    pub fn head_alarms(&self) -> Vec<(u64, AlarmKind)> {
        self.alarms.list()
    }

    /// Active alarms, by member, as readers see them.
    pub fn alarms(&self) -> Vec<(u64, AlarmKind)> {
        let mut alarms = self.alarms.clone();
        for undo in self.pending.iter().rev().flat_map(|p| p.undo.iter().rev()) {
            if let Undo::Alarm(member_id, alarm, before) = undo {
                alarms.set(*member_id, *alarm, *before);
            }
        }
        alarms.list()
    }

    /// Keys in the index, deleted ones that are not yet compacted away included.
    pub fn key_count(&self) -> usize {
        self.index.len()
    }

    /// Bytes of values in memory.
    pub fn value_cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Lets readers see entries up to `index`, which is committed (R8). Never goes back, nor past the newest entry.
    pub fn set_visible(&mut self, index: LogIndex) {
        while let Some(next) = self.pending.front()
            && next.after.index <= index
        {
            let Some(next) = self.pending.pop_front() else { return };
            self.visible = next.after;
            for undo in next.undo {
                if let Undo::Revoke(id) = undo {
                    self.lessor.forget_revoked(id, next.after.index);
                }
            }
        }
    }

    /// Rows up to `position` can be read through the local database: their values may leave memory.
    pub fn written_through(&mut self, position: Position) {
        self.cache.set_written_through(position);
    }

    /// Keeps all that is visible at `revision` and later from physical compaction while the pin lives.
    pub fn pin(&self, revision: Revision) -> Result<Pin, Error> {
        self.check_revision(revision)?;
        Ok(self.pins.pin(revision))
    }

    /// Whether readers may read at `revision`.
    pub(crate) fn check_revision(&self, revision: Revision) -> Result<(), Error> {
        if revision > self.visible.revision {
            Err(Error::FutureRevision)
        } else if revision < self.visible.compact {
            Err(Error::Compacted)
        } else {
            Ok(())
        }
    }

    /// The key as it was at `revision`; `None`: it did not exist.
    pub fn get(&self, key: &[u8], revision: Revision) -> Result<Option<KvRef>, Error> {
        self.check_revision(revision)?;
        let version = self.index.get(key).and_then(|versions| versions.at(revision));
        Ok(version.map(|v| self.kv(Bytes::copy_from_slice(key), v)))
    }

    /// What a key was before the row at `position` changed it; `None`: it did not exist, or that is compacted away.
    pub fn before(&self, key: &[u8], position: Position) -> Option<KvRef> {
        let version = self.index.get(key).and_then(|versions| versions.before(position));
        version.map(|v| self.kv(Bytes::copy_from_slice(key), v))
    }

    /// Offers a value that was read from the local database for the cache; `position` is its row. Not taken in if
    /// the version is gone or the cache is full.
    pub fn offer_value(&mut self, key: &[u8], position: Position, value: &[u8]) {
        if !self.cache.has_room(value.len()) {
            return;
        }
        let Some(version) = self.index.newest_mut(key) else { return };
        if version.position == position && version.is_live() && self.cache.get(version.slot, position).is_none() {
            version.slot = self.cache.insert(position, Bytes::copy_from_slice(value));
        }
    }

    pub(crate) fn kv(&self, key: Bytes, version: &Version) -> KvRef {
        KvRef {
            key,
            create_revision: version.create,
            mod_revision: version.main,
            version: version.version,
            lease: version.lease,
            value: self.value_ref(version),
        }
    }

    pub(crate) fn value_ref(&self, version: &Version) -> ValueRef {
        match self.cache.get(version.slot, version.position) {
            Some(bytes) => ValueRef::Here(bytes),
            None => ValueRef::Stored(version.position),
        }
    }

    pub(crate) fn value(&self, version: &Version, values: &dyn ValueSource) -> Result<Bytes, Error> {
        match self.cache.get(version.slot, version.position) {
            Some(bytes) => Ok(bytes),
            None => {
                values.value(version.position).map_err(|reason| Error::ValueUnreadable { at: version.position, reason })
            }
        }
    }

    /// The keys' current version at the newest state.
    pub(crate) fn head_version(&self, key: &[u8]) -> Option<&Version> {
        self.index.get(key).map(|versions| versions.newest()).filter(|v| v.is_live())
    }

    pub(crate) fn take_revoked(&mut self, id: LeaseId, by: LogIndex, lease: Lease) {
        self.lessor.keep_revoked(id, by, lease);
    }
}
