//! Committed revisions to the queues of the streams that watch them.

use super::events::{CommittedEvents, RevisionEvents, Selection};
use super::item::{Deliveries, Delivery, WatchItem};
use super::state::{Pending, Phase, State};
use netsy_api::ids::Revision;
use std::sync::Arc;
use std::task::Waker;

impl State {
    /// Hands on one revision. Deliveries gather in the streams' `pending` until [`flush`](Self::flush).
    pub(super) fn publish_one(&mut self, committed: CommittedEvents, wakers: &mut Vec<Waker>) {
        let revision = committed.revision;
        if revision <= self.published {
            tracing::error!(%revision, published = %self.published, "a revision was published twice: ignored");
            return;
        }
        if revision != self.published.next() {
            self.skip_to(Revision(revision.0 - 1), wakers);
        }
        self.published = revision;
        if self.watcher_count == 0 {
            // The recent events were let go with the last watcher.
            return;
        }
        let committed = Arc::new(committed);
        self.recent.push(committed.clone());
        self.next_mark += 1;
        let mark = self.next_mark;
        let Self { matcher, watchers, streams, touched, events_total, .. } = self;
        let mut shared: Option<Arc<RevisionEvents>> = None;
        for (place, event) in committed.events.iter().enumerate() {
            let place = place as u32;
            matcher.for_each_match(&event.kv.key, |at| {
                let Some(watcher) = watchers.get_mut(at as usize).and_then(Option::as_mut) else { return };
                if revision < watcher.first || !watcher.wanted.kind(event.kind) {
                    return;
                }
                let Some(stream) = streams.get_mut(watcher.stream as usize).and_then(Option::as_mut) else { return };
                *events_total += 1;
                let last = stream.pending.last_mut().filter(|p| p.events.revision() == revision);
                if watcher.mark == mark {
                    if let Some(pending) = last {
                        pending.deliveries.as_mut_slice()[watcher.mark_at as usize].selection.push(place);
                    }
                    return;
                }
                watcher.mark = mark;
                watcher.quiet = false;
                let delivery = Delivery {
                    watch_id: watcher.id,
                    prev_kv: watcher.prev_kv,
                    fragment: watcher.fragment,
                    selection: Selection::one(place),
                };
                match last {
                    Some(pending) => {
                        watcher.mark_at = pending.deliveries.as_slice().len() as u32;
                        pending.deliveries.push(delivery);
                    }
                    None => {
                        watcher.mark_at = 0;
                        let events = shared.get_or_insert_with(|| Arc::new(RevisionEvents::new(committed.clone())));
                        if stream.pending.is_empty() {
                            touched.push(watcher.stream);
                        }
                        stream.pending.push(Pending { events: events.clone(), deliveries: Deliveries::One(delivery) });
                    }
                }
            });
        }
    }

    /// Appends what is pending to the streams' queues; what does not fit makes its watchers fall behind.
    pub(super) fn flush(&mut self, wakers: &mut Vec<Waker>) {
        let mut touched = std::mem::take(&mut self.touched);
        let mut behind: Vec<(u32, Revision)> = Vec::new();
        for &slot in &touched {
            let Some(stream) = self.streams.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
            let mut queue = stream.queue.append();
            let mut full = false;
            for pending in stream.pending.drain(..) {
                let revision = pending.events.revision();
                let event_bytes = pending.events.bytes();
                let item = WatchItem::Live { events: pending.events, deliveries: pending.deliveries };
                full = full || !queue.fits(item.overhead_bytes() + event_bytes);
                if !full {
                    queue.push(item, event_bytes);
                } else if let WatchItem::Live { deliveries, .. } = item {
                    let ids = deliveries.as_slice().iter().map(|d| d.watch_id);
                    behind.extend(ids.filter_map(|id| stream.ids.get(&id)).map(|&at| (at, revision)));
                }
            }
            wakers.extend(queue.waker());
        }
        // W3. Ascending for each watcher: only the first counts.
        for (at, revision) in behind {
            if self.is_synced(at) {
                self.park(at, revision);
            }
        }
        touched.clear();
        self.touched = touched;
    }

    /// Revisions up to `to` happened that were not published: everybody who wants them falls behind (W3).
    pub(super) fn skip_to(&mut self, to: Revision, wakers: &mut Vec<Waker>) {
        // What is pending is older: it goes first.
        self.flush(wakers);
        let from = self.published.next();
        self.recent.clear();
        self.published = self.published.max(to);
        for at in 0..self.watchers.len() as u32 {
            let Some(watcher) = &self.watchers[at as usize] else { continue };
            let next = watcher.first.max(from);
            if watcher.phase == Phase::Synced && next <= to {
                self.wait(at, next, None);
            }
        }
    }
}
