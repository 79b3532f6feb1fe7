//! What a node does with requests: writes on the Primary, sending on, reads, leases, compactions.

use crate::convert;
use crate::disk::DiskOp;
use crate::process::{Ask, To, Waiting};
use crate::world::{Input, World};
use netsy_api::ids::{LeaseId, LogIndex, Revision, UnixMillis};
use netsy_history::{Answer, Done, Outcome, Refusal, Request};
use netsy_mvcc::{Renewal, WriteRequest};
use netsy_protocol::engine::Creating;
use netsy_protocol::event::Event;
use netsy_protocol::mutant::Mutant;
use netsy_protocol::read::ReadStart;

/// Requests evaluated in one batch.
const BATCH_MAX: usize = 8;

/// The answer of a node that was not Primary (any more) when a request reached it: nothing was done.
pub fn not_taken() -> Outcome {
    Outcome::Refused(Refusal::Other("not taken".into()))
}

impl World {
    /// A client's request arrives.
    pub fn on_ask(&mut self, slot: usize, ask: Ask) {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return };
        if !convert::is_read(&ask.request) {
            return self.on_write(slot, ask);
        }
        if ask.request.is_serializable() {
            return self.answer_read(slot, &ask);
        }
        match process.engine.read_begin(now) {
            ReadStart::Now(ticket) => {
                let outcome = convert::read(&process.store, &ask.request, &process.rows());
                if process.ticket_holds(now, ticket) {
                    self.count("read at once");
                    self.answer(To::Client(ask.op), outcome);
                } else if let Some(process) = self.process(slot) {
                    process.stalled.push(ask);
                }
                self.drain(slot);
            }
            ReadStart::Wait(id) => {
                process.reads.push_back((id, ask));
                self.drain(slot);
            }
            ReadStart::NoPrimary => process.stalled.push(ask),
        }
    }

    /// Answers a read from what is visible.
    pub fn answer_read(&mut self, slot: usize, ask: &Ask) {
        let Some(process) = self.process(slot) else { return };
        let outcome = convert::read(&process.store, &ask.request, &process.rows());
        self.answer(To::Client(ask.op), outcome);
    }

    fn on_write(&mut self, slot: usize, ask: Ask) {
        let Some(process) = self.process(slot) else { return };
        let (life, op) = (process.life, ask.op);
        if process.leading.is_some() {
            process.requests.push_back((ask, To::Client(op)));
            return self.write_soon(slot);
        }
        let primary = process.engine.serving_primary().map(|p| p.node_id.clone());
        let target = primary.and_then(|node| self.slot_of(&node)).filter(|to| *to != slot);
        let Some(to) = target else {
            if let Some(process) = self.process(slot) {
                process.stalled.push(ask);
            }
            return;
        };
        let there = self.slots.get(to).and_then(|s| s.process.as_ref()).map(|p| p.life);
        let Some(there) = there.filter(|_| self.linked(slot, to)) else {
            if self.linked(slot, to) {
                // Refused: it was not sent.
                if let Some(process) = self.process(slot) {
                    process.stalled.push(ask);
                }
            } else if let Some(process) = self.process(slot) {
                process.forwarded.insert(op, ask);
            }
            return;
        };
        if let Some(process) = self.process(slot) {
            process.forwarded.insert(op, ask.clone());
        }
        let delay = self.latency();
        self.count("forwarded");
        self.input(to, there, delay, Input::Forward { from: slot, life, ask });
    }

    pub fn on_forward(&mut self, slot: usize, ask: Ask, to: To) {
        let Some(process) = self.process(slot) else { return };
        if process.leading.is_none() {
            // Nothing was done: the node that sent it on may wait for the next Primary.
            return self.answer(to, not_taken());
        }
        process.requests.push_back((ask, to));
        self.write_soon(slot);
    }

    pub fn on_forwarded(&mut self, slot: usize, op: u64, outcome: Outcome) {
        let again = self.mutant == Some(Mutant::ForwardAgain);
        let Some(process) = self.process(slot) else { return };
        let Some(ask) = process.forwarded.remove(&op) else { return };
        if outcome == not_taken() || outcome == Outcome::Unknown && again {
            process.stalled.push(ask);
            return;
        }
        match &outcome {
            Outcome::Done(done) if Revision(done.revision) > process.store.visible_revision() => {
                process.catching_up.push((Revision(done.revision), op, outcome));
            }
            _ => self.answer(To::Client(op), outcome),
        }
    }

    pub fn retry_stalled(&mut self, slot: usize) {
        let now = self.now;
        let Some(process) = self.process(slot) else { return };
        let stalled = std::mem::take(&mut process.stalled);
        for ask in stalled {
            if ask.deadline <= now {
                let outcome = Outcome::Refused(Refusal::Other("no leader".into()));
                self.answer(To::Client(ask.op), outcome);
            } else {
                self.on_ask(slot, ask);
            }
        }
        if let Some(process) = self.process(slot) {
            process.forwarded.retain(|_, ask| ask.deadline > now);
        }
    }

    // ---- the writer ----

    pub fn write_soon(&mut self, slot: usize) {
        let delay = self.rng.range(0, 1);
        let Some(process) = self.process(slot) else { return };
        if !process.writing && !process.requests.is_empty() {
            process.writing = true;
            let life = process.life;
            self.input(slot, life, delay, Input::Write);
        }
    }

    pub fn write(&mut self, slot: usize) {
        let now = self.clock(slot);
        let unchecked = self.mutant == Some(Mutant::UnprovenAnswers);
        let proves = self.mutant == Some(Mutant::CommitBeforeProves);
        let Some(process) = self.process(slot) else { return };
        process.writing = false;
        let Some(term) = process.leading else { return };
        match process.engine.may_create(term) {
            Creating::Yes if !process.disk_full => {}
            _ => {
                // Looked at again with the next tick; a step down takes them away.
                let life = process.life;
                if !process.requests.is_empty() {
                    process.writing = true;
                    self.input(slot, life, 20, Input::Write);
                }
                return;
            }
        }
        let before = process.store.last_index();
        let mut made = vec![];
        let mut waiting = vec![];
        let (mut renewals, mut unproven) = (vec![], vec![]);
        for _ in 0..BATCH_MAX {
            let Some((ask, to)) = process.requests.pop_front() else { break };
            if let Request::LeaseKeepAlive { id } = ask.request {
                renewals.push((id, to));
                continue;
            }
            if let Request::LeaseTimeToLive { id, keys } = ask.request {
                // Of what is visible; whether this still is the Primary is proven afterwards.
                unproven.push((to, convert::lease(&process.store, id, keys, now)));
                continue;
            }
            let Some(request) = convert::write_request(&ask.request, now) else { continue };
            let rows = convert::Rows { log: &process.mem, holes: &process.holes };
            let result = process.store.evaluate(term, UnixMillis(now as i64), &request, &rows);
            let (outcome, wrote) = match result {
                Ok(evaluated) => {
                    made.extend(evaluated.entry.clone());
                    (convert::written(evaluated.outcome, evaluated.revision, &rows), evaluated.entry.is_some())
                }
                Err(error) => (convert::refused(&error), false),
            };
            let index = process.store.last_index();
            if !wrote && (index <= process.store.visible_index() || !proves) {
                // It read and wrote nothing, and no commit to come proves that this still is the Primary (R9): that of an
                // entry before it may have been told of by who has promised to another one since.
                unproven.push((to, outcome));
            } else {
                waiting.push(Waiting { index, to, outcome });
            }
        }
        self.finish_batch(slot, before, made, waiting);
        for (to, outcome) in unproven {
            if unchecked {
                self.answer(to, outcome);
            } else {
                self.prove(slot, to, outcome);
            }
        }
        for (id, to) in renewals {
            self.renew(slot, id, to);
        }
        self.write_soon(slot);
    }

    fn finish_batch(
        &mut self,
        slot: usize,
        before: LogIndex,
        made: Vec<std::sync::Arc<netsy_api::log::Entry>>,
        waiting: Vec<Waiting>,
    ) {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return };
        let Some(term) = process.leading else { return };
        if let Some(last) = made.last().map(|e| e.index) {
            match process.engine.appended(now, term, last) {
                Ok(seq) => {
                    process.mem.extend(made.iter().cloned());
                    process.queue.push_back((seq, DiskOp::Store(made)));
                    process.last_local = seq;
                }
                Err(_) => {
                    let rolled = process.store.rollback(before);
                    self.count("batch dropped");
                    if let Err(error) = rolled {
                        self.truth.breach(format!("n{slot} cannot drop a batch: {error}"));
                    }
                    for w in waiting {
                        self.answer(w.to, Outcome::Unknown);
                    }
                    return;
                }
            }
        }
        let Some(process) = self.process(slot) else { return };
        let visible = process.store.visible_index();
        let mut out = vec![];
        for w in waiting {
            if w.index <= visible && process.waiting.is_empty() {
                out.push((w.to, w.outcome));
            } else {
                process.waiting.push_back(w);
            }
        }
        for (to, outcome) in out {
            self.answer(to, outcome);
        }
        self.drain(slot);
        self.sync_soon(slot);
        self.upload_soon(slot);
    }

    /// A write of the node's own.
    fn write_own(&mut self, slot: usize, request: &WriteRequest) {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return };
        let Some(term) = process.leading else { return };
        if process.engine.may_create(term) != Creating::Yes {
            return;
        }
        let before = process.store.last_index();
        let rows = convert::Rows { log: &process.mem, holes: &process.holes };
        if let Ok(evaluated) = process.store.evaluate(term, UnixMillis(now as i64), request, &rows) {
            self.finish_batch(slot, before, evaluated.entry.into_iter().collect(), vec![]);
        }
    }

    // ---- leases ----

    /// A renewal counts only if this still is the Primary afterwards: an answer is let out like a read's (R9).
    fn renew(&mut self, slot: usize, id: i64, to: To) {
        let now = self.clock(slot);
        let traceless = self.mutant == Some(Mutant::RenewalLeavesNoEntry);
        let Some(process) = self.process(slot) else { return };
        let leading = process.leading;
        let ttl = match process.store.lease_renew(LeaseId(id), now) {
            Renewal::Renewed { ttl_seconds, reset_checkpoint } => {
                // A term without entries leaves nothing in the logs that keeps a Primary of before from being elected,
                // who may have ended this lease by its own clock since.
                let first = leading != Some(process.store.last_term()) && !traceless;
                if reset_checkpoint || first {
                    self.write_own(slot, &WriteRequest::LeaseCheckpoint(vec![(LeaseId(id), 0)]));
                }
                let untold = |process: &crate::process::Process| leading != Some(process.store.last_term());
                if first && self.process(slot).is_none_or(|process| untold(process)) {
                    return self.answer(to, Outcome::Unknown);
                }
                ttl_seconds
            }
            Renewal::NotFound => 0,
            Renewal::Expiring => return self.answer(to, Outcome::Unknown),
        };
        let Some(process) = self.process(slot) else { return };
        let revision = process.store.visible_revision().0;
        let outcome = Outcome::Done(Done { revision, answer: Answer::LeaseKeepAlive { ttl } });
        self.prove(slot, to, outcome);
    }

    /// Lets an answer out that no entry of this term proves: like a read (R9).
    fn prove(&mut self, slot: usize, to: To, outcome: Outcome) {
        let now = self.clock(slot);
        let alone = self.mutant == Some(Mutant::ProofAlone);
        let Some(process) = self.process(slot) else { return };
        match process.engine.read_begin(now) {
            ReadStart::Now(ticket) if process.ticket_holds(now, ticket) && alone => self.answer(to, outcome),
            ReadStart::Now(ticket) if process.ticket_holds(now, ticket) => {
                let index = process.store.last_index();
                process.waiting.push_back(Waiting { index, to, outcome });
                let visible = process.store.visible_index();
                if visible >= index {
                    self.release(slot);
                }
            }
            ReadStart::Wait(id) => {
                let index = process.store.last_index();
                process.renewals.push_back((id, index, to, outcome));
            }
            _ => self.answer(to, Outcome::Unknown),
        }
        self.drain(slot);
    }

    fn release(&mut self, slot: usize) {
        let Some(process) = self.process(slot) else { return };
        let visible = process.store.visible_index();
        let mut out = vec![];
        while process.waiting.front().is_some_and(|w| w.index <= visible) {
            out.extend(process.waiting.pop_front());
        }
        for w in out {
            self.answer(w.to, w.outcome);
        }
    }

    pub fn tick_leases(&mut self, slot: usize) {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return };
        if process.leading.is_none() || now < process.next_lease_tick {
            return;
        }
        process.next_lease_tick = now + 500;
        let expired = process.store.lease_expired(now, 50);
        let due = process.store.lease_due_checkpoints(now, 50);
        if !due.is_empty() {
            self.write_own(slot, &WriteRequest::LeaseCheckpoint(due));
        }
        for id in expired {
            self.count("lease expired");
            self.write_own(slot, &WriteRequest::LeaseExpire { id, now_ms: now });
        }
    }

    // ---- compaction ----

    pub fn tick_compaction(&mut self, slot: usize) {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return };
        if process.leading.is_none() || now < process.next_compaction {
            return;
        }
        process.next_compaction = now + 2_000;
        let wanted = Revision(process.store.visible_revision().0 - 30);
        if wanted.0 > 1 && wanted > process.store.compact_revision() {
            process.engine.handle(now, Event::CompactWanted(wanted));
            self.drain(slot);
        }
    }

    pub fn compact_now(&mut self, slot: usize, revision: Revision) {
        let Some(process) = self.process(slot) else { return };
        if revision > process.store.compact_revision() && revision.0 > 1 {
            self.write_own(slot, &WriteRequest::Compact { revision });
        }
    }
}
