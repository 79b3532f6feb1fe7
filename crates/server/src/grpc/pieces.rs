//! Buffers for the pieces of long answers.
//!
//! A list is copied through them many times over: what makes that cheap is that the same few are used again
//! while they are still in the processor's cache, which no general allocator sees to.

use bytes::Bytes;
use parking_lot::Mutex;

/// Buffers kept for the next answer. More than one stream holds at a time.
const KEPT_MAX: usize = 16;
/// Room for one key-value past the size at which a piece is full.
const SPARE_BYTES: usize = 36 << 10;
/// A buffer that had to grow past this is not kept.
const KEPT_BYTES_MAX: usize = 2 * PieceBuffer::BYTES;

/// The one used last is taken first.
static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// One piece while it is filled; goes back when it was sent, or dropped.
#[derive(Debug)]
pub(crate) struct PieceBuffer(Vec<u8>);

impl PieceBuffer {
    /// A piece is full from here on.
    pub(crate) const BYTES: usize = 64 << 10;

    /// An empty one.
    pub(crate) fn take() -> Self {
        let kept = KEPT.lock().pop();
        Self(kept.unwrap_or_default())
    }

    /// To be filled. Room is made when it is first asked for: not every buffer that is taken gets used.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        if self.0.capacity() == 0 {
            self.0.reserve_exact(Self::BYTES + SPARE_BYTES);
        }
        &mut self.0
    }

    /// As bytes to send.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PieceBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for PieceBuffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        if bytes.capacity() == 0 || bytes.capacity() > KEPT_BYTES_MAX {
            return;
        }
        bytes.clear();
        let mut kept = KEPT.lock();
        if kept.len() < KEPT_MAX {
            kept.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_once_all_that_was_cut_from_it_is_gone() {
        let mut buffer = PieceBuffer::take();
        buffer.bytes().extend_from_slice(b"hello");
        let at = buffer.bytes().as_ptr();
        let mut bytes = buffer.freeze();
        let head = bytes.split_to(2);
        drop(bytes);
        assert_eq!(&head[..], b"he");
        assert!(!KEPT.lock().iter().any(|kept| kept.as_ptr() == at), "still in use");
        drop(head);
        // Another test may have taken it since; if it is there, it is empty.
        assert!(KEPT.lock().iter().all(|kept| kept.is_empty() && kept.capacity() > 0));
        assert!(KEPT.lock().len() <= KEPT_MAX);
    }

    #[test]
    fn one_that_grew_is_let_go() {
        let mut buffer = PieceBuffer::take();
        buffer.bytes().resize(KEPT_BYTES_MAX + 1, 0);
        drop(buffer);
        assert!(KEPT.lock().iter().all(|kept| kept.capacity() <= KEPT_BYTES_MAX));
    }
}
