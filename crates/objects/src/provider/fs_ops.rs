//! Every file operation of the file provider, so that a test can put a layer under it
//! that loses whatever was not synced: [`crate::open_over`]. (Its locks and the folders in
//! `.netsy` are not objects and do not go through here.)
//!
//! The provider relies on these promises and no others: what `NewFile::sync` returned
//! from survives a power cut, under the names whose folder `sync_dir` returned from
//! afterwards; `publish` is atomic and never replaces; `replace` is atomic.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags};

/// Mode of an object whose name is not known to be durable yet.
const MODE_PENDING: u32 = 0o400;
/// Mode of an object whose name is.
const MODE_DURABLE: u32 = 0o600;
const MODE_DIR: u32 = 0o700;

/// What a file is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub inode: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: i64,
    pub size: u64,
    pub is_file: bool,
    pub is_dir: bool,
    /// Shown under its name, which a power cut may still take away again: whoever is
    /// about to act on it syncs the folder first.
    pub is_pending: bool,
}

/// A file being written under a temporary name. Its mode says pending.
pub trait NewFile: Send {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn set_modified(&mut self, ns: i64) -> io::Result<()>;
    /// Content and attributes are durable.
    fn sync(&mut self) -> io::Result<()>;
    fn stat(&self) -> io::Result<Stat>;
}

/// An open file; its content never changes.
pub trait ReadFile: Send + Sync {
    fn stat(&self) -> io::Result<Stat>;
    /// Fills `buffer` from `offset`; the count is smaller only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
}

/// See the module.
pub trait FsOps: Send + Sync + fmt::Debug {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn NewFile>>;
    /// Does not follow a symbolic link.
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;
    /// Does not follow a symbolic link.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// Moves a file to a name that must be free: `AlreadyExists` if it is not.
    fn publish(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Moves a file over another.
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Clears the mark that [`Stat::is_pending`] shows.
    fn mark_durable(&self, path: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in the folder are durable. Returns the folder's inode.
    fn sync_dir(&self, path: &Path) -> io::Result<u64>;
    /// Names that are not UTF-8 are left out.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
}

/// The operating system's.
#[derive(Debug, Clone, Copy)]
pub struct HostFs;

impl FsOps for HostFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(MODE_PENDING).open(path)?;
        Ok(Box::new(HostNewFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path)?;
        Ok(Box::new(HostReadFile(file)))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        Ok(stat_of(&fs::symlink_metadata(path)?))
    }

    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // Not every file system has it.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                fs::hard_link(from, to)?;
                fs::remove_file(from)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn mark_durable(&self, path: &Path) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(MODE_DURABLE))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().mode(MODE_DIR).create(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<u64> {
        let dir = File::open(path)?;
        dir.sync_all()?;
        Ok(dir.metadata()?.ino())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        Ok(entries)
    }
}

// The same on every Unix that netsy builds on, but not the same number.
const O_NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;

struct HostNewFile(File);

impl NewFile for HostNewFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn set_modified(&mut self, ns: i64) -> io::Result<()> {
        self.0.set_modified(time_of(ns))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&self.0.metadata()?))
    }
}

struct HostReadFile(File);

impl ReadFile for HostReadFile {
    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&self.0.metadata()?))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }
}

fn stat_of(m: &fs::Metadata) -> Stat {
    Stat {
        inode: m.ino(),
        modified_ns: m.mtime().saturating_mul(1_000_000_000).saturating_add(m.mtime_nsec()),
        size: m.size(),
        is_file: m.is_file(),
        is_dir: m.is_dir(),
        is_pending: m.mode() & 0o777 == MODE_PENDING,
    }
}

fn time_of(ns: i64) -> SystemTime {
    let magnitude = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 { UNIX_EPOCH + magnitude } else { UNIX_EPOCH - magnitude }
}

/// A small file whole; used for nothing that the crash layer must see.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.read_to_string(&mut text)?;
    Ok(text)
}
