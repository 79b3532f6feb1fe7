//! What is wrong with a request in itself, in etcd's order of checks (etcd.md 1.2, 2.2).

use crate::error::Error;
use crate::intervals::Intervals;
use netsy_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use std::collections::BTreeSet;

pub(crate) fn check_range(request: &RangeRequest) -> Result<(SortOrder, SortTarget), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    let order = SortOrder::try_from(request.sort_order).map_err(|_| Error::InvalidSortOption)?;
    let target = SortTarget::try_from(request.sort_target).map_err(|_| Error::InvalidSortOption)?;
    Ok((order, target))
}

pub(crate) fn check_put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        Err(Error::EmptyKey)
    } else if request.ignore_value && !request.value.is_empty() {
        Err(Error::ValueProvided)
    } else if request.ignore_lease && request.lease != 0 {
        Err(Error::LeaseProvided)
    } else {
        Ok(())
    }
}

pub(crate) fn check_delete(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Everything about a transaction that does not depend on the state.
pub(crate) fn check_txn(request: &TxnRequest, ops_max: usize) -> Result<(), Error> {
    check_ops(request, ops_max)?;
    check_duplicates(&request.success)?;
    check_duplicates(&request.failure)?;
    Ok(())
}

/// A nested transaction has what its parent leaves of `ops_max`, so that nesting is bounded, too.
fn check_ops(request: &TxnRequest, ops_max: usize) -> Result<(), Error> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > ops_max {
        return Err(Error::TooManyOps);
    }
    if request.compare.iter().any(|c| c.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(range).map(drop)?,
            Some(Request::RequestPut(put)) => check_put(put)?,
            Some(Request::RequestDeleteRange(delete)) => check_delete(delete)?,
            Some(Request::RequestTxn(txn)) => check_ops(txn, ops_max - ops)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// Keys put and keys deleted by a list of operations, nested ones included.
type Touched<'a> = (BTreeSet<&'a [u8]>, Intervals<'a>);

/// No key may be put twice, or put and deleted. Both branches are checked whichever is taken. As in etcd, a nested
/// transaction's deletes are not held against the puts of nested ones before it, and a `range_end` of a zero byte is
/// taken as it stands: then the range is empty here.
fn check_duplicates(ops: &[RequestOp]) -> Result<Touched<'_>, Error> {
    let mut deletes = Intervals::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            if delete.range_end.is_empty() {
                deletes.add_key(&delete.key);
            } else {
                deletes.add_range(&delete.key, &delete.range_end);
            }
        }
    }
    let mut puts: BTreeSet<&[u8]> = BTreeSet::new();
    for op in ops {
        let Some(Request::RequestTxn(txn)) = &op.request else { continue };
        let (then_puts, then_deletes) = check_duplicates(&txn.success)?;
        let (else_puts, else_deletes) = check_duplicates(&txn.failure)?;
        let clashes = |key: &&[u8]| puts.contains(*key) || deletes.contains(key);
        if then_puts.iter().any(clashes) || else_puts.iter().any(clashes) {
            return Err(Error::DuplicateKey);
        }
        puts = join(puts, join(then_puts, else_puts));
        deletes = deletes.union(then_deletes).union(else_deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request
            && (deletes.contains(&put.key) || !puts.insert(&put.key))
        {
            return Err(Error::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}

fn join<'a>(a: BTreeSet<&'a [u8]>, b: BTreeSet<&'a [u8]>) -> BTreeSet<&'a [u8]> {
    let (mut large, small) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    large.extend(small);
    large
}

fn ranges(request: &TxnRequest) -> impl Iterator<Item = Option<&RangeRequest>> {
    request.success.iter().chain(&request.failure).map(|op| match &op.request {
        Some(Request::RequestRange(range)) => Some(range),
        _ => None,
    })
}

/// Whether a transaction only reads, so that it needs no entry: ranges only, nothing nested (etcd.md 2.2).
pub fn is_read_only(request: &TxnRequest) -> bool {
    ranges(request).all(|range| range.is_some())
}

/// Whether a transaction that only reads may be answered from this node alone.
pub fn all_serializable(request: &TxnRequest) -> bool {
    ranges(request).all(|range| range.is_some_and(|r| r.serializable))
}

/// Whether any operation of either branch, nested ones included, is accepted by `wanted`.
pub(crate) fn any_op(request: &TxnRequest, wanted: &impl Fn(&Request) -> bool) -> bool {
    request.success.iter().chain(&request.failure).filter_map(|op| op.request.as_ref()).any(|op| match op {
        Request::RequestTxn(txn) => any_op(txn, wanted),
        other => wanted(other),
    })
}
