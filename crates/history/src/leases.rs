//! What is known about each lease: who said when that it lives.

use crate::answer::Answer;
use crate::check::Rules;
use crate::op::{Op, Outcome, Request};
use crate::order::Order;
use crate::timeline::Timeline;
use crate::violation::{Kind, Report};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Where a look at a lease's keys can have been at more revisions than this, its keys are not judged.
const REVISIONS_TRIED_MAX: i64 = 2_000;

/// One lease.
#[derive(Default)]
struct Life {
    /// Grants that may have happened.
    grants: Vec<usize>,
    /// Granted seconds, by the answer to a grant.
    ttl: Option<i64>,
    /// Answers that say that it lived from then on for the whole time: (sent, answered, until).
    renewed: Vec<(u64, u64, u64)>,
    /// The first revoke that may have happened: when it was sent.
    revoke_sent: Option<u64>,
    /// The first one that surely happened.
    revoked: Option<usize>,
}

/// All leases.
pub struct Leases<'a> {
    ops: &'a [Op],
    rules: &'a Rules,
    lives: BTreeMap<i64, Life>,
}

fn min_some(a: Option<u64>, b: u64) -> Option<u64> {
    Some(a.map_or(b, |a| a.min(b)))
}

impl<'a> Leases<'a> {
    pub fn new(ops: &'a [Op], rules: &'a Rules) -> Self {
        let mut leases = Self { ops, rules, lives: BTreeMap::new() };
        for (at, op) in ops.iter().enumerate().filter(|(_, op)| op.may_have_happened()) {
            match (&op.request, op.done().map(|done| &done.answer)) {
                (Request::LeaseGrant { id, .. }, answer) => {
                    let life = leases.lives.entry(*id).or_default();
                    life.grants.push(at);
                    if let Some(Answer::LeaseGrant { ttl }) = answer {
                        life.ttl = Some(*ttl);
                        leases.renew(*id, op, *ttl);
                    }
                }
                (Request::LeaseKeepAlive { id }, Some(Answer::LeaseKeepAlive { ttl })) if *ttl > 0 => {
                    leases.renew(*id, op, *ttl);
                }
                (Request::LeaseRevoke { id }, answer) => {
                    let life = leases.lives.entry(*id).or_default();
                    life.revoke_sent = min_some(life.revoke_sent, op.invoked);
                    if answer.is_some() && life.revoked.is_none_or(|known| ops[known].returned > op.returned) {
                        life.revoked = Some(at);
                    }
                }
                _ => {}
            }
        }
        leases
    }

    fn renew(&mut self, id: i64, op: &Op, ttl: i64) {
        let Some(units) = self.rules.units_per_second else { return };
        let lasts = units.saturating_mul(u64::try_from(ttl).unwrap_or(0));
        let until = op.invoked.saturating_add(lasts).saturating_sub(self.rules.lease_slack);
        self.lives.entry(id).or_default().renewed.push((op.invoked, op.returned, until));
    }

    /// May there ever be such a lease?
    pub fn may_exist(&self, id: i64) -> bool {
        self.lives.get(&id).is_some_and(|life| !life.grants.is_empty())
    }

    /// Before this time it cannot have expired.
    pub fn lives_until(&self, id: i64) -> u64 {
        let Some(life) = self.lives.get(&id) else { return 0 };
        if life.grants.len() > 1 {
            // Which grant a renewal was of is open.
            return 0;
        }
        life.renewed.iter().map(|(_, _, until)| *until).max().unwrap_or(0)
    }

    /// Did it surely live all the time in between?
    pub fn surely_lives(&self, id: i64, from: u64, to: u64) -> bool {
        let Some(life) = self.lives.get(&id) else { return false };
        life.grants.len() == 1
            && life.revoke_sent.is_none_or(|sent| sent > to)
            && life.renewed.iter().any(|(_, answered, until)| *answered < from && to < *until)
    }

    /// Its acknowledged end, if it was answered before `time`.
    pub fn ended_before(&self, id: i64, time: u64) -> Option<usize> {
        let revoked = self.lives.get(&id)?.revoked?;
        (self.ops[revoked].returned < time).then_some(revoked)
    }

    /// Every acknowledged end.
    pub fn revoked(&self) -> impl Iterator<Item = (i64, usize)> {
        self.lives.iter().filter_map(|(id, life)| Some((*id, life.revoked?)))
    }

    /// Judges the answers of lease operations.
    pub fn check_answers(&self, order: &Order, timeline: &Timeline, report: &mut Report) {
        for op in self.ops {
            let Outcome::Done(done) = &op.outcome else { continue };
            match (&op.request, &done.answer) {
                (Request::LeaseGrant { ttl, .. }, Answer::LeaseGrant { ttl: granted }) if granted < ttl => {
                    report.add_ops(Kind::Lease, "a lease was granted for less than was asked for".into(), &[op]);
                }
                (Request::LeaseKeepAlive { id }, Answer::LeaseKeepAlive { ttl }) => {
                    self.check_alive(*id, *ttl > 0, op, report);
                    let granted = self.granted(*id);
                    if let Some(granted) = granted.filter(|granted| *ttl > 0 && granted != ttl) {
                        report.add_ops(Kind::Lease, format!("it was granted for {granted} s"), &[op]);
                    }
                }
                (Request::LeaseTimeToLive { id, keys }, Answer::LeaseTimeToLive { ttl, granted, keys: told }) => {
                    self.check_alive(*id, *ttl >= 0, op, report);
                    if *ttl < 0 {
                        continue;
                    }
                    let known = self.granted(*id);
                    if ttl > granted || known.is_some_and(|known| known != *granted) {
                        report.add_ops(Kind::Lease, format!("it was granted for {known:?} s"), &[op]);
                    }
                    if *keys {
                        self.check_keys(*id, told, op, order, timeline, report);
                    }
                }
                (Request::LeaseRevoke { id }, Answer::LeaseRevoke) if !self.may_exist(*id) => {
                    report.add_ops(Kind::Lease, format!("lease {id}, that nobody was granted, was revoked"), &[op]);
                }
                _ => {}
            }
        }
    }

    fn granted(&self, id: i64) -> Option<i64> {
        self.lives.get(&id).filter(|life| life.grants.len() == 1)?.ttl
    }

    fn check_alive(&self, id: i64, told: bool, op: &Op, report: &mut Report) {
        if !told && self.surely_lives(id, op.invoked, op.returned) {
            report.add_ops(Kind::LeaseEarly, format!("lease {id} is gone before its time"), &[op]);
        }
        if told && !self.may_exist(id) {
            report.add_ops(Kind::Lease, format!("lease {id} lives and nobody was granted it"), &[op]);
        }
        if let Some(end) = self.ended_before(id, op.invoked).filter(|_| told) {
            report.add_ops(Kind::Lease, format!("lease {id} lives after it was revoked"), &[&self.ops[end], op]);
        }
    }

    fn check_keys(&self, id: i64, told: &[Bytes], op: &Op, order: &Order, timeline: &Timeline, report: &mut Report) {
        let told: BTreeSet<&Bytes> = told.iter().collect();
        let (from, to) = (order.told_before(op.invoked).0, order.possible_at(op.returned));
        if to - from > REVISIONS_TRIED_MAX {
            return;
        }
        let attached = |revision| timeline.at(revision).attached(id).into_iter().map(|kv| &kv.key).collect();
        if !(from..=to).any(|revision| {
            let at: BTreeSet<&Bytes> = attached(revision);
            at == told
        }) {
            report.add_ops(
                Kind::Lease,
                format!("lease {id} never had these keys between revisions {from} and {to}"),
                &[op],
            );
        }
    }
}
