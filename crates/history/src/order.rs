//! Real time against revisions: what was told when.

use crate::log::revision_of;
use crate::op::Op;
use crate::watch::{Told, WatchRecord};

/// When which revision was known.
pub struct Order {
    base: i64,
    head: i64,
    /// Ascending: until this time (inclusive), the newest revision told, and the operation that told it.
    told: Vec<(u64, i64, Option<usize>)>,
    /// By revision after the base: the first time that it or a later one was told.
    first_told: Vec<u64>,
    /// By revision after the base: the first time at which it can have been there.
    possible_from: Vec<u64>,
}

impl Order {
    pub fn new(ops: &[Op], watches: &[WatchRecord], base: i64, head: i64) -> Self {
        let mut told: Vec<(u64, i64, Option<usize>)> = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            if let Some(done) = op.done() {
                told.push((op.returned, done.revision, Some(at)));
            }
        }
        for message in watches.iter().flat_map(|watch| &watch.sessions).flat_map(|session| &session.messages) {
            let newest = match &message.told {
                Told::Events { events, .. } => events.iter().map(revision_of).max().unwrap_or(0),
                Told::Created | Told::Progress => message.revision,
                Told::Cancelled { .. } => continue,
            };
            told.push((message.at, newest, None));
        }
        told.sort_unstable();
        let mut first_told = vec![u64::MAX; usize::try_from(head - base).unwrap_or(0)];
        let mut reached = base;
        let mut newest = (i64::MIN, None);
        for (at, revision, by) in &mut told {
            if *revision > newest.0 {
                newest = (*revision, *by);
            }
            while reached < newest.0.min(head) {
                first_told[(reached - base) as usize] = *at;
                reached += 1;
            }
            (*revision, *by) = newest;
        }
        let possible_from = vec![0; first_told.len()];
        Self { base, head, told, first_told, possible_from }
    }

    /// Sets the times before which each revision after the base cannot have been there.
    pub fn set_possible_from(&mut self, mut from: Vec<u64>) {
        let mut latest = 0;
        for time in &mut from {
            latest = latest.max(*time);
            *time = latest;
        }
        self.possible_from = from;
    }

    /// The newest revision told to anybody before `time`, and by which operation.
    pub fn told_before(&self, time: u64) -> (i64, Option<usize>) {
        let before = self.told.partition_point(|(at, ..)| *at < time);
        before.checked_sub(1).map_or((self.base, None), |at| (self.told[at].1.max(self.base), self.told[at].2))
    }

    /// When this revision (or a later one) was first told; `u64::MAX`: never.
    pub fn first_told(&self, revision: i64) -> u64 {
        let at = usize::try_from(revision - self.base - 1).ok();
        at.and_then(|at| self.first_told.get(at)).copied().unwrap_or(if revision <= self.base { 0 } else { u64::MAX })
    }

    /// The newest revision that can have been there at `time`.
    pub fn possible_at(&self, time: u64) -> i64 {
        let count = self.possible_from.partition_point(|from| *from <= time);
        (self.base + count as i64).min(self.head)
    }
}
