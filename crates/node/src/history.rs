//! What watchers' replay reads: committed history from the local database, old versions from the index.

use crate::follower::Follower;
use crate::shared::SharedStore;
use crate::watch::{CommittedEvents, History, HistoryBatch, HistoryError};
use bytes::Bytes;
use netsy_api::ids::{LeaseId, Position, Revision};
use netsy_api::log::{Mutation, Row};
use netsy_localdb::Readers;
use netsy_mvcc::{Event, EventKind, KvRef, ValueRef};
use std::sync::Arc;

/// Rows read at a time.
const ROWS_MAX: usize = 4096;

/// The node as the watch hub sees it.
pub(crate) struct StoreHistory {
    store: SharedStore,
    readers: Readers,
    follower: Arc<Follower>,
}

impl StoreHistory {
    pub(crate) fn new(store: SharedStore, readers: Readers, follower: Arc<Follower>) -> Self {
        Self { store, readers, follower }
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

    fn is_whole(&self) -> bool {
        self.follower.is_shown(&self.store)
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
            let mut values = self.readers.values(&stored, usize::MAX).map_err(failed)?.into_iter();
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
        self.readers.values(at, usize::MAX).map_err(failed)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{NewWatch, WatchHub, WatchItem, WatchOptions};
    use netsy_api::ids::{LogIndex, Term, UnixMillis};
    use netsy_api::log::Entry;
    use netsy_localdb::{Batch, LocalDb, LogEnd, OpenOptions, RestoreEnd, TermRun, Uploaded};
    use netsy_mvcc::{Store, StoreConfig};
    use std::collections::VecDeque;
    use std::task::{Context, Waker};
    use std::time::Instant;

    /// Entry `n` puts one key at revision `n + 1`: always the same, but for the fourth.
    fn entry(n: u64) -> Arc<Entry> {
        let value = Bytes::from(format!("{n}"));
        let revision = Revision(n as i64 + 1);
        let (key, create_revision, version) = match n {
            4 => (Bytes::from_static(b"j"), revision, 1),
            _ => (Bytes::from_static(b"k"), Revision(2), n as i64 - i64::from(n > 4)),
        };
        let mutations = vec![Mutation::Put { key, value, create_revision, version, lease: LeaseId(0) }];
        Arc::new(Entry { index: LogIndex(n), term: Term(1), time: UnixMillis(1), revision, mutations })
    }

    fn compaction(index: u64, at: i64, revision: i64) -> Arc<Entry> {
        let mutations = vec![Mutation::Compact { revision: Revision(at) }];
        let revision = Revision(revision);
        Arc::new(Entry { index: LogIndex(index), term: Term(1), time: UnixMillis(1), revision, mutations })
    }

    fn state(entries: &[Arc<Entry>]) -> Store {
        let mut store = Store::new(StoreConfig::default());
        for entry in entries {
            store.apply(entry.clone()).expect("applies");
            store.set_visible(entry.index);
        }
        store
    }

    /// What a stream with one watch tells: revisions of events, or the compaction that ended it.
    fn told(hub: &WatchHub, stream: &crate::watch::WatchStream) -> (Vec<i64>, Option<i64>) {
        let (mut revisions, mut compacted) = (vec![], None);
        for _ in 0..20 {
            hub.step(Instant::now());
            let mut items = VecDeque::new();
            let _ = stream.poll_items(&mut Context::from_waker(Waker::noop()), &mut items, usize::MAX);
            for item in items {
                match item {
                    WatchItem::Replayed(replayed) => {
                        revisions.extend(replayed.parts.iter().map(|(events, _)| events.revision().0));
                    }
                    WatchItem::Canceled { compacted: at, .. } => compacted = at.map(|at| at.0),
                    WatchItem::Created { .. } => {}
                    _ => panic!("neither events nor an end"),
                }
            }
        }
        (revisions, compacted)
    }

    #[test]
    fn an_installed_snapshot_is_not_replayed_before_it_is_shown() {
        let folder = tempfile::tempdir().expect("folder");
        let (mut db, readers, _) = LocalDb::open(folder.path(), &OpenOptions::new("test")).expect("opens");
        let old: Vec<_> = (1..=5).map(entry).collect();
        let placed: Vec<_> = old.iter().map(|e| (Position(e.index.0), e.clone())).collect();
        db.commit(&Batch { entries: &placed, ..Batch::default() }).expect("commits");
        let store = SharedStore::new(state(&old));
        let follower = Arc::new(Follower::default());
        let history = StoreHistory::new(store.clone(), readers, follower.clone());
        let hub = WatchHub::without_threads(Arc::new(history), Revision(6), WatchOptions::default());

        // The snapshot of entries 1 to 9, compacted at revision 8: of the first six puts only the fourth is left.
        let new: Vec<_> = (1..=8).map(entry).chain([compaction(9, 8, 9)]).collect();
        let mut built = db.begin_restore().expect("begins");
        let rows: Vec<Row> = std::iter::once(&new[3])
            .chain(&new[6..])
            .map(|e| Row {
                position: Position(e.index.0),
                index: e.index,
                term: e.term,
                time: e.time,
                revision: e.revision,
                sub: 0,
                mutation: e.mutations[0].clone(),
            })
            .collect();
        built.push_rows(&rows).expect("rows");
        let end = LogEnd { index: LogIndex(9), term: Term(1), position: Position(9), revision: Revision(9) };
        built.end_snapshot(end, vec![TermRun { term: Term(1), first_index: LogIndex(1) }]).expect("ends");
        follower.installed(LogIndex(9));
        let visible_index = store.read().visible_index();
        db.finish_restore(built, &RestoreEnd { visible_index, uploaded: Uploaded::default() }).expect("installs");

        let from = |start_revision| {
            let (key, range_end) = (Bytes::from_static(b"j"), Bytes::from_static(b"l"));
            NewWatch { key, range_end, start_revision, ..NewWatch::default() }
        };
        let stream = hub.open(false);
        stream.create(from(3));
        assert_eq!(told(&hub, &stream), (vec![], None), "it waits");

        **store.write() = state(&new);
        hub.skip_to(Revision(9));
        assert_eq!(told(&hub, &stream), (vec![], Some(8)));
        let stream = hub.open(false);
        stream.create(from(8));
        assert_eq!(told(&hub, &stream), (vec![8, 9], None));
    }
}
