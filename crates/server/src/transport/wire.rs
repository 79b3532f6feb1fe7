//! A connection's socket, wrapped so that writes coalesce.
//!
//! HTTP/2 frames go into a buffer; the connection writes it out once the tasks that are ready
//! have run, so that many responses leave in one system call (reference/engine.md). The socket is
//! shared by the HTTP/2 library, which reads and fills the buffer, and the connection's driver,
//! which empties it; both run in the same task, so the lock is never waited for.

use super::authority::AuthorityMender;
use super::frame_meter::FrameMeter;
use crate::metrics::Traffic;
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// From here on the buffer is written out without waiting for more. Each write of a long answer may wake the client's
/// thread, which costs more than copying what is written: hence few large ones.
const WRITE_BYTES: usize = 256 << 10;
/// The most the buffer takes while the socket does not.
const HELD_BYTES_MAX: usize = 512 << 10;
/// After a write of this size other threads get the processor: what answers and commits small writes waits behind
/// long answers else, for as long as the kernel lets a thread run.
const YIELDING_BYTES: usize = 32 << 10;
/// What one connection writes before the other tasks of its thread get a turn.
const TURN_BYTES: usize = 1 << 20;
/// A buffer larger than this is given back once everything is written out.
const KEPT_BYTES_MAX: usize = 16 << 10;
/// A write of this size is likely one of many: room for all of them is made at once.
const LARGE_BYTES: usize = 4 << 10;
/// That room: the buffer is written out when it has reached [`WRITE_BYTES`], and one more frame fits.
const ROOM_BYTES: usize = WRITE_BYTES + (16 << 10) + LARGE_BYTES;

/// Handle to the wrapped socket; clones are the same socket.
pub(crate) struct Wire<S>(Arc<Mutex<Inner<S>>>);

impl<S> Clone for Wire<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<S> {
    stream: S,
    /// Bytes read while finding out which protocol is spoken, to be read again.
    head: Vec<u8>,
    head_read: usize,
    out: Vec<u8>,
    out_sent: usize,
    /// Bytes that may be framed before this connection has to let others run.
    turn: usize,
    /// Everything the HTTP/2 library has framed is in `out`: frames may be put between.
    at_boundary: bool,
    /// Every flush goes to the socket, as HTTP/1 wants it.
    through: bool,
    meter: FrameMeter,
    mender: AuthorityMender,
    reads: u64,
    traffic: Traffic,
}

impl<S> Wire<S> {
    pub(crate) fn new(stream: S, traffic: Traffic) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            stream,
            head: Vec::new(),
            head_read: 0,
            out: Vec::new(),
            out_sent: 0,
            turn: TURN_BYTES,
            at_boundary: true,
            through: false,
            meter: FrameMeter::new(),
            mender: AuthorityMender::new(),
            reads: 0,
            traffic,
        })))
    }

    /// From now on every flush goes to the socket.
    pub(crate) fn write_through(&self) {
        self.0.lock().through = true;
    }

    /// A new turn of the connection's task begins.
    pub(crate) fn begin_turn(&self) {
        self.0.lock().turn = TURN_BYTES;
    }

    /// Whether there is something to write out.
    pub(crate) fn has_pending(&self) -> bool {
        let inner = self.0.lock();
        inner.out.len() > inner.out_sent
    }

    /// Whether the peer does not take what it asked for.
    pub(crate) fn is_congested(&self) -> bool {
        self.0.lock().pending() >= HELD_BYTES_MAX
    }

    /// How often something was read.
    pub(crate) fn reads(&self) -> u64 {
        self.0.lock().reads
    }

    /// Pings seen since the last call.
    pub(crate) fn take_pings(&self) -> u32 {
        self.0.lock().meter.take_pings()
    }

    /// Puts a whole frame between those of the HTTP/2 library. False: it is in the middle of one.
    pub(crate) fn inject(&self, frame: &[u8]) -> bool {
        let mut inner = self.0.lock();
        if inner.at_boundary {
            inner.out.extend_from_slice(frame);
        }
        inner.at_boundary
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Writes out what is buffered.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_empty(cx)
    }

    /// Reads until the peer has closed, for nobody. Lets others run after each read.
    pub(crate) fn poll_ignore(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [0u8; 4 << 10];
        let mut buf = ReadBuf::new(&mut space);
        match ready!(Pin::new(&mut self.0.lock().stream).poll_read(cx, &mut buf)) {
            Ok(()) if !buf.filled().is_empty() => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Reads until `enough` says so of all that was read; it will be read again.
    /// Error: the peer closed before that.
    pub(crate) fn poll_peek(&self, cx: &mut Context<'_>, enough: impl Fn(&[u8]) -> bool) -> Poll<io::Result<Vec<u8>>> {
        let mut inner = self.0.lock();
        while !enough(&inner.head) {
            let mut space = [0u8; 64];
            let mut buf = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut inner.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            inner.traffic.received(buf.filled().len());
            inner.head.extend_from_slice(buf.filled());
        }
        Poll::Ready(Ok(inner.head.clone()))
    }
}

impl<S> Inner<S> {
    fn pending(&self) -> usize {
        self.out.len() - self.out_sent
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    /// Writes out what is buffered and gives a large buffer back.
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if self.out.capacity() > KEPT_BYTES_MAX {
            self.out = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out_sent < self.out.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.out_sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.traffic.sent(n);
            self.out_sent += n;
            if n >= YIELDING_BYTES {
                std::thread::yield_now();
            }
        }
        self.out_sent = 0;
        self.out.clear();
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.lock();
        let before = buf.filled().len();
        if inner.head_read < inner.head.len() {
            let rest = &inner.head[inner.head_read..];
            let n = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..n]);
            inner.head_read += n;
            if inner.head_read == inner.head.len() {
                inner.head = Vec::new();
                inner.head_read = 0;
            }
        } else {
            ready!(Pin::new(&mut inner.stream).poll_read(cx, buf))?;
            inner.traffic.received(buf.filled().len() - before);
        }
        if !inner.through {
            inner.mender.mend(&mut buf.filled_mut()[before..]);
            inner.meter.observe(&buf.filled()[before..]);
        }
        inner.reads += 1;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.lock();
        if inner.turn == 0 && !inner.through {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
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
        inner.at_boundary = false;
        if taken.len() >= LARGE_BYTES && inner.out.capacity() < WRITE_BYTES {
            let room = ROOM_BYTES - inner.out.len();
            inner.out.reserve_exact(room);
        }
        inner.out.extend_from_slice(taken);
        inner.turn = inner.turn.saturating_sub(taken.len());
        Poll::Ready(Ok(taken.len()))
    }

    /// What is framed counts as flushed; the driver writes it out.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.lock();
        inner.at_boundary = true;
        if inner.through { inner.poll_empty(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.lock();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}
