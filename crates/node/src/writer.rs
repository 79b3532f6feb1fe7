//! The writer: one thread that orders all writes, makes them durable here and hands them to the uploader.
//!
//! Everything that waits is taken as one batch: evaluated against the newest state, handed to the uploader,
//! then committed to the local database with one sync. Answers wait at the [`Publisher`] until all they
//! depend on is committed.

use crate::clock::unix_millis;
use crate::compactions::Compactions;
use crate::error::{NodeError, Unavailable};
use crate::failpoint;
use crate::metrics::Metrics;
use crate::publisher::{PendingEvents, Publisher, Reply, Waiting};
use crate::quota;
use crate::reads::{StoredValues, shows_stored};
use crate::shared::{Guarded, ReadEpoch, SharedStore};
use crate::uploader::Uploads;
use netsy_api::ids::{LogIndex, Position, Revision, Term};
use netsy_api::log::{AlarmKind, Entry, Mutation};
use netsy_localdb as localdb;
use netsy_mvcc::{Evaluated, Outcome, WriteRequest};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// What a committed write came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The result.
    pub outcome: Outcome,
    /// For the response header.
    pub revision: Revision,
    /// The term it was written in.
    pub term: Term,
}

/// An answer on its way to the request.
pub(crate) struct Answer {
    pub(crate) written: Written,
    /// Where it shows values that are to be fetched: keeps their rows.
    pub(crate) epoch: Option<ReadEpoch>,
}

pub(crate) enum Command {
    Write {
        request: WriteRequest,
        reply: Reply,
    },
    DeleteRows {
        rows: Vec<Position>,
        done: oneshot::Sender<Result<(), localdb::Error>>,
    },
    /// One small step of giving free pages back.
    Vacuum {
        pages: u32,
        done: oneshot::Sender<Result<localdb::VacuumStep, localdb::Error>>,
    },
    Stop {
        done: oneshot::Sender<localdb::Writer>,
    },
}

/// Requests that may wait for the writer; more wait in their callers.
pub(crate) const QUEUE_REQUESTS_MAX: usize = 8192;
/// Requests evaluated into one local commit.
const BATCH_REQUESTS_MAX: usize = 1024;
/// Bytes of keys and values in one local commit, checked after each request.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Requests evaluated before the state's lock is given to readers for a moment.
const LOCKED_REQUESTS_MAX: usize = 64;
/// What an entry costs beside its keys and values.
const ENTRY_OVERHEAD_BYTES: usize = 64;
/// Pause before a local commit that failed is tried again.
const COMMIT_RETRY_PAUSE: Duration = Duration::from_millis(500);

pub(crate) struct Writer {
    pub(crate) term: Term,
    pub(crate) member_id: u64,
    pub(crate) db_bytes_max: u64,
    pub(crate) store: SharedStore,
    pub(crate) db: localdb::Writer,
    pub(crate) readers: localdb::Readers,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) held_locally: watch::Sender<LogIndex>,
    pub(crate) compactions: Arc<Compactions>,
}

#[derive(Default)]
struct Batch {
    entries: Vec<(Position, Arc<Entry>)>,
    waiting: Vec<Waiting>,
    events: Vec<PendingEvents>,
    bytes: usize,
}

impl Writer {
    /// Runs until told to stop or until nobody can send any more. Blocks: has a thread of its own.
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.measure();
        let mut requests = Vec::with_capacity(BATCH_REQUESTS_MAX);
        while let Some(first) = commands.blocking_recv() {
            let mut next = Some(first);
            while let Some(command) = next.take() {
                match command {
                    Command::Write { request, reply } => {
                        failpoint::hit("write.accepted");
                        requests.push((request, reply));
                        if requests.len() < BATCH_REQUESTS_MAX {
                            next = commands.try_recv().ok();
                        }
                    }
                    other => {
                        self.batch(&mut requests);
                        if let Command::Stop { done } = other {
                            // Whoever asked for the stop may be gone; then the database just closes.
                            let _ = done.send(self.db);
                            return;
                        }
                        self.maintain(other);
                    }
                }
            }
            self.batch(&mut requests);
        }
    }

    fn maintain(&mut self, command: Command) {
        match command {
            Command::DeleteRows { rows, done } => {
                let _ = done.send(self.db.commit(&localdb::Batch { delete: &rows, ..localdb::Batch::default() }));
            }
            Command::Vacuum { pages, done } => {
                let _ = done.send(self.db.vacuum_step(pages));
            }
            Command::Write { .. } | Command::Stop { .. } => unreachable!("handled by run"),
        }
    }

    fn batch(&mut self, requests: &mut Vec<(WriteRequest, Reply)>) {
        let mut waiting_bytes: u64 = requests.iter().map(|(request, _)| quota::request_bytes(request)).sum();
        let mut requests = requests.drain(..).peekable();
        while requests.peek().is_some() {
            let mut batch = Batch::default();
            // Nothing is refused by an estimate alone.
            if self.is_full(waiting_bytes) {
                self.measure();
            }
            while batch.bytes < BATCH_BYTES_MAX && requests.peek().is_some() {
                let mut store = self.store.write();
                for (request, reply) in requests.by_ref().take(LOCKED_REQUESTS_MAX) {
                    if reply.is_closed() {
                        continue; // The client gave up before anything was done for it.
                    }
                    let bytes = quota::request_bytes(&request);
                    waiting_bytes = waiting_bytes.saturating_sub(bytes);
                    if bytes > 0 && self.is_full(bytes) {
                        self.raise_nospace(&mut batch, &mut store);
                    }
                    let result = store.evaluate(self.term, unix_millis(), &request, &StoredValues(&self.readers));
                    let answer = match result {
                        Ok(evaluated) => {
                            let written = self.take(&mut batch, evaluated);
                            let epoch = shows_stored(&written.outcome).then(|| store.epoch());
                            Ok(Answer { written, epoch })
                        }
                        Err(e) => Err(NodeError::Mvcc(e)),
                    };
                    batch.waiting.push(Waiting { index: store.last_index(), reply, answer });
                    if batch.bytes >= BATCH_BYTES_MAX {
                        break;
                    }
                }
            }
            self.finish(batch);
        }
    }

    fn finish(&mut self, batch: Batch) {
        failpoint::hit("write.evaluated");
        let Batch { entries, waiting, events, .. } = batch;
        let last = entries.last().map(|(first, entry)| (entry.index, end_position(*first, entry)));
        self.publisher.enqueue(waiting, events);
        let Some((last_index, last_position)) = last else {
            return;
        };
        self.uploads.push(&entries);
        failpoint::hit("write.handed-to-uploader");
        self.commit(&entries);
        failpoint::hit("write.after-local-commit");
        self.store.write().written_through(last_position);
        self.held_locally.send_replace(last_index);
        self.publisher.held_locally(last_index);
    }

    fn take(&self, batch: &mut Batch, evaluated: Evaluated) -> Written {
        let Evaluated { entry, first_position, outcome, events, revision } = evaluated;
        if let Some(entry) = entry {
            batch.bytes += entry.payload_bytes() + ENTRY_OVERHEAD_BYTES;
            self.metrics.usage.accept(quota::entry_bytes(&entry));
            if let [Mutation::Compact { revision }] = entry.mutations[..] {
                self.compactions.push(entry.index, revision);
            }
            if !events.is_empty() {
                batch.events.push(PendingEvents { index: entry.index, events });
            }
            batch.entries.push((first_position, entry));
        }
        Written { outcome, revision, term: self.term }
    }

    /// Commits to the local database; a failure is repeated until it succeeds, since the state is ahead of the
    /// database: meanwhile no write is answered from this node's own disk, and readiness says why.
    fn commit(&mut self, entries: &[(Position, Arc<Entry>)]) {
        failpoint::hit("write.before-local-commit");
        let started = Instant::now();
        loop {
            let batch = localdb::Batch {
                entries,
                visible_index: Some(self.publisher.committed()),
                ..localdb::Batch::default()
            };
            match self.db.commit(&batch) {
                Ok(()) => break self.metrics.usage.commit(),
                Err(error) => {
                    tracing::error!(%error, "local database: writes wait until it can be written again");
                    self.metrics.set_local_fault(Some(error.to_string()));
                    std::thread::sleep(COMMIT_RETRY_PAUSE);
                    if self.uploads.is_stopped() {
                        return; // The node is going down: nothing of this batch was promised to be here.
                    }
                }
            }
        }
        self.metrics.local_commit(started.elapsed(), entries.len());
    }

    /// Whether the database would reach its limit with so much more.
    fn is_full(&self, bytes: u64) -> bool {
        self.metrics.usage.bytes().saturating_add(bytes) >= self.db_bytes_max
    }

    /// Asks the database how much of it is in use.
    fn measure(&self) {
        let measuring = self.metrics.usage.begin();
        match self.readers.in_use_bytes() {
            Ok(in_use) => self.metrics.usage.measured(measuring, in_use),
            // The estimate stays, which errs on the safe side.
            Err(error) => tracing::warn!(%error, "the size of the local database could not be read"),
        }
    }

    /// The quota rule (etcd.md 2.8): a request that would reach the limit raises the alarm, by which the state machine
    /// refuses it and all that add data until the alarm is cleared.
    fn raise_nospace(&self, batch: &mut Batch, store: &mut Guarded) {
        if store.head_alarms().iter().any(|(_, kind)| *kind == AlarmKind::NoSpace) {
            return;
        }
        tracing::error!(
            used = self.metrics.usage.bytes(),
            limit = self.db_bytes_max,
            "database space exceeded: NOSPACE alarm raised; compact, or raise limits.db_bytes_max, then disarm the alarm"
        );
        let request = WriteRequest::Alarm { member_id: self.member_id, alarm: AlarmKind::NoSpace, active: true };
        match store.evaluate(self.term, unix_millis(), &request, &StoredValues(&self.readers)) {
            Ok(evaluated) => {
                self.take(batch, evaluated);
            }
            Err(error) => tracing::error!(%error, "the NOSPACE alarm could not be raised"),
        }
    }
}

fn end_position(first: Position, entry: &Entry) -> Position {
    Position(first.0 + entry.mutations.len() as u64 - 1)
}

/// Sends a request to the writer and waits for its answer.
pub(crate) async fn submit(commands: &mpsc::Sender<Command>, request: WriteRequest) -> Result<Answer, NodeError> {
    let (reply, answer) = oneshot::channel();
    commands.send(Command::Write { request, reply }).await.map_err(|_| NodeError::from(Unavailable::Stopped))?;
    answer.await.map_err(|_| NodeError::from(Unavailable::Stopped))?
}

/// The index of the newest entry, for those that have to wait for it.
pub(crate) fn head(store: &SharedStore) -> LogIndex {
    store.read().last_index()
}
