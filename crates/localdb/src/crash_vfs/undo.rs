//! The undo records on disk.
//!
//! In `<root>.undo`:
//! - `file-<inode>`: changes of a file's content since its last sync, oldest first. A record is
//!   `offset u64, old length of the file u64, length of the old bytes u64, old bytes, crc64 of all that`.
//! - `folder-<inode>`: changes of the names in a folder since its last sync, one JSON-free text line each
//!   (paths are hexadecimal, so that any byte may occur in them).
//! - `kept-<n>`: hard links to files that were removed or replaced.
//! - `lock`: held while a folder's record and the change itself are made, and while a folder is synced.

use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// A tracked folder.
pub(super) struct Root {
    pub undo: PathBuf,
    lock: File,
    /// By inode; one per file however often it is open in this process.
    files: Mutex<HashMap<u64, Arc<FileUndo>>>,
}

static ROOTS: LazyLock<RwLock<HashMap<PathBuf, Arc<Root>>>> = LazyLock::new(RwLock::default);
static KEPT: AtomicU64 = AtomicU64::new(0);
/// Operations until the process ends itself; below 0: it does not.
static OPERATIONS_LEFT: AtomicI64 = AtomicI64::new(-1);

/// Lets this process do `operations` more writes, syncs and changes of names below tracked folders and end
/// abruptly before the one after them: so that a test can stop it at each of them in turn.
pub fn abort_after(operations: u32) {
    OPERATIONS_LEFT.store(i64::from(operations), Ordering::SeqCst);
}

fn count_operation() {
    let left = OPERATIONS_LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| (left >= 0).then_some(left - 1));
    if left == Ok(0) {
        std::process::abort();
    }
}

/// Tracks all changes made through this layer below `root` from now on, in this process. The folder is made
/// if it is not there. Several processes may track the same folder.
pub fn enable(root: &Path) -> io::Result<()> {
    fs::create_dir_all(root)?;
    let root = root.canonicalize()?;
    let undo = undo_folder(&root);
    fs::create_dir_all(&undo)?;
    let lock = File::options().create(true).truncate(false).write(true).open(undo.join("lock"))?;
    ROOTS.write().entry(root).or_insert_with(|| Arc::new(Root { undo, lock, files: Mutex::default() }));
    Ok(())
}

/// Where the undo records of a tracked folder are.
pub(super) fn undo_folder(root: &Path) -> PathBuf {
    let mut name = root.as_os_str().to_os_string();
    name.push(".undo");
    PathBuf::from(name)
}

/// The tracked folder that `path` lies in, and the path in its canonical form.
pub(super) fn root_of(path: &Path) -> io::Result<Option<(Arc<Root>, PathBuf)>> {
    let roots = ROOTS.read();
    if roots.is_empty() {
        return Ok(None);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let path = match (path.canonicalize(), path.file_name()) {
        (Ok(path), _) => path,
        (Err(_), Some(name)) => parent.canonicalize()?.join(name),
        (Err(e), None) => return Err(e),
    };
    Ok(path.ancestors().find_map(|folder| roots.get(folder)).map(|root| (Arc::clone(root), path.clone())))
}

/// A change of a name.
pub(super) enum NameChange<'a> {
    /// A file came to be.
    Created(&'a Path),
    /// A folder came to be.
    MadeFolder(&'a Path),
    /// A name is gone; the file is kept under another.
    Removed { path: &'a Path, kept: PathBuf },
    /// A name became another; what that one named is kept.
    Renamed { from: &'a Path, to: &'a Path, kept: Option<PathBuf> },
}

pub(super) fn hex(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Root {
    /// Records a change of names in `folder`, then makes it.
    pub(super) fn change_name<T>(
        &self,
        folder: &Path,
        change: &NameChange<'_>,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let line = match change {
            NameChange::Created(path) => format!("created {}\n", hex(path)),
            NameChange::MadeFolder(path) => format!("folder {}\n", hex(path)),
            NameChange::Removed { path, kept } => format!("removed {} {}\n", hex(path), hex(kept)),
            NameChange::Renamed { from, to, kept } => {
                let kept = kept.as_deref().map_or("-".to_string(), hex);
                format!("renamed {} {} {kept}\n", hex(from), hex(to))
            }
        };
        self.locked(|| {
            count_operation();
            match change {
                NameChange::Removed { path, kept } | NameChange::Renamed { to: path, kept: Some(kept), .. } => {
                    fs::hard_link(path, kept)?;
                }
                _ => {}
            }
            let record = self.folder_record(folder)?;
            let mut file = File::options().create(true).append(true).open(&record)?;
            let before = file.metadata()?.len();
            file.write_all(line.as_bytes())?;
            let outcome = make();
            if outcome.is_err() {
                file.set_len(before)?;
            }
            outcome
        })
    }

    /// A fresh name to keep a file under, if `path` names one.
    pub(super) fn kept_name(&self, path: &Path) -> Option<PathBuf> {
        path.symlink_metadata().ok()?;
        let number = KEPT.fetch_add(1, Ordering::Relaxed);
        Some(self.undo.join(format!("kept-{}-{number}", std::process::id())))
    }

    /// The folder's names are durable from now on.
    pub(super) fn names_synced(&self, folder: &Path) -> io::Result<()> {
        self.locked(|| {
            count_operation();
            self.forget_names(&self.folder_record(folder)?)
        })
    }

    /// Removes an empty folder, and its record with it: its number may be given to another.
    pub(super) fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        self.locked(|| {
            count_operation();
            let record = self.folder_record(folder)?;
            fs::remove_dir(folder)?;
            self.forget_names(&record)
        })
    }

    fn forget_names(&self, record: &Path) -> io::Result<()> {
        let Ok(lines) = fs::read_to_string(record) else { return Ok(()) };
        fs::remove_file(record)?;
        for kept in lines.lines().filter_map(|line| line.rsplit(' ').next()).filter_map(unhex) {
            // The last word of a line is a kept file only where there is one.
            if kept.starts_with(&self.undo) && kept.exists() {
                let meta = kept.metadata()?;
                fs::remove_file(&kept)?;
                if meta.nlink() == 1 {
                    // Nothing names the file any more; its number may be given to another.
                    self.files.lock().remove(&meta.ino());
                    super::files::remove_if_there(&self.undo.join(format!("file-{}", meta.ino())))?;
                }
            }
        }
        Ok(())
    }

    fn folder_record(&self, folder: &Path) -> io::Result<PathBuf> {
        Ok(self.undo.join(format!("folder-{}", folder.metadata()?.ino())))
    }

    /// Between threads and processes.
    fn locked<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _threads = self.files_gate();
        self.lock.lock()?;
        let outcome = work();
        self.lock.unlock()?;
        outcome
    }

    fn files_gate(&self) -> parking_lot::MutexGuard<'static, ()> {
        static GATE: Mutex<()> = Mutex::new(());
        GATE.lock()
    }

    /// The undo record of the file with this inode; `fresh` if the file was made just now.
    pub(super) fn file(&self, inode: u64, fresh: bool) -> io::Result<Arc<FileUndo>> {
        let path = self.undo.join(format!("file-{inode}"));
        let mut files = self.files.lock();
        if fresh {
            files.remove(&inode);
            super::files::remove_if_there(&path)?;
        }
        Ok(Arc::clone(files.entry(inode).or_insert_with(|| Arc::new(FileUndo { path, record: Mutex::new(None) }))))
    }
}

pub(super) fn unhex(text: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let bytes: Option<Vec<u8>> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect();
    bytes.map(|bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// What a file holds now, read by whatever has it open.
pub(super) trait Content {
    /// Its length.
    fn length(&self) -> io::Result<u64>;
    /// Fills `bytes`, all of which lie within the length.
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;
}

impl Content for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(bytes, at)
    }
}

/// The undo record of one file.
pub(super) struct FileUndo {
    path: PathBuf,
    /// Open once something was recorded; locked from before a change is recorded until it is made.
    record: Mutex<Option<File>>,
}

impl FileUndo {
    /// Records what `bytes` bytes at `at` hold (and the file's length), then runs the write.
    pub(super) fn write<T>(
        &self,
        content: &impl Content,
        at: u64,
        bytes: u64,
        write: impl FnOnce() -> T,
    ) -> io::Result<T> {
        let mut record = self.record.lock();
        self.note(&mut record, content, at, bytes)?;
        Ok(write())
    }

    /// The same for a change of length.
    pub(super) fn set_len<T>(&self, content: &impl Content, length: u64, change: impl FnOnce() -> T) -> io::Result<T> {
        let mut record = self.record.lock();
        let cut = content.length()?.saturating_sub(length);
        self.note(&mut record, content, length, cut)?;
        Ok(change())
    }

    /// Runs the sync; if it succeeds there is nothing to undo any more.
    pub(super) fn sync<T>(&self, sync: impl FnOnce() -> T, succeeded: impl FnOnce(&T) -> bool) -> io::Result<T> {
        let mut record = self.record.lock();
        count_operation();
        let outcome = sync();
        if succeeded(&outcome) {
            // Emptied, not removed: another process may be writing to it, too. Closed, as there may be as many
            // of them as there are files.
            match record.take() {
                Some(file) => file.set_len(0)?,
                None if self.path.exists() => File::options().write(true).open(&self.path)?.set_len(0)?,
                None => {}
            }
        }
        Ok(outcome)
    }

    fn note(&self, record: &mut Option<File>, content: &impl Content, at: u64, bytes: u64) -> io::Result<()> {
        count_operation();
        let length = content.length()?;
        let mut old = vec![0; at.saturating_add(bytes).min(length).saturating_sub(at) as usize];
        content.read(&mut old, at)?;
        self.append(record, at, length, &old)
    }

    fn append(&self, record: &mut Option<File>, at: u64, length: u64, old: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(32 + old.len());
        for number in [at, length, old.len() as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(old);
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        let file = match record {
            Some(file) => file,
            None => record.insert(File::options().create(true).append(true).open(&self.path)?),
        };
        file.write_all(&bytes)
    }
}

/// A record that was being written when the process was killed must not be taken for a whole one (FNV-1a,
/// eight bytes at a time).
fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3);
    }
    sum
}

/// What a file held before a change.
pub(super) struct OldBytes {
    pub at: u64,
    pub length: u64,
    pub bytes: Vec<u8>,
}

/// Reads a file's undo record, oldest first; a torn record at the end is of a change that was never made.
pub(super) fn read_record(path: &Path) -> io::Result<Vec<OldBytes>> {
    let all = fs::read(path)?;
    let mut rest = all.as_slice();
    let mut records = Vec::new();
    while rest.len() >= 32 {
        let number = |at: usize| rest.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        let (Some(at), Some(length), Some(count)) = (number(0), number(8), number(16)) else { break };
        let end = 24_usize.saturating_add(count as usize);
        let Some(sum) = end.checked_add(8).filter(|&end| end <= rest.len()).and_then(|_| number(end)) else { break };
        if sum != checksum(&rest[..end]) {
            break;
        }
        records.push(OldBytes { at, length, bytes: rest[24..end].to_vec() });
        rest = &rest[end + 8..];
    }
    Ok(records)
}
