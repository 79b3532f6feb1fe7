//! S3 and Google Cloud Storage through `object_store`.
//!
//! Conditional writes are sent once, by a client that repeats nothing: a repeated one
//! could meet its own first try and take it for somebody else's. Everything else repeats
//! by itself.

mod errors;
mod gcs;
mod s3;
mod upload;
mod wire;

use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, BackoffConfig, Error, GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, RetryConfig, UpdateVersion,
};

use self::errors::{NotWritten, no_bucket, of_conditional, of_plain};
use self::upload::CloudUpload;
use self::wire::FateNote;
use crate::bucket::{
    Bucket, CreateOutcome, Download, ErrorKind, Listed, Object, Result, RetryPolicy, StoreError, SwapOutcome, Upload,
    Version, check_key, check_prefix, key_fault,
};
use crate::config::StorageConfig;

pub(crate) use self::gcs::open as open_gcs;
pub(crate) use self::s3::open as open_s3;
pub(crate) use self::wire::{Wire, chain};

/// Deletions under way at once.
const DELETES_MAX: usize = 16;
/// One call of a control bucket; see [`super::Buckets`].
const CONTROL_TIMEOUT_MAX: Duration = Duration::from_secs(3);
const CONTROL_RETRY_MAX: Duration = Duration::from_secs(10);
/// Of its reads, which are repeated by themselves.
const CONTROL_READ_RETRY_MAX: Duration = Duration::from_secs(3);

/// The largest object that [`Bucket::get`] reads whole, in bytes.
pub(crate) const GET_BYTES_MAX: u64 = 256 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    S3,
    /// Directory buckets: listings come in no order.
    S3Express,
    Gcs,
}

/// The time limits of one of the two buckets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    timeout: Duration,
    read_retry_max: Duration,
    policy: RetryPolicy,
}

impl Limits {
    fn data(config: &StorageConfig) -> Limits {
        Limits {
            timeout: config.timeout,
            read_retry_max: config.retry_max_age,
            policy: RetryPolicy { max_age: config.retry_max_age, ..RetryPolicy::default() },
        }
    }

    fn control(config: &StorageConfig) -> Limits {
        Limits {
            timeout: config.timeout.min(CONTROL_TIMEOUT_MAX),
            read_retry_max: config.retry_max_age.min(CONTROL_READ_RETRY_MAX),
            policy: RetryPolicy { max_age: config.retry_max_age.min(CONTROL_RETRY_MAX), ..RetryPolicy::default() },
        }
    }

    /// For reads, listings, deletions and parts of uploads.
    fn patient(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: self.policy.pause_min,
                max_backoff: self.policy.pause_max,
                base: 2.0,
            },
            // The age is what limits.
            max_retries: 10_000,
            retry_timeout: self.read_retry_max,
        }
    }

    fn once(&self) -> RetryConfig {
        RetryConfig { max_retries: 0, ..self.patient() }
    }
}

#[derive(Debug)]
pub(crate) struct CloudBucket {
    dialect: Dialect,
    once: Arc<dyn ObjectStore>,
    patient: Arc<dyn ObjectStore>,
    /// Empty, or ends in `/`.
    prefix: String,
    /// Storage class of what is written.
    class: Option<String>,
    policy: RetryPolicy,
    name: String,
}

impl CloudBucket {
    fn path(&self, op: &'static str, key: &str) -> Result<Path> {
        check_key(op, key)?;
        Path::parse(format!("{}{key}", self.prefix)).map_err(|e| StoreError::refused(op, key, e))
    }

    fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::new();
        if let Some(class) = &self.class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        attributes
    }

    /// The token that the store's own precondition takes.
    fn version(&self, e_tag: Option<String>, generation: Option<String>) -> Option<Version> {
        let token = match self.dialect {
            Dialect::S3 | Dialect::S3Express => e_tag,
            Dialect::Gcs => generation,
        };
        token.filter(|t| !t.is_empty()).map(Version::new)
    }

    async fn put(&self, op: &'static str, key: &str, mode: PutMode, bytes: Bytes) -> Result<Option<Version>> {
        let path = self.path(op, key)?;
        let note = FateNote::default();
        let mut options = PutOptions { mode, attributes: self.attributes(), ..PutOptions::default() };
        options.extensions.insert(note.clone());
        match self.once.put_opts(&path, PutPayload::from_bytes(bytes), options).await {
            Ok(put) => match self.version(put.e_tag, put.version) {
                Some(version) => Ok(Some(version)),
                None => Err(StoreError::unclear(op, key, "the store's answer to the write names no version")),
            },
            Err(e) => match of_conditional(op, key, &e, &note) {
                NotWritten::Condition => Ok(None),
                NotWritten::Error(e) => Err(e),
            },
        }
    }

    /// `None` if there is no such object.
    async fn get_with(&self, op: &'static str, key: &str, options: GetOptions) -> Result<Option<GetResult>> {
        let path = self.path(op, key)?;
        match self.patient.get_opts(&path, options).await {
            Ok(found) => Ok(Some(found)),
            Err(e @ Error::NotFound { .. }) if !no_bucket(&chain(&e)) => Ok(None),
            Err(e) => Err(of_plain(op, key, &e, ErrorKind::Unavailable)),
        }
    }

    fn version_of(&self, op: &'static str, key: &str, found: &GetResult) -> Result<Version> {
        self.version(found.meta.e_tag.clone(), found.meta.version.clone()).ok_or_else(|| {
            StoreError::refused(op, key, "the store's answer to a read names no version, so nothing could be swapped")
        })
    }

    async fn delete_path(&self, key: &str) -> Result<()> {
        let path = self.path("delete", key)?;
        match self.patient.delete(&path).await {
            Ok(()) => Ok(()),
            Err(e @ Error::NotFound { .. }) if !no_bucket(&chain(&e)) => Ok(()),
            Err(e) => Err(of_plain("delete", key, &e, ErrorKind::Unclear)),
        }
    }
}

/// Reads a body of known length, which must be what arrives.
async fn collect(op: &'static str, key: &str, found: GetResult) -> Result<Bytes> {
    let expected = found.range.end.saturating_sub(found.range.start);
    if expected > GET_BYTES_MAX {
        let why = format!(
            "{expected} bytes are more than the {GET_BYTES_MAX} that are read in one piece: download it instead"
        );
        return Err(StoreError::refused(op, key, why));
    }
    let mut body = found.into_stream();
    let mut whole: Option<Bytes> = None;
    let mut many = BytesMut::new();
    while let Some(piece) = body.try_next().await.map_err(|e| of_plain(op, key, &e, ErrorKind::Unavailable))? {
        // Mostly there is one piece, which need not be copied.
        match whole.take() {
            None if many.is_empty() => whole = Some(piece),
            None => many.extend_from_slice(&piece),
            Some(first) => {
                many.reserve(expected as usize);
                many.extend_from_slice(&first);
                many.extend_from_slice(&piece);
            }
        }
        if (many.len() as u64) > expected {
            break;
        }
    }
    let bytes = whole.unwrap_or_else(|| many.freeze());
    if bytes.len() as u64 != expected {
        return Err(StoreError::unavailable(op, key, format_args!("{} bytes arrived of {expected}", bytes.len())));
    }
    Ok(bytes)
}

#[async_trait]
impl Bucket for CloudBucket {
    async fn get(&self, key: &str) -> Result<Option<Object>> {
        let Some(found) = self.get_with("get", key, GetOptions::default()).await? else { return Ok(None) };
        let version = self.version_of("get", key, &found)?;
        Ok(Some(Object { bytes: collect("get", key, found).await?, version }))
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let head = GetOptions { head: true, ..GetOptions::default() };
        if range.start >= range.end {
            return Ok(self.get_with("get", key, head).await?.map(|_| Bytes::new()));
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        match self.get_with("get", key, options).await {
            Ok(Some(found)) => Ok(Some(collect("get", key, found).await?)),
            Ok(None) => Ok(None),
            // From behind its end on there is nothing, which the stores call an error (416).
            Err(e) => match self.get_with("get", key, head).await? {
                Some(found) if found.meta.size <= range.start => Ok(Some(Bytes::new())),
                _ => Err(e),
            },
        }
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome> {
        Ok(match self.put("create", key, PutMode::Create, bytes).await? {
            Some(version) => CreateOutcome::Created(version),
            None => CreateOutcome::Exists,
        })
    }

    async fn swap(&self, key: &str, expected: Option<&Version>, bytes: Bytes) -> Result<SwapOutcome> {
        let mode = match expected {
            None => PutMode::Create,
            Some(v) => PutMode::Update(match self.dialect {
                Dialect::S3 | Dialect::S3Express => UpdateVersion { e_tag: Some(v.as_str().into()), version: None },
                Dialect::Gcs => UpdateVersion { e_tag: None, version: Some(v.as_str().into()) },
            }),
        };
        // A create that finds no bucket is no conflict.
        let op = if expected.is_some() { "swap" } else { "create" };
        Ok(match self.put(op, key, mode, bytes).await? {
            Some(version) => SwapOutcome::Swapped(version),
            None => SwapOutcome::Conflict,
        })
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>> {
        check_prefix("list", prefix)?;
        let fail = |e: &Error| of_plain("list", prefix, e, ErrorKind::Unavailable);
        let from =
            Path::parse(format!("{}{prefix}", self.prefix).trim_end_matches('/')).map_err(|e| fail(&e.into()))?;
        let from = (!from.as_ref().is_empty()).then_some(&from);
        let mut objects = match after {
            None => self.patient.list(from),
            // Not parsed as a key: a caller may start in the middle of nowhere.
            Some(after) => self.patient.list_with_offset(from, &Path::from(format!("{}{after}", self.prefix))),
        };
        let mut listed: Vec<Listed> = Vec::new();
        // Without order, the smallest `limit` of all that come.
        let mut smallest: BinaryHeap<(String, u64)> = BinaryHeap::new();
        while listed.len() < limit {
            let Some(meta) = objects.next().await else { break };
            let meta = meta.map_err(|e| fail(&e))?;
            let Some(key) = meta.location.as_ref().strip_prefix(&self.prefix) else { continue };
            // Somebody else's, or a folder marker that a console made.
            if key_fault(key).is_some() || after.is_some_and(|a| key <= a) {
                continue;
            }
            if self.dialect == Dialect::S3Express {
                smallest.push((key.to_string(), meta.size));
                if smallest.len() > limit {
                    smallest.pop();
                }
                continue;
            }
            if listed.last().is_some_and(|last| last.key.as_str() >= key) {
                return Err(StoreError::refused("list", prefix, "the store does not list keys in their order"));
            }
            listed.push(Listed { key: key.to_string(), size: meta.size });
        }
        if self.dialect == Dialect::S3Express {
            listed = smallest.into_sorted_vec().into_iter().map(|(key, size)| Listed { key, size }).collect();
        }
        Ok(listed)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.delete_path(key).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        let mut under_way = FuturesUnordered::new();
        for key in keys {
            if under_way.len() == DELETES_MAX {
                under_way.try_next().await?;
            }
            under_way.push(self.delete_path(key));
        }
        under_way.try_collect::<()>().await
    }

    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>> {
        let path = self.path("upload", key)?;
        Ok(Box::new(CloudUpload::new(Arc::clone(&self.patient), path, key, self.attributes(), self.policy)))
    }

    async fn download(&self, key: &str) -> Result<Option<Download>> {
        let Some(found) = self.get_with("download", key, GetOptions::default()).await? else { return Ok(None) };
        let version = self.version_of("download", key, &found)?;
        let size = found.meta.size;
        let key = key.to_string();
        let body = found.into_stream().map_err(move |e| of_plain("download", &key, &e, ErrorKind::Unavailable)).boxed();
        Ok(Some(Download { size, version, body }))
    }

    fn retry_policy(&self) -> RetryPolicy {
        self.policy
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

/// `key_prefix` as keys start with it.
fn prefix_of(config: &StorageConfig) -> Result<String> {
    if config.key_prefix.is_empty() {
        return Ok(String::new());
    }
    match key_fault(&config.key_prefix) {
        Some(fault) => {
            Err(StoreError::refused("open", "", format_args!("storage.key_prefix {:?}: {fault}", config.key_prefix)))
        }
        None => Ok(format!("{}/", config.key_prefix)),
    }
}

/// Chunks live for hours, and such classes bill an object for a month or more.
fn warn_of_class(class: &str) {
    tracing::warn!(
        "storage.class {class:?} bills every object for a minimum time and every read: netsy replaces its objects within \
         hours, so that \"STANDARD\" is mostly the cheaper one"
    );
}

/// An endpoint must be a URL, and one without TLS must be wanted.
fn check_endpoint(endpoint: &str, allow_http: bool) -> Result<()> {
    let refuse = |why: &str| Err(StoreError::refused("open", "", format_args!("storage.endpoint {endpoint:?}: {why}")));
    match endpoint.split_once("://") {
        Some(("https", rest)) | Some(("http", rest)) if rest.is_empty() => refuse("it names no host"),
        Some(("https", _)) => Ok(()),
        Some(("http", _)) if allow_http => Ok(()),
        Some(("http", _)) => refuse("it has no TLS: use https://, or set storage.allow_http to true"),
        _ => refuse("it must start with https:// (or http:// with storage.allow_http)"),
    }
}
