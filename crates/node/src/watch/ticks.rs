//! When which stream's quiet watchers are told the revision.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Streams by the time of their next progress notice.
pub(super) struct Ticks {
    due: BTreeSet<(Instant, u32)>,
    interval: Duration,
}

impl Ticks {
    pub(super) fn new(interval: Duration) -> Self {
        Self { due: BTreeSet::new(), interval }
    }

    /// Schedules a stream one interval and up to a tenth from `now`: `seed` spreads streams out.
    pub(super) fn add(&mut self, stream: u32, seed: u64, now: Instant) -> Instant {
        let spread = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        let jitter = self.interval.mul_f64(spread as f64 / 10_240.0);
        let at = now + self.interval + jitter;
        self.due.insert((at, stream));
        at
    }

    pub(super) fn remove(&mut self, stream: u32, at: Instant) {
        self.due.remove(&(at, stream));
    }

    /// A stream whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<u32> {
        let &(at, _) = self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first().map(|(_, stream)| stream)
    }

    /// When there is something to do next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|&(at, _)| at)
    }
}
