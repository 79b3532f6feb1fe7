//! What a node does with what other nodes send.

use crate::error::{DialError, Lost};
use crate::replicate::FollowerStream;
use bytes::Bytes;
use futures::future::BoxFuture;
use netsy_api::ids::{Incarnation, NodeId, Session};
use netsy_api::peer::{CallStatus, NotRun};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::Instant;

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalNode {
    /// The cluster.
    pub cluster_id: String,
    /// Its name.
    pub node_id: NodeId,
    /// Of its database (R11).
    pub incarnation: Incarnation,
    /// Of this process (R1).
    pub session: Session,
}

/// The node at the other end of a connection, as its Hello or Welcome says and, with TLS, its
/// certificate confirms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its name.
    pub node_id: NodeId,
    /// Of its database (R11).
    pub incarnation: Incarnation,
    /// Of its process (R1).
    pub session: Session,
    /// The protocol version spoken with it.
    pub version: u32,
    /// Its release.
    pub software: String,
    /// The other end's socket.
    pub addr: SocketAddr,
}

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// This node: it asks and follows over it.
    Outgoing,
    /// The other node: it asks and follows over it.
    Incoming,
}

/// What happened to a connection. Two nodes have up to two, one opened by each.
#[derive(Clone, Debug)]
pub enum PeerEvent {
    /// It can be used.
    Up {
        /// Who is there.
        remote: Arc<Remote>,
        /// Who opened it.
        direction: Direction,
    },
    /// It is gone.
    Down {
        /// Who was there.
        remote: Arc<Remote>,
        /// Who had opened it.
        direction: Direction,
        /// Why. [`Lost::Broken`] is what a crash looks like; it comes within milliseconds of it.
        lost: Lost,
        /// No other connection with the same session of that node is left.
        last: bool,
    },
    /// An attempt to connect failed; the next one is made after a pause.
    Unreachable {
        /// Who was called.
        node_id: NodeId,
        /// Why. [`DialError::ConnectionRefused`]: its machine answers and its process does not run.
        error: DialError,
    },
}

/// A client's request that another node passed on.
#[derive(Clone, Debug)]
pub struct ForwardRequest {
    /// The method: `/package.Service/Method`.
    pub path: String,
    /// The request's message.
    pub body: Bytes,
    /// When the client stops waiting.
    pub deadline: Instant,
    /// The [`Identity`](crate::Identity) in the client's certificate, as a URI; empty without TLS.
    pub client: String,
    /// `hasleader`: rather fails than waits.
    pub require_leader: bool,
    /// The client's token; empty without.
    pub token: String,
}

/// What became of a forwarded request.
#[derive(Clone, Debug, PartialEq)]
pub enum ForwardReply {
    /// The response's message.
    Answer(Bytes),
    /// A failure that is the client's to see.
    Status(CallStatus),
    /// Nothing was done and nothing will be: the asking node may send it elsewhere.
    NotRun(NotRun),
}

/// What a node does with what arrives. All calls are made in the task of a connection, whose other
/// messages wait meanwhile: nothing here may block or compute for long, and the futures are polled
/// in that task (which lets answers that became ready together leave in one system call). They are
/// dropped when the other node gives the call up or the connection ends. A panic in one ends its
/// connection only.
pub trait Handler: Send + Sync + 'static {
    /// A message of the engine, to be decoded with [`engine_wire`](crate::engine_wire). Messages of one connection
    /// come in order.
    fn engine(&self, from: &Arc<Remote>, message: Bytes);

    /// A client's request that `from` passed on.
    fn forward(&self, from: &Arc<Remote>, request: ForwardRequest) -> BoxFuture<'static, ForwardReply>;

    /// A replica wants to follow: the stream's first frame is its Follow. The stream ends with the future.
    fn replicate(&self, from: &Arc<Remote>, stream: FollowerStream) -> BoxFuture<'static, ()>;

    /// A connection came or went.
    fn event(&self, event: PeerEvent);
}
