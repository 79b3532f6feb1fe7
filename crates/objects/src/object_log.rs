//! The object log: listing it, adding to it, and the second LIST of R4.

use crate::bucket::{Bucket, StoreError};
use crate::format::{ChunkFile, ChunkMeta, EncodedFile, decode_chunk, encode_chunk};
use crate::keys;
use crate::read::{ReadError, get, list_all, retried, twice};
use crate::settle::{Settled, create_settled};
use bytes::Bytes;
use netsy_api::ids::{ChunkSeq, LogIndex, Position, Revision, Term};
use netsy_api::log::Entry;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;

/// A place in the object log: right after a chunk, or before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPoint {
    /// The chunk; 0: before the first.
    pub seq: ChunkSeq,
    /// The term that wrote it.
    pub term: Term,
    /// Its last entry, or that of the nearest chunk before it that has entries.
    pub last_index: LogIndex,
    /// The term of that entry.
    pub last_term: Term,
    /// The position of the next mutation.
    pub next_position: Position,
    /// The store's revision there.
    pub revision: Revision,
}

impl LogPoint {
    /// Before the first chunk.
    pub const START: LogPoint = LogPoint {
        seq: ChunkSeq(0),
        term: Term(0),
        last_index: LogIndex(0),
        last_term: Term(0),
        next_position: Position(1),
        revision: Revision(1),
    };
}

/// A chunk ready to be created.
#[derive(Clone, Debug)]
pub struct NewChunk {
    /// What it says of itself.
    pub meta: ChunkMeta,
    /// Its bytes: the same at every try (R3).
    pub file: EncodedFile,
}

impl NewChunk {
    /// Encodes a chunk; without entries it is a seal. `last_index` and `last_position` of `meta` are set here.
    pub fn encode(meta: ChunkMeta, entries: &[Arc<Entry>]) -> Result<Self, crate::format::FormatError> {
        let meta = meta.covering(entries);
        let file = encode_chunk(&meta, entries)?;
        Ok(Self { meta, file })
    }
}

/// How a chunk's creation ended (R3).
#[derive(Clone, Debug)]
pub enum Created {
    /// It is in the log: all that it covers is committed (R5 b).
    Landed,
    /// Another chunk has its number: its writer is deposed (R3), or, while it is sealing, adopts it
    /// and goes on (R4).
    Taken(Box<ChunkFile>),
    /// The number was taken by what is deleted by now: list again.
    CleanedUp,
}

/// A chunk in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedChunk {
    /// Its number.
    pub seq: ChunkSeq,
    /// Its stored size.
    pub bytes: u64,
}

/// A segment in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedSegment {
    /// The first chunk in it.
    pub first: ChunkSeq,
    /// The last chunk in it.
    pub last: ChunkSeq,
    /// Its stored size.
    pub bytes: u64,
}

/// Where entries are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A chunk.
    Chunk(ListedChunk),
    /// A segment.
    Segment(ListedSegment),
}

impl Source {
    /// Its object.
    pub fn key(&self) -> String {
        match self {
            Source::Chunk(chunk) => keys::chunk(chunk.seq),
            Source::Segment(segment) => keys::segment(segment.first, segment.last),
        }
    }

    /// Its stored size as listed.
    pub fn bytes(&self) -> u64 {
        match self {
            Source::Chunk(chunk) => chunk.bytes,
            Source::Segment(segment) => segment.bytes,
        }
    }
}

/// What a LIST of the log and of its segments showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogListing {
    /// Ascending.
    pub chunks: Vec<ListedChunk>,
    /// Ascending by first chunk.
    pub segments: Vec<ListedSegment>,
}

impl LogListing {
    /// The greatest chunk number known; 0: none. A segment is made of chunks that have a later one.
    pub fn end(&self) -> ChunkSeq {
        let chunk = self.chunks.last().map_or(ChunkSeq(0), |chunk| chunk.seq);
        let segment = self.segments.iter().map(|segment| segment.last).max().unwrap_or(ChunkSeq(0));
        chunk.max(segment)
    }

    /// From where to read everything after chunk `after` up to the end, using none of the objects
    /// in `without`. Segments come first: a chunk below one may be a seal that fell into a hole
    /// that clean-up left (R4).
    pub fn plan(&self, after: ChunkSeq, without: &HashSet<String>) -> Result<Vec<Source>, ReadError> {
        let end = self.end();
        let usable = |source: Source| (without.is_empty() || !without.contains(&source.key())).then_some(source);
        let mut segments = self.segments.iter().peekable();
        let mut reaching: Option<ListedSegment> = None;
        let mut plan = Vec::new();
        let mut at = after;
        while at < end {
            let next = at.next();
            // Of the segments that begin by now, the one that reaches furthest.
            while let Some(&segment) = segments.next_if(|segment| segment.first <= next) {
                if reaching.is_none_or(|best| best.last < segment.last) && usable(Source::Segment(segment)).is_some() {
                    reaching = Some(segment);
                }
            }
            if let Some(segment) = reaching.filter(|segment| segment.last >= next) {
                at = segment.last;
                plan.push(Source::Segment(segment));
                continue;
            }
            let chunk = self.chunks.binary_search_by_key(&next, |chunk| chunk.seq).ok();
            let chunk = chunk.and_then(|at| self.chunks.get(at)).and_then(|&chunk| usable(Source::Chunk(chunk)));
            let Some(chunk) = chunk else { return Err(self.gap_at(next, end)) };
            at = next;
            plan.push(chunk);
        }
        Ok(plan)
    }

    fn gap_at(&self, first: ChunkSeq, end: ChunkSeq) -> ReadError {
        let known = self.chunks.iter().map(|chunk| chunk.seq).chain(self.segments.iter().map(|segment| segment.first));
        let resumes = known.filter(|&seq| seq > first).min().unwrap_or(end.next());
        ReadError::Gap { first, last: ChunkSeq(resumes.0 - 1) }
    }
}

/// The object log in a bucket.
#[derive(Clone, Debug)]
pub struct ObjectLog {
    bucket: Arc<dyn Bucket>,
    cluster_id: Arc<str>,
}

impl ObjectLog {
    /// The log of this cluster; objects of another one are errors.
    pub fn new(bucket: Arc<dyn Bucket>, cluster_id: &str) -> Self {
        Self { bucket, cluster_id: cluster_id.into() }
    }

    /// The bucket it is in.
    pub fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.bucket
    }

    /// The cluster it belongs to.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// LISTs everything after chunk `after` to the end (R4): the greatest chunk in it is one that
    /// was the greatest at some moment after the call.
    pub async fn list(&self, after: ChunkSeq) -> Result<LogListing, StoreError> {
        // Chunks before segments: a chunk is deleted only when its segment is there to be listed.
        let mut listing = self.list_chunks(after).await?;
        self.list_segments(after, &mut listing).await?;
        Ok(listing)
    }

    /// The chunks after `after` alone: enough where none of them was folded away.
    pub(crate) async fn list_chunks(&self, after: ChunkSeq) -> Result<LogListing, StoreError> {
        let after_key = (after.0 > 0).then(|| keys::chunk(after));
        let listed = list_all(&*self.bucket, keys::LOG, after_key).await?;
        let chunks = listed
            .iter()
            .filter_map(|listed| Some(ListedChunk { seq: keys::parse_chunk(&listed.key)?, bytes: listed.size }));
        Ok(LogListing { chunks: chunks.collect(), segments: vec![] })
    }

    /// Adds the segments to a listing of chunks that was made before.
    pub(crate) async fn list_segments(&self, after: ChunkSeq, listing: &mut LogListing) -> Result<(), StoreError> {
        let listed = list_all(&*self.bucket, keys::SEGMENTS, None).await?;
        let segments = listed.iter().filter_map(|listed| {
            let (first, last) = keys::parse_segment(&listed.key)?;
            Some(ListedSegment { first, last, bytes: listed.size })
        });
        listing.segments = segments.filter(|segment| segment.last > after).collect();
        Ok(())
    }

    /// The second LIST of R4: whether a key above `seq` exists. After one's own seal that means
    /// that the seal fell into a hole and counts for nothing.
    pub async fn anything_after(&self, seq: ChunkSeq) -> Result<bool, StoreError> {
        let key = keys::chunk(seq);
        let listed = retried(&*self.bucket, || self.bucket.list(keys::LOG, Some(&key), 1)).await?;
        Ok(!listed.is_empty())
    }

    /// Creates a chunk or a seal, whose number the caller knows to follow the log's end (R3).
    ///
    /// Goes on through lost and unclear answers with the same bytes. An `Unclear` error after the
    /// store's whole retry time leaves one way: call again with the same chunk. A chunk that could
    /// not be read is an error that names it.
    pub async fn create(&self, chunk: &NewChunk) -> Result<Created, ReadError> {
        let key = keys::chunk(chunk.meta.seq);
        let is_mine = |bytes: &[u8]| bytes == &chunk.file.bytes[..];
        match create_settled(&*self.bucket, &key, chunk.file.bytes.clone(), &is_mine).await? {
            Settled::Mine(_) => Ok(Created::Landed),
            Settled::Missing => Ok(Created::CleanedUp),
            Settled::Theirs(theirs) => {
                let found = match self.decode(&key, chunk.meta.seq, &theirs.object.bytes) {
                    Ok(found) => found,
                    // What came may not be what is there.
                    Err(_) => match self.read_chunk(chunk.meta.seq).await? {
                        Some(found) => found,
                        None => return Ok(Created::CleanedUp),
                    },
                };
                // R3: the same term, session and checksum is this very write.
                let (ours, theirs) = (&chunk.meta, &found.meta);
                if (ours.term, ours.session, chunk.file.checksum) == (theirs.term, theirs.session, found.checksum) {
                    return Ok(Created::Landed);
                }
                Ok(Created::Taken(Box::new(found)))
            }
        }
    }

    /// Reads a chunk; `None` if there is none (any more).
    pub async fn read_chunk(&self, seq: ChunkSeq) -> Result<Option<ChunkFile>, ReadError> {
        let key = keys::chunk(seq);
        let read = twice(async || self.decode(&key, seq, &get(&*self.bucket, &key).await?)).await;
        match read {
            Err(ReadError::Missing { .. }) => Ok(None),
            read => read.map(Some),
        }
    }

    fn decode(&self, key: &str, seq: ChunkSeq, bytes: &Bytes) -> Result<ChunkFile, ReadError> {
        let chunk = decode_chunk(bytes).map_err(|e| ReadError::format(key, &e))?;
        self.check_chunk(key, seq, &chunk)?;
        Ok(chunk)
    }

    pub(crate) fn check_chunk(&self, key: &str, seq: ChunkSeq, chunk: &ChunkFile) -> Result<(), ReadError> {
        self.check_cluster(key, &chunk.meta.cluster_id)?;
        if chunk.meta.seq != seq {
            return Err(ReadError::bad(key, format!("it is chunk {}", chunk.meta.seq)));
        }
        Ok(())
    }

    pub(crate) fn check_cluster(&self, key: &str, cluster_id: &str) -> Result<(), ReadError> {
        if cluster_id == &*self.cluster_id {
            return Ok(());
        }
        Err(ReadError::bad(
            key,
            format!("it belongs to cluster {cluster_id}, this is {}: use another storage.key_prefix", self.cluster_id),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(chunks: &[u64], segments: &[(u64, u64)]) -> LogListing {
        LogListing {
            chunks: chunks.iter().map(|&seq| ListedChunk { seq: ChunkSeq(seq), bytes: 1 }).collect(),
            segments: segments
                .iter()
                .map(|&(first, last)| ListedSegment { first: ChunkSeq(first), last: ChunkSeq(last), bytes: 1 })
                .collect(),
        }
    }

    fn keys_of(plan: Vec<Source>) -> Vec<String> {
        plan.iter().map(Source::key).collect()
    }

    #[test]
    fn segments_stand_in_for_chunks() {
        let listing = listing(&[2, 5, 6], &[(1, 3), (2, 4)]);
        assert_eq!(listing.end(), ChunkSeq(6));
        let plan = listing.plan(ChunkSeq(0), &HashSet::new()).unwrap();
        let expected = [
            keys::segment(ChunkSeq(1), ChunkSeq(3)),
            keys::segment(ChunkSeq(2), ChunkSeq(4)),
            keys::chunk(ChunkSeq(5)),
            keys::chunk(ChunkSeq(6)),
        ];
        assert_eq!(keys_of(plan), expected);
    }

    #[test]
    fn a_missing_number_below_the_end_is_a_gap_and_not_the_end() {
        let gap = |after, listing: &LogListing| match listing.plan(ChunkSeq(after), &HashSet::new()) {
            Err(ReadError::Gap { first, last }) => Some((first.0, last.0)),
            _ => None,
        };
        let listing = listing(&[1, 2, 5], &[(7, 9)]);
        assert_eq!(gap(0, &listing), Some((3, 4)));
        assert_eq!(gap(4, &listing), Some((6, 6)));
        assert_eq!(gap(6, &listing), None);
        assert!(listing.plan(ChunkSeq(9), &HashSet::new()).unwrap().is_empty());
    }

    #[test]
    fn what_is_known_to_be_bad_is_gone_around() {
        let listing = listing(&[1, 2, 3], &[(1, 2)]);
        let without = HashSet::from([keys::segment(ChunkSeq(1), ChunkSeq(2))]);
        let plan = keys_of(listing.plan(ChunkSeq(0), &without).unwrap());
        assert_eq!(plan, [1, 2, 3].map(|seq| keys::chunk(ChunkSeq(seq))));
        let without = HashSet::from([keys::chunk(ChunkSeq(3))]);
        assert!(matches!(listing.plan(ChunkSeq(0), &without), Err(ReadError::Gap { first: ChunkSeq(3), .. })));
    }
}
