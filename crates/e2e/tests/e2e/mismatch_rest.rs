//! reference/etcd.md section 8, numbers 17 to 25: leases, limits, members, maintenance.

use crate::check::{fails, revision};
use netsy_api::etcdserverpb as pb;
use netsy_e2e::ops::{delete, get, op, prefix, put, txn};
use netsy_e2e::watch::all_short;
use netsy_e2e::{Options, Server, ops};
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn mismatch_17_lease_numbers() {
    let server = Server::start().await;
    let client = server.client().await;
    for asked in [-5, 0, 1, 2] {
        let grant = client.try_grant(asked, 0).await.expect("grant");
        assert!(grant.id > 0, "a chosen id is positive");
        assert_eq!(grant.ttl, 2, "{asked} is raised to the least");
    }
    let id = client.grant(100, 77).await;
    assert_eq!(id, 77);
    let left = client.time_to_live(77).await.expect("time to live");
    assert_eq!((left.id, left.granted_ttl), (77, 100));
    assert_eq!(left.ttl, 99, "whole seconds that are left");
    let renewed = client.keep_alive(77).await.expect("keep alive");
    assert_eq!((renewed.id, renewed.ttl), (77, 100), "a renewal gives the granted time");

    let unknown = client.time_to_live(4711).await.expect("an unknown lease is no error");
    assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl, unknown.keys.len()), (4711, -1, 0, 0));
    let unknown = client.keep_alive(4711).await.expect("an unknown lease is no error");
    assert_eq!((unknown.id, unknown.ttl), (4711, 0));
}

#[tokio::test]
async fn mismatch_18_keep_alive_waits_for_the_revoke() {
    let server = Server::start().await;
    let client = server.client().await;
    for _ in 0..3 {
        let id = client.grant(2, 0).await;
        client.try_put(pb::PutRequest { lease: id, ..put("a", "1") }).await.expect("put");
        tokio::time::sleep(Duration::from_millis(2050)).await;
        let answer = client.keep_alive(id).await.expect("keep alive");
        assert_eq!(answer.ttl, 0, "an expired lease is not renewed");
        assert!(client.get("a").await.is_none(), "the keys of a lease said to be gone are gone");
        assert_eq!(client.time_to_live(id).await.expect("time to live").ttl, -1);
    }
}

#[tokio::test]
async fn mismatch_19_a_revoke_is_one_revision() {
    let server = Server::start().await;
    let client = server.client().await;
    let id = client.grant(100, 0).await;
    for key in ["c", "a", "b"] {
        client.try_put(pb::PutRequest { lease: id, ..put(key, "1") }).await.expect("put");
    }
    let mut stream = client.watch().await;
    stream.add(ops::watch_all()).await;
    let answer = client.revoke(id).await.expect("revoke");
    assert_eq!(revision(&answer.header), 5);
    let seen = stream.next().await;
    assert_eq!(all_short(&seen.events), ["D a @5", "D b @5", "D c @5"], "all its keys in one answer, in order");

    let empty = client.grant(100, 0).await;
    assert_eq!(revision(&client.revoke(empty).await.expect("revoke").header), 5, "without keys no revision");
    fails(client.revoke(empty).await, Code::NotFound, "etcdserver: requested lease not found");
}

#[tokio::test]
async fn mismatch_20_error_texts() {
    // The whole table is in errors.rs; here one of each code.
    let server = Server::start().await;
    let client = server.client().await;
    fails(client.try_get("").await, Code::InvalidArgument, "etcdserver: key is not provided");
    let future = client.range(pb::RangeRequest { revision: 9, ..get("a") }).await;
    fails(future, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    fails(client.revoke(1).await, Code::NotFound, "etcdserver: requested lease not found");
    client.grant(100, 5).await;
    fails(client.try_grant(100, 5).await, Code::FailedPrecondition, "etcdserver: lease already exists");
}

#[tokio::test]
async fn mismatch_21_request_size_and_message_size() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("fits", vec![b'x'; (1 << 20) + (1 << 18)]).await;
    let large = client.try_put(put("large", vec![b'x'; 1_572_864])).await;
    fails(large, Code::InvalidArgument, "etcdserver: request is too large");
    let larger = client.try_put(put("larger", vec![b'x'; 2 << 20])).await.expect_err("beyond the message limit");
    assert_eq!(larger.code(), Code::ResourceExhausted);
    assert!(larger.message().contains("received message larger than max"), "{larger:?}");
    // A transaction counts as a whole.
    let half = || op(put("half", vec![b'x'; 800_000]));
    let both = client.txn(txn(vec![], vec![half(), op(put("other half", vec![b'x'; 800_000]))], vec![])).await;
    fails(both, Code::InvalidArgument, "etcdserver: request is too large");
    // Reads have no such limit: this answer is larger than any request may be.
    client.put("fits 2", vec![b'y'; (1 << 20) + (1 << 18)]).await;
    let both = client.range(prefix("fits")).await.expect("a large answer");
    assert_eq!(both.kvs.len(), 2);
    assert_eq!(client.revision().await, 3);
}

#[tokio::test]
async fn mismatch_22_version() {
    let server = Server::start().await;
    let status = server.client().await.status().await.expect("status");
    let numbers: Vec<u64> = status.version.split('.').map(|part| part.parse().expect("three plain numbers")).collect();
    let [major, minor, patch] = numbers[..] else { panic!("{} is not x.y.z", status.version) };
    assert!((major, minor, patch) >= (3, 5, 13), "{} turns off consistent reads in Kubernetes", status.version);
    assert!(status.storage_version.starts_with("3."), "{:?}", status.storage_version);
    assert!(status.downgrade_info.is_some());
    assert!(status.leader != 0 && status.raft_term > 0 && status.raft_index > 0, "{status:?}");
    assert!(
        status.db_size >= status.db_size_in_use && status.db_size_in_use > 0 && status.db_size_quota > 0,
        "{status:?}"
    );
}

#[tokio::test]
async fn mismatch_23_range_stream() {
    let server = Server::start().await;
    let client = server.client().await;
    for at in 0..200 {
        client.put(format!("k/{at:03}"), vec![b'v'; 1000]).await;
    }
    let collect = |request: pb::RangeRequest| {
        let client = client.clone();
        async move {
            let mut stream = client.kv().range_stream(request).await?.into_inner();
            let (mut whole, mut chunks) = (pb::RangeResponse::default(), 0);
            while let Some(part) = stream.message().await? {
                let part = part.range_response.expect("a chunk holds a range answer");
                assert!(whole.header.is_none(), "the header comes in the last chunk");
                whole.kvs.extend(part.kvs);
                (whole.header, whole.more, whole.count) = (part.header, part.more, part.count);
                chunks += 1;
            }
            Ok::<_, tonic::Status>((whole, chunks))
        }
    };
    let requests = [
        prefix("k/"),
        pb::RangeRequest { limit: 50, ..prefix("k/") },
        pb::RangeRequest { limit: 500, ..prefix("k/") },
        pb::RangeRequest { revision: 100, ..prefix("k/") },
        pb::RangeRequest { keys_only: true, ..prefix("k/") },
        pb::RangeRequest { count_only: true, ..prefix("k/") },
        pb::RangeRequest { sort_order: 1, ..prefix("k/") },
        // The order of keys, too.
        pb::RangeRequest { sort_target: 2, ..prefix("k/") },
        pb::RangeRequest { sort_target: 3, ..prefix("k/") },
        prefix("none"),
        get("k/007"),
    ];
    for request in requests {
        let (whole, chunks) = collect(request.clone()).await.expect("stream");
        let unary = client.range(request.clone()).await.expect("range");
        assert_eq!(whole, unary, "merged chunks are what Range answers: {request:?}");
        if request == prefix("k/") {
            assert!(chunks > 1, "200 keys come in more than one chunk");
        }
    }
    let sorted = collect(pb::RangeRequest { sort_order: 2, ..prefix("k/") }).await;
    fails(sorted, Code::Unimplemented, "RangeStream does not support custom sort orders");
    let filtered = collect(pb::RangeRequest { min_mod_revision: 5, ..prefix("k/") }).await;
    fails(filtered, Code::Unimplemented, "RangeStream does not support revision filters");
    fails(collect(get("")).await, Code::InvalidArgument, "etcdserver: key is not provided");
    let future = collect(pb::RangeRequest { revision: 9999, ..prefix("k/") }).await;
    fails(future, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
}

#[tokio::test]
async fn mismatch_24_headers_without_a_revision() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "1").await;
    for linearizable in [true, false] {
        let members =
            client.cluster().member_list(pb::MemberListRequest { linearizable }).await.expect("members").into_inner();
        let header = members.header.expect("a member list has a header");
        assert_eq!(header.revision, 0);
        assert!(header.cluster_id != 0 && header.member_id != 0);
        assert_eq!(members.members.len(), 1);
        let member = &members.members[0];
        assert_eq!(member.id, header.member_id);
        assert!(!member.is_learner && !member.name.is_empty(), "{member:?}");
        assert_eq!(member.client_ur_ls, [server.url()], "clients find the server by this");
    }
    let defragmented =
        client.maintenance().defragment(pb::DefragmentRequest {}).await.expect("defragment").into_inner();
    assert!(defragmented.header.is_none());
}

#[tokio::test]
async fn mismatch_25_nospace_leaves_deletes_and_compaction() {
    let server = Server::start_with(Options { quota_bytes: Some(8 << 20), ..Options::default() }).await;
    let client = server.client().await;
    let mut last = 0;
    let mut refused = None;
    for at in 0..100 {
        match client.try_put(put(format!("k/{at:03}"), vec![at as u8; 256 << 10])).await {
            Ok(answer) => last = revision(&answer.header),
            Err(status) => {
                refused = Some(status);
                break;
            }
        }
    }
    let nospace = "etcdserver: mvcc: database space exceeded";
    let refused = refused.expect("25 MiB do not fit into 8 MiB");
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, nospace));
    fails(client.try_put(put("small", "1")).await, Code::ResourceExhausted, nospace);
    fails(
        client.txn(txn(vec![], vec![op(get("a")), op(put("small", "1"))], vec![])).await,
        Code::ResourceExhausted,
        nospace,
    );
    fails(client.try_grant(60, 0).await, Code::ResourceExhausted, nospace);

    let alarm = |action, alarm| client_alarm(&client, action, alarm);
    let alarms = alarm(0, 0).await;
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!(alarms[0].alarm, pb::AlarmType::Nospace as i32);
    let status = client.status().await.expect("status");
    assert_eq!(status.errors.len(), 1, "{status:?}");
    assert!(status.errors[0].contains("alarm:NOSPACE"), "{status:?}");

    client.get("k/000").await.expect("reads go on");
    assert_eq!(client.delete("k/000").await, (last + 1, 1));
    let deleting =
        client.txn(txn(vec![], vec![op(delete("k/001"))], vec![])).await.expect("a transaction that only deletes");
    assert_eq!(revision(&deleting.header), last + 2);
    let all = client.delete_range(ops::delete_range("k/", "k0")).await.expect("delete all");
    client.compact(revision(&all.header), true).await.expect("compaction goes on");
    client.maintenance().defragment(pb::DefragmentRequest {}).await.expect("defragment");
    fails(client.try_put(put("small", "1")).await, Code::ResourceExhausted, nospace);
    let cleared = alarm(2, 1).await;
    assert_eq!(cleared.len(), 1, "the cleared alarm is named");
    assert!(alarm(0, 0).await.is_empty());
    assert!(alarm(2, 1).await.is_empty(), "nothing is left to clear");
    client.put("small", "1").await;
}

async fn client_alarm(client: &netsy_e2e::Client, action: i32, alarm: i32) -> Vec<pb::AlarmMember> {
    let list = client
        .maintenance()
        .alarm(pb::AlarmRequest { action: 0, member_id: 0, alarm: 0 })
        .await
        .expect("alarms")
        .into_inner();
    if action == 0 {
        return list.alarms;
    }
    let member_id = list.header.expect("a header").member_id;
    client.maintenance().alarm(pb::AlarmRequest { action, member_id, alarm }).await.expect("alarm").into_inner().alarms
}
