//! Cuts gRPC's length-prefixed messages out of the bytes that carry them: for the streams between nodes, and for those of
//! clients.

use bytes::{Buf, Bytes, BytesMut};

/// Flag byte and length before each message.
pub const PREFIX_BYTES: usize = 5;

/// What a message's prefix announces cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPrefix {
    /// A flag that is not taken: 1 says that the message is compressed.
    Flag(u8),
    /// More bytes than a message may have.
    TooLong {
        /// The bytes announced.
        length: usize,
        /// The most.
        max: usize,
    },
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its flag says that it is compressed.
    pub compressed: bool,
    /// What follows the prefix.
    pub bytes: Bytes,
}

/// What came of one stream and was not taken out yet.
#[derive(Debug)]
pub struct Framing {
    /// What of the last bytes is not consumed yet.
    chunk: Bytes,
    /// A message that spans frames, as far as it has come.
    gathered: BytesMut,
    message_bytes_max: usize,
    /// The highest flag that is taken.
    flag_max: u8,
}

impl Framing {
    /// For messages of at most so many bytes, none of them compressed.
    pub fn new(message_bytes_max: usize) -> Self {
        Self { chunk: Bytes::new(), gathered: BytesMut::new(), message_bytes_max, flag_max: 0 }
    }

    /// The same where messages may be compressed: the bound is on them as they are sent.
    pub fn compressible(message_bytes_max: usize) -> Self {
        Self { flag_max: 1, ..Self::new(message_bytes_max) }
    }

    /// The next bytes of the stream: once [`take`](Self::take) has found no further message.
    pub fn put(&mut self, bytes: Bytes) {
        self.chunk = bytes;
    }

    /// Whether the stream may end here: a message is not half there.
    pub fn is_between_messages(&self) -> bool {
        self.gathered.is_empty()
    }

    /// Takes a message out if all of it is there; else everything has moved to what is gathered, each part after `hold`
    /// allowed for its bytes.
    pub fn take<E: From<BadPrefix>>(
        &mut self,
        mut hold: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Option<Message>, E> {
        if self.gathered.is_empty() {
            if self.chunk.is_empty() {
                return Ok(None);
            }
            if let Some(length) = self.length(&self.chunk)?
                && self.chunk.len() >= PREFIX_BYTES + length
            {
                let compressed = self.chunk.get_u8() == 1;
                self.chunk.advance(PREFIX_BYTES - 1);
                return Ok(Some(Message { compressed, bytes: self.chunk.split_to(length) }));
            }
        }
        while !self.chunk.is_empty() {
            let wanted = match self.length(&self.gathered)? {
                Some(length) => PREFIX_BYTES + length - self.gathered.len(),
                None => PREFIX_BYTES - self.gathered.len(),
            };
            let part = self.chunk.split_to(wanted.min(self.chunk.len()));
            hold(part.len())?;
            self.gathered.extend_from_slice(&part);
            if let Some(length) = self.length(&self.gathered)?
                && self.gathered.len() == PREFIX_BYTES + length
            {
                let compressed = self.gathered.get_u8() == 1;
                self.gathered.advance(PREFIX_BYTES - 1);
                return Ok(Some(Message { compressed, bytes: std::mem::take(&mut self.gathered).freeze() }));
            }
        }
        Ok(None)
    }

    /// The length that the prefix at the head of `bytes` announces; None: the prefix is not whole.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, BadPrefix> {
        let &[flag, a, b, c, d, ..] = bytes else { return Ok(None) };
        if flag > self.flag_max {
            return Err(BadPrefix::Flag(flag));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let max = self.message_bytes_max;
        if length > max { Err(BadPrefix::TooLong { length, max }) } else { Ok(Some(length)) }
    }
}
