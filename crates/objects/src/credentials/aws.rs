//! Credentials for S3.
//!
//! In this order: keys in the environment, web identity (EKS service accounts), the
//! container's (ECS, EKS pod identity), the machine's (IMDSv2).

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AwsCredentialProvider};

use super::retry;
use crate::bucket::{Result, StoreError};
use crate::config::StorageConfig;
use crate::provider::{Wire, chain};

pub(crate) async fn provider(
    _: &StorageConfig,
    builder: &AmazonS3Builder,
    wire: &Wire,
) -> Result<AwsCredentialProvider> {
    let built = builder.clone().with_retry(retry()).with_http_connector(wire.clone()).build();
    let store = built.map_err(|e| StoreError::refused("open", "", chain(&e)))?;
    Ok(Arc::clone(store.credentials()))
}
