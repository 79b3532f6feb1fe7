//! How long the calls of a file bucket take here: `cargo run --release -p netsy-objects --example bucket_speed [FOLDER]`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use netsy_objects::{StorageConfig, SwapOutcome, open};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("netsy-bucket-speed"), Into::into);
    let bucket = open(&StorageConfig::file(&folder)).await?.data;
    let body = Bytes::from(vec![7; 1024]);
    let run = std::process::id();

    let mut times = Vec::new();
    for n in 0..500 {
        let key = format!("speed/{run}/{n}");
        let started = Instant::now();
        bucket.create(&key, body.clone()).await?;
        times.push(started.elapsed());
    }
    report("create 1 KiB", &mut times);

    // The floor: the same two syncs without anything else.
    std::fs::create_dir_all(folder.join("floor"))?;
    let dir = std::fs::File::open(folder.join("floor"))?;
    for n in 0..500 {
        let path = folder.join("floor").join(format!("{run}-{n}"));
        let started = Instant::now();
        let mut file = std::fs::File::create_new(&path)?;
        std::io::Write::write_all(&mut file, &body)?;
        file.sync_all()?;
        dir.sync_all()?;
        times.push(started.elapsed());
    }
    report("floor: write, fsync file, fsync folder", &mut times);

    for _ in 0..20_000 {
        let started = Instant::now();
        bucket.get(&format!("speed/{run}/1")).await?;
        times.push(started.elapsed());
    }
    report("get, unchanged since the last", &mut times);
    for n in 0..500 {
        let started = Instant::now();
        bucket.get(&format!("speed/{run}/{n}")).await?;
        times.push(started.elapsed());
    }
    report("get, first", &mut times);

    let key = format!("speed/{run}/swapped");
    bucket.create(&key, body.clone()).await?;
    let mut version = bucket.get(&key).await?.ok_or("it is gone")?.version;
    for _ in 0..300 {
        let started = Instant::now();
        match bucket.swap(&key, Some(&version), body.clone()).await? {
            SwapOutcome::Swapped(next) => version = next,
            SwapOutcome::Conflict => return Err("somebody else swaps here".into()),
        }
        times.push(started.elapsed());
    }
    report("swap 1 KiB", &mut times);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn report(what: &str, times: &mut Vec<Duration>) {
    times.sort_unstable();
    let at = |q: usize| times[(times.len() - 1) * q / 100];
    println!("{what:40} p50 {:>10.1?}  p99 {:>10.1?}", at(50), at(99));
    times.clear();
}
