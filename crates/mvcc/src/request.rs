//! Requests that may change the state, and what they come to.

use crate::range_reader::RangeResult;
use crate::types::{Event, KvRef};
use netsy_api::etcdserverpb::{DeleteRangeRequest, PutRequest, TxnRequest};
use netsy_api::ids::{LeaseId, Position, Revision};
use netsy_api::log::{AlarmKind, Entry};
use std::sync::Arc;

/// A request for the writer.
#[derive(Clone, Debug, PartialEq)]
pub enum WriteRequest {
    /// etcd's Put.
    Put(PutRequest),
    /// etcd's DeleteRange.
    DeleteRange(DeleteRangeRequest),
    /// etcd's Txn. One that only reads is answered, too, but belongs to [`TxnReader`](crate::TxnReader).
    Txn(TxnRequest),
    /// A new lease.
    LeaseGrant {
        /// The wished id; 0: the first free one of `candidates`.
        id: LeaseId,
        /// Wished time to live, seconds.
        ttl_seconds: i64,
        /// Random ids to choose from; only positive ones count.
        candidates: Vec<LeaseId>,
        /// Monotonic milliseconds: when the lease's time begins.
        now_ms: u64,
    },
    /// Ends a lease and deletes its keys.
    LeaseRevoke {
        /// Which.
        id: LeaseId,
    },
    /// The same for a lease whose time is over; changes nothing if it is gone or was renewed.
    LeaseExpire {
        /// Which.
        id: LeaseId,
        /// Monotonic milliseconds.
        now_ms: u64,
    },
    /// Records how much time leases have left, in seconds (0: all of it). Leases that are gone are skipped.
    LeaseCheckpoint(Vec<(LeaseId, i64)>),
    /// Lets go of history below a revision.
    Compact {
        /// The lowest revision that stays readable.
        revision: Revision,
    },
    /// Raises or clears an alarm.
    Alarm {
        /// The member it is about.
        member_id: u64,
        /// Which.
        alarm: AlarmKind,
        /// Raise or clear.
        active: bool,
    },
}

/// What evaluating a request came to. An answer may leave once [`Store::last_index`](crate::Store::last_index) as of the
/// evaluation is committed, also if it changed nothing: it may depend on entries before it (R8).
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// What to replicate; `None`: nothing changed.
    pub entry: Option<Arc<Entry>>,
    /// Position of its first mutation, or of the next entry's if there is none.
    pub first_position: Position,
    /// The result for the client.
    pub outcome: Outcome,
    /// Key changes, in order.
    pub events: Vec<Event>,
    /// For the response header.
    pub revision: Revision,
}

/// The result of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Of a put.
    Put {
        /// What was there before, if asked for.
        prev: Option<KvRef>,
    },
    /// Of a delete.
    DeleteRange {
        /// Keys deleted.
        deleted: i64,
        /// What was there before, in key order, if asked for.
        prevs: Vec<KvRef>,
    },
    /// Of a transaction.
    Txn(TxnResult),
    /// Of a grant.
    LeaseGrant {
        /// The lease.
        id: LeaseId,
        /// Granted time to live, seconds.
        ttl_seconds: i64,
    },
    /// Of a revoke.
    LeaseRevoke,
    /// Of an expiry.
    LeaseExpire {
        /// Whether the lease was ended by it.
        revoked: bool,
    },
    /// Of a checkpoint.
    LeaseCheckpoint,
    /// Of a compaction.
    Compact,
    /// Of an alarm: the alarms that the answer lists (empty: one was to be cleared that is not active).
    Alarm(Vec<(u64, AlarmKind)>),
}

/// The result of a transaction. A nested one's header is empty in etcd.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TxnResult {
    /// Whether all compares held.
    pub succeeded: bool,
    /// One for each operation of the branch taken.
    pub responses: Vec<OpResult>,
}

/// The result of one operation in a transaction; `revision` is for its header.
#[derive(Clone, Debug, PartialEq)]
pub enum OpResult {
    /// Of a range; its `header_revision` is for its header.
    Range(RangeResult),
    /// Of a put.
    Put {
        /// What was there before, if asked for.
        prev: Option<KvRef>,
        /// For the header.
        revision: Revision,
    },
    /// Of a delete.
    DeleteRange {
        /// Keys deleted.
        deleted: i64,
        /// What was there before, in key order, if asked for.
        prevs: Vec<KvRef>,
        /// For the header.
        revision: Revision,
    },
    /// Of a nested transaction.
    Txn(TxnResult),
}
