//! Carrying faults out, and ending them.

use crate::bucket::{Op, Snapshot};
use crate::scenario::{DiskFate, Fault};
use crate::world::{Happening, Healing, Input, Why, World};
use netsy_api::ids::{ChunkSeq, LogIndex};
use netsy_protocol::event::Event;
use netsy_protocol::mutant::Mutant;
use netsy_protocol::quorum::Voter;
use netsy_protocol::status::Role;
use std::sync::Arc;

impl World {
    /// A node that acts as Primary; of several the one of the greatest term.
    pub fn primary(&self) -> Option<usize> {
        let leading = self.slots.iter().enumerate().filter_map(|(i, s)| {
            let process = s.process.as_ref()?;
            Some((process.leading?, i))
        });
        leading.max().map(|(_, slot)| slot)
    }

    fn elector(&self) -> Option<usize> {
        let holder = self.bucket.lock.as_ref()?;
        self.slot_of(&holder.node_id)
    }

    pub fn fault(&mut self, at: usize) {
        let Some((_, fault)) = self.scenario.faults.get(at).copied() else { return };
        if self.calm {
            return;
        }
        if self.trace {
            eprintln!("{:>7} FAULT {fault:?}", self.now);
        }
        self.apply_fault(fault);
    }

    pub fn apply_fault(&mut self, fault: Fault) {
        self.count("fault");
        let primary = self.primary();
        match fault {
            Fault::Crash { node, down, disk } => self.crash_for(node, down, disk),
            Fault::CrashPrimary { down, disk } => {
                if let Some(primary) = primary {
                    self.crash_for(primary, down, disk);
                }
            }
            Fault::CrashElector { down } => {
                if let Some(elector) = self.elector() {
                    self.crash_for(elector, down, DiskFate::Kept);
                }
            }
            Fault::Pause { node, length } => self.pause(node, length),
            Fault::PausePrimary { length } => {
                if let Some(primary) = primary {
                    self.pause(primary, length);
                }
            }
            Fault::Isolate { node, length } => {
                self.isolate(node, 1);
                self.after(length, Happening::Heal(Healing::Isolate(node)));
            }
            Fault::Cut { from, to, length } => {
                self.cut_link(from, to, 1);
                self.after(length, Happening::Heal(Healing::Cut(from, to)));
            }
            Fault::CutStore { node, length } => self.cut_store(node, length),
            Fault::CutStoreOfPrimary { length } => {
                if let Some(primary) = primary {
                    self.cut_store(primary, length);
                }
            }
            Fault::StoreDown { length } => {
                self.store_down += 1;
                self.after(length, Happening::Heal(Healing::StoreAll));
            }
            Fault::SlowDisk { node, length } => {
                if let Some(place) = self.slots.get_mut(node) {
                    place.slow_disk += 1;
                    self.after(length, Happening::Heal(Healing::Disk(node)));
                }
            }
            Fault::Stop { node, down } => self.stop(node, down),
            Fault::StopAll { down } => {
                for node in 0..self.slots.len() {
                    self.stop(node, down);
                }
            }
            Fault::Move => {
                if let Some(primary) = primary {
                    self.tell(primary, Event::MovePrimary(None));
                }
            }
            Fault::SetQuorum { quorum } => {
                if let Some(primary) = primary {
                    self.tell(primary, Event::SetCluster { quorum: Some(quorum), copies_min: None });
                }
            }
            Fault::SetCopies { copies } => {
                if let Some(primary) = primary {
                    self.tell(primary, Event::SetCluster { quorum: None, copies_min: Some(copies) });
                }
            }
            Fault::Backup { node } => {
                if let Some(place) = self.slots.get_mut(node) {
                    place.backup = place.disk.clone();
                }
            }
            Fault::Snapshot { node } => self.snapshot(node),
            Fault::CleanUp { slow } => {
                let through = self.bucket.snapshots.last().map_or(ChunkSeq(0), |s| s.covers.seq);
                self.after(0, Happening::CleanUp { seq: ChunkSeq(0), through, slow });
            }
            Fault::ForgetEntries => {
                let from = self.bucket.snapshots.last().map_or(1, |s| s.covers.last_index.0 + 1);
                self.entries_from = self.entries_from.max(from);
                for process in self.slots.iter_mut().filter_map(|s| s.process.as_mut()) {
                    process.engine.set_entries_from(LogIndex(self.entries_from));
                }
            }
            Fault::Recover => {
                // Databases that vote and are not there: their node may run with another one.
                let voters = self.bucket.manifest.iter().flat_map(|m| &m.voters);
                let there = |v: &&Voter| {
                    let slot = self.slots.iter().find(|s| s.id == v.node_id && s.process.is_some());
                    slot.and_then(|s| s.disk.as_ref()).is_some_and(|d| d.incarnation == v.incarnation)
                };
                let lost: Vec<_> = voters.filter(|v| !there(v)).map(|v| v.node_id.clone()).collect();
                let alive = self.slots.iter().position(|s| s.process.is_some() && !s.paused);
                if let Some(alive) = alive {
                    self.tell(alive, Event::Recover { lost });
                }
            }
            Fault::Wipe { node } => {
                let wiped = crate::process::Disk::new(self.rng.wide());
                if let Some(place) = self.slots.get_mut(node).filter(|p| p.process.is_none() && p.booting.is_none()) {
                    place.disk = Some(wiped);
                }
            }
            Fault::Clock { node, by } => {
                if let Some(place) = self.slots.get_mut(node) {
                    // Only between two processes: within one, the clock is a monotonic one.
                    if place.process.is_none() {
                        place.offset += by;
                    }
                }
            }
        }
    }

    fn tell(&mut self, slot: usize, event: Event) {
        let life = self.life_of(slot);
        self.input(slot, life, 0, Input::Engine(event));
    }

    fn crash_for(&mut self, slot: usize, down: u64, fate: DiskFate) {
        let running = self.slots.get(slot).is_some_and(|s| s.process.is_some() || s.booting.is_some());
        let started = self.slots.get(slot).is_some_and(|s| s.disk.is_some());
        if !running && started {
            return;
        }
        self.count("crash");
        self.crash(slot);
        let wiped = crate::process::Disk::new(self.rng.wide());
        let Some(place) = self.slots.get_mut(slot) else { return };
        match fate {
            DiskFate::Kept => {}
            DiskFate::Wiped => place.disk = Some(wiped),
            DiskFate::Old => {
                // Of an earlier start: one of the same start cannot be told from a crash (R11).
                let boot = place.disk.as_ref().map_or(0, |d| d.boot);
                if place.backup.as_ref().is_some_and(|b| b.boot < boot) {
                    place.disk = place.backup.clone();
                }
            }
        }
        if fate != DiskFate::Kept {
            self.count("disk lost");
        }
        self.after(down, Happening::Boot(slot));
    }

    fn pause(&mut self, slot: usize, length: u64) {
        if let Some(place) = self.slots.get_mut(slot)
            && (place.process.is_some() || place.booting.is_some())
            && !place.paused
        {
            place.paused = true;
            self.count("pause");
            self.after(length, Happening::Resume(slot));
        }
    }

    fn stop(&mut self, slot: usize, down: u64) {
        if let Some(place) = self.slots.get_mut(slot)
            && place.process.is_some()
            && !place.paused
        {
            place.restart_after = Some(down);
            self.tell(slot, Event::Stop);
        }
    }

    fn cut_link(&mut self, from: usize, to: usize, by: i32) {
        if from == to {
            return;
        }
        if let Some(cut) = self.cut.get_mut(from).and_then(|row| row.get_mut(to)) {
            *cut = cut.saturating_add_signed(by);
        }
    }

    fn isolate(&mut self, node: usize, by: i32) {
        for other in 0..self.slots.len() {
            self.cut_link(node, other, by);
            self.cut_link(other, node, by);
        }
    }

    fn cut_store(&mut self, node: usize, length: u64) {
        if let Some(place) = self.slots.get_mut(node) {
            place.store_cut += 1;
            self.after(length, Happening::Heal(Healing::Store(node)));
        }
    }

    pub fn heal(&mut self, healing: Healing) {
        if self.calm {
            return;
        }
        match healing {
            Healing::Isolate(node) => self.isolate(node, -1),
            Healing::Cut(from, to) => self.cut_link(from, to, -1),
            Healing::Store(node) => {
                if let Some(place) = self.slots.get_mut(node) {
                    place.store_cut = place.store_cut.saturating_sub(1);
                }
            }
            Healing::StoreAll => self.store_down = self.store_down.saturating_sub(1),
            Healing::Disk(node) => {
                if let Some(place) = self.slots.get_mut(node) {
                    place.slow_disk = place.slow_disk.saturating_sub(1);
                }
            }
        }
    }

    /// Everything that went wrong is over; every node runs, or comes back soon.
    pub fn calm_down(&mut self) {
        self.calm = true;
        self.weather = crate::scenario::Weather::FAIR;
        self.store_down = 0;
        for row in &mut self.cut {
            row.fill(0);
        }
        for slot in 0..self.slots.len() {
            if let Some(place) = self.slots.get_mut(slot) {
                place.store_cut = 0;
                place.slow_disk = 0;
            }
            self.resume(slot);
            let delay = self.rng.range(0, 500);
            self.after(delay, Happening::Boot(slot));
        }
    }

    // ---- snapshots and clean-up (section 6) ----

    /// A node writes a snapshot at the end of a chunk that is known to exist.
    fn snapshot(&mut self, slot: usize) {
        let beyond = self.mutant == Some(Mutant::SnapshotPastObjectLog);
        let Some(process) = self.slots.get(slot).and_then(|s| s.process.as_ref()) else { return };
        let visible = process.store.visible_index();
        let chunk = self.bucket.chunks.values().rev().find(|c| {
            let last = c.last();
            last.last_index <= visible && process.term_at(last.last_index) == Some(last.term)
        });
        let Some(chunk) = chunk else { return };
        let mut covers = chunk.fact();
        if beyond {
            covers.last_index = visible;
        }
        let entries: Vec<_> = process.mem.iter().take(covers.last_index.0 as usize).cloned().collect();
        if (entries.len() as u64) < covers.last_index.0 {
            return;
        }
        let life = process.life;
        self.count("snapshot");
        let snapshot = Snapshot { covers, entries: Arc::new(entries) };
        self.call(slot, life, Why::Nothing, Op::PutSnapshot(snapshot));
    }

    /// Deletes chunks that the newest snapshot covers, one by one: never a seal, never the newest.
    pub fn clean_up(&mut self, seq: ChunkSeq, through: ChunkSeq, slow: bool) {
        let end = self.bucket.end();
        let newest_too = self.mutant == Some(Mutant::GcNewest);
        let seals_too = self.mutant == Some(Mutant::SealsDeleted);
        let covered = self.bucket.snapshots.last().map_or(ChunkSeq(0), |s| s.covers.seq);
        let next = self.bucket.chunks.range(seq.next()..).next().map(|(seq, chunk)| (*seq, chunk.entries.is_empty()));
        let Some((at, seal)) = next.filter(|(at, _)| *at <= through && *at <= covered) else { return };
        if (at < end || newest_too) && (!seal || seals_too) {
            self.bucket.chunks.remove(&at);
            self.count("chunk deleted");
        }
        let delay = if slow { self.rng.range(10, 500) } else { 0 };
        self.after(delay, Happening::CleanUp { seq: at, through, slow });
    }

    /// Whether there is one Primary, which everybody follows.
    pub fn is_settled(&self) -> bool {
        let Some(primary) = self.primary() else { return false };
        let Some(leader) = self.slots.get(primary).and_then(|s| s.process.as_ref()) else { return false };
        let end = leader.mem.len() as u64;
        let status = leader.engine.status(0);
        status.role == Role::Primary
            && !status.changing
            && self.slots.iter().all(|s| {
                s.process
                    .as_ref()
                    .is_some_and(|p| p.store.visible_index().0 + 20 >= end && p.engine.status(0).primary_ready)
            })
    }
}
