//! Several nodes write, fold, snapshot and clean up at once, over a bucket that delays calls and lets
//! creates and deletes land a second time, late. At every moment the bucket restores, and no checked
//! snapshot ever misses a part.

mod support;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use netsy_api::ids::{LogIndex, UnixMillis};
use netsy_api::log::Row;
use netsy_objects::cleanup::{Cleaner, CleanupPolicy};
use netsy_objects::object_log::{Created, ObjectLog};
use netsy_objects::restore::restore;
use netsy_objects::segment::{FoldPolicy, fold_all};
use netsy_objects::snapshot::{CheckedSnapshot, SnapshotOptions, WriteError, check_snapshot, write_snapshot};
use netsy_objects::{Bucket, CreateOutcome, Download, Listed, Object, Result, SwapOutcome, Upload, Version, keys};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use support::*;

#[derive(Debug)]
enum Late {
    Create(String, Bytes),
    Delete(String),
}

/// Delays every call by a few turns of the scheduler and repeats some writes much later.
#[derive(Debug)]
struct Weather {
    inner: Arc<MemBucket>,
    seed: u64,
    calls: AtomicU64,
    late: Mutex<Vec<(u64, Late)>>,
}

impl Weather {
    fn roll(&self) -> u64 {
        let call = self.calls.fetch_add(1, SeqCst);
        self.land_late(call);
        mix(self.seed ^ call.wrapping_mul(0x9e37_79b9))
    }

    fn land_late(&self, now: u64) {
        let mut late = self.late.lock().unwrap();
        late.retain(|(at, what)| {
            if *at > now {
                return true;
            }
            let mut objects = self.inner.objects.lock().unwrap();
            match what {
                Late::Create(key, bytes) => {
                    objects.entry(key.clone()).or_insert((bytes.clone(), 1 << 40 | now));
                }
                Late::Delete(key) => {
                    objects.remove(key);
                }
            }
            false
        });
    }

    /// Waits; true if the write is to land again later.
    async fn delay(&self) -> Option<u64> {
        let roll = self.roll();
        for _ in 0..roll % 8 {
            tokio::task::yield_now().await;
        }
        (roll >> 8).is_multiple_of(6).then(|| self.calls.load(SeqCst) + (roll >> 16) % 400)
    }
}

#[async_trait]
impl Bucket for Weather {
    async fn get(&self, key: &str) -> Result<Option<Object>> {
        self.delay().await;
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        self.delay().await;
        self.inner.get_range(key, range).await
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome> {
        let again = self.delay().await;
        let outcome = self.inner.create(key, bytes.clone()).await;
        if let Some(at) = again {
            self.late.lock().unwrap().push((at, Late::Create(key.to_string(), bytes)));
        }
        self.delay().await;
        outcome
    }

    async fn swap(&self, key: &str, expected: Option<&Version>, bytes: Bytes) -> Result<SwapOutcome> {
        self.inner.swap(key, expected, bytes).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>> {
        self.delay().await;
        // Small pages: a listing of many keys is no single moment.
        let mut all: Vec<Listed> = Vec::new();
        while all.len() < limit {
            let after = all.last().map(|listed| listed.key.clone()).or(after.map(str::to_string));
            let page = self.inner.list(prefix, after.as_deref(), 5.min(limit - all.len())).await?;
            if page.is_empty() {
                break;
            }
            all.extend(page);
            self.delay().await;
        }
        Ok(all)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let again = self.delay().await;
        self.inner.delete(key).await?;
        if let Some(at) = again {
            self.late.lock().unwrap().push((at, Late::Delete(key.to_string())));
        }
        Ok(())
    }

    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>> {
        self.inner.upload(key).await
    }

    async fn download(&self, key: &str) -> Result<Option<Download>> {
        self.inner.download(key).await
    }

    fn describe(&self) -> String {
        "weather".to_string()
    }
}

struct World {
    bucket: Arc<dyn Bucket>,
    memory: Arc<MemBucket>,
    /// What the log is, as written; the bucket may be behind by the chunk that is on its way.
    writer: tokio::sync::Mutex<Writer>,
    states: Mutex<BTreeMap<LogIndex, State>>,
    done: AtomicBool,
    checked: Mutex<Vec<CheckedSnapshot>>,
    snapshots: AtomicU64,
}

#[derive(Clone)]
struct State {
    spec: netsy_objects::snapshot::SnapshotSpec,
    rows: usize,
    lasting: Vec<Row>,
}

/// Whether no compaction removes this row.
fn lasts(row: &Row) -> bool {
    !mix(row.position.0).is_multiple_of(3)
}

/// Nodes differ in what they have compacted.
fn survives(row: &Row, compaction: u64) -> bool {
    lasts(row) || mix((row.position.0 / 9) ^ (compaction << 40)).is_multiple_of(2)
}

const FOLD: FoldPolicy =
    FoldPolicy { chunk_bytes_max: 1_000, run_chunks_min: 3, run_chunks_max: 6, run_bytes_max: 16 << 20, parallel: 4 };

impl World {
    async fn append(&self, seed: u64) {
        let log = ObjectLog::new(self.bucket.clone(), CLUSTER);
        for step in 0..60 {
            let mut writer = self.writer.lock().await;
            let count = mix(seed ^ step) % 4;
            if count == 0 {
                writer.term = writer.term.next();
            }
            let entries = writer.make(count);
            let chunk = writer.next(entries);
            assert!(matches!(log.create(&chunk).await.unwrap(), Created::Landed));
            let mut lasting = writer.rows();
            let rows = lasting.len();
            lasting.retain(lasts);
            let state = State { spec: writer.spec(0), rows, lasting };
            self.states.lock().unwrap().insert(writer.at.last_index, state);
            drop(writer);
            for _ in 0..mix(seed ^ step << 8) % 60 {
                tokio::task::yield_now().await;
            }
        }
        self.done.store(true, SeqCst);
    }

    /// A node that folds, snapshots and cleans up on its own.
    async fn keep_house(&self, seed: u64) {
        let log = ObjectLog::new(self.bucket.clone(), CLUSTER);
        let mut cleaner = Cleaner::new(log.clone());
        let mut known: Option<CheckedSnapshot> = None;
        let mut round = 0;
        while !self.done.load(SeqCst) {
            round += 1;
            match mix(seed ^ round) % 4 {
                0 => drop(fold_all(&log, &FOLD).await),
                1 => {
                    let state = self.states.lock().unwrap().values().last().cloned();
                    let Some(state) = state else { continue };
                    known = self.snapshot(state, known.as_ref(), mix(seed ^ round << 20) % 3).await.or(known);
                }
                2 => {
                    let keep = CleanupPolicy { retention_ms: 0, now: UnixMillis(1) };
                    // A restarted node looks the newest snapshot over first.
                    if mix(seed ^ round << 9).is_multiple_of(3) {
                        let newest = netsy_objects::snapshot::list_snapshots(&*self.bucket).await.unwrap();
                        if let Some(&newest) = newest.last() {
                            known = check_snapshot(&self.bucket, CLUSTER, newest, None).await.ok().or(known);
                        }
                    }
                    cleaner.run(known.as_ref(), &keep).await.unwrap();
                }
                _ => tokio::task::yield_now().await,
            }
        }
    }

    async fn snapshot(
        &self,
        state: State,
        known: Option<&CheckedSnapshot>,
        compaction: u64,
    ) -> Option<CheckedSnapshot> {
        let mut rows = self.writer.lock().await.rows()[..state.rows].to_vec();
        rows.retain(|row| survives(row, compaction));
        let options = SnapshotOptions { part_bytes_target: 400, parallel: 2 };
        // Slow to read: others overtake it.
        let stream = stream_of(rows).then(|batch| async {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            batch
        });
        match write_snapshot(&self.bucket, state.spec, stream, known, options).await {
            Ok(checked) => {
                self.checked.lock().unwrap().push(checked.clone());
                self.snapshots.fetch_add(1, SeqCst);
                Some(checked)
            }
            Err(WriteError::Format { index, error }) => panic!("{index}: {error}"),
            Err(_) => None,
        }
    }

    async fn watch(&self) {
        while !self.done.load(SeqCst) {
            self.check().await;
            for _ in 0..40 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// As the bucket is in this instant.
    async fn check(&self) {
        let copy = self.memory.copy_of();
        for checked in self.checked.lock().unwrap().iter() {
            let keys = copy.objects.lock().unwrap();
            // A manifest that landed again after it was deleted is not relied on: newer ones are there.
            let newest = keys.keys().rev().find(|key| key.ends_with("/manifest.json"));
            if newest == Some(&keys::snapshot_manifest(checked.index())) {
                for part in &checked.manifest().parts {
                    assert!(keys.contains_key(&part.key), "snapshot {} misses {}", checked.index(), part.key);
                }
            }
        }
        let end = copy.keys_below(keys::LOG).last().and_then(|key| keys::parse_chunk(key));
        let mut sink = Collect::default();
        let log = ObjectLog::new(copy, CLUSTER);
        let restored = restore(&log, &mut sink).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Some(restored.end.seq), end.or(Some(netsy_api::ids::ChunkSeq(0))));
        let states = self.states.lock().unwrap();
        if let Some(state) = states.get(&restored.end.last_index) {
            sink.rows.retain(lasts);
            assert!(sink.rows == state.lasting, "at {} rows are missing", restored.end.last_index);
        }
    }
}

async fn run(seed: u64) -> u64 {
    let memory = MemBucket::new();
    let weather = Weather { inner: memory.clone(), seed, calls: AtomicU64::new(0), late: Mutex::new(Vec::new()) };
    let world = World {
        bucket: Arc::new(weather),
        writer: tokio::sync::Mutex::new(Writer::new(&memory)),
        memory,
        states: Mutex::default(),
        done: AtomicBool::new(false),
        checked: Mutex::default(),
        snapshots: AtomicU64::new(0),
    };
    tokio::join!(world.append(seed), world.keep_house(seed + 1), world.keep_house(seed + 2), world.watch());
    world.check().await;
    let writer = world.writer.lock().await;
    let mut sink = Collect::default();
    restore(&ObjectLog::new(world.memory.clone(), CLUSTER), &mut sink).await.unwrap();
    let mut expected = writer.rows();
    expected.retain(lasts);
    sink.rows.retain(lasts);
    assert_eq!(sink.rows, expected);
    world.snapshots.load(SeqCst)
}

#[tokio::test]
async fn nodes_that_clean_up_at_once_lose_nothing() {
    let seeds = std::env::var("NETSY_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(30);
    let mut snapshots = 0;
    for seed in 0..seeds {
        snapshots += run(seed * 1_000).await;
    }
    assert!(snapshots > seeds, "{snapshots} snapshots in {seeds} runs: too few to show anything");
}
