//! Time and memory of the state machine with many keys: `cargo run --release -p netsy-mvcc --example speed [keys]`.
#![allow(clippy::disallowed_methods, reason = "a measurement needs a clock")]

use bytes::Bytes;
use netsy_api::etcdserverpb::{PutRequest, RangeRequest};
use netsy_api::ids::{Position, Revision, Term, UnixMillis};
use netsy_mvcc::watch_match::Matcher;
use netsy_mvcc::{KeyRange, LoadEnd, RangeReader, RowMeta, RowWhat, Store, StoreConfig, ValueSource, WriteRequest};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is allocated, with the 8 bytes and the rounding to 16 that glibc's allocator adds.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

fn real(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(real(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(real(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Processor time of this thread, so that neighbours on the machine count little. Where the system does not tell it,
/// the time that passed.
struct Clock {
    wall: std::time::Instant,
    cpu_ns: Option<u64>,
}

fn cpu_ns() -> Option<u64> {
    // The system brings the figure up to date when the thread gives up its processor.
    std::thread::yield_now();
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

impl Clock {
    fn now() -> Self {
        Self { cpu_ns: cpu_ns(), wall: std::time::Instant::now() }
    }

    fn micros(&self) -> f64 {
        match (self.cpu_ns, cpu_ns()) {
            (Some(from), Some(to)) => (to - from) as f64 / 1e3,
            _ => self.wall.elapsed().as_secs_f64() * 1e6,
        }
    }
}

struct NoValues;

impl ValueSource for NoValues {
    fn value(&self, at: Position) -> Result<Bytes, String> {
        Err(format!("row {at} is not asked for here"))
    }
}

const VALUE_BYTES: usize = 256;

fn key(n: u64) -> Bytes {
    Bytes::from(format!("/registry/pods/default/{n:09}"))
}

/// A walk over 0..n in no order that a cache could guess.
fn scattered(n: u64) -> impl Iterator<Item = u64> {
    let mut x = 0x9E37_79B9_7F4A_7C15_u64;
    std::iter::repeat_with(move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x % n
    })
}

fn put(store: &mut Store, key: Bytes, value: Bytes) {
    let request = WriteRequest::Put(PutRequest { key, value, ..Default::default() });
    let done = store.evaluate(Term(1), UnixMillis(1), &request, &NoValues).expect("a put");
    std::hint::black_box(&done);
    store.set_visible(store.last_index());
    store.written_through(done.first_position);
}

fn report(what: &str, started: Clock, times: u64) {
    println!("{what:<44} {:>9.3} us", started.micros() / times as f64);
}

fn main() {
    let keys: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let value = Bytes::from(vec![7u8; VALUE_BYTES]);
    let config = StoreConfig { value_cache_bytes_max: 64 << 20, ..StoreConfig::default() };

    for (name, order) in [("ascending", true), ("scattered", false)] {
        let before = HELD.load(Ordering::Relaxed);
        let mut store = Store::new(config);
        let started = Clock::now();
        let mut places: Box<dyn Iterator<Item = u64>> =
            if order { Box::new(0..keys) } else { Box::new(scattered(u64::MAX / 2)) };
        for _ in 0..keys {
            let Some(n) = places.next() else { break };
            put(&mut store, if order { key(n) } else { Bytes::from(format!("{n:032}")) }, value.clone());
        }
        report(&format!("{name}: first put of {keys} keys"), started, keys);
        let held = HELD.load(Ordering::Relaxed) - before;
        let index = held - store.value_cache_bytes();
        println!(
            "{name}: memory {} MB, of it values {} MB; index {:.1} bytes a key of 32 bytes",
            held >> 20,
            store.value_cache_bytes() >> 20,
            index as f64 / keys as f64
        );
        if order {
            operations(&mut store, keys, &value);
        }
    }
    rebuild(keys, config);
    matcher();
    yardstick(keys);
}

fn operations(store: &mut Store, keys: u64, value: &Bytes) {
    let rounds = 500_000;
    let requests: Vec<Bytes> = scattered(keys).take(rounds as usize).map(key).collect();

    let started = Clock::now();
    for key in &requests {
        let found = store.get(key, store.visible_revision()).expect("a read");
        std::hint::black_box(found);
    }
    report("get of a key by Store::get", started, rounds);

    let ranges: Vec<RangeRequest> =
        requests.iter().map(|k| RangeRequest { key: k.clone(), ..Default::default() }).collect();
    let started = Clock::now();
    for request in &ranges {
        let mut reader = RangeReader::new(request, store).expect("a read");
        reader.step(store, usize::MAX).expect("a step");
        std::hint::black_box(reader.finish());
    }
    report("get of a key by RangeReader", started, rounds);

    let puts: Vec<Bytes> = requests.clone();
    let started = Clock::now();
    for key in puts {
        put(store, key, value.clone());
    }
    report("put of a key that exists", started, rounds);

    let wanted = keys.min(10_000);
    let list = RangeRequest { key: key(0), range_end: key(wanted), ..Default::default() };
    let all = RangeRequest { key: key(0), range_end: Bytes::from_static(b"0"), limit: 500, ..Default::default() };
    for (what, request) in [("range of 10,000 keys", list), ("range of all keys, limit 500, with count", all)] {
        let rounds = 20;
        let started = Clock::now();
        for _ in 0..rounds {
            let mut reader = RangeReader::new(&request, store).expect("a read");
            while !reader.step(store, 2_000).expect("a step") {}
            std::hint::black_box(reader.finish());
        }
        report(what, started, rounds);
    }

    let revision = store.visible_revision();
    let compact = WriteRequest::Compact { revision: Revision(revision.0 - 1) };
    store.evaluate(Term(1), UnixMillis(1), &compact, &NoValues).expect("a compaction");
    store.set_visible(store.last_index());
    let (mut steps, mut removed, mut longest) = (0, 0, 0.0_f64);
    let started = Clock::now();
    loop {
        let step_started = Clock::now();
        let step = store.compact_index(1_000, netsy_api::ids::Revision(i64::MAX), netsy_api::ids::LogIndex(u64::MAX));
        longest = longest.max(step_started.micros());
        steps += 1;
        removed += step.removed.len();
        if step.done {
            break;
        }
    }
    report("physical compaction, all of it", started, 1);
    println!("  {removed} rows, {steps} steps of 1,000 keys, the longest {longest:.0} us");
}

fn rebuild(keys: u64, config: StoreConfig) {
    let before = HELD.load(Ordering::Relaxed);
    let started = Clock::now();
    let mut store = Store::new(config);
    for n in 0..keys {
        let key = key(n);
        let (position, index, revision) = (Position(n + 1), netsy_api::ids::LogIndex(n + 1), Revision(n as i64 + 2));
        let what = RowWhat::Put { key: &key, create_revision: revision, version: 1, lease: netsy_api::ids::LeaseId(0) };
        let row = RowMeta { position, index, term: Term(1), time: UnixMillis(1), revision, sub: 0, what };
        store.load_row(row, None).expect("a row");
    }
    store
        .finish_load(LoadEnd {
            last_index: netsy_api::ids::LogIndex(keys),
            last_term: Term(1),
            next_position: Position(keys + 1),
            revision: Revision(keys as i64 + 1),
            compact_revision: Revision(-1),
        })
        .expect("an end");
    report("load of a row", started, keys);
    let held = HELD.load(Ordering::Relaxed) - before;
    println!("loaded: index {:.1} bytes a key of 32 bytes", held as f64 / keys as f64);
}

fn matcher() {
    let mut matcher = Matcher::default();
    for n in 0..10_000u32 {
        matcher.add(KeyRange::new(&key(n.into()), b""), n);
        matcher.add(KeyRange::new(format!("/registry/{n:05}/").as_bytes(), format!("/registry/{n:05}0").as_bytes()), n);
    }
    let rounds = 200_000;
    let probes: Vec<Bytes> = (0..rounds).map(|n| Bytes::from(format!("/registry/{:05}/x", n % 20_000))).collect();
    let mut found = 0u64;
    let started = Clock::now();
    for probe in &probes {
        matcher.for_each_match(probe, |_| found += 1);
    }
    report("match of a key against 20,000 watchers", started, rounds);
    println!("  {found} matches");
}

/// What this machine makes of the standard library's map with the same keys, now: to read the figures above by.
fn yardstick(keys: u64) {
    let map: std::collections::BTreeMap<Bytes, u64> = (0..keys).map(|n| (key(n), n)).collect();
    let rounds = 500_000;
    let probes: Vec<Bytes> = scattered(keys).take(rounds as usize).map(key).collect();
    let started = Clock::now();
    for probe in &probes {
        std::hint::black_box(map.get(probe));
    }
    report("yardstick: lookup in a BTreeMap of the keys", started, rounds);
}
