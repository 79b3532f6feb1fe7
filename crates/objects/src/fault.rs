//! A bucket that fails on demand, above any provider: for tests of what uses a bucket.
//! (`netsy-fakestore` fails below, on the wire.)

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::bucket::{
    Bucket, CreateOutcome, Download, ErrorKind, Listed, Object, Result, RetryPolicy, StoreError, SwapOutcome, Upload,
    Version,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketOp {
    Get,
    Create,
    Swap,
    List,
    Delete,
    Upload,
    Download,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BucketFault {
    /// Not done, and the error says so.
    Unavailable,
    /// Not done, and it will not help to try again.
    Refused,
    /// Not done, but the error cannot say. Of a read: `Unavailable`.
    UnclearNotDone,
    /// Done, but the error cannot say.
    UnclearDone,
    /// The error cannot say, and it is done after this long, whoever still waits.
    UnclearLate(Duration),
    /// Done, but the answer says that the key was taken or the version stale: what a repeated
    /// try below would make of a lost answer.
    FalseLoss,
    /// Done after this long, and answered.
    Delay(Duration),
    /// Not answered for this long, then as `UnclearNotDone`.
    Hang(Duration),
}

#[derive(Debug)]
struct Rule {
    op: Option<BucketOp>,
    prefix: String,
    skip: u64,
    times: u64,
    fault: BucketFault,
    hits: Arc<AtomicU64>,
}

/// Passes everything on, but for the calls that a rule is for.
#[derive(Debug)]
pub struct FaultBucket {
    inner: Arc<dyn Bucket>,
    rules: Mutex<Vec<Rule>>,
    policy: RetryPolicy,
}

impl FaultBucket {
    pub fn new(inner: Arc<dyn Bucket>) -> Self {
        let policy = inner.retry_policy();
        FaultBucket { inner, rules: Mutex::default(), policy }
    }

    /// Other limits for the settle layer than the provider's.
    pub fn with_retry_policy(self, policy: RetryPolicy) -> Self {
        FaultBucket { policy, ..self }
    }

    /// The next `times` calls of this kind on keys with this prefix, after `skip` others,
    /// meet the fault. Returns the count of those that did. Of several rules for a call, the
    /// one added first is taken.
    pub fn inject(
        &self,
        op: impl Into<Option<BucketOp>>,
        prefix: &str,
        skip: u64,
        times: u64,
        fault: BucketFault,
    ) -> Arc<AtomicU64> {
        let hits = Arc::new(AtomicU64::new(0));
        let rule = Rule { op: op.into(), prefix: prefix.into(), skip, times, fault, hits: Arc::clone(&hits) };
        self.rules.lock().push(rule);
        hits
    }

    /// Ends all faults.
    pub fn clear(&self) {
        self.rules.lock().clear();
    }

    fn take(&self, op: BucketOp, key: &str) -> Option<BucketFault> {
        for rule in self.rules.lock().iter_mut() {
            if rule.times == 0 || rule.op.is_some_and(|o| o != op) || !key.starts_with(&rule.prefix) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times -= 1;
            rule.hits.fetch_add(1, Ordering::SeqCst);
            return Some(rule.fault.clone());
        }
        None
    }

    /// Applies the fault of a call that only reads.
    async fn before_read(&self, op: BucketOp, name: &'static str, key: &str) -> Result<()> {
        match self.take(op, key) {
            None | Some(BucketFault::FalseLoss) => Ok(()),
            Some(BucketFault::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Some(BucketFault::Hang(time)) => {
                tokio::time::sleep(time).await;
                Err(injected(ErrorKind::Unavailable, name, key))
            }
            Some(BucketFault::Refused) => Err(injected(ErrorKind::Refused, name, key)),
            Some(_) => Err(injected(ErrorKind::Unavailable, name, key)),
        }
    }

    /// Applies the fault of a write; `lost` is the answer of one that says it lost.
    async fn write<T, F, W>(&self, op: BucketOp, name: &'static str, key: &str, lost: T, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(Arc<dyn Bucket>) -> F + Send,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let fault = self.take(op, key);
        let work = work(Arc::clone(&self.inner));
        match fault {
            None => work.await,
            Some(BucketFault::Delay(time)) => {
                tokio::time::sleep(time).await;
                work.await
            }
            Some(BucketFault::Unavailable) => Err(injected(ErrorKind::Unavailable, name, key)),
            Some(BucketFault::Refused) => Err(injected(ErrorKind::Refused, name, key)),
            Some(BucketFault::UnclearNotDone) => Err(injected(ErrorKind::Unclear, name, key)),
            Some(BucketFault::Hang(time)) => {
                tokio::time::sleep(time).await;
                Err(injected(ErrorKind::Unclear, name, key))
            }
            Some(BucketFault::UnclearDone) => {
                work.await?;
                Err(injected(ErrorKind::Unclear, name, key))
            }
            Some(BucketFault::FalseLoss) => {
                work.await?;
                Ok(lost)
            }
            Some(BucketFault::UnclearLate(time)) => {
                let key_for_log = key.to_string();
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    if let Err(e) = work.await {
                        tracing::debug!(key = key_for_log, error = %e, "an injected late write failed");
                    }
                });
                Err(injected(ErrorKind::Unclear, name, key))
            }
        }
    }
}

fn injected(kind: ErrorKind, op: &'static str, key: &str) -> StoreError {
    StoreError::new(kind, op, key, "injected fault")
}

#[async_trait]
impl Bucket for FaultBucket {
    async fn get(&self, key: &str) -> Result<Option<Object>> {
        self.before_read(BucketOp::Get, "get", key).await?;
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        self.before_read(BucketOp::Get, "get", key).await?;
        self.inner.get_range(key, range).await
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome> {
        let name = key.to_string();
        let work = |inner: Arc<dyn Bucket>| async move { inner.create(&name, bytes).await };
        self.write(BucketOp::Create, "create", key, CreateOutcome::Exists, work).await
    }

    async fn swap(&self, key: &str, expected: Option<&Version>, bytes: Bytes) -> Result<SwapOutcome> {
        let (name, expected) = (key.to_string(), expected.cloned());
        let work = |inner: Arc<dyn Bucket>| async move { inner.swap(&name, expected.as_ref(), bytes).await };
        self.write(BucketOp::Swap, "swap", key, SwapOutcome::Conflict, work).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>> {
        self.before_read(BucketOp::List, "list", prefix).await?;
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let name = key.to_string();
        let work = |inner: Arc<dyn Bucket>| async move { inner.delete(&name).await };
        self.write(BucketOp::Delete, "delete", key, (), work).await
    }

    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>> {
        self.before_read(BucketOp::Upload, "upload", key).await?;
        self.inner.upload(key).await
    }

    async fn download(&self, key: &str) -> Result<Option<Download>> {
        self.before_read(BucketOp::Download, "download", key).await?;
        self.inner.download(key).await
    }

    fn retry_policy(&self) -> RetryPolicy {
        self.policy
    }

    fn needs_probe(&self) -> bool {
        self.inner.needs_probe()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
