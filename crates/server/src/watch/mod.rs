//! etcdserverpb.Watch: one stream, any number of watchers (reference/etcd.md 2.5).
//!
//! What a watcher is told, and in which order, is decided by `netsy_node::watch`; here it becomes
//! messages. The events of a revision are encoded once and copied into the answer of every watcher
//! that gets them, and all answers that are ready for a stream leave together.

mod encode;
mod gate;
mod session;
#[cfg(test)]
mod tests;

use crate::etcd::Service;
use crate::grpc::rpc::Rpc;
use crate::grpc::status::Status;
use crate::grpc::streaming::{CallContext, RequestStream, ResponseSink, server_stopped};
use crate::metrics::Metrics;
use encode::Encoder;
use gate::Gate;
use netsy_api::etcdserverpb::WatchRequest;
use netsy_node::watch::WatchHub;
use session::Session;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// Beside the largest request, what an answer may hold before it is sent in fragments.
const FRAGMENT_OVERHEAD_BYTES: usize = 512 << 10;

/// Watch.
pub(crate) async fn watch(
    service: &Service,
    context: CallContext,
    requests: RequestStream<WatchRequest>,
    sink: &mut ResponseSink,
) -> Result<(), Status> {
    let identity = service.node.identity();
    let encoder = Encoder::new(
        identity.cluster_id,
        identity.member_id(),
        service.node.term().0,
        service.request_bytes_max + FRAGMENT_OVERHEAD_BYTES,
    );
    serve(service.node.watch_hub(), encoder, &service.metrics, context, requests, sink).await
}

/// Drives one stream to its end.
async fn serve(
    hub: &WatchHub,
    encoder: Encoder,
    metrics: &Metrics,
    context: CallContext,
    requests: RequestStream<WatchRequest>,
    sink: &mut ResponseSink,
) -> Result<(), Status> {
    let mut session = Session::new(hub.open(context.require_leader), requests, encoder);
    let drain_gate = Gate::new();
    let mut draining = pin!(context.draining());
    poll_fn(|cx| {
        if drain_gate.poll(cx, |cx| draining.as_mut().poll(cx)).is_ready() {
            return Poll::Ready(Err(server_stopped()));
        }
        let end = session.poll(cx, sink);
        let (received, sent) = session.take_counts();
        metrics.exchanged(Rpc::Watch, received, sent);
        end
    })
    .await
}
