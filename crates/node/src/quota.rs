//! The quota rule (etcd.md 2.8): how full the local database is, what is on its way into it included.
//!
//! The database is measured now and then; what the writer took in since the measurement is added by an estimate. Before
//! the estimate refuses anything, the writer measures anew.

use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use netsy_api::log::{Entry, Mutation};
use netsy_mvcc::WriteRequest;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What etcd counts for a put beside its key and value.
const PUT_OVERHEAD_BYTES: u64 = 256;
/// What etcd counts for a lease.
const LEASE_BYTES: u64 = 64;
/// A page of the local database: a row of more than half of one shares none.
const PAGE_BYTES: u64 = 4096;

/// Bytes of the local database.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    measured: Mutex<Measured>,
    /// Estimated bytes of all entries taken in by this process.
    accepted: AtomicU64,
    /// Of these what the database has.
    committed: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    in_use: u64,
    /// What was committed when the measurement began: no more than is in it.
    counted: u64,
}

/// A measurement under way.
pub(crate) struct Measuring(u64);

impl Usage {
    /// Before the database is asked.
    pub(crate) fn begin(&self) -> Measuring {
        Measuring(self.committed.load(Ordering::SeqCst))
    }

    /// What it answered.
    pub(crate) fn measured(&self, began: Measuring, in_use: u64) {
        let mut measured = self.measured.lock();
        if began.0 >= measured.counted {
            *measured = Measured { in_use, counted: began.0 };
        }
    }

    /// Bytes in use once everything taken in is in the database.
    pub(crate) fn bytes(&self) -> u64 {
        let measured = *self.measured.lock();
        measured.in_use + self.accepted.load(Ordering::SeqCst).saturating_sub(measured.counted)
    }

    /// Entries of about `bytes` were taken in.
    pub(crate) fn accept(&self, bytes: u64) {
        self.accepted.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Everything taken in so far is in the database.
    pub(crate) fn commit(&self) {
        self.committed.store(self.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// What a request may add; 0: it is served however full the database is.
pub(crate) fn request_bytes(request: &WriteRequest) -> u64 {
    match request {
        WriteRequest::Put(put) => put_request_bytes(put),
        WriteRequest::Txn(txn) => txn_bytes(txn),
        WriteRequest::LeaseGrant { .. } => LEASE_BYTES,
        WriteRequest::DeleteRange(_)
        | WriteRequest::LeaseRevoke { .. }
        | WriteRequest::LeaseExpire { .. }
        | WriteRequest::LeaseCheckpoint(_)
        | WriteRequest::Compact { .. }
        | WriteRequest::Alarm { .. } => 0,
    }
}

/// What an entry adds, whatever it is.
pub(crate) fn entry_bytes(entry: &Entry) -> u64 {
    let bytes = entry.mutations.iter().map(|mutation| match mutation {
        Mutation::Put { key, value, .. } => put_bytes(key.len() + value.len()),
        other => LEASE_BYTES + other.payload_bytes() as u64,
    });
    bytes.sum()
}

/// The larger branch, nested transactions included. (Nesting is bounded by what the decoder of messages takes.)
fn txn_bytes(txn: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| {
        let bytes = ops.iter().map(|op| match &op.request {
            Some(Request::RequestPut(put)) => put_request_bytes(put),
            Some(Request::RequestTxn(nested)) => txn_bytes(nested),
            Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
        });
        bytes.sum::<u64>()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

fn put_request_bytes(put: &PutRequest) -> u64 {
    put_bytes(put.key.len() + put.value.len())
}

fn put_bytes(payload: usize) -> u64 {
    let bytes = payload as u64 + PUT_OVERHEAD_BYTES;
    if bytes > PAGE_BYTES / 2 { bytes.next_multiple_of(PAGE_BYTES) } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_counts_until_a_measurement_has_it() {
        let usage = Usage::default();
        let began = usage.begin();
        usage.measured(began, 1000);
        usage.accept(300);
        assert_eq!(usage.bytes(), 1300);
        // Measured while it was being written: it may or may not be in there.
        let began = usage.begin();
        usage.commit();
        usage.measured(began, 1250);
        assert_eq!(usage.bytes(), 1550);
        let (early, late) = (usage.begin(), usage.begin());
        usage.accept(50);
        usage.measured(late, 1260);
        assert_eq!(usage.bytes(), 1310);
        usage.commit();
        let newer = usage.begin();
        usage.measured(newer, 1320);
        usage.measured(early, 1260);
        assert_eq!(usage.bytes(), 1320, "an answer that came late does not count again");
    }

    #[test]
    fn requests_cost_what_etcd_says() {
        let put = |length: usize| PutRequest {
            key: vec![b'k'; 10].into(),
            value: vec![0; length].into(),
            ..PutRequest::default()
        };
        let op = |request| RequestOp { request: Some(request) };
        assert_eq!(request_bytes(&WriteRequest::Put(put(100))), 366);
        assert_eq!(request_bytes(&WriteRequest::Put(put(5000))), 8192);
        let nested = TxnRequest { failure: vec![op(Request::RequestPut(put(0)))], ..TxnRequest::default() };
        let txn = TxnRequest {
            success: vec![op(Request::RequestPut(put(100))), op(Request::RequestTxn(nested))],
            failure: vec![op(Request::RequestPut(put(200)))],
            ..TxnRequest::default()
        };
        assert_eq!(request_bytes(&WriteRequest::Txn(txn)), 366 + 266);
        assert_eq!(request_bytes(&WriteRequest::Txn(TxnRequest::default())), 0);
        assert_eq!(request_bytes(&WriteRequest::LeaseRevoke { id: netsy_api::ids::LeaseId(1) }), 0);
    }
}
