//! What a scenario expects between its faults.

use crate::cluster::{Cluster, name};
use crate::record::Shared;
use anyhow::{Context, Result, bail, ensure};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PAUSE: Duration = Duration::from_millis(50);
/// One answer of a health port: its own checks may take a request's time.
const HTTP_WITHIN: Duration = Duration::from_secs(10);

/// The manifest names these voters and no others.
pub async fn voters(cluster: &Cluster, wanted: &[usize], within: f64) -> Result<()> {
    let start = Instant::now();
    loop {
        let found = cluster.voters();
        if found.as_deref() == Some(wanted) {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs_f64(within) {
            let names = |nodes: &[usize]| nodes.iter().map(|node| name(*node)).collect::<Vec<_>>().join(" ");
            let found = found.as_deref().map_or("unknown".to_owned(), names);
            bail!("after {within} s the voters are {found:?}, not {:?}", names(wanted));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Each of the nodes says something, in its log or at its health port.
pub async fn says(cluster: &Cluster, nodes: &[usize], place: &str, text: &str, within: f64) -> Result<()> {
    let start = Instant::now();
    for node in nodes {
        loop {
            let found = match place {
                "log" => std::fs::read(cluster.nodes[*node].process.log())?,
                path => get(cluster.health_address(*node), path).await.unwrap_or_default(),
            };
            let found = String::from_utf8_lossy(&found);
            if found.contains(text) {
                break;
            }
            if start.elapsed() > Duration::from_secs_f64(within) {
                let end: String = found.chars().rev().take(600).collect::<Vec<_>>().into_iter().rev().collect();
                bail!("{} does not say {text:?} in {place}, which ends with: {end}", name(*node));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// None of the nodes says something.
pub async fn says_not(cluster: &Cluster, nodes: &[usize], place: &str, text: &str) -> Result<()> {
    for node in nodes {
        let found = match place {
            "log" => std::fs::read(cluster.nodes[*node].process.log())?,
            path => get(cluster.health_address(*node), path).await?,
        };
        let found = String::from_utf8_lossy(&found);
        if let Some(line) = found.lines().find(|line| line.contains(text)) {
            bail!("{} says in {place}: {line}", name(*node));
        }
    }
    Ok(())
}

async fn get(address: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let asked = async {
        let mut socket = tokio::net::TcpStream::connect(address).await?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    tokio::time::timeout(HTTP_WITHIN, asked).await.context("no answer")?
}

/// A write is acknowledged from now on.
pub async fn serves(shared: &Shared, within: f64) -> Result<String> {
    let (start, before) = (Instant::now(), shared.acknowledged.load(Ordering::SeqCst));
    while shared.acknowledged.load(Ordering::SeqCst) == before {
        ensure!(start.elapsed() < Duration::from_secs_f64(within), "no write was acknowledged for {within} s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(format!("a write was acknowledged after {:.2?}", start.elapsed()))
}

/// Nothing is acknowledged.
pub async fn halted(shared: &Shared, seconds: f64) -> Result<()> {
    let before = shared.acknowledged.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let more = shared.acknowledged.load(Ordering::SeqCst) - before;
    ensure!(more == 0, "{more} writes were acknowledged by a cluster that should stand still");
    Ok(())
}
