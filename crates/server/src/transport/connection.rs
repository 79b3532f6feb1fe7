//! Drives one HTTP/2 connection: accepts its calls, runs most of them in its own task, and writes
//! their answers out together.

use super::ping_policy::PingPolicy;
use super::shared::{Client, ConnShared};
use super::wire::Wire;
use super::{Incoming, Routes, Work};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use h2::server::Connection;
use h2::{Ping, PingPong, Reason};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

/// After the last GOAWAY the client has so long to close its side. What it sent before it read that is read, and thrown
/// away: unread, the kernel would answer it with a reset, which may take the GOAWAY with it, or fail the client's next
/// write before it reads. Then it would not know that it may send its request elsewhere.
const LINGER: Duration = Duration::from_secs(1);

/// HTTP/2 settings and bounds of one connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimits {
    /// Streams a client may have open; etcd allows any number.
    pub(crate) streams_max: u32,
    /// Calls under way before further ones wait to be accepted.
    pub(crate) calls_max: usize,
    /// Flow-control window of one stream, bytes.
    pub(crate) stream_window_bytes: u32,
    /// Flow-control window of the connection, bytes.
    pub(crate) connection_window_bytes: u32,
    /// Response bytes that HTTP/2 holds for one stream.
    pub(crate) stream_send_bytes_max: usize,
    /// Calls given up before they were even looked at; more of them are an attack, and end the connection.
    pub(crate) resets_max: usize,
    /// Size of a request's headers, as HTTP/2 counts it.
    pub(crate) header_bytes_max: u32,
    /// A silent connection is pinged after this long.
    pub(crate) ping_after: Duration,
    /// And closed when it stays silent this much longer.
    pub(crate) ping_timeout: Duration,
    /// Time to say which protocol is spoken, and to finish its greeting.
    pub(crate) greeting_timeout: Duration,
    /// The same once the server drains, from then on: who has something to ask greets at once.
    pub(crate) greeting_timeout_draining: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            streams_max: 1 << 20,
            calls_max: 10_000,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 8 << 20,
            stream_send_bytes_max: 256 << 10,
            resets_max: 200,
            header_bytes_max: 16 << 10,
            ping_after: Duration::from_secs(2 * 3600),
            ping_timeout: Duration::from_secs(20),
            greeting_timeout: Duration::from_secs(10),
            greeting_timeout_draining: Duration::from_secs(1),
        }
    }
}

/// Serves HTTP/2 on `wire` until the client leaves, misbehaves, or a drain is over.
pub(crate) async fn serve<S, R>(
    wire: Wire<S>,
    routes: Arc<R>,
    limits: &ConnectionLimits,
    client: Client,
    drain: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    R: Routes,
{
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_concurrent_streams(limits.streams_max)
        .max_send_buffer_size(limits.stream_send_bytes_max)
        .max_pending_accept_reset_streams(limits.resets_max)
        .max_header_list_size(limits.header_bytes_max);
    let greeting_wire = wire.clone();
    let mut handshake = pin!(builder.handshake::<_, Bytes>(wire.clone()));
    let greeted = poll_fn(move |cx| {
        greeting_wire.begin_turn();
        let result = handshake.as_mut().poll(cx);
        match greeting_wire.poll_drain(cx) {
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            _ => result.map(|r| r.map_err(h2_error)),
        }
    });
    let mut h2 = tokio::time::timeout(limits.greeting_timeout, greeted)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let ping_pong = h2.ping_pong();
    let shared = ConnShared::new(client, drain.clone());
    let mut drain = drain;
    let mut drained = Box::pin(async move {
        // An error means that the server is gone, which is draining too.
        let _ = drain.wait_for(|&draining| draining).await;
    });
    let mut driver = Driver {
        h2,
        wire,
        routes,
        shared,
        calls: FuturesUnordered::new(),
        calls_max: limits.calls_max,
        yielded: false,
        draining: false,
        pings: PingPolicy::default(),
        keepalive: Keepalive {
            ping_pong,
            after: limits.ping_after,
            timeout: limits.ping_timeout,
            timer: Box::pin(sleep(limits.ping_after)),
            reads_seen: 0,
            waiting: false,
        },
    };
    let ended = poll_fn(|cx| {
        if !driver.draining && drained.as_mut().poll(cx).is_ready() {
            driver.draining = true;
            driver.h2.graceful_shutdown();
        }
        driver.poll(cx)
    })
    .await;
    if ended.is_ok() && driver.draining {
        let wire = driver.wire.clone();
        drop(driver);
        // Said was everything; a client that does not leave is left.
        let _ = tokio::time::timeout(LINGER, poll_fn(|cx| wire.poll_ignore(cx))).await;
    }
    ended
}

fn h2_error(error: h2::Error) -> io::Error {
    match error.get_io() {
        Some(io) => io.kind().into(),
        None => io::Error::other(error),
    }
}

struct Driver<S, R> {
    h2: Connection<Wire<S>, Bytes>,
    wire: Wire<S>,
    routes: Arc<R>,
    shared: Arc<ConnShared>,
    /// Calls that run in this task.
    calls: FuturesUnordered<BoxFuture<'static, ()>>,
    calls_max: usize,
    /// The ready tasks were let run since something was buffered.
    yielded: bool,
    draining: bool,
    pings: PingPolicy,
    keepalive: Keepalive,
}

impl<S: AsyncRead + AsyncWrite + Unpin, R: Routes> Driver<S, R> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.begin_turn();
        // Who does not take answers does not get to ask more.
        if self.wire.is_congested() {
            if let Poll::Ready(result) = self.wire.poll_drain(cx) {
                result?;
            } else {
                return self.keepalive.poll(&self.wire, cx);
            }
        }
        loop {
            let mut progress = self.poll_accept(cx)?;
            if progress == Progress::Closed {
                return Poll::Ready(Ok(()));
            }
            while let Poll::Ready(Some(())) = self.calls.poll_next_unpin(cx) {
                progress = Progress::Some;
            }
            if progress == Progress::None {
                break;
            }
        }
        self.judge_pings(cx);
        self.poll_write(cx)?;
        self.keepalive.poll(&self.wire, cx)
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> io::Result<Progress> {
        let mut progress = Progress::None;
        loop {
            if self.shared.unary_calls.load(Ordering::Relaxed) >= self.calls_max {
                return match self.h2.poll_closed(cx) {
                    Poll::Ready(result) => result.map(|()| Progress::Closed).map_err(h2_error),
                    Poll::Pending => Ok(progress),
                };
            }
            match self.h2.poll_accept(cx) {
                Poll::Pending => return Ok(progress),
                Poll::Ready(None) => return Ok(Progress::Closed),
                Poll::Ready(Some(Err(e))) => return Err(h2_error(e)),
                Poll::Ready(Some(Ok((request, send)))) => {
                    progress = Progress::Some;
                    let (head, body) = request.into_parts();
                    self.start(cx, Incoming { head, body, send, shared: self.shared.clone() });
                }
            }
        }
    }

    fn start(&mut self, cx: &mut Context<'_>, incoming: Incoming) {
        match self.routes.start(incoming) {
            Work::Here(mut call) => {
                if call.as_mut().poll(cx).is_pending() {
                    self.calls.push(call);
                }
            }
            Work::Queued(call) => self.calls.push(call),
        }
    }

    /// Writes out at once when nothing else is under way; else lets the ready tasks run first, as
    /// they may have answers for the same write.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.wire.has_pending() {
            self.yielded = false;
            return Ok(());
        }
        if !self.yielded && self.shared.unary_calls.load(Ordering::Relaxed) > 0 {
            self.yielded = true;
            // Polled once, it has us woken after the tasks that are ready now.
            let turn = pin!(tokio::task::yield_now());
            if turn.poll(cx).is_pending() {
                return Ok(());
            }
        }
        self.yielded = false;
        match self.wire.poll_drain(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    fn judge_pings(&mut self, cx: &mut Context<'_>) {
        let pings = self.wire.take_pings();
        if pings == 0 {
            return;
        }
        let has_sent = self.shared.has_sent.swap(false, Ordering::Relaxed);
        if self.pings.observe(pings, Instant::now(), self.h2.has_streams(), has_sent) {
            // The library's own farewell has no text, by which clients know to ping less.
            self.wire.inject(TOO_MANY_PINGS);
            self.h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            cx.waker().wake_by_ref();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    None,
    Some,
    Closed,
}

/// GOAWAY, last stream 2^31-1, ENHANCE_YOUR_CALM, `too_many_pings`.
const TOO_MANY_PINGS: &[u8] = b"\x00\x00\x16\x07\x00\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x0btoo_many_pings";

/// Pings a silent client and closes the connection when that is not answered.
struct Keepalive {
    ping_pong: Option<PingPong>,
    after: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    reads_seen: u64,
    waiting: bool,
}

impl Keepalive {
    fn poll<S>(&mut self, wire: &Wire<S>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let reads = wire.reads();
            let silent = reads == self.reads_seen;
            self.reads_seen = reads;
            let next = match (silent, self.waiting) {
                (true, true) => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                (true, false) => {
                    self.waiting = true;
                    if let Some(ping_pong) = &mut self.ping_pong {
                        // Refused only while an earlier ping is unanswered, which serves as well.
                        let _ = ping_pong.send_ping(Ping::opaque());
                    }
                    self.timeout
                }
                (false, _) => {
                    self.waiting = false;
                    self.after
                }
            };
            self.timer.as_mut().reset(tokio::time::Instant::now() + next);
        }
        if self.waiting
            && let Some(ping_pong) = &mut self.ping_pong
        {
            // The answer itself counts as something read.
            let _ = ping_pong.poll_pong(cx);
        }
        Poll::Pending
    }
}
