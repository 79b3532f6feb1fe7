//! Opening the bucket that `storage.*` names.

pub(crate) mod cloud;
pub(crate) mod file;
pub mod fs_ops;

use std::sync::Arc;

use crate::bucket::{Bucket, Result, StoreError};
use crate::config::{Provider, StorageConfig};
use crate::slow::SlowBucket;

pub(crate) use cloud::{Wire, chain};

/// One bucket through two sets of connections.
#[derive(Debug, Clone)]
pub struct Buckets {
    /// For the log, segments and snapshots: patient (`storage.timeout`, `storage.retry_max_age`).
    pub data: Arc<dyn Bucket>,
    /// For `cluster.json`, `elector.json` and registrations: short time-outs, as those
    /// calls are worth little when late. The same as `data` for the file provider.
    pub control: Arc<dyn Bucket>,
}

/// For benchmarks only: adds this much (`30ms`) to every call, to stand in for a distant
/// store. [`StorageConfig::extra_latency`] does the same and wins.
pub const LATENCY_VARIABLE: &str = "NETSY_TEST_STORE_LATENCY";

/// Sets the provider up. Talks to no store yet: [`crate::probe::probe`] does, and is to be called
/// before anything is relied on.
pub async fn open(config: &StorageConfig) -> Result<Buckets> {
    let opened = match config.provider {
        Provider::File => open_over(config, Arc::new(fs_ops::HostFs)).await?,
        Provider::S3 => cloud::open_s3(config).await?,
        Provider::Gcs => cloud::open_gcs(config).await?,
    };
    let latency = match std::env::var(LATENCY_VARIABLE) {
        _ if !config.extra_latency.is_zero() => config.extra_latency,
        Err(_) => return Ok(opened),
        Ok(text) => parse_latency(&text)?,
    };
    Ok(Buckets {
        data: Arc::new(SlowBucket::new(opened.data, latency)),
        control: Arc::new(SlowBucket::new(opened.control, latency)),
    })
}

/// [`open`] for the file provider, over another layer of file operations than the system's.
pub async fn open_over(config: &StorageConfig, fs: Arc<dyn fs_ops::FsOps>) -> Result<Buckets> {
    let bucket: Arc<dyn Bucket> = Arc::new(file::FileBucket::open_over(config, fs).await?);
    Ok(Buckets { data: Arc::clone(&bucket), control: bucket })
}

fn parse_latency(text: &str) -> Result<std::time::Duration> {
    text.strip_suffix("ms").and_then(|n| n.parse().ok()).map(std::time::Duration::from_millis).ok_or_else(|| {
        StoreError::refused(
            "open",
            "",
            format_args!("{LATENCY_VARIABLE} is {text:?}: give milliseconds, as in \"30ms\""),
        )
    })
}
