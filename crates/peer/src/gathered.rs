//! A socket whose writes are gathered: many frames leave in one system call.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// How much is gathered, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Gathering {
    /// From here on the buffer is written out without waiting for more.
    pub write: usize,
    /// The most the buffer takes while the socket does not.
    pub held_max: usize,
    /// A buffer larger than this is given back once everything is written out.
    pub kept_max: usize,
}

/// A socket, and what is not written to it yet. Where something is written, `wrote` is told of each piece.
#[derive(Debug)]
pub struct Gathered<S> {
    /// To be read from, and not to be written to.
    pub socket: S,
    sizes: Gathering,
    out: Vec<u8>,
    sent: usize,
}

impl<S> Gathered<S> {
    /// With nothing to write.
    pub fn new(socket: S, sizes: Gathering) -> Self {
        Self { socket, sizes, out: Vec::new(), sent: 0 }
    }

    /// Bytes that are to be written.
    #[inline]
    pub fn pending(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Whether no more is taken, as the socket takes nothing.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.pending() >= self.sizes.held_max
    }

    /// Has room for `room` bytes in all, at once, unless there is room for a write already.
    #[inline]
    pub fn make_room(&mut self, room: usize) {
        if self.out.capacity() < self.sizes.write {
            self.out.reserve_exact(room.saturating_sub(self.out.len()));
        }
    }

    /// Takes all of `bytes`, which are few, however much there is.
    pub fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Takes what it can of `bytes`, and writes where enough has come together.
    #[inline]
    pub fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        wrote: impl FnMut(usize),
    ) -> Poll<io::Result<usize>> {
        if self.pending() >= self.sizes.write {
            if let Poll::Ready(result) = self.poll_write_out(cx, wrote) {
                result?;
            } else if self.is_full() {
                return Poll::Pending;
            }
        }
        if self.sent >= self.sizes.write {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        let taken = &bytes[..bytes.len().min(self.sizes.write)];
        self.out.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    /// Writes everything out, and gives a large buffer back.
    pub fn poll_empty(&mut self, cx: &mut Context<'_>, wrote: impl FnMut(usize)) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx, wrote))?;
        if self.out.capacity() > self.sizes.kept_max {
            self.out = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// The same, and closes.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>, wrote: impl FnMut(usize)) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx, wrote))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>, mut wrote: impl FnMut(usize)) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let n = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.out[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
            wrote(n);
        }
        self.sent = 0;
        self.out.clear();
        Pin::new(&mut self.socket).poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// Takes `room` bytes, then none.
    struct Narrow {
        room: usize,
        got: Vec<u8>,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Poll::Pending;
            }
            self.room -= n;
            self.got.extend_from_slice(&bytes[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn all_bytes_come_in_order_and_no_more_are_held_than_told() {
        let sizes = Gathering { write: 10, held_max: 25, kept_max: 8 };
        let mut socket = Gathered::new(Narrow { room: 0, got: vec![] }, sizes);
        let cx = &mut Context::from_waker(Waker::noop());
        let (all, mut taken, mut told): (Vec<u8>, _, _) = ((0..=255).collect(), 0, 0);
        while taken < all.len() {
            match socket.poll_take(cx, &all[taken..], |n| told += n) {
                Poll::Ready(n) => taken += n.expect("no error"),
                Poll::Pending => {
                    assert!(socket.is_full(), "{} bytes are pending", socket.pending());
                    socket.socket.room += 7;
                }
            }
            assert!(socket.pending() < 25 + 10, "{} bytes are pending", socket.pending());
        }
        assert!(socket.poll_empty(cx, |n| told += n).is_pending());
        socket.socket.room = 1_000;
        assert!(socket.poll_empty(cx, |n| told += n).is_ready());
        assert_eq!((socket.pending(), socket.out.capacity(), socket.socket.got, told), (0, 0, all, 256));
    }
}
