//! The folder a file bucket lives in: checks, locks and temporary files.
//!
//! ```text
//! <storage.path>/
//!   <key prefix>/<key>          objects, exactly their bytes
//!   .netsy/locks/00 .. 3f       made when needed, flock'ed for swaps and deletes, by hash of the key
//!   .netsy/tmp/<random>/.lock   flock'ed while the process that made it lives
//!   .netsy/tmp/<random>/<n>     objects being written
//! ```

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::super::fs_ops::FsOps;
use super::host;
use crate::bucket::{Result, StoreError, key_fault};

const LOCKS: u64 = 64;
/// Pauses between tries for a lock that another process or task holds.
const LOCK_PAUSE_MIN: Duration = Duration::from_micros(100);
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(10);
/// Coarsest time stamps that can hold a version, in nanoseconds.
const TIME_GRAIN_MAX: i64 = 1_000;

pub(crate) struct Root {
    pub fs: Arc<dyn FsOps>,
    /// Where keys start: `storage.path` and the key prefix.
    objects: PathBuf,
    locks: PathBuf,
    temporary: PathBuf,
    /// Held for as long as this process uses `temporary`.
    _alive: File,
    next_temporary: AtomicU64,
    /// Nanoseconds that the file system's time stamps come in.
    grain: i64,
    /// State of a small generator that spreads the versions of objects made in the same millisecond.
    spread: AtomicU64,
    /// Folders below `objects` known to be durable, with their inodes: one that another
    /// process removed and made anew has another.
    known_dirs: Mutex<HashMap<PathBuf, u64>>,
}

impl Root {
    /// Makes the folder if need be, and refuses one that cannot keep the provider's promises.
    pub fn open(path: &Path, key_prefix: &str, fs: Arc<dyn FsOps>) -> Result<Root> {
        let fail = |what: &str, e: io::Error| {
            StoreError::refused(
                "open",
                path.display().to_string(),
                format_args!("storage.path {}: {what}: {e}", path.display()),
            )
        };
        let refuse = |why: String| StoreError::refused("open", path.display().to_string(), why);

        if path.as_os_str().is_empty() {
            return Err(refuse("storage.path is empty: set the folder the cluster keeps its data in".into()));
        }
        if !key_prefix.is_empty()
            && let Some(fault) = key_fault(key_prefix)
        {
            return Err(refuse(format!("storage.key_prefix {key_prefix:?}: {fault}")));
        }
        let path = std::path::absolute(path).map_err(|e| fail("cannot be made absolute", e))?;
        make_dirs(&*fs, &path).map_err(|e| fail("cannot be made", e))?;
        if let Some(kind) = host::network_file_system(&path).map_err(|e| fail("cannot be examined", e))? {
            return Err(refuse(format!(
                "storage.path {} is on a network file system ({kind}), whose locks and syncs cannot be relied on: \
                 use a folder on a local disk, or storage.provider \"s3\" or \"gcs\" for nodes on several machines",
                path.display()
            )));
        }

        let own = path.join(".netsy");
        let (locks, all_temporary) = (own.join("locks"), own.join("tmp"));
        for dir in [&locks, &all_temporary] {
            std::fs::create_dir_all(dir).map_err(|e| fail("cannot hold files", e))?;
        }
        check_locking(&lock_path(&locks, 0))
            .map_err(|why| refuse(format!("storage.path {}: {why}", path.display())))?;
        let (temporary, alive) = claim_temporary(&all_temporary).map_err(|e| fail("cannot hold temporary files", e))?;
        let grain = time_grain(&*fs, &temporary.join("grain")).map_err(|e| fail("cannot be written", e))?;
        if grain > TIME_GRAIN_MAX {
            return Err(refuse(format!(
                "storage.path {}: its file system keeps the times of files to {grain} ns, too coarse to tell versions of an \
                 object apart: use ext4, xfs, btrfs or another that keeps nanoseconds",
                path.display()
            )));
        }
        remove_stale_temporary(&all_temporary);

        let mut seed = [0u8; 8];
        getrandom::fill(&mut seed).map_err(|e| refuse(format!("no random numbers: {e}")))?;
        let objects = if key_prefix.is_empty() { path.clone() } else { path.join(key_prefix) };
        let root = Root {
            fs,
            objects: objects.clone(),
            locks,
            temporary,
            _alive: alive,
            next_temporary: AtomicU64::new(0),
            grain,
            spread: AtomicU64::new(u64::from_le_bytes(seed)),
            known_dirs: Mutex::default(),
        };
        make_dirs(&*root.fs, &objects).map_err(|e| fail("cannot be made", e))?;
        Ok(root)
    }

    pub fn objects(&self) -> &Path {
        &self.objects
    }

    /// `key` was checked: it cannot name anything outside the root.
    pub fn path_of(&self, key: &str) -> PathBuf {
        self.objects.join(key)
    }

    pub fn new_temporary(&self) -> PathBuf {
        self.temporary.join(self.next_temporary.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A modification time that no version of this object had before: past its
    /// predecessor's, whatever the clock says, and with random low bits, so that one made after a
    /// deletion differs from the deleted one even if the clock went back.
    pub fn next_modified(&self, before: Option<i64>) -> i64 {
        const SPREAD_NS: u64 = 1 << 20; // about a millisecond
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
        let n = self.spread.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (n ^ (n >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32;
        let fresh = (now & !(SPREAD_NS as i64 - 1)) | (mixed % SPREAD_NS) as i64;
        let next = before.map_or(fresh, |b| fresh.max(b.saturating_add(self.grain)));
        next - next.rem_euclid(self.grain)
    }

    /// Serialises swaps and deletes of an object between tasks and processes.
    pub fn lock(&self, key: &str, patience: Duration) -> io::Result<File> {
        // FNV-1a: the same in every build of netsy that shares the folder.
        let hash = self
            .path_of(key)
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
        let file = open_lock(&lock_path(&self.locks, hash % LOCKS))?;
        let give_up = Instant::now() + patience;
        let mut pause = LOCK_PAUSE_MIN;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(e),
                Err(TryLockError::WouldBlock) if Instant::now() >= give_up => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("another process has held its lock for {patience:?}"),
                    ));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(LOCK_PAUSE_MAX);
        }
    }

    /// Makes the folder of an object, durably.
    pub fn ensure_dir_of(&self, object: &Path) -> io::Result<()> {
        let Some(dir) = object.parent() else { return Ok(()) };
        if dir == self.objects || self.known_dirs.lock().contains_key(dir) {
            return Ok(());
        }
        self.make_dir_anew(dir)
    }

    /// Forgets what was known of the folder and makes it again.
    pub fn make_dir_anew(&self, dir: &Path) -> io::Result<()> {
        self.known_dirs.lock().remove(dir);
        make_dirs(&*self.fs, dir)?;
        self.check_dirs(dir)?;
        let inode = self.fs.sync_dir(dir)?;
        self.known_dirs.lock().insert(dir.to_path_buf(), inode);
        Ok(())
    }

    /// The folders of an object must be folders: a link could lead outside.
    pub fn check_dirs_of(&self, object: &Path) -> io::Result<()> {
        match object.parent() {
            Some(dir) if dir != self.objects && !self.known_dirs.lock().contains_key(dir) => self.check_dirs(dir),
            _ => Ok(()),
        }
    }

    fn check_dirs(&self, dir: &Path) -> io::Result<()> {
        for above in dir.ancestors().take_while(|a| *a != self.objects && a.starts_with(&self.objects)) {
            let stat = self.fs.stat(above)?;
            if stat.is_file {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            if !stat.is_dir {
                let why = format!("{} is a link, which could lead out of storage.path", above.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
        }
        Ok(())
    }

    /// Makes the name of an object durable, and the folders above it if they are not the
    /// ones this process made durable itself.
    pub fn sync_name(&self, object: &Path) -> io::Result<()> {
        let Some(dir) = object.parent() else { return Ok(()) };
        let inode = self.fs.sync_dir(dir)?;
        if dir == self.objects || self.known_dirs.lock().get(dir) == Some(&inode) {
            return Ok(());
        }
        for above in dir.ancestors().skip(1).take_while(|a| a.starts_with(&self.objects)) {
            self.fs.sync_dir(above)?;
        }
        let mut known = self.known_dirs.lock();
        // A snapshot has a folder of its own: do not remember all there ever were.
        if known.len() >= KNOWN_DIRS_MAX {
            known.clear();
        }
        known.insert(dir.to_path_buf(), inode);
        Ok(())
    }

    /// Removes folders that a deletion left empty.
    pub fn remove_empty_dirs(&self, object: &Path) {
        for dir in object.ancestors().skip(1).take_while(|a| *a != self.objects && a.starts_with(&self.objects)) {
            if self.fs.remove_dir(dir).is_err() {
                return; // not empty, or made use of by somebody
            }
            self.known_dirs.lock().remove(dir);
        }
    }
}

const KNOWN_DIRS_MAX: usize = 1_024;

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").field("objects", &self.objects).finish_non_exhaustive()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Whatever uploads were not finished go with it; after a crash the next `open` does this.
        if let Err(e) = std::fs::remove_dir_all(&self.temporary) {
            tracing::debug!(path = %self.temporary.display(), error = %e, "temporary files not removed");
        }
    }
}

/// As `create_dir_all`, but what it made is durable.
fn make_dirs(fs: &dyn FsOps, dir: &Path) -> io::Result<()> {
    let mut made = Vec::new();
    for above in dir.ancestors() {
        match fs.create_dir(above) {
            Ok(()) => {
                made.push(above);
                break;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => break,
            Err(e) if e.kind() == io::ErrorKind::NotFound => made.push(above),
            // Not ours to make (the root of the file system, a read-only parent): it exists.
            Err(_) if above.is_dir() => break,
            Err(e) => return Err(e),
        }
    }
    // The deepest that could be made was made last; the others from there down.
    for dir in made.iter().rev() {
        match fs.create_dir(dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        if let Some(parent) = dir.parent() {
            fs.sync_dir(parent)?;
        }
    }
    Ok(())
}

fn lock_path(locks: &Path, n: u64) -> PathBuf {
    locks.join(format!("{n:02x}"))
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Two openings of one file must not both get its lock. Busy counts as working: then it
/// is another process that shows it.
fn check_locking(path: &Path) -> Result<(), String> {
    let open = || open_lock(path).map_err(|e| format!("cannot hold a lock file: {e}"));
    let (first, second) = (open()?, open()?);
    match first.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(e)) => {
            return Err(format!("its file system cannot lock files ({e}): use a local disk with flock support"));
        }
    }
    match second.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(e)) => {
            Err(format!("its file system cannot lock files ({e}): use a local disk with flock support"))
        }
        Ok(()) => Err("its file system lets two hold one exclusive lock: use a local disk with flock support".into()),
    }
}

fn claim_temporary(all: &Path) -> io::Result<(PathBuf, File)> {
    loop {
        let mut raw = [0u8; 8];
        getrandom::fill(&mut raw).map_err(|e| io::Error::other(format!("no random numbers: {e}")))?;
        let dir = all.join(format!("{:016x}", u64::from_le_bytes(raw)));
        std::fs::create_dir(&dir)?;
        // Somebody who cleans up may remove it before the lock is held: then again.
        let Ok(alive) = open_lock(&dir.join(".lock")) else { continue };
        if alive.try_lock().is_ok() && dir.join(".lock").exists() {
            return Ok((dir, alive));
        }
    }
}

/// Removes what processes that are gone left behind.
fn remove_stale_temporary(all: &Path) {
    let Ok(entries) = std::fs::read_dir(all) else { return };
    for dir in entries.flatten().map(|e| e.path()) {
        let stale = match File::open(dir.join(".lock")) {
            Ok(lock) => lock.try_lock().is_ok(),
            // Just made, by a process that will take its lock in a moment; or left by
            // one that died in that moment: nothing is in it then, and it stays.
            Err(_) => false,
        };
        if stale && let Err(e) = std::fs::remove_dir_all(&dir) {
            tracing::warn!(path = %dir.display(), error = %e, "cannot remove stale temporary files");
        }
    }
}

/// The unit, in nanoseconds, of the file system's time stamps.
fn time_grain(fs: &dyn FsOps, scratch: &Path) -> io::Result<i64> {
    let mut file = fs.create_new(scratch)?;
    // 999,999,999 ns past a whole and even second: what is kept shows the unit.
    let asked = 1_700_000_000 * 1_000_000_000 + 999_999_999;
    file.set_modified(asked)?;
    let kept = file.stat()?.modified_ns;
    fs.remove(scratch)?;
    Ok((asked - kept).saturating_add(1).max(1))
}
