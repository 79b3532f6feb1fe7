//! What a node knows of the cluster, for health, metrics and `netsy member list`.

use crate::config::RegisteredNode;
use crate::manifest::{Manifest, ProcessId};
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
