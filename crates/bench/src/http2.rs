//! One HTTP/2 connection to a gRPC server: frames in, frames out, no runtime and no allocation
//! per call. A load generator shares the machine with the server it measures; what it costs is
//! missing there.
//!
//! Not here: sockets becoming ready and who sends what (`engine`).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mio::net::TcpStream;

use crate::hpack::{Decoder, Outcome, RequestHeaders};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
const GRPC_PREFIX: usize = 5;
/// What one `read` may return, and so how long one connection holds up the others.
const READ_BYTES_MAX: usize = 256 << 10;
/// Flow-control windows we grant, bytes: large enough that none of the loads waits for them.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 256 << 20;
const DEFAULT_WINDOW: u32 = 65_535;
/// The largest frame the server may send us; the protocol's default, as real clients have it.
const FRAME_BYTES_MAX: usize = 16_384;
/// The largest message we put together from pieces.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

mod receive;

mod frame {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;

    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// What the caller wants of a stream's messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Want {
    Bodies,
    /// Only how long they were: nothing is put together, so long lists cost us one pass.
    Sizes,
}

/// Something a stream had to say. Ranges point into [`Conn::received`].
#[derive(Debug)]
pub enum Event {
    Message { slot: u32, body: Body },
    End { slot: u32, status: Status },
}

#[derive(Debug)]
pub enum Body {
    Received(Range<usize>),
    Assembled(Vec<u8>),
    Size(usize),
}

/// How a call ended: gRPC status code and text, or what replaced them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub code: u16,
    pub message: Box<str>,
}

#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

struct Stream {
    slot: u32,
    want: Want,
    send_window: i64,
    unacknowledged: u32,
    outcome: Outcome,
    prefix: [u8; GRPC_PREFIX],
    prefix_len: usize,
    message_left: usize,
    message_len: usize,
    assembled: Vec<u8>,
}

/// Bytes that wait for a window.
struct Blocked {
    stream: u32,
    data: Vec<u8>,
    sent: usize,
    last: bool,
}

pub struct Conn {
    socket: TcpStream,
    received: Vec<u8>,
    received_len: usize,
    /// How much of `received` has been turned into events.
    consumed: usize,
    out: Vec<u8>,
    out_sent: usize,
    streams: HashMap<u32, Stream, BuildHasherDefault<IdHasher>>,
    next_stream: u32,
    send_window: i64,
    stream_window: i64,
    frame_bytes_max: usize,
    streams_max: u32,
    unacknowledged: u32,
    blocked: Vec<Blocked>,
    headers: RequestHeaders,
    decoder: Decoder,
    continued: Option<(u32, u8, Vec<u8>)>,
    settled: bool,
}

impl Conn {
    /// Connects within `timeout` and queues the preface; the server's settings are not there yet.
    pub fn connect(address: SocketAddr, timeout: Duration) -> Result<Conn> {
        let socket = std::net::TcpStream::connect_timeout(&address, timeout)
            .with_context(|| format!("connecting to {address}"))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut out = PREFACE.to_vec();
        frame_header(&mut out, 12, frame::SETTINGS, 0, 0);
        for (id, value) in [(2u16, 0u32), (4, STREAM_WINDOW)] {
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
        window_update(&mut out, 0, CONNECTION_WINDOW - DEFAULT_WINDOW);
        Ok(Conn {
            socket: TcpStream::from_std(socket),
            received: vec![0; READ_BYTES_MAX + FRAME_BYTES_MAX + FRAME_HEADER],
            received_len: 0,
            consumed: 0,
            out,
            out_sent: 0,
            streams: HashMap::default(),
            next_stream: 1,
            send_window: i64::from(DEFAULT_WINDOW),
            stream_window: i64::from(DEFAULT_WINDOW),
            frame_bytes_max: FRAME_BYTES_MAX,
            streams_max: u32::MAX,
            unacknowledged: 0,
            blocked: Vec::new(),
            headers: RequestHeaders::new(&address.to_string()),
            decoder: Decoder::new(),
            continued: None,
            settled: false,
        })
    }

    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// The server's settings have arrived: calls may begin.
    pub fn settled(&self) -> bool {
        self.settled
    }

    /// Lends the bytes that [`Body::Received`] ranges point into; to be given back before the next read.
    pub fn lend_received(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    /// Takes the buffer back; ranges into it end here.
    pub fn return_received(&mut self, mut buffer: Vec<u8>) {
        buffer.copy_within(self.consumed..self.received_len, 0);
        self.received_len -= self.consumed;
        self.consumed = 0;
        self.received = buffer;
    }

    /// Opens a stream for a call of `path`. Errors when the server allows no more of them.
    pub fn open(&mut self, slot: u32, path: &'static str, want: Want) -> Result<u32> {
        ensure!(
            self.streams.len() < self.streams_max as usize,
            "the server allows {} streams on a connection: give more --connections",
            self.streams_max
        );
        let id = self.next_stream;
        ensure!(id < 1 << 31, "stream ids of the connection are used up: run shorter or with more --connections");
        self.next_stream += 2;
        let at = self.out.len();
        frame_header(&mut self.out, 0, frame::HEADERS, frame::END_HEADERS, id);
        self.headers.write(path, &mut self.out);
        let len = self.out.len() - at - FRAME_HEADER;
        self.out[at..at + 3].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
        let stream = Stream {
            slot,
            want,
            send_window: self.stream_window,
            unacknowledged: 0,
            outcome: Outcome::default(),
            prefix: [0; GRPC_PREFIX],
            prefix_len: 0,
            message_left: 0,
            message_len: 0,
            assembled: Vec::new(),
        };
        self.streams.insert(id, stream);
        Ok(id)
    }

    /// Sends one message; `last` closes our half of the stream.
    pub fn send(&mut self, id: u32, message: &[u8], last: bool) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return; // the server ended it already; its End event says why
        };
        let len = GRPC_PREFIX + message.len();
        let mut prefix = [0u8; GRPC_PREFIX];
        prefix[1..].copy_from_slice(&(message.len() as u32).to_be_bytes());
        let room = self.send_window.min(stream.send_window).min(self.frame_bytes_max as i64);
        if self.blocked.is_empty() && len as i64 <= room {
            self.send_window -= len as i64;
            stream.send_window -= len as i64;
            frame_header(&mut self.out, len, frame::DATA, if last { frame::END_STREAM } else { 0 }, id);
            self.out.extend_from_slice(&prefix);
            self.out.extend_from_slice(message);
        } else {
            let data = [&prefix[..], message].concat();
            self.blocked.push(Blocked { stream: id, data, sent: 0, last });
            self.unblock();
        }
    }

    fn unblock(&mut self) {
        let mut waiting = std::mem::take(&mut self.blocked);
        waiting.retain_mut(|b| {
            let Some(stream) = self.streams.get_mut(&b.stream) else { return false };
            loop {
                let left = b.data.len() - b.sent;
                let room = self.send_window.min(stream.send_window).min(self.frame_bytes_max as i64).max(0) as usize;
                let part = left.min(room);
                if part == 0 {
                    return true;
                }
                let end = part == left && b.last;
                frame_header(&mut self.out, part, frame::DATA, if end { frame::END_STREAM } else { 0 }, b.stream);
                self.out.extend_from_slice(&b.data[b.sent..b.sent + part]);
                b.sent += part;
                self.send_window -= part as i64;
                stream.send_window -= part as i64;
                if part == left {
                    return false;
                }
            }
        });
        self.blocked = waiting;
    }

    /// Writes what is queued; what the socket does not take stays for the next call.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.out_sent < self.out.len() {
            match self.socket.write(&self.out[self.out_sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => self.out_sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.out.clear();
        self.out_sent = 0;
        Ok(())
    }
}

fn frame_header(out: &mut Vec<u8>, len: usize, kind: u8, flags: u8, stream: u32) {
    let len = (len as u32).to_be_bytes();
    let id = stream.to_be_bytes();
    out.extend_from_slice(&[len[1], len[2], len[3], kind, flags, id[0], id[1], id[2], id[3]]);
}

fn window_update(out: &mut Vec<u8>, stream: u32, bytes: u32) {
    frame_header(out, 4, frame::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&bytes.to_be_bytes());
}
