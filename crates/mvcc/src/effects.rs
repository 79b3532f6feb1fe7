//! One entry in the making: its effects are in the index at once, and come out again if it fails.

use crate::error::Error;
use crate::key_index::Version;
use crate::store::{DeadRow, Mark, Pending, Store, Undo};
use crate::types::{Event, EventKind, KvRef, ValueRef};
use bytes::Bytes;
use netsy_api::ids::{LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use netsy_api::log::{AlarmKind, Entry, Mutation};
use std::sync::Arc;

/// Mutations an entry has at most, so that sub revisions cannot run over.
pub(crate) const MUTATIONS_MAX: usize = u32::MAX as usize - 1;

/// See above. One that is neither [committed](Effects::commit) nor [aborted](Effects::abort) leaves the state broken.
pub(crate) struct Effects<'a> {
    pub(crate) store: &'a mut Store,
    index: LogIndex,
    first: Position,
    /// Revision of the key changes.
    main: Revision,
    sub: u32,
    mutations: Vec<Mutation>,
    undo: Vec<Undo>,
    events: Vec<Event>,
    compact: Revision,
}

/// What an entry came to.
pub(crate) struct Committed {
    pub(crate) entry: Option<Arc<Entry>>,
    pub(crate) first_position: Position,
    pub(crate) events: Vec<Event>,
    pub(crate) revision: Revision,
}

impl<'a> Effects<'a> {
    /// The entry after the newest, with room for so many mutations.
    pub(crate) fn new(store: &'a mut Store, mutations: usize) -> Self {
        let head = store.head;
        Self {
            store,
            index: head.index.next(),
            first: head.next_position,
            main: head.revision.next(),
            sub: 0,
            mutations: Vec::with_capacity(mutations),
            undo: Vec::new(),
            events: Vec::with_capacity(mutations),
            compact: head.compact,
        }
    }

    fn position(&self) -> Position {
        Position(self.first.0 + self.mutations.len() as u64)
    }

    /// Whether a key was changed.
    pub(crate) fn has_changes(&self) -> bool {
        self.sub > 0
    }

    /// The state's revision as it is now.
    pub(crate) fn revision(&self) -> Revision {
        if self.has_changes() { self.main } else { self.store.head.revision }
    }

    fn check_room(&self) -> Result<(), Error> {
        if self.mutations.len() >= MUTATIONS_MAX { Err(Error::RequestTooLarge) } else { Ok(()) }
    }

    /// A key gets a value; `cached` is the same value in an allocation of its own. Returns the mutation's numbers.
    pub(crate) fn put(
        &mut self,
        key: Bytes,
        value: Bytes,
        cached: Bytes,
        lease: LeaseId,
    ) -> Result<(Revision, i64), Error> {
        self.check_room()?;
        let position = self.position();
        let mut version = Version::put(position, self.main, lease);
        let store = &mut *self.store;
        version.slot = store.cache.insert(position, cached.clone());
        let (mut create, mut times) = (version.create, version.version);
        let before = store.index.push(&key, version, |version, before| {
            if let Some(before) = before.filter(|b| b.is_live()) {
                version.create = before.create;
                version.version = before.version.saturating_add(1);
            }
            (create, times) = (version.create, version.version);
        });
        let before = before.filter(Version::is_live);
        if let Some(before) = &before {
            store.cache.supersede(before.slot, before.position, position);
            if before.lease.0 != 0 && before.lease != lease {
                store.lessor.detach(before.lease, &key);
            }
        }
        if lease.0 != 0 {
            store.lessor.attach(lease, &key);
        }
        let prev = before.map(|before| store.kv(key.clone(), &before));
        self.events.push(Event {
            kind: EventKind::Put,
            kv: KvRef {
                key: key.clone(),
                create_revision: create,
                mod_revision: self.main,
                version: times,
                lease,
                value: ValueRef::Here(cached),
            },
            prev,
        });
        self.mutations.push(Mutation::Put { key, value, create_revision: create, version: times, lease });
        self.sub += 1;
        Ok((create, times))
    }

    /// A key goes; `false`: it does not exist.
    pub(crate) fn delete(&mut self, key: Bytes) -> Result<bool, Error> {
        self.check_room()?;
        let position = self.position();
        let store = &mut *self.store;
        let Some(before) = store.head_version(&key).copied() else { return Ok(false) };
        let gone = Version::delete(position, self.main);
        store.index.push(&key, gone, |_, _| {});
        store.cache.supersede(before.slot, before.position, position);
        if before.lease.0 != 0 {
            store.lessor.detach(before.lease, &key);
        }
        let prev = Some(store.kv(key.clone(), &before));
        self.events.push(Event {
            kind: EventKind::Delete,
            kv: KvRef {
                key: key.clone(),
                create_revision: Revision(0),
                mod_revision: self.main,
                version: 0,
                lease: LeaseId(0),
                value: ValueRef::Omitted,
            },
            prev,
        });
        self.mutations.push(Mutation::Delete { key });
        self.sub += 1;
        Ok(true)
    }

    /// What the last key change replaced.
    pub(crate) fn last_prev(&self) -> Option<&KvRef> {
        self.events.last().and_then(|e| e.prev.as_ref())
    }

    /// A lease that does not exist begins.
    pub(crate) fn grant(&mut self, id: LeaseId, ttl_seconds: i64) {
        self.store.lessor.grant(id, ttl_seconds, (self.index, self.position()));
        self.undo.push(Undo::Grant(id));
        self.mutations.push(Mutation::LeaseGrant { id, ttl_seconds });
    }

    /// A lease that exists ends; its keys are deleted before.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<(), Error> {
        self.check_room()?;
        let position = self.position();
        let Some(lease) = self.store.lessor.remove(id) else { return Ok(()) };
        let rows = [Some(lease.granted.1), lease.checkpoint, Some(position)];
        self.store.take_revoked(id, self.index, lease);
        for row in rows.into_iter().flatten() {
            self.dead_row(row);
        }
        self.undo.push(Undo::Revoke(id));
        self.mutations.push(Mutation::LeaseRevoke { id });
        Ok(())
    }

    /// Remaining time of a lease that exists.
    pub(crate) fn checkpoint(&mut self, id: LeaseId, remaining_seconds: i64) {
        let row = self.position();
        let Some((seconds, before)) = self.store.lessor.checkpoint(id, remaining_seconds, Some(row)) else { return };
        if let Some(before) = before {
            self.dead_row(before);
        }
        self.undo.push(Undo::Checkpoint(id, seconds, before));
        self.mutations.push(Mutation::LeaseCheckpoint { id, remaining_seconds });
    }

    /// A compaction, checked before.
    pub(crate) fn compact(&mut self, revision: Revision) {
        let row = self.position();
        let before = self.store.compact_row.replace(row);
        if let Some(before) = before {
            self.dead_row(before);
        }
        self.undo.push(Undo::Compact(before));
        self.compact = revision;
        self.mutations.push(Mutation::Compact { revision });
    }

    /// An alarm is raised or cleared.
    pub(crate) fn alarm(&mut self, member_id: u64, alarm: AlarmKind, active: bool) {
        let row = self.position();
        let before = self.store.alarms.set(member_id, alarm, active.then_some(row));
        if let Some(before) = before {
            self.dead_row(before);
        }
        if !active {
            self.dead_row(row);
        }
        self.undo.push(Undo::Alarm(member_id, alarm, before));
        self.mutations.push(Mutation::Alarm { member_id, alarm, active });
    }

    fn dead_row(&mut self, position: Position) {
        // `commit` corrects the revision: whether the entry moves it is known at its end.
        self.store.dead_rows.push_back(DeadRow { by: self.index, revision: self.main, position });
    }

    /// Takes everything back.
    pub(crate) fn abort(self) {
        self.store.undo(self.index, self.first, &self.mutations, self.undo);
    }

    /// Makes it the newest entry; `given` is the entry itself where it came from elsewhere.
    pub(crate) fn commit(self, term: Term, time: UnixMillis, given: Option<Arc<Entry>>) -> Committed {
        let revision = self.revision();
        let Self { store, index, first, mutations, undo, events, compact, .. } = self;
        if mutations.is_empty() {
            return Committed { entry: None, first_position: first, events, revision };
        }
        for dead in store.dead_rows.iter_mut().rev().take_while(|d| d.by == index) {
            dead.revision = revision;
        }
        let next_position = Position(first.0 + mutations.len() as u64);
        let entry = given.unwrap_or_else(|| Arc::new(Entry { index, term, time, revision, mutations }));
        store.head = Mark { index, term, revision, next_position, compact };
        store.pending.push_back(Pending { entry: entry.clone(), after: store.head, undo });
        Committed { entry: Some(entry), first_position: first, events, revision }
    }
}
