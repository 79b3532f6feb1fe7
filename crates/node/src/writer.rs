//! The Primary's part of the log thread: orders all writes, makes them durable here and hands them on.
//!
//! Everything that waits is taken as one batch: evaluated against the newest state, handed to the followers and the
//! uploader, then committed to the local database with one sync. Answers wait at the
//! [`Publisher`](crate::publisher::Publisher) until all they depend on is committed.

use crate::clock::unix_millis;
use crate::error::{NodeError, Unavailable};
use crate::failpoint;
use crate::log_thread::LogWork;
use crate::primary::Primary;
use crate::publisher::{PendingEvents, Reply, Waiting};
use crate::quota;
use crate::reads::shows_stored;
use crate::shared::{Guarded, ReadEpoch};
use netsy_api::ids::{LogIndex, Position, Revision, Term};
use netsy_api::log::{AlarmKind, Entry, Mutation};
use netsy_mvcc::{Evaluated, Outcome, WriteRequest};
use netsy_protocol::engine::Creating;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a committed write came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The result.
    pub outcome: Outcome,
    /// For the response header.
    pub revision: Revision,
    /// The term it was written in.
    pub term: Term,
    /// Whether it changed anything: else it is a read, and answered like one (R9).
    pub(crate) made: bool,
}

/// An answer on its way to the request.
pub(crate) struct Answer {
    pub(crate) written: Written,
    /// Where it shows values that are to be fetched: keeps their rows.
    pub(crate) epoch: Option<ReadEpoch>,
}

/// Requests evaluated into one local commit.
pub(crate) const BATCH_REQUESTS_MAX: usize = 1024;
/// Bytes of keys and values in one local commit, checked after each request.
pub(crate) const BATCH_BYTES_MAX: usize = 4 << 20;
/// Requests evaluated before the state's lock is given to readers for a moment.
const LOCKED_REQUESTS_MAX: usize = 64;
/// Requests that wait while a hand-over or a stop is under way; more are refused.
const PAUSED_REQUESTS_MAX: usize = 16_384;
/// What an entry costs beside its keys and values.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 64;

#[derive(Default)]
struct Batch {
    entries: Vec<(Position, Arc<Entry>)>,
    waiting: Vec<Waiting>,
    events: Vec<PendingEvents>,
    bytes: usize,
}

impl LogWork {
    pub(crate) fn batch(&mut self, requests: &mut Vec<(WriteRequest, Reply)>) {
        if requests.is_empty() {
            return;
        }
        let creating = |primary: &Primary| self.node.ask_engine(|engine, _| engine.may_create(primary.term));
        let primary = match self.leading.clone().map(|primary| (creating(&primary), primary)) {
            Some((Creating::Yes, primary)) => primary,
            // They wait: either this node goes on, or it steps down.
            Some((Creating::Paused, _)) => {
                self.node.driver.paused.store(true, Ordering::Release);
                for (_, reply) in requests.drain(PAUSED_REQUESTS_MAX.min(requests.len())..) {
                    let _ = reply.send(Err(Unavailable::TooManyRequests.into()));
                }
                return;
            }
            Some((Creating::No, _)) | None => {
                for (_, reply) in requests.drain(..) {
                    // Nothing was done for it: whoever asked may ask the Primary.
                    let _ = reply.send(Err(Unavailable::NotPrimary.into()));
                }
                return;
            }
        };
        self.node.driver.paused.store(false, Ordering::Release);
        let mut waiting_bytes: u64 = requests.iter().map(|(request, _)| quota::request_bytes(request)).sum();
        let mut requests = requests.drain(..).peekable();
        while requests.peek().is_some() {
            let mut batch = Batch::default();
            // Nothing is refused by an estimate alone.
            if self.is_full(waiting_bytes) {
                self.measure();
            }
            while batch.bytes < BATCH_BYTES_MAX && requests.peek().is_some() {
                let mut store = self.node.store.write();
                for (request, reply) in requests.by_ref().take(LOCKED_REQUESTS_MAX) {
                    if reply.is_closed() {
                        continue; // The client gave up before anything was done for it.
                    }
                    let bytes = quota::request_bytes(&request);
                    waiting_bytes = waiting_bytes.saturating_sub(bytes);
                    if bytes > 0 && self.is_full(bytes) {
                        self.raise_nospace(&primary, &mut batch, &mut store);
                    }
                    let result = store.evaluate(primary.term, unix_millis(), &request, &self.values());
                    let answer = match result {
                        Ok(evaluated) => {
                            let written = self.take(&primary, &mut batch, evaluated);
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
            self.finish(&primary, batch);
        }
    }

    fn finish(&mut self, primary: &Primary, batch: Batch) {
        failpoint::hit("write.evaluated");
        let Batch { entries, waiting, events, .. } = batch;
        let last = entries.last().map(|(first, entry)| (entry.index, end_position(*first, entry)));
        let Some((last_index, last_position)) = last else {
            primary.publisher.enqueue(waiting, events);
            return;
        };
        let term = primary.term;
        let Ok(seq) = self.node.engine(|engine, now| engine.appended(now, term, last_index)) else {
            self.drop_batch(&entries, waiting);
            return;
        };
        primary.publisher.enqueue(waiting, events);
        // To the followers while the own sync is running.
        primary.entries_made(&entries);
        failpoint::hit("write.handed-to-uploader");
        // A promise that was asked for before becomes durable before (R2).
        self.locals(Some(seq));
        failpoint::hit("write.before-local-commit");
        if !self.commit(&entries) {
            return;
        }
        failpoint::hit("write.after-local-commit");
        self.node.store.write().written_through(last_position);
        self.changed();
        self.node.local_done(seq);
    }

    /// R2: this process may create no entry any more. Nothing of the batch was stored, nor seen by anybody.
    fn drop_batch(&self, entries: &[(Position, Arc<Entry>)], waiting: Vec<Waiting>) {
        if let Some((_, first)) = entries.first() {
            let before = LogIndex(first.index.0 - 1);
            let rolled_back = self.node.store.write().rollback(before);
            if let Err(error) = rolled_back {
                self.node.halt(error.to_string());
            }
            self.node.compactions.roll_back(before);
        }
        for w in waiting {
            let _ = w.reply.send(Err(Unavailable::NotPrimary.into()));
        }
    }

    fn take(&self, primary: &Primary, batch: &mut Batch, evaluated: Evaluated) -> Written {
        let Evaluated { entry, first_position, outcome, events, revision } = evaluated;
        let made = entry.is_some();
        if let Some(entry) = entry {
            batch.bytes += entry.payload_bytes() + ENTRY_OVERHEAD_BYTES;
            self.node.metrics.usage.accept(quota::entry_bytes(&entry));
            if let [Mutation::Compact { revision }] = entry.mutations[..] {
                self.node.compactions.push(entry.index, revision);
            }
            if !events.is_empty() {
                batch.events.push(PendingEvents { index: entry.index, events });
            }
            batch.entries.push((first_position, entry));
        }
        Written { outcome, revision, term: primary.term, made }
    }

    /// Whether the database would reach its limit with so much more.
    fn is_full(&self, bytes: u64) -> bool {
        self.node.metrics.usage.bytes().saturating_add(bytes) >= self.node.config.db_bytes_max
    }

    /// Asks the database how much of it is in use.
    pub(crate) fn measure(&self) {
        let measuring = self.node.metrics.usage.begin();
        match self.node.readers.in_use_bytes() {
            Ok(in_use) => self.node.metrics.usage.measured(measuring, in_use),
            // The estimate stays, which errs on the safe side.
            Err(error) => tracing::warn!(%error, "the size of the local database could not be read"),
        }
    }

    /// The quota rule (etcd.md 2.8): a request that would reach the limit raises the alarm, by which the state machine
    /// refuses it and all that add data until the alarm is cleared.
    fn raise_nospace(&self, primary: &Primary, batch: &mut Batch, store: &mut Guarded) {
        if store.head_alarms().iter().any(|(_, kind)| *kind == AlarmKind::NoSpace) {
            return;
        }
        tracing::error!(
            used = self.node.metrics.usage.bytes(),
            limit = self.node.config.db_bytes_max,
            "database space exceeded: NOSPACE alarm raised; compact, or raise limits.db_bytes_max, then disarm the alarm"
        );
        let member_id = self.node.identity.member_id();
        let request = WriteRequest::Alarm { member_id, alarm: AlarmKind::NoSpace, active: true };
        match store.evaluate(primary.term, unix_millis(), &request, &self.values()) {
            Ok(evaluated) => {
                self.take(primary, batch, evaluated);
            }
            Err(error) => tracing::error!(%error, "the NOSPACE alarm could not be raised"),
        }
    }
}

fn end_position(first: Position, entry: &Entry) -> Position {
    Position(first.0 + entry.mutations.len() as u64 - 1)
}
