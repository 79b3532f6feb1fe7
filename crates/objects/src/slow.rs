//! A bucket made slow, for benchmarks and tests.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::bucket::{
    Bucket, CreateOutcome, Download, Listed, Object, Result, RetryPolicy, SwapOutcome, Upload, Version,
};

/// Waits before every call; a streaming upload waits at its start and at its end.
#[derive(Debug)]
pub struct SlowBucket {
    inner: Arc<dyn Bucket>,
    latency: Duration,
}

impl SlowBucket {
    pub fn new(inner: Arc<dyn Bucket>, latency: Duration) -> Self {
        SlowBucket { inner, latency }
    }

    async fn wait(&self) {
        tokio::time::sleep(self.latency).await;
    }
}

#[async_trait]
impl Bucket for SlowBucket {
    async fn get(&self, key: &str) -> Result<Option<Object>> {
        self.wait().await;
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        self.wait().await;
        self.inner.get_range(key, range).await
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome> {
        self.wait().await;
        self.inner.create(key, bytes).await
    }

    async fn swap(&self, key: &str, expected: Option<&Version>, bytes: Bytes) -> Result<SwapOutcome> {
        self.wait().await;
        self.inner.swap(key, expected, bytes).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>> {
        self.wait().await;
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.wait().await;
        self.inner.delete(key).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<()> {
        self.wait().await;
        self.inner.delete_many(keys).await
    }

    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>> {
        self.wait().await;
        let inner = self.inner.upload(key).await?;
        Ok(Box::new(SlowUpload { inner, latency: self.latency }))
    }

    async fn download(&self, key: &str) -> Result<Option<Download>> {
        self.wait().await;
        self.inner.download(key).await
    }

    fn retry_policy(&self) -> RetryPolicy {
        self.inner.retry_policy()
    }

    fn needs_probe(&self) -> bool {
        self.inner.needs_probe()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

struct SlowUpload {
    inner: Box<dyn Upload>,
    latency: Duration,
}

#[async_trait]
impl Upload for SlowUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.inner.write(bytes).await
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        tokio::time::sleep(self.latency).await;
        self.inner.finish().await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.inner.abort().await
    }
}
