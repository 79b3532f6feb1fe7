//! How much processor time writing and reading chunks takes: `cargo run --release -p netsy-objects --example format_speed`.

use bytes::Bytes;
use netsy_api::ids::{ChunkSeq, LeaseId, LogIndex, NodeId, Position, Revision, Session, Term, UnixMillis};
use netsy_api::log::{Entry, Mutation};
use netsy_objects::format::{ChunkMeta, PartBuilder, crc, decode_chunk, decode_part, encode_chunk};
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const ENTRIES: u64 = 10_000;
const ROUNDS: usize = 21;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(step).collect()
}

fn entries(value_bytes: usize, random: bool) -> Vec<Arc<Entry>> {
    let entry = |index: u64| Entry {
        index: LogIndex(index),
        term: Term(3),
        time: UnixMillis(1_700_000_000_000 + index as i64),
        revision: Revision(index as i64 + 1),
        mutations: vec![Mutation::Put {
            key: Bytes::from(format!("/registry/pods/default/pod-{:06}", index * 7919 % 1_000_000)),
            value: if random {
                noise(index, value_bytes).into()
            } else {
                Bytes::from(format!("{{\"n\":{index}}}").repeat(value_bytes)).slice(..value_bytes)
            },
            create_revision: Revision(index as i64 / 2 + 1),
            version: index as i64 % 100,
            lease: LeaseId(0),
        }],
    };
    (1..=ENTRIES).map(|index| Arc::new(entry(index))).collect()
}

/// What this thread has used of a processor: others on the machine do not count.
fn used() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The middle one of several.
fn time<T>(mut work: impl FnMut() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begin = used();
            black_box(work());
            used() - begin
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

fn report(what: &str, bytes: usize, took: Duration) {
    println!(
        "  {what:28} {:>9.3} ms  {:>8.1} MB/s  {:>7.1} ns/entry",
        took.as_secs_f64() * 1e3,
        bytes as f64 / took.as_secs_f64() / 1e6,
        took.as_secs_f64() * 1e9 / ENTRIES as f64
    );
}

fn main() -> Result<(), Box<dyn Error>> {
    let bytes = noise(1, 16 << 20);
    report("CRC-64/NVME of 16 MiB", bytes.len(), time(|| crc::checksum(&bytes)));
    for (name, value_bytes, random) in [
        ("256 B, random", 256, true),
        ("256 B, text", 256, false),
        ("32 B, text", 32, false),
        ("2 KiB, text", 2048, false),
    ] {
        let entries = entries(value_bytes, random);
        let meta = ChunkMeta {
            cluster_id: "bench".to_string(),
            node_id: NodeId::new("n1")?,
            session: Session(1),
            seq: ChunkSeq(1),
            term: Term(3),
            first_index: LogIndex(1),
            last_index: LogIndex(0),
            first_position: Position(1),
            last_position: Position(0),
            created_at: UnixMillis(1_700_000_000_000),
        }
        .covering(&entries);
        let file = encode_chunk(&meta, &entries)?;
        let payload: usize = entries.iter().map(|entry| entry.payload_bytes()).sum();
        println!("{ENTRIES} entries of {name}: {payload} bytes of keys and values, {} stored", file.bytes.len());
        report("encode chunk", payload, time(|| encode_chunk(&meta, &entries)));
        report("decode chunk", payload, time(|| decode_chunk(&file.bytes)));
        let rows: Vec<_> =
            entries.iter().flat_map(|entry| entry.rows(Position(entry.index.0)).collect::<Vec<_>>()).collect();
        let fill = || -> Result<_, netsy_objects::format::FormatError> {
            let mut part = PartBuilder::new("bench");
            for row in &rows {
                part.push(row)?;
            }
            part.finish()
        };
        report("fill and hash part", payload, time(fill));
        let finished = fill()?;
        report("compress part", payload, time(|| finished.encode()));
        let part = finished.encode().file.bytes;
        report("decode part", payload, time(|| decode_part(&part)));
    }
    Ok(())
}
