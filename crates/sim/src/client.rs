//! Clients and watchers, and the history that they write.

use crate::convert;
use crate::process::Ask;
use crate::world::{Happening, Input, World};
use bytes::Bytes;
use netsy_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use netsy_api::etcdserverpb::request_op::Request as OpRequest;
use netsy_api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use netsy_api::ids::Revision;
use netsy_history::{Op, Outcome, Request, Told, WatchMessage, WatchRecord, WatchSession};
use std::collections::BTreeMap;

/// How long a client waits.
const TIMEOUT: u64 = 7_000;

/// A request whose answer is awaited.
#[derive(Clone, Debug)]
struct Open {
    client: usize,
    slot: usize,
    life: u64,
    invoked: u64,
    request: Request,
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    open: BTreeMap<u64, Open>,
    pub ops: Vec<Op>,
    busy: Vec<Option<u64>>,
    pub leases: Vec<i64>,
    next_lease: i64,
    next_value: u64,
    /// When a write, and a linearizable read, last succeeded through each node.
    pub served: BTreeMap<(usize, bool), u64>,
    pub stopped: bool,
}

impl Clients {
    pub fn new(count: usize) -> Self {
        Self { busy: vec![None; count], ..Self::default() }
    }

    pub fn idle(&self) -> bool {
        self.open.is_empty()
    }
}

/// A watcher over its life.
#[derive(Clone, Debug)]
pub struct Watcher {
    pub record: WatchRecord,
    /// Records that ended with a compaction.
    pub over: Vec<WatchRecord>,
    slot: usize,
    life: u64,
    /// The next revision that was not told.
    next: i64,
    /// The last revision that it was told.
    told: i64,
    key: Bytes,
    range_end: Bytes,
    /// It takes nothing until then.
    slow_until: u64,
    attached: bool,
}

impl Watcher {
    pub fn new(number: usize) -> Self {
        let (key, range_end) = match number {
            0 => ("k", "l"),
            1 => ("k0", "k5"),
            _ => ("k1", ""),
        };
        Self {
            record: WatchRecord { name: format!("watch {number}"), sessions: vec![], whole_to: None },
            over: vec![],
            slot: 0,
            life: 0,
            next: 0,
            told: 0,
            key: key.into(),
            range_end: range_end.into(),
            slow_until: 0,
            attached: false,
        }
    }

    /// What it was to see is compacted: it begins like a new one.
    fn begin_anew(&mut self) {
        let name = format!("{}'", self.record.name);
        let new = WatchRecord { name, sessions: vec![], whole_to: None };
        self.over.push(std::mem::replace(&mut self.record, new));
        (self.attached, self.next, self.told) = (false, 0, 0);
    }
}

impl World {
    fn key(&mut self) -> Bytes {
        format!("k{}", self.rng.below(self.scenario.keys)).into()
    }

    fn value(&mut self) -> Bytes {
        self.clients.next_value += 1;
        format!("v{}", self.clients.next_value).into()
    }

    fn request(&mut self) -> Request {
        match self.rng.below(100) {
            0..=31 => self.put(),
            32..=35 => {
                let key = self.key();
                Request::DeleteRange(DeleteRangeRequest { key, prev_kv: true, ..Default::default() })
            }
            36 => {
                let (key, range_end) = ("k1".into(), "k3".into());
                Request::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv: true })
            }
            37..=50 => Request::Txn(self.txn()),
            51..=53 => Request::Txn(self.read_txn(false)),
            54 => Request::Txn(self.read_txn(true)),
            55..=72 => {
                let key = self.key();
                Request::Range(RangeRequest { key, ..Default::default() })
            }
            73..=76 => Request::Range(RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() }),
            77..=79 => {
                let limit = self.rng.range(1, 5) as i64;
                Request::Range(RangeRequest { key: "k1".into(), range_end: "k7".into(), limit, ..Default::default() })
            }
            80..=82 => {
                let revision = self.some_revision();
                let serializable = self.rng.chance(300);
                let (key, range_end) = ("k".into(), "l".into());
                Request::Range(RangeRequest { key, range_end, revision, serializable, ..Default::default() })
            }
            83..=90 => {
                let key = self.key();
                Request::Range(RangeRequest { key, serializable: true, ..Default::default() })
            }
            91 | 92 => {
                self.clients.next_lease += 1;
                let id = self.clients.next_lease;
                self.clients.leases.push(id);
                let ttl = self.rng.range(2, 8) as i64;
                Request::LeaseGrant { id, ttl }
            }
            93 | 94 => Request::LeaseKeepAlive { id: self.some_lease() },
            95 => Request::LeaseRevoke { id: self.some_lease() },
            96 | 97 => Request::LeaseTimeToLive { id: self.some_lease(), keys: self.rng.chance(500) },
            _ if self.scenario.client_compactions => Request::Compact { revision: self.some_revision() },
            _ => Request::Range(RangeRequest { key: self.key(), ..Default::default() }),
        }
    }

    fn put(&mut self) -> Request {
        let lease = if self.rng.chance(100) { self.rng.pick(&self.clients.leases).copied() } else { None };
        let (mut key, value) = (self.key(), self.value());
        if lease.is_some() {
            // Keys that nobody deletes one by one, so that a lease's end is told from a delete.
            key = format!("kz{}", self.rng.below(4)).into();
        }
        let prev_kv = self.rng.chance(300);
        Request::Put(PutRequest { key, value, lease: lease.unwrap_or(0), prev_kv, ..Default::default() })
    }

    /// Of late.
    fn some_revision(&mut self) -> i64 {
        let head = self.truth.entries.last().map_or(1, |e| e.revision.0);
        (head - self.rng.below(40) as i64).max(1)
    }

    /// Reads several keys at one point.
    fn read_txn(&mut self, serializable: bool) -> TxnRequest {
        let mut get = || {
            let range = RangeRequest { key: self.key(), serializable, ..Default::default() };
            RequestOp { request: Some(OpRequest::RequestRange(range)) }
        };
        TxnRequest { compare: vec![], success: vec![get(), get(), get()], failure: vec![] }
    }

    fn some_lease(&mut self) -> i64 {
        let recent: Vec<i64> = self.clients.leases.iter().rev().take(5).copied().collect();
        self.rng.pick(&recent).copied().unwrap_or(1)
    }

    /// Moves a value from one key to another if it is as it was found, or reads several.
    fn txn(&mut self) -> TxnRequest {
        let (a, b) = (self.key(), self.key());
        let put = |key: Bytes, value: Bytes| RequestOp {
            request: Some(OpRequest::RequestPut(PutRequest { key, value, ..Default::default() })),
        };
        let get = |key: Bytes| RequestOp {
            request: Some(OpRequest::RequestRange(RangeRequest { key, ..Default::default() })),
        };
        let version = self.rng.below(4) as i64;
        let compare = Compare {
            result: CompareResult::Greater as i32,
            target: CompareTarget::Version as i32,
            key: a.clone(),
            range_end: Bytes::new(),
            target_union: Some(TargetUnion::Version(version)),
        };
        let value = self.value();
        let mut success = vec![get(a.clone()), put(a.clone(), value.clone())];
        if a != b {
            success.push(put(b.clone(), value));
        }
        TxnRequest { compare: vec![compare], success, failure: vec![get(a), get(b)] }
    }

    pub fn client_acts(&mut self, client: usize) {
        let pause = self.rng.range(1, self.scenario.think.max(2));
        if self.clients.stopped {
            return;
        }
        let running: Vec<(usize, u64)> =
            self.slots.iter().enumerate().filter_map(|(i, s)| s.process.as_ref().map(|p| (i, p.life))).collect();
        let Some((slot, life)) = self.rng.pick(&running).copied() else {
            return self.after(pause + 50, Happening::Client(client));
        };
        let request = self.request();
        self.ask(client, slot, life, request);
    }

    /// A request that the scenario has written down; a node that does not run is not asked.
    pub fn ask_as_written(&mut self, at: usize) {
        let Some((_, slot, request)) = self.scenario.asks.get(at).cloned() else { return };
        let Some(life) = self.slots.get(slot).and_then(|s| s.process.as_ref()).map(|p| p.life) else { return };
        // Each has a client of its own.
        let client = self.scenario.clients + at;
        self.ask(client, slot, life, request);
    }

    fn ask(&mut self, client: usize, slot: usize, life: u64, request: Request) {
        let op = self.fresh();
        self.asked += 1;
        let open = Open { client, slot, life, invoked: self.now, request: request.clone() };
        self.clients.open.insert(op, open);
        if let Some(busy) = self.clients.busy.get_mut(client) {
            *busy = Some(op);
        }
        let delay = self.rng.range(0, 2);
        let ask = Ask { op, request, deadline: self.now + TIMEOUT - 500 };
        self.input(slot, life, delay, Input::Ask(ask));
        self.after(TIMEOUT, Happening::ClientTimeout { client, op });
    }

    pub fn client_times_out(&mut self, client: usize, op: u64) {
        let _ = client;
        self.client_answered(op, Outcome::Unknown);
    }

    /// The node that was asked is gone: a client notices.
    pub fn clients_lose(&mut self, slot: usize, life: u64) {
        let lost: Vec<u64> =
            self.clients.open.iter().filter(|(_, o)| (o.slot, o.life) == (slot, life)).map(|(op, _)| *op).collect();
        for op in lost {
            self.after(1, Happening::ClientAnswer { op, outcome: Outcome::Unknown });
        }
        for watcher in 0..self.watchers.len() {
            if let Some(w) = self.watchers.get_mut(watcher).filter(|w| (w.slot, w.life) == (slot, life) && w.attached) {
                w.attached = false;
                let delay = self.rng.range(5, 300);
                self.after(delay, Happening::Watch(watcher));
            }
        }
    }

    pub fn client_answered(&mut self, op: u64, outcome: Outcome) {
        let Some(open) = self.clients.open.remove(&op) else { return };
        let now = self.now;
        let Open { client, slot, life, invoked, request } = open;
        if let Outcome::Done(_) = &outcome {
            let write = request.may_write();
            if write || !request.is_serializable() {
                self.clients.served.insert((slot, write), now);
            }
            self.count("op done");
        } else if matches!(&outcome, Outcome::Refused(r) if !matches!(r, netsy_history::Refusal::Other(_))) {
            self.count("op refused with reason");
        } else {
            self.count("op not done");
        }
        self.clients.ops.push(Op {
            client: client as u32,
            node: slot as u32,
            session: life,
            invoked,
            returned: now,
            request,
            outcome,
        });
        let pause = self.rng.range(1, self.scenario.think.max(2));
        if client < self.scenario.clients {
            self.after(pause, Happening::Client(client));
        }
    }

    // ---- watches ----

    pub fn watch_again(&mut self, number: usize) {
        let running: Vec<(usize, u64, i64, Revision, i64)> = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(i, s)| {
                let p = s.process.as_ref().filter(|_| !s.paused)?;
                Some((i, p.life, p.store.visible_revision().0, p.floor, p.store.compact_revision().0))
            })
            .collect();
        let Some((slot, life, visible, floor, compact)) = self.rng.pick(&running).copied() else {
            return self.after(200, Happening::Watch(number));
        };
        let now = self.now;
        let first = self.rng.chance(500);
        let Some(watcher) = self.watchers.get_mut(number) else { return };
        if watcher.attached {
            return;
        }
        // The first time from now on, or from a revision; afterwards from after the last told.
        if watcher.told > 0 {
            watcher.next = watcher.told + 1;
        }
        let start = if watcher.next == 0 { if first { 0 } else { (visible - 5).max(2) } } else { watcher.next };
        let request = WatchCreateRequest {
            key: watcher.key.clone(),
            range_end: watcher.range_end.clone(),
            start_revision: start,
            progress_notify: true,
            ..Default::default()
        };
        let mut messages = vec![WatchMessage { at: now, revision: visible, told: Told::Created }];
        // Below the floor that is in force here, or compacted: the client goes on from what is left.
        let lowest = floor.0.max(compact);
        if start > 0 && start < lowest {
            messages.push(WatchMessage {
                at: now,
                revision: visible,
                told: Told::Cancelled { compact_revision: lowest, reason: String::new() },
            });
            watcher.record.sessions.push(WatchSession { node: slot as u32, request, messages });
            watcher.begin_anew();
            self.after(1, Happening::Watch(number));
            self.count("watch compacted");
            return;
        } else {
            watcher.record.sessions.push(WatchSession { node: slot as u32, request, messages });
            watcher.next = if start == 0 { visible + 1 } else { start };
            watcher.told = watcher.next - 1;
        }
        let Some(watcher) = self.watchers.get_mut(number) else { return };
        (watcher.slot, watcher.life, watcher.attached) = (slot, life, true);
        self.count("watch begins");
        self.tell_watchers(slot);
    }

    /// Tells the watchers of a node what became visible.
    pub fn tell_watchers(&mut self, slot: usize) {
        let now = self.now;
        let (slow, length) = (self.rng.chance(5), self.rng.range(100, 4_000));
        let progress = self.rng.chance(50);
        let Some(process) = self.slots.get(slot).and_then(|s| s.process.as_ref()) else { return };
        // The database holds a snapshot that is not shown yet: it may have let go what watches are still to be told, and
        // the state that says so comes with it.
        if process.store.last_index() < process.installed {
            return;
        }
        let visible = process.store.visible_revision().0;
        let compact = process.store.compact_revision().0;
        let end = process.store.visible_index().0 as usize;
        let mut compacted = 0;
        let mut broken = None;
        for watcher in self.watchers.iter_mut().filter(|w| w.attached && (w.slot, w.life) == (slot, process.life)) {
            if now < watcher.slow_until {
                continue;
            }
            let Some(session) = watcher.record.sessions.last_mut() else { continue };
            if watcher.next < compact && watcher.next <= visible {
                // It was too slow for a compaction by a client, or was cut off from the Primary.
                let told = Told::Cancelled { compact_revision: compact, reason: String::new() };
                session.messages.push(WatchMessage { at: now, revision: visible, told });
                watcher.begin_anew();
                compacted += 1;
                continue;
            }
            let from = process.mem.partition_point(|e| e.revision.0 < watcher.next);
            for entry in process.mem.iter().take(end).skip(from) {
                let events: Vec<_> = convert::events(entry)
                    .into_iter()
                    .filter(|e| {
                        e.kv.as_ref().is_some_and(|kv| {
                            let key = &kv.key;
                            if watcher.range_end.is_empty() {
                                *key == watcher.key
                            } else {
                                *key >= watcher.key && *key < watcher.range_end
                            }
                        })
                    })
                    .collect();
                if !events.is_empty() && entry.index <= process.holes.partial {
                    // Rows above the compaction stay, so what a watch still has to come is there.
                    let rows = crate::disk::rows(&process.mem, &process.holes, entry.index);
                    let left = rows.iter().filter(|r| r.index == entry.index && r.mutation.is_key_change()).count();
                    if left < entry.mutations.iter().filter(|m| m.is_key_change()).count() {
                        broken = Some(format!(
                            "entry {} of revision {} ({:?}), at {} after a compaction at {compact}",
                            entry.index, entry.revision, entry.mutations, watcher.next
                        ));
                    }
                }
                if !events.is_empty() {
                    let told = Told::Events { events, fragment: false };
                    watcher.told = entry.revision.0;
                    session.messages.push(WatchMessage { at: now, revision: entry.revision.0, told });
                }
            }
            watcher.next = watcher.next.max(visible + 1);
            if progress && watcher.told < visible {
                watcher.told = visible;
                session.messages.push(WatchMessage { at: now, revision: visible, told: Told::Progress });
            }
            if slow {
                watcher.slow_until = now + length;
            }
        }
        if let Some(what) = broken {
            self.truth.breach(format!("a watch on n{slot} needs what has lost rows: {what}"));
        }
        for _ in 0..compacted {
            self.count("watch too slow");
        }
        let again: Vec<usize> = self
            .watchers
            .iter()
            .enumerate()
            .filter(|(_, w)| !w.attached && (w.slot, w.life) == (slot, self.life_of(slot)) && compacted > 0)
            .map(|(i, _)| i)
            .collect();
        for watcher in again {
            self.after(5, Happening::Watch(watcher));
        }
    }

    pub fn life_of(&self, slot: usize) -> u64 {
        self.slots.get(slot).and_then(|s| s.process.as_ref()).map_or(0, |p| p.life)
    }

    /// The lowest revision that watches on a node need.
    pub fn watch_lowest(&self, slot: usize) -> Option<Revision> {
        let process = self.slots.get(slot)?.process.as_ref()?;
        let visible = process.store.visible_revision().0;
        let here = self.watchers.iter().filter(|w| w.attached && (w.slot, w.life) == (slot, process.life));
        here.map(|w| w.next).filter(|next| *next <= visible).min().map(Revision)
    }

    /// Lets every watcher catch up, at the end of a run.
    pub fn finish_watches(&mut self) {
        let head = self.truth.entries.last().map_or(1, |e| e.revision.0);
        for watcher in &mut self.watchers {
            watcher.slow_until = 0;
        }
        for slot in 0..self.slots.len() {
            self.tell_watchers(slot);
        }
        for watcher in &mut self.watchers {
            if watcher.attached && watcher.next > head {
                watcher.record.whole_to = Some(head);
            }
        }
    }
}
