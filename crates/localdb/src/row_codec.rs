//! A row of the log to and from the columns of table `rows`.
//!
//! | kind | key | create_revision | version | lease | value |
//! |---|---|---|---|---|---|
//! | 1 put | key | create revision | version | lease | value |
//! | 2 delete | key | | | | |
//! | 3 lease grant | | | ttl seconds | lease | |
//! | 4 lease revoke | | | | lease | |
//! | 5 lease checkpoint | | | remaining seconds | lease | |
//! | 6 compact | | revision | | | |
//! | 7 alarm | | 1 raised, 0 cleared | which alarm | member id | |

use bytes::Bytes;
use netsy_api::ids::{LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use netsy_api::log::{AlarmKind, Entry, Mutation, Row};
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, params};

pub(crate) const PUT: i64 = 1;
pub(crate) const DELETE: i64 = 2;
const LEASE_GRANT: i64 = 3;
const LEASE_REVOKE: i64 = 4;
const LEASE_CHECKPOINT: i64 = 5;
const COMPACT: i64 = 6;
const ALARM: i64 = 7;

/// The insert that [`insert_row`] binds to.
pub(crate) const INSERT: &str = "INSERT INTO rows (position, idx, term, time_ms, revision, sub, kind, key, \
     create_revision, version, lease, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

/// What all rows of an entry share.
pub(crate) struct RowHead {
    pub position: Position,
    pub index: LogIndex,
    pub term: Term,
    pub time: UnixMillis,
    pub revision: Revision,
    pub sub: u32,
}

/// Inserts one row.
pub(crate) fn insert_row(
    insert: &mut CachedStatement<'_>,
    head: &RowHead,
    mutation: &Mutation,
) -> rusqlite::Result<()> {
    let mut key: Option<&[u8]> = None;
    let mut value: Option<&[u8]> = None;
    let (mut create, mut version, mut lease) = (None::<i64>, None::<i64>, None::<i64>);
    let kind = match mutation {
        Mutation::Put { key: k, value: v, create_revision, version: n, lease: l } => {
            key = Some(k);
            value = Some(v);
            (create, version, lease) = (Some(create_revision.0), Some(*n), Some(l.0));
            PUT
        }
        Mutation::Delete { key: k } => {
            key = Some(k);
            DELETE
        }
        Mutation::LeaseGrant { id, ttl_seconds } => {
            (version, lease) = (Some(*ttl_seconds), Some(id.0));
            LEASE_GRANT
        }
        Mutation::LeaseRevoke { id } => {
            lease = Some(id.0);
            LEASE_REVOKE
        }
        Mutation::LeaseCheckpoint { id, remaining_seconds } => {
            (version, lease) = (Some(*remaining_seconds), Some(id.0));
            LEASE_CHECKPOINT
        }
        Mutation::Compact { revision } => {
            create = Some(revision.0);
            COMPACT
        }
        Mutation::Alarm { member_id, alarm, active } => {
            (create, version, lease) =
                (Some(i64::from(*active)), Some(i64::from(*alarm as i32)), Some(*member_id as i64));
            ALARM
        }
    };
    insert.execute(params![
        head.position.0 as i64,
        head.index.0 as i64,
        head.term.0 as i64,
        head.time.0,
        head.revision.0,
        head.sub,
        kind,
        key,
        create,
        version,
        lease,
        value
    ])?;
    Ok(())
}

/// Inserts all rows of an entry; returns the position of its last.
pub(crate) fn insert_entry(
    insert: &mut CachedStatement<'_>,
    first: Position,
    entry: &Entry,
) -> rusqlite::Result<Position> {
    let mut head = RowHead {
        position: first,
        index: entry.index,
        term: entry.term,
        time: entry.time,
        revision: entry.revision,
        sub: 0,
    };
    let mut key_changes = 0;
    for (place, mutation) in entry.mutations.iter().enumerate() {
        head.position = Position(first.0 + place as u64);
        head.sub = if mutation.is_key_change() { key_changes } else { 0 };
        key_changes += u32::from(mutation.is_key_change());
        insert_row(insert, &head, mutation)?;
    }
    Ok(head.position)
}

fn number(row: &rusqlite::Row<'_>, column: usize) -> Result<i64, String> {
    match row.get_ref(column) {
        Ok(ValueRef::Integer(n)) => Ok(n),
        Ok(other) => Err(format!("column {column} holds {:?} instead of an integer", other.data_type())),
        Err(e) => Err(e.to_string()),
    }
}

pub(crate) fn blob<'a>(row: &'a rusqlite::Row<'_>, column: usize) -> Result<&'a [u8], String> {
    match row.get_ref(column) {
        Ok(ValueRef::Blob(bytes)) => Ok(bytes),
        Ok(other) => Err(format!("column {column} holds {:?} instead of bytes", other.data_type())),
        Err(e) => Err(e.to_string()),
    }
}

/// Columns 0 to 5.
pub(crate) fn read_head(row: &rusqlite::Row<'_>) -> Result<RowHead, String> {
    Ok(RowHead {
        position: Position(number(row, 0)? as u64),
        index: LogIndex(number(row, 1)? as u64),
        term: Term(number(row, 2)? as u64),
        time: UnixMillis(number(row, 3)?),
        revision: Revision(number(row, 4)?),
        sub: number(row, 5)? as u32,
    })
}

/// Column 6.
pub(crate) fn read_kind(row: &rusqlite::Row<'_>) -> Result<i64, String> {
    number(row, 6)
}

/// Columns 8 to 10 of a put.
pub(crate) fn read_put_numbers(row: &rusqlite::Row<'_>) -> Result<(Revision, i64, LeaseId), String> {
    Ok((Revision(number(row, 8)?), number(row, 9)?, LeaseId(number(row, 10)?)))
}

/// What is neither put nor delete, from columns 8 to 10.
pub(crate) fn read_other(row: &rusqlite::Row<'_>, kind: i64) -> Result<Mutation, String> {
    Ok(match kind {
        LEASE_GRANT => Mutation::LeaseGrant { id: LeaseId(number(row, 10)?), ttl_seconds: number(row, 9)? },
        LEASE_REVOKE => Mutation::LeaseRevoke { id: LeaseId(number(row, 10)?) },
        LEASE_CHECKPOINT => {
            Mutation::LeaseCheckpoint { id: LeaseId(number(row, 10)?), remaining_seconds: number(row, 9)? }
        }
        COMPACT => Mutation::Compact { revision: Revision(number(row, 8)?) },
        ALARM => {
            let which = number(row, 9)?;
            let alarm = i32::try_from(which)
                .ok()
                .and_then(AlarmKind::from_wire)
                .ok_or_else(|| format!("alarm {which} is not known"))?;
            Mutation::Alarm { member_id: number(row, 10)? as u64, alarm, active: number(row, 8)? != 0 }
        }
        _ => return Err(format!("kind {kind} is not known")),
    })
}

/// A whole row, columns as in `schema::ROW_COLUMNS`. The error says what is wrong with which row.
pub(crate) fn read_row(row: &rusqlite::Row<'_>) -> Result<Row, String> {
    let head = read_head(row)?;
    let kind = read_kind(row)?;
    let mutation = match kind {
        PUT => read_put_numbers(row).and_then(|(create_revision, version, lease)| {
            Ok(Mutation::Put {
                key: Bytes::copy_from_slice(blob(row, 7)?),
                value: Bytes::copy_from_slice(blob(row, 11)?),
                create_revision,
                version,
                lease,
            })
        }),
        DELETE => blob(row, 7).map(|key| Mutation::Delete { key: Bytes::copy_from_slice(key) }),
        other => read_other(row, other),
    }
    .map_err(|detail| format!("row {}: {detail}", head.position))?;
    Ok(Row {
        position: head.position,
        index: head.index,
        term: head.term,
        time: head.time,
        revision: head.revision,
        sub: head.sub,
        mutation,
    })
}
