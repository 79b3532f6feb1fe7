//! The conformance suite against the fake stores, through the real providers.

mod common;

use std::time::Duration;

use common::fake::{config, start};
use common::{Effort, Versions};
use netsy_fakestore::{Calls, Dialect, FakeStore, Op};
use netsy_objects::{StorageConfig, open};

#[tokio::test(flavor = "multi_thread")]
async fn fake_s3_conforms() {
    let (fake, buckets) = start(Dialect::S3).await;
    common::conforms(buckets.data, Effort::FULL, Versions::OfContent).await;
    assert!(fake.calls(&Calls::new(Op::List, "log/")) > 10, "2,500 keys took no pages");
    no_upload_left(&fake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fake_gcs_conforms() {
    let (fake, buckets) = start(Dialect::Gcs).await;
    common::conforms(buckets.data, Effort::FULL, Versions::Unique).await;
    no_upload_left(&fake).await;
}

/// Dropping an upload frees its parts in the background.
async fn no_upload_left(fake: &FakeStore) {
    for _ in 0..100 {
        if fake.open_uploads() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} uploads were never completed nor aborted", fake.open_uploads());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_buckets_conform_below_a_prefix() {
    for (dialect, versions) in [(Dialect::S3, Versions::OfContent), (Dialect::Gcs, Versions::Unique)] {
        let fake = FakeStore::start(dialect).await.unwrap();
        fake.set_page_size(3);
        let config = StorageConfig { key_prefix: "team/one".into(), ..config(&fake) };
        let effort = Effort { listed_keys: 20, race_rounds: 3, ..Effort::FULL };
        common::conforms(open(&config).await.unwrap().control, effort, versions).await;
        assert!(!fake.keys().is_empty());
        assert!(fake.keys().iter().all(|key| key.starts_with("team/one/")), "{:?}", fake.keys());
    }
}
