//! A bucket in a folder of a local file system, shared by the processes of one machine.
//!
//! *Durable*: an object is written and synced under a temporary name, moved to its own,
//! and its folder is synced. Until then its mode says *pending*, and whoever reads it or
//! finds it in the way syncs the folder first, so that nobody acts on what a power cut may
//! still take away.
//!
//! *Atomic*: a create is a move to a name that must be free; a swap compares and replaces
//! under a lock that holds between processes.
//!
//! *Versions*: (inode, modification time, size). The time is set by the writer, past its
//! predecessor's, so that no version of an object ever comes back.

mod host;
mod ops;
mod root;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::fs_ops::FsOps;
use crate::bucket::{
    Bucket, CreateOutcome, Download, ErrorKind, Listed, Object, Result, RetryPolicy, StoreError, SwapOutcome, Upload,
    Version, check_key, check_prefix,
};
use crate::config::StorageConfig;
use ops::{FileDownload, FileUpload};
use root::Root;

/// File operations under way at once; each takes a thread while it lasts.
const CONCURRENT_OPS_MAX: usize = 32;
/// Small objects read over and over (the manifest, for every batch of reads) are kept, and only
/// their versions are read again.
const HOT_OBJECTS_MAX: usize = 32;
const HOT_OBJECT_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct FileBucket {
    root: Arc<Root>,
    timeout: Duration,
    retry: RetryPolicy,
    ops: Arc<Semaphore>,
    hot: Mutex<HashMap<String, Object>>,
}

impl FileBucket {
    pub async fn open_over(config: &StorageConfig, fs: Arc<dyn FsOps>) -> Result<FileBucket> {
        let (path, prefix) = (config.path.clone(), config.key_prefix.clone());
        let root = tokio::task::spawn_blocking(move || Root::open(&path, &prefix, fs))
            .await
            .map_err(|e| StoreError::unavailable("open", config.path.display().to_string(), e))??;
        Ok(FileBucket {
            root: Arc::new(root),
            timeout: config.timeout,
            retry: RetryPolicy { max_age: config.retry_max_age, ..RetryPolicy::default() },
            ops: Arc::new(Semaphore::new(CONCURRENT_OPS_MAX)),
            hot: Mutex::default(),
        })
    }

    /// Runs a file operation on a thread of its own. `late` is what a time-out leaves: a
    /// write that was started may yet be done.
    async fn run<T, F>(&self, op: &'static str, key: &str, late: ErrorKind, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Root) -> Result<T> + Send + 'static,
    {
        let root = Arc::clone(&self.root);
        run_blocking(&self.ops, self.timeout, op, key, late, move || work(&root)).await
    }

    /// The object as kept, if it is still at the version kept. A look at the file's
    /// attributes is a microsecond, so it is not worth a thread.
    fn hot(&self, key: &str) -> Option<Object> {
        let kept = self.hot.lock().get(key).cloned()?;
        let stat = self.root.fs.stat(&self.root.path_of(key)).ok()?;
        (!stat.is_pending && stat.is_file && ops::version_of(&stat) == kept.version).then_some(kept)
    }

    fn keep_hot(&self, key: &str, object: &Object) {
        if object.bytes.len() > HOT_OBJECT_BYTES_MAX {
            return;
        }
        let mut hot = self.hot.lock();
        if hot.len() >= HOT_OBJECTS_MAX {
            hot.clear();
        }
        hot.insert(key.to_string(), object.clone());
    }
}

/// See [`FileBucket::run`].
async fn run_blocking<T, F>(
    ops: &Arc<Semaphore>,
    timeout: Duration,
    op: &'static str,
    key: &str,
    late: ErrorKind,
    work: F,
) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let permit = match tokio::time::timeout(timeout, Arc::clone(ops).acquire_owned()).await {
        Ok(Ok(permit)) => permit,
        _ => {
            let why = format!(
                "{CONCURRENT_OPS_MAX} earlier file operations have not finished in {timeout:?}: is the disk stuck?"
            );
            return Err(StoreError::unavailable(op, key, why));
        }
    };
    let task = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(permit);
        done
    });
    match tokio::time::timeout(timeout, task).await {
        Ok(Ok(done)) => done,
        Ok(Err(e)) => Err(StoreError::new(late, op, key, format_args!("the file operation did not finish: {e}"))),
        Err(_) => {
            Err(StoreError::new(late, op, key, format_args!("the file system did not finish within {timeout:?}")))
        }
    }
}

#[async_trait]
impl Bucket for FileBucket {
    async fn get(&self, key: &str) -> Result<Option<Object>> {
        check_key("get", key)?;
        if let Some(object) = self.hot(key) {
            return Ok(Some(object));
        }
        let name = key.to_string();
        let found = self.run("get", key, ErrorKind::Unavailable, move |root| ops::get(root, &name)).await?;
        if let Some(object) = &found {
            self.keep_hot(key, object);
        }
        Ok(found)
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        check_key("get", key)?;
        let name = key.to_string();
        self.run("get", key, ErrorKind::Unavailable, move |root| ops::get_range(root, &name, range)).await
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome> {
        check_key("create", key)?;
        let name = key.to_string();
        self.run("create", key, ErrorKind::Unclear, move |root| ops::create(root, &name, &bytes)).await
    }

    async fn swap(&self, key: &str, expected: Option<&Version>, bytes: Bytes) -> Result<SwapOutcome> {
        check_key("swap", key)?;
        let Some(expected) = expected.cloned() else {
            return Ok(match self.create(key, bytes).await? {
                CreateOutcome::Created(version) => SwapOutcome::Swapped(version),
                CreateOutcome::Exists => SwapOutcome::Conflict,
            });
        };
        // Half of the time is left for the write itself.
        let (name, patience) = (key.to_string(), self.timeout / 2);
        self.run("swap", key, ErrorKind::Unclear, move |root| ops::swap(root, &name, &expected, &bytes, patience)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>> {
        check_prefix("list", prefix)?;
        let (name, after) = (prefix.to_string(), after.map(str::to_string));
        self.run("list", prefix, ErrorKind::Unavailable, move |root| ops::list(root, &name, after.as_deref(), limit))
            .await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.delete_many(&[key.to_string()]).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        for key in keys {
            check_key("delete", key)?;
        }
        // One call's worth of keys at a time, so that each fits the time-out.
        for some in keys.chunks(256) {
            let (names, patience) = (some.to_vec(), self.timeout / 2);
            self.run("delete", &some[0], ErrorKind::Unclear, move |root| ops::delete(root, &names, patience)).await?;
        }
        Ok(())
    }

    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>> {
        check_key("upload", key)?;
        let root = Arc::clone(&self.root);
        let file = self.run("upload", key, ErrorKind::Unavailable, ops::start_upload).await?;
        Ok(Box::new(FileUpload::new(root, Arc::clone(&self.ops), self.timeout, key, file)))
    }

    async fn download(&self, key: &str) -> Result<Option<Download>> {
        check_key("download", key)?;
        let name = key.to_string();
        let opened = self
            .run("download", key, ErrorKind::Unavailable, move |root| ops::open_durable(root, "download", &name))
            .await?;
        let Some((file, stat)) = opened else { return Ok(None) };
        let pieces = FileDownload::new(key, file, stat.size, Arc::clone(&self.ops), self.timeout);
        Ok(Some(Download { size: stat.size, version: ops::version_of(&stat), body: pieces.into_stream().boxed() }))
    }

    fn retry_policy(&self) -> RetryPolicy {
        self.retry
    }

    /// Its locks were tried when it was opened; the rest is this crate's own code.
    fn needs_probe(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        describe(self.root.objects())
    }
}

fn describe(folder: &Path) -> String {
    format!("file://{}", folder.display())
}
