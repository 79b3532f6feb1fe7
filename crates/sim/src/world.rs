//! The world: time, queue of events, nodes, links.

use crate::bucket::{Answer, Bucket, Op};
use crate::client::{Clients, Watcher};
use crate::process::{Ask, Disk, Process, To};
use crate::rng::Rng;
use crate::scenario::{Scenario, Weather};
use crate::truth::Truth;
use netsy_api::ids::{ChunkSeq, Incarnation, NodeId, Session, Term};
use netsy_api::log::Entry;
use netsy_history::Outcome;
use netsy_protocol::config::{RegisteredNode, Settings, Start, Stored};
use netsy_protocol::engine::Engine;
use netsy_protocol::event::{CallId, Event, StreamId};
use netsy_protocol::manifest::ProcessId;
use netsy_protocol::message::{Hello, Message, ToPrimary, ToReplica};
use netsy_protocol::mutant::Mutant;
use netsy_protocol::reconcile::Runs;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Why a process called object storage.
#[derive(Clone, Debug)]
pub enum Why {
    Engine(CallId),
    Register,
    LoadList(CallId),
    LoadChunk(CallId),
    LoadSnapshot(CallId),
    Seal(CallId, crate::bucket::Chunk),
    SealRead(CallId, crate::bucket::Chunk),
    CheckSeal(CallId, ChunkSeq),
    Upload(Term, ChunkSeq),
    UploadRead(Term, ChunkSeq),
    Nothing,
}

/// What reaches a process.
#[derive(Clone, Debug)]
pub enum Input {
    Tick,
    Message { from: usize, message: Message },
    PeerDown(usize),
    Synced,
    Storage(Why, Answer),
    Hello { conn: u64, hello: Hello },
    ToReplica { stream: StreamId, frame: ToReplica, entries: Vec<Arc<Entry>> },
    ToPrimary { stream: StreamId, frame: ToPrimary },
    StreamClosed(StreamId),
    Leading(Term),
    Ask(Ask),
    Forward { from: usize, life: u64, ask: Ask },
    Forwarded { op: u64, outcome: Outcome },
    Write,
    Upload,
    Engine(Event),
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Happening {
    To { slot: usize, life: u64, input: Input },
    Boot(usize),
    Lands { op: Op, slot: usize, life: u64, why: Why, answer_at: Option<u64> },
    Client(usize),
    ClientTimeout { client: usize, op: u64 },
    ClientAnswer { op: u64, outcome: Outcome },
    Watch(usize),
    Fault(usize),
    Resume(usize),
    Heal(Healing),
    CleanUp { seq: ChunkSeq, through: ChunkSeq, slow: bool },
    Probe,
}

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
pub enum Healing {
    Isolate(usize),
    Cut(usize, usize),
    Store(usize),
    StoreAll,
    Disk(usize),
}

/// A stream between two processes.
#[derive(Clone, Debug)]
pub struct Conn {
    pub replica: (usize, u64, StreamId),
    pub primary: (usize, u64),
    pub primary_stream: Option<StreamId>,
    pub open: bool,
    /// When the last frame of each direction arrives.
    pub last: [u64; 2],
}

/// A node's place.
pub struct Slot {
    pub id: NodeId,
    pub disk: Option<Disk>,
    pub backup: Option<Disk>,
    pub process: Option<Process>,
    /// A process that registers, before it has an engine.
    pub booting: Option<u64>,
    pub paused: bool,
    pub deferred: Vec<Input>,
    pub slow_disk: u32,
    pub store_cut: u32,
    pub offset: u64,
    pub rate_ppm: u64,
    /// Goes on by itself after a stop or a rebuild.
    pub restart_after: Option<u64>,
    pub halted: Option<String>,
}

/// See the module.
pub struct World {
    pub now: u64,
    seq: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    pub rng: Rng,
    pub scenario: Scenario,
    pub weather: Weather,
    pub mutant: Option<Mutant>,
    pub slots: Vec<Slot>,
    pub cut: Vec<Vec<u32>>,
    pub store_down: u32,
    pub bucket: Bucket,
    pub truth: Truth,
    pub conns: BTreeMap<u64, Conn>,
    pub next_id: u64,
    pub clients: Clients,
    pub watchers: Vec<Watcher>,
    pub entries_from: u64,
    pub calm: bool,
    pub trace: bool,
    pub settled_at: Option<u64>,
    pub steps: u64,
}

impl World {
    pub fn new(scenario: Scenario, mutant: Option<Mutant>, trace: bool) -> Self {
        let mut rng = Rng::new(scenario.seed ^ 0x5eed);
        let slots = (0..scenario.nodes)
            .map(|i| Slot {
                id: node_id(i),
                disk: None,
                backup: None,
                process: None,
                booting: None,
                paused: false,
                deferred: vec![],
                slow_disk: 0,
                store_cut: 0,
                offset: rng.range(1_000, 1_000_000),
                rate_ppm: 1_000_000 - scenario.drift_ppm / 2 + rng.below(scenario.drift_ppm + 1),
                restart_after: None,
                halted: None,
            })
            .collect();
        let nodes = scenario.nodes;
        let mut world = Self {
            now: 1_000,
            seq: 0,
            queue: BTreeMap::new(),
            rng,
            weather: scenario.weather,
            mutant,
            slots,
            cut: vec![vec![0; nodes]; nodes],
            store_down: 0,
            bucket: Bucket::default(),
            truth: Truth::default(),
            conns: BTreeMap::new(),
            next_id: 0,
            clients: Clients::new(scenario.clients),
            watchers: vec![],
            entries_from: 1,
            calm: false,
            trace,
            settled_at: None,
            steps: 0,
            scenario,
        };
        for slot in 0..world.scenario.started {
            let at = world.rng.range(0, 300);
            world.after(at, Happening::Boot(slot));
        }
        for (at, _) in world.scenario.faults.clone().iter().enumerate().map(|(i, f)| (i, f.0)) {
            let when = world.scenario.faults.get(at).map_or(0, |f| f.0);
            world.after(when, Happening::Fault(at));
        }
        for client in 0..world.scenario.clients {
            world.after(500 + client as u64 * 7, Happening::Client(client));
        }
        for watcher in 0..world.scenario.watchers {
            world.watchers.push(Watcher::new(watcher));
            world.after(700, Happening::Watch(watcher));
        }
        world
    }

    pub fn count(&mut self, what: &'static str) {
        self.truth.count(what);
    }

    pub fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn after(&mut self, delay: u64, what: Happening) {
        self.seq += 1;
        self.queue.insert((self.now + delay, self.seq), what);
    }

    pub fn at(&mut self, when: u64, what: Happening) {
        self.seq += 1;
        self.queue.insert((when.max(self.now), self.seq), what);
    }

    pub fn input(&mut self, slot: usize, life: u64, delay: u64, input: Input) {
        self.after(delay, Happening::To { slot, life, input });
    }

    /// A node's clock: goes on while it is paused.
    pub fn clock(&self, slot: usize) -> u64 {
        self.slots.get(slot).map_or(0, |s| s.offset + self.now * s.rate_ppm / 1_000_000)
    }

    pub fn log(&self, slot: usize, text: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>7} n{slot} {}", self.now, text());
        }
    }

    /// One step. False: nothing is left to happen.
    pub fn step(&mut self) -> bool {
        let Some(((at, _), what)) = self.queue.pop_first() else { return false };
        self.now = at;
        self.steps += 1;
        match what {
            Happening::To { slot, life, input } => self.deliver(slot, life, input),
            Happening::Boot(slot) => self.boot(slot),
            Happening::Lands { op, slot, life, why, answer_at } => {
                let answer = self.bucket.apply(op, self.mutant, &mut self.truth);
                if let Some(at) = answer_at {
                    self.at(at, Happening::To { slot, life, input: Input::Storage(why, answer) });
                } else {
                    self.count("landed unanswered");
                }
            }
            Happening::Client(client) => self.client_acts(client),
            Happening::ClientTimeout { client, op } => self.client_times_out(client, op),
            Happening::ClientAnswer { op, outcome } => self.client_answered(op, outcome),
            Happening::Watch(watcher) => self.watch_again(watcher),
            Happening::Fault(at) => self.fault(at),
            Happening::Resume(slot) => self.resume(slot),
            Happening::Heal(healing) => self.heal(healing),
            Happening::CleanUp { seq, through, slow } => self.clean_up(seq, through, slow),
            Happening::Probe => {}
        }
        true
    }

    fn deliver(&mut self, slot: usize, life: u64, input: Input) {
        let Some(place) = self.slots.get_mut(slot) else { return };
        if place.booting == Some(life) {
            if place.paused {
                place.deferred.push(input);
            } else if let Input::Storage(Why::Register, answer) = input {
                self.registered(slot, life, answer);
            }
            return;
        }
        if place.process.as_ref().is_none_or(|p| p.life != life) {
            return;
        }
        if place.paused {
            if !matches!(input, Input::Tick) || !place.deferred.iter().any(|i| matches!(i, Input::Tick)) {
                place.deferred.push(input);
            }
            return;
        }
        self.handle(slot, input);
    }

    pub fn resume(&mut self, slot: usize) {
        let Some(place) = self.slots.get_mut(slot) else { return };
        if !std::mem::take(&mut place.paused) {
            return;
        }
        let life = place.process.as_ref().map(|p| p.life).or(place.booting);
        let deferred = std::mem::take(&mut place.deferred);
        if let Some(life) = life {
            for input in deferred {
                self.input(slot, life, 0, input);
            }
        }
    }

    // ---- starting and ending processes ----

    pub fn boot(&mut self, slot: usize) {
        let fresh = self.rng.wide();
        let life = self.fresh();
        let Some(place) = self.slots.get_mut(slot) else { return };
        if place.process.is_some() || place.booting.is_some() || place.halted.is_some() {
            return;
        }
        place.booting = Some(life);
        place.paused = false;
        place.deferred.clear();
        place.restart_after = None;
        place.disk.get_or_insert_with(|| Disk::new(fresh));
        // R11: the stored counter is compared before it is raised, or starts that fail would bring a restored backup's
        // counter past the registration's.
        self.call(slot, life, Why::Register, Op::ReadRegistration(node_id(slot)));
    }

    fn register(&mut self, slot: usize, life: u64) {
        let Some(place) = self.slots.get(slot) else { return };
        let Some(disk) = &place.disk else { return };
        let node = RegisteredNode {
            node_id: place.id.clone(),
            incarnation: disk.incarnation,
            stopped: false,
            address: place.id.to_string(),
        };
        let expected = self.bucket.registered(&place.id);
        let op = Op::Register { node, boot: disk.boot, by: life, expected };
        self.call(slot, life, Why::Register, op);
    }

    fn registered(&mut self, slot: usize, life: u64, answer: Answer) {
        let fresh = self.rng.wide();
        match answer {
            Answer::Registration(known) => {
                let forget = self.mutant == Some(Mutant::ForgetBootCounter);
                let Some(disk) = self.slots.get_mut(slot).and_then(|p| p.disk.as_mut()) else { return };
                let behind = known.is_some_and(|(inc, boot)| inc == disk.incarnation && boot > disk.boot);
                if behind && !forget {
                    *disk = Disk::new(fresh);
                    self.truth.count("restored backup set aside");
                }
                if let Some(disk) = self.slots.get_mut(slot).and_then(|p| p.disk.as_mut()) {
                    disk.boot += 1;
                }
                self.register(slot, life);
            }
            Answer::Registered(true) => self.begin(slot, life),
            Answer::Registered(false) => {
                // R11: a restored backup.
                let Some(place) = self.slots.get_mut(slot) else { return };
                let Some(disk) = &mut place.disk else { return };
                *disk = Disk::new(fresh);
                disk.boot = 1;
                self.count("restored backup set aside");
                self.register(slot, life);
            }
            _ => self.call(slot, life, Why::Register, Op::ReadRegistration(node_id(slot))),
        }
    }

    fn begin(&mut self, slot: usize, life: u64) {
        let seed = self.rng.wide();
        let now = self.clock(slot);
        let settings: Settings = self.scenario.settings.clone();
        let mutant = self.mutant;
        let entries_from = self.entries_from;
        let Some(place) = self.slots.get_mut(slot) else { return };
        let Some(disk) = &mut place.disk else { return };
        place.booting = None;
        let session = Session(u128::from(life) | 1 << 64);
        let mem = disk.log.clone();
        disk.visible = disk.visible.min(mem.last().map_or(Default::default(), |e| e.index));
        let mut store = crate::process::new_store();
        for entry in mem.iter().take(disk.visible.0 as usize) {
            if let Err(error) = store.apply(entry.clone()) {
                self.truth.breach(format!("n{slot}: a stored entry cannot be applied: {error}"));
                return;
            }
        }
        store.set_visible(disk.visible);
        let runs = Runs::new(crate::bucket::runs_of(&mem)).unwrap_or_default();
        let start = Start {
            cluster_id: "sim".into(),
            me: ProcessId { node_id: place.id.clone(), incarnation: disk.incarnation, session },
            address: place.id.to_string(),
            settings,
            stored: Stored { promised: disk.promised, runs, visible: disk.visible, led: disk.led },
            seed,
            nodes: vec![],
        };
        let mut engine = Engine::broken(now, start, mutant);
        engine.set_entries_from(netsy_api::ids::LogIndex(entries_from));
        place.process = Some(Process {
            life,
            session,
            engine,
            store,
            mem,
            queue: VecDeque::new(),
            syncing: None,
            requests: VecDeque::new(),
            writing: false,
            leading: None,
            waiting: VecDeque::new(),
            reads: VecDeque::new(),
            renewals: VecDeque::new(),
            stalled: vec![],
            forwarded: BTreeMap::new(),
            catching_up: vec![],
            senders: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_stream: 1_000_000,
            uploads: None,
            upload_pending: false,
            load: None,
            abandoned: Default::default(),
            point: None,
            floor: netsy_api::ids::Revision(-1),
            next_lease_tick: 0,
            next_compaction: now + 3_000,
            compacted_at: vec![],
            told_down: Default::default(),
            halted: None,
        });
        self.count("start");
        self.log(slot, || format!("starts as process {life}"));
        self.input(slot, life, 1, Input::Tick);
        self.drain(slot, &[]);
    }

    /// kill -9.
    pub fn crash(&mut self, slot: usize) {
        let cut = self.rng.bits();
        let Some(place) = self.slots.get_mut(slot) else { return };
        place.booting = None;
        place.paused = false;
        place.deferred.clear();
        let Some(process) = place.process.take() else { return };
        // Of what was on its way to the disk, some may have arrived, in order.
        if let (Some(upto), Some(disk)) = (process.syncing, &mut place.disk) {
            let batch: Vec<_> = process.queue.into_iter().take_while(|(seq, _)| *seq <= upto).collect();
            let arrived = (cut % (batch.len() as u64 + 1)) as usize;
            for (_, op) in batch.into_iter().take(arrived) {
                disk.apply(op);
            }
        }
        let life = process.life;
        self.log(slot, || format!("process {life} ends"));
        self.process_gone(slot, life);
    }

    /// Others notice: connections break.
    pub fn process_gone(&mut self, slot: usize, life: u64) {
        let mut closed = vec![];
        for conn in self.conns.values_mut().filter(|c| c.open) {
            if (conn.replica.0, conn.replica.1) == (slot, life) {
                conn.open = false;
                if let Some(stream) = conn.primary_stream {
                    closed.push((conn.primary.0, conn.primary.1, stream));
                }
            } else if conn.primary == (slot, life) {
                conn.open = false;
                closed.push(conn.replica);
            }
        }
        for (other, life, stream) in closed {
            if self.linked(slot, other) {
                let delay = self.rng.range(1, 5);
                self.input(other, life, delay, Input::StreamClosed(stream));
            }
        }
        for other in 0..self.slots.len() {
            let Some(life) = self.slots.get(other).and_then(|s| s.process.as_ref()).map(|p| p.life) else { continue };
            if other != slot && self.linked(slot, other) {
                let delay = self.rng.range(1, 5);
                self.input(other, life, delay, Input::PeerDown(slot));
            }
        }
        self.clients_lose(slot, life);
    }

    // ---- network ----

    pub fn linked(&self, from: usize, to: usize) -> bool {
        self.cut.get(from).and_then(|row| row.get(to)).is_none_or(|cut| *cut == 0)
    }

    pub fn latency(&mut self) -> u64 {
        if self.rng.chance(self.weather.late) { self.rng.range(50, 3_000) } else { self.rng.range(0, 2) }
    }

    pub fn send(&mut self, from: usize, to: usize, message: Message) {
        if !self.linked(from, to) || self.rng.chance(self.weather.lost) {
            return;
        }
        let copies = if self.rng.chance(self.weather.doubled) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.latency();
            match self.slots.get(to).and_then(|s| s.process.as_ref()).map(|p| p.life) {
                Some(life) => self.input(to, life, delay, Input::Message { from, message: message.clone() }),
                None => {
                    // Refused: nobody listens there.
                    let life = self.slots.get(from).and_then(|s| s.process.as_ref()).map(|p| p.life);
                    if let (Some(life), true) = (life, self.linked(to, from)) {
                        self.input(from, life, 1, Input::PeerDown(to));
                    }
                }
            }
        }
    }

    // ---- object storage ----

    pub fn call(&mut self, slot: usize, life: u64, why: Why, op: Op) {
        let (mut low, mut high) = self.weather.store_ms;
        if matches!(op, Op::GetChunk(_)) {
            // Chunks are read many at a time.
            (low, high) = (low / 16, high / 16);
        }
        let there = self.rng.range(low, high) / 2 + 1;
        let back = self.rng.range(low, high) / 2 + 1;
        let timeout = self.rng.range(500, 3_000);
        let unknown = Input::Storage(why.clone(), Answer::Unknown);
        let cut = self.store_down > 0 || self.slots.get(slot).is_some_and(|s| s.store_cut > 0);
        if cut {
            let delay = if self.rng.chance(500) { timeout } else { 5 };
            return self.input(slot, life, delay, unknown);
        }
        let roll = self.rng.below(1000);
        let Weather { store_lost, store_unanswered, store_late, .. } = self.weather;
        let (lands, answered) = if roll < store_lost {
            (None, false)
        } else if roll < store_lost + store_unanswered {
            (Some(there), false)
        } else if roll < store_lost + store_unanswered + store_late {
            self.truth.count("store call lands late");
            (Some(timeout + self.rng.range(1, 20_000)), false)
        } else {
            (Some(there), true)
        };
        if !answered {
            self.input(slot, life, timeout, unknown);
        }
        if let Some(delay) = lands {
            let answer_at = answered.then_some(self.now + delay + back);
            self.after(delay, Happening::Lands { op, slot, life, why, answer_at });
        }
    }

    /// A node's identity as a voter, if its disk is still there.
    pub fn incarnation(&self, node: &NodeId) -> Option<Incarnation> {
        self.slots.iter().find(|s| s.id == *node).and_then(|s| s.disk.as_ref()).map(|d| d.incarnation)
    }

    pub fn slot_of(&self, node: &NodeId) -> Option<usize> {
        self.slots.iter().position(|s| s.id == *node)
    }

    pub fn answer(&mut self, to: To, outcome: Outcome) {
        match to {
            To::Client(op) => {
                let delay = self.rng.range(0, 2);
                self.after(delay, Happening::ClientAnswer { op, outcome });
            }
            To::Node { slot, life, op } => {
                let delay = self.latency();
                self.input(slot, life, delay, Input::Forwarded { op, outcome });
            }
            To::Nobody => {}
        }
    }
}

pub fn node_id(slot: usize) -> NodeId {
    match NodeId::new(format!("n{slot}")) {
        Ok(id) => id,
        Err(error) => unreachable!("{error}"),
    }
}
