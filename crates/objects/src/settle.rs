//! Conditional writes whose outcome is settled: any answer but success is decided by
//! reading the object (R3).
//!
//! A lost answer, a time-out, a closed connection or a 5xx says nothing about whether a
//! write landed, and "already exists" may be the writer's own earlier try. Every body
//! carries its writer's token (term, session, nonce), so reading the object tells.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::bucket::{Bucket, CreateOutcome, ErrorKind, Object, Result, RetryPolicy, StoreError, SwapOutcome, Version};

/// How a settled write ended.
#[derive(Debug, Clone)]
pub enum Settled {
    /// The caller's bytes are in place.
    Mine(Version),
    /// Somebody else's are.
    Theirs(Theirs),
    /// The store said that the key was taken, or swapped away, and then that there is no
    /// object: it was cleaned up. A log is to be listed again (R3).
    Missing,
}

#[derive(Debug, Clone)]
pub struct Theirs {
    pub object: Object,
    /// A try of ours ended without an answer, so that ours may have been in place before
    /// the one found (swap) or may land yet, where the key becomes free.
    pub ours_unclear: bool,
}

/// Creates an object, once, whatever happens to the answers. `is_mine` looks at a body
/// that is in the way and says whether it is this very write.
///
/// Errors: `Refused` at once; after [`RetryPolicy::max_age`] `Unavailable` (it is certain that
/// nothing was written) or `Unclear`: the same bytes may land later, so the caller goes on
/// with the same bytes under this key and with no other.
pub async fn create_settled(
    bucket: &dyn Bucket,
    key: &str,
    bytes: Bytes,
    is_mine: &(dyn Fn(&[u8]) -> bool + Send + Sync),
) -> Result<Settled> {
    swap_settled(bucket, key, None, bytes, is_mine).await
}

/// Replaces an object that is at `expected` (`None`: absent), once. See [`create_settled`].
pub async fn swap_settled(
    bucket: &dyn Bucket,
    key: &str,
    expected: Option<&Version>,
    bytes: Bytes,
    is_mine: &(dyn Fn(&[u8]) -> bool + Send + Sync),
) -> Result<Settled> {
    let mut tries = Tries::new(bucket.retry_policy());
    let mut unclear = false;
    loop {
        let error = match write_once(bucket, key, expected, bytes.clone()).await {
            Ok(Some(version)) => return Ok(Settled::Mine(version)),
            // Taken: by whom, the object says.
            Ok(None) => match bucket.get(key).await {
                Ok(found) => return Ok(judge(found, unclear, is_mine)),
                Err(e) => e,
            },
            Err(e) if e.kind == ErrorKind::Unclear => {
                unclear = true;
                match bucket.get(key).await {
                    // Still as before: the same bytes again.
                    Ok(None) if expected.is_none() => e,
                    Ok(Some(found)) if Some(&found.version) == expected && !is_mine(&found.bytes) => e,
                    Ok(found) => return Ok(judge(found, unclear, is_mine)),
                    Err(e) => e,
                }
            }
            Err(e) => e,
        };
        if error.kind == ErrorKind::Refused {
            return Err(with_doubt(error, unclear));
        }
        tracing::debug!(key, error = %error.reason, tries = tries.count, "conditional write not settled yet");
        if !tries.pause().await {
            return Err(with_doubt(error, unclear));
        }
    }
}

/// `Some` if written, `None` if something was in the way.
async fn write_once(
    bucket: &dyn Bucket,
    key: &str,
    expected: Option<&Version>,
    bytes: Bytes,
) -> Result<Option<Version>> {
    match expected {
        None => match bucket.create(key, bytes).await? {
            CreateOutcome::Created(version) => Ok(Some(version)),
            CreateOutcome::Exists => Ok(None),
        },
        Some(_) => match bucket.swap(key, expected, bytes).await? {
            SwapOutcome::Swapped(version) => Ok(Some(version)),
            SwapOutcome::Conflict => Ok(None),
        },
    }
}

fn judge(found: Option<Object>, ours_unclear: bool, is_mine: &(dyn Fn(&[u8]) -> bool + Send + Sync)) -> Settled {
    match found {
        None => Settled::Missing,
        Some(object) if is_mine(&object.bytes) => Settled::Mine(object.version),
        Some(object) => Settled::Theirs(Theirs { object, ours_unclear }),
    }
}

/// An error of a later try must not hide that an earlier one may have landed.
fn with_doubt(mut error: StoreError, unclear: bool) -> StoreError {
    if unclear && error.kind != ErrorKind::Unclear {
        error.reason = format!("{} (an earlier try was left without an answer and may have landed)", error.reason);
        error.kind = ErrorKind::Unclear;
    }
    error
}

/// Pauses between tries, with jitter, and their common deadline.
pub(crate) struct Tries {
    policy: RetryPolicy,
    deadline: Instant,
    pause: Duration,
    pub(crate) count: u32,
}

impl Tries {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Tries { policy, deadline: Instant::now() + policy.max_age, pause: policy.pause_min, count: 1 }
    }

    /// Waits before the next try; false if there is to be none.
    pub(crate) async fn pause(&mut self) -> bool {
        // Between half and the whole of the nominal pause, so that nodes that were
        // slowed down together do not come back together.
        let jittered = self.pause.mul_f64(0.5 + 0.5 * unit_random());
        self.pause = (self.pause * 2).min(self.policy.pause_max);
        self.count += 1;
        if Instant::now() + jittered >= self.deadline {
            return false;
        }
        tokio::time::sleep(jittered).await;
        true
    }
}

/// In [0, 1). Falls back to the middle if the system has no randomness to give.
fn unit_random() -> f64 {
    let mut raw = [0u8; 4];
    match getrandom::fill(&mut raw) {
        Ok(()) => f64::from(u32::from_le_bytes(raw)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}
