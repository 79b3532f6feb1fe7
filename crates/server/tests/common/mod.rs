//! A real node behind a real listener, for tests.

#![allow(dead_code)]

use bytes::Bytes;
use netsy_api::etcdserverpb::kv_client::KvClient;
use netsy_api::etcdserverpb::lease_client::LeaseClient;
use netsy_api::etcdserverpb::maintenance_client::MaintenanceClient;
use netsy_api::etcdserverpb::{PutRequest, RangeRequest, ResponseHeader};
use netsy_api::ids::NodeId;
use netsy_node::{Node, NodeConfig};
use netsy_objects::StorageConfig;
use netsy_server::{Server, ServerConfig};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

/// A server of a fresh, empty cluster of one. Its data goes when it is dropped.
pub struct Running {
    pub server: Server,
    pub node: Node,
    pub addr: SocketAddr,
    _data: TempDir,
}

/// A cluster of one, as most tests have it.
pub fn node_config(dir: &Path) -> NodeConfig {
    NodeConfig {
        cluster_id: "test".into(),
        node_id: NodeId::new("one").unwrap(),
        data_dir: dir.join("node"),
        advertise_client: vec!["http://127.0.0.1:2379".into()],
        advertise_peer: vec![],
        quorum: -1,
        copies_min: 1,
        read_lease: Duration::ZERO,
        quorum_timeout: Duration::from_millis(500),
        voters_max: 5,
        heartbeat_interval: Duration::from_millis(500),
        degradation_count: 2,
        deregistration_timeout: Duration::from_secs(180),
        leader_timeout: Duration::from_secs(10),
        chunk_bytes: 4 << 20,
        chunk_age: Duration::from_millis(200),
        snapshot_records: 10_000,
        snapshot_bytes: 256 << 20,
        snapshot_age: Duration::from_secs(3600),
        snapshot_retention: Duration::from_secs(3600),
        compaction_interval: Duration::ZERO,
        compaction_retention: Duration::from_secs(300),
        watch_progress_interval: Duration::from_secs(600),
        drain_timeout: Duration::from_secs(10),
        request_bytes_max: 3 << 19,
        txn_ops_max: 128,
        db_bytes_max: 8 << 30,
        value_cache_bytes_max: 64 << 20,
        sqlite_vfs: None,
    }
}

pub async fn start() -> Running {
    start_with(|_, _| {}, ServerConfig::default()).await
}

pub async fn start_with(change: impl FnOnce(&mut NodeConfig, &mut StorageConfig), server: ServerConfig) -> Running {
    let data = tempfile::tempdir().unwrap();
    let mut storage = StorageConfig::file(data.path().join("bucket"));
    let mut config = node_config(data.path());
    change(&mut config, &mut storage);
    let buckets = netsy_objects::open(&storage).await.unwrap();
    let node = Node::start(config, buckets, None).await.unwrap();
    node.serving().await.unwrap();
    serve(node, server, data).await
}

/// A server before a node, whatever that is ready for.
pub async fn serve(node: Node, server: ServerConfig, data: TempDir) -> Running {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(server, node.clone(), any, Some(any)).await.unwrap();
    let addr = server.client_addr();
    Running { server, node, addr, _data: data }
}

impl Running {
    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.addr)).unwrap().connect().await.unwrap()
    }

    pub async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await).max_decoding_message_size(1 << 30)
    }

    pub async fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel().await)
    }

    pub async fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel().await)
    }

    /// Status line and body of a GET on the client port.
    pub async fn get(&self, path: &str) -> (u16, String) {
        http_get(self.addr, path).await
    }
}

pub async fn http_get(addr: SocketAddr, path: &str) -> (u16, String) {
    http(addr, "GET", path).await
}

pub async fn http(addr: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned());
    (code, body)
}

pub fn put(key: &str, value: impl Into<Bytes>) -> PutRequest {
    PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into(), ..PutRequest::default() }
}

pub fn key(key: &str) -> RangeRequest {
    RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..RangeRequest::default() }
}

/// Everything.
pub fn all() -> RangeRequest {
    RangeRequest { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), ..RangeRequest::default() }
}

/// A header as it comes with most answers.
pub fn assert_full(header: Option<ResponseHeader>, node: &Node, revision: i64) {
    let header = header.expect("a header");
    assert_eq!(header.cluster_id, node.identity().cluster_id);
    assert_eq!(header.member_id, node.identity().member_id());
    assert!(header.member_id != 0 && header.raft_term > 0);
    assert_eq!(header.revision, revision);
}
