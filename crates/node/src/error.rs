//! What a request to a node can end with.

use thiserror::Error;

/// Why a request was not answered with a result.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum NodeError {
    /// The state machine refused it; texts and codes are etcd's.
    #[error(transparent)]
    Mvcc(#[from] netsy_mvcc::Error),
    /// Nobody can answer it now; a write that was under way may still happen.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The local database could not be read.
    #[error("local database: {0}")]
    Storage(String),
}

/// Kinds of unavailability; texts are etcd's, as clients match them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unavailable {
    /// No Primary is known.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// This node is no Primary; nothing was done. Whoever answers clients asks the Primary instead.
    #[error("etcdserver: no leader")]
    NotPrimary,
    /// Another Primary took over.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// The node is stopping.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// It took too long; the outcome of a write is unknown.
    #[error("etcdserver: request timed out")]
    TimedOut,
    /// Too much is waiting already; nothing was done.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// Object storage could not be asked whether this node is still the Primary. etcd has no such case; its
    /// text for a request that found no quorum in time is what clients know.
    #[error("etcdserver: request timed out")]
    Storage(String),
}
