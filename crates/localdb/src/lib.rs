//! A node's local SQLite database: the rows of its log, its identity and how far it has come.
//!
//! For: making batches of entries durable with one sync each ([`Writer::commit`]), reading values, rows and
//! entries back from any thread ([`Readers`]), rebuilding the index at start ([`Readers::scan`]), replacing
//! everything from a snapshot ([`Writer::begin_restore`]). All calls block: use them from threads of their own.
//!
//! Not for: deciding anything. Which entries are committed, who is Primary and which rows compaction
//! takes away is decided above; nothing here knows gRPC, object storage or the protocol.
//!
//! Start reading at [`LocalDb::open`]. The schema is described in docs/local-database.md.

mod check;
mod checkpoint;
mod connection;
#[cfg(feature = "crashfs")]
pub mod crash_vfs;
mod error;
mod files;
mod folder;
mod open;
mod progress;
mod readers;
mod restore;
mod row_codec;
mod scan;
mod schema;
mod writer;

pub use error::Error;
pub use open::{Identity, LocalDb, OpenOptions};
pub use progress::{LogEnd, Progress, TermRun, Uploaded};
pub use readers::Readers;
pub use restore::{Restore, RestoreEnd};
pub use scan::{RowMeta, RowWhat, ScanEnd, ScanOptions};
pub use writer::{Batch, DELETE_ROWS_MAX, VacuumStep, Writer};
