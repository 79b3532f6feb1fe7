//! Taking over the object log at the start of a term: adopt it, seal it, upload the own tail (R4, R7).

use crate::failpoint;
use crate::log_thread::{LogThread, before_entry};
use crate::node::Inner;
use crate::start::{StartError, blocking};
use crate::uploader::ChunkWriter;
use async_trait::async_trait;
use netsy_api::ids::{ChunkSeq, LogIndex, Position, Term};
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

/// Bytes of entries in one chunk of the tail: a long tail goes up in large chunks.
const TAIL_CHUNK_BYTES: usize = 16 << 20;
/// Pause before a chunk that did not land is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

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

/// Takes entries of the object log into the local database (R7): what both have with equal terms stays, the own log
/// goes from the first index where they differ, and what it lacks is added.
struct DatabaseSink<'a> {
    thread: &'a LogThread,
    term: Term,
}

impl DatabaseSink<'_> {
    async fn take(&self, entries: &[Arc<Entry>], chunks: &[ChunkInfo], end: &LogPoint) -> Result<(), StartError> {
        check_terms(chunks, self.term)?;
        let (entries, end) = (entries.to_vec(), *end);
        self.thread.with(move |db| take(db, &entries, &end)).await?
    }
}

fn take(db: &mut localdb::Writer, entries: &[Arc<Entry>], end: &LogPoint) -> Result<(), StartError> {
    let mutations: u64 = entries.iter().map(|e| e.mutations.len() as u64).sum();
    let mut position = Position(end.next_position.0 - mutations);
    let mut missing: Vec<(Position, Arc<Entry>)> = vec![];
    for entry in entries {
        match db.term_at(entry.index) {
            // Only while nothing was found missing: after a cut everything that follows is missing.
            Some(term) if term == entry.term && missing.is_empty() => {}
            Some(term) if missing.is_empty() => {
                let visible = db.progress().visible_index;
                if entry.index <= visible {
                    return Err(StartError::Diverged(format!(
                        "entry {} is of term {term} in the local database, which showed it as committed, and of term {} in the object log",
                        entry.index, entry.term
                    )));
                }
                db.truncate_after(LogIndex(entry.index.0 - 1))?;
                missing.push((position, entry.clone()));
            }
            _ => missing.push((position, entry.clone())),
        }
        position = Position(position.0 + entry.mutations.len() as u64);
    }
    let noted = Some(uploaded(end));
    db.commit(&localdb::Batch { entries: &missing, uploaded: noted, ..localdb::Batch::default() })?;
    Ok(())
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
        let taken = self.inner.take(entries, chunks, end).await;
        self.keep(taken)
    }
}

/// Brings the local database up to the end of the object log, from a point where both are the same.
/// `None`: what it needs is folded into a snapshot.
pub(crate) async fn adopt(
    node: &Inner,
    term: Term,
    from: LogPoint,
) -> Result<Option<LogPoint>, StartError> {
    // A snapshot is a place to go on from only where both logs are known to be the same.
    let mut sink = Carried::new(DatabaseSink { thread: &node.thread, term });
    match catch_up(&node.log, from, from.last_index, &mut sink).await {
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
pub(crate) async fn seal(node: &Inner, writer: &ChunkWriter, mut point: LogPoint) -> Result<Sealed, StartError> {
    let log = &node.log;
    let sink = DatabaseSink { thread: &node.thread, term: writer.term };
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
                sink.take(piece.entries.get(skip..).unwrap_or_default(), &piece.chunks, &point).await?;
            }
            Created::CleanedUp => return Ok(Sealed::StartOver),
        }
    }
}

/// Uploads what the local database has beyond the object log.
pub(crate) async fn upload_tail(
    node: &Inner,
    writer: &ChunkWriter,
    mut point: LogPoint,
) -> Result<LogPoint, StartError> {
    let log = &node.log;
    let end = node.thread.with(|db| db.end().index).await?;
    while point.last_index < end {
        let (readers, from) = (node.readers.clone(), point.last_index.next());
        let entries = blocking(move || readers.entries_from(from, TAIL_CHUNK_BYTES)).await??;
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

/// R4: reads the object log to its end, seals it, uploads the tail. All of the own log is in the object log then.
pub(crate) async fn take_over(node: &Arc<Inner>, writer: &ChunkWriter) -> Result<LogPoint, StartError> {
    for _ in 0..ADOPT_TRIES_MAX {
        let adopted = match newest_known_point(node).await? {
            Some(from) => {
                check_reaches(&node.log, &from).await?;
                adopt(node, writer.term, from).await?
            }
            None => None,
        };
        let point = match adopted {
            Some(point) => point,
            None => crate::restore::restore(node, writer.term).await?,
        };
        if let Sealed::At(point) = seal(node, writer, point).await? {
            let point = upload_tail(node, writer, point).await?;
            note_point(node, point).await?;
            return Ok(point);
        }
        note_point(node, point).await?;
    }
    Err(StartError::Deposed("the object log is being cleaned up faster than this node can read it".into()))
}

/// Listings of the object log that fell into clean-up's holes before a takeover gives up.
const ADOPT_TRIES_MAX: u32 = 100;

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

async fn note_point(node: &Inner, point: LogPoint) -> Result<(), StartError> {
    node.saw_tail(point);
    let noted = Some(uploaded(&point));
    node.thread
        .with(move |db| db.commit(&localdb::Batch { uploaded: noted, ..localdb::Batch::default() }))
        .await??;
    Ok(())
}

/// The newest chunk is never deleted (R4): a log that ends before what was seen of it is another log.
async fn check_reaches(log: &ObjectLog, known: &LogPoint) -> Result<(), StartError> {
    let end = log.list(ChunkSeq(known.seq.0.saturating_sub(1))).await?.end();
    if end < known.seq {
        return Err(StartError::Diverged(format!(
            "the object log ends at chunk {end}, this node knows it to have reached {}: is it the right bucket and storage.key_prefix?",
            known.seq
        )));
    }
    Ok(())
}
