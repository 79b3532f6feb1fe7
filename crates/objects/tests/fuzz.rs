//! Changed files and JSON objects of the bucket: each is refused or read, and what is read can be written and
//! applied. See `netsy_fuzz`.

mod support;

use bytes::Bytes;
use netsy_api::file::{Compression, FileFooter, FileHeader};
use netsy_api::ids::NodeId;
use netsy_fuzz::{Verdict, run};
use netsy_mvcc::{Store, StoreConfig};
use netsy_objects::format::{crc, decode_chunk, decode_part, decode_segment, encode_chunk, legacy, read_chunk_meta};
use netsy_objects::inspect::{InspectFormat, inspect};
use netsy_objects::keys;
use netsy_objects::manifest::{ClusterManifest, ElectorLock, JsonObject, Registration, SnapshotManifest};
use prost::Message;
use std::fmt::Debug;
use std::path::Path;

/// The fixtures whose names begin so.
fn fixtures(prefixes: &[&str]) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|item| item.unwrap().path()).collect();
    names.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    names.retain(|path| prefixes.iter().any(|prefix| name(path).starts_with(prefix)));
    assert!(!names.is_empty());
    names.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Everything that reads a file of any kind; whether any took it.
fn read(bytes: &Bytes) -> Verdict {
    let mut taken = false;
    if let Ok(chunk) = decode_chunk(bytes) {
        taken = true;
        let again = encode_chunk(&chunk.meta, &chunk.entries).expect("what was read can be written");
        let again = decode_chunk(&again.bytes).expect("and read again");
        assert_eq!((&again.meta, &again.entries), (&chunk.meta, &chunk.entries));
        let mut store = Store::new(StoreConfig::default());
        for entry in &chunk.entries {
            if store.apply(entry.clone()).is_err() {
                break;
            }
        }
        store.set_visible(store.last_index());
    }
    taken |= decode_segment(bytes).is_ok();
    taken |= decode_part(bytes).is_ok();
    taken |= legacy::is_legacy(bytes) && legacy::read_legacy(bytes).is_ok_and(|file| file.faults.is_empty());
    let _ = read_chunk_meta(bytes);
    for format in [InspectFormat::Text, InspectFormat::JsonLines] {
        let _ = inspect("input", bytes, format, &mut std::io::sink());
    }
    if taken { Verdict::Accepted } else { Verdict::Refused }
}

#[test]
fn fuzz_files() {
    run("files", &fixtures(&["chunk", "seal", "segment", "part", "snapshot-v0"]), 6_000, |input| {
        read(&Bytes::copy_from_slice(input))
    });
}

/// The messages of a version 2 file, each after its length in two bytes, header first.
fn messages_of(file: &[u8]) -> Vec<u8> {
    let (header, rest) = split_frame(file);
    let decoded = FileHeader::decode(header).unwrap();
    let body = &rest[..rest.len() - 8];
    let unpacked;
    let mut body = if decoded.compression == Compression::Zstd as i32 {
        unpacked = zstd::bulk::decompress(body, decoded.body_bytes as usize).unwrap();
        &unpacked[..]
    } else {
        body
    };
    let mut input = Vec::new();
    let mut push = |message: &[u8]| {
        input.extend_from_slice(&(message.len() as u16).to_le_bytes());
        input.extend_from_slice(message);
    };
    push(header);
    while !body.is_empty() {
        let (message, rest) = split_frame(body);
        push(message);
        body = rest;
    }
    input
}

fn split_frame(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut rest = bytes;
    let length = prost::encoding::decode_varint(&mut rest).unwrap() as usize;
    (&rest[..length], &rest[length + 8..])
}

fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    prost::encoding::encode_varint(message.len() as u64, &mut frame);
    frame.extend_from_slice(message);
    frame.extend_from_slice(&crc::mask(crc::checksum(&frame)).to_le_bytes());
    frame
}

/// A file of changed messages whose checksums and lengths are right, so that nothing but the content is.
fn forge(mut input: &[u8]) -> Bytes {
    let mut messages = Vec::new();
    while let [low, high, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        messages.push(rest[..length].to_vec());
        input = &rest[length..];
    }
    let mut header = if messages.is_empty() { Vec::new() } else { messages.remove(0) };
    let mut footer = messages.pop().unwrap_or_default();
    let records: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
    if let Ok(mut decoded) = FileFooter::decode(&footer[..]) {
        decoded.records_crc = crc::checksum(&records);
        footer = decoded.encode_to_vec();
    }
    let mut body = [records, frame(&footer)].concat();
    if let Ok(mut decoded) = FileHeader::decode(&header[..]) {
        decoded.body_bytes = body.len() as u64;
        header = decoded.encode_to_vec();
        if decoded.compression == Compression::Zstd as i32 {
            body = zstd::bulk::compress(&body, 1).unwrap();
        }
    }
    let mut file = frame(&header);
    file.extend_from_slice(&body);
    file.extend_from_slice(&crc::checksum(&file).to_le_bytes());
    file.into()
}

#[test]
fn fuzz_messages_of_files() {
    let corpus: Vec<Vec<u8>> =
        fixtures(&["chunk-v2", "seal", "segment", "part"]).iter().map(|file| messages_of(file)).collect();
    for input in &corpus {
        assert_eq!(read(&forge(input)), Verdict::Accepted, "a forged file is a true one before it is changed");
    }
    let report = run("messages of files", &corpus, 6_000, |input| read(&forge(input)));
    assert!(report.accepted > 0, "some changes are harmless");
}

fn json<T: JsonObject + PartialEq + Debug>(input: &[u8]) -> bool {
    let Ok(object) = T::from_json(input) else { return false };
    let again = object.to_json().expect("what was read can be written");
    assert_eq!(T::from_json(&again).expect("and read again"), object);
    true
}

#[test]
fn fuzz_json_objects() {
    run("JSON objects", &fixtures(&["cluster", "elector", "registration", "snapshot-v2"]), 20_000, |input| {
        let taken = [
            json::<ClusterManifest>(input),
            json::<ElectorLock>(input),
            json::<Registration>(input),
            json::<SnapshotManifest>(input),
        ];
        if taken.contains(&true) { Verdict::Accepted } else { Verdict::Refused }
    });
}

/// A listing may name anything.
#[test]
fn fuzz_object_keys() {
    let corpus = [
        "log/00000000000000000012.netsy".to_owned(),
        "segments/00000000000000000001-00000000000000000012.netsy".to_owned(),
        "snapshots/00000000000000000007/manifest.json".to_owned(),
        format!("snapshots/00000000000000000007/00000000000000000001-{}.netsy", "0a".repeat(32)),
        keys::node(&NodeId::new("node-1").unwrap()),
    ];
    run("object keys", &corpus.map(String::into_bytes), 20_000, |input| {
        let key = String::from_utf8_lossy(input);
        let chunk = keys::parse_chunk(&key).map(keys::chunk);
        let segment = keys::parse_segment(&key).map(|(first, last)| keys::segment(first, last));
        let node = keys::parse_node(&key).map(|id| keys::node(&id));
        let snapshot = keys::parse_snapshot(&key).map(|parsed| match parsed {
            keys::SnapshotKey::Manifest(index) => keys::snapshot_manifest(index),
            keys::SnapshotKey::Part { index, first, sha256 } => keys::snapshot_part(index, first, &sha256),
        });
        let mut verdict = Verdict::Refused;
        for again in [chunk, segment, node, snapshot].into_iter().flatten() {
            assert_eq!(again, key);
            verdict = Verdict::Accepted;
        }
        verdict
    });
}
