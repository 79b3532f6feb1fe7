//! The file bucket's operations, each on the thread that runs it.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use tokio::sync::Semaphore;

use super::super::fs_ops::{NewFile, ReadFile, Stat};
use super::root::Root;
use super::run_blocking;
use crate::bucket::{
    CreateOutcome, ErrorKind, Listed, Object, Result, StoreError, SwapOutcome, Upload, Version, key_fault,
};

/// Largest piece of a download.
const PIECE_BYTES: u64 = 1024 * 1024;

pub(crate) fn version_of(stat: &Stat) -> Version {
    Version::new(format!("{:x}-{:x}-{:x}", stat.inode, stat.modified_ns, stat.size))
}

/// An error that left everything as it was.
fn untouched(op: &'static str, key: &str, e: &io::Error) -> StoreError {
    use io::ErrorKind as K;
    let kind = match e.kind() {
        K::PermissionDenied | K::ReadOnlyFilesystem | K::NotADirectory | K::IsADirectory | K::CrossesDevices => {
            ErrorKind::Refused
        }
        // A symbolic link where an object should be: it could lead out of the folder.
        _ if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => ErrorKind::Refused,
        _ => ErrorKind::Unavailable,
    };
    StoreError::new(kind, op, key, e)
}

fn absent(e: &io::Error) -> bool {
    // A file where the key has a folder: no such object either.
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Opens an object and makes sure that it will still be there after a power cut.
pub(crate) fn open_durable(root: &Root, op: &'static str, key: &str) -> Result<Option<(Box<dyn ReadFile>, Stat)>> {
    let path = root.path_of(key);
    match root.check_dirs_of(&path) {
        Ok(()) => {}
        Err(e) if absent(&e) => return Ok(None),
        Err(e) => return Err(untouched(op, key, &e)),
    }
    let file = match root.fs.open(&path) {
        Ok(file) => file,
        Err(e) if absent(&e) => return Ok(None),
        Err(e) => return Err(untouched(op, key, &e)),
    };
    let stat = file.stat().map_err(|e| untouched(op, key, &e))?;
    if !stat.is_file {
        return Ok(None); // a folder of keys
    }
    if stat.is_pending {
        make_durable(root, &path).map_err(|e| untouched(op, key, &e))?;
    }
    Ok(Some((file, stat)))
}

/// Syncs an object's name and says so in its mode.
fn make_durable(root: &Root, path: &Path) -> io::Result<()> {
    root.sync_name(path)?;
    // Only spares the next reader a sync.
    if let Err(e) = root.fs.mark_durable(path)
        && !absent(&e)
    {
        tracing::debug!(path = %path.display(), error = %e, "cannot mark an object as durable");
    }
    Ok(())
}

fn read_exactly(file: &dyn ReadFile, offset: u64, len: u64) -> io::Result<Bytes> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let mut buffer = vec![0; len];
    let got = file.read_at(&mut buffer, offset)?;
    if got != len {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the file was cut short: {got} of {len} bytes"),
        ));
    }
    Ok(buffer.into())
}

pub(crate) fn get(root: &Root, key: &str) -> Result<Option<Object>> {
    let Some((file, stat)) = open_durable(root, "get", key)? else { return Ok(None) };
    let bytes = read_exactly(&*file, 0, stat.size).map_err(|e| untouched("get", key, &e))?;
    Ok(Some(Object { bytes, version: version_of(&stat) }))
}

pub(crate) fn get_range(root: &Root, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
    let Some((file, stat)) = open_durable(root, "get", key)? else { return Ok(None) };
    let (start, end) = (range.start.min(stat.size), range.end.min(stat.size));
    let bytes = read_exactly(&*file, start, end.saturating_sub(start)).map_err(|e| untouched("get", key, &e))?;
    Ok(Some(bytes))
}

/// A finished file under a temporary name.
struct Written {
    path: PathBuf,
    version: Version,
}

fn write_temporary(root: &Root, bytes: &[u8], before: Option<i64>) -> io::Result<Written> {
    let path = root.new_temporary();
    let written = (|| {
        let mut file = root.fs.create_new(&path)?;
        file.write_all(bytes)?;
        finish_file(root, &mut *file, before)
    })();
    match written {
        Ok(version) => Ok(Written { path, version }),
        Err(e) => {
            discard(root, &path);
            Err(e)
        }
    }
}

fn finish_file(root: &Root, file: &mut dyn NewFile, before: Option<i64>) -> io::Result<Version> {
    file.set_modified(root.next_modified(before))?;
    file.sync()?;
    Ok(version_of(&file.stat()?))
}

fn discard(root: &Root, temporary: &Path) {
    if let Err(e) = root.fs.remove(temporary)
        && !absent(&e)
    {
        tracing::debug!(path = %temporary.display(), error = %e, "temporary file not removed");
    }
}

pub(crate) fn create(root: &Root, key: &str, bytes: &[u8]) -> Result<CreateOutcome> {
    let path = root.path_of(key);
    let plain = |e: io::Error| untouched("create", key, &e);
    // Spares the write where the answer is known; the move below decides.
    if exists_durably(root, key, &path)? {
        return Ok(CreateOutcome::Exists);
    }
    root.ensure_dir_of(&path).map_err(plain)?;
    let written = write_temporary(root, bytes, None).map_err(plain)?;
    let mut moved = root.fs.publish(&written.path, &path);
    if matches!(&moved, Err(e) if e.kind() == io::ErrorKind::NotFound)
        && let Some(dir) = path.parent()
    {
        // Somebody's deletion left the folder empty and removed it.
        moved = root.make_dir_anew(dir).and_then(|()| root.fs.publish(&written.path, &path));
    }
    match moved {
        Ok(()) => {}
        Err(e) => {
            discard(root, &written.path);
            if e.kind() == io::ErrorKind::AlreadyExists {
                // It may have been removed again by now; it was there.
                exists_durably(root, key, &path)?;
                return Ok(CreateOutcome::Exists);
            }
            return Err(plain(e));
        }
    }
    make_durable(root, &path)
        .map_err(|e| StoreError::unclear("create", key, format_args!("its folder cannot be synced: {e}")))?;
    Ok(CreateOutcome::Created(written.version))
}

/// Is there an object, and will it survive a power cut?
fn exists_durably(root: &Root, key: &str, path: &Path) -> Result<bool> {
    match root.fs.stat(path) {
        Err(e) if absent(&e) => Ok(false),
        Err(e) => Err(untouched("create", key, &e)),
        Ok(stat) if stat.is_dir => {
            Err(StoreError::refused("create", key, "other keys go on below this one with a '/', which files cannot do"))
        }
        Ok(stat) => {
            if stat.is_pending {
                make_durable(root, path).map_err(|e| untouched("create", key, &e))?;
            }
            Ok(true)
        }
    }
}

pub(crate) fn swap(
    root: &Root,
    key: &str,
    expected: &Version,
    bytes: &[u8],
    patience: Duration,
) -> Result<SwapOutcome> {
    let path = root.path_of(key);
    let plain = |e: io::Error| untouched("swap", key, &e);
    let current = |root: &Root| match root.fs.stat(&path) {
        Ok(stat) => Ok(Some(stat)),
        Err(e) if absent(&e) => Ok(None),
        Err(e) => Err(plain(e)),
    };
    let _lock = root.lock(key, patience).map_err(plain)?;
    let Some(before) = current(root)?.filter(|s| s.is_file && version_of(s) == *expected) else {
        return Ok(SwapOutcome::Conflict);
    };
    let written = write_temporary(root, bytes, Some(before.modified_ns)).map_err(plain)?;
    if let Err(e) = root.fs.replace(&written.path, &path) {
        discard(root, &written.path);
        return Err(plain(e));
    }
    make_durable(root, &path)
        .map_err(|e| StoreError::unclear("swap", key, format_args!("its folder cannot be synced: {e}")))?;
    Ok(SwapOutcome::Swapped(written.version))
}

pub(crate) fn delete(root: &Root, keys: &[String], patience: Duration) -> Result<()> {
    let mut dirs: HashSet<PathBuf> = HashSet::new();
    for key in keys {
        let path = root.path_of(key);
        // Else a swap that has compared could put back what is removed here.
        let _lock = root.lock(key, patience).map_err(|e| StoreError::unclear("delete", key, e))?;
        match root.fs.stat(&path) {
            Ok(stat) if stat.is_dir => continue,
            Err(e) if absent(&e) => continue,
            _ => {}
        }
        match root.fs.remove(&path) {
            Ok(()) => dirs.extend(path.parent().map(Path::to_path_buf)),
            Err(e) if absent(&e) => {}
            Err(e) => return Err(StoreError { kind: ErrorKind::Unclear, ..untouched("delete", key, &e) }),
        }
    }
    for dir in &dirs {
        match root.fs.sync_dir(dir) {
            Ok(_) => {}
            Err(e) if absent(&e) => {}
            Err(e) => return Err(StoreError::unclear("delete", keys[0].as_str(), e)),
        }
    }
    for key in keys {
        let path = root.path_of(key);
        if path.parent().is_some_and(|dir| dirs.contains(dir)) {
            root.remove_empty_dirs(&path);
        }
    }
    Ok(())
}

pub(crate) fn list(root: &Root, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>> {
    let mut keys = Vec::new();
    let start = root.path_of(prefix.trim_end_matches('/'));
    walk(root, &start, prefix, after, &mut keys).map_err(|e| untouched("list", prefix, &e))?;
    keys.sort_unstable();
    let mut listed = Vec::with_capacity(limit.min(keys.len()));
    let mut synced: HashSet<PathBuf> = HashSet::new();
    for key in keys {
        if listed.len() == limit {
            break;
        }
        let path = root.path_of(&key);
        let stat = match root.fs.stat(&path) {
            Ok(stat) => stat,
            Err(e) if absent(&e) => continue, // removed since
            Err(e) => return Err(untouched("list", &key, &e)),
        };
        if !stat.is_file {
            continue;
        }
        if stat.is_pending
            && let Some(dir) = path.parent()
            && synced.insert(dir.to_path_buf())
        {
            root.sync_name(&path).map_err(|e| untouched("list", &key, &e))?;
        }
        listed.push(Listed { key, size: stat.size });
    }
    Ok(listed)
}

/// Collects the keys below `dir`, whose own key is `prefix`, that sort after `after`.
fn walk(root: &Root, dir: &Path, prefix: &str, after: Option<&str>, keys: &mut Vec<String>) -> io::Result<()> {
    let entries = match root.fs.read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if absent(&e) => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        // Ours (`.netsy`), or somebody else's who put files here.
        if key_fault(&entry.name).is_some() {
            continue;
        }
        let key = format!("{prefix}{}", entry.name);
        if entry.is_dir {
            let below = format!("{key}/");
            // Skipped whole if even its greatest key sorts before: `0` follows `/`.
            if after.is_none_or(|a| a < format!("{key}0").as_str()) {
                walk(root, &dir.join(&entry.name), &below, after, keys)?;
            }
        } else if after.is_none_or(|a| key.as_str() > a) {
            keys.push(key);
        }
    }
    Ok(())
}

pub(crate) struct UploadFile {
    path: PathBuf,
    file: Box<dyn NewFile>,
}

pub(crate) fn start_upload(root: &Root) -> Result<UploadFile> {
    let path = root.new_temporary();
    let file = root.fs.create_new(&path).map_err(|e| untouched("upload", "", &e))?;
    Ok(UploadFile { path, file })
}

/// A streaming write. Dropped unfinished, it leaves nothing behind.
pub(crate) struct FileUpload {
    root: Arc<Root>,
    ops: Arc<Semaphore>,
    timeout: Duration,
    key: String,
    /// `None` once finished, or after a failed write.
    file: Option<UploadFile>,
    temporary: PathBuf,
}

impl FileUpload {
    pub fn new(root: Arc<Root>, ops: Arc<Semaphore>, timeout: Duration, key: &str, file: UploadFile) -> Self {
        FileUpload { root, ops, timeout, key: key.to_string(), temporary: file.path.clone(), file: Some(file) }
    }

    fn take(&mut self) -> Result<UploadFile> {
        self.file
            .take()
            .ok_or_else(|| StoreError::unavailable("upload", self.key.as_str(), "an earlier write of it failed"))
    }
}

#[async_trait]
impl Upload for FileUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut file = self.take()?;
        let key = self.key.clone();
        let written = run_blocking(&self.ops, self.timeout, "upload", &self.key, ErrorKind::Unavailable, move || {
            file.file.write_all(&bytes).map_err(|e| untouched("upload", &key, &e))?;
            Ok(file)
        });
        self.file = Some(written.await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let mut file = self.take()?;
        let (root, key, patience) = (Arc::clone(&self.root), self.key.clone(), self.timeout / 2);
        run_blocking(&self.ops, self.timeout, "upload", &self.key, ErrorKind::Unclear, move || {
            let path = root.path_of(&key);
            let plain = |e: io::Error| untouched("upload", &key, &e);
            root.ensure_dir_of(&path).map_err(plain)?;
            let _lock = root.lock(&key, patience).map_err(plain)?;
            let before = root.fs.stat(&path).ok().map(|s| s.modified_ns);
            finish_file(&root, &mut *file.file, before).map_err(plain)?;
            let mut moved = root.fs.replace(&file.path, &path);
            if matches!(&moved, Err(e) if e.kind() == io::ErrorKind::NotFound)
                && let Some(dir) = path.parent()
            {
                moved = root.make_dir_anew(dir).and_then(|()| root.fs.replace(&file.path, &path));
            }
            moved.map_err(plain)?;
            make_durable(&root, &path).map_err(|e| StoreError::unclear("upload", key.as_str(), e))
        })
        .await
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.file = None;
        Ok(()) // the rest is done by drop
    }
}

impl Drop for FileUpload {
    fn drop(&mut self) {
        // After `finish` the name is gone already.
        discard(&self.root, &self.temporary);
    }
}

/// A streaming read.
pub(crate) struct FileDownload {
    key: String,
    file: Arc<dyn ReadFile>,
    offset: u64,
    size: u64,
    ops: Arc<Semaphore>,
    timeout: Duration,
}

impl FileDownload {
    pub fn new(key: &str, file: Box<dyn ReadFile>, size: u64, ops: Arc<Semaphore>, timeout: Duration) -> Self {
        FileDownload { key: key.to_string(), file: Arc::from(file), offset: 0, size, ops, timeout }
    }

    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send {
        futures::stream::unfold(Some(self), |state| async move {
            let mut this = state.filter(|s| s.offset < s.size)?;
            let (offset, len) = (this.offset, PIECE_BYTES.min(this.size - this.offset));
            let (file, key) = (Arc::clone(&this.file), this.key.clone());
            let piece =
                run_blocking(&this.ops, this.timeout, "download", &this.key, ErrorKind::Unavailable, move || {
                    read_exactly(&*file, offset, len).map_err(|e| untouched("download", &key, &e))
                });
            match piece.await {
                Ok(bytes) => {
                    this.offset += len;
                    Some((Ok(bytes), Some(this)))
                }
                Err(e) => Some((Err(e), None)),
            }
        })
    }
}
