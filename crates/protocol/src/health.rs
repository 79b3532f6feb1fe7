//! What the Elector sees of the nodes, and when it deposes a Primary (section 4).

use crate::command::StoreCall;
use crate::config::{Millis, RegisteredNode};
use crate::engine::{Engine, Purpose};
use crate::message::{Message, NodeReport};
use crate::quorum::Voter;
use netsy_api::ids::{Incarnation, NodeId, Term};
use std::collections::{BTreeMap, BTreeSet};

/// After a Primary was spared, it is looked at again after this, the next times later: a voter that said that it hears
/// it may not have noticed yet that it is gone.
const SPARED_FIRST: Millis = 100;
/// How long the voters are waited for when they are asked whether they hear the Primary.
const HEARS_WAIT: Millis = 200;
/// A Primary that was elected and does not take over is replaced after this.
const TAKES_OVER_WITHIN: Millis = 3_000;
/// A node whose promise keeps it from following is helped by an election after this.
const AHEAD_MAX: Millis = 1_500;
/// A Primary whose take-over or uploads get no answer from object storage counts as cut off from it after this.
pub(crate) const STORE_LOST: Millis = 2_000;

/// A suspicion against the Primary of a term.
#[derive(Clone, Debug)]
struct Suspicion {
    term: Term,
    since: Millis,
    /// When those that did not answer are asked again.
    ask_at: Millis,
    why: &'static str,
    query: u64,
    asked: BTreeSet<NodeId>,
    answers: BTreeMap<NodeId, (Incarnation, bool, Option<u64>)>,
    /// The Primary itself answers, or is known to be gone: what the voters hear does not matter.
    certain: bool,
    avoid: bool,
}

/// The nodes as this one sees them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers {
    reports: BTreeMap<NodeId, (NodeReport, Millis)>,
    down: BTreeSet<NodeId>,
    suspicion: Option<Suspicion>,
    query: u64,
    /// After a Primary was spared, or an election came to nothing.
    quiet_until: Millis,
    /// How often in a row a Primary was spared.
    spared: u32,
    elected_at: Millis,
    next_deregister: Millis,
    /// Since when a node that answers has promised more than the manifest's term: it cannot follow its Primary.
    ahead_since: Option<Millis>,
    first_seen: BTreeMap<NodeId, Millis>,
}

impl Peers {
    pub(crate) fn new(now: Millis) -> Self {
        Self { elected_at: now, next_deregister: now, ..Self::default() }
    }

    pub(crate) fn up(&mut self, node: &NodeId) {
        self.down.remove(node);
    }

    pub(crate) fn is_down(&self, node: &NodeId) -> bool {
        self.down.contains(node)
    }

    pub(crate) fn forget_suspicion(&mut self) {
        self.suspicion = None;
        self.quiet_until = 0;
    }

    pub(crate) fn quiet(&mut self, until: Millis) {
        self.quiet_until = until;
    }

    pub(crate) fn elected(&mut self, now: Millis) {
        self.suspicion = None;
        self.elected_at = now;
    }

    pub(crate) fn report_of(&self, node: &NodeId) -> Option<&(NodeReport, Millis)> {
        self.reports.get(node)
    }

    /// Nodes that answered within `silence` and whose connection did not break since.
    pub(crate) fn healthy(&self, now: Millis, silence: Millis) -> Vec<NodeId> {
        let fresh = self.reports.iter().filter(|(n, (_, at))| !self.is_down(n) && now.saturating_sub(*at) <= silence);
        fresh.map(|(node, _)| node.clone()).collect()
    }
}

impl Engine {
    pub(crate) fn my_report(&self) -> NodeReport {
        NodeReport {
            process: self.me.clone(),
            address: self.address.clone(),
            promised: self.log.promised(),
            end: self.log.durable_end(),
            leads: self.primary.as_ref().map(|p| (p.term, p.serves())),
            hears: self.follower.target.as_ref().map(|(term, _)| *term).filter(|term| self.hears(*term)),
            store_age: self.store_age(),
            stopping: self.stop.is_some(),
        }
    }

    /// Tells the Elector what changed here, or that this node is there.
    pub(crate) fn tell_elector(&mut self) {
        if let Some(elector) = self.lock.elector().filter(|e| **e != self.me.node_id).cloned() {
            let report = self.my_report();
            self.send(&elector, Message::Report(report));
        }
    }

    pub(crate) fn on_peer_down(&mut self, node: NodeId) {
        self.peers.down.insert(node);
        self.tick_lock();
        self.tick_health();
    }

    pub(crate) fn on_report(&mut self, from: NodeId, report: NodeReport) {
        if report.process.node_id != from {
            return; // A node speaks for itself only.
        }
        self.peers.up(&from);
        let known = self.nodes.get(&from);
        // One that was stopped and runs again may have kept database and address.
        let same = known.is_some_and(|n| {
            let runs = !n.stopped || report.stopping;
            n.incarnation == report.process.incarnation && n.address == report.address && runs
        });
        if !same {
            let node = RegisteredNode {
                node_id: from.clone(),
                incarnation: report.process.incarnation,
                // A late word of one that stopped does not bring it back.
                stopped: report.stopping && known.is_some_and(|n| n.stopped),
                address: report.address.clone(),
            };
            self.learn_nodes(vec![node]);
            if self.lock.held {
                self.beat_nodes();
            }
        }
        if self.quorum_lost.as_ref().is_some_and(|lost| lost.missing.contains(&from)) && self.lock.held {
            // One that was missed is back: perhaps it is enough.
            self.peers.quiet(self.now);
        }
        self.peers.reports.insert(from, (report, self.now));
        if self.lock.held {
            self.tick_health();
        }
    }

    pub(crate) fn on_hears_ask(&mut self, from: NodeId, query: u64, term: Term) {
        let leads = self.primary.as_ref().is_some_and(|p| p.term == term && p.serves()) && !self.is_bound();
        let hears = self.hears(term) || leads;
        let primary_store_age = if leads {
            self.store_age()
        } else {
            self.follower.primary_store.map(|(age, at)| age + self.now.saturating_sub(at))
        };
        let incarnation = self.me.incarnation;
        self.send(&from, Message::Hears { query, incarnation, hears, primary_store_age });
    }

    pub(crate) fn on_hears(
        &mut self,
        from: NodeId,
        query: u64,
        incarnation: Incarnation,
        hears: bool,
        primary_store_age: Option<u64>,
    ) {
        if let Some(suspicion) = self.peers.suspicion.as_mut().filter(|s| s.query == query) {
            suspicion.answers.insert(from, (incarnation, hears, primary_store_age));
            self.tick_health();
        }
    }

    /// What there is against the Primary that the manifest names: why, whether that is certain, and whether another
    /// node should follow it.
    fn against_primary(&self) -> Option<(&'static str, bool, bool)> {
        let manifest = self.manifest.as_ref()?;
        let primary = &manifest.primary;
        let (now, silence) = (self.now, self.settings.silence());
        let waited = now.saturating_sub(self.peers.elected_at.max(self.lock.since));
        if self.peers.ahead_since.is_some_and(|at| now.saturating_sub(at) >= AHEAD_MAX) {
            return Some(("a node promised a higher term and cannot follow", true, false));
        }
        if *primary == self.me {
            return match &self.primary {
                Some(p) if p.term == manifest.term && !self.is_bound() => None,
                Some(_) => Some(("this node is Primary and promised a higher term", true, false)),
                None => Some(("this node was elected and cannot act in that term", true, false)),
            };
        }
        if primary.node_id == self.me.node_id {
            return Some(("the Primary was an earlier process of this node", true, false));
        }
        if self.peers.is_down(&primary.node_id) {
            return Some(("the connection to the Primary broke", false, true));
        }
        let heard = self.peers.reports.get(&primary.node_id);
        let stopped = self.nodes.get(&primary.node_id).is_some_and(|node| node.stopped);
        if stopped && heard.is_none_or(|(_, at)| now.saturating_sub(*at) > silence) {
            return Some(("the Primary has stopped", false, true));
        }
        let Some((report, at)) = heard else {
            return (waited > silence).then_some(("the Primary was not heard", false, true));
        };
        if now.saturating_sub(*at) > silence {
            return (waited > silence).then_some(("the Primary was not heard for too long", false, true));
        }
        if report.process.session != primary.session {
            return Some(("the Primary's process is another one by now", true, false));
        }
        if report.promised > manifest.term {
            return Some(("the Primary promised a higher term", true, false));
        }
        let store_lost = report.store_age.is_none_or(|age| age > STORE_LOST);
        match report.leads {
            Some((term, ready)) if term == manifest.term => (!ready && store_lost && waited > TAKES_OVER_WITHIN)
                .then_some(("the Primary takes over, but does not reach object storage", true, true)),
            _ => (waited > TAKES_OVER_WITHIN).then_some(("the Primary does not take over", true, true)),
        }
    }

    pub(crate) fn tick_health(&mut self) {
        if !self.lock.held || self.ended {
            return;
        }
        self.deregister();
        if self.election.is_some() || self.now < self.peers.quiet_until {
            return;
        }
        let Some(manifest) = &self.manifest else { return };
        let term = manifest.term;
        let (now, silence) = (self.now, self.settings.silence());
        let ahead = self.peers.reports.iter().any(|(node, (report, at))| {
            !self.peers.is_down(node) && now.saturating_sub(*at) <= silence && report.promised > term
        }) || self.log.promised() > term;
        self.peers.ahead_since = if ahead { self.peers.ahead_since.or(Some(now)) } else { None };
        let Some((why, certain, avoid)) = self.against_primary() else {
            self.peers.suspicion = None;
            self.peers.spared = 0;
            self.quorum_lost = None;
            return;
        };
        let stale = self.peers.suspicion.as_ref().is_none_or(|s| s.term != term || s.certain != certain);
        if stale {
            self.suspect(term, why, certain, avoid);
        }
        self.judge();
    }

    fn suspect(&mut self, term: Term, why: &'static str, certain: bool, avoid: bool) {
        let Some(manifest) = &self.manifest else { return };
        let primary = manifest.primary.node_id.clone();
        let asked: BTreeSet<NodeId> = manifest
            .waited_for()
            .map(|v| v.node_id.clone())
            .filter(|n| *n != self.me.node_id && !self.peers.is_down(n) && (*n != primary || certain))
            .collect();
        self.peers.query += 1;
        let query = self.peers.query;
        for node in &asked {
            self.send(node, Message::HearsAsk { query, term });
        }
        let (since, ask_at) = (self.now, self.now + HEARS_WAIT);
        self.peers.suspicion =
            Some(Suspicion { term, since, ask_at, why, query, asked, answers: BTreeMap::new(), certain, avoid });
        self.renew_lock();
    }

    /// Decides on a suspicion once the voters answered and the lock was renewed after it arose.
    fn judge(&mut self) {
        let Some(manifest) = &self.manifest else { return };
        let Some(suspicion) = &self.peers.suspicion else { return };
        let waited = self.now.saturating_sub(suspicion.since);
        let open = suspicion.asked.iter().filter(|n| !suspicion.answers.contains_key(*n) && !self.peers.is_down(n));
        let open: Vec<NodeId> = open.cloned().collect();
        let all = open.is_empty();
        if !all && waited < HEARS_WAIT || self.lock.renewed.is_none_or(|at| at < suspicion.since) {
            return;
        }
        let rule = manifest.rule();
        let me = self.me.voter();
        let mine = manifest.names(&me);
        let named = |node: &NodeId, incarnation: Incarnation| {
            manifest.voters.iter().any(|v| v.node_id == *node && v.incarnation == incarnation)
        };
        let voters = || suspicion.answers.iter().filter(|(node, (incarnation, ..))| named(node, *incarnation));
        let hear =
            voters().filter(|(_, (_, hears, _))| *hears).count() + usize::from(mine && self.hears(suspicion.term));
        let fresh = self.settings.silence().saturating_mul(2).max(STORE_LOST);
        let own = self.follower.primary_store.map(|(age, at)| age + self.now.saturating_sub(at));
        let reaches = voters().map(|(_, (_, _, age))| *age).chain([own]).flatten().any(|age| age <= fresh);
        let spared = !suspicion.certain && hear >= rule.commit.unwrap_or(1) && reaches;
        // The bucket is the whole cluster, and whoever is left is about to stop: a Primary would have nothing to do.
        let silence = self.settings.silence();
        let stays = |node: &NodeId| self.peers.report_of(node).is_some_and(|(report, _)| !report.stopping);
        let none_stays = self.stop.is_some() && !self.peers.healthy(self.now, silence).iter().any(stays);
        let over = manifest.voters.is_empty() && none_stays;
        let (why, avoid) = (suspicion.why, suspicion.avoid.then(|| manifest.primary.node_id.clone()));
        let answer = voters().count() + usize::from(mine);
        let answered: Vec<NodeId> = voters().map(|(n, _)| n.clone()).chain(mine.then(|| me.node_id.clone())).collect();
        if spared || over {
            // Only this node lost it, or nobody needs it.
            self.peers.suspicion = None;
            let pause = SPARED_FIRST << self.peers.spared.min(8);
            self.peers.spared += 1;
            self.peers.quiet_until = self.now + pause.min(self.settings.heartbeat_interval);
            return;
        }
        // R12: whose log a recovery kept.
        let keeps = |v: &Voter| {
            *v == me || suspicion.answers.get(&v.node_id).is_some_and(|(incarnation, ..)| *incarnation == v.incarnation)
        };
        let too_few = answer < rule.election || !manifest.kept.as_ref().is_none_or(keeps);
        if too_few && !all && waited < self.settings.silence() {
            // Busy ones are late: nothing is lost before they had their time.
            return self.ask_again(&open);
        }
        if too_few {
            // R12: nothing would come of an election but promises that bind those who are there.
            self.lose_quorum(rule.election, answered);
            self.peers.suspicion = None;
            self.peers.quiet_until = self.now + self.settings.heartbeat_interval;
            return;
        }
        // Where nothing speaks against the Primary's node, it goes on in the next term.
        let prefer = avoid.is_none().then(|| manifest.primary.node_id.clone());
        self.peers.suspicion = None;
        self.start_election(why, prefer, avoid);
    }

    fn ask_again(&mut self, open: &[NodeId]) {
        let now = self.now;
        let Some(suspicion) = self.peers.suspicion.as_mut() else { return };
        if now < suspicion.ask_at {
            return;
        }
        suspicion.ask_at = now + HEARS_WAIT;
        let (query, term) = (suspicion.query, suspicion.term);
        for node in open {
            self.send(node, Message::HearsAsk { query, term });
        }
    }

    /// Nodes that were silent for very long and vote no more are taken out of the registrations that count.
    fn deregister(&mut self) {
        let timeout = self.settings.deregistration_timeout;
        if timeout == 0 || self.now < self.peers.next_deregister {
            return;
        }
        self.peers.next_deregister = self.now + 1_000;
        let Some(manifest) = &self.manifest else { return };
        let mut gone = vec![];
        for node in self.nodes.values().filter(|n| !n.stopped && n.node_id != self.me.node_id) {
            let seen = self.peers.reports.get(&node.node_id).map(|(_, at)| *at);
            let first = *self.peers.first_seen.entry(node.node_id.clone()).or_insert(self.now);
            let silent = self.now.saturating_sub(seen.unwrap_or(first).max(self.lock.since));
            let votes = manifest.voters.iter().any(|v| v.node_id == node.node_id);
            if silent >= timeout && !votes {
                gone.push((node.node_id.clone(), node.incarnation));
            }
        }
        for (node_id, incarnation) in gone {
            if let Some(node) = self.nodes.get_mut(&node_id) {
                node.stopped = true;
            }
            self.store(Purpose::MarkOther, StoreCall::MarkStopped { node_id, incarnation });
        }
    }
}
