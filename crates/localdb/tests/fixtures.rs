//! A database as this version leaves it, kept for later versions to open.
//!
//! `NETSY_WRITE_FIXTURES=1 cargo test -p netsy-localdb --test fixtures` writes it where it is missing, which is right only
//! when a new schema version is begun: under another name.

use bytes::Bytes;
use netsy_api::ids::{ChunkSeq, LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use netsy_api::log::{AlarmKind, Entry, Mutation};
use netsy_localdb::{Batch, LocalDb, LogEnd, OpenOptions, ScanOptions, TermRun, Uploaded};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CLUSTER: &str = "fixture";
const DATABASE: &str = "db.sqlite3";

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1.sqlite3")
}

fn open(folder: &Path) -> (netsy_localdb::Writer, netsy_localdb::Readers, netsy_localdb::Identity) {
    LocalDb::open(folder, &OpenOptions::new(CLUSTER)).expect("open")
}

/// Entries with every kind of mutation, in three terms.
fn entries() -> Vec<(Position, Arc<Entry>)> {
    let lease = LeaseId(0x1234_5678_9abc);
    let put = |key: &'static str, value: Vec<u8>, create: i64, version: i64, lease: LeaseId| Mutation::Put {
        key: Bytes::from_static(key.as_bytes()),
        value: value.into(),
        create_revision: Revision(create),
        version,
        lease,
    };
    let none = LeaseId(0);
    let all: [(u64, i64, Vec<Mutation>); 8] = [
        (1, 1, vec![Mutation::LeaseGrant { id: lease, ttl_seconds: 3_600 }]),
        (1, 2, vec![put("a", b"one".to_vec(), 2, 1, none), put("b", vec![], 2, 1, lease)]),
        (1, 3, vec![put("a", vec![0xff, 0, 0x80], 2, 2, none)]),
        (3, 4, vec![Mutation::Delete { key: Bytes::from_static(b"a") }]),
        (3, 4, vec![Mutation::LeaseCheckpoint { id: lease, remaining_seconds: 1_800 }]),
        (3, 5, vec![put("large", vec![7; 6_000], 5, 1, none), put("\u{0}", b"0".to_vec(), 5, 1, none)]),
        (7, 5, vec![Mutation::Compact { revision: Revision(3) }]),
        (7, 5, vec![Mutation::Alarm { member_id: u64::MAX - 1, alarm: AlarmKind::NoSpace, active: true }]),
    ];
    let mut position = 1;
    let mut placed = Vec::new();
    for (number, (term, revision, mutations)) in all.into_iter().enumerate() {
        let count = mutations.len() as u64;
        let entry = Entry {
            index: LogIndex(number as u64 + 1),
            term: Term(term),
            time: UnixMillis(1_700_000_000_000 + number as i64),
            revision: Revision(revision),
            mutations,
        };
        placed.push((Position(position), Arc::new(entry)));
        position += count;
    }
    placed
}

/// The row that a compaction took away: the first value of `a`.
const COMPACTED: Position = Position(2);

fn uploaded() -> Uploaded {
    Uploaded { seq: ChunkSeq(12), term: Term(3), index: LogIndex(6) }
}

fn write() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut writer, readers, _) = open(folder.path());
    writer.count_start().expect("count");
    writer.set_promised_term(Term(9)).expect("promise");
    writer.set_note("led", b"a note").expect("note");
    let entries = entries();
    let batch =
        Batch { entries: &entries, visible_index: Some(LogIndex(7)), uploaded: Some(uploaded()), ..Batch::default() };
    writer.commit(&batch).expect("commit");
    writer.commit(&Batch { delete: &[COMPACTED], ..Batch::default() }).expect("delete");
    drop((writer, readers));
    let database = folder.path().join(DATABASE);
    let conn = rusqlite::Connection::open(&database).expect("open");
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpoint");
    drop(conn);
    std::fs::create_dir_all(fixture().parent().expect("a folder")).expect("folder");
    std::fs::copy(&database, fixture()).expect("copy");
}

#[test]
fn a_database_of_schema_1_opens() {
    if std::env::var_os("NETSY_WRITE_FIXTURES").is_some() && !fixture().exists() {
        write();
    }
    let folder = tempfile::tempdir().expect("folder");
    std::fs::copy(fixture(), folder.path().join(DATABASE)).expect("the fixture");
    let (mut writer, readers, identity) = open(folder.path());
    assert!(!identity.created);
    assert_eq!((identity.boot_counter, identity.promised_term), (1, Term(9)));
    assert_ne!(identity.incarnation.0, 0);
    assert_eq!(writer.note("led").expect("note").as_deref(), Some(&b"a note"[..]));
    let end = LogEnd { index: LogIndex(8), term: Term(7), position: Position(10), revision: Revision(5) };
    assert_eq!(writer.end(), end);
    let run = |term, first| TermRun { term: Term(term), first_index: LogIndex(first) };
    assert_eq!(writer.term_runs(), [run(1, 1), run(3, 4), run(7, 7)]);
    let progress = writer.progress();
    assert_eq!((progress.visible_index, progress.partial_through), (LogIndex(7), LogIndex(2)));
    assert_eq!(progress.uploaded, uploaded());

    let expected = entries();
    let whole: Vec<(Position, Entry)> = expected.iter().skip(2).map(|(at, entry)| (*at, Entry::clone(entry))).collect();
    assert_eq!(readers.entries_from(LogIndex(3), usize::MAX).expect("entries"), whole);
    let rows: Vec<_> =
        expected.iter().flat_map(|(at, entry)| entry.rows(*at)).filter(|r| r.position != COMPACTED).collect();
    assert_eq!(readers.rows_after(Position(0), 100, usize::MAX).expect("rows"), rows);
    let mut scanned = 0;
    readers
        .scan(ScanOptions::default(), |_| {
            scanned += 1;
            Ok::<(), netsy_localdb::Error>(())
        })
        .expect("scan");
    assert_eq!(scanned, rows.len());

    // It is written on, and the next start finds that.
    let next = Entry { index: LogIndex(9), term: Term(9), revision: Revision(6), ..Entry::clone(&expected[5].1) };
    let count = next.mutations.len() as u64;
    writer.commit(&Batch { entries: &[(Position(11), Arc::new(next))], ..Batch::default() }).expect("commit");
    drop((writer, readers));
    let (writer, _readers, again) = open(folder.path());
    assert_eq!(again.incarnation, identity.incarnation);
    assert_eq!(writer.end().index, LogIndex(9));
    assert_eq!(writer.end().position, Position(10 + count));
}
