//! Credentials for Google Cloud Storage: Google's application default credentials.
//!
//! In this order: the file that `GOOGLE_APPLICATION_CREDENTIALS` names, the one that
//! `gcloud auth application-default login` writes, the machine's metadata service.

use std::sync::Arc;

use object_store::StaticCredentialProvider;
use object_store::gcp::{GcpCredential, GcpCredentialProvider, GoogleCloudStorageBuilder};

use super::retry;
use crate::bucket::{Result, StoreError};
use crate::provider::{Wire, chain};

/// `endpoint`: one without TLS is an emulator's, on which no token is spent.
pub(crate) async fn provider(endpoint: Option<&str>, wire: &Wire) -> Result<GcpCredentialProvider> {
    if endpoint.is_some_and(|e| e.starts_with("http://")) {
        return Ok(Arc::new(StaticCredentialProvider::new(GcpCredential { bearer: "emulator".into() })));
    }
    let built = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name("unused")
        .with_retry(retry())
        .with_http_connector(wire.clone())
        .build();
    let store = built.map_err(|e| StoreError::refused("open", "", chain(&e)))?;
    Ok(Arc::clone(store.credentials()))
}
