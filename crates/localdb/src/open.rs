//! Opening a data folder: lock, schema, identity.

use crate::checkpoint::{Checkpointer, make_room};
use crate::connection::{self, Role, report_wal_frames};
use crate::folder::Folder;
use crate::progress::{LogEnd, Progress, TermRun, Uploaded};
use crate::readers::Readers;
use crate::schema::{self, Found};
use crate::{Error, Writer};
use netsy_api::ids::{ChunkSeq, Incarnation, LogIndex, Position, Revision, Term};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;
use std::sync::Arc;

/// A node's local database; see [`LocalDb::open`].
pub struct LocalDb;

/// How to open.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The cluster this node belongs to: a database of another is refused (R11).
    pub cluster_id: String,
    /// SQLite file layer by its registered name; none: the system's.
    pub vfs: Option<String>,
}

impl OpenOptions {
    /// The system's files, for this cluster.
    pub fn new(cluster_id: impl Into<String>) -> Self {
        Self { cluster_id: cluster_id.into(), vfs: None }
    }
}

/// Who this database says the node is (R11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: String,
    /// Random, made with the database.
    pub incarnation: Incarnation,
    /// Starts of this database that were counted before: this one is not among them until [`Writer::count_start`].
    pub boot_counter: u64,
    /// The highest term promised (R2).
    pub promised_term: Term,
    /// Whether this call made the database.
    pub created: bool,
}

/// What every part of an open database shares.
pub(crate) struct Shared {
    pub folder: Folder,
    pub vfs: Option<String>,
}

impl LocalDb {
    /// Locks the folder (made if it is not there) and opens or makes the database in it. Its boot counter is as the
    /// start before left it, so that it can be compared with what the node is registered with (R11): an existing
    /// database is not changed. One that a crash left in the middle of a restore is the one from before it.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::OtherCluster`], [`Error::Foreign`], [`Error::NewerSchema`],
    /// [`Error::DiskFull`], and what SQLite or the file system report.
    pub fn open(folder: &Path, options: &OpenOptions) -> Result<(Writer, Readers, Identity), Error> {
        let folder = Folder::lock(folder)?;
        // A restore that did not come to its end counts for nothing.
        folder.remove(&folder.restoring())?;
        let shared = Arc::new(Shared { folder, vfs: options.vfs.clone() });
        let path = shared.folder.database();
        let mut conn = connection::open_untouched(path, shared.vfs.as_deref(), Role::Writer)?;
        let found = schema::inspect(&conn, path)?;
        connection::settle(&conn, path, Role::Writer)?;
        let identity = match found {
            Found::Empty => create(&mut conn, path, &options.cluster_id)?,
            Found::Ours => existing(&conn, path, &options.cluster_id)?,
        };
        shared.folder.sync()?;
        make_room(path)?;
        let state = load_state(&conn, path)?;
        let checkpointer = Checkpointer::start(path, shared.vfs.as_deref())?;
        report_wal_frames(&conn, &checkpointer.state().frames);
        let readers = Readers::new(Arc::clone(&shared));
        let writer = Writer::new(shared, readers.clone(), conn, checkpointer, state);
        Ok((writer, readers, identity))
    }

    /// Moves the database in `folder`, which must not be open, to the folder `aside`, which is made: the next
    /// [`open`](Self::open) makes a new one. For a database that may not be used any more (a restored backup, R11) but
    /// that nobody should lose either.
    ///
    /// # Errors
    /// [`Error::InUse`] and what the file system reports; a crash in the middle leaves a database that opens, or none.
    pub fn set_aside(folder: &Path, aside: &Path) -> Result<(), Error> {
        let folder = Folder::lock(folder)?;
        std::fs::create_dir_all(aside).map_err(|e| Error::io(aside, "making the folder", e))?;
        folder.move_database(aside)
    }
}

fn create(conn: &mut Connection, path: &Path, cluster_id: &str) -> Result<Identity, Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(Error::Random)?;
    let identity = Identity {
        cluster_id: cluster_id.to_string(),
        incarnation: Incarnation(u128::from_be_bytes(random)),
        boot_counter: 0,
        promised_term: Term(0),
        created: true,
    };
    let failed = |e| Error::sqlite(path, "making", e);
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
    schema::create(&tx, path)?;
    insert_identity(&tx, &identity).map_err(failed)?;
    tx.commit().map_err(failed)?;
    Ok(identity)
}

pub(crate) fn insert_identity(conn: &Connection, identity: &Identity) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT INTO identity (one, cluster_id, incarnation, boot_counter, promised_term) VALUES (1, ?1, ?2, ?3, ?4)",
        params![
            identity.cluster_id,
            identity.incarnation.to_string(),
            identity.boot_counter as i64,
            identity.promised_term.0 as i64
        ],
    )?;
    Ok(())
}

pub(crate) fn load_identity(conn: &Connection, path: &Path) -> Result<Identity, Error> {
    let damaged = |detail: String| Error::Damaged { path: path.to_path_buf(), detail };
    let (cluster_id, incarnation, boot, promised) = conn
        .query_row("SELECT cluster_id, incarnation, boot_counter, promised_term FROM identity", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
        })
        .optional()
        .map_err(|e| Error::sqlite(path, "reading the identity in", e))?
        .ok_or_else(|| damaged("table identity is empty".to_string()))?;
    Ok(Identity {
        cluster_id,
        incarnation: incarnation.parse().map_err(|e| damaged(format!("identity: {e}")))?,
        boot_counter: boot as u64,
        promised_term: Term(promised as u64),
        created: false,
    })
}

/// An existing database: checks whose it is.
fn existing(conn: &Connection, path: &Path, cluster_id: &str) -> Result<Identity, Error> {
    let identity = load_identity(conn, path)?;
    if identity.cluster_id != cluster_id {
        return Err(Error::OtherCluster {
            path: path.to_path_buf(),
            found: identity.cluster_id,
            wanted: cluster_id.to_string(),
        });
    }
    Ok(identity)
}

impl Writer {
    /// Counts this start durably; gives the number of starts, this one included. To be called once, after the stored
    /// counter was compared with the registration: a restored backup keeps being one until it is set aside (R11).
    ///
    /// # Errors
    /// What SQLite reports; [`Error::Stopped`] after an earlier error of the disk.
    pub fn count_start(&mut self) -> Result<u64, Error> {
        self.check_stopped()?;
        let count = |conn: &Connection| {
            conn.query_row("UPDATE identity SET boot_counter = boot_counter + 1 RETURNING boot_counter", [], |row| {
                row.get::<_, i64>(0)
            })
        };
        let counted = count(&self.conn);
        counted
            .map(|counter| counter as u64)
            .map_err(|e| Error::sqlite(self.shared.folder.database(), "raising the boot counter in", e))
    }
}

/// What the writer keeps in memory.
pub(crate) struct State {
    pub end: LogEnd,
    pub progress: Progress,
    pub runs: Vec<TermRun>,
    pub promised: Term,
}

pub(crate) fn load_state(conn: &Connection, path: &Path) -> Result<State, Error> {
    let failed = |e| Error::sqlite(path, "reading the progress in", e);
    let (progress, recorded) = conn
        .query_row(
            "SELECT visible_index, uploaded_seq, uploaded_term, uploaded_index, partial_through, \
             end_index, end_term, end_position, end_revision FROM progress",
            [],
            |row| {
                let number = |column| row.get::<_, i64>(column).map(|n| n as u64);
                let progress = Progress {
                    visible_index: LogIndex(number(0)?),
                    uploaded: Uploaded {
                        seq: ChunkSeq(number(1)?),
                        term: Term(number(2)?),
                        index: LogIndex(number(3)?),
                    },
                    partial_through: LogIndex(number(4)?),
                };
                Ok((progress, read_end(row, 5)?))
            },
        )
        .map_err(failed)?;
    let last = conn
        .query_row("SELECT idx, term, position, revision FROM rows ORDER BY position DESC LIMIT 1", [], |row| {
            read_end(row, 0)
        })
        .optional()
        .map_err(failed)?;
    // The recorded end counts only where the rows at the end are gone.
    let end = last.filter(|last| last.position >= recorded.position).unwrap_or(recorded);
    let runs = conn
        .prepare("SELECT term, first_index FROM term_runs ORDER BY term")
        .and_then(|mut select| {
            select
                .query_map([], |row| {
                    let (term, first) = (row.get::<_, i64>(0)?, row.get::<_, i64>(1)?);
                    Ok(TermRun { term: Term(term as u64), first_index: LogIndex(first as u64) })
                })?
                .collect::<rusqlite::Result<Vec<_>>>()
        })
        .map_err(failed)?;
    let promised = load_identity(conn, path)?.promised_term;
    Ok(State { end, progress, runs, promised })
}

/// Columns index, term, position, revision from `first` on.
fn read_end(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<LogEnd> {
    Ok(LogEnd {
        index: LogIndex(row.get::<_, i64>(first)? as u64),
        term: Term(row.get::<_, i64>(first + 1)? as u64),
        position: Position(row.get::<_, i64>(first + 2)? as u64),
        revision: Revision(row.get::<_, i64>(first + 3)?),
    })
}
