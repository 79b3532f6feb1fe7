//! Segments: runs of small chunks folded into one object (protocol.md section 6).
//!
//! A segment has no writer and no time of its own: whoever folds the same chunks writes the same
//! content.

use super::chunk::{ChunkFile, EntryCheck, check_span, session_of};
use super::error::FormatError;
use super::file::{BodyWriter, EncodedFile, FileReader, assemble};
use super::record::{entry_len, read_entry};
use bytes::Bytes;
use netsy_api::file::{self, FileHeader, Kind};
use netsy_api::ids::{ChunkSeq, LogIndex, NodeId, Position, Session, Term, UnixMillis};
use netsy_api::log::Entry;
use std::sync::Arc;

/// What a segment keeps of each chunk folded into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkInfo {
    /// Its number.
    pub seq: ChunkSeq,
    /// The term that wrote it.
    pub term: Term,
    /// The process that wrote it.
    pub session: Session,
    /// The node that wrote it.
    pub node_id: NodeId,
    /// Its first entry.
    pub first_index: LogIndex,
    /// Its last; `first_index` − 1: it is a seal, and is still in the log.
    pub last_index: LogIndex,
    /// The chunk file's checksum.
    pub checksum: u64,
    /// The chunk file's size.
    pub bytes: u64,
    /// When it was made.
    pub created_at: UnixMillis,
}

impl ChunkInfo {
    /// Whether it marks the start of a term (R4) and so is never deleted.
    pub fn is_seal(&self) -> bool {
        self.last_index < self.first_index
    }

    /// What a segment keeps of this chunk.
    pub fn of(chunk: &ChunkFile) -> Self {
        let meta = &chunk.meta;
        Self {
            seq: meta.seq,
            term: meta.term,
            session: meta.session,
            node_id: meta.node_id.clone(),
            first_index: meta.first_index,
            last_index: meta.last_index,
            checksum: chunk.checksum,
            bytes: chunk.bytes,
            created_at: meta.created_at,
        }
    }

    fn to_message(&self) -> file::ChunkInfo {
        file::ChunkInfo {
            seq: self.seq.0,
            term: self.term.0,
            session: Bytes::copy_from_slice(&self.session.0.to_be_bytes()),
            first_index: self.first_index.0,
            last_index: self.last_index.0,
            checksum: self.checksum,
            bytes: self.bytes,
            created_at_ms: self.created_at.0,
            node_id: self.node_id.as_str().to_string(),
        }
    }

    fn from_message(message: file::ChunkInfo) -> Result<Self, FormatError> {
        Ok(Self {
            seq: ChunkSeq(message.seq),
            term: Term(message.term),
            session: session_of(&message.session)?,
            node_id: NodeId::new(message.node_id).map_err(FormatError::invalid)?,
            first_index: LogIndex(message.first_index),
            last_index: LogIndex(message.last_index),
            checksum: message.checksum,
            bytes: message.bytes,
            created_at: UnixMillis(message.created_at_ms),
        })
    }
}

/// A segment read back: every checksum held, chunks and entries are without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// The cluster's name.
    pub cluster_id: String,
    /// The chunks folded, in order; never empty.
    pub chunks: Vec<ChunkInfo>,
    /// Position of the first mutation.
    pub first_position: Position,
    /// Position of the last mutation; `first_position` − 1 if there are only seals.
    pub last_position: Position,
    /// The file's checksum.
    pub checksum: u64,
    /// Stored size in bytes.
    pub bytes: u64,
    /// All entries of the chunks, in order.
    pub entries: Vec<Arc<Entry>>,
}

/// Folds chunks that follow each other. Fails if they do not.
pub fn encode_segment(chunks: &[ChunkFile]) -> Result<EncodedFile, FormatError> {
    let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
        return Err(FormatError::invalid("a segment of no chunks"));
    };
    let mut positions = first.meta.first_position;
    let mut bytes = 64;
    for chunk in chunks {
        if chunk.meta.cluster_id != first.meta.cluster_id || chunk.meta.first_position != positions {
            return Err(FormatError::invalid(format!(
                "chunk {} of cluster {} begins at position {}, position {positions} of cluster {} should follow",
                chunk.meta.seq, chunk.meta.cluster_id, chunk.meta.first_position, first.meta.cluster_id
            )));
        }
        positions = chunk.meta.last_position.next();
        bytes += 96 + chunk.entries.iter().map(|e| entry_len(e) + 16).sum::<usize>();
    }
    let infos: Vec<ChunkInfo> = chunks.iter().map(ChunkInfo::of).collect();
    check_chunks(&infos)?;
    let mut check = EntryCheck::new(first.meta.first_index, first.meta.first_position, last.meta.term);
    let mut body = BodyWriter::with_capacity(bytes);
    for entry in chunks.iter().flat_map(|chunk| &chunk.entries) {
        check.entry(entry)?;
        body.entry(entry);
    }
    check.finish(last.meta.last_index, last.meta.last_position)?;
    let header = FileHeader {
        cluster_id: first.meta.cluster_id.clone(),
        seq: last.meta.seq.0,
        first_seq: first.meta.seq.0,
        term: last.meta.term.0,
        first_term: first.meta.term.0,
        first_index: first.meta.first_index.0,
        last_index: last.meta.last_index.0,
        first_position: first.meta.first_position.0,
        last_position: last.meta.last_position.0,
        ..FileHeader::default()
    };
    let body = body.finish(infos.iter().map(ChunkInfo::to_message).collect())?;
    Ok(assemble(Kind::Segment, header, &body))
}

/// Reads a segment and checks everything about it.
pub fn decode_segment(bytes: &Bytes) -> Result<SegmentFile, FormatError> {
    let mut file = FileReader::open(bytes, Kind::Segment)?;
    let header = file.header.clone();
    netsy_api::ids::check_name("cluster id", &header.cluster_id).map_err(FormatError::invalid)?;
    let (first_index, last_index) = (LogIndex(header.first_index), LogIndex(header.last_index));
    let (first_position, last_position) = (Position(header.first_position), Position(header.last_position));
    check_span(first_index, last_index, first_position, last_position, file.records_count())?;
    let mut check = EntryCheck::new(first_index, first_position, Term(header.term));
    let mut entries = Vec::with_capacity(file.records_count() as usize);
    while let Some((number, message)) = file.next_record()? {
        let entry = read_entry(message, number)?;
        check.entry(&entry)?;
        entries.push(Arc::new(entry));
    }
    check.finish(last_index, last_position)?;
    let footer = file.finish()?;
    let chunks = footer.chunks.into_iter().map(ChunkInfo::from_message).collect::<Result<Vec<_>, _>>()?;
    check_chunks(&chunks)?;
    let fits = |first: &ChunkInfo, last: &ChunkInfo| {
        (first.seq.0, first.term.0, first.first_index) == (header.first_seq, header.first_term, first_index)
            && (last.seq.0, last.term.0, last.last_index) == (header.seq, header.term, last_index)
    };
    if !chunks.first().zip(chunks.last()).is_some_and(|(first, last)| fits(first, last)) {
        return Err(FormatError::invalid("the chunks listed are not those of the header"));
    }
    check_terms(&chunks, &entries)?;
    Ok(SegmentFile {
        cluster_id: header.cluster_id,
        chunks,
        first_position,
        last_position,
        checksum: file.checksum,
        bytes: bytes.len() as u64,
        entries,
    })
}

/// Chunks follow each other: dense numbers and indexes, terms that never decrease (R3).
fn check_chunks(chunks: &[ChunkInfo]) -> Result<(), FormatError> {
    for chunk in chunks {
        let spans = chunk.last_index.0.checked_add(1).is_some_and(|end| end >= chunk.first_index.0);
        if chunk.seq.0 == 0 || chunk.term.0 == 0 || chunk.first_index.0 == 0 || !spans {
            return Err(FormatError::invalid(format!(
                "chunk {} of term {} with indexes {} to {}",
                chunk.seq, chunk.term, chunk.first_index, chunk.last_index
            )));
        }
    }
    for (before, after) in chunks.iter().zip(chunks.iter().skip(1)) {
        let dense = before.seq.0.checked_add(1) == Some(after.seq.0)
            && before.last_index.0.checked_add(1) == Some(after.first_index.0);
        if !dense || after.term < before.term {
            return Err(FormatError::invalid(format!(
                "chunk {} (term {}, to index {}) is followed by chunk {} (term {}, from index {})",
                before.seq, before.term, before.last_index, after.seq, after.term, after.first_index
            )));
        }
    }
    Ok(())
}

/// No entry has a term above its chunk's.
fn check_terms(chunks: &[ChunkInfo], entries: &[Arc<Entry>]) -> Result<(), FormatError> {
    let mut entries = entries.iter().peekable();
    for chunk in chunks {
        while let Some(entry) = entries.next_if(|entry| entry.index <= chunk.last_index) {
            if entry.term > chunk.term {
                return Err(FormatError::invalid(format!(
                    "entry {} has term {}, its chunk {} was written in term {}",
                    entry.index, entry.term, chunk.seq, chunk.term
                )));
            }
        }
    }
    Ok(())
}
