//! etcdserverpb.KV: keys, transactions, compaction.

use super::encode::range_response;
use super::errors::{status, timed_out, wrong_outcome};
use super::kv_messages::{key_value, key_values, txn_message};
use super::{Service, apart};
use crate::grpc::call::{UnaryContext, until};
use crate::grpc::reply::Body;
use crate::grpc::status::Status;
use crate::metrics::RequestType;
use futures::FutureExt;
use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RequestOp, TxnRequest,
};
use netsy_api::ids::Revision;
use netsy_mvcc::{Outcome, WriteRequest};
use netsy_node::{NodeError, Unavailable, Written};
use std::future::Future;

/// A range that may look at more keys than this runs apart, so that it holds nobody up.
const KEYS_HERE_MAX: i64 = 64;

/// Range.
pub(super) async fn range(service: &Service, cx: UnaryContext, request: RangeRequest) -> Result<Body, Status> {
    let timing = service.metrics.request(RequestType::Range, cx.started);
    let node = service.node.clone();
    let (result, slot) = if may_take_long(&request) {
        let work = async move { node.range(&request).await.map_err(status) };
        until(cx.deadline, timed_out, apart(&cx.shared, work).boxed()).await??
    } else {
        (until(cx.deadline, timed_out, node.range(&request)).await?.map_err(status)?, None)
    };
    timing.ended(true);
    let header = service.header_at(result.header_revision, service.node.term());
    range_response(header, result, slot)
}

/// Put.
pub(super) async fn put(service: &Service, cx: UnaryContext, request: PutRequest) -> Result<Body, Status> {
    let written = write(service, &cx, RequestType::Put, WriteRequest::Put(request)).await?;
    let Outcome::Put { prev } = written.outcome else { return Err(wrong_outcome("put")) };
    Ok(Body::of(&PutResponse {
        header: Some(service.header_at(written.revision, written.term)),
        prev_kv: prev.as_ref().map(key_value),
    }))
}

/// DeleteRange.
pub(super) async fn delete_range(
    service: &Service,
    cx: UnaryContext,
    request: DeleteRangeRequest,
) -> Result<Body, Status> {
    let written = write(service, &cx, RequestType::DeleteRange, WriteRequest::DeleteRange(request)).await?;
    let Outcome::DeleteRange { deleted, prevs } = written.outcome else { return Err(wrong_outcome("delete")) };
    Ok(Body::of(&DeleteRangeResponse {
        header: Some(service.header_at(written.revision, written.term)),
        deleted,
        prev_kvs: key_values(&prevs),
    }))
}

/// Txn. One that only reads is answered like a range, without a write.
pub(super) async fn txn(service: &Service, cx: UnaryContext, request: TxnRequest) -> Result<Body, Status> {
    if netsy_mvcc::is_read_only(&request) {
        let timing = service.metrics.request(RequestType::ReadonlyTxn, cx.started);
        let node = service.node.clone();
        let ((result, revision), slot) = if has_long_range(&request) {
            let work = async move { node.read_txn(&request).await.map_err(status) };
            until(cx.deadline, timed_out, apart(&cx.shared, work).boxed()).await??
        } else {
            (until(cx.deadline, timed_out, node.read_txn(&request)).await?.map_err(status)?, None)
        };
        timing.ended(true);
        let header = service.header_at(revision, service.node.term());
        return Ok(Body::holding(&txn_message(header, &result), slot));
    }
    let written = write(service, &cx, RequestType::Txn, WriteRequest::Txn(request)).await?;
    let Outcome::Txn(result) = written.outcome else { return Err(wrong_outcome("transaction")) };
    Ok(Body::of(&txn_message(service.header_at(written.revision, written.term), &result)))
}

/// Compact.
pub(super) async fn compact(service: &Service, cx: UnaryContext, request: CompactionRequest) -> Result<Body, Status> {
    let revision = Revision(request.revision);
    let written = write(service, &cx, RequestType::Compaction, WriteRequest::Compact { revision }).await?;
    if request.physical {
        // Takes as long as it takes: etcd sets no limit either.
        service.node.compact_wait(revision).await.map_err(status)?;
    }
    Ok(Body::of(&CompactionResponse { header: Some(service.header_at(written.revision, written.term)) }))
}

/// Sends a write to the node and waits until it is committed.
pub(super) async fn write(
    service: &Service,
    cx: &UnaryContext,
    what: RequestType,
    request: WriteRequest,
) -> Result<Written, Status> {
    service.check_size(cx.request_bytes)?;
    written(service, cx, what, service.node.write(request)).await
}

/// Waits until a write is committed, and counts it.
pub(super) async fn written(
    service: &Service,
    cx: &UnaryContext,
    what: RequestType,
    write: impl Future<Output = Result<Written, NodeError>>,
) -> Result<Written, Status> {
    let timing = (!cx.passed_on).then(|| service.metrics.request(what, cx.started));
    let result = until(cx.deadline, timed_out, write).await?;
    if let Some(timing) = timing {
        match &result {
            // As etcd counts: what the log took is no failure, whatever came of it.
            Ok(_) | Err(NodeError::Mvcc(_)) => timing.ended(true),
            // The Primary is asked instead.
            Err(NodeError::Unavailable(Unavailable::NotPrimary)) => timing.forget(),
            Err(_) => timing.ended(false),
        }
    }
    result.map_err(status)
}

/// Whether a range may look at many keys.
fn may_take_long(request: &RangeRequest) -> bool {
    let small =
        request.limit > 0 && request.limit <= KEYS_HERE_MAX && request.sort_order == 0 && request.sort_target == 0;
    !request.range_end.is_empty() && !small
}

fn has_long_range(request: &TxnRequest) -> bool {
    let long = |op: &RequestOp| matches!(&op.request, Some(Request::RequestRange(range)) if may_take_long(range));
    request.success.iter().any(long) || request.failure.iter().any(long)
}
