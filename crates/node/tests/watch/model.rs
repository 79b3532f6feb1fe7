//! The watch hub against an obvious model, under random interleavings of everything that can happen
//! around it: its promises (etcd.md 2.5, 7.2) are checked by an observer at each stream.

use crate::observer::Observer;
use crate::world::World;
use bytes::Bytes;
use netsy_api::ids::Revision;
use netsy_mvcc::Event;
use netsy_node::watch::{NewWatch, WatchHub, WatchOptions};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BACKLOG_BYTES_MAX: usize = 6_000;

#[derive(Clone, Debug)]
enum Op {
    /// A transaction of writes (key, value length or delete), old values in memory or not.
    Commit(Vec<(u8, Option<u16>)>, bool),
    /// Hand that many of the committed revisions to the hub.
    Publish(usize),
    /// The database catches up by that many revisions.
    Store(i64),
    /// Compact that far below the visible revision.
    Compact(i64),
    RemoveRows,
    Open,
    Close(usize),
    Create(usize, CreateOp),
    Cancel(usize, usize),
    Progress(usize),
    Drain(usize, usize),
    /// A round of the hub's threads, some milliseconds later.
    Step(u64),
    /// The same, while the database is read things happen.
    StepMidway(Vec<Op>),
    /// What is not published yet never will be: the state came in a snapshot.
    Skip,
    /// Some of it is not, what follows is.
    Gap(usize, usize),
    /// A snapshot, compacted that far below the visible revision, takes the database's place.
    Install(i64),
    /// It is shown.
    ShowInstalled,
}

#[derive(Clone, Debug)]
struct CreateOp {
    key: u8,
    end: u8,
    /// Relative to the visible revision; none: from now.
    start: Option<i64>,
    id: i64,
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
    progress_notify: bool,
}

fn create_op() -> impl Strategy<Value = CreateOp> {
    let start = prop_oneof![2 => Just(None), 5 => (-12i64..4).prop_map(Some)];
    let id = prop_oneof![6 => Just(0i64), 1 => 1i64..5];
    (0u8..6, 0u8..8, start, id, prop::bool::weighted(0.15), prop::bool::weighted(0.15), any::<bool>(), any::<bool>())
        .prop_map(|(key, end, start, id, no_put, no_delete, prev_kv, progress_notify)| CreateOp {
            key,
            end,
            start,
            id,
            no_put,
            no_delete,
            prev_kv,
            progress_notify,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let midway = prop_oneof![
        3 => (1usize..6).prop_map(Op::Publish),
        2 => (0i64..8).prop_map(Op::Compact),
        1 => (0i64..8).prop_map(Op::Install),
        1 => Just(Op::ShowInstalled),
        1 => (any::<usize>(), create_op()).prop_map(|(s, c)| Op::Create(s, c)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(s, w)| Op::Cancel(s, w)),
    ];
    prop_oneof![
        6 => plain_op(),
        1 => prop::collection::vec(midway, 1..4).prop_map(Op::StepMidway),
    ]
}

fn plain_op() -> impl Strategy<Value = Op> {
    let write = (0u8..5, prop_oneof![3 => (0u16..900).prop_map(Some), 1 => Just(None)]);
    prop_oneof![
        12 => (prop::collection::vec(write, 1..4), any::<bool>()).prop_map(|(w, s)| Op::Commit(w, s)),
        8 => (1usize..6).prop_map(Op::Publish),
        5 => (0i64..6).prop_map(Op::Store),
        1 => (0i64..8).prop_map(Op::Compact),
        1 => Just(Op::RemoveRows),
        1 => Just(Op::Open),
        1 => any::<usize>().prop_map(Op::Close),
        4 => (any::<usize>(), create_op()).prop_map(|(s, c)| Op::Create(s, c)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(s, w)| Op::Cancel(s, w)),
        2 => any::<usize>().prop_map(Op::Progress),
        8 => (any::<usize>(), 1usize..4000).prop_map(|(s, b)| Op::Drain(s, b)),
        12 => (0u64..8).prop_map(Op::Step),
        1 => Just(Op::Skip),
        1 => (0usize..4, 1usize..3).prop_map(|(at, n)| Op::Gap(at, n)),
        1 => (0i64..8).prop_map(Op::Install),
        1 => Just(Op::ShowInstalled),
    ]
}

struct Run {
    world: World,
    hub: WatchHub,
    observers: Vec<Observer>,
    unpublished: VecDeque<Vec<Event>>,
    now: Instant,
}

fn key(number: u8) -> Bytes {
    Bytes::from(vec![b'a' + number])
}

impl Run {
    fn new() -> Self {
        let world = World::new();
        let options = WatchOptions {
            watch_backlog_bytes_max: BACKLOG_BYTES_MAX,
            recent_bytes_max: 4_000,
            recent_revisions_max: 5,
            replay_batch_bytes_max: 60,
            replay_watchers_max: 3,
            replay_deliveries_max: 5,
            replay_previous_max: 2,
            join_events_max: 6,
            progress_notify_interval: Duration::from_millis(10),
        };
        let hub = WatchHub::without_threads(Arc::new(world.clone()), Revision(1), options);
        let observers = vec![Observer::open(&world, &hub)];
        Self { world, hub, observers, unpublished: VecDeque::new(), now: Instant::now() }
    }

    fn observer(&mut self, number: usize) -> Option<&mut Observer> {
        let count = self.observers.len();
        if count == 0 { None } else { self.observers.get_mut(number % count) }
    }

    fn publish(&mut self, count: usize) {
        let count = count.min(self.unpublished.len());
        self.hub.publish(self.unpublished.drain(..count).collect());
    }

    /// An op as something that another thread might do.
    fn deferred(&mut self, op: Op) -> Box<dyn FnOnce() + Send> {
        match op {
            Op::Publish(count) => {
                let count = count.min(self.unpublished.len());
                let some: Vec<Vec<Event>> = self.unpublished.drain(..count).collect();
                let hub = self.hub.clone();
                Box::new(move || hub.publish(some))
            }
            Op::Compact(back) => {
                let world = self.world.clone();
                let to = Revision(world.lock().visible.0 - back);
                Box::new(move || {
                    world.compact(to);
                    world.remove_rows();
                })
            }
            Op::Install(back) => {
                let world = self.world.clone();
                let to = Revision(world.lock().visible.0 - back);
                Box::new(move || world.install(to))
            }
            Op::ShowInstalled => {
                let world = self.world.clone();
                Box::new(move || world.show_installed())
            }
            Op::Create(number, create) => {
                let new = self.new_watch(&create);
                self.observer(number).map_or_else(|| Box::new(|| ()) as _, |o| o.create(new))
            }
            Op::Cancel(number, which) => {
                self.observer(number).map_or_else(|| Box::new(|| ()) as _, |o| o.cancel(which))
            }
            _ => Box::new(|| ()),
        }
    }

    fn new_watch(&self, create: &CreateOp) -> NewWatch {
        let visible = self.world.lock().visible.0;
        let end = match create.end {
            0..=2 => Bytes::new(),
            3 => Bytes::from_static(b"\0"),
            4 => key(create.key),
            other => key(create.key + other - 4),
        };
        NewWatch {
            watch_id: create.id,
            key: key(create.key),
            range_end: end,
            start_revision: create.start.map_or(0, |s| if s == -12 { -1 } else { (visible + s).max(0) }),
            no_put: create.no_put,
            no_delete: create.no_delete,
            prev_kv: create.prev_kv,
            fragment: create.prev_kv,
            progress_notify: create.progress_notify,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Commit(writes, stored) => {
                let mut seen = std::collections::BTreeSet::new();
                let writes: Vec<(Bytes, Option<Bytes>)> = writes
                    .into_iter()
                    .filter(|(k, _)| seen.insert(*k))
                    .map(|(k, length)| (key(k), length.map(|n| Bytes::from(vec![b'v'; n as usize]))))
                    .collect();
                let events = self.world.commit(&writes, stored);
                if !events.is_empty() {
                    self.unpublished.push_back(events);
                }
            }
            Op::Publish(_) | Op::Create(..) | Op::Cancel(..) | Op::Install(_) | Op::ShowInstalled => {
                self.deferred(op)()
            }
            Op::Store(count) => {
                let mut state = self.world.lock();
                state.readable = Revision(state.readable.0 + count).min(state.visible);
            }
            Op::Compact(back) => {
                let to = self.world.lock().visible.0 - back;
                self.world.compact(Revision(to));
            }
            Op::RemoveRows => self.world.remove_rows(),
            Op::Open => {
                if self.observers.len() < 5 {
                    self.observers.push(Observer::open(&self.world, &self.hub));
                }
            }
            Op::Close(number) => {
                if self.observers.len() > 1 {
                    let at = number % self.observers.len();
                    self.observers.remove(at);
                }
            }
            Op::Progress(number) => {
                if let Some(observer) = self.observer(number) {
                    observer.request_progress();
                }
            }
            Op::Drain(number, bytes) => {
                if let Some(observer) = self.observer(number) {
                    observer.drain(bytes);
                }
            }
            Op::Step(millis) => {
                self.now += Duration::from_millis(millis);
                self.hub.step(self.now);
            }
            Op::StepMidway(ops) => {
                let midway: VecDeque<_> = ops.into_iter().map(|op| self.deferred(op)).collect();
                self.world.lock().midway = midway;
                self.hub.step(self.now);
                while self.world.interrupt() {}
            }
            Op::Gap(at, count) => {
                if at < self.unpublished.len() {
                    let end = (at + count).min(self.unpublished.len() - 1);
                    self.unpublished.drain(at..end.max(at));
                }
                let mut state = self.world.lock();
                state.readable = state.visible;
            }
            Op::Skip => {
                self.unpublished.clear();
                let visible = {
                    let mut state = self.world.lock();
                    state.readable = state.visible;
                    state.visible
                };
                if self.hub.published() < visible {
                    self.hub.skip_to(visible);
                }
            }
        }
        for observer in &self.observers {
            // The bound, one item past it, and small answers to requests.
            assert!(observer.queued_bytes() <= BACKLOG_BYTES_MAX + 3 * 2 * 3_000 + 20_000);
        }
    }

    /// Everything is published, stored and read: then everybody knows everything.
    fn settle(&mut self) {
        self.publish(usize::MAX);
        self.world.show_installed();
        {
            let mut state = self.world.lock();
            state.readable = state.visible;
        }
        // A drain may ask for values, which the next step reads.
        let mut idle = 0;
        while idle < 2 {
            let stepped = self.hub.step(self.now);
            let mut drained = false;
            for observer in &mut self.observers {
                drained |= observer.drain(1_500);
            }
            idle = if stepped || drained { 0 } else { idle + 1 };
        }
        let published = self.hub.published();
        assert_eq!(published, self.world.lock().visible);
        assert_eq!(self.hub.stats().unsynced, 0);
        assert_eq!(self.hub.oldest_needed(), None);
        for observer in &mut self.observers {
            assert_eq!(observer.ended, None);
            observer.finish(published);
            let before = observer.progress_answers();
            observer.request_progress();
            observer.drain(usize::MAX);
            if observer.live() > 0 && observer.all_started(published) {
                assert_eq!(observer.progress_answers(), before + 1, "no progress answer though all are synced");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn keeps_its_promises(ops in prop::collection::vec(op(), 1..250)) {
        let mut run = Run::new();
        for op in ops {
            run.apply(op);
        }
        run.settle();
    }
}

/// A snapshot that is not shown yet has taken the database's place, and lacks what its compaction let go: a watcher that
/// is behind waits, and is then told which revision it can have.
#[test]
fn a_snapshot_that_is_not_shown_feeds_nobody() {
    let mut run = Run::new();
    for key in [0u8, 1, 0, 1, 0, 1, 0, 1, 0] {
        run.apply(Op::Commit(vec![(key, Some(1))], true));
    }
    run.publish(usize::MAX);
    run.apply(Op::Store(100));
    let from = |start| CreateOp {
        key: 0,
        end: 3,
        start: Some(start),
        id: 0,
        no_put: false,
        no_delete: false,
        prev_kv: true,
        progress_notify: false,
    };
    // Revisions 2 to 10 exist; the snapshot has all of 7 and later.
    run.apply(Op::Install(3));
    run.apply(Op::Create(0, from(-7)));
    run.apply(Op::Create(0, from(-3)));
    for _ in 0..20 {
        run.apply(Op::Step(1));
        run.apply(Op::Drain(0, usize::MAX));
    }
    assert_eq!((run.observers[0].live(), run.hub.stats().unsynced), (2, 2));
    run.apply(Op::ShowInstalled);
    // The observer holds each answer against what happened: nothing may be left out.
    run.settle();
    assert_eq!(run.observers[0].live(), 1);
}
