//! Feeds watchers that are behind: from the database, then from the recent events, until they are
//! synced. Works in rounds; only the beginning and the end of one hold the hub's lock.

use super::events::{CommittedEvents, RevisionEvents, Selection};
use super::history::HistoryError;
use super::hub::Shared;
use super::item::{Replayed, StreamEnd, WatchItem};
use super::state::{Phase, State, Wanted, Watcher};
use crate::fail_stop::FailStop;
use bytes::Bytes;
use netsy_api::ids::Revision;
use netsy_mvcc::watch_match::Matcher;
use netsy_mvcc::{EventKind, KeyRange};
use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

/// Revisions taken from the recent ones in one round.
const RECENT_ROUND_REVISIONS_MAX: usize = 1024;
/// How many batches' worth of bytes of previous key-values a round takes.
const PREVIOUS_BATCHES_MAX: usize = 4;
/// How long to wait for the database to have what was published already.
const LAG_WAIT: Duration = Duration::from_millis(2);

/// How a round went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// Somebody was fed, synced or canceled.
    Worked,
    /// The database does not have what is wanted yet.
    Lagging,
    /// Nobody waits.
    Idle,
}

/// A watcher being read for, as of the beginning of the round.
struct Target {
    at: u32,
    uid: u64,
    stream: u32,
    next: Revision,
    turn: u64,
    wanted: Wanted,
    prev_kv: bool,
}

/// Where a round's events come from.
enum Source {
    Recent(Vec<Arc<CommittedEvents>>),
    Database { until: Revision },
}

/// The events of one revision and which targets get which of them.
struct Matched {
    committed: Arc<CommittedEvents>,
    hits: Vec<(u32, Selection)>,
}

/// What a round found for its targets.
struct Found {
    /// Targets below it are canceled.
    compacted: Revision,
    /// Every revision up to this one was looked at.
    through: Revision,
    /// For each target.
    parts: Vec<Vec<(Arc<RevisionEvents>, Selection)>>,
}

impl Shared {
    pub(super) fn run_replay(&self) {
        let _fail_stop = FailStop("replay of watches");
        loop {
            self.tick(Instant::now());
            let round = self.replay_round();
            let mut state = self.state.lock();
            if state.stopped {
                return;
            }
            if round == Round::Worked {
                drop(state);
                std::thread::yield_now();
                continue;
            }
            let lag = (round == Round::Lagging).then(|| Instant::now() + LAG_WAIT);
            if lag.is_none() && state.anyone_waits() {
                continue;
            }
            match [lag, state.ticks.next()].into_iter().flatten().min() {
                Some(at) => {
                    self.replay.wait_until(&mut state, at);
                }
                None => self.replay.wait(&mut state),
            }
        }
    }

    /// Reads some history for the watcher whose turn it is and for others that can use the same.
    pub(super) fn replay_round(&self) -> Round {
        // Recent events carry their previous key-values; those below the compaction are not to be told any more.
        let compacted = self.history.compact_revision();
        let (targets, source) = {
            let mut state = self.state.lock();
            let targets = take_targets(&mut state, self.options.replay_watchers_max);
            let Some(first) = targets.first() else { return Round::Idle };
            let source = if first.next > compacted && state.recent.covers(first.next) {
                Source::Recent(recent_from(&state, first.next, self.options.replay_batch_bytes_max))
            } else {
                Source::Database { until: state.published }
            };
            (targets, source)
        };
        match self.find(&targets, source) {
            Ok(found) => self.hand_over(&targets, found),
            Err(error) => {
                tracing::error!(%error, watchers = targets.len(), "history for watchers cannot be read: their streams are ended");
                self.fail(&targets, &error);
                Round::Worked
            }
        }
    }

    /// Without the lock: reads history and finds what the targets get.
    fn find(&self, targets: &[Target], source: Source) -> Result<Found, HistoryError> {
        let from = targets[0].next;
        let nothing =
            |compacted| Found { compacted, through: Revision(from.0 - 1), parts: vec![Vec::new(); targets.len()] };
        let (revisions, mut through, from_database) = match source {
            Source::Recent(revisions) => {
                let through = revisions.last().map_or(Revision(from.0 - 1), |last| last.revision);
                (revisions, through, false)
            }
            Source::Database { until } => {
                let compacted = self.history.compact_revision();
                if from < compacted || !self.history.is_whole() {
                    return Ok(nothing(compacted));
                }
                match self.history.read(from, until, self.options.replay_batch_bytes_max) {
                    Ok(batch) => (batch.revisions.into_iter().map(Arc::new).collect(), batch.through, true),
                    // Rows that a compaction removed meanwhile are no failure.
                    Err(_) if from < self.history.compact_revision() => {
                        return Ok(nothing(self.history.compact_revision()));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let mut matched = find_matches(targets, revisions, self.options.replay_deliveries_max, &mut through);
        if from_database {
            self.add_previous(targets, &mut matched, &mut through)?;
        }
        // W6: after the rows and the previous values were read. The compaction last, as it is shown before the rest is
        // said to be whole.
        if from_database && !self.history.is_whole() {
            return Ok(nothing(self.history.compact_revision()));
        }
        let compacted = self.history.compact_revision();
        let mut parts = vec![Vec::new(); targets.len()];
        for Matched { committed, hits } in matched {
            let events = Arc::new(RevisionEvents::new(committed));
            for (target, selection) in hits {
                parts[target as usize].push((events.clone(), selection));
            }
        }
        Ok(Found { compacted, through, parts })
    }

    /// Adds the previous key-values that targets want; stops at a revision where they become too many bytes.
    fn add_previous(
        &self,
        targets: &[Target],
        matched: &mut Vec<Matched>,
        through: &mut Revision,
    ) -> Result<(), HistoryError> {
        let compacted = self.history.compact_revision();
        let mut wanted: Vec<(usize, usize, (Bytes, Revision))> = Vec::new();
        for (at, Matched { committed, hits }) in matched.iter().enumerate() {
            let before = Revision(committed.revision.0 - 1);
            if before < compacted {
                continue;
            }
            let mut places: Vec<u32> = hits
                .iter()
                .filter(|(target, _)| targets[*target as usize].prev_kv)
                .flat_map(|(_, selection)| selection.places())
                .collect();
            places.sort_unstable();
            places.dedup();
            for place in places {
                let event = &committed.events[place as usize];
                let first_of_life = event.kind == EventKind::Put && event.kv.create_revision == committed.revision;
                if !first_of_life {
                    wanted.push((at, place as usize, (event.kv.key.clone(), before)));
                }
            }
        }
        let bytes_max = PREVIOUS_BATCHES_MAX * self.options.replay_batch_bytes_max;
        let mut bytes = 0;
        let mut done = 0;
        while done < wanted.len() {
            let some = &wanted[done..wanted.len().min(done + self.options.replay_previous_max.max(1))];
            let keys: Vec<(Bytes, Revision)> = some.iter().map(|(_, _, key)| key.clone()).collect();
            let previous = self.history.previous(&keys)?;
            if previous.len() != keys.len() {
                return Err(HistoryError(format!("{} old values where {} were asked for", previous.len(), keys.len())));
            }
            for ((at, place, _), prev) in some.iter().zip(previous) {
                // Nobody else has it yet: this does not copy.
                let committed = Arc::make_mut(&mut matched[*at].committed);
                committed.events[*place].prev = prev;
                bytes += committed.events[*place].prev.as_ref().map_or(0, super::events::held_bytes);
            }
            done += some.len();
            // Everything before the revision of the next one wanted is complete.
            if bytes > bytes_max
                && let Some((at, _, _)) = wanted.get(done)
                && *at > 0
            {
                *through = Revision(matched[*at].committed.revision.0 - 1);
                matched.truncate(*at);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Under the lock: appends what was found, and moves each target on.
    fn hand_over(&self, targets: &[Target], mut found: Found) -> Round {
        let mut wakers: Vec<Waker> = Vec::new();
        let mut state = self.state.lock();
        let mut joining = Joining { budget: self.options.join_events_max, made: HashMap::new() };
        let mut worked = false;
        // A stream pays once for events that several of its watchers get.
        let mut order: Vec<usize> = (0..targets.len()).collect();
        order.sort_by_key(|&i| targets[i].stream);
        for i in order {
            let target = &targets[i];
            let still = state.watchers[target.at as usize].as_ref();
            if !still.is_some_and(|w| w.uid == target.uid && matches!(w.phase, Phase::Reading { .. })) {
                continue;
            }
            if target.next < found.compacted {
                state.kill(target.at, found.compacted);
                wakers.extend(state.stream(target.stream).and_then(|s| s.queue.append().waker()));
                worked = true;
                continue;
            }
            if target.next > found.through {
                // Not reached. Only the first target has had its turn.
                let turn = if i == 0 { None } else { Some(target.turn) };
                state.wait(target.at, target.next, turn);
                continue;
            }
            worked = true;
            let parts = std::mem::take(&mut found.parts[i]);
            if !append(&mut state, target.at, parts, &mut wakers) {
                state.park(target.at, target.next);
                continue;
            }
            joining.go_on(&mut state, target.at, found.through.next(), &mut wakers);
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        if worked { Round::Worked } else { Round::Lagging }
    }

    fn fail(&self, targets: &[Target], error: &HistoryError) {
        let mut wakers = Vec::new();
        let mut state = self.state.lock();
        for target in targets {
            let Some(stream) = state.stream(target.stream) else { continue };
            let mut queue = stream.queue.append();
            queue.end(StreamEnd::Failed(error.clone()));
            wakers.extend(queue.waker());
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

fn take_targets(state: &mut State, max: usize) -> Vec<Target> {
    let group = state.take_group(max);
    let mut targets = Vec::with_capacity(group.len());
    for at in group {
        let Some(w) = &state.watchers[at as usize] else { continue };
        let Watcher { phase: Phase::Reading { next, turn }, .. } = *w else { continue };
        let (uid, stream, wanted, prev_kv) = (w.uid, w.stream, w.wanted.clone(), w.prev_kv);
        targets.push(Target { at, uid, stream, next, turn, wanted, prev_kv });
    }
    targets
}

fn recent_from(state: &State, from: Revision, bytes_max: usize) -> Vec<Arc<CommittedEvents>> {
    let mut bytes = 0;
    let mut some = Vec::new();
    for committed in state.recent.from(from).take(RECENT_ROUND_REVISIONS_MAX) {
        if bytes > bytes_max {
            break;
        }
        bytes += committed.bytes();
        some.push(committed.clone());
    }
    some
}

/// Which events are for which targets; lowers `through` where they become too many for one round.
fn find_matches(
    targets: &[Target],
    revisions: Vec<Arc<CommittedEvents>>,
    deliveries_max: usize,
    through: &mut Revision,
) -> Vec<Matched> {
    let mut matcher = Matcher::default();
    for (i, target) in targets.iter().enumerate() {
        matcher.add(KeyRange::clone(&target.wanted.range), i as u32);
    }
    let mut matched = Vec::new();
    let mut deliveries = 0;
    // Where a target's hit in the current revision is.
    let mut places: Vec<(Revision, usize)> = vec![(Revision(0), 0); targets.len()];
    for committed in revisions {
        let revision = committed.revision;
        let mut hits: Vec<(u32, Selection)> = Vec::new();
        for (place, event) in committed.events.iter().enumerate() {
            matcher.for_each_match(&event.kv.key, |i| {
                let target = &targets[i as usize];
                if revision < target.next || !target.wanted.kind(event.kind) {
                    return;
                }
                let (of, hit) = &mut places[i as usize];
                if *of == revision {
                    hits[*hit].1.push(place as u32);
                } else {
                    (*of, *hit) = (revision, hits.len());
                    hits.push((i, Selection::one(place as u32)));
                }
            });
        }
        if hits.is_empty() {
            continue;
        }
        deliveries += hits.len();
        matched.push(Matched { committed, hits });
        if deliveries >= deliveries_max {
            *through = revision;
            break;
        }
    }
    matched
}

/// Appends replayed events to a watcher's stream; `false`: there is no room.
fn append(state: &mut State, at: u32, parts: Vec<(Arc<RevisionEvents>, Selection)>, wakers: &mut Vec<Waker>) -> bool {
    if parts.is_empty() {
        return true;
    }
    let revision = state.published;
    let Some(watcher) = state.watchers[at as usize].as_mut() else { return true };
    watcher.quiet = false;
    let replayed =
        Replayed { watch_id: watcher.id, prev_kv: watcher.prev_kv, fragment: watcher.fragment, revision, parts };
    let slot = watcher.stream;
    let Some(stream) = state.stream(slot) else { return true };
    let stream_uid = stream.uid;
    let event_bytes = replayed.parts.iter().filter(|(e, _)| !e.is_charged(stream_uid)).map(|(e, _)| e.bytes()).sum();
    let mut queue = stream.queue.append();
    let item = WatchItem::Replayed(Box::new(replayed));
    if !queue.fits(item.overhead_bytes() + event_bytes) {
        return false;
    }
    if let WatchItem::Replayed(replayed) = &item {
        replayed.parts.iter().for_each(|(events, _)| events.charge(stream_uid));
    }
    queue.push(item, event_bytes);
    wakers.extend(queue.waker());
    true
}

/// Brings targets from where a round got to the published revision, as far as that is little work.
struct Joining {
    budget: usize,
    /// Recent events made ready for streams in this round, to be shared.
    made: HashMap<Revision, Arc<RevisionEvents>>,
}

impl Joining {
    /// W4: makes a watcher synced that was fed all below `next`, or has it wait for another turn.
    fn go_on(&mut self, state: &mut State, at: u32, next: Revision, wakers: &mut Vec<Waker>) {
        if next > state.published {
            return state.set_phase(at, Phase::Synced);
        }
        let Some(parts) = self.rest(state, at, next) else { return state.wait(at, next, None) };
        if append(state, at, parts, wakers) {
            state.set_phase(at, Phase::Synced);
        } else {
            state.park(at, next);
        }
    }

    fn rest(&mut self, state: &State, at: u32, next: Revision) -> Option<Vec<(Arc<RevisionEvents>, Selection)>> {
        let watcher = state.watchers[at as usize].as_ref()?;
        if !state.recent.covers(next) {
            return None;
        }
        let mut parts = Vec::new();
        for committed in state.recent.from(next) {
            self.budget = self.budget.checked_sub(committed.events.len())?;
            let mut selection: Option<Selection> = None;
            for (place, event) in committed.events.iter().enumerate() {
                if watcher.wanted.kind(event.kind) && watcher.wanted.range.contains(&event.kv.key) {
                    match &mut selection {
                        Some(selection) => selection.push(place as u32),
                        None => selection = Some(Selection::one(place as u32)),
                    }
                }
            }
            if let Some(selection) = selection {
                let shared = self.made.entry(committed.revision);
                let events = shared.or_insert_with(|| Arc::new(RevisionEvents::new(committed.clone())));
                parts.push((events.clone(), selection));
            }
        }
        Some(parts)
    }
}
