//! What replay needs of the node: committed history and old values.

use super::events::CommittedEvents;
use bytes::Bytes;
use netsy_api::ids::{Position, Revision};
use netsy_mvcc::KvRef;
use std::fmt;

/// Why history could not be read. The streams that needed it are ended with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryError(pub String);

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for HistoryError {}

/// Some consecutive revisions of history.
#[derive(Clone, Debug, Default)]
pub struct HistoryBatch {
    /// Ascending; revisions without key changes do not exist.
    pub revisions: Vec<CommittedEvents>,
    /// Every revision from the one asked for through this one is in `revisions`. Below the one asked
    /// for: the database does not have it yet, ask again later.
    pub through: Revision,
}

/// The node as the hub sees it. Called from the hub's own threads (reads) and from whoever creates a
/// watcher (the two revisions, which must be cheap and must not wait for anything that waits for the
/// hub).
pub trait History: Send + Sync + 'static {
    /// The newest revision reads show. May be ahead of what was published, never behind.
    fn visible_revision(&self) -> Revision;

    /// The lowest revision that is readable: the visible compaction's. Set before any row is deleted.
    fn compact_revision(&self) -> Revision;

    /// Whether the rows read so far are of the state that the two revisions come from. Not so while a snapshot has
    /// taken the database's place and its state is not shown yet: rows may be gone by a compaction that
    /// `compact_revision` learns of together with this.
    fn is_whole(&self) -> bool;

    /// Whole revisions from `from` on, none above `until`, about `bytes_max` of keys and values but at
    /// least one revision where there is one. Events come without their previous key-values.
    fn read(&self, from: Revision, until: Revision, bytes_max: usize) -> Result<HistoryBatch, HistoryError>;

    /// For each (key, revision): the key as of that revision, its value `Here`; `None` where it did not
    /// exist or is compacted away.
    fn previous(&self, wanted: &[(Bytes, Revision)]) -> Result<Vec<Option<KvRef>>, HistoryError>;

    /// Values by position; `None` where a compaction has removed the row.
    fn values(&self, at: &[Position]) -> Result<Vec<Option<Bytes>>, HistoryError>;
}
