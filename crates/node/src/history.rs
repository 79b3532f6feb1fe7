//! What watchers' replay reads: committed history from the local database, old versions from the index.

use crate::shared::SharedStore;
use crate::watch::{CommittedEvents, History, HistoryBatch, HistoryError};
use bytes::Bytes;
use netsy_api::ids::{LeaseId, Position, Revision};
use netsy_api::log::{Mutation, Row};
use netsy_localdb::Readers;
use netsy_mvcc::{Event, EventKind, KvRef, ValueRef};

/// Rows read at a time.
const ROWS_MAX: usize = 4096;

/// The node as the watch hub sees it.
pub(crate) struct StoreHistory {
    store: SharedStore,
    readers: Readers,
}

impl StoreHistory {
    pub(crate) fn new(store: SharedStore, readers: Readers) -> Self {
        Self { store, readers }
    }
}

fn failed(error: netsy_localdb::Error) -> HistoryError {
    HistoryError(error.to_string())
}

impl History for StoreHistory {
    fn visible_revision(&self) -> Revision {
        self.store.read().visible_revision()
    }

    fn compact_revision(&self) -> Revision {
        self.store.read().compact_revision()
    }

    fn read(&self, from: Revision, until: Revision, bytes_max: usize) -> Result<HistoryBatch, HistoryError> {
        let nothing = HistoryBatch { revisions: vec![], through: Revision(from.0 - 1) };
        let Some(first) = self.readers.position_of_revision(from).map_err(failed)? else {
            return Ok(nothing);
        };
        let mut at = Position(first.0 - 1);
        let mut revisions: Vec<CommittedEvents> = vec![];
        let mut bytes = 0;
        let mut open: Option<CommittedEvents> = None;
        loop {
            let rows = self.readers.rows_after(at, ROWS_MAX, bytes_max.max(1)).map_err(failed)?;
            // An entry's rows are stored at once: where rows end, the last revision is whole.
            let end_of_log = rows.is_empty();
            for row in rows {
                at = row.position;
                if open.as_ref().is_some_and(|e| e.revision != row.revision) {
                    revisions.extend(open.take());
                }
                let full = bytes >= bytes_max && !revisions.is_empty() && open.is_none();
                if row.revision > until || full {
                    return Ok(batch(revisions, from));
                }
                if row.revision < from {
                    continue;
                }
                bytes += row.mutation.payload_bytes();
                if let Some(event) = event(&row) {
                    let open = open.get_or_insert_with(|| CommittedEvents { revision: row.revision, events: vec![] });
                    open.events.push(event);
                }
            }
            if end_of_log {
                revisions.extend(open.take());
                return Ok(batch(revisions, from));
            }
        }
    }

    fn previous(&self, wanted: &[(Bytes, Revision)]) -> Result<Vec<Option<KvRef>>, HistoryError> {
        let (mut found, _epoch) = {
            let store = self.store.read();
            // Compacted away is as good as never there.
            let found: Vec<Option<KvRef>> =
                wanted.iter().map(|(key, revision)| store.get(key, *revision).ok().flatten()).collect();
            (found, store.epoch())
        };
        let stored: Vec<Position> = found.iter().flatten().filter_map(stored_at).collect();
        if !stored.is_empty() {
            let mut values = self.readers.values(&stored).map_err(failed)?.into_iter();
            for kv in &mut found {
                if kv.as_ref().and_then(stored_at).is_some() {
                    let value = values.next().flatten();
                    *kv = kv.take().zip(value).map(|(kv, value)| KvRef { value: ValueRef::Here(value), ..kv });
                }
            }
        }
        Ok(found)
    }

    fn values(&self, at: &[Position]) -> Result<Vec<Option<Bytes>>, HistoryError> {
        self.readers.values(at).map_err(failed)
    }
}

pub(crate) fn stored_at(kv: &KvRef) -> Option<Position> {
    match kv.value {
        ValueRef::Stored(at) => Some(at),
        ValueRef::Here(_) | ValueRef::Omitted => None,
    }
}

fn batch(revisions: Vec<CommittedEvents>, from: Revision) -> HistoryBatch {
    let through = revisions.last().map_or(Revision(from.0 - 1), |last| last.revision);
    HistoryBatch { revisions, through }
}

fn event(row: &Row) -> Option<Event> {
    match &row.mutation {
        Mutation::Put { key, value, create_revision, version, lease } => Some(Event {
            kind: EventKind::Put,
            kv: KvRef {
                key: key.clone(),
                create_revision: *create_revision,
                mod_revision: row.revision,
                version: *version,
                lease: *lease,
                value: ValueRef::Here(value.clone()),
            },
            prev: None,
        }),
        Mutation::Delete { key } => Some(Event {
            kind: EventKind::Delete,
            kv: KvRef {
                key: key.clone(),
                create_revision: Revision(0),
                mod_revision: row.revision,
                version: 0,
                lease: LeaseId(0),
                value: ValueRef::Omitted,
            },
            prev: None,
        }),
        _ => None,
    }
}
