//! The few changes of files and folders made beside SQLite. With feature `crashfs` they go through the file
//! layer that can forget what was not synced.

use std::io;
use std::path::Path;

#[cfg(feature = "crashfs")]
pub(crate) use crate::crash_vfs::files::{File, remove_file, rename, sync_dir};

#[cfg(not(feature = "crashfs"))]
pub(crate) use plain::{File, remove_file, rename, sync_dir};

#[cfg(not(feature = "crashfs"))]
mod plain {
    use std::fs;
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    pub(crate) use std::fs::{remove_file, rename};

    pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    pub(crate) struct File(fs::File);

    impl File {
        pub(crate) fn open_rw(path: &Path) -> io::Result<Self> {
            fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map(Self)
        }

        pub(crate) fn len(&self) -> io::Result<u64> {
            Ok(self.0.metadata()?.len())
        }

        pub(crate) fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
            self.0.write_all_at(bytes, at)
        }

        pub(crate) fn sync(&self) -> io::Result<()> {
            self.0.sync_all()
        }
    }
}

/// Makes the file at least `bytes_min` long by writing zeros at its end, and syncs it: blocks that were
/// written once are cheaper to sync later than blocks the file has yet to get.
pub(crate) fn extend_with_zeros(path: &Path, bytes_min: u64) -> io::Result<()> {
    const STEP: usize = 1 << 20;
    let file = File::open_rw(path)?;
    let mut at = file.len()?;
    if at >= bytes_min {
        return Ok(());
    }
    let zeros = vec![0; STEP];
    while at < bytes_min {
        let step = (bytes_min - at).min(STEP as u64);
        file.write_at(&zeros[..step as usize], at)?;
        at += step;
    }
    file.sync()
}

/// Removes the file if it is there.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
