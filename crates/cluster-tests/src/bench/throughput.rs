//! Throughput, latency and CPU of three nodes, by netsy-bench: one of it for each node, all at once.

use super::Bench;
use super::table::{Goal, Measured, Row};
use crate::cluster::Cluster;
use crate::faults::primary;
use crate::scenario::ServerKind;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// One load.
#[derive(Clone, Copy)]
struct Load {
    mode: &'static str,
    /// At each of the nodes asked.
    clients: usize,
    /// All nodes, or the Primary only.
    everywhere: bool,
}

/// What a round gave, over all nodes.
#[derive(Clone, Copy)]
struct Sample {
    per_second: f64,
    p50_ms: f64,
    cpu_us: f64,
}

const ONE_PUT: Load = Load { mode: "put", clients: 1, everywhere: false };
const PUTS: Load = Load { mode: "put", clients: 333, everywhere: true };
const GETS: Load = Load { mode: "get", clients: 100, everywhere: true };

/// All throughput rows.
pub async fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = [
        ("put 256 B, 3 nodes, 1 client: p50", "ms", Goal::RatioAtMost(0.8)),
        ("put 256 B, 3 nodes, 1,000 clients over all nodes", "op/s", Goal::RatioAtLeast(3.0)),
        ("CPU per put, all nodes together, 1,000 clients", "µs", Goal::RatioAtMost(0.4)),
        ("linearizable get over all nodes, 300 clients", "op/s", Goal::RatioAtLeast(3.0)),
        ("CPU per linearizable get, all nodes together", "µs", Goal::None),
    ]
    .map(|(what, unit, goal)| Row { what: what.to_owned(), unit, netsy: None, etcd: None, goal })
    .into();
    for kind in &bench.servers {
        let mut cluster = bench.cluster(*kind, 3).await?;
        cluster.start_all().await?;
        let mut measured = vec![Measured::default(); rows.len()];
        for number in 0..bench.load_rounds {
            for (load, fields) in [(ONE_PUT, vec![0]), (PUTS, vec![1, 2]), (GETS, vec![3, 4])] {
                let sample =
                    round(bench, &cluster, load).await.with_context(|| format!("{} at {kind:?}", load.mode))?;
                println!(
                    "    {kind:?} {} × {} {}: {:.0} op/s, p50 {:.2} ms, {:.0} µs CPU",
                    load.mode,
                    load.clients,
                    number + 1,
                    sample.per_second,
                    sample.p50_ms,
                    sample.cpu_us
                );
                let values = match load.clients {
                    1 => [sample.p50_ms, 0.0],
                    _ => [sample.per_second, sample.cpu_us],
                };
                for (field, value) in fields.into_iter().zip(values) {
                    measured[field].values.push(value);
                }
            }
        }
        for (row, measured) in rows.iter_mut().zip(measured) {
            match kind {
                ServerKind::Netsy => row.netsy = Some(measured),
                ServerKind::Etcd => row.etcd = Some(measured),
            }
        }
    }
    Ok(rows)
}

async fn round(bench: &Bench, cluster: &Cluster, load: Load) -> Result<Sample> {
    tokio::time::sleep(Duration::from_millis(500)).await;
    let nodes = match load.everywhere {
        true => (0..cluster.nodes.len()).collect(),
        false => vec![primary(cluster).await?],
    };
    let mut running = Vec::new();
    for node in &nodes {
        let mut command = Command::new(&bench.netsy_bench);
        command.args(["run", load.mode, "--rounds=1", "--json=-", "--name=node"]);
        command.arg(format!("--endpoint={}", cluster.nodes[*node].view.address));
        command.arg(format!("--clients={}", load.clients));
        command.arg(format!("--seconds={}", bench.seconds));
        // Each node's CPU is counted by its own; alone, one counts all.
        for (other, one) in cluster.nodes.iter().enumerate() {
            if other == *node || !load.everywhere {
                command.arg(format!("--server-pid={}", one.process.pid().context("a node is not running")?));
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("start {}", bench.netsy_bench.display()))?;
        running.push(child);
    }
    let (mut operations, mut per_second, mut p50, mut cpu) = (0.0, 0.0, 0.0, 0.0);
    for child in running {
        let output = child.wait_with_output().await?;
        ensure!(output.status.success(), "netsy-bench: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let json = text.find("\n{").or(text.starts_with('{').then_some(0)).context("netsy-bench printed no JSON")?;
        let value: Value = serde_json::from_str(text[json..].trim())?;
        let figures = &value["servers"][0]["rounds"][0];
        let figure =
            |name: &str| figures[name].as_f64().with_context(|| format!("netsy-bench says no {name:?}: {figures}"));
        let done = figure("operations")?;
        if figure("failed calls")? > 0.0 {
            bail!("calls failed: {figures}");
        }
        operations += done;
        per_second += figure("operations/s")?;
        p50 += figure("p50 ms")? * done;
        cpu += figure("server CPU µs/op")? * done;
    }
    Ok(Sample { per_second, p50_ms: p50 / operations, cpu_us: cpu / operations })
}
