//! Deleting what is covered: chunks by segments, everything by snapshots.
//!
//! Never deleted: seals, the newest chunk (R4), the newest checked snapshot, what a remaining
//! snapshot names, and the log above the oldest remaining snapshot, but for chunks that a checked segment
//! holds. The rules for snapshots and why they need no clock stand at [`crate::snapshot`]. A crash
//! at any point, and deletes that land late, leave a bucket that loads.

use crate::bucket::StoreError;
use crate::format::{CHUNK_HEADER_READ_BYTES, read_chunk_meta};
use crate::keys::{self, SnapshotKey};
use crate::object_log::{ListedChunk, ListedSegment, LogListing, ObjectLog};
use crate::read::{ReadError, delete_all, list_all, retried};
use crate::segment::{CheckedSegment, check_segment};
use crate::snapshot::{CheckedSnapshot, read_snapshot_manifest};
use futures::stream::{self, StreamExt};
use netsy_api::ids::{ChunkSeq, LogIndex, UnixMillis};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Snapshots kept whatever their age: a bad one can be gone around.
pub const SNAPSHOTS_MIN: usize = 2;
/// Within the retention, about this many snapshots are kept to begin from.
pub const SNAPSHOTS_PER_RETENTION: i64 = 24;
/// Headers of chunks read at a time.
const HEADERS_PARALLEL: usize = 16;

/// How much history stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Every state since this long ago can be restored, in milliseconds.
    pub retention_ms: i64,
    /// The time now. A wrong clock keeps too much or too little history, never harms the newest state.
    pub now: UnixMillis,
}

/// What was deleted.
#[derive(Clone, Debug, Default)]
pub struct CleanupReport {
    /// Number of chunks.
    pub chunks: usize,
    /// Number of segments.
    pub segments: usize,
    /// Number of snapshot manifests.
    pub snapshots: usize,
    /// Number of snapshot parts.
    pub parts: usize,
    /// Objects that are wrong and therefore kept what they should cover.
    pub bad: Vec<ReadError>,
}

/// What is known of a remaining snapshot.
#[derive(Clone, Debug)]
struct Kept {
    seq: ChunkSeq,
    created_at: UnixMillis,
    parts: HashSet<String>,
}

/// Cleans up again and again; remembers what need not be read twice.
#[derive(Debug)]
pub struct Cleaner {
    log: ObjectLog,
    /// Manifests never change.
    manifests: BTreeMap<LogIndex, Kept>,
    /// Seals met so far: one for each term since the process began.
    seals: BTreeSet<ChunkSeq>,
    /// What was listed and not there, this time and the time before: another node may have deleted it in between, but
    /// then it is not listed again.
    gone: HashSet<String>,
    gone_before: HashSet<String>,
}

impl Cleaner {
    /// Cleans this log and the snapshots beside it.
    pub fn new(log: ObjectLog) -> Self {
        Self {
            log,
            manifests: BTreeMap::new(),
            seals: BTreeSet::new(),
            gone: HashSet::new(),
            gone_before: HashSet::new(),
        }
    }

    /// Deletes what may be deleted. `newest` is the newest snapshot this process knows to be checked;
    /// without one only chunks that segments hold are deleted.
    pub async fn run(
        &mut self,
        newest: Option<&CheckedSnapshot>,
        policy: &CleanupPolicy,
    ) -> Result<CleanupReport, StoreError> {
        self.gone_before = std::mem::take(&mut self.gone);
        let mut report = CleanupReport::default();
        let mut covered = ChunkSeq(0);
        if let Some(newest) = newest {
            self.expire_snapshots(newest, policy, &mut report).await?;
            covered = self.sweep_parts(newest, policy, &mut report).await?;
        }
        let listing = self.log.list(ChunkSeq(0)).await?;
        self.delete_folded(&listing, covered, &mut report).await?;
        self.delete_covered(&listing, covered, &mut report).await?;
        Ok(report)
    }

    /// Reports what is wrong; of what is not there, only if it was not there the last time either.
    fn wrong(&mut self, report: &mut CleanupReport, error: ReadError) {
        match &error {
            ReadError::Missing { key } if !self.gone_before.contains(key) => {
                tracing::debug!(%error, "clean-up: it has gone since it was listed");
                self.gone.insert(key.clone());
            }
            _ => report.bad.push(error),
        }
    }

    /// Deletes manifests that are neither new nor needed to reach back.
    async fn expire_snapshots(
        &mut self,
        newest: &CheckedSnapshot,
        policy: &CleanupPolicy,
        report: &mut CleanupReport,
    ) -> Result<(), StoreError> {
        let (indexes, _) = self.list_snapshots().await?;
        let mut older = Vec::new();
        for index in indexes.into_iter().filter(|&index| index < newest.index()) {
            match self.kept(index).await {
                Ok(kept) => older.push((index, kept.created_at)),
                Err(ReadError::Store(error)) => return Err(error),
                // Of no use to any loader; what only it names goes with it.
                Err(error @ ReadError::Bad { .. }) => {
                    report.bad.push(error);
                    older.push((index, UnixMillis(i64::MIN)));
                }
                // A newer netsy's, or just deleted by another node.
                Err(_) => {}
            }
        }
        let expired = expired(&older, newest.manifest().created_at, policy);
        let keys: Vec<String> = expired.iter().map(|&index| keys::snapshot_manifest(index)).collect();
        delete_all(&**self.log.bucket(), &keys).await?;
        report.snapshots += keys.len();
        for index in expired {
            self.manifests.remove(&index);
        }
        Ok(())
    }

    /// Deletes parts that no remaining manifest names; gives the last chunk that all remaining snapshots
    /// cover, if they reach back far enough.
    async fn sweep_parts(
        &mut self,
        newest: &CheckedSnapshot,
        policy: &CleanupPolicy,
        report: &mut CleanupReport,
    ) -> Result<ChunkSeq, StoreError> {
        // This LIST begins after the deletes: a manifest that a part's naming hangs on is in it.
        let (indexes, parts) = self.list_snapshots().await?;
        let mut named = HashSet::new();
        let mut oldest: Option<(ChunkSeq, UnixMillis)> = None;
        for &index in &indexes {
            match self.kept(index).await {
                Ok(kept) => {
                    oldest = oldest.or(Some((kept.seq, kept.created_at)));
                    named.extend(kept.parts.iter().cloned());
                }
                Err(ReadError::Store(error)) => return Err(error),
                // What it names is not known, so no part is certain to be unused.
                Err(error) => {
                    self.wrong(report, error);
                    return Ok(ChunkSeq(0));
                }
            }
        }
        let unused: Vec<String> = parts
            .into_iter()
            .filter(|(index, key)| *index < newest.index() && !named.contains(key))
            .map(|(_, key)| key)
            .collect();
        delete_all(&**self.log.bucket(), &unused).await?;
        report.parts += unused.len();
        let horizon = policy.now.0.saturating_sub(policy.retention_ms.max(0));
        let covered = oldest.filter(|(_, created_at)| created_at.0 <= horizon).map_or(ChunkSeq(0), |(seq, _)| seq);
        Ok(covered.min(newest.manifest().seq))
    }

    /// Indexes with a manifest, and all parts with the index of their folder.
    async fn list_snapshots(&mut self) -> Result<(Vec<LogIndex>, Vec<(LogIndex, String)>), StoreError> {
        let mut indexes = Vec::new();
        let mut parts = Vec::new();
        for listed in list_all(&**self.log.bucket(), keys::SNAPSHOTS, None).await? {
            match keys::parse_snapshot(&listed.key) {
                Some(SnapshotKey::Manifest(index)) => indexes.push(index),
                Some(SnapshotKey::Part { index, .. }) => parts.push((index, listed.key)),
                None => {}
            }
        }
        self.manifests.retain(|index, _| indexes.contains(index));
        Ok((indexes, parts))
    }

    async fn kept(&mut self, index: LogIndex) -> Result<&Kept, ReadError> {
        if !self.manifests.contains_key(&index) {
            let manifest = read_snapshot_manifest(&**self.log.bucket(), self.log.cluster_id(), index).await?;
            let kept = Kept {
                seq: manifest.seq,
                created_at: manifest.created_at,
                parts: manifest.parts.into_iter().map(|part| part.key).collect(),
            };
            self.manifests.insert(index, kept);
        }
        self.manifests.get(&index).ok_or_else(|| ReadError::Missing { key: keys::snapshot_manifest(index) })
    }

    /// Deletes chunks that a checked segment holds, and segments that the snapshots cover.
    async fn delete_folded(
        &mut self,
        listing: &LogListing,
        covered: ChunkSeq,
        report: &mut CleanupReport,
    ) -> Result<(), StoreError> {
        let mut unneeded = Vec::new();
        for segment in &listing.segments {
            if segment.last <= covered {
                unneeded.push(keys::segment(segment.first, segment.last));
                continue;
            }
            let chunks = self.deletable(listing, segment);
            if chunks.is_empty() {
                continue;
            }
            match check_segment(&self.log, *segment).await {
                Ok(checked) => {
                    let keys = self.held(&checked, &chunks);
                    delete_all(&**self.log.bucket(), &keys).await?;
                    report.chunks += keys.len();
                }
                Err(ReadError::Store(error)) => return Err(error),
                Err(error) => self.wrong(report, error),
            }
        }
        delete_all(&**self.log.bucket(), &unneeded).await?;
        report.segments += unneeded.len();
        Ok(())
    }

    /// The chunks in a segment's range that are still in the log, but for known seals and the newest.
    fn deletable(&self, listing: &LogListing, segment: &ListedSegment) -> Vec<ListedChunk> {
        let newest = listing.chunks.last().map(|chunk| chunk.seq);
        let begin = listing.chunks.partition_point(|chunk| chunk.seq < segment.first);
        let in_range = listing.chunks.iter().skip(begin).take_while(|chunk| chunk.seq <= segment.last);
        in_range.filter(|chunk| Some(chunk.seq) != newest && !self.seals.contains(&chunk.seq)).copied().collect()
    }

    /// Those of `chunks` that the segment holds. An object of another size than was folded may be
    /// a seal that fell into a hole, and stays.
    fn held(&mut self, segment: &CheckedSegment, chunks: &[ListedChunk]) -> Vec<String> {
        let mut keys = Vec::new();
        for chunk in chunks {
            let found = segment.chunks().binary_search_by_key(&chunk.seq, |info| info.seq);
            let Some(info) = found.ok().and_then(|at| segment.chunks().get(at)) else { continue };
            if info.is_seal() || info.bytes != chunk.bytes {
                self.seals.insert(chunk.seq);
            } else {
                keys.push(keys::chunk(chunk.seq));
            }
        }
        keys
    }

    /// Deletes chunks up to `covered` that are no seals.
    async fn delete_covered(
        &mut self,
        listing: &LogListing,
        covered: ChunkSeq,
        report: &mut CleanupReport,
    ) -> Result<(), StoreError> {
        let newest = listing.chunks.last().map(|chunk| chunk.seq);
        let chunks: Vec<ChunkSeq> = listing
            .chunks
            .iter()
            .map(|chunk| chunk.seq)
            .filter(|&seq| seq <= covered && Some(seq) != newest && !self.seals.contains(&seq))
            .collect();
        let log = &self.log;
        let mut headers =
            stream::iter(chunks).map(|seq| async move { (seq, is_seal(log, seq).await) }).buffered(HEADERS_PARALLEL);
        let mut keys = Vec::new();
        let mut seals = Vec::new();
        while let Some((seq, seal)) = headers.next().await {
            match seal {
                Ok(Some(false)) => keys.push(keys::chunk(seq)),
                Ok(Some(true)) => seals.push(seq),
                Ok(None) => {}
                Err(ReadError::Store(error)) => return Err(error),
                // It may be a seal.
                Err(error) => report.bad.push(error),
            }
        }
        drop(headers);
        self.seals.extend(seals);
        delete_all(&**self.log.bucket(), &keys).await?;
        report.chunks += keys.len();
        Ok(())
    }
}

/// `None`: it is gone.
async fn is_seal(log: &ObjectLog, seq: ChunkSeq) -> Result<Option<bool>, ReadError> {
    let key = keys::chunk(seq);
    let bucket = &**log.bucket();
    let Some(bytes) = retried(bucket, || bucket.get_range(&key, 0..CHUNK_HEADER_READ_BYTES)).await? else {
        return Ok(None);
    };
    let meta = read_chunk_meta(&bytes).map_err(|e| ReadError::format(&key, &e))?;
    Ok(Some(meta.is_seal()))
}

/// Which of the older snapshots go. `older` ascends by index and lacks the newest, which stays.
///
/// The last one from before the retention stays, as everything since builds on it; after it, one for
/// each step of time; and always the newest few.
fn expired(older: &[(LogIndex, UnixMillis)], newest: UnixMillis, policy: &CleanupPolicy) -> Vec<LogIndex> {
    let retention = policy.retention_ms.max(0);
    let horizon = policy.now.0.saturating_sub(retention);
    let step = retention / SNAPSHOTS_PER_RETENTION;
    let spared = older.len().saturating_sub(SNAPSHOTS_MIN - 1);
    // The newest itself may be the one to reach back from.
    let anchor = if newest.0 <= horizon {
        older.len()
    } else {
        older.iter().rposition(|(_, at)| at.0 > i64::MIN && at.0 <= horizon).unwrap_or(0)
    };
    let mut last_kept: Option<i64> = None;
    let mut expired = Vec::new();
    for (at, &(index, created_at)) in older.iter().enumerate() {
        let keep = at >= spared
            || at == anchor
            || (at > anchor && last_kept.is_none_or(|last| created_at.0.saturating_sub(last) >= step));
        // One that cannot be read has no time.
        let readable = created_at.0 > i64::MIN;
        if keep && readable {
            last_kept = Some(created_at.0);
        } else {
            expired.push(index);
        }
    }
    expired
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(times: &[i64], newest: i64, retention_ms: i64, now: i64) -> Vec<i64> {
        let older: Vec<_> = times.iter().enumerate().map(|(i, &t)| (LogIndex(i as u64 + 1), UnixMillis(t))).collect();
        let gone = expired(&older, UnixMillis(newest), &CleanupPolicy { retention_ms, now: UnixMillis(now) });
        older.iter().filter(|(index, _)| !gone.contains(index)).map(|(_, t)| t.0).collect()
    }

    #[test]
    fn snapshots_go_by_age_but_for_the_one_to_reach_back_from_and_the_newest() {
        assert_eq!(left(&[10, 20, 30, 40], 50, 24, 60), [30, 40]);
        assert_eq!(left(&[10, 20, 30, 40], 50, 0, 60), [40]);
        assert_eq!(left(&[10, 20, 30, 40], 50, 1000, 60), [10, 40]);
        assert_eq!(left(&[10, 52, 104, 156], 208, 1200, 210), [10, 104, 156]);
        assert_eq!(left(&[], 50, 0, 60), [0; 0]);
        // A clock that went back keeps more, a clock that went ahead less, never the newest.
        assert_eq!(left(&[10, 20, 30], 40, 10, -100), [10, 20, 30]);
        assert_eq!(left(&[10, 20, 30], 40, 10, i64::MAX), [30]);
        assert_eq!(left(&[10, i64::MIN, 30], 40, 1000, 50), [10, 30]);
    }

    #[test]
    fn what_stays_stays_when_time_goes_on() {
        let (retention, mut kept) = (2400, Vec::new());
        for now in (0..20_000).step_by(10) {
            kept = left(&kept, now, retention, now);
            kept.push(now);
            assert!(kept.len() < 30, "{} snapshots at {now}", kept.len());
            let reach = kept.iter().rfind(|&&t| t <= now - retention).copied();
            assert!(now < retention || reach.is_some_and(|t| t >= now - 2 * retention), "at {now}: {kept:?}");
        }
    }
}
