//! Electing a Primary (R6), making the first manifest (R1), and giving lost voters up (R12).

use crate::command::{Command, Report, StoreCall};
use crate::config::Millis;
use crate::engine::{Engine, Purpose};
use crate::event::StoreResult;
use crate::manifest::{Manifest, ProcessId, Recovered};
use crate::message::{HandOverReason, Message};
use crate::mutant::mutant;
use crate::quorum::Voter;
use crate::reconcile::Run;
use crate::status::QuorumLost;
use netsy_api::ids::{NodeId, Term};
use std::collections::{BTreeMap, BTreeSet};

/// After enough promises came, others are waited for this long.
const GRACE: Millis = 40;
/// Where no promise is needed, or voters were given up, others are waited for this long.
const GRACE_ALL: Millis = 200;
/// A recovery waits this long for nodes that are no voters, and for a word of those that were given up.
const GRACE_RECOVER: Millis = 1_500;
/// A recovery is given up after this if voters that were not given up do not answer.
const GIVE_UP_RECOVER: Millis = 10_000;
/// Promises are asked for again after this.
const ASK_AGAIN: Millis = 200;
/// An election that comes to nothing is given up after this: the manifest may be another one by now.
const GIVE_UP: Millis = 3_000;
/// Pause before the manifest is read again for an outcome that is not known.
const RETRY: Millis = 200;

/// Why an election that gives voters up begins.
const RECOVERS: &str = "an operator gave voters up";

/// A promise, as it was answered.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) process: ProcessId,
    pub(crate) end: Run,
    pub(crate) stopping: bool,
    pub(crate) store_age: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Asking,
    Swapping,
    ReadAt(Millis),
}

/// An election under way.
#[derive(Clone, Debug)]
pub(crate) struct Election {
    id: u64,
    term: Term,
    manifest: Manifest,
    prefer: Option<NodeId>,
    avoid: Option<NodeId>,
    started: Millis,
    asked: BTreeSet<NodeId>,
    ask_at: Millis,
    promises: BTreeMap<NodeId, Promise>,
    refused: BTreeSet<NodeId>,
    enough_since: Option<Millis>,
    step: Step,
    new: Option<Manifest>,
    unclear: bool,
    /// R12: voters that an operator gave up. Databases, not names: a node that lost its disk runs under its name again.
    pub(crate) recover: Option<BTreeSet<Voter>>,
}

/// R11: what this database promised; that of another one of the same node does not count.
fn promise_of<'a>(promises: &'a BTreeMap<NodeId, Promise>, voter: &Voter) -> Option<&'a Promise> {
    promises.get(&voter.node_id).filter(|promise| promise.process.voter() == *voter)
}

impl Engine {
    // ---- the first manifest (R1) ----

    /// There is no manifest: the Elector makes the cluster.
    pub(crate) fn no_manifest(&mut self) {
        self.manifest = None;
        let making = self.is_calling(|p| matches!(p, Purpose::FirstManifest(_)));
        if !self.lock.held || making || self.stop.is_some() {
            return;
        }
        let term = Term(1);
        self.raise_promise(term);
        let member = crate::manifest::usual_member_id(&self.cluster_id, &self.me.node_id);
        let manifest = Manifest {
            cluster_id: self.cluster_id.clone(),
            term,
            primary: self.me.clone(),
            previous: None,
            released: None,
            voters: vec![self.me.voter()],
            quorum: self.settings.quorum,
            copies_min: self.settings.copies_min.max(1),
            config_version: 1,
            nonce: self.random.nonce(),
            members: BTreeMap::from([(self.me.node_id.clone(), member)]),
            recovered: None,
            kept: None,
        };
        let what = StoreCall::SwapManifest { expected: None, manifest: Box::new(manifest.clone()) };
        self.store(Purpose::FirstManifest(Box::new(manifest)), what);
    }

    pub(crate) fn on_first_manifest(&mut self, manifest: Manifest, result: StoreResult) {
        if result == StoreResult::Done {
            self.see_manifest(manifest);
        } else {
            self.learn();
        }
    }

    // ---- R6 ----

    pub(crate) fn start_election(&mut self, why: &'static str, prefer: Option<NodeId>, avoid: Option<NodeId>) {
        self.begin_election(why, prefer, avoid, None);
    }

    fn begin_election(
        &mut self,
        why: &'static str,
        prefer: Option<NodeId>,
        avoid: Option<NodeId>,
        recover: Option<BTreeSet<Voter>>,
    ) {
        let Some(manifest) = self.manifest.clone() else { return };
        let term = manifest.term.next().max(self.log.promised());
        let id = self.random.next();
        let rule = manifest.rule();
        let mut asked: BTreeSet<NodeId> = manifest.waited_for().map(|v| v.node_id.clone()).collect();
        if rule.election == 0 || recover.is_some() {
            asked.extend(self.nodes.values().filter(|n| !n.stopped).map(|n| n.node_id.clone()));
        }
        self.report(Report::ElectionBegan { term, why });
        self.election = Some(Box::new(Election {
            id,
            term,
            manifest,
            prefer,
            avoid,
            started: self.now,
            asked,
            ask_at: self.now,
            promises: BTreeMap::new(),
            refused: BTreeSet::new(),
            enough_since: None,
            step: Step::Asking,
            new: None,
            unclear: false,
            recover,
        }));
        self.tick_election();
    }

    pub(crate) fn on_promised(&mut self, from: NodeId, election: u64, term: Term, promise: Promise) {
        let Some(current) = self.election.as_mut().filter(|e| e.id == election && e.term == term) else { return };
        if promise.process.node_id != from || current.step != Step::Asking {
            return;
        }
        if current.recover.as_ref().is_some_and(|lost| lost.contains(&promise.process.voter())) {
            // R12: nothing is given up that is there.
            return self.decline_recovery(format!("node {from} answers with the database that votes: it is not lost"));
        }
        let stopping = promise.stopping;
        current.promises.insert(from.clone(), promise);
        if !stopping {
            self.runs_again(&from);
        }
        self.elect();
    }

    pub(crate) fn on_promise_refused(&mut self, from: NodeId, election: u64, promised: Term) {
        let Some(current) = self.election.as_mut().filter(|e| e.id == election) else { return };
        if current.step != Step::Asking || promised <= current.term {
            return;
        }
        current.refused.insert(from);
        // Somebody else's election is ahead: once more, from the manifest as it is by then, with a term that is free.
        if current.recover.is_none() {
            let until = self.now + RETRY + self.random.below(RETRY);
            self.election = None;
            self.peers.quiet(until);
            self.raise_promise(promised);
            self.learn();
        } else {
            current.term = promised;
            current.promises.clear();
            current.ask_at = self.now;
        }
    }

    pub(crate) fn tick_election(&mut self) {
        let now = self.now;
        let newer = self.manifest.as_ref().map(|m| m.nonce);
        let Some(election) = &mut self.election else { return };
        match election.step {
            Step::Asking => {
                let other = newer.is_some_and(|nonce| nonce != election.manifest.nonce);
                let long = now.saturating_sub(election.started) >= GIVE_UP;
                if let Some(lost) = &election.recover
                    && now.saturating_sub(election.started) >= GIVE_UP_RECOVER
                {
                    let needed = election.manifest.waited_for();
                    let left = needed.filter(|v| !lost.contains(v) && promise_of(&election.promises, v).is_none());
                    let silent: BTreeSet<_> = left.map(|v| v.node_id.to_string()).collect();
                    return self.decline_recovery(format!(
                        "of the voters that are not given up {} did not answer within {} s: bring them back, or give \
                         them up, too",
                        silent.into_iter().collect::<Vec<_>>().join(", "),
                        GIVE_UP_RECOVER / 1_000
                    ));
                }
                if election.recover.is_none() && (other || long) {
                    let answered: Vec<NodeId> = election.promises.keys().cloned().collect();
                    let needed = election.manifest.rule().election;
                    let kept =
                        election.manifest.kept.as_ref().is_none_or(|v| promise_of(&election.promises, v).is_some());
                    let lost = !other && (answered.len() < needed || !kept);
                    self.election = None;
                    if lost {
                        self.lose_quorum(needed, answered);
                    }
                    self.learn();
                    return;
                }
                if now >= election.ask_at {
                    election.ask_at = now + ASK_AGAIN;
                    let (id, term) = (election.id, election.term);
                    let open: Vec<NodeId> =
                        election.asked.iter().filter(|n| !election.promises.contains_key(*n)).cloned().collect();
                    for node in open {
                        self.send(&node, Message::PromiseAsk { election: id, term });
                    }
                }
                self.elect();
            }
            Step::ReadAt(at) if now >= at => self.read_election(),
            _ => {}
        }
    }

    /// Picks a Primary once enough promised and others had their time.
    fn elect(&mut self) {
        let now = self.now;
        let (index_only, any_one, one_less) =
            (mutant!(self, PickByIndexOnly), mutant!(self, PickAnyPromiser), mutant!(self, ElectionQuorumMinusOne));
        let by_name = mutant!(self, IgnoreIncarnation);
        let (comes_back, forgets_kept) = (mutant!(self, GivenUpComesBack), mutant!(self, KeptForgotten));
        let me = self.me.node_id.clone();
        let Some(election) = &mut self.election else { return };
        if election.step != Step::Asking {
            return;
        }
        let manifest = &election.manifest;
        let rule = manifest.rule();
        let everybody = rule.election == 0 || election.recover.is_some();
        // R11: a vote is of the incarnation that the manifest names.
        let is_lost = |v: &Voter| election.recover.as_ref().is_some_and(|lost| lost.contains(v));
        let votes = |p: &Promise| {
            everybody && !is_lost(&p.process.voter())
                || manifest.names(&p.process.voter())
                || by_name && manifest.voters.iter().any(|v| v.node_id == p.process.node_id)
        };
        let eligible: Vec<&Promise> = election.promises.values().filter(|p| votes(p)).collect();
        let needed = if one_less { rule.election.saturating_sub(1) } else { rule.election }.max(1);
        let needed = match &election.recover {
            None => needed,
            // R12: all voters that are not lost.
            Some(_) => {
                let all =
                    manifest.voters.iter().filter(|v| !is_lost(v)).all(|v| promise_of(&election.promises, v).is_some());
                if all { 1 } else { usize::MAX }
            }
        };
        // R12: what an earlier recovery kept may be with this one alone, which need not be a voter.
        let keeper = manifest.kept.as_ref().filter(|v| !is_lost(v) && !forgets_kept);
        let keeper = match keeper.map(|v| promise_of(&election.promises, v)) {
            Some(None) => return,
            promise => promise.flatten(),
        };
        if eligible.len() < needed {
            return;
        }
        let since = *election.enough_since.get_or_insert(now);
        let grace = match &election.recover {
            Some(_) => GRACE_RECOVER,
            None if everybody => GRACE_ALL,
            None => GRACE,
        };
        let open = election
            .asked
            .iter()
            .any(|n| !election.promises.contains_key(n) && !election.refused.contains(n) && !self.peers.is_down(n));
        if open && now.saturating_sub(since) < grace {
            return;
        }
        // A promise that is not counted takes no part: with enough others, those that are to be avoided are left out.
        let reaches = |p: &&Promise| p.store_age.is_some_and(|age| age <= crate::health::STORE_LOST);
        let avoided = |p: &&Promise| election.avoid.as_ref() == Some(&p.process.node_id);
        let mut among = eligible.clone();
        let narrowed: [Vec<&Promise>; 3] = [
            eligible.iter().filter(|p| !avoided(p) && !p.stopping && reaches(p)).copied().collect(),
            eligible.iter().filter(|p| !avoided(p) && !p.stopping).copied().collect(),
            eligible.iter().filter(|p| !avoided(p)).copied().collect(),
        ];
        if election.recover.is_none()
            && let Some(narrow) = narrowed.into_iter().find(|n| n.len() >= needed)
        {
            among = narrow;
        }
        // R12: what an earlier recovery gave up is nothing to be ahead by.
        let given_up = election.manifest.recovered.filter(|_| !comes_back);
        let kept = |end: Run| given_up.map_or(end, |recovered| recovered.kept_of(end));
        if let Some(keeper) = keeper {
            let least = kept(keeper.end);
            among.retain(|p| (kept(p.end).term, kept(p.end).last_index) >= (least.term, least.last_index));
            among.push(keeper);
        }
        // The greatest (last entry's term, last index); among equals the wished one, and rather not the Elector itself.
        let rank = |p: &&Promise| {
            let wished = election.prefer.as_ref() == Some(&p.process.node_id);
            let end = kept(p.end);
            let end = if index_only { Run { term: Term(0), ..end } } else { end };
            let end = if any_one { Run::default() } else { end };
            (
                (end.term, end.last_index),
                (!p.stopping, !avoided(p), wished, reaches(p), p.process.node_id != me),
                std::cmp::Reverse(p.process.node_id.clone()),
            )
        };
        let Some(best) = among.into_iter().max_by_key(rank).cloned() else { return };
        let recovered = Recovered { term: election.term, index: kept(best.end).last_index };
        let mut new = election.manifest.clone();
        new.term = election.term;
        new.previous = Some(new.primary.clone());
        new.primary = best.process.clone();
        new.config_version += 1;
        if let Some(lost) = &election.recover {
            // R12: this swap alone may change term and voters together.
            new.voters.retain(|v| !lost.contains(v));
            if new.voters.is_empty() {
                new.voters.push(best.process.voter());
            }
            new.recovered = Some(recovered);
            new.kept = Some(best.process.voter());
        }
        self.swap_election(new);
    }

    fn swap_election(&mut self, mut new: Manifest) {
        new.nonce = self.random.nonce();
        if mutant!(self, ElectionWritesQuorum) {
            new.quorum = self.settings.quorum;
        }
        if mutant!(self, AbaEtag) {
            new.nonce = crate::mutant_support::content_nonce(&new);
        }
        let Some(election) = &mut self.election else { return };
        election.new = Some(new);
        self.repeat_election_swap();
    }

    fn repeat_election_swap(&mut self) {
        let Some(election) = &mut self.election else { return };
        let Some(new) = election.new.clone() else { return };
        election.step = Step::Swapping;
        let (id, expected) = (election.id, Some(election.manifest.nonce));
        self.store(Purpose::ElectionSwap(id), StoreCall::SwapManifest { expected, manifest: Box::new(new) });
    }

    pub(crate) fn on_election_swap(&mut self, id: u64, result: StoreResult) {
        let Some(election) = self.election.as_mut().filter(|e| e.id == id) else { return };
        if result == StoreResult::Done {
            return self.elected();
        }
        // Lost, or unknown: a read tells whose write it is.
        election.unclear |= result == StoreResult::Unknown;
        self.read_election();
    }

    fn read_election(&mut self) {
        if let Some(election) = &mut self.election {
            election.step = Step::Swapping;
            let id = election.id;
            self.store(Purpose::ElectionRead(id), StoreCall::ReadManifest);
        }
    }

    pub(crate) fn on_election_read(&mut self, id: u64, result: StoreResult) {
        let now = self.now;
        let Some(election) = self.election.as_mut().filter(|e| e.id == id) else {
            if let StoreResult::Manifest(Some(found)) = result {
                self.see_manifest(found);
            }
            return;
        };
        match result {
            StoreResult::Manifest(Some(found)) if election.new.as_ref().is_some_and(|n| n.nonce == found.nonce) => {
                self.elected();
            }
            StoreResult::Manifest(Some(found)) if found.nonce == election.manifest.nonce => self.repeat_election_swap(),
            StoreResult::Manifest(Some(found)) => {
                // Somebody else wrote: again, from there.
                let (recover, term) = (election.recover.take(), election.manifest.term);
                let went_on = found.term != term;
                self.election = None;
                self.see_manifest(found);
                match recover {
                    // An election without giving anybody up, or the same recovery by another node.
                    Some(_) if went_on => {
                        self.report(Report::Declined(format!("the cluster went on after term {term}")))
                    }
                    Some(lost) => self.begin_election(RECOVERS, None, None, Some(lost)),
                    None => {}
                }
            }
            StoreResult::Manifest(None) => {
                self.election = None;
                self.no_manifest();
            }
            _ => election.step = Step::ReadAt(now + RETRY),
        }
    }

    fn elected(&mut self) {
        let Some(election) = self.election.take() else { return };
        let Some(new) = election.new else { return };
        if election.unclear {
            self.report(Report::LateSwap);
        }
        let (term, primary) = (new.term, new.primary.clone());
        self.report(Report::Elected { term, primary: primary.clone() });
        if let (Some(recovered), true) = (new.recovered, election.recover.is_some()) {
            self.report(Report::Recovered { term: recovered.term, index: recovered.index });
        }
        self.found_quorum();
        self.peers.elected(self.now);
        self.see_manifest(new);
        // The winner first.
        self.send(&primary.node_id, Message::Elected { term, primary: primary.clone() });
        let others: Vec<NodeId> = self.nodes.values().filter(|n| !n.stopped).map(|n| n.node_id.clone()).collect();
        for node in others.iter().filter(|n| **n != primary.node_id) {
            if *node != self.me.node_id {
                self.send(node, Message::Elected { term, primary: primary.clone() });
            }
        }
    }

    // ---- R12 ----

    pub(crate) fn lose_quorum(&mut self, needed: usize, answered: Vec<NodeId>) {
        let Some(manifest) = &self.manifest else { return };
        let asked: BTreeSet<&NodeId> = manifest.waited_for().map(|v| &v.node_id).collect();
        let missing: Vec<NodeId> = asked.into_iter().filter(|n| !answered.contains(n)).cloned().collect();
        let lost = QuorumLost { needed, answered, missing };
        if self.quorum_lost.as_ref() != Some(&lost) {
            self.quorum_lost = Some(lost.clone());
            let QuorumLost { needed, answered, missing } = lost;
            if mutant!(self, RecoverByTimer) {
                self.on_recover(missing.clone());
            }
            self.report(Report::QuorumLost { needed, answered, missing });
        }
    }

    fn found_quorum(&mut self) {
        if self.quorum_lost.take().is_some() {
            self.report(Report::QuorumBack);
        }
    }

    /// An operator says that these voters are gone for good. Whichever node is told does it: two at once do no harm.
    pub(crate) fn on_recover(&mut self, lost: Vec<NodeId>) {
        match self.why_not_recover(&lost) {
            Some(why) if !mutant!(self, RecoverByTimer) => self.report(Report::Declined(why)),
            _ => {
                let voters = self.manifest.iter().flat_map(|m| m.waited_for());
                let lost = voters.filter(|v| lost.contains(&v.node_id)).cloned().collect();
                self.begin_election(RECOVERS, None, None, Some(lost));
            }
        }
    }

    /// Why these nodes are not to be given up; as far as it shows here and now: an answer while they are gives the same.
    fn why_not_recover(&self, lost: &[NodeId]) -> Option<String> {
        let Some(manifest) = &self.manifest else {
            return Some("the manifest was not read yet".to_string());
        };
        if self.primary.as_ref().is_some_and(|p| p.serves()) || self.hears(manifest.term) {
            let primary = &manifest.primary.node_id;
            return Some(format!("the cluster goes on with Primary {primary}: there is nothing to recover"));
        }
        let given_up: Vec<&Voter> = manifest.waited_for().filter(|v| lost.contains(&v.node_id)).collect();
        if given_up.is_empty() {
            return Some("none of the nodes named is a voter".to_string());
        }
        let alive = self.peers.healthy(self.now, self.settings.silence());
        let runs = |v: &&&Voter| self.nodes.get(&v.node_id).is_some_and(|n| n.incarnation == v.incarnation);
        if given_up.contains(&&self.me.voter()) {
            return Some("this node is among those given up".to_string());
        }
        let there = given_up.iter().filter(|v| alive.contains(&v.node_id)).find(runs);
        there.map(|v| format!("node {} answers with the database that votes: it is not lost", v.node_id))
    }

    fn decline_recovery(&mut self, why: String) {
        self.election = None;
        self.report(Report::Declined(why));
        // Promises were asked for: a Primary that they bind is helped by an election.
        self.learn();
    }

    // ---- wishes of the Primary ----

    pub(crate) fn on_hand_over_wish(&mut self, from: NodeId, term: Term, to: Option<NodeId>, reason: HandOverReason) {
        if !self.lock.held || self.election.is_some() {
            return;
        }
        let Some(manifest) = &self.manifest else { return };
        if manifest.term < term {
            return self.learn_of(term);
        }
        if manifest.term != term || manifest.primary.node_id != from {
            return;
        }
        match reason {
            HandOverReason::Planned => self.start_election("the Primary hands over", to, Some(from)),
            HandOverReason::Refused => self.start_election("an election was left half done", None, None),
            HandOverReason::StoreUnreachable => {
                // Only where somebody else reaches object storage, this node among them: it has to swap.
                let fresh = |age: Option<u64>| age.is_some_and(|age| age <= crate::health::STORE_LOST);
                let others = manifest.voters.iter().filter(|v| v.node_id != from);
                let reaches = others.into_iter().any(|v| {
                    v.node_id == self.me.node_id && fresh(self.store_age())
                        || self.peers.report_of(&v.node_id).is_some_and(|(report, at)| {
                            fresh(report.store_age) && self.now.saturating_sub(*at) <= self.settings.silence()
                        })
                });
                if reaches && fresh(self.store_age()) {
                    self.start_election("the Primary does not reach object storage", None, Some(from));
                }
            }
        }
    }

    /// A Primary that is refused, or cannot reach object storage, asks for another (section 4).
    pub(crate) fn wish_for_another(&mut self) {
        let now = self.now;
        let bound = self.is_bound();
        let interval = self.settings.heartbeat_interval;
        let failing = self.store_failing_since.is_some_and(|at| now.saturating_sub(at) >= crate::health::STORE_LOST);
        let Some(elector) = self.lock.elector().cloned() else { return };
        let Some(primary) = &mut self.primary else { return };
        if now < primary.next_wish {
            return;
        }
        let refused = primary.refused_since.is_some_and(|at| now.saturating_sub(at) >= interval);
        let reason = if bound || refused {
            HandOverReason::Refused
        } else if failing && !primary.late {
            HandOverReason::StoreUnreachable
        } else {
            return;
        };
        primary.next_wish = now + interval;
        let term = primary.term;
        self.send(&elector, Message::HandOver { term, to: None, reason });
    }

    /// Somebody promised a higher term, or knows of one.
    pub(crate) fn on_higher_term(&mut self, term: Term, exists: bool) {
        let now = self.now;
        if let Some(primary) = self.primary.as_mut().filter(|p| p.term < term) {
            if exists {
                // No further chunk until the manifest tells.
                primary.doubted_until = now + 1_000;
                self.learn_of(term);
            } else {
                primary.refused_since.get_or_insert(now);
                self.learn();
            }
        } else if exists && self.follower.target.as_ref().is_none_or(|(known, _)| *known < term) {
            self.learn_of(term);
        }
    }

    pub(crate) fn close_all(&mut self) {
        self.ended = true;
        self.out.push_back(Command::ReadsFailed { through: self.reads.last });
    }
}
