//! The newest events, kept so that a watcher can catch up at the end without the database.

use super::events::CommittedEvents;
use netsy_api::ids::Revision;
use std::collections::VecDeque;
use std::sync::Arc;

/// A window of consecutive revisions that ends with the published one, bounded in bytes and number.
pub(super) struct Recent {
    revisions: VecDeque<(Arc<CommittedEvents>, usize)>,
    bytes: usize,
    bytes_max: usize,
    revisions_max: usize,
}

impl Recent {
    pub(super) fn new(bytes_max: usize, revisions_max: usize) -> Self {
        Self { revisions: VecDeque::new(), bytes: 0, bytes_max, revisions_max }
    }

    /// Adds the revision after the last one added.
    pub(super) fn push(&mut self, committed: Arc<CommittedEvents>) {
        let bytes = committed.bytes();
        self.bytes += bytes;
        self.revisions.push_back((committed, bytes));
        while self.bytes > self.bytes_max || self.revisions.len() > self.revisions_max {
            let Some((_, bytes)) = self.revisions.pop_front() else { break };
            self.bytes -= bytes;
        }
    }

    pub(super) fn clear(&mut self) {
        self.revisions.clear();
        self.bytes = 0;
    }

    /// Whether every revision from `from` to the published one is here.
    pub(super) fn covers(&self, from: Revision) -> bool {
        self.revisions.front().is_some_and(|(first, _)| first.revision <= from)
    }

    /// What is here from `from` on, which it [`covers`](Self::covers).
    pub(super) fn from(&self, from: Revision) -> impl ExactSizeIterator<Item = &Arc<CommittedEvents>> {
        // Revisions are consecutive.
        let first = self.revisions.front().map_or(0, |(first, _)| first.revision.0);
        let skip = usize::try_from(from.0 - first).unwrap_or(0).min(self.revisions.len());
        self.revisions.range(skip..).map(|(committed, _)| committed)
    }
}
