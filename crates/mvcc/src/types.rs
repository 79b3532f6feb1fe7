//! What reads and events carry.

use bytes::Bytes;
use netsy_api::ids::{LeaseId, Position, Revision};

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueRef {
    /// In memory.
    Here(Bytes),
    /// Only in the local database, in the row at this position: the caller fetches it once no lock is held.
    Stored(Position),
    /// Not wanted (`keys_only`), or there is none (a delete).
    Omitted,
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvRef {
    /// Not empty.
    pub key: Bytes,
    /// Revision of the put that began this life of the key; 0 in a delete event.
    pub create_revision: Revision,
    /// Revision of this change.
    pub mod_revision: Revision,
    /// Puts in this life of the key; 0 in a delete event.
    pub version: i64,
    /// The lease it hangs on; 0: none.
    pub lease: LeaseId,
    /// Its value.
    pub value: ValueRef,
}

/// Kind of a key change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The key has a new value.
    Put,
    /// The key is gone.
    Delete,
}

/// A key change, for watchers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The new version. Of a delete: key and `mod_revision` only, the rest 0 and [`ValueRef::Omitted`].
    pub kv: KvRef,
    /// What was there before; `None` for the first put of a key's life.
    pub prev: Option<KvRef>,
}

/// Reads a value that is no longer in memory from the local database.
pub trait ValueSource {
    /// The value in the row at `at`; the error is a text for the operator.
    fn value(&self, at: Position) -> Result<Bytes, String>;
}
