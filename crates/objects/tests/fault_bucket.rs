//! The settle layer over the file provider, with faults above it: what it says agrees with
//! what is there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use netsy_objects::fault::{BucketFault, BucketOp, FaultBucket};
use netsy_objects::settle::{Settled, create_settled, swap_settled};
use netsy_objects::{Bucket, ErrorKind, RetryPolicy, StorageConfig, open};

const POLICY: RetryPolicy = RetryPolicy {
    max_age: Duration::from_millis(300),
    pause_min: Duration::from_millis(5),
    pause_max: Duration::from_millis(20),
};

async fn bucket(dir: &tempfile::TempDir) -> (Arc<dyn Bucket>, FaultBucket) {
    let inner = open(&StorageConfig::file(dir.path())).await.unwrap().data;
    (Arc::clone(&inner), FaultBucket::new(inner).with_retry_policy(POLICY))
}

async fn create(bucket: &FaultBucket) -> Result<Settled, netsy_objects::StoreError> {
    create_settled(bucket, "k", Bytes::from_static(b"mine"), &|b| b == b"mine").await
}

#[tokio::test]
async fn every_fault_of_a_create_and_a_swap_settles_to_the_truth() {
    for fault in [
        BucketFault::Unavailable,
        BucketFault::UnclearNotDone,
        BucketFault::UnclearDone,
        BucketFault::FalseLoss,
        BucketFault::UnclearLate(Duration::from_millis(1)),
        BucketFault::UnclearLate(Duration::from_millis(50)),
        BucketFault::Delay(Duration::from_millis(10)),
        BucketFault::Hang(Duration::from_millis(10)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (inner, faulty) = bucket(&dir).await;
        let hits = faulty.inject(BucketOp::Create, "k", 0, 1, fault.clone());
        let Settled::Mine(first) = create(&faulty).await.unwrap() else { panic!("{fault:?}") };
        assert_eq!(hits.load(Ordering::SeqCst), 1);
        assert_eq!(inner.get("k").await.unwrap().unwrap().version, first);

        faulty.inject(BucketOp::Swap, "k", 0, 1, fault.clone());
        let swapped = swap_settled(&faulty, "k", Some(&first), Bytes::from_static(b"next"), &|b| b == b"next").await;
        let Settled::Mine(second) = swapped.unwrap() else { panic!("{fault:?}") };
        let Settled::Mine(third) =
            swap_settled(&faulty, "k", Some(&second), Bytes::from_static(b"last"), &|b| b == b"last").await.unwrap()
        else {
            panic!("{fault:?}")
        };
        tokio::time::sleep(Duration::from_millis(60)).await;
        let now = inner.get("k").await.unwrap().unwrap();
        assert_eq!((&now.bytes[..], now.version), (&b"last"[..], third), "{fault:?}: undone by the late one");
    }
}

#[tokio::test]
async fn an_error_says_whether_the_write_may_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let (inner, faulty) = bucket(&dir).await;
    faulty.inject(BucketOp::Create, "", 0, u64::MAX, BucketFault::Unavailable);
    assert_eq!(create(&faulty).await.unwrap_err().kind, ErrorKind::Unavailable);
    faulty.clear();
    // One unclear try among many that certainly did nothing keeps the doubt.
    faulty.inject(BucketOp::Create, "", 2, 1, BucketFault::UnclearLate(Duration::from_millis(400)));
    faulty.inject(BucketOp::Create, "", 0, u64::MAX, BucketFault::Unavailable);
    assert_eq!(create(&faulty).await.unwrap_err().kind, ErrorKind::Unclear);
    assert!(inner.get("k").await.unwrap().is_none());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(inner.get("k").await.unwrap().is_some());
    faulty.clear();
    faulty.inject(BucketOp::Create, "", 0, 1, BucketFault::Refused);
    assert_eq!(create(&faulty).await.unwrap_err().kind, ErrorKind::Refused);
    assert!(matches!(create(&faulty).await.unwrap(), Settled::Mine(_)));
}

/// A swap that landed unanswered and was then overtaken: the doubt is handed on.
#[tokio::test]
async fn a_swap_that_was_overtaken_says_that_ours_may_have_been_there() {
    let dir = tempfile::tempdir().unwrap();
    let (inner, faulty) = bucket(&dir).await;
    let Settled::Mine(first) = create(&faulty).await.unwrap() else { panic!() };
    faulty.inject(BucketOp::Swap, "", 0, 1, BucketFault::UnclearDone);
    // Our look at the object comes late enough for somebody else's swap.
    faulty.inject(BucketOp::Get, "", 0, 1, BucketFault::Delay(Duration::from_millis(100)));
    let overtake = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let ours = inner.get("k").await.unwrap().unwrap();
        assert_eq!(&ours.bytes[..], b"next");
        inner.swap("k", Some(&ours.version), Bytes::from_static(b"theirs")).await.unwrap();
    };
    let swap = swap_settled(&faulty, "k", Some(&first), Bytes::from_static(b"next"), &|b| b == b"next");
    let (settled, ()) = tokio::join!(swap, overtake);
    let Settled::Theirs(theirs) = settled.unwrap() else { panic!("not theirs") };
    assert!(theirs.ours_unclear && theirs.object.bytes == "theirs");
}
