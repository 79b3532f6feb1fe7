//! The node's results as etcd's messages.

use super::header::inner_header;
use netsy_api::etcdserverpb::response_op::Response;
use netsy_api::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, ResponseOp, TxnResponse,
};
use netsy_api::mvccpb::KeyValue;
use netsy_mvcc::{KvRef, OpResult, RangeResult, TxnResult, ValueRef};

/// A key-value as a message; the bytes are shared, not copied.
pub(crate) fn key_value(kv: &KvRef) -> KeyValue {
    KeyValue {
        key: kv.key.clone(),
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: match &kv.value {
            ValueRef::Here(value) => value.clone(),
            // Results are resolved before they come here; keys_only leaves values out.
            ValueRef::Stored(_) | ValueRef::Omitted => Default::default(),
        },
        lease: kv.lease.0,
    }
}

pub(crate) fn key_values(kvs: &[KvRef]) -> Vec<KeyValue> {
    kvs.iter().map(key_value).collect()
}

/// A range's result under a header.
pub(crate) fn range_message(header: Option<ResponseHeader>, result: &RangeResult) -> RangeResponse {
    RangeResponse { header, kvs: key_values(&result.kvs), more: result.more, count: result.count }
}

/// A transaction's result under a header. Operations in it have headers with a revision only, nested
/// transactions empty ones.
pub(crate) fn txn_message(header: ResponseHeader, result: &TxnResult) -> TxnResponse {
    TxnResponse {
        header: Some(header),
        succeeded: result.succeeded,
        responses: result.responses.iter().map(operation).collect(),
    }
}

fn operation(result: &OpResult) -> ResponseOp {
    let response = match result {
        OpResult::Range(range) => {
            Response::ResponseRange(range_message(Some(inner_header(range.header_revision)), range))
        }
        OpResult::Put { prev, revision } => Response::ResponsePut(PutResponse {
            header: Some(inner_header(*revision)),
            prev_kv: prev.as_ref().map(key_value),
        }),
        OpResult::DeleteRange { deleted, prevs, revision } => Response::ResponseDeleteRange(DeleteRangeResponse {
            header: Some(inner_header(*revision)),
            deleted: *deleted,
            prev_kvs: key_values(prevs),
        }),
        OpResult::Txn(nested) => Response::ResponseTxn(txn_message(ResponseHeader::default(), nested)),
    };
    ResponseOp { response: Some(response) }
}
