//! The node among its peers: what arrives from them, and what the engine sends.

use crate::error::Unavailable;
use crate::node::{Inner, Node};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use netsy_api::ids::NodeId;
use netsy_api::peer::{NotRun, not_run};
use netsy_peer::tls::PeerTls;
use netsy_peer::{
    DialError, FollowerStream, ForwardReply, ForwardRequest, Handler, LocalNode, Lost, PeerConfig, PeerEvent, Peers,
    Remote, engine_wire,
};
use netsy_protocol::config::RegisteredNode;
use netsy_protocol::event::Event;
use netsy_protocol::message::Message;
use std::sync::{Arc, Weak};
use tokio::net::TcpListener;

/// Where other nodes connect.
pub struct PeerListen {
    /// A port that is listened on.
    pub listener: TcpListener,
    /// `None` only on loopback.
    pub tls: Option<PeerTls>,
}

/// Runs requests that other nodes pass on: the server's part.
pub trait Forwarded: Send + Sync + 'static {
    /// Runs one; called only while this node is Primary.
    fn run(&self, from: Arc<Remote>, request: ForwardRequest) -> BoxFuture<'static, ForwardReply>;
}

struct Incoming(Weak<Inner>);

pub(crate) fn start(node: &Arc<Inner>, listen: PeerListen) -> Result<Peers, netsy_peer::StartError> {
    let local = LocalNode {
        cluster_id: node.config.cluster_id.clone(),
        node_id: node.config.node_id.clone(),
        incarnation: node.incarnation,
        session: node.session,
    };
    let handler = Arc::new(Incoming(Arc::downgrade(node)));
    Peers::start_on(PeerConfig::default(), local, listen.listener, listen.tls, handler)
}

impl Handler for Incoming {
    fn engine(&self, from: &Arc<Remote>, message: Bytes) {
        let Some(node) = self.0.upgrade() else { return };
        match engine_wire::decode(message) {
            Ok(message) => {
                let from = from.node_id.clone();
                node.engine(|engine, now| engine.handle(now, Event::Message { from, message }));
            }
            Err(error) => tracing::error!(peer = %from.node_id, %error, "a message that is not understood"),
        }
    }

    fn forward(&self, from: &Arc<Remote>, request: ForwardRequest) -> BoxFuture<'static, ForwardReply> {
        let not_run = |reason: not_run::Reason, node: &Inner| {
            let primary = node.leader.borrow().primary.as_ref().map(|p| p.as_str().to_string()).unwrap_or_default();
            ForwardReply::NotRun(NotRun { reason: reason as i32, primary, term: node.term().0 })
        };
        let Some(node) = self.0.upgrade() else {
            return std::future::ready(ForwardReply::NotRun(NotRun::default())).boxed();
        };
        if node.leading().is_none() {
            return std::future::ready(not_run(not_run::Reason::NotPrimary, &node)).boxed();
        }
        match node.forwarded.get() {
            Some(forwarded) => forwarded.run(from.clone(), request),
            None => std::future::ready(not_run(not_run::Reason::NotPrimary, &node)).boxed(),
        }
    }

    fn replicate(&self, from: &Arc<Remote>, stream: FollowerStream) -> BoxFuture<'static, ()> {
        let Some(node) = self.0.upgrade() else { return std::future::ready(()).boxed() };
        let from = from.clone();
        // A task of its own: the connection's other messages do not wait for entries to be read and sent.
        let mut task = tokio::task::JoinSet::new();
        task.spawn(node.serve_follower(from, stream));
        async move { while task.join_next().await.is_some() {} }.boxed()
    }

    fn event(&self, event: PeerEvent) {
        let Some(node) = self.0.upgrade() else { return };
        let event = match event {
            PeerEvent::Up { remote, direction } => {
                tracing::info!(peer = %remote.node_id, ?direction, "connected");
                Event::PeerUp(remote.node_id.clone())
            }
            PeerEvent::Down { remote, lost, last, .. } => {
                tracing::info!(peer = %remote.node_id, %lost, last, "connection lost");
                let gone = last && matches!(lost, Lost::Broken(_) | Lost::Goodbye(_));
                if !gone {
                    return;
                }
                Event::PeerDown(remote.node_id.clone())
            }
            PeerEvent::Unreachable { node_id, error } => {
                tracing::debug!(peer = %node_id, %error, "not reachable");
                if !matches!(error, DialError::ConnectionRefused { .. }) {
                    return;
                }
                Event::PeerDown(node_id)
            }
        };
        node.engine(|engine, now| engine.handle(now, event));
    }
}

impl Inner {
    pub(crate) fn peers(&self) -> Option<&Peers> {
        self.peers.get()
    }

    /// A message of the engine; may be lost.
    pub(crate) fn send_message(&self, to: &NodeId, message: &Message) {
        if let Some(peers) = self.peers()
            && let Err(error) = peers.send_engine(to, engine_wire::encode(message))
        {
            tracing::trace!(%to, %error, "a message was not sent");
        }
    }

    /// Nodes and their addresses are known anew: those that did not stop are called.
    pub(crate) fn saw_nodes(&self, nodes: Vec<RegisteredNode>) {
        if let Some(peers) = self.peers() {
            let called = nodes.into_iter().filter(|node| !node.stopped && !node.address.is_empty());
            peers.set_addresses(called.map(|node| (node.node_id, node.address)));
        }
    }
}

impl Node {
    /// Who runs requests that other nodes pass on. To be called once, before this node can be Primary.
    pub fn set_forwarded(&self, forwarded: Arc<dyn Forwarded>) {
        if self.0.forwarded.set(forwarded).is_err() {
            tracing::error!("requests of other nodes were given to two servers: the first runs them");
        }
    }

    /// The Primary, if it is another node that is known to serve; `None` where this node is it.
    pub fn other_primary(&self) -> Option<NodeId> {
        let leader = self.0.leader.borrow();
        leader.primary.clone().filter(|_| !leader.here)
    }

    /// Whether this node is Primary and takes requests.
    pub fn is_primary(&self) -> bool {
        self.0.leading().is_some()
    }

    /// Waits until somebody is known to lead, or another than before.
    pub async fn leader_changed(&self, before: &Option<NodeId>) {
        let mut leader = self.0.leader.subscribe();
        // The sender lives as long as the node.
        let _ = leader.wait_for(|leader| leader.primary.is_some() && leader.primary != *before).await;
    }

    /// Resolves once nobody was known to lead for as long as a stream that wants a leader goes on without.
    pub async fn leader_lost(&self) {
        self.0.leader_lost().await;
    }

    /// Passes a request on to the Primary `to`.
    pub async fn forward(
        &self,
        to: &NodeId,
        request: ForwardRequest,
    ) -> Result<netsy_peer::Outcome, netsy_peer::CallError> {
        let peer = self.0.peers().and_then(|peers| peers.peer(to));
        match peer {
            Some(peer) => peer.forward(request).await,
            None => Err(netsy_peer::NotSent::NotConnected.into()),
        }
    }

    /// Waits until readers here see `revision`: an answer of the Primary is not ahead of what this node shows.
    pub async fn wait_revision(&self, revision: netsy_api::ids::Revision) -> Result<(), crate::NodeError> {
        if self.0.revision() >= revision {
            return Ok(());
        }
        let mut shown = self.0.shown.subscribe();
        loop {
            shown.borrow_and_update();
            if self.0.revision() >= revision {
                return Ok(());
            }
            tokio::select! {
                changed = shown.changed() => changed.map_err(|_| Unavailable::Stopped)?,
                () = self.0.wait_ended() => return Err(Unavailable::Stopped.into()),
            }
        }
    }
}
