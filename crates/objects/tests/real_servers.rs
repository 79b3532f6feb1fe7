//! Real S3 servers: the fit ones conform as the fakes do and pass the start-up probe, the
//! unfit ones are refused by it.

mod common;

use std::time::Instant;

use common::{Effort, Versions};
use netsy_fakestore::BUCKET;
use netsy_fakestore::real::RealServer as Server;
use netsy_objects::probe::{ProbeFailed, probe};
use netsy_objects::{Bucket, Encryption, Provider, StorageConfig, open};

/// SeaweedFS lets contenders for one key wait, for seconds if there are many.
const FEW: Effort = Effort { listed_keys: 2_500, race_rounds: 5, race_width: 3, counter_tasks: 2, counter_steps: 10 };

fn config(server: &Server) -> StorageConfig {
    common::fake::credentials();
    StorageConfig {
        bucket: BUCKET.into(),
        endpoint: Some(server.endpoint()),
        allow_http: true,
        encryption: Encryption::None,
        ..StorageConfig::new(Provider::S3)
    }
}

async fn probed(server: &Server) -> Result<(), ProbeFailed> {
    let started = Instant::now();
    let buckets = open(&config(server)).await.unwrap();
    let outcome = probe(&*buckets.data).await;
    println!("probed in {:?}: {outcome:?}", started.elapsed());
    outcome
}

async fn assert_empty(bucket: &dyn Bucket) {
    assert_eq!(bucket.list("", None, 10).await.unwrap(), [], "the probe left objects");
}

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_conforms_and_passes_the_probe() {
    let server = Server::seaweedfs();
    let buckets = open(&config(&server)).await.unwrap();
    probed(&server).await.unwrap();
    assert_empty(&*buckets.data).await;
    probe(&*buckets.control).await.unwrap();
    common::conforms(buckets.data, FEW, Versions::OfContent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_conforms_and_passes_the_probe() {
    let server = Server::moto();
    let buckets = open(&config(&server)).await.unwrap();
    probed(&server).await.unwrap();
    assert_empty(&*buckets.data).await;
    common::conforms(buckets.data, FEW, Versions::OfContent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rclones_server_is_refused_as_it_ignores_conditions() {
    let server = Server::rclone();
    let failed = probed(&server).await.unwrap_err();
    assert!(failed.check.contains("create-only write") && !failed.unavailable, "{failed}");
}

/// The fakes' racy mode stands in for it in `tests/probe.rs`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "s3s-fs is built from source: scripts/tools.sh without --no-s3s"]
async fn s3s_fs_is_refused_as_its_conditions_lose_races() {
    let server = Server::s3s_fs();
    // A race is a matter of luck, which must not last.
    for _ in 0..3 {
        let failed = probed(&server).await.unwrap_err();
        assert!(failed.check.contains("race") && !failed.unavailable, "{failed}");
    }
}
