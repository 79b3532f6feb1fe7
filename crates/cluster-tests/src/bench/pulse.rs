//! Writes at a steady beat through every node, whatever becomes of them: what is measured is when one gets through.

use crate::cluster::{NodeView, connect};
use anyhow::{Context, Result};
use netsy_e2e::{Client, ops};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// At one node; more are not sent.
const UNANSWERED_MAX: usize = 400;
/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// Keys written to.
const KEYS: u64 = 1_000;
const VALUE_BYTES: usize = 256;

/// One write.
#[derive(Clone, Debug)]
pub struct Beat {
    /// When it was sent.
    pub sent: Instant,
    /// How long its acknowledgement took, or why there was none.
    pub took: Result<Duration, String>,
}

/// Running writers.
pub struct Pulse {
    stop: Arc<AtomicBool>,
    writers: JoinSet<Vec<Beat>>,
}

impl Pulse {
    /// Begins to write through each of the nodes, `every` so long.
    pub fn start(nodes: &[NodeView], every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let number = Arc::new(AtomicU64::new(0));
        let mut writers = JoinSet::new();
        for node in nodes {
            writers.spawn(writer(node.clone(), every, Arc::clone(&stop), Arc::clone(&number)));
        }
        Self { stop, writers }
    }

    /// Ends; gives every write.
    pub async fn finish(mut self) -> Result<Vec<Beat>> {
        self.stop.store(true, Ordering::SeqCst);
        let mut beats = Vec::new();
        while let Some(ended) = self.writers.join_next().await {
            beats.extend(ended.context("a writer")?);
        }
        Ok(beats)
    }
}

async fn writer(node: NodeView, every: Duration, stop: Arc<AtomicBool>, number: Arc<AtomicU64>) -> Vec<Beat> {
    let mut beats = Vec::new();
    let mut connection: Option<Client> = None;
    let mut unanswered = JoinSet::new();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !stop.load(Ordering::SeqCst) {
        ticks.tick().await;
        while let Some(beat) = unanswered.try_join_next() {
            let Ok(beat) = beat else { continue };
            keep(beat, &mut beats, &mut connection);
        }
        if connection.is_none() {
            connection = connect(node.address).await.ok();
        }
        let Some(client) = connection.clone().filter(|_| unanswered.len() < UNANSWERED_MAX) else { continue };
        let key = number.fetch_add(1, Ordering::Relaxed) % KEYS;
        unanswered.spawn(async move {
            let sent = Instant::now();
            let put = ops::put(format!("beat/{key:04}"), vec![b'x'; VALUE_BYTES]);
            let took = match tokio::time::timeout(ANSWER_WITHIN, client.try_put(put)).await {
                Ok(Ok(_)) => Ok(sent.elapsed()),
                Ok(Err(status)) => Err(format!("{:?}: {}", status.code(), status.message())),
                Err(_) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
            };
            Beat { sent, took }
        });
    }
    while let Some(beat) = unanswered.join_next().await {
        let Ok(beat) = beat else { continue };
        keep(beat, &mut beats, &mut connection);
    }
    beats
}

fn keep(beat: Beat, beats: &mut Vec<Beat>, connection: &mut Option<Client>) {
    // A broken connection is made anew; etcd's own errors come over a good one.
    if beat.took.as_ref().is_err_and(|why| !why.contains("etcdserver: ")) {
        *connection = None;
    }
    beats.push(beat);
}

/// From `since` until the first acknowledgement of a write sent after it.
pub fn next_acknowledged(beats: &[Beat], since: Instant) -> Option<Duration> {
    let acknowledged = beats.iter().filter(|beat| beat.sent > since);
    acknowledged.filter_map(|beat| Some(beat.sent + *beat.took.as_ref().ok()? - since)).min()
}

/// The longest that an acknowledged write sent in this time took, and what those that failed said.
pub fn longest(beats: &[Beat], from: Instant, to: Instant) -> (Option<Duration>, Vec<String>) {
    let within = || beats.iter().filter(|beat| beat.sent >= from && beat.sent <= to);
    let longest = within().filter_map(|beat| beat.took.clone().ok()).max();
    (longest, within().filter_map(|beat| beat.took.clone().err()).collect())
}

/// This share of the acknowledged writes sent in this time took no longer.
pub fn quantile(beats: &[Beat], from: Instant, to: Instant, share: f64) -> Option<Duration> {
    let within = beats.iter().filter(|beat| beat.sent >= from && beat.sent <= to);
    let mut took: Vec<Duration> = within.filter_map(|beat| beat.took.clone().ok()).collect();
    took.sort_unstable();
    let at = ((took.len() as f64 * share).ceil() as usize).saturating_sub(1);
    took.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let beat =
            |sent, took: Result<u64, &str>| Beat { sent: start + ms(sent), took: took.map(ms).map_err(str::to_owned) };
        // The first was sent before, the second fails, the fourth is answered before the third.
        let beats = [beat(5, Ok(20)), beat(11, Err("no")), beat(12, Ok(90)), beat(30, Ok(40))];
        assert_eq!(next_acknowledged(&beats, start + ms(10)), Some(ms(60)));
        assert_eq!(next_acknowledged(&beats, start + ms(31)), None);
        let (longest, failed) = longest(&beats, start, start + ms(20));
        assert_eq!((longest, failed.len()), (Some(ms(90)), 1));
        assert_eq!(quantile(&beats, start, start + ms(40), 0.5), Some(ms(40)));
        assert_eq!(quantile(&beats, start, start + ms(40), 0.99), Some(ms(90)));
    }
}
