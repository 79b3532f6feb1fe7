//! netsy's files, byte by byte (docs/file-format.md): chunks, segments, snapshot parts; and a
//! reader of Netsy 1.0's.
//!
//! A file is taken in and given out whole, as `Bytes`: files are bounded ([`BODY_BYTES_MAX`]) and
//! what is read is handed out as slices of it. Decoders take bytes from anywhere: they neither
//! panic nor allocate more than those bytes justify.

pub mod chunk;
pub mod crc;
mod error;
pub(crate) mod file;
mod frame;
pub mod legacy;
pub mod part;
pub(crate) mod record;
pub mod segment;

pub use chunk::{ChunkFile, ChunkMeta, decode_chunk, encode_chunk, encode_seal, read_chunk_meta};
pub use error::{Fault, FormatError};
pub use file::{EncodedFile, Kind};
pub use part::{EncodedPart, PartBuilder, PartFile, decode_part};
pub use segment::{ChunkInfo, SegmentFile, decode_segment, encode_segment};

/// The version this program writes.
pub const SCHEMA_VERSION: u32 = 2;
/// The largest header message read, in bytes.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// The largest body (records and footer, uncompressed) written and read, in bytes. One entry may
/// delete millions of keys, and an entry is never split.
pub const BODY_BYTES_MAX: usize = 1 << 30;
/// The largest file written and read, in bytes.
pub const FILE_BYTES_MAX: u64 = BODY_BYTES_MAX as u64 + 2 * HEADER_BYTES_MAX as u64;
/// Bodies above this are compressed where that saves something, in bytes.
pub const COMPRESS_ABOVE_BYTES: usize = 4 << 10;
/// Bytes of a file's beginning that are certain to hold the header of a chunk, for a ranged read.
pub const CHUNK_HEADER_READ_BYTES: u64 = 1 << 10;
