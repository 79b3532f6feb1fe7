//! Polls something only when it said that it has news.
//!
//! A stream's task is woken for events far more often than for requests; asking the connection for
//! requests each time takes its lock.

use futures::task::AtomicWaker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

struct News {
    there: AtomicBool,
    task: AtomicWaker,
}

impl Wake for News {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.there.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// Remembers whether what is behind it has to be polled.
pub(super) struct Gate {
    news: Arc<News>,
    waker: Waker,
}

impl Gate {
    /// What is behind it is polled the first time.
    pub(super) fn new() -> Self {
        let news = Arc::new(News { there: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { waker: Waker::from(news.clone()), news }
    }

    /// Polls `behind` if it had itself woken since it was last pending.
    pub(super) fn poll<T>(&self, cx: &mut Context<'_>, behind: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        // Registered first: news after this wakes the task, news before it is seen.
        self.news.task.register(cx.waker());
        if !self.news.there.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let polled = behind(&mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            // There may be more.
            self.news.there.store(true, Ordering::Release);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn is_polled_again_after_news_only() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let gate = Gate::new();
        let mut kept = None;
        assert!(gate.poll(&mut cx, |_| Poll::Ready(())).is_ready());
        let pending = gate.poll(&mut cx, |inner| {
            kept = Some(inner.waker().clone());
            Poll::<()>::Pending
        });
        assert!(pending.is_pending());
        assert!(gate.poll(&mut cx, |_| -> Poll<()> { unreachable!("no news") }).is_pending());
        kept.unwrap().wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(gate.poll(&mut cx, |_| Poll::Ready(())).is_ready());
    }
}
