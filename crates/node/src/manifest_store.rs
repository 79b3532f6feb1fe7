//! Reading and swapping `cluster.json` and registrations (R1, R11).

use bytes::Bytes;
use netsy_api::ids::{NodeId, Nonce};
use netsy_objects::manifest::{ClusterManifest, ElectorLock, JsonObject, ManifestError, Registration};
use netsy_objects::settle::{Settled, create_settled, swap_settled};
use netsy_objects::{Bucket, StoreError, Version, keys};
use std::sync::Arc;
use thiserror::Error;

/// Why the manifest or a registration could not be used.
#[derive(Debug, Error)]
pub enum ManifestStoreError {
    /// The store did not answer, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is there cannot be read, or what was to be written is not valid.
    #[error("{0}")]
    Invalid(#[from] ManifestError),
}

/// Registrations listed at a time.
const LIST_MAX: usize = 1000;

/// How a swap ended.
#[derive(Debug)]
pub(crate) enum Swapped {
    /// Ours is in place.
    Mine(Version),
    /// Another write came first: read again.
    Lost,
}

/// The small objects that are written by compare-and-swap only.
pub(crate) struct ManifestStore {
    bucket: Arc<dyn Bucket>,
}

impl ManifestStore {
    pub(crate) fn new(bucket: Arc<dyn Bucket>) -> Self {
        Self { bucket }
    }

    /// The manifest; `None` where no cluster was ever made.
    pub(crate) async fn read(&self) -> Result<Option<ClusterManifest>, ManifestStoreError> {
        Ok(self.read_versioned().await?.map(|(manifest, _)| manifest))
    }

    pub(crate) async fn read_versioned(&self) -> Result<Option<(ClusterManifest, Version)>, ManifestStoreError> {
        self.get(keys::CLUSTER).await
    }

    pub(crate) async fn registration(
        &self,
        node: &NodeId,
    ) -> Result<Option<(Registration, Version)>, ManifestStoreError> {
        self.get(&keys::node(node)).await
    }

    /// Writes `manifest` where `expected` stands (`None`: where there is none).
    pub(crate) async fn swap(
        &self,
        expected: Option<&Version>,
        manifest: &ClusterManifest,
    ) -> Result<Swapped, ManifestStoreError> {
        let nonce = manifest.nonce;
        self.put(keys::CLUSTER, expected, manifest, move |m: &ClusterManifest| m.nonce == nonce).await
    }

    pub(crate) async fn swap_registration(
        &self,
        expected: Option<&Version>,
        registration: &Registration,
    ) -> Result<Swapped, ManifestStoreError> {
        let nonce = registration.nonce;
        let key = keys::node(&registration.node_id);
        self.put(&key, expected, registration, move |r: &Registration| r.nonce == nonce).await
    }

    pub(crate) async fn read_lock(&self) -> Result<Option<(ElectorLock, Version)>, ManifestStoreError> {
        self.get(keys::ELECTOR).await
    }

    pub(crate) async fn swap_lock(
        &self,
        expected: Option<&Version>,
        lock: &ElectorLock,
    ) -> Result<Swapped, ManifestStoreError> {
        let nonce = lock.nonce;
        self.put(keys::ELECTOR, expected, lock, move |l: &ElectorLock| l.nonce == nonce).await
    }

    /// All registrations; one that is deleted meanwhile is left out.
    pub(crate) async fn registrations(&self) -> Result<Vec<Registration>, ManifestStoreError> {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let listed = self.bucket.list(keys::NODES, after.as_deref(), LIST_MAX).await?;
            for object in &listed {
                let Some(node) = keys::parse_node(&object.key) else { continue };
                if let Some((registration, _)) = self.registration(&node).await? {
                    found.push(registration);
                }
            }
            match listed.last() {
                Some(last) if listed.len() >= LIST_MAX => after = Some(last.key.clone()),
                _ => return Ok(found),
            }
        }
    }

    async fn get<T: JsonObject>(&self, key: &str) -> Result<Option<(T, Version)>, ManifestStoreError> {
        // A second time where it cannot be read: it may have been damaged on its way.
        let mut before: Option<ManifestError> = None;
        loop {
            let Some(object) = self.bucket.get(key).await? else { return Ok(None) };
            match (T::from_json(&object.bytes), before) {
                (Ok(read), None) => return Ok(Some((read, object.version))),
                (Ok(read), Some(error)) => {
                    tracing::warn!(key, %error, "damaged on its way: whole when it was read again");
                    return Ok(Some((read, object.version)));
                }
                (Err(error), None) => before = Some(error),
                (Err(error), Some(_)) => return Err(of_object(key, error).into()),
            }
        }
    }

    async fn put<T: JsonObject>(
        &self,
        key: &str,
        expected: Option<&Version>,
        object: &T,
        same: impl Fn(&T) -> bool + Send + Sync,
    ) -> Result<Swapped, ManifestStoreError> {
        let bytes = Bytes::from(object.to_json()?);
        let is_mine = |found: &[u8]| T::from_json(found).is_ok_and(|found| same(&found));
        let settled = match expected {
            None => create_settled(&*self.bucket, key, bytes, &is_mine).await?,
            Some(_) => swap_settled(&*self.bucket, key, expected, bytes, &is_mine).await?,
        };
        Ok(match settled {
            Settled::Mine(version) => Swapped::Mine(version),
            Settled::Theirs(_) | Settled::Missing => Swapped::Lost,
        })
    }
}

/// A fresh token; an error where the system gives no randomness.
pub(crate) fn random_128() -> Result<u128, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(u128::from_be_bytes(bytes))
}

/// A fresh nonce (R1).
pub(crate) fn nonce() -> Result<Nonce, getrandom::Error> {
    random_128().map(Nonce)
}

/// What is wrong with it, and which object it is.
fn of_object(key: &str, error: ManifestError) -> ManifestError {
    match error {
        ManifestError::Invalid(why) => ManifestError::Invalid(format!("object {key}: {why}")),
        ManifestError::Unsupported(why) => ManifestError::Unsupported(format!("object {key}: {why}")),
    }
}
