//! One client stream's queue, and the handle through which the server works it.

use super::events::RevisionEvents;
use super::hub::Shared;
use super::item::{StreamEnd, WatchItem};
use bytes::Bytes;
use netsy_api::ids::Revision;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// A watcher to be made.
#[derive(Clone, Debug, Default)]
pub struct NewWatch {
    /// 0: the stream chooses.
    pub watch_id: i64,
    /// As in the request.
    pub key: Bytes,
    /// As in the request.
    pub range_end: Bytes,
    /// 0: what comes after now.
    pub start_revision: i64,
    /// No events of puts.
    pub no_put: bool,
    /// No events of deletes.
    pub no_delete: bool,
    /// With the key-value before the event.
    pub prev_kv: bool,
    /// Large answers may come in fragments.
    pub fragment: bool,
    /// Tell the revision now and then while there are no events.
    pub progress_notify: bool,
}

struct Queued {
    item: WatchItem,
    bytes: usize,
    events: usize,
    values_requested: bool,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Queued>,
    bytes: usize,
    events: usize,
    waker: Option<Waker>,
    end: Option<StreamEnd>,
    /// Watchers wait until the queue is drained to half.
    parked: bool,
}

/// A stream's queue: filled under the hub's lock, drained without it.
pub(super) struct StreamQueue {
    queue: Mutex<Queue>,
    bytes_max: usize,
}

/// The queue, locked for several appends.
pub(super) struct Appender<'a> {
    queue: parking_lot::MutexGuard<'a, Queue>,
    bytes_max: usize,
}

impl Appender<'_> {
    /// Whether `bytes` more are within the bound; anything fits in an empty queue.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.queue.items.is_empty() || self.queue.bytes.saturating_add(bytes) <= self.bytes_max
    }

    pub(super) fn push(&mut self, item: WatchItem, event_bytes: usize) {
        let (bytes, events) = (item.overhead_bytes() + event_bytes, item.events());
        self.queue.bytes += bytes;
        self.queue.events += events;
        self.queue.items.push_back(Queued { item, bytes, events, values_requested: false });
    }

    /// The hub is to be told when there is room again. False: all was drained since something did not fit, so nobody would.
    #[must_use]
    pub(super) fn park(&mut self) -> bool {
        self.queue.parked = !self.queue.items.is_empty();
        self.queue.parked
    }

    pub(super) fn end(&mut self, end: StreamEnd) {
        self.queue.end.get_or_insert(end);
    }

    /// Who is to be woken for what was appended; at most once per sleep.
    pub(super) fn waker(&mut self) -> Option<Waker> {
        self.queue.waker.take()
    }
}

impl StreamQueue {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { queue: Mutex::default(), bytes_max }
    }

    pub(super) fn append(&self) -> Appender<'_> {
        Appender { queue: self.queue.lock(), bytes_max: self.bytes_max }
    }

    /// Events that wait in it.
    pub(super) fn events(&self) -> usize {
        self.queue.lock().events
    }

    /// Values that an item waited for were read.
    pub(super) fn wake(&self) {
        let waker = self.queue.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What a poll found out beside the items.
struct Taken {
    poll: Poll<Result<(), StreamEnd>>,
    unpark: bool,
    request: Vec<Arc<RevisionEvents>>,
}

/// One client's watch stream. Dropping it removes its watchers.
pub struct WatchStream {
    shared: Arc<Shared>,
    queue: Arc<StreamQueue>,
    slot: u32,
}

impl WatchStream {
    pub(super) fn new(shared: Arc<Shared>, queue: Arc<StreamQueue>, slot: u32) -> Self {
        Self { shared, queue, slot }
    }

    /// Makes a watcher, or not: the stream is told which.
    pub fn create(&self, new: NewWatch) {
        self.shared.create(self.slot, new);
    }

    /// Removes a watcher; an unknown id is ignored.
    pub fn cancel(&self, watch_id: i64) {
        self.shared.cancel(self.slot, watch_id);
    }

    /// Asks for a progress answer: comes only if every watcher of the stream has been told
    /// everything there is.
    pub fn request_progress(&self) {
        self.shared.request_progress(self.slot);
    }

    /// Whether more requests of the client may be taken in: not while it leaves the answers lying.
    pub fn takes_requests(&self) -> bool {
        let queue = self.queue.queue.lock();
        queue.bytes < self.queue.bytes_max
    }

    /// Bytes that wait in the stream's queue.
    pub fn queued_bytes(&self) -> usize {
        self.queue.queue.lock().bytes
    }

    /// Moves items of about `bytes_max` bytes to `into`, at least one; pending: there is none.
    pub fn poll_items(
        &self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<WatchItem>,
        bytes_max: usize,
    ) -> Poll<Result<(), StreamEnd>> {
        let taken = self.take(cx, into, bytes_max);
        if taken.unpark {
            self.shared.unpark(self.slot);
        }
        for events in taken.request {
            self.shared.resolve_later(events, &self.queue);
        }
        taken.poll
    }

    fn take(&self, cx: &mut Context<'_>, into: &mut VecDeque<WatchItem>, bytes_max: usize) -> Taken {
        let mut queue = self.queue.queue.lock();
        let mut taken = Taken { poll: Poll::Pending, unpark: false, request: Vec::new() };
        if let Some(end) = &queue.end {
            taken.poll = Poll::Ready(Err(end.clone()));
            return taken;
        }
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(front) = queue.items.front_mut() else { break };
            match front.item.unready() {
                Err(error) => {
                    let end = StreamEnd::Failed(error);
                    queue.end = Some(end.clone());
                    taken.poll = Poll::Ready(Err(end));
                    return taken;
                }
                Ok(unready) if !unready.is_empty() => {
                    if !front.values_requested {
                        taken.request = unready.into_iter().cloned().collect();
                        front.values_requested = true;
                    }
                    break;
                }
                Ok(_) => {}
            }
            let Some(front) = queue.items.pop_front() else { break };
            queue.bytes -= front.bytes;
            queue.events -= front.events;
            bytes += front.bytes;
            into.push_back(front.item);
            taken.poll = Poll::Ready(Ok(()));
        }
        if queue.parked && queue.bytes <= self.queue.bytes_max / 2 {
            queue.parked = false;
            taken.unpark = true;
        }
        if taken.poll.is_pending() && !queue.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            queue.waker = Some(cx.waker().clone());
        }
        taken
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.shared.close_stream(self.slot);
    }
}

/// The revision for answers that name the store's: reads may be ahead of what was published.
pub(super) fn header_revision(visible: Revision, published: Revision) -> Revision {
    visible.max(published)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_to_tell_of_room_in_a_queue_that_was_drained() {
        let queue = StreamQueue::new(100);
        let canceled = || WatchItem::Canceled { watch_id: 1, revision: Revision(2), compacted: None };
        queue.append().push(canceled(), 1_000);
        assert!(!queue.append().fits(1));
        assert!(queue.append().park(), "whoever drains it tells");
        // Drained between the look at it and this, without the hub's lock.
        let mut drained = queue.queue.lock();
        drained.items.clear();
        drained.bytes = 0;
        drop(drained);
        assert!(!queue.append().park());
        assert!(!queue.queue.lock().parked);
    }
}
