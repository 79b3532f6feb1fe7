//! Promises (R2): given, kept, and what they bind.

use crate::engine::Engine;
use crate::event::LocalSeq;
use crate::message::Message;
use crate::mutant::mutant;
use crate::reconcile::Run;
use netsy_api::ids::{NodeId, Term};

/// A promise that is answered once it, and all that was accepted before it, is durable.
#[derive(Clone, Debug)]
pub(crate) struct PromiseAnswer {
    after: LocalSeq,
    to: NodeId,
    election: u64,
    term: Term,
    /// What the broken variant reports.
    early: Option<Run>,
}

/// Answers that wait; an Elector that asks more often than the disk answers is answered the last times only.
const ANSWERS_MAX: usize = 64;

impl Engine {
    /// Promises `term`, if that is more than before. Nothing of a lower term is accepted from here on.
    pub(crate) fn raise_promise(&mut self, term: Term) {
        if term <= self.log.promised() {
            return;
        }
        let op = self.log.promise(term);
        if mutant!(self, PromiseNotDurable) {
            self.local((op.0, crate::command::LocalOp::Promise(Term(0))));
        } else {
            self.local(op);
        }
        self.leave_old_primary(term);
        if let Some(primary) = &mut self.primary
            && primary.term < term
        {
            primary.lease.ended();
            primary.round = None;
        }
    }

    /// A Primary that promised above its own term: it creates nothing, confirms nothing, starts no chunk.
    pub(crate) fn is_bound(&self) -> bool {
        if mutant!(self, PrimaryIgnoresOwnPromise) {
            return false;
        }
        self.primary.as_ref().is_some_and(|primary| self.log.promised() > primary.term)
    }

    pub(crate) fn on_promise_ask(&mut self, from: NodeId, election: u64, term: Term) {
        // One that has left is no voter, and cannot act in a term: it takes part in no election.
        if self.has_left() {
            return;
        }
        // Granted again for the same term: a lost answer must not block the election for ever.
        if term < self.log.promised() {
            let promised = self.log.promised();
            return self.send(&from, Message::PromiseRefused { election, promised });
        }
        let early = mutant!(self, PromiseBeforeSync).then(|| self.log.durable_end());
        self.raise_promise(term);
        self.promise_answers.retain(|a| a.to != from || a.election != election);
        if self.promise_answers.len() >= ANSWERS_MAX {
            self.promise_answers.remove(0);
        }
        self.promise_answers.push(PromiseAnswer { after: self.log.last_seq(), to: from, election, term, early });
        self.answer_promises();
    }

    pub(crate) fn answer_promises(&mut self) {
        let done = self.log.done_seq();
        let mut ready = vec![];
        self.promise_answers.retain(|answer| {
            let durable = answer.after <= done || answer.early.is_some();
            if durable {
                ready.push(answer.clone());
            }
            !durable
        });
        for answer in ready {
            let message = Message::Promised {
                election: answer.election,
                term: answer.term,
                process: self.me.clone(),
                end: answer.early.unwrap_or_else(|| self.log.durable_end()),
                stopping: self.stop.is_some(),
                store_age: self.store_age(),
            };
            self.send(&answer.to, message);
        }
    }

    pub(crate) fn on_local_done(&mut self, seq: LocalSeq) {
        self.log.done(seq);
        self.answer_promises();
        self.own_copy();
        self.send_receipt();
    }
}
