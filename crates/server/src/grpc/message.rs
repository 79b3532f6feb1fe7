//! Cuts the messages of one call out of the DATA frames that carry them.

use super::status::{Code, Status};
use crate::transport::shared::{ConnShared, HeldBytes};
use bytes::Bytes;
use futures::future::poll_fn;
use h2::RecvStream;
use netsy_peer::framing::{BadPrefix, Framing};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

pub(crate) use netsy_peer::framing::PREFIX_BYTES;

/// The receiving half of a call.
pub(crate) struct MessageReader {
    body: RecvStream,
    framing: Framing,
    /// Accounts for the part of a message that waits for the rest, in the connection's budget.
    held: HeldBytes,
}

impl MessageReader {
    pub(crate) fn new(body: RecvStream, shared: Arc<ConnShared>, message_bytes_max: usize) -> Self {
        Self { body, framing: Framing::new(message_bytes_max), held: HeldBytes::new(shared) }
    }

    /// The next message, or None when the client has said all it wants to.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(message) = self.framing.take(|bytes| self.held.add(bytes))? {
                self.held.release();
                return Poll::Ready(Ok(Some(message)));
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

impl From<BadPrefix> for Status {
    fn from(bad: BadPrefix) -> Self {
        match bad {
            BadPrefix::Flag(1) => {
                Self::unimplemented("grpc: compressed requests are not supported: send with identity encoding")
            }
            BadPrefix::Flag(other) => Self::internal(format!("grpc: message flag {other} is not 0 or 1")),
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
