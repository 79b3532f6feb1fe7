//! Databases that something else wrote to: opening and reading them gives an error or what is there, never a panic. See
//! `netsy_fuzz`.

use bytes::Bytes;
use netsy_api::ids::{LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use netsy_api::log::{AlarmKind, Entry, Mutation};
use netsy_fuzz::{Verdict, run};
use netsy_localdb::{Batch, Error, LocalDb, OpenOptions, Readers, ScanOptions, Writer};
use rusqlite::Connection;
use rusqlite::types::Value;
use std::path::Path;
use std::sync::Arc;

const DATABASE: &str = "db.sqlite3";

fn open(folder: &Path) -> Result<(Writer, Readers), Error> {
    LocalDb::open(folder, &OpenOptions::new("test")).map(|(writer, readers, _)| (writer, readers))
}

/// One entry of every kind of mutation, and some puts, one of them on overflow pages.
fn entries() -> Vec<(Position, Arc<Entry>)> {
    let put = |key: String, length: usize, revision| Mutation::Put {
        key: key.into(),
        value: vec![b'v'; length].into(),
        create_revision: Revision(revision),
        version: 1,
        lease: LeaseId(0),
    };
    let lease = LeaseId(0x1234);
    let mut kinds = vec![
        Mutation::LeaseGrant { id: lease, ttl_seconds: 60 },
        put("a".into(), 1, 2),
        put("b".into(), 20_000, 3),
        Mutation::Delete { key: Bytes::from_static(b"a") },
        Mutation::LeaseCheckpoint { id: lease, remaining_seconds: 7 },
        Mutation::LeaseRevoke { id: lease },
        Mutation::Compact { revision: Revision(3) },
        Mutation::Alarm { member_id: 9, alarm: AlarmKind::NoSpace, active: true },
    ];
    kinds.extend((0..40).map(|n| put(format!("key/{n}"), 100, 5 + n)));
    let mut revision = 1;
    let mut all = Vec::new();
    for (at, mutation) in (1..).zip(kinds) {
        revision += i64::from(mutation.is_key_change());
        let entry = Entry {
            index: LogIndex(at),
            term: Term(1 + at / 10),
            time: UnixMillis(1_700_000_000_000),
            revision: Revision(revision),
            mutations: vec![mutation],
        };
        all.push((Position(at), Arc::new(entry)));
    }
    all
}

/// A folder with such a database, closed.
fn filled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    let (mut writer, _readers) = open(folder.path()).expect("open");
    writer.commit(&Batch { entries: &entries(), ..Batch::default() }).expect("commit");
    writer.set_note("note", b"{}").expect("note");
    folder
}

/// Reads everything in every way; whether all of it could be.
fn read_all(readers: &Readers) -> bool {
    let all: Vec<Position> = (0..60).map(Position).collect();
    let scanned = readers.scan(ScanOptions::default(), |row| {
        std::hint::black_box(&row);
        Ok::<_, Error>(())
    });
    let read = [
        scanned.is_ok(),
        readers.rows_after(Position(0), usize::MAX, usize::MAX).is_ok(),
        readers.entries_from(LogIndex(1), usize::MAX).is_ok(),
        readers.entries_from(LogIndex(20), 1).is_ok(),
        readers.values(&all, usize::MAX).is_ok(),
        readers.position_of_revision(Revision(7)).is_ok(),
        readers.first_of_index(LogIndex(9)).is_ok(),
        readers.size_bytes().is_ok(),
        readers.in_use_bytes().is_ok(),
    ];
    let _ = readers.integrity_check();
    read.iter().all(|ok| *ok)
}

#[test]
fn fuzz_database_files() {
    let source = filled();
    let conn = Connection::open(source.path().join(DATABASE)).expect("open");
    conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("everything into one file");
    drop(conn);
    let bytes = std::fs::read(source.path().join(DATABASE)).expect("read");
    run("database files", &[bytes], 150, |input| {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join(DATABASE), input).expect("write");
        let Ok((mut writer, readers)) = open(folder.path()) else { return Verdict::Refused };
        let _ = writer.note("note");
        let whole = read_all(&readers);
        let end = writer.end();
        let next = Entry {
            index: LogIndex(end.index.0.wrapping_add(1)),
            term: end.term,
            time: UnixMillis(0),
            revision: end.revision,
            mutations: vec![Mutation::Compact { revision: Revision(1) }],
        };
        let next = [(Position(end.position.0.wrapping_add(1)), Arc::new(next))];
        let _ = writer.commit(&Batch { entries: &next, ..Batch::default() });
        let _ = writer.truncate_after(LogIndex(5));
        let _ = writer.vacuum_step(10);
        if whole { Verdict::Accepted } else { Verdict::Refused }
    });
}

/// Rows that are sound for SQLite, and hold what no row of ours does.
#[test]
fn fuzz_rows() {
    const COLUMNS: [&str; 12] = [
        "position",
        "idx",
        "term",
        "time_ms",
        "revision",
        "sub",
        "kind",
        "key",
        "create_revision",
        "version",
        "lease",
        "value",
    ];
    let folder = filled();
    let (_writer, readers) = open(folder.path()).expect("open");
    let conn = Connection::open(folder.path().join(DATABASE)).expect("open");
    conn.execute_batch("CREATE TEMP TABLE sound AS SELECT * FROM rows").expect("copy");
    // Column, row, type, value.
    let corpus: Vec<Vec<u8>> =
        (0..12u8).flat_map(|column| [vec![column, 3, 0, 1, 0], vec![column, 9, 1, b'x']]).collect();
    run("rows", &corpus, 1_000, |input| {
        let [column, row, kind, value @ ..] = input else { return Verdict::Refused };
        let column = COLUMNS[usize::from(*column) % COLUMNS.len()];
        let mut number = [0; 8];
        number.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
        let value = match kind % 5 {
            0 => Value::Integer(i64::from_le_bytes(number)),
            1 => Value::Blob(value.to_vec()),
            2 => Value::Text(String::from_utf8_lossy(value).into_owned()),
            3 => Value::Real(f64::from_bits(u64::from_le_bytes(number))),
            _ => Value::Null,
        };
        // SQLite may refuse the value.
        let update = format!("UPDATE rows SET {column} = ?1 WHERE position = ?2");
        let _ = conn.execute(&update, rusqlite::params![value, row % 50]);
        let whole = read_all(&readers);
        if row % 2 == 0 {
            // Not all of them are to be wrong at the same time.
            conn.execute_batch("BEGIN; DELETE FROM rows; INSERT INTO rows SELECT * FROM sound; COMMIT")
                .expect("repair");
        }
        if whole { Verdict::Accepted } else { Verdict::Refused }
    });
}

/// Found by the above (NETSY_SEED=1784745889546963018): between such rows nothing can be counted.
#[test]
fn positions_that_no_row_has_are_damage() {
    for position in [i64::MIN, -1, i64::MAX] {
        let folder = filled();
        let (_writer, readers) = open(folder.path()).expect("open");
        let conn = Connection::open(folder.path().join(DATABASE)).expect("open");
        conn.execute("UPDATE rows SET position = ?1 WHERE position = 3", [position]).expect("changed");
        let found = readers.position_of_revision(Revision(7)).expect_err("damaged");
        assert!(found.to_string().contains("rows at positions"), "{found}");
    }
}
