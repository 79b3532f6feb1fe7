//! What is served over plain HTTP on the client port (reference/etcd.md 2.17).

use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use netsy_api::etcdserverpb as pb;
use netsy_api::health::HealthCheckRequest;
use netsy_api::health::health_check_response::ServingStatus;
use netsy_e2e::{Kind, Server};
use std::collections::BTreeSet;
use tonic::Code;

async fn ask(server: &Server, method: &str, path: &str) -> (u16, String) {
    let client = HttpClient::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
    let request = http::Request::builder()
        .method(method)
        .uri(format!("{}{path}", server.url()))
        .body(Empty::new())
        .expect("a request");
    let answer = client.request(request).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn health_of_a_healthy_server() {
    let server = Server::start().await;
    let health = ask(&server, "GET", "/health").await;
    let json: serde_json::Value = serde_json::from_str(&health.1).expect("JSON");
    assert_eq!((health.0, &json["health"], &json["reason"]), (200, &"true".into(), &"".into()));
    for path in ["/health?serializable=true", "/health?exclude=NOSPACE"] {
        assert_eq!(ask(&server, "GET", path).await.0, 200, "{path}");
    }
    for path in
        ["/livez", "/readyz", "/livez/serializable_read", "/readyz/linearizable_read", "/readyz/data_corruption"]
    {
        assert_eq!(ask(&server, "GET", path).await, (200, "ok\n".to_owned()), "{path}");
    }
    let verbose = ask(&server, "GET", "/readyz?verbose").await;
    assert_eq!(verbose.0, 200);
    assert!(verbose.1.contains("[+]linearizable_read ok"), "{verbose:?}");
    assert_eq!(ask(&server, "GET", "/readyz?exclude=linearizable_read").await.0, 200);
    assert_eq!(ask(&server, "GET", "/readyz/no_such_check").await.0, 404);
    for path in ["/health", "/livez", "/readyz"] {
        assert_eq!(ask(&server, "POST", path).await.0, 405, "{path}");
    }
}

#[tokio::test]
async fn health_under_an_alarm() {
    let server = Server::start().await;
    let client = server.client().await;
    let member_id = client.status().await.expect("status").header.expect("a header").member_id;
    let alarm = async |action, alarm| {
        client.maintenance().alarm(pb::AlarmRequest { action, member_id, alarm }).await.expect("alarm").into_inner()
    };
    alarm(1, pb::AlarmType::Nospace as i32).await;
    let health = ask(&server, "GET", "/health").await;
    assert_eq!(health.0, 503);
    assert!(health.1.contains("ALARM NOSPACE"), "{health:?}");
    assert_eq!(ask(&server, "GET", "/health?exclude=NOSPACE").await.0, 200);
    assert_eq!(ask(&server, "GET", "/readyz").await.0, 200, "a full server is ready to be read and compacted");
    alarm(2, pb::AlarmType::Nospace as i32).await;

    alarm(1, pb::AlarmType::Corrupt as i32).await;
    assert!(ask(&server, "GET", "/health").await.1.contains("ALARM CORRUPT"));
    let ready = ask(&server, "GET", "/readyz").await;
    assert_eq!(ready.0, 503);
    assert!(ready.1.contains("[-]data_corruption failed"), "{ready:?}");
    let refused = client.try_put(netsy_e2e::ops::put("a", "1")).await;
    crate::check::fails(refused, Code::DataLoss, "etcdserver: corrupt cluster");
    crate::check::fails(client.try_grant(60, 0).await, Code::DataLoss, "etcdserver: corrupt cluster");
    client.try_get("a").await.expect("reads go on");
    alarm(2, pb::AlarmType::Corrupt as i32).await;
    client.put("a", "1").await;
    assert_eq!(ask(&server, "GET", "/readyz").await.0, 200);
}

#[tokio::test]
async fn version_and_metrics() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "1").await;
    let (status, text) = ask(&server, "GET", "/version").await;
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status, 200);
    let version = client.status().await.expect("status").version;
    assert_eq!(json["etcdserver"], version.as_str());
    let minor = version.rsplit_once('.').expect("x.y.z").0;
    assert_eq!(json["etcdcluster"], format!("{minor}.0"));
    assert_eq!(json["storage"], format!("{minor}.0"));

    let (status, metrics) = ask(&server, "GET", "/metrics").await;
    assert_eq!(status, 200);
    for name in [
        "etcd_server_has_leader 1",
        "etcd_server_is_leader 1",
        "etcd_server_leader_changes_seen_total",
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_server_quota_backend_bytes",
        "etcd_debugging_mvcc_keys_total 1",
        "etcd_debugging_mvcc_current_revision 2",
        "etcd_network_client_grpc_received_bytes_total",
        "grpc_server_handled_total",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name} is not in /metrics");
    }
    assert_eq!(ask(&server, "GET", "/no/such/path").await.0, 404);
}

/// docs/metrics.md and a running node name the same metrics, of the same kinds, and none has an odd name.
#[tokio::test]
async fn every_metric_is_documented() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "1").await;
    let mut named = tonic::Request::new(netsy_e2e::ops::get("a"));
    named.metadata_mut().insert("client-api-version", "3.5.0".parse().expect("a version"));
    client.kv().range(named).await.expect("range");
    let (_, metrics) = ask(&server, "GET", "/metrics").await;
    let said: BTreeSet<(String, String)> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let documented: BTreeSet<(String, String)> = include_str!("../../../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(name, rest)| Some((name.to_owned(), rest.split_once(' ')?.0.to_owned())))
        .collect();
    let (missing, gone): (Vec<_>, Vec<_>) =
        (said.difference(&documented).collect(), documented.difference(&said).collect());
    assert!(missing.is_empty() && gone.is_empty(), "docs/metrics.md lacks {missing:?}, the node {gone:?}");
    for (name, kind) in &said {
        let known = ["etcd_", "grpc_server_", "process_", "netsy_"].iter().any(|prefix| name.starts_with(prefix));
        assert!(known && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        let ends = match kind.as_str() {
            "counter" => name.ends_with("_total"),
            "histogram" => name.ends_with("_seconds"),
            _ => !name.starts_with("netsy_") || !name.ends_with("_total"),
        };
        assert!(ends, "{name} is a {kind}");
        let help = format!("# HELP {name} ");
        assert!(metrics.lines().any(|line| line.starts_with(&help)), "{name} has no help");
    }
}

#[tokio::test]
async fn grpc_health() {
    let server = Server::start().await;
    let mut health = server.client().await.health();
    let check = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let answer = health.check(check("")).await.expect("check").into_inner();
    assert_eq!(answer.status, ServingStatus::Serving as i32);
    let unknown = health.check(check("no.such.Service")).await.expect_err("an unknown service");
    assert_eq!(unknown.code(), Code::NotFound);
    let mut watch = health.watch(check("")).await.expect("watch").into_inner();
    assert_eq!(watch.message().await.expect("answer").expect("a status").status, ServingStatus::Serving as i32);
}

/// Health checkers of clouds speak HTTP/1.1 and close, many times a second.
#[tokio::test]
async fn many_short_requests() {
    let server = Server::start().await;
    for _ in 0..200 {
        assert_eq!(ask(&server, "GET", "/health").await.0, 200);
    }
    assert!(server.kind() == Kind::Etcd || ask(&server, "GET", "/readyz").await.0 == 200);
}
