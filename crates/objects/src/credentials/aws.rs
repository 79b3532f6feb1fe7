//! Credentials for S3.
//!
//! In this order: keys in the environment; a profile (`~/.aws/config`, `~/.aws/credentials`:
//! keys, assumed roles and their chains, SSO, `credential_process`), if there is one; web
//! identity (EKS service accounts); the container's (ECS, EKS pod identity); the machine's
//! (IMDSv2). `object_store` knows all but profiles, which need feature `aws-profile`.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AwsCredentialProvider};

use super::{env, retry};
use crate::bucket::{Result, StoreError};
use crate::provider::{Wire, chain};

/// Where credentials come from, and the region that came with them.
pub(crate) struct Found {
    pub provider: AwsCredentialProvider,
    /// Of the profile; the environment's and `storage.region` go before it.
    pub region: Option<String>,
}

pub(crate) async fn provider(builder: &AmazonS3Builder, wire: &Wire) -> Result<Found> {
    if env("AWS_ACCESS_KEY_ID").is_none()
        && let Some(why) = profile()
    {
        return of_profile(&why, wire).await;
    }
    let built = builder.clone().with_retry(retry()).with_http_connector(wire.clone()).build();
    let store = built.map_err(|e| StoreError::refused("open", "", chain(&e)))?;
    Ok(Found { provider: Arc::clone(store.credentials()), region: None })
}

/// What makes us look at profiles: one is named, or there is a file with some.
fn profile() -> Option<String> {
    if let Some(name) = env("AWS_PROFILE") {
        return Some(format!("AWS_PROFILE names {name:?}"));
    }
    let home = env("HOME").map(PathBuf::from);
    let files = [("AWS_CONFIG_FILE", ".aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")];
    files.into_iter().find_map(|(variable, usual)| {
        let path = env(variable).map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(usual)))?;
        path.is_file().then(|| format!("there is {}", path.display()))
    })
}

#[cfg(not(feature = "aws-profile"))]
async fn of_profile(why: &str, _: &Wire) -> Result<Found> {
    let what = "this build of netsy cannot read AWS profiles (cargo feature aws-profile): set AWS_ACCESS_KEY_ID and \
                AWS_SECRET_ACCESS_KEY, or build it with the feature";
    Err(StoreError::refused("open", "", format_args!("{why}, but {what}")))
}

#[cfg(feature = "aws-profile")]
async fn of_profile(why: &str, wire: &Wire) -> Result<Found> {
    super::aws_profile::provider(why, wire).await
}
