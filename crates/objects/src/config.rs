//! Where a cluster keeps its objects: the `storage.*` keys of the cluster file.

use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    File,
    S3,
    Gcs,
}

/// Server-side encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// What the provider does by itself (Amazon and Google encrypt everything): nothing is
    /// asked for, as stores without encryption answer that with an error.
    ProviderManaged,
    /// A key of the customer's in the provider's key service.
    CustomerManaged { kms_key_id: String },
    /// For stores without server-side encryption: nothing is asked for.
    None,
}

/// Plain values, already parsed; [`crate::open`] checks them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageConfig {
    pub provider: Provider,
    /// S3, GCS: the bucket's name.
    pub bucket: String,
    /// File: the folder, on a local file system.
    pub path: PathBuf,
    /// Prepended to every key with a `/`; empty for none.
    pub key_prefix: String,
    /// `None`: from the provider's usual environment.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// S3: `endpoint/bucket/key` instead of `bucket.endpoint/key`. `None`: on if an endpoint is set.
    pub path_style: Option<bool>,
    /// Lets an `http://` endpoint through.
    pub allow_http: bool,
    /// `STANDARD` and so on; `None` asks for none.
    pub class: Option<String>,
    pub encryption: Encryption,
    /// One call.
    pub timeout: Duration,
    /// All tries of one operation.
    pub retry_max_age: Duration,
    /// Added before each call. For benchmarks only: it stands in for a distant store.
    pub extra_latency: Duration,
}

impl StorageConfig {
    /// The defaults of the cluster file.
    pub fn new(provider: Provider) -> Self {
        StorageConfig {
            provider,
            bucket: String::new(),
            path: PathBuf::new(),
            key_prefix: String::new(),
            endpoint: None,
            region: None,
            path_style: None,
            allow_http: false,
            class: None,
            encryption: Encryption::ProviderManaged,
            timeout: Duration::from_secs(10),
            retry_max_age: Duration::from_secs(30),
            extra_latency: Duration::ZERO,
        }
    }

    /// A folder.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        StorageConfig { path: path.into(), ..Self::new(Provider::File) }
    }
}
