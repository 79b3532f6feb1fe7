//! The Primary decides what a request does to the newest state.

use crate::effects::Effects;
use crate::error::Error;
use crate::key_range::KeyRange;
use crate::request::{Evaluated, Outcome, WriteRequest};
use crate::store::Store;
use crate::types::{KvRef, ValueSource};
use crate::{LEASE_TTL_SECONDS_MAX, LEASE_TTL_SECONDS_MIN, check, txn};
use bytes::Bytes;
use netsy_api::etcdserverpb::{DeleteRangeRequest, PutRequest};
use netsy_api::ids::{LeaseId, Revision, Term, UnixMillis};
use netsy_api::log::AlarmKind;
use std::ops::ControlFlow;

impl Store {
    /// Evaluates `request` in `term` and, if it changes anything, makes that the newest entry, not yet visible. `now` is
    /// recorded in it. An error leaves the state untouched.
    pub fn evaluate(
        &mut self,
        term: Term,
        now: UnixMillis,
        request: &WriteRequest,
        values: &dyn ValueSource,
    ) -> Result<Evaluated, Error> {
        check_request(request, self.config.txn_ops_max)?;
        self.check_alarms(request)?;
        let mut effects = Effects::new(self, usize::from(!matches!(request, WriteRequest::Txn(_))));
        match run(&mut effects, request, values) {
            Ok(outcome) => {
                let done = effects.commit(term, now, None);
                if let (Outcome::LeaseGrant { id, ttl_seconds }, WriteRequest::LeaseGrant { now_ms, .. }) =
                    (&outcome, request)
                {
                    self.lessor.extend(*id, *ttl_seconds, *now_ms);
                }
                Ok(Evaluated {
                    entry: done.entry,
                    first_position: done.first_position,
                    outcome,
                    events: done.events,
                    revision: done.revision,
                })
            }
            Err(error) => {
                effects.abort();
                Err(error)
            }
        }
    }

    /// What is refused while an alarm is active (etcd.md 2.8). Expiry waits, quietly.
    fn check_alarms(&self, request: &WriteRequest) -> Result<(), Error> {
        let (adds, changes) = match request {
            WriteRequest::Put(_) | WriteRequest::LeaseGrant { .. } => (true, true),
            WriteRequest::Txn(txn) => (txn::has_put(txn), txn::has_write(txn)),
            WriteRequest::DeleteRange(_) | WriteRequest::LeaseRevoke { .. } | WriteRequest::Compact { .. } => {
                (false, true)
            }
            WriteRequest::LeaseExpire { .. } | WriteRequest::LeaseCheckpoint(_) | WriteRequest::Alarm { .. } => {
                (false, false)
            }
        };
        if changes && self.alarms.is_active(AlarmKind::Corrupt) {
            Err(Error::Corrupt)
        } else if adds && self.alarms.is_active(AlarmKind::NoSpace) {
            Err(Error::NoSpace)
        } else {
            Ok(())
        }
    }
}

fn check_request(request: &WriteRequest, txn_ops_max: usize) -> Result<(), Error> {
    match request {
        WriteRequest::Put(put) => check::check_put(put),
        WriteRequest::DeleteRange(delete) => check::check_delete(delete),
        WriteRequest::Txn(txn) => check::check_txn(txn, txn_ops_max),
        _ => Ok(()),
    }
}

fn run(effects: &mut Effects<'_>, request: &WriteRequest, values: &dyn ValueSource) -> Result<Outcome, Error> {
    Ok(match request {
        WriteRequest::Put(request) => {
            if request.lease != 0 && !effects.store.lessor.contains(LeaseId(request.lease)) {
                return Err(Error::LeaseNotFound);
            }
            put(effects, request, values)?;
            Outcome::Put { prev: if request.prev_kv { effects.last_prev().cloned() } else { None } }
        }
        WriteRequest::DeleteRange(request) => {
            let (deleted, prevs) = delete_range(effects, request)?;
            Outcome::DeleteRange { deleted, prevs }
        }
        WriteRequest::Txn(request) => Outcome::Txn(txn::run(effects, request, values)?),
        WriteRequest::LeaseGrant { id, ttl_seconds, candidates, .. } => grant(effects, *id, *ttl_seconds, candidates)?,
        WriteRequest::LeaseRevoke { id } => {
            if !effects.store.lessor.contains(*id) {
                return Err(Error::LeaseNotFound);
            }
            revoke(effects, *id)?;
            Outcome::LeaseRevoke
        }
        WriteRequest::LeaseExpire { id, now_ms } => {
            let lease = effects.store.lessor.get(*id);
            let over = lease.and_then(|l| l.deadline_ms).is_some_and(|deadline| deadline <= *now_ms);
            let revoked = over && !effects.store.alarms.is_active(AlarmKind::Corrupt);
            if revoked {
                revoke(effects, *id)?;
            }
            Outcome::LeaseExpire { revoked }
        }
        WriteRequest::LeaseCheckpoint(leases) => {
            for (id, remaining_seconds) in leases {
                let granted = effects.store.lessor.get(*id).map_or(0, |l| l.ttl_seconds);
                effects.checkpoint(*id, (*remaining_seconds).clamp(0, granted.max(0)));
            }
            Outcome::LeaseCheckpoint
        }
        WriteRequest::Compact { revision } => compact(effects, *revision)?,
        WriteRequest::Alarm { member_id, alarm, active } => {
            let was = effects.store.alarms.contains(*member_id, *alarm);
            if was != *active {
                effects.alarm(*member_id, *alarm, *active);
            }
            Outcome::Alarm(if was || *active { vec![(*member_id, *alarm)] } else { Vec::new() })
        }
    })
}

/// A put, its lease checked before.
pub(crate) fn put(effects: &mut Effects<'_>, put: &PutRequest, values: &dyn ValueSource) -> Result<(), Error> {
    let store = &*effects.store;
    let (mut lease, mut kept) = (LeaseId(put.lease), None);
    if put.ignore_value || put.ignore_lease {
        let before = store.head_version(&put.key).ok_or(Error::KeyNotFound)?;
        if put.ignore_lease {
            lease = before.lease;
        }
        if put.ignore_value {
            kept = Some(store.value(before, values)?);
        }
    }
    // Copies: what came in is a slice of a large receive buffer.
    let value = kept.unwrap_or_else(|| Bytes::copy_from_slice(&put.value));
    effects.put(Bytes::copy_from_slice(&put.key), value.clone(), value, lease)?;
    Ok(())
}

/// Deletes the keys of a range, in order; returns how many, and what they were if that is asked for.
pub(crate) fn delete_range(effects: &mut Effects<'_>, delete: &DeleteRangeRequest) -> Result<(i64, Vec<KvRef>), Error> {
    let range = KeyRange::new(&delete.key, &delete.range_end);
    let keys: Vec<Bytes> = match range.single() {
        Some(key) => vec![Bytes::copy_from_slice(key)],
        None => {
            let mut keys = Vec::new();
            effects.store.index.for_each(&range, None, |key, versions| {
                if versions.newest().is_live() {
                    keys.push(Bytes::from(key.to_vec()));
                }
                ControlFlow::<()>::Continue(())
            });
            keys
        }
    };
    let (mut deleted, mut prevs) = (0, Vec::new());
    for key in keys {
        if effects.delete(key)? {
            deleted += 1;
            if delete.prev_kv {
                prevs.extend(effects.last_prev().cloned());
            }
        }
    }
    Ok((deleted, prevs))
}

fn grant(effects: &mut Effects<'_>, id: LeaseId, ttl_seconds: i64, candidates: &[LeaseId]) -> Result<Outcome, Error> {
    if ttl_seconds > LEASE_TTL_SECONDS_MAX {
        return Err(Error::LeaseTtlTooLarge);
    }
    let lessor = &effects.store.lessor;
    let id = if id.0 != 0 {
        Some(id).filter(|id| !lessor.contains(*id))
    } else {
        candidates.iter().copied().find(|c| c.0 > 0 && !lessor.contains(*c))
    };
    let id = id.ok_or(Error::LeaseExists)?;
    let ttl_seconds = ttl_seconds.max(LEASE_TTL_SECONDS_MIN);
    effects.grant(id, ttl_seconds);
    Ok(Outcome::LeaseGrant { id, ttl_seconds })
}

/// Ends a lease that exists: its keys go in order, in one revision.
fn revoke(effects: &mut Effects<'_>, id: LeaseId) -> Result<(), Error> {
    let keys = effects.store.lessor.get(id).map(|lease| lease.keys.iter().map(|k| Bytes::copy_from_slice(k)));
    let keys: Vec<Bytes> = keys.into_iter().flatten().collect();
    for key in keys {
        effects.delete(key)?;
    }
    effects.revoke(id)
}

fn compact(effects: &mut Effects<'_>, revision: Revision) -> Result<Outcome, Error> {
    let head = &effects.store.head;
    if revision <= head.compact {
        return Err(Error::Compacted);
    }
    if revision > head.revision {
        return Err(Error::FutureRevision);
    }
    effects.compact(revision);
    Ok(Outcome::Compact)
}
