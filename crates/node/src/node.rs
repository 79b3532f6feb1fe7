//! A running node.

use crate::background;
use crate::compactions::Compactions;
use crate::config::NodeConfig;
use crate::driver::Driver;
use crate::error::{NodeError, Unavailable};
use crate::follower::Follower;
use crate::held_values::{HeldValues, LISTS_BYTES_MAX, LONG_BYTES_MIN, SHORT_BYTES_MAX};
use crate::history::StoreHistory;
use crate::log_thread::{LogThread, LogWork};
use crate::manifest_store::ManifestStore;
use crate::metrics::Metrics;
use crate::net::Forwarded;
use crate::primary::Primary;
use crate::shared::SharedStore;
use crate::snapshotter;
use crate::start::StartError;
use crate::watch::{WatchHub, WatchOptions};
use crate::writer::{Answer, Written};
use netsy_api::ids::{Incarnation, LogIndex, NodeId, Revision, Session, Term};
use netsy_localdb as localdb;
use netsy_mvcc::{Store, WriteRequest};
use netsy_objects::Bucket;
use netsy_objects::manifest::Registration;
use netsy_objects::object_log::{LogPoint, ObjectLog};
use netsy_peer::Peers;
use netsy_protocol::engine::Engine;
use netsy_protocol::manifest::{Manifest, usual_member_id};
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex as AsyncMutex, watch};

/// How long a request may wait for its answer: etcd's 5 s plus twice its election timeout.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);
/// Streams that want a leader (`hasleader`) end after this long without one: etcd's three election timeouts.
pub(crate) const LEADER_LOST_AFTER: Duration = Duration::from_secs(3);
/// Answers that may wait for a commit; past it writes are refused.
const WAITING_ANSWERS_MAX: usize = 100_000;

/// Who this node is.
#[derive(Debug)]
pub struct Identity {
    /// The cluster's name.
    pub cluster_name: String,
    /// etcd's numeric cluster id: FNV-1a of the name.
    pub cluster_id: u64,
    /// This node's name.
    pub node_id: NodeId,
    /// URLs for clients.
    pub client_urls: Vec<String>,
    /// URLs for other nodes.
    pub peer_urls: Vec<String>,
    /// Follows from the names until the manifest says otherwise.
    member_id: AtomicU64,
}

impl Identity {
    fn new(config: &NodeConfig) -> Self {
        Self {
            cluster_name: config.cluster_id.clone(),
            cluster_id: fnv1a(config.cluster_id.as_bytes()),
            node_id: config.node_id.clone(),
            client_urls: config.advertise_client.clone(),
            peer_urls: config.advertise_peer.clone(),
            member_id: AtomicU64::new(usual_member_id(&config.cluster_id, &config.node_id)),
        }
    }

    /// etcd's member id.
    pub fn member_id(&self) -> u64 {
        self.member_id.load(Ordering::Relaxed)
    }

    pub(crate) fn set_member_id(&self, id: u64) {
        self.member_id.store(id, Ordering::Relaxed);
    }
}

/// Why a node does not go on by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was stopped.
    Stopped,
    /// R12: its log holds what an operator gave up: the database is set aside, and the node starts anew.
    Rebuild(String),
    /// Something that repeating will not mend.
    Failed(String),
}

/// A handle on a running node; clones share it.
#[derive(Clone)]
pub struct Node(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: NodeConfig,
    pub(crate) identity: Identity,
    /// This process (R1).
    pub(crate) session: Session,
    /// This database (R11).
    pub(crate) incarnation: Incarnation,
    /// And which of its starts this is.
    pub(crate) boot: u64,
    pub(crate) bucket: Arc<dyn Bucket>,
    pub(crate) log: ObjectLog,
    pub(crate) manifest: Arc<ManifestStore>,
    pub(crate) store: SharedStore,
    pub(crate) readers: localdb::Readers,
    pub(crate) held_values: HeldValues,
    pub(crate) held_short: HeldValues,
    /// The same for what lists have beside values.
    pub(crate) held_lists: HeldValues,
    pub(crate) thread: LogThread,
    pub(crate) follower: Arc<Follower>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) compacted: watch::Sender<Revision>,
    /// Index up to which the own database holds entries.
    pub(crate) held_locally: watch::Sender<LogIndex>,
    /// Index up to which readers see.
    pub(crate) shown: watch::Sender<LogIndex>,
    /// The end of the object log as known here.
    pub(crate) logged: watch::Sender<LogPoint>,
    /// Held while rows are read that must not be deleted meanwhile.
    pub(crate) rows_stay: AsyncMutex<()>,
    pub(crate) compactions: Compactions,
    /// Runs of terms of the own log.
    runs: Mutex<Vec<localdb::TermRun>>,
    /// Newest term known to have a Primary.
    term: AtomicU64,
    /// The last term whose Primary was seen to lead.
    led_term: AtomicU64,
    /// While it takes requests.
    leading: RwLock<Option<Arc<Primary>>>,
    /// From its seal on.
    acting: Mutex<Option<Arc<Primary>>>,
    upload_at_once: AtomicBool,
    pub(crate) leader: watch::Sender<Leadership>,
    pub(crate) driver: Driver,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) peers: OnceLock<Peers>,
    pub(crate) forwarded: OnceLock<Arc<dyn Forwarded>>,
    /// The newest manifest seen.
    manifest_seen: Mutex<Option<Arc<Manifest>>>,
    /// Registrations as read last, and when.
    registrations: Mutex<Option<(Instant, Arc<Vec<Registration>>)>>,
    hub: WatchHub,
    stop: watch::Sender<bool>,
    ended: watch::Sender<Option<Ended>>,
}

/// Who leads, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    /// The Primary; `None`: nobody is known to lead.
    pub(crate) primary: Option<NodeId>,
    /// Whether that is this process.
    pub(crate) here: bool,
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) config: NodeConfig,
    pub(crate) session: Session,
    pub(crate) incarnation: Incarnation,
    pub(crate) boot: u64,
    pub(crate) bucket: Arc<dyn Bucket>,
    pub(crate) manifest: Arc<ManifestStore>,
    pub(crate) db: localdb::Writer,
    pub(crate) readers: localdb::Readers,
    pub(crate) store: Store,
    /// The object log is known to go this far, and to be what the database holds up to there.
    pub(crate) point: LogPoint,
    pub(crate) engine: Engine,
}

impl Node {
    /// Starts the log thread, the watch hub and what runs beside any role.
    pub(crate) fn assemble(parts: Parts) -> Result<Self, StartError> {
        let Parts { config, session, incarnation, boot, bucket, manifest, db, readers, store, point, engine } = parts;
        let (visible, revision) = (store.visible_index(), store.visible_revision());
        let compactions = Compactions::new(visible, store.compact_revision());
        let store = SharedStore::new(store);
        let follower = Arc::new(Follower::default());
        let history = Arc::new(StoreHistory::new(store.clone(), readers.clone(), follower.clone()));
        let hub = WatchHub::start(
            history,
            revision,
            WatchOptions { progress_notify_interval: config.watch_progress_interval, ..WatchOptions::default() },
        )?;
        let (thread, queue) = LogThread::channel();
        let inner = Arc::new(Inner {
            identity: Identity::new(&config),
            session,
            incarnation,
            boot,
            log: ObjectLog::new(bucket.clone(), &config.cluster_id),
            bucket,
            manifest,
            store,
            readers,
            held_values: HeldValues::new(config.value_cache_bytes_max.max(LONG_BYTES_MIN)),
            held_short: HeldValues::new(SHORT_BYTES_MAX),
            held_lists: HeldValues::new(LISTS_BYTES_MAX),
            thread,
            follower,
            metrics: Arc::new(Metrics::default()),
            compacted: watch::Sender::new(Revision(-1)),
            held_locally: watch::Sender::new(db.end().index),
            shown: watch::Sender::new(visible),
            logged: watch::Sender::new(point),
            rows_stay: AsyncMutex::new(()),
            compactions,
            runs: Mutex::default(),
            term: AtomicU64::new(db.end().term.0),
            led_term: AtomicU64::new(0),
            leading: RwLock::new(None),
            acting: Mutex::new(None),
            upload_at_once: AtomicBool::new(false),
            leader: watch::Sender::default(),
            driver: Driver::new(engine),
            runtime: tokio::runtime::Handle::current(),
            peers: OnceLock::new(),
            forwarded: OnceLock::new(),
            manifest_seen: Mutex::new(None),
            registrations: Mutex::new(None),
            hub,
            stop: watch::Sender::new(false),
            ended: watch::Sender::new(None),
            config,
        });
        inner.follower.show_through(visible);
        let work = LogWork::new(inner.clone(), db);
        std::thread::Builder::new().name("netsy-log".into()).spawn(move || work.run(queue))?;
        let shower = inner.clone();
        std::thread::Builder::new().name("netsy-show".into()).spawn(move || shower.follower.run(&shower))?;
        inner.spawn("figures", background::figures(inner.clone()));
        inner.spawn("silence of object storage", background::storage_silence(inner.clone()));
        inner.spawn("physical compaction", background::physical_compaction(inner.clone()));
        inner.spawn("snapshots", snapshotter::run(inner.clone()));
        inner.spawn("waiting for a leader", background::leaderless(inner.clone()));
        Ok(Self(inner))
    }

    /// Waits until the node does not go on by itself any more.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.0.ended.subscribe();
        loop {
            if let Some(reason) = ended.borrow_and_update().clone() {
                return reason;
            }
            if ended.changed().await.is_err() {
                return Ended::Stopped;
            }
        }
    }

    /// What an acknowledged write survives, in one line; `None`: not known yet.
    pub fn survives(&self) -> Option<String> {
        let manifest = self.0.manifest_seen()?;
        let bucket = self.0.bucket.describe();
        Some(match manifest.rule().commit {
            None => {
                format!(
                    "a write is acknowledged once it is in {bucket}: it survives the loss of this node and its disk"
                )
            }
            Some(1) => format!(
                "a write is acknowledged once it is synced to this node's disk, and is in {bucket} within {:?}: \
                 it survives a crash or power loss, but with the disk the last moments are lost",
                self.0.config.chunk_age
            ),
            Some(copies) => format!(
                "a write is acknowledged once {copies} of {} nodes have synced it to their disks, and is in {bucket} \
                 within {:?}",
                manifest.voters.len(),
                self.0.config.chunk_age
            ),
        })
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The newest term it knows to have a Primary.
    pub fn term(&self) -> Term {
        self.0.term()
    }

    /// The visible revision.
    pub fn revision(&self) -> Revision {
        self.0.revision()
    }

    /// The lowest readable revision.
    pub fn compact_revision(&self) -> Revision {
        self.0.compact_revision()
    }

    /// Where watchers are served from.
    pub fn watch_hub(&self) -> &WatchHub {
        self.0.hub()
    }

    /// Counters and gauges.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The settings it runs with.
    pub fn config(&self) -> &NodeConfig {
        &self.0.config
    }

    /// Has a write done; returns once it is committed. An `Unavailable` error other than `TooManyRequests` and
    /// `NotPrimary` leaves its outcome unknown.
    pub async fn write(&self, request: WriteRequest) -> Result<Written, NodeError> {
        let primary = self.0.leading().ok_or(Unavailable::NotPrimary)?;
        if primary.publisher.waiting() > WAITING_ANSWERS_MAX {
            return Err(Unavailable::TooManyRequests.into());
        }
        let proposal = self.0.metrics.proposal();
        let result = self.write_as(&primary, request).await;
        proposal.ended(result.as_ref().err());
        result
    }

    async fn write_as(&self, primary: &Arc<Primary>, request: WriteRequest) -> Result<Written, NodeError> {
        let result = self.0.hand_in(request).await;
        let proven = match &result {
            Ok(written) => written.made,
            Err(error) => !matches!(error, NodeError::Mvcc(_)),
        };
        if !proven {
            self.0.prove(primary).await?;
        }
        result
    }
}

impl Inner {
    /// Has a write of the node's own done.
    pub(crate) async fn submit(&self, request: WriteRequest) -> Result<Written, NodeError> {
        let proposal = self.metrics.proposal();
        let result = self.hand_in(request).await;
        proposal.ended(result.as_ref().err());
        result
    }

    async fn hand_in(&self, request: WriteRequest) -> Result<Written, NodeError> {
        let Answer { mut written, epoch } = self.thread.write(request).await?;
        if let Some(epoch) = epoch {
            self.fill_outcome(&mut written.outcome, epoch).await?;
        }
        Ok(written)
    }

    /// R9: what `primary` evaluated without making an entry is a read: it counts if this process is found to be still
    /// Primary of that term by something that began after it. If it is not, nothing was done: `NotPrimary`, so that the
    /// Primary is asked instead.
    pub(crate) async fn prove(self: &Arc<Self>, primary: &Arc<Primary>) -> Result<(), NodeError> {
        for _ in 0..crate::reads::TRIES_MAX {
            if !self.leading().is_some_and(|now| Arc::ptr_eq(&now, primary)) {
                return Err(Unavailable::NotPrimary.into());
            }
            let holds = self.read_proof().await?.holds();
            // Still leading in the same term: the proof was this Primary's, not that of one after it.
            if holds && self.leading().is_some_and(|now| Arc::ptr_eq(&now, primary)) {
                return Ok(());
            }
        }
        Err(Unavailable::TimedOut.into())
    }

    /// R8: waits until everything up to `index`, which `primary` evaluated, is committed.
    pub(crate) async fn wait_committed(&self, primary: &Primary, index: LogIndex) -> Result<(), NodeError> {
        tokio::select! {
            biased;
            shown = self.wait_shown(index) => shown,
            () = primary.ended() => Err(Unavailable::NotPrimary.into()),
        }
    }

    /// What makes this node Primary, while it is.
    pub(crate) fn leading(&self) -> Option<Arc<Primary>> {
        self.leading.read().clone()
    }

    pub(crate) fn term(&self) -> Term {
        Term(self.term.load(Ordering::Relaxed))
    }

    /// A term is known to have a Primary.
    pub(crate) fn saw_term(&self, term: Term) {
        self.term.fetch_max(term.0, Ordering::Relaxed);
    }

    pub(crate) fn revision(&self) -> Revision {
        self.store.read().visible_revision()
    }

    pub(crate) fn compact_revision(&self) -> Revision {
        self.store.read().compact_revision()
    }

    pub(crate) fn hub(&self) -> &WatchHub {
        &self.hub
    }

    /// Index up to which readers see.
    pub(crate) fn shown_index(&self) -> LogIndex {
        *self.shown.borrow()
    }

    /// The end of the object log as known here.
    pub(crate) fn tail(&self) -> LogPoint {
        *self.logged.borrow()
    }

    /// The object log is known to reach `point`; it never goes back.
    pub(crate) fn saw_tail(&self, point: LogPoint) {
        self.logged.send_if_modified(|known| {
            let newer = point.seq > known.seq;
            if newer {
                *known = point;
            }
            newer
        });
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Resolves once the node stops or has ended.
    pub(crate) async fn stopping(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives as long as self.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    pub(crate) fn begin_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Resolves once the node has ended.
    pub(crate) async fn wait_ended(&self) {
        let mut ended = self.ended.subscribe();
        // The sender lives as long as self.
        let _ = ended.wait_for(Option::is_some).await;
    }

    /// From its seal on, this process as Primary.
    pub(crate) fn acting(&self) -> Option<Arc<Primary>> {
        self.acting.lock().clone()
    }

    pub(crate) fn set_acting(&self, primary: Option<Arc<Primary>>) {
        *self.acting.lock() = primary;
    }

    pub(crate) fn upload_at_once(&self) -> bool {
        self.upload_at_once.load(Ordering::Acquire)
    }

    pub(crate) fn set_upload_at_once(&self, at_once: bool) {
        self.upload_at_once.store(at_once, Ordering::Release);
    }

    /// The newest manifest seen.
    pub(crate) fn manifest_seen(&self) -> Option<Arc<Manifest>> {
        self.manifest_seen.lock().clone()
    }

    pub(crate) fn saw_manifest(&self, manifest: &Manifest) {
        let mut seen = self.manifest_seen.lock();
        if seen.as_ref().is_none_or(|known| known.config_version < manifest.config_version) {
            if let Some(id) = manifest.members.get(&self.config.node_id) {
                self.identity.set_member_id(*id);
            }
            *seen = Some(Arc::new(manifest.clone()));
        }
    }

    /// A node's member id: the manifest's, or the one it will have.
    pub(crate) fn member_id_of(&self, node_id: &NodeId) -> u64 {
        let known = self.manifest_seen().and_then(|m| m.members.get(node_id).copied());
        known.unwrap_or_else(|| usual_member_id(&self.config.cluster_id, node_id))
    }

    pub(crate) fn saw_registrations(&self, found: Vec<Registration>) {
        *self.registrations.lock() = Some((Instant::now(), Arc::new(found)));
    }

    /// All registrations, read anew where they are older than `age_max` and object storage answers.
    pub(crate) async fn registrations(&self, age_max: Duration) -> Arc<Vec<Registration>> {
        let known = self.registrations.lock().clone();
        if let Some((at, known)) = &known
            && at.elapsed() < age_max
        {
            return known.clone();
        }
        match self.manifest.registrations().await {
            Ok(found) => {
                self.saw_registrations(found);
                let known = self.registrations.lock();
                known.as_ref().map(|(_, known)| known.clone()).unwrap_or_default()
            }
            Err(error) => {
                tracing::warn!(%error, "registrations could not be read: those known are shown");
                known.map(|(_, known)| known).unwrap_or_default()
            }
        }
    }

    /// The own log's runs of terms, as of the last change of the database.
    pub(crate) fn note_runs(&self, runs: &[localdb::TermRun]) {
        let mut known = self.runs.lock();
        // Runs end or begin seldom: entries of the same term change nothing.
        if known.len() != runs.len() || known.last() != runs.last() {
            *known = runs.to_vec();
        }
    }

    /// Runs of terms up to `covers`, a point of the object log that the local database reaches.
    pub(crate) fn runs_through(&self, covers: &LogPoint) -> Vec<netsy_objects::manifest::TermRun> {
        snapshotter::runs_through(&self.runs.lock(), covers)
    }

    /// Puts another state in the place of the one there is: the local database was replaced.
    pub(crate) fn replace_state(&self, store: Store) {
        let (visible, revision, compacted) =
            (store.visible_index(), store.visible_revision(), store.compact_revision());
        // Freed outside the lock: it may be large.
        let old = {
            let mut guard = self.store.write();
            self.compactions.begin(visible, compacted);
            guard.replace(store)
        };
        self.shown.send_replace(visible);
        self.hub.skip_to(revision);
        drop(old);
    }

    /// Requests are let in, unless the term is over already.
    pub(crate) fn set_leading(&self, primary: &Arc<Primary>) {
        let mut leading = self.leading.write();
        // Under the lock: who ends the term takes it after that is noted.
        if !primary.is_retired() {
            self.saw_term(primary.term);
            *leading = Some(primary.clone());
        }
    }

    /// The term is over.
    pub(crate) fn unset_leading(&self, primary: &Arc<Primary>) {
        let mut leading = self.leading.write();
        if leading.as_ref().is_some_and(|known| Arc::ptr_eq(known, primary)) {
            *leading = None;
        }
    }

    pub(crate) fn set_leader(&self, primary: Option<NodeId>, here: bool) {
        if primary.is_some() {
            let term = self.term();
            if self.led_term.swap(term.0, Ordering::Relaxed) != term.0 {
                self.metrics.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
        }
        let new = Leadership { primary, here };
        self.leader.send_if_modified(|known| std::mem::replace(known, new.clone()) != new);
    }

    /// Resolves once nobody was known to lead for [`LEADER_LOST_AFTER`].
    pub(crate) async fn leader_lost(&self) {
        let mut leader = self.leader.subscribe();
        loop {
            // The sender lives as long as self.
            let _ = leader.wait_for(|leader| leader.primary.is_none()).await;
            let found = leader.wait_for(|leader| leader.primary.is_some());
            if tokio::time::timeout(LEADER_LOST_AFTER, found).await.is_err() {
                return;
            }
        }
    }

    /// The node cannot go on, or stops.
    pub(crate) fn end(&self, reason: Unavailable, ended: Ended) {
        self.stop.send_replace(true);
        if let Some(primary) = self.acting() {
            primary.end(reason);
        }
        self.hub.stop();
        self.follower.stop();
        self.ended.send_if_modified(|now| {
            let first = now.is_none();
            if first {
                *now = Some(ended);
            }
            first
        });
    }
}

/// FNV-1a, 64 bit.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    #[test]
    fn fnv_of_known_texts() {
        assert_eq!(super::fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(super::fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
