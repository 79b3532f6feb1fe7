//! Header compression (RFC 7541), just what a gRPC client needs: it writes one small set of
//! request headers, indexed from the second request of a connection on as any client's are, and
//! reads from the answers only the three fields that decide their fate.
//!
//! Both directions keep the dynamic table a real client keeps, so that the server does the work
//! it would do for one.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail, ensure};

use crate::hpack_tables::{HUFFMAN_BITS, STATIC};

/// The table size both sides start with, and the size we allow the server, bytes.
const TABLE_BYTES: usize = 4096;
/// What RFC 7541 adds to each entry's length, bytes.
const ENTRY_OVERHEAD: usize = 32;

/// What a response header says to us.
#[derive(Clone, Debug, PartialEq)]
enum Meaning {
    HttpStatus(u16),
    GrpcStatus(u16),
    GrpcMessage(Box<str>),
    Other,
}

impl Meaning {
    fn of(name: &[u8], value: &[u8]) -> Meaning {
        let number = || std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).unwrap_or(u16::MAX);
        match name {
            b":status" => Meaning::HttpStatus(number()),
            b"grpc-status" => Meaning::GrpcStatus(number()),
            b"grpc-message" if !value.is_empty() => Meaning::GrpcMessage(percent_decoded(value)),
            _ => Meaning::Other,
        }
    }
}

/// The fields of a response's headers and trailers that matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub http_status: Option<u16>,
    pub grpc_status: Option<u16>,
    pub grpc_message: Option<Box<str>>,
}

struct Entry {
    name: Box<[u8]>,
    bytes: usize,
    meaning: Meaning,
}

/// Reads header blocks of one connection, in order.
pub struct Decoder {
    table: VecDeque<Entry>, // newest first
    table_bytes: usize,
    table_bytes_max: usize,
    statics: Vec<Meaning>,
    huffman: Huffman,
}

impl Decoder {
    pub fn new() -> Decoder {
        let statics = STATIC.iter().map(|(n, v)| Meaning::of(n.as_bytes(), v.as_bytes())).collect();
        Decoder {
            table: VecDeque::new(),
            table_bytes: 0,
            table_bytes_max: TABLE_BYTES,
            statics,
            huffman: Huffman::new(),
        }
    }

    /// Adds what `block` says to `outcome`. An error ends the connection: the table is lost.
    pub fn decode(&mut self, mut block: &[u8], outcome: &mut Outcome) -> Result<()> {
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                note(self.meaning(index)?, outcome);
            } else if first & 0xe0 == 0x20 {
                let size = integer(&mut block, 5)?;
                ensure!(size <= TABLE_BYTES, "header table of {size} bytes, allowed {TABLE_BYTES}");
                self.table_bytes_max = size;
                self.evict(0);
            } else {
                let indexed = first & 0x40 != 0;
                let name = match integer(&mut block, if indexed { 6 } else { 4 })? {
                    0 => self.string(&mut block)?,
                    index => self.name(index)?.into(),
                };
                let value = self.string(&mut block)?;
                let meaning = Meaning::of(&name, &value);
                note(&meaning, outcome);
                if indexed {
                    let bytes = name.len() + value.len() + ENTRY_OVERHEAD;
                    self.evict(bytes);
                    if bytes <= self.table_bytes_max {
                        self.table_bytes += bytes;
                        self.table.push_front(Entry { name: name.into(), bytes, meaning });
                    }
                }
            }
        }
        Ok(())
    }

    fn evict(&mut self, room_for: usize) {
        while self.table_bytes + room_for > self.table_bytes_max {
            match self.table.pop_back() {
                Some(old) => self.table_bytes -= old.bytes,
                None => break,
            }
        }
    }

    fn meaning(&self, index: usize) -> Result<&Meaning> {
        ensure!(index > 0, "header index 0");
        match self.statics.get(index - 1) {
            Some(meaning) => Ok(meaning),
            None => self.dynamic(index).map(|e| &e.meaning),
        }
    }

    fn name(&self, index: usize) -> Result<&[u8]> {
        match STATIC.get(index - 1) {
            Some((name, _)) => Ok(name.as_bytes()),
            None => self.dynamic(index).map(|e| &*e.name),
        }
    }

    fn dynamic(&self, index: usize) -> Result<&Entry> {
        self.table.get(index - 1 - STATIC.len()).with_context(|| format!("header index {index} is not in the table"))
    }

    fn string(&self, block: &mut &[u8]) -> Result<Vec<u8>> {
        let huffman = block.first().context("header block ends early")? & 0x80 != 0;
        let len = integer(block, 7)?;
        ensure!(len <= block.len(), "header string of {len} bytes, {} left", block.len());
        let (raw, rest) = block.split_at(len);
        *block = rest;
        if huffman { self.huffman.decode(raw) } else { Ok(raw.to_vec()) }
    }
}

/// gRPC sends its messages percent-encoded.
fn percent_decoded(value: &[u8]) -> Box<str> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (byte, hex) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                rest = &tail[2..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into()
}

fn note(meaning: &Meaning, outcome: &mut Outcome) {
    match meaning {
        Meaning::HttpStatus(s) => outcome.http_status = Some(*s),
        Meaning::GrpcStatus(s) => outcome.grpc_status = Some(*s),
        Meaning::GrpcMessage(m) => outcome.grpc_message = Some(m.clone()),
        Meaning::Other => {}
    }
}

fn integer(block: &mut &[u8], prefix_bits: u32) -> Result<usize> {
    let (&first, mut rest) = block.split_first().context("header block ends early")?;
    let mask = (1usize << prefix_bits) - 1;
    let mut value = first as usize & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (&byte, tail) = rest.split_first().context("header block ends early")?;
            rest = tail;
            value += (byte as usize & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            ensure!(shift <= 21, "header integer too long");
        }
    }
    *block = rest;
    Ok(value)
}

fn write_integer(out: &mut Vec<u8>, flags: u8, prefix_bits: u32, value: usize) {
    let mask = (1usize << prefix_bits) - 1;
    if value < mask {
        return out.push(flags | value as u8);
    }
    out.push(flags | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Canonical Huffman decoder, bit by bit: only literals pass here, once a connection.
struct Huffman {
    first_code: [u32; 31],
    first_symbol: [usize; 31],
    count: [usize; 31],
    symbols: Vec<u16>, // by length, then value
}

impl Huffman {
    fn new() -> Huffman {
        let mut symbols: Vec<u16> = (0..257).collect();
        symbols.sort_by_key(|&s| (HUFFMAN_BITS[s as usize], s));
        let (mut first_code, mut first_symbol, mut count) = ([0u32; 31], [0usize; 31], [0usize; 31]);
        for &bits in &HUFFMAN_BITS {
            count[bits as usize] += 1;
        }
        for bits in 1..31 {
            first_code[bits] = (first_code[bits - 1] + count[bits - 1] as u32) << 1;
            first_symbol[bits] = first_symbol[bits - 1] + count[bits - 1];
        }
        Huffman { first_code, first_symbol, count, symbols }
    }

    fn decode(&self, raw: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(raw.len() * 8 / 5);
        let (mut code, mut bits) = (0u32, 0usize);
        for bit in raw.iter().flat_map(|byte| (0..8).rev().map(move |i| u32::from(byte >> i & 1))) {
            code = code << 1 | bit;
            bits += 1;
            ensure!(bits <= 30, "bad Huffman code in a header");
            let offset = code.wrapping_sub(self.first_code[bits]) as usize;
            if offset < self.count[bits] {
                match self.symbols[self.first_symbol[bits] + offset] {
                    256 => bail!("end-of-string inside a header"),
                    symbol => out.push(symbol as u8),
                }
                (code, bits) = (0, 0);
            }
        }
        ensure!(bits < 8 && code == (1 << bits) - 1, "bad Huffman padding in a header");
        Ok(out)
    }
}

/// Writes the request headers of one connection.
pub struct RequestHeaders {
    fields: [(&'static str, String); 4],
    /// Paths and fields in the server's dynamic table, oldest first.
    table: Vec<(&'static str, String)>,
    /// Blocks made of indexes only, and the table length they are right for.
    blocks: Vec<(&'static str, usize, Vec<u8>)>,
    indexing: bool,
    announce_no_table: bool,
}

impl RequestHeaders {
    pub fn new(authority: &str) -> RequestHeaders {
        let fields = [
            (":authority", authority.to_owned()),
            ("content-type", "application/grpc".to_owned()),
            ("te", "trailers".to_owned()),
            ("user-agent", "netsy-bench".to_owned()),
        ];
        RequestHeaders { fields, table: Vec::new(), blocks: Vec::new(), indexing: true, announce_no_table: false }
    }

    /// The server told its table size before the first request. One smaller than the usual
    /// turns indexing off.
    pub fn server_table_bytes(&mut self, bytes: u32) {
        if (bytes as usize) < TABLE_BYTES {
            self.indexing = false;
            self.announce_no_table = true;
        }
    }

    /// Appends the header block of a call of `path`.
    pub fn write(&mut self, path: &'static str, out: &mut Vec<u8>) {
        if let Some((_, len, block)) = self.blocks.iter().find(|(p, _, _)| *p == path)
            && *len == self.table.len()
        {
            return out.extend_from_slice(block);
        }
        let start = out.len();
        if std::mem::take(&mut self.announce_no_table) {
            out.push(0x20);
        }
        out.extend_from_slice(&[0x83, 0x86]); // :method POST, :scheme http
        let mut literals = !self.field(":path", path, out);
        for i in 0..self.fields.len() {
            let (name, value) = (self.fields[i].0, self.fields[i].1.clone());
            literals |= !self.field(name, &value, out);
        }
        if !literals {
            self.blocks.retain(|(p, _, _)| *p != path);
            self.blocks.push((path, self.table.len(), out[start..].to_vec()));
        }
    }

    /// True if the field could be written as an index.
    fn field(&mut self, name: &'static str, value: &str, out: &mut Vec<u8>) -> bool {
        if let Some(at) = self.table.iter().position(|(n, v)| *n == name && v == value) {
            write_integer(out, 0x80, 7, STATIC.len() + self.table.len() - at);
            return true;
        }
        let name_index = STATIC.iter().position(|(n, _)| *n == name).map_or(0, |i| i + 1);
        let (flags, bits) = if self.indexing { (0x40, 6) } else { (0, 4) };
        write_integer(out, flags, bits, name_index);
        if name_index == 0 {
            write_integer(out, 0, 7, name.len());
            out.extend_from_slice(name.as_bytes());
        }
        write_integer(out, 0, 7, value.len());
        out.extend_from_slice(value.as_bytes());
        if self.indexing {
            // A dozen short entries at most: never near TABLE_BYTES, so nothing is evicted.
            self.table.push((name, value.to_owned()));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    /// RFC 7541, C.4.1 and C.6.1.
    #[test]
    fn huffman_reads_the_examples_of_the_rfc() {
        let huffman = Huffman::new();
        assert_eq!(huffman.decode(&bytes("f1e3c2e5f23a6ba0ab90f4ff")).unwrap(), b"www.example.com");
        assert_eq!(huffman.decode(&bytes("6402")).unwrap(), b"302");
        assert_eq!(
            huffman.decode(&bytes("d07abe941054d444a8200595040b8166e082a62d1bff")).unwrap(),
            b"Mon, 21 Oct 2013 20:13:21 GMT"
        );
        assert!(huffman.decode(&bytes("f1e3c2e5f23a6ba0ab90f400")).is_err());
    }

    /// RFC 7541, C.5: a table of 256 bytes that evicts.
    #[test]
    fn decoder_keeps_the_table_of_the_rfc_example() {
        let mut decoder = Decoder::new();
        decoder.table_bytes_max = 256;
        let mut outcome = Outcome::default();
        let first = "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d";
        decoder.decode(&bytes(first), &mut outcome).unwrap();
        assert_eq!(outcome.http_status, Some(302));
        assert_eq!((decoder.table.len(), decoder.table_bytes), (4, 222));
        decoder.decode(&bytes("4803333037c1c0bf"), &mut outcome).unwrap();
        assert_eq!(outcome.http_status, Some(307));
        assert_eq!((decoder.table.len(), decoder.table_bytes), (4, 222));
    }

    #[test]
    fn trailers_are_understood() {
        let mut block = vec![0x40, 11];
        block.extend_from_slice(b"grpc-status");
        block.extend_from_slice(&[2, b'1', b'4', 0x00, 12]);
        block.extend_from_slice(b"grpc-message");
        block.extend_from_slice(&[8]);
        block.extend_from_slice(b"100%25 %");
        let mut decoder = Decoder::new();
        let mut outcome = Outcome::default();
        decoder.decode(&block, &mut outcome).unwrap();
        assert_eq!((outcome.grpc_status, outcome.grpc_message.as_deref()), (Some(14), Some("100% %")));
        let mut again = Outcome::default();
        decoder.decode(&[0xbe], &mut again).unwrap();
        assert_eq!(again.grpc_status, Some(14));
        assert!(decoder.decode(&[0xbf], &mut again).is_err());
    }

    /// Our own blocks, read back by our own decoder with all names kept.
    #[test]
    fn request_headers_become_indexes() {
        let mut headers = RequestHeaders::new("127.0.0.1:2379");
        let mut decoder = Decoder::new();
        let mut lengths = Vec::new();
        for path in ["/a/Put", "/a/Get", "/a/Put", "/a/Get", "/a/Put"] {
            let mut block = Vec::new();
            headers.write(path, &mut block);
            decoder.decode(&block, &mut Outcome::default()).unwrap();
            lengths.push(block.len());
        }
        assert!(lengths[0] > 50 && lengths[1] < 20, "{lengths:?}");
        assert_eq!(lengths[2..], [7, 7, 7]);
    }

    #[test]
    fn garbage_is_an_error_not_a_panic() {
        let mut decoder = Decoder::new();
        for seed in 0..2000u32 {
            let block: Vec<u8> =
                (0..24).map(|i| (seed.wrapping_mul(2654435761).rotate_left(i * 5) >> 7) as u8).collect();
            let _ = decoder.decode(&block, &mut Outcome::default());
        }
    }
}
