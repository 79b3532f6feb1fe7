//! Sockets to calls: accepting, telling HTTP/1 from HTTP/2, driving connections, draining.

mod accept_queue;
mod authority;
pub(crate) mod connection;
mod frame_meter;
mod http1;
pub(crate) mod listener;
mod ping_policy;
pub(crate) mod shared;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use bytes::Bytes;
use futures::future::BoxFuture;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use shared::ConnShared;
use std::sync::Arc;

/// A request that has just arrived over HTTP/2.
pub(crate) struct Incoming {
    pub(crate) head: http::request::Parts,
    pub(crate) body: RecvStream,
    pub(crate) send: SendResponse<Bytes>,
    pub(crate) shared: Arc<ConnShared>,
}

/// Where a call is to run. Its future answers the client by itself and never panics.
pub(crate) enum Work {
    /// Likely to finish at once: polled in the connection's task right away, kept there if not.
    Here(BoxFuture<'static, ()>),
    /// Certain to wait first (for a commit, for the client): kept in the connection's task, which
    /// then answers all that became ready with one write.
    Queued(BoxFuture<'static, ()>),
}

/// What the requests of a connection are answered by.
pub(crate) trait Routes: Send + Sync + 'static {
    /// Begins a call. Must return at once.
    fn start(self: &Arc<Self>, incoming: Incoming) -> Work;

    /// Answers a plain HTTP/1 request; bodies of requests are ignored.
    fn http(self: Arc<Self>, request: Request<()>) -> BoxFuture<'static, Response<Bytes>>;
}
