//! Measures the local database in a folder of its own: commits at several batch sizes, reads, the scan of a
//! million rows. `cargo run --release -p netsy-localdb --example localdb_speed -- [FOLDER] [ROWS]`

use bytes::Bytes;
use netsy_api::ids::{LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use netsy_api::log::{Entry, Mutation};
use netsy_localdb::{Batch, Error, LocalDb, LogEnd, OpenOptions, RestoreEnd, RowWhat, ScanOptions, Uploaded, Writer};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 460;
const PER_SIZE: Duration = Duration::from_secs(4);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let scratch = tempfile::tempdir()?;
    let folder = args.next().map_or_else(|| scratch.path().to_path_buf(), Into::into);
    let rows: u64 = args.next().map_or(Ok(1_000_000), |rows| rows.parse())?;
    println!("records of {} bytes of key and value", VALUE_BYTES + 40);
    for batch in [1, 10, 100, 1_000] {
        for visible in [false, true] {
            commits(&folder.join(format!("commits-{batch}-{visible}")), batch, visible)?;
        }
    }
    for value_bytes in [256, 1_024] {
        reads(&folder.join(format!("reads-{value_bytes}")), rows, value_bytes)?;
    }
    Ok(())
}

fn entry(end: LogEnd, value: &Bytes) -> (Position, Arc<Entry>) {
    let n = end.index.0 + 1;
    let entry = Entry {
        index: LogIndex(n),
        term: Term(1),
        time: UnixMillis(1_700_000_000_000),
        revision: Revision(n as i64 + 1),
        mutations: vec![Mutation::Put {
            key: Bytes::from(format!("/registry/pods/namespace-{:03}/pod-{n:09}", n % 1_000)),
            value: value.clone(),
            create_revision: Revision(n as i64 + 1),
            version: 1,
            lease: LeaseId(0),
        }],
    };
    (end.position.next(), Arc::new(entry))
}

fn batch_after(mut end: LogEnd, count: usize, value: &Bytes) -> Vec<(Position, Arc<Entry>)> {
    (0..count)
        .map(|_| {
            let next = entry(end, value);
            end = LogEnd { index: next.1.index, term: Term(1), position: next.0, revision: next.1.revision };
            next
        })
        .collect()
}

fn cpu_seconds() -> f64 {
    // utime and stime of this process, in ticks of 10 ms.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let field = |n: usize| after.split_whitespace().nth(n).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (field(11) + field(12)) / 100.0
}

fn commits(folder: &Path, batch: usize, visible: bool) -> Result<(), Error> {
    let (mut writer, _readers, _) = LocalDb::open(folder, &OpenOptions::new("speed"))?;
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let mut times = Vec::new();
    let (begin, cpu) = (Instant::now(), cpu_seconds());
    while begin.elapsed() < PER_SIZE {
        let entries = batch_after(writer.end(), batch, &value);
        let visible_index = visible.then_some(writer.end().index);
        let start = Instant::now();
        writer.commit(&Batch { entries: &entries, visible_index, ..Batch::default() })?;
        times.push(start.elapsed());
    }
    let (elapsed, cpu) = (begin.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    let records = (times.len() * batch) as f64;
    println!(
        "batch {batch:>5}{}: {:>9.0} records/s, p50 {:>6.0} µs, p99 {:>6.0} µs, p99.9 {:>6.0} µs, max {:>6.0} µs, {:>5.1} µs CPU a record",
        if visible { " + visible index" } else { "                " },
        records / elapsed,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        cpu * 1e6 / records
    );
    Ok(())
}

fn fill(writer: &mut Writer, rows: u64, value_bytes: usize) -> Result<(), Error> {
    let value = Bytes::from(vec![7; value_bytes]);
    let mut restore = writer.begin_restore()?;
    while restore.end().index.0 < rows {
        restore.push_entries(&batch_after(restore.end(), 1_000, &value))?;
    }
    writer.finish_restore(restore, &RestoreEnd { visible_index: LogIndex(rows), uploaded: Uploaded::default() })
}

fn reads(folder: &Path, rows: u64, value_bytes: usize) -> Result<(), Error> {
    println!("{rows} rows with values of {value_bytes} bytes");
    let timed = |what: &str, start: Instant| println!("  {what}: {:.3} s", start.elapsed().as_secs_f64());
    {
        let (mut writer, _, _) = LocalDb::open(folder, &OpenOptions::new("speed"))?;
        let start = Instant::now();
        fill(&mut writer, rows, value_bytes)?;
        timed("restore", start);
    }
    let start = Instant::now();
    let (writer, readers, _) = LocalDb::open(folder, &OpenOptions::new("speed"))?;
    timed("open", start);
    for (threads, values) in [(1, false), (2, false), (3, false), (2, true)] {
        let start = Instant::now();
        let mut bytes = 0;
        let options = ScanOptions { threads, values_after: values.then_some(Position(0)), ..ScanOptions::default() };
        readers.scan::<Error>(options, |row| {
            if let RowWhat::Put { key, value, .. } = row.what {
                bytes += key.len() + value.map_or(0, <[u8]>::len);
            }
            Ok(())
        })?;
        timed(&format!("scan, {threads} threads, values {values}, {bytes} bytes handed over"), start);
    }
    let mut random = 1_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Position((random >> 33) % rows + 1)
    };
    let count = 100_000;
    let start = Instant::now();
    for _ in 0..count {
        readers.value(next())?;
    }
    println!("  value: {:.1} µs", start.elapsed().as_secs_f64() * 1e6 / f64::from(count));
    let mut at: Vec<_> = (0..10_000).map(|_| next()).collect();
    let start = Instant::now();
    readers.values(&at, usize::MAX)?;
    println!("  values of 10,000 random rows: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    at.sort();
    let start = Instant::now();
    readers.values(&at, usize::MAX)?;
    println!("  the same, ascending: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    for n in 0..1_000 {
        readers.position_of_revision(Revision(n * 997 % rows as i64))?;
    }
    println!("  position of a revision: {:.1} µs", start.elapsed().as_secs_f64() * 1e6 / 1e3);
    timed("integrity check", {
        let start = Instant::now();
        readers.integrity_check()?;
        start
    });
    drop(writer);
    Ok(())
}
