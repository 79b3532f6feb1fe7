//! How long writes wait when a node is killed, cut off, or hands over.

use super::Bench;
use super::pulse::{Pulse, longest, next_acknowledged};
use super::table::{Goal, Measured, Row};
use crate::cluster::Cluster;
use crate::faults::{Faults, hand_over, primary};
use crate::scenario::ServerKind;
use anyhow::{Context, Result};
use netsy_e2e::random::Random;
use std::time::{Duration, Instant};

/// One write at each node.
const EVERY: Duration = Duration::from_millis(10);
/// Writing before anything happens, and after all is settled.
const BEFORE: Duration = Duration::from_millis(1_000);
/// Watched after it happened.
const AFTER: Duration = Duration::from_millis(6_000);
/// Left alone after it was put right: nodes are registered again, followers catch up.
const REST: Duration = Duration::from_millis(2_500);

/// What happens in each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// kill -9 of the Primary.
    KillPrimary,
    /// kill -9 of a node that is both.
    KillPrimaryAndElector,
    /// kill -9 of the Elector, which is not Primary (of etcd: of a follower).
    KillElector,
    /// The Primary's network is gone.
    CutPrimary,
    /// MoveLeader.
    HandOver,
    /// SIGTERM to the Primary.
    StopPrimary,
}

impl Event {
    /// In the order of the table, with the names on the command line.
    pub const ALL: [(Self, &'static str, &'static str, Goal); 6] = [
        (
            Self::KillPrimary,
            "kill-primary",
            "kill -9 of the Primary → next acknowledged write",
            Goal::AtMostMs(1000.0, 3000.0),
        ),
        (
            Self::KillPrimaryAndElector,
            "kill-both",
            "kill -9 of a node that is Primary and Elector → next acknowledged write",
            Goal::AtMostMs(1000.0, 3000.0),
        ),
        (
            Self::CutPrimary,
            "cut-primary",
            "the Primary's network cut off → next acknowledged write",
            Goal::AtMostMs(2500.0, 5000.0),
        ),
        (
            Self::KillElector,
            "kill-elector",
            "kill -9 of the Elector only (etcd: of a follower): the longest write",
            Goal::AtMostMs(200.0, 200.0),
        ),
        (
            Self::HandOver,
            "hand-over",
            "planned hand-over: the longest write, failed requests",
            Goal::AtMostMs(250.0, 250.0),
        ),
        (
            Self::StopPrimary,
            "stop-primary",
            "SIGTERM to the Primary: the longest write at the other nodes",
            Goal::AtMostMs(500.0, 500.0),
        ),
    ];
}

/// All rounds of one row, at both servers in turn.
pub async fn row(bench: &Bench, event: Event, what: &str, goal: Goal) -> Result<Row> {
    let mut row = Row { what: what.to_owned(), unit: "ms", netsy: None, etcd: None, goal };
    for kind in &bench.servers {
        let measured = rounds(bench, *kind, event).await.with_context(|| format!("{event:?} at {kind:?}"))?;
        match kind {
            ServerKind::Netsy => row.netsy = Some(measured),
            ServerKind::Etcd => row.etcd = Some(measured),
        }
    }
    Ok(row)
}

async fn rounds(bench: &Bench, kind: ServerKind, event: Event) -> Result<Measured> {
    let mut measured = Measured::default();
    let mut cluster = bench.cluster(kind, 3).await?;
    cluster.start_all().await?;
    let mut faults = Faults::new(Random::new(bench.seed));
    for number in 0..bench.rounds {
        tokio::time::sleep(REST).await;
        let struck = prepare(&mut cluster, event).await?;
        match round(&mut cluster, event, struck, &mut measured).await {
            Ok(figure) => println!("    {kind:?} {event:?} {}: {figure:.0} ms", number + 1),
            Err(error) => {
                println!("    {kind:?} {event:?} {}: {error:#}", number + 1);
                measured.failures.push(format!("{error:#}"));
            }
        }
        faults.cure(&mut cluster)?;
        for node in 0..cluster.nodes.len() {
            cluster.ready(node).await?;
        }
    }
    Ok(measured)
}

/// Makes the roles such that the event can happen; gives the node that it happens to.
async fn prepare(cluster: &mut Cluster, event: Event) -> Result<usize> {
    let primary_now = primary(cluster).await?;
    if cluster.kind == ServerKind::Etcd {
        return Ok(if event == Event::KillElector { (primary_now + 1) % cluster.nodes.len() } else { primary_now });
    }
    let elector = cluster.elector().context("the Elector is not known")?;
    match event {
        Event::KillPrimaryAndElector if primary_now != elector => {
            hand_over(cluster, primary_now, elector).await?;
            tokio::time::sleep(REST).await;
            Ok(elector)
        }
        Event::KillElector if primary_now == elector => {
            hand_over(cluster, primary_now, (primary_now + 1) % cluster.nodes.len()).await?;
            tokio::time::sleep(REST).await;
            cluster.elector().context("the Elector is not known")
        }
        Event::KillElector => Ok(elector),
        _ => Ok(primary_now),
    }
}

async fn round(cluster: &mut Cluster, event: Event, struck: usize, measured: &mut Measured) -> Result<f64> {
    let mut views = cluster.views();
    if matches!(event, Event::KillElector | Event::StopPrimary) {
        // What a dying node does to those connected to it is not the question.
        views.remove(struck);
    }
    let pulse = Pulse::start(&views, EVERY);
    tokio::time::sleep(BEFORE).await;
    let mut at = Instant::now();
    match event {
        Event::KillPrimary | Event::KillPrimaryAndElector | Event::KillElector => {
            cluster.nodes[struck].process.kill()?;
        }
        Event::CutPrimary => {
            cluster.net.unplug(struck)?;
            // What was sent until here may have got through.
            at = Instant::now();
        }
        Event::HandOver => {
            let to = (struck + 1) % cluster.nodes.len();
            hand_over(cluster, struck, to).await?;
        }
        Event::StopPrimary => cluster.nodes[struck].process.terminate()?,
    }
    tokio::time::sleep((at + AFTER).saturating_duration_since(Instant::now())).await;
    let end = Instant::now();
    let beats = pulse.finish().await?;
    let figure = match event {
        Event::KillPrimary | Event::KillPrimaryAndElector | Event::CutPrimary => {
            next_acknowledged(&beats, at).context("no write was acknowledged any more")?
        }
        Event::KillElector | Event::HandOver | Event::StopPrimary => {
            let (longest, failed) = longest(&beats, at - BEFORE / 2, end);
            measured.failures.extend(failed);
            longest.context("no write was acknowledged")?
        }
    };
    let figure = figure.as_secs_f64() * 1e3;
    measured.values.push(figure);
    Ok(figure)
}
