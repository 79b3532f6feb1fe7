//! The data folder: its files and its lock.

use crate::{Error, files};
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The locked data folder.
pub(crate) struct Folder {
    path: PathBuf,
    database: PathBuf,
    /// Held as long as anything of the database is in use; the lock goes with the process, however it ends.
    _lock: File,
}

impl Folder {
    /// Makes the folder if need be and locks it.
    pub(crate) fn lock(path: &Path) -> Result<Self, Error> {
        if !path.is_dir() {
            std::fs::create_dir_all(path).map_err(|e| Error::io(path, "making the data folder", e))?;
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                files::sync_dir(parent).map_err(|e| Error::io(parent, "syncing the folder", e))?;
            }
        }
        let lock_path = path.join("LOCK");
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| Error::io(&lock_path, "opening", e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { folder: path.to_path_buf() }),
            Err(TryLockError::Error(e)) => return Err(Error::io(&lock_path, "locking", e)),
        }
        // For the operator's eyes only; the lock itself is what counts.
        let note = format!("{}\n", std::process::id());
        lock.set_len(0)
            .and_then(|()| lock.write_all(note.as_bytes()))
            .map_err(|e| Error::io(&lock_path, "writing", e))?;
        Ok(Self { path: path.to_path_buf(), database: path.join("db.sqlite3"), _lock: lock })
    }

    /// The database's file.
    pub(crate) fn database(&self) -> &Path {
        &self.database
    }

    /// The database that a restore builds before it takes the place of the other.
    pub(crate) fn restoring(&self) -> PathBuf {
        self.path.join("restore.sqlite3")
    }

    /// A file that SQLite keeps beside `database`: `-wal`, `-shm`, `-journal`.
    pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
        let mut name = database.as_os_str().to_os_string();
        name.push(suffix);
        PathBuf::from(name)
    }

    /// Makes created, renamed and removed names durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        files::sync_dir(&self.path).map_err(|e| Error::io(&self.path, "syncing the folder", e))
    }

    /// Moves the database and what SQLite keeps beside it into another folder of the same file system.
    pub(crate) fn move_database(&self, to: &Path) -> Result<(), Error> {
        // The log beside it first: without it the database is an older one, which opens, too.
        for suffix in ["-wal", "-shm", "-journal", ""] {
            let from = Self::beside(&self.database, suffix);
            let Some(name) = from.file_name().filter(|_| from.exists()) else { continue };
            std::fs::rename(&from, to.join(name)).map_err(|e| Error::io(&from, "moving", e))?;
        }
        files::sync_dir(to).map_err(|e| Error::io(to, "syncing the folder", e))?;
        self.sync()
    }

    /// Removes a database and what SQLite keeps beside it.
    pub(crate) fn remove(&self, database: &Path) -> Result<(), Error> {
        let mut removed = false;
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let path = Self::beside(database, suffix);
            removed |= files::remove_if_there(&path).map_err(|e| Error::io(&path, "removing", e))?;
        }
        if removed { self.sync() } else { Ok(()) }
    }
}
