//! Reading the object log: several objects at a time, handed out in order, each checked against the
//! one before.

use crate::format::{ChunkFile, ChunkInfo, FILE_BYTES_MAX, SegmentFile, decode_chunk, decode_segment};
use crate::object_log::{LogPoint, ObjectLog, Source};
use crate::read::{ReadError, get, twice};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use netsy_api::ids::Position;
use netsy_api::log::Entry;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Objects fetched at a time.
pub const READ_PARALLEL: usize = 32;
/// Stored bytes of objects that are fetched and not yet taken; one larger object is let through alone.
pub const READ_BYTES_MAX: u64 = 64 << 20;
/// Decoding more than this is done off the async threads, in bytes.
const DECODE_INLINE_BYTES: usize = 32 << 10;

const PERMIT_BYTES: u64 = 1 << 10;

/// Bounds what is fetched ahead.
#[derive(Clone)]
pub(crate) struct ReadBudget {
    permits: Arc<Semaphore>,
    permits_max: u32,
}

impl ReadBudget {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let permits_max = u32::try_from(bytes_max / PERMIT_BYTES).unwrap_or(u32::MAX >> 4).max(1);
        Self { permits: Arc::new(Semaphore::new(permits_max as usize)), permits_max }
    }

    /// Waits for room. To be called in the order of use, before the fetch is begun: whoever is
    /// first in line then never waits for those behind.
    pub(crate) async fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes / PERMIT_BYTES).unwrap_or(u32::MAX).clamp(1, self.permits_max);
        // Never closed; without a permit the bound is off, not the read.
        self.permits.clone().acquire_many_owned(permits).await.ok()
    }
}

/// Runs a decoder where it does not hold up the async threads.
pub(crate) async fn decode<T: Send + 'static>(
    bytes: Bytes,
    decode: impl FnOnce(&Bytes) -> T + Send + 'static,
) -> Result<T, String> {
    if bytes.len() <= DECODE_INLINE_BYTES {
        return Ok(decode(&bytes));
    }
    tokio::task::spawn_blocking(move || decode(&bytes)).await.map_err(|e| format!("decoding was broken off: {e}"))
}

/// A chunk or segment as read.
#[derive(Debug)]
pub struct LogPiece {
    /// Its object.
    pub key: String,
    /// The chunks it holds, in order; never empty.
    pub chunks: Vec<ChunkInfo>,
    /// Position of the first mutation.
    pub first_position: Position,
    /// Position of the last.
    pub last_position: Position,
    /// All entries.
    pub entries: Vec<Arc<Entry>>,
    // Returned to the budget when the piece is dropped.
    _room: Option<OwnedSemaphorePermit>,
}

impl LogPiece {
    /// A chunk as a piece of the log, for instance one found in the way of a seal (R4).
    pub fn from_chunk(key: String, chunk: ChunkFile) -> Self {
        Self {
            key,
            chunks: vec![ChunkInfo::of(&chunk)],
            first_position: chunk.meta.first_position,
            last_position: chunk.meta.last_position,
            entries: chunk.entries,
            _room: None,
        }
    }

    fn from_segment(key: String, segment: SegmentFile) -> Self {
        Self {
            key,
            chunks: segment.chunks,
            first_position: segment.first_position,
            last_position: segment.last_position,
            entries: segment.entries,
            _room: None,
        }
    }
}

impl ObjectLog {
    /// Reads these, [`READ_PARALLEL`] at a time, and hands them out in order. The stream ends after
    /// its first error.
    pub fn read(&self, sources: Vec<Source>) -> BoxStream<'static, Result<LogPiece, ReadError>> {
        let budget = ReadBudget::new(READ_BYTES_MAX);
        let log = self.clone();
        // Room is taken in order, one after the other; the fetches themselves, handed out as futures,
        // then run beside each other.
        #[allow(clippy::async_yields_async)]
        let fetches = stream::iter(sources).then(move |source| {
            let (log, budget) = (log.clone(), budget.clone());
            async move {
                let room = budget.take(source.bytes()).await;
                async move {
                    let mut piece = twice(|| log.read_source(&source)).await?;
                    piece._room = room;
                    Ok(piece)
                }
            }
        });
        let mut failed = false;
        fetches
            .buffered(READ_PARALLEL)
            .take_while(move |piece| {
                let go_on = !failed;
                failed = piece.is_err();
                std::future::ready(go_on)
            })
            .boxed()
    }

    async fn read_source(&self, source: &Source) -> Result<LogPiece, ReadError> {
        let key = source.key();
        if source.bytes() > FILE_BYTES_MAX {
            return Err(ReadError::bad(
                key,
                format!("it has {} bytes, at most {FILE_BYTES_MAX} are read", source.bytes()),
            ));
        }
        let bytes = get(&**self.bucket(), &key).await?;
        match source {
            Source::Chunk(listed) => {
                let chunk = decode(bytes, decode_chunk).await.map_err(|e| ReadError::bad(&key, e))?;
                let chunk = chunk.map_err(|e| ReadError::format(&key, &e))?;
                self.check_chunk(&key, listed.seq, &chunk)?;
                Ok(LogPiece::from_chunk(key, chunk))
            }
            Source::Segment(listed) => {
                let segment = decode(bytes, decode_segment).await.map_err(|e| ReadError::bad(&key, e))?;
                let segment = segment.map_err(|e| ReadError::format(&key, &e))?;
                self.check_cluster(&key, &segment.cluster_id)?;
                let ends = (segment.chunks.first().map(|c| c.seq), segment.chunks.last().map(|c| c.seq));
                if ends != (Some(listed.first), Some(listed.last)) {
                    return Err(ReadError::bad(&key, "it holds other chunks than its name says"));
                }
                Ok(LogPiece::from_segment(key, segment))
            }
        }
    }
}

impl LogPoint {
    /// Checks that `piece` follows this point without a gap, and moves behind it. A piece may begin
    /// before the point; it gives back how many of its entries lie before.
    pub fn follow(&mut self, piece: &LogPiece) -> Result<usize, ReadError> {
        let bad = |reason: String| ReadError::bad(&piece.key, reason);
        let (Some(first), Some(last)) = (piece.chunks.first(), piece.chunks.last()) else {
            return Err(bad("it holds no chunk".to_string()));
        };
        if first.seq > self.seq.next() || last.seq <= self.seq {
            return Err(bad(format!("chunks {} to {} do not follow chunk {}", first.seq, last.seq, self.seq)));
        }
        let before = piece.chunks.iter().take_while(|chunk| chunk.seq <= self.seq).last();
        let (skip, position) = match before {
            Some(chunk) => {
                if (chunk.seq, chunk.term, chunk.last_index) != (self.seq, self.term, self.last_index) {
                    return Err(bad(format!(
                        "its chunk {} of term {} ends at index {}, term {} and index {} are known of it",
                        chunk.seq, chunk.term, chunk.last_index, self.term, self.last_index
                    )));
                }
                let skip = piece.entries.partition_point(|entry| entry.index <= self.last_index);
                let mutations: usize = piece.entries[..skip].iter().map(|entry| entry.mutations.len()).sum();
                (skip, Position(piece.first_position.0.saturating_add(mutations as u64)))
            }
            None => {
                if first.term < self.term || first.first_index != self.last_index.next() {
                    return Err(bad(format!(
                        "it begins at index {} in term {}, chunk {} before it ended at index {} in term {}",
                        first.first_index, first.term, self.seq, self.last_index, self.term
                    )));
                }
                (0, piece.first_position)
            }
        };
        if position != self.next_position {
            return Err(bad(format!("it goes on at position {position}, position {} is next", self.next_position)));
        }
        if let Some(entry) = piece.entries.get(skip) {
            let step = entry.revision.0.checked_sub(self.revision.0);
            if entry.term < self.last_term || !step.is_some_and(|step| (0..=1).contains(&step)) {
                return Err(bad(format!(
                    "entry {} (term {}, revision {}) cannot follow entry {} (term {}, revision {})",
                    entry.index, entry.term, entry.revision, self.last_index, self.last_term, self.revision
                )));
            }
        }
        let last_entry = piece.entries.get(skip..).and_then(<[_]>::last);
        *self = LogPoint {
            seq: last.seq,
            term: last.term,
            last_index: last.last_index,
            last_term: last_entry.map_or(self.last_term, |entry| entry.term),
            next_position: piece.last_position.next(),
            revision: last_entry.map_or(self.revision, |entry| entry.revision),
        };
        Ok(skip)
    }
}
