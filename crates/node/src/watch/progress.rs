//! How far a stream is told to be: asked for by the client, or told now and then (W5).

use super::item::{ALL_WATCHES, WatchItem};
use super::state::{Phase, State};
use std::task::Waker;
use std::time::Instant;

impl State {
    /// Whether a watcher has been told everything up to the published revision, and that is not below
    /// what it asked for. One that was canceled has nothing more to be told.
    fn is_current(&self, at: u32) -> bool {
        self.watchers[at as usize].as_ref().is_none_or(|w| match w.phase {
            Phase::Synced => w.progress_from <= self.published,
            Phase::Dead => true,
            Phase::Waiting { .. } | Phase::Reading { .. } | Phase::Parked { .. } => false,
        })
    }

    /// W5: answers a manual progress request, or drops it.
    pub(super) fn request_progress(&mut self, slot: u32) {
        let revision = self.published;
        let Some(stream) = self.streams.get(slot as usize).and_then(Option::as_ref) else { return };
        if stream.ids.is_empty() || !stream.ids.values().all(|&at| self.is_current(at)) {
            return;
        }
        let mut queue = stream.queue.append();
        let item = WatchItem::Progress { watch_id: ALL_WATCHES, revision };
        if queue.fits(item.overhead_bytes()) {
            queue.push(item, 0);
        }
    }

    /// Tells the quiet watchers of the streams whose time has come the revision.
    pub(super) fn tick(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        let revision = self.published;
        while let Some(slot) = self.ticks.take_due(now) {
            let Some(stream) = self.streams.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
            stream.tick_at = Some(self.ticks.add(slot, stream.uid, now));
            let mut queue = stream.queue.append();
            for &at in stream.ids.values() {
                let Some(watcher) = self.watchers[at as usize].as_mut() else { continue };
                if !watcher.progress_notify {
                    continue;
                }
                let current = watcher.phase == Phase::Synced && watcher.progress_from <= revision;
                let item = WatchItem::Progress { watch_id: watcher.id, revision };
                if std::mem::replace(&mut watcher.quiet, true) && current && queue.fits(item.overhead_bytes()) {
                    queue.push(item, 0);
                }
            }
            wakers.extend(queue.waker());
        }
    }
}
