//! A running node.

use crate::background;
use crate::clock::boot_millis;
use crate::compactions::Compactions;
use crate::config::NodeConfig;
use crate::confirm::Confirmer;
use crate::error::{NodeError, Unavailable};
use crate::failpoint;
use crate::history::StoreHistory;
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::shared::SharedStore;
use crate::snapshotter;
use crate::start::{self, Begun, StartError};
use crate::term::{self, Held};
use crate::uploader::{Thresholds, UploadEnd, Uploader, Uploads};
use crate::watch::{WatchHub, WatchOptions};
use crate::writer::{self, Answer, Command, QUEUE_REQUESTS_MAX, Writer, Written};
use netsy_api::ids::{LogIndex, NodeId, Revision, Term};
use netsy_localdb as localdb;
use netsy_mvcc::WriteRequest;
use netsy_objects::object_log::{LogPoint, ObjectLog};
use netsy_objects::{Bucket, Buckets};
use netsy_protocol::quorum::QuorumRule;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};

/// How long a request may wait for its answer: etcd's 5 s plus twice its election timeout.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);
/// Answers that may wait for a commit; past it writes are refused.
const WAITING_ANSWERS_MAX: usize = 100_000;

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster's name.
    pub cluster_name: String,
    /// etcd's numeric cluster id: FNV-1a of the name.
    pub cluster_id: u64,
    /// etcd's member id.
    pub member_id: u64,
    /// This node's name.
    pub node_id: NodeId,
    /// URLs for clients.
    pub client_urls: Vec<String>,
    /// URLs for other nodes.
    pub peer_urls: Vec<String>,
}

/// Why a node does not go on by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was stopped.
    Stopped,
    /// Another process is Primary now (R3).
    Deposed(String),
    /// Something that repeating will not mend.
    Failed(String),
}

/// A handle on a running node; clones share it.
#[derive(Clone)]
pub struct Node(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: NodeConfig,
    pub(crate) identity: Identity,
    pub(crate) term: Term,
    pub(crate) rule: QuorumRule,
    pub(crate) bucket: Arc<dyn Bucket>,
    pub(crate) log: ObjectLog,
    pub(crate) manifest: Arc<crate::manifest_store::ManifestStore>,
    held: AsyncMutex<Option<Held>>,
    pub(crate) chunk_writer: crate::uploader::ChunkWriter,
    pub(crate) store: SharedStore,
    pub(crate) readers: localdb::Readers,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) confirmer: Arc<Confirmer>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) compacted: watch::Receiver<Revision>,
    /// Index up to which the own database holds entries.
    pub(crate) held_locally: watch::Sender<LogIndex>,
    /// Held while rows are read that must not be deleted meanwhile.
    pub(crate) rows_stay: AsyncMutex<()>,
    pub(crate) compactions: Arc<Compactions>,
    /// Runs of terms of the whole log as of the start of this term.
    runs: Vec<localdb::TermRun>,
    first_of_term: LogIndex,
    hub: WatchHub,
    stop: watch::Sender<bool>,
    ended: watch::Sender<Option<Ended>>,
}

impl Node {
    /// Starts a node: returns once it can serve. `buckets` is the cluster's.
    pub async fn start(config: NodeConfig, buckets: Buckets) -> Result<Self, StartError> {
        failpoint::arm_from_environment().map_err(StartError::Config)?;
        let begun = start::begin(&config, buckets).await?;
        Self::run(config, begun)
    }

    fn run(config: NodeConfig, begun: Begun) -> Result<Self, StartError> {
        let Begun {
            bucket,
            manifest,
            log,
            held,
            me,
            chunk_writer,
            db,
            readers,
            mut store,
            point,
            tracker,
            proof,
            lease_ms,
        } = begun;
        let member_id = held.manifest.members.get(&config.node_id).map_or(0, |id| id.0);
        let identity = Identity {
            cluster_name: config.cluster_id.clone(),
            cluster_id: fnv1a(config.cluster_id.as_bytes()),
            member_id,
            node_id: config.node_id.clone(),
            client_urls: config.advertise_client.clone(),
            peer_urls: config.advertise_peer.clone(),
        };
        let (term, rule) = (tracker.term(), tracker.rule());
        // R4 is done: all that is in the log is committed.
        store.set_visible(point.last_index);
        store.lease_extend_all(boot_millis());
        let visible = store.visible_revision();
        let compactions = Arc::new(Compactions::new(point.last_index, store.compact_revision()));
        let runs = db.term_runs().to_vec();
        let held_locally = watch::Sender::new(point.last_index);
        let store = SharedStore::new(store);
        let history = Arc::new(StoreHistory::new(store.clone(), readers.clone()));
        let hub = WatchHub::start(
            history,
            visible,
            WatchOptions { progress_notify_interval: config.watch_progress_interval, ..WatchOptions::default() },
        )?;
        let metrics = Arc::new(Metrics::default());
        let publisher = Publisher::new(tracker, me, store.clone(), hub.clone());
        let uploads = Uploads::new(point);
        let confirmer = Confirmer::new(manifest.clone(), term, chunk_writer.session, proof, lease_ms);
        let (commands, queue) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let writer = Writer {
            term,
            member_id,
            db_bytes_max: config.db_bytes_max,
            store: store.clone(),
            db,
            readers: readers.clone(),
            publisher: publisher.clone(),
            uploads: uploads.clone(),
            metrics: metrics.clone(),
            held_locally: held_locally.clone(),
            compactions: compactions.clone(),
        };
        std::thread::Builder::new().name("netsy-writer".into()).spawn(move || writer.run(queue))?;
        let uploader = Uploader {
            writer: chunk_writer.clone(),
            thresholds: Thresholds {
                at_once: rule.only_object_log(),
                bytes: config.chunk_bytes,
                age: config.chunk_age,
            },
            log: log.clone(),
            readers: readers.clone(),
            uploads: uploads.clone(),
            publisher: publisher.clone(),
            metrics: metrics.clone(),
        };
        let (compacted_tx, compacted) = watch::channel(Revision(-1));
        let inner = Arc::new(Inner {
            config,
            identity,
            term,
            rule,
            bucket,
            log,
            manifest,
            held: AsyncMutex::new(Some(held)),
            chunk_writer,
            store,
            readers,
            commands,
            publisher,
            uploads,
            confirmer,
            metrics,
            compacted,
            held_locally,
            rows_stay: AsyncMutex::new(()),
            compactions,
            runs,
            first_of_term: point.last_index.next(),
            hub,
            stop: watch::Sender::new(false),
            ended: watch::Sender::new(None),
        });
        let watched = inner.clone();
        tokio::spawn(async move { watched.uploading_ended(uploader.run().await) });
        tokio::spawn(background::leases(inner.clone()));
        tokio::spawn(background::figures(inner.clone()));
        tokio::spawn(background::automatic_compaction(inner.clone()));
        tokio::spawn(background::physical_compaction(inner.clone(), compacted_tx));
        tokio::spawn(snapshotter::run(inner.clone()));
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

    /// Stops gracefully: nothing new is taken, everything is uploaded, the bucket is then the whole cluster. Gives up
    /// on the bucket after `drain_timeout`, keeping the disk. The error says what was left undone.
    pub async fn stop(&self) -> Result<(), String> {
        self.0.stop().await
    }

    /// What an acknowledged write survives, in one line.
    pub fn survives(&self) -> String {
        if self.0.rule.only_object_log() {
            format!(
                "a write is acknowledged once it is in {}: it survives the loss of this node and its disk",
                self.0.bucket.describe()
            )
        } else {
            format!(
                "a write is acknowledged once it is synced to this node's disk, and is in {} within {:?}: \
                 it survives a crash or power loss, but with the disk the last moments are lost",
                self.0.bucket.describe(),
                self.0.config.chunk_age
            )
        }
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The term it acts in.
    pub fn term(&self) -> Term {
        self.0.term
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

    /// Has a write done; returns once it is committed. An `Unavailable` error other than `TooManyRequests` leaves
    /// its outcome unknown.
    pub async fn write(&self, request: WriteRequest) -> Result<Written, NodeError> {
        if self.0.publisher.waiting() > WAITING_ANSWERS_MAX {
            return Err(Unavailable::TooManyRequests.into());
        }
        self.0.submit(request).await
    }
}

impl Inner {
    pub(crate) async fn submit(&self, request: WriteRequest) -> Result<Written, NodeError> {
        let Answer { mut written, epoch } = writer::submit(&self.commands, request).await?;
        if let Some(epoch) = epoch {
            self.fill_outcome(&mut written.outcome, epoch).await?;
        }
        Ok(written)
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

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Resolves once the node stops or has ended.
    pub(crate) async fn stopping(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives as long as self.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    fn uploading_ended(&self, end: UploadEnd) {
        let (reason, ended) = match end {
            UploadEnd::Stopped => return,
            UploadEnd::Deposed(by) => (Unavailable::LeaderChanged, Ended::Deposed(by)),
            UploadEnd::Failed(why) => (Unavailable::NoLeader, Ended::Failed(why)),
        };
        tracing::error!(?ended, "this node cannot go on as Primary");
        self.confirmer.depose();
        self.end(reason, ended);
    }

    fn end(&self, reason: Unavailable, ended: Ended) {
        self.stop.send_replace(true);
        self.publisher.close(reason);
        self.hub.stop();
        self.ended.send_if_modified(|now| {
            let first = now.is_none();
            if first {
                *now = Some(ended);
            }
            first
        });
    }

    async fn stop(&self) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + self.config.drain_timeout;
        // Background work ends; requests are the server's to end before it calls this.
        self.stop.send_replace(true);
        let drained = tokio::time::timeout_at(deadline, self.drain()).await;
        let result = match drained {
            Ok(result) => result,
            Err(_) => Err(format!(
                "object storage did not take everything within {:?}; what it lacks is safe in {}",
                self.config.drain_timeout,
                self.config.data_dir.display()
            )),
        };
        self.confirmer.depose();
        self.uploads.stop();
        self.end(Unavailable::Stopped, Ended::Stopped);
        let (done, stopped) = tokio::sync::oneshot::channel();
        if self.commands.send(Command::Stop { done }).await.is_ok()
            && let Ok(db) = stopped.await
        {
            let point = self.uploads.tail();
            let noted = tokio::task::spawn_blocking(move || {
                let mut db = db;
                crate::adopt::note_point(&mut db, &point).map_err(|e| e.to_string())
            });
            match noted.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the local database could not note its state"),
                Err(error) => tracing::warn!(%error, "the local database could not note its state"),
            }
        }
        result
    }

    /// Everything to the object log, then the voters emptied: any node can go on from the bucket (section 4).
    async fn drain(&self) -> Result<(), String> {
        if !self.uploads.flush().await {
            return Err("uploading ended before everything was in object storage".into());
        }
        failpoint::hit("stop.drained");
        // Nothing is acknowledged or confirmed from here on.
        self.publisher.close(Unavailable::Stopped);
        self.confirmer.depose();
        // What the writer had taken before goes up, too, though nobody is told of it any more.
        while self.publisher.in_object_log() < writer::head(&self.store) {
            if !self.uploads.flush().await {
                return Err("uploading ended before everything was in object storage".into());
            }
        }
        let Some(held) = self.held.lock().await.take() else {
            return Ok(());
        };
        match term::leave_empty(&self.manifest, held).await {
            Ok(Some(_)) => failpoint::hit("stop.voters-emptied"),
            Ok(None) => return Err("another process took the term over".into()),
            Err(e) => return Err(e.to_string()),
        }
        term::deregister(&self.manifest, &self.config).await.map_err(|e| e.to_string())
    }

    /// Runs of terms up to `covers`, a point of the object log in this term.
    pub(crate) fn runs_through(&self, covers: &LogPoint) -> Vec<netsy_objects::manifest::TermRun> {
        let mut runs = self.runs.clone();
        if covers.last_term == self.term {
            // The first entry of this term follows what the log held when it began.
            let known = runs.last().is_some_and(|run| run.term == self.term);
            if !known {
                runs.push(localdb::TermRun { term: self.term, first_index: self.first_of_term });
            }
        }
        snapshotter::runs_through(&runs, covers)
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
