//! netsy.operator.Operator: what operators ask for beside etcd's API.

use super::errors::timed_out;
use super::{Service, cluster as members};
use crate::grpc::call::{UnaryContext, until};
use crate::grpc::reply::Body;
use crate::grpc::status::{Code, Status};
use netsy_api::ids::NodeId;
use netsy_api::operator as wire;

/// The cluster as this node sees it.
pub(super) async fn cluster(service: &Service, cx: UnaryContext, _: wire::ClusterRequest) -> Result<Body, Status> {
    view(service, &cx).await
}

async fn view(service: &Service, cx: &UnaryContext) -> Result<Body, Status> {
    let seen = until(cx.deadline, timed_out, service.node.cluster_view()).await?;
    Ok(Body::of(&encoded(seen)))
}

/// The Primary hands over.
pub(super) async fn move_primary(
    service: &Service,
    cx: UnaryContext,
    request: wire::MovePrimaryRequest,
) -> Result<Body, Status> {
    let to = match request.to.as_str() {
        "" => None,
        name => Some(node_id(name)?),
    };
    let late = || Status::new(Code::DeadlineExceeded, "netsy: the Primary did not move in time");
    let moved = until(cx.deadline, late, service.node.move_primary(to)).await?;
    moved.map_err(|why| declined(format!("the Primary stays: {why}")))?;
    view(service, &cx).await
}

/// What the manifest holds is changed (R10).
pub(super) async fn set_cluster(
    service: &Service,
    cx: UnaryContext,
    request: wire::SetClusterRequest,
) -> Result<Body, Status> {
    let copies_min = request.copies_min.map(|copies| usize::try_from(copies).unwrap_or(usize::MAX));
    let late = || Status::new(Code::DeadlineExceeded, "netsy: the change is not done yet: it may be in a moment");
    let set = until(cx.deadline, late, service.node.set_cluster(request.quorum, copies_min)).await?;
    set.map_err(declined)?;
    view(service, &cx).await
}

/// A node that is not running is taken out.
pub(super) async fn remove_node(
    service: &Service,
    cx: UnaryContext,
    request: wire::RemoveNodeRequest,
) -> Result<Body, Status> {
    members::remove(service, &cx, request.node_id).await?;
    view(service, &cx).await
}

/// R12: says what would be lost, or goes on without the voters that are named. Takes its time, whatever the server's
/// own deadline: who asks can break it off.
pub(super) async fn recover(service: &Service, _: UnaryContext, request: wire::RecoverRequest) -> Result<Body, Status> {
    let lost = request.lost.iter().map(|name| node_id(name)).collect::<Result<Vec<_>, _>>()?;
    let answer = if request.confirm.is_empty() {
        let plan = service.node.plan_recovery(&lost).await.map_err(declined)?;
        wire::RecoverResponse {
            view: Some(encoded(plan.view)),
            object_log: Some(end(plan.object_log)),
            confirm: plan.confirm,
        }
    } else {
        let seen = service.node.recover(lost, &request.confirm).await.map_err(declined)?;
        wire::RecoverResponse { view: Some(encoded(seen)), object_log: None, confirm: String::new() }
    };
    Ok(Body::of(&answer))
}

fn node_id(name: &str) -> Result<NodeId, Status> {
    NodeId::new(name).map_err(|e| Status::new(Code::InvalidArgument, format!("netsy: {e}")))
}

fn declined(why: String) -> Status {
    Status::new(Code::FailedPrecondition, format!("netsy: {why}"))
}

fn end(end: netsy_node::LogEnd) -> wire::LogEnd {
    wire::LogEnd {
        index: end.index.0,
        revision: end.revision.map_or(0, |revision| revision.0),
        time_ms: end.time.map_or(0, |time| time.0),
    }
}

fn encoded(view: netsy_node::ClusterView) -> wire::ClusterView {
    let name = |node: Option<NodeId>| node.map(|node| node.as_str().to_owned()).unwrap_or_default();
    let nodes = view.nodes.into_iter().map(|node| wire::NodeView {
        node_id: node.node_id.as_str().to_owned(),
        member_id: node.member_id,
        client_urls: node.client_urls,
        peer_urls: node.peer_urls,
        version: node.version,
        database: node.database.map(|database| database.to_string()).unwrap_or_default(),
        voting_database: node.votes_with.map(|database| database.to_string()).unwrap_or_default(),
        kept_database: node.kept.map(|database| database.to_string()).unwrap_or_default(),
        answers: node.answers,
        stopped: node.stopped,
        log_end: node.log_end.map(|index| index.0),
    });
    wire::ClusterView {
        cluster_id: view.cluster_id,
        seen_by: view.seen_by.as_str().to_owned(),
        term: view.term.0,
        primary: name(view.primary),
        elector: name(view.elector),
        quorum: view.quorum,
        copies_min: u32::try_from(view.copies_min).unwrap_or(u32::MAX),
        survives: view.survives,
        quorum_lost: view.quorum_lost.unwrap_or_default(),
        nodes: nodes.collect(),
        recovered: view.recovered.map(|r| wire::Recovered { term: r.term.0, kept: Some(end(r.kept)) }),
        store: view.store,
        own_log: Some(end(view.own_log)),
    }
}
