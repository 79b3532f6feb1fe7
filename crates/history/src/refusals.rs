//! Errors that say that nothing was done: was there a state that gives them?

use crate::check::Rules;
use crate::leases::Leases;
use crate::model;
use crate::op::{Op, Outcome, Refusal, Request};
use crate::order::Order;
use crate::timeline::Timeline;
use crate::violation::{Kind, Report};
use netsy_api::etcdserverpb::RequestOp;
use netsy_api::etcdserverpb::request_op::Request as OpRequest;

/// Where an operation can have been at more revisions than this, its error is not judged.
const REVISIONS_TRIED_MAX: i64 = 10_000;

/// Every compaction that may have happened: (sent, revision), ascending.
pub struct Compactions {
    sent: Vec<(u64, i64)>,
    /// The server compacts by itself.
    auto: bool,
}

impl Compactions {
    pub fn new(ops: &[Op], rules: &Rules) -> Self {
        let may = |op: &Op| match op.request {
            Request::Compact { revision } if op.may_have_happened() => Some((op.invoked, revision)),
            _ => None,
        };
        let mut sent: Vec<(u64, i64)> = ops.iter().filter_map(may).collect();
        sent.sort_unstable();
        let mut newest = 0;
        for (_, revision) in &mut sent {
            newest = newest.max(*revision);
            *revision = newest;
        }
        Self { sent, auto: rules.auto_compaction }
    }

    /// May the store have been compacted at `revision` or later by `time`?
    pub fn may_have_reached(&self, revision: i64, time: u64) -> bool {
        let before = self.sent.partition_point(|(sent, _)| *sent < time);
        self.auto || before > 0 && self.sent[before - 1].1 >= revision
    }
}

/// Judges all of them.
pub fn check(
    ops: &[Op],
    order: &Order,
    timeline: &Timeline,
    leases: &Leases<'_>,
    compactions: &Compactions,
    report: &mut Report,
) {
    for op in ops {
        let Outcome::Refused(refusal) = &op.outcome else { continue };
        let asked = revisions(&op.request);
        let (from, to) = (order.told_before(op.invoked).0, order.possible_at(op.returned));
        let right = match refusal {
            Refusal::Compacted => asked.iter().any(|asked| {
                let at = if matches!(op.request, Request::Compact { .. }) { *asked } else { asked + 1 };
                compactions.may_have_reached(at, op.returned)
            }),
            Refusal::FutureRevision => {
                let from = if op.request.is_serializable() { 0 } else { from };
                asked.iter().any(|asked| *asked > from)
            }
            Refusal::KeyNotFound => {
                let missing = |revision| {
                    let done = model::evaluate(timeline.at(revision), &op.request);
                    matches!(done, Some(Err(Refusal::KeyNotFound)))
                };
                to - from > REVISIONS_TRIED_MAX || (from..=to).any(missing)
            }
            Refusal::LeaseNotFound => {
                let named = leases_of(&op.request);
                named.is_empty() || !named.iter().all(|id| leases.surely_lives(*id, op.invoked, op.returned))
            }
            Refusal::LeaseExists => match op.request {
                Request::LeaseGrant { id, .. } => leases.may_exist(id),
                _ => false,
            },
            Refusal::Other(_) => true,
        };
        if !right {
            let text = format!("no state from revision {from} to {to} gives this error");
            report.add_ops(Kind::WrongRefusal, text, &[op]);
        }
    }
}

fn flat(ops: &[RequestOp], each: &mut impl FnMut(&OpRequest)) {
    for op in ops.iter().filter_map(|op| op.request.as_ref()) {
        match op {
            OpRequest::RequestTxn(txn) => {
                flat(&txn.success, each);
                flat(&txn.failure, each);
            }
            op => each(op),
        }
    }
}

/// The revisions that a request names.
fn revisions(request: &Request) -> Vec<i64> {
    let mut found = Vec::new();
    match request {
        Request::Range(range) => found.push(range.revision),
        Request::Compact { revision } => return vec![*revision],
        Request::Txn(txn) => {
            for ops in [&txn.success, &txn.failure] {
                flat(ops, &mut |op| {
                    if let OpRequest::RequestRange(range) = op {
                        found.push(range.revision);
                    }
                });
            }
        }
        _ => {}
    }
    found.retain(|revision| *revision > 0);
    found
}

/// The leases that a request names.
fn leases_of(request: &Request) -> Vec<i64> {
    let mut found = Vec::new();
    match request {
        Request::Put(put) => found.push(put.lease),
        Request::LeaseRevoke { id } => found.push(*id),
        Request::Txn(txn) => {
            for ops in [&txn.success, &txn.failure] {
                flat(ops, &mut |op| {
                    if let OpRequest::RequestPut(put) = op {
                        found.push(put.lease);
                    }
                });
            }
        }
        _ => {}
    }
    found.retain(|id| *id != 0);
    found
}
