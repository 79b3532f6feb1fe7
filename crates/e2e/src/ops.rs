//! Requests, spelled short.

use bytes::Bytes;
use netsy_api::etcdserverpb as pb;
use netsy_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use netsy_api::etcdserverpb::request_op::Request;

/// The end of a range that has none; as a key with this end: everything.
pub const OPEN: &[u8] = b"\0";

fn bytes(of: impl Into<Vec<u8>>) -> Bytes {
    Bytes::from(of.into())
}

/// Reads one key.
pub fn get(key: impl Into<Vec<u8>>) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(key), ..Default::default() }
}

/// Reads `[key, end)`.
pub fn range(key: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }
}

/// Reads every key that begins so.
pub fn prefix(key: impl Into<Vec<u8>>) -> pb::RangeRequest {
    let key = key.into();
    let end = prefix_end(&key);
    range(key, end)
}

/// Puts.
pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> pb::PutRequest {
    pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

/// Deletes one key.
pub fn delete(key: impl Into<Vec<u8>>) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: bytes(key), ..Default::default() }
}

/// Deletes `[key, end)`.
pub fn delete_range(key: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }
}

/// The first key after all that begin with `prefix`.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    OPEN.to_vec()
}

/// A transaction.
pub fn txn(compare: Vec<pb::Compare>, success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { compare, success, failure }
}

/// A request as part of a transaction.
pub fn op(request: impl Into<Op>) -> pb::RequestOp {
    pb::RequestOp { request: Some(request.into().0) }
}

/// What a transaction can hold.
pub struct Op(Request);

impl From<pb::RangeRequest> for Op {
    fn from(request: pb::RangeRequest) -> Self {
        Self(Request::RequestRange(request))
    }
}

impl From<pb::PutRequest> for Op {
    fn from(request: pb::PutRequest) -> Self {
        Self(Request::RequestPut(request))
    }
}

impl From<pb::DeleteRangeRequest> for Op {
    fn from(request: pb::DeleteRangeRequest) -> Self {
        Self(Request::RequestDeleteRange(request))
    }
}

impl From<pb::TxnRequest> for Op {
    fn from(request: pb::TxnRequest) -> Self {
        Self(Request::RequestTxn(request))
    }
}

/// A comparison; the target follows from the operand.
pub fn compare(key: impl Into<Vec<u8>>, result: CompareResult, operand: TargetUnion) -> pb::Compare {
    let target = match &operand {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    pb::Compare {
        result: result as i32,
        target: target as i32,
        key: bytes(key),
        target_union: Some(operand),
        range_end: Bytes::new(),
    }
}

/// `mod_revision(key) == revision`
pub fn mod_is(key: impl Into<Vec<u8>>, revision: i64) -> pb::Compare {
    compare(key, CompareResult::Equal, TargetUnion::ModRevision(revision))
}

/// `version(key) == version`
pub fn version_is(key: impl Into<Vec<u8>>, version: i64) -> pb::Compare {
    compare(key, CompareResult::Equal, TargetUnion::Version(version))
}

/// `value(key) == value`
pub fn value_is(key: impl Into<Vec<u8>>, value: &str) -> pb::Compare {
    compare(key, CompareResult::Equal, TargetUnion::Value(Bytes::copy_from_slice(value.as_bytes())))
}

/// Watches one key.
pub fn watch_key(key: impl Into<Vec<u8>>) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: bytes(key), ..Default::default() }
}

/// Watches every key that begins so.
pub fn watch_prefix(key: impl Into<Vec<u8>>) -> pb::WatchCreateRequest {
    let key = key.into();
    let range_end = bytes(prefix_end(&key));
    pb::WatchCreateRequest { key: bytes(key), range_end, ..Default::default() }
}

/// Watches everything.
pub fn watch_all() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: Bytes::from_static(OPEN), range_end: Bytes::from_static(OPEN), ..Default::default() }
}
