//! What every call answers: headers, codes, texts, limits.

mod common;

use bytes::Bytes;
use common::{Running, all, assert_full, key, put, start, start_with};
use netsy_api::etcdserverpb::cluster_client::ClusterClient;
use netsy_api::etcdserverpb::compare::{CompareTarget, TargetUnion};
use netsy_api::etcdserverpb::request_op::Request as Op;
use netsy_api::etcdserverpb::response_op::Response as Answer;
use netsy_api::etcdserverpb::*;
use netsy_api::health::HealthCheckRequest;
use netsy_api::health::health_client::HealthClient;
use netsy_node::NodeConfig;
use netsy_objects::StorageConfig;
use netsy_server::ServerConfig;
use std::time::Duration;
use tonic::{Code, Request};

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn status_of<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> (Code, String) {
    let status = result.expect_err("an error");
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn keys_and_their_headers() {
    let server = start().await;
    let mut kv = server.kv().await;
    let empty = kv.range(all()).await.unwrap().into_inner();
    assert_full(empty.header, &server.node, 1);
    assert_eq!((empty.count, empty.more, empty.kvs.len()), (0, false, 0));
    let first = kv.put(put("a", "1")).await.unwrap().into_inner();
    assert_full(first.header, &server.node, 2);
    assert!(first.prev_kv.is_none());
    let second = kv.put(PutRequest { prev_kv: true, ..put("a", "2") }).await.unwrap().into_inner();
    let prev = second.prev_kv.unwrap();
    assert_eq!((&prev.value[..], prev.mod_revision, prev.version), (&b"1"[..], 2, 1));
    let got = kv.range(key("a")).await.unwrap().into_inner();
    assert_full(got.header, &server.node, 3);
    assert_eq!((got.kvs[0].create_revision, got.kvs[0].mod_revision, got.kvs[0].version), (2, 3, 2));
    let old = kv.range(RangeRequest { revision: 2, ..key("a") }).await.unwrap().into_inner();
    assert_full(old.header, &server.node, 3);
    assert_eq!(&old.kvs[0].value[..], b"1");
    let none = DeleteRangeRequest { key: "x".into(), ..DeleteRangeRequest::default() };
    let none = kv.delete_range(none).await.unwrap().into_inner();
    assert_full(none.header, &server.node, 3);
    assert_eq!(none.deleted, 0);
    let gone = DeleteRangeRequest { key: "a".into(), prev_kv: true, ..DeleteRangeRequest::default() };
    let gone = kv.delete_range(gone).await.unwrap().into_inner();
    assert_full(gone.header, &server.node, 4);
    assert_eq!((gone.deleted, &gone.prev_kvs[0].value[..]), (1, &b"2"[..]));
    let compacted = kv.compact(CompactionRequest { revision: 3, physical: true }).await.unwrap().into_inner();
    assert_full(compacted.header, &server.node, 4);
    let again = status_of(kv.compact(CompactionRequest { revision: 3, physical: false }).await);
    assert_eq!(again, (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted".into()));
    let future = status_of(kv.compact(CompactionRequest { revision: 9, physical: false }).await);
    assert_eq!(future, (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".into()));
}

#[tokio::test]
async fn headers_inside_transactions_have_a_revision_only() {
    let server = start().await;
    let mut kv = server.kv().await;
    let nested = TxnRequest { success: vec![op(Op::RequestRange(key("a")))], ..TxnRequest::default() };
    let request = TxnRequest {
        compare: vec![Compare {
            target: CompareTarget::Version as i32,
            key: "a".into(),
            target_union: Some(TargetUnion::Version(0)),
            ..Compare::default()
        }],
        success: vec![
            op(Op::RequestRange(key("a"))),
            op(Op::RequestPut(put("a", "1"))),
            op(Op::RequestTxn(nested)),
            op(Op::RequestDeleteRange(DeleteRangeRequest { key: "zz".into(), ..DeleteRangeRequest::default() })),
        ],
        failure: vec![],
    };
    let answer = kv.txn(request).await.unwrap().into_inner();
    assert_full(answer.header, &server.node, 2);
    assert!(answer.succeeded);
    let only = |revision| Some(ResponseHeader { revision, ..ResponseHeader::default() });
    let responses: Vec<Answer> = answer.responses.into_iter().map(|r| r.response.unwrap()).collect();
    let [
        Answer::ResponseRange(before),
        Answer::ResponsePut(put),
        Answer::ResponseTxn(nested),
        Answer::ResponseDeleteRange(deleted),
    ] = &responses[..]
    else {
        panic!("{responses:?}")
    };
    assert_eq!((before.header, before.count), (only(1), 0));
    assert_eq!(put.header, only(2));
    assert_eq!(nested.header, only(0));
    assert_eq!((deleted.header, deleted.deleted), (only(2), 0));
    let Some(Answer::ResponseRange(after)) = &nested.responses[0].response else { panic!("{nested:?}") };
    assert_eq!((after.header, after.count), (only(2), 1));
    let read = TxnRequest { success: vec![op(Op::RequestRange(key("a")))], ..TxnRequest::default() };
    let read = kv.txn(read).await.unwrap().into_inner();
    assert_full(read.header, &server.node, 2);
    let empty = kv.txn(TxnRequest::default()).await.unwrap().into_inner();
    assert!(empty.succeeded && empty.responses.is_empty());
}

#[tokio::test]
async fn refusals_have_etcds_codes_and_texts() {
    let server = start().await;
    let mut kv = server.kv().await;
    let invalid = |text: &str| (Code::InvalidArgument, text.to_owned());
    let cases = [
        (put("", "v"), "etcdserver: key is not provided"),
        (PutRequest { ignore_value: true, ..put("a", "v") }, "etcdserver: value is provided"),
        (PutRequest { ignore_lease: true, lease: 5, ..put("a", "v") }, "etcdserver: lease is provided"),
        (PutRequest { ignore_value: true, ..put("a", "") }, "etcdserver: key not found"),
        (PutRequest { ignore_lease: true, ..put("a", "v") }, "etcdserver: key not found"),
    ];
    for (request, text) in cases {
        assert_eq!(status_of(kv.put(request).await), invalid(text));
    }
    let lost = status_of(kv.put(PutRequest { lease: 77, ..put("a", "v") }).await);
    assert_eq!(lost, (Code::NotFound, "etcdserver: requested lease not found".into()));
    assert_eq!(status_of(kv.range(key("")).await), invalid("etcdserver: key is not provided"));
    let sort = RangeRequest { sort_order: 9, ..key("a") };
    assert_eq!(status_of(kv.range(sort).await), invalid("etcdserver: invalid sort option"));
    let future = (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".to_owned());
    assert_eq!(status_of(kv.range(RangeRequest { revision: 99, ..key("a") }).await), future);
    let twice = TxnRequest {
        success: vec![op(Op::RequestPut(put("a", "1"))), op(Op::RequestPut(put("a", "2")))],
        ..TxnRequest::default()
    };
    assert_eq!(status_of(kv.txn(twice).await), invalid("etcdserver: duplicate key given in txn request"));
    let many = TxnRequest {
        success: (0..129).map(|i| op(Op::RequestPut(put(&format!("k{i}"), "1")))).collect(),
        ..TxnRequest::default()
    };
    assert_eq!(status_of(kv.txn(many).await), invalid("etcdserver: too many operations in txn request"));
    let nothing = TxnRequest { success: vec![RequestOp { request: None }], ..TxnRequest::default() };
    assert_eq!(status_of(kv.txn(nothing).await), invalid("etcdserver: key not found"));
}

#[tokio::test]
async fn sizes_are_limited_in_two_steps() {
    let server = start().await;
    let mut kv = server.kv().await;
    kv.put(put("a", vec![0; (3 << 19) - 512])).await.unwrap();
    let large = status_of(kv.put(put("a", vec![0; 3 << 19])).await);
    assert_eq!(large, (Code::InvalidArgument, "etcdserver: request is too large".into()));
    let huge = status_of(kv.put(put("a", vec![0; 2 << 20])).await);
    assert_eq!(huge.0, Code::ResourceExhausted);
    assert!(huge.1.contains("received message larger than max"), "{huge:?}");
    // Reads may be as long as they like, up to what a message may hold.
    assert_eq!(kv.range(key("a")).await.unwrap().into_inner().kvs[0].version, 1);
}

#[tokio::test]
async fn long_lists_arrive_whole() {
    let server = start().await;
    let mut kv = server.kv().await;
    for i in 0..300 {
        let size = if i % 50 == 0 { 200_000 } else { 1_000 };
        kv.put(put(&format!("key/{i:05}"), vec![i as u8; size])).await.unwrap();
    }
    let list = kv.range(all()).await.unwrap().into_inner();
    assert_full(list.header, &server.node, 301);
    assert_eq!((list.count, list.more, list.kvs.len()), (300, false, 300));
    for (i, kv) in list.kvs.iter().enumerate() {
        let size = if i % 50 == 0 { 200_000 } else { 1_000 };
        assert_eq!(kv.key, format!("key/{i:05}"));
        assert!(kv.value.len() == size && kv.value.iter().all(|&b| b == i as u8));
    }
    let limited = kv.range(RangeRequest { limit: 7, ..all() }).await.unwrap().into_inner();
    assert_eq!((limited.count, limited.more, limited.kvs.len()), (300, true, 7));
    let counted = kv.range(RangeRequest { count_only: true, ..all() }).await.unwrap().into_inner();
    assert_eq!((counted.count, counted.more, counted.kvs.len()), (300, false, 0));
    let keys = kv.range(RangeRequest { keys_only: true, ..all() }).await.unwrap().into_inner();
    assert!(keys.kvs.len() == 300 && keys.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 1));
}

async fn stream(server: &Running, request: RangeRequest) -> Result<Vec<RangeResponse>, tonic::Status> {
    let mut stream = server.kv().await.range_stream(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        all.push(message.range_response.unwrap());
    }
    Ok(all)
}

#[tokio::test]
async fn range_stream_adds_up_to_the_range() {
    let server = start().await;
    let mut kv = server.kv().await;
    for i in 0..500 {
        kv.put(put(&format!("k{i:04}"), vec![1; 3_000])).await.unwrap();
    }
    for request in [
        all(),
        RangeRequest { limit: 123, ..all() },
        RangeRequest { limit: 10, ..all() },
        RangeRequest { revision: 200, ..all() },
        RangeRequest { count_only: true, ..all() },
        RangeRequest { keys_only: true, ..all() },
        RangeRequest { sort_order: 1, ..all() },
        RangeRequest { key: "nothing".into(), ..RangeRequest::default() },
    ] {
        let whole = kv.range(request.clone()).await.unwrap().into_inner();
        let slices = stream(&server, request.clone()).await.unwrap();
        let (last, before) = slices.split_last().expect("at least one message");
        assert!(before.iter().all(|s| s.header.is_none() && s.count == 0 && !s.more && !s.kvs.is_empty()));
        let mut sum = RangeResponse { kvs: vec![], ..last.clone() };
        sum.kvs = slices.iter().flat_map(|s| s.kvs.clone()).collect();
        assert_eq!(sum, whole, "{request:?}");
    }
    let text = "RangeStream does not support custom sort orders";
    for (sort_order, sort_target) in [(2, 0), (1, 1), (2, 3)] {
        let sorted = RangeRequest { sort_order, sort_target, ..all() };
        assert_eq!(status_of(stream(&server, sorted).await), (Code::Unimplemented, text.into()));
    }
    // Without an order what to order by does not count.
    kv.put(put("k0000", "newer")).await.unwrap();
    for sort_target in 0..=4 {
        let slices = stream(&server, RangeRequest { sort_target, ..all() }).await.unwrap();
        let keys: Vec<_> = slices.iter().flat_map(|slice| &slice.kvs).map(|kv| &kv.key).collect();
        assert!(keys.len() == 500 && keys.is_sorted(), "{sort_target}");
    }
    let filtered = RangeRequest { min_mod_revision: 3, ..all() };
    let text = "RangeStream does not support revision filters";
    assert_eq!(status_of(stream(&server, filtered).await), (Code::Unimplemented, text.into()));
    let text = "etcdserver: key is not provided";
    assert_eq!(status_of(stream(&server, key("")).await), (Code::InvalidArgument, text.into()));
    let both = RangeRequest { sort_order: 2, ..key("") };
    assert_eq!(status_of(stream(&server, both).await), (Code::InvalidArgument, text.into()));
}

#[tokio::test]
async fn a_client_that_does_not_read_a_range_stream_does_not_hold_up_compaction() {
    let server = start().await;
    let mut kv = server.kv().await;
    for i in 0..100 {
        kv.put(put(&format!("k{i:04}"), vec![1; 100_000])).await.unwrap();
    }
    let mut unread = server.kv().await.range_stream(all()).await.unwrap().into_inner();
    let first = unread.message().await.unwrap().and_then(|message| message.range_response);
    assert_eq!(first.map(|slice| slice.kvs.len()), Some(10));
    let revision = kv.put(put("k0000", "new")).await.unwrap().into_inner().header.unwrap().revision;
    kv.compact(CompactionRequest { revision, physical: true }).await.unwrap();
    let rest = async {
        while unread.message().await?.is_some() {}
        Ok(())
    };
    let text = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(status_of::<()>(rest.await), (Code::OutOfRange, text.into()));
}

#[tokio::test]
async fn leases() {
    let server = start().await;
    let (mut lease, mut kv) = (server.lease().await, server.kv().await);
    let granted = lease.lease_grant(LeaseGrantRequest { id: 0, ttl: 1 }).await.unwrap().into_inner();
    assert_full(granted.header, &server.node, 1);
    assert!(granted.id > 0 && granted.ttl == 2 && granted.error.is_empty());
    let chosen = lease.lease_grant(LeaseGrantRequest { id: 42, ttl: 100 }).await.unwrap().into_inner();
    assert_eq!((chosen.id, chosen.ttl), (42, 100));
    let again = status_of(lease.lease_grant(LeaseGrantRequest { id: 42, ttl: 100 }).await);
    assert_eq!(again, (Code::FailedPrecondition, "etcdserver: lease already exists".into()));
    let large = status_of(lease.lease_grant(LeaseGrantRequest { id: 0, ttl: 9_000_000_001 }).await);
    assert_eq!(large, (Code::OutOfRange, "etcdserver: too large lease TTL".into()));
    kv.put(PutRequest { lease: 42, ..put("a", "1") }).await.unwrap();
    let ask = |id| LeaseTimeToLiveRequest { id, keys: true };
    let left = lease.lease_time_to_live(ask(42)).await.unwrap().into_inner();
    assert_full(left.header, &server.node, 2);
    assert!((98..=100).contains(&left.ttl) && left.granted_ttl == 100);
    assert_eq!(left.keys, [Bytes::from("a")]);
    let unknown = lease.lease_time_to_live(ask(7)).await.unwrap().into_inner();
    assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl), (7, -1, 0));
    let listed = lease.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner();
    assert_full(listed.header, &server.node, 2);
    assert_eq!(listed.leases.iter().map(|l| l.id).collect::<Vec<_>>(), [granted.id, 42]);
    let requests = tokio_stream::iter([42, 7].map(|id| LeaseKeepAliveRequest { id }));
    let mut answers = lease.lease_keep_alive(requests).await.unwrap().into_inner();
    let kept = answers.message().await.unwrap().unwrap();
    assert_full(kept.header, &server.node, 2);
    assert_eq!((kept.id, kept.ttl), (42, 100));
    let lost = answers.message().await.unwrap().unwrap();
    assert_eq!((lost.id, lost.ttl), (7, 0));
    assert!(answers.message().await.unwrap().is_none());
    let revoked = lease.lease_revoke(LeaseRevokeRequest { id: 42 }).await.unwrap().into_inner();
    assert_full(revoked.header, &server.node, 3);
    assert_eq!(kv.range(key("a")).await.unwrap().into_inner().count, 0);
    let gone = status_of(lease.lease_revoke(LeaseRevokeRequest { id: 42 }).await);
    assert_eq!(gone, (Code::NotFound, "etcdserver: requested lease not found".into()));
}

#[tokio::test]
async fn maintenance() {
    let server = start().await;
    let (mut maintenance, mut kv) = (server.maintenance().await, server.kv().await);
    kv.put(put("a", "1")).await.unwrap();
    let member = server.node.identity().member_id();
    let status = maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    assert_full(status.header, &server.node, 2);
    assert_eq!((&status.version[..], &status.storage_version[..]), ("3.6.14", "3.6.0"));
    assert_eq!(status.leader, member);
    assert!(status.errors.is_empty() && !status.is_learner && status.downgrade_info.is_some());
    assert!(status.raft_index > 0 && status.raft_applied_index > 0 && status.raft_term > 0);
    assert_eq!(status.db_size_quota, 8 << 30);
    let alarm = |action: alarm_request::AlarmAction, alarm: AlarmType| AlarmRequest {
        action: action as i32,
        member_id: member,
        alarm: alarm as i32,
    };
    use alarm_request::AlarmAction::{Activate, Deactivate, Get};
    let one = vec![AlarmMember { member_id: member, alarm: AlarmType::Nospace as i32 }];
    let none = maintenance.alarm(alarm(Get, AlarmType::None)).await.unwrap().into_inner();
    assert_full(none.header, &server.node, 2);
    assert!(none.alarms.is_empty());
    let raised = maintenance.alarm(alarm(Activate, AlarmType::Nospace)).await.unwrap().into_inner();
    assert_eq!(raised.alarms, one);
    assert_eq!(maintenance.alarm(alarm(Get, AlarmType::None)).await.unwrap().into_inner().alarms, one);
    assert_eq!(maintenance.alarm(alarm(Get, AlarmType::Corrupt)).await.unwrap().into_inner().alarms, []);
    let full = status_of(kv.put(put("b", "1")).await);
    assert_eq!(full, (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded".into()));
    let status = maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.errors, [format!("memberID:{member} alarm:NOSPACE")]);
    let (code, body) = server.get("/health").await;
    assert_eq!((code, &body[..]), (503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#));
    assert_eq!(server.get("/health?exclude=NOSPACE").await.0, 200);
    assert_eq!(maintenance.alarm(alarm(Deactivate, AlarmType::Nospace)).await.unwrap().into_inner().alarms, one);
    assert_eq!(maintenance.alarm(alarm(Deactivate, AlarmType::Nospace)).await.unwrap().into_inner().alarms, []);
    kv.put(put("b", "1")).await.unwrap();
    assert!(maintenance.defragment(DefragmentRequest {}).await.unwrap().into_inner().header.is_none());
    assert_full(maintenance.hash(HashRequest {}).await.unwrap().into_inner().header, &server.node, 3);
    let hash = maintenance.hash_kv(HashKvRequest { revision: 0 }).await.unwrap().into_inner();
    assert_full(hash.header, &server.node, 3);
    assert_eq!(hash.hash_revision, 3);
    let future = status_of(maintenance.hash_kv(HashKvRequest { revision: 9 }).await);
    assert_eq!(future, (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".into()));
    let nobody = status_of(maintenance.move_leader(MoveLeaderRequest { target_id: 1 }).await);
    assert_eq!(nobody, (Code::FailedPrecondition, "etcdserver: bad leader transferee".into()));
    for refused in [
        status_of(maintenance.downgrade(DowngradeRequest::default()).await).0,
        status_of(maintenance.snapshot(SnapshotRequest {}).await).0,
    ] {
        assert_eq!(refused, Code::Unimplemented);
    }
}

#[tokio::test]
async fn members_and_health() {
    let server = start().await;
    let mut cluster = ClusterClient::new(server.channel().await);
    let list = cluster.member_list(MemberListRequest { linearizable: true }).await.unwrap().into_inner();
    assert_full(list.header, &server.node, 0);
    assert_eq!(list.members.len(), 1);
    assert_eq!(list.members[0].client_ur_ls, ["http://127.0.0.1:2379"]);
    assert_eq!(list.members[0].id, server.node.identity().member_id());
    assert_eq!(status_of(cluster.member_add(MemberAddRequest::default()).await).0, Code::Unimplemented);
    let update = MemberUpdateRequest { id: 77, peer_ur_ls: list.members[0].peer_ur_ls.clone() };
    assert_eq!(status_of(cluster.member_update(update).await).0, Code::NotFound);
    let mut health = HealthClient::new(server.channel().await);
    let ask = |service: &str| HealthCheckRequest { service: service.into() };
    assert_eq!(health.check(ask("")).await.unwrap().into_inner().status, 1);
    assert_eq!(status_of(health.check(ask("other")).await).0, Code::NotFound);
    let mut watch = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    server.server.stop().await;
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    assert_eq!(status_of(watch.message().await).0, Code::Unavailable);
}

#[tokio::test]
async fn metadata_decides_first() {
    let server = start().await;
    let mut kv = server.kv().await;
    let mut request = Request::new(key("a"));
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    request.metadata_mut().insert("client-api-version", "3.6.0".parse().unwrap());
    kv.range(request).await.unwrap();
    let metrics = server.get("/metrics").await.1;
    assert!(metrics.contains(r#"etcd_server_client_requests_total{client_api_version="3.6",type="unary"} 1"#));
}

#[tokio::test]
async fn deadlines_of_client_and_server() {
    // Nothing commits before its chunk is in the bucket, and the bucket is slow.
    let slow = |node: &mut NodeConfig, storage: &mut StorageConfig| {
        (node.quorum, node.copies_min) = (0, 2);
        storage.extra_latency = Duration::from_millis(400);
    };
    let config = ServerConfig { request_timeout: Duration::from_millis(100), ..ServerConfig::default() };
    let server = start_with(slow, config).await;
    let mut kv = server.kv().await;
    let late = (Code::Unavailable, "etcdserver: request timed out".to_owned());
    assert_eq!(status_of(kv.put(put("a", "1")).await), late);
    // The client's own deadline counts where it is shorter, and is not waited for where it is longer.
    let mut request = Request::new(put("a", "2"));
    request.metadata_mut().insert("grpc-timeout", "20S".parse().unwrap());
    assert_eq!(status_of(kv.put(request).await), late);
    // What timed out may happen all the same, and did.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let read = kv.range(RangeRequest { serializable: true, ..key("a") }).await.unwrap().into_inner();
    assert_eq!(&read.kvs[0].value[..], b"2");
}
