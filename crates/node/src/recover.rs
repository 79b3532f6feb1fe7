//! Going on after quorum loss, at an operator's word (R12).

use crate::node::{Inner, Node};
use crate::operator::{ClusterView, LogEnd};
use crate::store_calls;
use netsy_api::ids::{ChunkSeq, LogIndex, NodeId, Term};
use netsy_objects::object_log::ObjectLog;
use netsy_objects::read::ReadError;
use netsy_protocol::event::Event;
use netsy_protocol::manifest::Manifest;
use std::sync::Arc;
use std::time::Duration;

/// A recovery is waited for this long; it may go on afterwards.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// Chunks looked through, backwards, for the newest entry.
const CHUNKS_LOOKED_AT: u64 = 64;

/// What giving voters up would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// The cluster as it is.
    pub view: ClusterView,
    /// How far the object log goes.
    pub object_log: LogEnd,
    /// To be given to [`Node::recover`].
    pub confirm: String,
}

/// What an operator confirms: this cluster, as it is in this term. One word for one recovery: said again, or to
/// another cluster, it does not fit.
fn word(cluster_id: &str, term: Term) -> String {
    format!("{cluster_id}/{term}")
}

impl Node {
    /// Says what giving the databases up that these nodes vote with would lose. Does nothing.
    pub async fn plan_recovery(&self, lost: &[NodeId]) -> Result<RecoveryPlan, String> {
        let node = &self.0;
        let manifest = node.read_manifest().await?;
        check(node, &manifest, lost)?;
        let object_log = end_of(&node.log).await.map_err(|e| format!("the object log cannot be read: {e}"))?;
        let confirm = word(&node.config.cluster_id, manifest.term);
        Ok(RecoveryPlan { view: self.cluster_view().await, object_log, confirm })
    }

    /// Gives the databases up that these nodes vote with; `confirm` is what the plan said. Returns once the cluster
    /// serves again, or says why it does not.
    pub async fn recover(&self, lost: Vec<NodeId>, confirm: &str) -> Result<ClusterView, String> {
        let node = &self.0;
        let manifest = node.read_manifest().await?;
        let (cluster, term) = (&node.config.cluster_id, manifest.term);
        let wanted = word(cluster, term);
        if confirm != wanted {
            return Err(format!(
                "--confirm {confirm} does not fit: this is cluster {cluster} in term {term}. Look again what would be \
                 lost now (without --confirm): it may have gone on, or be another cluster"
            ));
        }
        check(node, &manifest, &lost)?;
        tracing::warn!(lost = ?lost.iter().map(NodeId::as_str).collect::<Vec<_>>(), term = term.0, "an operator gives voters up");
        let done = |node: &Inner| {
            let recovered = node.manifest_seen().and_then(|m| m.recovered).filter(|r| r.term > term);
            recovered.is_some() && node.leader.borrow().primary.is_some()
        };
        let recovery = async {
            node.ask(Event::Recover { lost }, done).await?;
            // What was kept is then told from this node's own log.
            self.serving().await.map_err(|e| format!("voters were given up, and the new Primary does not answer: {e}"))
        };
        match tokio::time::timeout(RECOVERY_MAX, recovery).await {
            Ok(done) => done?,
            Err(_) => {
                let kept = node.manifest_seen().filter(|m| m.term > term).and_then(|m| m.kept.clone());
                let kept = kept.map(|v| format!(". It goes on with the log of {}, and not without it", v.node_id));
                return Err(format!(
                    "voters were given up, or will be, and the cluster does not serve after {RECOVERY_MAX:?}: see the \
                     nodes' logs, and look again{}",
                    kept.unwrap_or_default()
                ));
            }
        }
        Ok(self.cluster_view().await)
    }
}

impl Inner {
    /// The manifest as it is now.
    async fn read_manifest(&self) -> Result<Manifest, String> {
        let found = self.manifest.read().await.map_err(|e| format!("cluster.json cannot be read: {e}"))?;
        let found = found.ok_or("there is no cluster.json: the cluster was never made, nothing can be lost")?;
        let manifest = store_calls::from_stored(&found);
        self.saw_manifest(&manifest);
        Ok(manifest)
    }
}

/// Whether these nodes can be given up, as far as this node knows; the engine looks at the rest.
fn check(node: &Arc<Inner>, manifest: &Manifest, lost: &[NodeId]) -> Result<(), String> {
    let names = || {
        let voters = manifest.voters.iter().map(|v| v.node_id.as_str()).collect::<Vec<_>>().join(", ");
        // It is waited for all the same.
        let kept = manifest.waited_for().find(|v| !manifest.names(v));
        let kept = kept.map(|v| format!(", and the last recovery kept the log of {}", v.node_id));
        format!("the voters are {voters}{}", kept.unwrap_or_default())
    };
    if let Some(primary) = node.leader.borrow().primary.as_ref() {
        return Err(format!(
            "the cluster goes on with Primary {primary} in term {}: there is nothing to recover. Nodes that are gone \
             leave the voters by themselves, or by `netsy member remove`",
            manifest.term
        ));
    }
    if lost.is_empty() {
        return Err(format!("no node is named: {}", names()));
    }
    let stranger = lost.iter().find(|name| manifest.waited_for().all(|v| v.node_id != **name));
    if let Some(stranger) = stranger {
        return Err(format!("{stranger} is no voter: nothing depends on it. As it is, {}", names()));
    }
    let connected = node.peers().map(|peers| peers.connected()).unwrap_or_default();
    let there = manifest.waited_for().filter(|v| lost.contains(&v.node_id)).find(|v| {
        let me = v.node_id == node.config.node_id && v.incarnation == node.incarnation;
        me || connected.iter().any(|r| r.node_id == v.node_id && r.incarnation == v.incarnation)
    });
    match there {
        Some(v) => Err(format!("node {} runs with the database that is waited for: it is not lost", v.node_id)),
        None => Ok(()),
    }
}

/// How far the object log goes, and when its last entry was made.
async fn end_of(log: &ObjectLog) -> Result<LogEnd, ReadError> {
    let newest = log.list(ChunkSeq(0)).await?.end();
    let mut end = LogEnd::default();
    for seq in (1..=newest.0).rev().take(usize::try_from(CHUNKS_LOOKED_AT).unwrap_or(usize::MAX)) {
        // A hole: what is before the newest chunk may be folded by now.
        let Some(chunk) = log.read_chunk(ChunkSeq(seq)).await? else { break };
        if seq == newest.0 {
            end.index = LogIndex(chunk.meta.last_index.0);
        }
        if let Some(last) = chunk.entries.last() {
            (end.revision, end.time) = (Some(last.revision), Some(last.time));
            break;
        }
    }
    Ok(end)
}
