//! HTTP/2 frames by hand, for what no well-behaved client sends.

use bytes::{BufMut, Bytes, BytesMut};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 section 6).
pub mod frame {
    #![allow(missing_docs)]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

/// A connection that has said its preface and settings, and then says what the test wants.
pub struct RawH2 {
    stream: TcpStream,
}

impl RawH2 {
    /// Connects and opens the protocol.
    pub async fn connect(address: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(PREFACE).await?;
        let mut raw = Self { stream };
        raw.send(frame::SETTINGS, 0, 0, &[]).await?;
        Ok(raw)
    }

    /// Sends one frame.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&encode(kind, flags, stream, payload)).await
    }

    /// Sends bytes as they are.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The header block of a gRPC call.
    pub fn call_headers(path: &str) -> Bytes {
        let mut block = BytesMut::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            literal_header(&mut block, name, value);
        }
        block.freeze()
    }

    /// Reads and forgets until the server hangs up or `limit` passes. True: it hung up.
    pub async fn hung_up_within(&mut self, limit: Duration) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let end = tokio::time::Instant::now() + limit;
        loop {
            match tokio::time::timeout_at(end, self.stream.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => return true,
                Ok(Ok(_)) => {}
                Err(_) => return false,
            }
        }
    }
}

/// One frame.
pub fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let mut out = Vec::with_capacity(9 + payload.len());
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.push(kind);
    out.push(flags);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A header that does not enter the table (RFC 7541 section 6.2.2), without Huffman code.
pub fn literal_header(block: &mut BytesMut, name: &str, value: &str) {
    block.put_u8(0);
    literal(block, name.as_bytes());
    literal(block, value.as_bytes());
}

fn literal(block: &mut BytesMut, text: &[u8]) {
    // A number with a 7 bit prefix (RFC 7541 section 5.1).
    if text.len() < 127 {
        block.put_u8(text.len() as u8);
    } else {
        block.put_u8(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            block.put_u8((rest % 128) as u8 | 128);
            rest /= 128;
        }
        block.put_u8(rest as u8);
    }
    block.put_slice(text);
}
