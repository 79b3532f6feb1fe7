//! etcdserverpb.Cluster. Headers of member calls have no revision.

use super::Service;
use super::errors::{status, timed_out};
use crate::grpc::call::{UnaryContext, until};
use crate::grpc::reply::Body;
use crate::grpc::status::Status;
use netsy_api::etcdserverpb::{Member, MemberListRequest, MemberListResponse};

/// MemberList.
pub(super) async fn member_list(
    service: &Service,
    cx: UnaryContext,
    request: MemberListRequest,
) -> Result<Body, Status> {
    if request.linearizable {
        until(cx.deadline, timed_out, service.node.read_index()).await?.map_err(status)?;
    }
    let members = until(cx.deadline, timed_out, service.node.members()).await?;
    Ok(Body::of(&MemberListResponse {
        header: Some(service.header_without_revision()),
        members: members
            .into_iter()
            .map(|member| Member {
                id: member.id,
                name: member.name,
                peer_ur_ls: member.peer_urls,
                client_ur_ls: member.client_urls,
                is_learner: member.learner,
            })
            .collect(),
    }))
}
