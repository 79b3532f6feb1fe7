//! Taking back what was not synced.

use super::undo::{OldBytes, read_record, undo_folder, unhex};
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes a disk writes as a whole.
const SECTOR_BYTES: u64 = 512;

/// How much of what was not synced is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    All,
    /// Each sector of content is lost or kept by chance, as a disk may write in any order; lengths are lost; of
    /// the changes of names in a folder a first part, by chance, is kept, as file systems with a journal do.
    /// The same seed gives the same outcome.
    Some {
        /// Seed of the chance.
        seed: u64,
    },
}

/// Gives everything below `root` the content it had when it was last synced, and forgets the undo records.
/// To be called when no process uses the folder any more. A folder that was never tracked is left as it is.
pub fn drop_unsynced(root: &Path, loss: Loss) -> io::Result<()> {
    let root = root.canonicalize()?;
    let undo = undo_folder(&root);
    if !undo.exists() {
        return Ok(());
    }
    let mut by_inode = HashMap::new();
    find_files(&root, &mut by_inode)?;
    find_files(&undo, &mut by_inode)?;
    let mut folders = Vec::new();
    for item in fs::read_dir(&undo)? {
        let path = item?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(inode) = name.strip_prefix("file-").and_then(|inode| inode.parse::<u64>().ok()) {
            // A record without a file: that was removed for good.
            if let Some(file) = by_inode.get(&inode) {
                take_back(file, &read_record(&path)?, loss, inode)?;
            }
        } else if name.starts_with("folder-") {
            folders.push(path);
        }
    }
    for record in folders {
        let lines = fs::read_to_string(&record)?;
        // A line without an end is of a change that was never made.
        let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines: Vec<&str> = whole.lines().collect();
        let kept = match loss {
            Loss::All => 0,
            Loss::Some { seed } => (chance(seed ^ lines.len() as u64) % (lines.len() as u64 + 1)) as usize,
        };
        for line in lines[kept..].iter().rev() {
            take_back_name(line)?;
        }
    }
    fs::remove_dir_all(&undo)?;
    remove_shared_memory(&root)
}

fn find_files(folder: &Path, found: &mut HashMap<u64, PathBuf>) -> io::Result<()> {
    for item in fs::read_dir(folder)? {
        let item = item?;
        let kind = item.file_type()?;
        if kind.is_dir() {
            find_files(&item.path(), found)?;
        } else if kind.is_file() {
            found.insert(item.metadata()?.ino(), item.path());
        }
    }
    Ok(())
}

fn take_back(path: &Path, records: &[OldBytes], loss: Loss, inode: u64) -> io::Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let permissions = path.metadata()?.permissions();
    if permissions.readonly() {
        let writable = fs::Permissions::from_mode(permissions.mode() | 0o600);
        fs::set_permissions(path, writable)?;
    }
    let file = File::options().read(true).write(true).open(path)?;
    file.set_permissions(permissions)?;
    let kept = match loss {
        Loss::All => Vec::new(),
        Loss::Some { seed } => sectors_kept(&file, records, seed ^ inode)?,
    };
    for record in records.iter().rev() {
        file.write_all_at(&record.bytes, record.at)?;
        file.set_len(record.length)?;
    }
    let length = file.metadata()?.len();
    for (at, bytes) in kept {
        let room = length.saturating_sub(at).min(bytes.len() as u64) as usize;
        file.write_all_at(&bytes[..room], at)?;
    }
    Ok(())
}

/// The sectors changed since the last sync that reach the disk all the same, as they are now.
fn sectors_kept(file: &File, records: &[OldBytes], mut seed: u64) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let changed: BTreeSet<u64> = records
        .iter()
        .flat_map(|record| record.at / SECTOR_BYTES..(record.at + record.bytes.len() as u64).div_ceil(SECTOR_BYTES))
        .collect();
    let length = file.metadata()?.len();
    let mut kept = Vec::new();
    for sector in changed {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let at = sector * SECTOR_BYTES;
        if chance(seed) & 1 == 0 || at >= length {
            continue;
        }
        let mut bytes = vec![0; SECTOR_BYTES.min(length - at) as usize];
        file.read_exact_at(&mut bytes, at)?;
        kept.push((at, bytes));
    }
    Ok(kept)
}

/// The mixing step of splitmix64.
fn chance(seed: u64) -> u64 {
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn take_back_name(line: &str) -> io::Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    let path = |at: usize| {
        words.get(at).and_then(|word| unhex(word)).ok_or_else(|| io::Error::other(format!("undo record {line:?}")))
    };
    // The change of the last line may not have been made: what is not there need not be taken back.
    let gone_is_fine = |outcome: io::Result<()>| match outcome {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    };
    match words.first().copied().unwrap_or_default() {
        "created" => gone_is_fine(fs::remove_file(path(1)?)),
        "folder" => gone_is_fine(fs::remove_dir_all(path(1)?)),
        "removed" => gone_is_fine(fs::rename(path(2)?, path(1)?)),
        "renamed" => {
            let (from, to) = (path(1)?, path(2)?);
            if !from.exists() {
                gone_is_fine(fs::rename(&to, &from))?;
            }
            if words.get(3) == Some(&"-") { Ok(()) } else { gone_is_fine(fs::rename(path(3)?, to)) }
        }
        _ => Err(io::Error::other(format!("undo record {line:?} is not known"))),
    }
}

/// SQLite's shared memory files are no content: they are rebuilt.
fn remove_shared_memory(root: &Path) -> io::Result<()> {
    let mut files = HashMap::new();
    find_files(root, &mut files)?;
    for path in files.values() {
        if path.to_string_lossy().ends_with("-shm") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
