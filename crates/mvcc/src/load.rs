//! Rebuilding the state at start from the rows that the local database, or a snapshot, still has.

use crate::error::ApplyError;
use crate::key_index::Version;
use crate::store::{DeadRow, Mark, Store};
use bytes::Bytes;
use netsy_api::ids::{LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use netsy_api::log::Mutation;

/// A stored row, with its value left out.
#[derive(Clone, Copy, Debug)]
pub struct RowMeta<'a> {
    /// As in [`netsy_api::log::Row`].
    pub position: Position,
    /// As in [`netsy_api::log::Row`].
    pub index: LogIndex,
    /// As in [`netsy_api::log::Row`].
    pub term: Term,
    /// As in [`netsy_api::log::Row`].
    pub time: UnixMillis,
    /// As in [`netsy_api::log::Row`].
    pub revision: Revision,
    /// As in [`netsy_api::log::Row`].
    pub sub: u32,
    /// The effect.
    pub what: RowWhat<'a>,
}

/// The effect of a row.
#[derive(Clone, Copy, Debug)]
pub enum RowWhat<'a> {
    /// A key has a new value.
    Put {
        /// The key.
        key: &'a [u8],
        /// As in [`Mutation::Put`].
        create_revision: Revision,
        /// As in [`Mutation::Put`].
        version: i64,
        /// As in [`Mutation::Put`].
        lease: LeaseId,
    },
    /// A key is gone.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Any other effect; key changes are taken, too.
    Other(&'a Mutation),
}

/// Where the log ends whose rows were loaded: rows alone do not tell, as compaction may have removed the last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadEnd {
    /// Index of the last entry.
    pub last_index: LogIndex,
    /// Its term.
    pub last_term: Term,
    /// Position that the next mutation gets.
    pub next_position: Position,
    /// The store's revision.
    pub revision: Revision,
    /// The lowest readable revision; -1: nothing was compacted yet.
    pub compact_revision: Revision,
}

impl Store {
    /// Takes in a row that is stored, in ascending order of positions; between them rows that compaction removed may be
    /// missing. `value`: kept in memory while there is room; `None` leaves it in the database.
    ///
    /// Only rows of committed entries belong here. Entries after them follow through [`apply`](Self::apply), once
    /// [`finish_load`](Self::finish_load) was called.
    pub fn load_row(&mut self, row: RowMeta<'_>, value: Option<Bytes>) -> Result<(), ApplyError> {
        if row.position <= self.loaded || row.index < self.head.index {
            return Err(ApplyError::RowOrder { last: self.loaded, got: row.position });
        }
        if row.term < self.head.term {
            return Err(ApplyError::TermFell { index: row.index, last: self.head.term, got: row.term });
        }
        if row.revision < self.head.revision {
            return Err(ApplyError::RevisionMismatch {
                index: row.index,
                expected: self.head.revision,
                got: row.revision,
            });
        }
        match row.what {
            RowWhat::Put { key, create_revision, version, lease } => {
                self.load_put(&row, key, (create_revision, version, lease), value)?;
            }
            RowWhat::Delete { key } => self.load_delete(&row, key),
            RowWhat::Other(mutation) => self.load_other(&row, mutation, value)?,
        }
        self.loaded = row.position;
        self.head.index = row.index;
        self.head.term = row.term;
        self.head.revision = row.revision;
        self.head.next_position = Position(row.position.0 + 1);
        self.visible = self.head;
        Ok(())
    }

    /// Ends the loading: all that was loaded is visible and stored.
    pub fn finish_load(&mut self, end: LoadEnd) -> Result<(), ApplyError> {
        let wrong = |what: String| Err(ApplyError::LoadEnd { what });
        let loaded = self.head;
        if end.last_index < loaded.index || end.last_term < loaded.term {
            return wrong(format!(
                "entry {} of term {}, but are said to end at entry {} of term {}",
                loaded.index, loaded.term, end.last_index, end.last_term
            ));
        }
        if end.next_position <= self.loaded || end.revision < loaded.revision {
            return wrong(format!(
                "row {} of revision {}, but are said to end before row {} at revision {}",
                self.loaded, loaded.revision, end.next_position, end.revision
            ));
        }
        if end.compact_revision < loaded.compact || end.compact_revision > end.revision {
            return wrong(format!(
                "compaction {}, but compaction {} of revision {} is named",
                loaded.compact, end.compact_revision, end.revision
            ));
        }
        self.head = Mark {
            index: end.last_index,
            term: end.last_term,
            revision: end.revision,
            next_position: end.next_position,
            compact: end.compact_revision,
        };
        self.visible = self.head;
        self.cache.set_written_through(Position(end.next_position.0.saturating_sub(1)));
        Ok(())
    }

    fn load_put(
        &mut self,
        row: &RowMeta<'_>,
        key: &[u8],
        (create, version, lease): (Revision, i64, LeaseId),
        value: Option<Bytes>,
    ) -> Result<(), ApplyError> {
        let diverged = |what: String| Err(ApplyError::Diverged { index: row.index, what });
        if key.is_empty() || version < 1 || create > row.revision {
            return diverged(format!("row {} puts {key:?}, version {version} since {create}", row.position));
        }
        let mut new = Version::put(row.position, row.revision, lease);
        (new.create, new.version) = (create, version);
        if let Some(value) = value
            && (value.is_empty() || self.cache.has_room(value.len()))
        {
            new.slot = self.cache.insert(row.position, value);
        }
        if let Some(before) = self.index.push(key, new, |_, _| {}) {
            // Compaction removes a key's oldest rows only, so that what is left has no gap.
            let (follows, is_live) = (before.version + 1, before.is_live());
            if version != follows || (is_live && create != before.create) {
                self.index.pop(key);
                return diverged(format!(
                    "row {} puts {key:?}, version {version} since {create}, after version {} since {}",
                    row.position, before.version, before.create
                ));
            }
            self.cache.supersede(before.slot, before.position, row.position);
            if before.lease.0 != 0 && before.lease != lease {
                self.lessor.detach(before.lease, key);
            }
        }
        if lease.0 != 0 {
            self.lessor.attach(lease, key);
        }
        self.cache.set_written_through(row.position);
        Ok(())
    }

    fn load_delete(&mut self, row: &RowMeta<'_>, key: &[u8]) {
        let gone = Version::delete(row.position, row.revision);
        if let Some(before) = self.index.push(key, gone, |_, _| {}) {
            self.cache.supersede(before.slot, before.position, row.position);
            if before.lease.0 != 0 {
                self.lessor.detach(before.lease, key);
            }
        }
        self.cache.set_written_through(row.position);
    }

    fn load_other(&mut self, row: &RowMeta<'_>, mutation: &Mutation, value: Option<Bytes>) -> Result<(), ApplyError> {
        let position = row.position;
        match mutation {
            Mutation::Put { key, value: inline, create_revision, version, lease } => {
                let value = value.or_else(|| Some(Bytes::copy_from_slice(inline)));
                self.load_put(row, key, (*create_revision, *version, *lease), value)?;
            }
            Mutation::Delete { key } => self.load_delete(row, key),
            Mutation::LeaseGrant { id, ttl_seconds } => {
                self.lessor.grant(*id, *ttl_seconds, (row.index, position));
            }
            Mutation::LeaseRevoke { id } => {
                if let Some(lease) = self.lessor.remove(*id) {
                    self.dead(row, Some(lease.granted.1));
                    self.dead(row, lease.checkpoint);
                }
                self.dead(row, Some(position));
            }
            Mutation::LeaseCheckpoint { id, remaining_seconds } => {
                match self.lessor.checkpoint(*id, *remaining_seconds, Some(position)) {
                    Some((_, before)) => self.dead(row, before),
                    None => self.dead(row, Some(position)),
                }
            }
            Mutation::Compact { revision } => {
                let before = self.compact_row.replace(position);
                self.dead(row, before);
                self.head.compact = self.head.compact.max(*revision);
            }
            Mutation::Alarm { member_id, alarm, active } => {
                let before = self.alarms.set(*member_id, *alarm, active.then_some(position));
                self.dead(row, before);
                self.dead(row, (!active).then_some(position));
            }
        }
        Ok(())
    }

    fn dead(&mut self, row: &RowMeta<'_>, position: Option<Position>) {
        let dead = position.map(|position| DeadRow { by: row.index, revision: row.revision, position });
        self.dead_rows.extend(dead);
    }
}
