//! Replacing the local database by what the bucket holds.

use crate::adopt::{Carried, check_terms, uploaded};
use crate::failpoint;
use crate::load::{load_now, store_config};
use crate::node::Inner;
use crate::start::StartError;
use async_trait::async_trait;
use netsy_api::ids::{LogIndex, Position, Term};
use netsy_api::log::{Entry, Row};
use netsy_localdb as localdb;
use netsy_objects::format::ChunkInfo;
use netsy_objects::manifest::SnapshotManifest;
use netsy_objects::object_log::LogPoint;
use netsy_objects::restore::{RestoreSink, SinkError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often progress is logged.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Bytes of the own log's tail copied at a time.
const TAIL_BYTES: usize = 4 << 20;

/// Fills a new database beside the one in use.
struct BuildSink<'a> {
    node: &'a Inner,
    term: Term,
    building: Option<localdb::Restore>,
    /// The end of the snapshot whose rows are coming in.
    snapshot: Option<(localdb::LogEnd, Vec<localdb::TermRun>)>,
    rows: u64,
    entries: u64,
    told: Instant,
}

impl BuildSink<'_> {
    fn building(&mut self) -> Result<&mut localdb::Restore, StartError> {
        self.building.as_mut().ok_or_else(|| StartError::Local("a restore that was not begun".into()))
    }

    async fn begin(&mut self, snapshot: Option<&SnapshotManifest>) -> Result<(), StartError> {
        // What was built before, if anything, goes first: it has the same place on disk.
        self.building = None;
        (self.rows, self.entries) = (0, 0);
        self.snapshot = match snapshot {
            None => None,
            Some(manifest) => {
                if manifest.term > self.term {
                    return Err(StartError::Deposed(format!(
                        "snapshot {} covers a chunk of term {}",
                        manifest.last_index, manifest.term
                    )));
                }
                let mut first = LogIndex(1);
                let runs = manifest.runs.iter().map(|run| {
                    let begun = localdb::TermRun { term: run.term, first_index: first };
                    first = run.last_index.next();
                    begun
                });
                let runs: Vec<localdb::TermRun> = runs.collect();
                let end = localdb::LogEnd {
                    index: manifest.last_index,
                    term: runs.last().map_or(Term(0), |run| run.term),
                    position: Position(manifest.next_position.0 - 1),
                    revision: manifest.revision,
                };
                tracing::info!(snapshot = manifest.last_index.0, rows = manifest.rows, "restoring from a snapshot");
                Some((end, runs))
            }
        };
        self.building = Some(self.node.thread.with(|db| db.begin_restore()).await??);
        failpoint::hit("restore.begun");
        Ok(())
    }

    fn rows(&mut self, rows: &[Row]) -> Result<(), StartError> {
        self.building()?.push_rows(rows)?;
        self.rows += rows.len() as u64;
        self.tell();
        Ok(())
    }

    fn entries(&mut self, entries: &[Arc<Entry>], chunks: &[ChunkInfo], end: &LogPoint) -> Result<(), StartError> {
        check_terms(chunks, self.term)?;
        self.end_snapshot()?;
        let mutations: u64 = entries.iter().map(|e| e.mutations.len() as u64).sum();
        let mut position = Position(end.next_position.0 - mutations);
        let mut placed = Vec::with_capacity(entries.len());
        for entry in entries {
            placed.push((position, entry.clone()));
            position = Position(position.0 + entry.mutations.len() as u64);
        }
        self.building()?.push_entries(&placed)?;
        self.entries += entries.len() as u64;
        self.tell();
        Ok(())
    }

    fn end_snapshot(&mut self) -> Result<(), StartError> {
        if let Some((end, runs)) = self.snapshot.take() {
            self.building()?.end_snapshot(end, runs)?;
        }
        Ok(())
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            tracing::info!(rows = self.rows, entries = self.entries, "restoring from the bucket");
        }
    }
}

#[async_trait]
impl RestoreSink for Carried<BuildSink<'_>> {
    async fn begin(&mut self, snapshot: Option<&SnapshotManifest>) -> Result<(), SinkError> {
        let begun = self.inner.begin(snapshot).await;
        self.keep(begun)
    }

    async fn rows(&mut self, rows: Vec<Row>) -> Result<(), SinkError> {
        let taken = self.inner.rows(&rows);
        self.keep(taken)
    }

    async fn entries(&mut self, entries: &[Arc<Entry>], chunks: &[ChunkInfo], end: &LogPoint) -> Result<(), SinkError> {
        let taken = self.inner.entries(entries, chunks, end);
        self.keep(taken)
    }
}

/// Puts the bucket's state in the database's place; the old one stays until the new one is whole. What the own log
/// has beyond the object log stays where it continues it (R7). The state machine is loaded anew.
pub(crate) async fn restore(node: &Arc<Inner>, term: Term) -> Result<LogPoint, StartError> {
    let started = Instant::now();
    let sink = BuildSink { node, term, building: None, snapshot: None, rows: 0, entries: 0, told: Instant::now() };
    let mut sink = Carried::new(sink);
    let restored = match netsy_objects::restore::restore(&node.log, &mut sink).await {
        Ok(restored) => restored,
        Err(error) => return Err(sink.unwrap(error)),
    };
    for wrong in &restored.passed_over {
        tracing::warn!(%wrong, "an object in the bucket is wrong; the state was restored without it");
    }
    let mut sink = sink.inner;
    sink.end_snapshot()?;
    let (rows, entries) = (sink.rows, sink.entries);
    let Some(built) = sink.building.take() else {
        return Err(StartError::Local("a restore that was not begun".into()));
    };
    let end = restored.end;
    let (readers, config) = (node.readers.clone(), store_config(&node.config));
    let store = node
        .thread
        .with(move |db| {
            finish(db, &readers, built, &end)?;
            load_now(db, &readers, config)
        })
        .await??;
    failpoint::hit("restore.loaded");
    node.replace_state(store);
    node.saw_tail(end);
    if rows + entries > 0 {
        tracing::info!(rows, entries, seconds = started.elapsed().as_secs_f64(), "restored from the bucket");
    }
    Ok(end)
}

fn finish(
    db: &mut localdb::Writer,
    readers: &localdb::Readers,
    mut built: localdb::Restore,
    end: &LogPoint,
) -> Result<(), StartError> {
    let shown = db.progress().visible_index;
    let continues = end.last_index.0 == 0 || db.term_at(end.last_index) == Some(end.last_term);
    // What both have at an index with equal terms is the same up to there.
    let agreed = shown.0 == 0 || built.term_at(shown) == db.term_at(shown);
    let keeps_tail = continues && end.last_index < db.end().index;
    if !(agreed || keeps_tail && end.last_index <= shown) {
        return Err(StartError::Diverged(format!(
            "this node's database showed everything up to index {shown} as committed, and the object log, which ends at \
             index {}, does not hold the same",
            end.last_index
        )));
    }
    if keeps_tail {
        let mut from = end.last_index.next();
        while from <= db.end().index {
            let entries = readers.entries_from(from, TAIL_BYTES)?;
            let Some((_, last)) = entries.last() else { break };
            from = last.index.next();
            let entries: Vec<(Position, Arc<Entry>)> =
                entries.into_iter().map(|(position, entry)| (position, Arc::new(entry))).collect();
            built.push_entries(&entries)?;
        }
    }
    // What the object log holds is committed (R5 b).
    let visible_index = shown.max(end.last_index);
    db.finish_restore(built, &localdb::RestoreEnd { visible_index, uploaded: uploaded(end) })?;
    Ok(())
}
