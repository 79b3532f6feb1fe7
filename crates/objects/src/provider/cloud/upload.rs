//! A streaming write in parts.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, MultipartUpload, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutPayloadMut, UploadPart,
};

use super::errors::of_plain;
use crate::bucket::{ErrorKind, Result, RetryPolicy, StoreError, Upload};
use crate::settle::Tries;

/// At least 5 MiB (S3), and at most 10,000 of them: 80 GiB.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Parts on their way at once; with the one being filled they are what an upload holds in memory.
const PARTS_MAX: usize = 2;

pub(super) struct CloudUpload {
    store: Arc<dyn ObjectStore>,
    path: Path,
    key: String,
    attributes: Attributes,
    policy: RetryPolicy,
    part: PutPayloadMut,
    /// Started with the second part: one that fits a single part is one plain write.
    many: Option<Box<dyn MultipartUpload>>,
    under_way: FuturesUnordered<UploadPart>,
    /// Bytes taken so far.
    total: u64,
}

impl CloudUpload {
    pub fn new(
        store: Arc<dyn ObjectStore>,
        path: Path,
        key: &str,
        attributes: Attributes,
        policy: RetryPolicy,
    ) -> Self {
        CloudUpload {
            store,
            path,
            key: key.into(),
            attributes,
            policy,
            part: PutPayloadMut::new(),
            many: None,
            under_way: FuturesUnordered::new(),
            total: 0,
        }
    }

    fn error(&self, e: &object_store::Error) -> StoreError {
        of_plain("upload", &self.key, e, ErrorKind::Unavailable)
    }

    /// Repeated here, as `object_store` does not repeat it after a lost answer; that may
    /// leave a second upload open, without parts.
    async fn start(&mut self) -> Result<Box<dyn MultipartUpload>> {
        let mut tries = Tries::new(self.policy);
        loop {
            let options = PutMultipartOptions { attributes: self.attributes.clone(), ..PutMultipartOptions::default() };
            let error = match self.store.put_multipart_opts(&self.path, options).await {
                Ok(many) => return Ok(many),
                Err(e) => self.error(&e),
            };
            if !error.is_retryable() || !tries.pause().await {
                return Err(error);
            }
        }
    }

    async fn send_part(&mut self) -> Result<()> {
        if self.many.is_none() {
            self.many = Some(self.start().await?);
        }
        while self.under_way.len() >= PARTS_MAX {
            self.under_way.try_next().await.map_err(|e| self.error(&e))?;
        }
        if let Some(many) = &mut self.many {
            self.under_way.push(many.put_part(std::mem::take(&mut self.part).into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Upload for CloudUpload {
    async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.total += bytes.len() as u64;
        while !bytes.is_empty() {
            // Not before there is more: what fits one part needs no parts.
            if self.part.content_length() == PART_BYTES {
                self.send_part().await?;
            }
            let room = PART_BYTES - self.part.content_length();
            let piece = bytes.split_to(room.min(bytes.len()));
            self.part.extend_from_slice(&piece);
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        if self.many.is_none() {
            let whole: PutPayload = std::mem::take(&mut self.part).into();
            let options = PutOptions { attributes: self.attributes.clone(), ..PutOptions::default() };
            let put = self.store.put_opts(&self.path, whole, options).await;
            return put.map(drop).map_err(|e| of_plain("upload", &self.key, &e, ErrorKind::Unclear));
        }
        if self.part.content_length() > 0 {
            self.send_part().await?;
        }
        while let Some(part) = self.under_way.next().await {
            part.map_err(|e| self.error(&e))?;
        }
        let Some(mut many) = self.many.take() else { return Ok(()) };
        let Err(e) = many.complete().await else { return Ok(()) };
        // The answer to a completion that landed may be lost, and its repetition then finds
        // no such upload. What is under the key tells: nobody writes other bytes there.
        if let Ok(found) = self.store.head(&self.path).await
            && found.size == self.total
        {
            return Ok(());
        }
        // Whole or not, the parts are of no more use.
        if let Err(e) = many.abort().await {
            tracing::debug!(key = %self.key, error = %e, "parts of a failed upload not removed");
        }
        Err(StoreError { kind: ErrorKind::Unclear, ..self.error(&e) })
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.under_way.clear();
        match self.many.take() {
            Some(mut many) => many.abort().await.map_err(|e| of_plain("upload", &self.key, &e, ErrorKind::Unclear)),
            None => Ok(()),
        }
    }
}

impl Drop for CloudUpload {
    fn drop(&mut self) {
        // The store keeps (and bills) the parts of an upload that was given up.
        let (Some(mut many), Ok(runtime)) = (self.many.take(), tokio::runtime::Handle::try_current()) else { return };
        let key = std::mem::take(&mut self.key);
        runtime.spawn(async move {
            if let Err(e) = many.abort().await {
                tracing::debug!(key, error = %e, "parts of an upload that was given up not removed");
            }
        });
    }
}
