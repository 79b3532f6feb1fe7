//! Puts committed and to-be-committed entries into the object log, one chunk at a time (R3, R5 b).
//!
//! Where only the object log commits, everything that arrives while one chunk is on its way, and shortly after
//! ([`Gather`]), goes into the next one, so that throughput grows with load and latency stays near one call.
//! Elsewhere a chunk leaves when enough has gathered or the oldest entry is old enough.

use crate::clock::unix_millis;
use crate::failpoint;
use crate::gather::Gather;
use crate::node::Inner;
use crate::primary::Primary;
use netsy_api::ids::{LogIndex, NodeId, Position, Session, Term};
use netsy_api::log::Entry;
use netsy_objects::format::ChunkMeta;
use netsy_objects::object_log::{Created, LogPoint, NewChunk};
use netsy_objects::read::ReadError;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Bytes of keys and values kept in memory for the uploader; what does not fit is read back from the local
/// database.
const BUFFER_BYTES_MAX: usize = 64 << 20;
/// Bytes of keys and values in one chunk, unless one entry alone is larger.
const CHUNK_BYTES_MAX: usize = 16 << 20;
/// What an entry costs beside its keys and values.
const ENTRY_OVERHEAD_BYTES: usize = 64;
/// Pause before it is asked again whether a chunk may be begun.
const GATE_PAUSE: Duration = Duration::from_millis(5);
/// Pause before a chunk that did not land is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What waits to be uploaded: filled by the writer, emptied by the uploader's task.
pub(crate) struct Uploads {
    state: Mutex<Buffer>,
    more: Notify,
    stopped: AtomicBool,
    /// Whatever is there leaves at once: only the object log commits, by the manifest or for now (R8).
    at_once: AtomicBool,
    /// Bytes from which a chunk is due, however young.
    full_bytes: usize,
    /// The end of the object log as the node knows it.
    tail: watch::Sender<LogPoint>,
}

#[derive(Default)]
struct Buffer {
    /// Consecutive entries; older ones that were not uploaded are in the local database.
    entries: VecDeque<(Position, Arc<Entry>)>,
    bytes: usize,
    /// When the oldest entry that is not uploaded arrived.
    since: Option<Instant>,
    /// When entries were handed over last.
    arrived: Option<Instant>,
    /// The newest entry handed over.
    last: LogIndex,
    /// Everything up to here is wanted in the object log now.
    flush_to: LogIndex,
}

fn cost(entry: &Entry) -> usize {
    entry.payload_bytes() + ENTRY_OVERHEAD_BYTES
}

impl Uploads {
    /// For a Primary whose seal is at `tail`.
    pub(crate) fn new(tail: watch::Sender<LogPoint>, at_once: bool, full_bytes: usize) -> Self {
        let last = tail.borrow().last_index;
        Self {
            state: Mutex::new(Buffer { last, ..Buffer::default() }),
            more: Notify::new(),
            stopped: AtomicBool::new(false),
            at_once: AtomicBool::new(at_once),
            full_bytes,
            tail,
        }
    }

    /// Everything up to `index`, which is in the local database or was handed over, is wanted in the object log now.
    pub(crate) fn extend_to(&self, index: LogIndex) {
        let mut state = self.state.lock();
        state.last = state.last.max(index);
        state.flush_to = state.flush_to.max(index);
        state.since.get_or_insert_with(Instant::now);
        drop(state);
        self.more.notify_one();
    }

    /// Whether whatever is there is to leave at once.
    pub(crate) fn set_at_once(&self, at_once: bool) {
        if self.at_once.swap(at_once, Ordering::AcqRel) != at_once {
            self.more.notify_one();
        }
    }

    /// Takes entries in log order.
    pub(crate) fn push(&self, entries: &[(Position, Arc<Entry>)]) {
        let mut state = self.state.lock();
        let now = Instant::now();
        let first = state.since.is_none();
        state.since.get_or_insert(now);
        state.arrived = Some(now);
        for (first, entry) in entries {
            state.bytes += cost(entry);
            state.last = entry.index;
            state.entries.push_back((*first, entry.clone()));
        }
        // The oldest leave memory first: the local database has had them the longest.
        while state.bytes > BUFFER_BYTES_MAX && state.entries.len() > entries.len() {
            if let Some((_, entry)) = state.entries.pop_front() {
                state.bytes -= cost(&entry);
            }
        }
        // Else it sleeps until the first is old enough: waking it would take time from the commit that comes next.
        let due = first || self.at_once.load(Ordering::Acquire) || state.bytes >= self.full_bytes;
        drop(state);
        if due {
            self.more.notify_one();
        }
    }

    /// Has everything handed over so far uploaded without waiting for size or age.
    pub(crate) fn wish(&self) -> LogIndex {
        let wanted = {
            let mut state = self.state.lock();
            state.flush_to = state.last;
            state.last
        };
        self.more.notify_one();
        wanted
    }

    /// The end of the object log as known now.
    pub(crate) fn tail(&self) -> LogPoint {
        *self.tail.borrow()
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.tail.send_modify(|_| {});
        self.more.notify_one();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// Who writes chunks: the process that acts in a term.
#[derive(Clone, Debug)]
pub(crate) struct ChunkWriter {
    pub(crate) cluster_id: String,
    pub(crate) node_id: NodeId,
    pub(crate) session: Session,
    pub(crate) term: Term,
}

impl ChunkWriter {
    /// This process in `term`.
    pub(crate) fn of(node: &Inner, term: Term) -> Self {
        Self {
            cluster_id: node.config.cluster_id.clone(),
            node_id: node.config.node_id.clone(),
            session: node.session,
            term,
        }
    }

    /// What the chunk after `tail` says of itself, but for what its entries make it.
    pub(crate) fn meta_after(&self, tail: &LogPoint) -> ChunkMeta {
        ChunkMeta {
            cluster_id: self.cluster_id.clone(),
            node_id: self.node_id.clone(),
            session: self.session,
            seq: tail.seq.next(),
            term: self.term,
            first_index: tail.last_index.next(),
            last_index: tail.last_index,
            first_position: tail.next_position,
            last_position: Position(tail.next_position.0 - 1),
            created_at: unix_millis(),
        }
    }

    /// The log's end once a chunk of these entries (none: a seal) follows `tail`.
    pub(crate) fn point_after(&self, tail: &LogPoint, entries: &[Arc<Entry>]) -> LogPoint {
        let mutations: usize = entries.iter().map(|e| e.mutations.len()).sum();
        LogPoint {
            seq: tail.seq.next(),
            term: self.term,
            last_index: LogIndex(tail.last_index.0 + entries.len() as u64),
            last_term: entries.last().map_or(tail.last_term, |e| e.term),
            next_position: Position(tail.next_position.0 + mutations as u64),
            revision: entries.last().map_or(tail.revision, |e| e.revision),
        }
    }
}

/// The uploader's task: one per Primary and term.
pub(crate) struct Uploader {
    /// A chunk leaves when its oldest entry has this age.
    pub(crate) age: Duration,
    pub(crate) node: Arc<Inner>,
    pub(crate) primary: Arc<Primary>,
    pub(crate) gather: Gather,
}

/// What there is to upload.
enum Due {
    /// These, now.
    Entries(Vec<(Position, Arc<Entry>)>),
    /// Those from here on, which left memory, now.
    Stored(LogIndex),
    /// Something, once this much time has passed.
    After(Duration),
    Nothing,
}

/// Why uploading ended.
#[derive(Debug)]
pub(crate) enum UploadEnd {
    /// It was told to.
    Stopped,
    /// Another process wrote the next chunk (R3): in this term, or, if that is known, in another.
    Deposed { by: Option<Term>, why: String },
    /// Repeating will not help: permissions, a damaged local database.
    Failed(String),
}

impl Uploader {
    pub(crate) async fn run(mut self) -> UploadEnd {
        loop {
            let Some(entries) = (match self.next_entries().await {
                Ok(entries) => entries,
                Err(end) => return end,
            }) else {
                continue;
            };
            if let Err(end) = self.upload(entries).await {
                self.primary.uploads.stop();
                return end;
            }
        }
    }

    /// Waits until a chunk is due and takes its entries out of the buffer, or reads them back.
    async fn next_entries(&self) -> Result<Option<Vec<(Position, Arc<Entry>)>>, UploadEnd> {
        if self.primary.uploads.is_stopped() {
            return Err(UploadEnd::Stopped);
        }
        match self.look() {
            Due::Entries(entries) => return Ok(Some(entries)),
            Due::Stored(from) => return self.read_back(from).await,
            Due::Nothing => self.primary.uploads.more.notified().await,
            Due::After(pause) => {
                // Either more came or the oldest is old enough now: both are looked at again.
                let _ = tokio::time::timeout(pause, self.primary.uploads.more.notified()).await;
            }
        }
        Ok(None)
    }

    fn look(&self) -> Due {
        let tail = self.primary.uploads.tail();
        let mut state = self.primary.uploads.state.lock();
        while state.entries.front().is_some_and(|(_, e)| e.index <= tail.last_index) {
            if let Some((_, entry)) = state.entries.pop_front() {
                state.bytes -= cost(&entry);
            }
        }
        self.node.metrics.unarchived_bytes.store(state.bytes as u64, Ordering::Relaxed);
        if state.last <= tail.last_index {
            state.since = None;
            return Due::Nothing;
        }
        let now = Instant::now();
        let age = state.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let due = state.bytes >= self.primary.uploads.full_bytes || age >= self.age || state.flush_to > tail.last_index;
        if !due {
            if !self.primary.uploads.at_once.load(Ordering::Acquire) {
                return Due::After(self.age.saturating_sub(age));
            }
            if let Some(pause) = self.gather.wait(now, state.entries.len(), self.node.thread.queued(), state.arrived) {
                return Due::After(pause);
            }
        }
        let next = tail.last_index.next();
        if state.entries.front().is_some_and(|(_, e)| e.index == next) {
            let taken = take(&mut state);
            if state.entries.is_empty() {
                // What arrives from now on counts its age from now on. What does not fit into this chunk is as old as it is.
                state.since = Some(now);
            }
            Due::Entries(taken)
        } else {
            Due::Stored(next)
        }
    }

    async fn read_back(&self, from: LogIndex) -> Result<Option<Vec<(Position, Arc<Entry>)>>, UploadEnd> {
        let readers = self.node.readers.clone();
        let read = tokio::task::spawn_blocking(move || readers.entries_from(from, CHUNK_BYTES_MAX))
            .await
            .map_err(|e| UploadEnd::Failed(format!("reading entries from {from}: {e}")))?
            .map_err(|e| UploadEnd::Failed(format!("reading entries from {from}: {e}")))?;
        if read.is_empty() {
            // The writer handed them over and is about to commit them.
            tokio::time::sleep(Duration::from_millis(5)).await;
            return Ok(None);
        }
        Ok(Some(read.into_iter().map(|(first, entry)| (first, Arc::new(entry))).collect()))
    }

    async fn upload(&mut self, entries: Vec<(Position, Arc<Entry>)>) -> Result<(), UploadEnd> {
        let tail = self.primary.uploads.tail();
        let Some((first_position, _)) = entries.first() else {
            return Ok(());
        };
        if *first_position != tail.next_position {
            return Err(UploadEnd::Failed(format!(
                "the chunk after {} would begin at position {first_position}, not {}",
                tail.seq, tail.next_position
            )));
        }
        let entries: Vec<Arc<Entry>> = entries.into_iter().map(|(_, entry)| entry).collect();
        let entry_count = entries.len();
        let next = self.primary.chunk_writer.point_after(&tail, &entries);
        let meta = self.primary.chunk_writer.meta_after(&tail);
        let encoded = if entries.len() < 64 {
            NewChunk::encode(meta, &entries)
        } else {
            tokio::task::spawn_blocking(move || NewChunk::encode(meta, &entries))
                .await
                .map_err(|e| UploadEnd::Failed(e.to_string()))?
        };
        let chunk = encoded.map_err(|e| UploadEnd::Failed(format!("chunk {}: {e}", next.seq)))?;
        failpoint::hit("upload.chunk-encoded");
        let started = Instant::now();
        let size = chunk.file.bytes.len() as u64;
        // R2: none is begun once a higher term is promised.
        while !self.node.ask_engine(|engine, _| engine.may_start_chunk(self.primary.term)) {
            if self.primary.uploads.is_stopped() {
                return Err(UploadEnd::Stopped);
            }
            tokio::time::sleep(GATE_PAUSE).await;
        }
        let mut landing = self.node.driver.calls.log.call();
        let mut answers = true;
        loop {
            failpoint::hit("upload.before-create");
            // The same bytes each time, whatever came of the try before (R3).
            match self.node.log.create(&chunk).await {
                Ok(Created::Landed) => break,
                Ok(Created::Taken(other)) => {
                    landing.answered();
                    return Err(UploadEnd::Deposed {
                        by: Some(other.meta.term),
                        why: format!(
                            "chunk {} was written by {} in term {}",
                            next.seq, other.meta.node_id, other.meta.term
                        ),
                    });
                }
                // Only who knows of a later chunk deletes one: somebody else went on from here.
                Ok(Created::CleanedUp) => {
                    landing.answered();
                    return Err(UploadEnd::Deposed {
                        by: None,
                        why: format!("chunk {} was written and folded by another node", next.seq),
                    });
                }
                Err(ReadError::Store(error)) if error.is_retryable() => {
                    tracing::debug!(seq = next.seq.0, %error, "object log: the chunk has not landed yet; trying again");
                    self.node.metrics.chunk_retries.fetch_add(1, Ordering::Relaxed);
                    landing.failed(error.to_string());
                    answers = false;
                    self.node.engine(|engine, now| engine.store_answers(now, false));
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(UploadEnd::Failed(error.to_string())),
            }
            if self.primary.uploads.is_stopped() {
                return Err(UploadEnd::Stopped);
            }
        }
        landing.answered();
        failpoint::hit("upload.after-create");
        let call = started.elapsed();
        let waiting = self.primary.uploads.state.lock().entries.len();
        tracing::debug!(seq = next.seq.0, entries = entry_count, waiting, ?call, "chunk landed");
        self.gather.landed(Instant::now(), call, entry_count, waiting);
        self.node.metrics.chunk_creates.observe(call);
        self.node.metrics.chunks.fetch_add(1, Ordering::Relaxed);
        self.node.metrics.chunk_bytes.fetch_add(size, Ordering::Relaxed);
        if !answers {
            self.node.engine(|engine, now| engine.store_answers(now, true));
        }
        self.node.saw_tail(next);
        let term = self.primary.term;
        self.node.engine(|engine, now| engine.chunk_landed(now, term, next.seq, next.last_index));
        failpoint::hit("upload.landed");
        Ok(())
    }
}

fn take(state: &mut Buffer) -> Vec<(Position, Arc<Entry>)> {
    let mut bytes = 0;
    let mut count = 0;
    for (_, entry) in &state.entries {
        if count > 0 && bytes + cost(entry) > CHUNK_BYTES_MAX {
            break;
        }
        bytes += cost(entry);
        count += 1;
    }
    state.bytes -= bytes;
    state.entries.drain(..count).collect()
}
