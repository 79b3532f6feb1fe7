//! The figures of docs/benchmarks.md about clusters: failover, throughput of three nodes, restoring; netsy beside etcd.
//!
//! Default settings, the file provider with time added to each store call, one machine's loopback or namespaces.

mod failover;
mod pulse;
mod restore;
mod table;
mod throughput;

use crate::cluster::{Cluster, Programs};
use crate::net::Isolation;
use crate::scenario::{Scenario, ServerKind};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use failover::Event;
use std::path::PathBuf;

/// What is to be measured, and how.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Rows: kill-primary, kill-both, cut-primary, kill-elector, hand-over, stop-primary, throughput, restore; or all.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    rows: Vec<String>,
    /// What is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "netsy,etcd")]
    servers: Vec<ServerKind>,
    /// Rounds of each failover row.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Rounds of the throughput rows.
    #[arg(long, default_value_t = 5)]
    load_rounds: u32,
    /// Measured seconds of each of those.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds of the restoring rows.
    #[arg(long, default_value_t = 3)]
    restore_rounds: u32,
    /// Size of what is restored.
    #[arg(long, default_value_t = 1.0)]
    gib: f64,
    /// Time added to each call of the object store, milliseconds.
    #[arg(long, default_value_t = 30)]
    store_latency_ms: u64,
    /// The load generator.
    #[arg(long, env = "NETSY_BENCH_BIN")]
    netsy_bench: Option<PathBuf>,
    /// Write the table here, too.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Write all figures here as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A bench with all that it needs.
pub struct Bench {
    servers: Vec<ServerKind>,
    rounds: u32,
    load_rounds: u32,
    seconds: f64,
    restore_rounds: u32,
    gib: f64,
    store_latency_ms: u64,
    netsy_bench: PathBuf,
    programs: Programs,
    isolation: Isolation,
    data_root: PathBuf,
    seed: u64,
}

impl Bench {
    /// Not started; in a network of its own. Only one at a time, as it takes the addresses.
    async fn cluster(&self, kind: ServerKind, nodes: usize) -> Result<Cluster> {
        let mut scenario = Scenario::plain(nodes);
        scenario.store_latency_ms = self.store_latency_ms;
        Cluster::new(kind, &self.programs, &scenario, &self.isolation, &self.data_root).await
    }
}

/// Measures, prints, writes.
pub async fn run(args: &BenchArgs, programs: Programs, isolation: Isolation, data_root: PathBuf) -> Result<()> {
    ensure!(
        (1..=1000).contains(&args.rounds) && args.load_rounds >= 1 && args.restore_rounds >= 1,
        "rounds: 1 to 1000"
    );
    ensure!((0.001..=16.0).contains(&args.gib), "--gib: 0.001 to 16");
    let beside = std::env::current_exe()?.with_file_name("netsy-bench");
    let bench = Bench {
        servers: args.servers.clone(),
        rounds: args.rounds,
        load_rounds: args.load_rounds,
        seconds: args.seconds,
        restore_rounds: args.restore_rounds,
        gib: args.gib,
        store_latency_ms: args.store_latency_ms,
        netsy_bench: args.netsy_bench.clone().unwrap_or(beside),
        programs,
        isolation,
        data_root,
        seed: 1,
    };
    let known = Event::ALL.iter().map(|(_, name, ..)| *name).chain(["throughput", "restore", "all"]);
    let known: Vec<&str> = known.collect();
    for name in &args.rows {
        if !known.contains(&name.as_str()) {
            bail!("there is no row {name:?}; there are: {}", known.join(", "));
        }
    }
    let wanted = |name: &str| args.rows.iter().any(|row| row == name || row == "all");
    let mut rows = Vec::new();
    for (event, name, what, goal) in Event::ALL {
        if !wanted(name) {
            continue;
        }
        if let (Event::CutPrimary, Isolation::None(why)) = (event, &bench.isolation) {
            println!("    {name} is left out: {why}");
            continue;
        }
        rows.push(failover::row(&bench, event, what, goal).await?);
    }
    if wanted("throughput") {
        rows.extend(throughput::rows(&bench).await?);
    }
    if wanted("restore") {
        rows.extend(restore::rows(&bench).await?);
    }
    let text = table::markdown(&rows);
    println!("\n{text}");
    if let Some(path) = &args.markdown {
        std::fs::write(path, &text).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{:#}\n", table::json(&rows)))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
