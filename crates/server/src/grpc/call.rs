//! The frame around every handler: one request in, deadline, metrics, panics, one answer out.

use super::message::MessageReader;
use super::reply::{Body, Responder};
use super::rpc::{Flow, Rpc};
use super::status::{Code, Status};
use super::streaming::{CallContext, RequestStream, ResponseSink, decode};
use crate::metrics::Metrics;
use crate::transport::Incoming;
use crate::transport::shared::{ConnShared, Counted};
use bytes::Bytes;
use futures::FutureExt;
use http::HeaderMap;
use pin_project_lite::pin_project;
use prost::Message;
use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// What one request may be and take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallLimits {
    /// A longer message is refused before it is read.
    pub(crate) message_bytes_max: usize,
    /// The server's own deadline, beside the client's.
    pub(crate) request_timeout: Duration,
}

/// A call whose headers are understood.
pub(crate) struct Call {
    pub(crate) incoming: Incoming,
    /// How long the caller is willing to wait.
    pub(crate) timeout: Option<Duration>,
    /// Its messages may be compressed.
    pub(crate) gzip: bool,
}

impl Call {
    /// One whose headers ask for nothing.
    #[cfg(test)]
    pub(crate) fn plain(incoming: Incoming) -> Self {
        Self { incoming, timeout: None, gzip: false }
    }
}

/// What a handler of a unary call knows beside the request.
#[derive(Clone)]
pub(crate) struct UnaryContext {
    /// When it came.
    pub(crate) started: Instant,
    /// Another node passed it on, which counts it.
    pub(crate) passed_on: bool,
    /// When the caller stops waiting, or the server does.
    pub(crate) deadline: Instant,
    /// Length of the encoded request.
    pub(crate) request_bytes: usize,
    /// Whether the caller rather fails than waits for a leader.
    pub(crate) require_leader: bool,
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
///
/// What the future keeps across its waits is made here, outside of it: a future keeps what is moved
/// within it twice, and each call's is copied to the heap.
pub(crate) fn unary<S: CallSite, Req: Message + Default>(
    site: Arc<S>,
    call: Call,
    rpc: Rpc,
    handle: impl AsyncFnOnce(&S, UnaryContext, Req) -> Result<Body, Status>,
) -> impl Future<Output = ()> {
    unary_of(site, call, rpc, decode::<Req>, handle)
}

/// The same for a request that `read` makes of the message.
pub(crate) fn unary_of<S: CallSite, Req>(
    site: Arc<S>,
    call: Call,
    rpc: Rpc,
    read: fn(Bytes) -> Result<Req, Status>,
    handle: impl AsyncFnOnce(&S, UnaryContext, Req) -> Result<Body, Status>,
) -> impl Future<Output = ()> {
    let started = Instant::now();
    site.metrics().started(rpc);
    let Call { incoming: Incoming { head, body, send, shared }, timeout, gzip } = call;
    let headers = head.headers;
    let counted = Counted::unary(&shared);
    let mut reader = MessageReader::new(body, gzip, shared.clone(), site.limits().message_bytes_max);
    let mut responder = Responder { send, shared: shared.clone() };
    async move {
        let _counted = counted;
        let outcome = AssertUnwindSafe(async {
            let bytes = reader.next().await?.ok_or_else(no_message)?;
            site.metrics().received(rpc);
            let request_bytes = bytes.len();
            let request = read(bytes)?;
            site.admit(rpc.flow(), &headers)?;
            let limit = site.limits().request_timeout;
            let context = UnaryContext {
                started,
                passed_on: false,
                deadline: started + timeout.map_or(limit, |asked| asked.min(limit)),
                request_bytes,
                require_leader: requires_leader(&headers),
                shared: shared.clone(),
            };
            handle(&site, context, request).await
        })
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(panicked(site.metrics(), rpc, &*panic)));
        let code = match &outcome {
            Ok(_) => {
                site.metrics().sent(rpc);
                Code::Ok
            }
            Err(status) => status.code,
        };
        site.metrics().handled(rpc, code, started.elapsed());
        responder.finish(outcome).await;
    }
}

/// Runs one streaming call to its end. It is admitted by its headers alone; the response headers
/// leave at once, as some clients wait for them before they ask anything.
pub(crate) fn streaming<S: CallSite, Req: Message + Default>(
    site: Arc<S>,
    call: Call,
    rpc: Rpc,
    handle: impl AsyncFnOnce(&S, CallContext, RequestStream<Req>, &mut ResponseSink) -> Result<(), Status>,
) -> impl Future<Output = ()> {
    let started = Instant::now();
    site.metrics().started(rpc);
    let Call { incoming: Incoming { head, body, send, shared }, gzip, .. } = call;
    let counted = Counted::stream(&shared);
    let reader = MessageReader::new(body, gzip, shared.clone(), site.limits().message_bytes_max);
    let context = CallContext {
        require_leader: requires_leader(&head.headers),
        headers: head.headers,
        peer: shared.peer,
        drain: shared.drain.clone(),
        shared: shared.clone(),
    };
    let mut sink = ResponseSink::new(send, shared);
    async move {
        let _counted = counted;
        let outcome = AssertUnwindSafe(async {
            site.admit(rpc.flow(), &context.headers)?;
            if rpc.flow() == Flow::BidiStream {
                sink.open()?;
            }
            handle(&site, context, RequestStream::new(reader), &mut sink).await
        })
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(panicked(site.metrics(), rpc, &*panic)));
        let code = outcome.as_ref().err().map_or(Code::Ok, |status| status.code);
        site.metrics().handled(rpc, code, started.elapsed());
        sink.finish(&outcome);
    }
}

/// Whether the caller rather fails than waits for a leader.
pub(crate) fn requires_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

/// A panic in a handler ends the call, not the connection.
fn panicked(metrics: &Metrics, rpc: Rpc, panic: &(dyn Any + Send)) -> Status {
    metrics.panicked();
    tracing::error!(rpc = rpc.method(), panic = panic_text(panic), "a handler panicked: please report this");
    Status::internal("netsy: internal error: the handler panicked")
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
pub(crate) fn until<F: Future>(deadline: Instant, late: fn() -> Status, work: F) -> Until<F> {
    Until { work, deadline, late, timer: None }
}

pin_project! {
    /// See [`until`]. Written by hand, as it is part of every call: it keeps nothing twice.
    pub(crate) struct Until<F> {
        #[pin]
        work: F,
        deadline: Instant,
        late: fn() -> Status,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future> Future for Until<F> {
    type Output = Result<F::Output, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(done) = this.work.poll(cx) {
            return Poll::Ready(Ok(done));
        }
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(*this.deadline)));
        timer.as_mut().poll(cx).map(|()| Err((this.late)()))
    }
}

pub(crate) fn no_message() -> Status {
    Status::internal("the request holds no message: send one length-prefixed message")
}
