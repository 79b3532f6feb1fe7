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
    greeted: bool,
}

impl Tasks {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner { new: Vec::new(), end: None, greeted: false }),
            driver: AtomicWaker::new(),
        })
    }

    /// Runs `task` in the connection's task. Dropped if that has ended.
    pub(crate) fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.inner.lock().new.push(task);
        self.driver.wake();
    }

    /// Has the connection end. The first reason given is the one that counts, but for a goodbye: it may be read
    /// after others have noticed that the connection is gone.
    pub(crate) fn end(&self, lost: Lost) {
        {
            let mut inner = self.inner.lock();
            match (&inner.end, &lost) {
                (None, _) | (Some(Lost::Broken(_)), Lost::Goodbye(_)) => inner.end = Some(lost),
                (Some(_), _) => {}
            }
        }
        self.driver.wake();
    }

    /// Both ends know each other: the connection does not end without a goodbye any more.
    pub(crate) fn greeted(&self) {
        self.inner.lock().greeted = true;
    }

    pub(crate) fn is_greeted(&self) -> bool {
        self.inner.lock().greeted
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
