//! Registering and winning a term: what a process does before it may act (R1, R2, R6, R11, R12).

use crate::config::NodeConfig;
use crate::failpoint;
use crate::manifest_store::{ManifestStore, Swapped, nonce, random_128};
use crate::node::{Inner, usual_member_id};
use crate::start::StartError;
use netsy_api::ids::Term;
use netsy_localdb as localdb;
use netsy_objects::Version;
use netsy_objects::manifest::{ClusterManifest, MemberId, PrimaryId, Registration, SCHEMA_VERSION, VoterId};
use netsy_protocol::quorum::{QuorumRule, Voter};
use std::collections::BTreeMap;

/// A manifest that was read or written, with the version to swap from.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) manifest: ClusterManifest,
    pub(crate) version: Version,
}

/// A term of this process.
#[derive(Clone, Debug)]
pub(crate) struct Won {
    pub(crate) held: Held,
    /// Whose read leases may still run: the primary of the term before, unless it is known that it serves no
    /// more.
    pub(crate) predecessor_may_serve: bool,
}

/// What the manifest's numbers mean for it as it stands.
pub(crate) fn rule_of(manifest: &ClusterManifest) -> QuorumRule {
    QuorumRule::new(manifest.voters.len(), manifest.quorum as i32, manifest.copies_min as usize)
}

/// The manifest's voters as the protocol's.
pub(crate) fn voters_of(manifest: &ClusterManifest) -> Vec<Voter> {
    manifest.voters.iter().map(|v| Voter { node_id: v.node_id.clone(), incarnation: v.incarnation }).collect()
}

/// How the registration and the database agree (R11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    /// The database is the newest this node had, or the node is new.
    Current,
    /// The database is behind its registration: a restored backup, which forgot promises and receipts.
    Behind,
}

/// Compares the database, whose counter was raised already, with what is registered.
pub(crate) fn boot_state(registered: Option<&Registration>, identity: &localdb::Identity) -> Boot {
    match registered {
        Some(r) if r.incarnation == identity.incarnation && r.boot >= identity.boot_counter => Boot::Behind,
        _ => Boot::Current,
    }
}

/// Raises the boot counter in the registration, after the database (R11).
pub(crate) async fn register(
    store: &ManifestStore,
    config: &NodeConfig,
    identity: &localdb::Identity,
) -> Result<(), StartError> {
    loop {
        let found = store.registration(&config.node_id).await?;
        if boot_state(found.as_ref().map(|(r, _)| r), identity) == Boot::Behind {
            return Err(StartError::Behind);
        }
        let extra = found.as_ref().map(|(r, _)| r.extra.clone()).unwrap_or_default();
        let registration = Registration {
            schema_version: SCHEMA_VERSION,
            cluster_id: config.cluster_id.clone(),
            node_id: config.node_id.clone(),
            incarnation: identity.incarnation,
            boot: identity.boot_counter,
            stopped: false,
            client_urls: config.advertise_client.clone(),
            peer_urls: config.advertise_peer.clone(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            nonce: nonce()?,
            extra,
        };
        if let Swapped::Mine(_) = store.swap_registration(found.as_ref().map(|(_, v)| v), &registration).await? {
            failpoint::hit("start.registered");
            return Ok(());
        }
    }
}

/// Marks the registration stopped: this process answers nothing any more.
pub(crate) async fn deregister(store: &ManifestStore, config: &NodeConfig) -> Result<(), StartError> {
    while let Some((registration, version)) = store.registration(&config.node_id).await? {
        let stopped = Registration { stopped: true, nonce: nonce()?, ..registration };
        if let Swapped::Mine(_) = store.swap_registration(Some(&version), &stopped).await? {
            break;
        }
    }
    Ok(())
}

/// Makes the cluster, or wins the next term of it, for `session`. With one node that is an election in which it
/// is asked alone: it wins if its own promise is quorum enough (R6).
pub(crate) async fn win(
    node: &Inner,
) -> Result<Won, StartError> {
    let (store, config) = (&*node.manifest, &node.config);
    let me = PrimaryId { node_id: config.node_id.clone(), incarnation: node.incarnation, session: node.session };
    loop {
        let Some((current, version)) = store.read_versioned().await? else {
            let first = first_manifest(config, &me)?;
            promise(node, first.term).await?;
            if let Swapped::Mine(version) = store.swap(None, &first).await? {
                failpoint::hit("start.term-won");
                return Ok(Won { held: Held { manifest: first, version }, predecessor_may_serve: false });
            }
            continue;
        };
        check(config, &current)?;
        let rule = rule_of(&current);
        let my_vote = current.voters.iter().any(|v| v.node_id == me.node_id && v.incarnation == me.incarnation);
        if rule.election > usize::from(my_vote) {
            return Err(quorum_lost(&current, rule, &me));
        }
        let promised = node.thread.with(|db| db.promised_term()).await?;
        let term = current.term.next().max(promised);
        promise(node, term).await?;
        let member = member_id(&current, config)?;
        let next = current.succeeded_by(nonce()?, |m| {
            m.term = term;
            m.previous = Some(m.primary.clone());
            m.primary = me.clone();
            m.members.insert(config.node_id.clone(), member);
        });
        if let Swapped::Mine(version) = store.swap(Some(&version), &next).await? {
            failpoint::hit("start.term-won");
            let before = &current.primary;
            // R9: the data folder is locked exclusively, so an earlier process of this incarnation is gone.
            let gone = before.incarnation == me.incarnation || current.released == Some(before.session);
            return Ok(Won { held: Held { manifest: next, version }, predecessor_may_serve: !gone });
        }
    }
}

/// R10 for a cluster of one, whose whole log is in the object log by now: the voters become this node alone.
/// `None`: another write came first, this term is over.
pub(crate) async fn become_only_voter(
    store: &ManifestStore,
    held: Held,
) -> Result<Option<Held>, StartError> {
    let primary = &held.manifest.primary;
    let me = VoterId { node_id: primary.node_id.clone(), incarnation: primary.incarnation };
    if held.manifest.voters == [me.clone()] {
        return Ok(Some(held));
    }
    change(store, held, |m| m.voters = vec![me]).await
}

/// A graceful stop of the only node: the bucket is then the whole cluster, and this session's read lease is
/// given up for ever.
pub(crate) async fn leave_empty(store: &ManifestStore, held: Held) -> Result<Option<Held>, StartError> {
    let session = held.manifest.primary.session;
    change(store, held, |m| {
        m.voters.clear();
        m.released = Some(session);
    })
    .await
}

async fn change(
    store: &ManifestStore,
    held: Held,
    apply: impl FnOnce(&mut ClusterManifest),
) -> Result<Option<Held>, StartError> {
    let next = held.manifest.succeeded_by(nonce()?, apply);
    Ok(match store.swap(Some(&held.version), &next).await? {
        Swapped::Mine(version) => Some(Held { manifest: next, version }),
        Swapped::Lost => None,
    })
}

async fn promise(node: &Inner, term: Term) -> Result<(), StartError> {
    node.thread.with(move |db| db.set_promised_term(term)).await??;
    failpoint::hit("start.promised");
    Ok(())
}

fn first_manifest(config: &NodeConfig, me: &PrimaryId) -> Result<ClusterManifest, StartError> {
    Ok(ClusterManifest {
        schema_version: SCHEMA_VERSION,
        cluster_id: config.cluster_id.clone(),
        term: Term(1),
        primary: me.clone(),
        previous: None,
        released: None,
        voters: vec![VoterId { node_id: me.node_id.clone(), incarnation: me.incarnation }],
        quorum: i64::from(config.quorum),
        copies_min: config.copies_min as u32,
        config_version: 1,
        nonce: nonce()?,
        members: BTreeMap::from([(
            config.node_id.clone(),
            MemberId(usual_member_id(&config.cluster_id, &config.node_id)),
        )]),
        recovered: None,
        extra: Default::default(),
    })
}

fn check(config: &NodeConfig, found: &ClusterManifest) -> Result<(), StartError> {
    if found.cluster_id != config.cluster_id {
        return Err(StartError::Config(format!(
            "the bucket holds cluster {:?}, the config says {:?}: use another bucket or storage.key_prefix, or correct cluster_id",
            found.cluster_id, config.cluster_id
        )));
    }
    if found.quorum != i64::from(config.quorum) || found.copies_min as usize != config.copies_min {
        tracing::warn!(
            "the cluster was created with quorum {} and copies_min {}, this node's configuration says {} and {}: the cluster's count",
            found.quorum,
            found.copies_min,
            config.quorum,
            config.copies_min
        );
    }
    Ok(())
}

fn member_id(current: &ClusterManifest, config: &NodeConfig) -> Result<MemberId, StartError> {
    if let Some(id) = current.members.get(&config.node_id) {
        return Ok(*id);
    }
    let mut id = MemberId(usual_member_id(&config.cluster_id, &config.node_id));
    while current.members.values().any(|other| *other == id) {
        id = MemberId((random_128()? as u64 >> 1).max(1));
    }
    Ok(id)
}

fn quorum_lost(current: &ClusterManifest, rule: QuorumRule, me: &PrimaryId) -> StartError {
    let voters: Vec<String> =
        current.voters.iter().map(|v| format!("{} (database {})", v.node_id, v.incarnation)).collect();
    StartError::QuorumLost(format!(
        "the cluster's last writes may be on no disk but those of its voters, {} of whom must be here to go on: {}. \
         This node is {} with database {}, which is none of them: bring the voter's data folder back. Whatever \
         reached the bucket is safe there",
        rule.election,
        voters.join(", "),
        me.node_id,
        me.incarnation
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_api::ids::{Incarnation, NodeId, Nonce};

    fn registration(incarnation: u128, boot: u64) -> Registration {
        Registration {
            schema_version: SCHEMA_VERSION,
            cluster_id: "c".into(),
            node_id: NodeId::new("n").expect("valid"),
            incarnation: Incarnation(incarnation),
            boot,
            stopped: false,
            client_urls: vec![],
            peer_urls: vec![],
            version: String::new(),
            nonce: Nonce(1),
            extra: Default::default(),
        }
    }

    #[test]
    fn a_database_behind_its_registration_is_a_restored_backup() {
        // Flaw 21 of protocol-review.md.
        let identity = |incarnation, boot_counter| localdb::Identity {
            cluster_id: "c".into(),
            incarnation: Incarnation(incarnation),
            boot_counter,
            promised_term: Term(0),
            created: false,
        };
        assert_eq!(boot_state(None, &identity(1, 1)), Boot::Current);
        assert_eq!(boot_state(Some(&registration(1, 4)), &identity(1, 5)), Boot::Current);
        assert_eq!(boot_state(Some(&registration(1, 5)), &identity(1, 5)), Boot::Behind);
        assert_eq!(boot_state(Some(&registration(1, 9)), &identity(1, 5)), Boot::Behind);
        assert_eq!(boot_state(Some(&registration(2, 9)), &identity(1, 1)), Boot::Current, "a wiped node");
    }
}
