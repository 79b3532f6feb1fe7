//! The state machine as readers and the writer share it.

use netsy_mvcc::Store;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

/// The state machine under its lock. Nobody holds the lock across an await or a disk access of unknown length.
#[derive(Clone)]
pub(crate) struct SharedStore(Arc<RwLock<Guarded>>);

pub(crate) struct Guarded {
    store: Store,
    epoch: ReadEpoch,
}

/// Held by a reader that still has to fetch values by position: rows found in the index before it was taken
/// are not deleted from the local database until it is dropped. A snapshot may take the database's place all the same.
#[derive(Clone)]
pub(crate) struct ReadEpoch {
    held: Arc<()>,
    state: StateNumber,
}

impl ReadEpoch {
    /// The state in whose index the rows were found.
    pub(crate) fn state(&self) -> StateNumber {
        self.state
    }
}

/// Another for each state that took the place of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateNumber(u64);

impl Guarded {
    /// To be taken under the same lock as the positions it protects.
    pub(crate) fn epoch(&self) -> ReadEpoch {
        self.epoch.clone()
    }

    /// Which state this is.
    pub(crate) fn number(&self) -> StateNumber {
        self.epoch.state
    }

    /// Puts another state in its place; returns the one before.
    pub(crate) fn replace(&mut self, store: Store) -> Store {
        self.epoch.state.0 += 1;
        std::mem::replace(&mut self.store, store)
    }
}

impl Deref for Guarded {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.store
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}

impl SharedStore {
    pub(crate) fn new(store: Store) -> Self {
        Self(Arc::new(RwLock::new(Guarded { store, epoch: ReadEpoch { held: Arc::new(()), state: StateNumber(0) } })))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Guarded> {
        self.0.read()
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Guarded> {
        self.0.write()
    }

    /// Waits until no reader is left that may hold positions taken from the index before this call.
    pub(crate) async fn readers_passed(&self) {
        let old = std::mem::replace(&mut self.0.write().epoch.held, Arc::new(()));
        while Arc::strong_count(&old) > 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
