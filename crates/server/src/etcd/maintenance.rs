//! etcdserverpb.Maintenance: status, alarms, defragmentation, hashes.

use super::Service;
use super::errors::{no_leader, status, timed_out, wrong_outcome};
use super::kv::write;
use super::versions;
use crate::grpc::call::{UnaryContext, until};
use crate::grpc::reply::Body;
use crate::grpc::status::{Code, Status};
use crate::metrics::RequestType;
use netsy_api::etcdserverpb::alarm_request::AlarmAction;
use netsy_api::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse, StatusRequest,
    StatusResponse,
};
use netsy_api::ids::{NodeId, Revision};
use netsy_api::log::AlarmKind;
use netsy_mvcc::{Outcome, WriteRequest};

/// Status. Answered by this node alone, whatever the others do.
pub(super) async fn node_status(service: &Service, _: UnaryContext, _: StatusRequest) -> Result<Body, Status> {
    let status = service.node.status();
    let mut errors: Vec<String> = Vec::new();
    if status.leader_member_id == 0 {
        errors.push(no_leader().message.into_owned());
    }
    errors.extend(status.quorum_lost);
    errors.extend(status.alarms.iter().map(|(member, kind)| format!("memberID:{member} alarm:{}", alarm_name(*kind))));
    Ok(Body::of(&StatusResponse {
        header: Some(service.header()),
        version: versions::SERVER.to_owned(),
        db_size: status.db_size as i64,
        leader: status.leader_member_id,
        // etcd counts an entry for each election, too: so does netsy, whose terms begin with a seal (R4).
        raft_index: status.index.0 + status.term.0,
        raft_term: status.term.0,
        raft_applied_index: status.applied_index.0 + status.term.0,
        errors,
        db_size_in_use: status.db_size_in_use as i64,
        is_learner: service.node.is_learner(),
        storage_version: versions::STORAGE.to_owned(),
        db_size_quota: status.db_quota as i64,
        // Never absent in etcd.
        downgrade_info: Some(DowngradeInfo::default()),
    }))
}

/// Alarm: list, raise or clear.
pub(super) async fn alarm(service: &Service, cx: UnaryContext, request: AlarmRequest) -> Result<Body, Status> {
    let kind = AlarmKind::from_wire(request.alarm);
    let changed = match (AlarmAction::try_from(request.action), kind) {
        (Ok(AlarmAction::Get), _) => {
            until(cx.deadline, timed_out, service.node.read_index()).await?.map_err(status)?;
            let wanted = |found: AlarmKind| request.alarm == AlarmType::None as i32 || Some(found) == kind;
            service.node.status().alarms.into_iter().filter(|(_, found)| wanted(*found)).collect()
        }
        (Ok(action), Some(alarm)) => {
            let active = action == AlarmAction::Activate;
            let change = WriteRequest::Alarm { member_id: request.member_id, alarm, active };
            let written = write(service, &cx, RequestType::Alarm, change).await?;
            let Outcome::Alarm(changed) = written.outcome else { return Err(wrong_outcome("alarm")) };
            changed
        }
        // No such action or alarm: nothing to change, as etcd sees it.
        _ => Vec::new(),
    };
    Ok(Body::of(&AlarmResponse {
        header: Some(service.header()),
        alarms: changed.into_iter().map(|(member_id, kind)| AlarmMember { member_id, alarm: kind as i32 }).collect(),
    }))
}

/// MoveLeader: a planned hand-over. Only the Primary does it, as in etcd; its answer has no header.
pub(super) async fn move_leader(
    service: &Service,
    cx: UnaryContext,
    request: MoveLeaderRequest,
) -> Result<Body, Status> {
    let node = &service.node;
    if !node.is_primary() {
        return Err(Status::new(Code::FailedPrecondition, "etcdserver: not leader"));
    }
    if request.target_id != node.identity().member_id() {
        let target = node.member(request.target_id).await.filter(|member| !member.learner);
        let name = target.and_then(|member| NodeId::new(member.name).ok());
        let Some(name) = name else {
            return Err(Status::new(Code::FailedPrecondition, "etcdserver: bad leader transferee"));
        };
        let late = || Status::new(Code::Unknown, "etcdserver: request timed out, leader transfer took too long");
        let moved = until(cx.deadline, late, node.move_primary(Some(name))).await?;
        moved.map_err(|why| Status::new(Code::Unavailable, format!("netsy: the Primary stays: {why}")))?;
    }
    Ok(Body::of(&MoveLeaderResponse { header: None }))
}

/// Defragment. Has no header in etcd; never stops other calls here.
pub(super) async fn defragment(service: &Service, _: UnaryContext, _: DefragmentRequest) -> Result<Body, Status> {
    service.node.defragment().await.map_err(status)?;
    Ok(Body::of(&DefragmentResponse { header: None }))
}

/// Hash.
pub(super) async fn hash(service: &Service, _: UnaryContext, _: HashRequest) -> Result<Body, Status> {
    let hash = service.node.hash().await.map_err(status)?;
    Ok(Body::of(&HashResponse { header: Some(service.header()), hash }))
}

/// HashKV.
pub(super) async fn hash_kv(service: &Service, _: UnaryContext, request: HashKvRequest) -> Result<Body, Status> {
    let found = service.node.hash_kv(Revision(request.revision)).await.map_err(status)?;
    Ok(Body::of(&HashKvResponse {
        header: Some(service.header()),
        hash: found.hash,
        compact_revision: found.compact_revision.0,
        hash_revision: found.hash_revision.0,
    }))
}

/// The alarm's name on the wire.
pub(crate) fn alarm_name(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}
