//! Leases: what was granted (replicated), and when it ends (the Primary's own bookkeeping).
//!
//! Deadlines are monotonic milliseconds that the caller passes in. A node that is no Primary has none.

use netsy_api::ids::{LeaseId, LogIndex, Position};
use std::collections::{BTreeMap, BTreeSet};

/// After this a lease that was reported as expired and is still there is reported again.
const EXPIRE_RETRY_MS: u64 = 3_000;
/// Leases granted for longer than this have their remaining time recorded, as often as this.
pub(crate) const CHECKPOINT_INTERVAL_MS: u64 = 300_000;

#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) ttl_seconds: i64,
    /// Recorded remaining time; 0: all of it.
    pub(crate) remaining_seconds: i64,
    /// Entry and row that granted it.
    pub(crate) granted: (LogIndex, Position),
    /// Row of the last checkpoint.
    pub(crate) checkpoint: Option<Position>,
    /// Keys whose newest version hangs on it.
    pub(crate) keys: BTreeSet<Box<[u8]>>,
    /// When it ends.
    pub(crate) deadline_ms: Option<u64>,
    /// Where it stands in `due`: the deadline, or when it is reported again.
    due_ms: Option<u64>,
    checkpoint_due_ms: Option<u64>,
}

fn millis(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000)
}

/// See above.
#[derive(Debug, Default)]
pub(crate) struct Lessor {
    leases: BTreeMap<LeaseId, Lease>,
    due: BTreeSet<(u64, LeaseId)>,
    checkpoint_due: BTreeSet<(u64, LeaseId)>,
    /// Revoked by entries that readers do not see yet.
    revoked: BTreeMap<(LeaseId, LogIndex), Lease>,
}

impl Lessor {
    pub(crate) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    pub(crate) fn grant(&mut self, id: LeaseId, ttl_seconds: i64, granted: (LogIndex, Position)) {
        self.leases.insert(
            id,
            Lease {
                ttl_seconds,
                remaining_seconds: 0,
                granted,
                checkpoint: None,
                keys: BTreeSet::new(),
                deadline_ms: None,
                due_ms: None,
                checkpoint_due_ms: None,
            },
        );
    }

    /// Takes a lease out; it keeps its times, should it come back.
    pub(crate) fn remove(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        if let Some(due) = lease.due_ms {
            self.due.remove(&(due, id));
        }
        if let Some(due) = lease.checkpoint_due_ms {
            self.checkpoint_due.remove(&(due, id));
        }
        Some(lease)
    }

    /// Keeps a lease that the entry `by` revoked for readers and for a rollback.
    pub(crate) fn keep_revoked(&mut self, id: LeaseId, by: LogIndex, lease: Lease) {
        self.revoked.insert((id, by), lease);
    }

    /// Readers see the entry `by` now.
    pub(crate) fn forget_revoked(&mut self, id: LeaseId, by: LogIndex) {
        self.revoked.remove(&(id, by));
    }

    /// The entry `by` is undone.
    pub(crate) fn restore_revoked(&mut self, id: LeaseId, by: LogIndex) {
        if let Some(mut lease) = self.revoked.remove(&(id, by)) {
            let (deadline, checkpoint) = (lease.deadline_ms.take(), lease.checkpoint_due_ms.take());
            lease.due_ms = None;
            self.leases.insert(id, lease);
            self.set_deadline(id, deadline, checkpoint);
        }
    }

    /// The lease as readers who see entries up to `visible` know it.
    pub(crate) fn visible(&self, id: LeaseId, visible: LogIndex) -> Option<&Lease> {
        let revoked = self.revoked.range((id, visible.next())..=(id, LogIndex(u64::MAX))).map(|(_, lease)| lease);
        revoked.chain(self.leases.get(&id)).find(|lease| lease.granted.0 <= visible)
    }

    /// All leases as readers who see entries up to `visible` know them.
    pub(crate) fn visible_all(&self, visible: LogIndex) -> impl Iterator<Item = (LeaseId, &Lease)> {
        let live = self.leases.iter().map(|(id, lease)| (*id, lease));
        let revoked = self.revoked.iter().filter(move |((_, by), _)| *by > visible).map(|((id, _), l)| (*id, l));
        live.chain(revoked).filter(move |(_, lease)| lease.granted.0 <= visible)
    }

    /// Records remaining time; returns what was recorded before, and by which row.
    pub(crate) fn checkpoint(
        &mut self,
        id: LeaseId,
        remaining_seconds: i64,
        row: Option<Position>,
    ) -> Option<(i64, Option<Position>)> {
        let lease = self.leases.get_mut(&id)?;
        let before = (lease.remaining_seconds, lease.checkpoint);
        lease.remaining_seconds = remaining_seconds;
        lease.checkpoint = row;
        Some(before)
    }

    pub(crate) fn attach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id)
            && !lease.keys.contains(key)
        {
            lease.keys.insert(key.into());
        }
    }

    pub(crate) fn detach(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    fn set_deadline(&mut self, id: LeaseId, deadline_ms: Option<u64>, checkpoint_due_ms: Option<u64>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if let Some(due) = lease.due_ms {
            self.due.remove(&(due, id));
        }
        if let Some(due) = lease.checkpoint_due_ms {
            self.checkpoint_due.remove(&(due, id));
        }
        lease.deadline_ms = deadline_ms;
        lease.due_ms = deadline_ms;
        lease.checkpoint_due_ms = checkpoint_due_ms;
        self.due.extend(deadline_ms.map(|at| (at, id)));
        self.checkpoint_due.extend(checkpoint_due_ms.map(|at| (at, id)));
    }

    /// Gives the lease `seconds` from now on.
    pub(crate) fn extend(&mut self, id: LeaseId, seconds: i64, now_ms: u64) {
        let Some(lease) = self.leases.get(&id) else { return };
        let long = millis(lease.ttl_seconds) > CHECKPOINT_INTERVAL_MS;
        self.set_deadline(
            id,
            Some(now_ms.saturating_add(millis(seconds))),
            long.then(|| now_ms.saturating_add(CHECKPOINT_INTERVAL_MS)),
        );
    }

    /// Gives every lease its recorded remaining time, or all of it, from now on.
    pub(crate) fn extend_all(&mut self, now_ms: u64) {
        let all: Vec<(LeaseId, i64)> = self
            .iter()
            .map(|(id, l)| (id, if l.remaining_seconds > 0 { l.remaining_seconds } else { l.ttl_seconds }))
            .collect();
        for (id, seconds) in all {
            self.extend(id, seconds, now_ms);
        }
    }

    /// Forgets all deadlines: this node is no Primary any more.
    pub(crate) fn forget_deadlines(&mut self) {
        self.due.clear();
        self.checkpoint_due.clear();
        for lease in self.leases.values_mut().chain(self.revoked.values_mut()) {
            (lease.deadline_ms, lease.due_ms, lease.checkpoint_due_ms) = (None, None, None);
        }
    }

    /// Up to `max` leases whose time is over, those that ended first first. Each is reported once, and again
    /// every three seconds while it is still there.
    pub(crate) fn expired(&mut self, now_ms: u64, max: usize) -> Vec<LeaseId> {
        let ids: Vec<(u64, LeaseId)> =
            self.due.iter().take_while(|(due, _)| *due <= now_ms).take(max).copied().collect();
        let again = now_ms.saturating_add(EXPIRE_RETRY_MS);
        for &(due, id) in &ids {
            self.due.remove(&(due, id));
            self.due.insert((again, id));
            if let Some(lease) = self.leases.get_mut(&id) {
                lease.due_ms = Some(again);
            }
        }
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Up to `max` leases whose remaining time should be recorded, with it.
    pub(crate) fn due_checkpoints(&mut self, now_ms: u64, max: usize) -> Vec<(LeaseId, i64)> {
        let ids: Vec<(u64, LeaseId)> =
            self.checkpoint_due.iter().take_while(|(due, _)| *due <= now_ms).take(max).copied().collect();
        let again = now_ms.saturating_add(CHECKPOINT_INTERVAL_MS);
        let mut due = Vec::with_capacity(ids.len());
        for (at, id) in ids {
            self.checkpoint_due.remove(&(at, id));
            let Some(lease) = self.leases.get_mut(&id) else { continue };
            let left_ms = lease.deadline_ms.unwrap_or(0).saturating_sub(now_ms);
            if left_ms == 0 {
                lease.checkpoint_due_ms = None;
                continue;
            }
            lease.checkpoint_due_ms = Some(again);
            self.checkpoint_due.insert((again, id));
            due.push((id, i64::try_from(left_ms.div_ceil(1_000)).unwrap_or(i64::MAX)));
        }
        due
    }
}
