//! etcdserverpb.Cluster. Headers of member calls have no revision.
//!
//! Members are nodes. They join and become voters by themselves once they are started with the cluster's configuration,
//! and tell their own addresses: nothing is left to do for MemberAdd, MemberUpdate and MemberPromote, which find fault
//! as etcd does and change nothing.

use super::Service;
use super::errors::{status, timed_out};
use crate::grpc::call::{UnaryContext, until};
use crate::grpc::reply::Body;
use crate::grpc::status::{Code, Status};
use netsy_api::etcdserverpb::{
    Member, MemberListRequest, MemberListResponse, MemberPromoteRequest, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use netsy_api::ids::NodeId;
use netsy_node::MemberInfo;

/// MemberList.
pub(super) async fn member_list(
    service: &Service,
    cx: UnaryContext,
    request: MemberListRequest,
) -> Result<Body, Status> {
    if request.linearizable {
        until(cx.deadline, timed_out, service.node.read_index()).await?.map_err(status)?;
    }
    let members = until(cx.deadline, timed_out, members(service)).await?;
    Ok(Body::of(&MemberListResponse { header: Some(service.header_without_revision()), members }))
}

async fn members(service: &Service) -> Vec<Member> {
    let members = service.node.members().await.into_iter().map(|member| Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.learner,
    });
    members.collect()
}

async fn find(service: &Service, cx: &UnaryContext, id: u64) -> Result<MemberInfo, Status> {
    let member = until(cx.deadline, timed_out, service.node.member(id)).await?;
    member.ok_or_else(not_found)
}

fn not_found() -> Status {
    Status::new(Code::NotFound, "etcdserver: member not found")
}

/// MemberRemove: on the Primary. A node that runs leaves by being stopped.
pub(super) async fn member_remove(
    service: &Service,
    cx: UnaryContext,
    request: MemberRemoveRequest,
) -> Result<Body, Status> {
    let member = find(service, &cx, request.id).await?;
    remove(service, &cx, member.name).await?;
    let members = until(cx.deadline, timed_out, members(service)).await?;
    Ok(Body::of(&MemberRemoveResponse { header: Some(service.header_without_revision()), members }))
}

/// Takes a node out; what an operator is told if it stays.
pub(super) async fn remove(service: &Service, cx: &UnaryContext, name: String) -> Result<(), Status> {
    let name = NodeId::new(name).map_err(|e| Status::new(Code::InvalidArgument, format!("netsy: {e}")))?;
    let removed = until(cx.deadline, timed_out, service.node.remove_node(name)).await?;
    removed.map_err(|why| Status::new(Code::FailedPrecondition, format!("netsy: {why}")))
}

/// MemberPromote: a node that has caught up votes by itself, so there is only what etcd says of the others.
pub(super) async fn member_promote(
    service: &Service,
    cx: UnaryContext,
    request: MemberPromoteRequest,
) -> Result<Body, Status> {
    let text = match find(service, &cx, request.id).await?.learner {
        false => "etcdserver: can only promote a learner member",
        true => "etcdserver: can only promote a learner member which is in sync with leader",
    };
    Err(Status::new(Code::FailedPrecondition, text))
}

/// MemberUpdate: on the Primary. Addresses are the node's to tell: what it tells is taken, as nothing is to be changed
/// then, and anything else is not.
pub(super) async fn member_update(
    service: &Service,
    cx: UnaryContext,
    request: MemberUpdateRequest,
) -> Result<Body, Status> {
    let members = until(cx.deadline, timed_out, members(service)).await?;
    let member = members.iter().find(|member| member.id == request.id).ok_or_else(not_found)?;
    let (wanted, told) = (&request.peer_ur_ls, &member.peer_ur_ls);
    if members.iter().any(|other| other.id != request.id && other.peer_ur_ls.iter().any(|url| wanted.contains(url))) {
        return Err(Status::new(Code::FailedPrecondition, "etcdserver: Peer URLs already exists"));
    }
    if !wanted.iter().all(|url| told.contains(url)) || !told.iter().all(|url| wanted.contains(url)) {
        return Err(Status::new(
            Code::FailedPrecondition,
            format!(
                "netsy: MemberUpdate: {} tells its own addresses, {} at present: set NETSY_ADVERTISE_PEER (and \
                 NETSY_ADVERTISE_CLIENT) and start it again",
                member.name,
                told.join(", ")
            ),
        ));
    }
    Ok(Body::of(&MemberUpdateResponse { header: Some(service.header_without_revision()), members }))
}

/// MemberAdd: not served, as there is nothing to do.
pub(super) fn member_add() -> Status {
    let what = "a node joins by itself: start it with the cluster's configuration (netsy server)";
    Status::unimplemented(format!("netsy: MemberAdd: {what}"))
}
