//! The elector lock (section 4): who watches the nodes and elects. Two at once do no harm.

use crate::command::{Report, StoreCall};
use crate::config::Millis;
use crate::engine::{Engine, Purpose};
use crate::event::StoreResult;
use crate::manifest::{ElectorLock, ProcessId};
use crate::message::{ElectorBeat, Message};
use netsy_api::ids::{NodeId, Session};
use std::collections::BTreeSet;

/// How often the holder renews the lock.
const RENEW: Millis = 900;
/// How often others read it; more often while the holder is missed.
const READ: Millis = 2_000;
const READ_MISSED: Millis = 300;
/// The only other node may take the lock over when its counter has stood still for this long.
const STOOD_STILL: Millis = 2_000;
/// Between two that may take it over, so that one goes first.
const RANK: Millis = 150;
/// Votes on whether the holder is gone are asked for anew after this.
const ASK_AGAIN: Millis = 100;

/// What a node knows of the lock.
#[derive(Clone, Debug)]
pub(crate) struct Lock {
    /// This process holds it, as far as it knows.
    pub(crate) held: bool,
    known: Option<ElectorLock>,
    absent: bool,
    /// When another counter, or holder, was last read.
    moved_at: Millis,
    read_at: Millis,
    next_read: Millis,
    next_renew: Millis,
    swap_sent: Millis,
    /// When the last renewal that succeeded was sent.
    pub(crate) renewed: Option<Millis>,
    renewed_done: Millis,
    next_beat: Millis,
    /// The Elector that was heard last.
    heard: Option<(ProcessId, u64, Millis)>,
    resigned: Option<Session>,
    missed_since: Option<Millis>,
    query: u64,
    query_at: Millis,
    gone: BTreeSet<NodeId>,
    pub(crate) since: Millis,
}

impl Lock {
    pub(crate) fn new(now: Millis) -> Self {
        Self {
            held: false,
            known: None,
            absent: false,
            moved_at: now,
            read_at: now,
            next_read: now,
            next_renew: now,
            swap_sent: now,
            renewed: None,
            renewed_done: now,
            next_beat: now,
            heard: None,
            resigned: None,
            missed_since: None,
            query: 0,
            query_at: 0,
            gone: BTreeSet::new(),
            since: now,
        }
    }

    /// The Elector's node, as far as known.
    pub(crate) fn elector(&self) -> Option<&NodeId> {
        let heard = self.heard.as_ref();
        match (&self.known, heard) {
            (Some(lock), Some((process, counter, _))) if *counter > lock.counter => Some(&process.node_id),
            (Some(lock), _) => Some(&lock.node_id),
            (None, heard) => heard.map(|(process, ..)| &process.node_id),
        }
    }
}

impl Engine {
    /// Whether the Elector of that session is gone, for all this node can see.
    fn elector_is_gone(&self, session: Session) -> bool {
        if self.lock.held && session == self.me.session {
            return false;
        }
        let silence = self.settings.silence();
        match &self.lock.heard {
            Some((process, _, at)) if process.session == session => {
                self.peers.is_down(&process.node_id) || self.now.saturating_sub(*at) > silence
            }
            _ => {
                // Never heard: it counts as gone once it had time to make itself known.
                let known = self.lock.known.as_ref().filter(|lock| lock.session == session);
                known.is_none_or(|lock| {
                    self.peers.is_down(&lock.node_id) || self.now.saturating_sub(self.lock.moved_at) > silence
                })
            }
        }
    }

    /// Whether there is an Elector that would hear a wish.
    pub(crate) fn elector_answers(&self) -> bool {
        let silence = self.settings.silence();
        let hears = |(process, _, at): &(ProcessId, u64, Millis)| {
            !self.peers.is_down(&process.node_id) && self.now.saturating_sub(*at) <= silence
        };
        self.lock.held || self.lock.heard.as_ref().is_some_and(hears)
    }

    pub(crate) fn tick_lock(&mut self) {
        let now = self.now;
        let swapping = self.is_calling(|p| matches!(p, Purpose::LockSwap(_)));
        if self.lock.held {
            if now.saturating_sub(self.lock.renewed_done) > self.settings.leader_timeout {
                return self.lose_lock();
            }
            if now >= self.lock.next_renew && !swapping {
                self.swap_lock();
            }
            if now >= self.lock.next_beat {
                self.beat_nodes();
            }
            return;
        }
        if now >= self.lock.next_read && !self.is_calling(|p| matches!(p, Purpose::LockRead)) {
            let missed = self.lock.missed_since.is_some() || self.lock.known.is_none();
            self.lock.next_read = now + if missed { READ_MISSED } else { READ };
            self.store(Purpose::LockRead, StoreCall::ReadLock);
        }
        if !swapping && self.may_take_lock() {
            self.swap_lock();
        }
    }

    fn may_take_lock(&mut self) -> bool {
        let now = self.now;
        let Some(lock) = self.lock.known.clone() else { return self.lock.absent };
        // At once: an earlier process of this node, one that stopped gracefully, one that resigned.
        let stopped = self.nodes.get(&lock.node_id).is_some_and(|node| node.stopped);
        if lock.node_id == self.me.node_id || stopped || self.lock.resigned == Some(lock.session) {
            return true;
        }
        if !self.elector_is_gone(lock.session) {
            self.lock.missed_since = None;
            self.lock.gone.clear();
            return false;
        }
        let since = *self.lock.missed_since.get_or_insert(now);
        self.lock.next_read = self.lock.next_read.min(now + READ_MISSED);
        let stood_still = self.lock.read_at.saturating_sub(self.lock.moved_at);
        if stood_still >= self.settings.leader_timeout {
            return true;
        }
        // The other registered nodes, this one among them.
        let others: Vec<NodeId> = self
            .nodes
            .values()
            .filter(|n| !n.stopped && n.node_id != lock.node_id)
            .map(|n| n.node_id.clone())
            .collect();
        if others.len() <= 1 {
            return stood_still >= STOOD_STILL;
        }
        if self.lock.query_at == 0 || now.saturating_sub(self.lock.query_at) >= ASK_AGAIN {
            self.lock.query_at = now;
            self.lock.query += 1;
            let query = self.lock.query;
            for node in &others {
                if *node != self.me.node_id {
                    self.send(node, Message::ElectorGoneAsk { query, session: lock.session });
                }
            }
        }
        let agree = 1 + others.iter().filter(|n| self.lock.gone.contains(*n)).count();
        // One goes first: by name, the Primary and who is stopping last.
        let primary = self.follower.target.as_ref().map(|(_, p)| &p.node_id);
        let last = |n: &NodeId| primary == Some(n) || *n == self.me.node_id && self.stop.is_some();
        let mine = (last(&self.me.node_id), &self.me.node_id);
        let before = others.iter().filter(|n| !self.peers.is_down(n) && (last(n), *n) < mine).count() as u64;
        agree * 2 > others.len() && now.saturating_sub(since) >= before * RANK
    }

    fn swap_lock(&mut self) {
        self.lock.swap_sent = self.now;
        self.lock.next_renew = self.now + RENEW;
        let lock = ElectorLock {
            node_id: self.me.node_id.clone(),
            session: self.me.session,
            address: self.address.clone(),
            counter: self.lock.known.as_ref().map_or(0, |lock| lock.counter) + 1,
            nonce: self.random.nonce(),
        };
        let expected = self.lock.known.as_ref().map(|lock| lock.nonce);
        let what = StoreCall::SwapLock { expected, lock: Box::new(lock.clone()) };
        self.store(Purpose::LockSwap(Box::new(lock)), what);
    }

    /// Renews the lock now: before a Primary is deposed (section 4).
    pub(crate) fn renew_lock(&mut self) {
        self.lock.next_renew = self.now;
        self.tick_lock();
    }

    pub(crate) fn on_lock_swap(&mut self, lock: ElectorLock, result: StoreResult) {
        if result != StoreResult::Done {
            // Lost, or unknown: a read tells.
            self.lock.next_read = self.now;
            if !self.is_calling(|p| matches!(p, Purpose::LockRead)) {
                self.store(Purpose::LockRead, StoreCall::ReadLock);
            }
            return;
        }
        self.lock.known = Some(lock);
        self.hold_lock();
    }

    fn hold_lock(&mut self) {
        self.lock.renewed = Some(self.lock.swap_sent);
        self.lock.renewed_done = self.now;
        self.lock.moved_at = self.now;
        if !self.lock.held {
            self.lock.held = true;
            self.lock.since = self.now;
            self.lock.missed_since = None;
            self.lock.gone.clear();
            self.peers.forget_suspicion();
            self.report(Report::BecameElector);
            self.learn();
            if !self.is_calling(|p| matches!(p, Purpose::Nodes)) {
                self.store(Purpose::Nodes, StoreCall::ListNodes);
            }
            self.beat_nodes();
        }
        self.tick_health();
    }

    fn lose_lock(&mut self) {
        if self.lock.held {
            self.lock.held = false;
            self.election = self.election.take().filter(|e| e.recover.is_some());
            self.quorum_lost = None;
            self.report(Report::NoElector);
        }
    }

    pub(crate) fn on_lock_read(&mut self, result: StoreResult) {
        match result {
            StoreResult::Lock(Some(lock)) => {
                self.lock.read_at = self.now;
                self.lock.absent = false;
                let mine = lock.session == self.me.session;
                let moved =
                    self.lock.known.as_ref().is_none_or(|k| (k.session, k.counter) != (lock.session, lock.counter));
                if moved {
                    self.lock.moved_at = self.now;
                }
                let other = self.lock.known.as_ref().is_none_or(|k| k.session != lock.session);
                if other {
                    self.lock.missed_since = None;
                    self.lock.gone.clear();
                }
                self.lock.known = Some(lock);
                if mine {
                    self.hold_lock();
                } else {
                    self.lose_lock();
                    if other {
                        self.tell_elector();
                    }
                    self.tick_lock();
                }
            }
            StoreResult::Lock(None) => {
                self.lock.read_at = self.now;
                self.lock.absent = true;
                self.lock.known = None;
                self.lose_lock();
                self.tick_lock();
            }
            _ => self.lock.next_read = self.lock.next_read.min(self.now + READ_MISSED),
        }
    }

    pub(crate) fn beat_nodes(&mut self) {
        self.lock.next_beat = self.now + self.settings.heartbeat_interval;
        let beat = ElectorBeat {
            elector: self.me.clone(),
            address: self.address.clone(),
            counter: self.lock.known.as_ref().map_or(0, |lock| lock.counter),
            primary: self.manifest.as_ref().map(|m| (m.term, m.primary.clone())),
            nodes: self.nodes.values().cloned().collect(),
            quorum_lost: self.quorum_lost.clone(),
        };
        let nodes: Vec<NodeId> = self.nodes.values().filter(|n| !n.stopped).map(|n| n.node_id.clone()).collect();
        for node in &nodes {
            if *node != self.me.node_id {
                self.send(node, Message::Beat(beat.clone()));
            }
        }
    }

    pub(crate) fn on_beat(&mut self, from: NodeId, beat: ElectorBeat) {
        if beat.elector.node_id != from {
            return;
        }
        let mine = self.lock.known.as_ref().filter(|_| self.lock.held).map(|lock| lock.counter);
        if mine.is_some_and(|mine| beat.counter > mine) {
            // Somebody took it over: a read makes sure.
            self.lock.next_read = self.now;
            self.lose_lock();
        }
        let older = self.lock.heard.as_ref().is_some_and(|(process, counter, at)| {
            *counter > beat.counter
                && process.session != beat.elector.session
                && self.now.saturating_sub(*at) <= self.settings.silence()
        });
        if older || mine.is_some_and(|mine| beat.counter <= mine) {
            return;
        }
        self.peers.up(&from);
        let changed = self.lock.heard.as_ref().is_none_or(|(process, ..)| process.session != beat.elector.session);
        self.lock.heard = Some((beat.elector, beat.counter, self.now));
        self.lock.missed_since = None;
        self.lock.gone.clear();
        if changed {
            self.lock.next_read = self.now;
        }
        self.quorum_lost = beat.quorum_lost;
        self.learn_nodes(beat.nodes);
        if let Some((term, primary)) = beat.primary {
            self.on_elected(term, primary);
        }
        let report = self.my_report();
        self.send(&from, Message::Report(report));
    }

    pub(crate) fn on_elector_gone_ask(&mut self, from: NodeId, query: u64, session: Session) {
        let gone = self.elector_is_gone(session);
        self.send(&from, Message::ElectorGone { query, gone });
    }

    pub(crate) fn on_elector_gone(&mut self, from: NodeId, query: u64, gone: bool) {
        if query == self.lock.query {
            if gone {
                self.lock.gone.insert(from);
            } else {
                self.lock.gone.remove(&from);
            }
            self.tick_lock();
        }
    }

    pub(crate) fn on_elector_resigns(&mut self, session: Session) {
        self.lock.resigned = Some(session);
        self.tick_lock();
    }

    /// A holder that stops lets another node take over at once.
    pub(crate) fn resign(&mut self) {
        if !self.lock.held {
            return;
        }
        let session = self.me.session;
        let nodes: Vec<NodeId> = self.peers.healthy(self.now, self.settings.silence());
        for node in &nodes {
            if *node != self.me.node_id {
                self.send(node, Message::ElectorResigns { session });
            }
        }
    }
}
