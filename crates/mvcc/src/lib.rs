//! The state machine: keys with all their versions, transactions, compaction, leases, alarms, and which
//! watcher wants which key change. The same entries give the same state on every node.
//!
//! Not here: files, sockets, clocks, threads, async. Time comes in as an argument; values that left memory
//! come in through [`ValueSource`]. Durability and what "committed" means are for the floors above: they say
//! with [`Store::set_visible`] how far readers may see (R8).
//!
//! Start reading at [`Store`]: the writer calls [`Store::evaluate`] against the newest state, replicas call
//! [`Store::apply`], readers read at the visible revision through [`RangeReader`].

#![deny(clippy::disallowed_methods, clippy::iter_over_hash_type)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable))]

mod alarms;
mod apply;
mod block;
mod check;
mod compaction;
mod compare;
mod effects;
mod error;
mod evaluate;
mod hash_kv;
mod intervals;
mod key_index;
mod key_range;
mod lease_view;
mod lessor;
mod load;
mod pins;
mod range_reader;
mod request;
mod rollback;
mod store;
mod txn;
mod txn_reader;
mod types;
mod value_cache;
pub mod watch_match;

pub use apply::Applied;
pub use check::{all_serializable, is_read_only};
pub use compaction::CompactStep;
pub use error::{ApplyError, Error, ErrorKind};
pub use hash_kv::HashKv;
pub use key_range::KeyRange;
pub use lease_view::{LeaseInfo, Renewal};
pub use load::{LoadEnd, RowMeta, RowWhat};
pub use pins::Pin;
pub use range_reader::{RangeReader, RangeResult};
pub use request::{Evaluated, OpResult, Outcome, TxnResult, WriteRequest};
pub use store::{Store, StoreConfig};
pub use txn_reader::TxnReader;
pub use types::{Event, EventKind, KvRef, ValueRef, ValueSource};

/// Shortest time to live of a lease, seconds; shorter wishes are raised to it (etcd.md 1.4).
pub const LEASE_TTL_SECONDS_MIN: i64 = 2;
/// Longest time to live of a lease, seconds; longer wishes are refused (etcd.md 1.4).
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;
