//! What is written reads back, in one form only, and as `prost` would have it.

mod support;

use bytes::Bytes;
use netsy_api::ids::{ChunkSeq, LeaseId, LogIndex, Position, Revision, Session, Term, UnixMillis};
use netsy_api::log::{AlarmKind, Entry, Mutation, Row};
use netsy_objects::format::{
    ChunkMeta, PartBuilder, decode_chunk, decode_part, decode_segment, encode_chunk, encode_seal, encode_segment,
    read_chunk_meta,
};
use proptest::prelude::*;
use prost::Message;
use std::sync::Arc;
use support::{CLUSTER, node};

fn bytes(range: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), range).prop_map(Bytes::from)
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let id = any::<i64>().prop_map(LeaseId);
    prop_oneof![
        4 => (bytes(1..40), bytes(0..300), any::<i64>(), any::<i64>(), id.clone()).prop_map(
            |(key, value, create, version, lease)| Mutation::Put {
                key,
                value,
                create_revision: Revision(create),
                version,
                lease
            }
        ),
        1 => bytes(1..40).prop_map(|key| Mutation::Delete { key }),
        1 => (id.clone(), any::<i64>()).prop_map(|(id, ttl_seconds)| Mutation::LeaseGrant { id, ttl_seconds }),
        1 => id.clone().prop_map(|id| Mutation::LeaseRevoke { id }),
        1 => (id, any::<i64>())
            .prop_map(|(id, remaining_seconds)| Mutation::LeaseCheckpoint { id, remaining_seconds }),
        1 => any::<i64>().prop_map(|revision| Mutation::Compact { revision: Revision(revision) }),
        1 => (any::<u64>(), any::<bool>(), any::<bool>()).prop_map(|(member_id, corrupt, active)| Mutation::Alarm {
            member_id,
            alarm: if corrupt { AlarmKind::Corrupt } else { AlarmKind::NoSpace },
            active
        }),
    ]
}

/// Entries that follow each other, from any index and revision.
fn entries() -> impl Strategy<Value = Vec<Arc<Entry>>> {
    let one = (proptest::collection::vec(mutation(), 1..5), any::<i64>(), 0..2u64, 0..2i64);
    (1..1u64 << 60, 1..1i64 << 60, 1..1u64 << 60, proptest::collection::vec(one, 0..30)).prop_map(
        |(first, revision, term, all)| {
            let (mut term, mut revision) = (term, revision);
            let numbered = all.into_iter().enumerate();
            numbered
                .map(|(i, (mutations, time, term_step, revision_step))| {
                    term += term_step;
                    revision += revision_step;
                    Arc::new(Entry {
                        index: LogIndex(first + i as u64),
                        term: Term(term),
                        time: UnixMillis(time),
                        revision: Revision(revision),
                        mutations,
                    })
                })
                .collect()
        },
    )
}

fn meta(entries: &[Arc<Entry>], session: u128) -> ChunkMeta {
    let first = entries.first().map_or(LogIndex(5), |e| e.index);
    ChunkMeta {
        cluster_id: CLUSTER.to_string(),
        node_id: node(),
        session: Session(session),
        seq: ChunkSeq(3),
        term: entries.last().map_or(Term(2), |e| e.term),
        first_index: first,
        last_index: LogIndex(0),
        first_position: Position(first.0 * 2),
        last_position: Position(0),
        created_at: UnixMillis(1_700_000_000_000),
    }
    .covering(entries)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn chunks(entries in entries(), session: u128) {
        let meta = meta(&entries, session);
        let file = encode_chunk(&meta, &entries).unwrap();
        prop_assert_eq!(&encode_chunk(&meta, &entries).unwrap(), &file, "the same bytes again");
        let chunk = decode_chunk(&file.bytes).unwrap();
        prop_assert_eq!(&chunk.meta, &meta);
        prop_assert_eq!(&chunk.entries, &entries);
        prop_assert_eq!(chunk.checksum, file.checksum);
        prop_assert_eq!(chunk.bytes, file.bytes.len() as u64);
        let beginning = file.bytes.slice(..file.bytes.len().min(netsy_objects::format::CHUNK_HEADER_READ_BYTES as usize));
        prop_assert_eq!(read_chunk_meta(&beginning).unwrap(), meta);
    }

    #[test]
    fn segments(entries in entries(), cut in 0usize..30, session: u128) {
        let cut = cut.min(entries.len());
        let (left, right) = entries.split_at(cut);
        let mut whole = meta(&entries, session);
        whole.term = Term(whole.term.0 + 1);
        let first = whole.clone().covering(left);
        let second = ChunkMeta {
            seq: ChunkSeq(4),
            first_index: first.last_index.next(),
            first_position: first.last_position.next(),
            ..whole.clone()
        }.covering(right);
        let chunks: Vec<_> = [(first, left), (second, right)]
            .map(|(meta, entries)| decode_chunk(&encode_chunk(&meta, entries).unwrap().bytes).unwrap())
            .into();
        let file = encode_segment(&chunks).unwrap();
        let segment = decode_segment(&file.bytes).unwrap();
        prop_assert_eq!(&segment.entries, &entries);
        prop_assert_eq!(segment.chunks.len(), 2);
        prop_assert_eq!(segment.chunks[1].checksum, chunks[1].checksum);
        prop_assert_eq!((segment.first_position, segment.last_position), (whole.first_position, whole.last_position));
        // Chunks in another order, or not of one log, cannot be folded.
        let swapped: Vec<_> = chunks.iter().rev().cloned().collect();
        prop_assert!(encode_segment(&swapped).is_err());
        prop_assert!(encode_segment(&chunks[..0]).is_err());
    }

    #[test]
    fn parts(entries in entries(), skip in 0usize..5) {
        let mut position = Position(entries.first().map_or(1, |e| e.index.0) * 2);
        let mut rows: Vec<Row> = Vec::new();
        for entry in &entries {
            rows.extend(entry.rows(position));
            position = Position(position.0 + entry.mutations.len() as u64);
        }
        let rows: Vec<Row> = rows.into_iter().enumerate().filter(|(i, _)| i % 5 != skip).map(|(_, row)| row).collect();
        let mut builder = PartBuilder::new(CLUSTER);
        for row in &rows {
            builder.push(row).unwrap();
        }
        if rows.is_empty() {
            prop_assert!(builder.finish().is_err());
            return Ok(());
        }
        let encoded = builder.finish().unwrap().encode();
        let part = decode_part(&encoded.file.bytes).unwrap();
        prop_assert_eq!(&part.rows, &rows);
        prop_assert_eq!(part.summary, encoded.rows);
        prop_assert_eq!(part.sha256, encoded.sha256);
    }

    /// Bytes of records are those that the generated code writes, found in an uncompressed file.
    #[test]
    fn records_are_plain_protobuf(mutation in mutation(), index in 1u64..1 << 40) {
        let entry = Arc::new(Entry {
            index: LogIndex(index),
            term: Term(1),
            time: UnixMillis(-5),
            revision: Revision(i64::MAX),
            mutations: vec![mutation],
        });
        let entries = vec![entry];
        let file = encode_chunk(&meta(&entries, 1), &entries).unwrap();
        let expected = netsy_api::file::Entry::from(&*entries[0]).encode_to_vec();
        prop_assert!(file.bytes.windows(expected.len()).any(|window| window == expected));
        let row = entries[0].rows(Position(index * 2)).next().unwrap();
        let mut builder = PartBuilder::new(CLUSTER);
        builder.push(&row).unwrap();
        let expected = netsy_api::file::Row::from(&row).encode_to_vec();
        let part = builder.finish().unwrap().encode();
        prop_assert!(part.file.bytes.windows(expected.len()).any(|window| window == expected));
    }
}

#[test]
fn a_seal_is_a_chunk_without_entries() {
    let meta = meta(&[], 9);
    let seal = decode_chunk(&encode_seal(&meta).unwrap().bytes).unwrap();
    assert!(seal.meta.is_seal() && seal.entries.is_empty());
    assert_eq!((seal.meta.first_index, seal.meta.last_index), (LogIndex(5), LogIndex(4)));
}

#[test]
fn large_chunks_are_compressed_and_small_ones_are_not() {
    let entry = |index: u64, value: Vec<u8>| {
        Arc::new(Entry {
            index: LogIndex(index),
            term: Term(1),
            time: UnixMillis(0),
            revision: Revision(1),
            mutations: vec![Mutation::Put {
                key: Bytes::from_static(b"key"),
                value: value.into(),
                create_revision: Revision(1),
                version: 1,
                lease: LeaseId(0),
            }],
        })
    };
    let size = |entries: &[Arc<Entry>]| encode_chunk(&meta(entries, 1), entries).unwrap().bytes.len();
    assert!(size(&[entry(5, vec![b'x'; 4_000])]) > 4_000);
    let many: Vec<_> = (5..500).map(|index| entry(index, vec![b'x'; 100])).collect();
    assert!(size(&many) < 495 * 100 / 4);
    // What does not shrink is stored as it is.
    let noise = (0..20_000u64).map(|n| support::mix(n) as u8).collect::<Vec<_>>();
    let plain = encode_chunk(&meta(&[entry(5, noise.clone())], 1), &[entry(5, noise.clone())]).unwrap();
    assert!(plain.bytes.windows(1_000).any(|window| window == &noise[..1_000]));
}

#[test]
fn entries_that_do_not_fit_are_not_written() {
    let good: Vec<Arc<Entry>> = (5..8).map(|index| Arc::new(support::entry(index, Term(2), Revision(3), 5))).collect();
    let meta = meta(&good, 1);
    let broken = |change: fn(&mut Entry)| {
        let mut entries = good.clone();
        change(Arc::make_mut(&mut entries[1]));
        encode_chunk(&meta, &entries).unwrap_err().to_string()
    };
    assert!(encode_chunk(&meta, &good).is_ok());
    assert!(broken(|e| e.index = LogIndex(7)).contains("entry 7 where 6 should be"));
    assert!(broken(|e| e.term = Term(3)).contains("has term 3"));
    assert!(broken(|e| e.term = Term(1)).contains("has term 1"));
    assert!(broken(|e| e.revision = Revision(5)).contains("revision 5 after 3"));
    assert!(broken(|e| e.mutations.clear()).contains("no mutation"));
    assert!(encode_chunk(&meta, &good[..2]).unwrap_err().to_string().contains("the entries end before index 7"));
    let mut zero = meta.clone();
    zero.seq = ChunkSeq(0);
    assert!(encode_chunk(&zero, &good).is_err());
    let mut nameless = meta.clone();
    nameless.cluster_id = "No".to_string();
    assert!(encode_chunk(&nameless, &good).is_err());
}
