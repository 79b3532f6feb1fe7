//! etcdserverpb.Lease/LeaseKeepAlive: each request renews one lease and gets one answer.

use super::Service;
use super::errors::{status, timed_out};
use crate::grpc::call::until;
use crate::grpc::rpc::Rpc;
use crate::grpc::status::Status;
use crate::grpc::streaming::{CallContext, RequestStream, ResponseSink, server_stopped};
use netsy_api::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use netsy_api::ids::LeaseId;
use tokio::time::Instant;

/// LeaseKeepAlive.
pub(super) async fn keep_alive(
    service: &Service,
    context: CallContext,
    mut requests: RequestStream<LeaseKeepAliveRequest>,
    sink: &mut ResponseSink,
) -> Result<(), Status> {
    let mut draining = std::pin::pin!(context.draining());
    loop {
        let request = tokio::select! {
            biased;
            request = requests.next() => request?,
            () = &mut draining => return Err(server_stopped()),
        };
        let Some(request) = request else { return Ok(()) };
        service.metrics.received(Rpc::LeaseKeepAlive);
        // etcd takes the header before it renews.
        let header = service.header();
        let deadline = Instant::now() + service.limits.request_timeout;
        let renewed = service.node.lease_keep_alive(LeaseId(request.id));
        let ttl = until(deadline, timed_out, renewed).await?.map_err(status)?;
        // A lease that is gone is told by a time to live of 0.
        let answer = LeaseKeepAliveResponse { header: Some(header), id: request.id, ttl: ttl.unwrap_or(0) };
        sink.send(&answer).await?;
        service.metrics.sent(Rpc::LeaseKeepAlive);
    }
}
