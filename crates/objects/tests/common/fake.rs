//! The fake stores, opened through the real providers.

use std::time::Duration;

use netsy_fakestore::{BUCKET, Dialect, FakeStore};
use netsy_objects::{Buckets, Encryption, Provider, StorageConfig, open};

pub const DIALECTS: [Dialect; 2] = [Dialect::S3, Dialect::Gcs];

/// Long enough for a loaded machine, short enough to wait for.
pub const TIMEOUT: Duration = Duration::from_millis(1_000);
pub const RETRY_MAX_AGE: Duration = Duration::from_secs(8);

pub fn config(fake: &FakeStore) -> StorageConfig {
    // Explicit credentials, so that nothing asks the machine's metadata service.
    credentials();
    let provider = match fake.dialect() {
        Dialect::S3 => Provider::S3,
        Dialect::Gcs => Provider::Gcs,
    };
    StorageConfig {
        bucket: BUCKET.into(),
        endpoint: Some(fake.endpoint()),
        allow_http: true,
        encryption: Encryption::None,
        timeout: TIMEOUT,
        retry_max_age: RETRY_MAX_AGE,
        ..StorageConfig::new(provider)
    }
}

/// Those that every server of the tests is given.
pub fn credentials() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: each test calls this first, and nothing else in these programs writes the environment.
    ONCE.call_once(|| unsafe {
        std::env::set_var("AWS_ACCESS_KEY_ID", "test");
        std::env::set_var("AWS_SECRET_ACCESS_KEY", "testtest");
        std::env::set_var("AWS_REGION", "us-east-1");
        std::env::set_var("AWS_EC2_METADATA_DISABLED", "true");
    });
}

pub async fn start(dialect: Dialect) -> (FakeStore, Buckets) {
    let fake = FakeStore::start(dialect).await.unwrap();
    let buckets = open(&config(&fake)).await.unwrap();
    (fake, buckets)
}
