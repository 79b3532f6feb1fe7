//! A connection's socket, wrapped so that writes coalesce.
//!
//! HTTP/2 frames go into a buffer, which the connection writes out at the end of its turn: what many
//! callers had to say leaves in one system call (system calls and wake-ups are most of what a small
//! message costs). The HTTP/2 library fills the buffer and the connection's driver empties
//! it, in the same task, so the lock is never waited for.

use crate::gathered::{Gathered, Gathering};
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const SIZES: Gathering = Gathering { write: 64 << 10, held_max: 256 << 10, kept_max: 128 << 10 };

/// Handle to the wrapped socket; clones are the same socket.
pub(crate) struct Wire<S>(Arc<Mutex<Inner<S>>>);

impl<S> Clone for Wire<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<S> {
    socket: Gathered<S>,
    /// How often something was read.
    reads: u64,
}

impl<S> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Inner { socket: Gathered::new(stream, SIZES), reads: 0 })))
    }

    /// How often something was read.
    pub(crate) fn reads(&self) -> u64 {
        self.0.lock().reads
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Writes out what is buffered.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.lock();
        inner.socket.poll_empty(cx, |_| {})
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.lock();
        ready!(Pin::new(&mut inner.socket.socket).poll_read(cx, buf))?;
        inner.reads += 1;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.lock();
        inner.socket.poll_take(cx, bytes, |_| {})
    }

    /// What is framed counts as flushed; the driver writes it out.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.lock();
        inner.socket.poll_shutdown(cx, |_| {})
    }
}
