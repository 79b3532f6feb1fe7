//! Between the state machine's types and those of histories.

use netsy_api::etcdserverpb::RangeRequest;
use netsy_api::ids::{LeaseId, Revision};
use netsy_api::log::{Entry, Mutation};
use netsy_api::mvccpb::{self, KeyValue};
use netsy_history::{Answer, Done, Outcome, RangeAnswer, Refusal, Request};
use netsy_mvcc::{
    Error, KvRef, OpResult, Outcome as Written, RangeReader, RangeResult, Store, TxnResult, ValueRef, WriteRequest,
};

pub fn key_value(kv: KvRef) -> KeyValue {
    KeyValue {
        key: kv.key,
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: match kv.value {
            ValueRef::Here(value) => value,
            _ => Default::default(),
        },
        lease: kv.lease.0,
    }
}

fn range_answer(result: RangeResult) -> RangeAnswer {
    RangeAnswer { kvs: result.kvs.into_iter().map(key_value).collect(), more: result.more, count: result.count }
}

fn txn_answer(result: TxnResult) -> Answer {
    let responses = result.responses.into_iter().map(|op| match op {
        OpResult::Range(range) => Answer::Range(range_answer(range)),
        OpResult::Put { prev, .. } => Answer::Put { prev: prev.map(key_value) },
        OpResult::DeleteRange { deleted, prevs, .. } => {
            Answer::DeleteRange { deleted, prevs: prevs.into_iter().map(key_value).collect() }
        }
        OpResult::Txn(txn) => txn_answer(txn),
    });
    Answer::Txn { succeeded: result.succeeded, responses: responses.collect() }
}

pub fn written(outcome: Written, revision: Revision) -> Outcome {
    let answer = match outcome {
        Written::Put { prev } => Answer::Put { prev: prev.map(key_value) },
        Written::DeleteRange { deleted, prevs } => {
            Answer::DeleteRange { deleted, prevs: prevs.into_iter().map(key_value).collect() }
        }
        Written::Txn(txn) => txn_answer(txn),
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

pub fn range(store: &Store, request: &RangeRequest) -> Outcome {
    let read = || -> Result<RangeResult, Error> {
        let mut reader = RangeReader::new(request, store)?;
        while !reader.step(store, 64)? {}
        Ok(reader.finish())
    };
    match read() {
        Ok(result) => {
            let revision = result.header_revision.0;
            Outcome::Done(Done { revision, answer: Answer::Range(range_answer(result)) })
        }
        Err(error) => refused(&error),
    }
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
