//! A file layer for tests that makes the effect of losing power visible.
//!
//! A killed process keeps everything it wrote, as the system's page cache outlives it; a machine that loses
//! power keeps only what was synced. Below a folder that was [`enable`]d, this layer keeps an undo record of
//! every change since the last sync: of contents until the file is synced, of names until the folder is.
//! After a SIGKILL, [`drop_unsynced`] takes back what a power failure would have taken. [`abort_after`] ends the
//! process at a chosen operation instead.
//!
//! - SQLite: open with the file layer named by [`VFS_NAME`] after [`register`].
//! - Ordinary files: [`files`].
//!
//! The undo records lie in a folder beside the one that is tracked (its name with `.undo` appended), so that
//! hard links into it are possible and listings do not show it. They are themselves never synced: the
//! machine does not really fail.
//!
//! Not for production: every write is preceded by reading what it overwrites.

pub mod files;
mod recover;
mod undo;
mod vfs;

pub use recover::{Loss, drop_unsynced};
pub use undo::{abort_after, enable};
pub use vfs::{VFS_NAME, register};
