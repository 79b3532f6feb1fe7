//! A connection's socket, wrapped so that writes coalesce.
//!
//! HTTP/2 frames go into a buffer; the connection writes it out once the tasks that are ready
//! have run, so that many responses leave in one system call (reference/engine.md). The socket is
//! shared by the HTTP/2 library, which reads and fills the buffer, and the connection's driver,
//! which empties it; both run in the same task, so the lock is never waited for.

use super::authority::AuthorityMender;
use super::frame_meter::FrameMeter;
use crate::metrics::Traffic;
use netsy_peer::{Gathered, Gathering};
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Each write of a long answer may wake the client's thread, which costs more than copying what is written: hence few
/// large ones.
const SIZES: Gathering = Gathering { write: 256 << 10, held_max: 512 << 10, kept_max: 16 << 10 };
/// After a write of this size other threads get the processor: what answers and commits small writes waits behind
/// long answers else, for as long as the kernel lets a thread run.
const YIELDING_BYTES: usize = 32 << 10;
/// What one connection writes before the other tasks of its thread get a turn.
const TURN_BYTES: usize = 1 << 20;
/// A write of this size is likely one of many: room for all of them is made at once.
const LARGE_BYTES: usize = 4 << 10;
/// That room: the buffer is written out when it has reached what [`SIZES`] says, and one more frame fits.
const ROOM_BYTES: usize = SIZES.write + (16 << 10) + LARGE_BYTES;

/// Handle to the wrapped socket; clones are the same socket.
pub(crate) struct Wire<S>(Arc<Mutex<Inner<S>>>);

impl<S> Clone for Wire<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<S> {
    socket: Gathered<S>,
    /// Bytes read while finding out which protocol is spoken, to be read again.
    head: Vec<u8>,
    head_read: usize,
    /// Bytes that may be framed before this connection has to let others run.
    turn: usize,
    /// Everything the HTTP/2 library has framed is taken: frames may be put between.
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
            socket: Gathered::new(stream, SIZES),
            head: Vec::new(),
            head_read: 0,
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
        self.0.lock().socket.pending() > 0
    }

    /// Whether the peer does not take what it asked for.
    pub(crate) fn is_congested(&self) -> bool {
        self.0.lock().socket.is_full()
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
            inner.socket.put(frame);
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
        match ready!(Pin::new(&mut self.0.lock().socket.socket).poll_read(cx, &mut buf)) {
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
            ready!(Pin::new(&mut inner.socket.socket).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            inner.traffic.received(buf.filled().len());
            inner.head.extend_from_slice(buf.filled());
        }
        Poll::Ready(Ok(inner.head.clone()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    /// Writes out what is buffered and gives a large buffer back.
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_empty(cx, |n| wrote(&self.traffic, n))
    }
}

fn wrote(traffic: &Traffic, bytes: usize) {
    traffic.sent(bytes);
    if bytes >= YIELDING_BYTES {
        std::thread::yield_now();
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
            ready!(Pin::new(&mut inner.socket.socket).poll_read(cx, buf))?;
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
        if bytes.len() >= LARGE_BYTES {
            inner.socket.make_room(ROOM_BYTES);
        }
        let taken = ready!(inner.socket.poll_take(cx, bytes, |n| wrote(&inner.traffic, n)))?;
        inner.at_boundary = false;
        inner.turn = inner.turn.saturating_sub(taken);
        Poll::Ready(Ok(taken))
    }

    /// What is framed counts as flushed; the driver writes it out.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.lock();
        inner.at_boundary = true;
        if inner.through { inner.poll_empty(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.lock();
        inner.socket.poll_shutdown(cx, |n| wrote(&inner.traffic, n))
    }
}
