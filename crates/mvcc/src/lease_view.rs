//! Leases as clients see them, and their time on the Primary.

use crate::store::Store;
use bytes::Bytes;
use netsy_api::ids::LeaseId;
use netsy_api::log::Mutation;
use std::collections::BTreeSet;

/// What a keep-alive came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// No such lease.
    NotFound,
    /// Its time is over and its end is under way: wait for it, then answer as if it was not found.
    Expiring,
    /// It has all its time again.
    Renewed {
        /// Seconds.
        ttl_seconds: i64,
        /// A shorter remaining time is on record: commit a
        /// [`LeaseCheckpoint`](crate::WriteRequest::LeaseCheckpoint) of 0 for it before answering.
        reset_checkpoint: bool,
    },
}

/// A lease, as LeaseTimeToLive shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Seconds left, rounded down.
    pub remaining_seconds: i64,
    /// Seconds granted.
    pub granted_seconds: i64,
}

impl Store {
    /// Gives a lease all its time again (Primary only).
    pub fn lease_renew(&mut self, id: LeaseId, now_ms: u64) -> Renewal {
        let Some(lease) = self.lessor.get(id) else { return Renewal::NotFound };
        if lease.deadline_ms.is_some_and(|deadline| deadline <= now_ms) {
            return Renewal::Expiring;
        }
        let (ttl_seconds, reset_checkpoint) = (lease.ttl_seconds, lease.remaining_seconds > 0);
        self.lessor.extend(id, ttl_seconds, now_ms);
        Renewal::Renewed { ttl_seconds, reset_checkpoint }
    }

    /// Up to `max` leases whose time is over: to be ended with [`LeaseExpire`](crate::WriteRequest::LeaseExpire).
    pub fn lease_expired(&mut self, now_ms: u64, max: usize) -> Vec<LeaseId> {
        self.lessor.expired(now_ms, max)
    }

    /// Up to `max` leases whose remaining time is to be recorded, for a
    /// [`LeaseCheckpoint`](crate::WriteRequest::LeaseCheckpoint).
    pub fn lease_due_checkpoints(&mut self, now_ms: u64, max: usize) -> Vec<(LeaseId, i64)> {
        self.lessor.due_checkpoints(now_ms, max)
    }

    /// A Primary begins: every lease has its recorded remaining time, or all of it, from now on.
    pub fn lease_extend_all(&mut self, now_ms: u64) {
        self.lessor.extend_all(now_ms);
    }

    /// A Primary ends: its deadlines mean nothing any more.
    pub fn lease_forget_deadlines(&mut self) {
        self.lessor.forget_deadlines();
    }

    /// A lease that readers see; on a node without deadlines with the time that a new Primary would give it.
    pub fn lease(&self, id: LeaseId, now_ms: u64) -> Option<LeaseInfo> {
        let lease = self.lessor.visible(id, self.visible.index)?;
        let remaining_seconds = match lease.deadline_ms {
            Some(deadline) => i64::try_from(deadline.saturating_sub(now_ms) / 1_000).unwrap_or(i64::MAX),
            None if lease.remaining_seconds > 0 => lease.remaining_seconds,
            None => lease.ttl_seconds,
        };
        Some(LeaseInfo { remaining_seconds, granted_seconds: lease.ttl_seconds })
    }

    /// Leases that readers see, those that end first first.
    pub fn leases(&self) -> Vec<LeaseId> {
        let visible = self.lessor.visible_all(self.visible.index);
        let mut all: Vec<(u64, LeaseId)> = visible.map(|(id, l)| (l.deadline_ms.unwrap_or(u64::MAX), id)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// Keys that readers see hanging on a lease, in order.
    pub fn lease_keys(&self, id: LeaseId) -> Vec<Bytes> {
        let at_head = self.lessor.get(id).into_iter().flat_map(|l| l.keys.iter().map(|k| &**k));
        let in_flight = self.pending.iter().flat_map(|p| p.entry.mutations.iter()).filter_map(|m| match m {
            Mutation::Put { key, .. } | Mutation::Delete { key } => Some(&**key),
            _ => None,
        });
        let candidates: BTreeSet<&[u8]> = at_head.chain(in_flight).collect();
        let hangs = |key: &[u8]| {
            let version = self.index.get(key).and_then(|versions| versions.at(self.visible.revision));
            id.0 != 0 && version.is_some_and(|v| v.lease == id)
        };
        candidates.into_iter().filter(|key| hangs(key)).map(Bytes::copy_from_slice).collect()
    }

    /// Number of leases at the newest state.
    pub fn lease_count(&self) -> usize {
        self.lessor.len()
    }
}
