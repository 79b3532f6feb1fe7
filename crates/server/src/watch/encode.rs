//! Watch answers as bytes: the events encoded once for all, the rest around them per watcher.

use crate::grpc::message::PREFIX_BYTES;
use crate::grpc::reply::put_prefix;
use crate::grpc::status::{Code, Status};
use bytes::{BufMut, Bytes, BytesMut};
use netsy_api::etcdserverpb::{ResponseHeader, WatchResponse};
use netsy_api::ids::Revision;
use netsy_api::mvccpb::event::EventType;
use netsy_api::mvccpb::{Event as WireEvent, KeyValue};
use netsy_mvcc::{Event, EventKind, KvRef, ValueRef};
use netsy_node::watch::{Encoded, RevisionEvents, Selection};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

/// Field numbers and wire types of WatchResponse, as tag bytes.
const HEADER_TAG: u8 = 0x0a;
const WATCH_ID_TAG: u8 = 0x10;
const FRAGMENT_TAG: u8 = 0x38;
const EVENTS_FIELD: u32 = 11;
/// The most bytes of a message that gRPC peers take.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// Events of one revision for one watcher.
pub(super) type Part<'a> = (&'a RevisionEvents, &'a Selection);

/// Who gets an answer, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recipient {
    pub(super) watch_id: i64,
    pub(super) prev_kv: bool,
    pub(super) fragment: bool,
}

/// Encodes the answers of one stream.
pub(super) struct Encoder {
    ids: ResponseHeader,
    /// The header field of the last answer, whole: answers of one revision have the same.
    header: Vec<u8>,
    header_revision: Option<Revision>,
    fragment_bytes: usize,
}

impl Encoder {
    /// `fragment_bytes`: answers that are not smaller are split for watchers that take fragments.
    pub(super) fn new(cluster_id: u64, member_id: u64, raft_term: u64, fragment_bytes: usize) -> Self {
        let ids = ResponseHeader { cluster_id, member_id, revision: 0, raft_term };
        Self { ids, header: Vec::new(), header_revision: None, fragment_bytes }
    }

    /// An answer without events.
    pub(super) fn put_plain(&self, response: WatchResponse, revision: Revision, out: &mut BytesMut) {
        let header = ResponseHeader { revision: revision.0, ..self.ids };
        let response = WatchResponse { header: Some(header), ..response };
        let length = response.encoded_len();
        out.reserve(PREFIX_BYTES + length);
        put_prefix(out, length);
        response.encode_raw(out);
    }

    /// One answer with all events of `parts`, or several fragments of it. Returns how many.
    /// Error: it is too large to be sent at all.
    pub(super) fn put_events<'a>(
        &mut self,
        to: Recipient,
        revision: Revision,
        parts: impl Iterator<Item = Part<'a>> + Clone,
        out: &mut BytesMut,
    ) -> Result<u64, Status> {
        let slices = parts.flat_map(move |(events, selection)| {
            let encoded = events.encoded(to.prev_kv, encode_events);
            selection.runs().map(move |(first, end)| encoded.slice(first, end))
        });
        let length: usize = slices.clone().map(<[u8]>::len).sum();
        if to.fragment && length >= self.fragment_bytes {
            return self.put_fragments(to, revision, slices, out);
        }
        self.put(to.watch_id, revision, false, length, slices, out)?;
        Ok(1)
    }

    /// Splits between events: each fragment is below the limit, or one event.
    fn put_fragments<'a>(
        &mut self,
        to: Recipient,
        revision: Revision,
        slices: impl Iterator<Item = &'a [u8]>,
        out: &mut BytesMut,
    ) -> Result<u64, Status> {
        let events: Vec<&[u8]> = slices.flat_map(each_event).collect();
        let (mut first, mut count) = (0, 0);
        while first < events.len() {
            let mut end = first + 1;
            let mut length = events[first].len();
            while end < events.len() && length + events[end].len() < self.fragment_bytes {
                length += events[end].len();
                end += 1;
            }
            let fragment = end < events.len();
            self.put(to.watch_id, revision, fragment, length, events[first..end].iter().copied(), out)?;
            count += 1;
            first = end;
        }
        Ok(count)
    }

    fn put<'a>(
        &mut self,
        watch_id: i64,
        revision: Revision,
        fragment: bool,
        events_length: usize,
        events: impl Iterator<Item = &'a [u8]>,
        out: &mut BytesMut,
    ) -> Result<(), Status> {
        let header = self.header(revision);
        let id_length = if watch_id == 0 { 0 } else { 1 + encoded_len_varint(watch_id as u64) };
        let length = header.len() + id_length + if fragment { 2 } else { 0 } + events_length;
        if length > MESSAGE_BYTES_MAX {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "grpc: trying to send message larger than max ({length} vs. {MESSAGE_BYTES_MAX}): \
                     watch with fragments"
                ),
            ));
        }
        out.reserve(PREFIX_BYTES + length);
        put_prefix(out, length);
        out.put_slice(header);
        if watch_id != 0 {
            out.put_u8(WATCH_ID_TAG);
            encode_varint(watch_id as u64, out);
        }
        if fragment {
            out.put_slice(&[FRAGMENT_TAG, 1]);
        }
        events.for_each(|event| out.put_slice(event));
        Ok(())
    }

    fn header(&mut self, revision: Revision) -> &[u8] {
        if self.header_revision != Some(revision) {
            let header = ResponseHeader { revision: revision.0, ..self.ids };
            self.header.clear();
            self.header.push(HEADER_TAG);
            encode_varint(header.encoded_len() as u64, &mut self.header);
            header.encode_raw(&mut self.header);
            self.header_revision = Some(revision);
        }
        &self.header
    }
}

/// A revision's events as they stand in an answer, each with its tag and length.
fn encode_events(events: &[Event], with_prev: bool) -> Encoded {
    let mut bytes = BytesMut::new();
    let mut ends = Vec::with_capacity(events.len());
    for event in events {
        let wire = WireEvent {
            r#type: match event.kind {
                EventKind::Put => EventType::Put as i32,
                EventKind::Delete => EventType::Delete as i32,
            },
            kv: Some(key_value(&event.kv)),
            prev_kv: event.prev.as_ref().filter(|_| with_prev).map(key_value),
        };
        bytes.reserve(wire.encoded_len() + 8);
        prost::encoding::message::encode(EVENTS_FIELD, &wire, &mut bytes);
        ends.push(bytes.len());
    }
    Encoded { bytes: bytes.freeze(), ends }
}

fn key_value(kv: &KvRef) -> KeyValue {
    KeyValue {
        key: kv.key.clone(),
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: match &kv.value {
            ValueRef::Here(value) => value.clone(),
            // What a watcher gets is resolved before it comes here.
            ValueRef::Stored(_) | ValueRef::Omitted => Bytes::new(),
        },
        lease: kv.lease.0,
    }
}

/// Cuts a run of encoded events into single ones.
fn each_event(run: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = run;
    std::iter::from_fn(move || {
        let mut after_tag = rest.get(1..)?;
        let before = after_tag.len();
        let length = prost::encoding::decode_varint(&mut after_tag).ok()? as usize;
        let whole = 1 + (before - after_tag.len()) + length;
        let (event, after) = rest.split_at_checked(whole)?;
        rest = after;
        Some(event)
    })
}
