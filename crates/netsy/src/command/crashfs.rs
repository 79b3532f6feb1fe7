//! `crashfs`, for tests of what a power cut takes: everything a node writes goes through a file layer that
//! remembers what was not synced, and `crashfs-recover` takes that back after a kill.
//!
//! On with `NETSY_CRASHFS=1`; `NETSY_CRASHFS_SEED` has a part of it survive, as a disk writes in any order.

use anyhow::{Context, anyhow, ensure};
use netsy_localdb::crash_vfs::{self, Loss, files};
use netsy_objects::fs_ops::{DirEntry, FsOps, HostFs, NewFile, ReadFile, Stat};
use netsy_objects::{Buckets, Provider, StorageConfig};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Decides what part of what was not synced survives; unset or empty: none.
const SEED_VARIABLE: &str = "NETSY_CRASHFS_SEED";

/// Takes back what was not synced in `dir` and in the folders directly below it, as far as a node tracked them.
pub fn recover(dir: &Path) -> anyhow::Result<()> {
    let loss = match std::env::var(SEED_VARIABLE) {
        Ok(text) if !text.is_empty() => {
            let seed =
                text.parse::<u64>().map_err(|_| anyhow!("{SEED_VARIABLE}={text:?}: give a number from 0 to 2^64-1"))?;
            Loss::Some { seed }
        }
        _ => Loss::All,
    };
    let dir = dir.canonicalize().with_context(|| format!("folder {}", dir.display()))?;
    let mut folders = vec![dir.clone()];
    for item in fs::read_dir(&dir).with_context(|| format!("folder {}", dir.display()))? {
        let path = item?.path();
        // The records of one that is tracked lie beside it, and go once they were used.
        if path.is_dir() && path.extension().is_none_or(|extension| extension != "undo") {
            folders.push(path);
        }
    }
    for folder in folders {
        crash_vfs::drop_unsynced(&folder, loss)
            .with_context(|| format!("taking back what was not synced in {}", folder.display()))?;
    }
    Ok(())
}

/// Tracks the node's folder from now on. Returns the name of the file layer for SQLite.
pub fn track(data_dir: &Path) -> anyhow::Result<String> {
    crash_vfs::enable(data_dir).with_context(|| format!("tracking {}", data_dir.display()))?;
    let name = crash_vfs::register().context("registering the file layer with SQLite")?;
    Ok(name.to_string())
}

/// The bucket over the file layer; one that is not in a folder is opened as ever.
pub async fn open(storage: &StorageConfig) -> anyhow::Result<Buckets> {
    if storage.provider != Provider::File {
        return Ok(netsy_objects::open(storage).await?);
    }
    ensure!(storage.extra_latency.is_zero(), "a delay of the object store cannot be had together with NETSY_CRASHFS");
    crash_vfs::enable(&storage.path).with_context(|| format!("tracking {}", storage.path.display()))?;
    Ok(netsy_objects::open_over(storage, Arc::new(CrashFs)).await?)
}

/// The bucket's file operations with an undo record of each change. What changes nothing is the system's.
#[derive(Debug)]
struct CrashFs;

impl FsOps for CrashFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let file = files::File::create_new(path)?;
        // Under a temporary name, which nobody else looks at yet.
        file.plain().set_permissions(Permissions::from_mode(MODE_PENDING))?;
        Ok(Box::new(CrashFile { file, path: path.to_path_buf() }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        HostFs.open(path)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        HostFs.stat(path)
    }

    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        files::rename_to_free(from, to, |from, to| HostFs.publish(from, to))
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        files::rename(from, to)
    }

    fn mark_durable(&self, path: &Path) -> io::Result<()> {
        HostFs.mark_durable(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        files::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        files::create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        files::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<u64> {
        // Taken before: if another folder takes its place meanwhile, this one's number only has it synced again.
        let inode = fs::metadata(path)?.ino();
        files::sync_dir(path)?;
        Ok(inode)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        HostFs.read_dir(path)
    }
}

/// What [`Stat::is_pending`] is read from.
const MODE_PENDING: u32 = 0o400;

struct CrashFile {
    file: files::File,
    path: PathBuf,
}

impl NewFile for CrashFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)
    }

    fn set_modified(&mut self, ns: i64) -> io::Result<()> {
        let magnitude = Duration::from_nanos(ns.unsigned_abs());
        self.file.plain().set_modified(if ns >= 0 { UNIX_EPOCH + magnitude } else { UNIX_EPOCH - magnitude })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    fn stat(&self) -> io::Result<Stat> {
        // Still under the name it was made with.
        HostFs.stat(&self.path)
    }
}
