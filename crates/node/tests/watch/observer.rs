//! A client that checks everything a stream tells it against what truly happened.

use crate::world::World;
use futures::task::noop_waker;
use netsy_api::ids::Revision;
use netsy_mvcc::{Event, EventKind, KeyRange};
use netsy_node::watch::{
    ALL_WATCHES, CreateError, NewWatch, RevisionEvents, Selection, StreamEnd, WatchHub, WatchItem, WatchStream,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// What is known of a watcher.
#[derive(Debug)]
struct Watched {
    new: NewWatch,
    range: KeyRange,
    /// The lowest revision it may be told.
    first: Revision,
    /// All up to here was told.
    told: Revision,
    canceled: bool,
}

/// A request whose answer has not come.
#[derive(Debug)]
enum Asked {
    Create(NewWatch),
    Cancel(i64),
}

/// One client stream.
pub struct Observer {
    world: World,
    stream: Arc<WatchStream>,
    asked: VecDeque<Asked>,
    watched: BTreeMap<i64, Watched>,
    used: BTreeSet<i64>,
    next_id: i64,
    progress_answers: usize,
    last_progress: Revision,
    pub ended: Option<StreamEnd>,
}

impl Observer {
    pub fn open(world: &World, hub: &WatchHub) -> Self {
        Self {
            world: world.clone(),
            stream: Arc::new(hub.open(false)),
            asked: VecDeque::new(),
            watched: BTreeMap::new(),
            used: BTreeSet::new(),
            next_id: 0,
            progress_answers: 0,
            last_progress: Revision(0),
            ended: None,
        }
    }

    /// Creates a watcher when what is returned is called.
    pub fn create(&mut self, new: NewWatch) -> Box<dyn FnOnce() + Send> {
        self.asked.push_back(Asked::Create(new.clone()));
        let stream = self.stream.clone();
        Box::new(move || stream.create(new))
    }

    /// Cancels the `nth` watcher, or one that is not there; at once, or when what is returned is called.
    pub fn cancel(&mut self, nth: usize) -> Box<dyn FnOnce() + Send> {
        let stream = self.stream.clone();
        let known: Vec<i64> = self.watched.keys().copied().collect();
        let Some(&id) = known.get(nth % (known.len() + 1)) else {
            return Box::new(move || stream.cancel(987_654));
        };
        // Another watcher may have the id by now: one cancel of it at a time.
        if self.asked.iter().any(|a| matches!(a, Asked::Cancel(asked) if *asked == id)) {
            return Box::new(|| ());
        }
        self.asked.push_back(Asked::Cancel(id));
        Box::new(move || stream.cancel(id))
    }

    pub fn request_progress(&self) {
        self.stream.request_progress();
    }

    pub fn progress_answers(&self) -> usize {
        self.progress_answers
    }

    pub fn queued_bytes(&self) -> usize {
        self.stream.queued_bytes()
    }

    pub fn live(&self) -> usize {
        self.watched.values().filter(|w| !w.canceled).count()
    }

    /// No watcher starts above `revision`.
    pub fn all_started(&self, revision: Revision) -> bool {
        self.watched
            .values()
            .filter(|w| !w.canceled)
            .all(|w| w.new.start_revision <= revision.0 && w.first.0 <= revision.0 + 1)
    }

    /// Reads what there is, about `bytes_max`; false: there was nothing.
    pub fn drain(&mut self, bytes_max: usize) -> bool {
        self.drain_with(&noop_waker(), bytes_max)
    }

    /// The same; where there is nothing, `waker` is woken once there is.
    pub fn drain_with(&mut self, waker: &Waker, bytes_max: usize) -> bool {
        let mut items = VecDeque::new();
        match self.stream.poll_items(&mut Context::from_waker(waker), &mut items, bytes_max) {
            Poll::Pending => assert!(items.is_empty()),
            Poll::Ready(Ok(())) => assert!(!items.is_empty()),
            Poll::Ready(Err(end)) => self.ended = Some(end),
        }
        let some = !items.is_empty();
        items.into_iter().for_each(|item| self.check(item));
        some
    }

    /// No answer to a request is awaited.
    pub fn is_answered(&self) -> bool {
        self.asked.is_empty()
    }

    /// Everything up to `published` was told to those that are not canceled.
    pub fn is_complete(&self, published: Revision) -> bool {
        let complete = |w: &Watched| w.canceled || self.next_due(w).is_none_or(|due| due > published);
        self.asked.is_empty() && self.watched.values().all(complete)
    }

    fn check(&mut self, item: WatchItem) {
        match item {
            WatchItem::Created { watch_id, revision } => self.created(watch_id, revision),
            WatchItem::CreateFailed { error, revision: _ } => self.refused(error),
            WatchItem::Canceled { watch_id, compacted, revision: _ } => self.canceled(watch_id, compacted),
            WatchItem::Progress { watch_id: ALL_WATCHES, revision } => {
                self.progress_answers += 1;
                assert!(revision >= self.last_progress, "manual progress goes back");
                self.last_progress = revision;
                let ids: Vec<i64> = self.watched.keys().copied().collect();
                ids.into_iter().for_each(|id| self.progress(id, revision));
            }
            WatchItem::Progress { watch_id, revision } => {
                assert!(self.watched[&watch_id].new.progress_notify);
                self.progress(watch_id, revision);
            }
            WatchItem::Live { events, deliveries } => {
                for delivery in deliveries.as_slice() {
                    self.flags(delivery.watch_id, delivery.prev_kv, delivery.fragment);
                    self.events(delivery.watch_id, &events, &delivery.selection);
                }
            }
            WatchItem::Replayed(replayed) => {
                self.flags(replayed.watch_id, replayed.prev_kv, replayed.fragment);
                assert!(!replayed.parts.is_empty());
                for (events, selection) in &replayed.parts {
                    assert!(events.revision() <= replayed.revision);
                    self.events(replayed.watch_id, events, selection);
                }
            }
        }
    }

    fn flags(&self, id: i64, prev_kv: bool, fragment: bool) {
        let new = &self.watched[&id].new;
        assert_eq!((prev_kv, fragment), (new.prev_kv, new.fragment));
    }

    /// The oldest create that has not been answered: answers come in order.
    fn oldest_create(&mut self) -> NewWatch {
        let at = self.asked.iter().position(|a| matches!(a, Asked::Create(_))).expect("an answer to no create");
        match self.asked.remove(at) {
            Some(Asked::Create(new)) => new,
            _ => unreachable!(),
        }
    }

    fn created(&mut self, id: i64, revision: Revision) {
        let new = self.oldest_create();
        if new.watch_id == 0 {
            while self.used.contains(&self.next_id) {
                self.next_id += 1;
            }
            assert_eq!(id, self.next_id, "ids the stream chooses count from 0");
            self.next_id += 1;
        } else {
            assert_eq!(id, new.watch_id);
        }
        assert!(self.used.insert(id), "the id is in use");
        assert!(new.start_revision >= 0);
        assert!(revision <= self.world.lock().visible);
        let range = KeyRange::new(&new.key, &new.range_end);
        assert!(!range.is_empty(), "an empty range was accepted");
        let first = if new.start_revision == 0 { revision.next() } else { Revision(new.start_revision) };
        let told = Revision(first.0 - 1);
        self.watched.insert(id, Watched { new, range, first, told, canceled: false });
    }

    fn refused(&mut self, error: CreateError) {
        let new = self.oldest_create();
        match error {
            CreateError::RangeEmpty => assert!(KeyRange::new(&new.key, &new.range_end).is_empty()),
            CreateError::StartNegative => assert!(new.start_revision < 0),
            CreateError::DuplicateId => assert!(self.used.contains(&new.watch_id)),
        }
    }

    fn canceled(&mut self, id: i64, compacted: Option<Revision>) {
        let watched = self.watched.get_mut(&id).expect("cancel of an unknown watcher");
        match compacted {
            None => {
                let at = self.asked.iter().position(|a| matches!(a, Asked::Cancel(asked) if *asked == id));
                assert!(self.asked.remove(at.expect("nobody asked for it")).is_some());
                self.watched.remove(&id);
                self.used.remove(&id);
            }
            Some(revision) => {
                assert!(!watched.canceled, "canceled twice");
                watched.canceled = true;
                assert!(revision <= self.world.lock().compacted);
                assert!(revision > watched.told.next(), "what it needs next is not compacted");
            }
        }
    }

    fn matching(&self, watched: &Watched, events: &[Event]) -> Vec<u32> {
        let wants = |e: &Event| {
            let kind = if e.kind == EventKind::Put { !watched.new.no_put } else { !watched.new.no_delete };
            kind && watched.range.contains(&e.kv.key)
        };
        (0u32..).zip(events).filter(|(_, e)| wants(e)).map(|(at, _)| at).collect()
    }

    /// The lowest revision above `told` with something for it.
    fn next_due(&self, watched: &Watched) -> Option<Revision> {
        let state = self.world.lock();
        let later = state.changes.range(watched.told.next()..);
        let mut later =
            later.map(|(&revision, changes)| (revision, changes.iter().map(|c| c.event(revision)).collect::<Vec<_>>()));
        later.find(|(_, events)| !self.matching(watched, events).is_empty()).map(|(revision, _)| revision)
    }

    fn events(&mut self, id: i64, events: &RevisionEvents, selection: &Selection) {
        let watched = self.watched.get(&id).expect("events before created or after cancel");
        assert!(!watched.canceled, "events after a cancel");
        let revision = events.revision();
        assert!(revision >= watched.first, "events from before the start");
        assert_eq!(self.next_due(watched), Some(revision), "a gap, a repetition, or disorder of watcher {id}");
        let (truth, compacted) = {
            let state = self.world.lock();
            let changes = &state.changes[&revision];
            (
                changes.iter().map(|c| c.event(revision)).collect::<Vec<_>>(),
                state.compacted.max(state.installed.unwrap_or(state.compacted)),
            )
        };
        let expected: Vec<&Event> = self.matching(watched, &truth).iter().map(|&at| &truth[at as usize]).collect();
        let got: Vec<&Event> = selection.places().map(|at| &events.events()[at as usize]).collect();
        assert_eq!(got.len(), expected.len(), "not the whole revision {revision}");
        for (got, expected) in got.into_iter().zip(expected) {
            assert_eq!((got.kind, &got.kv), (expected.kind, &expected.kv));
            if watched.new.prev_kv && got.prev != expected.prev {
                // Only a compaction takes it away.
                assert_eq!(got.prev, None);
                assert!(revision <= compacted, "the previous key-value is missing");
            }
        }
        if let Some(watched) = self.watched.get_mut(&id) {
            watched.told = revision;
        }
    }

    fn progress(&mut self, id: i64, revision: Revision) {
        let due = self.next_due(&self.watched[&id]);
        let Some(watched) = self.watched.get_mut(&id) else { return };
        if watched.canceled {
            return;
        }
        assert!(revision.0 >= watched.first.0 - 1, "progress from before the start");
        assert!(revision.0 >= watched.new.start_revision, "progress from before the start");
        assert!(due.is_none_or(|due| due > revision), "progress overtook events");
        watched.told = watched.told.max(revision);
    }

    /// After everything was published and drained.
    pub fn finish(&self, published: Revision) {
        assert!(self.asked.is_empty(), "unanswered: {:?}", self.asked);
        for (id, watched) in self.watched.iter().filter(|(_, w)| !w.canceled) {
            let due = self.next_due(watched);
            assert!(due.is_none_or(|due| due > published), "watcher {id} was never told revision {due:?}: {watched:?}");
        }
    }
}
