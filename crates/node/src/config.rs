//! What a node is told: plain values; parsing and defaults are the program's.

use netsy_api::ids::NodeId;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of one node and its cluster (config.md).
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The cluster's name.
    pub cluster_id: String,
    /// This node's name.
    pub node_id: NodeId,
    /// Folder of the local database.
    pub data_dir: PathBuf,
    /// URLs under which clients reach this node.
    pub advertise_client: Vec<String>,
    /// URLs under which other nodes reach this node.
    pub advertise_peer: Vec<String>,
    /// `replication.quorum`; counts when the cluster is created.
    pub quorum: i32,
    /// `replication.copies_min`; counts when the cluster is created.
    pub copies_min: usize,
    /// `replication.quorum_timeout`: then the write goes to the object log.
    pub quorum_timeout: Duration,
    /// `replication.voters_max`.
    pub voters_max: usize,
    /// `heartbeat_interval`.
    pub heartbeat_interval: Duration,
    /// `elector.degradation_count`: misses until a node counts as lost.
    pub degradation_count: u32,
    /// `elector.deregistration_timeout`; zero: no node is removed by itself.
    pub deregistration_timeout: Duration,
    /// `elector.leader_timeout`: age at which the elector lock alone may be taken over.
    pub leader_timeout: Duration,
    /// `replication.read_lease`; zero: `cluster.json` is read for each batch of reads.
    pub read_lease: Duration,
    /// Upload when this many bytes are committed and not uploaded …
    pub chunk_bytes: usize,
    /// … or the oldest of them is this old.
    pub chunk_age: Duration,
    /// A snapshot is made when this many mutations …
    pub snapshot_records: u64,
    /// … or bytes of keys and values changed since the last, …
    pub snapshot_bytes: u64,
    /// … or it is this old and anything changed.
    pub snapshot_age: Duration,
    /// How far back a point-in-time restore can reach.
    pub snapshot_retention: Duration,
    /// How often history is compacted by itself; zero: never.
    pub compaction_interval: Duration,
    /// How much history automatic compaction keeps.
    pub compaction_retention: Duration,
    /// How often a watcher that asked for it and had no event is told how far it is.
    pub watch_progress_interval: Duration,
    /// A graceful stop's limit.
    pub drain_timeout: Duration,
    /// `limits.request_bytes_max`: a larger write is refused.
    pub request_bytes_max: usize,
    /// `limits.txn_ops_max`.
    pub txn_ops_max: usize,
    /// `limits.db_bytes_max`: past it the NOSPACE alarm is raised.
    pub db_bytes_max: u64,
    /// Most bytes of current values kept in memory.
    pub value_cache_bytes_max: usize,
    /// SQLite file layer to use instead of the system's; for crash tests.
    pub sqlite_vfs: Option<String>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Settings of a node of a test's own.
    pub(crate) fn config(data_dir: &std::path::Path) -> NodeConfig {
        NodeConfig {
            cluster_id: "c".into(),
            node_id: NodeId::new("n").expect("valid"),
            data_dir: data_dir.to_path_buf(),
            advertise_client: vec![],
            advertise_peer: vec![],
            quorum: -1,
            copies_min: 2,
            quorum_timeout: Duration::from_millis(500),
            voters_max: 5,
            heartbeat_interval: Duration::from_millis(500),
            degradation_count: 2,
            deregistration_timeout: Duration::from_secs(180),
            leader_timeout: Duration::from_secs(10),
            read_lease: Duration::ZERO,
            chunk_bytes: 4 << 20,
            chunk_age: Duration::from_secs(1),
            snapshot_records: 10_000,
            snapshot_bytes: 256 << 20,
            snapshot_age: Duration::from_secs(3600),
            snapshot_retention: Duration::from_secs(86_400),
            compaction_interval: Duration::ZERO,
            compaction_retention: Duration::from_secs(300),
            watch_progress_interval: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(30),
            request_bytes_max: 3 << 19,
            txn_ops_max: 128,
            db_bytes_max: 8 << 30,
            value_cache_bytes_max: 1 << 20,
            sqlite_vfs: None,
        }
    }
}
