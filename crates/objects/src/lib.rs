//! Object storage: the permanent home of a cluster's data.
//!
//! For: opening a bucket (`file`, `s3`, `gcs`), conditional writes whose outcome is
//! settled even when their answer is lost, and the objects netsy keeps there: manifest,
//! registrations, object log, snapshots. Nothing outside this crate names an object key.
//!
//! Not for: the local database, gRPC, or deciding who may write what (`protocol`).
//!
//! Start at [`Bucket`].

pub mod bucket;
pub mod cleanup;
pub mod config;
mod credentials;
pub mod fault;
pub mod format;
pub mod inspect;
pub mod keys;
pub mod log_reader;
pub mod manifest;
pub mod object_log;
pub mod probe;
mod provider;
pub mod read;
pub mod restore;
pub mod segment;
pub mod settle;
pub mod slow;
pub mod snapshot;

pub use bucket::{
    Bucket, CreateOutcome, Download, ErrorKind, Listed, Object, Result, RetryPolicy, StoreError, SwapOutcome, Upload,
    Version,
};
pub use config::{Encryption, Provider, StorageConfig};
pub use provider::{Buckets, LATENCY_VARIABLE, fs_ops, open, open_over};
