//! The store as one would write it down on paper: for every revision a whole map of keys.

use netsy_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use netsy_mvcc::{Error, WriteRequest};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RangeOut {
    pub kvs: Vec<Kv>,
    pub more: bool,
    pub count: i64,
    pub header: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OpOut {
    Range(RangeOut),
    Put(Option<Kv>, i64),
    Delete(i64, Vec<Kv>, i64),
    Txn(bool, Vec<OpOut>),
    Lease(i64, i64),
    Done,
}

pub type Keys = BTreeMap<Vec<u8>, Kv>;

/// All that there is after an entry.
#[derive(Clone, Debug)]
pub struct State {
    /// The keys at revision 1, 2, ...
    pub at: Vec<Rc<Keys>>,
    pub leases: BTreeMap<i64, i64>,
    pub compact: i64,
}

impl State {
    pub fn new() -> Self {
        Self { at: vec![Rc::default()], leases: BTreeMap::new(), compact: -1 }
    }

    pub fn revision(&self) -> i64 {
        self.at.len() as i64
    }

    pub fn keys(&self) -> &Keys {
        self.at.last().unwrap()
    }

    pub fn keys_at(&self, revision: i64) -> &Keys {
        &self.at[revision as usize - 1]
    }

    fn with(&self, keys: Keys) -> State {
        let mut next = self.clone();
        if keys != *self.keys() {
            next.at.push(Rc::new(keys));
        }
        next
    }

    /// The state after a request, and its result.
    pub fn evaluate(&self, request: &WriteRequest) -> Result<(State, OpOut), Error> {
        let mut run = Run { before: self, keys: self.keys().clone(), wrote: false };
        Ok(match request {
            WriteRequest::Put(put) => {
                check_put(put)?;
                if put.lease != 0 && !self.leases.contains_key(&put.lease) {
                    return Err(Error::LeaseNotFound);
                }
                let out = run.put(put)?;
                (run.done(), out)
            }
            WriteRequest::DeleteRange(delete) => {
                if delete.key.is_empty() {
                    return Err(Error::EmptyKey);
                }
                let out = run.delete(delete);
                (run.done(), out)
            }
            WriteRequest::Txn(txn) => {
                check_ops(txn, 128)?;
                duplicates(&txn.success)?;
                duplicates(&txn.failure)?;
                let chosen = choose(self.keys(), txn);
                check_chosen(self, &chosen.ops)?;
                let out = run.ops(&chosen)?;
                (run.done(), OpOut::Txn(chosen.succeeded, out))
            }
            WriteRequest::LeaseGrant { id, ttl_seconds, .. } => {
                if *ttl_seconds > 9_000_000_000 {
                    return Err(Error::LeaseTtlTooLarge);
                }
                if self.leases.contains_key(&id.0) {
                    return Err(Error::LeaseExists);
                }
                let mut next = self.clone();
                next.leases.insert(id.0, (*ttl_seconds).max(2));
                (next, OpOut::Lease(id.0, (*ttl_seconds).max(2)))
            }
            WriteRequest::LeaseRevoke { id } => {
                if !self.leases.contains_key(&id.0) {
                    return Err(Error::LeaseNotFound);
                }
                let keys = self.keys().clone().into_iter().filter(|(_, kv)| kv.lease != id.0).collect();
                let mut next = self.with(keys);
                next.leases.remove(&id.0);
                (next, OpOut::Done)
            }
            WriteRequest::Compact { revision } => {
                if revision.0 <= self.compact {
                    return Err(Error::Compacted);
                }
                if revision.0 > self.revision() {
                    return Err(Error::FutureRevision);
                }
                (State { compact: revision.0, ..self.clone() }, OpOut::Done)
            }
            other => panic!("the model knows no {other:?}"),
        })
    }

    /// A read outside of a transaction.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeOut, Error> {
        check_range(request)?;
        if request.revision > self.revision() {
            return Err(Error::FutureRevision);
        }
        if request.revision > 0 && request.revision < self.compact {
            return Err(Error::Compacted);
        }
        let at = if request.revision > 0 { request.revision } else { self.revision() };
        Ok(range(self.keys_at(at), request, self.revision()))
    }
}

fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

fn range(keys: &Keys, r: &RangeRequest, header: i64) -> RangeOut {
    let all: Vec<Kv> = keys.values().filter(|kv| within(&kv.key, &r.key, &r.range_end)).cloned().collect();
    let count = all.len() as i64;
    if r.count_only {
        return RangeOut { kvs: vec![], more: false, count, header };
    }
    let limit = if r.limit > 0 { r.limit as usize } else { usize::MAX };
    let filtered =
        r.min_mod_revision != 0 || r.max_mod_revision != 0 || r.min_create_revision != 0 || r.max_create_revision != 0;
    let by_key_ascending = r.sort_target == 0 && r.sort_order == 1;
    let mut kvs = all;
    if limit != usize::MAX && !filtered && (r.sort_order == 0 || by_key_ascending) {
        kvs.truncate(limit + 1);
    }
    kvs.retain(|kv| {
        (r.min_mod_revision == 0 || kv.modified >= r.min_mod_revision)
            && (r.max_mod_revision == 0 || kv.modified <= r.max_mod_revision)
            && (r.min_create_revision == 0 || kv.create >= r.min_create_revision)
            && (r.max_create_revision == 0 || kv.create <= r.max_create_revision)
    });
    match r.sort_target {
        0 => {}
        1 => kvs.sort_by_key(|kv| kv.version),
        2 => kvs.sort_by_key(|kv| kv.create),
        3 => kvs.sort_by_key(|kv| kv.modified),
        _ => kvs.sort_by_key(|kv| kv.value.clone()),
    }
    if r.sort_order == 2 {
        kvs.reverse();
    }
    let more = kvs.len() > limit;
    kvs.truncate(limit);
    if r.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    RangeOut { kvs, more, count, header }
}

fn check_range(r: &RangeRequest) -> Result<(), Error> {
    if r.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if !(0..3).contains(&r.sort_order) || !(0..5).contains(&r.sort_target) {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

fn check_put(put: &PutRequest) -> Result<(), Error> {
    if put.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

fn check_ops(txn: &TxnRequest, budget: usize) -> Result<(), Error> {
    let ops = [txn.compare.len(), txn.success.len(), txn.failure.len()].into_iter().max().unwrap();
    if ops > budget {
        return Err(Error::TooManyOps);
    }
    if txn.compare.iter().any(|c| c.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.request {
            Some(Request::RequestRange(r)) => check_range(r)?,
            Some(Request::RequestPut(put)) => check_put(put)?,
            Some(Request::RequestDeleteRange(d)) if d.key.is_empty() => return Err(Error::EmptyKey),
            Some(Request::RequestDeleteRange(_)) => {}
            Some(Request::RequestTxn(txn)) => check_ops(txn, budget - ops)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

type Touched = (Vec<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>);

/// The rule of etcd.md 2.2, with lists. A `range_end` of a zero byte is not translated.
fn duplicates(ops: &[RequestOp]) -> Result<Touched, Error> {
    let hit = |dels: &[(Vec<u8>, Vec<u8>)], key: &[u8]| {
        dels.iter().any(|(s, e)| if e.is_empty() { key == s } else { key >= &s[..] && key < &e[..] })
    };
    let mut dels = vec![];
    for op in ops {
        if let Some(Request::RequestDeleteRange(d)) = &op.request {
            dels.push((d.key.to_vec(), d.range_end.to_vec()));
        }
    }
    let mut puts: Vec<Vec<u8>> = vec![];
    for op in ops {
        let Some(Request::RequestTxn(txn)) = &op.request else { continue };
        let (then_puts, then_dels) = duplicates(&txn.success)?;
        let (else_puts, else_dels) = duplicates(&txn.failure)?;
        for key in then_puts.iter().chain(&else_puts) {
            if puts.contains(key) || hit(&dels, key) {
                return Err(Error::DuplicateKey);
            }
        }
        puts.extend(then_puts);
        puts.extend(else_puts);
        dels.extend(then_dels);
        dels.extend(else_dels);
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            if puts.contains(&put.key.to_vec()) || hit(&dels, &put.key) {
                return Err(Error::DuplicateKey);
            }
            puts.push(put.key.to_vec());
        }
    }
    Ok((puts, dels))
}

/// A transaction whose branches are all chosen.
struct Chosen<'a> {
    succeeded: bool,
    ops: Vec<ChosenOp<'a>>,
}

enum ChosenOp<'a> {
    Range(&'a RangeRequest),
    Put(&'a PutRequest),
    Delete(&'a DeleteRangeRequest),
    Txn(Chosen<'a>),
}

fn choose<'a>(keys: &Keys, txn: &'a TxnRequest) -> Chosen<'a> {
    let succeeded = txn.compare.iter().all(|c| holds(keys, c));
    let ops = if succeeded { &txn.success } else { &txn.failure };
    let ops = ops.iter().map(|op| match op.request.as_ref().unwrap() {
        Request::RequestRange(r) => ChosenOp::Range(r),
        Request::RequestPut(put) => ChosenOp::Put(put),
        Request::RequestDeleteRange(delete) => ChosenOp::Delete(delete),
        Request::RequestTxn(txn) => ChosenOp::Txn(choose(keys, txn)),
    });
    Chosen { succeeded, ops: ops.collect() }
}

fn holds(keys: &Keys, c: &Compare) -> bool {
    let found: Vec<&Kv> = keys.values().filter(|kv| within(&kv.key, &c.key, &c.range_end)).collect();
    if found.is_empty() {
        let nothing = Kv { key: vec![], value: vec![], create: 0, modified: 0, version: 0, lease: 0 };
        return c.target != CompareTarget::Value as i32 && holds_for(&nothing, c);
    }
    found.into_iter().all(|kv| holds_for(kv, c))
}

fn holds_for(kv: &Kv, c: &Compare) -> bool {
    let union = c.target_union.as_ref();
    let ordering = match (CompareTarget::try_from(c.target).unwrap(), union) {
        (CompareTarget::Version, Some(TargetUnion::Version(n))) => kv.version.cmp(n),
        (CompareTarget::Version, _) => kv.version.cmp(&0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(n))) => kv.create.cmp(n),
        (CompareTarget::Create, _) => kv.create.cmp(&0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(n))) => kv.modified.cmp(n),
        (CompareTarget::Mod, _) => kv.modified.cmp(&0),
        (CompareTarget::Lease, Some(TargetUnion::Lease(n))) => kv.lease.cmp(n),
        (CompareTarget::Lease, _) => kv.lease.cmp(&0),
        (CompareTarget::Value, Some(TargetUnion::Value(v))) => kv.value[..].cmp(&v[..]),
        (CompareTarget::Value, _) => kv.value[..].cmp(&[]),
    };
    match CompareResult::try_from(c.result).unwrap() {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::NotEqual => ordering != Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
    }
}

fn check_chosen(state: &State, ops: &[ChosenOp]) -> Result<(), Error> {
    for op in ops {
        match op {
            ChosenOp::Put(put) if put.lease != 0 && !state.leases.contains_key(&put.lease) => {
                return Err(Error::LeaseNotFound);
            }
            ChosenOp::Put(put)
                if (put.ignore_value || put.ignore_lease) && !state.keys().contains_key(&put.key[..]) =>
            {
                return Err(Error::KeyNotFound);
            }
            ChosenOp::Range(r) if r.revision > state.revision() => return Err(Error::FutureRevision),
            ChosenOp::Range(r) if r.revision != 0 && r.revision < state.compact => return Err(Error::Compacted),
            ChosenOp::Txn(chosen) => check_chosen(state, &chosen.ops)?,
            _ => {}
        }
    }
    Ok(())
}

struct Run<'a> {
    before: &'a State,
    keys: Keys,
    wrote: bool,
}

impl Run<'_> {
    fn revision(&self) -> i64 {
        self.before.revision() + i64::from(self.wrote)
    }

    fn done(self) -> State {
        let mut next = self.before.clone();
        if self.wrote {
            next.at.push(Rc::new(self.keys));
        }
        next
    }

    fn put(&mut self, put: &PutRequest) -> Result<OpOut, Error> {
        let new = self.before.revision() + 1;
        let prev = self.keys.get(&put.key[..]).cloned();
        if prev.is_none() && (put.ignore_value || put.ignore_lease) {
            return Err(Error::KeyNotFound);
        }
        self.wrote = true;
        let mut kv = Kv {
            key: put.key.to_vec(),
            value: put.value.to_vec(),
            create: new,
            modified: new,
            version: 1,
            lease: put.lease,
        };
        if let Some(prev) = &prev {
            (kv.create, kv.version) = (prev.create, prev.version + 1);
            if put.ignore_value {
                kv.value = prev.value.clone();
            }
            if put.ignore_lease {
                kv.lease = prev.lease;
            }
        }
        self.keys.insert(kv.key.clone(), kv);
        Ok(OpOut::Put(prev.filter(|_| put.prev_kv), new))
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) -> OpOut {
        let gone: Vec<Kv> =
            self.keys.values().filter(|kv| within(&kv.key, &delete.key, &delete.range_end)).cloned().collect();
        self.wrote |= !gone.is_empty();
        for kv in &gone {
            self.keys.remove(&kv.key);
        }
        let deleted = gone.len() as i64;
        OpOut::Delete(deleted, if delete.prev_kv { gone } else { vec![] }, self.revision())
    }

    fn ops(&mut self, chosen: &Chosen) -> Result<Vec<OpOut>, Error> {
        let mut out = vec![];
        for op in &chosen.ops {
            out.push(match op {
                ChosenOp::Range(r) if r.revision > 0 => {
                    OpOut::Range(range(self.before.keys_at(r.revision), r, self.revision()))
                }
                ChosenOp::Range(r) => OpOut::Range(range(&self.keys, r, self.revision())),
                ChosenOp::Put(put) => self.put(put)?,
                ChosenOp::Delete(delete) => self.delete(delete),
                ChosenOp::Txn(chosen) => OpOut::Txn(chosen.succeeded, self.ops(chosen)?),
            });
        }
        Ok(out)
    }
}
