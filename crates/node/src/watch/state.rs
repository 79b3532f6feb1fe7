//! The hub's state: its watchers and streams, and every change of state a watcher can make.

use super::events::RevisionEvents;
use super::item::{CreateError, Deliveries, StreamEnd, WatchItem};
use super::options::WatchOptions;
use super::range::watched;
use super::recent::Recent;
use super::stream::{NewWatch, StreamQueue, header_revision};
use super::ticks::Ticks;
use netsy_api::ids::Revision;
use netsy_mvcc::watch_match::{MatchId, Matcher};
use netsy_mvcc::{EventKind, KeyRange};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

/// The first revision that has events: an empty store is at 1.
const FIRST_CHANGE: Revision = Revision(2);

/// How far a watcher is. `next`: the lowest revision it has not been fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Fed by publish.
    Synced,
    /// Waits for its turn of replay.
    Waiting { next: Revision, turn: u64 },
    /// Replay is reading for it.
    Reading { next: Revision, turn: u64 },
    /// Waits until its stream's queue has room.
    Parked { next: Revision },
    /// Fed no more: canceled because of a compaction, keeps its id until the client cancels it.
    Dead,
}

impl Phase {
    /// The revision an unsynced watcher goes on with.
    fn next(self) -> Option<Revision> {
        match self {
            Self::Waiting { next, .. } | Self::Reading { next, .. } | Self::Parked { next } => Some(next),
            Self::Synced | Self::Dead => None,
        }
    }
}

/// What decides whether an event is for a watcher, its phase aside.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) range: Arc<KeyRange>,
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
}

impl Wanted {
    pub(super) fn kind(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

pub(super) struct Watcher {
    /// Unique for ever: slots are used again.
    pub(super) uid: u64,
    pub(super) stream: u32,
    pub(super) id: i64,
    pub(super) wanted: Wanted,
    pub(super) prev_kv: bool,
    pub(super) fragment: bool,
    pub(super) progress_notify: bool,
    /// No event since the last tick.
    pub(super) quiet: bool,
    /// The lowest revision it wants.
    pub(super) first: Revision,
    /// Progress below this is not told.
    pub(super) progress_from: Revision,
    pub(super) phase: Phase,
    /// While it is synced.
    match_id: Option<MatchId>,
    /// Which publish touched it last, and where its delivery is.
    pub(super) mark: u64,
    pub(super) mark_at: u32,
}

pub(super) struct Pending {
    pub(super) events: Arc<RevisionEvents>,
    pub(super) deliveries: Deliveries,
}

pub(super) struct Stream {
    pub(super) uid: u64,
    pub(super) queue: Arc<StreamQueue>,
    pub(super) ids: HashMap<i64, u32>,
    next_id: i64,
    /// Slot and uid of watchers that wait for room; some may be gone.
    parked: Vec<(u32, u64)>,
    /// Gathered by a publish under way.
    pub(super) pending: Vec<Pending>,
    require_leader: bool,
    /// When its quiet watchers are told the revision next, if any wants it.
    pub(super) tick_at: Option<Instant>,
}

/// Everything behind the hub's lock.
pub(super) struct State {
    pub(super) published: Revision,
    /// No watch begins below this.
    pub(super) floor: Revision,
    pub(super) recent: Recent,
    pub(super) watchers: Vec<Option<Watcher>>,
    free_watchers: Vec<u32>,
    pub(super) streams: Vec<Option<Stream>>,
    free_streams: Vec<u32>,
    pub(super) matcher: Matcher,
    /// Watchers in phase `Waiting`, by turn and by where they go on.
    waiting_by_turn: BTreeMap<u64, u32>,
    waiting_by_next: BTreeSet<(Revision, u32)>,
    pub(super) ticks: Ticks,
    next_uid: u64,
    next_turn: u64,
    pub(super) next_mark: u64,
    /// Streams with something pending.
    pub(super) touched: Vec<u32>,
    pub(super) watcher_count: usize,
    pub(super) unsynced_count: usize,
    pub(super) events_total: u64,
    pub(super) stopped: bool,
}

impl State {
    pub(super) fn new(published: Revision, options: &WatchOptions) -> Self {
        Self {
            published,
            floor: Revision(-1),
            recent: Recent::new(options.recent_bytes_max, options.recent_revisions_max),
            watchers: Vec::new(),
            free_watchers: Vec::new(),
            streams: Vec::new(),
            free_streams: Vec::new(),
            matcher: Matcher::default(),
            waiting_by_turn: BTreeMap::new(),
            waiting_by_next: BTreeSet::new(),
            ticks: Ticks::new(options.progress_notify_interval),
            next_uid: 1,
            next_turn: 0,
            next_mark: 1,
            touched: Vec::new(),
            watcher_count: 0,
            unsynced_count: 0,
            events_total: 0,
            stopped: false,
        }
    }

    fn uid(&mut self) -> u64 {
        self.next_uid += 1;
        self.next_uid
    }

    // Streams.

    pub(super) fn open(&mut self, queue: Arc<StreamQueue>, require_leader: bool) -> u32 {
        let stream = Stream {
            uid: self.uid(),
            queue,
            ids: HashMap::new(),
            next_id: 0,
            parked: Vec::new(),
            pending: Vec::new(),
            require_leader,
            tick_at: None,
        };
        match self.free_streams.pop() {
            Some(slot) => {
                self.streams[slot as usize] = Some(stream);
                slot
            }
            None => {
                self.streams.push(Some(stream));
                (self.streams.len() - 1) as u32
            }
        }
    }

    pub(super) fn stream(&mut self, slot: u32) -> Option<&mut Stream> {
        self.streams.get_mut(slot as usize)?.as_mut()
    }

    /// Removes at most `watchers_max` watchers of a stream, and the stream with the last one.
    pub(super) fn close_some(&mut self, slot: u32, watchers_max: usize) -> bool {
        let Some(stream) = self.stream(slot) else { return true };
        let some: Vec<i64> = stream.ids.keys().take(watchers_max).copied().collect();
        for id in &some {
            self.remove(slot, *id);
        }
        if some.len() < watchers_max {
            if let Some(Stream { tick_at: Some(at), .. }) = self.streams[slot as usize].take() {
                self.ticks.remove(slot, at);
            }
            self.free_streams.push(slot);
            return true;
        }
        false
    }

    /// Ends streams: all, or those whose client wants a leader.
    pub(super) fn end_streams(&mut self, end: &StreamEnd, only_require_leader: bool) -> Vec<Waker> {
        let streams = self.streams.iter().flatten().filter(|s| s.require_leader || !only_require_leader);
        let mut wakers = Vec::new();
        for stream in streams {
            let mut queue = stream.queue.append();
            queue.end(end.clone());
            wakers.extend(queue.waker());
        }
        wakers
    }

    // Watchers: made and removed.

    /// Makes a watcher; `visible` and `compacted` are the store's revisions, read before the lock was taken.
    /// `true`: replay has work.
    pub(super) fn create(
        &mut self,
        slot: u32,
        new: &NewWatch,
        visible: Revision,
        compacted: Revision,
        now: Instant,
    ) -> bool {
        let revision = header_revision(visible, self.published);
        let created = self.try_create(slot, new, revision, now);
        let Some(stream) = self.stream(slot) else { return false };
        let at = match created {
            Ok(at) => at,
            Err(error) => {
                stream.queue.append().push(WatchItem::CreateFailed { error, revision }, 0);
                return false;
            }
        };
        let watch_id = self.watchers[at as usize].as_ref().map_or(0, |w| w.id);
        if let Some(stream) = self.stream(slot) {
            stream.queue.append().push(WatchItem::Created { watch_id, revision }, 0);
        }
        let start = Revision(new.start_revision);
        if start.0 > 0 && start < compacted {
            self.kill(at, compacted);
            return false;
        }
        let next = start.max(FIRST_CHANGE);
        if start.0 > 0 && next <= self.published {
            self.wait(at, next, None);
            return true;
        }
        self.set_phase(at, Phase::Synced);
        false
    }

    fn try_create(&mut self, slot: u32, new: &NewWatch, revision: Revision, now: Instant) -> Result<u32, CreateError> {
        if new.start_revision < 0 {
            return Err(CreateError::StartNegative);
        }
        let range = watched(&new.key, &new.range_end).ok_or(CreateError::RangeEmpty)?;
        let uid = self.uid();
        let Some(stream) = self.streams.get_mut(slot as usize).and_then(Option::as_mut) else {
            return Err(CreateError::DuplicateId);
        };
        let id = if new.watch_id == 0 {
            while stream.ids.contains_key(&stream.next_id) {
                stream.next_id += 1;
            }
            stream.next_id += 1;
            stream.next_id - 1
        } else if stream.ids.contains_key(&new.watch_id) {
            return Err(CreateError::DuplicateId);
        } else {
            new.watch_id
        };
        if new.progress_notify && stream.tick_at.is_none() {
            stream.tick_at = Some(self.ticks.add(slot, stream.uid, now));
        }
        let (first, progress_from) = match new.start_revision {
            0 => (revision.next(), revision),
            start => (Revision(start), Revision(start)),
        };
        let watcher = Watcher {
            uid,
            stream: slot,
            id,
            wanted: Wanted { range: Arc::new(range), no_put: new.no_put, no_delete: new.no_delete },
            prev_kv: new.prev_kv,
            fragment: new.fragment,
            progress_notify: new.progress_notify,
            quiet: true,
            first,
            progress_from,
            phase: Phase::Dead,
            match_id: None,
            mark: 0,
            mark_at: 0,
        };
        let at = match self.free_watchers.pop() {
            Some(at) => {
                self.watchers[at as usize] = Some(watcher);
                at
            }
            None => {
                self.watchers.push(Some(watcher));
                (self.watchers.len() - 1) as u32
            }
        };
        if let Some(stream) = self.stream(slot) {
            stream.ids.insert(id, at);
        }
        self.watcher_count += 1;
        Ok(at)
    }

    /// Removes a watcher of a stream; `false`: there is none of this id.
    pub(super) fn remove(&mut self, slot: u32, id: i64) -> bool {
        let Some(stream) = self.stream(slot) else { return false };
        let Some(at) = stream.ids.remove(&id) else { return false };
        self.set_phase(at, Phase::Dead);
        self.watchers[at as usize] = None;
        self.free_watchers.push(at);
        self.watcher_count -= 1;
        if self.watcher_count == 0 {
            self.recent.clear();
        }
        true
    }

    // Watchers: changes of phase.

    /// Every change of phase goes through here.
    pub(super) fn set_phase(&mut self, at: u32, new: Phase) {
        let Some(watcher) = self.watchers[at as usize].as_mut() else { return };
        let old = std::mem::replace(&mut watcher.phase, new);
        match old {
            Phase::Synced => watcher.match_id.take().into_iter().for_each(|id| self.matcher.remove(id)),
            Phase::Waiting { next, turn } => {
                self.waiting_by_turn.remove(&turn);
                self.waiting_by_next.remove(&(next, at));
            }
            Phase::Reading { .. } | Phase::Parked { .. } | Phase::Dead => {}
        }
        match new {
            Phase::Synced => watcher.match_id = Some(self.matcher.add(KeyRange::clone(&watcher.wanted.range), at)),
            Phase::Waiting { next, turn } => {
                self.waiting_by_turn.insert(turn, at);
                self.waiting_by_next.insert((next, at));
            }
            Phase::Reading { .. } | Phase::Parked { .. } | Phase::Dead => {}
        }
        self.unsynced_count += usize::from(new.next().is_some());
        self.unsynced_count -= usize::from(old.next().is_some());
    }

    /// Puts an unsynced watcher in line for replay; `turn`: its place, if it did not get what it waited for.
    pub(super) fn wait(&mut self, at: u32, next: Revision, turn: Option<u64>) {
        let turn = turn.unwrap_or_else(|| {
            self.next_turn += 1;
            self.next_turn
        });
        self.set_phase(at, Phase::Waiting { next, turn });
    }

    /// A watcher waits until its stream has room, or for its turn where there is some by now: the queue is drained without the
    /// lock that this is called under.
    pub(super) fn park(&mut self, at: u32, next: Revision) {
        let Some((slot, uid)) = self.watchers[at as usize].as_ref().map(|w| (w.stream, w.uid)) else { return };
        let parks = self.stream(slot).is_some_and(|stream| {
            let parks = stream.queue.append().park();
            if parks {
                stream.parked.push((at, uid));
            }
            parks
        });
        if parks { self.set_phase(at, Phase::Parked { next }) } else { self.wait(at, next, None) }
    }

    pub(super) fn is_synced(&self, at: u32) -> bool {
        self.watchers[at as usize].as_ref().is_some_and(|w| w.phase == Phase::Synced)
    }

    /// W6: what it needs is compacted.
    pub(super) fn kill(&mut self, at: u32, compacted: Revision) {
        self.set_phase(at, Phase::Dead);
        let Some((slot, watch_id)) = self.watchers[at as usize].as_ref().map(|w| (w.stream, w.id)) else { return };
        let revision = header_revision(compacted, self.published);
        if let Some(stream) = self.stream(slot) {
            let canceled = WatchItem::Canceled { watch_id, revision, compacted: Some(compacted) };
            stream.queue.append().push(canceled, 0);
        }
    }

    /// There is room in a stream's queue again. `true`: replay has work.
    pub(super) fn unpark(&mut self, slot: u32) -> bool {
        let Some(stream) = self.stream(slot) else { return false };
        let parked = std::mem::take(&mut stream.parked);
        let mut any = false;
        for (at, uid) in parked {
            match &self.watchers[at as usize] {
                Some(Watcher { phase: Phase::Parked { next }, uid: same, .. }) if *same == uid => {
                    self.wait(at, *next, None);
                    any = true;
                }
                _ => {}
            }
        }
        any
    }

    /// The watcher whose turn it is, and up to `max` that wait and go on where it does or later.
    pub(super) fn take_group(&mut self, max: usize) -> Vec<u32> {
        let Some((_, &first)) = self.waiting_by_turn.first_key_value() else { return Vec::new() };
        let Some(Watcher { phase: Phase::Waiting { next, .. }, .. }) = self.watchers[first as usize] else {
            return Vec::new();
        };
        let mut group: Vec<u32> = Vec::with_capacity(max.min(self.waiting_by_next.len()));
        group.push(first);
        group
            .extend(self.waiting_by_next.range((next, 0)..).map(|&(_, at)| at).filter(|&at| at != first).take(max - 1));
        for &at in &group {
            if let Some(Watcher { phase: Phase::Waiting { next, turn }, .. }) = self.watchers[at as usize] {
                self.set_phase(at, Phase::Reading { next, turn });
            }
        }
        group
    }

    /// Whether anybody waits for replay.
    pub(super) fn anyone_waits(&self) -> bool {
        !self.waiting_by_turn.is_empty()
    }

    /// The lowest revision an unsynced watcher still needs.
    pub(super) fn oldest_needed(&self) -> Option<Revision> {
        self.watchers.iter().flatten().filter_map(|w| w.phase.next()).min()
    }
}
