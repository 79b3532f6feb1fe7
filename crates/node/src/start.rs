//! From a data folder and a bucket to a node that runs (R11).

use crate::clock::boot_millis;
use crate::config::NodeConfig;
use crate::driver;
use crate::error::{NodeError, Unavailable};
use crate::failpoint;
use crate::load;
use crate::load_log;
use crate::log_thread::{Gone, LED_NOTE};
use crate::manifest_store::{ManifestStore, ManifestStoreError, random_128};
use crate::net::{self, PeerListen};
use crate::node::{Node, Parts};
use crate::register;
use crate::store_calls;
use netsy_api::ids::{LogIndex, Session};
use netsy_localdb as localdb;
use netsy_objects::Buckets;
use netsy_objects::bucket::Bucket;
use netsy_objects::manifest::{ClusterManifest, Registration};
use netsy_objects::object_log::LogPoint;
use netsy_objects::read::ReadError;
use netsy_objects::restore::RestoreError;
use netsy_objects::{StoreError, probe};
use netsy_protocol::config::{Settings, Start, Stored};
use netsy_protocol::engine::Engine;
use netsy_protocol::manifest::ProcessId;
use netsy_protocol::reconcile::{Run, Runs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Why a node did not start. Each says what to do.
#[derive(Debug, Error)]
pub enum StartError {
    /// The local database cannot be used.
    #[error(transparent)]
    Database(#[from] localdb::Error),
    /// Something about local state that is no database error.
    #[error("{0}")]
    Local(String),
    /// Object storage did not answer or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is wrong or missing.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Nothing in the bucket gives the whole state.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The manifest or a registration is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestStoreError),
    /// The bucket does not do what netsy needs.
    #[error(transparent)]
    Probe(#[from] probe::ProbeFailed),
    /// The configuration does not fit what is there.
    #[error("{0}")]
    Config(String),
    /// Other nodes cannot be listened for.
    #[error("{0}")]
    Peers(String),
    /// R7: a committed entry would have to be deleted.
    #[error("halted: this node's log and the object log disagree on a committed entry: {0}")]
    Diverged(String),
    /// R11: the database is a restored backup.
    #[error("the local database is older than what this node was registered with")]
    Behind,
    /// The system has no randomness to give.
    #[error("no randomness: {0}")]
    Random(String),
    /// A thread or task could not be started.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

impl StartError {
    /// Object storage could not be asked: later it may be well again. Nothing else is wrong as far as is known.
    pub fn storage_is_out(&self) -> bool {
        match self {
            Self::Probe(failed) => failed.unavailable,
            Self::Store(error) | Self::Manifest(ManifestStoreError::Store(error)) => error.is_retryable(),
            Self::Read(ReadError::Store(error)) | Self::Restore(RestoreError::Read(ReadError::Store(error))) => {
                error.is_retryable()
            }
            _ => false,
        }
    }
}

impl From<getrandom::Error> for StartError {
    fn from(error: getrandom::Error) -> Self {
        StartError::Random(error.to_string())
    }
}

impl From<Gone> for StartError {
    fn from(gone: Gone) -> Self {
        StartError::Local(gone.to_string())
    }
}

/// What a node begins with: a bucket that is fit, and a local database that is registered in it.
pub struct Opened {
    config: NodeConfig,
    bucket: Arc<dyn Bucket>,
    manifest: Arc<ManifestStore>,
    current: Option<ClusterManifest>,
    registrations: Vec<Registration>,
    db: localdb::Writer,
    readers: localdb::Readers,
    identity: localdb::Identity,
}

impl Opened {
    /// One try. Where [`StartError::storage_is_out`], another one later does no harm.
    pub async fn open(config: NodeConfig, buckets: Buckets) -> Result<Self, StartError> {
        failpoint::arm_from_environment().map_err(StartError::Config)?;
        let bucket = buckets.data;
        let manifest = Arc::new(ManifestStore::new(buckets.control));
        // First, since it is told soonest if nobody answers.
        let current = manifest.read().await?;
        probe::probe(&*bucket).await?;
        if let Some(current) = &current {
            check(&config, current)?;
        }
        let (db, readers, identity) = open_current(&config, &manifest).await?;
        let registrations = manifest.registrations().await?;
        Ok(Self { config, bucket, manifest, current, registrations, db, readers, identity })
    }
}

impl Node {
    /// Opens everything and starts a node ([`start_opened`](Self::start_opened)).
    pub async fn start(config: NodeConfig, buckets: Buckets, peers: Option<PeerListen>) -> Result<Self, StartError> {
        Self::start_opened(Opened::open(config, buckets).await?, peers).await
    }

    /// Starts a node: it joins its cluster, makes it, or leads it, by itself from here on; see
    /// [`serving`](Self::serving). Without `peers` the node is alone.
    pub async fn start_opened(opened: Opened, peers: Option<PeerListen>) -> Result<Self, StartError> {
        let Opened { config, bucket, manifest, current, registrations, db, readers, identity } = opened;
        let session = Session(random_128()?);
        let point = load_log::known_point(&db, &readers)?.unwrap_or(LogPoint::START);
        let (db, store) = load::load(db, readers.clone(), &config).await?;
        let incarnation = identity.incarnation;
        let me = ProcessId { node_id: config.node_id.clone(), incarnation, session };
        let engine = Engine::new(
            boot_millis(),
            Start {
                cluster_id: config.cluster_id.clone(),
                me,
                address: config.advertise_peer.first().cloned().unwrap_or_default(),
                settings: settings(&config),
                stored: Stored {
                    promised: db.promised_term(),
                    runs: runs_of(&db)?,
                    visible: store.visible_index(),
                    led: led(&db)?,
                },
                seed: random_128()?,
                nodes: registrations.iter().map(store_calls::registered).collect(),
            },
        );
        let node = Node::assemble(Parts {
            config,
            session,
            incarnation,
            boot: identity.boot_counter,
            bucket,
            manifest,
            db,
            readers,
            store,
            point,
            engine,
        })?;
        let inner = &node.0;
        if let Some(current) = &current {
            inner.saw_manifest(&store_calls::from_stored(current));
        }
        inner.saw_registrations(registrations.clone());
        if let Some(listen) = peers {
            let peers = net::start(inner, listen).map_err(|e| StartError::Peers(e.to_string()))?;
            if inner.peers.set(peers).is_err() {
                return Err(StartError::Local("peers were started twice".to_string()));
            }
            inner.saw_nodes(registrations.iter().map(store_calls::registered).collect());
        }
        tracing::info!(
            node = %inner.config.node_id,
            database = %inner.incarnation,
            store = %inner.bucket.describe(),
            "this node starts"
        );
        // What the engine wants at once.
        inner.engine(|_, _| ());
        inner.spawn("ticks", driver::ticks(inner.clone()));
        Ok(node)
    }

    /// Waits until this node answers linearizable reads: it leads, or follows a Primary and is up to date.
    pub async fn serving(&self) -> Result<(), NodeError> {
        self.read_index().await?;
        // Answers name the term and the leader, which this node takes over from the engine a moment later.
        let mut leader = self.0.leader.subscribe();
        tokio::select! {
            known = leader.wait_for(|leader| leader.primary.is_some()) => {
                known.map(|_| ()).map_err(|_| Unavailable::Stopped.into())
            }
            () = self.0.wait_ended() => Err(Unavailable::Stopped.into()),
        }
    }
}

fn settings(config: &NodeConfig) -> Settings {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    Settings {
        quorum: config.quorum,
        copies_min: config.copies_min,
        voters_max: config.voters_max,
        quorum_timeout: millis(config.quorum_timeout),
        read_lease: millis(config.read_lease),
        heartbeat_interval: millis(config.heartbeat_interval),
        degradation_count: config.degradation_count,
        deregistration_timeout: millis(config.deregistration_timeout),
        leader_timeout: millis(config.leader_timeout),
        drain_timeout: millis(config.drain_timeout),
    }
}

fn led(db: &localdb::Writer) -> Result<Option<Session>, StartError> {
    let bad = |e: &dyn std::fmt::Display| StartError::Local(format!("the note {LED_NOTE} in the local database: {e}"));
    let Some(note) = db.note(LED_NOTE)? else { return Ok(None) };
    let text = std::str::from_utf8(&note).map_err(|e| bad(&e))?;
    text.parse().map(Some).map_err(|e: netsy_api::ids::InvalidId| bad(&e))
}

fn runs_of(db: &localdb::Writer) -> Result<Runs, StartError> {
    let (runs, end) = (db.term_runs(), db.end().index);
    let ends = runs.iter().skip(1).map(|run| LogIndex(run.first_index.0 - 1)).chain(std::iter::once(end));
    let runs = runs.iter().zip(ends).map(|(run, last_index)| Run { term: run.term, last_index });
    Runs::new(runs).map_err(|e| StartError::Local(format!("local database: {e}")))
}

fn check(config: &NodeConfig, found: &ClusterManifest) -> Result<(), StartError> {
    if found.cluster_id != config.cluster_id {
        return Err(StartError::Config(format!(
            "the bucket holds cluster {:?}, the config says {:?}: use another bucket or storage.key_prefix, or correct cluster_id",
            found.cluster_id, config.cluster_id
        )));
    }
    Ok(())
}

/// Opens the database and registers the node; a restored backup is set aside, since it forgot what it promised:
/// the node then starts from the bucket as a new incarnation (R11).
async fn open_current(
    config: &NodeConfig,
    manifest: &ManifestStore,
) -> Result<(localdb::Writer, localdb::Readers, localdb::Identity), StartError> {
    let mut set_aside = false;
    loop {
        let (mut db, readers, mut identity) = open(config).await?;
        match register::register(manifest, config, &identity, &mut db).await {
            Ok(boot) => {
                identity.boot_counter = boot;
                return Ok((db, readers, identity));
            }
            Err(StartError::Behind) if !set_aside => {
                set_aside = true;
                drop((db, readers));
                let aside = config.data_dir.join(format!("set-aside-{}", identity.incarnation));
                tracing::warn!(
                    folder = %aside.display(),
                    "the local database is a restored backup: it is set aside and the node starts from the bucket"
                );
                localdb::LocalDb::set_aside(&config.data_dir, &aside)?;
            }
            Err(e) => return Err(e),
        }
    }
}

async fn open(config: &NodeConfig) -> Result<(localdb::Writer, localdb::Readers, localdb::Identity), StartError> {
    let (folder, cluster_id, vfs): (PathBuf, _, _) =
        (config.data_dir.clone(), config.cluster_id.clone(), config.sqlite_vfs.clone());
    blocking(move || {
        let mut options = localdb::OpenOptions::new(cluster_id);
        options.vfs = vfs;
        localdb::LocalDb::open(&folder, &options)
    })
    .await?
    .map_err(Into::into)
}

/// Runs something that blocks where it holds up nothing else.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, StartError> {
    tokio::task::spawn_blocking(f).await.map_err(|e| StartError::Local(format!("a task was broken off: {e}")))
}
