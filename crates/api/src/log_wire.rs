//! [`log`](crate::log) types to and from their wire messages.

use crate::file;
use crate::ids::{LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use crate::log::{AlarmKind, Entry, Mutation, Row};
use std::fmt;

/// Why a stored message is no valid entry or row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidRecord(pub String);

impl fmt::Display for InvalidRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidRecord {}

impl From<&Mutation> for file::Mutation {
    fn from(mutation: &Mutation) -> Self {
        use file::mutation::Kind;
        let kind = match mutation {
            Mutation::Put { key, value, create_revision, version, lease } => Kind::Put(file::Put {
                key: key.clone(),
                value: value.clone(),
                create_revision: create_revision.0,
                version: *version,
                lease: lease.0,
            }),
            Mutation::Delete { key } => Kind::Delete(file::Delete { key: key.clone() }),
            Mutation::LeaseGrant { id, ttl_seconds } => {
                Kind::LeaseGrant(file::LeaseGrant { id: id.0, ttl_seconds: *ttl_seconds })
            }
            Mutation::LeaseRevoke { id } => Kind::LeaseRevoke(file::LeaseRevoke { id: id.0 }),
            Mutation::LeaseCheckpoint { id, remaining_seconds } => {
                Kind::LeaseCheckpoint(file::LeaseCheckpoint { id: id.0, remaining_seconds: *remaining_seconds })
            }
            Mutation::Compact { revision } => Kind::Compact(file::Compact { revision: revision.0 }),
            Mutation::Alarm { member_id, alarm, active } => {
                Kind::Alarm(file::Alarm { member_id: *member_id, alarm: *alarm as i32, active: *active })
            }
        };
        file::Mutation { kind: Some(kind) }
    }
}

impl TryFrom<file::Mutation> for Mutation {
    type Error = InvalidRecord;

    fn try_from(message: file::Mutation) -> Result<Self, InvalidRecord> {
        use file::mutation::Kind;
        let bad = |text: &str| Err(InvalidRecord(text.to_string()));
        Ok(match message.kind {
            None => return bad("a mutation of no known kind: a newer netsy wrote this file"),
            Some(Kind::Put(put)) if put.key.is_empty() => return bad("a put without a key"),
            Some(Kind::Put(put)) => Mutation::Put {
                key: put.key,
                value: put.value,
                create_revision: Revision(put.create_revision),
                version: put.version,
                lease: LeaseId(put.lease),
            },
            Some(Kind::Delete(delete)) if delete.key.is_empty() => return bad("a delete without a key"),
            Some(Kind::Delete(delete)) => Mutation::Delete { key: delete.key },
            Some(Kind::LeaseGrant(grant)) => {
                Mutation::LeaseGrant { id: LeaseId(grant.id), ttl_seconds: grant.ttl_seconds }
            }
            Some(Kind::LeaseRevoke(revoke)) => Mutation::LeaseRevoke { id: LeaseId(revoke.id) },
            Some(Kind::LeaseCheckpoint(checkpoint)) => Mutation::LeaseCheckpoint {
                id: LeaseId(checkpoint.id),
                remaining_seconds: checkpoint.remaining_seconds,
            },
            Some(Kind::Compact(compact)) => Mutation::Compact { revision: Revision(compact.revision) },
            Some(Kind::Alarm(alarm)) => Mutation::Alarm {
                member_id: alarm.member_id,
                alarm: AlarmKind::from_wire(alarm.alarm)
                    .ok_or_else(|| InvalidRecord(format!("alarm number {} is not known", alarm.alarm)))?,
                active: alarm.active,
            },
        })
    }
}

impl From<&Entry> for file::Entry {
    fn from(entry: &Entry) -> Self {
        file::Entry {
            index: entry.index.0,
            term: entry.term.0,
            time_ms: entry.time.0,
            revision: entry.revision.0,
            mutations: entry.mutations.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<file::Entry> for Entry {
    type Error = InvalidRecord;

    fn try_from(message: file::Entry) -> Result<Self, InvalidRecord> {
        if message.mutations.is_empty() {
            return Err(InvalidRecord(format!("entry {} has no mutation", message.index)));
        }
        Ok(Entry {
            index: LogIndex(message.index),
            term: Term(message.term),
            time: UnixMillis(message.time_ms),
            revision: Revision(message.revision),
            mutations: message.mutations.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Row> for file::Row {
    fn from(row: &Row) -> Self {
        file::Row {
            position: row.position.0,
            index: row.index.0,
            term: row.term.0,
            time_ms: row.time.0,
            revision: row.revision.0,
            sub: row.sub,
            mutation: Some((&row.mutation).into()),
        }
    }
}

impl TryFrom<file::Row> for Row {
    type Error = InvalidRecord;

    fn try_from(message: file::Row) -> Result<Self, InvalidRecord> {
        let mutation =
            message.mutation.ok_or_else(|| InvalidRecord(format!("row {} has no mutation", message.position)))?;
        Ok(Row {
            position: Position(message.position),
            index: LogIndex(message.index),
            term: Term(message.term),
            time: UnixMillis(message.time_ms),
            revision: Revision(message.revision),
            sub: message.sub,
            mutation: mutation.try_into()?,
        })
    }
}
