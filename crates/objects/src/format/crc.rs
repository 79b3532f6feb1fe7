//! CRC-64/NVME, and the form in which it is stored behind the bytes it covers.

use crc_fast::CrcAlgorithm;

/// CRC-64/NVME of `bytes`.
pub fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

const MASK_TURN: u32 = 27;
const MASK_ADD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The stored form of a frame's checksum.
///
/// A CRC over bytes followed by their own CRC is the same number whatever the bytes are, so a
/// checksum of a whole file of plainly checksummed records would only depend on their lengths: two
/// records of equal length could change places unnoticed. Turning and adding breaks that.
pub fn mask(crc: u64) -> u64 {
    crc.rotate_right(MASK_TURN).wrapping_add(MASK_ADD)
}

/// The CRC of a concatenation, from those of its halves and the length of the second in bytes.
pub fn combine(first: u64, second: u64, second_bytes: u64) -> u64 {
    crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, first, second, second_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_nvme_polynomial() {
        assert_eq!(checksum(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(combine(checksum(b"1234"), checksum(b"56789"), 5), checksum(b"123456789"));
        assert_eq!(checksum(b""), 0);
        assert_eq!(combine(checksum(b""), checksum(b"x"), 1), checksum(b"x"));
    }

    #[test]
    fn a_checksum_over_checksummed_records_still_depends_on_them() {
        let framed = |bytes: &[u8], form: fn(u64) -> u64| {
            let mut all = bytes.to_vec();
            all.extend_from_slice(&form(checksum(bytes)).to_le_bytes());
            checksum(&all)
        };
        assert_eq!(framed(b"one", |crc| crc), framed(b"two", |crc| crc), "the trap");
        assert_ne!(framed(b"one", mask), framed(b"two", mask));
    }
}
