//! Moves pages from the write-ahead log into the database, off the commit path.
//!
//! A thread with its own connection checkpoints, and syncs the database, each time the log has [`STEP_FRAMES`]
//! more. What the writer adds meanwhile keeps the log from ever being empty, and only an empty log is begun anew
//! from its start; so when the log has [`TURN_FRAMES`], the thread repeats this until little is left, and holds
//! the writer's gate for that. The file stays as long as it is: overwriting blocks that exist is cheap to sync.

use crate::connection::{PAGE_BYTES, Role, checkpoint_passive, open, sync_database};
use crate::folder::Folder;
use crate::{Error, files};
use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

/// Tests that lose power are to meet checkpoints and new beginnings of the log often.
const OFTEN: bool = cfg!(feature = "crashfs");

/// Frames added to the log that call for a checkpoint beside the writer.
pub(crate) const STEP_FRAMES: u32 = if OFTEN { 60 } else { 3_000 };
/// Frames from which on the log is to begin anew.
pub(crate) const TURN_FRAMES: u32 = if OFTEN { 150 } else { 6_000 };
/// Frames that may be left for the moment in which the writer has to wait ...
const LEFT_FRAMES_MAX: u32 = if OFTEN { 10 } else { 200 };
/// ... unless it adds them faster than that many checkpoints take them away.
const PASSES_MAX: u32 = 4;
/// Frames the file has room for from the beginning.
const ROOM_FRAMES: u64 = if OFTEN { 200 } else { 7_500 };
/// Header of a frame and of the file.
const FRAME_HEADER_BYTES: u64 = 24;
const WAL_HEADER_BYTES: u64 = 32;
/// SQLite's index of the log grows by pieces of so many bytes, each for so many frames at least.
const INDEX_BYTES: u64 = 32 << 10;
const INDEX_FRAMES: u64 = 4_062;

/// What writer and checkpointer share.
pub(crate) struct WalState {
    /// Frames in the log after the last commit.
    pub frames: AtomicU32,
    /// Held by the writer from the beginning of a transaction to its end.
    pub gate: Mutex<()>,
    connection: Mutex<Option<Connection>>,
    wish: Mutex<Wish>,
    wished: Condvar,
}

#[derive(Default)]
struct Wish {
    checkpoint: bool,
    stop: bool,
}

/// The thread, and what it shares with the writer.
pub(crate) struct Checkpointer {
    state: Arc<WalState>,
    thread: Option<JoinHandle<()>>,
    /// Frames at which the thread is woken next.
    next: u32,
}

impl Checkpointer {
    pub(crate) fn start(database: &Path, vfs: Option<&str>) -> Result<Self, Error> {
        let state = Arc::new(WalState {
            frames: AtomicU32::new(0),
            gate: Mutex::new(()),
            connection: Mutex::new(Some(open(database, vfs, Role::Checkpointer)?)),
            wish: Mutex::new(Wish::default()),
            wished: Condvar::new(),
        });
        let (shared, path) = (Arc::clone(&state), database.to_path_buf());
        let thread = std::thread::Builder::new()
            .name("db-checkpoint".to_string())
            .spawn(move || run(&shared, &path))
            .map_err(|e| Error::io(database, "starting the checkpoint thread for", e))?;
        Ok(Self { state, thread: Some(thread), next: STEP_FRAMES })
    }

    pub(crate) fn state(&self) -> &Arc<WalState> {
        &self.state
    }

    /// To be called after each commit.
    pub(crate) fn committed(&mut self) {
        let frames = self.state.frames.load(Ordering::Acquire);
        if frames + STEP_FRAMES <= self.next {
            // The log has begun anew.
            self.next = STEP_FRAMES;
        }
        if frames >= self.next {
            self.next = frames + STEP_FRAMES;
            self.state.wish.lock().checkpoint = true;
            self.state.wished.notify_one();
        }
    }

    /// Closes the connection, waiting for a checkpoint under way.
    pub(crate) fn close_connection(&self) {
        *self.state.connection.lock() = None;
    }

    /// Opens it again.
    pub(crate) fn open_connection(&mut self, database: &Path, vfs: Option<&str>) -> Result<(), Error> {
        *self.state.connection.lock() = Some(open(database, vfs, Role::Checkpointer)?);
        self.next = STEP_FRAMES;
        Ok(())
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.state.wish.lock().stop = true;
        self.state.wished.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the checkpoint thread ended with a panic");
        }
    }
}

fn run(state: &WalState, database: &Path) {
    loop {
        {
            let mut wish = state.wish.lock();
            while !wish.checkpoint && !wish.stop {
                state.wished.wait(&mut wish);
            }
            if wish.stop {
                return;
            }
            wish.checkpoint = false;
        }
        if let Some(connection) = state.connection.lock().as_ref()
            && let Err(e) = step(state, connection)
        {
            // The log only grows meanwhile; a disk that is full or broken shows in commits, too.
            tracing::warn!(database = %database.display(), error = %e, "checkpoint failed, trying again later");
        }
    }
}

fn step(state: &WalState, connection: &Connection) -> rusqlite::Result<()> {
    for _ in 0..PASSES_MAX {
        let moved = checkpoint_passive(connection)?;
        sync_database(connection)?;
        if moved.frames < TURN_FRAMES {
            return Ok(());
        }
        if state.frames.load(Ordering::Acquire).saturating_sub(moved.done) <= LEFT_FRAMES_MAX {
            break;
        }
    }
    let _writer_waits = state.gate.lock();
    checkpoint_passive(connection)?;
    Ok(())
}

/// Gives the write-ahead log's file its full size, so that commits overwrite blocks instead of adding some; and its index
/// in shared memory room for all of that file, so that a disk that becomes full is met by the log, where SQLite says
/// so and can go on later, and never by the index, where it is an error of the disk. To be called while nobody writes.
pub(crate) fn make_room(database: &Path) -> Result<(), Error> {
    let wal = Folder::beside(database, "-wal");
    let frame_bytes = PAGE_BYTES + FRAME_HEADER_BYTES;
    let room =
        |file: &Path, bytes| files::extend_with_zeros(file, bytes).map_err(|e| Error::io(file, "making room in", e));
    room(&wal, WAL_HEADER_BYTES + ROOM_FRAMES * frame_bytes)?;
    if OFTEN {
        return Ok(()); // A file layer that forgets knows nothing of shared memory.
    }
    let wal_bytes = std::fs::metadata(&wal).map_err(|e| Error::io(&wal, "looking at", e))?.len();
    room(&Folder::beside(database, "-shm"), (wal_bytes / frame_bytes / INDEX_FRAMES + 1) * INDEX_BYTES)
}
