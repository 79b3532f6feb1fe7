//! Kills the server again and again; see `netsy_e2e::crash`.
//!
//! `NETSY_CRASH_KILLS` sets how often each test kills (default 200), `NETSY_SEED` repeats a run.
//! The tests with the file layer that drops unsynced writes need a netsy built with `--features crashfs`,
//! named by `NETSY_CRASHFS_BIN`.

use netsy_e2e::crash::{Plan, is_netsy, run};
use netsy_e2e::random::Random;
use std::path::PathBuf;

fn plan() -> Plan {
    let kills = match std::env::var("NETSY_CRASH_KILLS") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("NETSY_CRASH_KILLS is {text:?}: set it to a number")),
        Err(_) => 200,
    };
    Plan {
        kills,
        seed: Random::seed_of_run(),
        copies_min: 1,
        wipe_percent: 0,
        failpoints: |_| false,
        snapshot_records: 500,
        snapshot_retention: "1s",
        crashfs: None,
        forget_after: None,
    }
}

async fn succeeds(plan: Plan) {
    match run(plan).await {
        Ok(report) => println!("{report:#?}"),
        Err(wrong) => panic!("{wrong}"),
    }
}

/// Acknowledged from the local disk: what a single etcd promises.
#[tokio::test]
async fn kill_at_random_instants() {
    succeeds(plan()).await;
}

/// Acknowledged from the bucket, and the local database lost after every third kill.
#[tokio::test]
async fn kill_and_lose_the_local_database() {
    if is_netsy() {
        succeeds(Plan { copies_min: 2, wipe_percent: 33, ..plan() }).await;
    }
}

/// At every named place between accepting a write and its clean-up, and in start, restore and stop.
#[tokio::test]
async fn end_at_every_failpoint() {
    if is_netsy() {
        every_failpoint(plan()).await;
    }
}

async fn every_failpoint(plan: Plan) {
    let plan = Plan { kills: 5, copies_min: 2, wipe_percent: 20, ..plan };
    // Segments are cleaned by the next snapshot where there are any, so here there are none.
    let segments = Plan { failpoints: |name| name.starts_with("segment."), snapshot_records: 1 << 30, ..plan.clone() };
    succeeds(segments).await;
    succeeds(Plan { failpoints: |name| !name.starts_with("segment."), ..plan }).await;
}

/// The same over a file layer that keeps of each file what was synced and no more.
#[tokio::test]
#[ignore = "needs a netsy built with --features crashfs, named by NETSY_CRASHFS_BIN: scripts/test builds it"]
async fn lose_what_was_not_synced() {
    for copies_min in [1, 2] {
        succeeds(Plan {
            copies_min,
            wipe_percent: if copies_min > 1 { 20 } else { 0 },
            crashfs: Some(crashfs()),
            ..plan()
        })
        .await;
    }
}

/// Every place once more, with the loss of what was not synced when it is reached.
#[tokio::test]
#[ignore = "needs a netsy built with --features crashfs, named by NETSY_CRASHFS_BIN: scripts/test builds it"]
async fn lose_what_was_not_synced_at_every_failpoint() {
    every_failpoint(Plan { crashfs: Some(crashfs()), ..plan() }).await;
}

fn crashfs() -> PathBuf {
    let program = std::env::var_os("NETSY_CRASHFS_BIN");
    PathBuf::from(program.expect("NETSY_CRASHFS_BIN is not set: scripts/test builds such a netsy and sets it"))
}

/// The test of the test: a server whose folder goes back in time must be found out.
#[tokio::test]
async fn a_server_that_forgets_is_found_out() {
    let wrong = run(Plan { kills: 10, forget_after: Some(6), ..plan() }).await.expect_err("the loss went unnoticed");
    assert!(wrong.contains("went back from revision") || wrong.contains("is lost"), "{wrong}");
}
