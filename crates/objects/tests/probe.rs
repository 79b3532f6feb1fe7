//! The start-up check: fit stores pass and are left clean, each way of being unfit is
//! refused by name.

mod common;

use std::time::{Duration, Instant};

use common::fake::{DIALECTS, config, start};
use netsy_fakestore::{Calls, Conditions, FakeStore, Fault, FaultKind, Op};
use netsy_objects::probe::probe;
use netsy_objects::{StorageConfig, open};

#[tokio::test(flavor = "multi_thread")]
async fn fit_stores_pass_and_are_left_as_they_were() {
    for dialect in DIALECTS {
        let (fake, buckets) = start(dialect).await;
        fake.put_object("probe/000000000001-0000000000000000/object", "left by a probe that was killed long ago");
        fake.put_object("log/00000000000000000001.netsy", "data");
        for bucket in [&buckets.data, &buckets.control] {
            probe(&**bucket).await.unwrap();
        }
        assert_eq!(fake.keys(), ["log/00000000000000000001.netsy"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_provider_needs_none() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = open(&StorageConfig::file(dir.path())).await.unwrap().data;
    probe(&*bucket).await.unwrap();
    assert!(bucket.list("", None, 1).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_being_unfit_is_refused_by_name() {
    let cases = [
        (Conditions::Ignored, "create-only write"),
        (Conditions::SwapIgnored, "from a stale version"),
        (Conditions::SwapRefused, "from the current version"),
        (Conditions::Racy, "race of create-only writes"),
    ];
    for (conditions, check) in cases {
        for dialect in DIALECTS {
            let (fake, buckets) = start(dialect).await;
            fake.set_conditions(conditions);
            let failed = probe(&*buckets.data).await.unwrap_err();
            assert!(failed.check.contains(check), "{conditions:?}: {failed}");
            assert!(!failed.unavailable);
            let text = failed.to_string();
            assert!(text.contains("Two primaries") && text.contains("test"), "{text}");
            assert_eq!(fake.keys(), Vec::<String>::new(), "not cleaned up after a failure");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_and_missing_versions_are_found() {
    for dialect in DIALECTS {
        for (op, kind, check) in [
            (Op::Get, FaultKind::FlipBody(0), "create an object"),
            (Op::Get, FaultKind::ShortBody(3), "create an object"),
        ] {
            let (fake, buckets) = start(dialect).await;
            fake.inject(Fault::new(Calls::new(op, "*/object"), kind));
            let failed = probe(&*buckets.data).await.unwrap_err();
            assert_eq!(failed.check, check, "{failed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_asked_is_told_from_one_that_is_unfit() {
    for dialect in DIALECTS {
        let fake = FakeStore::start(dialect).await.unwrap();
        let config = StorageConfig { retry_max_age: Duration::from_millis(500), ..config(&fake) };
        let bucket = open(&config).await.unwrap().data;
        fake.inject(Fault::new(Calls::all(), FaultKind::StatusBefore(403)));
        let failed = probe(&*bucket).await.unwrap_err();
        assert!(!failed.unavailable && failed.to_string().contains("permission"), "{failed}");
        fake.clear_faults();
        fake.inject(Fault::new(Calls::all(), FaultKind::StatusBefore(503)));
        let started = Instant::now();
        let failed = probe(&*bucket).await.unwrap_err();
        assert!(failed.unavailable, "{failed}");
        assert!(started.elapsed() < Duration::from_secs(10));
        drop(fake);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let failed = probe(&*bucket).await.unwrap_err();
        assert!(failed.unavailable && failed.to_string().contains("storage.endpoint"), "{failed}");
    }
}

/// A fit store with a bad network is not refused: whichever of the probe's calls meets a
/// fault, it passes.
#[tokio::test(flavor = "multi_thread")]
async fn faults_on_the_way_make_no_store_unfit() {
    let kinds = [
        FaultKind::StatusAfter(500),
        FaultKind::CloseAfter,
        FaultKind::CloseBefore,
        FaultKind::StatusBefore(409),
        FaultKind::StatusBefore(503),
    ];
    for dialect in DIALECTS {
        for kind in &kinds {
            let (fake, buckets) = start(dialect).await;
            for nth in [0, 1, 2, 3, 5, 8, 20, 40, 50, 60] {
                let hits = fake.inject(Fault::new(Calls::new(Op::Put, "probe/*"), kind.clone()).skip(nth).once());
                probe(&*buckets.data).await.unwrap_or_else(|e| panic!("{dialect:?} {kind:?} at {nth}: {e}"));
                assert_eq!(hits.hits(), 1);
                assert_eq!(fake.keys(), Vec::<String>::new());
            }
        }
    }
}
