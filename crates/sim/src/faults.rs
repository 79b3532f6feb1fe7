//! Carrying faults out, and ending them.

use crate::disk::Disk;
use crate::scenario::{DiskFate, Fault};
use crate::world::{Happening, Healing, Input, World};
use netsy_api::ids::{ChunkSeq, LogIndex};
use netsy_protocol::event::Event;
use netsy_protocol::status::Role;

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
        if self.apply_fault(fault) {
            self.faults += 1;
            self.count("fault");
        }
    }

    /// False: there was nothing that it could do something to.
    pub fn apply_fault(&mut self, fault: Fault) -> bool {
        let primary = self.primary();
        // Where nobody leads: whoever was elected, in the midst of R4.
        let elected = self.bucket.manifest.as_ref().and_then(|m| self.slot_of(&m.primary.node_id));
        let acting = primary.or(elected);
        match fault {
            Fault::Crash { node, down, disk } => self.crash_for(node, down, disk),
            Fault::CrashPrimary { down, disk } => acting.is_some_and(|primary| self.crash_for(primary, down, disk)),
            Fault::CrashElector { down } => {
                self.elector().is_some_and(|elector| self.crash_for(elector, down, DiskFate::Kept))
            }
            Fault::Pause { node, length } => self.pause(node, length),
            Fault::PausePrimary { length } => acting.is_some_and(|primary| self.pause(primary, length)),
            Fault::Isolate { node, length } => {
                self.isolate(node, 1);
                self.after(length, Happening::Heal(Healing::Isolate(node)));
                self.slots.len() > 1
            }
            Fault::Cut { from, to, length } => {
                self.cut_link(from, to, 1);
                self.after(length, Happening::Heal(Healing::Cut(from, to)));
                from != to
            }
            Fault::CutStore { node, length } => self.cut_store(node, length),
            Fault::CutStoreOfPrimary { length } => acting.is_some_and(|primary| self.cut_store(primary, length)),
            Fault::StoreDown { length } => {
                self.store_down += 1;
                self.after(length, Happening::Heal(Healing::StoreAll));
                true
            }
            Fault::SlowDisk { node, length } => match self.slots.get_mut(node) {
                Some(place) => {
                    place.slow_disk += 1;
                    self.after(length, Happening::Heal(Healing::Disk(node)));
                    true
                }
                None => false,
            },
            Fault::FullDisk { node, length } => match self.slots.get_mut(node) {
                Some(place) => {
                    place.full_disk += 1;
                    self.after(length, Happening::Heal(Healing::FullDisk(node)));
                    true
                }
                None => false,
            },
            Fault::Stop { node, down } => self.stop(node, down),
            Fault::StopAll { down } => {
                let mut any = false;
                for node in 0..self.slots.len() {
                    any |= self.stop(node, down);
                }
                any
            }
            Fault::Backup { node } => match self.slots.get_mut(node) {
                Some(place) => {
                    place.backup = place.disk.clone().map(|disk| Disk { new: false, ..disk });
                    place.backup.is_some()
                }
                None => false,
            },
            Fault::Snapshot { node } => self.snapshot(node),
            Fault::Fold { slow } => self.fold_some(slow),
            Fault::CleanUp { slow } => {
                let through = self.bucket.snapshots.last().map_or(ChunkSeq(0), |s| s.covers.seq);
                self.after(0, Happening::CleanUp { seq: ChunkSeq(0), through, slow });
                through.0 > 0
            }
            Fault::ForgetEntries => {
                let from = self.bucket.snapshots.last().map_or(1, |s| s.covers.last_index.0 + 1);
                let more = from > self.entries_from;
                self.entries_from = self.entries_from.max(from);
                let from = LogIndex(self.entries_from);
                for process in self.slots.iter_mut().filter_map(|s| s.process.as_mut()) {
                    process.engine.set_entries_from(from.max(process.whole_from()));
                }
                more
            }
            Fault::Wipe { node } => {
                let wiped = Disk::new(self.rng.wide());
                match self.slots.get_mut(node).filter(|p| p.process.is_none() && p.booting.is_none()) {
                    Some(place) => {
                        place.disk = Some(wiped);
                        true
                    }
                    None => false,
                }
            }
            // Only between two processes: within one, the clock is a monotonic one.
            Fault::Clock { node, by } => match self.slots.get_mut(node).filter(|p| p.process.is_none()) {
                Some(place) => {
                    place.offset += by;
                    true
                }
                None => false,
            },
            Fault::Move | Fault::MoveTo { .. } | Fault::SetQuorum { .. } | Fault::SetCopies { .. } => {
                primary.is_some_and(|primary| self.operator(primary, fault))
            }
            Fault::Remove { node } => primary.is_some_and(|primary| {
                let running = self.slots.get(node).is_some_and(|s| s.process.is_some());
                self.truth.count(if running { "removal of a running node" } else { "removal" });
                self.tell(primary, Event::RemoveNode(crate::world::node_id(node)));
                true
            }),
            Fault::Recover => self.recover(),
            Fault::LateAnswers { node, length, by } => {
                let until = self.now + length;
                match self.slots.get_mut(node) {
                    Some(place) => {
                        place.late_answers = (until, by);
                        true
                    }
                    None => false,
                }
            }
        }
    }

    /// What an operator asks the Primary for.
    fn operator(&mut self, primary: usize, fault: Fault) -> bool {
        let event = match fault {
            Fault::MoveTo { node } => Event::MovePrimary(Some(crate::world::node_id(node))),
            Fault::SetQuorum { quorum } => Event::SetCluster { quorum: Some(quorum), copies_min: None },
            Fault::SetCopies { copies } => Event::SetCluster { quorum: None, copies_min: Some(copies) },
            _ => Event::MovePrimary(None),
        };
        self.tell(primary, event);
        true
    }

    /// R12: an operator gives up the voters that are not running, or whose disk is another one by now.
    pub fn recover(&mut self) -> bool {
        let Some(manifest) = &self.bucket.manifest else { return false };
        let lost: Vec<_> = manifest
            .waited_for()
            .filter(|v| {
                let place = self.slots.iter().find(|s| s.id == v.node_id);
                let same = self.incarnation(&v.node_id) == Some(v.incarnation);
                !same || place.is_some_and(|p| p.process.is_none() && p.booting.is_none())
            })
            .map(|v| v.node_id.clone())
            .collect();
        let alive: Vec<usize> = (0..self.slots.len())
            .filter(|slot| {
                // Also one that runs with another database than the one that is given up.
                self.slots.get(*slot).is_some_and(|s| s.process.is_some() && !s.paused)
            })
            .collect();
        let Some(alive) = self.rng.pick(&alive).copied() else { return false };
        if lost.is_empty() {
            return false;
        }
        self.count("recovery asked for");
        self.truth.recovery_asked = true;
        self.log(alive, || format!("recover without {lost:?}"));
        self.tell(alive, Event::Recover { lost });
        true
    }

    fn tell(&mut self, slot: usize, event: Event) {
        let life = self.life_of(slot);
        self.input(slot, life, 0, Input::Engine(event));
    }

    fn crash_for(&mut self, slot: usize, down: u64, fate: DiskFate) -> bool {
        let running = self.slots.get(slot).is_some_and(|s| s.process.is_some() || s.booting.is_some());
        let started = self.slots.get(slot).is_some_and(|s| s.disk.is_some());
        if !running && started {
            return false;
        }
        self.count("crash");
        self.crash(slot);
        let wiped = Disk::new(self.rng.wide());
        let Some(place) = self.slots.get_mut(slot) else { return false };
        match fate {
            DiskFate::Kept => {}
            DiskFate::Wiped => place.disk = Some(wiped),
            DiskFate::Old => {
                // Of a start before the last one that registered: one of that start cannot be told from a crash (R11).
                let known = self.bucket.registered(&place.id);
                let earlier = |b: &Disk| known.is_some_and(|(inc, boot)| inc != b.incarnation || b.boot < boot);
                if place.backup.as_ref().is_some_and(earlier) {
                    place.disk = place.backup.clone();
                }
            }
        }
        if fate != DiskFate::Kept {
            self.count("disk lost");
        }
        self.after(down, Happening::Boot(slot));
        true
    }

    fn pause(&mut self, slot: usize, length: u64) -> bool {
        if let Some(place) = self.slots.get_mut(slot)
            && (place.process.is_some() || place.booting.is_some())
            && !place.paused
        {
            place.paused = true;
            self.count("pause");
            self.after(length, Happening::Resume(slot));
            return true;
        }
        false
    }

    fn stop(&mut self, slot: usize, down: u64) -> bool {
        if let Some(place) = self.slots.get_mut(slot)
            && place.process.is_some()
            && !place.paused
        {
            place.restart_after = Some(down);
            self.tell(slot, Event::Stop);
            return true;
        }
        false
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

    fn cut_store(&mut self, node: usize, length: u64) -> bool {
        if let Some(place) = self.slots.get_mut(node) {
            place.store_cut += 1;
            self.after(length, Happening::Heal(Healing::Store(node)));
            return true;
        }
        false
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
            Healing::FullDisk(node) => {
                if let Some(place) = self.slots.get_mut(node) {
                    place.full_disk = place.full_disk.saturating_sub(1);
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
                place.full_disk = 0;
            }
            self.resume(slot);
            let delay = self.rng.range(0, 500);
            self.after(delay, Happening::Boot(slot));
        }
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
