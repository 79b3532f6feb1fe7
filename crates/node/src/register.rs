//! Registering: what a process does before it may act (R11).

use crate::config::NodeConfig;
use crate::failpoint;
use crate::manifest_store::{ManifestStore, Swapped, nonce};
use crate::start::StartError;
use netsy_localdb as localdb;
use netsy_objects::manifest::{Registration, SCHEMA_VERSION};

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

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_api::ids::{Incarnation, NodeId, Nonce, Term};

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
