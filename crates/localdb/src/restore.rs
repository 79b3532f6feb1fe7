//! Replacing the whole content: a second database is built beside the first, made durable, and takes its
//! place by one rename. Until then a crash leaves the old one; from then on the new one is whole.

use crate::connection::{self, Role};
use crate::open::{insert_identity, load_identity, load_state};
use crate::progress::{LogEnd, Progress, TermRun, Uploaded};
use crate::row_codec::{INSERT, RowHead, insert_entry, insert_row};
use crate::writer::{continued, insert_runs, record_end, update_progress};
use crate::{Error, Writer, checkpoint, files, schema};
use netsy_api::ids::{LogIndex, Position};
use netsy_api::log::{Entry, Row};
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::Arc;

/// What the new content amounts to.
#[derive(Clone, Debug)]
pub struct RestoreEnd {
    /// Entries up to here may be shown.
    pub visible_index: LogIndex,
    /// What the object log has.
    pub uploaded: Uploaded,
}

/// A database being built; independent of the writer until [`Writer::finish_restore`], so that it may be filled
/// in another thread. Dropped, it leaves nothing behind but a file that the next start removes.
pub struct Restore {
    conn: Connection,
    path: PathBuf,
    end: LogEnd,
    partial_through: LogIndex,
    runs: Vec<TermRun>,
    last: Position,
    snapshot_done: bool,
}

impl Writer {
    /// Begins to build the new content. One at a time: a second one begins anew.
    pub fn begin_restore(&self) -> Result<Restore, Error> {
        let path = self.shared.folder.restoring();
        self.shared.folder.remove(&path)?;
        let conn = connection::open(&path, self.shared.vfs.as_deref(), Role::Builder)?;
        let failed = |e| Error::sqlite(&path, "making", e);
        conn.execute_batch("BEGIN").map_err(failed)?;
        schema::create(&conn, &path)?;
        Ok(Restore {
            conn,
            path,
            end: LogEnd::EMPTY,
            partial_through: LogIndex(0),
            runs: Vec::new(),
            last: Position(0),
            snapshot_done: false,
        })
    }

    /// Puts the new content in the place of the old. Cluster, incarnation, boot counter, promise and notes stay.
    /// Waits for readers under way; readers that come meanwhile wait for it.
    ///
    /// # Errors
    /// On an error the old content is still there; if it could not be opened again either, the writer answers
    /// [`Error::Stopped`] from then on.
    pub fn finish_restore(&mut self, restore: Restore, end: &RestoreEnd) -> Result<(), Error> {
        self.check_stopped()?;
        let path = restore.path.clone();
        self.complete(restore, end)?;
        self.readers.pause();
        let switched = self.switch(&path);
        let opened = self.reopen();
        self.readers.resume();
        if let Err(e) = &opened {
            self.stopped = Some(format!("opening it again after a restore: {e}"));
        }
        switched.and(opened)
    }

    /// Writes what is not rows, and makes the file durable under its own name.
    fn complete(&self, restore: Restore, end: &RestoreEnd) -> Result<(), Error> {
        let Restore { conn, path, end: log_end, partial_through, runs, .. } = restore;
        let identity = load_identity(&self.conn, self.shared.folder.database())?;
        let notes = self.notes()?;
        let progress = Progress { visible_index: end.visible_index, uploaded: end.uploaded, partial_through };
        let write = || {
            insert_identity(&conn, &identity)?;
            for (name, value) in &notes {
                conn.execute("INSERT INTO notes (name, value) VALUES (?1, ?2)", rusqlite::params![name, value])?;
            }
            insert_runs(&conn, &runs)?;
            update_progress(&conn, &progress)?;
            record_end(&conn, &log_end)?;
            conn.execute_batch("COMMIT")
        };
        write().map_err(|e| Error::sqlite(&path, "completing", e))?;
        conn.close().map_err(|(_, e)| Error::sqlite(&path, "closing", e))?;
        // Every page, now that SQLite has handed all of them to the system.
        let file = files::File::open_rw(&path).map_err(|e| Error::io(&path, "opening", e))?;
        file.sync().map_err(|e| Error::io(&path, "syncing", e))?;
        self.shared.folder.sync()
    }

    fn notes(&self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        self.conn
            .prepare("SELECT name, value FROM notes")
            .and_then(|mut select| select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .map_err(|e| Error::sqlite(self.shared.folder.database(), "reading notes from", e))
    }

    /// Closes the old database, with nothing left in its write-ahead log, and renames the new one onto it.
    fn switch(&mut self, new: &std::path::Path) -> Result<(), Error> {
        let path = self.shared.folder.database().to_path_buf();
        let failed = |e| Error::sqlite(&path, "closing", e);
        self.checkpointer.close_connection();
        // The old write-ahead log must not be there when the new database is opened under this name: empty it
        // into the old database first, so that a crash before the rename loses nothing of that.
        let left: i64 = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(failed)?;
        if left != 0 {
            return Err(Error::Sqlite {
                path,
                doing: "emptying the write-ahead log of",
                source: rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
                    Some("another program reads the database".to_string()),
                ),
            });
        }
        let nothing = Connection::open_in_memory().map_err(failed)?;
        let old = std::mem::replace(&mut self.conn, nothing);
        old.close().map_err(|(_, e)| failed(e))?;
        for suffix in ["-wal", "-shm"] {
            let beside = crate::folder::Folder::beside(&path, suffix);
            files::remove_if_there(&beside).map_err(|e| Error::io(&beside, "removing", e))?;
        }
        self.shared.folder.sync()?;
        files::rename(new, &path).map_err(|e| Error::io(&path, "renaming the restored database to", e))?;
        self.shared.folder.sync()
    }

    fn reopen(&mut self) -> Result<(), Error> {
        let path = self.shared.folder.database().to_path_buf();
        let vfs = self.shared.vfs.as_deref();
        let conn = connection::open(&path, vfs, Role::Writer)?;
        checkpoint::make_room(&path)?;
        self.shared.folder.sync()?;
        self.state = load_state(&conn, &path)?;
        self.checkpointer.open_connection(&path, vfs)?;
        connection::report_wal_frames(&conn, &self.checkpointer.state().frames);
        self.conn = conn;
        Ok(())
    }
}

impl Restore {
    /// Adds rows of a snapshot, ascending by position.
    pub fn push_rows(&mut self, rows: &[Row]) -> Result<(), Error> {
        let mut insert = self.conn.prepare_cached(INSERT).map_err(|e| self.failed(e))?;
        for row in rows {
            if row.position <= self.last || self.snapshot_done {
                let (given, expected) = (row.position.0, self.last.next().0);
                return Err(Error::NotContiguous { what: "position", given, expected });
            }
            self.last = row.position;
            let head = RowHead {
                position: row.position,
                index: row.index,
                term: row.term,
                time: row.time,
                revision: row.revision,
                sub: row.sub,
            };
            insert_row(&mut insert, &head, &row.mutation).map_err(|e| Error::sqlite(&self.path, "filling", e))?;
        }
        Ok(())
    }

    /// Ends the snapshot's rows: where the log it stands for ends, and that log's runs of terms. Entries may
    /// follow.
    pub fn end_snapshot(&mut self, end: LogEnd, runs: Vec<TermRun>) -> Result<(), Error> {
        if end.position < self.last || self.snapshot_done {
            let (given, expected) = (end.position.0, self.last.0);
            return Err(Error::NotContiguous { what: "position of the snapshot's end", given, expected });
        }
        self.snapshot_done = true;
        self.end = end;
        self.partial_through = end.index;
        self.runs = runs;
        Ok(())
    }

    /// Adds entries that continue the snapshot, or the beginning if there is none.
    pub fn push_entries(&mut self, entries: &[(Position, Arc<Entry>)]) -> Result<(), Error> {
        if self.last > self.end.position {
            let (given, expected) = (self.last.0, self.end.position.0);
            return Err(Error::NotContiguous { what: "position before the snapshot's end was given", given, expected });
        }
        let (end, runs) = continued(self.end, entries)?;
        let mut insert = self.conn.prepare_cached(INSERT).map_err(|e| self.failed(e))?;
        for (first, entry) in entries {
            insert_entry(&mut insert, *first, entry).map_err(|e| Error::sqlite(&self.path, "filling", e))?;
        }
        drop(insert);
        self.snapshot_done = true;
        self.end = end;
        self.last = end.position;
        self.runs.extend(runs);
        Ok(())
    }

    /// The term of the entry at `index`; none for 0 and after the end.
    pub fn term_at(&self, index: LogIndex) -> Option<netsy_api::ids::Term> {
        if index == LogIndex(0) || index > self.end.index {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first_index <= index);
        after.checked_sub(1).and_then(|at| self.runs.get(at)).map(|run| run.term)
    }

    /// The end of what was added so far.
    pub fn end(&self) -> LogEnd {
        self.end
    }

    fn failed(&self, e: rusqlite::Error) -> Error {
        Error::sqlite(&self.path, "filling", e)
    }
}
