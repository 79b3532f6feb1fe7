//! etcdserverpb.KV/RangeStream: a range in slices, all of one revision (etcd 3.7; reference/etcd.md 1.2).

use super::Service;
use super::encode::kv_len;
use super::errors::{status, timed_out};
use super::kv_messages::range_message;
use crate::grpc::call::{no_message, until};
use crate::grpc::rpc::Rpc;
use crate::grpc::status::{Code, Status};
use crate::grpc::streaming::{CallContext, RequestStream, ResponseSink, server_stopped};
use netsy_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use netsy_api::etcdserverpb::{RangeRequest, RangeStreamResponse};
use netsy_mvcc::RangeResult;
use netsy_node::{NodeError, RangePages};
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

/// Keys in the first slice: enough to learn how large they are.
const FIRST_KEYS: usize = 10;
/// How long a stream goes on once a compaction has passed its revision: until then the rows it reads stay where they
/// are, and whoever waits for the physical compaction waits for the slowest client.
const COMPACTED_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether one has, while a client does not take what it asked for.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// The most keys in one slice.
const KEYS_MAX: usize = 100_000;

/// RangeStream.
pub(super) async fn range_stream(
    service: &Service,
    context: CallContext,
    mut requests: RequestStream<RangeRequest>,
    sink: &mut ResponseSink,
) -> Result<(), Status> {
    let mut request = requests.next().await?.ok_or_else(no_message)?;
    service.metrics.received(Rpc::RangeStream);
    check(&request)?;
    // Without an order what to order by does not count. etcd 3.7.3 sorts each slice by it, and loses keys at the slices'
    // ends where that is not the order of keys.
    request.sort_target = SortTarget::Key as i32;
    // Long answers of one connection are bounded; see `apart`.
    let _slot = context.shared.apart.clone().acquire_owned().await.ok();
    let deadline = Instant::now() + service.limits.request_timeout;
    let pages = service.node.range_pages(request, FIRST_KEYS);
    let mut pages = until(deadline, timed_out, pages).await?.map_err(status)?;
    let mut keys = FIRST_KEYS;
    let mut page = pages.next(keys).await.map_err(status)?;
    let mut compacted = None;
    while let Some(mut slice) = page {
        keys = next_keys(keys, &slice, service.request_bytes_max);
        page = pages.next(keys).await.map_err(status)?;
        let header = if page.is_some() {
            // Only the last message has what is told once.
            (slice.more, slice.count) = (false, 0);
            None
        } else {
            Some(service.header_at(slice.header_revision, service.node.term()))
        };
        let message = RangeStreamResponse { range_response: Some(range_message(header, &slice)) };
        let mut sending = pin!(sink.send(&message));
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => break sent?,
                () = context.draining() => return Err(server_stopped()),
                () = tokio::time::sleep(LOOK_PAUSE) => {}
            }
            give_up_if_compacted(&pages, &mut compacted)?;
        }
        give_up_if_compacted(&pages, &mut compacted)?;
        service.metrics.sent(Rpc::RangeStream);
    }
    Ok(())
}

/// `since`: when it was first seen that what is read is compacted.
fn give_up_if_compacted(pages: &RangePages, since: &mut Option<Instant>) -> Result<(), Status> {
    if !pages.is_compacted() {
        return Ok(());
    }
    let since = *since.get_or_insert_with(Instant::now);
    if since.elapsed() < COMPACTED_MAX { Ok(()) } else { Err(status(NodeError::Mvcc(netsy_mvcc::Error::Compacted))) }
}

fn check(request: &RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(Status::new(Code::InvalidArgument, "etcdserver: key is not provided"));
    }
    let plain = request.sort_order == SortOrder::None as i32
        || (request.sort_order == SortOrder::Ascend as i32 && request.sort_target == SortTarget::Key as i32);
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(Status::new(Code::InvalidArgument, "etcdserver: invalid sort option"));
    }
    if !plain {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    let filters =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if filters.iter().any(|&revision| revision != 0) {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
}

/// How many keys the slice after `slice` gets, so that slices come to have about `bytes_target`.
fn next_keys(keys: usize, slice: &RangeResult, bytes_target: usize) -> usize {
    let bytes: usize = slice.kvs.iter().map(kv_len).sum();
    if bytes * 2 < bytes_target {
        (keys * 2).min(KEYS_MAX)
    } else if bytes > bytes_target * 2 {
        (keys / 2).max(1)
    } else {
        keys
    }
}
