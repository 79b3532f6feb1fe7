//! What netsy needs of an object store, and nothing more.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// Identifies one write of one object: two reads with the same version saw the same
/// write, as far as the provider can tell. S3's is the ETag, which is equal for equal
/// bodies; that is why every body that is swapped carries a fresh nonce (R1).
#[derive(Clone)]
pub struct Version(Arc<str>);

impl Version {
    /// Some stores quote an ETag in one answer and not in another.
    fn bare(&self) -> &str {
        self.0.trim_matches('"')
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.bare() == other.bare()
    }
}

impl Eq for Version {}

impl std::hash::Hash for Version {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.bare().hash(state);
    }
}

impl Version {
    /// Made by providers only; callers treat it as opaque.
    pub fn new(token: impl Into<Arc<str>>) -> Self {
        Version(token.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", self.0)
    }
}

/// A whole object.
#[derive(Debug, Clone)]
pub struct Object {
    pub bytes: Bytes,
    pub version: Version,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    /// Bytes.
    pub size: u64,
}

/// The answer to a create-only write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateOutcome {
    Created(Version),
    /// The key is taken, perhaps by this very write, if an earlier try of it landed
    /// unanswered: [`crate::settle::create_settled`] finds out.
    Exists,
}

/// The answer to a compare-and-swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwapOutcome {
    Swapped(Version),
    /// The object is not (or no longer) at the expected version. As with
    /// [`CreateOutcome::Exists`], the one in the way may be the caller's own.
    Conflict,
}

/// What a failed call leaves behind, which is all that a caller may decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A write that may have been applied, may not, and may still land after this answer.
    /// Never returned by a call that only reads.
    Unclear,
    /// Nothing was changed by this call, and the same call may succeed later: slow-down
    /// answers, no connection, a time-out of a read, a full disk.
    Unavailable,
    /// Nothing was changed, and repeating the call will not help: permissions, a missing
    /// bucket, credentials that cannot be had, a malformed key.
    Refused,
}

/// A failed call to the store.
#[derive(Debug, Clone, thiserror::Error)]
#[error("object storage: {op} {key:?}: {reason}")]
pub struct StoreError {
    pub kind: ErrorKind,
    /// `get`, `create`, `swap`, `list`, `delete`, `upload`, `download`.
    pub op: &'static str,
    pub key: String,
    pub reason: String,
}

impl StoreError {
    pub fn new(kind: ErrorKind, op: &'static str, key: impl Into<String>, reason: impl fmt::Display) -> Self {
        StoreError { kind, op, key: key.into(), reason: reason.to_string() }
    }

    pub fn unclear(op: &'static str, key: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Unclear, op, key, reason)
    }

    pub fn unavailable(op: &'static str, key: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Unavailable, op, key, reason)
    }

    pub fn refused(op: &'static str, key: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Refused, op, key, reason)
    }

    /// The write may have landed or may land yet.
    pub fn is_unclear(&self) -> bool {
        self.kind == ErrorKind::Unclear
    }

    /// Worth trying again later. True of [`ErrorKind::Unclear`] too: a conditional write
    /// may be repeated with the same bytes.
    pub fn is_retryable(&self) -> bool {
        self.kind != ErrorKind::Refused
    }
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// How long and how often the settle layer tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// All tries of one operation together; then it fails with
    /// [`ErrorKind::Unavailable`] or, if any try of a write was unclear, `Unclear`.
    pub max_age: Duration,
    /// The first pause between two tries; it doubles, with jitter, up to `pause_max`.
    pub pause_min: Duration,
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            max_age: Duration::from_secs(30),
            pause_min: Duration::from_millis(50),
            pause_max: Duration::from_secs(2),
        }
    }
}

/// An object being read piece by piece.
pub struct Download {
    /// Bytes of the whole object.
    pub size: u64,
    pub version: Version,
    /// A piece is at most a few MiB. An error ends the stream.
    pub body: BoxStream<'static, Result<Bytes>>,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("size", &self.size).field("version", &self.version).finish_non_exhaustive()
    }
}

/// An object being written piece by piece. Nothing shows under the key before
/// [`Upload::finish`]; dropping it without `finish` leaves the key as it was.
#[async_trait]
pub trait Upload: Send {
    /// Takes any amount; holds back at most one part (some MiB) and waits while the
    /// store is behind.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;
    /// Makes the object appear, whole.
    async fn finish(self: Box<Self>) -> Result<()>;
    /// Frees what the store holds of it.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// A bucket, or the part of one below `storage.key_prefix`: keys are relative to that.
///
/// A key is at most [`KEY_BYTES_MAX`] bytes of `/`-separated segments; a segment is one
/// or more of `A-Z a-z 0-9 . _ - = + @ ,` and is not `.` or `..` and does not start with
/// a dot. Anything else is [`ErrorKind::Refused`].
///
/// Calls are cancel-safe for the caller, but a write whose future was dropped may land.
/// Reads repeat by themselves within the provider's time limits; conditional writes are
/// sent once, so that their answers mean what they say.
#[async_trait]
pub trait Bucket: Send + Sync + fmt::Debug {
    /// The whole object; `None` if there is none.
    async fn get(&self, key: &str) -> Result<Option<Object>>;

    /// Bytes `range` of the object, cut at its end; `None` if there is no object.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>>;

    /// Writes the object if there is none. Sent once: an error may be
    /// [`ErrorKind::Unclear`].
    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome>;

    /// Replaces the object if it is still at `expected`; `None` expects no object and is
    /// the same as `create`. Sent once.
    async fn swap(&self, key: &str, expected: Option<&Version>, bytes: Bytes) -> Result<SwapOutcome>;

    /// Up to `limit` objects whose keys start with `prefix` and sort after `after`, in the
    /// byte order of their keys. Fewer than `limit` means that there were no more. `prefix` is empty
    /// or ends in `/`. The limit may exceed a page of the provider's.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>>;

    /// Removes the object; one that does not exist is a success.
    async fn delete(&self, key: &str) -> Result<()>;

    /// Removes several, in no particular order; after an error any of them may be gone.
    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        for key in keys {
            self.delete(key).await?;
        }
        Ok(())
    }

    /// Starts a streaming write that replaces what is there without a condition: only for
    /// keys named by their content or never written twice.
    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>>;

    /// Starts a streaming read; `None` if there is no object.
    async fn download(&self, key: &str) -> Result<Option<Download>>;

    /// How long the settle layer goes on.
    fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy::default()
    }

    /// Whether [`crate::probe`] can find out anything that opening it did not.
    fn needs_probe(&self) -> bool {
        true
    }

    /// For log lines and errors: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///path`.
    fn describe(&self) -> String;
}

/// Longest key with its prefix, in bytes. S3 and GCS allow 1,024.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest segment of a key, in bytes: what file systems allow, less room for suffixes.
pub const KEY_SEGMENT_BYTES_MAX: usize = 200;

/// Checks a key against the rule at [`Bucket`].
pub fn check_key(op: &'static str, key: &str) -> Result<()> {
    match key_fault(key) {
        None => Ok(()),
        Some(fault) => Err(StoreError::refused(op, key, format_args!("not a valid object key: {fault}"))),
    }
}

/// Checks a listing's prefix: empty, or a key followed by one `/`.
pub fn check_prefix(op: &'static str, prefix: &str) -> Result<()> {
    if prefix.is_empty() {
        return Ok(());
    }
    match prefix.strip_suffix('/') {
        Some(key) => check_key(op, key),
        None => Err(StoreError::refused(op, prefix, "a prefix to list must be empty or end in '/'")),
    }
}

/// What is wrong with a key, if anything.
pub(crate) fn key_fault(key: &str) -> Option<String> {
    if key.is_empty() {
        return Some("it is empty".into());
    }
    if key.len() > KEY_BYTES_MAX {
        return Some(format!("it has {} bytes, {KEY_BYTES_MAX} are allowed", key.len()));
    }
    for segment in key.split('/') {
        if segment.is_empty() {
            return Some("it has an empty segment".into());
        }
        if segment.starts_with('.') {
            return Some(format!("segment {segment:?} starts with a dot"));
        }
        if segment.len() > KEY_SEGMENT_BYTES_MAX {
            return Some(format!("segment {segment:?} has more than {KEY_SEGMENT_BYTES_MAX} bytes"));
        }
        if let Some(c) = segment.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-=+@,".contains(*c))) {
            return Some(format!("character {c:?} is not one of A-Z a-z 0-9 . _ - = + @ , /"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_leave_the_root_or_confuse_a_store_are_refused() {
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", ".netsy/x", "a/.b", "a\\b", "a b", "a#1", "a%2e",
            "ä", "a\0",
        ] {
            let e = check_key("get", bad).unwrap_err();
            assert_eq!(e.kind, ErrorKind::Refused, "{bad:?}");
        }
        assert!(check_key("get", &"x".repeat(KEY_SEGMENT_BYTES_MAX + 1)).is_err());
        assert!(check_key("get", &vec!["x"; KEY_BYTES_MAX].join("/")).is_err());
        for good in ["cluster.json", "log/00000000000000000001.netsy", "nodes/a-b_c.json", "snapshots/1/x=y+z@,"] {
            check_key("get", good).unwrap();
        }
        check_prefix("list", "").unwrap();
        check_prefix("list", "log/").unwrap();
        assert!(check_prefix("list", "log").is_err());
        assert!(check_prefix("list", "../").is_err());
    }
}
