//! What outlives the process, and what outlives the machine's disk.

use crate::check::{fails, revision};
use netsy_api::etcdserverpb as pb;
use netsy_api::mvccpb::KeyValue;
use netsy_e2e::ops::{self, get, op, prefix, put, txn, watch_all};
use netsy_e2e::watch::all_short;
use netsy_e2e::{Client, Kind, Options, Server};
use tonic::Code;

/// A store with history, deletions, a lease, a compaction and an alarm; gives the lease.
async fn fill(client: &Client) -> i64 {
    let lease = client.grant(5000, 0).await;
    for at in 0..50 {
        client.put(format!("k/{at:02}"), format!("first {at}")).await;
    }
    for at in (0..50).step_by(3) {
        client.put(format!("k/{at:02}"), vec![b'x'; 10_000]).await;
    }
    for at in (0..50).step_by(7) {
        client.delete(format!("k/{at:02}")).await;
    }
    client.try_put(pb::PutRequest { lease, ..put("leased", "v") }).await.expect("put");
    let ops = (0..20).map(|at| op(put(format!("t/{at:02}"), "v"))).collect();
    client.txn(txn(vec![], ops, vec![])).await.expect("txn");
    client.compact(60, true).await.expect("compact");
    for at in 0..10 {
        client.put(format!("t/{at:02}"), "again").await;
    }
    lease
}

#[derive(Debug, PartialEq)]
struct Everything {
    revision: i64,
    now: Vec<KeyValue>,
    then: Vec<KeyValue>,
    history: Vec<String>,
    hash: (i64, i64),
    keys_of_lease: Vec<bytes::Bytes>,
}

async fn look(client: &Client, lease: i64) -> Everything {
    let everything = ops::range(ops::OPEN, ops::OPEN);
    let now = client.range(everything.clone()).await.expect("range");
    let then =
        client.range(pb::RangeRequest { revision: 60, ..everything }).await.expect("range at the compacted revision");
    fails(
        client.range(pb::RangeRequest { revision: 59, ..get("k") }).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
    let mut stream = client.watch().await;
    stream.add(pb::WatchCreateRequest { start_revision: 60, ..watch_all() }).await;
    let (_, events) = stream.progress().await;
    let hash = client.maintenance().hash_kv(pb::HashKvRequest { revision: 0 }).await.expect("hash").into_inner();
    let left = client.time_to_live(lease).await.expect("ttl");
    assert_eq!(left.granted_ttl, 5000);
    Everything {
        revision: revision(&now.header),
        now: now.kvs,
        then: then.kvs,
        history: all_short(&events),
        hash: (i64::from(hash.hash), hash.compact_revision),
        keys_of_lease: left.keys,
    }
}

#[tokio::test]
async fn everything_is_there_after_a_kill() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let lease = fill(&client).await;
    let before = look(&client, lease).await;
    server.kill();
    server.start_again().await;
    let client = server.client().await;
    assert_eq!(look(&client, lease).await, before);
    assert_eq!(client.put("next", "v").await, before.revision + 1);
}

#[tokio::test]
async fn everything_is_there_after_a_stop() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let lease = fill(&client).await;
    let before = look(&client, lease).await;
    drop(client);
    server.stop().await;
    server.start_again().await;
    let client = server.client().await;
    assert_eq!(look(&client, lease).await, before);
    assert_eq!(client.put("next", "v").await, before.revision + 1);
}

#[tokio::test]
async fn everything_comes_back_from_the_object_store() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    for snapshot_records in [None, Some(20)] {
        let mut server =
            Server::start_with(Options { copies_min: Some(2), snapshot_records, ..Options::default() }).await;
        let client = server.client().await;
        let lease = fill(&client).await;
        let before = look(&client, lease).await;
        for round in 0..3 {
            server.kill();
            server.wipe_local_database();
            server.start_again().await;
            let client = server.client().await;
            let after = look(&client, lease).await;
            assert_eq!(after, before, "restore {round}");
        }
        let client = server.client().await;
        assert_eq!(client.put("next", "v").await, before.revision + 1);
        // The id of the lease is still taken, and its end takes its key along.
        fails(client.try_grant(60, lease).await, Code::FailedPrecondition, "etcdserver: lease already exists");
        client.revoke(lease).await.expect("revoke");
        assert!(client.get("leased").await.is_none());
    }
}

/// A stop hands everything to the bucket, also where writes were acknowledged from the local disk.
#[tokio::test]
async fn a_stopped_node_leaves_all_in_the_object_store() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    let mut server = Server::start_with(Options { copies_min: Some(1), ..Options::default() }).await;
    let client = server.client().await;
    let lease = fill(&client).await;
    let before = look(&client, lease).await;
    drop(client);
    server.stop().await;
    server.wipe_local_database();
    server.start_again().await;
    assert_eq!(look(&server.client().await, lease).await, before);
}

#[tokio::test]
async fn an_alarm_survives() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let member_id = client.status().await.expect("status").header.expect("a header").member_id;
    client.maintenance().alarm(pb::AlarmRequest { action: 1, member_id, alarm: 1 }).await.expect("alarm");
    server.kill();
    server.start_again().await;
    let client = server.client().await;
    let status = client.status().await.expect("status");
    assert_eq!(status.errors.len(), 1, "{status:?}");
    assert_eq!(status.header.expect("a header").member_id, member_id, "a member keeps its id");
    fails(client.try_put(put("a", "1")).await, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
}

/// Compaction of the last tombstone must not take the revision with it (etcd bug 17780).
#[tokio::test]
async fn the_revision_survives_compaction_of_everything() {
    let mut server = Server::start().await;
    let client = server.client().await;
    for at in 0..10 {
        client.put(format!("k/{at}"), "v").await;
    }
    let deleted = client.delete_range(ops::delete_range("k/", "k0")).await.expect("delete");
    assert_eq!(revision(&deleted.header), 12);
    client.compact(12, true).await.expect("compact");
    for _ in 0..2 {
        server.kill();
        server.start_again().await;
        assert_eq!(server.client().await.revision().await, 12);
    }
    let client = server.client().await;
    assert_eq!(client.range(prefix("k/")).await.expect("range").count, 0);
    assert_eq!(client.put("a", "1").await, 13);
}

#[tokio::test]
async fn a_port_that_is_taken_ends_a_start_at_once() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    let mut server = Server::new(Options::default());
    let taken = std::net::TcpListener::bind(server.address()).expect("take the port");
    server.spawn();
    // It takes part in nothing before, so there is nothing to wait for: a stop in an election would take half a minute.
    let ended = server.wait_for_end(std::time::Duration::from_secs(20)).await.expect("an end");
    assert!(!ended.success());
    let told = server.log_tail();
    assert!(told.contains(&format!("cannot listen on {}; choose another address", server.address())), "{told}");
    assert!(!server.has_local_database(), "it was not begun");
    drop(taken);
}
