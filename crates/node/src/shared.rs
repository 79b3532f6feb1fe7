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
/// are not deleted from the local database until it is dropped.
#[derive(Clone)]
pub(crate) struct ReadEpoch(#[allow(dead_code)] Arc<()>);

impl Guarded {
    /// To be taken under the same lock as the positions it protects.
    pub(crate) fn epoch(&self) -> ReadEpoch {
        self.epoch.clone()
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
        Self(Arc::new(RwLock::new(Guarded { store, epoch: ReadEpoch(Arc::new(())) })))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Guarded> {
        self.0.read()
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Guarded> {
        self.0.write()
    }

    /// Waits until no reader is left that may hold positions taken from the index before this call.
    pub(crate) async fn readers_passed(&self) {
        let old = std::mem::replace(&mut self.0.write().epoch, ReadEpoch(Arc::new(())));
        while Arc::strong_count(&old.0) > 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
