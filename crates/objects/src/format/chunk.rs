//! Chunks and seals: the objects of the log (protocol.md section 1, R3, R4).

use super::error::FormatError;
use super::file::{BodyWriter, EncodedFile, FileReader, assemble, read_header};
use super::record::{entry_len, read_entry};
use bytes::Bytes;
use netsy_api::file::{FileHeader, Kind};
use netsy_api::ids::{ChunkSeq, LogIndex, NodeId, Position, Session, Term, UnixMillis};
use netsy_api::log::Entry;
use std::sync::Arc;

/// What a chunk says of itself. Together with the entries it gives the file's bytes: nothing else
/// goes in, so that a retry sends the same ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkMeta {
    /// The cluster's name.
    pub cluster_id: String,
    /// The node that wrote it.
    pub node_id: NodeId,
    /// That process: makes every body unique (R3).
    pub session: Session,
    /// Its number in the object log.
    pub seq: ChunkSeq,
    /// The term in which it was written; its entries' terms are not above.
    pub term: Term,
    /// The entry after the previous chunk's last.
    pub first_index: LogIndex,
    /// `first_index` − 1: a seal (R4).
    pub last_index: LogIndex,
    /// The position after the previous chunk's last.
    pub first_position: Position,
    /// The position of the last mutation; `first_position` − 1 in a seal.
    pub last_position: Position,
    /// When it was made, for people and retention.
    pub created_at: UnixMillis,
}

impl ChunkMeta {
    /// Whether it marks the start of a term and holds no entries.
    pub fn is_seal(&self) -> bool {
        self.last_index < self.first_index
    }

    /// Sets `last_index` and `last_position` to what these entries make them.
    pub fn covering(mut self, entries: &[Arc<Entry>]) -> Self {
        let mutations: u64 = entries.iter().map(|e| e.mutations.len() as u64).sum();
        self.last_index = LogIndex(self.first_index.0.saturating_sub(1).saturating_add(entries.len() as u64));
        self.last_position = Position(self.first_position.0.saturating_sub(1).saturating_add(mutations));
        self
    }
}

/// A chunk read back: every checksum held, its entries fit the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkFile {
    /// From the header.
    pub meta: ChunkMeta,
    /// The file's checksum: with seq, term and session it identifies the chunk (R3).
    pub checksum: u64,
    /// Stored size in bytes.
    pub bytes: u64,
    /// In order; keys and values are slices of the file read.
    pub entries: Vec<Arc<Entry>>,
}

/// The bytes of a chunk. The same arguments give the same bytes, bit for bit.
///
/// Fails if the entries do not fit `meta` (a caller's mistake) or are too many for one file.
pub fn encode_chunk(meta: &ChunkMeta, entries: &[Arc<Entry>]) -> Result<EncodedFile, FormatError> {
    let mut check = EntryCheck::new(meta.first_index, meta.first_position, meta.term);
    let mut bytes = 64;
    for entry in entries {
        check.entry(entry)?;
        bytes += entry_len(entry) + 16;
    }
    check.finish(meta.last_index, meta.last_position)?;
    check_meta(meta, entries.len() as u64)?;
    let mut body = BodyWriter::with_capacity(bytes);
    for entry in entries {
        body.entry(entry);
    }
    Ok(assemble(Kind::Chunk, header_of(meta), &body.finish(Vec::new())?))
}

/// The bytes of a seal: a chunk without entries, right after what `meta` says came before (its
/// `last_index` and `last_position` are set here).
pub fn encode_seal(meta: &ChunkMeta) -> Result<EncodedFile, FormatError> {
    encode_chunk(&meta.clone().covering(&[]), &[])
}

/// Reads a chunk and checks everything about it.
pub fn decode_chunk(bytes: &Bytes) -> Result<ChunkFile, FormatError> {
    let mut file = FileReader::open(bytes, Kind::Chunk)?;
    let meta = meta_of(&file.header)?;
    check_meta(&meta, file.records_count())?;
    let mut check = EntryCheck::new(meta.first_index, meta.first_position, meta.term);
    let mut entries = Vec::with_capacity(file.records_count() as usize);
    while let Some((number, message)) = file.next_record()? {
        let entry = read_entry(message, number)?;
        check.entry(&entry)?;
        entries.push(Arc::new(entry));
    }
    check.finish(meta.last_index, meta.last_position)?;
    let footer = file.finish()?;
    if !footer.chunks.is_empty() {
        return Err(FormatError::invalid("a chunk that lists chunks"));
    }
    Ok(ChunkFile { meta, checksum: file.checksum, bytes: bytes.len() as u64, entries })
}

/// Reads what a chunk says of itself from its first bytes
/// ([`CHUNK_HEADER_READ_BYTES`](super::CHUNK_HEADER_READ_BYTES) suffice). Only the header's checksum is checked.
pub fn read_chunk_meta(bytes: &Bytes) -> Result<ChunkMeta, FormatError> {
    let (header, _) = read_header(bytes)?;
    if header.kind != Kind::Chunk as i32 {
        return Err(FormatError::invalid(format!("a chunk was expected, this is kind {}", header.kind)));
    }
    let meta = meta_of(&header)?;
    check_meta(&meta, header.records_count as u64)?;
    Ok(meta)
}

fn header_of(meta: &ChunkMeta) -> FileHeader {
    FileHeader {
        node_id: meta.node_id.as_str().to_string(),
        cluster_id: meta.cluster_id.clone(),
        seq: meta.seq.0,
        term: meta.term.0,
        session: Bytes::copy_from_slice(&meta.session.0.to_be_bytes()),
        first_index: meta.first_index.0,
        last_index: meta.last_index.0,
        first_position: meta.first_position.0,
        last_position: meta.last_position.0,
        created_at_ms: meta.created_at.0,
        ..FileHeader::default()
    }
}

pub(super) fn session_of(bytes: &[u8]) -> Result<Session, FormatError> {
    let bytes =
        bytes.try_into().map_err(|_| FormatError::invalid(format!("a session of {} bytes, it has 16", bytes.len())))?;
    Ok(Session(u128::from_be_bytes(bytes)))
}

fn meta_of(header: &FileHeader) -> Result<ChunkMeta, FormatError> {
    Ok(ChunkMeta {
        cluster_id: header.cluster_id.clone(),
        node_id: NodeId::new(header.node_id.as_str()).map_err(FormatError::invalid)?,
        session: session_of(&header.session)?,
        seq: ChunkSeq(header.seq),
        term: Term(header.term),
        first_index: LogIndex(header.first_index),
        last_index: LogIndex(header.last_index),
        first_position: Position(header.first_position),
        last_position: Position(header.last_position),
        created_at: UnixMillis(header.created_at_ms),
    })
}

fn check_meta(meta: &ChunkMeta, records: u64) -> Result<(), FormatError> {
    netsy_api::ids::check_name("cluster id", &meta.cluster_id).map_err(FormatError::invalid)?;
    if meta.seq.0 == 0 || meta.term.0 == 0 {
        return Err(FormatError::invalid(format!("chunk number {} of term {}: both begin at 1", meta.seq, meta.term)));
    }
    check_span(meta.first_index, meta.last_index, meta.first_position, meta.last_position, records)
}

/// Entries and positions that a header claims must be possible for its number of records.
pub(super) fn check_span(
    first_index: LogIndex,
    last_index: LogIndex,
    first_position: Position,
    last_position: Position,
    records: u64,
) -> Result<(), FormatError> {
    let entries = last_index.0.checked_add(1).and_then(|end| end.checked_sub(first_index.0));
    let mutations = last_position.0.checked_add(1).and_then(|end| end.checked_sub(first_position.0));
    let fits = entries == Some(records) && mutations.is_some_and(|n| n >= records && (records > 0 || n == 0));
    if !fits || first_index.0 == 0 || first_position.0 == 0 {
        return Err(FormatError::invalid(format!(
            "indexes {first_index} to {last_index} and positions {first_position} to {last_position} in {records} records"
        )));
    }
    Ok(())
}

/// Walks entries and checks that they follow each other.
pub(super) struct EntryCheck {
    next_index: u64,
    next_position: u64,
    term_max: u64,
    term: u64,
    revision: i64,
}

impl EntryCheck {
    pub(super) fn new(first_index: LogIndex, first_position: Position, term_max: Term) -> Self {
        Self { next_index: first_index.0, next_position: first_position.0, term_max: term_max.0, term: 1, revision: 0 }
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> Result<(), FormatError> {
        if entry.index.0 != self.next_index {
            return Err(FormatError::invalid(format!("entry {} where {} should be", entry.index, self.next_index)));
        }
        if entry.term.0 < self.term || entry.term.0 > self.term_max {
            return Err(FormatError::invalid(format!(
                "entry {} has term {}, it must be {} to {}",
                entry.index, entry.term, self.term, self.term_max
            )));
        }
        if entry.revision.0 < 1 || (self.revision > 0 && !(0..=1).contains(&(entry.revision.0 - self.revision))) {
            return Err(FormatError::invalid(format!(
                "entry {} has revision {} after {}",
                entry.index, entry.revision, self.revision
            )));
        }
        if entry.mutations.is_empty() {
            return Err(FormatError::invalid(format!("entry {} has no mutation", entry.index)));
        }
        self.next_index = self.next_index.saturating_add(1);
        self.next_position = self.next_position.saturating_add(entry.mutations.len() as u64);
        self.term = entry.term.0;
        self.revision = entry.revision.0;
        Ok(())
    }

    pub(super) fn finish(&self, last_index: LogIndex, last_position: Position) -> Result<(), FormatError> {
        if last_index.0.checked_add(1) != Some(self.next_index)
            || last_position.0.checked_add(1) != Some(self.next_position)
        {
            return Err(FormatError::invalid(format!(
                "the entries end before index {} and position {}, the header says they end at {last_index} and {last_position}",
                self.next_index, self.next_position
            )));
        }
        Ok(())
    }
}
