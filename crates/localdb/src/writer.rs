//! The one that writes.

use crate::checkpoint::Checkpointer;
use crate::connection::system_errno;
use crate::open::{Shared, State};
use crate::progress::{LogEnd, Progress, TermRun, Uploaded};
use crate::row_codec::{INSERT, insert_entry};
use crate::{Error, Readers};
use netsy_api::ids::{LogIndex, Position, Revision, Term};
use netsy_api::log::Entry;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;
use std::sync::Arc;

/// The most rows one batch deletes, so that a commit with deletes in it stays short.
pub const DELETE_ROWS_MAX: usize = 1_000;

const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// What becomes durable together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// Entries with the position of their first mutation; each continues the one before it.
    pub entries: &'a [(Position, Arc<Entry>)],
    /// Entries up to here may be shown (R8). None, or lower than it is: as before.
    pub visible_index: Option<LogIndex>,
    /// The object log is known to go this far. None: as before.
    pub uploaded: Option<Uploaded>,
    /// Rows that compaction takes away, at most [`DELETE_ROWS_MAX`]; those already gone do not matter.
    pub delete: &'a [Position],
    /// Raises the promise (R2). None, or lower than it is: as before.
    pub promised_term: Option<Term>,
}

/// The outcome of one step of [`Writer::vacuum_step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VacuumStep {
    /// Pages given back in this step.
    pub freed_pages: u64,
    /// Unused pages still in the file.
    pub left_pages: u64,
}

/// The only connection that changes the database. Each call is one transaction with one sync of the
/// write-ahead log (a second one when the log begins anew).
pub struct Writer {
    // Before `checkpointer`, whose counter the connection reports to.
    pub(crate) conn: Connection,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) shared: Arc<Shared>,
    pub(crate) readers: Readers,
    pub(crate) state: State,
    /// Why nothing is written any more.
    pub(crate) stopped: Option<String>,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        readers: Readers,
        conn: Connection,
        checkpointer: Checkpointer,
        state: State,
    ) -> Self {
        Self { conn, checkpointer, shared, readers, state, stopped: None }
    }

    /// The end of the stored log.
    pub fn end(&self) -> LogEnd {
        self.state.end
    }

    /// What is stored beside the rows.
    pub fn progress(&self) -> Progress {
        self.state.progress
    }

    /// The runs of terms of the whole log, ascending (R7).
    pub fn term_runs(&self) -> &[TermRun] {
        &self.state.runs
    }

    /// The term of the entry at `index`; none for 0 and after the end. Known also where rows are gone.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == LogIndex(0) || index > self.state.end.index {
            return None;
        }
        let after = self.state.runs.partition_point(|run| run.first_index <= index);
        after.checked_sub(1).map(|at| self.state.runs[at].term)
    }

    /// The highest term promised (R2).
    pub fn promised_term(&self) -> Term {
        self.state.promised
    }

    /// Makes the batch durable; when it returns `Ok`, all of it is, and readers see it.
    ///
    /// # Errors
    /// Nothing of the batch is kept on any error. [`Error::DiskFull`]: may be tried again.
    /// [`Error::NotContiguous`], [`Error::TooMany`]: the batch is wrong. After an error of the disk the writer
    /// answers [`Error::Stopped`]: what a failed sync left behind cannot be known (restart to find out).
    pub fn commit(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        if batch.delete.len() > DELETE_ROWS_MAX {
            let (what, given) = ("the number of rows to delete", batch.delete.len());
            return Err(Error::TooMany { what, given, max: DELETE_ROWS_MAX });
        }
        let (end, new_runs) = continued(self.state.end, batch.entries)?;
        let mut progress = self.state.progress;
        if let Some(index) = batch.visible_index {
            progress.visible_index = progress.visible_index.max(index);
        }
        if let Some(uploaded) = batch.uploaded {
            progress.uploaded = uploaded;
        }
        let promised = batch.promised_term.unwrap_or_default().max(self.state.promised);
        let promise_rises = promised > self.state.promised;
        let before = self.state.progress;
        let progress = self.transaction("committing to", |conn| {
            if !batch.entries.is_empty() {
                let mut insert = conn.prepare_cached(INSERT)?;
                for (first, entry) in batch.entries {
                    insert_entry(&mut insert, *first, entry)?;
                }
            }
            insert_runs(conn, &new_runs)?;
            if !batch.delete.is_empty() {
                delete_rows(conn, batch.delete, end, &mut progress)?;
            }
            if progress != before {
                update_progress(conn, &progress)?;
            }
            if promise_rises {
                conn.prepare_cached("UPDATE identity SET promised_term = ?1")?.execute([promised.0 as i64])?;
            }
            Ok(progress)
        })?;
        self.state.end = end;
        self.state.runs.extend(new_runs);
        self.state.progress = progress;
        self.state.promised = promised;
        Ok(())
    }

    /// Makes the promise of a term durable (R2); a lower one than there is changes nothing.
    pub fn set_promised_term(&mut self, term: Term) -> Result<(), Error> {
        if term <= self.state.promised {
            return Ok(());
        }
        self.commit(&Batch { promised_term: Some(term), ..Batch::default() })
    }

    /// Deletes the entries after `index` (R7).
    ///
    /// # Errors
    /// [`Error::TruncatesVisible`] if entries after it may have been shown; [`Error::Compacted`] if it lies
    /// where rows are missing.
    pub fn truncate_after(&mut self, index: LogIndex) -> Result<(), Error> {
        if index >= self.state.end.index {
            return Ok(());
        }
        let progress = self.state.progress;
        if index < progress.visible_index {
            return Err(Error::TruncatesVisible { index, visible: progress.visible_index });
        }
        if index < progress.partial_through {
            return Err(Error::Compacted { asked: index.next(), first_whole: progress.partial_through.next() });
        }
        let first = self.readers.first_of_index(index.next())?;
        let path = self.shared.folder.database().to_path_buf();
        let damaged = |detail: String| Error::Damaged { path, detail };
        let Some(first) = first else {
            return Err(damaged(format!("no row after entry {index}, but the log ends at {}", self.state.end.index)));
        };
        let term = self.term_at(index).unwrap_or_default();
        let end = self.transaction("truncating", |conn| {
            let last = Position(first.0 - 1);
            let key_changes: bool = conn.query_row(
                "SELECT EXISTS (SELECT 1 FROM rows WHERE position >= ?1 AND idx = ?2 AND kind IN (1, 2))",
                params![first.0 as i64, index.next().0 as i64],
                |row| row.get(0),
            )?;
            let next_revision: i64 =
                conn.query_row("SELECT revision FROM rows WHERE position = ?1", [first.0 as i64], |row| row.get(0))?;
            let end =
                LogEnd { index, term, position: last, revision: Revision(next_revision - i64::from(key_changes)) };
            conn.execute("DELETE FROM rows WHERE position >= ?1", [first.0 as i64])?;
            conn.execute("DELETE FROM term_runs WHERE first_index > ?1", [index.0 as i64])?;
            record_end(conn, &end)?;
            Ok(end)
        })?;
        self.state.end = end;
        self.state.runs.retain(|run| run.first_index <= index);
        Ok(())
    }

    /// Stores a value of the caller's under a name.
    pub fn set_note(&mut self, name: &str, value: &[u8]) -> Result<(), Error> {
        self.transaction("writing a note to", |conn| {
            conn.execute(
                "INSERT INTO notes (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
                params![name, value],
            )?;
            Ok(())
        })
    }

    /// The value stored under a name.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.conn
            .query_row("SELECT value FROM notes WHERE name = ?1", [name], |row| row.get(0))
            .optional()
            .map_err(|e| Error::sqlite(self.shared.folder.database(), "reading a note from", e))
    }

    /// Gives at most `pages_max` unused pages back to the file system. To be repeated, with commits in
    /// between, while `left_pages` is not 0: no step takes longer than a commit of as many pages.
    pub fn vacuum_step(&mut self, pages_max: u32) -> Result<VacuumStep, Error> {
        let count = |conn: &Connection| {
            conn.query_row("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0)).map(|n| n as u64)
        };
        let before = count(&self.conn).map_err(|e| self.failed("counting free pages of", e))?;
        if before == 0 {
            return Ok(VacuumStep { freed_pages: 0, left_pages: 0 });
        }
        let left = self.transaction("vacuuming", |conn| {
            // Each step of the statement frees one page, so it must be run to its end.
            let mut vacuum = conn.prepare(&format!("PRAGMA incremental_vacuum({pages_max})"))?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
            drop(rows);
            count(conn)
        })?;
        Ok(VacuumStep { freed_pages: before.saturating_sub(left), left_pages: left })
    }

    /// Frames in SQLite's write-ahead log after the last commit, for metrics.
    pub fn wal_frames(&self) -> u32 {
        self.checkpointer.state().frames.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Runs `change` as one transaction; nothing of it is kept if anything fails.
    fn transaction<T>(
        &mut self,
        doing: &'static str,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.check_stopped()?;
        let outcome = {
            let _gate = self.checkpointer.state().gate.lock();
            self.conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([])).and_then(|_| {
                let value = change(&self.conn)?;
                self.conn.prepare_cached("COMMIT")?.execute([])?;
                Ok(value)
            })
        };
        match outcome {
            Ok(value) => {
                self.checkpointer.committed();
                Ok(value)
            }
            Err(e) => Err(self.roll_back(doing, e)),
        }
    }

    fn roll_back(&mut self, doing: &'static str, e: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, SystemIoFailure};
        let broken = matches!(e.sqlite_error_code(), Some(SystemIoFailure | DatabaseCorrupt | NotADatabase));
        let full = matches!(system_errno(&self.conn), ENOSPC | EDQUOT);
        let error = if broken && full {
            // What the disk has of it cannot be known: unlike a write that was refused for want of space before anything
            // of it counted, this may not be tried again.
            let cause = format!("{e}; no space left on its file system");
            self.stopped = Some(cause.clone());
            Error::Stopped { path: self.path().to_path_buf(), cause }
        } else {
            if broken {
                self.stopped = Some(e.to_string());
            }
            self.failed(doing, e)
        };
        // Some errors have rolled back already.
        if !self.conn.is_autocommit()
            && let Err(e) = self.conn.execute_batch("ROLLBACK")
        {
            self.stopped = Some(format!("rolling back: {e}"));
        }
        error
    }

    pub(crate) fn check_stopped(&self) -> Result<(), Error> {
        match &self.stopped {
            None => Ok(()),
            Some(cause) => Err(Error::Stopped { path: self.path().to_path_buf(), cause: cause.clone() }),
        }
    }

    fn path(&self) -> &Path {
        self.shared.folder.database()
    }

    fn failed(&self, doing: &'static str, e: rusqlite::Error) -> Error {
        Error::sqlite(self.path(), doing, e)
    }
}

/// Checks that the entries continue the log; returns its new end and the runs of terms that begin in them.
pub(crate) fn continued(mut end: LogEnd, entries: &[(Position, Arc<Entry>)]) -> Result<(LogEnd, Vec<TermRun>), Error> {
    let mut runs = Vec::new();
    for (first, entry) in entries {
        let check = |what, given: u64, expected: u64, ok: bool| {
            if ok { Ok(()) } else { Err(Error::NotContiguous { what, given, expected }) }
        };
        let (index, position) = (end.index.next(), end.position.next());
        check("index", entry.index.0, index.0, entry.index == index)?;
        check("position", first.0, position.0, *first == position)?;
        check("term", entry.term.0, end.term.0, entry.term >= end.term)?;
        check("revision", entry.revision.0 as u64, end.revision.0 as u64, entry.revision >= end.revision)?;
        check("number of mutations", 0, 1, !entry.mutations.is_empty())?;
        if entry.term > end.term {
            runs.push(TermRun { term: entry.term, first_index: entry.index });
        }
        end = LogEnd {
            index: entry.index,
            term: entry.term,
            position: Position(first.0 + entry.mutations.len() as u64 - 1),
            revision: entry.revision,
        };
    }
    Ok((end, runs))
}

pub(crate) fn insert_runs(conn: &Connection, runs: &[TermRun]) -> rusqlite::Result<()> {
    for run in runs {
        conn.prepare_cached("INSERT INTO term_runs (term, first_index) VALUES (?1, ?2)")?
            .execute(params![run.term.0 as i64, run.first_index.0 as i64])?;
    }
    Ok(())
}

pub(crate) fn update_progress(conn: &Connection, progress: &Progress) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE progress SET visible_index = ?1, uploaded_seq = ?2, uploaded_term = ?3, uploaded_index = ?4, \
         partial_through = ?5 WHERE one = 1",
    )?
    .execute(params![
        progress.visible_index.0 as i64,
        progress.uploaded.seq.0 as i64,
        progress.uploaded.term.0 as i64,
        progress.uploaded.index.0 as i64,
        progress.partial_through.0 as i64
    ])?;
    Ok(())
}

/// Where the log ends, for when its last row does not say.
pub(crate) fn record_end(conn: &Connection, end: &LogEnd) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE progress SET end_index = ?1, end_term = ?2, end_position = ?3, end_revision = ?4 WHERE one = 1",
    )?
    .execute(params![end.index.0 as i64, end.term.0 as i64, end.position.0 as i64, end.revision.0])?;
    Ok(())
}

fn delete_rows(
    conn: &Connection,
    positions: &[Position],
    end: LogEnd,
    progress: &mut Progress,
) -> rusqlite::Result<()> {
    let mut index_of = conn.prepare_cached("SELECT idx FROM rows WHERE position = ?1")?;
    let mut delete = conn.prepare_cached("DELETE FROM rows WHERE position = ?1")?;
    let mut greatest = Position(0);
    for position in positions {
        if *position > greatest {
            let index: Option<i64> = index_of.query_row([position.0 as i64], |row| row.get(0)).optional()?;
            // A row that is gone was counted when it went.
            if let Some(index) = index {
                greatest = *position;
                progress.partial_through = progress.partial_through.max(LogIndex(index as u64));
            }
        }
        delete.execute([position.0 as i64])?;
    }
    if greatest == end.position {
        record_end(conn, &end)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LocalDb, OpenOptions};
    use netsy_api::ids::{LeaseId, UnixMillis};
    use netsy_api::log::Mutation;

    fn entry(index: u64, value_bytes: usize) -> (Position, Arc<Entry>) {
        let mutations = vec![Mutation::Put {
            key: bytes::Bytes::from_static(b"k"),
            value: vec![0; value_bytes].into(),
            create_revision: Revision(2),
            version: index as i64,
            lease: LeaseId(0),
        }];
        let (time, revision) = (UnixMillis(0), Revision(index as i64 + 1));
        (Position(index), Arc::new(Entry { index: LogIndex(index), term: Term(1), time, revision, mutations }))
    }

    #[test]
    fn a_full_disk_is_said_so_and_survived() {
        let folder = tempfile::tempdir().expect("folder");
        let (mut writer, readers, _) = LocalDb::open(folder.path(), &OpenOptions::new("test")).expect("open");
        let pages: i64 = writer.conn.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("pages");
        writer.conn.pragma_update(None, "max_page_count", pages + 10).expect("limit");
        let entries = [entry(1, 100), entry(2, 1 << 20)];
        let outcome = writer.commit(&Batch { entries: &entries, ..Batch::default() });
        assert!(outcome.as_ref().is_err_and(Error::is_disk_full), "{outcome:?}");
        assert_eq!(writer.end(), LogEnd::EMPTY);
        assert_eq!(readers.rows_after(Position(0), 10, 1_000).expect("rows"), []);
        writer.conn.pragma_update(None, "max_page_count", 1_000_000).expect("limit");
        writer.commit(&Batch { entries: &entries, ..Batch::default() }).expect("there is space again");
        assert_eq!(writer.end().index, LogIndex(2));
    }

    #[test]
    #[cfg(not(feature = "crashfs"))]
    fn a_full_disk_is_met_by_the_log_and_not_by_its_index() {
        let folder = tempfile::tempdir().expect("folder");
        let (writer, readers, _) = LocalDb::open(folder.path(), &OpenOptions::new("test")).expect("open");
        let length = |name: &str| std::fs::metadata(folder.path().join(name)).expect("a file").len();
        // 4062 frames of a page and 24 bytes fit into the index's first 32 KiB, 4096 into each further.
        let frames = length("db.sqlite3-wal") / (4096 + 24);
        assert!(length("db.sqlite3-shm") >> 15 > (frames + 34) / 4096, "room for {frames} frames");
        drop((writer, readers));
    }

    #[test]
    fn after_a_failure_of_the_disk_nothing_is_written() {
        let folder = tempfile::tempdir().expect("folder");
        let (mut writer, _readers, _) = LocalDb::open(folder.path(), &OpenOptions::new("test")).expect("open");
        let failed = rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC),
            Some("disk I/O error".to_string()),
        );
        let error = writer.roll_back("committing to", failed);
        assert!(matches!(error, Error::Sqlite { .. }), "{error:?}");
        let outcome = writer.commit(&Batch { entries: &[entry(1, 1)], ..Batch::default() });
        assert!(matches!(outcome, Err(Error::Stopped { .. })), "{outcome:?}");
    }
}
