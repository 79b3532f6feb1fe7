//! The hub's face: what the node's publisher, the server and the hub's own threads call.

use super::events::{CommittedEvents, RevisionEvents};
use super::history::History;
use super::item::{StreamEnd, WatchItem};
use super::options::WatchOptions;
use super::resolve::Resolver;
use super::state::State;
use super::stream::{NewWatch, StreamQueue, WatchStream, header_revision};
use netsy_api::ids::Revision;
use netsy_mvcc::Event;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

/// Watchers of a closing stream removed under one hold of the lock.
const CLOSE_WATCHERS_MAX: usize = 256;

/// Figures about watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// Open client streams.
    pub streams: usize,
    /// Watchers on them.
    pub watchers: usize,
    /// Watchers that are being fed from the past.
    pub unsynced: usize,
    /// Events that wait in the streams' queues; what watchers that are behind have not been read is not among them.
    pub pending: usize,
    /// Events handed to watchers as they happened, since the start.
    pub events_total: u64,
    /// The newest revision handed to watchers.
    pub published: Revision,
}

/// Shared by the hub, its threads and its streams.
pub(super) struct Shared {
    pub(super) options: WatchOptions,
    pub(super) history: Arc<dyn History>,
    pub(super) state: Mutex<State>,
    /// Somebody waits for replay, a tick was added, or the hub stops.
    pub(super) replay: Condvar,
    pub(super) resolver: Resolver,
}

struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Which committed events go to which watcher. Cheap to clone; stops with its last clone.
#[derive(Clone)]
pub struct WatchHub(Arc<Handle>);

impl WatchHub {
    /// A hub at `published`, the visible revision, and its two threads. Errors: a thread cannot be started.
    pub fn start(history: Arc<dyn History>, published: Revision, options: WatchOptions) -> std::io::Result<Self> {
        let hub = Self::without_threads(history, published, options);
        let shared = hub.0.0.clone();
        std::thread::Builder::new().name("watch-replay".into()).spawn(move || shared.run_replay())?;
        let shared = hub.0.0.clone();
        std::thread::Builder::new().name("watch-values".into()).spawn(move || shared.run_resolver())?;
        Ok(hub)
    }

    /// A hub whose threads' work is done by calling [`step`](Self::step): for tests that choose the order
    /// of everything.
    pub fn without_threads(history: Arc<dyn History>, published: Revision, options: WatchOptions) -> Self {
        let state = Mutex::new(State::new(published, &options));
        let shared = Shared { options, history, state, replay: Condvar::new(), resolver: Resolver::default() };
        Self(Arc::new(Handle(Arc::new(shared))))
    }

    /// Hands on what was committed: the events of each entry that has any, in order, each entry once,
    /// right after they became visible. All events of an entry have its revision as `mod_revision`.
    /// Takes time for each watcher that matches, waits for nothing but short holds of the hub's lock, and
    /// must not be called with a lock held that [`History`] wants. A gap in the revisions means that
    /// they came in a snapshot: watchers get them from the database.
    pub fn publish(&self, committed: Vec<Vec<Event>>) {
        let mut wakers = Vec::new();
        let mut state = self.0.0.state.lock();
        for events in committed {
            let Some(first) = events.first() else { continue };
            state.publish_one(CommittedEvents { revision: first.kv.mod_revision, events }, &mut wakers);
        }
        state.flush(&mut wakers);
        let replay = state.anyone_waits();
        drop(state);
        if replay {
            self.0.0.replay.notify_one();
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The state moved to `revision` without its events being published (it was loaded from a snapshot).
    pub fn skip_to(&self, revision: Revision) {
        let mut wakers = Vec::new();
        self.0.0.state.lock().skip_to(revision, &mut wakers);
        self.0.0.replay.notify_one();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// No watch begins below `floor` any more: what it would need may be compacted at any time.
    pub fn refuse_below(&self, floor: Revision) {
        let mut state = self.0.0.state.lock();
        state.floor = state.floor.max(floor);
    }

    /// Opens a client's stream; `require_leader`: it ends when there is no leader.
    pub fn open(&self, require_leader: bool) -> WatchStream {
        let shared = &self.0.0;
        let queue = Arc::new(StreamQueue::new(shared.options.watch_backlog_bytes_max));
        let mut state = shared.state.lock();
        let slot = state.open(queue.clone(), require_leader);
        if state.stopped {
            queue.append().end(StreamEnd::Stopped);
        }
        drop(state);
        WatchStream::new(shared.clone(), queue, slot)
    }

    /// There has been no leader for too long: ends the streams that want one.
    pub fn leader_lost(&self) {
        self.0.0.end_streams(StreamEnd::NoLeader, true);
    }

    /// Ends all streams and the hub's threads.
    pub fn stop(&self) {
        self.0.0.stop();
    }

    /// The newest revision handed to watchers.
    pub fn published(&self) -> Revision {
        self.0.0.state.lock().published
    }

    /// The lowest revision a watcher that is behind still needs: automatic compaction stays below it.
    pub fn oldest_needed(&self) -> Option<Revision> {
        self.0.0.state.lock().oldest_needed()
    }

    /// Figures for metrics.
    pub fn stats(&self) -> WatchStats {
        let state = self.0.0.state.lock();
        WatchStats {
            streams: state.streams.iter().flatten().count(),
            watchers: state.watcher_count,
            unsynced: state.unsynced_count,
            pending: state.streams.iter().flatten().map(|stream| stream.queue.events()).sum(),
            events_total: state.events_total,
            published: state.published,
        }
    }

    /// Does one round of what the hub's threads do; `false`: there was nothing to do.
    pub fn step(&self, now: Instant) -> bool {
        let shared = &self.0.0;
        shared.tick(now);
        let resolved = shared.resolve_round();
        shared.replay_round() == super::replay::Round::Worked || resolved
    }
}

impl Shared {
    pub(super) fn create(&self, slot: u32, new: NewWatch) {
        // Read before the lock is taken: nothing published before can then be missed or be seen twice,
        // as a start of "now" lies above both the published and the visible revision.
        let visible = self.history.visible_revision();
        let compacted = self.history.compact_revision();
        let now = Instant::now();
        let mut state = self.state.lock();
        let compacted = compacted.max(state.floor);
        let replay = state.create(slot, &new, visible, compacted, now);
        let waker = state.stream(slot).and_then(|s| s.queue.append().waker());
        drop(state);
        if replay || new.progress_notify {
            self.replay.notify_one();
        }
        waker.into_iter().for_each(Waker::wake);
    }

    pub(super) fn cancel(&self, slot: u32, watch_id: i64) {
        let visible = self.history.visible_revision();
        let mut state = self.state.lock();
        if !state.remove(slot, watch_id) {
            return;
        }
        let revision = header_revision(visible, state.published);
        let Some(stream) = state.stream(slot) else { return };
        let mut queue = stream.queue.append();
        queue.push(WatchItem::Canceled { watch_id, revision, compacted: None }, 0);
        let waker = queue.waker();
        drop(queue);
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    pub(super) fn request_progress(&self, slot: u32) {
        let mut state = self.state.lock();
        state.request_progress(slot);
        let waker = state.stream(slot).and_then(|s| s.queue.append().waker());
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    pub(super) fn unpark(&self, slot: u32) {
        if self.state.lock().unpark(slot) {
            self.replay.notify_one();
        }
    }

    pub(super) fn close_stream(&self, slot: u32) {
        while !self.state.lock().close_some(slot, CLOSE_WATCHERS_MAX) {}
    }

    pub(super) fn end_streams(&self, end: StreamEnd, only_require_leader: bool) {
        let wakers = self.state.lock().end_streams(&end, only_require_leader);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn resolve_later(&self, events: Arc<RevisionEvents>, stream: &Arc<StreamQueue>) {
        match events.await_values(stream) {
            Some(true) => self.resolver.push(events),
            Some(false) => {}
            None => stream.wake(),
        }
    }

    pub(super) fn tick(&self, now: Instant) {
        let mut wakers = Vec::new();
        self.state.lock().tick(now, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn stop(&self) {
        self.state.lock().stopped = true;
        self.end_streams(StreamEnd::Stopped, false);
        self.replay.notify_all();
        self.resolver.stop();
    }
}
