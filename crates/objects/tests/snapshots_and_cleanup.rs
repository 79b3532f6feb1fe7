//! Snapshots, clean-up, and a stop after every single call to the bucket.

mod support;

use netsy_api::ids::{ChunkSeq, LogIndex, Session, UnixMillis};
use netsy_api::log::Row;
use netsy_objects::cleanup::{Cleaner, CleanupPolicy, CleanupReport};
use netsy_objects::keys;
use netsy_objects::object_log::{Created, ObjectLog};
use netsy_objects::read::ReadError;
use netsy_objects::restore::restore;
use netsy_objects::segment::{FoldPolicy, fold_all};
use netsy_objects::snapshot::{
    CheckedSnapshot, NotChecked, SnapshotOptions, WriteError, check_snapshot, list_snapshots, write_snapshot,
};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use support::*;

const SMALL_PARTS: SnapshotOptions = SnapshotOptions { part_bytes_target: 600, parallel: 3 };
const FOLD: FoldPolicy =
    FoldPolicy { chunk_bytes_max: 1_000, run_chunks_min: 2, run_chunks_max: 6, run_bytes_max: 16 << 20, parallel: 4 };

/// Everything older than the newest two snapshots goes.
const NO_RETENTION: CleanupPolicy = CleanupPolicy { retention_ms: 0, now: UnixMillis(1_000_000) };

async fn snapshot_of(w: &Writer, rows: Vec<Row>, known: Option<&CheckedSnapshot>, at: i64) -> CheckedSnapshot {
    write_snapshot(&dynamic(&w.bucket), w.spec(at), stream_of(rows), known, SMALL_PARTS).await.unwrap()
}

async fn snapshot(w: &Writer, known: Option<&CheckedSnapshot>) -> CheckedSnapshot {
    snapshot_of(w, w.rows(), known, 0).await
}

async fn clean(w: &Writer, newest: &CheckedSnapshot) -> CleanupReport {
    let report = Cleaner::new(w.log.clone()).run(Some(newest), &NO_RETENTION).await.unwrap();
    assert!(report.bad.is_empty(), "{:?}", report.bad);
    report
}

async fn assert_restores(bucket: &Arc<MemBucket>, w: &Writer, context: &str) {
    let mut sink = Collect::default();
    let log = ObjectLog::new(bucket.clone(), CLUSTER);
    let restored = restore(&log, &mut sink).await.unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(sink.rows.len(), w.rows().len(), "{context}");
    assert_eq!(sink.rows, w.rows(), "{context}");
    assert_eq!(restored.end, w.at, "{context}");
}

#[tokio::test]
async fn unchanged_parts_are_used_again() {
    let mut w = Writer::new(&MemBucket::new());
    for _ in 0..40 {
        w.append(5).await;
    }
    let first = snapshot(&w, None).await;
    w.append(5).await;
    let second = snapshot(&w, Some(&first)).await;
    let old: HashSet<&str> = first.manifest().parts.iter().map(|part| part.key.as_str()).collect();
    let new = second.manifest().parts.iter().filter(|part| !old.contains(part.key.as_str())).count();
    assert!(old.len() > 20 && new <= 2, "{new} new parts, {} old", old.len());
    assert_eq!(second.manifest().base, Some(first.index()));
    // Rows that compaction removed change their own parts only.
    w.append(1).await;
    let rows: Vec<Row> = w.rows().into_iter().filter(|row| !(100..103).contains(&row.position.0)).collect();
    let third = snapshot_of(&w, rows.clone(), Some(&second), 0).await;
    let known: HashSet<&str> = second.manifest().parts.iter().map(|part| part.key.as_str()).collect();
    let new = third.manifest().parts.iter().filter(|part| !known.contains(part.key.as_str())).count();
    assert!((1..=5).contains(&new), "{new}");
    let mut sink = Collect::default();
    restore(&w.log, &mut sink).await.unwrap();
    assert_eq!(sink.rows, rows);
}

#[tokio::test]
async fn equal_rows_have_an_equal_digest_however_they_are_cut() {
    let digest = async |target| {
        let mut w = Writer::new(&MemBucket::new());
        w.append(100).await;
        let options = SnapshotOptions { part_bytes_target: target, parallel: 2 };
        let checked = write_snapshot(&dynamic(&w.bucket), w.spec(0), stream_of(w.rows()), None, options).await.unwrap();
        (checked.manifest().state_digest, checked.manifest().parts.len())
    };
    let (few, many) = (digest(1 << 20).await, digest(200).await);
    assert_eq!(few.0, many.0);
    assert!(few.1 == 1 && many.1 > 10);
}

#[tokio::test]
async fn a_state_without_rows_has_a_snapshot_too() {
    let mut w = Writer::new(&MemBucket::new());
    w.append(3).await;
    let checked = snapshot_of(&w, Vec::new(), None, 0).await;
    assert!(checked.manifest().parts.is_empty());
    let mut sink = Collect::default();
    assert_eq!(restore(&w.log, &mut sink).await.unwrap().end, w.at);
    assert!(sink.rows.is_empty());
}

#[tokio::test]
async fn rows_that_cannot_be_of_the_state_are_refused() {
    let mut w = Writer::new(&MemBucket::new());
    w.append(9).await;
    let early = w.spec(0);
    w.append(9).await;
    let write = async |rows: Vec<Row>| {
        write_snapshot(&dynamic(&w.bucket), early.clone(), stream_of(rows), None, SMALL_PARTS).await.unwrap_err()
    };
    assert!(matches!(write(w.rows()).await, WriteError::Format { .. }), "rows behind the snapshot");
    let mut rows: Vec<Row> = w.rows().into_iter().filter(|row| row.index <= early.covers.last_index).collect();
    rows.reverse();
    assert!(matches!(write(rows).await, WriteError::Format { .. }), "rows out of order");
    let failing = futures::stream::iter([Err("disk".to_string())]);
    let error = write_snapshot(&dynamic(&w.bucket), early.clone(), failing, None, SMALL_PARTS).await.unwrap_err();
    assert!(error.to_string().contains("disk"), "{error}");
    assert!(list_snapshots(&*w.bucket).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_index_has_one_snapshot() {
    let mut w = Writer::new(&MemBucket::new());
    w.append(9).await;
    let first = snapshot(&w, None).await;
    let again = write_snapshot(&dynamic(&w.bucket), w.spec(5), stream_of(w.rows()), Some(&first), SMALL_PARTS).await;
    assert!(matches!(again, Err(WriteError::NotNewer { .. })));
}

#[tokio::test]
async fn a_part_damaged_on_its_way_is_noticed_by_reading_back() {
    let mut w = Writer::new(&MemBucket::new());
    w.append(30).await;
    let checked = snapshot(&w, None).await;
    for part in &checked.manifest().parts {
        let good = w.bucket.bytes(&part.key);
        w.bucket.change(&part.key, |bytes| bytes[20] ^= 1);
        match check_snapshot(&dynamic(&w.bucket), CLUSTER, checked.index(), None).await {
            Err(NotChecked::Read(ReadError::Bad { key, .. })) => assert_eq!(key, part.key),
            other => panic!("{other:?}"),
        }
        w.bucket.put(&part.key, good);
    }
    check_snapshot(&dynamic(&w.bucket), CLUSTER, checked.index(), None).await.unwrap();
}

/// Two snapshots on the same base: only the one written first can be relied on (parts of the other may go
/// with the base), and the next is written whole.
#[tokio::test]
async fn of_two_at_once_one_counts() {
    let mut w = Writer::new(&MemBucket::new());
    for _ in 0..10 {
        w.append(5).await;
    }
    let base = snapshot(&w, None).await;
    w.append(5).await;
    let (spec, rows) = (w.spec(0), w.rows());
    w.append(5).await;
    let rival_bucket = dynamic(&w.bucket);
    // While the later one reads its rows, the earlier one is written whole.
    let (rival_spec, rival_rows) = (spec, rows);
    let base_too = base.clone();
    let late_rows = w.rows();
    let stream = futures::stream::once(async move {
        write_snapshot(&rival_bucket, rival_spec, stream_of(rival_rows), Some(&base_too), SMALL_PARTS).await.unwrap();
        Ok(late_rows)
    });
    let late = write_snapshot(&dynamic(&w.bucket), w.spec(0), stream, Some(&base), SMALL_PARTS).await;
    assert!(matches!(late, Err(WriteError::NotChecked(NotChecked::Overtaken { .. }))), "{late:?}");
    assert_restores(&w.bucket, &w, "both are there").await;
    w.append(1).await;
    let next = snapshot(&w, Some(&base)).await;
    assert_eq!(next.manifest().base, None);
    clean(&w, &next).await;
    assert_restores(&w.bucket, &w, "cleaned").await;
    assert!(check_snapshot(&dynamic(&w.bucket), CLUSTER, next.index(), None).await.is_ok());
}

#[tokio::test]
async fn a_snapshot_below_a_newer_one_is_no_reason_to_delete() {
    let mut w = Writer::new(&MemBucket::new());
    w.append(5).await;
    let first = snapshot(&w, None).await;
    w.append(5).await;
    snapshot(&w, Some(&first)).await;
    let again = check_snapshot(&dynamic(&w.bucket), CLUSTER, first.index(), None).await;
    assert!(matches!(again, Err(NotChecked::Overtaken { .. })));
}

async fn history() -> Writer {
    let mut w = Writer::new(&MemBucket::new());
    w.seal(1).await;
    for i in 0..12u64 {
        w.append(if i % 5 == 4 { 40 } else { 2 }).await;
    }
    w.session = Session(8);
    w.seal(2).await;
    for _ in 0..9 {
        w.append(2).await;
    }
    w
}

fn seals(w: &Writer) -> Vec<String> {
    let _ = w;
    [1, 14].map(|seq| keys::chunk(ChunkSeq(seq))).to_vec()
}

#[tokio::test]
async fn seals_and_the_newest_chunk_stay() {
    let mut w = history().await;
    fold_all(&w.log, &FOLD).await.unwrap();
    Cleaner::new(w.log.clone()).run(None, &NO_RETENTION).await.unwrap();
    assert_restores(&w.bucket, &w, "folded").await;
    let newest = |w: &Writer| keys::chunk(w.at.seq);
    let mut expected = seals(&w);
    expected.extend([6, 11].map(|seq| keys::chunk(ChunkSeq(seq))));
    expected.push(newest(&w));
    expected.sort();
    assert_eq!(w.bucket.keys_below(keys::LOG), expected, "folded: large chunks, seals and the newest are left");

    let mut known = None;
    for _ in 0..3 {
        let checked = snapshot(&w, known.as_ref()).await;
        clean(&w, &checked).await;
        assert_restores(&w.bucket, &w, "cleaned").await;
        known = Some(checked);
        w.append(3).await;
    }
    let log = w.bucket.keys_below(keys::LOG);
    for key in seals(&w).iter().chain([&newest(&w)]) {
        assert!(log.contains(key), "{key} in {log:?}");
    }
    assert!(w.bucket.keys_below(keys::SEGMENTS).is_empty());
    assert_eq!(list_snapshots(&*w.bucket).await.unwrap().len(), 2);
    // Even with nothing else in the log.
    let checked = snapshot(&w, known.as_ref()).await;
    clean(&w, &checked).await;
    clean(&w, &checked).await;
    assert!(w.bucket.keys_below(keys::LOG).contains(&newest(&w)));
}

#[tokio::test]
async fn a_seal_alone_at_the_end_stays_as_well() {
    let mut w = history().await;
    w.seal(5).await;
    let checked = snapshot(&w, None).await;
    clean(&w, &checked).await;
    clean(&w, &checked).await;
    w.seal(6).await;
    clean(&w, &checked).await;
    let seals: Vec<String> = [1, 14, 24, 25].map(|seq| keys::chunk(ChunkSeq(seq))).to_vec();
    assert_eq!(w.bucket.keys_below(keys::LOG), seals);
    assert_restores(&w.bucket, &w, "only seals").await;
}

#[tokio::test]
async fn history_within_the_retention_stays() {
    let mut w = history().await;
    let policy = CleanupPolicy { retention_ms: 1_000, now: UnixMillis(10_000) };
    let first = snapshot_of(&w, w.rows(), None, 9_500).await;
    w.append(2).await;
    let second = snapshot_of(&w, w.rows(), Some(&first), 9_900).await;
    let mut cleaner = Cleaner::new(w.log.clone());
    cleaner.run(Some(&second), &policy).await.unwrap();
    assert_eq!(w.bucket.keys_below(keys::LOG).len(), 24, "no snapshot is old enough");
    let later = CleanupPolicy { now: UnixMillis(10_600), ..policy };
    cleaner.run(Some(&second), &later).await.unwrap();
    assert_eq!(w.bucket.keys_below(keys::LOG).len(), 3, "seals and the newest");
    assert_eq!(list_snapshots(&*w.bucket).await.unwrap().len(), 2, "the first is where to reach back from");
    assert_restores(&w.bucket, &w, "retention").await;
}

#[tokio::test]
async fn clean_up_keeps_parts_that_a_remaining_snapshot_names_and_those_being_written() {
    let mut w = Writer::new(&MemBucket::new());
    for _ in 0..20 {
        w.append(5).await;
    }
    let mut known: Option<CheckedSnapshot> = None;
    for round in 0..6 {
        w.append(5).await;
        let rows: Vec<Row> = w.rows().into_iter().filter(|row| mix(row.position.0) % 40 >= round).collect();
        let checked = snapshot_of(&w, rows.clone(), known.as_ref(), 0).await;
        // One that is just being written by another node, its manifest still to come.
        let index = LogIndex(checked.index().0 + 1);
        let unfinished = keys::snapshot_part(index, netsy_api::ids::Position(1), &"ab".repeat(32));
        w.bucket.put(&unfinished, "part");
        clean(&w, &checked).await;
        assert!(w.bucket.keys().contains(&unfinished));
        check_snapshot(&dynamic(&w.bucket), CLUSTER, checked.index(), None).await.unwrap();
        let mut sink = Collect::default();
        let restored = restore(&w.log, &mut sink).await.unwrap();
        assert!(restored.passed_over.is_empty());
        assert_eq!(sink.rows, rows);
        known = Some(checked);
    }
    let named: HashSet<String> = {
        let mut named = HashSet::new();
        for index in list_snapshots(&*w.bucket).await.unwrap() {
            let manifest = netsy_objects::snapshot::read_snapshot_manifest(&*w.bucket, CLUSTER, index).await.unwrap();
            named.extend(manifest.parts.into_iter().map(|part| part.key));
        }
        named
    };
    let parts = w.bucket.keys_below(keys::SNAPSHOTS).into_iter().filter(|key| key.ends_with(".netsy"));
    let stray: Vec<String> = parts.filter(|key| !named.contains(key)).collect();
    assert_eq!(stray.len(), 1, "only what may still be being written is left: {stray:?}");
}

#[tokio::test]
async fn a_damaged_segment_keeps_its_chunks() {
    let w = history().await;
    fold_all(&w.log, &FOLD).await.unwrap();
    let segment = w.bucket.keys_below(keys::SEGMENTS)[0].clone();
    w.bucket.change(&segment, |bytes| bytes[70] ^= 1);
    let report = Cleaner::new(w.log.clone()).run(None, &NO_RETENTION).await.unwrap();
    assert_eq!(report.bad[0].key(), Some(segment.as_str()));
    assert!(report.chunks > 0);
    assert_restores(&w.bucket, &w, "damaged segment").await;
}

#[tokio::test]
async fn a_number_that_was_taken_and_cleaned_up_says_so() {
    let mut w = history().await;
    let chunk = w.next(w.make(1));
    // The create finds the key taken, the read that follows finds nothing.
    #[derive(Debug)]
    struct Vanishing(Arc<MemBucket>);
    #[async_trait::async_trait]
    impl netsy_objects::Bucket for Vanishing {
        async fn get(&self, key: &str) -> netsy_objects::Result<Option<netsy_objects::Object>> {
            self.0.get(key).await
        }
        async fn get_range(
            &self,
            key: &str,
            range: std::ops::Range<u64>,
        ) -> netsy_objects::Result<Option<bytes::Bytes>> {
            self.0.get_range(key, range).await
        }
        async fn create(&self, _: &str, _: bytes::Bytes) -> netsy_objects::Result<netsy_objects::CreateOutcome> {
            Ok(netsy_objects::CreateOutcome::Exists)
        }
        async fn swap(
            &self,
            key: &str,
            expected: Option<&netsy_objects::Version>,
            bytes: bytes::Bytes,
        ) -> netsy_objects::Result<netsy_objects::SwapOutcome> {
            self.0.swap(key, expected, bytes).await
        }
        async fn list(
            &self,
            prefix: &str,
            after: Option<&str>,
            limit: usize,
        ) -> netsy_objects::Result<Vec<netsy_objects::Listed>> {
            self.0.list(prefix, after, limit).await
        }
        async fn delete(&self, key: &str) -> netsy_objects::Result<()> {
            self.0.delete(key).await
        }
        async fn upload(&self, key: &str) -> netsy_objects::Result<Box<dyn netsy_objects::Upload>> {
            self.0.upload(key).await
        }
        async fn download(&self, key: &str) -> netsy_objects::Result<Option<netsy_objects::Download>> {
            self.0.download(key).await
        }
        fn describe(&self) -> String {
            "vanishing".to_string()
        }
    }
    let log = ObjectLog::new(Arc::new(Vanishing(w.bucket.clone())), CLUSTER);
    assert!(matches!(log.create(&chunk).await.unwrap(), Created::CleanedUp));
}

/// One round of everything that runs in the background.
async fn background(bucket: &Arc<MemBucket>, w: &Writer, known: Option<&CheckedSnapshot>) -> Option<CheckedSnapshot> {
    let log = ObjectLog::new(bucket.clone(), CLUSTER);
    let mut cleaner = Cleaner::new(log.clone());
    fold_all(&log, &FOLD).await.ok()?;
    cleaner.run(known, &NO_RETENTION).await.ok()?;
    let checked = match write_snapshot(&dynamic(bucket), w.spec(0), stream_of(w.rows()), known, SMALL_PARTS).await {
        Ok(checked) => checked,
        // A try before the stop got as far as the manifest.
        Err(WriteError::NotNewer { .. }) => {
            check_snapshot(&dynamic(bucket), CLUSTER, w.at.last_index, None).await.ok()?
        }
        Err(_) => return None,
    };
    cleaner.run(Some(&checked), &NO_RETENTION).await.ok()?;
    Some(checked)
}

/// The process stops at call k, for every k, with and without that call's effect: what is in the bucket
/// restores to the same state, and the next process finishes the work.
#[tokio::test]
async fn a_stop_at_any_call_leaves_a_bucket_that_restores() {
    let mut w = history().await;
    let first = background(&w.bucket, &w, None).await.unwrap();
    for _ in 0..7 {
        w.append(2).await;
    }
    let second = background(&w.bucket, &w, Some(&first)).await.unwrap();
    for _ in 0..15 {
        w.append(2).await;
    }
    // What a snapshot that was never finished left.
    for n in [1, 2] {
        let part = keys::snapshot_part(first.index(), netsy_api::ids::Position(n), &"ab".repeat(32));
        w.bucket.put(&part, "part");
    }
    let before = w.bucket.copy_of();
    let calls = {
        let bucket = before.copy_of();
        background(&bucket, &w, Some(&second)).await.unwrap();
        let calls = bucket.calls.load(SeqCst);
        assert_restores(&bucket, &w, "undisturbed").await;
        let deleted = bucket.deleted.lock().unwrap();
        for (prefix, count) in [(keys::LOG, 10), (keys::SEGMENTS, 1), (keys::SNAPSHOTS, 3)] {
            let found = deleted.iter().filter(|key| key.starts_with(prefix)).count();
            assert!(found >= count, "{prefix} {deleted:?}");
        }
        calls
    };
    assert!(calls > 50, "{calls}");
    for lands in [false, true] {
        for stop in 1..=calls {
            let context = format!("stopped at call {stop} of {calls}, which lands: {lands}");
            let bucket = before.copy_of();
            bucket.stop_at.store(stop, SeqCst);
            bucket.last_call_lands.store(lands, SeqCst);
            assert!(background(&bucket, &w, Some(&second)).await.is_none(), "{context}");
            bucket.stop_at.store(0, SeqCst);
            assert_restores(&bucket, &w, &context).await;
            // A new process, which has checked nothing.
            let checked = background(&bucket, &w, None).await;
            let checked = checked.unwrap_or_else(|| panic!("{context}: not finished"));
            assert_restores(&bucket, &w, &format!("{context}, finished")).await;
            check_snapshot(&dynamic(&bucket), CLUSTER, checked.index(), None).await.unwrap();
            let newest = keys::chunk(w.at.seq);
            let deleted = bucket.deleted.lock().unwrap().clone();
            let sacred = seals(&w).into_iter().chain([newest]);
            for key in sacred {
                assert!(!deleted.contains(&key), "{context}: {key} was deleted");
            }
        }
    }
}
