//! `uvarint(length) message crc`: how every message of a file is stored.

use super::crc;
use super::error::FormatError;
use bytes::Bytes;

/// Bytes of a stored checksum.
pub(super) const CRC_BYTES: usize = 8;
/// The fewest bytes a frame has: the length 0 and a checksum.
pub(super) const FRAME_BYTES_MIN: usize = 1 + CRC_BYTES;

/// Appends a LEB128 number.
pub(super) fn put_varint(buf: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buf.push(value as u8 | 0x80);
        value >>= 7;
    }
    buf.push(value as u8);
}

/// Bytes [`put_varint`] appends.
pub(super) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Reads a LEB128 number; `None` if it is cut off, longer than it need be, or above 64 bits.
pub(super) fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        if i == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return if i > 0 && byte == 0 { None } else { Some((value, i + 1)) };
        }
    }
    None
}

/// Appends the frame of a message of `len` bytes that `write` appends.
pub(super) fn put_frame(buf: &mut Vec<u8>, len: usize, write: impl FnOnce(&mut Vec<u8>)) {
    buf.reserve(len + 10 + CRC_BYTES);
    let start = buf.len();
    put_varint(buf, len as u64);
    let message = buf.len();
    write(buf);
    debug_assert_eq!(buf.len() - message, len, "a message is as long as was computed");
    let crc = crc::mask(crc::checksum(&buf[start..]));
    buf.extend_from_slice(&crc.to_le_bytes());
}

/// Frames one after the other.
pub(super) struct FrameReader {
    bytes: Bytes,
    at: usize,
}

impl FrameReader {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next message, checked; `what` names it in errors.
    pub(super) fn next(&mut self, what: impl Fn() -> String, len_max: usize) -> Result<Bytes, FormatError> {
        let rest = &self.bytes[self.at..];
        let damaged = |reason: String| FormatError::damaged(format!("{} at byte {}: {reason}", what(), self.at));
        let (len, len_bytes) =
            read_varint(rest).ok_or_else(|| damaged("its length is cut off or not a number".to_string()))?;
        let room = rest
            .len()
            .checked_sub(len_bytes + CRC_BYTES)
            .ok_or_else(|| damaged(format!("only {} bytes are left", rest.len())))?;
        if len > room as u64 {
            return Err(damaged(format!("it should have {len} bytes, {room} are left")));
        }
        if len > len_max as u64 {
            return Err(FormatError::too_large(format!(
                "{} at byte {} has {len} bytes, at most {len_max} are read",
                what(),
                self.at
            )));
        }
        let end = len_bytes + len as usize;
        let stored = u64::from_le_bytes(rest[end..end + CRC_BYTES].try_into().unwrap_or_default());
        let computed = crc::mask(crc::checksum(&rest[..end]));
        if stored != computed {
            return Err(damaged(format!("its checksum is {computed:016x}, stored is {stored:016x}")));
        }
        let message = self.bytes.slice(self.at + len_bytes..self.at + end);
        self.at += end + CRC_BYTES;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_and_have_one_form() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut buf = Vec::new();
            put_varint(&mut buf, value);
            assert_eq!(buf.len(), varint_len(value), "{value}");
            assert_eq!(read_varint(&buf), Some((value, buf.len())));
            assert_eq!(read_varint(&buf[..buf.len() - 1]), None);
        }
        assert_eq!(read_varint(&[0x80, 0x00]), None, "0 in two bytes");
        assert_eq!(read_varint(&[0xff; 10]), None, "more than 64 bits");
        assert_eq!(read_varint(&[0xff; 11]), None);
    }
}
