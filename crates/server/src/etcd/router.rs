//! Which handler a request goes to.

use super::{Service, cluster, forward, health, keep_alive, kv, lease, maintenance, operator, permit, range_stream};
use crate::grpc::call::{Call, streaming, unary, unary_of};
use crate::grpc::deadline::timeout_of;
use crate::grpc::gunzip::{ENCODINGS, is_gzip};
use crate::grpc::reply::{Responder, response_head};
use crate::grpc::rpc::Rpc;
use crate::grpc::status::Status;
use crate::transport::{Incoming, Routes, Work};
use crate::web;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use std::sync::Arc;

impl Routes for Service {
    fn start(self: &Arc<Self>, incoming: Incoming) -> Work {
        if !is_grpc(&incoming) {
            return plain(self.clone(), incoming);
        }
        // In the order in which grpc-go finds fault.
        let timeout = match timeout_of(&incoming.head.headers) {
            Ok(timeout) => timeout,
            Err(status) => return refuse_as(incoming, StatusCode::BAD_REQUEST, &status),
        };
        let Some(rpc) = Rpc::of_path(incoming.head.uri.path()) else {
            return refuse(incoming);
        };
        let gzip = match is_gzip(&incoming.head.headers) {
            Ok(gzip) => gzip,
            Err(status) => return refuse_encoding(incoming, &status),
        };
        // Before anything is passed on or waited for.
        if let Err(status) = permit::permit(rpc, incoming.shared.identity.as_deref()) {
            return refuse_with(incoming, &status);
        }
        let call = Call { incoming, timeout, gzip };
        let site = self.clone();
        match rpc {
            Rpc::Range => Work::Here(unary(site, call, rpc, kv::range).boxed()),
            Rpc::Put
            | Rpc::Txn
            | Rpc::DeleteRange
            | Rpc::Compact
            | Rpc::LeaseGrant
            | Rpc::LeaseRevoke
            | Rpc::LeaseTimeToLive
            | Rpc::Alarm
            | Rpc::MemberRemove
            | Rpc::MemberUpdate
            | Rpc::MemberPromote
            | Rpc::OperatorMovePrimary
            | Rpc::OperatorSetCluster
            | Rpc::OperatorRemoveNode => {
                let decide = async move |service: &Service, cx, body| forward::decide(service, cx, rpc, body).await;
                Work::Queued(unary_of(site, call, rpc, Ok, decide).boxed())
            }
            Rpc::RangeStream => Work::Queued(streaming(site, call, rpc, range_stream::range_stream).boxed()),
            Rpc::Watch => Work::Queued(streaming(site, call, rpc, crate::watch::watch).boxed()),
            Rpc::LeaseLeases => Work::Here(unary(site, call, rpc, lease::leases).boxed()),
            Rpc::LeaseKeepAlive => Work::Queued(streaming(site, call, rpc, keep_alive::keep_alive).boxed()),
            Rpc::MemberList => Work::Here(unary(site, call, rpc, cluster::member_list).boxed()),
            Rpc::Status => Work::Here(unary(site, call, rpc, maintenance::node_status).boxed()),
            Rpc::Defragment => Work::Queued(unary(site, call, rpc, maintenance::defragment).boxed()),
            Rpc::Hash => Work::Queued(unary(site, call, rpc, maintenance::hash).boxed()),
            Rpc::HashKv => Work::Queued(unary(site, call, rpc, maintenance::hash_kv).boxed()),
            Rpc::HealthCheck => Work::Here(unary(site, call, rpc, health::check).boxed()),
            Rpc::HealthWatch => Work::Queued(streaming(site, call, rpc, health::watch).boxed()),
            Rpc::MemberAdd => refuse_with(call.incoming, &cluster::member_add()),
            Rpc::Snapshot | Rpc::Downgrade => refuse(call.incoming),
            Rpc::OperatorCluster => Work::Queued(unary(site, call, rpc, operator::cluster).boxed()),
            Rpc::OperatorRecover => Work::Queued(unary(site, call, rpc, operator::recover).boxed()),
            Rpc::MoveLeader => Work::Queued(unary(site, call, rpc, maintenance::move_leader).boxed()),
        }
    }

    fn http(self: Arc<Self>, request: Request<()>) -> BoxFuture<'static, Response<Bytes>> {
        web::client_port(self, request).boxed()
    }
}

fn is_grpc(incoming: &Incoming) -> bool {
    let content_type = incoming.head.headers.get(http::header::CONTENT_TYPE).map(|value| value.as_bytes());
    // Parameters and the subtype of the encoding may follow; other protocols have names of their own.
    let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
    incoming.head.method == Method::POST && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// A plain HTTP request over HTTP/2.
fn plain(service: Arc<Service>, incoming: Incoming) -> Work {
    Work::Here(
        async move {
            let Incoming { head, send, shared, .. } = incoming;
            let response = web::client_port(service, Request::from_parts(head, ())).await;
            Responder { send, shared }.finish_http(response).await;
        }
        .boxed(),
    )
}

/// A procedure that is not served: the code by which clients know to do without.
fn refuse(incoming: Incoming) -> Work {
    let path = incoming.head.uri.path();
    let known = path.trim_start_matches('/').split_once('/').filter(|(service, _)| SERVICES.contains(service));
    let message = match known {
        Some((service, method)) => format!("unknown method {method} for service {service}: not served by netsy"),
        None => format!("unknown service in {path}: not served by netsy"),
    };
    refuse_with(incoming, &Status::unimplemented(message))
}

fn refuse_with(incoming: Incoming, status: &Status) -> Work {
    refuse_as(incoming, StatusCode::OK, status)
}

/// The same as another answer of HTTP.
fn refuse_as(incoming: Incoming, http: StatusCode, status: &Status) -> Work {
    let mut head = response_head();
    *head.status_mut() = http;
    refuse_under(incoming, head, status)
}

/// A compression that is not known here: the answer names those that are.
fn refuse_encoding(incoming: Incoming, status: &Status) -> Work {
    let mut head = response_head();
    head.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static(ENCODINGS));
    refuse_under(incoming, head, status)
}

fn refuse_under(incoming: Incoming, head: Response<()>, status: &Status) -> Work {
    let Incoming { send, shared, .. } = incoming;
    Responder { send, shared }.refuse_under(head, status);
    Work::Here(std::future::ready(()).boxed())
}

const SERVICES: [&str; 7] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "netsy.operator.Operator",
    "grpc.health.v1.Health",
];
