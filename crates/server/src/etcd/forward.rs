//! Requests that only the Primary decides: run here if this node is it, passed on to it otherwise.
//!
//! What was sent on is never sent again; what was not may be, until the client's time is over.

use super::deep_txn::decode_txn;
use super::errors::{no_leader, timed_out};
use super::permit::permit;
use super::{Service, cluster, keep_alive, kv, lease, maintenance, operator};
use crate::grpc::call::{UnaryContext, until};
use crate::grpc::reply::{Body, put_prefix};
use crate::grpc::rpc::Rpc;
use crate::grpc::status::{Code, Status};
use crate::grpc::streaming::{decode, server_stopped};
use crate::metrics::{RequestType, Timing};
use crate::transport::shared::{Client, ConnShared};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use netsy_api::etcdserverpb::alarm_request::AlarmAction;
use netsy_api::etcdserverpb::{AlarmRequest, ResponseHeader};
use netsy_api::ids::{NodeId, Revision};
use netsy_api::peer::{CallStatus, NotRun, not_run};
use netsy_node::Forwarded;
use netsy_node::metrics::Proposal;
use netsy_peer::{CallError, ForwardReply, ForwardRequest, Identity, Outcome, Remote, Unanswered};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pause before a Primary that could not be reached is tried again, unless another is known sooner.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// Pause before a node that is about to end looks again whether there is a Primary to ask.
const DRAIN_PAUSE: Duration = Duration::from_millis(50);
/// Tag of field 1 with a length: the header of every response.
const HEADER_TAG: u8 = 0x0a;

/// Answers a request that the Primary decides; some of these can be answered by any node after all.
pub(super) async fn decide(service: &Service, cx: UnaryContext, rpc: Rpc, body: Bytes) -> Result<Body, Status> {
    match rpc {
        Rpc::Txn if !service.node.is_primary() => {
            let request = decode_txn(body.clone())?;
            if netsy_mvcc::is_read_only(&request) {
                return kv::txn(service, cx, request).await;
            }
        }
        Rpc::Alarm => {
            let request: AlarmRequest = decode(body.clone())?;
            if request.action == AlarmAction::Get as i32 {
                return maintenance::alarm(service, cx, request).await;
            }
        }
        _ => {}
    }
    let mut before: Option<NodeId> = None;
    let mut asked: Option<Asked<'_>> = None;
    let mut drain = service.drain.clone();
    loop {
        if service.node.is_primary() {
            // Counts by itself.
            asked.take().into_iter().for_each(Asked::forget);
            match run(service, cx.clone(), rpc, body.clone()).await {
                Err(status) if is_not_primary(&status) => {}
                outcome => return outcome,
            }
        } else if let Some(primary) = service.node.other_primary() {
            asked = asked.or_else(|| Asked::begin(service, &cx, rpc));
            match pass_on(service, &cx, rpc, body.clone(), &primary).await {
                Passed::Answered(outcome) => {
                    if let Some(asked) = asked {
                        asked.answered(&outcome);
                    }
                    return outcome;
                }
                Passed::NotSent => before = Some(primary),
            }
        } else {
            before = None;
        }
        asked = asked.or_else(|| Asked::begin(service, &cx, rpc));
        if cx.require_leader && !service.has_leader() {
            return Err(no_leader());
        }
        if Instant::now() >= cx.deadline {
            return Err(timed_out());
        }
        // Nobody to pass it on to any more, and this node is about to end: better told now than later.
        let draining = *drain.borrow_and_update();
        if draining && service.node.other_primary().is_none() && service.node.is_over() {
            return Err(server_stopped());
        }
        // Another one may be known before it is tried again.
        let pause = match (service.has_leader(), draining) {
            (true, _) => RETRY_PAUSE,
            (false, true) => DRAIN_PAUSE,
            (false, false) => cx.deadline - Instant::now(),
        };
        tokio::select! {
            () = service.node.leader_changed(&before) => {}
            () = tokio::time::sleep(pause) => {}
            // The sender lives as long as the server.
            _ = drain.changed() => {}
        }
    }
}

/// A write that another node is to do, as it is counted. One that is dropped has failed.
struct Asked<'a> {
    proposal: Proposal<'a>,
    timing: Timing<'a>,
}

impl<'a> Asked<'a> {
    /// `None`: it is no write.
    fn begin(service: &'a Service, cx: &UnaryContext, rpc: Rpc) -> Option<Self> {
        let what = RequestType::of_write(rpc)?;
        let timing = service.metrics.request(what, cx.started);
        Some(Self { proposal: service.node.metrics().proposal(), timing })
    }

    /// It is done here after all.
    fn forget(self) {
        self.proposal.answered();
        self.timing.forget();
    }

    fn answered(self, outcome: &Result<Body, Status>) {
        let failed = |status: &Status| {
            matches!(status.code, Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Internal)
        };
        if !outcome.as_ref().is_err_and(failed) {
            self.proposal.answered();
            self.timing.ended(true);
        }
    }
}

/// Runs a request on this node, which is the Primary, or says that it is not.
async fn run(service: &Service, cx: UnaryContext, rpc: Rpc, body: Bytes) -> Result<Body, Status> {
    match rpc {
        Rpc::Put => kv::put(service, cx, decode(body)?).await,
        Rpc::DeleteRange => kv::delete_range(service, cx, decode(body)?).await,
        Rpc::Txn => kv::txn(service, cx, decode_txn(body)?).await,
        Rpc::Compact => kv::compact(service, cx, decode(body)?).await,
        Rpc::LeaseGrant => lease::grant(service, cx, decode(body)?).await,
        Rpc::LeaseRevoke => lease::revoke(service, cx, decode(body)?).await,
        Rpc::LeaseTimeToLive => lease::time_to_live(service, cx, decode(body)?).await,
        Rpc::LeaseKeepAlive => keep_alive::renew(service, cx, decode(body)?).await,
        Rpc::Alarm => maintenance::alarm(service, cx, decode(body)?).await,
        // Seldom, and long: not part of every call's future.
        Rpc::MemberRemove => Box::pin(cluster::member_remove(service, cx, decode(body)?)).await,
        Rpc::MemberUpdate => Box::pin(cluster::member_update(service, cx, decode(body)?)).await,
        Rpc::MemberPromote => Box::pin(cluster::member_promote(service, cx, decode(body)?)).await,
        Rpc::OperatorMovePrimary => Box::pin(operator::move_primary(service, cx, decode(body)?)).await,
        Rpc::OperatorSetCluster => Box::pin(operator::set_cluster(service, cx, decode(body)?)).await,
        Rpc::OperatorRemoveNode => Box::pin(operator::remove_node(service, cx, decode(body)?)).await,
        other => Err(Status::unimplemented(format!("{} is not passed on", other.method()))),
    }
}

enum Passed {
    Answered(Result<Body, Status>),
    /// Nothing was done.
    NotSent,
}

async fn pass_on(service: &Service, cx: &UnaryContext, rpc: Rpc, body: Bytes, primary: &NodeId) -> Passed {
    let request = ForwardRequest {
        path: format!("/{}/{}", rpc.service(), rpc.method()),
        body,
        deadline: cx.deadline,
        client: cx.shared.client(),
        require_leader: cx.require_leader,
        token: String::new(),
    };
    match service.node.forward(primary, request).await {
        Ok(Outcome::Answer(answer)) => Passed::Answered(own(service, cx, rpc, answer).await),
        Ok(Outcome::Status(status)) => {
            let code = i32::try_from(status.code).map_or(Code::Unknown, Code::from_i32);
            Passed::Answered(Err(Status::new(code, status.message)))
        }
        Err(CallError::NotSent(reason)) => {
            tracing::debug!(%primary, %reason, "a request was not passed on");
            Passed::NotSent
        }
        Err(CallError::Unknown(Unanswered::Deadline)) => Passed::Answered(Err(timed_out())),
        Err(CallError::Unknown(reason)) => {
            tracing::debug!(%primary, %reason, "a request that was passed on has no answer");
            // It may have happened: the text by which etcd says so.
            let text = "etcdserver: request timed out, possibly due to connection lost";
            Passed::Answered(Err(Status::new(Code::Unavailable, text)))
        }
    }
}

/// Makes the Primary's answer this node's: its member id stands in the header, and what is read here afterwards is not
/// older.
async fn own(service: &Service, cx: &UnaryContext, rpc: Rpc, answer: Bytes) -> Result<Body, Status> {
    let (message, revision) = match rpc {
        // Have no header.
        Rpc::OperatorMovePrimary | Rpc::OperatorSetCluster | Rpc::OperatorRemoveNode => (answer, None),
        _ => with_member_id(answer, service.node.identity().member_id())?,
    };
    if let Some(revision) = revision {
        // It is done: a node that is far behind is no reason to say otherwise.
        let _ = until(cx.deadline, timed_out, service.node.wait_revision(revision)).await;
    }
    let mut framed = BytesMut::with_capacity(message.len() + crate::grpc::message::PREFIX_BYTES);
    put_prefix(&mut framed, message.len());
    framed.extend_from_slice(&message);
    Ok(Body::Whole(framed.freeze()))
}

/// Puts `member_id` into the header of an encoded response; gives the header's revision. One without a header stays as
/// it is.
fn with_member_id(answer: Bytes, member_id: u64) -> Result<(Bytes, Option<Revision>), Status> {
    if answer.first() != Some(&HEADER_TAG) {
        return Ok((answer, None));
    }
    let bad = |e: prost::DecodeError| Status::internal(format!("netsy: the Primary's answer cannot be read: {e}"));
    let mut rest = answer.slice(1..);
    let length = prost::encoding::decode_varint(&mut rest).map_err(bad)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
    let Some(length) = length else {
        return Err(Status::internal("netsy: the Primary's answer is cut off"));
    };
    let mut header = ResponseHeader::decode(rest.split_to(length)).map_err(bad)?;
    header.member_id = member_id;
    let revision = (header.revision > 0).then_some(Revision(header.revision));
    let mut out = BytesMut::with_capacity(answer.len() + 16);
    out.put_u8(HEADER_TAG);
    prost::encoding::encode_varint(header.encoded_len() as u64, &mut out);
    header.encode_raw(&mut out);
    out.put(rest);
    Ok((out.freeze(), revision))
}

/// What a handler says where this node is not the Primary and nothing was done.
const NOT_PRIMARY: &str = "etcdserver: no leader (this node is not the Primary)";

/// Nothing was done, as this node is not the Primary.
pub(super) fn not_primary() -> Status {
    Status::new(Code::Unavailable, NOT_PRIMARY)
}

fn is_not_primary(status: &Status) -> bool {
    status.message == NOT_PRIMARY
}

/// Runs what other nodes pass on.
pub(crate) struct FromPeers {
    pub(crate) service: Arc<Service>,
}

impl Forwarded for FromPeers {
    fn run(&self, from: Arc<Remote>, request: ForwardRequest) -> BoxFuture<'static, ForwardReply> {
        let service = self.service.clone();
        async move {
            let Some(rpc) = Rpc::of_path(&request.path) else {
                let status = Status::unimplemented(format!("{} is not served by netsy", request.path));
                return ForwardReply::Status(call_status(&status));
            };
            let cluster = &service.node.identity().cluster_name;
            let identity = match client_of(rpc, &request.client, service.identities, cluster) {
                Ok(identity) => identity,
                Err(status) => return ForwardReply::Status(call_status(&status)),
            };
            let client = Client { addr: from.addr, identity };
            let cx = UnaryContext {
                started: Instant::now(),
                passed_on: true,
                deadline: request.deadline,
                request_bytes: request.body.len(),
                require_leader: request.require_leader,
                shared: ConnShared::new(client, service.drain.clone()),
            };
            match run(&service, cx, rpc, request.body).await {
                Ok(body) => ForwardReply::Answer(unframed(body)),
                Err(status) if is_not_primary(&status) => ForwardReply::NotRun(NotRun {
                    reason: not_run::Reason::NotPrimary as i32,
                    primary: service.node.other_primary().map(|p| p.as_str().to_owned()).unwrap_or_default(),
                    term: service.node.term().0,
                }),
                Err(status) => ForwardReply::Status(call_status(&status)),
            }
        }
        .boxed()
    }
}

/// Who asked the node that passed the request on. What holds for those who connect here holds for them, too: where
/// clients show certificates, a request of nobody, of another cluster's client, or for what a client may not have done,
/// is not run.
fn client_of(rpc: Rpc, text: &str, identities: bool, cluster: &str) -> Result<Option<Arc<Identity>>, Status> {
    let refused = |why: String| Status::new(Code::PermissionDenied, format!("netsy: a request was passed on {why}"));
    if text.is_empty() {
        return if identities { Err(refused("without its client's identity".to_owned())) } else { Ok(None) };
    }
    let identity: Identity = text.parse().map_err(|e| refused(format!("for somebody unknown: {e}")))?;
    if identity.cluster_id != cluster {
        return Err(refused(format!("for {identity}, who is of another cluster than {cluster}")));
    }
    permit(rpc, Some(&identity))?;
    Ok(Some(Arc::new(identity)))
}

fn call_status(status: &Status) -> CallStatus {
    CallStatus { code: status.code as u32, message: status.message.clone().into_owned(), ..CallStatus::default() }
}

/// The message without the prefix that gRPC puts before it.
fn unframed(body: Body) -> Bytes {
    let mut bytes = body.whole();
    bytes.advance(crate::grpc::message::PREFIX_BYTES.min(bytes.len()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_api::etcdserverpb::PutResponse;

    #[test]
    fn a_request_is_passed_on_in_the_name_of_a_client_of_this_cluster() {
        let of = |rpc, text: &str, identities| client_of(rpc, text, identities, "prod");
        let asked = |text: &str, identities| of(Rpc::Put, text, identities).map(|found| found.map(|i| i.to_string()));
        let known = "netsy://prod/client/app";
        assert_eq!(asked(known, true), Ok(Some(known.to_owned())));
        assert_eq!(asked("netsy://prod/peer/n2", true), Ok(Some("netsy://prod/peer/n2".to_owned())));
        assert_eq!(asked("", false), Ok(None));
        for (text, identities) in [("", true), ("netsy://other/client/app", true), ("app", true), ("app", false)] {
            let status = asked(text, identities).expect_err("refused");
            assert_eq!(status.code, Code::PermissionDenied, "{text}: {status}");
        }
        // Whatever the node that passed it on let through.
        let refused = of(Rpc::OperatorSetCluster, known, true).expect_err("no operator");
        assert!(refused.code == Code::PermissionDenied && refused.message.contains(known), "{refused}");
        assert!(of(Rpc::OperatorSetCluster, "netsy://prod/operator/alice", true).is_ok());
    }

    #[test]
    fn the_header_of_a_passed_on_answer_is_this_nodes() {
        let header = ResponseHeader { cluster_id: 1, member_id: 2, revision: 300, raft_term: 4 };
        let prev_kv = Some(netsy_api::mvccpb::KeyValue { key: "k".into(), ..Default::default() });
        let answer = PutResponse { header: Some(header), prev_kv };
        let (patched, revision) = with_member_id(answer.encode_to_vec().into(), u64::MAX).expect("an answer");
        assert_eq!(revision, Some(Revision(300)));
        let mut expected = answer;
        expected.header.as_mut().expect("a header").member_id = u64::MAX;
        assert_eq!(PutResponse::decode(patched), Ok(expected));
        let bare = Bytes::from_static(&[0x12, 0]);
        assert_eq!(with_member_id(bare.clone(), 1), Ok((bare, None)));
        assert!(with_member_id(Bytes::from_static(&[HEADER_TAG, 9, 1]), 1).is_err());
    }
}
