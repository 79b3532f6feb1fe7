//! The frame around every handler: one request in, deadline, metrics, panics, one answer out.

use super::deadline::timeout_of;
use super::message::MessageReader;
use super::reply::{Body, Responder};
use super::rpc::{Flow, Rpc};
use super::status::{Code, Status};
use super::streaming::{CallContext, RequestStream, ResponseSink, decode};
use crate::metrics::Metrics;
use crate::transport::Incoming;
use crate::transport::shared::{ConnShared, Counted};
use futures::FutureExt;
use http::HeaderMap;
use prost::Message;
use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// What one request may be and take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallLimits {
    /// A longer message is refused before it is read.
    pub(crate) message_bytes_max: usize,
    /// The server's own deadline, beside the client's.
    pub(crate) request_timeout: Duration,
}

/// What a handler of a unary call knows beside the request.
pub(crate) struct UnaryContext {
    /// When the caller stops waiting, or the server does.
    pub(crate) deadline: Instant,
    /// Length of the encoded request.
    pub(crate) request_bytes: usize,
    /// The connection it came over.
    pub(crate) shared: Arc<ConnShared>,
}

/// What the calls of one server have in common.
pub(crate) trait CallSite: Send + Sync + 'static {
    /// Where they are counted.
    fn metrics(&self) -> &Metrics;

    /// What they may be and take.
    fn limits(&self) -> CallLimits;

    /// Looks at the headers of a call once its request is known to be well-formed.
    fn admit(&self, flow: Flow, headers: &HeaderMap) -> Result<(), Status>;
}

/// Runs one unary call to its end.
pub(crate) async fn unary<S: CallSite, Req: Message + Default>(
    site: Arc<S>,
    incoming: Incoming,
    rpc: Rpc,
    handle: impl AsyncFnOnce(&S, UnaryContext, Req) -> Result<Body, Status>,
) {
    let started = Instant::now();
    let metrics = site.metrics();
    let limits = site.limits();
    metrics.started(rpc);
    let Incoming { head, body, send, shared } = incoming;
    let _counted = Counted::unary(&shared);
    let mut reader = MessageReader::new(body, shared.clone(), limits.message_bytes_max);
    let responder = Responder { send, shared: shared.clone() };
    let outcome = guarded(metrics, rpc, async {
        let bytes = reader.next().await?.ok_or_else(no_message)?;
        metrics.received(rpc);
        let request_bytes = bytes.len();
        let request = decode(bytes)?;
        site.admit(rpc.flow(), &head.headers)?;
        let timeout = timeout_of(&head.headers).map_or(limits.request_timeout, |t| t.min(limits.request_timeout));
        handle(&site, UnaryContext { deadline: started + timeout, request_bytes, shared }, request).await
    })
    .await;
    let code = match &outcome {
        Ok(_) => {
            metrics.sent(rpc);
            Code::Ok
        }
        Err(status) => status.code,
    };
    metrics.handled(rpc, code, started.elapsed());
    responder.finish(outcome).await;
}

/// Runs one streaming call to its end. It is admitted by its headers alone; the response headers
/// leave at once, as some clients wait for them before they ask anything.
pub(crate) async fn streaming<S: CallSite, Req: Message + Default>(
    site: Arc<S>,
    incoming: Incoming,
    rpc: Rpc,
    handle: impl AsyncFnOnce(&S, CallContext, RequestStream<Req>, &mut ResponseSink) -> Result<(), Status>,
) {
    let started = Instant::now();
    let metrics = site.metrics();
    metrics.started(rpc);
    let Incoming { head, body, send, shared } = incoming;
    let _counted = Counted::stream(&shared);
    let reader = MessageReader::new(body, shared.clone(), site.limits().message_bytes_max);
    let context = CallContext {
        require_leader: requires_leader(&head.headers),
        headers: head.headers,
        peer: shared.peer,
        drain: shared.drain.clone(),
        shared: shared.clone(),
    };
    let mut sink = ResponseSink::new(send, shared);
    let outcome = guarded(metrics, rpc, async {
        site.admit(rpc.flow(), &context.headers)?;
        if rpc.flow() == Flow::BidiStream {
            sink.open()?;
        }
        handle(&site, context, RequestStream::new(reader), &mut sink).await
    })
    .await;
    let code = outcome.as_ref().err().map_or(Code::Ok, |status| status.code);
    metrics.handled(rpc, code, started.elapsed());
    sink.finish(&outcome);
}

/// Whether the caller rather fails than waits for a leader.
pub(crate) fn requires_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

/// Runs a handler; a panic in it ends the call, not the connection.
pub(crate) async fn guarded<T>(
    metrics: &Metrics,
    rpc: Rpc,
    handler: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match AssertUnwindSafe(handler).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => {
            metrics.panicked();
            tracing::error!(rpc = rpc.method(), panic = panic_text(&*panic), "a handler panicked: please report this");
            Err(Status::internal("netsy: internal error: the handler panicked"))
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

/// Waits for `work` until `deadline`, then `late` is the outcome. A timer is only set when there
/// is something to wait for.
pub(crate) async fn until<T, F: Future<Output = T>>(
    deadline: Instant,
    late: impl FnOnce() -> Status,
    work: F,
) -> Result<T, Status> {
    let mut work = pin!(work);
    if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
        return Ok(done);
    }
    tokio::time::timeout_at(deadline, work).await.map_err(|_| late())
}

pub(crate) fn no_message() -> Status {
    Status::internal("the request holds no message: send one length-prefixed message")
}
