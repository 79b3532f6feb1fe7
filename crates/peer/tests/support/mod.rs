//! Two nodes in one process, certificates made on the spot, and a handler that notes what it is given.
#![allow(dead_code)]

pub mod pki;
pub mod raw;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use netsy_api::ids::{Incarnation, NodeId, Session};
use netsy_peer::{
    FollowerStream, ForwardReply, ForwardRequest, Handler, LocalNode, Peer, PeerConfig, PeerEvent, Peers, Remote, tls,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

pub const CLUSTER: &str = "test";
/// Long enough for any machine; nothing waits this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub type ForwardFn = Box<dyn Fn(ForwardRequest) -> BoxFuture<'static, ForwardReply> + Send + Sync>;
pub type ReplicateFn = Box<dyn Fn(Arc<Remote>, FollowerStream) -> BoxFuture<'static, ()> + Send + Sync>;

pub struct TestHandler {
    engine: mpsc::UnboundedSender<(Arc<Remote>, Bytes)>,
    events: mpsc::UnboundedSender<PeerEvent>,
    forward: ForwardFn,
    replicate: ReplicateFn,
}

impl Handler for TestHandler {
    fn engine(&self, from: &Arc<Remote>, message: Bytes) {
        let _ = self.engine.send((from.clone(), message));
    }

    fn forward(&self, _: &Arc<Remote>, request: ForwardRequest) -> BoxFuture<'static, ForwardReply> {
        (self.forward)(request)
    }

    fn replicate(&self, from: &Arc<Remote>, stream: FollowerStream) -> BoxFuture<'static, ()> {
        (self.replicate)(from.clone(), stream)
    }

    fn event(&self, event: PeerEvent) {
        let _ = self.events.send(event);
    }
}

/// A node under test.
pub struct TestNode {
    pub peers: Peers,
    pub id: NodeId,
    pub engine: Mutex<mpsc::UnboundedReceiver<(Arc<Remote>, Bytes)>>,
    pub events: Mutex<mpsc::UnboundedReceiver<PeerEvent>>,
}

pub struct Setup {
    pub id: &'static str,
    pub cluster: &'static str,
    pub config: PeerConfig,
    pub tls: Option<Arc<tls::TlsStore>>,
    pub forward: ForwardFn,
    pub replicate: ReplicateFn,
}

pub fn node_id(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

/// Times that never decide anything by themselves.
pub fn quiet() -> PeerConfig {
    PeerConfig {
        keepalive_after: Duration::from_secs(3600),
        keepalive_timeout: Duration::from_secs(3600),
        backoff_max: Duration::from_millis(100),
        ..PeerConfig::default()
    }
}

impl Setup {
    pub fn new(id: &'static str) -> Self {
        Self {
            id,
            cluster: CLUSTER,
            config: quiet(),
            tls: None,
            forward: Box::new(|_| std::future::pending().boxed()),
            replicate: Box::new(|_, _| async {}.boxed()),
        }
    }

    pub async fn start(self) -> TestNode {
        let (engine_send, engine) = mpsc::unbounded_channel();
        let (events_send, events) = mpsc::unbounded_channel();
        let handler =
            TestHandler { engine: engine_send, events: events_send, forward: self.forward, replicate: self.replicate };
        let local = LocalNode {
            cluster_id: self.cluster.to_owned(),
            node_id: node_id(self.id),
            incarnation: Incarnation(7),
            session: Session(u128::from(getrandom::u64().expect("random"))),
        };
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let tls = self.tls.map(|tls| tls.peers());
        let peers = Peers::start(self.config, local, loopback, tls, Arc::new(handler)).await.expect("a free port");
        TestNode { peers, id: node_id(self.id), engine: Mutex::new(engine), events: Mutex::new(events) }
    }
}

impl TestNode {
    pub fn calls(&self, others: &[&TestNode]) {
        self.peers.set_addresses(others.iter().map(|o| (o.id.clone(), o.peers.addr().to_string())));
    }

    pub fn peer(&self, other: &TestNode) -> Peer {
        self.peers.peer(&other.id).expect("it is called")
    }

    /// The next event for which `pick` has something.
    pub async fn event<T>(&self, mut pick: impl FnMut(&PeerEvent) -> Option<T>) -> T {
        let mut events = self.events.lock().await;
        tokio::time::timeout(PATIENCE, async {
            loop {
                let event = events.recv().await.expect("the node runs");
                if let Some(found) = pick(&event) {
                    return found;
                }
            }
        })
        .await
        .expect("the event came")
    }

    pub async fn up(&self, direction: netsy_peer::Direction) -> Arc<Remote> {
        self.event(|event| match event {
            PeerEvent::Up { remote, direction: d } if *d == direction => Some(remote.clone()),
            _ => None,
        })
        .await
    }

    pub async fn message(&self) -> (Arc<Remote>, Bytes) {
        let mut engine = self.engine.lock().await;
        tokio::time::timeout(PATIENCE, engine.recv()).await.expect("a message came").expect("the node runs")
    }
}

/// A request that may take its time.
pub fn request(path: &str, body: &[u8]) -> ForwardRequest {
    ForwardRequest {
        path: path.to_owned(),
        body: Bytes::copy_from_slice(body),
        deadline: tokio::time::Instant::now() + PATIENCE,
        client: String::new(),
        require_leader: false,
        token: String::new(),
    }
}
