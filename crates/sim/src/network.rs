//! Links between nodes, and calls to object storage on their way.

use crate::bucket::{Answer, Op};
use crate::process::To;
use crate::scenario::Weather;
use crate::world::{Happening, Input, Why, World};
use netsy_history::Outcome;
use netsy_protocol::message::Message;

impl World {
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

    pub fn call(&mut self, slot: usize, life: u64, why: Why, op: Op) {
        let (mut low, mut high) = self.weather.store_ms;
        if matches!(op, Op::GetChunk(_) | Op::GetSegment(_)) {
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
            let (until, by) = self.slots.get(slot).map_or((0, 0), |s| s.late_answers);
            let late = if self.now < until && matches!(op, Op::Create(_)) { by } else { 0 };
            let answer_at = answered.then_some(self.now + delay + back + late);
            self.after(delay, Happening::Lands { op, slot, life, why, answer_at });
        }
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
