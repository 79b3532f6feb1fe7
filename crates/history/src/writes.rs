//! Who made each revision: acknowledged writes say so themselves; for the others a cause is sought among the
//! operations of unknown outcome and the ends of leases.

use crate::leases::Leases;
use crate::log::{Log, Step, same_events};
use crate::matching::Matching;
use crate::model::{self, Evaluated};
use crate::op::{Op, Outcome, Request};
use crate::order::Order;
use crate::timeline::Timeline;
use crate::violation::{Kind, Report};
use bytes::Bytes;
use netsy_api::etcdserverpb::request_op::Request as OpRequest;
use netsy_api::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp};
use netsy_api::mvccpb::event::EventType;
use std::collections::BTreeMap;

/// Who made a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// This operation.
    Op(usize),
    /// The end of a lease's time.
    Expiry(i64),
    /// Nobody known; reported.
    Unknown,
}

/// Finds the cause of every step of the log and judges acknowledged writes on the way.
pub fn find_causes(
    ops: &[Op],
    log: &Log,
    timeline: &Timeline,
    order: &Order,
    leases: &Leases<'_>,
    report: &mut Report,
) -> Vec<Cause> {
    let claims = claims(ops, log, report);
    let index = Index::new(ops);
    let mut possible: Vec<Vec<usize>> = vec![Vec::new(); log.steps.len()];
    let mut expiry: Vec<Option<i64>> = vec![None; log.steps.len()];
    for (at, step) in log.steps.iter().enumerate() {
        match claims[at] {
            Some(op) => check_claim(&ops[op], step, timeline, report),
            None => {
                let view = timeline.at(step.revision - 1);
                let first_told = order.first_told(step.revision);
                let fits = |op: &usize| {
                    let op = &ops[*op];
                    op.invoked <= first_told
                        && op.done().is_none_or(|done| done.revision >= step.revision)
                        && makes(op, step, timeline)
                };
                possible[at] = index.candidates(step, &view).into_iter().filter(fits).collect();
                expiry[at] = expired_lease(step, timeline, leases);
            }
        }
    }
    let mut matching = Matching::new(log.steps.len(), ops.len());
    let open: Vec<usize> = (0..log.steps.len()).filter(|at| claims[*at].is_none()).collect();
    // Those that have no other explanation choose first.
    for at in open.iter().filter(|at| expiry[**at].is_none()) {
        matching.add(*at, &possible);
    }
    for at in open.iter().filter(|at| expiry[**at].is_some()) {
        let early = expiry[*at].is_some_and(|id| order.first_told(log.steps[*at].revision) < leases.lives_until(id));
        if early {
            matching.add(*at, &possible);
        }
    }
    let cause = |(at, step): (usize, &Step)| {
        if let Some(op) = claims[at].or(matching.cause_of(at)) {
            return Cause::Op(op);
        }
        if let Some(id) = expiry[at] {
            let (first_told, lives) = (order.first_told(step.revision), leases.lives_until(id));
            if first_told < lives {
                report.add(
                    Kind::LeaseEarly,
                    format!(
                        "revision {} ends lease {id}; it was seen at {first_told}, the lease was to live until {lives}",
                        step.revision
                    ),
                );
            }
            return Cause::Expiry(id);
        }
        report_unexplained(ops, step, timeline, order, report);
        Cause::Unknown
    };
    log.steps.iter().enumerate().map(cause).collect()
}

/// By step: the acknowledged write whose header names its revision.
fn claims(ops: &[Op], log: &Log, report: &mut Report) -> Vec<Option<usize>> {
    let at_of: BTreeMap<i64, usize> = log.steps.iter().enumerate().map(|(at, step)| (step.revision, at)).collect();
    let mut claims = vec![None; log.steps.len()];
    for (at, op) in ops.iter().enumerate().filter(|(_, op)| op.wrote()) {
        let revision = op.done().map_or(0, |done| done.revision);
        let Some(step) = at_of.get(&revision) else {
            let head = log.head();
            let text = format!("revision {revision} was acknowledged and is not in the log, which ends at {head}");
            report.add_ops(Kind::LostWrite, text, &[op]);
            continue;
        };
        if let Some(before) = claims[*step].replace(at) {
            let text = format!("two writes were acknowledged as revision {revision}");
            report.add_ops(Kind::DoubleRevision, text, &[&ops[before], op]);
        }
    }
    claims
}

fn check_claim(op: &Op, step: &Step, timeline: &Timeline, report: &mut Report) {
    let revision = step.revision;
    match model::evaluate(timeline.at(revision - 1), &op.request) {
        Some(Ok(Evaluated { answer, events })) => {
            if !same_events(&events, &step.events) {
                let text = format!("at revision {revision} there is not what was acknowledged, but {:?}", step.events);
                report.add_ops(Kind::LostWrite, text, &[op]);
            } else if !op.done().is_some_and(|done| model::allowed(&done.answer, &answer, &op.request)) {
                report.add_ops(Kind::WrongAnswer, format!("the answer was to be {answer:?}"), &[op]);
            }
        }
        Some(Err(refusal)) => {
            let text = format!("revision {revision}: this was to be refused: {refusal:?}");
            report.add_ops(Kind::WrongAnswer, text, &[op]);
        }
        None => report.add_ops(Kind::WrongAnswer, "this writes nothing".to_owned(), &[op]),
    }
}

/// Does this operation do just this?
fn makes(op: &Op, step: &Step, timeline: &Timeline) -> bool {
    let done = model::evaluate(timeline.at(step.revision - 1), &op.request);
    matches!(done, Some(Ok(done)) if same_events(&done.events, &step.events))
}

/// The lease whose end, and nothing else, this is.
fn expired_lease(step: &Step, timeline: &Timeline, leases: &Leases<'_>) -> Option<i64> {
    let view = timeline.at(step.revision - 1);
    let first = step.events.first()?.kv.as_ref()?;
    let lease = view.get(&first.key)?.lease;
    let ends = lease != 0 && leases.may_exist(lease) && same_events(&model::end_of_lease(view, lease), &step.events);
    ends.then_some(lease)
}

fn report_unexplained(ops: &[Op], step: &Step, timeline: &Timeline, order: &Order, report: &mut Report) {
    let text = format!("no operation explains revision {}: {:?}", step.revision, step.events);
    let by = ops.iter().filter(|op| op.request.may_write() && makes(op, step, timeline));
    let by: Vec<&Op> = by.take(3).collect();
    let text = match by.first().map(|op| &op.outcome) {
        Some(Outcome::Refused(_)) => format!("{text}: it was refused"),
        Some(_) if by.iter().all(|op| op.invoked > order.first_told(step.revision)) => {
            format!("{text}: it was told before it was asked for")
        }
        Some(_) => format!("{text}: it was done more than once, or not as it was answered"),
        None => text,
    };
    report.add_ops(Kind::Unexplained, text, &by);
}

/// Operations that may be causes, by what they do.
struct Index<'a> {
    /// Puts by key and value.
    puts: BTreeMap<(&'a Bytes, &'a Bytes), Vec<usize>>,
    /// Puts that keep the value, by key.
    keeping: BTreeMap<&'a Bytes, Vec<usize>>,
    /// Deletes of one key.
    deletes: BTreeMap<&'a Bytes, Vec<usize>>,
    /// Deletes of more.
    ranges: Vec<usize>,
    /// Revokes by lease.
    revokes: BTreeMap<i64, Vec<usize>>,
}

impl<'a> Index<'a> {
    fn new(ops: &'a [Op]) -> Self {
        let mut index = Self {
            puts: BTreeMap::new(),
            keeping: BTreeMap::new(),
            deletes: BTreeMap::new(),
            ranges: Vec::new(),
            revokes: BTreeMap::new(),
        };
        for (at, op) in ops.iter().enumerate() {
            match (&op.request, &op.outcome) {
                (Request::LeaseRevoke { id }, Outcome::Done(_) | Outcome::Unknown) => {
                    index.revokes.entry(*id).or_default().push(at);
                }
                (Request::Put(put), Outcome::Unknown) => index.put(put, at),
                (Request::DeleteRange(delete), Outcome::Unknown) => index.delete(delete, at),
                (Request::Txn(txn), Outcome::Unknown) => {
                    index.ops(&txn.success, at);
                    index.ops(&txn.failure, at);
                }
                _ => {}
            }
        }
        index
    }

    fn put(&mut self, put: &'a PutRequest, at: usize) {
        let list = match put.ignore_value {
            true => self.keeping.entry(&put.key).or_default(),
            false => self.puts.entry((&put.key, &put.value)).or_default(),
        };
        list.push(at);
    }

    fn delete(&mut self, delete: &'a DeleteRangeRequest, at: usize) {
        match delete.range_end.is_empty() {
            true => self.deletes.entry(&delete.key).or_default().push(at),
            false => self.ranges.push(at),
        }
    }

    fn ops(&mut self, ops: &'a [RequestOp], at: usize) {
        for op in ops {
            match &op.request {
                Some(OpRequest::RequestPut(put)) => self.put(put, at),
                Some(OpRequest::RequestDeleteRange(delete)) => self.delete(delete, at),
                Some(OpRequest::RequestTxn(txn)) => {
                    self.ops(&txn.success, at);
                    self.ops(&txn.failure, at);
                }
                _ => {}
            }
        }
    }

    /// Operations that may do this; those that cannot for other reasons are among them.
    fn candidates(&self, step: &Step, view: &crate::timeline::View<'_>) -> Vec<usize> {
        let put = step.events.iter().find(|event| event.r#type == EventType::Put as i32);
        let Some(kv) = put.or(step.events.first()).and_then(|event| event.kv.as_ref()) else { return Vec::new() };
        let mut found: Vec<usize> = if put.is_some() {
            let puts = self.puts.get(&(&kv.key, &kv.value)).into_iter().flatten();
            puts.chain(self.keeping.get(&kv.key).into_iter().flatten()).copied().collect()
        } else {
            let lease = view.get(&kv.key).map_or(0, |kv| kv.lease);
            let deletes = self.deletes.get(&kv.key).into_iter().flatten();
            let revokes = self.revokes.get(&lease).into_iter().flatten();
            deletes.chain(revokes).chain(&self.ranges).copied().collect()
        };
        found.sort_unstable();
        found.dedup();
        found
    }
}
