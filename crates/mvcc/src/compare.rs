//! The conditions of transactions (etcd.md 2.2).

use crate::error::Error;
use crate::key_index::Version;
use crate::key_range::KeyRange;
use crate::store::Store;
use crate::types::ValueSource;
use netsy_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::etcdserverpb::{Compare, TxnRequest};
use netsy_api::ids::Revision;
use std::cmp::Ordering;
use std::ops::ControlFlow;

/// How many more keys a transaction may look at.
pub(crate) struct ScanBudget(pub(crate) usize);

impl ScanBudget {
    fn spend(&mut self) -> Result<(), Error> {
        self.0 = self.0.checked_sub(1).ok_or(Error::TooManyOps)?;
        Ok(())
    }
}

/// Which branch each transaction takes, nested ones after their parents, in order.
pub(crate) type Path = Vec<bool>;

/// Conditions are all evaluated up front, against the state at `at`: those of nested transactions do not see what
/// operations before them do.
pub(crate) struct Compares<'a> {
    pub(crate) store: &'a Store,
    pub(crate) at: Revision,
    pub(crate) values: &'a dyn ValueSource,
    pub(crate) budget: &'a mut ScanBudget,
}

impl Compares<'_> {
    /// The path through `txn`.
    pub(crate) fn path(&mut self, txn: &TxnRequest) -> Result<Path, Error> {
        let mut path = Vec::with_capacity(1);
        self.walk(txn, &mut path)?;
        Ok(path)
    }

    fn walk(&mut self, txn: &TxnRequest, path: &mut Path) -> Result<(), Error> {
        let mut holds = true;
        for compare in &txn.compare {
            if !self.holds(compare)? {
                holds = false;
                break;
            }
        }
        path.push(holds);
        for op in if holds { &txn.success } else { &txn.failure } {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.walk(nested, path)?;
            }
        }
        Ok(())
    }

    /// Must hold for every key of its range. No key counts as one whose numbers are all 0, and which no condition on a
    /// value holds for.
    fn holds(&mut self, compare: &Compare) -> Result<bool, Error> {
        let range = KeyRange::new(&compare.key, &compare.range_end);
        let store = self.store;
        let mut none = true;
        if let Some(key) = range.single() {
            self.budget.spend()?;
            if let Some(version) = store.index.get(key).and_then(|versions| versions.at(self.at)) {
                return self.holds_for(compare, version);
            }
        } else {
            let stopped = store.index.for_each(&range, None, |_, versions| {
                if let Err(error) = self.budget.spend() {
                    return ControlFlow::Break(Err(error));
                }
                let Some(version) = versions.at(self.at) else { return ControlFlow::Continue(()) };
                none = false;
                match self.holds_for(compare, version) {
                    Ok(true) => ControlFlow::Continue(()),
                    other => ControlFlow::Break(other),
                }
            });
            if let Some(stopped) = stopped {
                return stopped;
            }
        }
        if !none {
            return Ok(true);
        }
        if compare.target() == CompareTarget::Value && is_known(compare.target) {
            return Ok(false);
        }
        Ok(accepts(compare.result, number_target(compare).map_or(Ordering::Equal, |wanted| 0.cmp(&wanted))))
    }

    fn holds_for(&self, compare: &Compare, version: &Version) -> Result<bool, Error> {
        let ordering = match number_target(compare) {
            Some(wanted) => match compare.target() {
                CompareTarget::Version => version.version.cmp(&wanted),
                CompareTarget::Create => version.create.0.cmp(&wanted),
                CompareTarget::Mod => version.main.0.cmp(&wanted),
                CompareTarget::Lease => version.lease.0.cmp(&wanted),
                CompareTarget::Value => Ordering::Equal,
            },
            None if is_known(compare.target) => {
                let wanted: &[u8] = match &compare.target_union {
                    Some(TargetUnion::Value(value)) => value,
                    _ => &[],
                };
                (*self.store.value(version, self.values)?).cmp(wanted)
            }
            None => Ordering::Equal,
        };
        Ok(accepts(compare.result, ordering))
    }
}

fn is_known(target: i32) -> bool {
    CompareTarget::try_from(target).is_ok()
}

/// The number to compare with; one of another kind than the target, or none, is 0. `None`: it is no number.
fn number_target(compare: &Compare) -> Option<i64> {
    let union = compare.target_union.as_ref();
    let number = match (CompareTarget::try_from(compare.target).ok()?, union) {
        (CompareTarget::Value, _) => return None,
        (CompareTarget::Version, Some(TargetUnion::Version(n))) => *n,
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(n))) => *n,
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(n))) => *n,
        (CompareTarget::Lease, Some(TargetUnion::Lease(n))) => *n,
        _ => 0,
    };
    Some(number)
}

/// A result of no known number accepts everything.
fn accepts(result: i32, ordering: Ordering) -> bool {
    match CompareResult::try_from(result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
