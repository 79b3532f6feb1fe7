//! Amazon S3 and stores that speak its API.

use std::sync::Arc;

use object_store::RetryConfig;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredentialProvider, S3ConditionalPut};

use super::super::Buckets;
use super::wire::{Wire, chain};
use super::{CloudBucket, Dialect, Limits, check_endpoint, prefix_of, warn_of_class};
use crate::bucket::{Result, StoreError};
use crate::config::{Encryption, StorageConfig};
use crate::credentials;

/// An extra file of trusted certificates, as the AWS tools read it.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";

pub(crate) async fn open(config: &StorageConfig) -> Result<Buckets> {
    if config.bucket.is_empty() {
        let why = "storage.bucket_name is empty: set the bucket the cluster keeps its data in";
        return Err(StoreError::refused("open", "", why));
    }
    let mut setup = Setup::new(config)?;
    let found = credentials::aws::provider(&setup.plain_builder(), &setup.wire_for(credentials::TIMEOUT)?).await?;
    setup.profile_region = found.region;
    Ok(Buckets {
        data: Arc::new(setup.bucket(Limits::data(config), &found.provider, setup.class.clone())?),
        // Small and rewritten all the time: not for a class that bills by the month.
        control: Arc::new(setup.bucket(Limits::control(config), &found.provider, None)?),
    })
}

struct Setup<'a> {
    config: &'a StorageConfig,
    prefix: String,
    endpoint: Option<String>,
    allow_http: bool,
    path_style: bool,
    dialect: Dialect,
    class: Option<String>,
    extra_roots: Option<Vec<u8>>,
    profile_region: Option<String>,
}

impl<'a> Setup<'a> {
    fn new(config: &'a StorageConfig) -> Result<Setup<'a>> {
        let refuse = |why: String| StoreError::refused("open", "", why);
        let env = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let allow_http = config.allow_http || env("AWS_ALLOW_HTTP").is_some_and(|v| v == "true" || v == "1");
        let endpoint = config
            .endpoint
            .clone()
            .or_else(|| ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter().find_map(env));
        if let Some(endpoint) = &endpoint {
            check_endpoint(endpoint, allow_http)?;
        }
        // A bucket name with a dot matches no wildcard certificate.
        let path_style = config.path_style.unwrap_or(endpoint.is_some() || config.bucket.contains('.'));
        let dialect = if config.bucket.ends_with("--x-s3") { Dialect::S3Express } else { Dialect::S3 };
        let class = match config.class.as_deref() {
            None | Some("STANDARD") => None, // the default everywhere; some stores know no class
            Some("EXPRESS_ONEZONE") if dialect == Dialect::S3Express => None,
            Some("EXPRESS_ONEZONE") => {
                return Err(refuse(format!(
                    "storage.class \"EXPRESS_ONEZONE\" needs a directory bucket, whose name ends in \"--x-s3\": {:?} is none",
                    config.bucket
                )));
            }
            Some(class @ "STANDARD_IA") => {
                warn_of_class(class);
                Some(class.to_string())
            }
            Some(class @ "INTELLIGENT_TIERING") => Some(class.to_string()),
            Some(other) => {
                return Err(refuse(format!(
                    "storage.class {other:?} is not one of \"STANDARD\", \"STANDARD_IA\", \"INTELLIGENT_TIERING\", \"EXPRESS_ONEZONE\""
                )));
            }
        };
        let extra_roots = match env(CA_BUNDLE) {
            None => None,
            Some(path) => {
                let read = std::fs::read(&path);
                Some(read.map_err(|e| refuse(format!("{CA_BUNDLE} names {path:?}, which cannot be read: {e}")))?)
            }
        };
        Ok(Setup {
            config,
            prefix: prefix_of(config)?,
            endpoint,
            allow_http,
            path_style,
            dialect,
            class,
            extra_roots,
            profile_region: None,
        })
    }

    fn wire_for(&self, timeout: std::time::Duration) -> Result<Wire> {
        Wire::new(timeout, self.extra_roots.as_deref())
    }

    /// Without time limits and credentials.
    fn plain_builder(&self) -> AmazonS3Builder {
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&self.config.bucket)
            .with_allow_http(self.allow_http)
            .with_virtual_hosted_style_request(!self.path_style)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_s3_express(self.dialect == Dialect::S3Express)
            // One plain DELETE per key: not every store has the call for many.
            .with_disable_bulk_delete(true);
        let in_environment = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().any(|v| std::env::var_os(v).is_some());
        let of_profile = self.profile_region.as_ref().filter(|_| !in_environment);
        if let Some(region) = self.config.region.as_ref().or(of_profile) {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(self.bucket_endpoint(endpoint));
        }
        match &self.config.encryption {
            Encryption::ProviderManaged | Encryption::None => builder,
            Encryption::CustomerManaged { kms_key_id } => {
                builder.with_sse_kms_encryption(kms_key_id).with_bucket_key(true)
            }
        }
    }

    /// `object_store` wants the bucket in the host name put there.
    fn bucket_endpoint(&self, endpoint: &str) -> String {
        match endpoint.split_once("://") {
            Some((scheme, host)) if !self.path_style && !host.starts_with(&format!("{}.", self.config.bucket)) => {
                format!("{scheme}://{}.{host}", self.config.bucket)
            }
            _ => endpoint.to_string(),
        }
    }

    fn bucket(
        &self,
        limits: Limits,
        credentials: &AwsCredentialProvider,
        class: Option<String>,
    ) -> Result<CloudBucket> {
        let wire = self.wire_for(limits.timeout)?;
        let build = |retry: RetryConfig| -> Result<Arc<AmazonS3>> {
            let built = self
                .plain_builder()
                .with_retry(retry)
                .with_credentials(Arc::clone(credentials))
                .with_http_connector(wire.clone())
                .build();
            Ok(Arc::new(built.map_err(|e| StoreError::refused("open", "", chain(&e)))?))
        };
        Ok(CloudBucket {
            dialect: self.dialect,
            once: build(limits.once())?,
            patient: build(limits.patient())?,
            prefix: self.prefix.clone(),
            class,
            policy: limits.policy,
            name: format!("s3://{}/{}", self.config.bucket, self.prefix).trim_end_matches('/').to_string(),
        })
    }
}
