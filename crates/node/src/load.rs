//! Rebuilding the state machine from the local database at start.

use crate::config::NodeConfig;
use crate::start::{StartError, blocking};
use netsy_api::ids::{Position, Revision};
use netsy_localdb as localdb;
use netsy_localdb::{RowMeta, RowWhat, ScanOptions};
use netsy_mvcc::{LoadEnd, Store, StoreConfig};
use std::time::Instant;

/// Threads that read the database while this one builds the index.
const SCAN_THREADS: usize = 2;
/// What a row costs beside its value, for guessing how many of the newest values fit into memory.
const ROW_OVERHEAD_BYTES: u64 = 64;

/// Loads what the database holds; all of it counts as committed and stored.
pub(crate) async fn load(
    db: localdb::Writer,
    readers: localdb::Readers,
    config: &NodeConfig,
) -> Result<(localdb::Writer, Store), StartError> {
    let config = StoreConfig {
        value_cache_bytes_max: config.value_cache_bytes_max,
        txn_ops_max: config.txn_ops_max,
        ..StoreConfig::default()
    };
    blocking(move || {
        let store = load_now(&db, &readers, config)?;
        Ok((db, store))
    })
    .await?
}

fn load_now(db: &localdb::Writer, readers: &localdb::Readers, config: StoreConfig) -> Result<Store, StartError> {
    let started = Instant::now();
    let mut store = Store::new(config);
    let end = db.end();
    // The newest rows are the likeliest to be read: about as many values as memory is meant for.
    let rows = end.position.0.max(1);
    let average = (readers.in_use_bytes()? / rows).max(ROW_OVERHEAD_BYTES);
    let values = config.value_cache_bytes_max as u64 / average;
    let options = ScanOptions {
        threads: SCAN_THREADS,
        values_after: Some(Position(end.position.0.saturating_sub(values))),
        ..ScanOptions::default()
    };
    let scanned = readers.scan(options, |row| take(&mut store, row))?;
    store
        .finish_load(LoadEnd {
            last_index: end.index,
            last_term: end.term,
            next_position: end.position.next(),
            revision: end.revision,
            compact_revision: newest_compaction(&store),
        })
        .map_err(|e| StartError::Local(format!("local database: {e}")))?;
    tracing::info!(
        rows = scanned.rows,
        keys = store.key_count(),
        revision = end.revision.0,
        seconds = started.elapsed().as_secs_f64(),
        "index built from the local database"
    );
    Ok(store)
}

/// The newest compaction's row is never deleted, so rows tell.
fn newest_compaction(store: &Store) -> Revision {
    store.compact_revision()
}

fn take(store: &mut Store, row: RowMeta<'_>) -> Result<(), StartError> {
    let (what, value) = match row.what {
        RowWhat::Put { key, create_revision, version, lease, value, .. } => {
            let value = value.map(bytes::Bytes::copy_from_slice);
            (netsy_mvcc::RowWhat::Put { key, create_revision, version, lease }, value)
        }
        RowWhat::Delete { key } => (netsy_mvcc::RowWhat::Delete { key }, None),
        RowWhat::Other(mutation) => (netsy_mvcc::RowWhat::Other(mutation), None),
    };
    let meta = netsy_mvcc::RowMeta {
        position: row.position,
        index: row.index,
        term: row.term,
        time: row.time,
        revision: row.revision,
        sub: row.sub,
        what,
    };
    store.load_row(meta, value).map_err(|e| StartError::Local(format!("local database, row {}: {e}", row.position)))
}
