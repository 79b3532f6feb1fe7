//! A bucket in memory that can stop at any call, a log to put into it, and a sink to restore into.
#![allow(dead_code)]

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use netsy_api::ids::{ChunkSeq, LeaseId, LogIndex, NodeId, Position, Revision, Session, Term, UnixMillis};
use netsy_api::log::{Entry, Mutation, Row};
use netsy_objects::format::{ChunkInfo, ChunkMeta};
use netsy_objects::manifest::{SnapshotManifest, TermRun};
use netsy_objects::object_log::{Created, LogPoint, NewChunk, ObjectLog};
use netsy_objects::restore::{RestoreSink, SinkError};
use netsy_objects::snapshot::SnapshotSpec;
use netsy_objects::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const CLUSTER: &str = "test";

/// A bucket in memory. After a set number of calls every further one fails: the process is dead.
#[derive(Debug, Default)]
pub struct MemBucket {
    pub objects: Mutex<BTreeMap<String, (Bytes, u64)>>,
    versions: AtomicU64,
    /// Calls made.
    pub calls: AtomicI64,
    /// The first call that fails; 0: none.
    pub stop_at: AtomicI64,
    /// Whether that one has its effect all the same.
    pub last_call_lands: std::sync::atomic::AtomicBool,
    /// Answers of creates to lose, though they land.
    pub lose_answers: AtomicI64,
    /// Keys in the order they were deleted.
    pub deleted: Mutex<Vec<String>>,
}

enum Fate {
    Fine,
    /// It lands, the caller does not learn.
    LandsUnheard,
    Dead,
}

impl MemBucket {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub fn copy_of(&self) -> Arc<Self> {
        let copy = Self::default();
        *copy.objects.lock().unwrap() = self.objects.lock().unwrap().clone();
        Arc::new(copy)
    }

    pub fn keys(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }

    pub fn keys_below(&self, prefix: &str) -> Vec<String> {
        self.keys().into_iter().filter(|key| key.starts_with(prefix)).collect()
    }

    pub fn bytes(&self, key: &str) -> Bytes {
        self.objects.lock().unwrap()[key].0.clone()
    }

    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        let version = self.versions.fetch_add(1, SeqCst);
        self.objects.lock().unwrap().insert(key.to_string(), (bytes.into(), version));
    }

    pub fn remove(&self, key: &str) {
        assert!(self.objects.lock().unwrap().remove(key).is_some(), "{key} is not there");
    }

    pub fn change(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.bytes(key).to_vec();
        change(&mut bytes);
        self.put(key, bytes);
    }

    fn fate(&self) -> Fate {
        let call = self.calls.fetch_add(1, SeqCst) + 1;
        match self.stop_at.load(SeqCst) {
            0 => Fate::Fine,
            stop if call < stop => Fate::Fine,
            stop if call == stop && self.last_call_lands.load(SeqCst) => Fate::LandsUnheard,
            _ => Fate::Dead,
        }
    }

    fn call<T>(
        &self,
        op: &'static str,
        key: &str,
        act: impl FnOnce(&mut BTreeMap<String, (Bytes, u64)>) -> T,
    ) -> Result<T> {
        let stopped = || StoreError::refused(op, key, "stopped");
        match self.fate() {
            Fate::Fine => Ok(act(&mut self.objects.lock().unwrap())),
            Fate::LandsUnheard => {
                act(&mut self.objects.lock().unwrap());
                Err(stopped())
            }
            Fate::Dead => Err(stopped()),
        }
    }
}

#[async_trait]
impl Bucket for MemBucket {
    async fn get(&self, key: &str) -> Result<Option<Object>> {
        self.call("get", key, |objects| {
            objects
                .get(key)
                .map(|(bytes, version)| Object { bytes: bytes.clone(), version: Version::new(version.to_string()) })
        })
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        self.call("get", key, |objects| {
            objects.get(key).map(|(bytes, _)| {
                let end = (range.end as usize).min(bytes.len());
                bytes.slice((range.start as usize).min(end)..end)
            })
        })
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<CreateOutcome> {
        check_key_of(key)?;
        let version = self.versions.fetch_add(1, SeqCst);
        let outcome = self.call("create", key, |objects| {
            if objects.contains_key(key) {
                return CreateOutcome::Exists;
            }
            objects.insert(key.to_string(), (bytes, version));
            CreateOutcome::Created(Version::new(version.to_string()))
        })?;
        if self.lose_answers.fetch_sub(1, SeqCst) > 0 {
            return Err(StoreError::unclear("create", key, "the answer is lost"));
        }
        Ok(outcome)
    }

    async fn swap(&self, key: &str, expected: Option<&Version>, bytes: Bytes) -> Result<SwapOutcome> {
        let version = self.versions.fetch_add(1, SeqCst);
        self.call("swap", key, |objects| {
            let found = objects.get(key).map(|(_, version)| Version::new(version.to_string()));
            if found.as_ref() != expected {
                return SwapOutcome::Conflict;
            }
            objects.insert(key.to_string(), (bytes, version));
            SwapOutcome::Swapped(Version::new(version.to_string()))
        })
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>> {
        self.call("list", prefix, |objects| {
            let below = objects.iter().filter(|(key, _)| key.starts_with(prefix));
            below
                .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after))
                .take(limit)
                .map(|(key, (bytes, _))| Listed { key: key.clone(), size: bytes.len() as u64 })
                .collect()
        })
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.call("delete", key, |objects| {
            objects.remove(key);
            self.deleted.lock().unwrap().push(key.to_string());
        })
    }

    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>> {
        Err(StoreError::refused("upload", key, "not used by these tests"))
    }

    async fn download(&self, key: &str) -> Result<Option<Download>> {
        Err(StoreError::refused("download", key, "not used by these tests"))
    }

    fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            max_age: Duration::from_secs(5),
            pause_min: Duration::from_millis(1),
            pause_max: Duration::from_millis(2),
        }
    }

    fn describe(&self) -> String {
        "memory".to_string()
    }
}

fn check_key_of(key: &str) -> Result<()> {
    bucket::check_key("create", key)
}

/// A small deterministic sequence.
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub fn node() -> NodeId {
    NodeId::new("n1").unwrap()
}

/// A writer of the log: what a Primary would put into the bucket.
pub struct Writer {
    pub bucket: Arc<MemBucket>,
    pub log: ObjectLog,
    pub at: LogPoint,
    pub term: Term,
    pub session: Session,
    pub entries: Vec<Arc<Entry>>,
    pub runs: Vec<TermRun>,
}

impl Writer {
    pub fn new(bucket: &Arc<MemBucket>) -> Self {
        Self {
            bucket: bucket.clone(),
            log: ObjectLog::new(bucket.clone(), CLUSTER),
            at: LogPoint::START,
            term: Term(1),
            session: Session(7),
            entries: Vec::new(),
            runs: Vec::new(),
        }
    }

    pub fn meta(&self) -> ChunkMeta {
        ChunkMeta {
            cluster_id: CLUSTER.to_string(),
            node_id: node(),
            session: self.session,
            seq: self.at.seq.next(),
            term: self.term,
            first_index: self.at.last_index.next(),
            last_index: self.at.last_index,
            first_position: self.at.next_position,
            last_position: Position(self.at.next_position.0 - 1),
            created_at: UnixMillis(1_700_000_000_000 + self.at.seq.0 as i64),
        }
    }

    /// The next `count` entries, not yet in the log.
    pub fn make(&self, count: u64) -> Vec<Arc<Entry>> {
        let mut revision = self.at.revision;
        let first = self.at.last_index.0 + 1;
        (first..first + count)
            .map(|index| {
                let mut entry = entry(index, self.term, revision, 20);
                if entry.mutations.iter().any(Mutation::is_key_change) {
                    revision = revision.next();
                }
                entry.revision = revision;
                Arc::new(entry)
            })
            .collect()
    }

    /// The next chunk, encoded; moves on as if it landed.
    pub fn next(&mut self, entries: Vec<Arc<Entry>>) -> NewChunk {
        let chunk = NewChunk::encode(self.meta(), &entries).unwrap();
        self.at = LogPoint {
            seq: chunk.meta.seq,
            term: self.term,
            last_index: chunk.meta.last_index,
            last_term: entries.last().map_or(self.at.last_term, |e| e.term),
            next_position: chunk.meta.last_position.next(),
            revision: entries.last().map_or(self.at.revision, |e| e.revision),
        };
        for entry in &entries {
            match self.runs.last_mut() {
                Some(run) if run.term == entry.term => run.last_index = entry.index,
                _ => self.runs.push(TermRun { term: entry.term, last_index: entry.index }),
            }
        }
        self.entries.extend(entries);
        chunk
    }

    pub async fn append(&mut self, count: u64) -> ChunkSeq {
        let entries = self.make(count);
        let chunk = self.next(entries);
        assert!(matches!(self.log.create(&chunk).await.unwrap(), Created::Landed));
        chunk.meta.seq
    }

    pub async fn seal(&mut self, term: u64) -> ChunkSeq {
        self.term = Term(term);
        self.append(0).await
    }

    /// All rows of the log up to here.
    pub fn rows(&self) -> Vec<Row> {
        rows_of(&self.entries)
    }

    pub fn spec(&self, created_at: i64) -> SnapshotSpec {
        SnapshotSpec {
            cluster_id: CLUSTER.to_string(),
            node_id: node(),
            session: self.session,
            covers: self.at,
            runs: self.runs.clone(),
            compact_revision: Revision(0),
            created_at: UnixMillis(created_at),
            version: "test".to_string(),
        }
    }
}

pub fn rows_of(entries: &[Arc<Entry>]) -> Vec<Row> {
    let mut position = Position(1);
    let mut rows = Vec::new();
    for entry in entries {
        rows.extend(entry.rows(position));
        position = Position(position.0 + entry.mutations.len() as u64);
    }
    rows
}

/// One of a repertoire, by its index. `revision` is that before it.
pub fn entry(index: u64, term: Term, revision: Revision, value_bytes: usize) -> Entry {
    let r = mix(index);
    let key = |n: u64| Bytes::from(format!("/registry/pods/{:05}", mix(n) % 1000));
    let put = |n: u64| Mutation::Put {
        key: key(n),
        value: Bytes::from(vec![(n % 251) as u8; value_bytes + (mix(n) % 40) as usize]),
        create_revision: Revision(revision.0 + 1),
        version: 1,
        lease: LeaseId((r % 3) as i64),
    };
    let mutations = match r % 8 {
        0 => vec![Mutation::LeaseGrant { id: LeaseId(index as i64), ttl_seconds: 60 }],
        1 => vec![Mutation::Delete { key: key(r) }, Mutation::LeaseRevoke { id: LeaseId(5) }],
        2 => vec![put(r), put(r + 1), Mutation::Delete { key: key(r + 2) }],
        3 => vec![Mutation::Compact { revision }],
        4 => vec![Mutation::LeaseCheckpoint { id: LeaseId(9), remaining_seconds: (r % 100) as i64 }],
        _ => vec![put(r)],
    };
    Entry { index: LogIndex(index), term, time: UnixMillis(1_700_000_000_000 + index as i64), revision, mutations }
}

/// Collects what is restored.
#[derive(Debug, Default)]
pub struct Collect {
    pub begun: usize,
    pub base: Option<LogIndex>,
    pub rows: Vec<Row>,
    pub entries: Vec<Arc<Entry>>,
    pub chunks: Vec<ChunkInfo>,
    pub next_position: u64,
}

#[async_trait]
impl RestoreSink for Collect {
    async fn begin(&mut self, snapshot: Option<&SnapshotManifest>) -> Result<(), SinkError> {
        *self = Collect { begun: self.begun + 1, base: snapshot.map(|s| s.last_index), ..Collect::default() };
        self.next_position = snapshot.map_or(1, |s| s.next_position.0);
        Ok(())
    }

    async fn rows(&mut self, rows: Vec<Row>) -> Result<(), SinkError> {
        self.rows.extend(rows);
        Ok(())
    }

    async fn entries(&mut self, entries: &[Arc<Entry>], chunks: &[ChunkInfo], end: &LogPoint) -> Result<(), SinkError> {
        for entry in entries {
            self.rows.extend(entry.rows(Position(self.next_position)));
            self.next_position += entry.mutations.len() as u64;
        }
        assert_eq!(self.next_position, end.next_position.0);
        self.entries.extend_from_slice(entries);
        self.chunks.extend_from_slice(chunks);
        Ok(())
    }
}

pub fn stream_of(rows: Vec<Row>) -> impl futures::Stream<Item = Result<Vec<Row>, String>> + Send {
    let batches: Vec<_> = rows.chunks(7).map(|batch| Ok(batch.to_vec())).collect();
    futures::stream::iter(batches).boxed()
}

pub fn dynamic(bucket: &Arc<MemBucket>) -> Arc<dyn Bucket> {
    bucket.clone()
}
