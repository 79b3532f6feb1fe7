//! Where credentials for the store come from: each provider's whole standard chain.

pub(crate) mod aws;
#[cfg(feature = "aws-profile")]
mod aws_profile;
pub(crate) mod gcp;

use std::time::Duration;

use object_store::RetryConfig;

/// One call to a token or metadata service.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// Such a service answers at once or is not there.
fn retry() -> RetryConfig {
    RetryConfig { max_retries: 3, retry_timeout: Duration::from_secs(10), ..RetryConfig::default() }
}

/// A variable that is set to something.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}
