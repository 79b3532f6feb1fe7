//! What the tests share: a store with a local database beside it that holds rows as netsy-localdb would.
#![allow(dead_code)]

pub mod model;

use bytes::Bytes;
use model::{Kv, OpOut, RangeOut};
use netsy_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use netsy_api::ids::{LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use netsy_api::log::{AlarmKind, Entry, Mutation, Row};
use netsy_mvcc::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows as the local database holds them; those after `written` are not there yet.
#[derive(Default)]
pub struct Rows {
    pub rows: BTreeMap<Position, Row>,
    pub written: Position,
}

impl ValueSource for Rows {
    fn value(&self, at: Position) -> Result<Bytes, String> {
        if at > self.written {
            return Err(format!("row {at} is not written yet: its value must be in memory"));
        }
        match self.rows.get(&at).map(|row| &row.mutation) {
            Some(Mutation::Put { value, .. }) => Ok(value.clone()),
            other => Err(format!("no value in row {at}: {other:?}")),
        }
    }
}

/// A store and its database.
pub struct Harness {
    pub store: Store,
    pub db: Rows,
    pub term: Term,
    pub entries: Vec<Arc<Entry>>,
}

pub fn config(cache: usize) -> StoreConfig {
    StoreConfig { value_cache_bytes_max: cache, ..StoreConfig::default() }
}

impl Default for Harness {
    fn default() -> Self {
        Self::new(1 << 20)
    }
}

impl Harness {
    pub fn new(cache: usize) -> Self {
        Self { store: Store::new(config(cache)), db: Rows::default(), term: Term(1), entries: Vec::new() }
    }

    /// Evaluates; nothing is visible or written yet.
    pub fn evaluate(&mut self, request: &WriteRequest) -> Result<Evaluated, Error> {
        let done = self.store.evaluate(self.term, UnixMillis(7), request, &self.db)?;
        if let Some(entry) = &done.entry {
            for row in entry.rows(done.first_position) {
                self.db.rows.insert(row.position, row);
            }
            self.entries.push(entry.clone());
        }
        Ok(done)
    }

    /// Evaluates, and everything is written and visible.
    pub fn write(&mut self, request: impl Into<WriteRequest>) -> Result<Evaluated, Error> {
        let done = self.evaluate(&request.into());
        self.settle();
        done
    }

    pub fn settle(&mut self) {
        self.write_through(Position(self.store.next_position().0 - 1));
        self.store.set_visible(self.store.last_index());
    }

    pub fn write_through(&mut self, position: Position) {
        self.db.written = self.db.written.max(position);
        self.store.written_through(position);
    }

    pub fn put(&mut self, key: &str, value: &str) -> Revision {
        self.write(WriteRequest::Put(put(key, value))).unwrap().revision
    }

    pub fn delete(&mut self, key: &str, end: &str) -> Revision {
        self.write(WriteRequest::DeleteRange(delete(key, end))).unwrap().revision
    }

    pub fn compact(&mut self, revision: i64) -> Result<Evaluated, Error> {
        self.write(WriteRequest::Compact { revision: Revision(revision) })
    }

    pub fn txn(&mut self, txn: TxnRequest) -> Result<TxnResult, Error> {
        match self.write(WriteRequest::Txn(txn))?.outcome {
            Outcome::Txn(result) => Ok(result),
            other => panic!("a transaction came to {other:?}"),
        }
    }

    pub fn grant(&mut self, id: i64, ttl: i64) -> Result<Outcome, Error> {
        let request = WriteRequest::LeaseGrant { id: LeaseId(id), ttl_seconds: ttl, candidates: vec![], now_ms: 0 };
        self.write(request).map(|done| done.outcome)
    }

    /// Compacts all that can be compacted, and deletes the rows.
    pub fn compact_physically(&mut self, budget: usize) -> CompactStep {
        loop {
            let step = self.store.compact_index(
                budget,
                netsy_api::ids::Revision(i64::MAX),
                netsy_api::ids::LogIndex(u64::MAX),
            );
            for position in &step.removed {
                assert!(self.db.rows.remove(position).is_some(), "row {position} was removed twice");
            }
            if step.done || step.waiting {
                return step;
            }
        }
    }

    pub fn kv(&self, kv: &KvRef) -> Kv {
        let value = match &kv.value {
            ValueRef::Here(bytes) => bytes.to_vec(),
            ValueRef::Stored(at) => self.db.value(*at).unwrap().to_vec(),
            ValueRef::Omitted => Vec::new(),
        };
        Kv {
            key: kv.key.to_vec(),
            value,
            create: kv.create_revision.0,
            modified: kv.mod_revision.0,
            version: kv.version,
            lease: kv.lease.0,
        }
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeOut, Error> {
        self.range_in_steps(request, usize::MAX)
    }

    pub fn range_in_steps(&self, request: &RangeRequest, budget: usize) -> Result<RangeOut, Error> {
        let mut reader = RangeReader::new(request, &self.store)?;
        while !reader.step(&self.store, budget)? {}
        let values: Vec<Bytes> = reader.wanted().into_iter().map(|at| self.db.value(at).unwrap()).collect();
        reader.fill(values);
        Ok(self.range_out(&reader.finish()))
    }

    pub fn read_txn(&self, txn: &TxnRequest, budget: usize) -> Result<(TxnResult, Revision), Error> {
        let mut reader = TxnReader::new(txn, &self.store, &self.db)?;
        while !reader.step(&self.store, budget)? {}
        Ok(self.finish_txn(reader))
    }

    pub fn finish_txn(&self, mut reader: TxnReader) -> (TxnResult, Revision) {
        let values: Vec<Bytes> = reader.wanted().into_iter().map(|at| self.db.value(at).unwrap()).collect();
        reader.fill(values);
        reader.finish()
    }

    pub fn range_out(&self, range: &RangeResult) -> RangeOut {
        RangeOut {
            kvs: range.kvs.iter().map(|kv| self.kv(kv)).collect(),
            more: range.more,
            count: range.count,
            header: range.header_revision.0,
        }
    }

    pub fn ops_out(&self, txn: &TxnResult) -> Vec<OpOut> {
        txn.responses.iter().map(|op| self.op_out(op)).collect()
    }

    fn op_out(&self, op: &OpResult) -> OpOut {
        match op {
            OpResult::Range(range) => OpOut::Range(self.range_out(range)),
            OpResult::Put { prev, revision } => OpOut::Put(prev.as_ref().map(|kv| self.kv(kv)), revision.0),
            OpResult::DeleteRange { deleted, prevs, revision } => {
                OpOut::Delete(*deleted, prevs.iter().map(|kv| self.kv(kv)).collect(), revision.0)
            }
            OpResult::Txn(txn) => OpOut::Txn(txn.succeeded, self.ops_out(txn)),
        }
    }

    /// Where the log is, to load from.
    pub fn end(&self) -> LoadEnd {
        LoadEnd {
            last_index: self.store.last_index(),
            last_term: self.store.last_term(),
            next_position: self.store.next_position(),
            revision: self.store.head_revision(),
            compact_revision: self.store.compact_revision(),
        }
    }

    /// A second store, loaded from the rows that are left.
    pub fn reload(&self, values: bool) -> Store {
        let mut store = Store::new(config(1 << 20));
        for row in self.db.rows.values() {
            load(&mut store, row, values).unwrap();
        }
        store.finish_load(self.end()).unwrap();
        store
    }
}

pub fn load(store: &mut Store, row: &Row, values: bool) -> Result<(), ApplyError> {
    let mut given = None;
    let what = match &row.mutation {
        Mutation::Put { key, value, create_revision, version, lease } => {
            given = values.then(|| value.clone());
            RowWhat::Put { key, create_revision: *create_revision, version: *version, lease: *lease }
        }
        Mutation::Delete { key } => RowWhat::Delete { key },
        other => RowWhat::Other(other),
    };
    let Row { position, index, term, time, revision, sub, .. } = *row;
    store.load_row(RowMeta { position, index, term, time, revision, sub, what }, given)
}

pub fn visible(index: u64) -> LogIndex {
    LogIndex(index)
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..Default::default() }
}

pub fn delete(key: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_string().into(), range_end: end.to_string().into(), ..Default::default() }
}

pub fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest { key: key.to_string().into(), range_end: end.to_string().into(), ..Default::default() }
}

pub fn compare(key: &str, target: CompareTarget, result: CompareResult, union: TargetUnion) -> Compare {
    Compare {
        result: result as i32,
        target: target as i32,
        key: key.to_string().into(),
        range_end: Bytes::new(),
        target_union: Some(union),
    }
}

pub fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

pub fn op_put(key: &str, value: &str) -> RequestOp {
    op(Request::RequestPut(put(key, value)))
}

pub fn op_delete(key: &str, end: &str) -> RequestOp {
    op(Request::RequestDeleteRange(delete(key, end)))
}

pub fn op_range(key: &str, end: &str) -> RequestOp {
    op(Request::RequestRange(range(key, end)))
}

pub fn op_txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(TxnRequest { compare, success, failure }))
}

pub fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare, success, failure }
}

pub fn alarm(alarm: AlarmKind, active: bool) -> WriteRequest {
    WriteRequest::Alarm { member_id: 9, alarm, active }
}
