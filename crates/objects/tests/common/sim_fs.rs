//! A file system in memory whose power can be cut: it keeps apart what was synced and what
//! was not.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netsy_objects::fs_ops::{DirEntry, FsOps, NewFile, ReadFile, Stat};
use parking_lot::Mutex;

#[derive(Debug, Clone)]
struct Inode {
    /// `None`: a folder.
    bytes: Option<Vec<u8>>,
    synced: Option<Vec<u8>>,
    modified_ns: i64,
    pending: bool,
}

/// A name given (or, if `None`, taken away) since the folder's last sync.
type Change = (String, Option<u64>);

#[derive(Debug, Clone, Default)]
struct Folder {
    durable: BTreeMap<String, u64>,
    changes: Vec<Change>,
}

impl Folder {
    fn now(&self) -> BTreeMap<String, u64> {
        let mut names = self.durable.clone();
        apply(&mut names, &self.changes);
        names
    }
}

fn apply(names: &mut BTreeMap<String, u64>, changes: &[Change]) {
    for (name, inode) in changes {
        match inode {
            Some(inode) => names.insert(name.clone(), *inode),
            None => names.remove(name),
        };
    }
}

#[derive(Debug, Clone, Default)]
struct Disk {
    inodes: BTreeMap<u64, Inode>,
    folders: BTreeMap<u64, Folder>,
    last_inode: u64,
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Power {
    off: bool,
    operations: u64,
    /// Runs before the operation with this number; then the power goes off.
    cut: Option<(u64, Hook)>,
}

#[derive(Clone)]
pub struct SimFs {
    disk: Arc<Mutex<Disk>>,
    power: Arc<Mutex<Power>>,
    /// Only what this handle does counts towards the cut.
    counts: bool,
}

impl std::fmt::Debug for SimFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimFs")
    }
}

const ROOT: u64 = 1;

fn error(kind: io::ErrorKind) -> io::Error {
    kind.into()
}

impl SimFs {
    pub fn new() -> SimFs {
        let mut disk = Disk { last_inode: ROOT, ..Disk::default() };
        disk.folders.insert(ROOT, Folder::default());
        disk.inodes.insert(ROOT, Inode { bytes: None, synced: None, modified_ns: 0, pending: false });
        SimFs { disk: Arc::new(Mutex::new(disk)), power: Arc::default(), counts: true }
    }

    /// Another user of the same disk, whose operations are not counted and who still has
    /// power at the cut's hook.
    pub fn bystander(&self) -> SimFs {
        SimFs { counts: false, ..self.clone() }
    }

    pub fn operations(&self) -> u64 {
        self.power.lock().operations
    }

    /// Before the operation with this number, counted from 0, runs `hook`, then nothing works any more.
    pub fn cut_before(&self, operation: u64, hook: impl FnOnce() + Send + 'static) {
        self.power.lock().cut = Some((operation, Box::new(hook)));
    }

    /// What is found when the power is back. Of what was not synced some is kept, by chance:
    /// a first part of the changes of each folder, and of a file's bytes all, none or some.
    pub fn after_power_cut(&self, mut seed: u64) -> SimFs {
        let mut chance = move |n: u64| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ (mixed >> 27)) % n
        };
        let mut disk = self.disk.lock().clone();
        for folder in disk.folders.values_mut() {
            let kept = chance(folder.changes.len() as u64 + 1) as usize;
            apply(&mut folder.durable, &folder.changes[..kept]);
            folder.changes.clear();
        }
        for inode in disk.inodes.values_mut().filter(|i| i.bytes.is_some() && i.bytes != i.synced) {
            let written = inode.bytes.clone().unwrap_or_default();
            inode.bytes = Some(match chance(3) {
                0 => inode.synced.clone().unwrap_or_default(),
                1 => written,
                _ => written[..chance(written.len() as u64 + 1) as usize].to_vec(),
            });
            inode.synced = inode.bytes.clone();
        }
        SimFs { disk: Arc::new(Mutex::new(disk)), power: Arc::default(), counts: true }
    }

    fn step(&self) -> io::Result<()> {
        if !self.counts {
            return Ok(());
        }
        let mut power = self.power.lock();
        if power.off {
            return Err(io::Error::other("the power is off"));
        }
        let at = power.operations;
        power.operations += 1;
        if power.cut.as_ref().is_some_and(|(n, _)| *n == at) {
            let hook = power.cut.take();
            power.off = true;
            drop(power);
            if let Some((_, hook)) = hook {
                hook();
            }
            return Err(io::Error::other("the power is off"));
        }
        Ok(())
    }
}

impl Disk {
    fn folder(&self, path: &Path) -> io::Result<u64> {
        let inode = self.find(path)?;
        if self.folders.contains_key(&inode) { Ok(inode) } else { Err(error(io::ErrorKind::NotADirectory)) }
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for part in path.components().skip(1) {
            let folder = self.folders.get(&at).ok_or_else(|| error(io::ErrorKind::NotADirectory))?;
            let name = part.as_os_str().to_string_lossy().into_owned();
            at = *folder.now().get(&name).ok_or_else(|| error(io::ErrorKind::NotFound))?;
        }
        Ok(at)
    }

    fn stat(&self, inode: u64) -> Stat {
        let node = &self.inodes[&inode];
        Stat {
            inode,
            modified_ns: node.modified_ns,
            size: node.bytes.as_ref().map_or(0, |b| b.len() as u64),
            is_file: node.bytes.is_some(),
            is_dir: node.bytes.is_none(),
            is_pending: node.pending,
        }
    }

    fn change(&mut self, path: &Path, inode: Option<u64>) -> io::Result<()> {
        let folder = self.folder(path.parent().unwrap())?;
        self.folders.get_mut(&folder).unwrap().changes.push((name(path), inode));
        Ok(())
    }

    fn add(&mut self, path: &Path, node: Inode) -> io::Result<u64> {
        if self.find(path).is_ok() {
            return Err(error(io::ErrorKind::AlreadyExists));
        }
        let inode = self.last_inode + 1;
        self.change(path, Some(inode))?;
        self.last_inode = inode;
        if node.bytes.is_none() {
            self.folders.insert(inode, Folder::default());
        }
        self.inodes.insert(inode, node);
        Ok(inode)
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

impl FsOps for SimFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        self.step()?;
        let mut disk = self.disk.lock();
        // Where temporary files go is made on the real disk, past this one.
        let mut above: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_path_buf).collect();
        above.reverse();
        for dir in above.iter().skip(1).filter(|_| path.to_string_lossy().contains("/.netsy/")) {
            if disk.find(dir).is_err() {
                disk.add(dir, Inode { bytes: None, synced: None, modified_ns: 0, pending: false })?;
            }
        }
        let inode = disk.add(path, Inode { bytes: Some(Vec::new()), synced: None, modified_ns: 0, pending: true })?;
        Ok(Box::new(SimFile { fs: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        let inode = self.disk.lock().find(path)?;
        Ok(Box::new(SimFile { fs: self.clone(), inode }))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let disk = self.disk.lock();
        Ok(disk.stat(disk.find(path)?))
    }

    fn publish(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let mut disk = self.disk.lock();
        let inode = disk.find(from)?;
        match disk.find(to) {
            Ok(_) => return Err(error(io::ErrorKind::AlreadyExists)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        disk.change(to, Some(inode))?;
        disk.change(from, None)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let mut disk = self.disk.lock();
        let inode = disk.find(from)?;
        disk.change(to, Some(inode))?;
        disk.change(from, None)
    }

    fn mark_durable(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        let mut disk = self.disk.lock();
        let inode = disk.find(path)?;
        disk.inodes.get_mut(&inode).unwrap().pending = false;
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        let mut disk = self.disk.lock();
        disk.find(path)?;
        disk.change(path, None)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        if path.parent().is_none() {
            return Err(error(io::ErrorKind::AlreadyExists));
        }
        self.disk.lock().add(path, Inode { bytes: None, synced: None, modified_ns: 0, pending: false }).map(drop)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        let mut disk = self.disk.lock();
        let folder = disk.folder(path)?;
        if !disk.folders[&folder].now().is_empty() {
            return Err(error(io::ErrorKind::DirectoryNotEmpty));
        }
        disk.change(path, None)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<u64> {
        self.step()?;
        let mut disk = self.disk.lock();
        let inode = disk.folder(path)?;
        let folder = disk.folders.get_mut(&inode).unwrap();
        folder.durable = folder.now();
        folder.changes.clear();
        Ok(inode)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let disk = self.disk.lock();
        let folder = &disk.folders[&disk.folder(path)?];
        Ok(folder
            .now()
            .into_iter()
            .map(|(name, inode)| DirEntry { name, is_dir: disk.folders.contains_key(&inode) })
            .collect())
    }
}

struct SimFile {
    fs: SimFs,
    inode: u64,
}

impl NewFile for SimFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.fs.step()?;
        let mut disk = self.fs.disk.lock();
        disk.inodes.get_mut(&self.inode).unwrap().bytes.get_or_insert_default().extend_from_slice(bytes);
        Ok(())
    }

    fn set_modified(&mut self, ns: i64) -> io::Result<()> {
        self.fs.step()?;
        self.fs.disk.lock().inodes.get_mut(&self.inode).unwrap().modified_ns = ns;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.fs.step()?;
        let mut disk = self.fs.disk.lock();
        let node = disk.inodes.get_mut(&self.inode).unwrap();
        node.synced = node.bytes.clone();
        Ok(())
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(self.fs.disk.lock().stat(self.inode))
    }
}

impl ReadFile for SimFile {
    fn stat(&self) -> io::Result<Stat> {
        Ok(self.fs.disk.lock().stat(self.inode))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.fs.disk.lock();
        let bytes = disk.inodes[&self.inode].bytes.clone().ok_or_else(|| error(io::ErrorKind::IsADirectory))?;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}
