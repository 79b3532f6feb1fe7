//! Streams that want a leader (`hasleader`).

use netsy_api::etcdserverpb as pb;
use netsy_e2e::nodes::Nodes;
use tonic::Code;
use tonic::metadata::MetadataMap;

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
    // The loss of a quorum does.
    nodes.node(third).kill();
    let ended = stream.end().await;
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: no leader"));
    let ended = renewals.message().await.expect_err("ended");
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: no leader"));
    // Without the wish it goes on, and sees what comes when the quorum is back.
    nodes.node(third).spawn();
    nodes.node(third).await_ready().await;
    client.put("k", "2").await;
    assert_eq!(patient.next().await.events.len(), 1);
}
