//! A file of schema 2: `frame(header) body crc`, where the body is `frame(record)… frame(footer)`,
//! plain or as one zstd frame.

use super::error::FormatError;
use super::frame::{CRC_BYTES, FRAME_BYTES_MIN, FrameReader, put_frame};
use super::record::{entry_len, put_entry, put_row, row_len};
use super::{BODY_BYTES_MAX, COMPRESS_ABOVE_BYTES, HEADER_BYTES_MAX, SCHEMA_VERSION, crc};
use bytes::Bytes;
use netsy_api::file::{ChunkInfo, Compression, FileFooter, FileHeader};
use netsy_api::log::{Entry, Row};
use prost::Message;
use std::cell::RefCell;

pub use netsy_api::file::Kind;

/// A file as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFile {
    /// All of it.
    pub bytes: Bytes,
    /// Its last 8 bytes as a number: CRC-64/NVME of all before them.
    pub checksum: u64,
}

/// How hard zstd tries. Fixed for each kind, so that the same content gives the same bytes.
///
/// Chunks are on a write's way and live for a day: at level 1 compressing them costs more than all the
/// rest of encoding. Segments and parts are made in the background and stay.
fn zstd_level(kind: Kind) -> i32 {
    match kind {
        Kind::SnapshotPart | Kind::Segment => 1,
        _ => -5,
    }
}

/// A body being written: records, then the footer.
pub(super) struct BodyWriter {
    buf: Vec<u8>,
    records: u64,
}

impl BodyWriter {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { buf: Vec::with_capacity(bytes), records: 0 }
    }

    pub(super) fn entry(&mut self, entry: &Entry) {
        put_frame(&mut self.buf, entry_len(entry), |buf| put_entry(buf, entry));
        self.records += 1;
    }

    pub(super) fn row(&mut self, row: &Row) {
        put_frame(&mut self.buf, row_len(row), |buf| put_row(buf, row));
        self.records += 1;
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.buf.len()
    }

    /// Writes the footer.
    pub(super) fn finish(mut self, chunks: Vec<ChunkInfo>) -> Result<Body, FormatError> {
        let records_crc = crc::checksum(&self.buf);
        let records_bytes = self.buf.len() as u64;
        let footer = FileFooter { records_crc, records_count: self.records as i64, chunks };
        put_frame(&mut self.buf, footer.encoded_len(), |buf| footer.encode_raw(buf));
        if self.buf.len() > BODY_BYTES_MAX {
            return Err(FormatError::too_large(format!(
                "a body of {} bytes, at most {BODY_BYTES_MAX} are written: use smaller transactions or fewer per file",
                self.buf.len()
            )));
        }
        Ok(Body { bytes: self.buf, records: self.records, records_crc, records_bytes })
    }
}

/// A whole body, uncompressed.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) records: u64,
    pub(super) records_crc: u64,
    pub(super) records_bytes: u64,
}

thread_local! {
    // Making a compressor costs more than compressing a small chunk.
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
}

/// Bodies above this are tried on a sample first, in bytes,
const SAMPLE_ABOVE_BYTES: usize = 64 << 10;
/// of this many pieces,
const SAMPLE_PIECES: usize = 4;
/// each of this many bytes.
const SAMPLE_PIECE_BYTES: usize = 4 << 10;

/// `None` where it saves less than a sixteenth. The same bytes give the same result.
fn compress(bytes: &[u8], level: i32) -> Option<Vec<u8>> {
    if bytes.len() > SAMPLE_ABOVE_BYTES {
        let piece =
            |n: usize| bytes.get(bytes.len() / SAMPLE_PIECES * n..).and_then(|rest| rest.get(..SAMPLE_PIECE_BYTES));
        let sample: Vec<u8> = (0..SAMPLE_PIECES).filter_map(piece).flatten().copied().collect();
        compress_all(&sample, level)?;
    }
    compress_all(bytes, level)
}

fn compress_all(bytes: &[u8], level: i32) -> Option<Vec<u8>> {
    let compressed = COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Compressor::new(level).ok();
        }
        let compressor = slot.as_mut()?;
        compressor.set_compression_level(level).ok()?;
        compressor.compress(bytes).ok()
    })?;
    (compressed.len() < bytes.len() - bytes.len() / 16).then_some(compressed)
}

/// Puts header and body together. `header` lacks what follows from the body.
pub(super) fn assemble(kind: Kind, mut header: FileHeader, body: &Body) -> EncodedFile {
    let compressed =
        if body.bytes.len() > COMPRESS_ABOVE_BYTES { compress(&body.bytes, zstd_level(kind)) } else { None };
    header.schema_version = SCHEMA_VERSION;
    header.kind = kind as i32;
    header.compression = if compressed.is_some() { Compression::Zstd } else { Compression::None } as i32;
    header.records_count = body.records as i64;
    header.body_bytes = body.bytes.len() as u64;
    let stored = compressed.as_deref().unwrap_or(&body.bytes);
    let mut buf = Vec::with_capacity(header.encoded_len() + stored.len() + 32);
    put_frame(&mut buf, header.encoded_len(), |buf| header.encode_raw(buf));
    buf.extend_from_slice(stored);
    let checksum = crc::checksum(&buf);
    buf.extend_from_slice(&checksum.to_le_bytes());
    EncodedFile { bytes: buf.into(), checksum }
}

/// Reads the header at the beginning of `bytes`, which may be only the first part of a file.
pub(super) fn read_header(bytes: &Bytes) -> Result<(FileHeader, usize), FormatError> {
    let mut frames = FrameReader::new(bytes.clone());
    let message = frames.next(|| "header".to_string(), HEADER_BYTES_MAX)?;
    let header =
        FileHeader::decode(message).map_err(|e| FormatError::invalid(format!("header is no header message: {e}")))?;
    if header.schema_version != SCHEMA_VERSION {
        return Err(FormatError::unsupported(format!(
            "schema version {}, this program reads {SCHEMA_VERSION}: use a newer netsy",
            header.schema_version
        )));
    }
    if header.body_bytes > BODY_BYTES_MAX as u64 {
        return Err(FormatError::too_large(format!(
            "a body of {} bytes, at most {BODY_BYTES_MAX} are read",
            header.body_bytes
        )));
    }
    let records_max = header.body_bytes / FRAME_BYTES_MIN as u64;
    if header.records_count < 0 || header.records_count as u64 > records_max {
        return Err(FormatError::invalid(format!(
            "{} records in a body of {} bytes",
            header.records_count, header.body_bytes
        )));
    }
    Ok((header, frames.at()))
}

/// A file whose checksum and header hold; its records are still to be read.
pub(crate) struct FileReader {
    pub(crate) header: FileHeader,
    /// CRC-64/NVME of all bytes but the last 8, which hold it.
    pub(crate) checksum: u64,
    body: Bytes,
    frames: FrameReader,
    records: u64,
}

impl FileReader {
    pub(super) fn open(bytes: &Bytes, expected: Kind) -> Result<Self, FormatError> {
        let reader = Self::open_any(bytes)?;
        if reader.header.kind != expected as i32 {
            return Err(FormatError::invalid(format!(
                "a {} was expected, this is kind {} ({})",
                expected.as_str_name(),
                reader.header.kind,
                Kind::try_from(reader.header.kind).map_or("unknown", |kind| kind.as_str_name())
            )));
        }
        Ok(reader)
    }

    pub(super) fn open_any(bytes: &Bytes) -> Result<Self, FormatError> {
        let checksum = check_whole(bytes)?;
        let (header, header_bytes) = read_header(bytes)?;
        let end = bytes.len() - CRC_BYTES;
        if header_bytes > end {
            return Err(FormatError::damaged("header and checksum overlap"));
        }
        let stored = bytes.slice(header_bytes..end);
        let body = match Compression::try_from(header.compression) {
            Ok(Compression::None) => stored,
            Ok(Compression::Zstd) => decompress(&stored, header.body_bytes)?,
            _ => return Err(FormatError::unsupported(format!("compression number {}", header.compression))),
        };
        if body.len() as u64 != header.body_bytes {
            return Err(FormatError::damaged(format!(
                "the body has {} bytes, the header says {}",
                body.len(),
                header.body_bytes
            )));
        }
        Ok(Self { header, checksum, frames: FrameReader::new(body.clone()), body, records: 0 })
    }

    /// For an inspector: goes on past what does not hold, and says what that was.
    pub(crate) fn open_faulty(bytes: &Bytes) -> Result<(Self, Vec<FormatError>), FormatError> {
        let mut faults = Vec::new();
        let (header, header_bytes) = read_header(bytes)?;
        let checksum = check_whole(bytes).unwrap_or_else(|fault| {
            faults.push(fault);
            0
        });
        let end = bytes.len().saturating_sub(CRC_BYTES).max(header_bytes);
        let stored = bytes.slice(header_bytes..end);
        let body = match Compression::try_from(header.compression) {
            Ok(Compression::Zstd) => decompress(&stored, header.body_bytes),
            _ => Ok(stored),
        };
        let body = body.unwrap_or_else(|fault| {
            faults.push(fault);
            Bytes::new()
        });
        Ok((Self { header, checksum, frames: FrameReader::new(body.clone()), body, records: 0 }, faults))
    }

    /// Records named in the header.
    pub(crate) fn records_count(&self) -> u64 {
        self.header.records_count as u64
    }

    /// Bytes of the body read so far.
    pub(super) fn body_at(&self) -> usize {
        self.frames.at()
    }

    /// The uncompressed body.
    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }

    /// The next record's message and number from 0; `None` after the last.
    pub(crate) fn next_record(&mut self) -> Result<Option<(u64, Bytes)>, FormatError> {
        if self.records == self.records_count() {
            return Ok(None);
        }
        let number = self.records;
        let message = self.frames.next(|| format!("record {number}"), BODY_BYTES_MAX)?;
        self.records += 1;
        Ok(Some((number, message)))
    }

    /// After the last record: the footer, and nothing behind it.
    pub(crate) fn finish(&mut self) -> Result<FileFooter, FormatError> {
        let records_end = self.frames.at();
        let message = self.frames.next(|| "footer".to_string(), BODY_BYTES_MAX)?;
        let footer = FileFooter::decode(message)
            .map_err(|e| FormatError::invalid(format!("footer is no footer message: {e}")))?;
        if self.frames.remaining() > 0 {
            return Err(FormatError::damaged(format!("{} bytes behind the footer", self.frames.remaining())));
        }
        if footer.records_count != self.header.records_count {
            return Err(FormatError::invalid(format!(
                "the header names {} records, the footer {}",
                self.header.records_count, footer.records_count
            )));
        }
        let computed = crc::checksum(&self.body[..records_end]);
        if footer.records_crc != computed {
            return Err(FormatError::damaged(format!(
                "the records' checksum is {computed:016x}, stored is {:016x}",
                footer.records_crc
            )));
        }
        Ok(footer)
    }
}

/// Compares the file's checksum with its bytes.
fn check_whole(bytes: &Bytes) -> Result<u64, FormatError> {
    if bytes.len() < FRAME_BYTES_MIN + CRC_BYTES {
        return Err(FormatError::damaged(format!("only {} bytes: cut off or no netsy file", bytes.len())));
    }
    let (all, stored) = bytes.split_at(bytes.len() - CRC_BYTES);
    let stored = u64::from_le_bytes(stored.try_into().unwrap_or_default());
    let computed = crc::checksum(all);
    if stored == computed {
        return Ok(computed);
    }
    // A newer schema may end otherwise: say so rather than call it damaged.
    if let Err(e) = read_header(bytes)
        && e.fault == super::Fault::Unsupported
    {
        return Err(e);
    }
    Err(FormatError::damaged(format!(
        "the file's checksum is {computed:016x}, stored is {stored:016x}: changed, cut off or no netsy file"
    )))
}

fn decompress(stored: &[u8], body_bytes: u64) -> Result<Bytes, FormatError> {
    // One frame that says its size, which is the header's, and nothing behind it: then no more
    // than that is ever allocated.
    let frame_bytes = zstd::zstd_safe::find_frame_compressed_size(stored)
        .map_err(|e| FormatError::damaged(format!("the compressed body: {}", zstd::zstd_safe::get_error_name(e))))?;
    if frame_bytes != stored.len() {
        return Err(FormatError::damaged(format!(
            "the compressed body has {} bytes, {frame_bytes} belong to it",
            stored.len()
        )));
    }
    let content = zstd::zstd_safe::get_frame_content_size(stored).ok().flatten();
    if content != Some(body_bytes) {
        return Err(FormatError::invalid(format!(
            "the compressed body says {content:?} bytes, the header {body_bytes}"
        )));
    }
    let mut body = Vec::new();
    body.try_reserve_exact(body_bytes as usize)
        .map_err(|_| FormatError::too_large(format!("no memory for a body of {body_bytes} bytes")))?;
    zstd::bulk::Decompressor::new()
        .and_then(|mut decompressor| decompressor.decompress_to_buffer(stored, &mut body))
        .map_err(|e| FormatError::damaged(format!("the compressed body: {e}")))?;
    Ok(body.into())
}
