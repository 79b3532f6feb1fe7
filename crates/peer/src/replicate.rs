//! The stream on which the log goes to a replica and receipts come back.
//!
//! Its two halves are independent: dropping the sender ends the stream for the other end once everything
//! queued has left; dropping the receiver cuts it, unless the sender was dropped before (as it is where both go with
//! their [`FrameStream`]). Mind that an `async move` block which names only one half drops the other at once.

use crate::error::{Lost, SendError};
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use bytes::{Bytes, BytesMut};
use futures::future::poll_fn;
use h2::client::ResponseFuture;
use netsy_api::log::Entry;
use netsy_api::peer::{Append, PrimaryFrame, ReplicaFrame};
use netsy_api::{file, peer};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A replica's stream, as the Primary sees it.
pub type FollowerStream = FrameStream<PrimaryFrame, ReplicaFrame>;
/// The stream to the Primary, as the replica that opened it sees it.
pub type PrimaryStream = FrameStream<ReplicaFrame, PrimaryFrame>;

/// Number of `entries` in [`Append`].
const ENTRIES_FIELD: u32 = 15;
/// Number of `append` in [`PrimaryFrame`].
const APPEND_FIELD: u32 = 4;

/// Two halves of one stream.
pub struct FrameStream<Out, In> {
    /// What this end says.
    pub sender: FrameSender<Out>,
    /// What the other end says.
    pub receiver: FrameReceiver<In>,
}

impl<Out, In> FrameStream<Out, In> {
    pub(crate) fn new(outbox: Arc<Outbox>, body: Body) -> Self {
        Self {
            sender: FrameSender { outbox: outbox.clone(), frame: PhantomData },
            receiver: FrameReceiver { outbox, body, frame: PhantomData },
        }
    }
}

/// The sending half. Frames are queued, at most `backlog_bytes_max` of them; whoever sends from a
/// thread that must not wait uses the `try_` methods and goes on from its log once there is room.
pub struct FrameSender<Out> {
    outbox: Arc<Outbox>,
    frame: PhantomData<fn(Out)>,
}

impl<Out: Message> FrameSender<Out> {
    /// Queues a frame. Never waits.
    pub fn try_send(&self, frame: &Out) -> Result<(), SendError> {
        self.outbox.push(frame).map(|_| ())
    }

    /// Queues a frame once there is room.
    pub async fn send(&self, frame: &Out) -> Result<(), SendError> {
        self.outbox.push_wait(frame).await.map(|_| ())
    }

    /// Completes when at least half of the backlog is free, or the stream is over.
    pub async fn room(&self) {
        self.outbox.room().await;
    }

    /// Bytes that wait to be sent.
    pub fn queued_bytes(&self) -> usize {
        self.outbox.queued()
    }
}

impl FrameSender<PrimaryFrame> {
    /// Queues an append: `head` without entries, and entries that other replicas may be sent as
    /// well. Never waits; from 4 KiB on the entries are not copied here.
    pub fn try_append(&self, head: &Append, entries: &EncodedEntries) -> Result<(), SendError> {
        self.outbox.push_parts(&append_head(head, entries.0.len()), &entries.0).map(|_| ())
    }

    /// The same, once there is room.
    pub async fn append(&self, head: &Append, entries: &EncodedEntries) -> Result<(), SendError> {
        loop {
            match self.try_append(head, entries) {
                Err(SendError::Full) => self.outbox.room().await,
                other => return other,
            }
        }
    }
}

impl<Out> Drop for FrameSender<Out> {
    fn drop(&mut self) {
        self.outbox.end();
    }
}

/// The beginning of a [`PrimaryFrame`] with an append, up to its `entries_bytes` bytes of entries.
fn append_head(head: &Append, entries_bytes: usize) -> BytesMut {
    debug_assert!(head.entries.is_empty(), "entries stand behind the head");
    let head_bytes = head.encoded_len();
    let length = head_bytes + entries_bytes;
    let mut out = BytesMut::with_capacity(key_len(APPEND_FIELD) + encoded_len_varint(length as u64) + head_bytes);
    encode_key(APPEND_FIELD, WireType::LengthDelimited, &mut out);
    encode_varint(length as u64, &mut out);
    head.encode_raw(&mut out);
    out
}

/// Entries as an append carries them: encoded once, sent to every replica. Clones share the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedEntries(Bytes);

impl EncodedEntries {
    /// Encodes `entries`.
    pub fn encode<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut out = BytesMut::new();
        for entry in entries {
            let message = file::Entry::from(entry);
            let length = message.encoded_len();
            out.reserve(key_len(ENTRIES_FIELD) + encoded_len_varint(length as u64) + length);
            encode_key(ENTRIES_FIELD, WireType::LengthDelimited, &mut out);
            encode_varint(length as u64, &mut out);
            message.encode_raw(&mut out);
        }
        Self(out.freeze())
    }

    /// From entries that are encoded as [`file::Entry`] each.
    pub fn from_encoded<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut out = BytesMut::new();
        for entry in entries {
            encode_key(ENTRIES_FIELD, WireType::LengthDelimited, &mut out);
            encode_varint(entry.len() as u64, &mut out);
            out.extend_from_slice(entry);
        }
        Self(out.freeze())
    }

    /// Size on the wire, bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Decodes the entries of an append. Keys and values are slices of the received frame, which they keep in
/// memory as a whole: copy what is to be kept for long. Error: one of them is no entry.
pub fn decode_entries(append: &Append) -> Result<Vec<Entry>, Lost> {
    append
        .entries
        .iter()
        .map(|bytes| {
            let message = file::Entry::decode(bytes.clone()).map_err(|e| Lost::Malformed(e.to_string()))?;
            Entry::try_from(message).map_err(|e| Lost::Malformed(e.to_string()))
        })
        .collect()
}

/// Makes a frame of an append.
pub fn append_frame(append: Append) -> PrimaryFrame {
    PrimaryFrame { kind: Some(peer::primary_frame::Kind::Append(append)) }
}

/// Where frames come from.
pub(crate) enum Body {
    /// The other end has not answered yet.
    Expected { response: ResponseFuture, message_bytes_max: usize },
    /// It has.
    Open(Inbox),
    /// Over.
    Ended(Lost),
}

/// The receiving half. Who does not ask for the next frame holds the sender up, once the stream's window of
/// a few MiB is full.
pub struct FrameReceiver<In> {
    outbox: Arc<Outbox>,
    body: Body,
    frame: PhantomData<fn() -> In>,
}

impl<In: Message + Default> FrameReceiver<In> {
    /// The next frame; None: the other end has ended the stream. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<In>, Lost> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Self::next`] for hand-written futures.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<In>, Lost>> {
        let outcome = loop {
            match &mut self.body {
                Body::Expected { response, message_bytes_max } => match ready!(Pin::new(response).poll(cx)) {
                    Ok(response) => self.body = Body::Open(Inbox::new(response.into_body(), *message_bytes_max)),
                    Err(error) => break Err(Lost::Broken(error.to_string())),
                },
                Body::Open(inbox) => match ready!(inbox.poll_next(cx)) {
                    Ok(Some(bytes)) => match In::decode(bytes) {
                        Ok(frame) => return Poll::Ready(Ok(Some(frame))),
                        Err(error) => break Err(Lost::Malformed(error.to_string())),
                    },
                    Ok(None) => return Poll::Ready(Ok(None)),
                    Err(lost) => break Err(lost),
                },
                Body::Ended(lost) => break Err(lost.clone()),
            }
        };
        if let Err(lost) = &outcome {
            self.body = Body::Ended(lost.clone());
            self.outbox.close();
        }
        Poll::Ready(outcome)
    }
}

impl<In> Drop for FrameReceiver<In> {
    fn drop(&mut self) {
        self.outbox.close_unless_ending();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_api::ids::{LogIndex, Revision, Term, UnixMillis};
    use netsy_api::log::Mutation;

    fn entry(index: u64) -> Entry {
        Entry {
            index: LogIndex(index),
            term: Term(3),
            time: UnixMillis(1_700_000_000_000),
            revision: Revision(index as i64),
            mutations: vec![Mutation::Delete { key: Bytes::from(format!("key-{index}")) }],
        }
    }

    #[test]
    fn an_append_in_two_parts_is_the_frame_in_one() {
        let entries: Vec<Entry> = (5..9).map(entry).collect();
        let head = Append {
            term: 3,
            prev: Some(peer::Run { term: 2, last_index: 4 }),
            commit: 4,
            log_end: Some(peer::LogPoint { seq: 9, ..Default::default() }),
            ..Append::default()
        };
        let encoded = EncodedEntries::encode(&entries);
        let mut parts = append_head(&head, encoded.len()).to_vec();
        parts.extend_from_slice(&encoded.0);
        let whole = Append {
            entries: entries.iter().map(|e| file::Entry::from(e).encode_to_vec().into()).collect(),
            ..head.clone()
        };
        assert_eq!(PrimaryFrame::decode(&parts[..]), Ok(append_frame(whole.clone())));
        assert_eq!(parts, append_frame(whole.clone()).encode_to_vec());
        assert_eq!(decode_entries(&whole), Ok(entries));
        assert_eq!(EncodedEntries::from_encoded(whole.entries.iter().map(|e| &e[..])), encoded);
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for bytes in [&b"\xff\xff"[..], b"", &file::Entry::default().encode_to_vec()] {
            let append = Append { entries: vec![Bytes::copy_from_slice(bytes)], ..Append::default() };
            assert!(matches!(decode_entries(&append), Err(Lost::Malformed(_))), "{bytes:?}");
        }
    }
}
