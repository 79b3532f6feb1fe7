//! Cuts the messages of one call out of the DATA frames that carry them.

use super::gunzip::Gunzip;
use super::status::{Code, Status};
use crate::transport::shared::{ConnShared, HeldBytes};
use bytes::Bytes;
use futures::future::{BoxFuture, poll_fn};
use h2::RecvStream;
use netsy_peer::framing::{BadPrefix, Framing};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

pub(crate) use netsy_peer::framing::PREFIX_BYTES;

/// How long one compressed message keeps a thread from other work. The runtime looks at sockets once in 61 such turns
/// while its threads are busy: with half a millisecond each, others wait for seconds.
const INFLATING_MAX: Duration = Duration::from_micros(50);

/// The receiving half of a call.
pub(crate) struct MessageReader {
    body: RecvStream,
    framing: Framing,
    /// Accounts for the part of a message that waits for the rest, in the connection's budget.
    held: HeldBytes,
    /// `grpc-encoding` says gzip.
    gzip: bool,
    /// A compressed message that is being read.
    inflating: Option<Box<Inflating>>,
    message_bytes_max: usize,
}

/// A compressed message, once it is its turn among those of its connection.
struct Inflating {
    turn: Turn,
    gunzip: Gunzip,
}

enum Turn {
    Waits(BoxFuture<'static, Option<OwnedSemaphorePermit>>),
    /// None where the connection is gone.
    Here {
        _permit: Option<OwnedSemaphorePermit>,
    },
}

impl MessageReader {
    pub(crate) fn new(body: RecvStream, gzip: bool, shared: Arc<ConnShared>, message_bytes_max: usize) -> Self {
        Self {
            body,
            framing: Framing::compressible(message_bytes_max),
            held: HeldBytes::new(shared),
            gzip,
            inflating: None,
            message_bytes_max,
        }
    }

    /// The next message, or None when the client has said all it wants to.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(inflating) = &mut self.inflating {
                let bytes = ready!(inflating.poll(cx, &mut self.held))?;
                self.inflating = None;
                self.held.release();
                return Poll::Ready(Ok(Some(bytes)));
            }
            if let Some(message) = self.framing.take(|bytes| self.held.add(bytes))? {
                self.held.release();
                if message.compressed {
                    self.inflating = Some(self.begin_inflating(message.bytes)?);
                    continue;
                }
                return Poll::Ready(Ok(Some(message.bytes)));
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    if self.body.flow_control().release_capacity(data.len()).is_err() {
                        return Poll::Ready(Err(cancelled()));
                    }
                    self.framing.put(data);
                }
                Some(Err(_)) => return Poll::Ready(Err(cancelled())),
                None if self.framing.is_between_messages() => return Poll::Ready(Ok(None)),
                None => {
                    return Poll::Ready(Err(Status::internal(
                        "the request ended inside a message: send the whole length-prefixed message",
                    )));
                }
            }
        }
    }
}

impl MessageReader {
    fn begin_inflating(&mut self, bytes: Bytes) -> Result<Box<Inflating>, Status> {
        if !self.gzip {
            return Err(Status::internal("grpc: compressed flag set with identity or empty encoding"));
        }
        self.held.add(bytes.len())?;
        let turns = self.held.shared().inflating.clone();
        Ok(Box::new(Inflating {
            turn: match turns.clone().try_acquire_owned() {
                Ok(permit) => Turn::Here { _permit: Some(permit) },
                Err(_) => Turn::Waits(Box::pin(async move { turns.acquire_owned().await.ok() })),
            },
            gunzip: Gunzip::new(bytes, self.message_bytes_max),
        }))
    }
}

impl Inflating {
    /// Works for a while, then lets others have the thread.
    fn poll(&mut self, cx: &mut Context<'_>, held: &mut HeldBytes) -> Poll<Result<Bytes, Status>> {
        if let Turn::Waits(turn) = &mut self.turn {
            let permit = ready!(turn.as_mut().poll(cx));
            self.turn = Turn::Here { _permit: permit };
        }
        let began = Instant::now();
        loop {
            let before = self.gunzip.out_bytes();
            if let Some(message) = self.gunzip.step()? {
                return Poll::Ready(Ok(message));
            }
            held.add(self.gunzip.out_bytes() - before)?;
            if began.elapsed() >= INFLATING_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

impl From<BadPrefix> for Status {
    fn from(bad: BadPrefix) -> Self {
        match bad {
            BadPrefix::Flag(flag) => Self::internal(format!("grpc: received unexpected payload format {flag}")),
            BadPrefix::TooLong { length, max } => Self::new(
                Code::ResourceExhausted,
                format!("grpc: received message larger than max ({length} vs. {max})"),
            ),
        }
    }
}

/// The client went away or gave the call up.
pub(crate) fn cancelled() -> Status {
    Status::new(Code::Cancelled, "context canceled")
}
