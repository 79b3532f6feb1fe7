//! Two processes of one name on one bucket, which an operator may start by mistake.

use crate::setup::{Setting, server};
use netsy_e2e::ops::put;
use netsy_e2e::{Kind, Server};
use netsy_fakestore::{Dialect, FakeStore};
use std::time::Duration;

const SETTING: Setting = Setting { prefix: "twins", quorum: -1, snapshot_records: 1_000 };

/// The older one says so and ends; the newer one goes on.
async fn ends_for(older: &mut Server, newer: &mut Server, how: &str) {
    newer.start_again().await;
    let ended = older.wait_for_end(Duration::from_secs(60)).await.expect("it ends");
    assert!(!ended.success());
    let log = older.log_tail();
    assert!(log.contains(&format!("another process was started as node n1 since, {how}")), "{log}");
    newer.client().await.try_put(put("k", "2")).await.expect("the newer one serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_process_of_a_name_ends() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    let store = FakeStore::start(Dialect::S3).await.expect("the fake starts");
    let mut first = server(Dialect::S3, &store.endpoint(), SETTING);
    first.start_again().await;
    first.client().await.try_put(put("k", "1")).await.expect("a put");
    let mut second = server(Dialect::S3, &store.endpoint(), SETTING);
    ends_for(&mut first, &mut second, "with another database").await;
}
