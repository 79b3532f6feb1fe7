//! Objects that were listed and are not there when they are read: deleted by another node's clean-up in between, which
//! is nothing to speak of, or missing, which is said.

mod support;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use netsy_api::ids::{ChunkSeq, LogIndex, UnixMillis};
use netsy_api::log::{Entry, Row};
use netsy_objects::cleanup::{Cleaner, CleanupPolicy};
use netsy_objects::format::ChunkInfo;
use netsy_objects::manifest::SnapshotManifest;
use netsy_objects::object_log::{LogPoint, ObjectLog};
use netsy_objects::read::ReadError;
use netsy_objects::restore::{CaughtUp, RestoreSink, SinkError, catch_up, restore};
use netsy_objects::segment::{FoldPolicy, fold_all};
use netsy_objects::snapshot::{CheckedSnapshot, SnapshotOptions, write_snapshot};
use netsy_objects::{Bucket, CreateOutcome, Download, Listed, Object, Result, SwapOutcome, Upload, Version, keys};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use support::*;

const SMALL_PARTS: SnapshotOptions = SnapshotOptions { part_bytes_target: 600, parallel: 3 };
/// Everything older than the newest two snapshots goes.
const NO_RETENTION: CleanupPolicy = CleanupPolicy { retention_ms: 0, now: UnixMillis(1_000_000) };

fn fold_policy() -> FoldPolicy {
    FoldPolicy { run_chunks_min: 2, run_chunks_max: 4, ..FoldPolicy::default() }
}

/// What another node does just before an object is read.
type Deed = BoxFuture<'static, ()>;

/// A bucket in which something is done by another node before the first read of one key, and in which one object is
/// listed that cannot be read.
struct Meanwhile {
    inner: Arc<MemBucket>,
    deed: Mutex<Option<(String, Deed)>>,
    unreadable: Option<String>,
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Meanwhile {
    fn log(w: &Writer, key: String, deed: impl Future<Output = ()> + Send + 'static) -> ObjectLog {
        let deed = Mutex::new(Some((key, Box::pin(deed) as Deed)));
        ObjectLog::new(Arc::new(Self { inner: w.bucket.clone(), deed, unreadable: None }), CLUSTER)
    }

    fn without(w: &Writer, key: String) -> ObjectLog {
        let this = Self { inner: w.bucket.clone(), deed: Mutex::default(), unreadable: Some(key) };
        ObjectLog::new(Arc::new(this), CLUSTER)
    }

    async fn before(&self, key: &str) {
        let deed = {
            let mut deed = self.deed.lock().unwrap();
            deed.take_if(|(of, _)| of == key)
        };
        if let Some((_, deed)) = deed {
            deed.await;
        }
    }
}

#[async_trait]
impl Bucket for Meanwhile {
    async fn get(&self, key: &str) -> Result<Option<Object>> {
        self.before(key).await;
        if self.unreadable.as_deref() == Some(key) {
            return Ok(None);
        }
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        self.inner.get_range(key, range).await
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome> {
        self.inner.create(key, bytes).await
    }

    async fn swap(&self, key: &str, expected: Option<&Version>, bytes: Bytes) -> Result<SwapOutcome> {
        self.inner.swap(key, expected, bytes).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>> {
        self.inner.upload(key).await
    }

    async fn download(&self, key: &str) -> Result<Option<Download>> {
        self.inner.download(key).await
    }

    fn describe(&self) -> String {
        "meanwhile".to_string()
    }
}

/// Takes entries that come again once.
struct FirstTime {
    collect: Collect,
    through: LogIndex,
}

#[async_trait]
impl RestoreSink for FirstTime {
    async fn begin(&mut self, _: Option<&SnapshotManifest>) -> std::result::Result<(), SinkError> {
        panic!("a node that catches up begins with what it has")
    }

    async fn rows(&mut self, _: Vec<Row>) -> std::result::Result<(), SinkError> {
        panic!("nor has it use for a snapshot's rows")
    }

    async fn entries(
        &mut self,
        entries: &[Arc<Entry>],
        chunks: &[ChunkInfo],
        end: &LogPoint,
    ) -> std::result::Result<(), SinkError> {
        let new = &entries[entries.partition_point(|entry| entry.index <= self.through)..];
        self.through = self.through.max(end.last_index);
        if new.is_empty() { Ok(()) } else { self.collect.entries(new, chunks, end).await }
    }
}

async fn written(chunks: u64) -> Writer {
    let mut w = Writer::new(&MemBucket::new());
    w.seal(1).await;
    for i in 1..chunks {
        w.append(1 + mix(i) % 9).await;
    }
    w
}

async fn snapshot(w: &Writer, known: Option<&CheckedSnapshot>) -> CheckedSnapshot {
    write_snapshot(&dynamic(&w.bucket), w.spec(0), stream_of(w.rows()), known, SMALL_PARTS).await.unwrap()
}

/// Another node folds chunks and deletes them.
fn folds(w: &Writer) -> impl Future<Output = ()> + Send + 'static {
    let log = w.log.clone();
    async move {
        assert!(!fold_all(&log, &fold_policy()).await.unwrap().is_empty());
        let report = Cleaner::new(log).run(None, &NO_RETENTION).await.unwrap();
        assert!(report.chunks > 0 && report.bad.is_empty(), "{report:?}");
    }
}

/// Another node has made two more snapshots, and deletes what they cover.
async fn covers(w: &mut Writer, newest: &CheckedSnapshot) -> (CheckedSnapshot, impl Future<Output = ()> + use<>) {
    // Written beside, and brought into the bucket when the time has come.
    let aside = w.bucket.copy_of();
    let (bucket, log) = (w.bucket.clone(), w.log.clone());
    w.bucket = aside.clone();
    w.log = ObjectLog::new(aside.clone(), CLUSTER);
    let mut newest = newest.clone();
    for _ in 0..2 {
        w.append(3).await;
        newest = snapshot(w, Some(&newest)).await;
    }
    w.append(1).await;
    w.bucket = bucket.clone();
    w.log = log.clone();
    let known = newest.clone();
    let deed = async move {
        for key in aside.keys() {
            bucket.put(&key, aside.bytes(&key));
        }
        let report = Cleaner::new(log).run(Some(&known), &NO_RETENTION).await.unwrap();
        assert!(report.chunks > 0 && report.snapshots > 0, "{report:?}");
    };
    (newest, deed)
}

async fn restores_without_a_word(w: &Writer, log: &ObjectLog) {
    let mut sink = Collect::default();
    let restored = restore(log, &mut sink).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(sink.rows == w.rows(), "{} rows of {}", sink.rows.len(), w.rows().len());
    assert_eq!(restored.end, w.at);
    assert!(restored.passed_over.is_empty(), "{:?}", restored.passed_over);
}

#[tokio::test]
async fn chunks_that_are_folded_while_they_are_read() {
    for seq in [2, 7, 14] {
        let w = written(16).await;
        let log = Meanwhile::log(&w, keys::chunk(ChunkSeq(seq)), folds(&w));
        restores_without_a_word(&w, &log).await;
        // The deed was done.
        assert!(!w.bucket.keys().contains(&keys::chunk(ChunkSeq(seq))));
    }
}

#[tokio::test]
async fn chunks_that_are_folded_while_a_node_catches_up() {
    let mut w = written(4).await;
    let from = w.at;
    for _ in 0..10 {
        w.append(2).await;
    }
    let log = Meanwhile::log(&w, keys::chunk(ChunkSeq(7)), folds(&w));
    let before = w.entries.len() - 20;
    let collect = Collect { next_position: from.next_position.0, ..Collect::default() };
    let mut sink = FirstTime { collect, through: from.last_index };
    match catch_up(&log, from, from.last_index, &mut sink).await.unwrap() {
        CaughtUp::End(end) => assert_eq!(end, w.at),
        other => panic!("{other:?}"),
    }
    assert!(sink.collect.entries == w.entries[before..]);
}

#[tokio::test]
async fn everything_that_newer_snapshots_cover_while_it_is_read() {
    let mut w = written(12).await;
    let first = snapshot(&w, None).await;
    w.append(2).await;
    let second = snapshot(&w, Some(&first)).await;
    let own = second.manifest().parts.iter().find(|part| !first.manifest().parts.contains(part)).unwrap();
    let after = keys::chunk(w.at.seq.next());
    for key in [keys::snapshot_manifest(second.index()), own.key.clone(), after] {
        let bucket = w.bucket.copy_of();
        let mut w = Writer {
            log: ObjectLog::new(bucket.clone(), CLUSTER),
            bucket,
            at: w.at,
            term: w.term,
            session: w.session,
            entries: w.entries.clone(),
            runs: w.runs.clone(),
        };
        w.append(1).await;
        let (_, deed) = covers(&mut w, &second).await;
        let log = Meanwhile::log(&w, key, deed);
        restores_without_a_word(&w, &log).await;
    }
}

#[tokio::test]
async fn chunks_that_another_node_folds_first() {
    let w = written(16).await;
    let log = Meanwhile::log(&w, keys::chunk(ChunkSeq(6)), folds(&w));
    fold_all(&log, &fold_policy()).await.unwrap();
    assert!(!w.bucket.keys().contains(&keys::chunk(ChunkSeq(6))));
    restores_without_a_word(&w, &w.log).await;
}

#[tokio::test]
async fn what_is_listed_again_and_not_there_is_missing() {
    let w = written(16).await;
    let key = keys::chunk(ChunkSeq(6));
    let log = Meanwhile::without(&w, key.clone());
    let missing = restore(&log, &mut Collect::default()).await.unwrap_err().to_string();
    assert!(missing.contains(&format!("{key} is missing")), "{missing}");
    let missing = fold_all(&log, &fold_policy()).await.unwrap_err();
    assert!(matches!(missing, ReadError::Missing { .. }), "{missing}");

    // Where there is a way around, it is said all the same.
    fold_all(&w.log, &fold_policy()).await.unwrap();
    let key = keys::segment(ChunkSeq(5), ChunkSeq(8));
    let log = Meanwhile::without(&w, key.clone());
    let restored = restore(&log, &mut Collect::default()).await.unwrap();
    assert_eq!(restored.passed_over[0].key(), Some(key.as_str()));
    let mut cleaner = Cleaner::new(log);
    assert!(cleaner.run(None, &NO_RETENTION).await.unwrap().bad.is_empty());
    // Listed twice, and not there twice.
    assert_eq!(cleaner.run(None, &NO_RETENTION).await.unwrap().bad[0].key(), Some(key.as_str()));
}

#[tokio::test]
async fn a_chunk_that_was_deleted_by_somebody_else_is_missing() {
    let w = written(16).await;
    let (bucket, key) = (w.bucket.clone(), keys::chunk(ChunkSeq(6)));
    let log = Meanwhile::log(&w, key.clone(), async move { bucket.remove(&key) });
    let missing = restore(&log, &mut Collect::default()).await.unwrap_err().to_string();
    assert!(missing.contains("chunks 6 to 6 are missing"), "{missing}");
}
