//! Cuts the messages of one call out of the DATA frames that carry them.

use super::status::{Code, Status};
use crate::transport::shared::{ConnShared, HeldBytes};
use bytes::{Buf, Bytes, BytesMut};
use futures::future::poll_fn;
use h2::RecvStream;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Flag byte and length before each message.
pub(crate) const PREFIX_BYTES: usize = 5;

/// The receiving half of a call.
pub(crate) struct MessageReader {
    body: RecvStream,
    /// What of the last frame is not consumed yet.
    chunk: Bytes,
    /// A message that spans frames, as far as it has come.
    gathered: BytesMut,
    /// Accounts for `gathered` in the connection's budget.
    held: HeldBytes,
    message_bytes_max: usize,
}

impl MessageReader {
    pub(crate) fn new(body: RecvStream, shared: Arc<ConnShared>, message_bytes_max: usize) -> Self {
        Self { body, chunk: Bytes::new(), gathered: BytesMut::new(), held: HeldBytes::new(shared), message_bytes_max }
    }

    /// The next message, or None when the client has said all it wants to.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(message) = self.take_whole()? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    if self.body.flow_control().release_capacity(data.len()).is_err() {
                        return Poll::Ready(Err(cancelled()));
                    }
                    self.chunk = data;
                }
                Some(Err(_)) => return Poll::Ready(Err(cancelled())),
                None if self.gathered.is_empty() => return Poll::Ready(Ok(None)),
                None => {
                    return Poll::Ready(Err(Status::internal(
                        "the request ended inside a message: send the whole length-prefixed message",
                    )));
                }
            }
        }
    }

    /// Takes a message out if all of it is there; else everything has moved to `gathered`.
    fn take_whole(&mut self) -> Result<Option<Bytes>, Status> {
        if self.gathered.is_empty() {
            if self.chunk.is_empty() {
                return Ok(None);
            }
            if let Some(length) = self.length(&self.chunk)?
                && self.chunk.len() >= PREFIX_BYTES + length
            {
                self.chunk.advance(PREFIX_BYTES);
                return Ok(Some(self.chunk.split_to(length)));
            }
        }
        while !self.chunk.is_empty() {
            let wanted = match self.length(&self.gathered)? {
                Some(length) => PREFIX_BYTES + length - self.gathered.len(),
                None => PREFIX_BYTES - self.gathered.len(),
            };
            let part = self.chunk.split_to(wanted.min(self.chunk.len()));
            self.held.add(part.len())?;
            self.gathered.extend_from_slice(&part);
            if let Some(length) = self.length(&self.gathered)?
                && self.gathered.len() == PREFIX_BYTES + length
            {
                self.gathered.advance(PREFIX_BYTES);
                self.held.release();
                return Ok(Some(std::mem::take(&mut self.gathered).freeze()));
            }
        }
        Ok(None)
    }

    /// The length that the prefix at the head of `bytes` announces; None: the prefix is not whole.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        let &[flag, a, b, c, d, ..] = bytes else { return Ok(None) };
        match flag {
            0 => {}
            1 => {
                return Err(Status::unimplemented(
                    "grpc: compressed requests are not supported: send with identity encoding",
                ));
            }
            other => return Err(Status::internal(format!("grpc: message flag {other} is not 0 or 1"))),
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.message_bytes_max {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!("grpc: received message larger than max ({length} vs. {})", self.message_bytes_max),
            ));
        }
        Ok(Some(length))
    }
}

/// The client went away or gave the call up.
pub(crate) fn cancelled() -> Status {
    Status::new(Code::Cancelled, "context canceled")
}
