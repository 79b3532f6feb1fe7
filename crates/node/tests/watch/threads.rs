//! The watch hub with its own threads, among threads that write, compact, watch and cancel: the
//! observers' checks, and that nobody sleeps through what he waits for.

use crate::observer::Observer;
use crate::world::World;
use bytes::Bytes;
use netsy_api::ids::Revision;
use netsy_node::watch::{NewWatch, WatchHub, WatchOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Small and repeatable; not for secrets.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn key(number: u64) -> Bytes {
    Bytes::from(vec![b'a' + number as u8])
}

fn write(world: &World, hub: &WatchHub, transactions: u64) {
    let mut random = Random(7);
    for _ in 0..transactions {
        let mut group = Vec::new();
        for _ in 0..=random.below(4) {
            let first = random.below(5);
            let writes: Vec<(Bytes, Option<Bytes>)> = (first..=(first + random.below(2)))
                .map(|k| (key(k), (random.below(4) > 0).then(|| Bytes::from(vec![b'v'; random.below(700) as usize]))))
                .collect();
            let events = world.commit(&writes, random.below(2) == 0);
            if !events.is_empty() {
                group.push(events);
            }
        }
        hub.publish(group);
        if random.below(3) == 0 {
            thread::sleep(Duration::from_micros(random.below(300)));
        }
    }
}

/// The database follows the store, and is compacted now and then.
fn keep(world: &World, done: &AtomicBool) {
    let mut random = Random(11);
    while !done.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_micros(200 + random.below(800)));
        {
            let mut state = world.lock();
            state.readable = Revision((state.visible.0 - random.below(3) as i64).max(state.readable.0));
        }
        if random.below(20) == 0 {
            let visible = world.lock().visible.0;
            world.compact(Revision(visible - random.below(200) as i64));
            world.remove_rows();
        }
    }
    let mut state = world.lock();
    state.readable = state.visible;
}

fn watch(world: &World, hub: &WatchHub, done: &AtomicBool, seed: u64) {
    let mut random = Random(seed);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut observer = Observer::open(world, hub);
    while !done.load(Ordering::Relaxed) {
        match random.below(12) {
            0 if observer.live() < 8 => {
                let visible = world.lock().visible.0 as u64;
                let start = match random.below(4) {
                    0 => 0,
                    1 => visible + random.below(4),
                    _ => visible.saturating_sub(random.below(150)),
                };
                let new = NewWatch {
                    key: key(random.below(5)),
                    range_end: if random.below(2) == 0 { Bytes::from_static(b"\0") } else { Bytes::new() },
                    start_revision: start as i64,
                    prev_kv: random.below(2) == 0,
                    progress_notify: random.below(2) == 0,
                    ..NewWatch::default()
                };
                observer.create(new)();
            }
            1 => observer.cancel(random.below(10) as usize)(),
            2 => observer.request_progress(),
            // A reader that is slow at times.
            3 => thread::sleep(Duration::from_millis(random.below(8))),
            _ => {
                if !observer.drain_with(&waker, 2_000) {
                    thread::park_timeout(Duration::from_millis(2));
                }
            }
        }
    }
    // All is published: what is still to come wakes us, or it is lost.
    let published = hub.published();
    let late = Instant::now() + Duration::from_secs(20);
    while !observer.is_complete(published) {
        assert!(Instant::now() < late, "slept through the rest of its events");
        if !observer.drain_with(&waker, 2_000) {
            thread::park_timeout(Duration::from_secs(20));
        }
    }
    observer.finish(published);
}

/// Longer than anybody has to wait for news.
const NEVER: Duration = Duration::from_secs(15);

/// Watches everything from the beginning, sleeping whenever there is nothing, up to revision `last`, which
/// is not known before the end.
fn wait(world: &World, hub: &WatchHub, last: &AtomicI64, prev_kv: bool, bytes_max: usize) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut observer = Observer::open(world, hub);
    loop {
        if observer.live() == 0 && observer.is_answered() {
            // The first time, or because a compaction was faster: as a client would.
            let start_revision = world.lock().compacted.0.max(1);
            let range_end = Bytes::from_static(b"\0");
            observer.create(NewWatch { range_end, start_revision, prev_kv, ..NewWatch::default() })();
        }
        let to = last.load(Ordering::Acquire);
        if to > 0 && observer.is_complete(Revision(to)) {
            return;
        }
        let asleep = Instant::now();
        if !observer.drain_with(&waker, bytes_max) {
            thread::park_timeout(NEVER);
        }
        assert!(asleep.elapsed() < NEVER, "nobody woke a stream with news");
    }
}

#[test]
fn promises_hold_among_threads() {
    let world = World::new();
    let options = WatchOptions {
        watch_backlog_bytes_max: 8_000,
        recent_bytes_max: 20_000,
        recent_revisions_max: 30,
        replay_batch_bytes_max: 200,
        replay_watchers_max: 4,
        replay_deliveries_max: 50,
        replay_previous_max: 3,
        join_events_max: 20,
        progress_notify_interval: Duration::from_millis(3),
    };
    let hub = WatchHub::start(Arc::new(world.clone()), Revision(1), options).unwrap();
    let (written, kept) = (AtomicBool::new(false), AtomicBool::new(false));
    let last = AtomicI64::new(0);
    thread::scope(|scope| {
        let keeper = scope.spawn(|| keep(&world, &written));
        for seed in 1..=5 {
            let (world, hub, kept) = (&world, &hub, &kept);
            scope.spawn(move || watch(world, hub, kept, seed * 7919));
        }
        for bytes_max in [100, 5_000, 100_000] {
            let (world, hub, last) = (&world, &hub, &last);
            scope.spawn(move || wait(world, hub, last, bytes_max == 5_000, bytes_max));
        }
        write(&world, &hub, 6_000);
        written.store(true, Ordering::Relaxed);
        keeper.join().unwrap();
        kept.store(true, Ordering::Relaxed);
        let news = world.commit(&[(key(0), Some(Bytes::from_static(b"the end")))], false);
        last.store(world.lock().visible.0, Ordering::Release);
        hub.publish(vec![news]);
        let mut state = world.lock();
        state.readable = state.visible;
    });
    assert_eq!(hub.stats().streams, 0);
    assert_eq!(hub.stats().watchers, 0);
    hub.stop();
}
