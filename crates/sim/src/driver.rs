//! A node's driver: what `docs/decisions/0006-protocol-engine.md` asks of it, in simulated time.

use crate::disk::{Disk, DiskOp, Holes};
use crate::process::{Sender, To, Uploads};
use crate::world::{Input, World};
use netsy_api::ids::LogIndex;
use netsy_api::log::Entry;
use netsy_protocol::command::{Command, LocalOp, Report};
use netsy_protocol::event::Event;
use netsy_protocol::message::ToReplica;
use std::sync::Arc;

/// What came with the event that is being handled.
#[derive(Clone, Copy, Default)]
pub struct Brought<'a> {
    pub entries: &'a [Arc<Entry>],
    /// Of a snapshot.
    pub holes: Option<&'a Holes>,
}

impl World {
    pub fn handle(&mut self, slot: usize, input: Input) {
        let now = self.clock(slot);
        match input {
            Input::Tick => return self.tick(slot),
            Input::Message { from, message } => {
                let node = crate::world::node_id(from);
                self.log(slot, || format!("<- n{from} {message:?}"));
                let Some(process) = self.process(slot) else { return };
                if process.told_down.remove(&node) {
                    process.engine.handle(now, Event::PeerUp(node.clone()));
                }
                process.engine.handle(now, Event::Message { from: node, message });
            }
            Input::PeerDown(other) => {
                let node = crate::world::node_id(other);
                let Some(process) = self.process(slot) else { return };
                if process.told_down.insert(node.clone()) {
                    process.engine.handle(now, Event::PeerDown(node));
                }
            }
            Input::Synced => return self.synced(slot),
            Input::Storage(why, answer) => return self.on_storage(slot, why, answer),
            Input::Hello { conn, hello } => return self.on_hello(slot, conn, hello),
            Input::ToReplica { stream, frame, entries, logged } => {
                self.log(slot, || format!("<= {stream:?} {frame:?}"));
                let Some(process) = self.process(slot) else { return };
                if let Some(point) = logged {
                    process.saw_point(point);
                }
                process.engine.handle(now, Event::FromPrimary { stream, frame });
                return self.drain_with(slot, Brought { entries: &entries, holes: None });
            }
            Input::ToPrimary { stream, frame } => {
                let Some(process) = self.process(slot) else { return };
                process.engine.handle(now, Event::FromReplica { stream, frame });
            }
            Input::StreamClosed(stream) => {
                let Some(process) = self.process(slot) else { return };
                process.senders.remove(&stream);
                process.conns.remove(&stream);
                process.engine.handle(now, Event::StreamClosed(stream));
            }
            Input::Leading(term) => return self.lead(slot, term),
            Input::Ask(ask) => return self.on_ask(slot, ask),
            Input::Forward { from, life, ask } => {
                let to = To::Node { slot: from, life, op: ask.op };
                return self.on_forward(slot, ask, to);
            }
            Input::Forwarded { op, outcome } => return self.on_forwarded(slot, op, outcome),
            Input::Write => return self.write(slot),
            Input::Show => self.show_wanted(slot),
            Input::Upload => {
                if let Some(process) = self.process(slot) {
                    process.upload_pending = false;
                }
                return self.upload(slot);
            }
            Input::Engine(event) => {
                let Some(process) = self.process(slot) else { return };
                process.engine.handle(now, event);
            }
        }
        self.drain(slot);
    }

    pub fn process(&mut self, slot: usize) -> Option<&mut crate::process::Process> {
        self.slots.get_mut(slot)?.process.as_mut()
    }

    fn tick(&mut self, slot: usize) {
        let now = self.clock(slot);
        let lowest = self.watch_lowest(slot);
        let jitter = self.rng.below(10);
        let Some(process) = self.process(slot) else { return };
        let life = process.life;
        process.engine.handle(now, Event::WatchLowest(lowest));
        process.engine.handle(now, Event::Tick);
        self.input(slot, life, 45 + jitter, Input::Tick);
        self.drain(slot);
        self.tick_leases(slot);
        self.tick_compaction(slot);
        self.tick_rows(slot);
        self.retry_stalled(slot);
        self.upload(slot);
    }

    /// Carries out what the engine wants.
    pub fn drain(&mut self, slot: usize) {
        self.drain_with(slot, Brought::default());
    }

    /// The same with what came with the event being handled.
    pub fn drain_with(&mut self, slot: usize, brought: Brought<'_>) {
        loop {
            let Some(process) = self.process(slot) else { return };
            let Some(command) = process.engine.next_command() else { break };
            self.carry_out(slot, command, brought);
        }
        self.pump(slot);
    }

    fn carry_out(&mut self, slot: usize, command: Command, brought: Brought<'_>) {
        self.log(slot, || format!("-> {command:?}"));
        let Some(process) = self.process(slot) else { return };
        let life = process.life;
        match command {
            Command::Send { to, message } => {
                if let Some(to) = self.slot_of(&to) {
                    self.send(slot, to, message);
                }
            }
            Command::Local { seq, op } => self.local(slot, seq, op, brought),
            Command::Store { call, what } => self.store_call(slot, call, what),
            Command::Abandon(call) => {
                process.abandoned.insert(call);
            }
            Command::Follow { stream, primary, hello } => self.open(slot, stream, &primary, *hello),
            Command::ToReplica { stream, frame } => {
                if let ToReplica::Welcome(welcome) = &frame
                    && let Some(conn) = process.conns.get(&stream).copied()
                {
                    let next = welcome.common.next();
                    process.senders.insert(stream, Sender { conn, next, told: LogIndex(0), busy_until: 0 });
                }
                let conn = process.conns.get(&stream).copied();
                if let Some(conn) = conn {
                    self.frame_down(conn, frame, vec![]);
                }
            }
            Command::ToPrimary { stream, frame } => {
                if let Some(conn) = process.conns.get(&stream).copied() {
                    self.frame_up(conn, frame);
                }
            }
            Command::CloseStream(stream) => self.close(slot, stream),
            Command::Show(index) => self.show_soon(slot, index),
            Command::StartUploads { term, after, last_index } => {
                let last = process.run_at(last_index);
                process.uploads = Some(Uploads {
                    term,
                    seq: after,
                    last,
                    at_once: false,
                    flush: LogIndex(0),
                    in_flight: None,
                    since: 0,
                });
                self.upload_soon(slot);
            }
            Command::Flush(index) => {
                if let Some(uploads) = &mut process.uploads {
                    uploads.flush = uploads.flush.max(index);
                }
                self.upload_soon(slot);
            }
            Command::UploadAtOnce(at_once) => {
                if let Some(uploads) = &mut process.uploads {
                    uploads.at_once = at_once;
                }
                self.upload_soon(slot);
            }
            Command::Lead { term } => self.input(slot, life, 1, Input::Leading(term)),
            Command::StepDown { term } => self.step_down(slot, term),
            Command::ReadsReady { through, index } => self.reads_ready(slot, through, index),
            Command::ReadsFailed { through } => self.reads_failed(slot, through),
            Command::Nodes(_) | Command::Wake(_) => {}
            Command::RefuseWatchesBelow(floor) => {
                process.floor = process.floor.max(floor);
                let lowest = self.watch_lowest(slot);
                let event = Event::WatchFloorSet { floor, lowest };
                self.input(slot, life, 1, Input::Engine(event));
            }
            Command::Compact(revision) => {
                self.count("compaction agreed");
                self.compact_now(slot, revision);
            }
            Command::Rebuild(why) => {
                self.log(slot, || why);
                self.count("rebuild");
                let fresh = self.rng.wide();
                self.crash(slot);
                if let Some(place) = self.slots.get_mut(slot) {
                    place.disk = Some(Disk::new(fresh));
                }
                self.after(10, crate::world::Happening::Boot(slot));
            }
            Command::Halt(why) => {
                self.truth.breach(format!("n{slot} halts: {why}"));
                self.crash(slot);
                if let Some(place) = self.slots.get_mut(slot) {
                    place.halted = Some(why);
                }
            }
            Command::Left => {
                self.count("left");
                self.input(slot, life, 5, Input::Engine(Event::Finish));
            }
            Command::Stopped { undone } => {
                self.count(if undone.is_empty() { "stopped gracefully" } else { "stop left undone" });
                self.log(slot, || format!("stopped: {undone}"));
                let restart = self.slots.get(slot).and_then(|s| s.restart_after);
                // What was on its way to the disk is synced at the end.
                if let Some(place) = self.slots.get_mut(slot).filter(|place| place.full_disk == 0)
                    && let (Some(process), Some(disk)) = (&mut place.process, &mut place.disk)
                {
                    for (_, op) in std::mem::take(&mut process.queue) {
                        disk.apply(op);
                    }
                    disk.visible = process.store.visible_index();
                }
                self.crash(slot);
                if let Some(delay) = restart {
                    self.after(delay, crate::world::Happening::Boot(slot));
                }
            }
            Command::Report(report) => self.on_report(report),
        }
    }

    fn on_report(&mut self, report: Report) {
        let what = match report {
            Report::BecameElector => "became elector",
            Report::ElectionBegan { why, .. } => {
                self.count("election began");
                why
            }
            Report::Elected { .. } => "elected",
            Report::QuorumLost { .. } => "quorum lost",
            Report::QuorumBack => "quorum back",
            Report::QuorumLate => "quorum late",
            Report::QuorumInTime => "quorum in time",
            Report::SealInHole(_) => "seal in a hole",
            Report::SealTaken(_) => "seal taken",
            Report::ChangeBegan => "change began",
            Report::ChangeDone => "change done",
            Report::ChangeLost => "change cut short",
            Report::LateSwap => "late swap",
            Report::Recovered { .. } => "recovered",
            Report::Declined(_) => "declined",
            Report::Forgetful(_) => "forgetful peer",
            Report::NoElector => "elector lost",
            Report::ConfigDiffers { .. } => "config differs",
        };
        self.count(what);
    }

    // ---- the local queue ----

    fn local(&mut self, slot: usize, seq: netsy_protocol::event::LocalSeq, op: LocalOp, brought: Brought<'_>) {
        let entries = brought.entries;
        let entries_from = LogIndex(self.entries_from);
        let Some(process) = self.process(slot) else { return };
        let mut wrong = None;
        process.last_local = seq;
        let op = match op {
            LocalOp::Promise(term) => DiskOp::Promise(term),
            LocalOp::Led(session) => DiskOp::Led(session),
            LocalOp::Truncate { after } => {
                if after < process.holes.partial {
                    wrong = Some(format!("n{slot} cuts after {after}, but {} is compacted", process.holes.partial));
                }
                process.mem.truncate(after.0 as usize);
                DiskOp::Truncate(after)
            }
            LocalOp::Store { from, through } => {
                let new: Vec<Arc<Entry>> =
                    entries.iter().filter(|e| e.index >= from && e.index <= through).cloned().collect();
                let follows = process.mem.len() as u64 + 1 == from.0 && new.len() as u64 == through.0 + 1 - from.0;
                if !follows {
                    wrong = Some(format!("n{slot} stores {from} to {through} after {}", process.mem.len()));
                }
                process.mem.extend(new.iter().cloned());
                DiskOp::Store(new)
            }
            LocalOp::InstallSnapshot { index } => {
                process.mem = entries.to_vec();
                process.holes = brought.holes.cloned().unwrap_or_default();
                (process.holes.partial, process.holes.least) = (index, index);
                process.installed = index;
                let holes = process.holes.clone();
                process.engine.set_entries_from(entries_from.max(index.next()));
                DiskOp::Install(Arc::new(entries.to_vec()), holes)
            }
        };
        process.queue.push_back((seq, op));
        if let Some(wrong) = wrong {
            self.truth.breach(wrong);
        }
        self.sync_soon(slot);
    }

    pub fn sync_soon(&mut self, slot: usize) {
        let slow = self.slots.get(slot).is_some_and(|s| s.slow_disk > 0);
        let (low, high) = self.weather.sync_ms;
        let delay = if slow { self.rng.range(100, 1_500) } else { self.rng.range(low, high) };
        let Some(process) = self.process(slot) else { return };
        if process.syncing.is_some() {
            return;
        }
        let Some((last, _)) = process.queue.back() else { return };
        process.syncing = Some(*last);
        let life = process.life;
        self.input(slot, life, delay, Input::Synced);
    }

    fn synced(&mut self, slot: usize) {
        let now = self.clock(slot);
        let Some(place) = self.slots.get_mut(slot) else { return };
        let full = place.full_disk > 0;
        let (Some(process), Some(disk)) = (&mut place.process, &mut place.disk) else { return };
        if full != process.disk_full {
            process.disk_full = full;
            process.engine.handle(now, Event::DiskFull(full));
        }
        if full {
            let life = process.life;
            self.truth.count("disk full");
            self.input(slot, life, 100, Input::Synced);
            return self.drain(slot);
        }
        let Some(upto) = process.syncing.take() else { return };
        while process.queue.front().is_some_and(|(seq, _)| *seq <= upto) {
            if let Some((_, op)) = process.queue.pop_front() {
                disk.apply(op);
            }
        }
        if let Some(point) = process.known_point()
            && crate::disk::fits(&disk.log, &point)
        {
            disk.point = Some(point);
        }
        // The visible index is stored with the next commit.
        let end = LogIndex(disk.log.len() as u64);
        disk.visible = disk.visible.max(process.store.visible_index().min(end));
        process.engine.local_done(now, upto);
        self.drain(slot);
        self.sync_soon(slot);
    }
}
