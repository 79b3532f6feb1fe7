//! Rebuilding the state machine from the local database at start.

use crate::config::NodeConfig;
use crate::log_thread::before_entry;
use crate::node::Inner;
use crate::start::{StartError, blocking};
use netsy_api::ids::{LogIndex, Position, Revision};
use netsy_localdb as localdb;
use netsy_localdb::{RowMeta, RowWhat, ScanOptions};
use netsy_mvcc::{LoadEnd, Store, StoreConfig};
use std::time::Instant;

/// Threads that read the database while this one builds the index.
const SCAN_THREADS: usize = 2;
/// What a row costs beside its value, for guessing how many of the newest values fit into memory.
const ROW_OVERHEAD_BYTES: u64 = 64;

/// Loads what the database holds of visible state (R8).
pub(crate) async fn load(
    db: localdb::Writer,
    readers: localdb::Readers,
    config: &NodeConfig,
) -> Result<(localdb::Writer, Store), StartError> {
    let config = store_config(config);
    blocking(move || {
        let store = load_now(&db, &readers, config)?;
        Ok((db, store))
    })
    .await?
}

pub(crate) fn store_config(config: &NodeConfig) -> StoreConfig {
    StoreConfig {
        value_cache_bytes_max: config.value_cache_bytes_max,
        txn_ops_max: config.txn_ops_max,
        ..StoreConfig::default()
    }
}

/// Loads the state as of the entry `through`, where the database holds a snapshot up to there.
pub(crate) fn load_through(node: &Inner, through: LogIndex, config: StoreConfig) -> Result<Store, StartError> {
    let readers = node.readers.clone();
    let end = node.thread.with_blocking(move |db| end_at(db, &readers, through))??;
    load_rows(end, &node.readers, config)
}

/// The end of what may be shown: a restart resumes there (R8).
fn shown_end(db: &localdb::Writer, readers: &localdb::Readers) -> Result<localdb::LogEnd, StartError> {
    let progress = db.progress();
    // Rows are compacted away only where they are visible; a snapshot is of committed entries.
    end_at(db, readers, progress.visible_index.max(progress.partial_through))
}

/// What the log's end would be if `visible` were the last entry.
fn end_at(db: &localdb::Writer, readers: &localdb::Readers, visible: LogIndex) -> Result<localdb::LogEnd, StartError> {
    let end = db.end();
    if visible >= end.index {
        return Ok(end);
    }
    let next = readers.entries_from(visible.next(), 1)?;
    let Some((first, entry)) = next.first() else {
        return Err(StartError::Local(format!("local database: entry {} is missing", visible.next())));
    };
    let (next_position, revision) = before_entry(*first, entry);
    Ok(localdb::LogEnd {
        index: visible,
        term: db.term_at(visible).unwrap_or_default(),
        position: Position(next_position.0 - 1),
        revision,
    })
}

fn load_now(db: &localdb::Writer, readers: &localdb::Readers, config: StoreConfig) -> Result<Store, StartError> {
    load_rows(shown_end(db, readers)?, readers, config)
}

fn load_rows(end: localdb::LogEnd, readers: &localdb::Readers, config: StoreConfig) -> Result<Store, StartError> {
    let started = Instant::now();
    let mut store = Store::new(config);
    // The newest rows are the likeliest to be read: about as many values as memory is meant for.
    let rows = end.position.0.max(1);
    let average = (readers.in_use_bytes()? / rows).max(ROW_OVERHEAD_BYTES);
    let values = config.value_cache_bytes_max as u64 / average;
    let options = ScanOptions {
        threads: SCAN_THREADS,
        values_after: Some(Position(end.position.0.saturating_sub(values))),
        ..ScanOptions::default()
    };
    let scanned = readers.scan(options, |row| if row.index > end.index { Ok(()) } else { take(&mut store, row) })?;
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
