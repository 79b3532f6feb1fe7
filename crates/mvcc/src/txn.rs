//! Transactions: conditions, then all checks, then the operations (etcd.md 2.2).

use crate::check;
use crate::compare::{Compares, Path, ScanBudget};
use crate::effects::Effects;
use crate::error::Error;
use crate::range_reader::{RangeReader, RangeResult};
use crate::request::{OpResult, TxnResult};
use crate::store::Store;
use crate::types::ValueSource;
use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest};
use netsy_api::ids::{LeaseId, Revision};

/// Checks and runs a transaction at the newest state. An error leaves the effects half-made: the caller aborts.
pub(crate) fn run(effects: &mut Effects<'_>, txn: &TxnRequest, values: &dyn ValueSource) -> Result<TxnResult, Error> {
    let store = &*effects.store;
    let before = store.head;
    let mut budget = ScanBudget(store.config.txn_scan_keys_max);
    let path = Compares { store, at: before.revision, values, budget: &mut budget }.path(txn)?;
    let ops = branch(txn, &path, &mut 0);
    check_ops(ops, &path, &mut 1, (before.revision, before.compact), &|put| check_put(store, put))?;
    Run { effects, values, path: &path, budget }.txn(txn, &mut 0)
}

/// The operations of the branch that the `at`th transaction of the path takes.
pub(crate) fn branch<'t>(txn: &'t TxnRequest, path: &Path, at: &mut usize) -> &'t [RequestOp] {
    let taken = path.get(*at).copied().unwrap_or(false);
    *at += 1;
    if taken { &txn.success } else { &txn.failure }
}

/// A put's lease, then its key where that must exist.
fn check_put(store: &Store, put: &PutRequest) -> Result<(), Error> {
    if put.lease != 0 && !store.lessor.contains(LeaseId(put.lease)) {
        return Err(Error::LeaseNotFound);
    }
    if (put.ignore_value || put.ignore_lease) && store.head_version(&put.key).is_none() {
        return Err(Error::KeyNotFound);
    }
    Ok(())
}

/// Everything on the path, in order, against the state before the transaction: so it is told which of several things is
/// wrong. Negative revisions are checked like any other.
pub(crate) fn check_ops(
    ops: &[RequestOp],
    path: &Path,
    at: &mut usize,
    (current, compact): (Revision, Revision),
    put: &dyn Fn(&PutRequest) -> Result<(), Error>,
) -> Result<(), Error> {
    for op in ops {
        match &op.request {
            Some(Request::RequestRange(range)) if range.revision != 0 => {
                if range.revision > current.0 {
                    return Err(Error::FutureRevision);
                }
                if range.revision < compact.0 {
                    return Err(Error::Compacted);
                }
            }
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestTxn(txn)) => {
                let ops = branch(txn, path, at);
                check_ops(ops, path, at, (current, compact), put)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn read(
    store: &Store,
    range: &RangeRequest,
    at: Revision,
    values: &dyn ValueSource,
    budget: &mut ScanBudget,
) -> Result<RangeResult, Error> {
    let mut reader = RangeReader::fixed(range, at, at)?;
    let looked_at = reader.step_within(store, budget.0)?;
    budget.0 = budget.0.checked_sub(looked_at).ok_or(Error::TooManyOps)?;
    let mut found = Vec::new();
    for at in reader.wanted() {
        found.push(values.value(at).map_err(|reason| Error::ValueUnreadable { at, reason })?);
    }
    reader.fill(found);
    Ok(reader.finish())
}

struct Run<'r, 's> {
    effects: &'r mut Effects<'s>,
    values: &'r dyn ValueSource,
    path: &'r Path,
    budget: ScanBudget,
}

impl Run<'_, '_> {
    fn txn(&mut self, txn: &TxnRequest, at: &mut usize) -> Result<TxnResult, Error> {
        let succeeded = self.path.get(*at).copied().unwrap_or(false);
        let ops = branch(txn, self.path, at);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(self.op(op, at)?);
        }
        Ok(TxnResult { succeeded, responses })
    }

    fn op(&mut self, op: &RequestOp, at: &mut usize) -> Result<OpResult, Error> {
        Ok(match &op.request {
            Some(Request::RequestRange(range)) => {
                let revision = self.effects.revision();
                OpResult::Range(read(self.effects.store, range, revision, self.values, &mut self.budget)?)
            }
            Some(Request::RequestPut(put)) => {
                crate::evaluate::put(self.effects, put, self.values)?;
                let prev = if put.prev_kv { self.effects.last_prev().cloned() } else { None };
                OpResult::Put { prev, revision: self.effects.revision() }
            }
            Some(Request::RequestDeleteRange(delete)) => {
                let (deleted, prevs) = crate::evaluate::delete_range(self.effects, delete)?;
                OpResult::DeleteRange { deleted, prevs, revision: self.effects.revision() }
            }
            Some(Request::RequestTxn(txn)) => OpResult::Txn(self.txn(txn, at)?),
            None => return Err(Error::KeyNotFound),
        })
    }
}

/// Whether a put in either branch, nested ones included, would add data.
pub(crate) fn has_put(txn: &TxnRequest) -> bool {
    check::any_op(txn, &|op| matches!(op, Request::RequestPut(PutRequest { .. })))
}

/// Whether either branch, nested ones included, has anything but ranges.
pub(crate) fn has_write(txn: &TxnRequest) -> bool {
    check::any_op(txn, &|op| !matches!(op, Request::RequestRange(_)))
}
