//! The objects that are compared and swapped, as the rules see them (R1, R10, section 4).
//!
//! Contents never repeat, as each write carries a fresh nonce: the nonce therefore stands for the version to swap
//! from. The driver keeps the store's own version of what it read, and fields this program does not know.

use crate::quorum::{QuorumRule, Voter};
use crate::reconcile::Run;
use netsy_api::ids::{Incarnation, LogIndex, NodeId, Nonce, Session, Term};
use std::collections::BTreeMap;

/// A process: who acts in a term (R1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId {
    /// The node.
    pub node_id: NodeId,
    /// Its database.
    pub incarnation: Incarnation,
    /// The process.
    pub session: Session,
}

impl ProcessId {
    /// It as a voter.
    pub fn voter(&self) -> Voter {
        Voter { node_id: self.node_id.clone(), incarnation: self.incarnation }
    }
}

/// An operator said that voters are gone for good (R12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recovered {
    /// The term that began from what was left.
    pub term: Term,
    /// The last entry of what was left. What was acknowledged after it is given up, and so is what was acknowledged in
    /// terms later than that entry's, at whatever index, unless the object log has it.
    pub index: LogIndex,
}

impl Recovered {
    /// A node's log that ends with `end`, without what was given up: entries of terms before the recovery that are
    /// after what it went on with.
    pub(crate) fn kept_of(&self, end: Run) -> Run {
        if end.term < self.term { Run { last_index: end.last_index.min(self.index), ..end } } else { end }
    }
}

/// `cluster.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The cluster's name.
    pub cluster_id: String,
    /// The newest term.
    pub term: Term,
    /// Who acts in it.
    pub primary: ProcessId,
    /// Who acted before (R9: whose leases may run).
    pub previous: Option<ProcessId>,
    /// A session that gave up its read lease for ever.
    pub released: Option<Session>,
    /// Whose copies count.
    pub voters: Vec<Voter>,
    /// -1 majority, 0 object storage, N replica receipts.
    pub quorum: i32,
    /// Fewest disks a write is on before it is acknowledged without the bucket.
    pub copies_min: usize,
    /// One more with every write.
    pub config_version: u64,
    /// Another with every write.
    pub nonce: Nonce,
    /// etcd member ids.
    pub members: BTreeMap<NodeId, u64>,
    /// The last time an operator gave voters up.
    pub recovered: Option<Recovered>,
    /// Whose log that recovery kept, until a Primary has put it into the object log and served: what it kept may be on
    /// that disk only, so there is no election without it.
    pub kept: Option<Voter>,
}

impl Manifest {
    /// What its numbers mean.
    pub fn rule(&self) -> QuorumRule {
        QuorumRule::new(self.voters.len(), self.quorum, self.copies_min)
    }

    /// Those without whom there may be no election: the voters, and whose log a recovery kept, where that is none.
    pub fn waited_for(&self) -> impl Iterator<Item = &Voter> {
        self.voters.iter().chain(self.kept.iter().filter(|kept| !self.voters.contains(kept)))
    }

    /// Whether `voter` is one of its voters.
    pub fn names(&self, voter: &Voter) -> bool {
        self.voters.contains(voter)
    }
}

/// `elector.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectorLock {
    /// The holder's node.
    pub node_id: NodeId,
    /// The holder's process.
    pub session: Session,
    /// Where peers reach it.
    pub address: String,
    /// One more with every renewal.
    pub counter: u64,
    /// Another with every write.
    pub nonce: Nonce,
}

/// The etcd member id that a node gets unless it is taken: FNV-1a of cluster and node, so that a node knows it before
/// the manifest names it. Positive also where a client reads it as a signed number.
pub fn usual_member_id(cluster_id: &str, node_id: &NodeId) -> u64 {
    let text = format!("{cluster_id}/{node_id}");
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash >> 1).max(1)
}
