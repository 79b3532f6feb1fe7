//! Errors, with the texts that etcd clients match (etcd.md 1.1).

use netsy_api::ids::{LogIndex, Position, Revision, Term};

/// The gRPC code an error travels with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong in itself.
    InvalidArgument,
    /// A number in the request is outside of what exists.
    OutOfRange,
    /// No space.
    ResourceExhausted,
    /// Something named does not exist.
    NotFound,
    /// Something named exists already.
    FailedPrecondition,
    /// The data is damaged.
    DataLoss,
    /// This node could not do it; nothing was changed.
    Unavailable,
}

/// Why a request is refused; the state is untouched. `Display` is the text for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An empty key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that does not exist; an operation of no kind in a transaction.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// A transaction of more operations than allowed, or one that would have to look at too many keys.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// A transaction that changes a key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or target of no known number.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// A request whose one entry could not be numbered or stored.
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// A revision below the compaction's.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// A revision that does not exist yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// More than [`LEASE_TTL_SECONDS_MAX`](crate::LEASE_TTL_SECONDS_MAX).
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// The NOSPACE alarm is active.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// No such lease.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// The lease id is taken.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// The CORRUPT alarm is active.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// The local database did not give a value the request depends on.
    #[error("the value at row {at} could not be read: {reason}; the node's local database needs attention")]
    ValueUnreadable {
        /// Which row.
        at: Position,
        /// What the database said.
        reason: String,
    },
}

impl Error {
    /// The gRPC code to answer with.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::EmptyKey
            | Error::KeyNotFound
            | Error::ValueProvided
            | Error::LeaseProvided
            | Error::TooManyOps
            | Error::DuplicateKey
            | Error::InvalidSortOption
            | Error::RequestTooLarge => ErrorKind::InvalidArgument,
            Error::Compacted | Error::FutureRevision | Error::LeaseTtlTooLarge => ErrorKind::OutOfRange,
            Error::NoSpace => ErrorKind::ResourceExhausted,
            Error::LeaseNotFound => ErrorKind::NotFound,
            Error::LeaseExists => ErrorKind::FailedPrecondition,
            Error::Corrupt => ErrorKind::DataLoss,
            Error::ValueUnreadable { .. } => ErrorKind::Unavailable,
        }
    }
}

/// Why an entry or row does not fit the state; the state is as before. The node must not go on: its log and
/// its state differ from what the Primary had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Not the next index.
    #[error("entry {got} does not follow entry {last}: load the entries between them first")]
    IndexGap {
        /// The newest here.
        last: LogIndex,
        /// The one given.
        got: LogIndex,
    },
    /// Terms never fall along the log.
    #[error("entry {index} has term {got}, below term {last} of the entry before it: the log is damaged")]
    TermFell {
        /// The entry.
        index: LogIndex,
        /// The term of the entry before.
        last: Term,
        /// Its term.
        got: Term,
    },
    /// Not the revision that its mutations lead to.
    #[error(
        "entry {index} claims revision {got} where the state reaches {expected}: restore this node from the bucket"
    )]
    RevisionMismatch {
        /// The entry.
        index: LogIndex,
        /// What the state reaches.
        expected: Revision,
        /// What it claims.
        got: Revision,
    },
    /// An entry without mutations, or with more than can be numbered.
    #[error("entry {index} has {mutations} mutations: an entry has between 1 and {max}", max = u32::MAX - 1)]
    MutationCount {
        /// The entry.
        index: LogIndex,
        /// How many.
        mutations: usize,
    },
    /// A mutation that contradicts the state.
    #[error("entry {index}: {what}: restore this node from the bucket")]
    Diverged {
        /// The entry.
        index: LogIndex,
        /// The contradiction, with the values.
        what: String,
    },
    /// Rows must come in order.
    #[error("row {got} was given after row {last}: rows are loaded in ascending order, each once")]
    RowOrder {
        /// The newest here.
        last: Position,
        /// The one given.
        got: Position,
    },
    /// The rows and what is said about them do not fit.
    #[error("the stored rows end at {what}: the local database is damaged, restore this node from the bucket")]
    LoadEnd {
        /// The contradiction, with the values.
        what: String,
    },
    /// Only what nobody was shown may be dropped (R7).
    #[error("entries after {last} cannot be dropped: {visible} is committed and was shown to readers")]
    RollbackBelowVisible {
        /// The entry to go back to.
        last: LogIndex,
        /// The newest that readers saw.
        visible: LogIndex,
    },
}
