//! Opening SQLite connections with the settings that durability and speed hang on.

use crate::Error;
use rusqlite::{Connection, OpenFlags, ffi};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// SQLite's page size here.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The one that writes.
    Writer,
    /// The one that moves pages from the write-ahead log into the database.
    Checkpointer,
    /// One of those that read.
    Reader,
    /// Builds a new database that nobody reads yet and that is synced as a whole.
    Builder,
}

/// Opens the database, makes the settings and reads them back.
pub(crate) fn open(path: &Path, vfs: Option<&str>, role: Role) -> Result<Connection, Error> {
    let conn = open_untouched(path, vfs, role)?;
    settle(&conn, path, role)?;
    Ok(conn)
}

/// Opens the database without changing anything in it, to see what it is.
pub(crate) fn open_untouched(path: &Path, vfs: Option<&str>, role: Role) -> Result<Connection, Error> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if matches!(role, Role::Writer | Role::Builder) {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let failed = |e| Error::sqlite(path, "opening", e);
    let conn = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
        None => Connection::open_with_flags(path, flags),
    }
    .map_err(failed)?;
    // Only an operator's tool can stand in the way, for the moment of a checkpoint or a vacuum.
    conn.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(conn)
}

/// Makes the settings of a role and reads them back.
pub(crate) fn settle(conn: &Connection, path: &Path, role: Role) -> Result<(), Error> {
    match role {
        Role::Builder => {
            set(conn, path, "page_size", &PAGE_BYTES.to_string(), None)?;
            set(conn, path, "auto_vacuum", "INCREMENTAL", Some("2"))?;
            set(conn, path, "locking_mode", "EXCLUSIVE", None)?;
            set(conn, path, "journal_mode", "OFF", Some("off"))?;
            set(conn, path, "synchronous", "OFF", Some("0"))?;
            set(conn, path, "cache_size", "-65536", None)?;
        }
        Role::Writer => {
            set(conn, path, "page_size", &PAGE_BYTES.to_string(), None)?;
            set(conn, path, "auto_vacuum", "INCREMENTAL", Some("2"))?;
            set(conn, path, "journal_mode", "WAL", Some("wal"))?;
            // One sync of the write-ahead log for each commit.
            set(conn, path, "synchronous", "FULL", Some("2"))?;
            // Checkpoints are the checkpointer's.
            set(conn, path, "wal_autocheckpoint", "0", Some("0"))?;
            set(conn, path, "cache_size", "-16384", None)?;
            keep_wal(conn, path)?;
        }
        Role::Checkpointer | Role::Reader => {
            set(conn, path, "synchronous", "FULL", Some("2"))?;
            set(conn, path, "wal_autocheckpoint", "0", Some("0"))?;
            set(conn, path, "cache_size", if role == Role::Reader { "-2048" } else { "-256" }, None)?;
            if role == Role::Reader {
                set(conn, path, "query_only", "ON", Some("1"))?;
            }
            keep_wal(conn, path)?;
        }
    }
    Ok(())
}

fn set(
    conn: &Connection,
    path: &Path,
    pragma: &'static str,
    value: &str,
    wanted: Option<&'static str>,
) -> Result<(), Error> {
    let failed = |e| Error::sqlite(path, "changing a setting of", e);
    conn.pragma_update(None, pragma, value).map_err(failed)?;
    let Some(wanted) = wanted else { return Ok(()) };
    let found: rusqlite::types::Value = conn.pragma_query_value(None, pragma, |row| row.get(0)).map_err(failed)?;
    let found = match found {
        rusqlite::types::Value::Integer(n) => n.to_string(),
        rusqlite::types::Value::Text(text) => text,
        other => format!("{other:?}"),
    };
    if found.eq_ignore_ascii_case(wanted) {
        Ok(())
    } else {
        Err(Error::Setting { path: path.to_path_buf(), pragma, found, wanted })
    }
}

/// Keeps the write-ahead log's file when the last connection closes: its blocks are already written once.
fn keep_wal(conn: &Connection, path: &Path) -> Result<(), Error> {
    let mut on: std::ffi::c_int = 1;
    // SAFETY: the handle is open for as long as `conn` is borrowed; "main" is a C string; for this operation
    // SQLite reads and writes one int, which outlives the call.
    let code = unsafe {
        ffi::sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_PERSIST_WAL,
            std::ptr::from_mut(&mut on).cast(),
        )
    };
    if code == ffi::SQLITE_OK {
        return Ok(());
    }
    Err(Error::sqlite(path, "changing a setting of", rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)))
}

/// Has SQLite store the number of frames in the write-ahead log into `frames` after each commit.
///
/// `frames` must live as long as the connection: pass what an `Arc` beside it points to.
pub(crate) fn report_wal_frames(conn: &Connection, frames: &AtomicU32) {
    unsafe extern "C" fn hook(
        frames: *mut std::ffi::c_void,
        _conn: *mut ffi::sqlite3,
        _name: *const std::ffi::c_char,
        count: std::ffi::c_int,
    ) -> std::ffi::c_int {
        // SAFETY: set below from a reference that outlives the connection.
        let frames = unsafe { &*frames.cast::<AtomicU32>() };
        frames.store(count.max(0) as u32, Ordering::Release);
        ffi::SQLITE_OK
    }
    // SAFETY: the handle is open; the pointer stays valid as this function's contract says.
    unsafe {
        ffi::sqlite3_wal_hook(conn.handle(), Some(hook), std::ptr::from_ref(frames).cast_mut().cast());
    }
}

/// The frames that a checkpoint found in the write-ahead log, and how many of them are in the database now.
pub(crate) struct Checkpointed {
    pub frames: u32,
    pub done: u32,
}

/// Moves what can be moved without waiting for anyone.
pub(crate) fn checkpoint_passive(conn: &Connection) -> rusqlite::Result<Checkpointed> {
    let (mut frames, mut done) = (0, 0);
    // SAFETY: the handle is open; "main" is a C string; both ints outlive the call.
    let code = unsafe {
        ffi::sqlite3_wal_checkpoint_v2(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_CHECKPOINT_PASSIVE,
            &mut frames,
            &mut done,
        )
    };
    if code != ffi::SQLITE_OK && code != ffi::SQLITE_BUSY {
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
    }
    Ok(Checkpointed { frames: frames.max(0) as u32, done: done.max(0) as u32 })
}

/// The operating system's error number behind the connection's last failure.
pub(crate) fn system_errno(conn: &Connection) -> i32 {
    // SAFETY: the handle is open for as long as `conn` is borrowed.
    unsafe { ffi::sqlite3_system_errno(conn.handle()) }
}

/// Makes what checkpoints have moved into the database durable. SQLite does so itself only at the end of one that
/// moved everything, which is when the writer has to wait.
pub(crate) fn sync_database(conn: &Connection) -> rusqlite::Result<()> {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    // SAFETY: the handle is open; for this operation SQLite stores one pointer, to a file that stays open as long as
    // the connection, which nobody else uses during the call.
    let code = unsafe {
        let code = ffi::sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            std::ptr::from_mut(&mut file).cast(),
        );
        match (code, file.as_ref().and_then(|open| open.pMethods.as_ref()).and_then(|methods| methods.xSync)) {
            (ffi::SQLITE_OK, Some(sync)) => sync(file, ffi::SQLITE_SYNC_NORMAL),
            (ffi::SQLITE_OK, None) => ffi::SQLITE_NOTFOUND,
            (code, _) => code,
        }
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)) }
}
