//! What can go wrong, with the thing, the value and the remedy.

use netsy_api::ids::LogIndex;
use std::path::{Path, PathBuf};

/// An error of the local database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process works on the folder.
    #[error("data folder {} is in use by another process: stop it, or give this node a folder of its own", folder.display())]
    InUse {
        /// The data folder.
        folder: PathBuf,
    },
    /// The database belongs to another cluster (R11).
    #[error("{} belongs to cluster {found:?}, not to {wanted:?}: correct cluster_id, or give this node another data folder", path.display())]
    OtherCluster {
        /// The database.
        path: PathBuf,
        /// The cluster it was made for.
        found: String,
        /// The cluster it was opened for.
        wanted: String,
    },
    /// A file of that name which netsy did not make.
    #[error("{} is not a database of this program ({found}): move it away, or choose another data folder", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it seems to be.
        found: String,
    },
    /// Made by a later version.
    #[error("{} has schema version {found}, this program knows up to {known}: start the newer netsy that wrote it, or remove the file to load everything from object storage", path.display())]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its `user_version`.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// No space is left; nothing of the call was kept and the call may be repeated once there is space.
    #[error("no space left for {} while {doing}: free space on its file system", path.display())]
    DiskFull {
        /// The database.
        path: PathBuf,
        /// What was going on.
        doing: &'static str,
    },
    /// The content cannot be right.
    #[error("{} is damaged: {detail}: check the disk, then remove the file and start again to load everything from object storage", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Entries that were asked for have lost rows to compaction.
    #[error(
        "entry {asked} is no longer whole in the local database, entries are from {first_whole} on: read rows, or load a snapshot"
    )]
    Compacted {
        /// The entry asked for.
        asked: LogIndex,
        /// The first entry that can be had.
        first_whole: LogIndex,
    },
    /// What was given does not continue what is stored.
    #[error(
        "{what} {given} does not continue the local log, expected {expected}: this is a fault of the program, please report it"
    )]
    NotContiguous {
        /// Which number.
        what: &'static str,
        /// The value given.
        given: u64,
        /// The value that would have fitted.
        expected: u64,
    },
    /// Entries that may have been shown would be deleted (R7, R8).
    #[error(
        "entries after {index} are to be deleted, but entries up to {visible} may have been shown: the node must halt; `netsy recover` explains what to do"
    )]
    TruncatesVisible {
        /// The last entry that was to stay.
        index: LogIndex,
        /// The stored visible index.
        visible: LogIndex,
    },
    /// An argument beyond its bound.
    #[error("{what} is {given}, at most {max} are allowed in one call: split it")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much was given.
        given: usize,
        /// The bound.
        max: usize,
    },
    /// SQLite would not promise durability.
    #[error("{}: PRAGMA {pragma} is {found:?}, needed is {wanted:?}: the file system may not support it, use a local one", path.display())]
    Setting {
        /// The database.
        path: PathBuf,
        /// Which setting.
        pragma: &'static str,
        /// What it reads back as.
        found: String,
        /// What was set.
        wanted: &'static str,
    },
    /// A write failed earlier in a way after which the disk cannot be believed; nothing is written any more.
    #[error("{} takes no more writes since one failed ({cause}): check the disk, then restart the node", path.display())]
    Stopped {
        /// The database.
        path: PathBuf,
        /// The failure.
        cause: String,
    },
    /// The file system said no.
    #[error("{doing} {}: {source}: check the folder's permissions and the disk", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was going on.
        doing: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// SQLite said no.
    #[error("{doing} {}: {source}: check the disk; PRAGMA integrity_check tells whether the file is whole", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What was going on.
        doing: &'static str,
        /// The cause.
        source: rusqlite::Error,
    },
    /// The system gave no random bytes.
    #[error("no random bytes for a new incarnation: {0}")]
    Random(getrandom::Error),
}

impl Error {
    /// Whether the disk is full, so that the node can say so and go on once there is space.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Error::DiskFull { .. })
    }

    pub(crate) fn io(path: &Path, doing: &'static str, source: std::io::Error) -> Self {
        if matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
            return Error::DiskFull { path: path.to_path_buf(), doing };
        }
        Error::Io { path: path.to_path_buf(), doing, source }
    }

    pub(crate) fn sqlite(path: &Path, doing: &'static str, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let path = path.to_path_buf();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Error::DiskFull { path, doing },
            Some(ErrorCode::DatabaseCorrupt) => Error::Damaged { path, detail: source.to_string() },
            Some(ErrorCode::NotADatabase) => Error::Foreign { path, found: "no SQLite file".to_string() },
            _ => Error::Sqlite { path, doing, source },
        }
    }
}
