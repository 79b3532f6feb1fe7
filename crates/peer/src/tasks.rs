//! What runs in the task of one connection, and how that task is told to end.

use crate::error::Lost;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use std::sync::Arc;
use std::task::Waker;

/// Handle to a connection's task.
pub(crate) struct Tasks {
    inner: Mutex<Inner>,
    driver: AtomicWaker,
}

struct Inner {
    new: Vec<BoxFuture<'static, ()>>,
    end: Option<Lost>,
}

impl Tasks {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner { new: Vec::new(), end: None }), driver: AtomicWaker::new() })
    }

    /// Runs `task` in the connection's task. Dropped if that has ended.
    pub(crate) fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.inner.lock().new.push(task);
        self.driver.wake();
    }

    /// Has the connection end; the first reason given is the one that counts.
    pub(crate) fn end(&self, lost: Lost) {
        self.inner.lock().end.get_or_insert(lost);
        self.driver.wake();
    }

    /// Why it is to end.
    pub(crate) fn ended(&self) -> Option<Lost> {
        self.inner.lock().end.clone()
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    pub(crate) fn take_new(&self) -> Vec<BoxFuture<'static, ()>> {
        std::mem::take(&mut self.inner.lock().new)
    }
}
