//! Taking over the object log at the start of a term: adopt it, seal it, upload the own tail (R4, R7).

use crate::failpoint;
use crate::start::StartError;
use crate::uploader::ChunkWriter;
use async_trait::async_trait;
use netsy_api::ids::{LogIndex, Position, Term};
use netsy_api::log::{Entry, Row};
use netsy_localdb as localdb;
use netsy_objects::format::ChunkInfo;
use netsy_objects::keys;
use netsy_objects::log_reader::LogPiece;
use netsy_objects::manifest::SnapshotManifest;
use netsy_objects::object_log::{Created, LogPoint, NewChunk, ObjectLog};
use netsy_objects::read::ReadError;
use netsy_objects::restore::{CaughtUp, RestoreError, RestoreSink, SinkError, catch_up};
use std::sync::Arc;
use std::time::Duration;

/// The note in the local database that says how far it was last known to equal the object log.
pub(crate) const LOG_POINT_NOTE: &str = "object-log";
/// Bytes of entries in one chunk of the tail: a long tail goes up in large chunks.
const TAIL_CHUNK_BYTES: usize = 16 << 20;
/// Pause before a chunk that did not land is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The point up to which this database is known to equal the object log; `None`: not known, or it has nothing, and a
/// snapshot is the shorter way.
pub(crate) fn known_point(db: &localdb::Writer) -> Result<Option<LogPoint>, StartError> {
    let Some(note) = db.note(LOG_POINT_NOTE)? else {
        return Ok(None);
    };
    let point: LogPoint = serde_json::from_slice(&note).map_err(|e| {
        StartError::Local(format!("the note {LOG_POINT_NOTE} in the local database cannot be read: {e}"))
    })?;
    // A log that was cut since then is no continuation of it.
    let fits = point.last_index <= db.end().index
        && (point.last_index.0 == 0 || db.term_at(point.last_index) == Some(point.last_term));
    Ok(fits.then_some(point))
}

/// Records how far the database equals the object log.
pub(crate) fn note_point(db: &mut localdb::Writer, point: &LogPoint) -> Result<(), StartError> {
    let text = serde_json::to_vec(point).map_err(|e| StartError::Local(e.to_string()))?;
    Ok(db.set_note(LOG_POINT_NOTE, &text)?)
}

/// Takes entries of the object log into the local database (R7): what both have with equal terms stays, the own log
/// goes from the first index where they differ, and what it lacks is added.
pub(crate) struct DatabaseSink<'a> {
    pub(crate) db: &'a mut localdb::Writer,
    pub(crate) term: Term,
}

impl DatabaseSink<'_> {
    fn take(&mut self, entries: &[Arc<Entry>], chunks: &[ChunkInfo], end: &LogPoint) -> Result<(), StartError> {
        check_terms(chunks, self.term)?;
        let mutations: u64 = entries.iter().map(|e| e.mutations.len() as u64).sum();
        let mut position = Position(end.next_position.0 - mutations);
        let mut missing: Vec<(Position, Arc<Entry>)> = vec![];
        for entry in entries {
            match self.db.term_at(entry.index) {
                // Only while nothing was found missing: after a cut everything that follows is missing.
                Some(term) if term == entry.term && missing.is_empty() => {}
                Some(term) if missing.is_empty() => {
                    let visible = self.db.progress().visible_index;
                    if entry.index <= visible {
                        return Err(StartError::Diverged(format!(
                            "entry {} is of term {term} in the local database, which showed it as committed, and of term {} in the object log",
                            entry.index, entry.term
                        )));
                    }
                    self.db.truncate_after(LogIndex(entry.index.0 - 1))?;
                    missing.push((position, entry.clone()));
                }
                _ => missing.push((position, entry.clone())),
            }
            position = Position(position.0 + entry.mutations.len() as u64);
        }
        if !missing.is_empty() {
            self.db.commit(&localdb::Batch { entries: &missing, ..localdb::Batch::default() })?;
        }
        Ok(())
    }
}

/// A chunk of a higher term means that another Primary is at work (R4).
pub(crate) fn check_terms(chunks: &[ChunkInfo], term: Term) -> Result<(), StartError> {
    match chunks.iter().find(|c| c.term > term) {
        Some(chunk) => Err(StartError::Deposed(format!(
            "chunk {} of the object log was written by {} in term {}",
            chunk.seq, chunk.node_id, chunk.term
        ))),
        None => Ok(()),
    }
}

/// Carries a [`StartError`] through the sink's interface, which knows texts only.
pub(crate) struct Carried<T> {
    pub(crate) inner: T,
    pub(crate) error: Option<StartError>,
}

impl<T> Carried<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, error: None }
    }

    pub(crate) fn keep(&mut self, result: Result<(), StartError>) -> Result<(), SinkError> {
        result.map_err(|error| {
            let text = SinkError(error.to_string());
            self.error = Some(error);
            text
        })
    }

    /// The error that the sink met, or else what the restore itself said.
    pub(crate) fn unwrap(self, error: RestoreError) -> StartError {
        self.error.unwrap_or(StartError::Restore(error))
    }
}

#[async_trait]
impl RestoreSink for Carried<DatabaseSink<'_>> {
    async fn begin(&mut self, _: Option<&SnapshotManifest>) -> Result<(), SinkError> {
        Err(SinkError("a catch-up does not begin anew".into()))
    }

    async fn rows(&mut self, _: Vec<Row>) -> Result<(), SinkError> {
        Err(SinkError("a catch-up has no snapshot".into()))
    }

    async fn entries(&mut self, entries: &[Arc<Entry>], chunks: &[ChunkInfo], end: &LogPoint) -> Result<(), SinkError> {
        let taken = self.inner.take(entries, chunks, end);
        self.keep(taken)
    }
}

/// Brings the local database up to the end of the object log, from a point where both are the same.
/// `None`: what it needs is folded into a snapshot.
pub(crate) async fn adopt(
    log: &ObjectLog,
    db: &mut localdb::Writer,
    writer: &ChunkWriter,
    from: LogPoint,
) -> Result<Option<LogPoint>, StartError> {
    // A snapshot is a place to go on from only where both logs are known to be the same.
    let mut sink = Carried::new(DatabaseSink { db, term: writer.term });
    match catch_up(log, from, from.last_index, &mut sink).await {
        Ok(CaughtUp::End(point)) => {
            failpoint::hit("start.adopted");
            Ok(Some(point))
        }
        Ok(CaughtUp::NeedsSnapshot) => Ok(None),
        Err(error) => Err(sink.unwrap(error)),
    }
}

/// What sealing came to.
#[derive(Debug)]
pub(crate) enum Sealed {
    /// The term's seal stands at the log's end.
    At(LogPoint),
    /// It fell into a hole that clean-up left, or its number was cleaned up: R4 starts over with a new listing.
    StartOver,
}

/// R4: creates the seal at the next number; a chunk found in its place is adopted and the next number tried.
pub(crate) async fn seal(
    log: &ObjectLog,
    db: &mut localdb::Writer,
    writer: &ChunkWriter,
    mut point: LogPoint,
) -> Result<Sealed, StartError> {
    loop {
        let seal = NewChunk::encode(writer.meta_after(&point), &[]).map_err(|e| StartError::Local(e.to_string()))?;
        match create(log, &seal).await? {
            Created::Landed => {
                if log.anything_after(seal.meta.seq).await? {
                    return Ok(Sealed::StartOver);
                }
                failpoint::hit("start.sealed");
                return Ok(Sealed::At(writer.point_after(&point, &[])));
            }
            Created::Taken(chunk) => {
                let piece = LogPiece::from_chunk(keys::chunk(chunk.meta.seq), *chunk);
                let skip = point.follow(&piece)?;
                DatabaseSink { db, term: writer.term }.take(&piece.entries[skip..], &piece.chunks, &point)?;
            }
            Created::CleanedUp => return Ok(Sealed::StartOver),
        }
    }
}

/// Uploads what the local database has beyond the object log.
pub(crate) async fn upload_tail(
    log: &ObjectLog,
    db: &localdb::Writer,
    readers: &localdb::Readers,
    writer: &ChunkWriter,
    mut point: LogPoint,
) -> Result<LogPoint, StartError> {
    let end = db.end().index;
    while point.last_index < end {
        let entries = readers.entries_from(point.last_index.next(), TAIL_CHUNK_BYTES)?;
        if entries.is_empty() {
            return Err(StartError::Local(format!(
                "entry {} is not in the local database, whose log ends at {end}",
                point.last_index.next()
            )));
        }
        let entries: Vec<Arc<Entry>> = entries.into_iter().map(|(_, entry)| Arc::new(entry)).collect();
        let chunk =
            NewChunk::encode(writer.meta_after(&point), &entries).map_err(|e| StartError::Local(e.to_string()))?;
        match create(log, &chunk).await? {
            Created::Landed => point = writer.point_after(&point, &entries),
            Created::Taken(other) => {
                return Err(StartError::Deposed(format!(
                    "chunk {} was written by {} in term {}",
                    chunk.meta.seq, other.meta.node_id, other.meta.term
                )));
            }
            Created::CleanedUp => {
                return Err(StartError::Deposed(format!(
                    "chunk {} was written and folded by another node",
                    chunk.meta.seq
                )));
            }
        }
        tracing::info!(through = point.last_index.0, of = end.0, "uploading what only this node has");
    }
    failpoint::hit("start.tail-uploaded");
    Ok(point)
}

/// Goes on with the same bytes for as long as the store is unavailable.
async fn create(log: &ObjectLog, chunk: &NewChunk) -> Result<Created, StartError> {
    loop {
        match log.create(chunk).await {
            Err(ReadError::Store(error)) if error.is_retryable() => {
                tracing::warn!(seq = chunk.meta.seq.0, %error, "object log: the chunk has not landed yet; trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            other => return Ok(other?),
        }
    }
}
