//! Folding runs of small chunks into segments, so that a write per chunk does not leave an object per
//! write.

use crate::format::{ChunkFile, ChunkInfo, SegmentFile, decode_segment, encode_segment};
use crate::keys;
use crate::log_reader::decode;
use crate::object_log::{ListedSegment, LogListing, ObjectLog};
use crate::read::{ReadError, get, twice};
use crate::settle::{Settled, create_settled};
use crate::snapshot::{first_readable, list_snapshots};
use futures::stream::{self, StreamExt, TryStreamExt};
use netsy_api::ids::ChunkSeq;
use std::collections::HashSet;

/// Objects that may have gone while they were folded, before that is an error.
const LOOKS_MAX: usize = 64;

/// What is folded.
#[derive(Clone, Copy, Debug)]
pub struct FoldPolicy {
    /// Chunks above this many stored bytes stay as they are.
    pub chunk_bytes_max: u64,
    /// A shorter run of chunks waits for more.
    pub run_chunks_min: usize,
    /// A run ends at this many chunks,
    pub run_chunks_max: usize,
    /// or at this many stored bytes.
    pub run_bytes_max: u64,
    /// Chunks read at a time.
    pub parallel: usize,
}

impl Default for FoldPolicy {
    fn default() -> Self {
        Self {
            chunk_bytes_max: 256 << 10,
            run_chunks_min: 64,
            run_chunks_max: 1024,
            run_bytes_max: 16 << 20,
            parallel: 16,
        }
    }
}

/// Chunks that follow each other and are to become a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoldRun {
    /// The first.
    pub first: ChunkSeq,
    /// The last.
    pub last: ChunkSeq,
    /// Their stored bytes.
    pub bytes: u64,
}

impl FoldRun {
    fn chunks(&self) -> usize {
        usize::try_from(self.last.0 - self.first.0 + 1).unwrap_or(usize::MAX)
    }
}

/// A segment that was read back: the chunks it lists may be deleted, but for seals and the newest.
/// Only [`fold`] and [`check_segment`] make one.
#[derive(Clone, Debug)]
pub struct CheckedSegment {
    chunks: Vec<ChunkInfo>,
}

impl CheckedSegment {
    /// The chunks in it, in order.
    pub fn chunks(&self) -> &[ChunkInfo] {
        &self.chunks
    }
}

/// The runs worth folding: chunks above `above` that no segment covers. The newest chunk is left alone,
/// and so are numbers at or below `above`, where clean-up may have left holes with a late seal in one.
pub fn plan_folds(listing: &LogListing, above: ChunkSeq, policy: &FoldPolicy) -> Vec<FoldRun> {
    let newest = listing.chunks.last().map(|chunk| chunk.seq);
    let mut runs: Vec<FoldRun> = Vec::new();
    let mut open: Option<FoldRun> = None;
    let mut segments = listing.segments.iter().peekable();
    let mut covered = ChunkSeq(0);
    for chunk in &listing.chunks {
        while let Some(segment) = segments.next_if(|segment| segment.first <= chunk.seq) {
            covered = covered.max(segment.last);
        }
        let folds = chunk.seq > above
            && chunk.seq > covered
            && Some(chunk.seq) != newest
            && chunk.bytes <= policy.chunk_bytes_max;
        if !folds {
            runs.extend(open.take());
            continue;
        }
        open = match open {
            Some(run)
                if run.last.next() == chunk.seq
                    && run.chunks() < policy.run_chunks_max
                    && run.bytes + chunk.bytes <= policy.run_bytes_max =>
            {
                Some(FoldRun { last: chunk.seq, bytes: run.bytes + chunk.bytes, ..run })
            }
            done => {
                runs.extend(done);
                Some(FoldRun { first: chunk.seq, last: chunk.seq, bytes: chunk.bytes })
            }
        };
    }
    runs.extend(open);
    runs.retain(|run| run.chunks() >= policy.run_chunks_min.max(2));
    runs
}

/// Folds everything that is worth it.
pub async fn fold_all(log: &ObjectLog, policy: &FoldPolicy) -> Result<Vec<CheckedSegment>, ReadError> {
    let (mut gone, mut folded) = (HashSet::new(), Vec::new());
    loop {
        match fold_listed(log, policy, &mut folded).await {
            Ok(()) => return Ok(folded),
            // Listed, and not there: another node may have folded it meanwhile, or a snapshot covers it. Not so if it
            // is listed again.
            Err(ReadError::Missing { key }) if gone.len() < LOOKS_MAX && gone.insert(key.clone()) => {
                tracing::debug!(%key, "it has gone while chunks were folded: looking again");
            }
            Err(error) => return Err(error),
        }
    }
}

/// Folds what a LIST shows.
async fn fold_listed(log: &ObjectLog, policy: &FoldPolicy, folded: &mut Vec<CheckedSegment>) -> Result<(), ReadError> {
    let above = oldest_snapshot_seq(log).await?;
    let listing = log.list(above).await?;
    for run in plan_folds(&listing, above, policy) {
        folded.push(fold(log, run, policy).await?);
    }
    Ok(())
}

/// Clean-up deletes chunks that no segment covers only up to the oldest snapshot.
async fn oldest_snapshot_seq(log: &ObjectLog) -> Result<ChunkSeq, ReadError> {
    let indexes = list_snapshots(&**log.bucket()).await?;
    // One that cannot be read is no reason for a deletion either.
    let oldest = first_readable(&**log.bucket(), log.cluster_id(), indexes).await?;
    Ok(oldest.map_or(ChunkSeq(0), |manifest| manifest.seq))
}

/// Writes the segment of a run and reads it back.
pub async fn fold(log: &ObjectLog, run: FoldRun, policy: &FoldPolicy) -> Result<CheckedSegment, ReadError> {
    let seqs = (run.first.0..=run.last.0).map(ChunkSeq);
    let chunks: Vec<ChunkFile> = stream::iter(seqs.map(|seq| async move {
        let missing = || ReadError::Missing { key: keys::chunk(seq) };
        log.read_chunk(seq).await?.ok_or_else(missing)
    }))
    .buffered(policy.parallel.max(1))
    .try_collect()
    .await?;
    let key = keys::segment(run.first, run.last);
    let infos: Vec<ChunkInfo> = chunks.iter().map(ChunkInfo::of).collect();
    check_continues(log, &infos).await?;
    let encoded = tokio::task::spawn_blocking(move || encode_segment(&chunks))
        .await
        .map_err(|e| ReadError::bad(&key, format!("folding was broken off: {e}")))?
        .map_err(|e| ReadError::bad(&key, format!("its chunks cannot be folded: {e}")))?;
    // Whoever folds this run writes this content; what is there is judged by reading it back.
    let is_mine = |found: &[u8]| found == &encoded.bytes[..];
    if let Settled::Missing = create_settled(&**log.bucket(), &key, encoded.bytes.clone(), &is_mine).await? {
        return Err(ReadError::Missing { key });
    }
    let listed = ListedSegment { first: run.first, last: run.last, bytes: encoded.bytes.len() as u64 };
    let checked = check_segment(log, listed).await?;
    if checked.chunks != infos {
        return Err(ReadError::bad(key, "it does not hold the chunks of this run"));
    }
    Ok(checked)
}

/// The last chunk of a run is the log's own: the chunk after it goes on from there. A seal that fell into the hole which
/// another node's folding left there since the LIST has no continuation.
async fn check_continues(log: &ObjectLog, run: &[ChunkInfo]) -> Result<(), ReadError> {
    let Some(last) = run.last() else { return Ok(()) };
    let next = last.seq.next();
    let after = match log.read_chunk(next).await? {
        Some(chunk) => Some(ChunkInfo::of(&chunk)),
        None => folded(log, next).await?,
    };
    let after = after.ok_or(ReadError::Missing { key: keys::chunk(next) })?;
    if after.first_index != last.last_index.next() || after.term < last.term {
        let text = format!(
            "it ends at index {} of term {}, chunk {next} begins at index {} of term {}: it is not the log's",
            last.last_index, last.term, after.first_index, after.term
        );
        return Err(ReadError::bad(keys::chunk(last.seq), text));
    }
    Ok(())
}

/// A chunk that is in a segment by now.
async fn folded(log: &ObjectLog, seq: ChunkSeq) -> Result<Option<ChunkInfo>, ReadError> {
    let listing = log.list(ChunkSeq(seq.0.saturating_sub(1))).await?;
    let holds = listing.segments.iter().find(|segment| segment.first <= seq && seq <= segment.last);
    let Some(segment) = holds else { return Ok(None) };
    let checked = check_segment(log, *segment).await?;
    Ok(checked.chunks.into_iter().find(|chunk| chunk.seq == seq))
}

/// Reads a segment back, whole.
pub async fn check_segment(log: &ObjectLog, listed: ListedSegment) -> Result<CheckedSegment, ReadError> {
    twice(|| read_segment(log, &listed)).await
}

async fn read_segment(log: &ObjectLog, listed: &ListedSegment) -> Result<CheckedSegment, ReadError> {
    let key = keys::segment(listed.first, listed.last);
    let bytes = get(&**log.bucket(), &key).await?;
    let segment: SegmentFile = decode(bytes, decode_segment)
        .await
        .map_err(|e| ReadError::bad(&key, e))?
        .map_err(|e| ReadError::format(&key, &e))?;
    log.check_cluster(&key, &segment.cluster_id)?;
    let ends = segment.chunks.first().zip(segment.chunks.last()).map(|(first, last)| (first.seq, last.seq));
    if ends != Some((listed.first, listed.last)) {
        return Err(ReadError::bad(key, "it holds other chunks than its name says"));
    }
    Ok(CheckedSegment { chunks: segment.chunks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_log::ListedChunk;

    fn plan(chunks: &[(u64, u64)], segments: &[(u64, u64)], above: u64) -> Vec<(u64, u64)> {
        let listing = LogListing {
            chunks: chunks.iter().map(|&(seq, bytes)| ListedChunk { seq: ChunkSeq(seq), bytes }).collect(),
            segments: segments
                .iter()
                .map(|&(first, last)| ListedSegment { first: ChunkSeq(first), last: ChunkSeq(last), bytes: 1 })
                .collect(),
        };
        let policy = FoldPolicy {
            chunk_bytes_max: 10,
            run_chunks_min: 2,
            run_chunks_max: 4,
            run_bytes_max: 30,
            ..FoldPolicy::default()
        };
        plan_folds(&listing, ChunkSeq(above), &policy).iter().map(|run| (run.first.0, run.last.0)).collect()
    }

    #[test]
    fn runs_are_dense_small_and_end_before_the_newest_chunk() {
        let ones = |seqs: std::ops::RangeInclusive<u64>| seqs.map(|seq| (seq, 1)).collect::<Vec<_>>();
        assert_eq!(plan(&ones(1..=7), &[], 0), [(1, 4), (5, 6)]);
        assert_eq!(plan(&ones(1..=7), &[], 3), [(4, 6)]);
        assert_eq!(plan(&ones(1..=7), &[(1, 4)], 0), [(5, 6)]);
        assert_eq!(plan(&[(1, 1), (2, 1), (3, 99), (4, 1), (5, 1), (6, 1)], &[], 0), [(1, 2), (4, 5)]);
        assert_eq!(plan(&[(1, 1), (2, 1), (5, 1), (6, 1), (7, 1)], &[], 0), [(1, 2), (5, 6)]);
        assert_eq!(plan(&[(1, 10), (2, 10), (3, 10), (4, 10), (5, 10)], &[], 0), [(1, 3)]);
        assert_eq!(plan(&ones(1..=2), &[], 0), []);
    }
}
