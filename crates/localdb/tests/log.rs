//! What is written is read back, by the same process and by the next.

use bytes::Bytes;
use netsy_api::ids::{ChunkSeq, LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use netsy_api::log::{AlarmKind, Entry, Mutation, Row};
use netsy_localdb::{
    Batch, DELETE_ROWS_MAX, Error, LocalDb, LogEnd, OpenOptions, Readers, RestoreEnd, RowWhat, ScanOptions, TermRun,
    Uploaded, Writer,
};
use std::sync::Arc;

fn open(folder: &std::path::Path) -> (Writer, Readers, netsy_localdb::Identity) {
    LocalDb::open(folder, &OpenOptions::new("test")).expect("open")
}

fn put(key: &str, value: &str, revision: i64) -> Mutation {
    Mutation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        create_revision: Revision(revision),
        version: 1,
        lease: LeaseId(0),
    }
}

fn entry(index: u64, term: u64, revision: i64, mutations: Vec<Mutation>) -> Arc<Entry> {
    Arc::new(Entry {
        index: LogIndex(index),
        term: Term(term),
        time: UnixMillis(1_700_000_000_000 + index as i64),
        revision: Revision(revision),
        mutations,
    })
}

/// Entries 1 to 6, with every kind of mutation; revisions 1, 2, 3, 3, 4, 4.
fn every_kind() -> Vec<(Position, Arc<Entry>)> {
    let lease = LeaseId(0x1234);
    vec![
        (Position(1), entry(1, 1, 1, vec![Mutation::LeaseGrant { id: lease, ttl_seconds: 60 }])),
        (Position(2), entry(2, 1, 2, vec![put("a", "1", 2), put("b", "", 2)])),
        (
            Position(4),
            entry(
                3,
                2,
                3,
                vec![
                    Mutation::Delete { key: Bytes::from_static(b"a") },
                    Mutation::Delete { key: Bytes::from_static(b"b") },
                    Mutation::LeaseRevoke { id: lease },
                ],
            ),
        ),
        (Position(7), entry(4, 2, 3, vec![Mutation::LeaseCheckpoint { id: LeaseId(-5), remaining_seconds: 7 }])),
        (Position(8), entry(5, 4, 4, vec![put("c", "3", 4)])),
        (
            Position(9),
            entry(
                6,
                4,
                4,
                vec![
                    Mutation::Compact { revision: Revision(3) },
                    Mutation::Alarm { member_id: u64::MAX - 1, alarm: AlarmKind::NoSpace, active: true },
                ],
            ),
        ),
    ]
}

fn puts(first: u64, count: u64) -> Vec<(Position, Arc<Entry>)> {
    (first..first + count)
        .map(|n| {
            (
                Position(n),
                entry(n, 1, n as i64 + 1, vec![put(&format!("key/{n:06}"), &format!("value {n}"), n as i64 + 1)]),
            )
        })
        .collect()
}

fn commit(writer: &mut Writer, entries: &[(Position, Arc<Entry>)]) {
    writer.commit(&Batch { entries, ..Batch::default() }).expect("commit");
}

fn plain(entries: &[(Position, Arc<Entry>)]) -> Vec<(Position, Entry)> {
    entries.iter().map(|(position, entry)| (*position, Entry::clone(entry))).collect()
}

fn rows(entries: &[(Position, Arc<Entry>)]) -> Vec<Row> {
    entries.iter().flat_map(|(position, entry)| entry.rows(*position)).collect()
}

#[test]
fn every_mutation_comes_back_after_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut writer, readers, _) = open(folder.path());
    assert_eq!(writer.end(), LogEnd::EMPTY);
    let entries = every_kind();
    let uploaded = Uploaded { seq: ChunkSeq(3), term: Term(2), index: LogIndex(4) };
    let batch =
        Batch { entries: &entries, visible_index: Some(LogIndex(5)), uploaded: Some(uploaded), ..Batch::default() };
    writer.commit(&batch).expect("commit");
    let end = writer.end();
    assert_eq!(end, LogEnd { index: LogIndex(6), term: Term(4), position: Position(10), revision: Revision(4) });
    assert_eq!(readers.entries_from(LogIndex(1), usize::MAX).expect("entries"), plain(&entries));
    drop((writer, readers));

    let (writer, readers, _) = open(folder.path());
    assert_eq!(writer.end(), end);
    assert_eq!(writer.progress().visible_index, LogIndex(5));
    assert_eq!(writer.progress().uploaded, uploaded);
    let run = |term, first| TermRun { term: Term(term), first_index: LogIndex(first) };
    assert_eq!(writer.term_runs(), [run(1, 1), run(2, 3), run(4, 5)]);
    let terms: Vec<_> = (0..8).map(|index| writer.term_at(LogIndex(index)).map(|term| term.0)).collect();
    assert_eq!(terms, [None, Some(1), Some(1), Some(2), Some(2), Some(4), Some(4), None]);
    assert_eq!(readers.entries_from(LogIndex(1), usize::MAX).expect("entries"), plain(&entries));
    assert_eq!(readers.entries_from(LogIndex(3), 1).expect("entries"), plain(&entries[2..3]));
    assert_eq!(readers.entries_from(LogIndex(7), 1).expect("entries"), vec![]);
    assert_eq!(readers.rows_after(Position(0), usize::MAX, usize::MAX).expect("rows"), rows(&entries));
    assert_eq!(readers.rows_after(Position(4), 2, usize::MAX).expect("rows"), rows(&entries)[4..6]);
    assert_eq!(readers.value(Position(3)).expect("value"), Some(Bytes::new()));
    assert_eq!(readers.value(Position(4)).expect("value"), None, "a delete has no value");
    assert_eq!(readers.value(Position(99)).expect("value"), None);
    let several = readers.values(&[Position(8), Position(99), Position(2)], usize::MAX).expect("values");
    assert_eq!(several, [Some(Bytes::from_static(b"3")), None, Some(Bytes::from_static(b"1"))]);
    for (revision, position) in [(0, 1), (1, 1), (2, 2), (3, 4), (4, 8)] {
        let found = readers.position_of_revision(Revision(revision)).expect("search");
        assert_eq!(found, Some(Position(position)), "revision {revision}");
    }
    assert_eq!(readers.position_of_revision(Revision(5)).expect("search"), None);
    assert_eq!(readers.integrity_check().expect("check"), Vec::<String>::new());
}

#[test]
fn identity_survives_and_counts_starts() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut writer, readers, first) = open(folder.path());
    assert!(first.created);
    assert_eq!((first.boot_counter, first.promised_term), (0, Term(0)));
    assert_eq!(writer.count_start().expect("count"), 1);
    writer.set_promised_term(Term(7)).expect("promise");
    writer.set_promised_term(Term(3)).expect("a lower promise changes nothing");
    writer.set_note("note", b"one").expect("note");
    writer.set_note("note", b"two").expect("note");
    drop((writer, readers));
    // R11: opening alone counts nothing, so that a comparison that fails can fail again.
    let (writer, readers, second) = open(folder.path());
    assert!(!second.created);
    assert_eq!((second.boot_counter, second.promised_term), (1, Term(7)));
    drop((writer, readers));
    let (mut writer, _readers, second) = open(folder.path());
    assert_eq!(second.boot_counter, 1);
    assert_eq!(writer.count_start().expect("count"), 2);
    assert_eq!(second.incarnation, first.incarnation);
    assert_eq!(writer.note("note").expect("note"), Some(b"two".to_vec()));
    assert_eq!(writer.note("other").expect("note"), None);
}

#[test]
fn what_is_not_ours_is_refused_untouched() {
    let folder = tempfile::tempdir().expect("folder");
    let opened = open(folder.path());
    let again = LocalDb::open(folder.path(), &OpenOptions::new("test"));
    let text = again.err().expect("must be refused").to_string();
    assert!(text.contains("in use") && text.contains(&folder.path().display().to_string()), "{text}");
    drop(opened);
    let other = LocalDb::open(folder.path(), &OpenOptions::new("other"));
    assert!(matches!(other, Err(Error::OtherCluster { ref found, .. }) if found == "test"), "{:?}", other.err());

    let database = folder.path().join("db.sqlite3");
    let conn = rusqlite::Connection::open(&database).expect("open");
    conn.execute_batch("PRAGMA user_version = 99").expect("version");
    drop(conn);
    let newer = LocalDb::open(folder.path(), &OpenOptions::new("test"));
    assert!(matches!(newer, Err(Error::NewerSchema { found: 99, .. })), "{:?}", newer.err());

    let folder = tempfile::tempdir().expect("folder");
    let database = folder.path().join("db.sqlite3");
    rusqlite::Connection::open(&database).expect("open").execute_batch("CREATE TABLE records (x)").expect("table");
    let before = std::fs::read(&database).expect("read");
    assert!(matches!(LocalDb::open(folder.path(), &OpenOptions::new("test")), Err(Error::Foreign { .. })));
    assert_eq!(std::fs::read(&database).expect("read"), before);
    std::fs::write(&database, "no database at all, but long enough to be looked at").expect("write");
    assert!(matches!(LocalDb::open(folder.path(), &OpenOptions::new("test")), Err(Error::Foreign { .. })));
}

#[test]
fn a_batch_that_does_not_fit_changes_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut writer, readers, _) = open(folder.path());
    commit(&mut writer, &every_kind());
    let end = writer.end();
    let bad = [
        vec![(Position(11), entry(8, 4, 5, vec![put("x", "", 5)]))],
        vec![(Position(12), entry(7, 4, 5, vec![put("x", "", 5)]))],
        vec![(Position(11), entry(7, 3, 5, vec![put("x", "", 5)]))],
        vec![(Position(11), entry(7, 4, 3, vec![put("x", "", 5)]))],
        vec![(Position(11), entry(7, 4, 5, vec![]))],
        vec![
            (Position(11), entry(7, 4, 5, vec![put("x", "", 5)])),
            (Position(11), entry(8, 4, 6, vec![put("x", "", 6)])),
        ],
    ];
    for entries in &bad {
        let outcome = writer.commit(&Batch { entries, ..Batch::default() });
        assert!(matches!(outcome, Err(Error::NotContiguous { .. })), "{outcome:?}");
    }
    let many = vec![Position(1); DELETE_ROWS_MAX + 1];
    let outcome = writer.commit(&Batch { delete: &many, ..Batch::default() });
    assert!(matches!(outcome, Err(Error::TooMany { .. })), "{outcome:?}");
    assert_eq!(writer.end(), end);
    assert_eq!(readers.entries_from(LogIndex(7), 1).expect("entries"), vec![]);
    commit(&mut writer, &[(Position(11), entry(7, 4, 5, vec![put("x", "", 5)]))]);
}

#[test]
fn compaction_takes_rows_and_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut writer, readers, _) = open(folder.path());
    let entries = every_kind();
    commit(&mut writer, &entries);
    writer.commit(&Batch { delete: &[Position(2), Position(4)], ..Batch::default() }).expect("delete");
    assert_eq!(writer.progress().partial_through, LogIndex(3));
    assert_eq!(readers.entries_from(LogIndex(4), usize::MAX).expect("entries"), plain(&entries[3..]));
    let outcome = readers.entries_from(LogIndex(3), usize::MAX);
    assert!(matches!(outcome, Err(Error::Compacted { first_whole: LogIndex(4), .. })), "{outcome:?}");
    assert_eq!(readers.position_of_revision(Revision(2)).expect("search"), Some(Position(3)));
    // The end stays known when its rows are gone.
    let end = writer.end();
    writer.commit(&Batch { delete: &[Position(8), Position(9), Position(10)], ..Batch::default() }).expect("delete");
    drop((writer, readers));
    let (mut writer, readers, _) = open(folder.path());
    assert_eq!(writer.end(), end);
    commit(&mut writer, &[(Position(11), entry(7, 4, 5, vec![put("x", "", 5)]))]);
    assert_eq!(readers.entries_from(LogIndex(7), 1).expect("entries").len(), 1);
    drop((writer, readers));
    let (writer, _readers, _) = open(folder.path());
    assert_eq!(writer.end().index, LogIndex(7));
}

#[test]
fn truncation_leaves_a_shorter_whole_log() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut writer, readers, _) = open(folder.path());
    let entries = every_kind();
    commit(&mut writer, &entries);
    writer.commit(&Batch { visible_index: Some(LogIndex(2)), ..Batch::default() }).expect("commit");
    writer.truncate_after(LogIndex(9)).expect("nothing to do");
    writer.truncate_after(LogIndex(4)).expect("truncate");
    let end = LogEnd { index: LogIndex(4), term: Term(2), position: Position(7), revision: Revision(3) };
    assert_eq!(writer.end(), end);
    writer.truncate_after(LogIndex(3)).expect("truncate");
    let end = LogEnd { index: LogIndex(3), term: Term(2), position: Position(6), revision: Revision(3) };
    assert_eq!(writer.end(), end);
    assert!(matches!(writer.truncate_after(LogIndex(1)), Err(Error::TruncatesVisible { .. })));
    drop((writer, readers));
    let (mut writer, readers, _) = open(folder.path());
    assert_eq!(writer.end(), end);
    assert_eq!(writer.term_runs().len(), 2);
    assert_eq!(readers.entries_from(LogIndex(1), usize::MAX).expect("entries"), plain(&entries[..3]));
    commit(&mut writer, &[(Position(7), entry(4, 5, 4, vec![put("x", "", 4)]))]);
    assert_eq!(writer.term_at(LogIndex(4)), Some(Term(5)));
    assert_eq!(readers.integrity_check().expect("check"), Vec::<String>::new());
}

#[test]
fn truncation_to_nothing_is_an_empty_log() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut writer, readers, _) = open(folder.path());
    commit(&mut writer, &every_kind());
    writer.truncate_after(LogIndex(0)).expect("truncate");
    assert_eq!(writer.end(), LogEnd::EMPTY);
    drop((writer, readers));
    assert_eq!(open(folder.path()).0.end(), LogEnd::EMPTY);
}

#[test]
fn a_scan_hands_everything_over_in_order() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut writer, readers, _) = open(folder.path());
    let none = readers.scan::<Error>(ScanOptions::default(), |_| Ok(())).expect("scan");
    assert_eq!(none.rows, 0);
    let entries = puts(1, 30_000);
    commit(&mut writer, &entries);
    let gone: Vec<_> = (5_000..6_000).map(Position).collect();
    writer.commit(&Batch { delete: &gone, ..Batch::default() }).expect("delete");
    for threads in [1, 2, 3] {
        let mut seen = Vec::new();
        let options = ScanOptions { threads, values_after: Some(Position(20_000)), ..ScanOptions::default() };
        let end = readers
            .scan::<Error>(options, |row| {
                let RowWhat::Put { key, value, value_bytes, version: 1, .. } = row.what else {
                    panic!("row {} is no put", row.position)
                };
                assert_eq!(key, format!("key/{:06}", row.position.0).as_bytes());
                let stored = format!("value {}", row.position.0);
                assert_eq!(value_bytes as usize, stored.len());
                assert_eq!(value, (row.position.0 > 20_000).then_some(stored.as_bytes()));
                assert_eq!((row.index.0, row.revision.0), (row.position.0, row.position.0 as i64 + 1));
                seen.push(row.position.0);
                Ok(())
            })
            .expect("scan");
        let expected: Vec<_> = (1..=30_000).filter(|n| !(5_000..6_000).contains(n)).collect();
        assert_eq!(seen, expected);
        assert_eq!((end.rows, end.last), (29_000, Position(30_000)));
    }
    // The caller's error ends it.
    let stopped = readers.scan::<Error>(ScanOptions::default(), |row| {
        let (path, detail) = (Default::default(), "enough".to_string());
        if row.position.0 < 10 { Ok(()) } else { Err(Error::Damaged { path, detail }) }
    });
    assert!(matches!(stopped, Err(Error::Damaged { ref detail, .. }) if detail == "enough"));
}

#[test]
fn a_restore_replaces_everything_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut writer, readers, identity) = open(folder.path());
    commit(&mut writer, &puts(1, 100));
    writer.set_promised_term(Term(9)).expect("promise");
    writer.set_note("note", b"kept").expect("note");
    let entries = every_kind();
    let mut snapshot = rows(&entries[..4]);
    snapshot.retain(|row| row.position != Position(2) && row.position != Position(7));
    let run = |term, first| TermRun { term: Term(term), first_index: LogIndex(first) };

    // Given up: nothing happens.
    let mut restore = writer.begin_restore().expect("begin");
    restore.push_rows(&snapshot).expect("rows");
    drop(restore);
    assert_eq!(writer.end().index, LogIndex(100));

    let mut restore = writer.begin_restore().expect("begin");
    restore.push_rows(&snapshot[..2]).expect("rows");
    assert!(restore.push_rows(&snapshot[..1]).is_err(), "rows must ascend");
    assert!(restore.push_entries(&entries[4..]).is_err(), "the snapshot's end is missing");
    restore.push_rows(&snapshot[2..]).expect("rows");
    let snapshot_end = LogEnd { index: LogIndex(4), term: Term(2), position: Position(7), revision: Revision(3) };
    restore.end_snapshot(snapshot_end, vec![run(1, 1), run(2, 3)]).expect("end");
    restore.push_entries(&entries[4..]).expect("entries");
    let uploaded = Uploaded { seq: ChunkSeq(8), term: Term(4), index: LogIndex(6) };
    writer.finish_restore(restore, &RestoreEnd { visible_index: LogIndex(6), uploaded }).expect("finish");

    let expected: Vec<_> = snapshot.iter().cloned().chain(rows(&entries[4..])).collect();
    for round in 0..2 {
        assert_eq!(readers.rows_after(Position(0), 1_000, usize::MAX).expect("rows"), expected, "round {round}");
        assert_eq!(readers.entries_from(LogIndex(5), usize::MAX).expect("entries"), plain(&entries[4..]));
        assert!(matches!(readers.entries_from(LogIndex(4), 1), Err(Error::Compacted { .. })));
    }
    assert_eq!(writer.term_runs(), [run(1, 1), run(2, 3), run(4, 5)]);
    commit(&mut writer, &[(Position(11), entry(7, 4, 5, vec![put("x", "", 5)]))]);
    assert_eq!(readers.integrity_check().expect("check"), Vec::<String>::new());
    drop((writer, readers));
    let (writer, _readers, again) = open(folder.path());
    assert_eq!((again.incarnation, again.promised_term), (identity.incarnation, Term(9)));
    assert_eq!((writer.end().index, writer.progress().visible_index), (LogIndex(7), LogIndex(6)));
    assert_eq!(writer.progress().uploaded, uploaded);
    assert_eq!(writer.note("note").expect("note"), Some(b"kept".to_vec()));
}

#[test]
fn vacuum_gives_space_back_in_steps() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut writer, readers, _) = open(folder.path());
    commit(&mut writer, &puts(1, 20_000));
    let full = readers.size_bytes().expect("size");
    let all: Vec<_> = (1..=20_000).map(Position).collect();
    for delete in all.chunks(DELETE_ROWS_MAX) {
        writer.commit(&Batch { delete, ..Batch::default() }).expect("delete");
    }
    assert_eq!(readers.size_bytes().expect("size"), full);
    assert!(readers.in_use_bytes().expect("size") < full / 2);
    let mut steps = 0;
    loop {
        let step = writer.vacuum_step(64).expect("vacuum");
        assert!(step.freed_pages <= 64);
        steps += 1;
        if step.left_pages == 0 {
            break;
        }
    }
    assert!(steps > 1);
    assert_eq!(readers.size_bytes().expect("size"), readers.in_use_bytes().expect("size"));
    assert_eq!(readers.integrity_check().expect("check"), Vec::<String>::new());
    assert_eq!(writer.end().index, LogIndex(20_000));
}

#[test]
fn the_write_ahead_log_begins_anew_instead_of_growing() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut writer, readers, _) = open(folder.path());
    let wal = folder.path().join("db.sqlite3-wal");
    let mut turns = 0;
    let mut before = 0;
    let value = "v".repeat(12_000);
    for n in 1..=5_000_u64 {
        commit(&mut writer, &[(Position(n), entry(n, 1, n as i64 + 1, vec![put("k", &value, n as i64 + 1)]))]);
        turns += u32::from(writer.wal_frames() < before);
        before = writer.wal_frames();
        assert!(readers.value(Position(n)).expect("value").is_some());
    }
    assert!(turns > 0, "the log must have begun anew");
    let bytes = std::fs::metadata(&wal).expect("wal").len();
    assert!(bytes < 100 << 20, "the log has {bytes} bytes");
}
