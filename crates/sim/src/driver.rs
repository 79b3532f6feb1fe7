//! A node's driver: what `docs/decisions/0006-protocol-engine.md` asks of it, in simulated time.

use crate::process::{DiskOp, Sender, To, Uploads};
use crate::world::{Conn, Input, World};
use netsy_api::ids::LogIndex;
use netsy_api::log::Entry;
use netsy_history::Outcome;
use netsy_protocol::command::{Command, LocalOp, Report};
use netsy_protocol::event::{Event, StreamId};
use netsy_protocol::message::{Append, Hello, ToReplica};
use netsy_protocol::read::ReadId;
use std::sync::Arc;

/// Entries in one append.
const APPEND_MAX: u64 = 16;

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
            Input::ToReplica { stream, frame, entries } => {
                self.log(slot, || format!("<= {stream:?} {frame:?}"));
                let Some(process) = self.process(slot) else { return };
                process.engine.handle(now, Event::FromPrimary { stream, frame });
                return self.drain(slot, &entries);
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
        self.drain(slot, &[]);
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
        self.drain(slot, &[]);
        self.tick_leases(slot);
        self.tick_compaction(slot);
        self.retry_stalled(slot);
        self.upload(slot);
    }

    /// Carries out what the engine wants. `entries` are those of the event being handled.
    pub fn drain(&mut self, slot: usize, entries: &[Arc<Entry>]) {
        loop {
            let Some(process) = self.process(slot) else { return };
            let Some(command) = process.engine.next_command() else { break };
            self.carry_out(slot, command, entries);
        }
        self.pump(slot);
    }

    fn carry_out(&mut self, slot: usize, command: Command, entries: &[Arc<Entry>]) {
        self.log(slot, || format!("-> {command:?}"));
        let Some(process) = self.process(slot) else { return };
        let life = process.life;
        match command {
            Command::Send { to, message } => {
                if let Some(to) = self.slot_of(&to) {
                    self.send(slot, to, message);
                }
            }
            Command::Local { seq, op } => self.local(slot, seq, op, entries),
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
                    process.senders.insert(stream, Sender { conn, next, told: LogIndex(0) });
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
            Command::Show(index) => self.show(slot, index),
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
            Command::ReadsReady { through, .. } => self.reads_ready(slot, through),
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
                    place.disk = Some(crate::process::Disk::new(fresh));
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
                if let Some(place) = self.slots.get_mut(slot)
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
            Report::ElectionBegan { .. } => "election began",
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

    fn local(&mut self, slot: usize, seq: netsy_protocol::event::LocalSeq, op: LocalOp, entries: &[Arc<Entry>]) {
        let Some(process) = self.process(slot) else { return };
        let mut wrong = None;
        let op = match op {
            LocalOp::Promise(term) => DiskOp::Promise(term),
            LocalOp::Led(session) => DiskOp::Led(session),
            LocalOp::Truncate { after } => {
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
            LocalOp::InstallSnapshot { .. } => {
                process.mem = entries.to_vec();
                DiskOp::Install(Arc::new(entries.to_vec()))
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
        let (Some(process), Some(disk)) = (&mut place.process, &mut place.disk) else { return };
        let Some(upto) = process.syncing.take() else { return };
        while process.queue.front().is_some_and(|(seq, _)| *seq <= upto) {
            if let Some((_, op)) = process.queue.pop_front() {
                disk.apply(op);
            }
        }
        // The visible index is stored with the next commit.
        let end = LogIndex(disk.log.len() as u64);
        disk.visible = disk.visible.max(process.store.visible_index().min(end));
        process.engine.local_done(now, upto);
        self.drain(slot, &[]);
        self.sync_soon(slot);
    }

    // ---- streams ----

    fn open(&mut self, slot: usize, stream: StreamId, primary: &netsy_api::ids::NodeId, hello: Hello) {
        let Some(process) = self.process(slot) else { return };
        let life = process.life;
        let Some(to) = self.slot_of(primary) else { return };
        let target = self.slots.get(to).and_then(|s| s.process.as_ref()).map(|p| p.life);
        if !self.linked(slot, to) || !self.linked(to, slot) {
            return self.input(slot, life, 300, Input::StreamClosed(stream));
        }
        let Some(target) = target else {
            return self.input(slot, life, 1, Input::StreamClosed(stream));
        };
        let id = self.fresh();
        let delay = self.rng.range(1, 4);
        let arrives = self.now + delay;
        self.conns.insert(
            id,
            Conn {
                replica: (slot, life, stream),
                primary: (to, target),
                primary_stream: None,
                open: true,
                last: [arrives, arrives],
            },
        );
        if let Some(process) = self.process(slot) {
            process.conns.insert(stream, id);
        }
        self.input(to, target, delay, Input::Hello { conn: id, hello });
    }

    fn on_hello(&mut self, slot: usize, conn: u64, hello: Hello) {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return };
        process.next_stream += 1;
        let stream = StreamId(process.next_stream);
        process.conns.insert(stream, conn);
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.primary_stream = Some(stream);
        }
        let Some(process) = self.process(slot) else { return };
        process.engine.handle(now, Event::StreamHello { stream, hello: Box::new(hello) });
        self.drain(slot, &[]);
    }

    /// Whether a frame goes through now, and when it arrives.
    fn carries(&mut self, id: u64, up: bool) -> Option<u64> {
        let breaks = self.rng.chance(self.weather.breaks);
        let stray = self.rng.chance(30);
        let delay = self.rng.range(0, 2);
        let now = self.now;
        let (from, to, open) = {
            let conn = self.conns.get(&id)?;
            let (a, b) = (conn.replica.0, conn.primary.0);
            if up { (a, b, conn.open) } else { (b, a, conn.open) }
        };
        let linked = self.linked(from, to);
        let late = self.rng.range(1, 3_000);
        let conn = self.conns.get_mut(&id)?;
        if !linked || breaks {
            conn.open = false;
        }
        if !open || !linked {
            // What was in some buffer may still come, long after.
            return (stray && linked).then_some(late);
        }
        let at = conn.last.get_mut(usize::from(up))?;
        *at = (now + delay).max(*at);
        Some(*at - now)
    }

    fn frame_down(&mut self, id: u64, frame: ToReplica, entries: Vec<Arc<Entry>>) {
        let Some(delay) = self.carries(id, false) else { return };
        let Some((slot, life, stream)) = self.conns.get(&id).map(|c| c.replica) else { return };
        self.input(slot, life, delay, Input::ToReplica { stream, frame, entries });
    }

    fn frame_up(&mut self, id: u64, frame: netsy_protocol::message::ToPrimary) {
        let Some(delay) = self.carries(id, true) else { return };
        let Some(conn) = self.conns.get(&id) else { return };
        let ((slot, life), Some(stream)) = (conn.primary, conn.primary_stream) else { return };
        self.input(slot, life, delay, Input::ToPrimary { stream, frame });
    }

    fn close(&mut self, slot: usize, stream: StreamId) {
        let Some(process) = self.process(slot) else { return };
        process.senders.remove(&stream);
        let Some(id) = process.conns.remove(&stream) else { return };
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !std::mem::take(&mut conn.open) {
            return;
        }
        let is_replica = conn.replica.0 == slot && conn.replica.2 == stream;
        let other = if is_replica {
            conn.primary_stream.map(|s| (conn.primary.0, conn.primary.1, s))
        } else {
            Some(conn.replica)
        };
        // Frames on their way come first.
        let after = conn.last.iter().copied().max().unwrap_or(0).saturating_sub(self.now) + 1;
        if let Some((other, life, stream)) = other
            && self.linked(slot, other)
        {
            self.input(other, life, after, Input::StreamClosed(stream));
        }
    }

    /// Entries go out as soon as they are accepted.
    pub fn pump(&mut self, slot: usize) {
        let Some(process) = self.process(slot) else { return };
        let (end, commit) = (process.engine.log_end().last_index, process.engine.committed());
        let mut frames = vec![];
        let beat = process.engine.beat();
        for sender in process.senders.values_mut() {
            while sender.next <= end {
                let prev = LogIndex(sender.next.0 - 1);
                let through = LogIndex(end.0.min(prev.0 + APPEND_MAX));
                let entries: Vec<Arc<Entry>> =
                    process.mem.iter().skip(prev.0 as usize).take((through.0 - prev.0) as usize).cloned().collect();
                let prev_term = process.engine.term_at(prev).unwrap_or_default();
                let append = Append {
                    term: beat.term,
                    prev: netsy_protocol::reconcile::Run { term: prev_term, last_index: prev },
                    runs: process.engine.runs_between(prev, through),
                    commit,
                };
                sender.next = through.next();
                sender.told = commit;
                frames.push((sender.conn, ToReplica::Append(append), entries));
            }
            if sender.told < commit {
                sender.told = commit;
                frames.push((sender.conn, ToReplica::Beat(beat.clone()), vec![]));
            }
        }
        for (conn, frame, entries) in frames {
            self.frame_down(conn, frame, entries);
        }
    }

    // ---- visible state ----

    fn show(&mut self, slot: usize, index: LogIndex) {
        let name = format!("n{slot}");
        let Some(place) = self.slots.get_mut(slot) else { return };
        let (Some(process), Some(disk)) = (&mut place.process, &place.disk) else { return };
        let before = process.store.visible_index();
        let primary = process.engine.status(0).role != netsy_protocol::status::Role::Replica;
        if !primary && (disk.log.len() as u64) < index.0 {
            self.truth.breach(format!("{name} shows entry {index} and has only {} durably", disk.log.len()));
        }
        while process.store.last_index() < index {
            let next = process.store.last_index().0 as usize;
            let Some(entry) = process.mem.get(next) else {
                self.truth.breach(format!("{name} shows entry {index}, its log ends at {}", process.mem.len()));
                return;
            };
            if let Err(error) = process.store.apply(entry.clone()) {
                self.truth.breach(format!("{name} cannot apply entry {}: {error}", next + 1));
                return;
            }
        }
        process.store.set_visible(index);
        for entry in process.mem.iter().take(index.0 as usize).skip(before.0 as usize) {
            self.truth.shown(&name, entry);
        }
        self.shown(slot);
    }

    /// The visible index moved on: answers, watches.
    fn shown(&mut self, slot: usize) {
        let Some(process) = self.process(slot) else { return };
        let (index, revision) = (process.store.visible_index(), process.store.visible_revision());
        let mut out = vec![];
        while process.waiting.front().is_some_and(|w| w.index <= index) {
            if let Some(waiting) = process.waiting.pop_front() {
                out.push((waiting.to, waiting.outcome));
            }
        }
        process.catching_up.retain(|(wanted, op, outcome)| {
            let there = *wanted <= revision;
            if there {
                out.push((To::Client(*op), outcome.clone()));
            }
            !there
        });
        for (to, outcome) in out {
            self.answer(to, outcome);
        }
        self.tell_watchers(slot);
    }

    fn lead(&mut self, slot: usize, term: netsy_api::ids::Term) {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return };
        let current = process.engine.may_create(term) != netsy_protocol::engine::Creating::No;
        if !current {
            return;
        }
        while (process.store.last_index().0 as usize) < process.mem.len() {
            let next = process.store.last_index().0 as usize;
            let Some(entry) = process.mem.get(next).cloned() else { break };
            if let Err(error) = process.store.apply(entry) {
                self.truth.breach(format!("n{slot} cannot apply entry {} to lead: {error}", next + 1));
                return;
            }
        }
        process.store.lease_extend_all(now);
        process.leading = Some(term);
        process.engine.handle(now, Event::Leading(term));
        self.count("leads");
        self.drain(slot, &[]);
        self.write_soon(slot);
    }

    fn step_down(&mut self, slot: usize, term: netsy_api::ids::Term) {
        self.count("stepped down");
        let Some(process) = self.process(slot) else { return };
        process.leading = process.leading.filter(|t| *t != term);
        process.uploads = None;
        process.senders.clear();
        let visible = process.store.visible_index();
        if let Err(error) = process.store.rollback(visible) {
            self.truth.breach(format!("n{slot} cannot roll back: {error}"));
            return;
        }
        let Some(process) = self.process(slot) else { return };
        process.store.lease_forget_deadlines();
        let waiting: Vec<To> = process.waiting.drain(..).map(|w| w.to).collect();
        let renewals: Vec<To> = process.renewals.drain(..).map(|(_, _, to, _)| to).collect();
        let requests: Vec<(crate::process::Ask, To)> = process.requests.drain(..).collect();
        for to in waiting.into_iter().chain(renewals) {
            self.answer(to, Outcome::Unknown);
        }
        for (ask, to) in requests {
            match to {
                // Nothing was done for it yet: it waits for the next Primary.
                To::Client(_) => {
                    if let Some(process) = self.process(slot) {
                        process.stalled.push(ask);
                    }
                }
                to => self.answer(to, crate::requests::not_taken()),
            }
        }
    }

    fn reads_ready(&mut self, slot: usize, through: ReadId) {
        let Some(process) = self.process(slot) else { return };
        let mut out = vec![];
        while process.reads.front().is_some_and(|(id, _)| *id <= through) {
            if let Some((_, ask)) = process.reads.pop_front()
                && let netsy_history::Request::Range(range) = &ask.request
            {
                out.push((To::Client(ask.op), crate::convert::range(&process.store, range)));
            }
        }
        while process.renewals.front().is_some_and(|(id, ..)| *id <= through) {
            let Some((_, index, to, outcome)) = process.renewals.pop_front() else { break };
            if index <= process.store.visible_index() {
                out.push((to, outcome));
            } else {
                // It saw what is not committed yet, too.
                let index = process.waiting.back().map_or(index, |w| w.index.max(index));
                process.waiting.push_back(crate::process::Waiting { index, to, outcome });
            }
        }
        for (to, outcome) in out {
            self.answer(to, outcome);
        }
    }

    fn reads_failed(&mut self, slot: usize, through: ReadId) {
        let Some(process) = self.process(slot) else { return };
        let mut failed = vec![];
        while process.reads.front().is_some_and(|(id, _)| *id <= through) {
            if let Some((_, ask)) = process.reads.pop_front() {
                failed.push(To::Client(ask.op));
            }
        }
        while process.renewals.front().is_some_and(|(id, ..)| *id <= through) {
            if let Some((_, _, to, _)) = process.renewals.pop_front() {
                failed.push(to);
            }
        }
        for to in failed {
            self.answer(to, Outcome::Unknown);
        }
    }
}
