//! Write, kill, wipe the local database, restore, compare.

use crate::everything::{look, write};
use crate::setup::{Setting, metric, server};
use netsy_e2e::{Kind, Server};
use netsy_fakestore::real::RealServer;
use netsy_fakestore::{Calls, Dialect, FakeStore, Fault, FaultKind, Op};
use std::time::{Duration, Instant};

/// Acknowledged by the bucket alone, with snapshots and clean-up all the time; and as a single node does by default,
/// restored from the log.
const SETTINGS: [Setting; 2] = [
    Setting { prefix: "team/one", quorum: 0, snapshot_records: 200 },
    Setting { prefix: "two", quorum: -1, snapshot_records: 1_000_000 },
];

async fn comes_back(server: &mut Server, setting: Setting) {
    server.start_again().await;
    for round in 0..2 {
        let client = server.client().await;
        write(&client, round).await;
        if setting.snapshot_records < 1_000 {
            // What follows is restored from a snapshot and the log after it.
            await_snapshot(server).await;
            write(&client, round + 10).await;
        }
        let before = look(&client).await;
        server.kill();
        server.wipe_local_database();
        server.start_again().await;
        let client = server.client().await;
        assert_eq!(look(&client).await, before, "restore {round}");
        assert_eq!(client.put("next", "v").await, before.revision + 1);
    }
    // A graceful stop leaves everything to the bucket, too.
    let before = look(&server.client().await).await;
    server.stop().await;
    server.wipe_local_database();
    server.start_again().await;
    assert_eq!(look(&server.client().await).await, before);
    server.stop().await;
}

/// Until this process has written one.
async fn await_snapshot(server: &Server) {
    let start = Instant::now();
    while metric(server, "netsy_snapshots_total").await < 1.0 {
        assert!(start.elapsed() < Duration::from_secs(30), "no snapshot; it printed:\n{}", server.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn comes_back_with_each_setting(dialect: Dialect, endpoint: &str) {
    for setting in SETTINGS {
        comes_back(&mut server(dialect, endpoint, setting), setting).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs() {
    if Kind::under_test() == Kind::Netsy {
        let store = RealServer::seaweedfs();
        comes_back_with_each_setting(Dialect::S3, &store.endpoint()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moto() {
    if Kind::under_test() == Kind::Netsy {
        let store = RealServer::moto();
        comes_back_with_each_setting(Dialect::S3, &store.endpoint()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fake_s3() {
    if Kind::under_test() == Kind::Netsy {
        let store = FakeStore::start(Dialect::S3).await.expect("the fake starts");
        comes_back_with_each_setting(Dialect::S3, &store.endpoint()).await;
        assert!(!store.keys().iter().any(|key| !key.starts_with("team/one/") && !key.starts_with("two/")));
        assert!(store.keys().iter().any(|key| key.starts_with("team/one/snapshots/")), "{:?}", store.keys());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fake_gcs() {
    if Kind::under_test() == Kind::Netsy {
        let store = FakeStore::start(Dialect::Gcs).await.expect("the fake starts");
        comes_back_with_each_setting(Dialect::Gcs, &store.endpoint()).await;
    }
}

/// The store loses answers, slows down, breaks off and asks to come again, all the time: nothing of that may show.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_every_fault() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    for dialect in [Dialect::S3, Dialect::Gcs] {
        let store = FakeStore::start(dialect).await.expect("the fake starts");
        store.set_page_size(7);
        let faults = [
            // A create whose answer is lost, though it landed.
            (Op::Put, "*log/*", FaultKind::CloseAfter),
            (Op::Put, "*log/*", FaultKind::StatusAfter(500)),
            (Op::Put, "*", FaultKind::StatusBefore(503)),
            (Op::Put, "*", FaultKind::StatusBefore(409)),
            (Op::Put, "*.json", FaultKind::CloseAfter),
            (Op::Get, "*", FaultKind::CloseBefore),
            (Op::Get, "*.netsy", FaultKind::CutBody(100)),
            (Op::Get, "*.netsy", FaultKind::FlipBody(70)),
            (Op::List, "*", FaultKind::StatusBefore(500)),
            (Op::Delete, "*", FaultKind::StatusAfter(500)),
            (Op::Complete, "*", FaultKind::CloseAfter),
        ];
        let mut handles = Vec::new();
        for (nth, (op, pattern, kind)) in faults.iter().enumerate() {
            // Several of each, at different times.
            for skip in [5, 40, 90] {
                let fault = Fault::new(Calls::new(*op, pattern), kind.clone()).skip(skip + 3 * nth as u64).once();
                handles.push((kind, store.inject(fault)));
            }
        }
        store.inject(
            Fault::new(Calls::new(Op::Put, "*log/*"), FaultKind::Delay(Duration::from_millis(300))).skip(20).times(5),
        );
        let setting = Setting { snapshot_records: 300, ..SETTINGS[0] };
        comes_back(&mut server(dialect, &store.endpoint(), setting), setting).await;
        let hits: u64 = handles.iter().map(|(_, handle)| handle.hits()).sum();
        assert!(hits > 10, "only {hits} faults were met");
    }
}

/// A store that does not do what is needed is refused at the start, with the check that it failed.
#[tokio::test(flavor = "multi_thread")]
async fn an_unfit_store_is_refused() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    let store = RealServer::rclone();
    let mut server = server(Dialect::S3, &store.endpoint(), SETTINGS[0]);
    server.spawn();
    let ended = server.wait_for_end(Duration::from_secs(60)).await.expect("it ends by itself");
    let log = server.log_tail();
    assert!(!ended.success() && log.contains("failed the start-up check \"create-only write"), "{log}");
    assert!(log.contains("not Garage, s3s-fs or rclone serve s3"), "it says what to do: {log}");
}
