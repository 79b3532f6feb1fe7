//! Streams that want a leader (`hasleader`).

use netsy_api::etcdserverpb as pb;
use netsy_e2e::nodes::Nodes;
use netsy_e2e::{Server, ops};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::metadata::MetadataMap;

/// Asks for the metrics until they have this line.
async fn counted(server: &Server, line: &str) {
    let mut page = String::new();
    for _ in 0..600 {
        page.clear();
        let mut socket = TcpStream::connect(server.address()).await.expect("connect");
        let request = "GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).await.expect("ask");
        socket.read_to_string(&mut page).await.expect("an answer");
        if page.lines().any(|found| found == line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{line} never came: {page}");
}

#[tokio::test]
async fn streams_that_want_a_leader_end_when_it_is_lost_for_long() {
    if netsy_e2e::Kind::under_test() != netsy_e2e::Kind::Netsy {
        return;
    }
    let mut nodes = Nodes::new(3, "");
    nodes.start().await;
    nodes.await_voters(1, 3).await;
    // Of a node that is never Primary here: a Primary that lost all others goes on by the bucket alone.
    let first = nodes.primary().await;
    let (own, third) = (first % 3 + 1, (first + 1) % 3 + 1);
    let client = nodes.node(own).client().await;
    let mut wants = MetadataMap::new();
    wants.insert("hasleader", "true".parse().expect("a value"));
    let mut stream = client.watch_with(wants.clone());
    stream.create(pb::WatchCreateRequest { key: b"k".to_vec().into(), ..Default::default() }).await;
    let mut patient = client.watch().await;
    patient.create(pb::WatchCreateRequest { key: b"k".to_vec().into(), ..Default::default() }).await;
    let lease = client.grant(600, 0).await;
    let (asks, asked) = tokio::sync::mpsc::channel(4);
    asks.send(pb::LeaseKeepAliveRequest { id: lease }).await.expect("asked");
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(asked));
    *request.metadata_mut() = wants;
    let mut renewals = client.lease().lease_keep_alive(request).await.expect("a stream").into_inner();
    assert_eq!(renewals.message().await.expect("an answer").expect("an answer").id, lease);

    // A change of leader ends nothing.
    nodes.node(first).kill();
    if nodes.primary().await == own {
        nodes.command(own, &["member", "move-primary", &format!("n{third}")]).expect("moved");
    }
    assert_eq!(nodes.primary().await, third);
    client.put("k", "1").await;
    assert_eq!(stream.next().await.events.len(), 1);
    assert_eq!(patient.next().await.events.len(), 1);
    // The write was passed on: the node that was asked counts it.
    let timed = r#"etcd_server_request_duration_seconds_count{success="true",type="Put"} 1"#;
    counted(nodes.node(own), timed).await;
    counted(nodes.node(own), "etcd_server_proposals_pending 0").await;
    counted(nodes.node(own), "etcd_server_proposals_failed_total 0").await;
    // The loss of a quorum does.
    nodes.node(third).kill();
    let ended = stream.end().await;
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: no leader"));
    let ended = renewals.message().await.expect_err("ended");
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: no leader"));
    let mut late = tonic::Request::new(ops::put("k", "late"));
    late.set_timeout(Duration::from_millis(300));
    client.kv().put(late).await.expect_err("nobody to pass it on to");
    counted(nodes.node(own), "etcd_server_proposals_failed_total 1").await;
    // Without the wish it goes on, and sees what comes when the quorum is back.
    nodes.node(third).spawn();
    nodes.node(third).await_ready().await;
    client.put("k", "2").await;
    assert_eq!(patient.next().await.events.len(), 1);
}
