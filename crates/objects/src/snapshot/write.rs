//! Writing a snapshot from a stream of rows.

use super::check::{CheckedSnapshot, NotChecked, check_snapshot};
use super::cut::{Cutter, PART_BYTES_TARGET};
use super::load::list_snapshots;
use crate::bucket::{Bucket, StoreError};
use crate::format::part::FinishedPart;
use crate::format::{FormatError, PartBuilder, crc, decode_part};
use crate::keys;
use crate::manifest::{JsonObject, ManifestError, SCHEMA_VERSION, SnapshotManifest, SnapshotPart, TermRun};
use crate::object_log::LogPoint;
use crate::read::ReadError;
use crate::settle::{Settled, create_settled};
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use netsy_api::ids::{LogIndex, NodeId, Revision, Session, UnixMillis};
use netsy_api::log::Row;
use std::collections::HashMap;
use std::sync::Arc;

/// What a snapshot is of.
#[derive(Clone, Debug)]
pub struct SnapshotSpec {
    /// The cluster's name.
    pub cluster_id: String,
    /// Who writes it.
    pub node_id: NodeId,
    /// That process.
    pub session: Session,
    /// A chunk known to be in the object log: the rows are the state after its last entry.
    pub covers: LogPoint,
    /// Of all entries up to there.
    pub runs: Vec<TermRun>,
    /// The lowest readable revision there.
    pub compact_revision: Revision,
    /// Now.
    pub created_at: UnixMillis,
    /// Of this program.
    pub version: String,
}

/// How a snapshot is written.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotOptions {
    /// Uncompressed bytes of an average part.
    pub part_bytes_target: usize,
    /// Parts compressed and uploaded at a time; each is held in memory.
    pub parallel: usize,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self { part_bytes_target: PART_BYTES_TARGET, parallel: 4 }
    }
}

/// Why there is no new snapshot.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// One that reaches as far exists already.
    #[error("snapshot {existing} is as new as snapshot {wanted} would be")]
    NotNewer {
        /// The one asked for.
        wanted: LogIndex,
        /// The one that exists.
        existing: LogIndex,
    },
    /// The rows could not be had.
    #[error("the rows of snapshot {index} could not be read: {reason}")]
    Rows {
        /// The snapshot's.
        index: LogIndex,
        /// What the stream said.
        reason: String,
    },
    /// The rows are not those of a state.
    #[error("snapshot {index}: {error}")]
    Format {
        /// The snapshot's.
        index: LogIndex,
        /// What is wrong.
        error: FormatError,
    },
    /// What it was to be of cannot be.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The bucket did not take it, or an object in it is wrong.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is in place, but cannot be relied on.
    #[error(transparent)]
    NotChecked(#[from] NotChecked),
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        WriteError::Read(ReadError::Store(error))
    }
}

/// Writes a snapshot of `rows` (ascending by position, in batches of any size), reads it back and
/// checks it. Parts that the newest snapshot has are not written again. `known` is the newest one that
/// this process checked. A failed try leaves objects that clean-up removes.
pub async fn write_snapshot(
    bucket: &Arc<dyn Bucket>,
    spec: SnapshotSpec,
    rows: impl Stream<Item = Result<Vec<Row>, String>> + Send,
    known: Option<&CheckedSnapshot>,
    options: SnapshotOptions,
) -> Result<CheckedSnapshot, WriteError> {
    let index = spec.covers.last_index;
    let base = find_base(bucket, &spec, known).await?;
    let mut writer = PartsWriter::new(bucket, &spec, base.as_ref().map(CheckedSnapshot::manifest), options);
    let mut rows = std::pin::pin!(rows);
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|reason| WriteError::Rows { index, reason })?;
        writer.push(batch).await?;
    }
    let parts = writer.finish().await?;
    let manifest = manifest_of(&spec, base.as_ref(), parts);
    create_manifest(bucket, &manifest).await?;
    let checked = check_snapshot(bucket, &spec.cluster_id, index, base.as_ref()).await?;
    if **checked.manifest() != manifest {
        return Err(WriteError::NotNewer { wanted: index, existing: index });
    }
    Ok(checked)
}

/// The newest snapshot, if it can be relied on; whole if this process has not checked it.
async fn find_base(
    bucket: &Arc<dyn Bucket>,
    spec: &SnapshotSpec,
    known: Option<&CheckedSnapshot>,
) -> Result<Option<CheckedSnapshot>, WriteError> {
    let wanted = spec.covers.last_index;
    let Some(&newest) = list_snapshots(&**bucket).await?.last() else { return Ok(None) };
    if newest >= wanted {
        return Err(WriteError::NotNewer { wanted, existing: newest });
    }
    if let Some(known) = known.filter(|known| known.index() == newest) {
        return Ok(Some(known.clone()));
    }
    match check_snapshot(bucket, &spec.cluster_id, newest, known).await {
        Ok(checked) => Ok(Some(checked)),
        Err(NotChecked::Read(ReadError::Store(error))) => Err(error.into()),
        Err(reason) => {
            tracing::warn!(%newest, %reason, "the newest snapshot cannot be built on: the next one is written whole");
            Ok(None)
        }
    }
}

fn manifest_of(spec: &SnapshotSpec, base: Option<&CheckedSnapshot>, parts: Vec<SnapshotPart>) -> SnapshotManifest {
    SnapshotManifest {
        schema_version: SCHEMA_VERSION,
        cluster_id: spec.cluster_id.clone(),
        seq: spec.covers.seq,
        term: spec.covers.term,
        last_index: spec.covers.last_index,
        runs: spec.runs.clone(),
        next_position: spec.covers.next_position,
        revision: spec.covers.revision,
        compact_revision: spec.compact_revision,
        state_digest: parts.iter().fold(0, |digest, part| crc::combine(digest, part.rows_crc, part.rows_bytes)),
        rows: parts.iter().map(|part| part.rows).sum(),
        base: base.map(CheckedSnapshot::index),
        node_id: spec.node_id.clone(),
        session: spec.session,
        created_at: spec.created_at,
        version: spec.version.clone(),
        parts,
    }
}

async fn create_manifest(bucket: &Arc<dyn Bucket>, manifest: &SnapshotManifest) -> Result<(), WriteError> {
    let index = manifest.last_index;
    let bytes = manifest.to_json()?;
    let is_mine = |found: &[u8]| found == &bytes[..];
    let settled = create_settled(&**bucket, &keys::snapshot_manifest(index), bytes.clone().into(), &is_mine).await?;
    match settled {
        Settled::Mine(_) => Ok(()),
        // Written by another node in the meantime; or that and cleaned up again.
        Settled::Theirs(_) | Settled::Missing => Err(WriteError::NotNewer { wanted: index, existing: index }),
    }
}

/// Rows filled into a part on the async threads at most; more are handed to a blocking one.
const FILL_INLINE_ROWS: usize = 64;

/// Cuts rows into parts.
struct Filler {
    cluster_id: String,
    covers: LogPoint,
    cutter: Cutter,
    part: Option<PartBuilder>,
}

impl Filler {
    /// The parts that end within these rows.
    fn fill(&mut self, rows: &[Row]) -> Result<Vec<FinishedPart>, FormatError> {
        let mut finished = Vec::new();
        for row in rows {
            if row.position >= self.covers.next_position || row.index > self.covers.last_index {
                return Err(FormatError::invalid(format!(
                    "the row at position {} of entry {} lies behind it",
                    row.position, row.index
                )));
            }
            let part = self.part.get_or_insert_with(|| PartBuilder::new(&self.cluster_id));
            let row_bytes = part.push(row)?;
            if self.cutter.ends(row.position, row_bytes, part.bytes()) {
                finished.extend(self.finish()?);
            }
        }
        Ok(finished)
    }

    /// What is left at the end.
    fn finish(&mut self) -> Result<Option<FinishedPart>, FormatError> {
        self.part.take().map(PartBuilder::finish).transpose()
    }
}

/// Uploads the parts that are new, a few at a time.
struct PartsWriter<'a> {
    bucket: &'a Arc<dyn Bucket>,
    index: LogIndex,
    base: HashMap<&'a str, &'a SnapshotPart>,
    parallel: usize,
    /// Out on a blocking thread while rows are filled in.
    filler: Option<Filler>,
    uploads: FuturesUnordered<tokio::task::JoinHandle<Result<(usize, SnapshotPart), WriteError>>>,
    parts: Vec<Option<SnapshotPart>>,
}

impl<'a> PartsWriter<'a> {
    fn new(
        bucket: &'a Arc<dyn Bucket>,
        spec: &SnapshotSpec,
        base: Option<&'a Arc<SnapshotManifest>>,
        options: SnapshotOptions,
    ) -> Self {
        let base = base.into_iter().flat_map(|base| &base.parts).map(|part| (part.sha256.as_str(), part)).collect();
        let filler = Filler {
            cluster_id: spec.cluster_id.clone(),
            covers: spec.covers,
            cutter: Cutter::new(options.part_bytes_target),
            part: None,
        };
        Self {
            bucket,
            index: spec.covers.last_index,
            base,
            parallel: options.parallel.max(1),
            filler: Some(filler),
            uploads: FuturesUnordered::new(),
            parts: Vec::new(),
        }
    }

    /// Fills rows in and begins the uploads of what is finished. Encoding and hashing megabytes would
    /// hold up others on an async thread.
    async fn push(&mut self, rows: Vec<Row>) -> Result<(), WriteError> {
        let index = self.index;
        let Some(mut filler) = self.filler.take() else { return Ok(()) };
        let (filler, finished) = if rows.len() <= FILL_INLINE_ROWS {
            let finished = filler.fill(&rows);
            (filler, finished)
        } else {
            let fill = move || {
                let finished = filler.fill(&rows);
                (filler, finished)
            };
            tokio::task::spawn_blocking(fill).await.map_err(|e| broken_off(index, &e))?
        };
        self.filler = Some(filler);
        for part in finished.map_err(|error| WriteError::Format { index, error })? {
            self.take_in(part).await?;
        }
        Ok(())
    }

    async fn take_in(&mut self, finished: FinishedPart) -> Result<(), WriteError> {
        if let Some(&part) = self.base.get(finished.sha256()) {
            self.parts.push(Some(part.clone()));
            return Ok(());
        }
        let number = self.parts.len();
        self.parts.push(None);
        while self.uploads.len() >= self.parallel {
            self.take_upload().await?;
        }
        let (bucket, index) = (self.bucket.clone(), self.index);
        self.uploads.push(tokio::spawn(async move { Ok((number, upload(&*bucket, index, finished).await?)) }));
        Ok(())
    }

    async fn take_upload(&mut self) -> Result<(), WriteError> {
        let Some(done) = self.uploads.next().await else { return Ok(()) };
        let (number, part) = done.map_err(|e| broken_off(self.index, &e))??;
        if let Some(slot) = self.parts.get_mut(number) {
            *slot = Some(part);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Vec<SnapshotPart>, WriteError> {
        let index = self.index;
        let last = self.filler.as_mut().map(Filler::finish).transpose();
        if let Some(part) = last.map_err(|error| WriteError::Format { index, error })?.flatten() {
            self.take_in(part).await?;
        }
        while !self.uploads.is_empty() {
            self.take_upload().await?;
        }
        Ok(std::mem::take(&mut self.parts).into_iter().flatten().collect())
    }
}

impl Drop for PartsWriter<'_> {
    fn drop(&mut self) {
        // Uploads of a snapshot that will not come.
        self.uploads.iter().for_each(|upload| upload.abort());
    }
}

fn broken_off(index: LogIndex, error: &tokio::task::JoinError) -> WriteError {
    WriteError::Rows { index, reason: format!("an upload was broken off: {error}") }
}

async fn upload(bucket: &dyn Bucket, index: LogIndex, part: FinishedPart) -> Result<SnapshotPart, WriteError> {
    let encoded = tokio::task::spawn_blocking(move || part.encode()).await.map_err(|e| broken_off(index, &e))?;
    let key = keys::snapshot_part(index, encoded.rows.first_position, &encoded.sha256);
    let mut bytes = encoded.file.bytes.len() as u64;
    let is_mine = |found: &[u8]| found == &encoded.file.bytes[..];
    match create_settled(bucket, &key, encoded.file.bytes.clone(), &is_mine).await? {
        Settled::Mine(_) => {}
        // Another try at this snapshot, perhaps by a version that compresses otherwise.
        Settled::Theirs(theirs) => {
            let found = decode_part(&theirs.object.bytes).map_err(|e| ReadError::format(&key, &e))?;
            if found.sha256 != encoded.sha256 || found.summary != encoded.rows {
                return Err(ReadError::bad(key, "another part has its name").into());
            }
            bytes = theirs.object.bytes.len() as u64;
        }
        Settled::Missing => return Err(ReadError::Missing { key }.into()),
    }
    let rows = encoded.rows;
    Ok(SnapshotPart {
        key,
        sha256: encoded.sha256,
        bytes,
        first_position: rows.first_position,
        last_position: rows.last_position,
        rows: rows.rows,
        rows_crc: rows.rows_crc,
        rows_bytes: rows.rows_bytes,
    })
}
