//! etcdserverpb.Lease, its unary calls.

use super::Service;
use super::errors::{status, timed_out, wrong_outcome};
use super::kv::{write, written};
use crate::grpc::call::{UnaryContext, until};
use crate::grpc::reply::Body;
use crate::grpc::status::Status;
use crate::metrics::RequestType;
use netsy_api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use netsy_api::ids::LeaseId;
use netsy_mvcc::{Outcome, WriteRequest};

/// LeaseGrant.
pub(super) async fn grant(service: &Service, cx: UnaryContext, request: LeaseGrantRequest) -> Result<Body, Status> {
    let granted = service.node.lease_grant(LeaseId(request.id), request.ttl);
    let written = written(service, &cx, RequestType::LeaseGrant, granted).await?;
    let Outcome::LeaseGrant { id, ttl_seconds } = written.outcome else { return Err(wrong_outcome("lease grant")) };
    Ok(Body::of(&LeaseGrantResponse {
        header: Some(service.header_at(written.revision, written.term)),
        id: id.0,
        ttl: ttl_seconds,
        error: String::new(),
    }))
}

/// LeaseRevoke.
pub(super) async fn revoke(service: &Service, cx: UnaryContext, request: LeaseRevokeRequest) -> Result<Body, Status> {
    let written =
        write(service, &cx, RequestType::LeaseRevoke, WriteRequest::LeaseRevoke { id: LeaseId(request.id) }).await?;
    Ok(Body::of(&LeaseRevokeResponse { header: Some(service.header_at(written.revision, written.term)) }))
}

/// LeaseTimeToLive. An unknown lease is an answer, not an error.
pub(super) async fn time_to_live(
    service: &Service,
    cx: UnaryContext,
    request: LeaseTimeToLiveRequest,
) -> Result<Body, Status> {
    let asked = service.node.lease_time_to_live(LeaseId(request.id), request.keys);
    let found = until(cx.deadline, timed_out, asked).await?.map_err(status)?;
    let header = Some(service.header());
    Ok(Body::of(&match found {
        Some(info) => LeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: info.ttl,
            granted_ttl: info.granted_ttl,
            keys: info.keys,
        },
        None => LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..LeaseTimeToLiveResponse::default() },
    }))
}

/// LeaseLeases.
pub(super) async fn leases(service: &Service, cx: UnaryContext, _: LeaseLeasesRequest) -> Result<Body, Status> {
    let leases = until(cx.deadline, timed_out, service.node.leases()).await?.map_err(status)?;
    Ok(Body::of(&LeaseLeasesResponse {
        header: Some(service.header()),
        leases: leases.into_iter().map(|id| LeaseStatus { id: id.0 }).collect(),
    }))
}
