//! A state with something of everything in it, and all that clients can see of it.

use netsy_api::etcdserverpb as pb;
use netsy_api::mvccpb::KeyValue;
use netsy_e2e::Client;
use netsy_e2e::ops::{self, op, put, txn, watch_all};
use netsy_e2e::watch::all_short;
use std::collections::BTreeMap;

/// Writers at the same time.
const WRITERS: usize = 8;
/// Writes of each.
const WRITES: usize = 60;

/// Adds to the state, and compacts some of it away.
pub async fn write(client: &Client, round: usize) {
    let lease = client.grant(5000 + round as i64, 0).await;
    let writers = (0..WRITERS).map(|writer| {
        let client = client.clone();
        tokio::spawn(async move {
            for at in 0..WRITES {
                let key = format!("k/{writer}/{:02}", at % 40);
                match at % 6 {
                    0 => {
                        client.put(key, vec![b'x'; 3_000]).await;
                    }
                    1 => {
                        client.delete(key).await;
                    }
                    2 => {
                        let leased = pb::PutRequest { lease, ..put(format!("l/{round}/{writer}/{at}"), "v") };
                        client.try_put(leased).await.expect("put");
                    }
                    3 => {
                        let ops = (0..5).map(|n| op(put(format!("t/{writer}/{n}"), format!("{round} {at}")))).collect();
                        client.txn(txn(vec![], ops, vec![])).await.expect("txn");
                    }
                    _ => {
                        client.put(key, format!("{round} {at}")).await;
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("a writer");
    }
    let short = client.grant(60, 0).await;
    client.revoke(short).await.expect("revoke");
    let revision = client.revision().await;
    client.compact(revision - 100, true).await.expect("compact");
    for at in 0..20 {
        client.put("after the compaction", at.to_string()).await;
    }
}

/// All that clients can see.
#[derive(Debug, PartialEq)]
pub struct Everything {
    pub revision: i64,
    now: Vec<KeyValue>,
    /// At some revisions that are readable.
    then: Vec<(i64, Vec<KeyValue>)>,
    history: Vec<String>,
    hash: (u32, i64),
    /// Granted time and keys.
    leases: BTreeMap<i64, (i64, Vec<bytes::Bytes>)>,
    member: (u64, u64),
}

/// Looks at all of it; leases must have time left, and no more than they were granted.
pub async fn look(client: &Client) -> Everything {
    let all = |revision| pb::RangeRequest { revision, ..ops::range(ops::OPEN, ops::OPEN) };
    let now = client.range(all(0)).await.expect("range");
    let header = now.header.expect("a header");
    let hash = client.maintenance().hash_kv(pb::HashKvRequest { revision: 0 }).await.expect("hash").into_inner();
    let first = hash.compact_revision.max(1);
    let mut then = Vec::new();
    for revision in (first..header.revision).step_by(37) {
        then.push((revision, client.range(all(revision)).await.expect("range at a revision").kvs));
    }
    let mut stream = client.watch().await;
    stream.add(pb::WatchCreateRequest { start_revision: first, prev_kv: true, ..watch_all() }).await;
    let (_, events) = stream.progress().await;
    let mut leases = BTreeMap::new();
    let ids = client.lease().lease_leases(pb::LeaseLeasesRequest {}).await.expect("leases").into_inner().leases;
    for lease in ids {
        let left = client.time_to_live(lease.id).await.expect("time to live");
        assert!(left.ttl > 0 && left.ttl <= left.granted_ttl, "{left:?}");
        leases.insert(lease.id, (left.granted_ttl, left.keys));
    }
    Everything {
        revision: header.revision,
        now: now.kvs,
        then,
        history: all_short(&events),
        hash: (hash.hash, hash.compact_revision),
        leases,
        member: (header.cluster_id, header.member_id),
    }
}
