//! Plain HTTP on both ports.

mod common;

use common::{http, http_get, put, start};

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
