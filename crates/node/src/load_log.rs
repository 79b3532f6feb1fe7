//! The engine's calls to the object log: loading it into the local database, sealing it (R4, R7, section 5).
//!
//! Each part that was read is offered to the engine before it is stored; the engine says what of it is to be stored,
//! and whether anything goes.

use crate::failpoint;
use crate::local_queue::{Brought, Snapshot};
use crate::log_thread::before_entry;
use crate::node::Inner;
use crate::silence::Call;
use crate::start::{StartError, blocking};
use crate::store_calls::{failed, settle};
use crate::uploader::ChunkWriter;
use async_trait::async_trait;
use netsy_api::ids::{ChunkSeq, LogIndex, Position, Term};
use netsy_api::log::{Entry, Row};
use netsy_localdb as localdb;
use netsy_objects::format::ChunkInfo;
use netsy_objects::keys;
use netsy_objects::log_reader::LogPiece as ReadPiece;
use netsy_objects::manifest::SnapshotManifest;
use netsy_objects::object_log::{Created, LogPoint, NewChunk};
use netsy_objects::restore::{CaughtUp, RestoreError, RestoreSink, SinkError, catch_up, restore};
use netsy_protocol::event::{CallId, ChunkFact, Event, LogPiece, StoreResult};
use netsy_protocol::reconcile::{Run, Runs};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often progress is logged.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// Pauses before what was refused is loaded again. Somebody has to mend it, and each try reads everything before it.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Where the object log was last seen to end, and the seal put there.
#[derive(Default)]
pub(crate) struct LogState {
    loaded: Mutex<Option<LogPoint>>,
    seal: Mutex<Option<(NewChunk, LogPoint)>>,
    /// How long loading waits since it was refused.
    pause: Mutex<Duration>,
}

impl LogState {
    /// How long to wait before a load that came to `result` is said to be over.
    pub(crate) fn pause_after(&self, result: &StoreResult) -> Duration {
        let mut pause = self.pause.lock();
        let refused = matches!(result, StoreResult::Refused(_));
        *pause = if refused { (*pause * 2).clamp(REFUSED_PAUSE, REFUSED_PAUSE_MAX) } else { Duration::ZERO };
        *pause
    }

    /// The place after the seal `seq`, if that is what was sealed last.
    pub(crate) fn sealed(&self, seq: ChunkSeq) -> Option<LogPoint> {
        self.seal.lock().as_ref().map(|(_, after)| *after).filter(|after| after.seq == seq)
    }
}

/// The point up to which this database is known to equal the object log; `None`: not known.
pub(crate) fn known_point(db: &localdb::Writer, readers: &localdb::Readers) -> Result<Option<LogPoint>, StartError> {
    let (end, uploaded) = (db.end(), db.progress().uploaded);
    if uploaded.seq.0 == 0 {
        return Ok((end == localdb::LogEnd::EMPTY).then_some(LogPoint::START));
    }
    // A log that was cut since then is no continuation of it, and one whose rows are gone does not tell.
    if uploaded.index > end.index || uploaded.index < db.progress().partial_through {
        return Ok(None);
    }
    let (next_position, revision) = if uploaded.index == end.index {
        (end.position.next(), end.revision)
    } else {
        match readers.entries_from(uploaded.index.next(), 1)?.first() {
            Some((first, entry)) => before_entry(*first, entry),
            None => return Ok(None),
        }
    };
    Ok(Some(LogPoint {
        seq: uploaded.seq,
        term: uploaded.term,
        last_index: uploaded.index,
        last_term: db.term_at(uploaded.index).unwrap_or_default(),
        next_position,
        revision,
    }))
}

/// Whether a database holds what the object log holds up to `point`: entries are the same by index and term.
pub(crate) fn fits(db: &localdb::Writer, point: &LogPoint) -> bool {
    point.last_index <= db.end().index
        && (point.last_index.0 == 0 || db.term_at(point.last_index) == Some(point.last_term))
}

/// How far the object log goes, as the database notes it beside what it commits.
pub(crate) fn uploaded(point: &LogPoint) -> localdb::Uploaded {
    localdb::Uploaded { seq: point.seq, term: point.term, index: point.last_index }
}

/// The newest point known, in memory or in the database, up to which the own log is the object log.
async fn newest_known_point(node: &Inner) -> Result<Option<LogPoint>, StartError> {
    let (tail, readers) = (node.tail(), node.readers.clone());
    node.thread
        .with(move |db| {
            let noted = known_point(db, &readers)?;
            let tail = (tail.seq.0 > 0 && fits(db, &tail)).then_some(tail);
            Ok(noted.into_iter().chain(tail).max_by_key(|point| point.seq))
        })
        .await?
}

/// Reads what the local database lacks of the object log.
pub(crate) async fn load_log(node: &Arc<Inner>, call: CallId) -> StoreResult {
    let mut waiting = node.driver.calls.log.call();
    let loaded = load(node, call, &mut waiting).await;
    settle(&mut waiting, loaded.as_ref().err());
    match loaded {
        Ok(point) => {
            *node.driver.log_state.loaded.lock() = Some(point);
            node.saw_tail(point);
            failpoint::hit("start.adopted");
            StoreResult::Loaded((point.seq.0 > 0).then(|| fact(&point)))
        }
        Err(error) => {
            if let StartError::Diverged(why) = &error {
                node.halt(why.clone());
            }
            failed(error)
        }
    }
}

fn fact(point: &LogPoint) -> ChunkFact {
    ChunkFact { seq: point.seq, term: point.term, last_index: point.last_index }
}

async fn load(node: &Arc<Inner>, call: CallId, waiting: &mut Call<'_>) -> Result<LogPoint, StartError> {
    // An empty database begins with the newest snapshot.
    let from = newest_known_point(node).await?.filter(|from| from.seq.0 > 0);
    if let Some(from) = from {
        let mut sink = EngineSink::new(node, call, waiting);
        // A snapshot is a place to go on from only where both logs are known to be the same.
        match catch_up(&node.log, from, from.last_index, &mut sink).await {
            Ok(CaughtUp::End(point)) => return Ok(point),
            Ok(CaughtUp::NeedsSnapshot) => {}
            Ok(CaughtUp::Shorter) => {
                return Err(StartError::Diverged(format!(
                    "the object log ends before chunk {}, which this node knows it to have reached: is it the right bucket and storage.key_prefix?",
                    from.seq
                )));
            }
            Err(error) => return Err(sink.unwrap(error)),
        }
    }
    let started = Instant::now();
    let mut sink = EngineSink::new(node, call, waiting);
    let restored = match restore(&node.log, &mut sink).await {
        Ok(restored) => restored,
        Err(error) => return Err(sink.unwrap(error)),
    };
    for wrong in &restored.passed_over {
        tracing::warn!(%wrong, "an object in the bucket is wrong; the state was restored without it");
    }
    sink.end_snapshot().await?;
    if sink.rows + sink.entries > 0 {
        tracing::info!(
            rows = sink.rows,
            entries = sink.entries,
            seconds = started.elapsed().as_secs_f64(),
            "restored from the bucket"
        );
    }
    failpoint::hit("restore.loaded");
    Ok(restored.end)
}

/// A snapshot that is being built beside the database.
struct Building {
    built: localdb::Restore,
    manifest: SnapshotManifest,
}

/// Offers to the engine what is read, part by part.
struct EngineSink<'a, 'c> {
    node: &'a Arc<Inner>,
    call: CallId,
    /// Until the next part is read.
    waiting: &'a mut Call<'c>,
    building: Option<Building>,
    /// Rows of the snapshot are not wanted: the own log reaches it.
    skips_rows: bool,
    rows: u64,
    entries: u64,
    told: Instant,
    error: Option<StartError>,
}

impl<'a, 'c> EngineSink<'a, 'c> {
    fn new(node: &'a Arc<Inner>, call: CallId, waiting: &'a mut Call<'c>) -> Self {
        Self {
            node,
            call,
            waiting,
            building: None,
            skips_rows: false,
            rows: 0,
            entries: 0,
            told: Instant::now(),
            error: None,
        }
    }

    /// A part that was read is worked on no more: the next one is read.
    fn keep(&mut self, result: Result<(), StartError>) -> Result<(), SinkError> {
        self.waiting.again();
        result.map_err(|error| {
            let text = SinkError(error.to_string());
            self.error = Some(error);
            text
        })
    }

    /// The error that the sink met, or else what the restore itself said.
    fn unwrap(self, error: RestoreError) -> StartError {
        self.error.unwrap_or(StartError::Restore(error))
    }

    async fn begin(&mut self, snapshot: Option<&SnapshotManifest>) -> Result<(), StartError> {
        // What was built before, if anything, goes first: it has the same place on disk.
        self.building = None;
        (self.rows, self.entries) = (0, 0);
        failpoint::hit("restore.begun");
        let Some(manifest) = snapshot else { return Ok(()) };
        let (index, term) = (manifest.last_index, manifest.runs.last().map(|run| run.term));
        let held = self.node.thread.with(move |db| db.term_at(index)).await?;
        self.skips_rows = held.is_some() && held == term;
        if !self.skips_rows {
            tracing::info!(snapshot = index.0, rows = manifest.rows, "restoring from a snapshot");
            let built = self.node.thread.with(|db| db.begin_restore()).await??;
            self.building = Some(Building { built, manifest: manifest.clone() });
        }
        Ok(())
    }

    async fn rows(&mut self, rows: Vec<Row>) -> Result<(), StartError> {
        let Some(mut building) = self.building.take() else { return Ok(()) };
        self.rows += rows.len() as u64;
        let pushed = blocking(move || {
            let pushed = building.built.push_rows(&rows);
            (building, pushed)
        });
        let (building, pushed) = pushed.await?;
        self.building = Some(building);
        pushed?;
        self.tell();
        Ok(())
    }

    /// The snapshot's rows are all there: the engine says whether it is needed.
    async fn end_snapshot(&mut self) -> Result<(), StartError> {
        let Some(Building { mut built, manifest }) = self.building.take() else { return Ok(()) };
        let mut first = LogIndex(1);
        let mut starts: Vec<localdb::TermRun> = Vec::with_capacity(manifest.runs.len());
        for run in &manifest.runs {
            starts.push(localdb::TermRun { term: run.term, first_index: first });
            first = run.last_index.next();
        }
        let end = localdb::LogEnd {
            index: manifest.last_index,
            term: starts.last().map_or(Term(0), |run| run.term),
            position: Position(manifest.next_position.0 - 1),
            revision: manifest.revision,
        };
        let built = blocking(move || built.end_snapshot(end, starts).map(|()| built)).await??;
        let covers = manifest.covers();
        let runs = manifest.runs.iter().map(|run| Run { term: run.term, last_index: run.last_index });
        let runs = Runs::new(runs).map_err(|e| StartError::Local(format!("snapshot {}: {e}", manifest.last_index)))?;
        let brought =
            Brought { entries: vec![], snapshot: Some(Box::new(Snapshot { built, uploaded: uploaded(&covers) })) };
        self.offer(LogPiece::Snapshot { covers: fact(&covers), runs }, brought).await
    }

    async fn entries(
        &mut self,
        entries: &[Arc<Entry>],
        chunks: &[ChunkInfo],
        end: &LogPoint,
    ) -> Result<(), StartError> {
        self.end_snapshot().await?;
        self.entries += entries.len() as u64;
        self.tell();
        let before = LogIndex(end.last_index.0 - entries.len() as u64);
        let prev_term = if entries.is_empty() {
            end.last_term
        } else {
            self.node.thread.with(move |db| db.term_at(before)).await?.unwrap_or_default()
        };
        let mut runs: Vec<Run> = Vec::new();
        for entry in entries {
            match runs.last_mut() {
                Some(run) if run.term == entry.term => run.last_index = entry.index,
                _ => runs.push(Run { term: entry.term, last_index: entry.index }),
            }
        }
        let chunks = chunks
            .iter()
            .map(|chunk| ChunkFact { seq: chunk.seq, term: chunk.term, last_index: chunk.last_index })
            .collect();
        let prev = Run { term: prev_term, last_index: before };
        let brought = Brought { entries: entries.to_vec(), snapshot: None };
        self.offer(LogPiece::Chunks { chunks, prev, runs }, brought).await
    }

    /// Gives a part to the engine and waits until what it wants of it is stored: so what is read ahead is bounded.
    async fn offer(&mut self, piece: LogPiece, brought: Brought) -> Result<(), StartError> {
        let event = Event::LogPiece { call: self.call, piece };
        if let Some(last) = self.node.engine_with(brought, |engine, now| engine.handle(now, event)).1 {
            self.node.local_done_through(last).await?;
        }
        Ok(())
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            tracing::info!(rows = self.rows, entries = self.entries, "reading the object log");
        }
    }
}

#[async_trait]
impl RestoreSink for EngineSink<'_, '_> {
    async fn begin(&mut self, snapshot: Option<&SnapshotManifest>) -> Result<(), SinkError> {
        self.waiting.answered();
        let begun = self.begin(snapshot).await;
        self.keep(begun)
    }

    async fn rows(&mut self, rows: Vec<Row>) -> Result<(), SinkError> {
        self.waiting.answered();
        let taken = self.rows(rows).await;
        self.keep(taken)
    }

    async fn entries(&mut self, entries: &[Arc<Entry>], chunks: &[ChunkInfo], end: &LogPoint) -> Result<(), SinkError> {
        self.waiting.answered();
        let taken = self.entries(entries, chunks, end).await;
        self.keep(taken)
    }
}

/// R4: creates the seal at the number after the log's end.
pub(crate) async fn create_seal(node: &Arc<Inner>, call: CallId, seq: ChunkSeq, term: Term) -> StoreResult {
    let state = &node.driver.log_state;
    let Some(mut point) = *state.loaded.lock() else {
        return StoreResult::Refused("the object log was not read before it was to be sealed".to_string());
    };
    if point.seq.next() != seq {
        return StoreResult::Refused(format!("the object log was read to chunk {}, not to before {seq}", point.seq));
    }
    // The same bytes at every try (R3).
    let known = state.seal.lock().clone().filter(|(seal, _)| seal.meta.seq == seq && seal.meta.term == term);
    let (seal, after) = match known {
        Some(known) => known,
        None => {
            let writer = ChunkWriter::of(node, term);
            let seal = match NewChunk::encode(writer.meta_after(&point), &[]) {
                Ok(seal) => seal,
                Err(error) => return StoreResult::Refused(error.to_string()),
            };
            let made = (seal, writer.point_after(&point, &[]));
            *state.seal.lock() = Some(made.clone());
            made
        }
    };
    let mut waiting = node.driver.calls.log.call();
    let created = node.log.create(&seal).await.map_err(StartError::from);
    settle(&mut waiting, created.as_ref().err());
    match created {
        Ok(Created::Landed) => {
            failpoint::hit("start.sealed");
            StoreResult::Sealed(fact(&after))
        }
        Ok(Created::CleanedUp) => StoreResult::SealCleanedUp,
        Ok(Created::Taken(chunk)) => {
            let piece = ReadPiece::from_chunk(keys::chunk(chunk.meta.seq), *chunk);
            let taken = async {
                let skip = point.follow(&piece)?;
                let entries = piece.entries.get(skip..).unwrap_or_default();
                EngineSink::new(node, call, &mut waiting).entries(entries, &piece.chunks, &point).await
            };
            match taken.await {
                Ok(()) => {
                    *state.loaded.lock() = Some(point);
                    StoreResult::SealTaken(fact(&point))
                }
                Err(error) => failed(error),
            }
        }
        Err(error) => failed(error),
    }
}

/// The second LIST of R4.
pub(crate) async fn check_seal(node: &Inner, seq: ChunkSeq) -> StoreResult {
    let mut waiting = node.driver.calls.log.call();
    let found = node.log.anything_after(seq).await.map_err(StartError::from);
    settle(&mut waiting, found.as_ref().err());
    match found {
        Ok(found) => StoreResult::AnythingAfter(found),
        Err(error) => failed(error),
    }
}
