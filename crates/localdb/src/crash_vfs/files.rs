//! Ordinary files through the layer: what a module that keeps its own files calls instead of `std::fs`.
//!
//! Outside the folders that are tracked these are the plain calls.

use super::undo::{FileUndo, NameChange, root_of};
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

/// An open file; cheap to share by reference, all calls give their place.
pub struct File {
    file: fs::File,
    undo: Option<Arc<FileUndo>>,
}

impl File {
    /// Makes a file that must not be there yet.
    pub fn create_new(path: &Path) -> io::Result<Self> {
        Self::open_with(path, fs::OpenOptions::new().read(true).write(true).create_new(true))
    }

    /// Opens a file for reading and writing, made empty if it is not there.
    pub fn open_rw(path: &Path) -> io::Result<Self> {
        match Self::open_with(path, fs::OpenOptions::new().read(true).write(true)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => match Self::create_new(path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Self::open_rw(path),
                made => made,
            },
            opened => opened,
        }
    }

    fn open_with(path: &Path, options: &fs::OpenOptions) -> io::Result<Self> {
        let Some((root, path)) = root_of(path)? else { return Ok(Self { file: options.open(path)?, undo: None }) };
        if path.exists() {
            let file = options.open(&path)?;
            let undo = Some(root.file(file.metadata()?.ino(), false)?);
            return Ok(Self { file, undo });
        }
        let folder = parent(&path)?;
        let file = root.change_name(folder, &NameChange::Created(&path), || options.open(&path))?;
        let undo = Some(root.file(file.metadata()?.ino(), true)?);
        Ok(Self { file, undo })
    }

    /// The file's length.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Writes all bytes at a place.
    pub fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let write = || self.file.write_all_at(bytes, at);
        match &self.undo {
            Some(undo) => undo.write(&self.file, at, bytes.len() as u64, write)?,
            None => write(),
        }
    }

    /// Writes all bytes at the end.
    pub fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_at(bytes, self.len()?)
    }

    /// Fills `bytes` from a place.
    pub fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    /// Cuts or extends the file.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        let change = || self.file.set_len(length);
        match &self.undo {
            Some(undo) => undo.set_len(&self.file, length, change)?,
            None => change(),
        }
    }

    /// Makes content and length durable. (The name becomes durable with [`sync_dir`].)
    pub fn sync(&self) -> io::Result<()> {
        match &self.undo {
            Some(undo) => undo.sync(|| self.file.sync_all(), io::Result::is_ok)?,
            None => self.file.sync_all(),
        }
    }

    /// The file itself, for locks and the like; writing through it is not tracked.
    pub fn plain(&self) -> &fs::File {
        &self.file
    }
}

/// As [`std::fs::rename`], within one file system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let (Some((root, from)), Some((_, to))) = (root_of(from)?, root_of(to)?) else { return fs::rename(from, to) };
    let kept = root.kept_name(&to);
    root.change_name(parent(&to)?, &NameChange::Renamed { from: &from, to: &to, kept }, || fs::rename(&from, &to))
}

/// Moves a file to a name that is free, as `how` does it: that is to fail if the name is taken.
pub fn rename_to_free(from: &Path, to: &Path, how: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let (Some((root, from)), Some((_, to))) = (root_of(from)?, root_of(to)?) else { return how(from, to) };
    // If it is not made, then `from` is still there, and recovery leaves both as they are.
    root.change_name(parent(&to)?, &NameChange::Renamed { from: &from, to: &to, kept: None }, || how(&from, &to))
}

/// As [`std::fs::hard_link`].
pub fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    let Some((root, to)) = root_of(to)? else { return fs::hard_link(from, to) };
    root.change_name(parent(&to)?, &NameChange::Created(&to), || fs::hard_link(from, &to))
}

/// As [`std::fs::remove_file`].
pub fn remove_file(path: &Path) -> io::Result<()> {
    let Some((root, path)) = root_of(path)? else { return fs::remove_file(path) };
    let Some(kept) = root.kept_name(&path) else { return Err(io::ErrorKind::NotFound.into()) };
    root.change_name(parent(&path)?, &NameChange::Removed { path: &path, kept }, || fs::remove_file(&path))
}

/// As [`std::fs::create_dir`].
pub fn create_dir(path: &Path) -> io::Result<()> {
    let Some((root, path)) = root_of(path)? else { return fs::create_dir(path) };
    if path.symlink_metadata().is_ok() {
        // Nothing is recorded: a kill before the record is taken back would have recovery remove the folder.
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    root.change_name(parent(&path)?, &NameChange::MadeFolder(&path), || fs::create_dir(&path))
}

/// As [`std::fs::remove_dir`]. The folder does not come back: it was empty, and empty folders mean nothing here.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    match root_of(path)? {
        Some((root, path)) => root.remove_folder(&path),
        None => fs::remove_dir(path),
    }
}

/// Makes the names in a folder durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()?;
    match root_of(path)? {
        Some((root, path)) => root.names_synced(&path),
        None => Ok(()),
    }
}

pub(super) fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::other(format!("{} has no parent folder", path.display())))
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
