//! Histories by hand.
#![allow(dead_code)]

use bytes::Bytes;
use netsy_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use netsy_api::etcdserverpb::request_op::Request as OpRequest;
use netsy_api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use netsy_api::mvccpb::event::EventType;
use netsy_api::mvccpb::{Event, KeyValue};
use netsy_history::*;

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// `key=value` of a key put once, at `revision`.
pub fn kv(key: &str, value: &str, revision: i64) -> KeyValue {
    KeyValue {
        key: bytes(key),
        value: bytes(value),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: 0,
    }
}

/// The same, put again.
pub fn again(kv: &KeyValue, value: &str, revision: i64) -> KeyValue {
    KeyValue { value: bytes(value), mod_revision: revision, version: kv.version + 1, ..kv.clone() }
}

pub fn put_event(kv: KeyValue) -> Event {
    Event { r#type: EventType::Put as i32, kv: Some(kv), prev_kv: None }
}

pub fn delete_event(key: &str, revision: i64) -> Event {
    let kv = KeyValue { key: bytes(key), mod_revision: revision, ..Default::default() };
    Event { r#type: EventType::Delete as i32, kv: Some(kv), prev_kv: None }
}

pub fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

pub fn put(key: &str, value: &str) -> Request {
    Request::Put(put_request(key, value))
}

pub fn delete_request(key: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv: false }
}

pub fn delete(key: &str, end: &str) -> Request {
    Request::DeleteRange(delete_request(key, end))
}

pub fn range_request(key: &str, end: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }
}

pub fn get(key: &str) -> Request {
    Request::Range(range_request(key, ""))
}

pub fn serializable(key: &str) -> Request {
    Request::Range(RangeRequest { serializable: true, ..range_request(key, "") })
}

pub fn op_put(key: &str, value: &str) -> RequestOp {
    RequestOp { request: Some(OpRequest::RequestPut(put_request(key, value))) }
}

pub fn op_delete(key: &str, end: &str) -> RequestOp {
    RequestOp { request: Some(OpRequest::RequestDeleteRange(delete_request(key, end))) }
}

pub fn op_get(key: &str) -> RequestOp {
    RequestOp { request: Some(OpRequest::RequestRange(range_request(key, ""))) }
}

pub fn op_txn(txn: TxnRequest) -> RequestOp {
    RequestOp { request: Some(OpRequest::RequestTxn(txn)) }
}

pub fn txn_request(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare, success, failure }
}

pub fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> Request {
    Request::Txn(txn_request(compare, success, failure))
}

pub fn mod_is(key: &str, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: bytes(key),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::ModRevision(revision)),
    }
}

pub fn done(revision: i64, answer: Answer) -> Outcome {
    Outcome::Done(Done { revision, answer })
}

pub fn put_done(revision: i64) -> Outcome {
    done(revision, Answer::Put { prev: None })
}

pub fn range_answer(kvs: Vec<KeyValue>) -> Answer {
    Answer::Range(RangeAnswer { count: kvs.len() as i64, kvs, more: false })
}

pub fn op(invoked: u64, returned: u64, request: Request, outcome: Outcome) -> Op {
    Op { client: 1, node: 1, session: 1, invoked, returned, request, outcome }
}

/// Two puts of `a`, one of `b`, a delete of `a`: revisions 2 to 5, told at 2, 4, 6, 8.
pub fn base() -> History {
    let (a, b) = (kv("a", "1", 2), kv("b", "3", 4));
    let log = Log::new(steps([put_event(a.clone()), put_event(again(&a, "2", 3)), put_event(b), delete_event("a", 5)]));
    let ops = vec![
        op(1, 2, put("a", "1"), put_done(2)),
        op(3, 4, put("a", "2"), put_done(3)),
        op(5, 6, put("b", "3"), put_done(4)),
        op(7, 8, delete("a", ""), done(5, Answer::DeleteRange { deleted: 1, prevs: vec![] })),
    ];
    let rules = Rules { units_per_second: Some(1), ..Rules::default() };
    History { ops, log, rules, ..History::default() }
}

/// [`base`] and more operations.
pub fn with(ops: impl IntoIterator<Item = Op>) -> History {
    let mut history = base();
    history.ops.extend(ops);
    history
}

/// A watch of everything from a revision on.
pub fn watch_all(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { key: bytes("\0"), range_end: bytes("\0"), start_revision, ..Default::default() }
}

pub fn created(at: u64, revision: i64) -> WatchMessage {
    WatchMessage { at, revision, told: Told::Created }
}

pub fn progress(at: u64, revision: i64) -> WatchMessage {
    WatchMessage { at, revision, told: Told::Progress }
}

pub fn events(at: u64, events: Vec<Event>) -> WatchMessage {
    let revision = events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max().unwrap_or(0);
    WatchMessage { at, revision, told: Told::Events { events, fragment: false } }
}

pub fn session(request: WatchCreateRequest, messages: Vec<WatchMessage>) -> WatchSession {
    WatchSession { node: 1, request, messages }
}

pub fn record(sessions: Vec<WatchSession>) -> WatchRecord {
    WatchRecord { name: "w".into(), sessions, whole_to: None }
}

/// Exactly these kinds are found.
#[track_caller]
pub fn assert_kinds(history: &History, kinds: &[Kind]) {
    let report = history.check();
    assert_eq!(report.kinds(), kinds, "{report}");
}

#[track_caller]
pub fn assert_good(history: &History) {
    assert_kinds(history, &[]);
}
