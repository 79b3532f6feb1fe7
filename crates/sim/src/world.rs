//! The world: time, queue of events, nodes, links.

use crate::background::Fold;
use crate::bucket::{Answer, Bucket, Op};
use crate::client::{Clients, Watcher};
use crate::disk::{Disk, Point};
use crate::process::{Ask, Process};
use crate::rng::Rng;
use crate::scenario::{Scenario, Weather};
use crate::truth::Truth;
use netsy_api::ids::{ChunkSeq, Incarnation, NodeId, Term};
use netsy_api::log::Entry;
use netsy_history::Outcome;
use netsy_protocol::event::{CallId, Event, StreamId};
use netsy_protocol::message::{Hello, Message, ToPrimary, ToReplica};
use netsy_protocol::mutant::Mutant;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a process called object storage.
#[derive(Clone, Debug)]
pub enum Why {
    Engine(CallId),
    Register,
    LoadList(CallId),
    LoadChunk(CallId),
    LoadSegment(CallId),
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
    Message {
        from: usize,
        message: Message,
    },
    PeerDown(usize),
    Synced,
    Storage(Why, Answer),
    Hello {
        conn: u64,
        hello: Hello,
    },
    /// With the Primary's word on how far the object log goes.
    ToReplica {
        stream: StreamId,
        frame: ToReplica,
        entries: Vec<Arc<Entry>>,
        logged: Option<Point>,
    },
    ToPrimary {
        stream: StreamId,
        frame: ToPrimary,
    },
    StreamClosed(StreamId),
    Leading(Term),
    Ask(Ask),
    Forward {
        from: usize,
        life: u64,
        ask: Ask,
    },
    Forwarded {
        op: u64,
        outcome: Outcome,
    },
    Write,
    Upload,
    Show,
    Engine(Event),
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Happening {
    To {
        slot: usize,
        life: u64,
        input: Input,
    },
    Boot(usize),
    Lands {
        op: Op,
        slot: usize,
        life: u64,
        why: Why,
        answer_at: Option<u64>,
    },
    Client(usize),
    /// One of the scenario's requests.
    Asked(usize),
    ClientTimeout {
        client: usize,
        op: u64,
    },
    ClientAnswer {
        op: u64,
        outcome: Outcome,
    },
    Watch(usize),
    Fault(usize),
    Resume(usize),
    Heal(Healing),
    CleanUp {
        seq: ChunkSeq,
        through: ChunkSeq,
        slow: bool,
    },
    Fold(Fold),
}

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
pub enum Healing {
    Isolate(usize),
    Cut(usize, usize),
    Store(usize),
    StoreAll,
    Disk(usize),
    FullDisk(usize),
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
    pub full_disk: u32,
    pub store_cut: u32,
    /// Until when object storage answers its creations late, and by how much.
    pub late_answers: (u64, u64),
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
    /// Boxed: what happens is large, and moved about in here.
    queue: BTreeMap<(u64, u64), Box<Happening>>,
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
    /// Operations asked for, and faults that did something, so far.
    pub asked: u64,
    pub faults: u64,
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
                full_disk: 0,
                store_cut: 0,
                late_answers: (0, 0),
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
            asked: 0,
            faults: 0,
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
            let from = world.scenario.clients_from.max(500);
            world.after(from + client as u64 * 7, Happening::Client(client));
        }
        for at in 0..world.scenario.asks.len() {
            let when = world.scenario.asks.get(at).map_or(0, |ask| ask.0);
            world.after(when, Happening::Asked(at));
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
        self.queue.insert((self.now + delay, self.seq), Box::new(what));
    }

    pub fn at(&mut self, when: u64, what: Happening) {
        self.seq += 1;
        self.queue.insert((when.max(self.now), self.seq), Box::new(what));
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
        self.truth.now = at;
        self.steps += 1;
        match *what {
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
            Happening::Asked(at) => self.ask_as_written(at),
            Happening::ClientTimeout { client, op } => self.client_times_out(client, op),
            Happening::ClientAnswer { op, outcome } => self.client_answered(op, outcome),
            Happening::Watch(watcher) => self.watch_again(watcher),
            Happening::Fault(at) => self.fault(at),
            Happening::Resume(slot) => self.resume(slot),
            Happening::Heal(healing) => self.heal(healing),
            Happening::CleanUp { seq, through, slow } => self.clean_up(seq, through, slow),
            Happening::Fold(fold) => self.fold(fold),
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

    /// A node's identity as a voter, if its disk is still there.
    pub fn incarnation(&self, node: &NodeId) -> Option<Incarnation> {
        self.slots.iter().find(|s| s.id == *node).and_then(|s| s.disk.as_ref()).map(|d| d.incarnation)
    }

    pub fn slot_of(&self, node: &NodeId) -> Option<usize> {
        self.slots.iter().position(|s| s.id == *node)
    }
}

pub fn node_id(slot: usize) -> NodeId {
    match NodeId::new(format!("n{slot}")) {
        Ok(id) => id,
        Err(error) => unreachable!("{error}"),
    }
}
