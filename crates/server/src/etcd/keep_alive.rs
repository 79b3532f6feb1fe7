//! etcdserverpb.Lease/LeaseKeepAlive: each request renews one lease and gets one answer.

use super::errors::{no_leader, status, timed_out};
use super::{Service, forward};
use crate::grpc::call::{UnaryContext, until};
use crate::grpc::reply::Body;
use crate::grpc::rpc::Rpc;
use crate::grpc::status::Status;
use crate::grpc::streaming::{CallContext, RequestStream, ResponseSink, server_stopped};
use netsy_api::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use netsy_api::ids::LeaseId;
use prost::Message;
use tokio::time::Instant;

/// LeaseKeepAlive.
pub(super) async fn keep_alive(
    service: &Service,
    context: CallContext,
    mut requests: RequestStream<LeaseKeepAliveRequest>,
    sink: &mut ResponseSink,
) -> Result<(), Status> {
    let mut draining = std::pin::pin!(context.draining());
    let mut leaderless = std::pin::pin!(service.node.leader_lost());
    loop {
        let request = tokio::select! {
            biased;
            request = requests.next() => request?,
            () = &mut draining => return Err(server_stopped()),
            () = &mut leaderless, if context.require_leader => return Err(no_leader()),
        };
        let Some(request) = request else { return Ok(()) };
        service.metrics.received(Rpc::LeaseKeepAlive);
        let started = Instant::now();
        let cx = UnaryContext {
            started,
            passed_on: false,
            deadline: started + service.limits.request_timeout,
            request_bytes: request.encoded_len(),
            require_leader: context.require_leader,
            shared: context.shared.clone(),
        };
        let body = request.encode_to_vec().into();
        let answer = forward::decide(service, cx, Rpc::LeaseKeepAlive, body).await?;
        sink.send_framed(answer.whole()).await?;
        service.metrics.sent(Rpc::LeaseKeepAlive);
    }
}

/// Renews one lease, on the Primary.
pub(super) async fn renew(service: &Service, cx: UnaryContext, request: LeaseKeepAliveRequest) -> Result<Body, Status> {
    // etcd takes the header before it renews.
    let header = service.header();
    let renewed = service.node.lease_keep_alive(LeaseId(request.id));
    let ttl = until(cx.deadline, timed_out, renewed).await?.map_err(status)?;
    // A lease that is gone is told by a time to live of 0.
    Ok(Body::of(&LeaseKeepAliveResponse { header: Some(header), id: request.id, ttl: ttl.unwrap_or(0) }))
}
