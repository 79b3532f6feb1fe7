//! A process is killed while it writes; then the file layer takes away what was not synced, as a power failure
//! would. Every acknowledged commit must be there. Controls that do not sync show that the layer does take away.
//!
//! Run with `--features crashfs`. NETSY_POWER_LOSS_ROUNDS: kills per test (default 12).

use bytes::Bytes;
use netsy_api::ids::{ChunkSeq, LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use netsy_api::log::{Entry, Mutation};
use netsy_localdb::crash_vfs::{self, Loss, drop_unsynced};
use netsy_localdb::{Batch, Error, LocalDb, OpenOptions, Readers, RestoreEnd, RowWhat, ScanOptions, Uploaded, Writer};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CHILD: &str = "NETSY_POWER_LOSS_CHILD";
const ABORT_AFTER: &str = "NETSY_POWER_LOSS_ABORT_AFTER";
const RESTORED_ROWS: u64 = 40;
/// In tests that stop the child at every operation in turn: which share of them, one in so many.
const STRIDE: usize = 3;

fn rounds() -> u64 {
    std::env::var("NETSY_POWER_LOSS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// A number that looks random but is the same each time.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn value_of(n: u64, salt: u64) -> Bytes {
    // Long enough to show its salt.
    let length = 40 + mix(n ^ salt) % 9_000;
    Bytes::from(format!("{n}/{salt}/").into_bytes().into_iter().cycle().take(length as usize).collect::<Vec<_>>())
}

/// Entry `n` begins at position `2 * n - 1` and has two mutations.
fn entry(n: u64, salt: u64) -> (Position, Arc<Entry>) {
    let put = |key: String, value| Mutation::Put {
        key: Bytes::from(key),
        value,
        create_revision: Revision(n as i64 + 1),
        version: 1,
        lease: LeaseId(0),
    };
    let entry = Entry {
        index: LogIndex(n),
        term: Term(1 + n / 500),
        time: UnixMillis(n as i64),
        revision: Revision(n as i64 + 1),
        mutations: vec![put(format!("a{n}"), value_of(n, salt)), put(format!("b{n}"), Bytes::new())],
    };
    (Position(2 * n - 1), Arc::new(entry))
}

fn acknowledge(n: u64) {
    let mut out = std::io::stdout().lock();
    // The reader kills us; what happens to the pipe does not matter.
    let _ = writeln!(out, "ack {n}");
    let _ = out.flush();
}

fn open(folder: &Path, vfs: bool) -> (Writer, Readers) {
    let mut options = OpenOptions::new("test");
    if vfs {
        crash_vfs::enable(folder).expect("enable");
        options.vfs = Some(crash_vfs::register().expect("register").to_string());
    }
    // Another test's child, between its fork and its exec, may still hold the lock of a database that is closed here.
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        match LocalDb::open(folder, &options) {
            Err(netsy_localdb::Error::InUse { .. }) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => {
                let (writer, readers, _) = opened.expect("open");
                return (writer, readers);
            }
        }
    }
}

/// Does nothing as a test; as a child process, works until it is killed.
#[test]
fn child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let (role, folder) = what.split_once(':').expect("role:folder");
    let folder = Path::new(folder);
    match role {
        "commits" => child_commits(folder, u64::MAX),
        "restores" => child_restores(folder, u64::MAX),
        "one-restore" => child_restores(folder, 1),
        "few-commits" => child_commits(folder, 12),
        "full" | "off" => child_plain(folder, role),
        "files" | "files-unsynced" => child_files(folder, role == "files"),
        _ => panic!("{role} is not known"),
    }
}

/// Ends this process at one of its next operations, if asked to.
fn abort_where_asked() {
    if let Some(operations) = std::env::var(ABORT_AFTER).ok().and_then(|text| text.parse().ok()) {
        crash_vfs::abort_after(operations);
    }
}

fn child_commits(folder: &Path, commits: u64) {
    crash_vfs::enable(folder).expect("enable");
    abort_where_asked();
    let (mut writer, _readers) = open(folder, true);
    for _ in 0..commits {
        let next = writer.end().index.0 + 1;
        let count = 1 + mix(next) % 4;
        let entries: Vec<_> = (next..next + count).map(|n| entry(n, 0)).collect();
        // Every third entry loses its second row 100 entries later.
        let delete: Vec<_> =
            (next..next + count).filter(|n| n % 3 == 0 && *n > 100).map(|n| Position(2 * (n - 100))).collect();
        let visible_index = Some(LogIndex(next - 1));
        let uploaded = Some(Uploaded { seq: ChunkSeq(next), term: Term(1), index: LogIndex(next - 1) });
        let batch = Batch { entries: &entries, visible_index, uploaded, delete: &delete, ..Batch::default() };
        writer.commit(&batch).expect("commit");
        acknowledge(next + count - 1);
        if mix(next).is_multiple_of(64) {
            writer.vacuum_step(8).expect("vacuum");
        }
    }
}

fn child_restores(folder: &Path, restores: u64) {
    let (mut writer, readers) = open(folder, true);
    let mut salt = generation(&readers);
    abort_where_asked();
    for _ in 0..restores {
        salt += 1;
        let mut restore = writer.begin_restore().expect("begin");
        for n in 1..=RESTORED_ROWS / 2 {
            restore.push_entries(&[entry(n, salt)]).expect("entries");
        }
        let end = RestoreEnd { visible_index: LogIndex(RESTORED_ROWS / 2), uploaded: Uploaded::default() };
        writer.finish_restore(restore, &end).expect("finish");
        acknowledge(salt);
    }
}

/// The salt of the restored content: all rows must have the same.
fn generation(readers: &Readers) -> u64 {
    let mut salt = 0;
    let mut rows = 0;
    let options = ScanOptions { values_after: Some(Position(0)), ..ScanOptions::default() };
    readers
        .scan::<Error>(options, |row| {
            rows += 1;
            if let RowWhat::Put { value: Some(value), .. } = row.what
                && row.position.0 % 2 == 1
            {
                let text = String::from_utf8_lossy(value);
                let found = text.split('/').nth(1).and_then(|text| text.parse().ok());
                if text.matches('/').count() >= 2
                    && let Some(found) = found
                {
                    assert!(salt == 0 || salt == found, "row {} is of {found}, others of {salt}", row.position);
                    salt = found;
                }
                assert_eq!(value, value_of(row.position.0.div_ceil(2), salt).as_ref());
            }
            Ok(())
        })
        .expect("scan");
    assert!(rows == 0 || rows == RESTORED_ROWS, "{rows} rows: neither nothing nor all");
    salt
}

fn child_plain(folder: &Path, synchronous: &str) {
    crash_vfs::enable(folder).expect("enable");
    let vfs = crash_vfs::register().expect("register");
    let conn =
        rusqlite::Connection::open_with_flags_and_vfs(folder.join("plain"), Default::default(), vfs).expect("open");
    conn.pragma_update(None, "journal_mode", "WAL").expect("journal_mode");
    conn.pragma_update(None, "synchronous", "FULL").expect("synchronous");
    conn.execute_batch("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, x)").expect("table");
    crash_vfs::files::sync_dir(folder).expect("sync_dir");
    conn.pragma_update(None, "synchronous", synchronous).expect("synchronous");
    let mut n = plain_count(&conn);
    loop {
        n += 1;
        conn.execute("INSERT INTO t VALUES (?1, zeroblob(1000))", [n]).expect("insert");
        acknowledge(n as u64);
    }
}

fn plain_count(conn: &rusqlite::Connection) -> i64 {
    conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("count")
}

/// Objects as a file store makes them: written under a temporary name, then renamed.
fn child_files(folder: &Path, synced: bool) {
    use crash_vfs::files::{File, create_dir, rename, sync_dir};
    crash_vfs::enable(folder).expect("enable");
    let objects = folder.join("objects");
    if !objects.exists() {
        create_dir(&objects).expect("create_dir");
        sync_dir(folder).expect("sync_dir");
    }
    let mut n = objects_in(&objects);
    loop {
        n += 1;
        let temporary = folder.join(format!("temporary-{n}-{}", std::process::id()));
        let file = File::create_new(&temporary).expect("create");
        file.append(&value_of(n, 1)).expect("write");
        file.append(b"end").expect("write");
        if synced {
            file.sync().expect("sync");
        }
        rename(&temporary, &objects.join(n.to_string())).expect("rename");
        if synced {
            sync_dir(&objects).expect("sync_dir");
        }
        acknowledge(n);
    }
}

fn objects_in(objects: &Path) -> u64 {
    std::fs::read_dir(objects).map_or(0, |items| items.count() as u64)
}

/// Runs a child on the folder, kills it after a while, and returns the last thing it acknowledged.
fn run_and_kill(role: &str, folder: &Path, round: u64, acks_min: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
        .env(CHILD, format!("{role}:{}", folder.display()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let out = child.stdout.take().expect("stdout");
    // A kill by the clock, from another thread, hits any moment of the child's work.
    let (first_ack, seen) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut last, mut count) = (0, 0);
        for line in BufReader::new(out).lines() {
            let Ok(line) = line else { break };
            if let Some(number) = line.strip_prefix("ack ").and_then(|text| text.parse().ok()) {
                last = number;
                count += 1;
                // Only the first ones are listened to.
                let _ = first_ack.send(count);
            }
        }
        (last, count)
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Ok(count) = seen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if count >= acks_min {
            break;
        }
    }
    std::thread::sleep(Duration::from_micros(mix(round ^ 0x5eed) % 400_000));
    child.kill().expect("kill");
    let status = child.wait().expect("wait");
    let (last, count) = reader.join().expect("reader");
    assert!(status.code().is_none(), "the child ended by itself: {status}");
    assert!(count >= acks_min, "the child acknowledged {count} times only");
    last
}

/// Runs a child that ends by itself, at the latest after `operations`; returns the last thing it acknowledged,
/// and whether it came to its end.
fn run_until(role: &str, folder: &Path, operations: usize) -> (u64, bool) {
    let output = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
        .env(CHILD, format!("{role}:{}", folder.display()))
        .env(ABORT_AFTER, operations.to_string())
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_ne!(
        output.status.code(),
        Some(101),
        "the child found something wrong after {operations} operations: {said}"
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let acks = text.lines().filter_map(|line| line.strip_prefix("ack ")).filter_map(|text| text.parse().ok());
    (acks.max().unwrap_or(0), output.status.success())
}

fn loss(round: u64) -> Loss {
    if round.is_multiple_of(2) { Loss::All } else { Loss::Some { seed: round } }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().expect("folder");
    let folder = scratch.path().join("data");
    std::fs::create_dir(&folder).expect("folder");
    (scratch, folder)
}

#[test]
fn no_acknowledged_commit_is_lost() {
    let (_scratch, folder) = folder();
    for round in 0..rounds() {
        let acknowledged = run_and_kill("commits", &folder, round, 1);
        drop_unsynced(&folder, loss(round)).expect("drop");
        check_commits(&folder, acknowledged, &format!("round {round}"));
    }
}

#[test]
fn no_commit_is_lost_wherever_it_stops() {
    for operations in (0..).step_by(STRIDE) {
        // From nothing each time: making the database is part of it.
        let (_scratch, folder) = folder();
        let (acknowledged, ended) = run_until("few-commits", &folder, operations);
        drop_unsynced(&folder, loss(operations as u64)).expect("drop");
        check_commits(&folder, acknowledged, &format!("stopped after {operations} operations"));
        if ended {
            assert!(operations > 40, "the child did only {operations} operations");
            break;
        }
    }
}

/// Everything that [`child_commits`] did up to `acknowledged` at least is there, and nothing is half there.
fn check_commits(folder: &Path, acknowledged: u64, when: &str) {
    let (writer, readers) = open(folder, false);
    let end = writer.end().index.0;
    assert!(end >= acknowledged, "{when}: {acknowledged} was acknowledged, the log ends at {end}");
    assert!(writer.progress().visible_index.0 + 4 >= acknowledged, "{when}: {:?}", writer.progress());
    assert_eq!(writer.progress().visible_index, writer.progress().uploaded.index);
    assert_eq!(readers.integrity_check().expect("check"), Vec::<String>::new(), "{when}");
    let gone = |position: u64| {
        let by = position / 2 + 100;
        position.is_multiple_of(2) && by.is_multiple_of(3) && by <= end
    };
    let mut expected = 1;
    let options = ScanOptions { values_after: Some(Position(0)), ..ScanOptions::default() };
    readers
        .scan::<Error>(options, |row| {
            while gone(expected) {
                expected += 1;
            }
            assert_eq!(row.position.0, expected, "{when}");
            let n = expected.div_ceil(2);
            if let RowWhat::Put { value, .. } = row.what
                && expected % 2 == 1
            {
                assert_eq!(value, Some(value_of(n, 0).as_ref()), "{when}, entry {n}");
            }
            expected += 1;
            Ok(())
        })
        .expect("scan");
    assert_eq!(expected, 2 * end + 1, "{when}");
}

#[test]
fn a_restore_is_whole_or_not_there_wherever_it_stops() {
    let (_scratch, folder) = folder();
    run_until("one-restore", &folder, 1_000_000);
    let mut before = 1;
    for operations in 0.. {
        let (acknowledged, ended) = run_until("one-restore", &folder, operations);
        drop_unsynced(&folder, loss(operations as u64)).expect("drop");
        let (_writer, readers) = open(&folder, false);
        let found = generation(&readers);
        assert!(found >= before.max(acknowledged), "stopped after {operations} operations: {before} became {found}");
        assert_eq!(readers.integrity_check().expect("check"), Vec::<String>::new());
        before = found;
        if ended {
            assert!(operations > 40, "the child did only {operations} operations");
            break;
        }
    }
}

#[test]
fn a_restore_is_whole_or_not_there() {
    let (_scratch, folder) = folder();
    for round in 0..rounds() {
        let acknowledged = run_and_kill("restores", &folder, round, u64::from(round == 0));
        drop_unsynced(&folder, loss(round)).expect("drop");
        let (_writer, readers) = open(&folder, false);
        let found = generation(&readers);
        assert!(found >= acknowledged, "round {round}: {acknowledged} was acknowledged, found {found}");
        assert_eq!(readers.integrity_check().expect("check"), Vec::<String>::new(), "round {round}");
    }
}

/// Rounds in which a plain SQLite program lost something that it had acknowledged.
fn plain_losses(synchronous: &str) -> u64 {
    let (_scratch, folder) = folder();
    let mut lossy = 0;
    for round in 0..rounds().min(12) {
        let acknowledged = run_and_kill(synchronous, &folder, round, 20);
        drop_unsynced(&folder, Loss::All).expect("drop");
        let conn = rusqlite::Connection::open(folder.join("plain")).expect("open");
        lossy += u64::from((plain_count(&conn) as u64) < acknowledged);
    }
    lossy
}

#[test]
fn the_layer_takes_away_what_was_not_synced() {
    assert_eq!(plain_losses("full"), 0);
    assert!(plain_losses("off") > 0, "a program that never syncs lost nothing: the layer does nothing");
}

fn file_losses(role: &str) -> u64 {
    let (_scratch, folder) = folder();
    let mut lossy = 0;
    for round in 0..rounds().min(12) {
        let acknowledged = run_and_kill(role, &folder, round, 20);
        drop_unsynced(&folder, Loss::All).expect("drop");
        let objects = folder.join("objects");
        let whole = (1..=acknowledged).all(|n| {
            let mut expected = value_of(n, 1).to_vec();
            expected.extend_from_slice(b"end");
            std::fs::read(objects.join(n.to_string())).is_ok_and(|bytes| bytes == expected)
        });
        lossy += u64::from(!whole);
        if !whole {
            // The next round counts from what is there.
            let _ = std::fs::remove_dir_all(&objects);
        }
    }
    lossy
}

#[test]
fn files_keep_what_was_synced_and_lose_the_rest() {
    assert_eq!(file_losses("files"), 0);
    assert!(file_losses("files-unsynced") > 0, "files that were never synced lost nothing: the layer does nothing");
}
