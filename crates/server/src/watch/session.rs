//! One watch stream: the client's requests to the hub, the hub's items to the client.

use super::encode::{Encoder, Recipient};
use super::gate::Gate;
use crate::etcd::no_leader;
use crate::grpc::message::cancelled;
use crate::grpc::status::Status;
use crate::grpc::streaming::{RequestStream, ResponseSink, server_stopped};
use bytes::{Bytes, BytesMut};
use netsy_api::etcdserverpb::watch_create_request::FilterType;
use netsy_api::etcdserverpb::watch_request::RequestUnion;
use netsy_api::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use netsy_api::ids::Revision;
use netsy_node::watch::{
    CreateError, Deliveries, Delivery, NewWatch, Replayed, RevisionEvents, StreamEnd, WatchItem, WatchStream,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Answers are made until they are this long, then sent.
const OUT_BYTES: usize = 64 << 10;
/// Items taken from the hub at a time, bytes.
const ITEMS_BYTES: usize = 128 << 10;
/// Events of several revisions for one watcher go into one answer up to this size and number of revisions.
const ANSWER_BYTES: usize = 256 << 10;
const ANSWER_REVISIONS_MAX: usize = 1000;

/// The state of one stream between polls.
pub(super) struct Session {
    stream: WatchStream,
    requests: RequestStream<WatchRequest>,
    requests_gate: Gate,
    /// Came while the client left answers lying.
    held: Option<WatchRequest>,
    /// The client has said all it wants to; the stream stays open for events.
    half_closed: bool,
    items: VecDeque<WatchItem>,
    /// Deliveries, or parts, of the first item that are done.
    done: usize,
    encoder: Encoder,
    out: BytesMut,
    /// Being sent.
    sending: Bytes,
    /// Messages since the last look.
    received: u64,
    sent: u64,
}

impl Session {
    pub(super) fn new(stream: WatchStream, requests: RequestStream<WatchRequest>, encoder: Encoder) -> Self {
        Self {
            stream,
            requests,
            requests_gate: Gate::new(),
            held: None,
            half_closed: false,
            items: VecDeque::new(),
            done: 0,
            encoder,
            out: BytesMut::new(),
            sending: Bytes::new(),
            received: 0,
            sent: 0,
        }
    }

    /// Messages received and made since the last call.
    pub(super) fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.received), std::mem::take(&mut self.sent))
    }

    /// Does what can be done now. Ready: the call is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, sink: &mut ResponseSink) -> Poll<Result<(), Status>> {
        if self.half_closed && sink.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(cancelled()));
        }
        let mut nothing_more = false;
        loop {
            let asked_all = match self.take_requests(cx) {
                Ok(asked_all) => asked_all,
                Err(status) => return Poll::Ready(Err(status)),
            };
            while !self.sending.is_empty() {
                ready!(sink.poll_send(cx, &mut self.sending))?;
            }
            // Both the client and the hub will wake us.
            if nothing_more && asked_all {
                return Poll::Pending;
            }
            nothing_more = match self.fill(cx) {
                Ok(nothing_more) => nothing_more,
                Err(status) => return Poll::Ready(Err(status)),
            };
            self.sending = std::mem::take(&mut self.out).freeze();
        }
    }

    /// Takes in requests, unless the client leaves answers lying. True: there are none left.
    fn take_requests(&mut self, cx: &mut Context<'_>) -> Result<bool, Status> {
        loop {
            if let Some(request) = self.held.take() {
                if !self.stream.takes_requests() {
                    self.held = Some(request);
                    return Ok(false);
                }
                self.received += 1;
                self.request(request);
            }
            if self.half_closed {
                return Ok(true);
            }
            match self.requests_gate.poll(cx, |cx| self.requests.poll_next(cx)) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Err(status)) => return Err(status),
                Poll::Ready(Ok(None)) => {
                    self.half_closed = true;
                    // Polled again at once: from now on the end of the call is noticed by itself.
                    cx.waker().wake_by_ref();
                }
                Poll::Ready(Ok(Some(request))) => self.held = Some(request),
            }
        }
    }

    fn request(&self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.stream.create(new_watch(create)),
            Some(RequestUnion::CancelRequest(cancel)) => self.stream.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.stream.request_progress(),
            // A request that says nothing is ignored, as etcd does.
            None => {}
        }
    }

    /// Makes answers of what the hub has, up to [`OUT_BYTES`]. True: it has nothing more.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<bool, Status> {
        loop {
            while self.out.len() < OUT_BYTES {
                let Some(item) = self.items.pop_front() else { break };
                self.put(item)?;
            }
            if self.out.len() >= OUT_BYTES {
                return Ok(false);
            }
            match self.stream.poll_items(cx, &mut self.items, ITEMS_BYTES) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Err(ended(end)),
            }
        }
    }

    /// Makes the answers of an item; what is too much for now goes back to the front.
    fn put(&mut self, item: WatchItem) -> Result<(), Status> {
        match item {
            WatchItem::Live { events, deliveries: Deliveries::One(delivery) } => self.put_one(events, delivery),
            WatchItem::Live { events, deliveries: Deliveries::Many(deliveries) } => {
                let revision = events.revision();
                while let Some(delivery) = deliveries.get(self.done) {
                    if self.out.len() >= OUT_BYTES {
                        self.items.push_front(WatchItem::Live { events, deliveries: Deliveries::Many(deliveries) });
                        return Ok(());
                    }
                    let part = std::iter::once((&*events, &delivery.selection));
                    let before = self.out.len();
                    self.sent += self.encoder.put_events(recipient(delivery), revision, part, &mut self.out)?;
                    self.done += 1;
                    if before == 0 {
                        // The others' answers are about as long.
                        let rest = self.out.len().saturating_mul(deliveries.len() - self.done);
                        self.out.reserve(rest.min(OUT_BYTES));
                    }
                }
                self.done = 0;
                Ok(())
            }
            WatchItem::Replayed(replayed) => self.put_replayed(replayed),
            plain => {
                let (response, revision) = plain_response(plain);
                self.encoder.put_plain(response, revision, &mut self.out);
                self.sent += 1;
                Ok(())
            }
        }
    }

    /// Events of one watcher, together with those of the following revisions if they are its alone too.
    fn put_one(&mut self, events: Arc<RevisionEvents>, delivery: Delivery) -> Result<(), Status> {
        let to = recipient(&delivery);
        let mut more = Vec::new();
        let mut bytes = events.bytes();
        while let Some(WatchItem::Live { events, deliveries: Deliveries::One(next) }) = self.items.front() {
            bytes += events.bytes();
            if recipient(next) != to || bytes > ANSWER_BYTES || more.len() + 1 >= ANSWER_REVISIONS_MAX {
                break;
            }
            if let Some(WatchItem::Live { events, deliveries: Deliveries::One(next) }) = self.items.pop_front() {
                more.push((events, next.selection));
            }
        }
        let revision = more.last().map_or(events.revision(), |(last, _)| last.revision());
        let first = std::iter::once((&*events, &delivery.selection));
        let parts = first.chain(more.iter().map(|(events, selection)| (&**events, selection)));
        self.sent += self.encoder.put_events(to, revision, parts, &mut self.out)?;
        Ok(())
    }

    fn put_replayed(&mut self, replayed: Box<Replayed>) -> Result<(), Status> {
        let to = Recipient { watch_id: replayed.watch_id, prev_kv: replayed.prev_kv, fragment: replayed.fragment };
        while self.done < replayed.parts.len() {
            if self.out.len() >= OUT_BYTES {
                self.items.push_front(WatchItem::Replayed(replayed));
                return Ok(());
            }
            let rest = &replayed.parts[self.done..];
            let mut bytes = 0;
            let fits = rest.iter().take(ANSWER_REVISIONS_MAX).take_while(|(events, _)| {
                bytes += events.bytes();
                bytes <= ANSWER_BYTES
            });
            let count = fits.count().max(1);
            let parts = rest[..count].iter().map(|(events, selection)| (&**events, selection));
            self.sent += self.encoder.put_events(to, replayed.revision, parts, &mut self.out)?;
            self.done += count;
        }
        self.done = 0;
        Ok(())
    }
}

fn recipient(delivery: &Delivery) -> Recipient {
    Recipient { watch_id: delivery.watch_id, prev_kv: delivery.prev_kv, fragment: delivery.fragment }
}

fn new_watch(create: WatchCreateRequest) -> NewWatch {
    let filters = |filter: FilterType| create.filters.contains(&(filter as i32));
    NewWatch {
        watch_id: create.watch_id,
        start_revision: create.start_revision,
        no_put: filters(FilterType::Noput),
        no_delete: filters(FilterType::Nodelete),
        prev_kv: create.prev_kv,
        fragment: create.fragment,
        progress_notify: create.progress_notify,
        key: create.key,
        range_end: create.range_end,
    }
}

/// An item without events as an answer, and the revision for its header. Texts: reference/etcd.md 2.5.
fn plain_response(item: WatchItem) -> (WatchResponse, Revision) {
    let response = WatchResponse::default();
    match item {
        WatchItem::Created { watch_id, revision } => (WatchResponse { watch_id, created: true, ..response }, revision),
        WatchItem::CreateFailed { error, revision } => {
            let cancel_reason = match error {
                CreateError::RangeEmpty => "mvcc: watcher range is empty",
                CreateError::DuplicateId => "mvcc: duplicate watch ID provided on the WatchStream",
                CreateError::StartNegative => "etcdserver: mvcc: required revision has been compacted",
            };
            let cancel_reason = cancel_reason.to_string();
            (WatchResponse { watch_id: -1, created: true, canceled: true, cancel_reason, ..response }, revision)
        }
        WatchItem::Canceled { watch_id, revision, compacted: None } => {
            (WatchResponse { watch_id, canceled: true, ..response }, revision)
        }
        // Neither revision nor reason.
        WatchItem::Canceled { watch_id, compacted: Some(compacted), .. } => {
            (WatchResponse { watch_id, canceled: true, compact_revision: compacted.0, ..response }, Revision(0))
        }
        WatchItem::Progress { watch_id, revision } => (WatchResponse { watch_id, ..response }, revision),
        // Those with events are encoded by the encoder.
        WatchItem::Live { events, .. } => (response, events.revision()),
        WatchItem::Replayed(replayed) => (response, replayed.revision),
    }
}

fn ended(end: StreamEnd) -> Status {
    match end {
        StreamEnd::NoLeader => no_leader(),
        StreamEnd::Stopped => server_stopped(),
        StreamEnd::Failed(error) => Status::internal(format!("netsy: watch: history cannot be read: {error}")),
    }
}
