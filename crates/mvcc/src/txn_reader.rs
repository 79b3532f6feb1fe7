//! Transactions that only read, in steps that each hold the state's lock for a short time (etcd.md 2.2).

use crate::compare::{Compares, ScanBudget};
use crate::error::Error;
use crate::pins::Pin;
use crate::range_reader::RangeReader;
use crate::request::{OpResult, TxnResult};
use crate::store::Store;
use crate::txn::{branch, check_ops};
use crate::types::ValueSource;
use crate::{check, is_read_only};
use bytes::Bytes;
use netsy_api::etcdserverpb::TxnRequest;
use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::ids::{Position, Revision};

/// Answers a transaction that only reads ([`is_read_only`]) at the revision that was visible when it began.
/// [`step`](Self::step) until it says so, then [`finish`](Self::finish). In between a compaction does not disturb it.
#[derive(Debug)]
pub struct TxnReader {
    at: Revision,
    succeeded: bool,
    ranges: Vec<RangeReader>,
    /// The first that is not done.
    next: usize,
    /// Keys that may still be looked at.
    budget: usize,
    /// Until all are done: what the later ranges read must stay.
    pin: Option<Pin>,
}

impl TxnReader {
    /// Checks the transaction and evaluates its conditions, all under one lock.
    pub fn new(txn: &TxnRequest, store: &Store, values: &dyn ValueSource) -> Result<Self, Error> {
        check::check_txn(txn, store.config.txn_ops_max)?;
        let at = store.visible.revision;
        let mut budget = ScanBudget(store.config.txn_scan_keys_max);
        if !is_read_only(txn) {
            // Writes belong to `evaluate`; nothing is found under that name here.
            return Err(Error::KeyNotFound);
        }
        let path = Compares { store, at, values, budget: &mut budget }.path(txn)?;
        let ops = branch(txn, &path, &mut 0);
        check_ops(ops, &path, &mut 1, (at, store.visible.compact), &|_| Ok(()))?;
        let (mut ranges, mut lowest) = (Vec::with_capacity(ops.len()), at);
        for op in ops {
            if let Some(Request::RequestRange(range)) = &op.request {
                ranges.push(RangeReader::fixed(range, at, at)?);
                if range.revision > 0 {
                    lowest = lowest.min(Revision(range.revision));
                }
            }
        }
        let pin = Some(store.pins.pin(lowest));
        Ok(Self { at, succeeded: path.first().copied().unwrap_or(false), ranges, next: 0, budget: budget.0, pin })
    }

    /// Reads on over at most `keys_budget` keys (at least one), under a read lock of the caller's; `true`: that was all.
    pub fn step(&mut self, store: &Store, keys_budget: usize) -> Result<bool, Error> {
        let mut left = keys_budget.max(1);
        while let Some(range) = self.ranges.get_mut(self.next) {
            let before = range.looked_at();
            // One more than what is left shows that there is more.
            let done = range.step(store, left.min(self.budget.saturating_add(1)))?;
            let looked_at = range.looked_at() - before;
            self.budget = self.budget.checked_sub(looked_at).ok_or(Error::TooManyOps)?;
            left = left.saturating_sub(looked_at);
            if !done {
                return Ok(false);
            }
            self.next += 1;
            if left == 0 && self.next < self.ranges.len() {
                return Ok(false);
            }
        }
        self.pin = None;
        Ok(true)
    }

    /// Rows whose values must be given to [`fill`](Self::fill) before `finish`.
    pub fn wanted(&self) -> Vec<Position> {
        self.ranges.iter().flat_map(RangeReader::wanted).collect()
    }

    /// Values for [`wanted`](Self::wanted), in that order.
    pub fn fill(&mut self, values: impl IntoIterator<Item = Bytes>) {
        let mut values = values.into_iter();
        for range in &mut self.ranges {
            let wanted = range.wanted().len();
            range.fill(values.by_ref().take(wanted));
        }
    }

    /// The result and the revision it was read at, for the header; once `step` said that it was all and wanted values
    /// were filled in.
    pub fn finish(self) -> (TxnResult, Revision) {
        let responses = self.ranges.into_iter().map(|range| OpResult::Range(range.finish())).collect();
        (TxnResult { succeeded: self.succeeded, responses }, self.at)
    }
}
