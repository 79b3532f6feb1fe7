//! Reading a snapshot back, and what makes it a reason to delete.

use super::load::{read_parts, read_snapshot_manifest};
use crate::bucket::Bucket;
use crate::keys::{self, SnapshotKey};
use crate::manifest::SnapshotManifest;
use crate::read::{ReadError, list_all};
use futures::StreamExt;
use netsy_api::ids::LogIndex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A snapshot that was read back and passed the check of [this module](crate::snapshot): what it
/// covers may be deleted. Only [`check_snapshot`] and [`write_snapshot`](super::write_snapshot) make one.
#[derive(Clone, Debug)]
pub struct CheckedSnapshot {
    manifest: Arc<SnapshotManifest>,
}

impl CheckedSnapshot {
    /// Its manifest.
    pub fn manifest(&self) -> &Arc<SnapshotManifest> {
        &self.manifest
    }

    /// Its index.
    pub fn index(&self) -> LogIndex {
        self.manifest.last_index
    }
}

/// Why a snapshot is no reason to delete anything.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotChecked {
    /// It could not be read, or an object of it is wrong.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Others were written at the same time, and parts of this one may go with clean-up.
    #[error("snapshot {index} is not used for clean-up: snapshot {other} was written at the same time")]
    Overtaken {
        /// This one.
        index: LogIndex,
        /// The one in its way.
        other: LogIndex,
    },
}

/// Reads a whole snapshot back and checks it. `known` is one that this process checked before: parts
/// that it names too are only looked up in a listing, not read again.
pub async fn check_snapshot(
    bucket: &Arc<dyn Bucket>,
    cluster_id: &str,
    index: LogIndex,
    known: Option<&CheckedSnapshot>,
) -> Result<CheckedSnapshot, NotChecked> {
    let manifest = Arc::new(read_snapshot_manifest(&**bucket, cluster_id, index).await?);
    if known.is_some_and(|known| known.manifest == manifest) {
        return Ok(CheckedSnapshot { manifest });
    }
    check_listing(&**bucket, &manifest).await?;
    check_parts(bucket, &manifest, known).await?;
    Ok(CheckedSnapshot { manifest })
}

/// The LIST, begun after the manifest was seen in place.
async fn check_listing(bucket: &dyn Bucket, manifest: &SnapshotManifest) -> Result<(), NotChecked> {
    let index = manifest.last_index;
    let listed = list_all(bucket, keys::SNAPSHOTS, None).await.map_err(ReadError::from)?;
    let mut parts = HashMap::new();
    for object in &listed {
        match keys::parse_snapshot(&object.key) {
            Some(SnapshotKey::Manifest(other)) => {
                let between = manifest.base.is_some_and(|base| other > base) && other < index;
                if other > index || between {
                    return Err(NotChecked::Overtaken { index, other });
                }
            }
            Some(SnapshotKey::Part { .. }) => {
                parts.insert(object.key.as_str(), object.size);
            }
            None => {}
        }
    }
    for part in &manifest.parts {
        match parts.get(part.key.as_str()) {
            None => return Err(ReadError::Missing { key: part.key.clone() }.into()),
            Some(&size) if size != part.bytes => {
                return Err(ReadError::bad(
                    &part.key,
                    format!("it has {size} bytes, snapshot {index} names {}", part.bytes),
                )
                .into());
            }
            Some(_) => {}
        }
    }
    Ok(())
}

async fn check_parts(
    bucket: &Arc<dyn Bucket>,
    manifest: &Arc<SnapshotManifest>,
    known: Option<&CheckedSnapshot>,
) -> Result<(), ReadError> {
    let checked: HashSet<&str> =
        known.iter().flat_map(|known| &known.manifest.parts).map(|part| part.key.as_str()).collect();
    let unread = manifest.parts.iter().enumerate().filter(|(_, part)| !checked.contains(part.key.as_str()));
    let mut parts = read_parts(bucket.clone(), manifest.clone(), unread.map(|(number, _)| number).collect());
    while let Some(part) = parts.next().await {
        part?;
    }
    Ok(())
}
