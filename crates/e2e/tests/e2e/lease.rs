//! Leases (reference/etcd.md 1.4, 2.6) beyond what the mismatches cover.

use crate::check::{fails, revision};
use netsy_api::etcdserverpb as pb;
use netsy_e2e::ops::{op, put, txn, watch_all};
use netsy_e2e::watch::all_short;
use netsy_e2e::{Client, Server};
use std::time::{Duration, Instant};
use tonic::Code;

fn with(lease: i64, key: &str) -> pb::PutRequest {
    pb::PutRequest { lease, ..put(key, "v") }
}

async fn keys_of(client: &Client, lease: i64) -> Vec<String> {
    let answer = client.time_to_live(lease).await.expect("time to live");
    let mut keys: Vec<String> = answer.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn keys_follow_their_last_put() {
    let server = Server::start().await;
    let client = server.client().await;
    let (first, second) = (client.grant(100, 0).await, client.grant(100, 0).await);
    for key in ["a", "b", "c", "d"] {
        client.try_put(with(first, key)).await.expect("put");
    }
    assert_eq!(keys_of(&client, first).await, ["a", "b", "c", "d"]);
    client.try_put(with(second, "b")).await.expect("moves to the other lease");
    client.put("c", "detached").await;
    client.delete("d").await;
    client.try_put(pb::PutRequest { ignore_lease: true, ..put("a", "2") }).await.expect("keeps its lease");
    assert_eq!(keys_of(&client, first).await, ["a"]);
    assert_eq!(keys_of(&client, second).await, ["b"]);
    assert_eq!(client.get("a").await.expect("a").lease, first);
    assert_eq!(client.get("c").await.expect("c").lease, 0);
    let untouched = client
        .lease()
        .lease_time_to_live(pb::LeaseTimeToLiveRequest { id: first, keys: false })
        .await
        .expect("ttl")
        .into_inner();
    assert!(untouched.keys.is_empty(), "keys only where asked for");

    client.revoke(first).await.expect("revoke");
    assert!(client.get("a").await.is_none());
    assert_eq!(client.get("b").await.expect("b").value, "v");
    assert_eq!(client.get("c").await.expect("c").value, "detached");
    // A lease outlives its keys.
    client.delete("b").await;
    assert_eq!(client.time_to_live(second).await.expect("ttl").granted_ttl, 100);
}

#[tokio::test]
async fn expiry_deletes_in_one_revision_and_not_early() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut stream = client.watch().await;
    stream.add(watch_all()).await;
    let start = Instant::now();
    let id = client.grant(2, 0).await;
    client.txn(txn(vec![], vec![op(with(id, "b")), op(with(id, "a"))], vec![])).await.expect("txn");
    stream.events(2).await;
    let answer = stream.next().await;
    assert!(start.elapsed() >= Duration::from_secs(2), "expired after {:?}", start.elapsed());
    assert_eq!(all_short(&answer.events), ["D a @3", "D b @3"]);
    assert_eq!(client.time_to_live(id).await.expect("ttl").ttl, -1);
    fails(client.try_put(with(id, "a")).await, Code::NotFound, "etcdserver: requested lease not found");
    fails(client.revoke(id).await, Code::NotFound, "etcdserver: requested lease not found");
    client.grant(100, id).await; // The id is free again.
}

#[tokio::test]
async fn keep_alive_keeps_alive() {
    let server = Server::start().await;
    let client = server.client().await;
    let id = client.grant(2, 0).await;
    let revision_before = revision(&client.try_put(with(id, "a")).await.expect("put").header);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        let answer = client.keep_alive(id).await.expect("keep alive");
        assert_eq!((answer.id, answer.ttl), (id, 2));
        assert_eq!(revision(&answer.header), revision_before, "renewing makes no revision");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(client.get("a").await.is_some());
}

#[tokio::test]
async fn keep_alive_stream_answers_each_request_in_order() {
    let server = Server::start().await;
    let client = server.client().await;
    let (first, second) = (client.grant(50, 0).await, client.grant(60, 0).await);
    let asked: Vec<_> = [first, 4711, second, first].iter().map(|id| pb::LeaseKeepAliveRequest { id: *id }).collect();
    let mut stream = client.lease().lease_keep_alive(tokio_stream::iter(asked)).await.expect("stream").into_inner();
    let mut answers = Vec::new();
    while let Some(answer) = stream.message().await.expect("answer") {
        answers.push((answer.id, answer.ttl));
    }
    assert_eq!(answers, [(first, 50), (4711, 0), (second, 60), (first, 50)]);
}

#[tokio::test]
async fn leases_are_listed_by_expiry() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut expected = Vec::new();
    for ttl in [300, 100, 200] {
        expected.push((ttl, client.grant(ttl, 0).await));
    }
    expected.sort_unstable();
    let list = client.lease().lease_leases(pb::LeaseLeasesRequest {}).await.expect("leases").into_inner();
    let ids: Vec<i64> = list.leases.iter().map(|lease| lease.id).collect();
    assert_eq!(ids, expected.iter().map(|(_, id)| *id).collect::<Vec<_>>());
    assert_eq!(revision(&list.header), 1);
}

#[tokio::test]
async fn leases_survive_a_restart_with_their_keys() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let (long, short) = (client.grant(500, 0).await, client.grant(2, 0).await);
    client.try_put(with(long, "long")).await.expect("put");
    client.try_put(with(short, "short")).await.expect("put");
    server.kill();
    server.start_again().await;
    let client = server.client().await;
    let left = client.time_to_live(long).await.expect("ttl");
    assert_eq!(left.granted_ttl, 500);
    assert!((450..=501).contains(&left.ttl), "{} s left", left.ttl);
    assert_eq!(keys_of(&client, long).await, ["long"]);
    let start = Instant::now();
    while client.get("short").await.is_some() {
        assert!(start.elapsed() < Duration::from_secs(15), "the short lease never expires after the restart");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(client.get("long").await.is_some());
}

#[tokio::test]
async fn a_thousand_leases_expire() {
    let server = Server::start().await;
    let client = server.client().await;
    let grants = (0..1000).map(|at| {
        let client = client.clone();
        async move {
            let id = client.grant(2, 0).await;
            client.try_put(with(id, &format!("k/{at}"))).await.expect("put");
        }
    });
    futures::future::join_all(grants).await;
    let start = Instant::now();
    while client.range(netsy_e2e::ops::prefix("k/")).await.expect("range").count > 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "leases left after 20 s");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.revision().await, 2001, "one revision for each lease's end");
}
