//! The receiving half of a connection: bytes to frames to messages.

use std::io::{ErrorKind, Read};
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

use super::{
    Body, CONNECTION_WINDOW, Conn, Event, FRAME_BYTES_MAX, FRAME_HEADER, GRPC_PREFIX, MESSAGE_BYTES_MAX,
    READ_BYTES_MAX, STREAM_WINDOW, Status, Stream, Want, frame, frame_header, window_update,
};
use crate::hpack::Outcome;

/// A header block in pieces may not grow past this, bytes.
const HEADER_BLOCK_BYTES_MAX: usize = 64 << 10;
/// gRPC's code for what the protocol has no better word for.
const UNKNOWN: u16 = 2;

impl Conn {
    /// One read, then every whole frame of it. Returns whether the socket may hold more.
    pub fn read(&mut self, events: &mut Vec<Event>) -> Result<bool> {
        let space = &mut self.received[self.received_len..];
        let wanted = space.len().min(READ_BYTES_MAX);
        let got = match self.socket.read(&mut space[..wanted]) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(e) => return Err(e).context("reading from the server"),
        };
        self.received_len += got;
        let received = std::mem::take(&mut self.received);
        let parsed = self.frames(&received[..self.received_len], events);
        self.received = received;
        self.consumed = parsed?;
        Ok(got == wanted)
    }

    fn frames(&mut self, received: &[u8], events: &mut Vec<Event>) -> Result<usize> {
        let mut at = 0;
        while let Some(header) = received.get(at..at + FRAME_HEADER) {
            let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            ensure!(len <= FRAME_BYTES_MAX, "the server sent a frame of {len} bytes, allowed {FRAME_BYTES_MAX}");
            let body = at + FRAME_HEADER..at + FRAME_HEADER + len;
            if body.end > received.len() {
                break;
            }
            at = body.end;
            let id = be32(&header[5..9]) & 0x7fff_ffff;
            self.frame(header[3], header[4], id, received, body, events)?;
        }
        Ok(at)
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        id: u32,
        received: &[u8],
        mut body: Range<usize>,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        ensure!(self.continued.is_none() || kind == frame::CONTINUATION, "frame of kind {kind} inside a header block");
        match kind {
            frame::DATA => {
                self.acknowledge(body.len() as u32);
                let len = body.len() as u32;
                strip_padding(flags, received, &mut body)?;
                self.data(id, len, received, body, flags & frame::END_STREAM != 0, events)
            }
            frame::HEADERS => {
                strip_padding(flags, received, &mut body)?;
                if flags & frame::PRIORITY != 0 {
                    ensure!(body.len() >= 5, "short HEADERS frame");
                    body.start += 5;
                }
                if flags & frame::END_HEADERS == 0 {
                    self.continued = Some((id, flags, received[body].to_vec()));
                    return Ok(());
                }
                self.header_block(id, flags, &received[body], events)
            }
            frame::CONTINUATION => {
                let (of, first_flags, mut block) = self.continued.take().context("CONTINUATION without HEADERS")?;
                ensure!(of == id, "CONTINUATION of another stream");
                block.extend_from_slice(&received[body]);
                ensure!(block.len() <= HEADER_BLOCK_BYTES_MAX, "header block over {HEADER_BLOCK_BYTES_MAX} bytes");
                if flags & frame::END_HEADERS == 0 {
                    self.continued = Some((id, first_flags, block));
                    return Ok(());
                }
                self.header_block(id, first_flags, &block, events)
            }
            frame::RST_STREAM => {
                ensure!(body.len() == 4, "RST_STREAM of {} bytes", body.len());
                if let Some(stream) = self.streams.remove(&id) {
                    let message = format!("stream reset by the server, HTTP/2 code {}", be32(&received[body])).into();
                    let status = Status { code: UNKNOWN, message };
                    events.push(Event::End { slot: stream.slot, status });
                }
                Ok(())
            }
            frame::SETTINGS if flags & frame::ACK == 0 => self.settings(&received[body]),
            frame::PING if flags & frame::ACK == 0 => {
                frame_header(&mut self.out, body.len(), frame::PING, frame::ACK, 0);
                self.out.extend_from_slice(&received[body]);
                Ok(())
            }
            frame::WINDOW_UPDATE => {
                ensure!(body.len() == 4, "WINDOW_UPDATE of {} bytes", body.len());
                let more = i64::from(be32(&received[body]) & 0x7fff_ffff);
                if id == 0 {
                    self.send_window += more;
                } else if let Some(stream) = self.streams.get_mut(&id) {
                    stream.send_window += more;
                }
                if !self.blocked.is_empty() {
                    self.unblock();
                }
                Ok(())
            }
            frame::GOAWAY => {
                ensure!(body.len() >= 8, "short GOAWAY");
                let code = be32(&received[body.start + 4..]);
                let why = String::from_utf8_lossy(&received[body.start + 8..body.end]);
                bail!("the server sent GOAWAY, HTTP/2 code {code} {why}")
            }
            frame::PUSH_PROMISE => bail!("the server sent a PUSH_PROMISE"),
            _ => Ok(()), // acknowledgements, and kinds to be ignored
        }
    }

    fn acknowledge(&mut self, bytes: u32) {
        self.unacknowledged += bytes;
        if self.unacknowledged >= CONNECTION_WINDOW / 2 {
            window_update(&mut self.out, 0, std::mem::take(&mut self.unacknowledged));
        }
    }

    fn data(
        &mut self,
        id: u32,
        flow_bytes: u32,
        received: &[u8],
        body: Range<usize>,
        end: bool,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        stream.unacknowledged += flow_bytes;
        if !end && stream.unacknowledged >= STREAM_WINDOW / 2 {
            window_update(&mut self.out, id, std::mem::take(&mut stream.unacknowledged));
        }
        stream.messages(received, body, events)?;
        if end {
            self.end(id, events);
        }
        Ok(())
    }

    fn header_block(&mut self, id: u32, flags: u8, block: &[u8], events: &mut Vec<Event>) -> Result<()> {
        match self.streams.get_mut(&id) {
            Some(stream) => self.decoder.decode(block, &mut stream.outcome)?,
            None => self.decoder.decode(block, &mut Outcome::default())?,
        }
        if flags & frame::END_STREAM != 0 {
            self.end(id, events);
        }
        Ok(())
    }

    fn end(&mut self, id: u32, events: &mut Vec<Event>) {
        if let Some(stream) = self.streams.remove(&id) {
            events.push(Event::End { slot: stream.slot, status: status(stream.outcome) });
        }
    }

    fn settings(&mut self, body: &[u8]) -> Result<()> {
        ensure!(body.len().is_multiple_of(6), "SETTINGS of {} bytes", body.len());
        for setting in body.chunks_exact(6) {
            let value = be32(&setting[2..6]);
            match u16::from_be_bytes([setting[0], setting[1]]) {
                1 if !self.settled => self.headers.server_table_bytes(value),
                3 => self.streams_max = value,
                4 => {
                    let difference = i64::from(value) - self.stream_window;
                    self.stream_window = i64::from(value);
                    self.streams.values_mut().for_each(|s| s.send_window += difference);
                }
                5 => self.frame_bytes_max = value as usize,
                _ => {}
            }
        }
        self.settled = true;
        frame_header(&mut self.out, 0, frame::SETTINGS, frame::ACK, 0);
        self.unblock();
        Ok(())
    }
}

impl Stream {
    fn messages(&mut self, received: &[u8], body: Range<usize>, events: &mut Vec<Event>) -> Result<()> {
        let mut at = body.start;
        while at < body.end {
            if self.prefix_len < GRPC_PREFIX {
                let part = (GRPC_PREFIX - self.prefix_len).min(body.end - at);
                self.prefix[self.prefix_len..self.prefix_len + part].copy_from_slice(&received[at..at + part]);
                self.prefix_len += part;
                at += part;
                if self.prefix_len < GRPC_PREFIX {
                    break;
                }
                ensure!(self.prefix[0] == 0, "the server sent a compressed message");
                self.message_len = be32(&self.prefix[1..5]) as usize;
                self.message_left = self.message_len;
                if self.want == Want::Bodies {
                    ensure!(self.message_len <= MESSAGE_BYTES_MAX, "message of {} bytes", self.message_len);
                    if self.message_left <= body.end - at {
                        let whole = at..at + self.message_left;
                        at = whole.end;
                        self.prefix_len = 0;
                        events.push(Event::Message { slot: self.slot, body: Body::Received(whole) });
                        continue;
                    }
                }
            }
            let part = self.message_left.min(body.end - at);
            if self.want == Want::Bodies {
                self.assembled.extend_from_slice(&received[at..at + part]);
            }
            at += part;
            self.message_left -= part;
            if self.message_left == 0 {
                self.prefix_len = 0;
                let body = match self.want {
                    Want::Bodies => Body::Assembled(std::mem::take(&mut self.assembled)),
                    Want::Sizes => Body::Size(self.message_len),
                };
                events.push(Event::Message { slot: self.slot, body });
            }
        }
        Ok(())
    }
}

fn strip_padding(flags: u8, received: &[u8], body: &mut Range<usize>) -> Result<()> {
    if flags & frame::PADDED != 0 {
        let padding = *received.get(body.start).context("short padded frame")? as usize;
        ensure!(padding < body.len(), "padding of {padding} bytes in a frame of {}", body.len());
        body.start += 1;
        body.end -= padding;
    }
    Ok(())
}

fn status(outcome: Outcome) -> Status {
    let message = outcome.grpc_message.unwrap_or_default();
    match (outcome.grpc_status, outcome.http_status) {
        (Some(code), _) => Status { code, message },
        (None, Some(200)) => Status { code: UNKNOWN, message: "the call ended without a gRPC status".into() },
        (None, http) => Status { code: UNKNOWN, message: format!("HTTP status {http:?} and no gRPC status").into() },
    }
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(want: Want) -> Stream {
        Stream {
            slot: 7,
            want,
            send_window: 0,
            unacknowledged: 0,
            outcome: Outcome::default(),
            prefix: [0; GRPC_PREFIX],
            prefix_len: 0,
            message_left: 0,
            message_len: 0,
            assembled: Vec::new(),
        }
    }

    /// Three messages, one of them empty, cut into frames at every possible pair of places.
    #[test]
    fn messages_survive_any_cut() {
        let mut bytes = Vec::new();
        for body in [&b"hello"[..], b"", b"etcd"] {
            bytes.push(0);
            bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
            bytes.extend_from_slice(body);
        }
        for (a, b) in (0..=bytes.len()).flat_map(|a| (a..=bytes.len()).map(move |b| (a, b))) {
            for want in [Want::Bodies, Want::Sizes] {
                let (mut stream, mut events) = (stream(want), Vec::new());
                for part in [0..a, a..b, b..bytes.len()] {
                    stream.messages(&bytes, part, &mut events).unwrap();
                }
                let seen: Vec<_> = events
                    .into_iter()
                    .map(|e| match e {
                        Event::Message { slot: 7, body: Body::Received(r) } => bytes[r].to_vec(),
                        Event::Message { slot: 7, body: Body::Assembled(v) } => v,
                        Event::Message { slot: 7, body: Body::Size(n) } => vec![b'.'; n],
                        other => panic!("{other:?}"),
                    })
                    .collect();
                match want {
                    Want::Bodies => assert_eq!(seen, [b"hello".to_vec(), vec![], b"etcd".to_vec()], "{a} {b}"),
                    Want::Sizes => assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), [5, 0, 4], "{a} {b}"),
                }
            }
        }
    }

    #[test]
    fn status_prefers_what_grpc_says() {
        let outcome = Outcome { http_status: Some(200), grpc_status: Some(11), grpc_message: Some("late".into()) };
        assert_eq!(status(outcome), Status { code: 11, message: "late".into() });
        assert_eq!(status(Outcome { http_status: Some(503), ..Outcome::default() }).code, UNKNOWN);
    }
}
