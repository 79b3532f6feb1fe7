//! Cuts the messages of one stream out of the DATA frames that carry them.

use crate::error::Lost;
use crate::outbox::PREFIX_BYTES;
use bytes::{Buf, Bytes, BytesMut};
use futures::future::poll_fn;
use h2::RecvStream;
use prost::Message;
use std::task::{Context, Poll, ready};

/// The receiving half of a stream. The window opens as messages are asked for: who does not ask
/// holds the other end up.
pub(crate) struct Inbox {
    body: RecvStream,
    /// What of the last frame is not consumed yet.
    chunk: Bytes,
    /// A message that spans frames, as far as it has come.
    gathered: BytesMut,
    message_bytes_max: usize,
}

impl Inbox {
    pub(crate) fn new(body: RecvStream, message_bytes_max: usize) -> Self {
        Self { body, chunk: Bytes::new(), gathered: BytesMut::new(), message_bytes_max }
    }

    /// The next message, decoded; None once the other end has said all it wants to. Cancel-safe.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Lost> {
        let Some(bytes) = poll_fn(|cx| self.poll_next(cx)).await? else { return Ok(None) };
        M::decode(bytes).map(Some).map_err(|e| Lost::Malformed(e.to_string()))
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Lost>> {
        loop {
            if let Some(message) = self.take_whole()? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    if let Err(error) = self.body.flow_control().release_capacity(data.len()) {
                        return Poll::Ready(Err(Lost::Broken(error.to_string())));
                    }
                    self.chunk = data;
                }
                // How HTTP/2 servers say that they are done before the client is.
                Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) && self.gathered.is_empty() => {
                    return Poll::Ready(Ok(None));
                }
                Some(Err(error)) => return Poll::Ready(Err(Lost::Broken(error.to_string()))),
                None if self.gathered.is_empty() => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Lost::Malformed("a stream ended inside a message".to_owned()))),
            }
        }
    }

    /// Takes a message out if all of it is there; else everything has moved to `gathered`.
    fn take_whole(&mut self) -> Result<Option<Bytes>, Lost> {
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
            self.gathered.extend_from_slice(&part);
            if let Some(length) = self.length(&self.gathered)?
                && self.gathered.len() == PREFIX_BYTES + length
            {
                self.gathered.advance(PREFIX_BYTES);
                return Ok(Some(std::mem::take(&mut self.gathered).freeze()));
            }
        }
        Ok(None)
    }

    /// The length that the prefix at the head of `bytes` announces; None: the prefix is not whole.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Lost> {
        let &[flag, a, b, c, d, ..] = bytes else { return Ok(None) };
        if flag != 0 {
            return Err(Lost::Malformed(format!("a message with flag {flag}: compression is not spoken")));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.message_bytes_max {
            return Err(Lost::Malformed(format!(
                "a message of {length} bytes, more than the {} it may have",
                self.message_bytes_max
            )));
        }
        Ok(Some(length))
    }
}
