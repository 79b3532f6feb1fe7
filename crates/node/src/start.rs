//! From a data folder and a bucket to a serving Primary (R1, R4, R9, R10, R11).

use crate::adopt;
use crate::clock::boot_millis;
use crate::config::NodeConfig;
use crate::error::Unavailable;
use crate::failpoint;
use crate::load;
use crate::log_thread::Gone;
use crate::manifest_store::{ManifestStore, ManifestStoreError, random_128};
use crate::node::{Ended, Node, Parts};
use crate::primary;
use crate::term;
use crate::uploader::ChunkWriter;
use netsy_api::ids::Session;
use netsy_localdb as localdb;
use netsy_objects::Buckets;
use netsy_objects::object_log::LogPoint;
use netsy_objects::read::ReadError;
use netsy_objects::restore::RestoreError;
use netsy_objects::{StoreError, probe};
use netsy_protocol::read::ReadLease;
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
    #[error("{0}")]
    Probe(String),
    /// The configuration does not fit what is there.
    #[error("{0}")]
    Config(String),
    /// R12.
    #[error("quorum lost: {0}")]
    QuorumLost(String),
    /// Another process took the term over meanwhile.
    #[error("another node took over while this one was starting: {0}")]
    Deposed(String),
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

impl Node {
    /// Starts a node: returns once it can serve. `buckets` is the cluster's.
    pub async fn start(config: NodeConfig, buckets: Buckets) -> Result<Self, StartError> {
        failpoint::arm_from_environment().map_err(StartError::Config)?;
        let bucket = buckets.data;
        probe::probe(&*bucket).await.map_err(|e| StartError::Probe(e.to_string()))?;
        let manifest = Arc::new(ManifestStore::new(buckets.control));
        let (db, readers, identity) = open_current(&config, &manifest).await?;
        let session = Session(random_128()?);
        let point = adopt::known_point(&db, &readers)?.unwrap_or(LogPoint::START);
        let (db, store) = load::load(db, readers.clone(), &config).await?;
        let incarnation = identity.incarnation;
        let node =
            Node::assemble(Parts { config, session, incarnation, bucket, manifest, db, readers, store, point })?;
        match lead(&node).await {
            Ok(()) => Ok(node),
            Err(error) => {
                node.0.end(Unavailable::Stopped, Ended::Failed(error.to_string()));
                node.0.thread.stop().await;
                Err(error)
            }
        }
    }
}

async fn lead(node: &Node) -> Result<(), StartError> {
    let inner = &node.0;
    let won = term::win(inner).await?;
    let won_at = boot_millis();
    let term = won.held.manifest.term;
    tracing::info!(
        term = term.0,
        node = %inner.config.node_id,
        database = %inner.incarnation,
        store = %inner.bucket.describe(),
        "this node is Primary of a new term"
    );
    let writer = ChunkWriter {
        cluster_id: inner.config.cluster_id.clone(),
        node_id: inner.config.node_id.clone(),
        session: inner.session,
        term,
    };
    let point = adopt::take_over(inner, &writer).await?;
    let lease_ms = inner.config.read_lease.as_millis() as u64;
    // R9: leases of the Primary before run by its configuration, which is the same on every node.
    if won.predecessor_may_serve && term::rule_of(&won.held.manifest).only_object_log() {
        let wait = ReadLease::takeover_wait_ms(lease_ms).saturating_sub(boot_millis().saturating_sub(won_at));
        if wait > 0 {
            tracing::info!(wait_ms = wait, "waiting until the read lease of the Primary before has run out");
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }
    let held = term::become_only_voter(&inner.manifest, won.held)
        .await?
        .ok_or_else(|| StartError::Deposed("the manifest was written by another process".into()))?;
    failpoint::hit("start.voters-changed");
    primary::lead(inner, held, writer, point, lease_ms).await
}

/// Opens the database and registers the node; a restored backup is set aside, since it forgot what it promised:
/// the node then starts from the bucket as a new incarnation (R11).
async fn open_current(
    config: &NodeConfig,
    manifest: &ManifestStore,
) -> Result<(localdb::Writer, localdb::Readers, localdb::Identity), StartError> {
    let mut set_aside = false;
    loop {
        let (db, readers, identity) = open(config).await?;
        match term::register(manifest, config, &identity).await {
            Ok(()) => return Ok((db, readers, identity)),
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
