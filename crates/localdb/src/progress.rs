//! How far the stored log goes and what is known about it.

use netsy_api::ids::{ChunkSeq, LogIndex, Position, Revision, Term};

/// The last entry of the stored log, whether or not its rows survived compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// The last entry's index; 0: none.
    pub index: LogIndex,
    /// Its term; 0: none.
    pub term: Term,
    /// Position of its last mutation; 0: none.
    pub position: Position,
    /// Its revision; 1 in an empty store.
    pub revision: Revision,
}

impl LogEnd {
    /// The end of an empty log.
    pub const EMPTY: LogEnd =
        LogEnd { index: LogIndex(0), term: Term(0), position: Position(0), revision: Revision(1) };
}

/// The last chunk of the object log this node knows to have landed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Its number; 0: none.
    pub seq: ChunkSeq,
    /// Its term.
    pub term: Term,
    /// The last entry it covers.
    pub index: LogIndex,
}

/// What is stored beside the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries up to here may be shown (R8).
    pub visible_index: LogIndex,
    /// What the object log has.
    pub uploaded: Uploaded,
    /// The greatest index that lost a row to compaction, or came in a snapshot: entries after it are whole.
    pub partial_through: LogIndex,
}

/// A run of entries of one term (R7); it goes to the entry before the next run's first, the last one to the
/// log's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermRun {
    /// The term.
    pub term: Term,
    /// Index of the first entry in it.
    pub first_index: LogIndex,
}
