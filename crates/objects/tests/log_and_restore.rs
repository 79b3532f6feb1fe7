//! The object log and restore over a bucket in memory: R3, R4, gaps, bad objects, ways around them.

mod support;

use netsy_api::ids::{ChunkSeq, LogIndex, Session, Term};
use netsy_objects::object_log::{Created, LogPoint, ObjectLog};
use netsy_objects::read::ReadError;
use netsy_objects::restore::{CaughtUp, RestoreError, Restored, catch_up, restore};
use netsy_objects::segment::{FoldPolicy, fold_all};
use netsy_objects::snapshot::{CheckedSnapshot, SnapshotOptions, write_snapshot};
use netsy_objects::{keys, object_log};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use support::*;

const SMALL_PARTS: SnapshotOptions = SnapshotOptions { part_bytes_target: 600, parallel: 3 };

fn fold_all_policy() -> FoldPolicy {
    FoldPolicy { run_chunks_min: 2, run_chunks_max: 4, ..FoldPolicy::default() }
}

async fn snapshot(w: &Writer, known: Option<&CheckedSnapshot>) -> CheckedSnapshot {
    write_snapshot(&dynamic(&w.bucket), w.spec(0), stream_of(w.rows()), known, SMALL_PARTS).await.unwrap()
}

async fn restored(w: &Writer) -> (Result<Restored, RestoreError>, Collect) {
    let mut sink = Collect::default();
    (restore(&w.log, &mut sink).await, sink)
}

async fn restores_whole(w: &Writer) -> (Restored, Collect) {
    let (result, sink) = restored(w).await;
    let result = result.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(sink.rows, w.rows());
    assert_eq!(result.end, w.at);
    (result, sink)
}

/// A log with seals and chunks of several sizes.
async fn written(chunks: u64) -> Writer {
    let mut w = Writer::new(&MemBucket::new());
    w.seal(1).await;
    for i in 1..chunks {
        if i == chunks / 2 {
            w.session = Session(8);
            w.seal(3).await;
        } else {
            w.append(1 + mix(i) % 9).await;
        }
    }
    w
}

#[tokio::test]
async fn an_empty_bucket_restores_to_nothing() {
    let w = Writer::new(&MemBucket::new());
    let (result, sink) = restores_whole(&w).await;
    assert_eq!((result.end, sink.begun), (LogPoint::START, 1));
}

#[tokio::test]
async fn the_log_alone_restores() {
    let w = written(30).await;
    let (result, sink) = restores_whole(&w).await;
    assert!(result.passed_over.is_empty() && result.snapshot.is_none());
    assert_eq!(sink.entries, w.entries);
    let seqs: Vec<u64> = sink.chunks.iter().map(|chunk| chunk.seq.0).collect();
    assert_eq!(seqs, (1..=30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_settled_as_landed() {
    let mut w = written(3).await;
    let chunk = w.next(w.make(2));
    w.bucket.lose_answers.store(3, SeqCst);
    assert!(matches!(w.log.create(&chunk).await.unwrap(), Created::Landed));
    // And again, by the same process: the same bytes are there.
    assert!(matches!(w.log.create(&chunk).await.unwrap(), Created::Landed));
    restores_whole(&w).await;
}

#[tokio::test]
async fn a_taken_number_shows_who_took_it() {
    let mut w = written(5).await;
    let before = w.at;
    let ours = w.make(2);
    w.append(3).await;
    let mut rival = Writer::new(&w.bucket);
    (rival.at, rival.term, rival.session) = (before, Term(3), Session(99));
    let chunk = rival.next(ours);
    match rival.log.create(&chunk).await.unwrap() {
        Created::Taken(found) => {
            assert_eq!((found.meta.seq, found.meta.session), (before.seq.next(), w.session));
            assert_eq!(found.entries.len(), 3);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_same_entries_of_another_session_are_not_ours() {
    let mut w = written(5).await;
    let mut rival = Writer::new(&w.bucket);
    (rival.at, rival.term, rival.session) = (w.at, w.term, Session(99));
    let entries = w.make(2);
    let (ours, theirs) = (w.next(entries.clone()), rival.next(entries));
    assert_eq!(ours.file.bytes.len(), theirs.file.bytes.len());
    assert_ne!(ours.file.checksum, theirs.file.checksum);
    assert!(matches!(w.log.create(&ours).await.unwrap(), Created::Landed));
    assert!(matches!(rival.log.create(&theirs).await.unwrap(), Created::Taken(_)));
}

#[tokio::test]
async fn the_second_list_shows_a_seal_in_a_hole() {
    let w = written(9).await;
    w.bucket.remove(&keys::chunk(ChunkSeq(3)));
    assert!(w.log.anything_after(ChunkSeq(3)).await.unwrap());
    assert!(!w.log.anything_after(ChunkSeq(9)).await.unwrap());
}

#[tokio::test]
async fn listings_of_several_pages_are_read_to_the_end() {
    let mut w = Writer::new(&MemBucket::new());
    for _ in 0..2_345 {
        w.append(1).await;
    }
    assert_eq!(w.log.list(ChunkSeq(0)).await.unwrap().end(), ChunkSeq(2_345));
    assert_eq!(w.log.list(ChunkSeq(2_000)).await.unwrap().chunks.len(), 345);
    restores_whole(&w).await;
}

#[tokio::test]
async fn a_gap_is_refused_and_named() {
    let w = written(12).await;
    w.bucket.remove(&keys::chunk(ChunkSeq(5)));
    w.bucket.remove(&keys::chunk(ChunkSeq(6)));
    match restored(&w).await.0 {
        Err(RestoreError::Read(ReadError::Gap { first, last })) => assert_eq!((first.0, last.0), (5, 6)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_damaged_chunk_is_named_and_never_skipped() {
    let w = written(12).await;
    for seq in 1..=12 {
        let key = keys::chunk(ChunkSeq(seq));
        let good = w.bucket.bytes(&key);
        for damage in [flip, cut] {
            w.bucket.change(&key, damage);
            let error = restored(&w).await.0.unwrap_err();
            assert!(error.to_string().contains(&key), "{error}");
            w.bucket.put(&key, good.clone());
        }
    }
    restores_whole(&w).await;
}

#[allow(clippy::ptr_arg)] // as `cut`, which needs it
fn flip(bytes: &mut Vec<u8>) {
    let at = bytes.len() / 2;
    bytes[at] ^= 0x10;
}

fn cut(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len() * 2 / 3);
}

#[tokio::test]
async fn a_chunk_in_anothers_place_is_named() {
    let w = written(12).await;
    w.bucket.put(&keys::chunk(ChunkSeq(4)), w.bucket.bytes(&keys::chunk(ChunkSeq(5))));
    let error = restored(&w).await.0.unwrap_err().to_string();
    assert!(error.contains(&keys::chunk(ChunkSeq(4))) && error.contains("it is chunk 5"), "{error}");
    let other = ObjectLog::new(w.bucket.clone(), "other");
    let error = restore(&other, &mut Collect::default()).await.unwrap_err().to_string();
    assert!(error.contains("belongs to cluster test"), "{error}");
}

#[tokio::test]
async fn a_chunk_that_does_not_continue_the_one_before_is_named() {
    let mut w = written(6).await;
    let mut stale = Writer::new(&w.bucket);
    // As if another history had chunk 7: indexes of its own.
    (stale.at, stale.term) = (w.at, Term(3));
    stale.at.last_index = LogIndex(1_000);
    let chunk = stale.next(stale.make(1));
    w.bucket.put(&keys::chunk(ChunkSeq(7)), chunk.file.bytes);
    let error = restored(&w).await.0.unwrap_err().to_string();
    assert!(error.contains(&keys::chunk(ChunkSeq(7))) && error.contains("index 1001"), "{error}");
    // Nor may a term go back.
    w.bucket.remove(&keys::chunk(ChunkSeq(7)));
    w.term = Term(2);
    let chunk = NewMeta::seal_at(&w);
    w.bucket.put(&keys::chunk(ChunkSeq(7)), chunk);
    let error = restored(&w).await.0.unwrap_err().to_string();
    assert!(error.contains("in term 3"), "{error}");
}

struct NewMeta;

impl NewMeta {
    fn seal_at(w: &Writer) -> bytes::Bytes {
        object_log::NewChunk::encode(w.meta(), &[]).unwrap().file.bytes
    }
}

#[tokio::test]
async fn a_snapshot_and_the_log_after_it_restore() {
    let mut w = written(15).await;
    let checked = snapshot(&w, None).await;
    assert!(checked.manifest().parts.len() > 3, "{} parts", checked.manifest().parts.len());
    for _ in 0..5 {
        w.append(3).await;
    }
    let (result, sink) = restores_whole(&w).await;
    assert_eq!(result.snapshot.unwrap().last_index, checked.index());
    assert_eq!(sink.base, Some(checked.index()));
    // The chunks that it covers are not needed.
    for seq in 1..15 {
        w.bucket.remove(&keys::chunk(ChunkSeq(seq)));
    }
    restores_whole(&w).await;
}

#[tokio::test]
async fn a_bad_snapshot_falls_back_to_an_older_one_where_that_loses_nothing() {
    for damage in [flip, cut] {
        let mut w = written(15).await;
        let first = snapshot(&w, None).await;
        for _ in 0..5 {
            w.append(3).await;
        }
        let second = snapshot(&w, Some(&first)).await;
        w.append(2).await;
        let own = second.manifest().parts.iter().find(|part| !first.manifest().parts.contains(part)).unwrap();
        for key in [own.key.clone(), keys::snapshot_manifest(second.index())] {
            let good = w.bucket.bytes(&key);
            w.bucket.change(&key, damage);
            let (result, sink) = restores_whole(&w).await;
            assert_eq!(sink.base, Some(first.index()));
            assert_eq!(result.passed_over[0].key(), Some(key.as_str()));

            // With a chunk in between gone it would lose something: refused, the bad object named.
            let between = keys::chunk(ChunkSeq(17));
            let chunk = w.bucket.bytes(&between);
            w.bucket.remove(&between);
            let error = restored(&w).await.0.unwrap_err().to_string();
            assert!(error.contains(&key) && error.contains("17"), "{error}");
            w.bucket.put(&between, chunk);
            w.bucket.put(&key, good);
        }
    }
}

#[tokio::test]
async fn a_part_that_is_gone_or_another_is_gone_around_by_the_log() {
    let mut w = written(15).await;
    let checked = snapshot(&w, None).await;
    w.append(2).await;
    let parts = &checked.manifest().parts;
    let good = w.bucket.bytes(&parts[1].key);
    w.bucket.put(&parts[1].key, w.bucket.bytes(&parts[2].key));
    let (result, sink) = restores_whole(&w).await;
    assert!(result.passed_over[0].to_string().contains("not the part that snapshot"), "{:?}", result.passed_over);
    assert_eq!(sink.base, None);
    w.bucket.remove(&parts[1].key);
    let (result, _) = restores_whole(&w).await;
    assert!(matches!(result.passed_over[0], ReadError::Missing { .. }));
    w.bucket.put(&parts[1].key, good);
    assert!(restores_whole(&w).await.0.passed_over.is_empty());
}

#[tokio::test]
async fn a_snapshot_that_reaches_beyond_the_log_is_refused() {
    let w = written(15).await;
    snapshot(&w, None).await;
    for seq in 1..=15 {
        w.bucket.remove(&keys::chunk(ChunkSeq(seq)));
    }
    let error = restored(&w).await.0.unwrap_err().to_string();
    assert!(error.contains("the object log ends at chunk 0"), "{error}");
}

#[tokio::test]
async fn segments_restore_with_and_without_their_chunks() {
    let mut w = written(20).await;
    let folded = fold_all(&w.log, &fold_all_policy()).await.unwrap();
    assert_eq!(folded.iter().map(|segment| segment.chunks().len()).sum::<usize>(), 19);
    assert!(fold_all(&w.log, &fold_all_policy()).await.unwrap().is_empty(), "folding is done once");
    restores_whole(&w).await;
    for seq in [2, 3, 4, 7, 8, 12, 19] {
        w.bucket.remove(&keys::chunk(ChunkSeq(seq)));
    }
    restores_whole(&w).await;
    w.append(4).await;
    let (_, sink) = restores_whole(&w).await;
    let seqs: Vec<u64> = sink.chunks.iter().map(|chunk| chunk.seq.0).collect();
    assert_eq!(seqs, (1..=21).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_bad_segment_is_gone_around_by_its_chunks_and_a_bad_chunk_by_its_segment() {
    let w = written(20).await;
    fold_all(&w.log, &fold_all_policy()).await.unwrap();
    let segment = keys::segment(ChunkSeq(5), ChunkSeq(8));
    let good = w.bucket.bytes(&segment);
    w.bucket.change(&segment, flip);
    assert_eq!(restores_whole(&w).await.0.passed_over[0].key(), Some(segment.as_str()));
    w.bucket.remove(&keys::chunk(ChunkSeq(6)));
    let error = restored(&w).await.0.unwrap_err().to_string();
    assert!(error.contains(&segment) && error.contains("chunks 6 to 6"), "{error}");
    w.bucket.put(&segment, good);
    w.bucket.change(&keys::chunk(ChunkSeq(7)), cut);
    assert!(restores_whole(&w).await.0.passed_over.is_empty());
}

#[tokio::test]
async fn a_seal_that_fell_into_a_hole_below_a_segment_is_ignored() {
    let w = written(20).await;
    fold_all(&w.log, &fold_all_policy()).await.unwrap();
    let mut late = Writer::new(&w.bucket);
    late.at.seq = ChunkSeq(5);
    late.session = Session(1234);
    w.bucket.put(&keys::chunk(ChunkSeq(6)), NewMeta::seal_at(&late));
    restores_whole(&w).await;
}

#[tokio::test]
async fn a_seal_that_fell_into_a_hole_is_not_folded() {
    let mut w = written(5).await;
    let end = w.at;
    for _ in 0..10 {
        w.append(2).await;
    }
    let run = |first, last| netsy_objects::segment::FoldRun { first: ChunkSeq(first), last: ChunkSeq(last), bytes: 0 };
    // One node folded 5 to 9 and deleted them; a Primary that slept seals where it saw the log's end; another node, that
    // had listed chunks 4 to 6 before, reads the last of them only now.
    netsy_objects::segment::fold(&w.log, run(5, 9), &fold_all_policy()).await.unwrap();
    let mut late = Writer::new(&w.bucket);
    (late.at, late.term, late.session) = (end, w.term, Session(1234));
    w.bucket.put(&keys::chunk(ChunkSeq(6)), NewMeta::seal_at(&late));
    for seq in 7..=9 {
        w.bucket.remove(&keys::chunk(ChunkSeq(seq)));
    }
    let error = netsy_objects::segment::fold(&w.log, run(4, 6), &fold_all_policy()).await.unwrap_err().to_string();
    assert!(error.contains("it is not the log's"), "{error}");
    // Next to what is in a segment already.
    netsy_objects::segment::fold(&w.log, run(3, 4), &fold_all_policy()).await.unwrap();
    restores_whole(&w).await;
}

#[tokio::test]
async fn a_snapshot_in_the_middle_of_a_segment_restores() {
    let mut w = written(7).await;
    snapshot(&w, None).await;
    for _ in 0..6 {
        w.append(2).await;
    }
    // Folded from before the snapshot, as a node does whose snapshot came up meanwhile.
    let run = netsy_objects::segment::FoldRun { first: ChunkSeq(4), last: ChunkSeq(12), bytes: 0 };
    netsy_objects::segment::fold(&w.log, run, &fold_all_policy()).await.unwrap();
    for seq in 1..=12 {
        w.bucket.remove(&keys::chunk(ChunkSeq(seq)));
    }
    let (_, sink) = restores_whole(&w).await;
    assert_eq!(sink.base.map(|base| base.0 > 0), Some(true));
    assert_eq!(sink.chunks[0].seq, ChunkSeq(8));
}

#[tokio::test]
async fn catching_up_gives_what_is_missing_or_asks_for_a_snapshot() {
    let mut w = written(10).await;
    let from = w.at;
    let before = w.entries.len();
    for _ in 0..6 {
        w.append(2).await;
    }
    let mut sink = Collect { next_position: from.next_position.0, ..Collect::default() };
    match catch_up(&w.log, from, from.last_index, &mut sink).await.unwrap() {
        CaughtUp::End(end) => assert_eq!(end, w.at),
        other => panic!("{other:?}"),
    }
    assert_eq!(sink.entries, w.entries[before..]);
    // Everything folded away in a snapshot.
    let middle = w.at;
    snapshot(&w, None).await;
    w.append(2).await;
    for seq in 1..=16 {
        w.bucket.remove(&keys::chunk(ChunkSeq(seq)));
    }
    let mut sink = Collect::default();
    let behind = catch_up(&w.log, from, from.last_index, &mut sink).await.unwrap();
    assert!(matches!(behind, CaughtUp::NeedsSnapshot));
    // A node that has what the snapshot has begins there.
    let mut sink = Collect { next_position: middle.next_position.0, ..Collect::default() };
    match catch_up(&w.log, from, middle.last_index, &mut sink).await.unwrap() {
        CaughtUp::End(end) => assert_eq!((end, sink.entries.len()), (w.at, 2)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_take_over_from_a_log_that_was_followed_costs_one_list() {
    let mut w = written(10).await;
    let from = w.at;
    w.bucket.calls.store(0, SeqCst);
    let mut sink = Collect { next_position: from.next_position.0, ..Collect::default() };
    let caught_up = catch_up(&w.log, from, from.last_index, &mut sink).await.unwrap();
    assert!(matches!(caught_up, CaughtUp::End(end) if end == from));
    assert_eq!(w.bucket.calls.load(SeqCst), 1);
    w.append(2).await;
    w.bucket.calls.store(0, SeqCst);
    let caught_up = catch_up(&w.log, from, from.last_index, &mut sink).await.unwrap();
    assert!(matches!(caught_up, CaughtUp::End(end) if end == w.at));
    assert_eq!(w.bucket.calls.load(SeqCst), 2, "a list and the chunk");
}

#[tokio::test]
async fn a_log_that_ends_before_what_was_seen_of_it_is_another_log() {
    let mut w = written(10).await;
    w.append(2).await;
    let seen = w.at;
    w.bucket.remove(&keys::chunk(seen.seq));
    let shorter = catch_up(&w.log, seen, seen.last_index, &mut Collect::default()).await.unwrap();
    assert!(matches!(shorter, CaughtUp::Shorter), "{shorter:?}");
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_an_error_and_not_an_empty_log() {
    let w = written(10).await;
    w.bucket.calls.store(0, SeqCst);
    w.bucket.stop_at.store(3, SeqCst);
    match restored(&w).await.0 {
        Err(RestoreError::Read(ReadError::Store(error))) => assert!(error.to_string().contains("stopped")),
        other => panic!("{other:?}"),
    }
    let _: Arc<MemBucket> = w.bucket.clone();
}
