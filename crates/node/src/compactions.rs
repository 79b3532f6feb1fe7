//! Which compaction counted at which entry: a snapshot names the one of the entry it covers.

use netsy_api::ids::{LogIndex, Revision};
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Older ones than this many are forgotten: snapshots are of recent entries.
const KEPT_MAX: usize = 4096;

/// Compactions by the entry that holds them, ascending.
pub(crate) struct Compactions(Mutex<VecDeque<(LogIndex, Revision)>>);

impl Compactions {
    /// With the one that counts at `index`.
    pub(crate) fn new(index: LogIndex, revision: Revision) -> Self {
        Self(Mutex::new(VecDeque::from([(index, revision)])))
    }

    /// Begins anew with the one that counts at `index`.
    pub(crate) fn begin(&self, index: LogIndex, revision: Revision) {
        *self.0.lock() = VecDeque::from([(index, revision)]);
    }

    /// Those after `last` did not come to be.
    pub(crate) fn roll_back(&self, last: LogIndex) {
        let mut all = self.0.lock();
        while all.len() > 1 && all.back().is_some_and(|(at, _)| *at > last) {
            all.pop_back();
        }
    }

    pub(crate) fn push(&self, index: LogIndex, revision: Revision) {
        let mut all = self.0.lock();
        all.push_back((index, revision));
        if all.len() > KEPT_MAX {
            all.pop_front();
        }
    }

    /// The compaction that counts once the entry at `index` is applied; `None`: that is forgotten by now.
    pub(crate) fn at(&self, index: LogIndex) -> Option<Revision> {
        let all = self.0.lock();
        let after = all.partition_point(|(at, _)| *at <= index);
        after.checked_sub(1).and_then(|last| all.get(last)).map(|(_, revision)| *revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_at_or_before() {
        let all = Compactions::new(LogIndex(10), Revision(-1));
        all.push(LogIndex(12), Revision(5));
        all.push(LogIndex(20), Revision(9));
        let at = |index| all.at(LogIndex(index)).map(|r| r.0);
        assert_eq!(
            [at(9), at(10), at(11), at(12), at(19), at(25)],
            [None, Some(-1), Some(-1), Some(5), Some(5), Some(9)]
        );
    }
}
