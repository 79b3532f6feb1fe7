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

/// Compares the database as the start before left it with what is registered. A counter is raised in the database
/// first: one that is ahead of its registration belongs to a start that did not get further. Where another database is
/// registered, one that was started before came after it no more than before it: the registration's counter says nothing
/// of it, and the manifest may still name it as a voter. Only one that this start made is new for certain: one that was
/// never started may be a copy of one that was since.
pub(crate) fn boot_state(registered: Option<&Registration>, identity: &localdb::Identity) -> Boot {
    match registered {
        Some(r) if r.incarnation == identity.incarnation && r.boot > identity.boot_counter => Boot::Behind,
        Some(r) if r.incarnation != identity.incarnation && !identity.created => Boot::Behind,
        _ => Boot::Current,
    }
}

/// Compares the boot counter with the registration, then raises it, in the database first (R11): compared after it was
/// raised, a restored backup would catch up with its registration by failing to start. Returns the counter.
pub(crate) async fn register(
    store: &ManifestStore,
    config: &NodeConfig,
    identity: &localdb::Identity,
    db: &mut localdb::Writer,
) -> Result<u64, StartError> {
    let mut counted = None;
    loop {
        let found = store.registration(&config.node_id).await?;
        // After a lost swap, too: another process that was started on a copy may have registered meanwhile.
        if boot_state(found.as_ref().map(|(r, _)| r), identity) == Boot::Behind {
            return Err(StartError::Behind);
        }
        let boot = match counted {
            Some(boot) => boot,
            None => *counted.insert(db.count_start()?),
        };
        failpoint::hit("start.counted");
        let extra = found.as_ref().map(|(r, _)| r.extra.clone()).unwrap_or_default();
        let registration = Registration {
            schema_version: SCHEMA_VERSION,
            cluster_id: config.cluster_id.clone(),
            node_id: config.node_id.clone(),
            incarnation: identity.incarnation,
            boot,
            stopped: false,
            client_urls: config.advertise_client.clone(),
            peer_urls: config.advertise_peer.clone(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            nonce: nonce()?,
            extra,
        };
        if let Swapped::Mine(_) = store.swap_registration(found.as_ref().map(|(_, v)| v), &registration).await? {
            failpoint::hit("start.registered");
            return Ok(boot);
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
        let new = localdb::Identity { created: true, ..identity(1, 0) };
        assert_eq!(boot_state(None, &identity(1, 0)), Boot::Current);
        assert_eq!(boot_state(Some(&registration(1, 4)), &identity(1, 4)), Boot::Current);
        assert_eq!(boot_state(Some(&registration(1, 4)), &identity(1, 5)), Boot::Current, "a start that was cut short");
        assert_eq!(boot_state(Some(&registration(1, 5)), &identity(1, 4)), Boot::Behind);
        assert_eq!(boot_state(Some(&registration(1, 9)), &identity(1, 5)), Boot::Behind);
        assert_eq!(boot_state(Some(&registration(2, 9)), &new), Boot::Current, "a wiped node");
        // Seed 71067 of the simulator.
        assert_eq!(boot_state(Some(&registration(2, 1)), &identity(1, 3)), Boot::Behind, "of before the wipe");
        // Seed 1795995519689: a copy made before the first start, which was a voter since, and forgot all of it.
        assert_eq!(boot_state(Some(&registration(2, 1)), &identity(1, 0)), Boot::Behind, "of before the first start");
    }

    fn open(config: &NodeConfig) -> (localdb::Writer, localdb::Readers, localdb::Identity) {
        localdb::LocalDb::open(&config.data_dir, &localdb::OpenOptions::new("c")).expect("open")
    }

    fn copy_files(from: &std::path::Path, to: &std::path::Path) {
        std::fs::create_dir_all(to).expect("folder");
        for file in std::fs::read_dir(from).expect("folder") {
            let file = file.expect("file");
            std::fs::copy(file.path(), to.join(file.file_name())).expect("copy");
        }
    }

    /// Seed 1114 of the simulator: a backup whose first start fails is a backup at the next start, too.
    #[tokio::test]
    async fn a_restored_backup_whose_starts_fail_stays_one() {
        let folder = tempfile::tempdir().expect("folder");
        let storage = netsy_objects::StorageConfig::file(folder.path().join("store"));
        let buckets = netsy_objects::open(&storage).await.expect("a bucket");
        let store = ManifestStore::new(buckets.control);
        let config = crate::config::tests::config(&folder.path().join("node"));
        let start = async || {
            let (mut db, readers, identity) = open(&config);
            let registered = register(&store, &config, &identity, &mut db).await;
            drop((db, readers));
            registered
        };
        start().await.expect("the first start");
        let backup = folder.path().join("backup");
        copy_files(&config.data_dir, &backup);
        start().await.expect("the second start");
        localdb::LocalDb::set_aside(&config.data_dir, &folder.path().join("newer")).expect("set aside");
        copy_files(&backup, &config.data_dir);
        for _ in 0..3 {
            assert!(matches!(start().await, Err(StartError::Behind)));
        }
        // Also once the node was wiped, and another database is registered.
        localdb::LocalDb::set_aside(&config.data_dir, &folder.path().join("again")).expect("set aside");
        start().await.expect("a wiped node");
        localdb::LocalDb::set_aside(&config.data_dir, &folder.path().join("wiped")).expect("set aside");
        copy_files(&backup, &config.data_dir);
        assert!(matches!(start().await, Err(StartError::Behind)));
    }
}
