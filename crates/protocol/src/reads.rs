//! Linearizable reads (R9): rounds, manifest reads and leases on the Primary, read indexes on replicas.
//!
//! Reads are numbered as they arrive; one number stands for all that came before, so that nothing is kept per read.

use crate::command::{Command, StoreCall};
use crate::config::Millis;
use crate::engine::{Engine, Purpose};
use crate::event::StoreResult;
use crate::message::Message;
use crate::mutant::mutant;
use crate::primary::Phase;
use crate::quorum::Voter;
use crate::read::{ReadId, ReadProof, ReadStart, ReadTicket};
use netsy_api::ids::{Incarnation, LogIndex, NodeId, Session, Term};
use std::collections::BTreeSet;

/// A replica asks again after this.
const ASK_AGAIN: Millis = 200;
/// A round that is not confirmed after this is sent again, and the manifest is read as well.
const ROUND_AGAIN: Millis = 200;

/// A round of confirmations (R9 i).
#[derive(Clone, Debug)]
pub(crate) struct Round {
    number: u64,
    /// Reads that arrived before it was sent.
    covers: ReadId,
    sent: Millis,
    confirmed: BTreeSet<Voter>,
}

/// A replica's question, waiting for the round that was sent after it came.
#[derive(Clone, Debug)]
pub(crate) struct RemoteAsk {
    pub(crate) id: u64,
    pub(crate) session: Session,
    read: ReadId,
}

/// Reads of this node, and how far a replica has asked for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplicaReads {
    /// The newest read; also numbers what replicas ask a Primary for.
    pub(crate) last: ReadId,
    /// Up to here they were let in.
    served: ReadId,
    /// The newest of this node's own.
    own: ReadId,
    asked: Option<Asked>,
    last_ask: u64,
    /// Confirmed up to a read, by the Primary of this term, once this index is visible.
    granted: Option<(ReadId, LogIndex, Term)>,
    ask_at: Millis,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    id: u64,
    covers: ReadId,
    at: Millis,
}

impl Engine {
    pub(crate) fn on_read_begin(&mut self) -> ReadStart {
        let now = self.now;
        let bound = self.is_bound();
        let me = self.me.voter();
        let unchecked = mutant!(self, NoReadCheck);
        let early = mutant!(self, ReadBeforeReady)
            || mutant!(self, LeaseWaitForWritesOnly)
                && self.primary.as_ref().is_some_and(|p| matches!(p.phase, Phase::LeaseWait | Phase::Starting));
        let may_lease = !self.settings_forbid_lease();
        if let Some(primary) = &mut self.primary {
            let ready = primary.phase == Phase::Ready || early;
            if !ready || bound && !unchecked {
                return self.wait_or_none();
            }
            let rule = primary.manifest.rule();
            let proof = ReadProof::needed(rule, &primary.manifest.voters, &me);
            if (proof == ReadProof::Own && primary.change.is_none()) || unchecked {
                return ReadStart::Now(ReadTicket::Own(primary.term));
            }
            if proof == ReadProof::Manifest && may_lease && primary.lease.holds(now) {
                primary.lease_renewed_for_use = true;
                return ReadStart::Now(ReadTicket::Lease(primary.term));
            }
            let read = self.next_read();
            self.start_reads();
            return ReadStart::Wait(read);
        }
        self.wait_or_none()
    }

    fn next_read(&mut self) -> ReadId {
        self.reads.last = ReadId(self.reads.last.0 + 1);
        self.reads.own = self.reads.last;
        self.reads.last
    }

    fn wait_or_none(&mut self) -> ReadStart {
        let known = self.primary.is_some() || self.follower.target.is_some();
        if !known {
            return ReadStart::NoPrimary;
        }
        let read = self.next_read();
        self.ask_read_index();
        ReadStart::Wait(read)
    }

    /// The lease is not used while a change is under way (R9 iii).
    fn settings_forbid_lease(&self) -> bool {
        let changing = self.primary.as_ref().is_some_and(|p| p.change.is_some());
        changing && !mutant!(self, LeaseDuringChange)
    }

    // ---- on the Primary ----

    /// Whether voters can confirm: by the rule in force, and by the new one while a change is under way.
    fn counts_confirmations(&self) -> bool {
        let tracker = self.primary.as_ref().and_then(|p| p.tracker.as_ref());
        tracker.is_some_and(|tracker| {
            tracker.current().rule.commit.is_some()
                && (mutant!(self, JointReadsOldOnly) || tracker.joint().is_none_or(|j| j.rule.commit.is_some()))
        })
    }

    /// Sends a round, or reads the manifest, for the reads that wait, if none is under way.
    pub(crate) fn start_reads(&mut self) {
        let bound = self.is_bound();
        let counts = self.counts_confirmations();
        let early = mutant!(self, ReadBeforeReady) || mutant!(self, LeaseWaitForWritesOnly);
        let Some(primary) = &mut self.primary else { return };
        let ready = primary.phase == Phase::Ready || early;
        if bound || !ready || self.reads.last <= primary.confirmed {
            return;
        }
        if counts && primary.round.is_none() {
            self.send_round();
        } else if !counts {
            self.read_for_proof();
        }
    }

    fn send_round(&mut self) {
        let (now, covers) = (self.now, self.reads.last);
        let me = self.me.voter();
        let Some(primary) = &mut self.primary else { return };
        primary.last_round += 1;
        let number = primary.last_round;
        let term = primary.term;
        let mut confirmed = BTreeSet::new();
        // It promised nothing above its term, or it would send none.
        confirmed.insert(me);
        primary.round = Some(Round { number, covers, sent: now, confirmed });
        for node in self.round_voters() {
            self.send(&node, Message::Confirm { term, round: number });
        }
        self.round_may_end();
    }

    /// The nodes of the voters, of the new set as well.
    fn round_voters(&self) -> Vec<NodeId> {
        let tracker = self.primary.as_ref().and_then(|p| p.tracker.as_ref());
        let voters = tracker
            .into_iter()
            .flat_map(|t| t.current().voters.iter().chain(t.joint().into_iter().flat_map(|j| &j.voters)));
        let nodes: BTreeSet<&NodeId> = voters.map(|v| &v.node_id).filter(|n| **n != self.me.node_id).collect();
        nodes.into_iter().cloned().collect()
    }

    pub(crate) fn on_confirmed(&mut self, from: NodeId, term: Term, round: u64, incarnation: Incarnation) {
        let ignore = mutant!(self, IgnoreIncarnation);
        let Some(primary) = self.primary.as_mut().filter(|p| p.term == term) else { return };
        let named = primary.manifest.voters.iter().find(|v| v.node_id == from).cloned();
        let Some(current) = primary.round.as_mut().filter(|r| r.number == round) else { return };
        match named {
            Some(voter) if ignore => current.confirmed.insert(voter),
            _ => current.confirmed.insert(Voter { node_id: from, incarnation }),
        };
        self.round_may_end();
    }

    fn round_may_end(&mut self) {
        if self.is_bound() {
            return;
        }
        let (joint_counts, one_less) = (!mutant!(self, JointReadsOldOnly), mutant!(self, ConfirmQuorumMinusOne));
        let later = mutant!(self, RoundServesLaterReads);
        let last = self.reads.last;
        let Some(primary) = &mut self.primary else { return };
        let (Some(round), Some(tracker)) = (&primary.round, &primary.tracker) else { return };
        let yes = |v: &Voter| round.confirmed.contains(v);
        let enough = |e: &crate::commit::Electorate| {
            if one_less {
                return e.rule.commit.is_some_and(|qc| e.voters.iter().filter(|v| yes(v)).count() + 1 >= qc);
            }
            e.commits(yes)
        };
        // While a change is joint: of the old and of the new set.
        if enough(tracker.current()) && tracker.joint().is_none_or(|joint| enough(joint) || !joint_counts) {
            let covers = if later { last } else { round.covers };
            primary.round = None;
            self.confirmed(covers);
        }
    }

    /// (ii): a read of the manifest started after these reads arrived.
    fn read_for_proof(&mut self) {
        let (sent, covers) = (self.now, self.reads.last);
        let Some(primary) = &self.primary else { return };
        let term = primary.term;
        if !self.is_calling(|p| matches!(p, Purpose::ReadProof { .. })) {
            self.store(Purpose::ReadProof { term, covers, sent }, StoreCall::ReadManifest);
        }
    }

    pub(crate) fn on_read_proof(&mut self, term: Term, covers: ReadId, sent: Millis, result: &StoreResult) {
        let now = self.now;
        let bound = self.is_bound();
        let may_lease = !self.settings_forbid_lease();
        let late = mutant!(self, LeaseFromAnswer);
        let me = self.me.session;
        let Some(primary) = self.primary.as_mut().filter(|p| p.term == term) else { return };
        if let StoreResult::Manifest(Some(found)) = result
            && found.term == term
            && found.primary.session == me
            && !bound
        {
            // R9 (iii): only where its own numbers say that nothing but the bucket is needed to elect another.
            // A session that is recorded as having given its lease up has none until the record is gone.
            let released = found.released == Some(me) && !mutant!(self, ReleasedLeaseUsed);
            let current = found.nonce == primary.manifest.nonce && !released;
            if found.rule().election == 0 && current && may_lease && primary.phase == Phase::Ready {
                primary.lease.renewed(if late { now } else { sent });
            }
            self.confirmed(covers);
        }
        self.start_reads();
    }

    /// Reads up to `covers` are confirmed at the index that is committed now.
    fn confirmed(&mut self, covers: ReadId) {
        let index = self.committed();
        let Some(primary) = &mut self.primary else { return };
        if covers > primary.confirmed {
            primary.confirmed = covers;
            let term = primary.term;
            let mut answers = vec![];
            primary.remote_reads.retain(|node, ask| {
                let done = ask.read <= covers;
                if done {
                    answers.push((node.clone(), ask.id));
                }
                !done
            });
            for (node, id) in answers {
                self.send(&node, Message::ReadIndex { id, term, index });
            }
            self.grant(covers, index, Term(0));
        }
        self.start_reads();
    }

    pub(crate) fn on_read_index_ask(&mut self, from: NodeId, id: u64, session: Session) {
        let bound = self.is_bound();
        let early = mutant!(self, ReadBeforeReady);
        let now = self.now;
        let may_lease = !self.settings_forbid_lease();
        let ready = self.primary.as_ref().is_some_and(|p| p.phase == Phase::Ready || early) && !bound;
        if !ready {
            return self.send(&from, Message::ReadIndexRefused { id });
        }
        let committed = self.committed();
        let me = self.me.voter();
        let Some(primary) = &mut self.primary else { return };
        let proof = ReadProof::needed(primary.manifest.rule(), &primary.manifest.voters, &me);
        let own = proof == ReadProof::Own && primary.change.is_none();
        let leased = proof == ReadProof::Manifest && may_lease && primary.lease.holds(now);
        if own || leased {
            primary.lease_renewed_for_use |= leased;
            let term = primary.term;
            return self.send(&from, Message::ReadIndex { id, term, index: committed });
        }
        // A repeated question keeps its place.
        if primary.remote_reads.get(&from).is_some_and(|ask| (ask.session, ask.id) == (session, id)) {
            return;
        }
        self.reads.last = ReadId(self.reads.last.0 + 1);
        let read = self.reads.last;
        primary.remote_reads.insert(from, RemoteAsk { id, session, read });
        self.start_reads();
    }

    /// Voters answer for themselves: nothing above `term` is promised (R2, R9 i).
    pub(crate) fn on_confirm(&mut self, from: NodeId, term: Term, round: u64) {
        let promised = self.log.promised();
        if promised > term && !mutant!(self, ConfirmBelowPromise) {
            let exists = self.follower.target.as_ref().is_some_and(|(known, _)| *known >= promised);
            return self.send(&from, Message::HigherTerm { term: promised, exists });
        }
        let incarnation = self.me.incarnation;
        self.send(&from, Message::Confirmed { term, round, incarnation });
    }

    // ---- on a replica ----

    /// Asks the Primary for a read index, for all reads that wait, if no question is open.
    pub(crate) fn ask_read_index(&mut self) {
        let now = self.now;
        if self.primary.is_some() || self.reads.asked.is_some() || now < self.reads.ask_at {
            return;
        }
        let granted = self.reads.granted.map_or(self.reads.served, |(read, ..)| read);
        let covers = self.reads.own;
        let Some((_, primary)) = self.follower.target.clone() else { return };
        if covers <= granted || primary.node_id == self.me.node_id {
            return;
        }
        self.reads.last_ask += 1;
        let id = self.reads.last_ask;
        self.reads.asked = Some(Asked { id, covers, at: now });
        self.send(&primary.node_id, Message::ReadIndexAsk { id, session: self.me.session });
    }

    pub(crate) fn on_read_index(&mut self, id: u64, index: LogIndex, term: Term) {
        if let Some(asked) = self.reads.asked.take_if(|asked| asked.id == id) {
            self.grant(asked.covers, index, term);
            self.ask_read_index();
        }
    }

    pub(crate) fn on_read_index_refused(&mut self, id: u64) {
        if self.reads.asked.take_if(|asked| asked.id == id).is_some() {
            self.reads.ask_at = self.now + ASK_AGAIN / 4;
        }
    }

    /// Reads up to `covers` may be answered from what is visible at `index`.
    fn grant(&mut self, covers: ReadId, index: LogIndex, term: Term) {
        self.reads.granted = Some(match self.reads.granted {
            Some((read, at, of)) => (read.max(covers), at.max(index), of.max(term)),
            None => (covers, index, term),
        });
        self.reads_visible();
    }

    /// The visible state moved on, or a read index came, or this node's log was verified with a Primary's.
    ///
    /// What is visible may be further than the read index and still not be of the log that the Primary goes on with: an
    /// operator gave it up (R12), and this node was away. So it is answered only once the two logs were compared.
    pub(crate) fn reads_visible(&mut self) {
        let (visible, verified) = (self.log.visible(), self.follower.verified_term);
        // A Primary's own log is what all others are compared with.
        let unverified = self.primary.as_ref().is_some_and(|p| p.serves()) || mutant!(self, ReadsUnverified);
        let ready =
            |(_, index, term): &mut (ReadId, LogIndex, Term)| *index <= visible && (*term <= verified || unverified);
        if let Some((through, index, _)) = self.reads.granted.take_if(ready)
            && through > self.reads.served
        {
            self.reads.served = through;
            self.out.push_back(Command::ReadsReady { through, index });
        }
    }

    pub(crate) fn tick_reads(&mut self) {
        let now = self.now;
        if self.primary.is_none() {
            // No answer: asked anew, of whoever is Primary by now.
            if self.reads.asked.is_some_and(|asked| now.saturating_sub(asked.at) >= ASK_AGAIN) {
                self.reads.asked = None;
            }
            return self.ask_read_index();
        }
        self.reads.asked = None;
        let me = self.me.voter();
        let may_lease = !self.settings_forbid_lease();
        let Some(primary) = &mut self.primary else { return };
        let proof = ReadProof::needed(primary.manifest.rule(), &primary.manifest.voters, &me);
        let renew = proof == ReadProof::Manifest
            && primary.phase == Phase::Ready
            && may_lease
            && primary.lease_renewed_for_use
            && primary.lease.wants_renewal(now);
        let waiting = self.reads.last > primary.confirmed;
        let late = primary.round.as_ref().is_some_and(|r| now.saturating_sub(r.sent) >= ROUND_AGAIN);
        if renew {
            primary.lease_renewed_for_use = false;
        }
        if late && waiting && !self.is_bound() {
            // The round's voters are slow or gone: the next one covers all that came meanwhile, and the manifest is
            // asked, too (ii).
            self.send_round();
            self.read_for_proof();
        } else if waiting {
            self.start_reads();
        }
        if renew {
            self.read_for_proof();
        }
    }
}
