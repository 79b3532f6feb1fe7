//! Getting the state back from the bucket: a snapshot and the log after it, or the log alone.
//!
//! Every checksum is verified and a gap is refused. Where an object is wrong, another way to the same
//! end is taken if there is one (a segment's chunks, a chunk's segment, an older snapshot and all of
//! the log after it); where there is none, the error names the object.

use crate::bucket::StoreError;
use crate::format::ChunkInfo;
use crate::keys;
use crate::manifest::SnapshotManifest;
use crate::object_log::{LogListing, LogPoint, ObjectLog, Source};
use crate::read::ReadError;
use crate::snapshot::{first_readable, list_snapshots, load_snapshot, read_snapshot_manifest};
use async_trait::async_trait;
use futures::StreamExt;
use netsy_api::ids::{ChunkSeq, LogIndex};
use netsy_api::log::{Entry, Row};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Ways tried before giving up; each one more object is known to be bad.
const WAYS_MAX: usize = 256;

/// Why the receiver of a restore gave up.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SinkError(pub String);

/// What takes the state in.
#[async_trait]
pub trait RestoreSink: Send {
    /// The state begins here, with nothing (`None`) or with the rows of a snapshot, which follow. Called
    /// again where an object turned out bad: what was given before is void.
    async fn begin(&mut self, snapshot: Option<&SnapshotManifest>) -> Result<(), SinkError>;

    /// Rows of the snapshot, in order of position. May hold them as long as it likes: they are slices of the
    /// part they came in.
    async fn rows(&mut self, rows: Vec<Row>) -> Result<(), SinkError>;

    /// Entries that follow, in order; none if these are all seals. `chunks` are the chunks they came
    /// in, whose terms are to be promised before the entries are accepted (R2), and `end` is the
    /// place in the log after them.
    async fn entries(&mut self, entries: &[Arc<Entry>], chunks: &[ChunkInfo], end: &LogPoint) -> Result<(), SinkError>;
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The snapshot it began with.
    pub snapshot: Option<Arc<SnapshotManifest>>,
    /// The end of the log as far as it was listed: R4 goes on from here.
    pub end: LogPoint,
    /// Objects that were wrong and could be gone around, with what is wrong: an operator should know.
    pub passed_over: Vec<ReadError>,
}

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The bucket does not hold the whole state in good order, or does not answer.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An object is wrong, and nothing stands in for it.
    #[error("the bucket cannot be restored from: {bad}; there is no other way to the same state: {otherwise}")]
    NoWay {
        /// The first object that was wrong.
        bad: ReadError,
        /// Why an older snapshot or other objects do not help.
        otherwise: String,
    },
    /// The receiver gave up.
    #[error("the restored state was not taken in: {0}")]
    Sink(#[from] SinkError),
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> Self {
        RestoreError::Read(error.into())
    }
}

/// Gives the whole state to `sink`, from the newest snapshot that leads to it.
pub async fn restore(log: &ObjectLog, sink: &mut dyn RestoreSink) -> Result<Restored, RestoreError> {
    let mut search = Search::new(log);
    for _ in 0..WAYS_MAX {
        let Some(way) = search.find().await? else { continue };
        match follow(log, &way, sink).await {
            Ok(end) if end.last_index >= way.reach => {
                return Ok(Restored { snapshot: way.snapshot, end, passed_over: search.wrong.passed_over });
            }
            // A snapshot came up after the log was listed: list it again, once.
            Ok(end) if !search.too_short => {
                tracing::debug!(end = %end.last_index, reach = %way.reach, "the log was listed too early");
                search.too_short = true;
            }
            Ok(end) => return Err(search.ends_early(&end, way.reach)),
            Err(RestoreError::Read(error)) => {
                search.wrong.note(error)?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(search.give_up(format!("{WAYS_MAX} ways were tried")))
}

/// How a catch-up ended.
#[derive(Clone, Debug)]
pub enum CaughtUp {
    /// The log was followed to this end.
    End(LogPoint),
    /// The entries after the starting point are folded away in a snapshot: [`restore`] is needed.
    NeedsSnapshot,
    /// The log ends before the starting point: it is another log, as the newest chunk is never deleted (R4).
    Shorter,
}

/// Gives everything after `from` to `sink` (which is not told to begin): for a node that has the
/// entries up to `last`, at least up to `from`. Entries it has may come again.
pub async fn catch_up(
    log: &ObjectLog,
    from: LogPoint,
    last: LogIndex,
    sink: &mut dyn RestoreSink,
) -> Result<CaughtUp, RestoreError> {
    let mut wrong = Wrong::default();
    for _ in 0..WAYS_MAX {
        let mut from = from;
        // With the chunk of `from` itself: the newest one is always there. Of segments nothing is asked where chunks tell
        // all, which is so in every take-over from a Primary that was followed to the end.
        let before = ChunkSeq(from.seq.0.saturating_sub(1));
        let mut listing = log.list_chunks(before).await?;
        if listing.end() < from.seq || listing.plan(from.seq, &wrong.bad).is_err() {
            log.list_segments(before, &mut listing).await?;
        }
        if listing.end() < from.seq {
            return Ok(CaughtUp::Shorter);
        }
        let plan = match listing.plan(from.seq, &wrong.bad) {
            Err(ReadError::Gap { .. }) => {
                // A snapshot of what this node has is as good a place to begin.
                let Some(point) = snapshot_within(log, last).await?.filter(|point| point.seq > from.seq) else {
                    return Ok(CaughtUp::NeedsSnapshot);
                };
                from = point;
                match listing.plan(from.seq, &wrong.bad) {
                    Err(ReadError::Gap { .. }) => return Ok(CaughtUp::NeedsSnapshot),
                    plan => plan?,
                }
            }
            plan => plan?,
        };
        match read_plan(log, &plan, from, sink).await {
            Ok(end) => {
                for wrong in &wrong.passed_over {
                    tracing::warn!(%wrong, "an object in the bucket is wrong; the log was followed without it");
                }
                return Ok(CaughtUp::End(end));
            }
            Err(RestoreError::Read(error)) => {
                wrong.note(error)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(CaughtUp::NeedsSnapshot)
}

async fn snapshot_within(log: &ObjectLog, last: LogIndex) -> Result<Option<LogPoint>, RestoreError> {
    let indexes = list_snapshots(&**log.bucket()).await?;
    let within = indexes.into_iter().rev().filter(|&index| index <= last);
    let manifest = first_readable(&**log.bucket(), log.cluster_id(), within).await?;
    Ok(manifest.map(|manifest| manifest.covers()))
}

/// A way to the whole state.
struct Way {
    snapshot: Option<Arc<SnapshotManifest>>,
    plan: Vec<Source>,
    /// The state is known to reach at least this far.
    reach: LogIndex,
}

/// Objects that could not be read.
#[derive(Default)]
struct Wrong {
    /// Those to go around.
    bad: HashSet<String>,
    /// Those that were not there once.
    gone: HashSet<String>,
    /// What is wrong with the bad ones.
    passed_over: Vec<ReadError>,
}

/// What is to be done about an object that could not be read.
#[derive(PartialEq, Eq)]
enum Noted {
    /// There may be a way around it.
    Bad,
    /// What was listed is not what is there any more.
    LookAgain,
}

impl Wrong {
    /// Notes an object that is bad; other errors end the search.
    ///
    /// One that is not there is not missing yet: another node's clean-up may have deleted it since it was listed, as
    /// something else holds what it held. The bucket has to be looked at again; what it still names then, and is still
    /// not there, is missing. (What is not named any more, and nothing holds, is a gap in the log.)
    fn note(&mut self, error: ReadError) -> Result<Noted, RestoreError> {
        if let ReadError::Missing { key } = &error
            && self.gone.insert(key.clone())
        {
            tracing::debug!(%error, "looking again whether it is there no more, or nothing names it");
            return Ok(Noted::LookAgain);
        }
        match error.key() {
            Some(key) if self.bad.insert(key.to_string()) => {
                // Whoever asked says what there is to say: once, however often it is tried.
                tracing::debug!(%error, "looking for a way around it");
                self.passed_over.push(error);
                Ok(Noted::Bad)
            }
            _ => Err(error.into()),
        }
    }
}

/// Looks for ways around the objects that are known to be bad.
struct Search<'a> {
    log: &'a ObjectLog,
    wrong: Wrong,
    manifests: HashMap<LogIndex, Arc<SnapshotManifest>>,
    too_short: bool,
}

impl<'a> Search<'a> {
    fn new(log: &'a ObjectLog) -> Self {
        Self { log, wrong: Wrong::default(), manifests: HashMap::new(), too_short: false }
    }

    /// The newest snapshot, none at last, from which the log can be followed to its end. `None`: something was deleted
    /// while it was looked for.
    async fn find(&mut self) -> Result<Option<Way>, RestoreError> {
        // The log before the snapshots: what clean-up deletes in between is covered by a snapshot
        // that is there to be listed.
        let mut listing = self.log.list(ChunkSeq(0)).await?;
        let snapshots = list_snapshots(&**self.log.bucket()).await?;
        let reach = snapshots.last().copied().unwrap_or(LogIndex(0));
        let mut gap = None;
        for &index in snapshots.iter().rev() {
            let manifest = match self.manifest(index).await? {
                Ok(manifest) => manifest,
                Err(Noted::Bad) => continue,
                Err(Noted::LookAgain) => return Ok(None),
            };
            if manifest.seq > listing.end() {
                // Written since the log was listed; its chunk, or a later one, stays for ever.
                listing = self.log.list(ChunkSeq(0)).await?;
            }
            if manifest.seq > listing.end() {
                return Err(ReadError::bad(
                    keys::snapshot_manifest(index),
                    format!(
                        "it covers chunk {}, but the object log ends at chunk {}: chunks were deleted by something \
                         other than netsy (a lifecycle rule on {}?)",
                        manifest.seq,
                        listing.end(),
                        keys::LOG
                    ),
                )
                .into());
            }
            if let Some(part) = manifest.parts.iter().find(|part| self.wrong.bad.contains(&part.key)) {
                tracing::debug!(%index, part = %part.key, "snapshot passed over");
                continue;
            }
            match self.plan(&listing, manifest.seq) {
                Ok(plan) => return Ok(Some(Way { snapshot: Some(manifest), plan, reach })),
                Err(error) => gap = gap.or(Some(error)),
            }
        }
        match self.plan(&listing, ChunkSeq(0)) {
            Ok(plan) => Ok(Some(Way { snapshot: None, plan, reach })),
            Err(error) => {
                let error = gap.unwrap_or(error);
                if self.wrong.passed_over.is_empty() { Err(error.into()) } else { Err(self.give_up(error.to_string())) }
            }
        }
    }

    fn plan(&self, listing: &LogListing, after: ChunkSeq) -> Result<Vec<Source>, ReadError> {
        listing.plan(after, &self.wrong.bad)
    }

    /// A snapshot's manifest, or what was noted of it.
    async fn manifest(&mut self, index: LogIndex) -> Result<Result<Arc<SnapshotManifest>, Noted>, RestoreError> {
        if self.wrong.bad.contains(&keys::snapshot_manifest(index)) {
            return Ok(Err(Noted::Bad));
        }
        if let Some(manifest) = self.manifests.get(&index) {
            return Ok(Ok(manifest.clone()));
        }
        match read_snapshot_manifest(&**self.log.bucket(), self.log.cluster_id(), index).await {
            Ok(manifest) => {
                let manifest = Arc::new(manifest);
                self.manifests.insert(index, manifest.clone());
                Ok(Ok(manifest))
            }
            Err(error) => self.wrong.note(error).map(Err),
        }
    }

    fn give_up(&mut self, otherwise: String) -> RestoreError {
        if self.wrong.passed_over.is_empty() {
            return RestoreError::Read(ReadError::bad(keys::LOG, otherwise));
        }
        RestoreError::NoWay { bad: self.wrong.passed_over.swap_remove(0), otherwise }
    }

    fn ends_early(&mut self, end: &LogPoint, reach: LogIndex) -> RestoreError {
        let text = format!("it ends at index {}, a snapshot reaches index {reach}", end.last_index);
        self.give_up(text)
    }
}

async fn follow(log: &ObjectLog, way: &Way, sink: &mut dyn RestoreSink) -> Result<LogPoint, RestoreError> {
    sink.begin(way.snapshot.as_deref()).await?;
    let mut from = LogPoint::START;
    if let Some(manifest) = &way.snapshot {
        let mut parts = load_snapshot(log.bucket().clone(), manifest);
        while let Some(rows) = parts.next().await {
            sink.rows(rows?).await?;
        }
        from = manifest.covers();
    }
    read_plan(log, &way.plan, from, sink).await
}

async fn read_plan(
    log: &ObjectLog,
    plan: &[Source],
    from: LogPoint,
    sink: &mut dyn RestoreSink,
) -> Result<LogPoint, RestoreError> {
    let mut point = from;
    let mut pieces = log.read(plan.to_vec());
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        let before = point.seq;
        let skip = point.follow(&piece)?;
        let new = piece.chunks.partition_point(|chunk| chunk.seq <= before);
        let entries = piece.entries.get(skip..).unwrap_or_default();
        sink.entries(entries, piece.chunks.get(new..).unwrap_or_default(), &point).await?;
    }
    Ok(point)
}
