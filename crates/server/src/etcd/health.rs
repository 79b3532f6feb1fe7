//! grpc.health.v1: one service, named by the empty name.

use super::Service;
use crate::grpc::call::{UnaryContext, no_message};
use crate::grpc::reply::Body;
use crate::grpc::status::{Code, Status};
use crate::grpc::streaming::{CallContext, RequestStream, ResponseSink, server_stopped};
use netsy_api::health::health_check_response::ServingStatus;
use netsy_api::health::{HealthCheckRequest, HealthCheckResponse};

/// Check.
pub(super) async fn check(service: &Service, _: UnaryContext, request: HealthCheckRequest) -> Result<Body, Status> {
    if !request.service.is_empty() {
        return Err(Status::new(Code::NotFound, "unknown service"));
    }
    Ok(Body::of(&answer(serving(*service.drain.borrow()))))
}

/// Watch: the state now, and again whenever it changes.
pub(super) async fn watch(
    _: &Service,
    context: CallContext,
    mut requests: RequestStream<HealthCheckRequest>,
    sink: &mut ResponseSink,
) -> Result<(), Status> {
    let request = requests.next().await?.ok_or_else(no_message)?;
    let known = request.service.is_empty();
    let first = if known { serving(*context.drain.borrow()) } else { ServingStatus::ServiceUnknown };
    sink.send(&answer(first)).await?;
    tokio::select! {
        () = sink.gone() => Err(Status::new(Code::Cancelled, "context canceled")),
        () = context.draining() => {
            if known && first == ServingStatus::Serving {
                sink.send(&answer(ServingStatus::NotServing)).await?;
            }
            Err(server_stopped())
        }
    }
}

fn serving(draining: bool) -> ServingStatus {
    if draining { ServingStatus::NotServing } else { ServingStatus::Serving }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}
