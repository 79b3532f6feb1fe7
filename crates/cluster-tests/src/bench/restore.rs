//! How long an empty node, and a cluster of empty nodes, take to serve what there is.

use super::Bench;
use super::pulse::{Pulse, quantile};
use super::table::{Goal, Measured, Row};
use crate::cluster::{Cluster, connect};
use crate::faults::primary;
use crate::scenario::ServerKind;
use anyhow::{Context, Result, ensure};
use netsy_api::etcdserverpb::RangeRequest;
use netsy_e2e::ops;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;

const VALUE_BYTES: u64 = 4096;
/// 1,000 a second over three nodes.
const EVERY: Duration = Duration::from_millis(3);
const CALM: Duration = Duration::from_secs(5);
const SERVES_WITHIN: Duration = Duration::from_secs(300);

/// Both rows; netsy only, as etcd's nodes restore from their own disks or their leader.
pub async fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let size = format!("{:.2} GiB", bench.gib);
    let mut new_node = Measured::default();
    let mut slower = Measured::default();
    let mut first_write = Measured::default();
    let mut all_nodes = Measured::default();
    if bench.servers.contains(&ServerKind::Netsy) {
        let mut cluster = bench.cluster(ServerKind::Netsy, 3).await?;
        cluster.start_all().await?;
        fill(bench, &cluster).await?;
        for number in 0..bench.restore_rounds {
            let (took, ratio) = empty_node(&mut cluster).await?;
            println!("    new node {}: {:.1} s, p99 of writes {ratio:.2} ×", number + 1, took.as_secs_f64());
            new_node.values.push(took.as_secs_f64() * 1e3);
            slower.values.push(ratio);
            let (first, all) = empty_cluster(&mut cluster).await?;
            println!(
                "    from the bucket {}: {:.1} s, all {:.1} s",
                number + 1,
                first.as_secs_f64(),
                all.as_secs_f64()
            );
            first_write.values.push(first.as_secs_f64() * 1e3);
            all_nodes.values.push(all.as_secs_f64() * 1e3);
        }
    }
    let row = |what: String, unit, measured: Measured, goal| Row {
        what,
        unit,
        netsy: (!measured.values.is_empty()).then_some(measured),
        etcd: None,
        goal,
    };
    Ok(vec![
        row(format!("new empty node to serving, {size}, 1,000 writes/s"), "ms", new_node, Goal::AtMostMs(15e3, 15e3)),
        row("p99 of the writes meanwhile, to before".into(), "×", slower, Goal::AtMostMs(2.0, 2.0)),
        row(format!("from the bucket alone, {size}: first write"), "ms", first_write, Goal::AtMostMs(20e3, 20e3)),
        row(format!("from the bucket alone, {size}: all nodes"), "ms", all_nodes, Goal::AtMostMs(60e3, 60e3)),
    ])
}

async fn fill(bench: &Bench, cluster: &Cluster) -> Result<()> {
    let keys = (bench.gib * (1u64 << 30) as f64) as u64 / VALUE_BYTES;
    let node = primary(cluster).await?;
    let mut command = Command::new(&bench.netsy_bench);
    command.args(["run", "load", "--rounds=1", "--name=fill"]);
    command.arg(format!("--endpoint={}", cluster.nodes[node].view.address));
    command.args([format!("--keys={keys}"), format!("--value-size={VALUE_BYTES}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("start {}", bench.netsy_bench.display()))?;
    ensure!(output.status.success(), "netsy-bench: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Waits until the node answers as it should; gives when.
async fn serves(cluster: &Cluster, node: usize, at_least: i64) -> Result<Instant> {
    let start = Instant::now();
    loop {
        let asked = async {
            let client = connect(cluster.nodes[node].view.address).await.ok()?;
            let count = client.range(RangeRequest { count_only: true, ..ops::prefix("bench/") }).await.ok()?.count;
            (count >= at_least).then(Instant::now)
        };
        if let Ok(Some(at)) = tokio::time::timeout(Duration::from_secs(10), asked).await {
            return Ok(at);
        }
        ensure!(start.elapsed() < SERVES_WITHIN, "node {} does not serve after {SERVES_WITHIN:?}", node + 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn count(cluster: &Cluster, node: usize) -> Result<i64> {
    let client = connect(cluster.nodes[node].view.address).await?;
    Ok(client.range(RangeRequest { count_only: true, ..ops::prefix("bench/") }).await?.count)
}

async fn empty_node(cluster: &mut Cluster) -> Result<(Duration, f64)> {
    let primary = primary(cluster).await?;
    let node = (primary + 1) % cluster.nodes.len();
    let keys = count(cluster, primary).await?;
    cluster.wipe(node)?;
    tokio::time::sleep(CALM).await;
    let mut views = cluster.views();
    views.remove(node);
    let pulse = Pulse::start(&views, EVERY * 2 / 3);
    let began = Instant::now();
    tokio::time::sleep(CALM).await;
    let started = Instant::now();
    cluster.start(node)?;
    let served = serves(cluster, node, keys).await?;
    let beats = pulse.finish().await?;
    let before = quantile(&beats, began + CALM / 5, started, 0.99).context("no writes before")?;
    let meanwhile = quantile(&beats, started, served, 0.99).context("no writes meanwhile")?;
    Ok((served - started, meanwhile.as_secs_f64() / before.as_secs_f64()))
}

async fn empty_cluster(cluster: &mut Cluster) -> Result<(Duration, Duration)> {
    let primary = primary(cluster).await?;
    let keys = count(cluster, primary).await?;
    for node in &mut cluster.nodes {
        node.process.terminate()?;
    }
    for node in 0..cluster.nodes.len() {
        cluster.stop(node, false).await?;
        cluster.wipe(node)?;
    }
    let started = Instant::now();
    for node in 0..cluster.nodes.len() {
        cluster.start(node)?;
    }
    let views = cluster.views();
    let mut writes = tokio::task::JoinSet::new();
    for view in views {
        writes.spawn(async move {
            loop {
                if let Ok(client) = connect(view.address).await
                    && client.try_put(ops::put("first", "write")).await.is_ok()
                {
                    return Instant::now();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let first = tokio::time::timeout(SERVES_WITHIN, writes.join_next()).await.context("no write within the limit")?;
    let first = first.context("no node")??;
    let mut all = first;
    for node in 0..cluster.nodes.len() {
        all = all.max(serves(cluster, node, keys).await?);
    }
    Ok((first - started, all - started))
}
