//! What the engine reports: to the log, and kept for status and health.

use crate::node::Inner;
use netsy_protocol::command::Report;
use netsy_protocol::status::QuorumLost;
use parking_lot::Mutex;
use std::fmt::Write as _;
use std::sync::Arc;

/// What was reported last and still holds.
#[derive(Default)]
pub(crate) struct Seen {
    /// R12: why there is no election.
    quorum_lost: Mutex<Option<QuorumLost>>,
    /// Why an operator's last wish was not fulfilled.
    pub(crate) declined: Mutex<Option<String>>,
}

impl Seen {
    /// R12: which voters the cluster waits for, if it does.
    pub(crate) fn quorum_lost(&self) -> Option<QuorumLost> {
        self.quorum_lost.lock().clone()
    }
}

/// What is to be said of a quorum that is lost.
pub(crate) fn explain(lost: &QuorumLost) -> String {
    format!(
        "quorum lost: the cluster's last writes may be on no disk but those of its voters, {} of whom must be here to go \
         on; here: {}, missing: {}. Bring missing ones back with their data folders; if they are gone for good, netsy \
         recover --lost NODE says so",
        lost.needed,
        names(&lost.answered),
        names(&lost.missing)
    )
}

/// Every node says what the Elector found, when that changes.
pub(crate) fn note_quorum(node: &Inner, now: Option<QuorumLost>) {
    let mut known = node.driver.seen.quorum_lost.lock();
    if *known == now {
        return;
    }
    match &now {
        Some(lost) => tracing::error!("{}", explain(lost)),
        None => tracing::info!("the quorum is not lost any more"),
    }
    *known = now;
}

fn names(nodes: &[netsy_api::ids::NodeId]) -> String {
    let mut out = String::new();
    for node in nodes {
        // Writing into a String cannot fail.
        let _ = write!(out, "{}{node}", if out.is_empty() { "" } else { ", " });
    }
    if out.is_empty() { "none".to_string() } else { out }
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
        Report::QuorumLost { needed, answered, missing } => {
            note_quorum(node, Some(QuorumLost { needed, answered, missing }));
        }
        Report::QuorumBack => note_quorum(node, None),
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
            "recovered from quorum loss: what was acknowledged after this entry and not uploaded is missing"
        ),
        Report::Declined(why) => {
            tracing::warn!(%why, "an operator's wish was declined");
            *seen.declined.lock() = Some(why);
        }
        Report::Forgetful(peer) => {
            tracing::error!(%peer, "a node reports less than was seen of it: its database is a restored backup?");
        }
    }
}
