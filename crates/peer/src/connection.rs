//! Drives one connection: everything that happens on it runs in one task, and what became ready in one turn of
//! it leaves in one write.

use crate::error::Lost;
use crate::outbox::Outbox;
use crate::socket::Socket;
use crate::tasks::Tasks;
use crate::wire::Wire;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use h2::server::SendResponse;
use h2::{Ping, PingPong, RecvStream};
use http::Request;
use netsy_api::peer::{Goodbye, SessionFrame, session_frame};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep};

/// Flow-control window of one stream: what one stream may have in flight and in memory.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Of a connection: room for all its streams, so that none holds up another.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Session, calls, and the log's streams, of which old ones may still be ending.
pub(crate) const STREAMS_MAX: u32 = 12;
/// Large frames: one for most messages.
pub(crate) const FRAME_BYTES_MAX: u32 = 256 << 10;
/// What HTTP/2 holds of one stream beside the outbox.
pub(crate) const SEND_BUFFER_BYTES: usize = 256 << 10;
/// Size of a call's headers.
pub(crate) const HEADER_BYTES_MAX: u32 = 4 << 10;
/// Time for the last words of a connection to leave.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// The HTTP/2 library's side of it.
pub(crate) enum Io {
    Client(h2::client::Connection<Wire<Socket>, Bytes>),
    Server(h2::server::Connection<Wire<Socket>, Bytes>),
}

/// What accepts the calls of the other end.
pub(crate) type Accept = Box<dyn FnMut(Request<RecvStream>, SendResponse<Bytes>) + Send>;

/// Times of [`Keepalive`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepaliveTimes {
    pub(crate) after: Duration,
    pub(crate) timeout: Duration,
}

/// One connection.
pub(crate) struct Driver {
    io: Io,
    wire: Wire<Socket>,
    tasks: Arc<Tasks>,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
    accept: Option<Accept>,
    keepalive: Keepalive,
    /// What is sent on it last.
    session: Arc<Outbox>,
}

enum Event {
    Accepted,
    Closed(Lost),
}

impl Driver {
    pub(crate) fn new(
        mut io: Io,
        wire: Wire<Socket>,
        tasks: Arc<Tasks>,
        accept: Option<Accept>,
        session: Arc<Outbox>,
        times: KeepaliveTimes,
    ) -> Self {
        let ping_pong = match &mut io {
            Io::Client(client) => client.ping_pong(),
            Io::Server(server) => server.ping_pong(),
        };
        let keepalive =
            Keepalive { ping_pong, times, timer: Box::pin(sleep(times.after)), reads_seen: 0, waiting: false };
        Self { io, wire, tasks, running: FuturesUnordered::new(), accept, keepalive, session }
    }

    /// Runs until the connection is over, and says why it is.
    pub(crate) async fn run(mut self) -> Lost {
        let (lost, by_us) = poll_fn(|cx| self.poll(cx)).await;
        if by_us {
            if self.tasks.is_greeted()
                && let Some(reason) = reason_for_goodbye(&lost)
            {
                // Full: the other end then takes it for a crash, which does no harm.
                let _ = self.session.push(&SessionFrame {
                    kind: Some(session_frame::Kind::Goodbye(Goodbye { reason: reason.to_owned() })),
                });
            }
            // The last words are a courtesy: without them it looks like a crash.
            let mut shut = false;
            let farewell = poll_fn(|cx| self.poll_farewell(cx, &mut shut));
            let _ = tokio::time::timeout(FAREWELL_MAX, farewell).await;
        }
        lost
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Lost, bool)> {
        self.tasks.register(cx.waker());
        if let Poll::Ready(lost) = self.poll_work(cx) {
            // What arrived before the end is still to be read: a goodbye, answers.
            while let Poll::Ready(Some(())) = self.running.poll_next_unpin(cx) {}
            self.tasks.end(lost.clone());
            return Poll::Ready((self.tasks.ended().unwrap_or(lost), false));
        }
        if let Some(lost) = self.tasks.ended() {
            return Poll::Ready((lost, true));
        }
        match self.wire.poll_drain(cx) {
            Poll::Ready(Err(error)) => return Poll::Ready((Lost::Broken(error.to_string()), false)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        self.keepalive.poll(&self.wire, cx).map(|lost| (lost, false))
    }

    /// Takes what arrived, lets everything run that can. Ready: the other end, or the connection, is gone.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        loop {
            let mut progress = false;
            match self.poll_io(cx) {
                Poll::Ready(Event::Closed(lost)) => return Poll::Ready(lost),
                Poll::Ready(Event::Accepted) => progress = true,
                Poll::Pending => {}
            }
            for task in self.tasks.take_new() {
                self.running.push(task);
                progress = true;
            }
            while let Poll::Ready(Some(())) = self.running.poll_next_unpin(cx) {
                progress = true;
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match &mut self.io {
            Io::Client(client) => match ready!(Pin::new(client).poll(cx)) {
                Ok(()) => Poll::Ready(Event::Closed(closed_by_other_end())),
                Err(error) => Poll::Ready(Event::Closed(broken(&error))),
            },
            Io::Server(server) => match ready!(server.poll_accept(cx)) {
                Some(Ok((request, respond))) => {
                    if let Some(accept) = &mut self.accept {
                        accept(request, respond);
                    }
                    Poll::Ready(Event::Accepted)
                }
                Some(Err(error)) => Poll::Ready(Event::Closed(broken(&error))),
                None => Poll::Ready(Event::Closed(closed_by_other_end())),
            },
        }
    }

    /// Sends what the session still has to say, and lets the other end read it before the socket closes.
    fn poll_farewell(&mut self, cx: &mut Context<'_>, shut: &mut bool) -> Poll<()> {
        self.tasks.register(cx.waker());
        if self.poll_work(cx).is_ready() {
            return Poll::Ready(());
        }
        if !*shut && self.session.queued() == 0 {
            // Has what was just taken from the session framed.
            if self.poll_io(cx).is_ready() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match Pin::new(&mut self.wire).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => *shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }
}

/// What the other end is told of an end that is no failure of its own.
fn reason_for_goodbye(lost: &Lost) -> Option<&str> {
    match lost {
        Lost::Closed(reason) => Some(reason),
        Lost::Superseded => Some("a newer connection took its place"),
        Lost::Broken(_) | Lost::Silent(_) | Lost::Goodbye(_) | Lost::Malformed(_) => None,
    }
}

fn closed_by_other_end() -> Lost {
    Lost::Broken("closed by the other end".to_owned())
}

/// The reason without the library's own words around it.
fn broken(error: &h2::Error) -> Lost {
    match error.get_io() {
        Some(io) => Lost::Broken(io.to_string()),
        None => Lost::Broken(error.to_string()),
    }
}

/// Pings a silent other end, and gives it up when that is not answered.
struct Keepalive {
    ping_pong: Option<PingPong>,
    times: KeepaliveTimes,
    timer: Pin<Box<Sleep>>,
    reads_seen: u64,
    waiting: bool,
}

impl Keepalive {
    fn poll(&mut self, wire: &Wire<Socket>, cx: &mut Context<'_>) -> Poll<Lost> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let reads = wire.reads();
            let silent = reads == self.reads_seen;
            self.reads_seen = reads;
            let next = match (silent, self.waiting) {
                (true, true) => {
                    let silence = self.times.after + self.times.timeout;
                    return Poll::Ready(Lost::Silent(silence.as_millis() as u64));
                }
                (true, false) => {
                    self.waiting = true;
                    if let Some(ping_pong) = &mut self.ping_pong {
                        // Refused only while an earlier ping is unanswered, which serves as well.
                        let _ = ping_pong.send_ping(Ping::opaque());
                    }
                    self.times.timeout
                }
                (false, _) => {
                    self.waiting = false;
                    self.times.after
                }
            };
            self.timer.as_mut().reset(Instant::now() + next);
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
