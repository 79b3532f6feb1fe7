//! The replicated log: what the Primary decided, as effects (protocol.md section 1).

use crate::ids::{LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use bytes::Bytes;

/// One step of the state machine: everything in it happens at once. Identified by (index, term).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Dense from 1.
    pub index: LogIndex,
    /// The term in which it was made.
    pub term: Term,
    /// The Primary's wall clock when it was made.
    pub time: UnixMillis,
    /// The store's revision once it is applied; all its key changes have it as their main revision.
    pub revision: Revision,
    /// Never empty. Key changes are numbered from 0 in this order: their sub revision.
    pub mutations: Vec<Mutation>,
}

/// One effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A key has a new value.
    Put {
        /// Not empty.
        key: Bytes,
        /// May be empty.
        value: Bytes,
        /// Revision of the put that began this life of the key.
        create_revision: Revision,
        /// Puts in this life of the key, this one included.
        version: i64,
        /// The lease the key hangs on from now on; 0: none.
        lease: LeaseId,
    },
    /// A key that existed is gone.
    Delete {
        /// Not empty.
        key: Bytes,
    },
    /// A lease exists.
    LeaseGrant {
        /// Not 0.
        id: LeaseId,
        /// Granted time to live, seconds.
        ttl_seconds: i64,
    },
    /// A lease is gone; the deletes of its keys stand before this in the same entry.
    LeaseRevoke {
        /// Not 0.
        id: LeaseId,
    },
    /// How much of a lease's time is left, so that a restart does not give it all back.
    LeaseCheckpoint {
        /// Not 0.
        id: LeaseId,
        /// Seconds; 0: the whole granted time counts again.
        remaining_seconds: i64,
    },
    /// History below this revision may be forgotten.
    Compact {
        /// The lowest revision that stays readable.
        revision: Revision,
    },
    /// An alarm is raised or cleared.
    Alarm {
        /// The member it is about.
        member_id: u64,
        /// Which.
        alarm: AlarmKind,
        /// Raised or cleared.
        active: bool,
    },
}

/// etcd's alarms; the numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum AlarmKind {
    /// The database reached its limit: writes that add data are refused.
    NoSpace = 1,
    /// Data was found damaged: writes are refused.
    Corrupt = 2,
}

impl AlarmKind {
    /// From the number on the wire.
    pub fn from_wire(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::NoSpace),
            2 => Some(Self::Corrupt),
            _ => None,
        }
    }
}

impl Mutation {
    /// Whether it changes a key, and so counts in the entry's sub revisions.
    pub fn is_key_change(&self) -> bool {
        matches!(self, Mutation::Put { .. } | Mutation::Delete { .. })
    }

    /// Bytes of key and value, what size thresholds count.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Mutation::Put { key, value, .. } => key.len() + value.len(),
            Mutation::Delete { key } => key.len(),
            _ => 0,
        }
    }
}

/// One mutation of the log with its place: how the local database and snapshots keep it. Immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where it is; ascending with (index, place in the entry).
    pub position: Position,
    /// The entry it belongs to.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// That entry's time.
    pub time: UnixMillis,
    /// That entry's revision.
    pub revision: Revision,
    /// Place among the entry's key changes, from 0; 0 for what is no key change.
    pub sub: u32,
    /// The effect.
    pub mutation: Mutation,
}

impl Entry {
    /// The rows of this entry, the first at `first`.
    pub fn rows(&self, first: Position) -> impl Iterator<Item = Row> + '_ {
        let mut sub = 0;
        self.mutations.iter().enumerate().map(move |(i, mutation)| {
            let row_sub = if mutation.is_key_change() {
                sub += 1;
                sub - 1
            } else {
                0
            };
            Row {
                position: Position(first.0 + i as u64),
                index: self.index,
                term: self.term,
                time: self.time,
                revision: self.revision,
                sub: row_sub,
                mutation: mutation.clone(),
            }
        })
    }

    /// Bytes of keys and values, what size thresholds count.
    pub fn payload_bytes(&self) -> usize {
        self.mutations.iter().map(Mutation::payload_bytes).sum()
    }
}
