//! The engine's calls to object storage: manifest, elector lock, registrations (R1, R10, R11).

use crate::error::Unavailable;
use crate::faults::Faults;
use crate::manifest_store::{Swapped, nonce};
use crate::node::{Ended, Inner};
use crate::silence::{Call, Silence};
use crate::start::StartError;
use netsy_api::ids::{Incarnation, NodeId, Nonce};
use netsy_objects::Version;
use netsy_objects::manifest as stored;
use netsy_protocol::command::StoreCall;
use netsy_protocol::config::RegisteredNode;
use netsy_protocol::event::StoreResult;
use netsy_protocol::manifest::{ElectorLock, Manifest, ProcessId, Recovered};
use netsy_protocol::quorum::Voter;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Versions remembered; the engine swaps from what it read or wrote last.
const REMEMBERED_MAX: usize = 8;

/// Objects that were read or written, by nonce: with what to swap from, and what this program does not know of them.
pub(crate) struct Remembered<T>(Mutex<VecDeque<(Nonce, T, Version)>>);

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Remembered<T> {
    fn put(&self, nonce: Nonce, object: T, version: Version) {
        let mut all = self.0.lock();
        all.retain(|(known, _, _)| *known != nonce);
        all.push_back((nonce, object, version));
        if all.len() > REMEMBERED_MAX {
            all.pop_front();
        }
    }

    fn get(&self, nonce: Nonce) -> Option<(T, Version)> {
        self.0.lock().iter().find(|(known, _, _)| *known == nonce).map(|(_, o, v)| (o.clone(), v.clone()))
    }
}

/// What the calls remember, and whether they are answered.
pub(crate) struct StoreCalls {
    /// Those below.
    pub(crate) control: Silence,
    /// The object log's.
    pub(crate) log: Silence,
    /// Those that were refused, and are tried again.
    pub(crate) faults: Faults,
    manifests: Remembered<stored::ClusterManifest>,
    locks: Remembered<stored::ElectorLock>,
}

impl Default for StoreCalls {
    fn default() -> Self {
        Self {
            control: Silence::of("the cluster's small objects"),
            log: Silence::of("the object log"),
            faults: Faults::default(),
            manifests: Remembered::default(),
            locks: Remembered::default(),
        }
    }
}

/// Makes one of the small calls; the log's own are [`load_log`](crate::load_log)'s.
pub(crate) async fn call(node: &Arc<Inner>, what: StoreCall) -> StoreResult {
    let mut waiting = node.driver.calls.control.call();
    let result = match what {
        StoreCall::ReadManifest => read_manifest(node).await,
        StoreCall::SwapManifest { expected, manifest } => swap_manifest(node, expected, *manifest).await,
        StoreCall::ReadLock => read_lock(node).await,
        StoreCall::SwapLock { expected, lock } => swap_lock(node, expected, *lock).await,
        StoreCall::ListNodes => list_nodes(node).await,
        StoreCall::MarkStopped { node_id, incarnation } => mark_stopped(node, node_id, incarnation).await,
        StoreCall::LoadLog | StoreCall::CreateSeal { .. } | StoreCall::CheckSeal { .. } => {
            return StoreResult::Refused("a call of the log's".to_string());
        }
    };
    settle(&mut waiting, result.as_ref().err());
    result.unwrap_or_else(failed)
}

/// What a call came to: an answer of any kind, or none.
pub(crate) fn settle(waiting: &mut Call<'_>, error: Option<&StartError>) {
    match error.filter(|error| error.storage_is_out()) {
        Some(error) => waiting.failed(error.to_string()),
        None => waiting.answered(),
    }
}

/// An error as the engine takes it.
pub(crate) fn failed(error: StartError) -> StoreResult {
    let retryable = error.storage_is_out() || matches!(error, StartError::Random(_));
    if retryable {
        tracing::debug!(%error, "object storage did not answer a call");
        StoreResult::Unknown
    } else {
        StoreResult::Refused(error.to_string())
    }
}

async fn read_manifest(node: &Inner) -> Result<StoreResult, StartError> {
    let found = node.manifest.read_versioned().await?;
    Ok(StoreResult::Manifest(found.map(|(manifest, version)| {
        let known = from_stored(&manifest);
        node.saw_manifest(&known);
        node.driver.calls.manifests.put(manifest.nonce, manifest, version);
        known
    })))
}

async fn swap_manifest(node: &Inner, expected: Option<Nonce>, wanted: Manifest) -> Result<StoreResult, StartError> {
    let remembered = &node.driver.calls.manifests;
    let before = match expected {
        None => None,
        Some(nonce) => match remembered.get(nonce) {
            Some(found) => Some(found),
            // Not remembered: what is there tells.
            None => match node.manifest.read_versioned().await? {
                Some((manifest, version)) if manifest.nonce == nonce => Some((manifest, version)),
                _ => return Ok(StoreResult::Lost),
            },
        },
    };
    let extra = before.as_ref().map(|(manifest, _)| manifest.extra.clone()).unwrap_or_default();
    let next = to_stored(&wanted, extra);
    Ok(match node.manifest.swap(before.as_ref().map(|(_, version)| version), &next).await? {
        Swapped::Mine(version) => {
            node.saw_manifest(&wanted);
            remembered.put(next.nonce, next, version);
            StoreResult::Done
        }
        Swapped::Lost => StoreResult::Lost,
    })
}

async fn read_lock(node: &Inner) -> Result<StoreResult, StartError> {
    let found = node.manifest.read_lock().await?;
    Ok(StoreResult::Lock(found.map(|(lock, version)| {
        let known = ElectorLock {
            node_id: lock.node_id.clone(),
            session: lock.session,
            address: lock.address.clone(),
            counter: lock.counter,
            nonce: lock.nonce,
        };
        node.driver.calls.locks.put(lock.nonce, lock, version);
        known
    })))
}

async fn swap_lock(node: &Inner, expected: Option<Nonce>, wanted: ElectorLock) -> Result<StoreResult, StartError> {
    let remembered = &node.driver.calls.locks;
    let before = match expected {
        None => None,
        Some(nonce) => match remembered.get(nonce) {
            Some(found) => Some(found),
            None => match node.manifest.read_lock().await? {
                Some((lock, version)) if lock.nonce == nonce => Some((lock, version)),
                _ => return Ok(StoreResult::Lost),
            },
        },
    };
    let next = stored::ElectorLock {
        schema_version: stored::SCHEMA_VERSION,
        cluster_id: node.config.cluster_id.clone(),
        node_id: wanted.node_id,
        session: wanted.session,
        address: wanted.address,
        counter: wanted.counter,
        nonce: wanted.nonce,
        extra: before.as_ref().map(|(lock, _)| lock.extra.clone()).unwrap_or_default(),
    };
    Ok(match node.manifest.swap_lock(before.as_ref().map(|(_, version)| version), &next).await? {
        Swapped::Mine(version) => {
            remembered.put(next.nonce, next, version);
            StoreResult::Done
        }
        Swapped::Lost => StoreResult::Lost,
    })
}

async fn list_nodes(node: &Inner) -> Result<StoreResult, StartError> {
    let found = node.manifest.registrations().await?;
    if let Some(why) = displaced(&node.config.node_id, node.incarnation, node.boot, &found) {
        node.end(Unavailable::NoLeader, Ended::Failed(why));
    }
    let nodes = found.iter().map(registered).collect();
    node.saw_registrations(found);
    Ok(StoreResult::Nodes(nodes))
}

/// Whether another process has registered under this node's name since this one did (R11: the newer registration is the
/// node): two that go on would take the lock and the Primary's place from each other for ever, and on copies of one
/// database they would vote twice.
fn displaced(name: &NodeId, own: Incarnation, boot: u64, found: &[stored::Registration]) -> Option<String> {
    let other = found.iter().find(|r| r.node_id == *name)?;
    let how = match other.incarnation == own {
        true if other.boot > boot => "on a copy of this database",
        true => return None,
        false => "with another database",
    };
    Some(format!(
        "another process was started as node {name} since, {how} (its addresses: {}): give it another --node-id, or stop \
         one of the two for good",
        other.peer_urls.iter().chain(&other.client_urls).cloned().collect::<Vec<_>>().join(", ")
    ))
}

/// A registration as the rules see it.
pub(crate) fn registered(r: &stored::Registration) -> RegisteredNode {
    RegisteredNode {
        node_id: r.node_id.clone(),
        incarnation: r.incarnation,
        stopped: r.stopped,
        address: r.peer_urls.first().cloned().unwrap_or_default(),
    }
}

async fn mark_stopped(node: &Inner, node_id: NodeId, incarnation: Incarnation) -> Result<StoreResult, StartError> {
    while let Some((found, version)) = node.manifest.registration(&node_id).await? {
        if found.incarnation != incarnation || found.stopped {
            break;
        }
        let stopped = stored::Registration { stopped: true, nonce: nonce()?, ..found };
        if let Swapped::Mine(_) = node.manifest.swap_registration(Some(&version), &stopped).await? {
            break;
        }
    }
    Ok(StoreResult::Done)
}

fn process(p: &stored::PrimaryId) -> ProcessId {
    ProcessId { node_id: p.node_id.clone(), incarnation: p.incarnation, session: p.session }
}

fn primary(p: &ProcessId) -> stored::PrimaryId {
    stored::PrimaryId { node_id: p.node_id.clone(), incarnation: p.incarnation, session: p.session }
}

/// The manifest as the rules see it.
pub(crate) fn from_stored(m: &stored::ClusterManifest) -> Manifest {
    Manifest {
        cluster_id: m.cluster_id.clone(),
        term: m.term,
        primary: process(&m.primary),
        previous: m.previous.as_ref().map(process),
        released: m.released,
        voters: m.voters.iter().map(|v| Voter { node_id: v.node_id.clone(), incarnation: v.incarnation }).collect(),
        // Refused by the manifest's own check where it does not fit.
        quorum: i32::try_from(m.quorum).unwrap_or(i32::MAX),
        copies_min: m.copies_min as usize,
        config_version: m.config_version,
        nonce: m.nonce,
        members: m.members.iter().map(|(node, id)| (node.clone(), id.0)).collect(),
        recovered: m.recovered.map(|r| Recovered { term: r.term, index: r.index }),
        kept: m.kept.as_ref().map(|v| Voter { node_id: v.node_id.clone(), incarnation: v.incarnation }),
    }
}

fn to_stored(m: &Manifest, extra: stored::Extra) -> stored::ClusterManifest {
    stored::ClusterManifest {
        schema_version: stored::SCHEMA_VERSION,
        cluster_id: m.cluster_id.clone(),
        term: m.term,
        primary: primary(&m.primary),
        previous: m.previous.as_ref().map(primary),
        released: m.released,
        voters: m
            .voters
            .iter()
            .map(|v| stored::VoterId { node_id: v.node_id.clone(), incarnation: v.incarnation })
            .collect(),
        quorum: i64::from(m.quorum),
        copies_min: u32::try_from(m.copies_min).unwrap_or(u32::MAX),
        config_version: m.config_version,
        nonce: m.nonce,
        members: m.members.iter().map(|(node, id)| (node.clone(), stored::MemberId(*id))).collect(),
        recovered: m.recovered.map(|r| stored::Recovered { term: r.term, index: r.index }),
        kept: m.kept.as_ref().map(|v| stored::VoterId { node_id: v.node_id.clone(), incarnation: v.incarnation }),
        extra,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_registration_of_a_name_is_the_node() {
        let name = |name| NodeId::new(name).expect("valid");
        let found = |node, incarnation, boot| stored::Registration {
            schema_version: stored::SCHEMA_VERSION,
            cluster_id: "c".into(),
            node_id: name(node),
            incarnation: Incarnation(incarnation),
            boot,
            stopped: false,
            client_urls: vec![],
            peer_urls: vec!["https://h:2380".into()],
            version: String::new(),
            nonce: Nonce(1),
            extra: Default::default(),
        };
        let why = |other| displaced(&name("a"), Incarnation(1), 3, &[found("b", 9, 9), other]);
        assert_eq!(why(found("a", 1, 3)), None);
        assert_eq!(why(found("c", 2, 4)), None, "not registered any more");
        let text = why(found("a", 1, 4)).expect("told");
        assert!(text.contains("on a copy of this database (its addresses: https://h:2380)"), "{text}");
        let text = why(found("a", 2, 1)).expect("told");
        assert!(text.contains("as node a since, with another database"), "{text}");
    }
}
