//! Answers of what changed no key, and real time.

use crate::leases::Leases;
use crate::log::Log;
use crate::model;
use crate::op::{Op, Outcome, Request};
use crate::order::Order;
use crate::timeline::Timeline;
use crate::violation::{Kind, Report};
use crate::writes::Cause;
use netsy_api::mvccpb::event::EventType;
use std::collections::BTreeMap;

/// Every answer that wrote nothing is what the state at its header's revision gives.
pub fn check_answers(ops: &[Op], log: &Log, timeline: &Timeline, report: &mut Report) {
    let mut compactions: Vec<(u64, i64, usize)> = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        if let (Request::Compact { revision }, Outcome::Done(_)) = (&op.request, &op.outcome) {
            compactions.push((op.returned, *revision, at));
        }
    }
    compactions.sort_unstable();
    for op in ops {
        let Some(done) = op.done().filter(|_| !op.wrote()) else { continue };
        if done.revision > log.head() {
            let text = format!("revision {} was told, the log ends at {}", done.revision, log.head());
            report.add_ops(Kind::LostWrite, text, &[op]);
            continue;
        }
        if done.revision < log.base_revision {
            let text = format!("it is of revision {}, before the first", done.revision);
            report.add_ops(Kind::WrongAnswer, text, &[op]);
            continue;
        }
        // A revoke's answer is the same whatever it did.
        if matches!(op.request, Request::LeaseRevoke { .. }) {
            continue;
        }
        match model::evaluate(timeline.at(done.revision), &op.request) {
            None => {}
            Some(Ok(expected)) if !expected.events.is_empty() => {
                report.add_ops(Kind::WrongAnswer, "it was to write, and says it did not".to_owned(), &[op]);
            }
            Some(Ok(expected)) if model::allowed(&done.answer, &expected.answer, &op.request) => {}
            Some(Ok(expected)) => {
                let text = format!("at revision {} the answer is {:?}", done.revision, expected.answer);
                report.add_ops(Kind::WrongAnswer, text, &[op]);
            }
            Some(Err(refusal)) => {
                report.add_ops(Kind::WrongAnswer, format!("it was to be refused: {refusal:?}"), &[op]);
            }
        }
        if let Request::Range(range) = &op.request {
            let before = compactions.partition_point(|(returned, ..)| *returned < op.invoked);
            let newest = compactions[..before].iter().max_by_key(|(_, revision, _)| *revision);
            let compacted = newest.filter(|(_, newest, _)| *newest > range.revision);
            if let Some((.., by)) = compacted.filter(|_| range.revision > 0 && !range.serializable) {
                report.add_ops(Kind::ReadCompacted, "what was compacted was read".to_owned(), &[&ops[*by], op]);
            }
        }
    }
}

/// No answer is older than what was told before its request was sent, nor newer than what was asked for until it came.
pub fn check_real_time(ops: &[Op], order: &Order, report: &mut Report) {
    for op in ops {
        let Some(done) = op.done() else { continue };
        let possible = order.possible_at(op.returned);
        if done.revision > possible {
            let text = format!("revision {} was told, until then only {possible} was asked for", done.revision);
            report.add_ops(Kind::FromTheFuture, text, &[op]);
        }
        if !op.request.is_linearizable() {
            continue;
        }
        let (told, by) = order.told_before(op.invoked);
        if done.revision < told || op.wrote() && done.revision == told {
            let mut show = vec![op];
            show.extend(by.map(|by| &ops[by]));
            let text = format!("answered with revision {}; before it was sent, {told} had been told", done.revision);
            report.add_ops(Kind::RealTime, text, &show);
        }
    }
}

/// Answers about keys by one life of one node (or by one node, over all its lives) do not go back.
pub fn check_went_back(ops: &[Op], over_lives: bool, report: &mut Report) {
    let mut by_node: BTreeMap<(u32, u64), Vec<usize>> = BTreeMap::new();
    for (at, op) in ops.iter().enumerate() {
        if op.request.is_of_keys() && op.done().is_some() {
            let session = if over_lives { 0 } else { op.session };
            by_node.entry((op.node, session)).or_default().push(at);
        }
    }
    for list in by_node.into_values() {
        let revision = |at: usize| ops[at].done().map_or(0, |done| done.revision);
        let mut by_sent = list.clone();
        by_sent.sort_unstable_by_key(|at| ops[*at].invoked);
        let mut answered = list;
        answered.sort_unstable_by_key(|at| ops[*at].returned);
        let mut answered = answered.into_iter().peekable();
        let mut newest: Option<usize> = None;
        for at in by_sent {
            while let Some(before) = answered.next_if(|before| ops[*before].returned < ops[at].invoked) {
                if newest.is_none_or(|newest| revision(before) > revision(newest)) {
                    newest = Some(before);
                }
            }
            if let Some(newest) = newest.filter(|newest| revision(at) < revision(*newest)) {
                let text =
                    format!("node {} went back from revision {} to {}", ops[at].node, revision(newest), revision(at));
                report.add_ops(Kind::WentBack, text, &[&ops[newest], &ops[at]]);
            }
        }
    }
}

/// Keys hang only on leases that can live, and none is left when one has ended.
pub fn check_attached(
    ops: &[Op],
    log: &Log,
    causes: &[Cause],
    timeline: &Timeline,
    leases: &Leases<'_>,
    report: &mut Report,
) {
    let mut expired: BTreeMap<i64, i64> = BTreeMap::new();
    for (step, cause) in log.steps.iter().zip(causes) {
        let shown: Vec<&Op> = match cause {
            Cause::Op(at) => vec![&ops[*at]],
            _ => vec![],
        };
        for kv in step.events.iter().filter(|e| e.r#type == EventType::Put as i32).filter_map(|e| e.kv.as_ref()) {
            if kv.lease == 0 {
                continue;
            }
            if !leases.may_exist(kv.lease) {
                let text = format!("revision {} puts on lease {}, that nobody was granted", step.revision, kv.lease);
                report.add_ops(Kind::Lease, text, &shown);
            }
            if let Some(at) = expired.get(&kv.lease) {
                let text = format!("revision {} puts on lease {}, that ended at {at}", step.revision, kv.lease);
                report.add_ops(Kind::Lease, text, &shown);
            }
            let ended = shown.first().and_then(|op| leases.ended_before(kv.lease, op.invoked));
            if let Some(ended) = ended {
                let text = format!("revision {} puts on lease {}, that was revoked before", step.revision, kv.lease);
                report.add_ops(Kind::Lease, text, &[&ops[ended], shown[0]]);
            }
        }
        if let Cause::Expiry(id) = cause {
            expired.insert(*id, step.revision);
        }
    }
    for (id, at) in leases.revoked() {
        let Some(done) = ops[at].done().filter(|done| done.revision <= log.head()) else { continue };
        if let Some(kv) = timeline.at(done.revision).attached(id).first() {
            let text = format!("a revoke left {:?} on its lease at revision {}", kv.key, done.revision);
            report.add_ops(Kind::Lease, text, &[&ops[at]]);
        }
    }
}
