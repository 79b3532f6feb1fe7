//! Entries and rows written straight from their types: what `prost` would write, without the
//! intermediate messages (chunks hold thousands of small entries).

use super::error::FormatError;
use super::frame::{put_varint, varint_len};
use bytes::Bytes;
use netsy_api::file;
use netsy_api::log::{Entry, Mutation, Row};
use prost::Message;

const VARINT: u64 = 0;
const LENGTH: u64 = 2;

/// Length of a number field with a one-byte key; 0 is left out.
fn number_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

fn put_number(buf: &mut Vec<u8>, field: u64, value: u64) {
    if value != 0 {
        put_varint(buf, field << 3 | VARINT);
        put_varint(buf, value);
    }
}

/// Length of a bytes field with a one-byte key; empty ones are left out.
fn bytes_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { message_len(bytes.len()) }
}

fn put_bytes(buf: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_varint(buf, field << 3 | LENGTH);
        put_varint(buf, bytes.len() as u64);
        buf.extend_from_slice(bytes);
    }
}

/// Length of a message field with a one-byte key, written even where the message is empty.
fn message_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Field number in `Mutation` and length of the message there.
fn kind_len(mutation: &Mutation) -> (u64, usize) {
    match mutation {
        Mutation::Put { key, value, create_revision, version, lease } => (
            1,
            bytes_len(key)
                + bytes_len(value)
                + number_len(create_revision.0 as u64)
                + number_len(*version as u64)
                + number_len(lease.0 as u64),
        ),
        Mutation::Delete { key } => (2, bytes_len(key)),
        Mutation::LeaseGrant { id, ttl_seconds } => (3, number_len(id.0 as u64) + number_len(*ttl_seconds as u64)),
        Mutation::LeaseRevoke { id } => (4, number_len(id.0 as u64)),
        Mutation::LeaseCheckpoint { id, remaining_seconds } => {
            (5, number_len(id.0 as u64) + number_len(*remaining_seconds as u64))
        }
        Mutation::Compact { revision } => (6, number_len(revision.0 as u64)),
        Mutation::Alarm { member_id, alarm, active } => {
            (7, number_len(*member_id) + number_len(*alarm as i32 as u64) + number_len(u64::from(*active)))
        }
    }
}

fn mutation_len(mutation: &Mutation) -> usize {
    message_len(kind_len(mutation).1)
}

fn put_mutation(buf: &mut Vec<u8>, mutation: &Mutation) {
    let (field, len) = kind_len(mutation);
    put_varint(buf, field << 3 | LENGTH);
    put_varint(buf, len as u64);
    match mutation {
        Mutation::Put { key, value, create_revision, version, lease } => {
            put_bytes(buf, 1, key);
            put_bytes(buf, 2, value);
            put_number(buf, 3, create_revision.0 as u64);
            put_number(buf, 4, *version as u64);
            put_number(buf, 5, lease.0 as u64);
        }
        Mutation::Delete { key } => put_bytes(buf, 1, key),
        Mutation::LeaseGrant { id, ttl_seconds } => {
            put_number(buf, 1, id.0 as u64);
            put_number(buf, 2, *ttl_seconds as u64);
        }
        Mutation::LeaseRevoke { id } => put_number(buf, 1, id.0 as u64),
        Mutation::LeaseCheckpoint { id, remaining_seconds } => {
            put_number(buf, 1, id.0 as u64);
            put_number(buf, 2, *remaining_seconds as u64);
        }
        Mutation::Compact { revision } => put_number(buf, 1, revision.0 as u64),
        Mutation::Alarm { member_id, alarm, active } => {
            put_number(buf, 1, *member_id);
            put_number(buf, 2, *alarm as i32 as u64);
            put_number(buf, 3, u64::from(*active));
        }
    }
}

pub(super) fn entry_len(entry: &Entry) -> usize {
    number_len(entry.index.0)
        + number_len(entry.term.0)
        + number_len(entry.time.0 as u64)
        + number_len(entry.revision.0 as u64)
        + entry.mutations.iter().map(|m| message_len(mutation_len(m))).sum::<usize>()
}

pub(super) fn put_entry(buf: &mut Vec<u8>, entry: &Entry) {
    put_number(buf, 1, entry.index.0);
    put_number(buf, 2, entry.term.0);
    put_number(buf, 3, entry.time.0 as u64);
    put_number(buf, 4, entry.revision.0 as u64);
    for mutation in &entry.mutations {
        put_varint(buf, 5 << 3 | LENGTH);
        put_varint(buf, mutation_len(mutation) as u64);
        put_mutation(buf, mutation);
    }
}

pub(super) fn row_len(row: &Row) -> usize {
    number_len(row.position.0)
        + number_len(row.index.0)
        + number_len(row.term.0)
        + number_len(row.time.0 as u64)
        + number_len(row.revision.0 as u64)
        + number_len(u64::from(row.sub))
        + message_len(mutation_len(&row.mutation))
}

pub(super) fn put_row(buf: &mut Vec<u8>, row: &Row) {
    put_number(buf, 1, row.position.0);
    put_number(buf, 2, row.index.0);
    put_number(buf, 3, row.term.0);
    put_number(buf, 4, row.time.0 as u64);
    put_number(buf, 5, row.revision.0 as u64);
    put_number(buf, 6, u64::from(row.sub));
    put_varint(buf, 7 << 3 | LENGTH);
    put_varint(buf, mutation_len(&row.mutation) as u64);
    put_mutation(buf, &row.mutation);
}

/// An entry from its message; keys and values are slices of it.
pub(crate) fn read_entry(message: Bytes, number: u64) -> Result<Entry, FormatError> {
    let entry =
        file::Entry::decode(message).map_err(|e| FormatError::invalid(format!("record {number} is no entry: {e}")))?;
    Entry::try_from(entry).map_err(|e| FormatError::invalid(format!("record {number}: {e}")))
}

/// A row from its message; key and value are slices of it.
pub(crate) fn read_row(message: Bytes, number: u64) -> Result<Row, FormatError> {
    let row =
        file::Row::decode(message).map_err(|e| FormatError::invalid(format!("record {number} is no row: {e}")))?;
    Row::try_from(row).map_err(|e| FormatError::invalid(format!("record {number}: {e}")))
}
