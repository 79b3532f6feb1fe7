//! A connection's socket, wrapped so that writes coalesce.
//!
//! HTTP/2 frames go into a buffer, which the connection writes out at the end of its turn: what many
//! callers had to say leaves in one system call (system calls and wake-ups are most of what a small
//! message costs). The HTTP/2 library fills the buffer and the connection's driver empties
//! it, in the same task, so the lock is never waited for.

use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// From here on the buffer is written out without waiting for more.
const WRITE_BYTES: usize = 64 << 10;
/// The most the buffer takes while the socket does not.
const HELD_BYTES_MAX: usize = 256 << 10;
/// A buffer larger than this is given back once everything is written out.
const KEPT_BYTES_MAX: usize = 128 << 10;

/// Handle to the wrapped socket; clones are the same socket.
pub(crate) struct Wire<S>(Arc<Mutex<Inner<S>>>);

impl<S> Clone for Wire<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<S> {
    stream: S,
    out: Vec<u8>,
    out_sent: usize,
    /// How often something was read.
    reads: u64,
}

impl<S> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Inner { stream, out: Vec::new(), out_sent: 0, reads: 0 })))
    }

    /// How often something was read.
    pub(crate) fn reads(&self) -> u64 {
        self.0.lock().reads
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Writes out what is buffered.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_drain(cx))?;
        if inner.out.capacity() > KEPT_BYTES_MAX {
            inner.out = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> Inner<S> {
    fn pending(&self) -> usize {
        self.out.len() - self.out_sent
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.out_sent < self.out.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.out_sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out_sent += n;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.out_sent = 0;
        self.out.clear();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.lock();
        ready!(Pin::new(&mut inner.stream).poll_read(cx, buf))?;
        inner.reads += 1;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.lock();
        if inner.pending() >= WRITE_BYTES {
            if let Poll::Ready(result) = inner.poll_drain(cx) {
                result?;
            } else if inner.pending() >= HELD_BYTES_MAX {
                return Poll::Pending;
            }
        }
        if inner.out_sent >= WRITE_BYTES {
            inner.out.drain(..inner.out_sent);
            inner.out_sent = 0;
        }
        let taken = &bytes[..bytes.len().min(WRITE_BYTES)];
        inner.out.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    /// What is framed counts as flushed; the driver writes it out.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.lock();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}
