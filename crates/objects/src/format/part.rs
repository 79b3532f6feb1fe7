//! Snapshot parts: surviving rows in order of position.
//!
//! A part says nothing of the snapshot it was written for, so that equal rows make equal content,
//! named by its SHA-256, which later snapshots use again.

use super::error::FormatError;
use super::file::{Body, BodyWriter, EncodedFile, FileReader, assemble};
use super::record::read_row;
use bytes::Bytes;
use netsy_api::file::{FileHeader, Kind};
use netsy_api::ids::{LogIndex, Position};
use netsy_api::log::Row;

/// A part being filled. Rows are written into it at once and not kept.
pub struct PartBuilder {
    cluster_id: String,
    body: BodyWriter,
    span: Option<Span>,
}

#[derive(Clone, Copy)]
struct Span {
    first: Position,
    last: Position,
    first_index: LogIndex,
    last_index: LogIndex,
}

impl PartBuilder {
    /// An empty part of this cluster.
    pub fn new(cluster_id: &str) -> Self {
        Self { cluster_id: cluster_id.to_string(), body: BodyWriter::with_capacity(64 << 10), span: None }
    }

    /// Appends a row; it must come after the one before. Gives the bytes it took.
    pub fn push(&mut self, row: &Row) -> Result<usize, FormatError> {
        check_row(row, self.span.map(|span| (span.last, span.last_index)))?;
        let before = self.body.len();
        self.body.row(row);
        let span = self.span.get_or_insert(Span {
            first: row.position,
            last: row.position,
            first_index: row.index,
            last_index: row.index,
        });
        span.last = row.position;
        span.last_index = row.index;
        Ok(self.body.len() - before)
    }

    /// Bytes so far, uncompressed.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.body.records()
    }

    /// Ends the part. An empty one is refused.
    pub fn finish(self) -> Result<FinishedPart, FormatError> {
        let span = self.span.ok_or_else(|| FormatError::invalid("a snapshot part without rows"))?;
        let body = self.body.finish(Vec::new())?;
        let sha256 = sha256(&body.bytes);
        Ok(FinishedPart { cluster_id: self.cluster_id, span, sha256, body })
    }
}

/// A part whose content and name are settled and which is not compressed yet: where the bucket
/// holds it already, it need not be.
pub struct FinishedPart {
    cluster_id: String,
    span: Span,
    sha256: String,
    body: Body,
}

impl FinishedPart {
    /// SHA-256 of the uncompressed body, 64 hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Position of the first row.
    pub fn first_position(&self) -> Position {
        self.span.first
    }

    /// What a manifest says of its rows.
    pub fn rows(&self) -> PartRows {
        PartRows {
            first_position: self.span.first,
            last_position: self.span.last,
            rows: self.body.records,
            rows_crc: self.body.records_crc,
            rows_bytes: self.body.records_bytes,
        }
    }

    /// The file.
    pub fn encode(&self) -> EncodedPart {
        let header = FileHeader {
            cluster_id: self.cluster_id.clone(),
            first_position: self.span.first.0,
            last_position: self.span.last.0,
            first_index: self.span.first_index.0,
            last_index: self.span.last_index.0,
            ..FileHeader::default()
        };
        let file = assemble(Kind::SnapshotPart, header, &self.body);
        EncodedPart { file, sha256: self.sha256.clone(), rows: self.rows() }
    }
}

/// The rows of a part in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRows {
    /// Position of the first row.
    pub first_position: Position,
    /// Position of the last row.
    pub last_position: Position,
    /// How many.
    pub rows: u64,
    /// CRC-64/NVME over their stored frames, uncompressed.
    pub rows_crc: u64,
    /// Length of those frames in bytes.
    pub rows_bytes: u64,
}

/// A part as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPart {
    /// Bytes and checksum.
    pub file: EncodedFile,
    /// SHA-256 of the uncompressed body.
    pub sha256: String,
    /// Its rows in numbers.
    pub rows: PartRows,
}

/// A part read back: every checksum held, rows ascend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartFile {
    /// The cluster's name.
    pub cluster_id: String,
    /// SHA-256 of the uncompressed body.
    pub sha256: String,
    /// The file's checksum.
    pub checksum: u64,
    /// Stored size in bytes.
    pub bytes: u64,
    /// The rows in numbers.
    pub summary: PartRows,
    /// In order of position; keys and values are slices of the file read.
    pub rows: Vec<Row>,
}

/// Reads a part and checks everything about it.
pub fn decode_part(bytes: &Bytes) -> Result<PartFile, FormatError> {
    let mut file = FileReader::open(bytes, Kind::SnapshotPart)?;
    let header = file.header.clone();
    netsy_api::ids::check_name("cluster id", &header.cluster_id).map_err(FormatError::invalid)?;
    let mut rows: Vec<Row> = Vec::with_capacity(file.records_count() as usize);
    let mut rows_bytes = 0;
    while let Some((number, message)) = file.next_record()? {
        let row = read_row(message, number)?;
        check_row(&row, rows.last().map(|row| (row.position, row.index)))?;
        rows.push(row);
        rows_bytes = file.body_at() as u64;
    }
    let footer = file.finish()?;
    let fits = |first: &Row, last: &Row| {
        (first.position.0, first.index.0) == (header.first_position, header.first_index)
            && (last.position.0, last.index.0) == (header.last_position, header.last_index)
    };
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Err(FormatError::invalid("a snapshot part without rows"));
    };
    if !fits(first, last) {
        return Err(FormatError::invalid("the rows are not those of the header"));
    }
    let summary = PartRows {
        first_position: first.position,
        last_position: last.position,
        rows: rows.len() as u64,
        rows_crc: footer.records_crc,
        rows_bytes,
    };
    Ok(PartFile {
        cluster_id: header.cluster_id,
        sha256: sha256(file.body()),
        checksum: file.checksum,
        bytes: bytes.len() as u64,
        summary,
        rows,
    })
}

fn check_row(row: &Row, before: Option<(Position, LogIndex)>) -> Result<(), FormatError> {
    let (position, index) = before.unwrap_or((Position(0), LogIndex(0)));
    let first_of_entry = row.index > index;
    if row.position <= position || row.index < index || row.index.0 == 0 || row.term.0 == 0 {
        return Err(FormatError::invalid(format!(
            "the row at position {} of entry {} (term {}) after position {position} of entry {index}",
            row.position, row.index, row.term
        )));
    }
    // Every entry has at least one position.
    if first_of_entry && row.position.0 < row.index.0 {
        return Err(FormatError::invalid(format!("entry {} at position {}", row.index, row.position)));
    }
    Ok(())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
