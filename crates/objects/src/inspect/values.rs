//! What is printed of entries, rows and Netsy 1.0's records.

use netsy_api::legacy;
use netsy_api::log::{Entry, Mutation, Row};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Characters of a value that people are shown.
const VALUE_CHARS_SHOWN: usize = 80;

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The beginning of a long text, quoted.
pub(super) fn escaped(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARS_SHOWN) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC.
pub(super) fn time_of(ms: i64) -> String {
    let (days, ms_of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Days since 1 March of the year 0, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (s, ms) = (ms_of_day / 1_000, ms_of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3_600, s / 60 % 60, s % 60)
}

/// Text as it is, other bytes in hexadecimal under another name.
fn put_bytes(fields: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => fields.insert(name.to_string(), text.into()),
        Err(_) => fields.insert(format!("{name}_hex"), hex(bytes).into()),
    };
}

fn mutation(mutation: &Mutation) -> Value {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| {
        fields.insert(name.to_string(), value);
    };
    let name = match mutation {
        Mutation::Put { key, value, create_revision, version, lease } => {
            put_bytes(&mut fields, "key", key);
            fields.insert("create_revision".to_string(), create_revision.0.into());
            fields.insert("version".to_string(), (*version).into());
            fields.insert("lease".to_string(), lease.0.into());
            fields.insert("value_bytes".to_string(), value.len().into());
            put_bytes(&mut fields, "value", value);
            "put"
        }
        Mutation::Delete { key } => {
            put_bytes(&mut fields, "key", key);
            "delete"
        }
        Mutation::LeaseGrant { id, ttl_seconds } => {
            set("id", id.0.into());
            set("ttl_seconds", (*ttl_seconds).into());
            "lease_grant"
        }
        Mutation::LeaseRevoke { id } => {
            set("id", id.0.into());
            "lease_revoke"
        }
        Mutation::LeaseCheckpoint { id, remaining_seconds } => {
            set("id", id.0.into());
            set("remaining_seconds", (*remaining_seconds).into());
            "lease_checkpoint"
        }
        Mutation::Compact { revision } => {
            set("revision", revision.0.into());
            "compact"
        }
        Mutation::Alarm { member_id, alarm, active } => {
            set("member_id", format!("{member_id:016x}").into());
            set("alarm", format!("{alarm:?}").to_uppercase().into());
            set("active", (*active).into());
            "alarm"
        }
    };
    json!({ name: fields })
}

pub(super) fn entry(number: u64, entry: &Entry) -> Value {
    json!({
        "type": "entry",
        "record": number,
        "index": entry.index,
        "term": entry.term,
        "time": time_of(entry.time.0),
        "revision": entry.revision,
        "mutations": entry.mutations.iter().map(mutation).collect::<Vec<_>>(),
    })
}

pub(super) fn row(number: u64, row: &Row) -> Value {
    json!({
        "type": "row",
        "record": number,
        "position": row.position,
        "index": row.index,
        "term": row.term,
        "time": time_of(row.time.0),
        "revision": row.revision,
        "sub": row.sub,
        "mutations": [mutation(&row.mutation)],
    })
}

fn timestamp(time: Option<&legacy::Timestamp>) -> Value {
    match time {
        None => Value::Null,
        Some(time) => {
            let ms = time.seconds.saturating_mul(1_000).saturating_add(i64::from(time.nanos) / 1_000_000);
            // Beyond the year 9999 only in damaged files: the number says more there.
            if (-62_000_000_000_000..=253_000_000_000_000).contains(&ms) { time_of(ms).into() } else { ms.into() }
        }
    }
}

pub(super) fn legacy_header(kind: &str, header: &legacy::FileHeader) -> Value {
    json!({
        "type": "header",
        "kind": kind,
        "schema_version": header.schema_version,
        "compression": match header.compression { 1 => "none", 2 => "zstd", _ => "unknown" },
        "records": header.records_count,
        "leader_id": header.leader_id,
        "created_at": timestamp(header.created_at.as_ref()),
        "crc": format!("{:016x}", header.crc),
    })
}

pub(super) fn legacy_record(number: usize, record: &legacy::Record) -> Value {
    let mut fields = Map::new();
    fields.insert("type".to_string(), "record".into());
    fields.insert("record".to_string(), number.into());
    fields.insert("revision".to_string(), record.revision.into());
    put_bytes(&mut fields, "key", &record.key);
    let rest = json!({
        "created": record.created,
        "deleted": record.deleted,
        "create_revision": record.create_revision,
        "prev_revision": record.prev_revision,
        "version": record.version,
        "lease": record.lease,
        "dek": record.dek,
        "leader_id": record.leader_id,
        "created_at": timestamp(record.created_at.as_ref()),
        "compacted_at": timestamp(record.compacted_at.as_ref()),
        "replicated_at": timestamp(record.replicated_at.as_ref()),
        "crc": format!("{:016x}", record.crc),
        "value_bytes": record.value.len(),
    });
    if let Value::Object(rest) = rest {
        fields.extend(rest);
    }
    put_bytes(&mut fields, "value", &record.value);
    Value::Object(fields)
}

pub(super) fn legacy_footer(footer: &legacy::FileFooter) -> Value {
    json!({
        "type": "footer",
        "first_revision": footer.first_revision,
        "last_revision": footer.last_revision,
        "records_crc": format!("{:016x}", footer.records_crc),
        "crc": format!("{:016x}", footer.crc),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(time_of(ms), text);
        }
        // No panic at the ends.
        let _ = (time_of(i64::MAX), time_of(i64::MIN));
    }
}
