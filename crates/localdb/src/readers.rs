//! Reading from any thread.

use crate::Error;
use crate::connection::{self, PAGE_BYTES, Role};
use crate::open::Shared;
use crate::row_codec::read_row;
use crate::schema::ROW_COLUMNS;
use bytes::Bytes;
use netsy_api::ids::{LogIndex, Position, Revision};
use netsy_api::log::{Entry, Row};
use parking_lot::{Condvar, Mutex};
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, OptionalExtension};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// The most connections at a time; who needs one more waits.
const CONNECTIONS_MAX: usize = 32;
/// Room that is made for values at once.
const VALUES_EXPECTED: usize = 1 << 10;
/// Connections kept open while nobody uses them.
const IDLE_MAX: usize = 8;

/// Reads committed content, beside the writer and each other. Cheap to clone.
#[derive(Clone)]
pub struct Readers {
    pool: Arc<Pool>,
}

struct Pool {
    shared: Arc<Shared>,
    state: Mutex<PoolState>,
    changed: Condvar,
}

#[derive(Default)]
struct PoolState {
    idle: Vec<Connection>,
    in_use: usize,
    /// A restore is changing the database under us: nobody gets a connection.
    paused: bool,
}

/// A connection out of the pool, given back when dropped.
pub(crate) struct Lent {
    connection: Option<Connection>,
    pool: Arc<Pool>,
}

impl Readers {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let pool = Pool { shared, state: Mutex::new(PoolState::default()), changed: Condvar::new() };
        Self { pool: Arc::new(pool) }
    }

    /// The value of the put at `at`; none if there is none, or no more.
    pub fn value(&self, at: Position) -> Result<Option<Bytes>, Error> {
        let lent = self.lend()?;
        let mut select = lent.prepare_cached(VALUE).map_err(|e| self.failed("reading a value from", e))?;
        self.read_value(&mut select, at)
    }

    /// The values of the puts at these positions, in the order given, as of one moment: of no further ones once they have
    /// `bytes_max` bytes (so at least one, if any is asked for). Ascending positions are the fastest.
    pub fn values(&self, at: &[Position], bytes_max: usize) -> Result<Vec<Option<Bytes>>, Error> {
        let lent = self.lend()?;
        self.as_of_one_moment(&lent, |conn| {
            let mut select = conn.prepare_cached(VALUE).map_err(|e| self.failed("reading values from", e))?;
            let mut values = Vec::with_capacity(at.len().min(VALUES_EXPECTED));
            let mut bytes = 0;
            for &position in at {
                let value = self.read_value(&mut select, position)?;
                bytes += value.as_ref().map_or(0, Bytes::len);
                values.push(value);
                if bytes >= bytes_max {
                    break;
                }
            }
            Ok(values)
        })
    }

    /// The rows after a position, ascending: at most `rows_max`, and no more once `bytes_max` bytes of keys and
    /// values are reached (so at least one, if there is one).
    pub fn rows_after(&self, after: Position, rows_max: usize, bytes_max: usize) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        if rows_max > 0 {
            let lent = self.lend()?;
            self.each_row(&lent, after.next(), |row| {
                bytes += row.mutation.payload_bytes();
                rows.push(row);
                Ok(rows.len() < rows_max && bytes < bytes_max)
            })?;
        }
        Ok(rows)
    }

    /// Whole entries from `from` on with the positions of their first mutations, until `bytes_max` bytes of keys
    /// and values are reached (so at least one, if there is one). Empty after the log's end.
    ///
    /// # Errors
    /// [`Error::Compacted`] if `from` may have lost rows.
    pub fn entries_from(&self, from: LogIndex, bytes_max: usize) -> Result<Vec<(Position, Entry)>, Error> {
        let lent = self.lend()?;
        self.as_of_one_moment(&lent, |conn| {
            let partial: i64 = conn
                .prepare_cached("SELECT partial_through FROM progress")
                .and_then(|mut select| select.query_row([], |row| row.get(0)))
                .map_err(|e| self.failed("reading the progress in", e))?;
            let partial_through = LogIndex(partial as u64);
            if from <= partial_through {
                return Err(Error::Compacted { asked: from, first_whole: partial_through.next() });
            }
            let mut entries: Vec<(Position, Entry)> = Vec::new();
            let Some(first) = self.search(conn, SEARCH_INDEX, from.0 as i64)? else { return Ok(entries) };
            let (mut bytes, mut next) = (0, first);
            self.each_row(conn, first, |row| {
                let begins = entries.last().is_none_or(|(_, entry)| entry.index != row.index);
                if begins && bytes >= bytes_max && !entries.is_empty() {
                    return Ok(false);
                }
                let expected = entries.last().map_or(from, |(_, entry)| entry.index.next());
                if row.position != next || (begins && row.index != expected) {
                    return Err(self.damaged(format!(
                        "row {} of entry {} follows, expected were row {next} and entry {expected}",
                        row.position, row.index
                    )));
                }
                next = row.position.next();
                bytes += row.mutation.payload_bytes();
                match entries.last_mut() {
                    Some((_, entry)) if !begins => entry.mutations.push(row.mutation),
                    _ => entries.push((
                        row.position,
                        Entry {
                            index: row.index,
                            term: row.term,
                            time: row.time,
                            revision: row.revision,
                            mutations: vec![row.mutation],
                        },
                    )),
                }
                Ok(true)
            })?;
            Ok(entries)
        })
    }

    /// The first row whose revision is `revision` or later; none if there is none. (Rows that are no key
    /// changes carry the revision the store had.)
    pub fn position_of_revision(&self, revision: Revision) -> Result<Option<Position>, Error> {
        let lent = self.lend()?;
        self.as_of_one_moment(&lent, |conn| self.search(conn, SEARCH_REVISION, revision.0))
    }

    /// The first row of entry `index` or a later one.
    pub fn first_of_index(&self, index: LogIndex) -> Result<Option<Position>, Error> {
        let lent = self.lend()?;
        self.as_of_one_moment(&lent, |conn| self.search(conn, SEARCH_INDEX, index.0 as i64))
    }

    /// Bytes of the database, unused pages included, the write-ahead log not.
    pub fn size_bytes(&self) -> Result<u64, Error> {
        Ok(self.pragma_number("SELECT page_count FROM pragma_page_count")? * PAGE_BYTES)
    }

    /// Bytes of the database in pages that hold something.
    pub fn in_use_bytes(&self) -> Result<u64, Error> {
        let used = "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count";
        Ok(self.pragma_number(used)? * PAGE_BYTES)
    }

    fn pragma_number(&self, sql: &str) -> Result<u64, Error> {
        let lent = self.lend()?;
        let number: rusqlite::Result<i64> =
            lent.prepare_cached(sql).and_then(|mut select| select.query_row([], |row| row.get(0)));
        number.map(|n| n as u64).map_err(|e| self.failed("reading the size of", e))
    }

    fn read_value(&self, select: &mut CachedStatement<'_>, at: Position) -> Result<Option<Bytes>, Error> {
        let found = select
            .query_row([at.0 as i64], |row| {
                Ok(match row.get_ref(0)? {
                    ValueRef::Blob(value) => Ok(Some(Bytes::copy_from_slice(value))),
                    ValueRef::Null => Ok(None),
                    other => Err(format!("row {at} has a value of type {:?}", other.data_type())),
                })
            })
            .optional()
            .map_err(|e| self.failed("reading a value from", e))?;
        found.unwrap_or(Ok(None)).map_err(|detail| self.damaged(detail))
    }

    /// Calls `each` with the rows from `first` on until it says false.
    fn each_row(
        &self,
        conn: &Connection,
        first: Position,
        mut each: impl FnMut(Row) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let failed = |e| self.failed("reading rows from", e);
        let sql = format!("SELECT {ROW_COLUMNS} FROM rows WHERE position >= ?1 ORDER BY position");
        let mut select = conn.prepare_cached(&sql).map_err(failed)?;
        let mut rows = select.query([first.0 as i64]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let row = read_row(row).map_err(|detail| self.damaged(detail))?;
            if !each(row)? {
                break;
            }
        }
        Ok(())
    }

    /// The first row where the column (which never falls with the position) is `wanted` or more: a binary
    /// search over the row ids, so that no index has to be written.
    fn search(&self, conn: &Connection, sql: &str, wanted: i64) -> Result<Option<Position>, Error> {
        let failed = |e| self.failed("searching", e);
        let mut probe = conn.prepare_cached(sql).map_err(failed)?;
        let bound =
            |sql| conn.prepare_cached(sql).and_then(|mut s| s.query_row([], |row| row.get::<_, Option<i64>>(0)));
        let (Some(mut low), Some(last)) = (
            bound("SELECT min(position) FROM rows").map_err(failed)?,
            bound("SELECT max(position) FROM rows").map_err(failed)?,
        ) else {
            return Ok(None);
        };
        // None of ours has such positions, between which nothing can be counted.
        if low < 0 || last == i64::MAX {
            return Err(self.damaged(format!("rows at positions {low} to {last}")));
        }
        // The row sought is the first one at or after some position between `low` and `high`.
        let mut high = last + 1;
        while low < high {
            let middle = low + (high - low) / 2;
            let found = probe.query_row([middle], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
            let (position, value) = found.map_err(failed)?;
            if value >= wanted {
                high = middle;
            } else {
                low = position + 1;
            }
        }
        let found = probe.query_row([low], |row| row.get::<_, i64>(0)).optional().map_err(failed)?;
        Ok(found.map(|position| Position(position as u64)))
    }

    pub(crate) fn as_of_one_moment<T>(
        &self,
        conn: &Connection,
        read: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let run = |sql| conn.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        run("BEGIN").map_err(|e| self.failed("beginning to read", e))?;
        let outcome = read(conn);
        run("COMMIT").map_err(|e| self.failed("ending to read", e))?;
        outcome
    }

    pub(crate) fn lend(&self) -> Result<Lent, Error> {
        let mut state = self.pool.state.lock();
        while state.paused || (state.idle.is_empty() && state.in_use >= CONNECTIONS_MAX) {
            self.pool.changed.wait(&mut state);
        }
        state.in_use += 1;
        let idle = state.idle.pop();
        drop(state);
        let mut lent = Lent { connection: idle, pool: Arc::clone(&self.pool) };
        if lent.connection.is_none() {
            let shared = &self.pool.shared;
            lent.connection = Some(connection::open(shared.folder.database(), shared.vfs.as_deref(), Role::Reader)?);
        }
        Ok(lent)
    }

    /// Waits until nobody reads, closes all connections and lends none until [`Readers::resume`].
    pub(crate) fn pause(&self) {
        let mut state = self.pool.state.lock();
        state.paused = true;
        while state.in_use > 0 {
            self.pool.changed.wait(&mut state);
        }
        state.idle.clear();
    }

    pub(crate) fn resume(&self) {
        self.pool.state.lock().paused = false;
        self.pool.changed.notify_all();
    }

    pub(crate) fn path(&self) -> &Path {
        self.pool.shared.folder.database()
    }

    pub(crate) fn failed(&self, doing: &'static str, e: rusqlite::Error) -> Error {
        Error::sqlite(self.path(), doing, e)
    }

    pub(crate) fn damaged(&self, detail: String) -> Error {
        Error::Damaged { path: self.path().to_path_buf(), detail }
    }
}

const VALUE: &str = "SELECT value FROM rows WHERE position = ?1";
const SEARCH_INDEX: &str = "SELECT position, idx FROM rows WHERE position >= ?1 ORDER BY position LIMIT 1";
const SEARCH_REVISION: &str = "SELECT position, revision FROM rows WHERE position >= ?1 ORDER BY position LIMIT 1";

impl Deref for Lent {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        // Filled by `lend` before anyone sees it, emptied by `drop` alone.
        self.connection.as_ref().unwrap_or_else(|| unreachable!("a lent connection is there until dropped"))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        state.in_use -= 1;
        // One that is still inside a transaction would hold up checkpoints and show old content.
        if let Some(connection) = self.connection.take()
            && state.idle.len() < IDLE_MAX
            && connection.is_autocommit()
        {
            state.idle.push(connection);
        }
        drop(state);
        self.pool.changed.notify_all();
    }
}
