//! Revisions that long readers still need.

use netsy_api::ids::Revision;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Shared(Mutex<BTreeMap<Revision, usize>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Revision, usize>> {
        // Nothing in here can panic half-way, so a poisoned lock still guards a whole map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Pin`].
#[derive(Debug, Default)]
pub(crate) struct Pins(Arc<Shared>);

impl Pins {
    pub(crate) fn pin(&self, revision: Revision) -> Pin {
        *self.0.lock().entry(revision).or_insert(0) += 1;
        Pin { revision, shared: self.0.clone() }
    }

    /// The lowest revision pinned.
    pub(crate) fn lowest(&self) -> Option<Revision> {
        self.0.lock().keys().next().copied()
    }
}

/// While it lives, physical compaction leaves alone all that is visible at its revision and later.
#[derive(Debug)]
pub struct Pin {
    revision: Revision,
    shared: Arc<Shared>,
}

impl Pin {
    /// Which revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.shared.lock();
        if let Some(count) = pins.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.revision);
            }
        }
    }
}
