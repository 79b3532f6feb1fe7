//! The names of all objects. Nothing else in netsy spells one.
//!
//! Numbers are written with 20 digits, so that the byte order of keys is the order of numbers and
//! every `u64` fits. Keys are relative to `storage.key_prefix`, which the bucket adds.

use netsy_api::ids::{ChunkSeq, LogIndex, NodeId, Position};

/// The manifest (R1).
pub const CLUSTER: &str = "cluster.json";
/// The elector's lock.
pub const ELECTOR: &str = "elector.json";
/// What a brand-new cluster starts from, put there by an operator.
pub const BOOTSTRAP: &str = "bootstrap.netsy";
/// Registrations.
pub const NODES: &str = "nodes/";
/// The object log.
pub const LOG: &str = "log/";
/// Folded runs of chunks.
pub const SEGMENTS: &str = "segments/";
/// Snapshots, one folder each.
pub const SNAPSHOTS: &str = "snapshots/";

const SUFFIX: &str = ".netsy";
const MANIFEST: &str = "manifest.json";
const DIGITS: usize = 20;

/// A node's registration.
pub fn node(id: &NodeId) -> String {
    format!("{NODES}{}.json", id.as_str())
}

/// The node a registration's key names.
pub fn parse_node(key: &str) -> Option<NodeId> {
    NodeId::new(key.strip_prefix(NODES)?.strip_suffix(".json")?).ok()
}

/// A chunk of the object log.
pub fn chunk(seq: ChunkSeq) -> String {
    format!("{LOG}{:020}{SUFFIX}", seq.0)
}

/// The number in a chunk's key.
pub fn parse_chunk(key: &str) -> Option<ChunkSeq> {
    number(key.strip_prefix(LOG)?.strip_suffix(SUFFIX)?).map(ChunkSeq)
}

/// A segment, by the first and last chunk in it.
pub fn segment(first: ChunkSeq, last: ChunkSeq) -> String {
    format!("{SEGMENTS}{:020}-{:020}{SUFFIX}", first.0, last.0)
}

/// The numbers in a segment's key.
pub fn parse_segment(key: &str) -> Option<(ChunkSeq, ChunkSeq)> {
    let (first, last) = key.strip_prefix(SEGMENTS)?.strip_suffix(SUFFIX)?.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((ChunkSeq(first), ChunkSeq(last)))
}

/// The folder of a snapshot, with its closing slash.
pub fn snapshot_folder(index: LogIndex) -> String {
    format!("{SNAPSHOTS}{:020}/", index.0)
}

/// A snapshot's manifest, written last.
pub fn snapshot_manifest(index: LogIndex) -> String {
    format!("{}{MANIFEST}", snapshot_folder(index))
}

/// A snapshot part, by the place of its first row and the SHA-256 of its content.
pub fn snapshot_part(index: LogIndex, first: Position, sha256: &str) -> String {
    format!("{}{:020}-{sha256}{SUFFIX}", snapshot_folder(index), first.0)
}

/// What a key below [`SNAPSHOTS`] names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotKey {
    /// The manifest of the snapshot at this index.
    Manifest(LogIndex),
    /// A part in that snapshot's folder.
    Part {
        /// The snapshot it was first written for.
        index: LogIndex,
        /// Position of its first row.
        first: Position,
        /// Of its content, 64 hexadecimal digits.
        sha256: String,
    },
}

/// What a key below [`SNAPSHOTS`] names; `None` for what netsy did not put there.
pub fn parse_snapshot(key: &str) -> Option<SnapshotKey> {
    let (index, name) = key.strip_prefix(SNAPSHOTS)?.split_once('/')?;
    let index = LogIndex(number(index)?);
    if name == MANIFEST {
        return Some(SnapshotKey::Manifest(index));
    }
    let (first, sha256) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let hex = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    hex.then_some(SnapshotKey::Part { index, first: Position(number(first)?), sha256: sha256.to_string() })
}

fn number(digits: &str) -> Option<u64> {
    let all_digits = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    if all_digits { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_sort_as_their_numbers() {
        for seq in [1, 9, 10, u64::MAX] {
            assert_eq!(parse_chunk(&chunk(ChunkSeq(seq))), Some(ChunkSeq(seq)));
        }
        assert!(chunk(ChunkSeq(9)) < chunk(ChunkSeq(10)));
        assert_eq!(parse_segment(&segment(ChunkSeq(3), ChunkSeq(70))), Some((ChunkSeq(3), ChunkSeq(70))));
        assert_eq!(parse_snapshot(&snapshot_manifest(LogIndex(7))), Some(SnapshotKey::Manifest(LogIndex(7))));
        let sha256 = "0123456789abcdef".repeat(4);
        assert_eq!(
            parse_snapshot(&snapshot_part(LogIndex(7), Position(9), &sha256)),
            Some(SnapshotKey::Part { index: LogIndex(7), first: Position(9), sha256 })
        );
        let id = NodeId::new("a-1").unwrap();
        assert_eq!(parse_node(&node(&id)), Some(id));
    }

    #[test]
    fn what_netsy_did_not_name_is_no_key_of_its() {
        for key in ["log/1.netsy", "log/00000000000000000001.json", "log/+0000000000000000001.netsy", "log/", "x"] {
            assert_eq!(parse_chunk(key), None, "{key}");
        }
        assert_eq!(parse_segment(&format!("{SEGMENTS}{:020}-{:020}{SUFFIX}", 2, 1)), None);
        assert_eq!(parse_chunk("log/99999999999999999999.netsy"), None);
        assert_eq!(parse_snapshot("snapshots/00000000000000000007/notes.txt"), None);
        assert_eq!(parse_node("nodes/UPPER.json"), None);
    }
}
