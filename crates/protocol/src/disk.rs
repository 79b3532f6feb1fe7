//! A Primary whose disk is full: it hands over to a voter that can take its place.

use crate::config::Millis;
use crate::engine::Engine;
use crate::primary::Phase;

/// A disk may be full for so long before another node takes over; and then between two tries.
const FULL_MAX: Millis = 1_000;

impl Engine {
    /// The local database cannot be written for want of space, or can again.
    pub(crate) fn on_disk_full(&mut self, full: bool) {
        self.disk_full = full.then(|| self.disk_full.unwrap_or(self.now));
    }

    /// Writes could go on with the other voters' copies alone, but none of them is made while the log thread waits for the
    /// disk; an election needs no promise of this node.
    pub(crate) fn tick_disk(&mut self) {
        if self.disk_full.is_none_or(|since| self.now.saturating_sub(since) < FULL_MAX) {
            return;
        }
        let ready = self.primary.as_ref().is_some_and(|p| p.phase == Phase::Ready && p.change.is_none());
        if !ready || self.hand_over.is_some() || self.stop.is_some() || self.is_bound() {
            return;
        }
        self.disk_full = Some(self.now);
        self.start_hand_over(None, false);
    }
}
