//! What readers see: entries shown, answers let out, and the state of who leads.

use crate::disk;
use crate::process::To;
use crate::world::{Input, World};
use netsy_api::ids::LogIndex;
use netsy_history::Outcome;
use netsy_protocol::event::Event;
use netsy_protocol::mutant::Mutant;
use netsy_protocol::read::ReadId;

impl World {
    /// A Primary that leads shows what it commits; a replica's state comes to that in its own time.
    pub fn show_soon(&mut self, slot: usize, index: LogIndex) {
        let (low, high) = self.weather.show_ms;
        let Some(process) = self.process(slot) else { return };
        process.to_show = process.to_show.max(index);
        if high == 0 || process.leading.is_some() {
            return self.show(slot, index);
        }
        if std::mem::replace(&mut process.showing, true) {
            return;
        }
        let life = process.life;
        let delay = self.rng.range(low, high);
        self.input(slot, life, delay, Input::Show);
    }

    pub fn show_wanted(&mut self, slot: usize) {
        let Some(process) = self.process(slot) else { return };
        process.showing = false;
        let index = process.to_show;
        if index > process.store.visible_index() {
            self.show(slot, index);
        }
    }

    fn show(&mut self, slot: usize, index: LogIndex) {
        let name = format!("n{slot}");
        let Some(place) = self.slots.get_mut(slot) else { return };
        let (Some(process), Some(disk)) = (&mut place.process, &place.disk) else { return };
        let before = process.store.visible_index();
        let ahead = (disk.log.len() as u64) < index.0;
        if ahead && process.engine.status(0).role == netsy_protocol::status::Role::Replica {
            self.truth.breach(format!("{name} shows entry {index} and has only {} durably", disk.log.len()));
        }
        if process.store.last_index() < process.installed {
            if index < process.installed {
                return; // Entries of a snapshot are not told apart any more: shown once all of it may be.
            }
            match disk::load(&process.mem, &process.holes, process.installed) {
                Ok(store) => process.store = store,
                Err(error) => {
                    return self.truth.breach(format!("{name}: the snapshot gives no state: {error}"));
                }
            }
            self.truth.count("state loaded anew");
        }
        while process.store.last_index() < index {
            let next = process.store.last_index().0 as usize;
            let Some(entry) = process.mem.get(next) else {
                self.truth.breach(format!("{name} shows entry {index}, its log ends at {}", process.mem.len()));
                return;
            };
            if entry.index <= process.holes.partial {
                self.truth.breach(format!("{name} shows entry {}, rows of which are gone", entry.index));
                return;
            }
            if let Err(error) = process.store.apply(entry.clone()) {
                self.truth.breach(format!("{name} cannot apply entry {}: {error}", next + 1));
                return;
            }
        }
        process.store.set_visible(index);
        if self.truth.recovered.is_some() {
            let status = process.engine.status(0);
            if status.role != netsy_protocol::status::Role::Replica {
                // It is about to lead.
                self.truth.leads(status.term, &disk.voter(&place.id), &process.mem);
            }
        }
        for entry in process.mem.iter().take(index.0 as usize).skip(before.0 as usize) {
            self.truth.shown(&name, entry);
        }
        self.shown(slot);
    }

    /// The visible index moved on: answers, watches.
    fn shown(&mut self, slot: usize) {
        let Some(process) = self.process(slot) else { return };
        let (index, revision) = (process.store.visible_index(), process.store.visible_revision());
        let proven: Vec<_> = process.proven.extract_if(.., |(wanted, _)| *wanted <= index).collect();
        for (_, ask) in proven {
            self.answer_read(slot, &ask);
        }
        let Some(process) = self.process(slot) else { return };
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

    pub fn lead(&mut self, slot: usize, term: netsy_api::ids::Term) {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return };
        let current = process.engine.may_create(term) != netsy_protocol::engine::Creating::No;
        if !current {
            return;
        }
        self.show_wanted(slot);
        let Some(process) = self.process(slot) else { return };
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
        if let Some(place) = self.slots.get(slot)
            && let (Some(process), Some(disk)) = (&place.process, &place.disk)
        {
            self.truth.leads(term, &disk.voter(&place.id), &process.mem);
        }
        self.drain(slot);
        self.write_soon(slot);
    }

    pub fn step_down(&mut self, slot: usize, term: netsy_api::ids::Term) {
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

    pub fn reads_ready(&mut self, slot: usize, through: ReadId, index: LogIndex) {
        let (alone, early) = (self.mutant == Some(Mutant::ProofAlone), self.mutant == Some(Mutant::ReadsBeforeShown));
        let Some(process) = self.process(slot) else { return };
        let visible = process.store.visible_index();
        let mut ready = vec![];
        while process.reads.front().is_some_and(|(id, _)| *id <= through) {
            let Some((_, ask)) = process.reads.pop_front() else { break };
            if index <= visible || early {
                ready.push(ask);
            } else {
                process.proven.push((index, ask));
            }
        }
        for ask in ready {
            self.answer_read(slot, &ask);
        }
        let Some(process) = self.slots.get_mut(slot).and_then(|s| s.process.as_mut()) else { return };
        let mut out = vec![];
        while process.renewals.front().is_some_and(|(id, ..)| *id <= through) {
            let Some((_, index, to, outcome)) = process.renewals.pop_front() else { break };
            if index <= process.store.visible_index() || alone {
                out.push((to, outcome));
            } else {
                // It saw what is not committed yet: it waits for the proof and for the index.
                self.truth.count("proven before it was committed");
                let index = process.waiting.back().map_or(index, |w| w.index.max(index));
                process.waiting.push_back(crate::process::Waiting { index, to, outcome });
            }
        }
        for (to, outcome) in out {
            self.answer(to, outcome);
        }
    }

    pub fn reads_failed(&mut self, slot: usize, through: ReadId) {
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
