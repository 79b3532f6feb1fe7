//! What waits to be sent on one stream.
//!
//! Anyone may push from any thread; the stream's pump, in the task of the connection, takes what is
//! there and hands it to HTTP/2 as flow control allows. Byte offsets tell what has left: a message
//! whose first byte was not taken was never sent.

use crate::error::{Lost, SendError};
use crate::framing::PREFIX_BYTES;
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::poll_fn;
use h2::SendStream;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use prost::Message;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

/// A body of at least this size is queued as it is; a smaller one is copied behind its head, as a frame
/// of its own would cost more.
const APART_BYTES: usize = 4 << 10;
/// The most that is handed to HTTP/2 in one piece, so that other streams get their turn.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// Room made at a time for small messages.
const ROOM_BYTES: usize = 8 << 10;

/// The queue of one stream's sending half.
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    room: Notify,
    backlog_bytes_max: usize,
    message_bytes_max: usize,
}

struct Inner {
    /// Before `tail`.
    segments: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes in both.
    queued: usize,
    /// Bytes ever pushed.
    pushed: u64,
    /// Someone waits for room.
    awaited: bool,
    state: State,
    pump: Option<Waker>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing more comes: the stream ends behind what is queued.
    Ending,
    /// Nothing leaves any more.
    Closed,
}

impl Outbox {
    pub(crate) fn new(backlog_bytes_max: usize, message_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                segments: VecDeque::new(),
                tail: BytesMut::new(),
                queued: 0,
                pushed: 0,
                awaited: false,
                state: State::Open,
                pump: None,
            }),
            room: Notify::new(),
            backlog_bytes_max,
            message_bytes_max,
        })
    }

    /// Queues one message. Returns its offset in all that was ever pushed.
    pub(crate) fn push<M: Message>(&self, message: &M) -> Result<u64, SendError> {
        let length = message.encoded_len();
        self.push_with(length, |inner| {
            inner.make_room(PREFIX_BYTES + length);
            put_prefix(&mut inner.tail, length);
            // Only fails for want of room, of which a growing buffer always has enough.
            message.encode_raw(&mut inner.tail);
        })
    }

    /// Queues one message that is already encoded, as a head and a body that others may share.
    pub(crate) fn push_parts(&self, head: &[u8], body: &Bytes) -> Result<u64, SendError> {
        let length = head.len() + body.len();
        self.push_with(length, |inner| {
            let apart = body.len() >= APART_BYTES;
            inner.make_room(PREFIX_BYTES + head.len() + if apart { 0 } else { body.len() });
            put_prefix(&mut inner.tail, length);
            inner.tail.extend_from_slice(head);
            if apart {
                let tail = inner.tail.split().freeze();
                inner.segments.push_back(tail);
                inner.segments.push_back(body.clone());
            } else {
                inner.tail.extend_from_slice(body);
            }
        })
    }

    fn push_with(&self, length: usize, put: impl FnOnce(&mut Inner)) -> Result<u64, SendError> {
        if length > self.message_bytes_max {
            return Err(SendError::TooLarge);
        }
        let total = PREFIX_BYTES + length;
        let (offset, pump) = {
            let mut inner = self.inner.lock();
            if inner.state != State::Open {
                return Err(SendError::Closed);
            }
            // One message is taken whatever its size, or a large one would wait for ever.
            if inner.queued > 0 && inner.queued + total > self.backlog_bytes_max {
                return Err(SendError::Full);
            }
            put(&mut inner);
            inner.queued += total;
            let offset = inner.pushed;
            inner.pushed += total as u64;
            (offset, inner.pump.take())
        };
        if let Some(pump) = pump {
            pump.wake();
        }
        Ok(offset)
    }

    /// Completes when there is room again, or nothing can be sent any more.
    pub(crate) async fn room(&self) {
        loop {
            let notified = self.room.notified();
            let mut notified = std::pin::pin!(notified);
            // Registers before the look, so that no news between the two is missed.
            notified.as_mut().enable();
            {
                let mut inner = self.inner.lock();
                if inner.state != State::Open || inner.queued <= self.backlog_bytes_max / 2 {
                    return;
                }
                inner.awaited = true;
            }
            notified.await;
        }
    }

    /// Queues a message, waiting for room.
    pub(crate) async fn push_wait<M: Message>(&self, message: &M) -> Result<u64, SendError> {
        loop {
            match self.push(message) {
                Err(SendError::Full) => self.room().await,
                other => return other,
            }
        }
    }

    /// Whether what was pushed at `offset` has been handed over, a part of it included.
    pub(crate) fn is_taken(&self, offset: u64) -> bool {
        let inner = self.inner.lock();
        inner.pushed - inner.queued as u64 > offset
    }

    /// Bytes that wait.
    pub(crate) fn queued(&self) -> usize {
        self.inner.lock().queued
    }

    /// The stream ends behind what is queued.
    pub(crate) fn end(&self) {
        self.change(State::Ending);
    }

    /// Nothing leaves any more. What is queued is kept for [`Self::is_taken`] to tell about.
    pub(crate) fn close(&self) {
        self.change(State::Closed);
    }

    /// Nothing leaves any more, unless it is only what was queued before the end.
    pub(crate) fn close_unless_ending(&self) {
        if self.inner.lock().state != State::Ending {
            self.close();
        }
    }

    fn change(&self, to: State) {
        let pump = {
            let mut inner = self.inner.lock();
            if inner.state == State::Closed {
                return;
            }
            if to == State::Closed {
                inner.segments = VecDeque::new();
                inner.tail = BytesMut::new();
            }
            inner.state = to;
            inner.awaited = false;
            inner.pump.take()
        };
        self.room.notify_waiters();
        if let Some(pump) = pump {
            pump.wake();
        }
    }

    /// How much waits, once something does.
    fn poll_queued(&self, cx: &mut Context<'_>) -> Poll<Queued> {
        let mut inner = self.inner.lock();
        match inner.state {
            State::Closed => Poll::Ready(Queued::Closed),
            _ if inner.queued > 0 => Poll::Ready(Queued::Bytes(inner.queued)),
            State::Ending => Poll::Ready(Queued::End),
            State::Open => {
                if inner.pump.as_ref().is_none_or(|pump| !pump.will_wake(cx.waker())) {
                    inner.pump = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Takes at most `most` bytes.
    fn take(&self, most: usize) -> Bytes {
        let mut inner = self.inner.lock();
        if inner.segments.is_empty() {
            let tail = inner.tail.split().freeze();
            inner.segments.push_back(tail);
        }
        let Some(mut first) = inner.segments.pop_front() else { return Bytes::new() };
        if first.len() > most {
            let rest = first.split_off(most);
            inner.segments.push_front(rest);
        }
        // A closed outbox keeps its count though its bytes are gone.
        inner.queued -= first.len().min(inner.queued);
        if inner.awaited && inner.queued <= self.backlog_bytes_max / 2 {
            inner.awaited = false;
            self.room.notify_waiters();
        }
        first
    }
}

enum Queued {
    Bytes(usize),
    End,
    Closed,
}

impl Inner {
    fn make_room(&mut self, bytes: usize) {
        if self.tail.capacity() - self.tail.len() < bytes {
            self.tail.reserve(bytes.max(ROOM_BYTES));
        }
    }
}

fn put_prefix(out: &mut BytesMut, length: usize) {
    out.put_u8(0);
    // Bounded by `message_bytes_max`, which is far below.
    out.put_u32(length as u32);
}

/// Hands what is pushed to HTTP/2 until the outbox or the stream ends. Returns why the stream did,
/// if the other end or the connection ended it. `answers`: it is the answering end's half, which ends with
/// gRPC's trailers.
pub(crate) async fn pump(outbox: Arc<Outbox>, mut stream: SendStream<Bytes>, answers: bool) -> Option<Lost> {
    let lost = poll_fn(|cx| {
        loop {
            match stream.poll_reset(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(reason)) => {
                    return Poll::Ready(Some(Lost::Broken(format!("the call was reset: {reason}"))));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Lost::Broken(error.to_string()))),
            }
            let queued = match outbox.poll_queued(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Queued::Bytes(queued)) => queued,
                Poll::Ready(Queued::End) => {
                    // An error means that the stream is over already.
                    let _ = match answers {
                        true => stream.send_trailers(ok_trailers()),
                        false => stream.send_data(Bytes::new(), true),
                    };
                    return Poll::Ready(None);
                }
                Poll::Ready(Queued::Closed) => {
                    stream.send_reset(h2::Reason::CANCEL);
                    return Poll::Ready(None);
                }
            };
            stream.reserve_capacity(queued.min(PIECE_BYTES_MAX));
            let mut room = stream.capacity();
            if room == 0 {
                room = match stream.poll_capacity(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(room))) => room,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Lost::Broken(error.to_string()))),
                    Poll::Ready(None) => return Poll::Ready(Some(Lost::Broken("the call ended".to_owned()))),
                };
                if room == 0 {
                    continue;
                }
            }
            let piece = outbox.take(room.min(PIECE_BYTES_MAX));
            if piece.is_empty() {
                continue;
            }
            if let Err(error) = stream.send_data(piece, false) {
                return Poll::Ready(Some(Lost::Broken(error.to_string())));
            }
        }
    })
    .await;
    outbox.close();
    lost
}

fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(outbox: &Outbox, piece: usize) -> Vec<u8> {
        let mut out = vec![];
        while outbox.queued() > 0 {
            out.extend_from_slice(&outbox.take(piece));
        }
        out
    }

    #[test]
    fn messages_leave_in_order_whatever_their_size() {
        let outbox = Outbox::new(1 << 20, 1 << 20);
        let large = Bytes::from(vec![7u8; APART_BYTES]);
        let small = Bytes::from_static(b"small");
        let mut expected = vec![];
        for (head, body) in [(&b"h"[..], &small), (b"head", &large), (b"", &small), (b"x", &large)] {
            let offset = outbox.push_parts(head, body).expect("room");
            assert_eq!(offset as usize, expected.len());
            expected.push(0);
            expected.extend_from_slice(&((head.len() + body.len()) as u32).to_be_bytes());
            expected.extend_from_slice(head);
            expected.extend_from_slice(body);
        }
        assert_eq!(drained(&outbox, 1000), expected);
    }

    #[test]
    fn the_backlog_is_bounded_and_one_large_message_passes() {
        let outbox = Outbox::new(100, 1000);
        let body = Bytes::from(vec![1u8; 500]);
        assert_eq!(outbox.push_parts(b"", &body), Ok(0));
        assert_eq!(outbox.push_parts(b"", &Bytes::from_static(b"x")), Err(SendError::Full));
        assert_eq!(outbox.push_parts(b"", &Bytes::from(vec![1u8; 1001])), Err(SendError::TooLarge));
        assert_eq!(drained(&outbox, 64).len(), 505);
        assert_eq!(outbox.push_parts(b"", &Bytes::from_static(b"x")), Ok(505));
    }

    #[test]
    fn what_was_taken_in_part_counts_as_sent() {
        let outbox = Outbox::new(1000, 1000);
        let first = outbox.push_parts(b"", &Bytes::from_static(b"first")).expect("room");
        let second = outbox.push_parts(b"", &Bytes::from_static(b"second")).expect("room");
        assert!(!outbox.is_taken(first));
        assert_eq!(outbox.take(1).len(), 1);
        assert!(outbox.is_taken(first));
        assert!(!outbox.is_taken(second));
        outbox.close();
        assert!(outbox.is_taken(first));
        assert!(!outbox.is_taken(second), "closing does not turn what waits into what was sent");
        assert_eq!(outbox.push_parts(b"", &Bytes::new()), Err(SendError::Closed));
    }

    #[tokio::test]
    async fn waiting_for_room_ends_with_room_or_with_the_outbox() {
        let outbox = Outbox::new(100, 1000);
        outbox.push_parts(b"", &Bytes::from(vec![1u8; 500])).expect("room");
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drained(&outbox, 64);
        waiting.await.expect("no panic");
        outbox.push_parts(b"", &Bytes::from(vec![1u8; 500])).expect("room");
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.room().await }
        });
        tokio::task::yield_now().await;
        outbox.close();
        waiting.await.expect("no panic");
    }
}
