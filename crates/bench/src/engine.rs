//! Runs one load against one server on the calling thread: sockets, phases, time limits.
//!
//! Not here: what is sent (`loads`), what is counted (`meter`).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::{Events, Interest, Poll, Token};

use crate::http2::{Body, Conn, Event, Status, Want};
use crate::meter::{Meter, Sample};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest sleep between looks at the clock and the stop flag.
const TICK: Duration = Duration::from_millis(100);
/// How long calls that are under way at the end may take.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// More failed calls than this end the run.
pub const ERRORS_MAX: u64 = 1000;

/// A message as a load sees it.
pub enum Message<'a> {
    Bytes(&'a [u8]),
    Size(usize),
}

/// What drives the calls. A *slot* is one client: it has at most one stream at a time.
pub trait Load {
    /// Sends the first calls.
    fn start(&mut self, io: &mut Io) -> Result<()>;
    fn message(&mut self, slot: usize, message: Message<'_>, io: &mut Io) -> Result<()>;
    fn end(&mut self, slot: usize, status: Status, io: &mut Io) -> Result<()>;
    /// Set up and really loading: the warm-up begins.
    fn ready(&self) -> bool {
        true
    }
    /// No call is under way: the run can end.
    fn idle(&self) -> bool;
}

/// Where, how long and watched by whom.
pub struct Plan<'a> {
    pub address: SocketAddr,
    /// The connection of each slot, numbered from 0 without gaps.
    pub layout: Vec<u32>,
    pub warmup: Duration,
    /// None: until the load ends by itself.
    pub measure: Option<Duration>,
    /// Ends the measured part after about so many operations.
    pub count: Option<u64>,
    /// Longest time without a single answer.
    pub silence_max: Duration,
    pub pids: &'a [u32],
    /// Ends the run from another thread.
    pub stop: Option<&'a AtomicBool>,
}

impl Plan<'_> {
    /// `slots` clients spread evenly over `connections`.
    pub fn spread(slots: usize, connections: usize) -> Vec<u32> {
        (0..slots).map(|slot| (slot % connections.max(1)) as u32).collect()
    }
}

/// What a load may do while it runs.
pub struct Io {
    conns: Vec<Conn>,
    layout: Vec<u32>,
    streams: Vec<u32>,
    dirty: Vec<u32>,
    stopping: bool,
    pub meter: Meter,
}

impl Io {
    /// A unary call (or a server-streaming one) of one message.
    pub fn call(&mut self, slot: usize, path: &'static str, want: Want, message: &[u8]) -> Result<()> {
        let conn = self.open_on(slot, path, want)?;
        self.conns[conn].send(self.streams[slot], message, true);
        Ok(())
    }

    /// A stream to [`Io::send`] on.
    pub fn open(&mut self, slot: usize, path: &'static str) -> Result<()> {
        self.open_on(slot, path, Want::Bodies).map(drop)
    }

    fn open_on(&mut self, slot: usize, path: &'static str, want: Want) -> Result<usize> {
        let conn = self.layout[slot] as usize;
        self.streams[slot] = self.conns[conn].open(slot as u32, path, want)?;
        self.dirty.push(conn as u32);
        Ok(conn)
    }

    pub fn send(&mut self, slot: usize, message: &[u8]) {
        let conn = self.layout[slot];
        self.conns[conn as usize].send(self.streams[slot], message, false);
        self.dirty.push(conn);
    }

    pub fn slots(&self) -> usize {
        self.layout.len()
    }

    /// No further calls are wanted.
    pub fn stopping(&self) -> bool {
        self.stopping
    }

    /// Counts a failed call, and ends the run when there are too many.
    pub fn failed(&mut self, what: impl FnOnce() -> String) -> Result<()> {
        if self.meter.error(what) > ERRORS_MAX {
            bail!("more than {ERRORS_MAX} calls failed");
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        for at in 0..self.dirty.len() {
            let conn = &mut self.conns[self.dirty[at] as usize];
            conn.flush().context("writing to the server")?;
        }
        self.dirty.clear();
        Ok(())
    }
}

struct Runner {
    poll: Poll,
    events: Events,
    happened: Vec<Event>,
    /// Connections whose socket may hold more than the last read took.
    unread: Vec<usize>,
    heard: Instant,
}

/// Connects, runs `load` through its phases and returns what was measured.
pub fn run(plan: &Plan, load: &mut dyn Load) -> Result<Sample> {
    let (mut runner, mut io) = connect(plan)?;
    let measured = runner.phases(plan, load, &mut io);
    match measured {
        Ok(()) => io.meter.into_sample().context("the run ended before its measured part began"),
        // The first failed call usually explains why the run as a whole failed.
        Err(e) => match io.meter.into_first_error() {
            Some(first) => Err(e.context(format!("first failed call: {first}"))),
            None => Err(e),
        },
    }
}

fn connect(plan: &Plan) -> Result<(Runner, Io)> {
    let connections = plan.layout.iter().max().map_or(0, |&last| last as usize + 1);
    ensure!(connections > 0, "no clients: give --clients of at least 1");
    let poll = Poll::new()?;
    let mut conns = Vec::with_capacity(connections);
    for token in 0..connections {
        let mut conn = Conn::connect(plan.address, CONNECT_TIMEOUT)?;
        poll.registry().register(conn.socket(), Token(token), Interest::READABLE | Interest::WRITABLE)?;
        conn.flush()?;
        conns.push(conn);
    }
    let events = Events::with_capacity(connections.max(64));
    let mut runner = Runner { poll, events, happened: Vec::new(), unread: Vec::new(), heard: Instant::now() };
    let mut io = Io {
        conns,
        layout: plan.layout.clone(),
        streams: vec![0; plan.layout.len()],
        dirty: Vec::new(),
        stopping: false,
        meter: Meter::new(plan.pids)?,
    };
    let begun = Instant::now();
    while !io.conns.iter().all(Conn::settled) {
        ensure!(begun.elapsed() < CONNECT_TIMEOUT, "{} does not answer as an HTTP/2 server", plan.address);
        runner.turn(&mut io, &mut Nothing, TICK)?;
    }
    Ok((runner, io))
}

/// The load while connections are being set up.
struct Nothing;

impl Load for Nothing {
    fn start(&mut self, _: &mut Io) -> Result<()> {
        Ok(())
    }
    fn message(&mut self, _: usize, _: Message<'_>, _: &mut Io) -> Result<()> {
        Ok(())
    }
    fn end(&mut self, _: usize, _: Status, _: &mut Io) -> Result<()> {
        Ok(())
    }
    fn idle(&self) -> bool {
        true
    }
}

impl Runner {
    fn phases(&mut self, plan: &Plan, load: &mut dyn Load, io: &mut Io) -> Result<()> {
        let mut warm_until = None;
        let mut end_at: Option<Instant> = None;
        let mut drain_until: Option<Instant> = None;
        let mut measuring = false;
        self.heard = Instant::now();
        if plan.warmup.is_zero() && load.ready() {
            (warm_until, measuring, end_at) = (Some(self.heard), true, plan.measure.map(|m| self.heard + m));
            io.meter.begin()?;
        }
        load.start(io)?;
        io.flush()?;
        loop {
            let now = Instant::now();
            if warm_until.is_none() && load.ready() {
                warm_until = Some(now + plan.warmup);
            }
            if !measuring && warm_until.is_some_and(|t| now >= t) {
                (measuring, end_at) = (true, plan.measure.map(|m| now + m));
                io.meter.begin()?;
            }
            let told = plan.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
            let counted = plan.count.is_some_and(|count| io.meter.operations() >= count);
            if !io.stopping && (told || counted || end_at.is_some_and(|t| now >= t)) {
                io.meter.end()?;
                io.stopping = true;
                drain_until = Some(now + DRAIN_MAX);
            }
            if load.idle() {
                return io.meter.end();
            }
            ensure!(drain_until.is_none_or(|t| now < t), "calls are still unanswered {DRAIN_MAX:?} after the end");
            ensure!(self.heard.elapsed() < plan.silence_max, "no answer for {:?}", plan.silence_max);
            let next = if measuring { end_at.filter(|_| !io.stopping) } else { warm_until };
            let sleep = next.map_or(TICK, |t| t.saturating_duration_since(now).min(TICK));
            self.turn(io, load, sleep)?;
        }
    }

    /// Waits up to `sleep` and handles what is there.
    fn turn(&mut self, io: &mut Io, load: &mut dyn Load, sleep: Duration) -> Result<()> {
        let sleep = if self.unread.is_empty() { sleep } else { Duration::ZERO };
        match self.poll.poll(&mut self.events, Some(sleep)) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            other => other.context("waiting for the server")?,
        }
        let mut ready = std::mem::take(&mut self.unread);
        for event in &self.events {
            let conn = event.token().0;
            if event.is_writable() {
                io.conns[conn].flush().context("writing to the server")?;
            }
            if event.is_readable() && !ready.contains(&conn) {
                ready.push(conn);
            }
        }
        for conn in ready {
            self.read(conn, io, load)?;
        }
        Ok(())
    }

    fn read(&mut self, conn: usize, io: &mut Io, load: &mut dyn Load) -> Result<()> {
        if io.conns[conn].read(&mut self.happened)? {
            self.unread.push(conn);
        }
        let received = io.conns[conn].lend_received();
        if !self.happened.is_empty() {
            self.heard = Instant::now();
        }
        for event in self.happened.drain(..) {
            match event {
                Event::Message { slot, body } => {
                    let message = match &body {
                        Body::Received(at) => Message::Bytes(&received[at.clone()]),
                        Body::Assembled(bytes) => Message::Bytes(bytes),
                        Body::Size(size) => Message::Size(*size),
                    };
                    load.message(slot as usize, message, io)?;
                }
                Event::End { slot, status } => load.end(slot as usize, status, io)?,
            }
        }
        io.conns[conn].return_received(received);
        // Acknowledgements may wait here too.
        io.dirty.push(conn as u32);
        io.flush()
    }
}
