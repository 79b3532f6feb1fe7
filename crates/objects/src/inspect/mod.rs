//! Printing any of our objects, for `netsy inspect`: chunks, seals, segments, snapshot parts, the JSON
//! objects, and Netsy 1.0's files. Damaged ones are printed as far as they go, with what is wrong.

mod lines;
mod values;

use crate::format::{
    FormatError, decode_chunk, decode_part, decode_segment, file::FileReader, file::Kind, legacy, record,
};
use crate::manifest::{ClusterManifest, ElectorLock, JsonObject, Registration, SnapshotManifest};
use bytes::Bytes;
use lines::Lines;
use netsy_api::file::{ChunkInfo, Compression, FileFooter, FileHeader};
use serde_json::{Value, json};
use std::io::{self, Write};
use values::{hex, time_of};

pub use lines::InspectFormat;

/// What an object turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// `chunk`, `seal`, `segment`, `snapshot part`, `manifest`, `elector lock`, `registration`,
    /// `snapshot manifest`, `netsy 1.0 chunk`, `netsy 1.0 snapshot`, `unknown`.
    pub kind: &'static str,
    /// What is wrong with it; empty: it is sound.
    pub faults: Vec<String>,
}

/// Prints an object to `out`. `name` is its key or path. Fails only where `out` does.
pub fn inspect(name: &str, bytes: &Bytes, format: InspectFormat, out: &mut dyn Write) -> io::Result<Inspection> {
    let mut lines = Lines::new(out, format);
    lines.line(json!({"type": "object", "name": name, "bytes": bytes.len()}))?;
    let inspection = if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
        inspect_json(name, bytes, &mut lines)?
    } else if legacy::is_legacy(bytes) {
        inspect_legacy(bytes, &mut lines)?
    } else {
        inspect_file(bytes, &mut lines)?
    };
    let sound = inspection.faults.is_empty();
    lines.line(json!({"type": "result", "kind": inspection.kind, "sound": sound, "faults": inspection.faults}))?;
    Ok(inspection)
}

fn inspect_file(bytes: &Bytes, lines: &mut Lines<'_>) -> io::Result<Inspection> {
    let (mut file, mut faults) = match FileReader::open_faulty(bytes) {
        Ok(opened) => opened,
        Err(fault) => return Ok(Inspection { kind: "unknown", faults: vec![fault.to_string()] }),
    };
    let kind = kind_of(&file.header);
    lines.line(header_line(&file.header, kind))?;
    let rows = file.header.kind == Kind::SnapshotPart as i32;
    let end = loop {
        match file.next_record() {
            Ok(Some((number, message))) => {
                let value = if rows {
                    record::read_row(message, number).map(|row| values::row(number, &row))
                } else {
                    record::read_entry(message, number).map(|entry| values::entry(number, &entry))
                };
                match value {
                    Ok(value) => lines.line(value)?,
                    Err(fault) => faults.push(fault),
                }
            }
            Ok(None) => break file.finish(),
            Err(fault) => break Err(fault),
        }
    };
    match end {
        Ok(footer) => lines.line(footer_line(&footer, file.checksum))?,
        Err(fault) => faults.push(fault),
    }
    if faults.is_empty() {
        // The strict reader has the last word.
        faults.extend(check(&file.header, bytes).err());
    }
    Ok(Inspection { kind, faults: faults.iter().map(FormatError::to_string).collect() })
}

fn check(header: &FileHeader, bytes: &Bytes) -> Result<(), FormatError> {
    match Kind::try_from(header.kind) {
        Ok(Kind::SnapshotPart) => decode_part(bytes).map(drop),
        Ok(Kind::Segment) => decode_segment(bytes).map(drop),
        _ => decode_chunk(bytes).map(drop),
    }
}

fn kind_of(header: &FileHeader) -> &'static str {
    match Kind::try_from(header.kind) {
        Ok(Kind::SnapshotPart) => "snapshot part",
        Ok(Kind::Segment) => "segment",
        Ok(Kind::Chunk) if header.records_count == 0 => "seal",
        Ok(Kind::Chunk) => "chunk",
        _ => "unknown",
    }
}

fn header_line(header: &FileHeader, kind: &str) -> Value {
    let compression = Compression::try_from(header.compression).map_or("unknown", |c| c.as_str_name());
    let mut line = json!({
        "type": "header",
        "kind": kind,
        "schema_version": header.schema_version,
        "compression": compression.to_lowercase(),
        "cluster_id": header.cluster_id,
        "records": header.records_count,
        "body_bytes": header.body_bytes,
        "first_index": header.first_index,
        "last_index": header.last_index,
        "first_position": header.first_position,
        "last_position": header.last_position,
    });
    let more = match Kind::try_from(header.kind) {
        Ok(Kind::SnapshotPart) => json!({}),
        Ok(Kind::Segment) => json!({
            "first_seq": header.first_seq,
            "last_seq": header.seq,
            "first_term": header.first_term,
            "last_term": header.term,
        }),
        _ => json!({
            "seq": header.seq,
            "term": header.term,
            "node_id": header.node_id,
            "session": hex(&header.session),
            "created_at": time_of(header.created_at_ms),
        }),
    };
    if let (Value::Object(line), Value::Object(more)) = (&mut line, more) {
        line.extend(more);
    }
    line
}

fn footer_line(footer: &FileFooter, checksum: u64) -> Value {
    let mut line = json!({
        "type": "footer",
        "records": footer.records_count,
        "records_crc": format!("{:016x}", footer.records_crc),
        "checksum": format!("{checksum:016x}"),
    });
    if !footer.chunks.is_empty() {
        line["chunks"] = footer.chunks.iter().map(chunk_info).collect();
    }
    line
}

fn chunk_info(chunk: &ChunkInfo) -> Value {
    json!({"chunk": {
        "seq": chunk.seq,
        "term": chunk.term,
        "node_id": chunk.node_id,
        "session": hex(&chunk.session),
        "first_index": chunk.first_index,
        "last_index": chunk.last_index,
        "seal": chunk.last_index < chunk.first_index,
        "bytes": chunk.bytes,
        "checksum": format!("{:016x}", chunk.checksum),
        "created_at": time_of(chunk.created_at_ms),
    }})
}

fn inspect_json(name: &str, bytes: &Bytes, lines: &mut Lines<'_>) -> io::Result<Inspection> {
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(e) => return Ok(Inspection { kind: "unknown", faults: vec![format!("damaged: no JSON: {e}")] }),
    };
    let has = |field: &str| value.get(field).is_some();
    let (kind, checked) = if has("parts") || name.ends_with("/manifest.json") {
        ("snapshot manifest", SnapshotManifest::from_json(bytes).map(drop))
    } else if has("voters") || name.ends_with(crate::keys::CLUSTER) {
        ("manifest", ClusterManifest::from_json(bytes).map(drop))
    } else if has("counter") || name.ends_with(crate::keys::ELECTOR) {
        ("elector lock", ElectorLock::from_json(bytes).map(drop))
    } else {
        ("registration", Registration::from_json(bytes).map(drop))
    };
    lines.document(kind, value)?;
    Ok(Inspection { kind, faults: checked.err().iter().map(ToString::to_string).collect() })
}

fn inspect_legacy(bytes: &Bytes, lines: &mut Lines<'_>) -> io::Result<Inspection> {
    let file = match legacy::read_legacy(bytes) {
        Ok(file) => file,
        Err(fault) => return Ok(Inspection { kind: "unknown", faults: vec![fault.to_string()] }),
    };
    let kind = if file.header.kind == 1 { "netsy 1.0 snapshot" } else { "netsy 1.0 chunk" };
    lines.line(values::legacy_header(kind, &file.header))?;
    for (number, record) in file.records.iter().enumerate() {
        lines.line(values::legacy_record(number, record))?;
    }
    if let Some(footer) = &file.footer {
        lines.line(values::legacy_footer(footer))?;
    }
    Ok(Inspection { kind, faults: file.faults })
}
