//! Assertions that several tests share.

use netsy_api::etcdserverpb as pb;
use netsy_api::mvccpb::KeyValue;
use tonic::{Code, Status};

/// Asserts that a call failed with just this code and text.
#[track_caller]
pub fn fails<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    match result {
        Ok(answer) => panic!("was to fail with {code:?} {text:?}, answered {answer:?}"),
        Err(status) => assert_eq!((status.code(), status.message()), (code, text)),
    }
}

/// The revision of a header that must be there.
#[track_caller]
pub fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().expect("the answer has a header").revision
}

/// Keys as text.
pub fn keys(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

/// The range answer at a place in a transaction's answers.
#[track_caller]
pub fn range_at(answer: &pb::TxnResponse, at: usize) -> &pb::RangeResponse {
    match answer.responses[at].response.as_ref() {
        Some(pb::response_op::Response::ResponseRange(range)) => range,
        other => panic!("answer {at} is no range: {other:?}"),
    }
}

/// The put answer at a place in a transaction's answers.
#[track_caller]
pub fn put_at(answer: &pb::TxnResponse, at: usize) -> &pb::PutResponse {
    match answer.responses[at].response.as_ref() {
        Some(pb::response_op::Response::ResponsePut(put)) => put,
        other => panic!("answer {at} is no put: {other:?}"),
    }
}

/// The delete answer at a place in a transaction's answers.
#[track_caller]
pub fn delete_at(answer: &pb::TxnResponse, at: usize) -> &pb::DeleteRangeResponse {
    match answer.responses[at].response.as_ref() {
        Some(pb::response_op::Response::ResponseDeleteRange(delete)) => delete,
        other => panic!("answer {at} is no delete: {other:?}"),
    }
}

/// The answer of a nested transaction at a place in a transaction's answers.
#[track_caller]
pub fn txn_at(answer: &pb::TxnResponse, at: usize) -> &pb::TxnResponse {
    match answer.responses[at].response.as_ref() {
        Some(pb::response_op::Response::ResponseTxn(txn)) => txn,
        other => panic!("answer {at} is no transaction: {other:?}"),
    }
}
