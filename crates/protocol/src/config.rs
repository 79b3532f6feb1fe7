//! What an [`Engine`](crate::engine::Engine) is set up with.

use crate::manifest::ProcessId;
use crate::reconcile::Runs;
use netsy_api::ids::{LogIndex, NodeId, Session, Term};

/// Milliseconds of a clock that goes on while the machine is suspended. Only differences count.
pub type Millis = u64;

/// The settings of the configuration that the rules use (config.md); the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `replication.quorum`, for a cluster that is created.
    pub quorum: i32,
    /// `replication.copies_min`, for a cluster that is created.
    pub copies_min: usize,
    /// `replication.voters_max`.
    pub voters_max: usize,
    /// `replication.quorum_timeout`: then the write goes to the object log (R8).
    pub quorum_timeout: Millis,
    /// `replication.read_lease`; 0: none (R9 iii).
    pub read_lease: Millis,
    /// `heartbeat_interval`.
    pub heartbeat_interval: Millis,
    /// `elector.degradation_count`: misses until a node counts as lost.
    pub degradation_count: u32,
    /// `elector.deregistration_timeout`; 0: nobody is removed automatically.
    pub deregistration_timeout: Millis,
    /// `elector.leader_timeout`: age at which the elector lock alone may be taken over.
    pub leader_timeout: Millis,
    /// `drain_timeout`: a graceful stop's limit.
    pub drain_timeout: Millis,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            quorum: -1,
            copies_min: 2,
            voters_max: 5,
            quorum_timeout: 500,
            read_lease: 2_000,
            heartbeat_interval: 500,
            degradation_count: 2,
            deregistration_timeout: 180_000,
            leader_timeout: 10_000,
            drain_timeout: 30_000,
        }
    }
}

impl Settings {
    /// Silence after which a node counts as lost.
    pub fn silence(&self) -> Millis {
        self.heartbeat_interval.saturating_mul(u64::from(self.degradation_count.max(1)))
    }
}

/// What the local database holds as the process starts. Registration (R11: the boot counter in the database, then in
/// `nodes/{id}.json`) is done before the engine is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The durable promise (R2).
    pub promised: Term,
    /// The whole stored log.
    pub runs: Runs,
    /// Up to here entries were shown (R8).
    pub visible: LogIndex,
    /// The newest process of this database that led a term to the end of R4 ([`LocalOp::Led`](crate::command::LocalOp)).
    pub led: Option<Session>,
}

/// Everything an engine begins with.
#[derive(Clone, Debug)]
pub struct Start {
    /// The cluster's name: goes into a first manifest.
    pub cluster_id: String,
    /// This process.
    pub me: ProcessId,
    /// Where peers reach it: goes into the elector lock and to other nodes.
    pub address: String,
    /// The settings.
    pub settings: Settings,
    /// What the local database holds.
    pub stored: Stored,
    /// Random bits of the system: all nonces, ids and jitter come from here. Never the same twice.
    pub seed: u128,
    /// Nodes known from the registrations read at the start, this one included; may be empty.
    pub nodes: Vec<RegisteredNode>,
}

/// What the rules need of a registration (R11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredNode {
    /// The node.
    pub node_id: NodeId,
    /// The database it registered with.
    pub incarnation: netsy_api::ids::Incarnation,
    /// It stopped gracefully, or was taken out of the cluster.
    pub stopped: bool,
    /// Where peers reach it.
    pub address: String,
}
