//! Between the state machine's types and those of histories.

use crate::disk::Holes;
use bytes::Bytes;
use netsy_api::etcdserverpb::{RangeRequest, TxnRequest};
use netsy_api::ids::{LeaseId, Position, Revision};
use netsy_api::log::{Entry, Mutation};
use netsy_api::mvccpb::{self, KeyValue};
use netsy_history::{Answer, Done, Outcome, RangeAnswer, Refusal, Request};
use netsy_mvcc::{
    Error, KvRef, OpResult, Outcome as Written, RangeReader, RangeResult, Store, TxnReader, TxnResult, ValueRef,
    ValueSource, WriteRequest,
};
use std::sync::Arc;

/// Values that left memory: from the rows that are left.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub log: &'a [Arc<Entry>],
    pub holes: &'a Holes,
}

impl ValueSource for Rows<'_> {
    fn value(&self, at: Position) -> Result<Bytes, String> {
        let row = Some(at).filter(|at| !self.holes.gone.contains(at)).and_then(|at| value_at(self.log, at));
        row.ok_or_else(|| format!("no row at position {at}"))
    }
}

fn value_at(log: &[Arc<Entry>], at: Position) -> Option<Bytes> {
    let mut next = 1;
    for entry in log {
        let first = next;
        next += entry.mutations.len() as u64;
        if at.0 < next {
            return match entry.mutations.get((at.0 - first) as usize)? {
                Mutation::Put { value, .. } => Some(value.clone()),
                _ => None,
            };
        }
    }
    None
}

pub fn key_value(kv: KvRef, values: &Rows<'_>) -> KeyValue {
    KeyValue {
        key: kv.key,
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: match kv.value {
            ValueRef::Here(value) => value,
            // An error shows in the history as a wrong answer.
            ValueRef::Stored(at) => values.value(at).unwrap_or_else(|text| text.into()),
            ValueRef::Omitted => Default::default(),
        },
        lease: kv.lease.0,
    }
}

fn range_answer(result: RangeResult, values: &Rows<'_>) -> RangeAnswer {
    let kv = |kv| key_value(kv, values);
    RangeAnswer { kvs: result.kvs.into_iter().map(kv).collect(), more: result.more, count: result.count }
}

fn txn_answer(result: TxnResult, values: &Rows<'_>) -> Answer {
    let kv = |kv| key_value(kv, values);
    let responses = result.responses.into_iter().map(|op| match op {
        OpResult::Range(range) => Answer::Range(range_answer(range, values)),
        OpResult::Put { prev, .. } => Answer::Put { prev: prev.map(kv) },
        OpResult::DeleteRange { deleted, prevs, .. } => {
            Answer::DeleteRange { deleted, prevs: prevs.into_iter().map(kv).collect() }
        }
        OpResult::Txn(txn) => txn_answer(txn, values),
    });
    Answer::Txn { succeeded: result.succeeded, responses: responses.collect() }
}

pub fn written(outcome: Written, revision: Revision, values: &Rows<'_>) -> Outcome {
    let kv = |kv| key_value(kv, values);
    let answer = match outcome {
        Written::Put { prev } => Answer::Put { prev: prev.map(kv) },
        Written::DeleteRange { deleted, prevs } => {
            Answer::DeleteRange { deleted, prevs: prevs.into_iter().map(kv).collect() }
        }
        Written::Txn(txn) => txn_answer(txn, values),
        Written::LeaseGrant { ttl_seconds, .. } => Answer::LeaseGrant { ttl: ttl_seconds },
        Written::LeaseRevoke => Answer::LeaseRevoke,
        Written::Compact => Answer::Compact,
        Written::LeaseExpire { .. } | Written::LeaseCheckpoint | Written::Alarm(_) => Answer::Nothing,
    };
    Outcome::Done(Done { revision: revision.0, answer })
}

pub fn refused(error: &Error) -> Outcome {
    let text = error.to_string();
    Outcome::Refused(Refusal::of_text(&text).unwrap_or(Refusal::Other(text)))
}

/// The write that a request is, if it is one.
pub fn write_request(request: &Request, now: u64) -> Option<WriteRequest> {
    Some(match request {
        Request::Put(put) => WriteRequest::Put(put.clone()),
        Request::DeleteRange(delete) => WriteRequest::DeleteRange(delete.clone()),
        Request::Txn(txn) => WriteRequest::Txn(txn.clone()),
        Request::LeaseGrant { id, ttl } => {
            WriteRequest::LeaseGrant { id: LeaseId(*id), ttl_seconds: *ttl, candidates: vec![], now_ms: now }
        }
        Request::LeaseRevoke { id } => WriteRequest::LeaseRevoke { id: LeaseId(*id) },
        Request::Compact { revision } => WriteRequest::Compact { revision: Revision(*revision) },
        Request::Range(_) | Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } => return None,
    })
}

pub fn range(store: &Store, request: &RangeRequest, values: &Rows<'_>) -> Outcome {
    let read = || -> Result<RangeResult, Error> {
        let mut reader = RangeReader::new(request, store)?;
        while !reader.step(store, 64)? {}
        Ok(reader.finish())
    };
    match read() {
        Ok(result) => {
            let revision = result.header_revision.0;
            Outcome::Done(Done { revision, answer: Answer::Range(range_answer(result, values)) })
        }
        Err(error) => refused(&error),
    }
}

fn read_txn(store: &Store, request: &TxnRequest, values: &Rows<'_>) -> Outcome {
    let read = || -> Result<_, Error> {
        let mut reader = TxnReader::new(request, store, values)?;
        while !reader.step(store, 64)? {}
        Ok(reader.finish())
    };
    match read() {
        Ok((result, revision)) => Outcome::Done(Done { revision: revision.0, answer: txn_answer(result, values) }),
        Err(error) => refused(&error),
    }
}

/// Whether any node answers it from its visible state.
pub fn is_read(request: &Request) -> bool {
    match request {
        Request::Range(_) => true,
        Request::Txn(txn) => netsy_mvcc::is_read_only(txn),
        _ => false,
    }
}

/// Answers one of these.
pub fn read(store: &Store, request: &Request, values: &Rows<'_>) -> Outcome {
    match request {
        Request::Txn(txn) => read_txn(store, txn, values),
        Request::Range(request) => range(store, request, values),
        _ => Outcome::Unknown,
    }
}

/// What LeaseTimeToLive answers.
pub fn lease(store: &Store, id: i64, keys: bool, now: u64) -> Outcome {
    let found = store.lease(LeaseId(id), now);
    let hanging = if keys && found.is_some() { store.lease_keys(LeaseId(id)) } else { vec![] };
    let (ttl, granted) = found.map_or((-1, 0), |info| (info.remaining_seconds, info.granted_seconds));
    let answer = Answer::LeaseTimeToLive { ttl, granted, keys: hanging };
    Outcome::Done(Done { revision: store.visible_revision().0, answer })
}

/// The key changes of an entry.
pub fn events(entry: &Entry) -> Vec<mvccpb::Event> {
    let event = |kind: mvccpb::event::EventType, kv: KeyValue| mvccpb::Event {
        r#type: kind as i32,
        kv: Some(kv),
        prev_kv: None,
    };
    let change = |mutation: &Mutation| match mutation {
        Mutation::Put { key, value, create_revision, version, lease } => Some(event(
            mvccpb::event::EventType::Put,
            KeyValue {
                key: key.clone(),
                value: value.clone(),
                create_revision: create_revision.0,
                mod_revision: entry.revision.0,
                version: *version,
                lease: lease.0,
            },
        )),
        Mutation::Delete { key } => Some(event(
            mvccpb::event::EventType::Delete,
            KeyValue { key: key.clone(), mod_revision: entry.revision.0, ..KeyValue::default() },
        )),
        _ => None,
    };
    entry.mutations.iter().filter_map(change).collect()
}
