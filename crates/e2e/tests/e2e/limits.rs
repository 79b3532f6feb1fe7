//! Sizes and counts at their bounds.

use crate::check::{fails, keys, revision};
use netsy_api::etcdserverpb as pb;
use netsy_e2e::ops::{self, delete_range, get, op, prefix, put, txn};
use netsy_e2e::{Client, Kind, Options, Server, raw_grpc};
use prost::Message;
use std::time::{Duration, Instant};
use tonic::Code;

const TOO_LARGE: &str = "etcdserver: request is too large";

#[tokio::test]
async fn request_sizes_at_the_bound() {
    let server = Server::start().await;
    let client = server.client().await;
    // 1.5 MiB is the bound of the whole request, which is a little larger than its value.
    client.put("under", vec![b'v'; 1_572_864 - 512]).await;
    fails(client.try_put(put("over", vec![b'v'; 1_572_864])).await, Code::InvalidArgument, TOO_LARGE);
    let long = |length| put(vec![b'k'; length], "v");
    client.try_put(long(1 << 20)).await.expect("a key may be as long as a request");
    fails(client.try_put(long(1_572_864)).await, Code::InvalidArgument, TOO_LARGE);
    assert_eq!(client.range(get(vec![b'k'; 1 << 20])).await.expect("range").kvs.len(), 1);
    let large_delete = client.delete_range(delete_range(vec![b'a'; 1_572_864], "b")).await;
    fails(large_delete, Code::InvalidArgument, TOO_LARGE);
    assert_eq!(client.revision().await, 3);
}

#[tokio::test]
async fn values_and_keys_of_any_bytes() {
    let server = Server::start().await;
    let client = server.client().await;
    let all: Vec<u8> = (0..=255).collect();
    client.put(all.clone(), all.clone()).await;
    assert_eq!(client.get(all.clone()).await.expect("it").value, all);
    client.put("empty", "").await;
    let empty = client.get("empty").await.expect("an empty value is a value");
    assert_eq!((empty.value.len(), empty.version), (0, 1));
    for key in [&b"\0"[..], b"\0\0", b"\xff", b"\xff\xff"] {
        client.put(key, "v").await;
    }
    assert_eq!(client.range(ops::range(ops::OPEN, ops::OPEN)).await.expect("everything").count, 6);
    assert_eq!(client.range(ops::range("\0", "\0\0")).await.expect("range").count, 1);
    assert_eq!(client.range(ops::range(b"\xff", ops::OPEN)).await.expect("range").count, 2);
    let last = client.range(prefix(b"\xff")).await.expect("prefix without an end");
    assert_eq!(last.count, 2);
    let inverted = client.range(ops::range("b", "a")).await.expect("an empty range is no error");
    assert_eq!((inverted.count, inverted.kvs.len()), (0, 0));
}

#[tokio::test]
async fn every_option_of_a_range() {
    let server = Server::start().await;
    let client = server.client().await;
    for at in 1..=6 {
        client.put(format!("k/{at}"), (10 - at).to_string()).await; // revisions 2 to 7
    }
    client.put("k/2", "again").await; // 8
    let ask = |request: pb::RangeRequest| {
        let client = client.clone();
        async move { keys(&client.range(request).await.expect("range").kvs).join(" ") }
    };
    assert_eq!(ask(pb::RangeRequest { min_mod_revision: 6, ..prefix("k/") }).await, "k/2 k/5 k/6");
    assert_eq!(ask(pb::RangeRequest { max_mod_revision: 4, ..prefix("k/") }).await, "k/1 k/3");
    assert_eq!(
        ask(pb::RangeRequest { min_create_revision: 3, max_create_revision: 4, ..prefix("k/") }).await,
        "k/2 k/3"
    );
    assert_eq!(ask(pb::RangeRequest { min_create_revision: 3, max_mod_revision: 5, ..prefix("k/") }).await, "k/3 k/4");
    assert_eq!(ask(pb::RangeRequest { sort_target: 4, sort_order: 1, limit: 3, ..prefix("k/") }).await, "k/6 k/5 k/4");
    assert_eq!(ask(pb::RangeRequest { revision: 5, ..prefix("k/") }).await, "k/1 k/2 k/3 k/4");
    assert_eq!(ask(pb::RangeRequest { serializable: true, ..prefix("k/") }).await, "k/1 k/2 k/3 k/4 k/5 k/6");
    let only_keys = client.range(pb::RangeRequest { keys_only: true, ..prefix("k/") }).await.expect("range");
    assert!(only_keys.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 0 && kv.version > 0));
    let sorted_keys_only = pb::RangeRequest { keys_only: true, sort_target: 4, sort_order: 2, ..prefix("k/") };
    assert_eq!(ask(sorted_keys_only).await, "k/2 k/1 k/3 k/4 k/5 k/6", "sorted by the values that are not shown");
    let old = client.range(pb::RangeRequest { revision: 7, ..get("k/2") }).await.expect("range");
    assert_eq!((old.kvs[0].value.as_ref(), old.kvs[0].version, revision(&old.header)), (&b"8"[..], 1, 8));
}

#[tokio::test]
async fn ten_thousand_keys_at_once() {
    let server = Server::start().await;
    let client = server.client().await;
    for batch in 0..100 {
        let ops = (0..100).map(|at| op(put(format!("k/{:05}", batch * 100 + at), vec![b'v'; 100]))).collect();
        client.txn(txn(vec![], ops, vec![])).await.expect("txn");
    }
    let all = client.range(prefix("k/")).await.expect("range");
    assert_eq!((all.count, all.kvs.len()), (10_000, 10_000));
    assert!(all.kvs.is_sorted_by(|a, b| a.key < b.key));
    let deleted = client
        .delete_range(pb::DeleteRangeRequest { prev_kv: true, ..delete_range("k/", "k0") })
        .await
        .expect("delete");
    assert_eq!((deleted.deleted, deleted.prev_kvs.len(), revision(&deleted.header)), (10_000, 10_000, 102));
    assert_eq!(
        client.range(pb::RangeRequest { revision: 101, count_only: true, ..prefix("k/") }).await.expect("range").count,
        10_000
    );
    client.compact(102, true).await.expect("compact");
    client.maintenance().defragment(pb::DefragmentRequest {}).await.expect("defragment");
    assert_eq!(client.range(prefix("k/")).await.expect("range").count, 0);
}

/// Nesting is only bounded by what a message decoder takes; it must end in an error, not in the server's stack.
#[tokio::test]
async fn deeply_nested_transactions() {
    let server = Server::start().await;
    let client = server.client().await;
    // By hand: encoding it as one is would end our own stack.
    let nested = |depth: usize| {
        let mut message = txn(vec![], vec![op(put("deep", "v"))], vec![]).encode_to_vec();
        for _ in 0..depth {
            for tag in [0x22, 0x12] {
                let mut outer = vec![tag];
                prost::encode_length_delimiter(message.len(), &mut outer).expect("a vector grows");
                outer.extend(message);
                message = outer;
            }
        }
        raw_grpc::unary(&client, "/etcdserverpb.KV/Txn", message)
    };
    nested(20).await.expect("20 deep");
    assert_eq!(client.get("deep").await.expect("deep").version, 1);
    for depth in [130, 1000, 10_000, 100_000] {
        let refused = nested(depth).await;
        assert!(refused.is_err(), "{depth} deep was accepted");
    }
    still_serves(&client).await;
}

/// A hundred thousand compares in one message: too many, and said so quickly.
#[tokio::test]
async fn a_flood_of_compares() {
    let server = Server::start().await;
    let client = server.client().await;
    let start = Instant::now();
    let request = txn(vec![ops::mod_is("k", 1); 100_000], vec![], vec![]);
    fails(client.txn(request).await, Code::InvalidArgument, "etcdserver: too many operations in txn request");
    assert!(start.elapsed() < Duration::from_secs(20));
    still_serves(&client).await;
}

async fn still_serves(client: &Client) {
    client.put("still", "serves").await;
    assert_eq!(client.get("still").await.expect("still").value, "serves");
}

/// The quota counts what is on its way: writers at the same time do not get past it together.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_stops_at_the_quota() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    const QUOTA: u64 = 8 << 20;
    // Small ones and ones that fill pages, since they take up room in different ways.
    for length in [100, 2_500, 20_000] {
        let server = Server::start_with(Options { quota_bytes: Some(QUOTA), ..Options::default() }).await;
        let client = server.client().await;
        let writers = (0..48).map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                for at in 0.. {
                    if let Err(status) = client.try_put(put(format!("k/{writer}/{at}"), vec![b'v'; length])).await {
                        let nospace = "etcdserver: mvcc: database space exceeded";
                        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, nospace));
                        return at * length as u64;
                    }
                }
                0
            })
        });
        let mut written = 0;
        for writer in writers.collect::<Vec<_>>() {
            written += writer.await.expect("a writer");
        }
        client.maintenance().defragment(pb::DefragmentRequest {}).await.expect("it reads the sizes anew");
        let in_use = client.status().await.expect("status").db_size_in_use as u64;
        // What is noted beside the keys, of uploads and of what is visible, takes pages of its own now and then.
        assert!(in_use <= QUOTA + 4 * 4096, "{in_use} bytes in use");
        assert!(in_use > QUOTA - (QUOTA / 8) && written > QUOTA / 4, "{in_use} bytes in use, {written} written");
    }
}
