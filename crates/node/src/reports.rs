//! What the engine reports: to the log, and kept for status and health.

use crate::node::Inner;
use netsy_protocol::command::Report;
use netsy_protocol::status::Status;
use parking_lot::Mutex;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So long the Elector must have missed a quorum without a break before that is said: nodes that start together, or one
/// that is started again, find each other sooner.
const QUORUM_LOST_AFTER: Duration = Duration::from_secs(5);

/// What was reported last and still holds.
#[derive(Default)]
pub(crate) struct Seen {
    quorum: Mutex<QuorumNews>,
    /// Why an operator's last wish was not fulfilled.
    pub(crate) declined: Mutex<Option<String>>,
    /// One wish at a time, so that an answer belongs to it.
    pub(crate) asking: tokio::sync::Mutex<()>,
}

impl Seen {
    /// R12: for which voters the cluster waits, if it does, and how many.
    pub(crate) fn quorum_lost(&self) -> Option<(String, usize)> {
        self.quorum.lock().said.clone()
    }
}

/// R12, as it was found and as it was said: why there is no election, and how many voters are missing.
#[derive(Default)]
struct QuorumNews {
    /// Since when the quorum is missed.
    since: Option<Instant>,
    said: Option<(String, usize)>,
}

/// What is to be done about news of the quorum.
#[derive(Debug, PartialEq, Eq)]
enum Say {
    Nothing,
    /// Look again when it has lasted long enough.
    Later(Duration),
    Lost(String),
    Back,
}

impl QuorumNews {
    fn note(&mut self, found: Option<(String, usize)>, at: Instant) -> Say {
        let Some(found) = found else {
            self.since = None;
            return if self.said.take().is_some() { Say::Back } else { Say::Nothing };
        };
        let first = self.since.is_none();
        let lasts = at.saturating_duration_since(*self.since.get_or_insert(at));
        if first {
            return Say::Later(QUORUM_LOST_AFTER);
        }
        if lasts < QUORUM_LOST_AFTER || self.said.as_ref() == Some(&found) {
            return Say::Nothing;
        }
        Say::Lost(self.said.insert(found).0.clone())
    }
}

/// Every node says what the Elector found, when that changes and lasts.
pub(crate) fn note_quorum(node: &Arc<Inner>, status: &Status) {
    let missing = status.quorum_lost.as_ref().map_or(0, |lost| lost.missing.len());
    let found = quorum_lost(status).map(|text| (text, missing));
    // Said under the lock, so that lines are in the order of what they say.
    let mut news = node.driver.seen.quorum.lock();
    match news.note(found, Instant::now()) {
        Say::Nothing => {}
        Say::Lost(text) => tracing::error!("{text}"),
        Say::Back => tracing::info!("the quorum is not lost any more"),
        Say::Later(pause) => {
            let node = node.clone();
            node.clone().spawn("reports", async move {
                tokio::select! {
                    () = node.wait_ended() => {}
                    () = tokio::time::sleep(pause) => {
                        let status = node.ask_engine(|engine, now| engine.status(now));
                        note_quorum(&node, &status);
                    }
                }
            });
        }
    }
}

fn names(nodes: &[netsy_api::ids::NodeId]) -> String {
    let mut out = String::new();
    // In one order, whatever that of the manifest: texts are compared, by programs and by people.
    let sorted: std::collections::BTreeSet<_> = nodes.iter().collect();
    for node in sorted {
        // Writing into a String cannot fail.
        let _ = write!(out, "{}{node}", if out.is_empty() { "" } else { ", " });
    }
    if out.is_empty() { "none".to_string() } else { out }
}

/// R12: why there is no election, what would mend it, and what an operator can do; `None`: quorum is not lost.
fn quorum_lost(status: &Status) -> Option<String> {
    let lost = status.quorum_lost.as_ref()?;
    let manifest = status.manifest.as_ref()?;
    let mut missing = String::new();
    for voter in manifest.waited_for().filter(|v| lost.missing.contains(&v.node_id)) {
        let other =
            status.nodes.iter().any(|n| n.node.node_id == voter.node_id && n.node.incarnation != voter.incarnation);
        let why = match (other, manifest.names(voter)) {
            (true, true) => "runs with another database than the one that votes",
            (true, false) => "runs with another database than the one that a recovery kept",
            (false, true) => "does not answer",
            (false, false) => "does not answer, and has the log that a recovery kept",
        };
        // Writing into a String cannot fail.
        let _ = write!(missing, "{}{} ({why})", if missing.is_empty() { "" } else { ", " }, voter.node_id);
    }
    if missing.is_empty() {
        return None; // Found by an older manifest: those that it missed are no voters any more.
    }
    let all: Vec<_> = manifest.voters.iter().map(|v| v.node_id.clone()).collect();
    Some(format!(
        "quorum lost: of the voters {} {} must answer with the database they vote with; answering: {}; missing: \
         {missing}. What was acknowledged last may be on their disks only: start them with their data folders. If those \
         are gone for good, `netsy recover --lost {}` tells what is lost and, once confirmed, goes on without them",
        names(&all),
        lost.needed,
        names(&lost.answered),
        names(&lost.missing).replace(", ", ","),
    ))
}

pub(crate) fn report(node: &Arc<Inner>, report: Report) {
    let seen = &node.driver.seen;
    match report {
        Report::BecameElector => tracing::info!("this node is the Elector"),
        Report::NoElector => tracing::info!("this node is the Elector no more"),
        Report::ElectionBegan { term, why } => tracing::info!(term = term.0, why, "an election begins"),
        Report::Elected { term, primary } => {
            tracing::info!(term = term.0, primary = %primary.node_id, "a Primary is elected");
        }
        Report::QuorumLost { .. } | Report::QuorumBack => {
            let status = node.ask_engine(|engine, now| engine.status(now));
            note_quorum(node, &status);
        }
        Report::QuorumLate => tracing::warn!("the quorum is late: writes are acknowledged from the object log"),
        Report::QuorumInTime => tracing::info!("the quorum is in time again"),
        Report::SealInHole(seq) => tracing::info!(seq = seq.0, "the seal fell into a hole that clean-up left"),
        Report::SealTaken(seq) => tracing::info!(seq = seq.0, "the seal's number was taken"),
        Report::ChangeBegan => tracing::debug!("a change of voters or quorum begins"),
        Report::ChangeDone => {
            let status = node.ask_engine(|engine, now| engine.status(now));
            if let Some(manifest) = status.manifest {
                let voters: Vec<_> = manifest.voters.iter().map(|v| v.node_id.clone()).collect();
                tracing::info!(
                    voters = %names(&voters),
                    quorum = manifest.quorum,
                    copies_min = manifest.copies_min,
                    "voters or quorum changed"
                );
            }
            crate::failpoint::hit("start.voters-changed");
        }
        Report::ChangeLost => tracing::warn!("a change of voters or quorum was cut short"),
        Report::LateSwap => tracing::info!("a write of cluster.json whose outcome was open turned out to have landed"),
        Report::ConfigDiffers { quorum, copies_min } => tracing::warn!(
            "the cluster has quorum {quorum} and copies_min {copies_min}, this node's configuration says {} and {}: \
             the cluster's count; netsy cluster set changes them",
            node.config.quorum,
            node.config.copies_min
        ),
        Report::Recovered { term, index } => tracing::warn!(
            term = term.0,
            index = index.0,
            "recovered from quorum loss: what was acknowledged after this entry, or in terms later than its own, and not \
             uploaded is missing"
        ),
        Report::Declined(why) => {
            tracing::warn!(%why, "an operator's wish was declined");
            *seen.declined.lock() = Some(why);
        }
        Report::Forgetful(peer) => {
            tracing::error!(%peer, "a node reports less than was seen of it, as a restored backup does, and is refused: stop it and move its data folder \
                 away; it then starts from the bucket");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_counts_as_lost_only_when_it_stays_away() {
        let (mut news, begin) = (QuorumNews::default(), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        let lost = |text: &str| Some((text.to_owned(), 1));
        // Nodes that start: missed for a moment, twice.
        assert_eq!(news.note(lost("n2"), at(0)), Say::Later(QUORUM_LOST_AFTER));
        assert_eq!(news.note(lost("n3"), at(900)), Say::Nothing);
        assert_eq!(news.note(None, at(1_000)), Say::Nothing);
        assert_eq!(news.note(lost("n2"), at(4_000)), Say::Later(QUORUM_LOST_AFTER));
        assert_eq!(news.note(lost("n2"), at(6_000)), Say::Nothing, "the time runs anew");
        assert_eq!(news.said, None);
        // It stays: said once, and again when it is another one.
        assert_eq!(news.note(lost("n2"), at(9_000)), Say::Lost("n2".into()));
        assert_eq!(news.note(lost("n2"), at(9_100)), Say::Nothing);
        assert_eq!(news.note(lost("n2, n3"), at(9_200)), Say::Lost("n2, n3".into()));
        assert_eq!(news.said, lost("n2, n3"));
        assert_eq!(news.note(None, at(9_300)), Say::Back);
        assert_eq!(news.said, None);
    }
}
