//! Processes: how they begin, register (R11) and end.

use crate::bucket::{Answer, Op};
use crate::disk::{self, Disk};
use crate::process::Process;
use crate::world::{Input, Why, World, node_id};
use netsy_api::ids::{LogIndex, Revision, Session};
use netsy_protocol::config::{RegisteredNode, Start, Stored};
use netsy_protocol::engine::Engine;
use netsy_protocol::manifest::ProcessId;
use netsy_protocol::mutant::Mutant;
use netsy_protocol::reconcile::Runs;
use std::collections::{BTreeMap, VecDeque};

impl World {
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
        let disk = place.disk.get_or_insert_with(|| Disk::new(fresh));
        if self.mutant == Some(Mutant::RaiseBootFirst) {
            disk.boot += 1;
        }
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

    pub fn registered(&mut self, slot: usize, life: u64, answer: Answer) {
        let fresh = self.rng.wide();
        match answer {
            Answer::Registration(known) => {
                let forget = self.mutant == Some(Mutant::ForgetBootCounter);
                let Some(disk) = self.slots.get_mut(slot).and_then(|p| p.disk.as_mut()) else { return };
                // Where another database is registered, its counter says nothing of one that was there before: it may be a
                // copy, and another copy may have voted.
                let behind = known.is_some_and(|(inc, boot)| match inc == disk.incarnation {
                    true => boot > disk.boot,
                    false => !disk.new,
                });
                if behind && !forget {
                    *disk = Disk::new(fresh);
                    self.truth.count("restored backup set aside");
                }
                let raised = self.mutant == Some(Mutant::RaiseBootFirst);
                if let Some(disk) = self.slots.get_mut(slot).and_then(|p| p.disk.as_mut()) {
                    disk.boot += u64::from(!raised || behind);
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
        let settings = self.scenario.settings.clone();
        let mutant = self.mutant;
        let entries_from = self.entries_from;
        let Some(place) = self.slots.get_mut(slot) else { return };
        let Some(disk) = &mut place.disk else { return };
        place.booting = None;
        let session = Session(u128::from(life) | 1 << 64);
        let (mem, holes) = (disk.log.clone(), disk.holes.clone());
        disk.visible = disk.shown();
        let mut store = match disk::load(&mem, &holes, disk.visible) {
            Ok(store) => store,
            Err(error) => {
                self.truth.breach(format!("n{slot}: what is stored gives no state: {error}"));
                return;
            }
        };
        store.set_visible(disk.visible);
        let at_hand = LogIndex(entries_from).max(holes.partial.next());
        let point = disk.point.filter(|p| p.last.last_index >= holes.partial && disk::fits(&mem, p));
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
        engine.set_entries_from(at_hand);
        place.process = Some(Process {
            life,
            session,
            engine,
            store,
            mem,
            holes,
            installed: LogIndex(0),
            queue: VecDeque::new(),
            syncing: None,
            disk_full: false,
            requests: VecDeque::new(),
            writing: false,
            leading: None,
            to_show: LogIndex(0),
            showing: false,
            waiting: VecDeque::new(),
            reads: VecDeque::new(),
            proven: vec![],
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
            point,
            logged: Default::default(),
            loaded: None,
            // What it let go may not all be gone: the walk begins anew.
            compacted: Revision(0),
            removing: None,
            last_local: Default::default(),
            floor: Revision(-1),
            next_lease_tick: 0,
            next_compaction: now + 3_000,
            compacted_at: vec![],
            told_down: Default::default(),
            halted: None,
        });
        self.count("start");
        self.log(slot, || format!("starts as process {life}"));
        self.input(slot, life, 1, Input::Tick);
        self.drain(slot);
    }

    /// kill -9.
    pub fn crash(&mut self, slot: usize) {
        let cut = self.rng.bits();
        let Some(place) = self.slots.get_mut(slot) else { return };
        place.booting = None;
        place.paused = false;
        place.deferred.clear();
        if let Some(disk) = &mut place.disk {
            disk.new = false;
        }
        let full = place.full_disk > 0;
        let Some(process) = place.process.take() else { return };
        // Of what was on its way to the disk, some may have arrived, in order.
        if let (Some(upto), Some(disk)) = (process.syncing, &mut place.disk) {
            let batch: Vec<_> = process.queue.into_iter().take_while(|(seq, _)| *seq <= upto).collect();
            let arrived = if full { 0 } else { (cut % (batch.len() as u64 + 1)) as usize };
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
}
