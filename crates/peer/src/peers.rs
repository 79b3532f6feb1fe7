//! The other nodes of the cluster: start reading here.

use crate::config::PeerConfig;
use crate::dial;
use crate::error::{CallError, NotSent, Outcome, SendError, StartError};
use crate::handler::{ForwardRequest, Handler, LocalNode, Remote};
use crate::hub::{Hub, Slot};
use crate::listen;
use crate::replicate::PrimaryStream;
use crate::tls::PeerTls;
use bytes::Bytes;
use netsy_api::ids::NodeId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Connections to and from the other nodes. Clones are the same.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    hub: Arc<Hub>,
    addr: SocketAddr,
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
}

impl Peers {
    /// Listens for other nodes on `bind` and hands what they send to `handler`. Calls nobody until
    /// [`Self::set_addresses`]. `tls`: None only on loopback. Must be called in a Tokio runtime.
    pub async fn start(
        config: PeerConfig,
        local: LocalNode,
        bind: SocketAddr,
        tls: Option<PeerTls>,
        handler: Arc<dyn Handler>,
    ) -> Result<Self, StartError> {
        let failed = |source| StartError::Bind { addr: bind, source };
        let listener = TcpListener::bind(bind).await.map_err(failed)?;
        Self::start_on(config, local, listener, tls, handler)
    }

    /// The same on a port that is already listened on.
    pub fn start_on(
        config: PeerConfig,
        local: LocalNode,
        listener: TcpListener,
        tls: Option<PeerTls>,
        handler: Arc<dyn Handler>,
    ) -> Result<Self, StartError> {
        let addr = listener
            .local_addr()
            .map_err(|source| StartError::Bind { addr: SocketAddr::from(([0, 0, 0, 0], 0)), source })?;
        let hub = Hub::new(config, local, tls, handler);
        let mut tasks = JoinSet::new();
        tasks.spawn(listen::run(hub.clone(), listener));
        Ok(Self(Arc::new(Inner { hub, addr, runtime: Handle::current(), tasks: Mutex::new(tasks) })))
    }

    /// Where other nodes connect.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// Who is to be called, and where (`HOST:PORT`, with or without a scheme). A connection is kept to each;
    /// those to nodes that are not named any more are closed. This node's own name is passed over. Any thread may call.
    pub fn set_addresses(&self, nodes: impl IntoIterator<Item = (NodeId, String)>) {
        let hub = &self.0.hub;
        let mut named: HashMap<NodeId, String> = nodes.into_iter().collect();
        named.remove(&hub.local.node_id);
        for slot in hub.slots() {
            if !named.contains_key(&slot.node_id) && slot.address.send_replace(None).is_some() {
                // Its connection is closed by the task that keeps it.
                tracing::debug!(node = %slot.node_id, "not called any more");
            }
        }
        for (node_id, address) in named {
            let Some(slot) = hub.slot_or_new(&node_id) else {
                tracing::error!(node = %node_id, "not called: too many nodes are known");
                continue;
            };
            slot.address.send_if_modified(|now| {
                let other = now.as_ref() != Some(&address);
                *now = Some(address);
                other
            });
            let mut kept = slot.kept.lock();
            if !std::mem::replace(&mut *kept, true) {
                drop(kept);
                let mut tasks = self.0.tasks.lock();
                // Those that ended leave their place.
                while tasks.try_join_next().is_some() {}
                tasks.spawn_on(dial::keep(hub.clone(), slot), &self.0.runtime);
            }
        }
    }

    /// One of the other nodes; None: it is neither to be called nor connected.
    pub fn peer(&self, node_id: &NodeId) -> Option<Peer> {
        self.0.hub.slot(node_id).map(Peer)
    }

    /// Nodes that a connection exists with, in either direction.
    pub fn connected(&self) -> Vec<Arc<Remote>> {
        self.0.hub.slots().iter().filter_map(|slot| slot.any()).map(|link| link.remote.clone()).collect()
    }

    /// Sends a message of the engine to `to` over any connection with it. It may be lost: with the
    /// connection, or because too much waits already.
    pub fn send_engine(&self, to: &NodeId, message: Bytes) -> Result<(), SendError> {
        self.peer(to).ok_or(SendError::Closed)?.send_engine(message)
    }

    /// Stops: says goodbye to all and closes. Calls under way fail.
    pub async fn stop(&self, reason: &str) {
        self.0.hub.stop(reason);
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }
}

/// Another node. Clones are the same.
#[derive(Clone)]
pub struct Peer(Arc<Slot>);

impl Peer {
    /// Its name.
    pub fn node_id(&self) -> &NodeId {
        &self.0.node_id
    }

    /// Who is there now; None: not connected.
    pub fn remote(&self) -> Option<Arc<Remote>> {
        self.0.any().map(|link| link.remote.clone())
    }

    /// Whether it can be asked: this node's own connection to it is up.
    pub fn can_ask(&self) -> bool {
        self.0.outgoing().is_some()
    }

    /// Tries to connect now, if it is not connected and a pause is under way.
    pub fn connect_now(&self) {
        self.0.nudge.notify_one();
    }

    /// See [`Peers::send_engine`].
    pub fn send_engine(&self, message: Bytes) -> Result<(), SendError> {
        self.0.any().ok_or(SendError::Closed)?.send_engine(message)
    }

    /// Passes a client's request on. It is sent at most once; the error tells whether it was. Dropping the
    /// future, or the deadline, has the other node give it up.
    pub async fn forward(&self, request: ForwardRequest) -> Result<Outcome, CallError> {
        let link = self.0.outgoing().ok_or(NotSent::NotConnected)?;
        let asking = link.asking.as_ref().ok_or(NotSent::NotConnected)?;
        asking.caller.forward(request).await
    }

    /// Opens a stream on which this node follows the other one's log. The first frame to send is a
    /// [`Follow`](netsy_api::peer::Follow).
    pub async fn follow(&self) -> Result<PrimaryStream, SendError> {
        self.0.outgoing().ok_or(SendError::Closed)?.follow().await
    }
}
