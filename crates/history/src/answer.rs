//! Answers, without their headers.

use netsy_api::etcdserverpb as pb;
use netsy_api::etcdserverpb::response_op::Response;
use netsy_api::mvccpb::KeyValue;

/// What a successful operation was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Of a put.
    Put {
        /// What was there before, if asked for.
        prev: Option<KeyValue>,
    },
    /// Of a delete.
    DeleteRange {
        /// Keys deleted.
        deleted: i64,
        /// What was there before, if asked for.
        prevs: Vec<KeyValue>,
    },
    /// Of a transaction.
    Txn {
        /// Whether all compares held.
        succeeded: bool,
        /// One for each operation of the branch taken.
        responses: Vec<Answer>,
    },
    /// Of a read.
    Range(RangeAnswer),
    /// Of a grant.
    LeaseGrant {
        /// Granted, seconds.
        ttl: i64,
    },
    /// Of a revoke.
    LeaseRevoke,
    /// Of a renewal.
    LeaseKeepAlive {
        /// Seconds; 0: there is no such lease.
        ttl: i64,
    },
    /// Of a look at a lease.
    LeaseTimeToLive {
        /// Seconds left; -1: there is no such lease.
        ttl: i64,
        /// Granted, seconds.
        granted: i64,
        /// Its keys, if asked for, in any order.
        keys: Vec<bytes::Bytes>,
    },
    /// Of a compaction.
    Compact,
    /// An operation of a transaction without an answer of a known kind.
    Nothing,
}

/// What a read was answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeAnswer {
    /// The keys.
    pub kvs: Vec<KeyValue>,
    /// More than the limit.
    pub more: bool,
    /// Without the limit.
    pub count: i64,
}

impl Answer {
    /// Does it say that keys were changed?
    pub fn wrote(&self) -> bool {
        match self {
            Self::Put { .. } => true,
            Self::DeleteRange { deleted, .. } => *deleted > 0,
            Self::Txn { responses, .. } => responses.iter().any(Self::wrote),
            _ => false,
        }
    }
}

impl From<pb::RangeResponse> for RangeAnswer {
    fn from(from: pb::RangeResponse) -> Self {
        Self { kvs: from.kvs, more: from.more, count: from.count }
    }
}

impl From<pb::RangeResponse> for Answer {
    fn from(from: pb::RangeResponse) -> Self {
        Self::Range(from.into())
    }
}

impl From<pb::PutResponse> for Answer {
    fn from(from: pb::PutResponse) -> Self {
        Self::Put { prev: from.prev_kv }
    }
}

impl From<pb::DeleteRangeResponse> for Answer {
    fn from(from: pb::DeleteRangeResponse) -> Self {
        Self::DeleteRange { deleted: from.deleted, prevs: from.prev_kvs }
    }
}

impl From<pb::TxnResponse> for Answer {
    fn from(from: pb::TxnResponse) -> Self {
        let responses = from.responses.into_iter().map(|op| match op.response {
            Some(Response::ResponseRange(range)) => range.into(),
            Some(Response::ResponsePut(put)) => put.into(),
            Some(Response::ResponseDeleteRange(delete)) => delete.into(),
            Some(Response::ResponseTxn(txn)) => txn.into(),
            None => Self::Nothing,
        });
        Self::Txn { succeeded: from.succeeded, responses: responses.collect() }
    }
}

impl From<pb::LeaseGrantResponse> for Answer {
    fn from(from: pb::LeaseGrantResponse) -> Self {
        Self::LeaseGrant { ttl: from.ttl }
    }
}

impl From<pb::LeaseRevokeResponse> for Answer {
    fn from(_: pb::LeaseRevokeResponse) -> Self {
        Self::LeaseRevoke
    }
}

impl From<pb::LeaseKeepAliveResponse> for Answer {
    fn from(from: pb::LeaseKeepAliveResponse) -> Self {
        Self::LeaseKeepAlive { ttl: from.ttl }
    }
}

impl From<pb::LeaseTimeToLiveResponse> for Answer {
    fn from(from: pb::LeaseTimeToLiveResponse) -> Self {
        Self::LeaseTimeToLive { ttl: from.ttl, granted: from.granted_ttl, keys: from.keys }
    }
}

impl From<pb::CompactionResponse> for Answer {
    fn from(_: pb::CompactionResponse) -> Self {
        Self::Compact
    }
}
