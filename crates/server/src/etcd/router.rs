//! Which handler a request goes to.

use super::{Service, cluster, forward, health, keep_alive, kv, lease, maintenance, operator, range_stream};
use crate::grpc::call::{streaming, unary, unary_of};
use crate::grpc::reply::Responder;
use crate::grpc::rpc::Rpc;
use crate::grpc::status::Status;
use crate::transport::{Incoming, Routes, Work};
use crate::web;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use std::sync::Arc;

impl Routes for Service {
    fn start(self: &Arc<Self>, incoming: Incoming) -> Work {
        if !is_grpc(&incoming) {
            return plain(self.clone(), incoming);
        }
        let Some(rpc) = Rpc::of_path(incoming.head.uri.path()) else {
            return refuse(incoming);
        };
        let site = self.clone();
        match rpc {
            Rpc::Range => Work::Here(unary(site, incoming, rpc, kv::range).boxed()),
            Rpc::Put
            | Rpc::Txn
            | Rpc::DeleteRange
            | Rpc::Compact
            | Rpc::LeaseGrant
            | Rpc::LeaseRevoke
            | Rpc::LeaseTimeToLive
            | Rpc::Alarm
            | Rpc::MemberRemove
            | Rpc::MemberPromote
            | Rpc::OperatorMovePrimary
            | Rpc::OperatorSetCluster
            | Rpc::OperatorRemoveNode => {
                let decide = async move |service: &Service, cx, body| forward::decide(service, cx, rpc, body).await;
                Work::Queued(unary_of(site, incoming, rpc, Ok, decide).boxed())
            }
            Rpc::RangeStream => Work::Queued(streaming(site, incoming, rpc, range_stream::range_stream).boxed()),
            Rpc::Watch => Work::Queued(streaming(site, incoming, rpc, crate::watch::watch).boxed()),
            Rpc::LeaseLeases => Work::Here(unary(site, incoming, rpc, lease::leases).boxed()),
            Rpc::LeaseKeepAlive => Work::Queued(streaming(site, incoming, rpc, keep_alive::keep_alive).boxed()),
            Rpc::MemberList => Work::Here(unary(site, incoming, rpc, cluster::member_list).boxed()),
            Rpc::Status => Work::Here(unary(site, incoming, rpc, maintenance::node_status).boxed()),
            Rpc::Defragment => Work::Queued(unary(site, incoming, rpc, maintenance::defragment).boxed()),
            Rpc::Hash => Work::Queued(unary(site, incoming, rpc, maintenance::hash).boxed()),
            Rpc::HashKv => Work::Queued(unary(site, incoming, rpc, maintenance::hash_kv).boxed()),
            Rpc::HealthCheck => Work::Here(unary(site, incoming, rpc, health::check).boxed()),
            Rpc::HealthWatch => Work::Queued(streaming(site, incoming, rpc, health::watch).boxed()),
            Rpc::MemberAdd | Rpc::MemberUpdate => refuse_with(incoming, &cluster::by_itself(rpc)),
            Rpc::Snapshot | Rpc::Downgrade => refuse(incoming),
            Rpc::OperatorCluster => Work::Queued(unary(site, incoming, rpc, operator::cluster).boxed()),
            Rpc::OperatorRecover => Work::Queued(unary(site, incoming, rpc, operator::recover).boxed()),
            Rpc::MoveLeader => Work::Queued(unary(site, incoming, rpc, maintenance::move_leader).boxed()),
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
    let Incoming { send, shared, .. } = incoming;
    Responder { send, shared }.refuse(status);
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
