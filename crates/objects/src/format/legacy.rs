//! Netsy 1.0's data files (schema 0): read for `netsy inspect`, never written.
//!
//! `uvarint(length) message` for header, records and footer; with compression, all behind the
//! header is one zstd stream. Checksums are CRC-64/XZ of messages encoded again with `crc` left out.

use super::BODY_BYTES_MAX;
use super::error::FormatError;
use super::frame::read_varint;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use netsy_api::legacy::{FileFooter, FileHeader, Record};
use prost::Message;
use std::io::Read;

/// The largest message Netsy 1.0 itself reads, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// A Netsy 1.0 file, with what is wrong about it: an inspector shows damaged files too.
#[derive(Clone, Debug)]
pub struct LegacyFile {
    /// First message.
    pub header: FileHeader,
    /// As far as they can be read.
    pub records: Vec<Record>,
    /// Last message, if it could be read.
    pub footer: Option<FileFooter>,
    /// Everything that does not hold; empty in a good file.
    pub faults: Vec<String>,
}

/// Whether the bytes begin with a schema 0 header.
pub fn is_legacy(bytes: &[u8]) -> bool {
    let Some((len, len_bytes)) = read_varint(bytes) else { return false };
    let Some(message) = (len_bytes as u64)
        .checked_add(len)
        .filter(|&end| len > 0 && end <= bytes.len() as u64)
        .and_then(|end| bytes.get(len_bytes..end as usize))
    else {
        return false;
    };
    FileHeader::decode(message).is_ok_and(|h| h.schema_version == 0 && (1..=2).contains(&h.kind))
}

/// Reads a Netsy 1.0 file as far as it goes. An error only where there is no header.
pub fn read_legacy(bytes: &Bytes) -> Result<LegacyFile, FormatError> {
    let mut at = 0;
    let message = next(bytes, &mut at).map_err(|e| FormatError::damaged(format!("header: {e}")))?;
    let header = FileHeader::decode(message)
        .map_err(|e| FormatError::invalid(format!("header is no schema 0 header message: {e}")))?;
    let mut file = LegacyFile { header, records: Vec::new(), footer: None, faults: Vec::new() };
    let header = FileHeader { crc: 0, ..file.header.clone() };
    file.check("the header's checksum", file.header.crc, crc(&header));
    let rest = bytes.slice(at..);
    let body = match file.header.compression {
        1 => rest,
        2 => match decompress(&rest) {
            Ok(body) => body,
            Err(fault) => {
                file.faults.push(fault);
                return Ok(file);
            }
        },
        other => {
            file.faults.push(format!("compression {other} is not known"));
            return Ok(file);
        }
    };
    file.read_body(&body);
    Ok(file)
}

impl LegacyFile {
    fn check(&mut self, what: &str, stored: u64, computed: u64) {
        if stored != computed {
            self.faults.push(format!("{what} is {computed:016x}, stored is {stored:016x}"));
        }
    }

    fn read_body(&mut self, body: &Bytes) {
        let mut at = 0;
        let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc64Xz);
        let count = self.header.records_count;
        if count < 0 || count as u64 > body.len() as u64 {
            self.faults.push(format!("the header names {count} records in {} bytes", body.len()));
            return;
        }
        for number in 0..count {
            let start = at;
            let record = match next(body, &mut at)
                .and_then(|message| Record::decode(message).map_err(|e| format!("no record: {e}")))
            {
                Ok(record) => record,
                Err(e) => {
                    self.faults.push(format!("record {number} at byte {start}: {e}"));
                    return;
                }
            };
            let plain = Record { crc: 0, ..record.clone() }.encode_to_vec();
            digest.update(&plain);
            self.check(&format!("record {number}'s checksum"), record.crc, xz(&plain));
            self.records.push(record);
        }
        let footer = match next(body, &mut at)
            .and_then(|message| FileFooter::decode(message).map_err(|e| format!("no footer: {e}")))
        {
            Ok(footer) => footer,
            Err(e) => {
                self.faults.push(format!("footer: {e}"));
                return;
            }
        };
        self.check("the footer's checksum", footer.crc, crc(&FileFooter { crc: 0, ..footer }));
        self.check("the records' checksum", footer.records_crc, digest.finalize());
        let ends = (self.records.first().map_or(0, |r| r.revision), self.records.last().map_or(0, |r| r.revision));
        if ends != (footer.first_revision, footer.last_revision) {
            self.faults.push(format!(
                "the footer names revisions {} to {}, the records are {} to {}",
                footer.first_revision, footer.last_revision, ends.0, ends.1
            ));
        }
        if at < body.len() {
            self.faults.push(format!("{} bytes behind the footer", body.len() - at));
        }
        self.footer = Some(footer);
    }
}

fn xz(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Xz, bytes)
}

fn crc(message: &impl Message) -> u64 {
    xz(&message.encode_to_vec())
}

fn next(bytes: &Bytes, at: &mut usize) -> Result<Bytes, String> {
    let rest = &bytes[*at..];
    let (len, len_bytes) = read_varint(rest).ok_or("its length is cut off or not a number")?;
    let room = rest.len() - len_bytes;
    if len > room as u64 {
        return Err(format!("it should have {len} bytes, {room} are left"));
    }
    if len > MESSAGE_BYTES_MAX as u64 {
        return Err(format!("it has {len} bytes, at most {MESSAGE_BYTES_MAX} are read"));
    }
    let start = *at + len_bytes;
    *at = start + len as usize;
    Ok(bytes.slice(start..*at))
}

/// Go's encoder writes streams without a content size, so the size is found by decompressing.
fn decompress(stored: &[u8]) -> Result<Bytes, String> {
    let mut body = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(stored).map_err(|e| format!("the compressed body: {e}"))?;
    decoder
        .take(BODY_BYTES_MAX as u64 + 1)
        .read_to_end(&mut body)
        .map_err(|e| format!("the compressed body after {} bytes: {e}", body.len()))?;
    if body.len() > BODY_BYTES_MAX {
        return Err(format!("the body has more than {BODY_BYTES_MAX} bytes"));
    }
    Ok(body.into())
}
