//! Reads that outlast a store's bad minutes, and errors that name the object that is wrong.

use crate::bucket::{Bucket, ErrorKind, Listed, StoreError};
use crate::format::{Fault, FormatError};
use crate::manifest::ManifestError;
use crate::settle::Tries;
use bytes::Bytes;
use netsy_api::ids::ChunkSeq;
use std::future::Future;

/// Keys asked for in one listing call.
const LIST_PAGE: usize = 1000;

/// Why something could not be read from the bucket.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The store did not answer in time, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is damaged, or is not what its place asks for.
    #[error("object {key}: {reason}")]
    Bad {
        /// Which.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// An object was written by a newer netsy.
    #[error("object {key}: {reason}")]
    Unsupported {
        /// Which.
        key: String,
        /// What this program does not know.
        reason: String,
    },
    /// An object that something else names is not there.
    #[error("object {key} is missing")]
    Missing {
        /// Which.
        key: String,
    },
    /// Chunks are missing below the log's end, and no segment or snapshot stands in for them.
    #[error(
        "the object log has a gap: chunks {first} to {last} are missing and no segment or snapshot covers them \
         (was something other than netsy deleting in the bucket, such as a lifecycle rule?)"
    )]
    Gap {
        /// The first missing.
        first: ChunkSeq,
        /// The last missing.
        last: ChunkSeq,
    },
}

impl ReadError {
    /// The object that is wrong, if one is.
    pub fn key(&self) -> Option<&str> {
        match self {
            ReadError::Bad { key, .. } | ReadError::Unsupported { key, .. } | ReadError::Missing { key } => Some(key),
            ReadError::Store(_) | ReadError::Gap { .. } => None,
        }
    }

    pub(crate) fn bad(key: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        ReadError::Bad { key: key.into(), reason: reason.to_string() }
    }

    pub(crate) fn format(key: &str, error: &FormatError) -> Self {
        match error.fault {
            Fault::Unsupported => ReadError::Unsupported { key: key.to_string(), reason: error.to_string() },
            _ => Self::bad(key, error),
        }
    }

    pub(crate) fn manifest(key: &str, error: &ManifestError) -> Self {
        match error {
            ManifestError::Unsupported(reason) => {
                ReadError::Unsupported { key: key.to_string(), reason: reason.clone() }
            }
            ManifestError::Invalid(_) => Self::bad(key, error),
        }
    }
}

/// Repeats a call that changes nothing, or only deletes, while the store is unavailable, within its
/// retry policy.
pub(crate) async fn retried<T, F, Fut>(bucket: &dyn Bucket, mut call: F) -> Result<T, StoreError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let mut tries = Tries::new(bucket.retry_policy());
    loop {
        match call().await {
            Err(e) if e.kind != ErrorKind::Refused => {
                tracing::debug!(key = %e.key, error = %e.reason, tries = tries.count, "object storage call not answered yet");
                if !tries.pause().await {
                    return Err(e);
                }
            }
            done => return done,
        }
    }
}

/// Reads again what is bad: it may have been damaged on its way, and be whole in the bucket.
pub(crate) async fn twice<T, F, Fut>(mut read: F) -> Result<T, ReadError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, ReadError>>,
{
    match read().await {
        Err(error @ ReadError::Bad { .. }) => {
            let again = read().await;
            // Else whoever asked says what is wrong.
            if again.is_ok() {
                tracing::warn!(%error, "damaged on its way: whole when it was read again");
            }
            again
        }
        done => done,
    }
}

/// The whole object.
pub(crate) async fn get(bucket: &dyn Bucket, key: &str) -> Result<Bytes, ReadError> {
    match retried(bucket, || bucket.get(key)).await? {
        Some(object) => Ok(object.bytes),
        None => Err(ReadError::Missing { key: key.to_string() }),
    }
}

/// All keys below `prefix` that sort after `after`, in order.
///
/// Pages are read one after the other: a key created while that goes on may be missing only if it
/// sorts below one that was already read.
pub(crate) async fn list_all(
    bucket: &dyn Bucket,
    prefix: &str,
    after: Option<String>,
) -> Result<Vec<Listed>, StoreError> {
    let mut all: Vec<Listed> = Vec::new();
    let mut after = after;
    loop {
        let page = retried(bucket, || bucket.list(prefix, after.as_deref(), LIST_PAGE)).await?;
        let full = page.len() >= LIST_PAGE;
        all.extend(page);
        match all.last() {
            Some(last) if full => after = Some(last.key.clone()),
            _ => return Ok(all),
        }
    }
}

/// Deletes, repeating what is not answered: a delete that lands twice is harmless.
pub(crate) async fn delete_all(bucket: &dyn Bucket, keys: &[String]) -> Result<(), StoreError> {
    for batch in keys.chunks(LIST_PAGE) {
        retried(bucket, || bucket.delete_many(batch)).await?;
    }
    Ok(())
}
