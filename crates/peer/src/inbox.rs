//! Cuts the messages of one stream out of the DATA frames that carry them.

use crate::error::Lost;
use crate::framing::{BadPrefix, Framing};
use bytes::Bytes;
use futures::future::poll_fn;
use h2::RecvStream;
use prost::Message;
use std::task::{Context, Poll, ready};

/// The receiving half of a stream. The window opens as messages are asked for: who does not ask
/// holds the other end up.
pub(crate) struct Inbox {
    body: RecvStream,
    framing: Framing,
}

impl Inbox {
    pub(crate) fn new(body: RecvStream, message_bytes_max: usize) -> Self {
        Self { body, framing: Framing::new(message_bytes_max) }
    }

    /// The next message, decoded; None once the other end has said all it wants to. Cancel-safe.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Lost> {
        let Some(bytes) = poll_fn(|cx| self.poll_next(cx)).await? else { return Ok(None) };
        M::decode(bytes).map(Some).map_err(|e| Lost::Malformed(e.to_string()))
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Lost>> {
        loop {
            if let Some(message) = self.framing.take::<Lost>(|_| Ok(()))? {
                return Poll::Ready(Ok(Some(message.bytes)));
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    if let Err(error) = self.body.flow_control().release_capacity(data.len()) {
                        return Poll::Ready(Err(Lost::Broken(error.to_string())));
                    }
                    self.framing.put(data);
                }
                // How HTTP/2 servers say that they are done before the client is.
                Some(Err(error))
                    if error.reason() == Some(h2::Reason::NO_ERROR) && self.framing.is_between_messages() =>
                {
                    return Poll::Ready(Ok(None));
                }
                Some(Err(error)) => return Poll::Ready(Err(Lost::Broken(error.to_string()))),
                None if self.framing.is_between_messages() => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Lost::Malformed("a stream ended inside a message".to_owned()))),
            }
        }
    }
}

impl From<BadPrefix> for Lost {
    fn from(bad: BadPrefix) -> Self {
        Self::Malformed(match bad {
            BadPrefix::Flag(flag) => format!("a message with flag {flag}: compression is not spoken"),
            BadPrefix::TooLong { length, max } => {
                format!("a message of {length} bytes, more than the {max} it may have")
            }
        })
    }
}
