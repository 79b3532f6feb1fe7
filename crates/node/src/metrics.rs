//! Figures of a running node, as plain counters; the server gives them their Prometheus names.

use crate::error::{NodeError, Unavailable};
use crate::quota::Usage;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the duration buckets, microseconds.
pub const DURATION_BUCKETS_US: [u64; 14] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Durations {
    /// Observations up to each of [`DURATION_BUCKETS_US`], not cumulative; the last counts those above all.
    pub counts: [AtomicU64; DURATION_BUCKETS_US.len() + 1],
    /// Sum of all, microseconds.
    pub sum_us: AtomicU64,
}

impl Durations {
    pub(crate) fn observe(&self, d: Duration) {
        let us = d.as_micros() as u64;
        let bucket = DURATION_BUCKETS_US.partition_point(|bound| *bound < us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// Counters and gauges of a node.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Time of a local commit, its sync included.
    pub local_commits: Durations,
    /// Entries made durable locally.
    pub entries: AtomicU64,
    /// Time from a chunk's first try to its landing.
    pub chunk_creates: Durations,
    /// Chunks that landed.
    pub chunks: AtomicU64,
    /// Their stored bytes.
    pub chunk_bytes: AtomicU64,
    /// Bytes of keys and values in entries made durable locally.
    pub entry_bytes: AtomicU64,
    /// Calls for a chunk that did not land at the first try.
    pub chunk_retries: AtomicU64,
    /// Segments written.
    pub segments: AtomicU64,
    /// Snapshots written.
    pub snapshots: AtomicU64,
    /// Background work that failed and will be tried again: snapshots, folding, clean-up.
    pub background_failures: AtomicU64,
    /// Leases that ran out.
    pub leases_expired: AtomicU64,
    /// Rows deleted by compaction.
    pub rows_compacted: AtomicU64,
    /// Local database: bytes of the file.
    pub db_bytes: AtomicU64,
    /// Local database: bytes of it in use.
    pub db_bytes_in_use: AtomicU64,
    /// Terms that were found to have another Primary process than the one before.
    pub leader_changes: AtomicU64,
    /// Bytes of keys and values committed here and not yet in the object log.
    pub unarchived_bytes: AtomicU64,
    /// Writes handed to the log thread, or passed on, and not answered yet.
    pub proposals_pending: AtomicU64,
    /// Those that ended without an answer that says what became of them.
    pub proposals_failed: AtomicU64,
    /// What the quota looks at.
    pub(crate) usage: Usage,
    local_fault: Mutex<Option<String>>,
}

impl Metrics {
    pub(crate) fn local_commit(&self, took: Duration, entries: usize, bytes: usize) {
        self.local_commits.observe(took);
        self.entry_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.entries.fetch_add(entries as u64, Ordering::Relaxed);
    }

    /// A write sets out.
    pub fn proposal(&self) -> Proposal<'_> {
        self.proposals_pending.fetch_add(1, Ordering::Relaxed);
        Proposal { metrics: self, failed: true }
    }

    pub(crate) fn set_local_fault(&self, fault: Option<String>) {
        *self.local_fault.lock() = fault;
    }

    /// Why the local database cannot be written at the moment.
    pub fn local_fault(&self) -> Option<String> {
        self.local_fault.lock().clone()
    }
}

/// A write that is not answered yet. One that is dropped has failed: whoever wanted it gave up.
#[derive(Debug)]
pub struct Proposal<'a> {
    metrics: &'a Metrics,
    failed: bool,
}

impl Proposal<'_> {
    /// It has its answer, if only that it is refused.
    pub fn answered(mut self) {
        self.failed = false;
    }

    /// The same for what the node said.
    pub(crate) fn ended(self, error: Option<&NodeError>) {
        match error {
            // Of the last nothing was done, and the Primary is asked instead.
            None | Some(NodeError::Mvcc(_) | NodeError::Unavailable(Unavailable::NotPrimary)) => self.answered(),
            Some(_) => {}
        }
    }
}

impl Drop for Proposal<'_> {
    fn drop(&mut self) {
        self.metrics.proposals_pending.fetch_sub(1, Ordering::Relaxed);
        if self.failed {
            self.metrics.proposals_failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_that_fail_are_those_whose_request_was_not_refused() {
        let metrics = Metrics::default();
        let figures = || {
            let of = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
            (of(&metrics.proposals_pending), of(&metrics.proposals_failed))
        };
        let (first, second) = (metrics.proposal(), metrics.proposal());
        assert_eq!(figures(), (2, 0));
        first.ended(None);
        second.ended(Some(&NodeError::Mvcc(netsy_mvcc::Error::Compacted)));
        metrics.proposal().ended(Some(&Unavailable::NotPrimary.into()));
        assert_eq!(figures(), (0, 0));
        metrics.proposal().ended(Some(&Unavailable::LeaderChanged.into()));
        drop(metrics.proposal());
        assert_eq!(figures(), (0, 2));
    }
}
