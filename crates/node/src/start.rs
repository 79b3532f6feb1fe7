//! From a data folder and a bucket to a serving Primary (R1, R4, R9, R10, R11).

use crate::adopt::{self, Sealed};
use crate::clock::boot_millis;
use crate::config::NodeConfig;
use crate::failpoint;
use crate::load;
use crate::manifest_store::{ManifestStore, ManifestStoreError, random_128};
use crate::restore;
use crate::term::{self, Held};
use crate::uploader::ChunkWriter;
use netsy_api::ids::{ChunkSeq, Session};
use netsy_localdb as localdb;
use netsy_mvcc::Store;
use netsy_objects::object_log::{LogPoint, ObjectLog};
use netsy_objects::read::ReadError;
use netsy_objects::restore::RestoreError;
use netsy_objects::{Bucket, Buckets};
use netsy_objects::{StoreError, probe};
use netsy_protocol::commit::CommitTracker;
use netsy_protocol::quorum::Voter;
use netsy_protocol::read::{ReadLease, ReadProof};
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

/// Everything a Primary runs on.
pub(crate) struct Begun {
    pub(crate) bucket: Arc<dyn Bucket>,
    pub(crate) manifest: Arc<ManifestStore>,
    pub(crate) log: ObjectLog,
    pub(crate) held: Held,
    pub(crate) me: Voter,
    pub(crate) chunk_writer: ChunkWriter,
    pub(crate) db: localdb::Writer,
    pub(crate) readers: localdb::Readers,
    pub(crate) store: Store,
    pub(crate) point: LogPoint,
    pub(crate) tracker: CommitTracker,
    pub(crate) proof: ReadProof,
    pub(crate) lease_ms: u64,
}

/// Listings of the object log that fell into clean-up's holes before start gives up.
const ADOPT_TRIES_MAX: u32 = 100;

pub(crate) async fn begin(config: &NodeConfig, buckets: Buckets) -> Result<Begun, StartError> {
    let bucket = buckets.data;
    probe::probe(&*bucket).await.map_err(|e| StartError::Probe(e.to_string()))?;
    let manifest = Arc::new(ManifestStore::new(buckets.control));
    let (mut db, readers, identity) = open_current(config, &manifest).await?;
    let session = Session(random_128()?);
    let won = term::win(&manifest, config, &identity, &mut db, session).await?;
    let won_at = boot_millis();
    let term = won.held.manifest.term;
    tracing::info!(
        term = term.0,
        node = %config.node_id,
        database = %identity.incarnation,
        store = %bucket.describe(),
        "this node is Primary of a new term"
    );
    let chunk_writer =
        ChunkWriter { cluster_id: config.cluster_id.clone(), node_id: config.node_id.clone(), session, term };
    let log = ObjectLog::new(bucket.clone(), &config.cluster_id);
    let point = take_over(&log, &mut db, &readers, &chunk_writer).await?;

    let lease_ms = config.read_lease.as_millis() as u64;
    // R9: leases of the Primary before run by its configuration, which is the same on every node.
    if won.predecessor_may_serve && term::rule_of(&won.held.manifest).only_object_log() {
        let wait = ReadLease::takeover_wait_ms(lease_ms).saturating_sub(boot_millis().saturating_sub(won_at));
        if wait > 0 {
            tracing::info!(wait_ms = wait, "waiting until the read lease of the Primary before has run out");
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }
    let held = term::become_only_voter(&manifest, won.held, &identity)
        .await?
        .ok_or_else(|| StartError::Deposed("the manifest was written by another process".into()))?;
    failpoint::hit("start.voters-changed");

    let (mut db, store) = load::load(db, readers.clone(), config).await?;
    adopt::note_point(&mut db, &point)?;
    let me = Voter { node_id: config.node_id.clone(), incarnation: identity.incarnation };
    let rule = term::rule_of(&held.manifest);
    let voters = term::voters_of(&held.manifest);
    let proof = ReadProof::needed(rule, &voters, &me);
    let tracker = CommitTracker::new(term, rule, voters, point.last_index);
    Ok(Begun { bucket, manifest, log, held, me, chunk_writer, db, readers, store, point, tracker, proof, lease_ms })
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

/// R4: read the object log to its end, seal it, upload the tail.
async fn take_over(
    log: &ObjectLog,
    db: &mut localdb::Writer,
    readers: &localdb::Readers,
    writer: &ChunkWriter,
) -> Result<LogPoint, StartError> {
    for _ in 0..ADOPT_TRIES_MAX {
        let adopted = match adopt::known_point(db)? {
            Some(from) => {
                check_reaches(log, &from).await?;
                adopt::adopt(log, db, writer, from).await?
            }
            None => None,
        };
        let point = match adopted {
            Some(point) => point,
            None => restore::restore(log, db, writer).await?,
        };
        if let Sealed::At(point) = adopt::seal(log, db, writer, point).await? {
            return adopt::upload_tail(log, db, readers, writer, point).await;
        }
        adopt::note_point(db, &point)?;
    }
    Err(StartError::Deposed("the object log is being cleaned up faster than this node can read it".into()))
}

/// The newest chunk is never deleted (R4): a log that ends before what was seen of it is another log.
async fn check_reaches(log: &ObjectLog, known: &LogPoint) -> Result<(), StartError> {
    let end = log.list(ChunkSeq(known.seq.0.saturating_sub(1))).await?.end();
    if end < known.seq {
        return Err(StartError::Diverged(format!(
            "the object log ends at chunk {end}, this node knows it to have reached {}: is it the right bucket and storage.key_prefix?",
            known.seq
        )));
    }
    Ok(())
}

/// Runs something that blocks where it holds up nothing else.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, StartError> {
    tokio::task::spawn_blocking(f).await.map_err(|e| StartError::Local(format!("a task was broken off: {e}")))
}
