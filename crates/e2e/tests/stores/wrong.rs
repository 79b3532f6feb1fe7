//! What stands in the bucket cannot be used: the node says so, once, names it, and goes on once it is mended.

use crate::setup::{Setting, server};
use netsy_e2e::{Kind, Server, ops};
use netsy_fakestore::{Calls, Dialect, FakeStore, Fault, FaultKind, Op};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SETTING: Setting = Setting { prefix: "wrong", quorum: 0, snapshot_records: 1_000_000 };

/// Code and body of a readiness check.
async fn readiness(server: &Server) -> String {
    // Not before the process listens.
    let Ok(mut socket) = TcpStream::connect(server.address()).await else { return String::new() };
    let request = "GET /readyz/storage HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    let mut answer = String::new();
    if socket.write_all(request.as_bytes()).await.is_err() || socket.read_to_string(&mut answer).await.is_err() {
        return String::new();
    }
    answer
}

/// Asks until the answer holds this text.
async fn told(server: &Server, text: &str) -> String {
    let mut answer = String::new();
    for _ in 0..1_200 {
        answer = readiness(server).await;
        if answer.contains(text) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{text:?} is never told, but {answer}; it printed:\n{}", server.log_tail());
}

/// Until so many more of these calls were made.
async fn called(store: &FakeStore, calls: &Calls, more: u64) {
    let begun = store.calls(calls);
    while store.calls(calls) < begun + more {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn lines(server: &Server, holding: &str) -> usize {
    let count = |level: &str, log: &str| log.lines().filter(|l| l.contains(level) && l.contains(holding)).count();
    let log = server.log_tail();
    count("WARN", &log) + count("ERROR", &log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_be_restored_from() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    let store = FakeStore::start(Dialect::S3).await.expect("the fake starts");
    let mut server = server(Dialect::S3, &store.endpoint(), SETTING);
    server.start_again().await;
    let at = server.client().await.put("a", "1").await;
    server.kill();
    server.wipe_local_database();
    let last = store.keys().into_iter().filter(|key| key.contains("/log/")).max().expect("a chunk");
    let whole = store.object(&last).expect("a chunk");
    let mut damaged = whole.to_vec();
    damaged[whole.len() / 2] ^= 1;
    store.put_object(&last, damaged);
    server.spawn();
    let name = last.rsplit('/').next().expect("a name");
    let answer = told(&server, name).await;
    assert!(answer.contains("[-]storage failed: object storage: "), "{answer}");
    // Each try reads it twice.
    called(&store, &Calls::new(Op::Get, &last), 4).await;
    assert_eq!(lines(&server, name), 1, "{}", server.log_tail());
    store.put_object(&last, whole);
    server.await_ready().await;
    assert!(server.log_tail().contains("is well again"), "{}", server.log_tail());
    assert_eq!(server.client().await.put("a", "2").await, at + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_objects_that_are_no_json() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    let store = FakeStore::start(Dialect::S3).await.expect("the fake starts");
    let mut server = server(Dialect::S3, &store.endpoint(), SETTING);
    server.start_again().await;
    for name in ["elector.json", "cluster.json"] {
        let key = store.keys().into_iter().find(|key| key.ends_with(name)).expect("it is there");
        let whole = store.object(&key).expect("it is there");
        store.put_object(&key, "{ no");
        let answer = told(&server, name).await;
        assert!(answer.contains("[-]storage failed: object storage: "), "{answer}");
        called(&store, &Calls::new(Op::Get, &key), 2).await;
        assert_eq!(lines(&server, name), 1, "{}", server.log_tail());
        store.put_object(&key, whole);
        told(&server, "200 OK").await;
    }
    server.client().await.put("a", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_that_storage_is_out_and_that_it_is_back() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    let store = FakeStore::start(Dialect::S3).await.expect("the fake starts");
    let mut server = server(Dialect::S3, &store.endpoint(), SETTING);
    server.start_again().await;
    let client = server.client().await;
    client.put("a", "1").await;
    for op in [Op::Put, Op::Get, Op::List] {
        store.inject(Fault::new(Calls::new(op, "*"), FaultKind::StatusBefore(503)));
    }
    // Waits for the object log.
    let write = tokio::spawn(async move { client.try_put(ops::put("a", "2")).await });
    printed(&server, "object log", "no answer for ").await;
    store.clear_faults();
    printed(&server, "object log", "answers again").await;
    // It may have been told that it takes too long.
    let _ = write.await.expect("no panic");
    for text in ["no answer for ", "answers again"] {
        let said = server.log_tail().lines().filter(|l| l.contains("object log") && l.contains(text)).count();
        assert_eq!(said, 1, "{text}: {}", server.log_tail());
    }
}

/// Until a line has both.
async fn printed(server: &Server, of: &str, text: &str) {
    for _ in 0..1_200 {
        if server.log_tail().lines().any(|line| line.contains(of) && line.contains(text)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{text:?} is never said:\n{}", server.log_tail());
}
