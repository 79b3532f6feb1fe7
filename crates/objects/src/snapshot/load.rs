//! Reading snapshots: parts in parallel, rows in order, bounded memory.

use crate::bucket::Bucket;
use crate::format::{PartFile, decode_part};
use crate::keys::{self, SnapshotKey};
use crate::log_reader::{ReadBudget, decode};
use crate::manifest::{JsonObject, SnapshotManifest, SnapshotPart};
use crate::read::{ReadError, get, list_all, twice};
use futures::stream::{self, BoxStream, StreamExt};
use netsy_api::ids::LogIndex;
use netsy_api::log::Row;
use std::sync::Arc;

/// Parts fetched at a time.
pub(super) const PARTS_PARALLEL: usize = 8;
/// Bytes, stored and unpacked, of parts that are fetched and not yet taken; one larger part is let through
/// alone.
const LOAD_BYTES_MAX: u64 = 128 << 20;

/// The indexes of all snapshots with a manifest, ascending. Whether they can be loaded is another
/// question.
pub async fn list_snapshots(bucket: &dyn Bucket) -> Result<Vec<LogIndex>, ReadError> {
    let listed = list_all(bucket, keys::SNAPSHOTS, None).await?;
    let manifests = listed.iter().filter_map(|listed| match keys::parse_snapshot(&listed.key) {
        Some(SnapshotKey::Manifest(index)) => Some(index),
        _ => None,
    });
    Ok(manifests.collect())
}

/// The manifest of the first of these snapshots, all of which were listed, that can be read.
pub(crate) async fn first_readable(
    bucket: &dyn Bucket,
    cluster_id: &str,
    indexes: impl IntoIterator<Item = LogIndex>,
) -> Result<Option<SnapshotManifest>, ReadError> {
    for index in indexes {
        match read_snapshot_manifest(bucket, cluster_id, index).await {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(ReadError::Store(error)) => return Err(error.into()),
            // Listed a moment ago: clean-up took it since.
            Err(error @ ReadError::Missing { .. }) => tracing::debug!(%error, "a snapshot has gone"),
            Err(error) => tracing::warn!(%error, "a snapshot's manifest cannot be used"),
        }
    }
    Ok(None)
}

/// The newest snapshot's manifest, if there is one.
pub async fn newest_snapshot(bucket: &dyn Bucket, cluster_id: &str) -> Result<Option<SnapshotManifest>, ReadError> {
    match list_snapshots(bucket).await?.last() {
        Some(&index) => read_snapshot_manifest(bucket, cluster_id, index).await.map(Some),
        None => Ok(None),
    }
}

/// Reads a snapshot's manifest and checks everything about it but its parts.
pub async fn read_snapshot_manifest(
    bucket: &dyn Bucket,
    cluster_id: &str,
    index: LogIndex,
) -> Result<SnapshotManifest, ReadError> {
    twice(|| read_manifest(bucket, cluster_id, index)).await
}

async fn read_manifest(bucket: &dyn Bucket, cluster_id: &str, index: LogIndex) -> Result<SnapshotManifest, ReadError> {
    let key = keys::snapshot_manifest(index);
    let bytes = get(bucket, &key).await?;
    let manifest = SnapshotManifest::from_json(&bytes).map_err(|e| ReadError::manifest(&key, &e))?;
    if manifest.cluster_id != cluster_id {
        return Err(ReadError::bad(
            key,
            format!(
                "it belongs to cluster {}, this is {cluster_id}: use another storage.key_prefix",
                manifest.cluster_id
            ),
        ));
    }
    if manifest.last_index != index {
        return Err(ReadError::bad(key, format!("it is of snapshot {}", manifest.last_index)));
    }
    Ok(manifest)
}

/// The rows of a snapshot, part by part in order, every checksum checked. The stream ends after its first
/// error.
pub fn load_snapshot(
    bucket: Arc<dyn Bucket>,
    manifest: &SnapshotManifest,
) -> BoxStream<'static, Result<Vec<Row>, ReadError>> {
    let manifest = Arc::new(manifest.clone());
    let parts = (0..manifest.parts.len()).collect();
    read_parts(bucket, manifest, parts).map(|part| part.map(|part| part.rows)).boxed()
}

/// The parts with these numbers, in this order.
pub(super) fn read_parts(
    bucket: Arc<dyn Bucket>,
    manifest: Arc<SnapshotManifest>,
    numbers: Vec<usize>,
) -> BoxStream<'static, Result<PartFile, ReadError>> {
    let budget = ReadBudget::new(LOAD_BYTES_MAX);
    // Room is taken in order; the fetches, handed out as futures, then run beside each other.
    #[allow(clippy::async_yields_async)]
    let fetches = stream::iter(numbers).then(move |number| {
        let (bucket, manifest, budget) = (bucket.clone(), manifest.clone(), budget.clone());
        async move {
            let room = match manifest.parts.get(number) {
                Some(part) => budget.take(part.bytes.saturating_add(part.rows_bytes)).await,
                None => None,
            };
            async move { twice(|| read_part(&*bucket, &manifest, number)).await.map(|part| (part, room)) }
        }
    });
    let mut failed = false;
    fetches
        .buffered(PARTS_PARALLEL)
        // The room is given back when the part is taken: what the taker holds is not bounded here.
        .map(|part| part.map(|(part, _room)| part))
        .take_while(move |part| {
            let go_on = !failed;
            failed = part.is_err();
            std::future::ready(go_on)
        })
        .boxed()
}

async fn read_part(bucket: &dyn Bucket, manifest: &SnapshotManifest, number: usize) -> Result<PartFile, ReadError> {
    let Some(named) = manifest.parts.get(number) else {
        return Err(ReadError::bad(keys::snapshot_manifest(manifest.last_index), format!("it has no part {number}")));
    };
    let bytes = get(bucket, &named.key).await?;
    let part = decode(bytes, decode_part).await.map_err(|e| ReadError::bad(&named.key, e))?;
    let part = part.map_err(|e| ReadError::format(&named.key, &e))?;
    check_part(manifest, named, &part)?;
    Ok(part)
}

/// A whole part must also be the one that the manifest means, and fit the log.
fn check_part(manifest: &SnapshotManifest, named: &SnapshotPart, part: &PartFile) -> Result<(), ReadError> {
    let bad = |reason: String| Err(ReadError::bad(&named.key, reason));
    if part.cluster_id != manifest.cluster_id {
        return bad(format!("it belongs to cluster {}", part.cluster_id));
    }
    let found = &part.summary;
    let same = part.sha256 == named.sha256
        && part.bytes == named.bytes
        && (found.first_position, found.last_position) == (named.first_position, named.last_position)
        && (found.rows, found.rows_crc, found.rows_bytes) == (named.rows, named.rows_crc, named.rows_bytes);
    if !same {
        return bad(format!("it is whole, but not the part that snapshot {} names", manifest.last_index));
    }
    let mut runs = manifest.runs.iter().peekable();
    for row in &part.rows {
        while runs.next_if(|run| run.last_index < row.index).is_some() {}
        let fits = runs.peek().is_some_and(|run| run.term == row.term);
        if !fits || row.revision > manifest.revision {
            return bad(format!(
                "the row at position {} (entry {}, term {}, revision {}) does not fit the snapshot's log",
                row.position, row.index, row.term, row.revision
            ));
        }
    }
    Ok(())
}
