//! Bytes that are not, or no longer, files of ours: every flipped bit and every cut is noticed, and
//! nothing makes a decoder panic or take more memory than the bytes justify.

mod support;

use bytes::Bytes;
use netsy_api::file::{Compression, FileFooter, FileHeader, Kind};
use netsy_api::ids::{ChunkSeq, Position, Revision, Term};
use netsy_api::log::Entry;
use netsy_objects::format::{
    Fault, FormatError, PartBuilder, crc, decode_chunk, decode_part, decode_segment, encode_chunk, encode_segment,
    legacy, read_chunk_meta,
};
use netsy_objects::inspect::{InspectFormat, inspect};
use netsy_objects::manifest::{ClusterManifest, ElectorLock, JsonObject, Registration, SnapshotManifest};
use proptest::prelude::*;
use prost::Message;
use std::sync::Arc;
use support::{MemBucket, Writer, entry, mix, rows_of};

type Decoder = fn(&Bytes) -> Result<(), FormatError>;

const DECODERS: [(&str, Decoder); 4] = [
    ("chunk", |bytes| decode_chunk(bytes).map(drop)),
    ("segment", |bytes| decode_segment(bytes).map(drop)),
    ("part", |bytes| decode_part(bytes).map(drop)),
    ("chunk header", |bytes| read_chunk_meta(bytes).map(drop)),
];

fn entries(count: u64, value_bytes: usize) -> Vec<Arc<Entry>> {
    (1..=count).map(|index| Arc::new(entry(index, Term(1), Revision(1), value_bytes))).collect()
}

fn chunk(entries: &[Arc<Entry>]) -> Bytes {
    let meta = Writer::new(&MemBucket::new()).meta().covering(entries);
    encode_chunk(&meta, entries).unwrap().bytes
}

fn segment(count: u64) -> Bytes {
    let entries = entries(count, 5);
    let (left, right) = entries.split_at(count as usize / 2);
    let mut w = Writer::new(&MemBucket::new());
    let chunks = [left, &[], right].map(|entries| decode_chunk(&w.next(entries.to_vec()).file.bytes).unwrap());
    encode_segment(&chunks).unwrap().bytes
}

fn part(count: u64) -> Bytes {
    let mut builder = PartBuilder::new(support::CLUSTER);
    for row in rows_of(&entries(count, 5)) {
        builder.push(&row).unwrap();
    }
    builder.finish().unwrap().encode().file.bytes
}

/// Name, decoder, file: of every kind, plain and compressed.
fn files() -> Vec<(&'static str, Decoder, Bytes)> {
    let files = vec![
        ("seal", DECODERS[0].1, chunk(&[])),
        ("chunk", DECODERS[0].1, chunk(&entries(4, 5))),
        ("compressed chunk", DECODERS[0].1, chunk(&entries(60, 60))),
        ("segment", DECODERS[1].1, segment(6)),
        ("compressed segment", DECODERS[1].1, segment(80)),
        ("part", DECODERS[2].1, part(4)),
        ("compressed part", DECODERS[2].1, part(80)),
    ];
    for (name, decode, bytes) in &files {
        decode(bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut text = Vec::new();
        inspect(name, bytes, InspectFormat::JsonLines, &mut text).unwrap();
        let compressed = String::from_utf8(text).unwrap().contains(r#""compression":"zstd""#);
        assert_eq!(name.starts_with("compressed"), compressed, "{name} of {} bytes", bytes.len());
    }
    files
}

#[test]
fn every_flipped_bit_is_noticed() {
    for (name, decode, good) in files() {
        for bit in 0..good.len() * 8 {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes.into()).is_err(), "{name}: bit {bit} of {}", good.len() * 8);
        }
    }
}

#[test]
fn every_cut_and_every_appendix_is_noticed() {
    for (name, decode, good) in files() {
        for len in 0..good.len() {
            assert!(decode(&good.slice(..len)).is_err(), "{name}: cut to {len}");
            assert!(decode(&good.slice(good.len() - len..)).is_err(), "{name}: only the last {len}");
        }
        for more in [1, 8, 100] {
            let mut bytes = good.to_vec();
            bytes.resize(good.len() + more, 0);
            assert!(decode(&bytes.into()).is_err(), "{name}: {more} more");
        }
        let twice = [&good[..], &good[..]].concat();
        assert!(decode(&twice.into()).is_err(), "{name}: twice");
    }
}

#[test]
fn a_file_of_one_kind_is_none_of_another() {
    let files = [chunk(&entries(4, 5)), segment(6), part(4)];
    for (i, bytes) in files.iter().enumerate() {
        for (j, (_, decode)) in DECODERS[..3].iter().enumerate() {
            assert_eq!(decode(bytes).is_ok(), i == j, "{i} {j}");
        }
    }
}

#[test]
fn two_chunks_with_equal_lengths_have_different_checksums() {
    let one = entries(8, 5);
    let mut other = one.clone();
    let changed = Arc::make_mut(&mut other[3]);
    changed.time.0 += 1;
    let checksum = |entries: &[Arc<Entry>]| {
        let bytes = chunk(entries);
        u64::from_le_bytes(bytes[bytes.len() - 8..].try_into().unwrap())
    };
    assert_eq!(chunk(&one).len(), chunk(&other).len());
    assert_ne!(checksum(&one), checksum(&other));
}

/// A file as its writer would make it, from parts that its writer would never write.
struct Forged {
    header: FileHeader,
    records: Vec<Vec<u8>>,
    footer: FileFooter,
    stored_body: Option<Vec<u8>>,
    after: Vec<u8>,
}

fn frame(message: &[u8]) -> Vec<u8> {
    let mut buf = Vec::new();
    prost::encoding::encode_varint(message.len() as u64, &mut buf);
    buf.extend_from_slice(message);
    buf.extend_from_slice(&crc::mask(crc::checksum(&buf)).to_le_bytes());
    buf
}

impl Forged {
    fn chunk(count: u64) -> Self {
        let entries = entries(count, 5);
        let meta = Writer::new(&MemBucket::new()).meta().covering(&entries);
        let records: Vec<Vec<u8>> =
            entries.iter().map(|e| netsy_api::file::Entry::from(&**e).encode_to_vec()).collect();
        let header = FileHeader {
            schema_version: 2,
            kind: Kind::Chunk as i32,
            compression: Compression::None as i32,
            records_count: count as i64,
            node_id: meta.node_id.to_string(),
            cluster_id: meta.cluster_id,
            seq: 1,
            term: 1,
            session: Bytes::copy_from_slice(&meta.session.0.to_be_bytes()),
            first_index: 1,
            last_index: meta.last_index.0,
            first_position: 1,
            last_position: meta.last_position.0,
            created_at_ms: meta.created_at.0,
            ..FileHeader::default()
        };
        let mut forged =
            Forged { header, records, footer: FileFooter::default(), stored_body: None, after: Vec::new() };
        forged.refoot();
        forged
    }

    fn refoot(&mut self) {
        let records: Vec<u8> = self.records.iter().flat_map(|r| frame(r)).collect();
        self.footer.records_crc = crc::checksum(&records);
        self.footer.records_count = self.records.len() as i64;
        self.header.body_bytes = self.body().len() as u64;
    }

    fn body(&self) -> Vec<u8> {
        let mut body: Vec<u8> = self.records.iter().flat_map(|r| frame(r)).collect();
        body.extend(frame(&self.footer.encode_to_vec()));
        body.extend(&self.after);
        body
    }

    fn bytes(&self) -> Bytes {
        let mut file = frame(&self.header.encode_to_vec());
        file.extend(self.stored_body.clone().unwrap_or_else(|| self.body()));
        file.extend(crc::checksum(&file).to_le_bytes());
        file.into()
    }

    fn error(&self) -> FormatError {
        decode_chunk(&self.bytes()).unwrap_err()
    }
}

#[test]
fn a_forged_file_is_the_writers_own() {
    let forged = Forged::chunk(4);
    assert_eq!(forged.bytes(), chunk(&entries(4, 5)));
}

#[test]
fn whole_checksums_do_not_excuse_wrong_content() {
    let case = |name: &str, fault: Fault, change: fn(&mut Forged)| {
        let mut forged = Forged::chunk(4);
        change(&mut forged);
        let error = forged.error();
        assert_eq!(error.fault, fault, "{name}: {error}");
    };
    case("count", Fault::Invalid, |f| f.header.records_count = 5);
    case("count, indexes and positions", Fault::Invalid, |f| {
        f.header.records_count = 5;
        f.header.last_index = 5;
        f.header.last_position += 1;
        f.footer.records_count = 5;
        f.header.body_bytes = f.body().len() as u64;
    });
    case("count beyond the body", Fault::Invalid, |f| f.header.records_count = i64::MAX);
    case("count below zero", Fault::Invalid, |f| f.header.records_count = -1);
    case("footer count", Fault::Invalid, |f| {
        f.footer.records_count = 3;
        f.header.body_bytes = f.body().len() as u64;
    });
    case("records swapped", Fault::Invalid, |f| {
        f.records.swap(1, 2);
        f.refoot();
    });
    case("records checksum", Fault::Damaged, |f| f.footer.records_crc ^= 1);
    case("bytes behind the footer", Fault::Damaged, |f| {
        f.after = vec![0; 5];
        f.header.body_bytes += 5;
    });
    case("body length", Fault::Damaged, |f| f.header.body_bytes += 1);
    case("body too large", Fault::TooLarge, |f| f.header.body_bytes = 1 << 40);
    case("newer schema", Fault::Unsupported, |f| f.header.schema_version = 3);
    case("compression", Fault::Unsupported, |f| f.header.compression = 7);
    case("session", Fault::Invalid, |f| f.header.session = Bytes::from_static(b"short"));
    case("indexes", Fault::Invalid, |f| f.header.last_index = 9);
    case("index 0", Fault::Invalid, |f| f.header.first_index = 0);
    case("indexes at the end", Fault::Invalid, |f| {
        f.header.first_index = u64::MAX;
        f.header.last_index = u64::MAX;
    });
    case("positions", Fault::Invalid, |f| f.header.last_position += 1);
    case("term of an entry", Fault::Invalid, |f| {
        f.header.term = 0;
    });
    case("node", Fault::Invalid, |f| f.header.node_id = "Not a name".to_string());
    case("chunks in a chunk", Fault::Invalid, |f| {
        f.footer.chunks = vec![netsy_api::file::ChunkInfo::default()];
        f.refoot();
    });
    case("an entry without mutations", Fault::Invalid, |f| {
        f.records[2] = netsy_api::file::Entry { index: 3, term: 1, revision: 1, ..Default::default() }.encode_to_vec();
        f.refoot();
    });
    case("a mutation of a newer netsy", Fault::Invalid, |f| {
        let entry = netsy_api::file::Entry {
            index: 3,
            term: 1,
            revision: 1,
            mutations: vec![netsy_api::file::Mutation { kind: None }],
            ..Default::default()
        };
        f.records[2] = entry.encode_to_vec();
        f.refoot();
    });
    case("a record that is no protobuf", Fault::Invalid, |f| {
        f.records[2] = vec![0xff; 9];
        f.refoot();
    });
    case("a length beyond the body", Fault::Damaged, |f| {
        f.stored_body = Some(vec![0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3]);
        f.header.body_bytes = 8;
        f.header.records_count = 0;
        f.header.last_index = 0;
        f.header.last_position = 0;
    });
}

/// Found by `inspect` of cut files: a frame of length 0 without room for its checksum.
#[test]
fn bodies_too_short_for_a_frame_are_damaged() {
    for len in 0..20 {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut forged = Forged::chunk(1);
            forged.stored_body = Some(vec![byte; len]);
            forged.header.body_bytes = len as u64;
            forged.header.records_count = 0;
            forged.header.last_index = 0;
            forged.header.last_position = 0;
            assert_eq!(forged.error().fault, Fault::Damaged, "{len} times {byte}");
        }
    }
}

#[test]
fn decompression_bombs_take_no_memory() {
    let mut forged = Forged::chunk(4);
    forged.header.compression = Compression::Zstd as i32;
    let bomb = zstd::bulk::compress(&vec![0u8; 64 << 20], 1).unwrap();
    assert!(bomb.len() < 10_000);
    // The header tells the truth about its size: nothing there is a record.
    forged.stored_body = Some(bomb.clone());
    forged.header.body_bytes = 64 << 20;
    assert_eq!(forged.error().fault, Fault::Damaged);
    // It lies: never unpacked.
    forged.header.body_bytes = 100;
    assert_eq!(forged.error().fault, Fault::Invalid);
    // A frame that does not say its size, as streams do.
    forged.stored_body = Some(zstd::stream::encode_all(&vec![0u8; 1 << 20][..], 1).unwrap());
    assert_eq!(forged.error().fault, Fault::Invalid);
    // Frames behind the frame.
    let body = Forged::chunk(4).body();
    let mut two = zstd::bulk::compress(&body, 1).unwrap();
    forged.header.body_bytes = body.len() as u64;
    forged.stored_body = Some(two.clone());
    decode_chunk(&forged.bytes()).unwrap();
    two.extend(zstd::bulk::compress(&[], 1).unwrap());
    forged.stored_body = Some(two);
    assert_eq!(forged.error().fault, Fault::Damaged);
    // Cut off.
    forged.stored_body = Some(bomb[..bomb.len() / 2].to_vec());
    assert_eq!(forged.error().fault, Fault::Damaged);
}

fn try_all(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    for (_, decode) in DECODERS {
        let _ = decode(&bytes);
    }
    let _ = legacy::is_legacy(&bytes);
    let _ = legacy::read_legacy(&bytes);
    let _ = SnapshotManifest::from_json(&bytes);
    let _ = ClusterManifest::from_json(&bytes);
    let _ = ElectorLock::from_json(&bytes);
    let _ = Registration::from_json(&bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        try_all(&bytes);
    }

    /// Any bytes as header, record and footer messages with all checksums right: past the checksums the
    /// decoders must stand on their own.
    #[test]
    fn no_messages_make_a_decoder_panic(
        header in proptest::collection::vec(any::<u8>(), 0..60),
        records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..4),
        kind in 0i32..5,
        numbers in proptest::array::uniform8(prop_oneof![0u64..6, any::<u64>()]),
        own_header: bool,
    ) {
        let mut forged = Forged::chunk(2);
        forged.records = records;
        forged.refoot();
        let header = if own_header {
            let h = &mut forged.header;
            h.kind = kind;
            h.records_count = forged.records.len() as i64;
            [h.seq, h.first_seq, h.term, h.first_term, h.first_index, h.last_index, h.first_position, h.last_position] =
                numbers;
            h.encode_to_vec()
        } else {
            header
        };
        let mut file = frame(&header);
        file.extend(forged.body());
        file.extend(crc::checksum(&file).to_le_bytes());
        try_all(&file);
    }

    /// Changed bytes in true files, with checksums made right again.
    #[test]
    fn changed_records_do_not_panic(which in 0usize..4, at: u64, to: u8, cut in 0usize..20) {
        let mut forged = Forged::chunk(4);
        let record = &mut forged.records[which];
        let at = (at % record.len() as u64) as usize;
        record[at] = to;
        record.truncate(record.len() - cut.min(record.len()));
        forged.refoot();
        try_all(&forged.bytes());
    }

    #[test]
    fn changed_manifests_do_not_panic(seed: u64) {
        let mut text = MANIFEST.to_string().into_bytes();
        for step in 0..(seed % 4 + 1) {
            let r = mix(seed.wrapping_add(step));
            let at = (r >> 8) as usize % text.len();
            text[at] = b"0123456789\"{}[],:-ex"[(r % 20) as usize];
        }
        try_all(&text);
    }
}

const MANIFEST: &str = r#"{"schema_version":2,"cluster_id":"test","term":1,"primary":{"node_id":"a",
"incarnation":"00000000000000000000000000000001","session":"00000000000000000000000000000002"},"voters":[],
"quorum":-1,"copies_min":2,"config_version":1,"nonce":"00000000000000000000000000000003","members":{"a":"00000000000000a1"}}"#;

#[test]
fn the_manifest_changed_above_is_one() {
    ClusterManifest::from_json(MANIFEST.as_bytes()).unwrap();
}

#[test]
fn a_bucket_cannot_make_a_seal_look_like_anything_else() {
    let seal = chunk(&[]);
    let meta = read_chunk_meta(&seal).unwrap();
    assert!(meta.is_seal());
    assert_eq!((meta.seq, meta.first_position), (ChunkSeq(1), Position(1)));
}
