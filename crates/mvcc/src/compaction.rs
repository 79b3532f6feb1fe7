//! Physical compaction: forgetting history that nobody can read any more, in steps (etcd.md 2.4).

use crate::store::Store;
use netsy_api::ids::{LogIndex, Position, Revision};

/// How far it is.
#[derive(Debug, Default)]
pub(crate) struct Compaction {
    /// Where the walk goes on: after this key, down to this revision.
    walk: Option<(Option<Box<[u8]>>, Revision)>,
    /// History below this is gone from the index.
    finished: Revision,
}

/// What one step came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactStep {
    /// Rows to delete from the local database, once no reader holds one of these positions. In this order or at once:
    /// what is left after any part of them still gives the same state. All belong to entries up to `logged` whose revision is not
    /// above the compaction's.
    pub removed: Vec<Position>,
    /// All that the visible compaction, up to `through`, allows to remove was returned by this step and those before it.
    pub done: bool,
    /// Nothing more can be done now: a reader's pin is in the way. Call again later.
    pub waiting: bool,
}

impl Store {
    /// Looks at the next `budget` keys (at least one), under the writer's lock. A compaction that became visible above
    /// `through` has to wait, and so do rows that lost their meaning by an entry after `logged`: whoever deletes rows
    /// knows only of those before that they may go.
    pub fn compact_index(&mut self, budget: usize, through: Revision, logged: LogIndex) -> CompactStep {
        let budget = budget.max(1);
        let mut removed = Vec::new();
        let (after, floor) = match self.compaction.walk.take() {
            Some(walk) => walk,
            None => {
                self.take_dead_rows(budget, logged, &mut removed);
                let wanted = self.visible.compact.min(through);
                let floor = self.pins.lowest().map_or(wanted, |pinned| pinned.min(wanted));
                if floor <= self.compaction.finished {
                    let behind = wanted > self.compaction.finished;
                    let more = removed.len() >= budget;
                    return CompactStep { done: !behind && !more, waiting: behind && !more, removed };
                }
                (None, floor)
            }
        };
        let Self { index, cache, .. } = self;
        let last = index.compact(after.as_deref(), budget, floor, |version| {
            cache.remove(version.slot, version.position);
            removed.push(version.position);
        });
        match last {
            Some(last) => self.compaction.walk = Some((Some(last), floor)),
            None => self.compaction.finished = floor,
        }
        CompactStep { removed, done: false, waiting: false }
    }

    /// History below this revision is gone from the index: all its rows were returned by [`Self::compact_index`].
    pub fn compacted_physically(&self) -> Revision {
        self.compaction.finished
    }

    /// Rows of leases, alarms and compactions that say nothing any more, of entries that are compacted.
    fn take_dead_rows(&mut self, budget: usize, logged: LogIndex, removed: &mut Vec<Position>) {
        while let Some(dead) = self.dead_rows.front()
            && dead.revision <= self.compaction.finished
            && dead.by <= self.visible.index.min(logged)
            && removed.len() < budget
        {
            removed.push(dead.position);
            self.dead_rows.pop_front();
        }
    }
}
