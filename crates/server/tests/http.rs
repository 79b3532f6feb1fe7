//! Plain HTTP on both ports.

mod common;

use common::{Running, http, http_get, key, node_config, put, serve, start};
use futures::task::noop_waker;
use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::etcdserverpb::{CompactionRequest, RangeRequest, RequestOp, TxnRequest};
use netsy_node::watch::NewWatch;
use netsy_node::{Node, NodeConfig, Opened};
use netsy_objects::fault::{BucketFault, BucketOp, FaultBucket};
use netsy_objects::{Buckets, StorageConfig};
use netsy_server::ServerConfig;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

#[tokio::test]
async fn probes_and_versions() {
    let server = start().await;
    let health = server.server.health_addr().unwrap();
    for addr in [server.addr, health] {
        assert_eq!(http_get(addr, "/health").await, (200, r#"{"health":"true","reason":""}"#.into()));
        assert_eq!(http_get(addr, "/health?serializable=true").await.0, 200);
        for path in
            ["/livez", "/readyz", "/livez/serializable_read", "/readyz/linearizable_read", "/readyz/non_learner"]
        {
            assert_eq!(http_get(addr, path).await, (200, "ok\n".into()), "{path}");
        }
        let verbose = http_get(addr, "/readyz?verbose&exclude=linearizable_read").await;
        assert_eq!(verbose.0, 200);
        assert!(verbose.1.starts_with("[+]data_corruption ok\n"), "{verbose:?}");
        assert!(verbose.1.contains("[+]linearizable_read excluded: ok\n") && verbose.1.ends_with("ok\n"));
        for path in ["/", "/livez/linearizable_read", "/readyz/nothing", "/readyzz", "/v3/kv/range", "/debug/pprof"] {
            assert_eq!(http_get(addr, path).await.0, 404, "{path}");
        }
        for path in ["/health", "/livez", "/metrics"] {
            assert_eq!(http(addr, "POST", path).await.0, 405, "{path}");
        }
    }
    let version = server.get("/version").await;
    assert_eq!(version, (200, r#"{"etcdserver":"3.6.14","etcdcluster":"3.6.0","storage":"3.6.0"}"#.into()));
    assert_eq!(http_get(health, "/version").await.0, 404);
    server.node.stop().await.unwrap();
    let (code, body) = server.get("/readyz").await;
    assert_eq!(code, 503);
    assert!(body.contains("[-]linearizable_read failed: "), "{body}");
    assert_eq!(server.get("/health").await.0, 503);
}

#[tokio::test]
async fn metrics_have_the_names_that_dashboards_read() {
    let server = start().await;
    let mut kv = server.kv().await;
    for _ in 0..3 {
        kv.put(put("a", "1")).await.unwrap();
    }
    kv.put(put("", "1")).await.unwrap_err();
    let (code, page) = http_get(server.server.health_addr().unwrap(), "/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "etcd_server_has_leader 1",
        "etcd_server_is_leader 1",
        "etcd_debugging_mvcc_current_revision 4",
        "netsy_client_connections 1",
        r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 3"#,
        r#"grpc_server_handled_total{grpc_code="InvalidArgument",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1"#,
        r#"grpc_server_handling_seconds_count{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 4"#,
        r#"etcd_server_version{server_version="3.6.14"} 1"#,
    ] {
        assert!(page.lines().any(|found| found == line), "no line {line}");
    }
    for name in [
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_server_quota_backend_bytes",
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"}",
        "etcd_disk_backend_commit_duration_seconds_count",
        "etcd_debugging_mvcc_watcher_total",
        "etcd_debugging_mvcc_slow_watcher_total",
        "etcd_debugging_mvcc_compact_revision",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_network_client_grpc_received_bytes_total",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ] {
        assert!(page.lines().any(|line| line.starts_with(&format!("{name} "))), "no metric {name}");
    }
    // Each name is described once, and everything that is counted is described.
    let described: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
    let mut names: Vec<&str> = described.iter().map(|l| l.split(' ').next().unwrap()).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// Not answered, and soon tried again.
const HANGS: BucketFault = BucketFault::Hang(Duration::from_secs(1));

/// What a node begins with, over a bucket with faults.
async fn opened(change: impl FnOnce(&mut NodeConfig)) -> (Opened, Arc<FaultBucket>, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let mut config = node_config(data.path());
    change(&mut config);
    let buckets = netsy_objects::open(&StorageConfig::file(data.path().join("bucket"))).await.unwrap();
    let bucket = Arc::new(FaultBucket::new(buckets.data));
    let buckets = Buckets { data: bucket.clone(), control: bucket.clone() };
    (Opened::open(config, buckets).await.unwrap(), bucket, data)
}

/// Asks until the answer has this code.
async fn told(server: &Running, path: &str, code: u16) -> String {
    loop {
        let (found, body) = server.get(path).await;
        if found == code {
            return body;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_hangs_is_named_by_who_needs_it() {
    let started = async |quorum| {
        let (opened, bucket, data) = opened(|config| config.quorum = quorum).await;
        let node = Node::start_opened(opened, None).await.unwrap();
        node.serving().await.unwrap();
        (serve(node, ServerConfig::default(), data).await, bucket)
    };
    let (own_disk, its_bucket) = started(-1).await;
    let (waits, bucket) = started(0).await;
    let hanging = its_bucket.inject(BucketOp::Create, "", 0, u64::MAX, HANGS);
    its_bucket.inject(None, "", 0, u64::MAX, HANGS);
    own_disk.kv().await.put(put("a", "1")).await.unwrap();
    while hanging.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // From here on the other hangs for longer than this one.
    bucket.inject(None, "", 0, u64::MAX, HANGS);
    let mut kv = waits.kv().await;
    let write = tokio::spawn(async move { kv.put(put("a", "1")).await });
    let body = told(&waits, "/readyz/storage", 503).await;
    assert!(body.starts_with("[-]storage failed: object storage: no answer for "), "{body}");
    assert_eq!(own_disk.get("/readyz/storage").await, (200, "ok\n".into()));
    own_disk.kv().await.put(put("a", "2")).await.unwrap();
    bucket.clear();
    told(&waits, "/readyz", 200).await;
    // It may have been told that it takes too long.
    let _ = write.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_hangs_before_there_is_a_primary_is_named() {
    let (opened, bucket, data) = opened(|_| {}).await;
    bucket.inject(None, "", 0, u64::MAX, HANGS);
    let server = serve(Node::start_opened(opened, None).await.unwrap(), ServerConfig::default(), data).await;
    told(&server, "/readyz/storage", 503).await;
    let (code, body) = server.get("/health").await;
    assert_eq!(code, 503);
    assert!(body.contains("RAFT NO LEADER: object storage: no answer for "), "{body}");
    bucket.clear();
    told(&server, "/readyz", 200).await;
    told(&server, "/health", 200).await;
}

/// Asks for the metrics until they have this line.
async fn counted(server: &Running, line: &str) {
    let mut page = String::new();
    for _ in 0..3_000 {
        page = server.get("/metrics").await.1;
        if page.lines().any(|found| found == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{line} never came: {page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_wait_and_writes_that_fail_are_counted() {
    let (opened, bucket, data) = opened(|config| config.quorum = 0).await;
    let node = Node::start_opened(opened, None).await.unwrap();
    node.serving().await.unwrap();
    let patient = ServerConfig { request_timeout: Duration::from_secs(600), ..ServerConfig::default() };
    let server = serve(node, patient, data).await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    // Refused: no failure of the log.
    kv.put(put("", "1")).await.unwrap_err();
    kv.put(netsy_api::etcdserverpb::PutRequest { lease: 99, ..put("a", "1") }).await.unwrap_err();
    counted(&server, "etcd_server_proposals_pending 0").await;
    counted(&server, "etcd_server_proposals_failed_total 0").await;
    bucket.inject(None, "", 0, u64::MAX, HANGS);
    let mut other = kv.clone();
    let waits = tokio::spawn(async move { other.put(put("b", "1")).await });
    counted(&server, "etcd_server_proposals_pending 1").await;
    let mut late = tonic::Request::new(put("c", "1"));
    late.set_timeout(Duration::from_millis(100));
    kv.put(late).await.unwrap_err();
    counted(&server, "etcd_server_proposals_failed_total 1").await;
    counted(&server, "etcd_server_proposals_pending 1").await;
    let name = "etcd_server_request_duration_seconds_count";
    counted(&server, &format!(r#"{name}{{success="false",type="Put"}} 1"#)).await;
    bucket.clear();
    waits.await.unwrap().unwrap();
    counted(&server, "etcd_server_proposals_pending 0").await;
    counted(&server, "etcd_server_proposals_failed_total 1").await;
}

#[tokio::test]
async fn requests_are_timed_by_type_as_in_etcd() {
    let server = start().await;
    let mut kv = server.kv().await;
    let range = |key: RangeRequest| RequestOp { request: Some(Request::RequestRange(key)) };
    let write = RequestOp { request: Some(Request::RequestPut(put("a", "1"))) };
    kv.put(put("a", "1")).await.unwrap();
    kv.range(key("a")).await.unwrap();
    kv.range(RangeRequest { revision: 99, ..key("a") }).await.unwrap_err();
    kv.txn(TxnRequest { success: vec![range(key("a"))], ..TxnRequest::default() }).await.unwrap();
    kv.txn(TxnRequest { success: vec![write], ..TxnRequest::default() }).await.unwrap();
    // What the log took is no failure, whatever came of it.
    kv.compact(CompactionRequest { revision: 99, physical: false }).await.unwrap_err();
    let (_, page) = server.get("/metrics").await;
    let name = "etcd_server_request_duration_seconds_count";
    let mut found: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(name)).collect();
    found.sort_unstable();
    let expected = [
        r#"{success="false",type="Range"} 1"#,
        r#"{success="true",type="Compaction"} 1"#,
        r#"{success="true",type="Put"} 1"#,
        r#"{success="true",type="Range"} 1"#,
        r#"{success="true",type="ReadonlyTxn"} 1"#,
        r#"{success="true",type="Txn"} 1"#,
    ];
    assert_eq!(found, expected);
    let bucket = r#"etcd_server_request_duration_seconds_bucket{success="true",type="Put",le=""#;
    let bounds: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix(bucket)?.split('"').next()).collect();
    assert_eq!((bounds.len(), bounds[0], bounds[13], bounds[14]), (15, "0.001", "8.192", "+Inf"));
}

#[tokio::test]
async fn events_that_are_not_sent_yet_are_counted() {
    let server = start().await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    let stream = server.node.watch_hub().open(false);
    // One of what comes, one of all there was.
    stream.create(NewWatch { key: "a".into(), ..NewWatch::default() });
    stream.create(NewWatch { key: "a".into(), start_revision: 1, ..NewWatch::default() });
    counted(&server, "etcd_debugging_mvcc_pending_events_total 1").await;
    kv.put(put("a", "2")).await.unwrap();
    kv.put(put("b", "2")).await.unwrap();
    counted(&server, "etcd_debugging_mvcc_pending_events_total 3").await;
    let (waker, mut items) = (noop_waker(), VecDeque::new());
    while let Poll::Ready(taken) = stream.poll_items(&mut Context::from_waker(&waker), &mut items, usize::MAX) {
        taken.unwrap();
    }
    counted(&server, "etcd_debugging_mvcc_pending_events_total 0").await;
}
