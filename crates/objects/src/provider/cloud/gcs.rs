//! Google Cloud Storage.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::gcp::{GcpCredentialProvider, GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::{ClientOptions, RetryConfig};

use super::super::Buckets;
use super::wire::{Wire, chain};
use super::{CloudBucket, Dialect, Limits, check_endpoint, prefix_of, warn_of_class};
use crate::bucket::{Result, StoreError};
use crate::config::{Encryption, StorageConfig};
use crate::credentials;

pub(crate) async fn open(config: &StorageConfig) -> Result<Buckets> {
    if config.bucket.is_empty() {
        let why = "storage.bucket_name is empty: set the bucket the cluster keeps its data in";
        return Err(StoreError::refused("open", "", why));
    }
    let class = match config.class.as_deref() {
        None | Some("STANDARD") => None,
        Some(class @ ("NEARLINE" | "COLDLINE" | "ARCHIVE")) => {
            warn_of_class(class);
            Some(class.to_string())
        }
        Some(other) => {
            let why =
                format!("storage.class {other:?} is not one of \"STANDARD\", \"NEARLINE\", \"COLDLINE\", \"ARCHIVE\"");
            return Err(StoreError::refused("open", "", why));
        }
    };
    let endpoint = config.endpoint.clone().or_else(emulator);
    if let Some(endpoint) = &endpoint {
        check_endpoint(endpoint, config.allow_http || config.endpoint.is_none())?;
    }
    let prefix = prefix_of(config)?;
    let credentials = credentials::gcp::provider(endpoint.as_deref(), &Wire::new(credentials::TIMEOUT, None)?).await?;
    let bucket = |limits, class| bucket(config, &prefix, endpoint.as_deref(), limits, class, &credentials);
    Ok(Buckets {
        data: Arc::new(bucket(Limits::data(config), class)?),
        control: Arc::new(bucket(Limits::control(config), None)?),
    })
}

/// Where Google's own libraries look for an emulator, which may lack the scheme.
fn emulator() -> Option<String> {
    let host = std::env::var("STORAGE_EMULATOR_HOST").ok().filter(|v| !v.is_empty())?;
    Some(if host.contains("://") { host } else { format!("http://{host}") })
}

fn bucket(
    config: &StorageConfig,
    prefix: &str,
    endpoint: Option<&str>,
    limits: Limits,
    class: Option<String>,
    credentials: &GcpCredentialProvider,
) -> Result<CloudBucket> {
    let wire = Wire::new(limits.timeout, None)?;
    let build = |retry: RetryConfig| -> Result<Arc<GoogleCloudStorage>> {
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(&config.bucket)
            .with_credentials(Arc::clone(credentials))
            .with_client_options(client_options(config)?)
            .with_retry(retry)
            .with_http_connector(wire.clone());
        if let Some(endpoint) = endpoint {
            builder = builder.with_base_url(endpoint.trim_end_matches('/'));
        }
        Ok(Arc::new(builder.build().map_err(|e| StoreError::refused("open", "", chain(&e)))?))
    };
    Ok(CloudBucket {
        dialect: Dialect::Gcs,
        once: build(limits.once())?,
        patient: build(limits.patient())?,
        prefix: prefix.to_string(),
        class,
        policy: limits.policy,
        name: format!("gs://{}/{prefix}", config.bucket).trim_end_matches('/').to_string(),
    })
}

fn client_options(config: &StorageConfig) -> Result<ClientOptions> {
    let options = ClientOptions::new().with_allow_http(true); // `check_endpoint` decided
    let Encryption::CustomerManaged { kms_key_id } = &config.encryption else { return Ok(options) };
    let value = HeaderValue::from_str(kms_key_id)
        .map_err(|e| StoreError::refused("open", "", format_args!("storage.kms_key_id {kms_key_id:?}: {e}")))?;
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("x-goog-encryption-kms-key-name"), value);
    Ok(options.with_default_headers(headers))
}
