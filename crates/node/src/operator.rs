//! What operators ask for: the cluster as this node sees it, another Primary, other settings (R10), a node less.

use crate::node::{Inner, Node};
use netsy_api::ids::{Incarnation, LogIndex, NodeId, Revision, Term, UnixMillis};
use netsy_protocol::command::{NO_ELECTOR, NOT_CAUGHT_UP};
use netsy_protocol::event::Event;
use netsy_protocol::manifest::Manifest;
use netsy_protocol::status::Status;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two looks at whether a wish came true.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// What passes is waited for, so long, with this pause.
const MOVE_TRIES: Duration = Duration::from_secs(5);
const MOVE_PAUSE: Duration = Duration::from_millis(500);
/// Registrations older than this are read anew.
const REGISTRATIONS_AGE_MAX: Duration = Duration::from_secs(1);

/// The end of a log, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogEnd {
    /// The last entry.
    pub index: LogIndex,
    /// The revision after it.
    pub revision: Option<Revision>,
    /// When it was made.
    pub time: Option<UnixMillis>,
}

/// A node as another one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub node_id: NodeId,
    /// etcd's member id.
    pub member_id: u64,
    /// URLs for clients.
    pub client_urls: Vec<String>,
    /// URLs for other nodes.
    pub peer_urls: Vec<String>,
    /// Its release.
    pub version: String,
    /// The database it registered with.
    pub database: Option<Incarnation>,
    /// The database that votes for it.
    pub votes_with: Option<Incarnation>,
    /// The database whose log a recovery kept, while no Primary has served with it (R12).
    pub kept: Option<Incarnation>,
    /// It is connected, or is this node.
    pub answers: bool,
    /// It stopped gracefully, or was taken out.
    pub stopped: bool,
    /// The last entry of its log, if known here.
    pub log_end: Option<LogIndex>,
}

/// Voters were given up (R12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredView {
    /// The term that began then.
    pub term: Term,
    /// The log goes on after this.
    pub kept: LogEnd,
}

/// The cluster as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// Its name.
    pub cluster_id: String,
    /// Who sees it so.
    pub seen_by: NodeId,
    /// The newest term.
    pub term: Term,
    /// Who leads and serves.
    pub primary: Option<NodeId>,
    /// Who elects.
    pub elector: Option<NodeId>,
    /// -1 majority, 0 object storage, N replica receipts.
    pub quorum: i32,
    /// Fewest disks a write is on before it is acknowledged without the bucket.
    pub copies_min: usize,
    /// What an acknowledged write survives.
    pub survives: String,
    /// Why there is no election.
    pub quorum_lost: Option<String>,
    /// By name.
    pub nodes: Vec<NodeView>,
    /// The last time voters were given up.
    pub recovered: Option<RecoveredView>,
    /// Where the object storage is.
    pub store: String,
    /// The end of the own log.
    pub own_log: LogEnd,
}

impl Node {
    /// The cluster as this node sees it.
    pub async fn cluster_view(&self) -> ClusterView {
        let node = &self.0;
        let registrations = node.registrations(REGISTRATIONS_AGE_MAX).await;
        let status = node.ask_engine(|engine, now| engine.status(now));
        let manifest = status.manifest.clone();
        let voters = manifest.as_ref().map(|m| m.voters.clone()).unwrap_or_default();
        let kept = manifest.as_ref().and_then(|m| m.kept.clone());
        let connected = node.peers().map(|peers| peers.connected()).unwrap_or_default();
        let names: std::collections::BTreeSet<NodeId> = registrations
            .iter()
            .map(|r| r.node_id.clone())
            .chain(voters.iter().chain(&kept).map(|v| v.node_id.clone()))
            .chain([node.config.node_id.clone()])
            .collect();
        let nodes = names.into_iter().map(|node_id| {
            let registered = registrations.iter().find(|r| r.node_id == node_id);
            let known = status.nodes.iter().find(|n| n.node.node_id == node_id);
            let me = node_id == node.config.node_id;
            NodeView {
                member_id: node.member_id_of(&node_id),
                client_urls: registered.map(|r| r.client_urls.clone()).unwrap_or_default(),
                peer_urls: registered.map(|r| r.peer_urls.clone()).unwrap_or_default(),
                version: registered.map(|r| r.version.clone()).unwrap_or_default(),
                database: registered.map(|r| r.incarnation),
                votes_with: voters.iter().find(|v| v.node_id == node_id).map(|v| v.incarnation),
                kept: kept.as_ref().filter(|v| v.node_id == node_id).map(|v| v.incarnation),
                answers: me || connected.iter().any(|remote| remote.node_id == node_id),
                stopped: registered.is_some_and(|r| r.stopped),
                log_end: match me {
                    true => Some(status.end),
                    false => known.and_then(|n| n.held.or(n.reported.map(|end| end.last_index))),
                },
                node_id,
            }
        });
        let primary = node.leader.borrow().primary.clone();
        let (recovered, own_log) = (recovered(node, &status).await, end_at(node, status.end).await);
        ClusterView {
            cluster_id: node.config.cluster_id.clone(),
            seen_by: node.config.node_id.clone(),
            term: manifest.as_ref().map_or(status.term, |m| m.term.max(status.term)),
            primary,
            elector: status.elector.clone(),
            quorum: manifest.as_ref().map_or(node.config.quorum, |m| m.quorum),
            copies_min: manifest.as_ref().map_or(node.config.copies_min, |m| m.copies_min),
            survives: self.survives().unwrap_or_default(),
            quorum_lost: node.driver.seen.quorum_lost().map(|(text, _)| text),
            nodes: nodes.collect(),
            recovered,
            store: node.bucket.describe(),
            own_log,
        }
    }

    /// Has another node be Primary; `None`: whichever is best. Returns once another is known to serve, or says why this
    /// one stays.
    pub async fn move_primary(&self, to: Option<NodeId>) -> Result<(), String> {
        if self.is_primary() && to.as_ref() == Some(&self.0.config.node_id) {
            return Ok(());
        }
        let is_voter =
            |name: &NodeId| self.0.manifest_seen().is_some_and(|m| m.voters.iter().any(|voter| voter.node_id == *name));
        let began = Instant::now();
        loop {
            let moved = self.0.ask(Event::MovePrimary(to.clone()), |node| {
                let leader = node.leader.borrow();
                !leader.here && leader.primary.is_some()
            });
            let Err(why) = moved.await else { return Ok(()) };
            // After an election, or when nodes were just started, this passes.
            let passes = why.ends_with(NO_ELECTOR) || why.ends_with(NOT_CAUGHT_UP) && to.as_ref().is_none_or(is_voter);
            if !passes || began.elapsed() >= MOVE_TRIES {
                return Err(why);
            }
            tokio::time::sleep(MOVE_PAUSE).await;
        }
    }

    /// Changes what the manifest holds (R10); `None`: as it is. Returns once it does, or says why it does not.
    pub async fn set_cluster(&self, quorum: Option<i32>, copies_min: Option<usize>) -> Result<(), String> {
        let voters_max = self.0.config.voters_max;
        if let Some(quorum) = quorum.filter(|q| !(-1..=100).contains(q)) {
            return Err(format!("quorum {quorum}: use -1 (majority), 0 (object storage) or a number of receipts"));
        }
        if quorum.is_some_and(|q| usize::try_from(q).is_ok_and(|q| q >= voters_max)) {
            return Err(format!("replication.voters_max, {voters_max}, must exceed a quorum of receipts"));
        }
        if let Some(copies) = copies_min.filter(|copies| !(1..=100).contains(copies)) {
            return Err(format!("copies_min {copies}: must be from 1 to 100"));
        }
        self.0
            .ask(Event::SetCluster { quorum, copies_min }, |node| {
                let fits = |m: Arc<Manifest>| {
                    quorum.is_none_or(|q| m.quorum == q) && copies_min.is_none_or(|copies| m.copies_min == copies)
                };
                node.manifest_seen().is_some_and(fits)
            })
            .await
    }

    /// Takes a node that is not running out of the cluster: it votes no more and is no member. Returns once that is so,
    /// or says why it is not.
    pub async fn remove_node(&self, gone: NodeId) -> Result<(), String> {
        if !self.0.registrations(Duration::ZERO).await.iter().any(|r| r.node_id == gone)
            && !self.0.manifest_seen().is_some_and(|m| m.voters.iter().any(|v| v.node_id == gone))
        {
            return Err(format!("there is no node {gone}"));
        }
        if self.0.peers().is_some_and(|peers| peers.connected().iter().any(|remote| remote.node_id == gone)) {
            return Err(format!("node {gone} is running: stop it (SIGTERM), and it leaves by itself"));
        }
        let name = gone.clone();
        self.0
            .ask(Event::RemoveNode(gone), |node| {
                node.manifest_seen().is_some_and(|m| m.voters.iter().all(|v| v.node_id != name))
            })
            .await?;
        // Its registration is marked beside; until the caller's time is over.
        while self.0.registrations(Duration::ZERO).await.iter().any(|r| r.node_id == name && !r.stopped) {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Ok(())
    }
}

impl Inner {
    /// Tells the engine of an operator's wish and waits until it is `done`; the error says why it is not to be.
    pub(crate) async fn ask(self: &Arc<Self>, wish: Event, done: impl Fn(&Inner) -> bool) -> Result<(), String> {
        let _one = self.driver.seen.asking.lock().await;
        *self.driver.seen.declined.lock() = None;
        self.engine(|engine, now| engine.handle(now, wish));
        loop {
            if let Some(why) = self.driver.seen.declined.lock().take() {
                return Err(why);
            }
            if done(self) {
                return Ok(());
            }
            tokio::select! {
                () = self.wait_ended() => return Err("the node has ended".to_string()),
                () = tokio::time::sleep(LOOK_PAUSE) => {}
            }
        }
    }
}

/// Where the log goes on after voters were given up: by this node's log once that reaches into the new term.
async fn recovered(node: &Inner, status: &Status) -> Option<RecoveredView> {
    let noted = status.manifest.as_ref()?.recovered?;
    let known = node.ask_engine(|engine, _| engine.log_before(noted.term));
    Some(RecoveredView { term: noted.term, kept: end_at(node, noted.index.max(known)).await })
}

/// What this node's log tells of an entry.
pub(crate) async fn end_at(node: &Inner, index: LogIndex) -> LogEnd {
    let readers = node.readers.clone();
    let read = tokio::task::spawn_blocking(move || readers.entries_from(index, 1));
    let found = match read.await {
        Ok(Ok(entries)) => entries.into_iter().next().map(|(_, entry)| entry),
        // Compacted, or not reached yet: its number is all that is known.
        Ok(Err(error)) => {
            tracing::debug!(%error, index = index.0, "an entry that was asked for is not at hand");
            None
        }
        Err(_) => None,
    };
    let found = found.filter(|entry| entry.index == index);
    LogEnd { index, revision: found.as_ref().map(|e| e.revision), time: found.as_ref().map(|e| e.time) }
}
