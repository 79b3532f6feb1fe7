//! What a node knows of the cluster, for health, metrics and `netsy member list`.

use crate::config::{Millis, RegisteredNode};
use crate::engine::Engine;
use crate::manifest::{Manifest, ProcessId};
use crate::quorum::Voter;
use crate::reconcile::Run;
use netsy_api::ids::{LogIndex, NodeId, Term};

/// What this node does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a Primary.
    Replica,
    /// Was elected and takes the log over (R4).
    TakingOver,
    /// Acts as Primary.
    Primary,
    /// Acts as Primary, but takes no new writes: it hands over.
    HandingOver,
}

/// R12: why there is no election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumLost {
    /// Promises wanted.
    pub needed: usize,
    /// Voters that answered.
    pub answered: Vec<NodeId>,
    /// Voters that did not.
    pub missing: Vec<NodeId>,
}

/// A node as the Elector or the Primary sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Who.
    pub node: RegisteredNode,
    /// It answers.
    pub healthy: bool,
    /// The manifest names it, with this incarnation.
    pub voter: bool,
    /// What it durably holds, where this node is the Primary.
    pub held: Option<LogIndex>,
    /// The end of its log, where this node is the Elector and heard it lately.
    pub reported: Option<Run>,
}

/// A node's view of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What this node does.
    pub role: Role,
    /// The newest term it knows of.
    pub term: Term,
    /// Its promise.
    pub promised: Term,
    /// The Primary it follows or is, with its term; `None`: none known.
    pub primary: Option<(Term, ProcessId)>,
    /// That Primary serves requests, as far as known here.
    pub primary_ready: bool,
    /// The Elector's node.
    pub elector: Option<NodeId>,
    /// This node is it.
    pub is_elector: bool,
    /// The newest manifest it read.
    pub manifest: Option<Manifest>,
    /// A change of voters or quorum is under way.
    pub changing: bool,
    /// Writes take the object log, since the quorum is late (R8).
    pub quorum_late: bool,
    /// R12.
    pub quorum_lost: Option<QuorumLost>,
    /// Committed, as known here.
    pub committed: LogIndex,
    /// Shown.
    pub visible: LogIndex,
    /// The last entry accepted.
    pub end: LogIndex,
    /// The last entry known to be in the object log, where this node is the Primary.
    pub in_object_log: LogIndex,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
    /// A graceful stop is under way.
    pub stopping: bool,
}

impl Engine {
    /// The Primary, if it serves requests as far as known here.
    pub fn serving_primary(&self) -> Option<&ProcessId> {
        let (term, process) = self.follower.target.as_ref()?;
        let serves = match &self.primary {
            Some(primary) => primary.serves(),
            None => self.hears(*term),
        };
        serves.then_some(process)
    }

    /// What this node knows.
    pub fn status(&self, now: Millis) -> Status {
        let silence = self.settings.silence();
        let healthy = self.peers.healthy(now.max(self.now), silence);
        let role = match &self.primary {
            None => Role::Replica,
            Some(primary) if !primary.serves() => Role::TakingOver,
            Some(_) if self.hand_over.is_some() || self.stop.is_some() => Role::HandingOver,
            Some(_) => Role::Primary,
        };
        let tracker = self.primary.as_ref().and_then(|p| p.tracker.as_ref());
        let nodes = self.nodes.values().map(|node| {
            let voter = Voter { node_id: node.node_id.clone(), incarnation: node.incarnation };
            let streams = self.primary.iter().flat_map(|p| p.streams.values());
            let heard = streams
                .filter(|r| r.process.node_id == node.node_id)
                .any(|r| now.saturating_sub(r.last_heard) <= silence);
            NodeStatus {
                healthy: node.node_id == self.me.node_id || heard || healthy.contains(&node.node_id),
                voter: self.manifest.as_ref().is_some_and(|m| m.names(&voter)),
                reported: self.peers.report_of(&node.node_id).and_then(|(report, at)| {
                    (now.saturating_sub(*at) <= silence && report.process.incarnation == node.incarnation)
                        .then_some(report.end)
                }),
                held: tracker.and_then(|t| t.held_by(&voter)),
                node: node.clone(),
            }
        });
        Status {
            role,
            term: self.follower.target.as_ref().map_or(Term(0), |(term, _)| *term),
            promised: self.log.promised(),
            primary: self.follower.target.clone(),
            primary_ready: self.serving_primary().is_some(),
            elector: self.lock.elector().cloned(),
            is_elector: self.lock.held,
            manifest: self.manifest.clone(),
            changing: self.primary.as_ref().is_some_and(|p| p.change.is_some()),
            quorum_late: self.primary.as_ref().is_some_and(|p| p.late),
            quorum_lost: self.quorum_lost.clone(),
            committed: self.committed(),
            visible: self.log.visible(),
            end: self.log.end().last_index,
            in_object_log: self.primary.as_ref().map_or(LogIndex(0), |p| p.uploaded),
            nodes: nodes.collect(),
            stopping: self.stop.is_some(),
        }
    }
}
