//! Requests compressed with gzip (RFC 1952), in short steps.
//!
//! Written over the bare inflater as a client chooses every byte: two megabytes of empty blocks, or of empty members, take
//! long and come to nothing, and a reader over them returns to its caller only when it has something.

use super::status::{Code, Status};
use bytes::{Buf, Bytes};
use flate2::{Crc, Decompress, FlushDecompress, Status as Inflated};
use http::HeaderMap;

/// What a client may send, for `grpc-accept-encoding`.
pub(crate) const ENCODINGS: &str = "identity,gzip";

/// The most compressed bytes looked at in one step: they may be a hundred blocks, with a table each.
const STEP_IN_BYTES: usize = 128;
/// The most bytes a step adds to a message.
const STEP_OUT_BYTES: usize = 64 << 10;

/// No compressor makes its input longer by more than an eighth and this. Whoever sends what comes to nothing wants the
/// work of reading it done: each empty block takes a table.
const EXCESS_BYTES: usize = 4 << 10;

/// A member's head before its optional fields.
const HEAD_BYTES: usize = 10;
/// Checksum and length after a member.
const TAIL_BYTES: usize = 8;

/// Whether `grpc-encoding` says that messages may be compressed. Error: with what this server does not know.
pub(crate) fn is_gzip(headers: &HeaderMap) -> Result<bool, Status> {
    match headers.get("grpc-encoding").map(|value| value.as_bytes()) {
        None | Some(b"" | b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            Err(Status::unimplemented(format!("grpc: Decompressor is not installed for grpc-encoding {other:?}")))
        }
    }
}

/// One message on its way out of its compression.
pub(crate) struct Gunzip {
    input: Bytes,
    input_bytes: usize,
    inflate: Decompress,
    /// Of the member that is being read.
    crc: Crc,
    in_member: bool,
    any_member: bool,
    out: Vec<u8>,
    message_bytes_max: usize,
}

impl Gunzip {
    /// Of a message that may have so many bytes once it is decompressed.
    pub(crate) fn new(input: Bytes, message_bytes_max: usize) -> Self {
        Self {
            input_bytes: input.len(),
            input,
            inflate: Decompress::new(false),
            crc: Crc::new(),
            in_member: false,
            any_member: false,
            out: Vec::new(),
            message_bytes_max,
        }
    }

    /// Bytes of the message so far.
    pub(crate) fn out_bytes(&self) -> usize {
        self.out.len()
    }

    /// Goes on a little; the message once it is whole.
    pub(crate) fn step(&mut self) -> Result<Option<Bytes>, Status> {
        if !self.in_member {
            if self.input.is_empty() && self.any_member {
                return Ok(Some(std::mem::take(&mut self.out).into_boxed_slice().into()));
            }
            self.read_head()?;
            (self.in_member, self.any_member) = (true, true);
            return Ok(None);
        }
        let from = self.out.len();
        let room = self.message_bytes_max - from + 1;
        self.out.reserve(STEP_OUT_BYTES.min(room));
        let input = &self.input[..self.input.len().min(STEP_IN_BYTES)];
        let read_before = self.inflate.total_in();
        let inflated = self
            .inflate
            .decompress_vec(input, &mut self.out, FlushDecompress::None)
            .map_err(|_| damaged("flate: corrupt input"))?;
        let read = (self.inflate.total_in() - read_before) as usize;
        self.input.advance(read);
        if self.out.len() > self.message_bytes_max {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!("grpc: received message after decompression larger than max {}", self.message_bytes_max),
            ));
        }
        self.crc.update(&self.out[from..]);
        let consumed = self.input_bytes - self.input.len();
        if consumed > self.out.len() + self.out.len() / 8 + EXCESS_BYTES {
            return Err(damaged("it is much longer than what it comes to"));
        }
        if inflated == Inflated::StreamEnd {
            self.read_tail()?;
            self.in_member = false;
        } else if read == 0 && self.out.len() == from {
            return Err(damaged("unexpected EOF"));
        }
        Ok(None)
    }

    fn read_head(&mut self) -> Result<(), Status> {
        const HAS_CHECKSUM: u8 = 2;
        const HAS_EXTRA: u8 = 4;
        const HAS_NAME: u8 = 8;
        const HAS_COMMENT: u8 = 16;
        let all = &self.input[..];
        let mut at = HEAD_BYTES;
        let &[0x1f, 0x8b, 8, flags, ..] = all else {
            return Err(damaged(if all.len() < HEAD_BYTES { "unexpected EOF" } else { "gzip: invalid header" }));
        };
        if flags & HAS_EXTRA != 0 {
            let &[a, b] = all.get(at..at + 2).ok_or_else(ended)? else { return Err(ended()) };
            at += 2 + usize::from(u16::from_le_bytes([a, b]));
        }
        for field in [HAS_NAME, HAS_COMMENT] {
            if flags & field != 0 {
                let text = all.get(at..).ok_or_else(ended)?;
                at += 1 + text.iter().position(|&b| b == 0).ok_or_else(ended)?;
            }
        }
        if flags & HAS_CHECKSUM != 0 {
            let &[a, b] = all.get(at..at + 2).ok_or_else(ended)? else { return Err(ended()) };
            let mut crc = Crc::new();
            crc.update(&all[..at]);
            if crc.sum() as u16 != u16::from_le_bytes([a, b]) {
                return Err(damaged("gzip: invalid header"));
            }
            at += 2;
        }
        if at > all.len() {
            return Err(ended());
        }
        self.input.advance(at);
        self.inflate.reset(false);
        self.crc.reset();
        Ok(())
    }

    fn read_tail(&mut self) -> Result<(), Status> {
        if self.input.len() < TAIL_BYTES {
            return Err(ended());
        }
        if (self.input.get_u32_le(), self.input.get_u32_le()) != (self.crc.sum(), self.crc.amount()) {
            return Err(damaged("gzip: invalid checksum"));
        }
        Ok(())
    }
}

fn ended() -> Status {
    damaged("unexpected EOF")
}

fn damaged(why: &str) -> Status {
    Status::internal(format!("grpc: failed to decompress the message: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use std::io::Write;

    const MAX: usize = 2 << 20;

    fn zip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unzip(bytes: impl Into<Bytes>) -> Result<Bytes, Status> {
        unzip_to(bytes, MAX)
    }

    fn unzip_to(bytes: impl Into<Bytes>, max: usize) -> Result<Bytes, Status> {
        let mut gunzip = Gunzip::new(bytes.into(), max);
        loop {
            let (left, out) = (gunzip.input.len(), gunzip.out.len());
            let was_in_member = gunzip.in_member;
            let step = gunzip.step();
            if was_in_member {
                let read = left - gunzip.input.len();
                assert!(read <= STEP_IN_BYTES + TAIL_BYTES, "one step read {read} bytes");
                // Deflate makes no more of a byte than 1,032.
                let came = gunzip.out.len() - out;
                assert!(came <= 1_032 * (STEP_IN_BYTES + 8), "one step came to {came} bytes");
            }
            assert!(gunzip.out.capacity() <= 2 * (max + 1), "{} bytes for at most {max}", gunzip.out.capacity());
            if let Some(message) = step? {
                return Ok(message);
            }
        }
    }

    fn text(refused: Result<Bytes, Status>) -> String {
        refused.unwrap_err().to_string()
    }

    #[test]
    fn what_was_compressed_comes_out() {
        let long: Vec<u8> = (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 & 15).collect();
        for bytes in [&b""[..], b"a", b"hello, hello, hello", &long] {
            assert_eq!(unzip(zip(bytes)).unwrap(), bytes);
        }
        // Members one after the other are one message.
        assert_eq!(unzip([zip(b"one "), zip(b""), zip(b"two")].concat()).unwrap(), &b"one two"[..]);
    }

    #[test]
    fn every_field_of_a_head_is_passed_over() {
        let bare = zip(b"hello");
        let mut whole = vec![0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 0, 0, 0, 0, 0, 3];
        whole.extend(b"\x03\0abcname\0comment\0");
        let mut crc = Crc::new();
        crc.update(&whole);
        whole.extend(&crc.sum().to_le_bytes()[..2]);
        whole.extend(&bare[HEAD_BYTES..]);
        assert_eq!(unzip(whole.clone()).unwrap(), &b"hello"[..]);
        for length in 0..whole.len() {
            assert_eq!(unzip(whole[..length].to_vec()).unwrap_err().code, Code::Internal, "cut to {length} bytes");
        }
        whole[11] ^= 1;
        assert!(unzip(whole).is_err());
    }

    #[test]
    fn a_message_may_be_as_long_as_one_that_is_not_compressed() {
        for max in [10, 70_000] {
            assert_eq!(unzip_to(zip(&vec![7; max]), max).unwrap().len(), max);
            let refused = text(unzip_to(zip(&vec![7; max + 1]), max));
            let wanted = format!("ResourceExhausted: grpc: received message after decompression larger than max {max}");
            assert_eq!(refused, wanted);
        }
        // A gibibyte in one megabyte.
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        for _ in 0..256 {
            bomb.write_all(&vec![0; 1 << 20]).unwrap();
        }
        assert!(text(unzip(bomb.finish().unwrap())).starts_with("ResourceExhausted: "));
    }

    #[test]
    fn what_comes_to_nothing_is_given_up_early() {
        let refused = "Internal: grpc: failed to decompress the message: it is much longer than what it comes to";
        assert_eq!(unzip(zip(b"").repeat(100)).unwrap(), &b""[..]);
        assert_eq!(text(unzip(zip(b"").repeat(10_000))), refused);
        // Empty blocks of the kind that takes a table each. Bits 0, 01, 0000000: 10 for a block, 5 bytes for four of them.
        let mut blocks = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
        blocks.extend([0b0000_0010, 0b0000_1000, 0b0010_0000, 0b1000_0000, 0b0000_0000].repeat(400_000));
        assert_eq!(text(unzip(blocks)), refused);
        // Noise gets longer by being compressed, yet not by as much.
        let mut state = 1u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        let noise: Vec<u8> = noise.take(1_000_000).collect();
        let zipped = zip(&noise);
        assert!(zipped.len() > noise.len());
        assert_eq!(unzip(zipped).unwrap(), noise);
    }

    #[test]
    fn damage_is_told() {
        let sound = zip(b"hello, hello, hello");
        assert_eq!(text(unzip(&b""[..])), "Internal: grpc: failed to decompress the message: unexpected EOF");
        let not_gzip = text(unzip(&b"this is no gzip at all"[..]));
        assert_eq!(not_gzip, "Internal: grpc: failed to decompress the message: gzip: invalid header");
        for at in [sound.len() - 8, sound.len() - 1] {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            let refused = text(unzip(damaged));
            assert_eq!(refused, "Internal: grpc: failed to decompress the message: gzip: invalid checksum");
        }
        assert!(unzip([sound.clone(), vec![0]].concat()).is_err());
        for length in 0..sound.len() {
            assert!(unzip(sound[..length].to_vec()).is_err(), "cut to {length} bytes");
        }
    }

    #[test]
    fn encodings_by_name() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-encoding", http::HeaderValue::from_static(value));
            is_gzip(&headers)
        };
        assert_eq!(is_gzip(&HeaderMap::new()), Ok(false));
        assert_eq!((of("identity"), of(""), of("gzip")), (Ok(false), Ok(false), Ok(true)));
        let refused = of("snappy").unwrap_err().to_string();
        assert_eq!(refused, "Unimplemented: grpc: Decompressor is not installed for grpc-encoding \"snappy\"");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, fork: false, ..Default::default() })]

        #[test]
        fn changed_bytes_end(
            plain in prop::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..5_000),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = zip(&plain);
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            match unzip(bytes) {
                // The time, the system and the level say nothing about the message.
                Ok(message) => prop_assert_eq!(message, plain),
                Err(_) => prop_assert!(!changes.is_empty()),
            }
        }
    }
}
