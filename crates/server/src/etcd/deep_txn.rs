//! Transactions within each other, as deep as etcd takes them.
//!
//! The decoder goes through a hundred messages within each other, which are fifty transactions. Deeper ones are taken apart
//! level by level here, and only they: each level is at least one operation, of which there is a limit.

use crate::grpc::status::{Code, Status};
use crate::grpc::streaming::decode;
use bytes::{Buf, Bytes};
use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::etcdserverpb::{Compare, RequestOp, TxnRequest};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// etcd's limit of operations in a transaction, which one level has one of at least.
const LEVELS_MAX: usize = 128;

const COMPARE: u32 = 1;
const SUCCESS: u32 = 2;
const FAILURE: u32 = 3;
/// Of an operation that is a transaction, and of those that are none.
const NESTED: u32 = 4;
const PLAIN: std::ops::Range<u32> = 1..NESTED;

/// Decodes a transaction. Errors: [`Code::Internal`] for bytes that are none; [`Code::InvalidArgument`] and etcd's text for one
/// that is too deep.
pub(super) fn decode_txn(bytes: Bytes) -> Result<TxnRequest, Status> {
    match decode(bytes.clone()) {
        Err(refused) if refused.code == Code::InvalidArgument => txn(bytes, 1),
        decoded => decoded,
    }
}

fn txn(mut bytes: Bytes, level: usize) -> Result<TxnRequest, Status> {
    if level > LEVELS_MAX {
        return Err(Status::new(Code::InvalidArgument, netsy_mvcc::Error::TooManyOps.to_string()));
    }
    let mut txn = TxnRequest::default();
    while bytes.has_remaining() {
        match field(&mut bytes)? {
            (COMPARE, Some(compare)) => txn.compare.push(decode::<Compare>(compare)?),
            (SUCCESS, Some(request)) => txn.success.push(operation(request, level)?),
            (FAILURE, Some(request)) => txn.failure.push(operation(request, level)?),
            _ => {}
        }
    }
    Ok(txn)
}

fn operation(bytes: Bytes, level: usize) -> Result<RequestOp, Status> {
    // The last one of several counts; a message that comes in parts is one.
    let (mut rest, mut parts) = (bytes.clone(), Vec::new());
    while rest.has_remaining() {
        match field(&mut rest)? {
            (NESTED, Some(part)) => parts.push(part),
            (tag, Some(_)) if PLAIN.contains(&tag) => parts.clear(),
            _ => {}
        }
    }
    let nested = match &parts[..] {
        [] => return decode(bytes),
        // As a rule: nothing is copied, at any of the levels.
        [whole] => whole.clone(),
        _ => parts.concat().into(),
    };
    Ok(RequestOp { request: Some(Request::RequestTxn(txn(nested, level + 1)?)) })
}

/// The next field: its tag, and its bytes where it has a length, as all that these messages know have.
fn field(bytes: &mut Bytes) -> Result<(u32, Option<Bytes>), Status> {
    let damaged = |error: DecodeError| broken(&error.to_string());
    let (tag, wire) = decode_key(bytes).map_err(damaged)?;
    if wire != WireType::LengthDelimited {
        if PLAIN.contains(&tag) || tag == NESTED {
            return Err(broken(&format!("invalid wire type: {wire:?} (expected LengthDelimited)")));
        }
        skip_field(wire, tag, bytes, DecodeContext::default()).map_err(damaged)?;
        return Ok((tag, None));
    }
    let length = decode_varint(bytes).map_err(damaged)?;
    match usize::try_from(length) {
        Ok(length) if length <= bytes.len() => Ok((tag, Some(bytes.split_to(length)))),
        _ => Err(broken("buffer underflow")),
    }
}

fn broken(why: &str) -> Status {
    Status::internal(format!("grpc: error unmarshalling request: failed to decode Protobuf message: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_api::etcdserverpb::{PutRequest, RangeRequest};
    use prost::Message;

    fn nested(levels: usize, innermost: Request) -> TxnRequest {
        let op = |request| RequestOp { request: Some(request) };
        let mut txn = TxnRequest { success: vec![op(innermost)], ..TxnRequest::default() };
        for level in 1..levels {
            let compare = vec![Compare { key: format!("{level}").into(), ..Compare::default() }];
            let range = op(Request::RequestRange(RangeRequest { key: "r".into(), ..RangeRequest::default() }));
            let inner = op(Request::RequestTxn(txn));
            let (success, failure) = if level % 2 == 0 { (vec![range, inner], vec![]) } else { (vec![], vec![inner]) };
            txn = TxnRequest { compare, success, failure };
        }
        txn
    }

    fn put() -> Request {
        Request::RequestPut(PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() })
    }

    #[test]
    fn as_deep_as_there_may_be_operations() {
        for levels in [1, 2, 49, 50, 51, 52, 100, 127, 128] {
            let txn = nested(levels, put());
            assert_eq!(decode_txn(txn.encode_to_vec().into()).expect("decodes"), txn, "{levels}");
        }
        for levels in [129, 130, 300] {
            let refused = decode_txn(nested(levels, put()).encode_to_vec().into()).unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument);
            assert_eq!(refused.message, "etcdserver: too many operations in txn request", "{levels}");
        }
    }

    #[test]
    fn level_by_level_it_is_what_the_decoder_makes_of_it() {
        for levels in [1, 2, 7, 50] {
            let whole: Bytes = nested(levels, put()).encode_to_vec().into();
            assert_eq!(txn(whole.clone(), 1).expect("decodes"), TxnRequest::decode(whole).expect("decodes"));
        }
        // Of several the last counts, a message in parts is one, and fields that are not known are passed over.
        let inner = |key: &'static str| {
            let put = Request::RequestPut(PutRequest { key: key.into(), ..PutRequest::default() });
            RequestOp { request: Some(Request::RequestTxn(nested(1, put))) }.encode_to_vec()
        };
        let plain = RequestOp { request: Some(put()) }.encode_to_vec();
        let unknown = [0x28, 7, 0x3a, 1, b'x'];
        for op in [
            [inner("a"), inner("b")].concat(),
            [inner("a"), plain.clone()].concat(),
            [plain.clone(), inner("b")].concat(),
            [inner("a"), plain, inner("b"), unknown.to_vec()].concat(),
            unknown.to_vec(),
            vec![],
        ] {
            assert_eq!(operation(op.clone().into(), 1).expect("decodes"), RequestOp::decode(&op[..]).expect("decodes"));
        }
    }

    #[test]
    fn bytes_that_are_none_are_refused() {
        let whole = nested(60, put()).encode_to_vec();
        for length in 0..whole.len() {
            // Cut at the end of a field, it is another transaction.
            if let Err(refused) = txn(whole[..length].to_vec().into(), 1) {
                assert_eq!(refused.code, Code::Internal, "{length} bytes");
            }
        }
        assert_eq!(txn(Bytes::from_static(&[0x10, 1]), 1).unwrap_err().code, Code::Internal, "a number");
        assert_eq!(txn(Bytes::from_static(&[0x12, 0xff, 1]), 1).unwrap_err().code, Code::Internal, "too long");
    }
}
