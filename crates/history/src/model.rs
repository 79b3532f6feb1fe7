//! What a request does and is answered, by etcd's description (reference 2.1 to 2.3), in the most obvious way.

use crate::answer::{Answer, RangeAnswer};
use crate::model_range;
use crate::op::{Refusal, Request};
use crate::timeline::{View, within};
use bytes::Bytes;
use netsy_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use netsy_api::etcdserverpb::request_op::Request as OpRequest;
use netsy_api::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use netsy_api::mvccpb::event::EventType;
use netsy_api::mvccpb::{Event, KeyValue};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What a request comes to in one state.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// The answer.
    pub answer: Answer,
    /// Key changes, at the revision after the state's.
    pub events: Vec<Event>,
}

/// Evaluates a request about keys in a state. Whether a lease is there is not known here. `None`: not about keys.
pub fn evaluate(view: View<'_>, request: &Request) -> Option<Result<Evaluated, Refusal>> {
    let mut run = Run { view, overlay: BTreeMap::new(), events: Vec::new() };
    let answer = match request {
        Request::Put(put) => run.put(put),
        Request::DeleteRange(delete) => Ok(run.delete(delete)),
        Request::Txn(txn) => {
            let path = choose(view, txn);
            run.check(&path).and_then(|()| run.run(&path))
        }
        Request::Range(range) => run.range(range).map(Answer::Range),
        Request::LeaseRevoke { id } => {
            run.end_lease(*id);
            Ok(Answer::LeaseRevoke)
        }
        _ => return None,
    };
    Some(answer.map(|answer| Evaluated { answer, events: run.events }))
}

/// The changes that the end of a lease makes.
pub fn end_of_lease(view: View<'_>, id: i64) -> Vec<Event> {
    let mut run = Run { view, overlay: BTreeMap::new(), events: Vec::new() };
    run.end_lease(id);
    run.events
}

/// A transaction's way, chosen wholly by the state before it.
struct Path<'a> {
    succeeded: bool,
    ops: Vec<PathOp<'a>>,
}

enum PathOp<'a> {
    Range(&'a RangeRequest),
    Put(&'a PutRequest),
    Delete(&'a DeleteRangeRequest),
    Txn(Path<'a>),
    Nothing,
}

fn choose<'a>(view: View<'_>, txn: &'a TxnRequest) -> Path<'a> {
    let succeeded = txn.compare.iter().all(|compare| holds(view, compare));
    let ops: &[RequestOp] = if succeeded { &txn.success } else { &txn.failure };
    let ops = ops.iter().map(|op| match &op.request {
        Some(OpRequest::RequestRange(range)) => PathOp::Range(range),
        Some(OpRequest::RequestPut(put)) => PathOp::Put(put),
        Some(OpRequest::RequestDeleteRange(delete)) => PathOp::Delete(delete),
        Some(OpRequest::RequestTxn(txn)) => PathOp::Txn(choose(view, txn)),
        None => PathOp::Nothing,
    });
    Path { succeeded, ops: ops.collect() }
}

fn holds(view: View<'_>, compare: &Compare) -> bool {
    let keys = view.scan(&compare.key, &compare.range_end);
    if keys.is_empty() {
        // A key that is not there is one of zeros, but has no value to compare with.
        return compare.target != CompareTarget::Value as i32 && holds_for(&KeyValue::default(), compare);
    }
    keys.into_iter().all(|kv| holds_for(kv, compare))
}

fn holds_for(kv: &KeyValue, compare: &Compare) -> bool {
    let union = compare.target_union.as_ref();
    let number = || match union {
        Some(
            TargetUnion::Version(number)
            | TargetUnion::CreateRevision(number)
            | TargetUnion::ModRevision(number)
            | TargetUnion::Lease(number),
        ) => *number,
        _ => 0,
    };
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => kv.version.cmp(&number()),
        Ok(CompareTarget::Create) => kv.create_revision.cmp(&number()),
        Ok(CompareTarget::Mod) => kv.mod_revision.cmp(&number()),
        Ok(CompareTarget::Lease) => kv.lease.cmp(&number()),
        Ok(CompareTarget::Value) => match union {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value.cmp(&Bytes::new()),
        },
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Err(_) => true,
    }
}

struct Run<'a> {
    /// Before.
    view: View<'a>,
    /// What the operations so far changed.
    overlay: BTreeMap<Bytes, Option<KeyValue>>,
    events: Vec<Event>,
}

impl Run<'_> {
    fn new_revision(&self) -> i64 {
        self.view.revision + 1
    }

    fn get(&self, key: &Bytes) -> Option<KeyValue> {
        match self.overlay.get(key) {
            Some(changed) => changed.clone(),
            None => self.view.get(key).cloned(),
        }
    }

    fn scan(&self, start: &Bytes, end: &Bytes) -> Vec<KeyValue> {
        let before = self.view.scan(start, end).into_iter().map(|kv| (kv.key.clone(), Some(kv.clone())));
        let mut all: BTreeMap<Bytes, Option<KeyValue>> = before.collect();
        let changed = self.overlay.iter().filter(|(key, _)| within(key, start, end));
        all.extend(changed.map(|(key, kv)| (key.clone(), kv.clone())));
        all.into_values().flatten().collect()
    }

    /// All that a transaction can be refused for, by the state before it.
    fn check(&self, path: &Path<'_>) -> Result<(), Refusal> {
        for op in &path.ops {
            match op {
                PathOp::Range(range) if range.revision > self.view.revision => return Err(Refusal::FutureRevision),
                PathOp::Put(put) if put.ignore_value || put.ignore_lease => {
                    self.view.get(&put.key).ok_or(Refusal::KeyNotFound)?;
                }
                PathOp::Txn(path) => self.check(path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, path: &Path<'_>) -> Result<Answer, Refusal> {
        let mut responses = Vec::with_capacity(path.ops.len());
        for op in &path.ops {
            responses.push(match op {
                PathOp::Range(range) => Answer::Range(self.range(range)?),
                PathOp::Put(put) => self.put(put)?,
                PathOp::Delete(delete) => self.delete(delete),
                PathOp::Txn(path) => self.run(path)?,
                PathOp::Nothing => Answer::Nothing,
            });
        }
        Ok(Answer::Txn { succeeded: path.succeeded, responses })
    }

    fn range(&self, range: &RangeRequest) -> Result<RangeAnswer, Refusal> {
        let keys = if range.revision <= 0 {
            self.scan(&range.key, &range.range_end)
        } else if range.revision > self.view.revision {
            return Err(Refusal::FutureRevision);
        } else {
            self.view.at(range.revision).scan(&range.key, &range.range_end).into_iter().cloned().collect()
        };
        Ok(model_range::range(keys, range))
    }

    fn put(&mut self, put: &PutRequest) -> Result<Answer, Refusal> {
        let revision = self.new_revision();
        let prev = self.get(&put.key);
        let mut kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: put.lease,
        };
        match &prev {
            Some(prev) => {
                kv.create_revision = prev.create_revision;
                kv.version = prev.version + 1;
                if put.ignore_value {
                    kv.value = prev.value.clone();
                }
                if put.ignore_lease {
                    kv.lease = prev.lease;
                }
            }
            None if put.ignore_value || put.ignore_lease => return Err(Refusal::KeyNotFound),
            None => {}
        }
        self.overlay.insert(kv.key.clone(), Some(kv.clone()));
        self.events.push(Event { r#type: EventType::Put as i32, kv: Some(kv), prev_kv: None });
        Ok(Answer::Put { prev: prev.filter(|_| put.prev_kv) })
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) -> Answer {
        let gone = self.scan(&delete.key, &delete.range_end);
        for kv in &gone {
            self.remove(kv.key.clone());
        }
        Answer::DeleteRange { deleted: gone.len() as i64, prevs: if delete.prev_kv { gone } else { Vec::new() } }
    }

    fn end_lease(&mut self, id: i64) {
        for kv in self.view.attached(id) {
            self.remove(kv.key.clone());
        }
    }

    fn remove(&mut self, key: Bytes) {
        let kv = KeyValue { key: key.clone(), mod_revision: self.new_revision(), ..Default::default() };
        self.overlay.insert(key, None);
        self.events.push(Event { r#type: EventType::Delete as i32, kv: Some(kv), prev_kv: None });
    }
}

/// Is this answer one that the model allows?
pub fn allowed(told: &Answer, expected: &Answer, request: &Request) -> bool {
    match (request, told, expected) {
        (Request::Range(request), Answer::Range(told), Answer::Range(expected)) => {
            model_range::allowed(told, expected, request)
        }
        (Request::Txn(request), told, expected) => txn_allowed(told, expected, request),
        _ => told == expected,
    }
}

fn txn_allowed(told: &Answer, expected: &Answer, request: &TxnRequest) -> bool {
    let (Answer::Txn { succeeded, responses }, Answer::Txn { succeeded: expects, responses: expected }) =
        (told, expected)
    else {
        return false;
    };
    let ops = if *expects { &request.success } else { &request.failure };
    succeeded == expects
        && responses.len() == expected.len()
        && responses.iter().zip(expected).zip(ops).all(|((told, expected), op)| match (&op.request, told, expected) {
            (Some(OpRequest::RequestRange(request)), Answer::Range(told), Answer::Range(expected)) => {
                model_range::allowed(told, expected, request)
            }
            (Some(OpRequest::RequestTxn(request)), told, expected) => txn_allowed(told, expected, request),
            _ => told == expected,
        })
}
