//! The store and the database as the hub sees them, obvious and slow.

use bytes::Bytes;
use netsy_api::ids::{LeaseId, Position, Revision};
use netsy_mvcc::{Event, EventKind, KvRef, ValueRef};
use netsy_node::watch::{CommittedEvents, History, HistoryBatch, HistoryError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// One key change as it truly happened.
#[derive(Clone, Debug)]
pub struct Change {
    pub position: Position,
    pub key: Bytes,
    /// None: a delete.
    pub now: Option<KvRef>,
    pub before: Option<KvRef>,
}

impl Change {
    pub fn event(&self, revision: Revision) -> Event {
        let kind = if self.now.is_some() { EventKind::Put } else { EventKind::Delete };
        let kv = self.now.clone().unwrap_or_else(|| KvRef {
            key: self.key.clone(),
            create_revision: Revision(0),
            mod_revision: revision,
            version: 0,
            lease: LeaseId(0),
            value: ValueRef::Omitted,
        });
        Event { kind, kv, prev: self.before.clone() }
    }
}

#[derive(Default)]
pub struct WorldState {
    /// By revision: everything that ever happened.
    pub changes: BTreeMap<Revision, Vec<Change>>,
    pub visible: Revision,
    pub compacted: Revision,
    /// The compaction of a snapshot that has taken the database's place and is not shown yet.
    pub installed: Option<Revision>,
    /// The database has the rows up to here.
    pub readable: Revision,
    /// Rows a compaction took away.
    pub removed: BTreeSet<Position>,
    current: BTreeMap<Bytes, (KvRef, Position)>,
    next_position: u64,
    /// Reading the database fails.
    pub broken: bool,
    /// Happens while the database is being read, one at each call.
    pub midway: VecDeque<Box<dyn FnOnce() + Send>>,
}

#[derive(Clone)]
pub struct World(Arc<Mutex<WorldState>>);

impl World {
    /// An empty store, which is at revision 1.
    pub fn new() -> Self {
        let state = WorldState {
            visible: Revision(1),
            readable: Revision(1),
            compacted: Revision(-1),
            ..WorldState::default()
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub fn lock(&self) -> MutexGuard<'_, WorldState> {
        self.0.lock().unwrap()
    }

    /// What another thread might do just now.
    pub fn interrupt(&self) -> bool {
        let happening = self.lock().midway.pop_front();
        let any = happening.is_some();
        if let Some(happening) = happening {
            happening();
        }
        any
    }

    /// Commits one transaction: (key, value), None deletes a key if it is there. Returns the events, or
    /// nothing where nothing changed. `stored`: old values are no longer in memory.
    pub fn commit(&self, writes: &[(Bytes, Option<Bytes>)], stored: bool) -> Vec<Event> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let revision = state.visible.next();
        let mut changes = Vec::new();
        for (key, value) in writes {
            let before = state.current.get(key).cloned();
            if value.is_none() && before.is_none() {
                continue;
            }
            state.next_position += 1;
            let position = Position(state.next_position);
            let now = value.as_ref().map(|value| KvRef {
                key: key.clone(),
                create_revision: before.as_ref().map_or(revision, |(kv, _)| kv.create_revision),
                mod_revision: revision,
                version: before.as_ref().map_or(0, |(kv, _)| kv.version) + 1,
                lease: LeaseId(0),
                value: ValueRef::Here(value.clone()),
            });
            match &now {
                Some(kv) => state.current.insert(key.clone(), (kv.clone(), position)),
                None => state.current.remove(key),
            };
            changes.push((
                Change { position, key: key.clone(), now, before: before.as_ref().map(|b| b.0.clone()) },
                before,
            ));
        }
        if changes.is_empty() {
            return Vec::new();
        }
        state.visible = revision;
        let events = changes
            .iter()
            .map(|(change, before)| {
                let mut event = change.event(revision);
                if let (true, Some(prev), Some((_, at))) = (stored, &mut event.prev, before) {
                    prev.value = ValueRef::Stored(*at);
                }
                event
            })
            .collect();
        state.changes.insert(revision, changes.into_iter().map(|(change, _)| change).collect());
        events
    }

    /// The logical compaction.
    pub fn compact(&self, revision: Revision) {
        let mut state = self.lock();
        state.compacted = state.compacted.max(revision.min(state.visible));
    }

    /// A snapshot with that compaction takes the database's place.
    pub fn install(&self, compacted: Revision) {
        {
            let mut state = self.lock();
            let compacted = compacted.min(state.visible).max(state.compacted);
            state.installed = state.installed.max(Some(compacted));
        }
        self.remove_rows();
    }

    /// What was installed is shown.
    pub fn show_installed(&self) {
        let mut state = self.lock();
        if let Some(compacted) = state.installed.take() {
            state.compacted = state.compacted.max(compacted);
            state.readable = state.visible;
        }
    }

    /// The physical one: of each key only the newest version at or below the compact revision stays, and a
    /// delete only where it is at it.
    pub fn remove_rows(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let compacted = state.compacted.max(state.installed.unwrap_or(state.compacted));
        let mut newest: BTreeMap<&Bytes, (Position, Revision, bool)> = BTreeMap::new();
        for (&revision, changes) in state.changes.range(..=compacted) {
            for change in changes {
                let last = newest.insert(&change.key, (change.position, revision, change.now.is_some()));
                if let Some((position, ..)) = last {
                    state.removed.insert(position);
                }
            }
        }
        for (position, revision, live) in newest.into_values() {
            if !live && revision < compacted {
                state.removed.insert(position);
            }
        }
    }
}

impl History for World {
    fn visible_revision(&self) -> Revision {
        self.lock().visible
    }

    fn compact_revision(&self) -> Revision {
        self.lock().compacted
    }

    fn is_whole(&self) -> bool {
        self.interrupt();
        self.lock().installed.is_none()
    }

    fn read(&self, from: Revision, until: Revision, bytes_max: usize) -> Result<HistoryBatch, HistoryError> {
        self.interrupt();
        let state = self.lock();
        if state.broken {
            return Err(HistoryError("the disk is gone".into()));
        }
        let mut batch = HistoryBatch { revisions: Vec::new(), through: Revision(from.0 - 1) };
        let mut bytes = 0;
        let until = until.min(state.readable);
        if until < from {
            return Ok(batch);
        }
        for (&revision, changes) in state.changes.range(from..=until) {
            let rows = changes.iter().filter(|c| !state.removed.contains(&c.position));
            let events: Vec<Event> = rows.map(|c| Event { prev: None, ..c.event(revision) }).collect();
            bytes += events.iter().map(|e| e.kv.key.len() + 8).sum::<usize>();
            if !events.is_empty() {
                batch.revisions.push(CommittedEvents { revision, events });
            }
            batch.through = revision;
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(batch)
    }

    fn previous(&self, wanted: &[(Bytes, Revision)]) -> Result<Vec<Option<KvRef>>, HistoryError> {
        self.interrupt();
        let state = self.lock();
        let find = |(key, at): &(Bytes, Revision)| {
            let mut versions = state.changes.range(..=*at).rev().flat_map(|(_, changes)| changes);
            let change = versions.find(|c| c.key == key)?;
            if state.removed.contains(&change.position) {
                return None;
            }
            change.now.clone()
        };
        Ok(wanted.iter().map(find).collect())
    }

    fn values(&self, at: &[Position]) -> Result<Vec<Option<Bytes>>, HistoryError> {
        self.interrupt();
        let state = self.lock();
        if state.broken {
            return Err(HistoryError("the disk is gone".into()));
        }
        let all = || state.changes.values().flatten();
        let find = |position: &Position| {
            let change = all().find(|c| c.position == *position && !state.removed.contains(position))?;
            match &change.now.as_ref()?.value {
                ValueRef::Here(value) => Some(value.clone()),
                ValueRef::Stored(_) | ValueRef::Omitted => None,
            }
        };
        Ok(at.iter().map(find).collect())
    }
}
