//! The SQLite file layer: the default one, with an undo record before each change.
//!
//! An open file is our header followed by the default layer's own file in one allocation made by SQLite.

use super::files::parent;
use super::undo::{Content, FileUndo, NameChange, Root, root_of};
use rusqlite::ffi;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The layer's name for `OpenOptions::vfs`, once registered.
pub const VFS_NAME: &str = "netsy-crash";

/// The default layer; set once by [`register`], never freed.
struct Default(*mut ffi::sqlite3_vfs);
// SAFETY: SQLite's registered layers are immutable and live as long as the process.
unsafe impl Send for Default {}
// SAFETY: as above.
unsafe impl Sync for Default {}
static DEFAULT: OnceLock<Option<Default>> = OnceLock::new();

#[repr(C)]
struct OurFile {
    base: ffi::sqlite3_file,
    /// Null for files that are not tracked.
    tracked: *mut Tracked,
}

struct Tracked {
    undo: Arc<FileUndo>,
    root: Arc<Root>,
    path: PathBuf,
    /// The default layer syncs the folder together with a log or journal that it just made.
    syncs_folder: AtomicBool,
}

/// Registers the layer with SQLite (once; later calls change nothing) and returns its name.
///
/// # Errors
/// If SQLite has no default layer or refuses ours.
pub fn register() -> io::Result<&'static str> {
    let default = DEFAULT.get_or_init(|| {
        // SAFETY: initialises SQLite if need be; a null name asks for the default layer.
        let default = unsafe {
            ffi::sqlite3_initialize();
            ffi::sqlite3_vfs_find(std::ptr::null())
        };
        if default.is_null() {
            return None;
        }
        // SAFETY: a registered layer is valid for as long as the process runs; we copy it.
        let mut ours = unsafe { *default };
        ours.zName = c"netsy-crash".as_ptr();
        ours.szOsFile += size_of::<OurFile>() as c_int;
        ours.pNext = std::ptr::null_mut();
        ours.xOpen = Some(open);
        ours.xDelete = Some(delete);
        // SAFETY: leaked, so valid for as long as the process runs.
        let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 0) };
        (code == ffi::SQLITE_OK).then_some(Default(default))
    });
    match default {
        Some(_) => Ok(VFS_NAME),
        None => Err(io::Error::other("SQLite has no default file layer, or refused ours")),
    }
}

fn default() -> *mut ffi::sqlite3_vfs {
    DEFAULT.get().and_then(Option::as_ref).map_or(std::ptr::null_mut(), |default| default.0)
}

/// The default layer's file behind ours.
///
/// # Safety
/// `file` must be one that SQLite allocated for our layer.
unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite allocates szOsFile bytes, our header first; its size is a multiple of 8.
    unsafe { file.byte_add(size_of::<OurFile>()) }
}

/// # Safety
/// As [`real`], and the file must be open.
unsafe fn tracked<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a Tracked> {
    // SAFETY: the header is set by `open` and stays until `close`.
    unsafe { (*file.cast::<OurFile>()).tracked.as_ref() }
}

/// Calls a method of the default layer's file.
macro_rules! real_call {
    ($file:expr, $method:ident $(, $arg:expr)*) => {{
        let real = real($file);
        match (*(*real).pMethods).$method {
            Some(method) => method(real $(, $arg)*),
            None => ffi::SQLITE_IOERR,
        }
    }};
}

/// The content as the default layer reads it. (A descriptor of our own would drop SQLite's locks when closed.)
struct RealContent(*mut ffi::sqlite3_file);

impl Content for RealContent {
    fn length(&self) -> io::Result<u64> {
        let mut length = 0;
        // SAFETY: made from an open file by the methods below.
        let code = unsafe { real_call!(self.0, xFileSize, &mut length) };
        if code == ffi::SQLITE_OK { Ok(length as u64) } else { Err(io::Error::other(format!("xFileSize: {code}"))) }
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: as above; SQLite writes at most the length of `bytes`, which is below 2 GiB as writes are.
        let code = unsafe { real_call!(self.0, xRead, bytes.as_mut_ptr().cast(), bytes.len() as c_int, at as i64) };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(io::Error::other(format!("xRead: {code}"))) }
    }
}

fn report(doing: &str, path: &Path, error: &io::Error) {
    tracing::error!(path = %path.display(), %error, "crash file layer: {doing}");
}

unsafe fn path_of(name: *const c_char) -> Option<PathBuf> {
    if name.is_null() {
        return None;
    }
    // SAFETY: SQLite passes C strings.
    let name = unsafe { CStr::from_ptr(name) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    const TRACKED: c_int = ffi::SQLITE_OPEN_MAIN_DB
        | ffi::SQLITE_OPEN_MAIN_JOURNAL
        | ffi::SQLITE_OPEN_SUPER_JOURNAL
        | ffi::SQLITE_OPEN_WAL;
    // SAFETY: `file` has room for our header and the default layer's file; all else is passed on as it came.
    unsafe {
        let ours = file.cast::<OurFile>();
        (*ours).base.pMethods = std::ptr::null();
        (*ours).tracked = std::ptr::null_mut();
        let default = default();
        let open_real = || match (*default).xOpen {
            Some(open) => open(default, name, real(file), flags, flags_out),
            None => ffi::SQLITE_CANTOPEN,
        };
        let path = if flags & TRACKED == 0 { None } else { path_of(name) };
        let code = match path {
            None => open_real(),
            Some(path) => match open_tracked(&path, flags, open_real) {
                Ok((code, tracked)) => {
                    if let Some(tracked) = tracked {
                        (*ours).tracked = Box::into_raw(Box::new(tracked));
                    }
                    code
                }
                Err(e) => {
                    report("opening", &path, &e);
                    ffi::SQLITE_CANTOPEN
                }
            },
        };
        if !(*real(file)).pMethods.is_null() {
            (*ours).base.pMethods = &METHODS;
        }
        code
    }
}

fn open_tracked(path: &Path, flags: c_int, open_real: impl FnOnce() -> c_int) -> io::Result<(c_int, Option<Tracked>)> {
    let Some((root, path)) = root_of(path)? else { return Ok((open_real(), None)) };
    let fresh = !path.exists();
    let code = if fresh && flags & ffi::SQLITE_OPEN_CREATE != 0 {
        root.change_name(parent(&path)?, &NameChange::Created(&path), || Ok(open_real()))?
    } else {
        open_real()
    };
    if code != ffi::SQLITE_OK {
        return Ok((code, None));
    }
    let undo = root.file(path.metadata()?.ino(), fresh)?;
    let syncs_folder = AtomicBool::new(fresh && flags & ffi::SQLITE_OPEN_MAIN_DB == 0);
    Ok((code, Some(Tracked { undo, root, path, syncs_folder })))
}

unsafe extern "C" fn delete(_vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_folder: c_int) -> c_int {
    // SAFETY: arguments are passed on as they came.
    let delete_real = || unsafe {
        let default = default();
        match (*default).xDelete {
            Some(delete) => delete(default, name, sync_folder),
            None => ffi::SQLITE_IOERR_DELETE,
        }
    };
    // SAFETY: SQLite passes a C string.
    let Some(path) = (unsafe { path_of(name) }) else { return delete_real() };
    let outcome = (|| {
        let Some((root, path)) = root_of(&path)? else { return Ok(delete_real()) };
        let Some(kept) = root.kept_name(&path) else { return Ok(delete_real()) };
        let folder = parent(&path)?;
        let code = root.change_name(folder, &NameChange::Removed { path: &path, kept }, || Ok(delete_real()))?;
        if code == ffi::SQLITE_OK && sync_folder != 0 {
            root.names_synced(folder)?;
        }
        Ok::<_, io::Error>(code)
    })();
    outcome.unwrap_or_else(|e| {
        report("deleting", &path, &e);
        ffi::SQLITE_IOERR_DELETE
    })
}

/// The code of an operation, or of the failure to record it.
fn code_of(outcome: io::Result<c_int>, tracked: &Tracked, doing: &str, failed: c_int) -> c_int {
    outcome.unwrap_or_else(|e| {
        report(doing, &tracked.path, &e);
        failed
    })
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes an open file once.
    unsafe {
        let ours = file.cast::<OurFile>();
        if !(*ours).tracked.is_null() {
            drop(Box::from_raw((*ours).tracked));
            (*ours).tracked = std::ptr::null_mut();
        }
        real_call!(file, xClose)
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, bytes: *const c_void, count: c_int, at: i64) -> c_int {
    // SAFETY: arguments are passed on as they came.
    unsafe {
        let write = || real_call!(file, xWrite, bytes, count, at);
        match tracked(file) {
            None => write(),
            Some(tracked) => {
                let outcome = tracked.undo.write(&RealContent(file), at as u64, count as u64, write);
                code_of(outcome, tracked, "writing", ffi::SQLITE_IOERR_WRITE)
            }
        }
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: arguments are passed on as they came.
    unsafe {
        let truncate = || real_call!(file, xTruncate, size);
        match tracked(file) {
            None => truncate(),
            Some(tracked) => {
                let outcome = tracked.undo.set_len(&RealContent(file), size as u64, truncate);
                code_of(outcome, tracked, "truncating", ffi::SQLITE_IOERR_TRUNCATE)
            }
        }
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: arguments are passed on as they came.
    unsafe {
        let sync = || real_call!(file, xSync, flags);
        let Some(tracked) = tracked(file) else { return sync() };
        let outcome = tracked.undo.sync(sync, |&code| code == ffi::SQLITE_OK).and_then(|code| {
            if code == ffi::SQLITE_OK && tracked.syncs_folder.swap(false, Ordering::AcqRel) {
                tracked.root.names_synced(parent(&tracked.path)?)?;
            }
            Ok(code)
        });
        code_of(outcome, tracked, "syncing", ffi::SQLITE_IOERR_FSYNC)
    }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, bytes: *mut c_void, count: c_int, at: i64) -> c_int {
    // SAFETY: arguments are passed on as they came; so in all that follow.
    unsafe { real_call!(file, xRead, bytes, count, at) }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: as in `read`.
    unsafe { real_call!(file, xFileSize, size) }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as in `read`.
    unsafe { real_call!(file, xLock, level) }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as in `read`.
    unsafe { real_call!(file, xUnlock, level) }
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, outcome: *mut c_int) -> c_int {
    // SAFETY: as in `read`.
    unsafe { real_call!(file, xCheckReservedLock, outcome) }
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, op: c_int, arg: *mut c_void) -> c_int {
    // These would let the default layer change lengths, or map the file, past our records.
    if matches!(op, ffi::SQLITE_FCNTL_CHUNK_SIZE | ffi::SQLITE_FCNTL_SIZE_HINT | ffi::SQLITE_FCNTL_MMAP_SIZE) {
        return ffi::SQLITE_NOTFOUND;
    }
    // SAFETY: as in `read`.
    unsafe { real_call!(file, xFileControl, op, arg) }
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: as in `read`.
    unsafe { real_call!(file, xSectorSize) }
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: as in `read`.
    unsafe { real_call!(file, xDeviceCharacteristics) }
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    page: c_int,
    page_bytes: c_int,
    extend: c_int,
    mapped: *mut *mut c_void,
) -> c_int {
    // SAFETY: as in `read`.
    unsafe { real_call!(file, xShmMap, page, page_bytes, extend, mapped) }
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: as in `read`.
    unsafe { real_call!(file, xShmLock, offset, count, flags) }
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: as in `read`.
    unsafe {
        let real = real(file);
        if let Some(barrier) = (*(*real).pMethods).xShmBarrier {
            barrier(real);
        }
    }
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: as in `read`.
    unsafe { real_call!(file, xShmUnmap, delete) }
}

/// Version 2: without memory mapping of content.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
