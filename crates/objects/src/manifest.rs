//! The small JSON objects: manifest (R1), elector lock, registrations, and what a snapshot is made of.
//!
//! Objects that are compared and swapped keep fields this program does not know and write them
//! back, so that an older node does not undo what a newer one wrote; a `schema_version` above
//! [`SCHEMA_VERSION`] is refused. A snapshot's manifest is never rewritten: there an unknown field
//! is refused, as it may say what the parts mean.

use netsy_api::ids::{
    ChunkSeq, Incarnation, LogIndex, NodeId, Nonce, Position, Revision, Session, Term, UnixMillis, check_name,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// The version of all JSON objects this program writes.
pub const SCHEMA_VERSION: u32 = 2;
/// The largest JSON object read, in bytes.
pub const JSON_BYTES_MAX: usize = 64 << 20;

/// Why a JSON object cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// It is damaged, or breaks a rule.
    Invalid(String),
    /// A newer netsy wrote it.
    Unsupported(String),
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestError::Invalid(reason) | ManifestError::Unsupported(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for ManifestError {}

/// What every JSON object of ours can do.
pub trait JsonObject: Serialize + DeserializeOwned {
    /// Its name in errors.
    const WHAT: &'static str;

    /// The version it was written with.
    fn schema_version(&self) -> u32;

    /// What its fields must fulfil together.
    fn check(&self) -> Result<(), ManifestError>;

    /// Reads and checks it.
    fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > JSON_BYTES_MAX {
            return Err(ManifestError::Invalid(format!(
                "{} has {} bytes, at most {JSON_BYTES_MAX} are read",
                Self::WHAT,
                bytes.len()
            )));
        }
        // The version first: what else a newer one holds is not for this program to judge.
        #[derive(Deserialize)]
        struct Versioned {
            schema_version: u32,
        }
        let bad = |e: serde_json::Error| ManifestError::Invalid(format!("{} cannot be read: {e}", Self::WHAT));
        let version = serde_json::from_slice::<Versioned>(bytes).map_err(bad)?.schema_version;
        if version != SCHEMA_VERSION {
            return Err(ManifestError::Unsupported(format!(
                "{} has schema_version {version}, this program reads {SCHEMA_VERSION}: use a newer netsy",
                Self::WHAT
            )));
        }
        let object: Self = serde_json::from_slice(bytes).map_err(bad)?;
        object.check()?;
        Ok(object)
    }

    /// Checks it and writes it, indented: people read these.
    fn to_json(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|e| ManifestError::Invalid(format!("{} cannot be written: {e}", Self::WHAT)))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// Fields this program does not know, kept as they are.
pub type Extra = serde_json::Map<String, serde_json::Value>;

/// An etcd member id: written as etcd prints it, 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl Serialize for MemberId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for MemberId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u64::from_str_radix(&text, 16) {
            Ok(id) if digits && id != 0 => Ok(Self(id)),
            _ => Err(serde::de::Error::custom(format!("member id {text:?} is not 16 hexadecimal digits above 0"))),
        }
    }
}

/// Who acts in a term: this very process (R1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrimaryId {
    /// The node.
    pub node_id: NodeId,
    /// Its database.
    pub incarnation: Incarnation,
    /// Its process.
    pub session: Session,
}

/// Whose durable copy counts (R5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoterId {
    /// The node.
    pub node_id: NodeId,
    /// Its database: with another one it is no voter (R11).
    pub incarnation: Incarnation,
}

/// An operator said that voters are gone for good (R12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovered {
    /// The term that began from what was left.
    pub term: Term,
    /// Where it began.
    pub index: LogIndex,
}

/// `cluster.json`: the manifest (R1). Written by compare-and-swap only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterManifest {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The cluster's name.
    pub cluster_id: String,
    /// The newest term.
    pub term: Term,
    /// Who acts in it.
    pub primary: PrimaryId,
    /// Who acted before, so that a new Primary can tell whether it must wait (R9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PrimaryId>,
    /// A Primary's session that gave up its read lease for ever (R9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Session>,
    /// Whose copies count.
    pub voters: Vec<VoterId>,
    /// -1 majority, 0 object storage, N replica receipts.
    pub quorum: i64,
    /// Fewest disks a write is on before it is acknowledged without the bucket.
    pub copies_min: u32,
    /// One more with every write.
    pub config_version: u64,
    /// Another with every write.
    pub nonce: Nonce,
    /// etcd member ids, never given to another node.
    pub members: BTreeMap<NodeId, MemberId>,
    /// The last time an operator gave voters up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Recovered>,
    /// Whose log that kept, until a Primary has put it into the object log: no election goes without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<VoterId>,
    /// What a newer netsy wrote.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ClusterManifest {
    /// What is to be swapped in for this one after `change`: `config_version` and nonce move (R1).
    pub fn succeeded_by(&self, nonce: Nonce, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        change(&mut next);
        next.config_version = self.config_version + 1;
        next.nonce = nonce;
        next
    }
}

impl JsonObject for ClusterManifest {
    const WHAT: &'static str = "the manifest cluster.json";

    fn schema_version(&self) -> u32 {
        self.schema_version
    }

    fn check(&self) -> Result<(), ManifestError> {
        let bad = |text: String| Err(ManifestError::Invalid(format!("{}: {text}", Self::WHAT)));
        check_name("cluster_id", &self.cluster_id)
            .map_err(|e| ManifestError::Invalid(format!("{}: {e}", Self::WHAT)))?;
        if self.term.0 == 0 || self.config_version == 0 {
            return bad(format!("term {} and config_version {} begin at 1", self.term, self.config_version));
        }
        if self.quorum < -1 {
            return bad(format!("quorum is {}: use -1 (majority), 0 (object storage) or replicas", self.quorum));
        }
        if self.copies_min == 0 {
            return bad("copies_min is 0: a write is on at least 1 disk".to_string());
        }
        let mut names: Vec<&NodeId> = self.voters.iter().map(|voter| &voter.node_id).collect();
        names.sort();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return bad(format!("voter {} stands twice", pair[0]));
        }
        let mut ids: Vec<&MemberId> = self.members.values().collect();
        ids.sort();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return bad(format!("member id {:016x} stands twice", pair[0].0));
        }
        Ok(())
    }
}

/// `elector.json`: the elector's lock. Written by compare-and-swap only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectorLock {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The cluster's name.
    pub cluster_id: String,
    /// The holder's node.
    pub node_id: NodeId,
    /// The holder's process.
    pub session: Session,
    /// Where peers reach it.
    pub address: String,
    /// One more with every renewal.
    pub counter: u64,
    /// Another with every write.
    pub nonce: Nonce,
    /// What a newer netsy wrote.
    #[serde(flatten)]
    pub extra: Extra,
}

impl JsonObject for ElectorLock {
    const WHAT: &'static str = "the elector lock elector.json";

    fn schema_version(&self) -> u32 {
        self.schema_version
    }

    fn check(&self) -> Result<(), ManifestError> {
        check_name("cluster_id", &self.cluster_id).map_err(|e| ManifestError::Invalid(format!("{}: {e}", Self::WHAT)))
    }
}

/// `nodes/{node_id}.json`: a registration. Written by compare-and-swap only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The cluster's name.
    pub cluster_id: String,
    /// The node.
    pub node_id: NodeId,
    /// Its database.
    pub incarnation: Incarnation,
    /// Starts of that database: one behind this is a restored backup (R11).
    pub boot: u64,
    /// Whether it stopped gracefully and may be forgotten by health checks.
    pub stopped: bool,
    /// Where clients reach it, as URLs.
    pub client_urls: Vec<String>,
    /// Where peers reach it, as URLs.
    pub peer_urls: Vec<String>,
    /// Of the program.
    pub version: String,
    /// Another with every write.
    pub nonce: Nonce,
    /// What a newer netsy wrote.
    #[serde(flatten)]
    pub extra: Extra,
}

impl JsonObject for Registration {
    const WHAT: &'static str = "a registration";

    fn schema_version(&self) -> u32 {
        self.schema_version
    }

    fn check(&self) -> Result<(), ManifestError> {
        check_name("cluster_id", &self.cluster_id)
            .map_err(|e| ManifestError::Invalid(format!("the registration of {}: {e}", self.node_id)))?;
        if self.boot == 0 {
            return Err(ManifestError::Invalid(format!("the registration of {}: boot begins at 1", self.node_id)));
        }
        Ok(())
    }
}

/// Entries up to `last_index` have this term, from where the run before ended (R7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermRun {
    /// The term.
    pub term: Term,
    /// The last entry that has it.
    pub last_index: LogIndex,
}

/// One part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotPart {
    /// Its key; often in an older snapshot's folder.
    pub key: String,
    /// SHA-256 of its uncompressed body.
    pub sha256: String,
    /// Stored size.
    pub bytes: u64,
    /// Position of its first row.
    pub first_position: Position,
    /// Position of its last row.
    pub last_position: Position,
    /// How many rows.
    pub rows: u64,
    /// CRC-64/NVME over its rows' stored frames, uncompressed.
    #[serde(with = "hex64")]
    pub rows_crc: u64,
    /// Length of those frames in bytes.
    pub rows_bytes: u64,
}

/// `snapshots/{index}/manifest.json`: the state after entry `last_index`, and where its rows are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotManifest {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The cluster's name.
    pub cluster_id: String,
    /// The last chunk covered.
    pub seq: ChunkSeq,
    /// That chunk's term.
    pub term: Term,
    /// That chunk's last entry: the snapshot's index.
    pub last_index: LogIndex,
    /// Of all entries up to `last_index`, in order.
    pub runs: Vec<TermRun>,
    /// The position of the first mutation after it.
    pub next_position: Position,
    /// The store's revision.
    pub revision: Revision,
    /// The lowest readable revision; 0: nothing was compacted.
    pub compact_revision: Revision,
    /// CRC-64/NVME over all rows' stored frames in order: equal rows give an equal digest however
    /// they are cut into parts.
    #[serde(with = "hex64")]
    pub state_digest: u64,
    /// How many rows.
    pub rows: u64,
    /// The index of the snapshot whose parts this one uses, if any.
    pub base: Option<LogIndex>,
    /// Who wrote it.
    pub node_id: NodeId,
    /// That process.
    pub session: Session,
    /// When it was begun, by the writer's clock: retention counts from it.
    pub created_at: UnixMillis,
    /// Of the program that wrote it.
    pub version: String,
    /// In order of position.
    pub parts: Vec<SnapshotPart>,
}

impl JsonObject for SnapshotManifest {
    const WHAT: &'static str = "the snapshot manifest";

    fn schema_version(&self) -> u32 {
        self.schema_version
    }

    fn check(&self) -> Result<(), ManifestError> {
        let bad =
            |text: String| Err(ManifestError::Invalid(format!("the manifest of snapshot {}: {text}", self.last_index)));
        check_name("cluster_id", &self.cluster_id).map_err(|e| ManifestError::Invalid(e.to_string()))?;
        if self.seq.0 == 0 || self.term.0 == 0 || self.revision.0 < 1 || self.next_position.0 <= self.last_index.0 {
            return bad(format!(
                "seq {}, term {}, revision {} or next_position {} cannot be",
                self.seq, self.term, self.revision, self.next_position
            ));
        }
        let mut before = TermRun { term: Term(0), last_index: LogIndex(0) };
        for run in &self.runs {
            if run.term <= before.term || run.last_index <= before.last_index || run.term > self.term {
                return bad(format!("run of term {} to index {} is out of order", run.term, run.last_index));
            }
            before = *run;
        }
        if before.last_index != self.last_index {
            return bad(format!("its runs end at index {}", before.last_index));
        }
        if self.base.is_some_and(|base| base >= self.last_index) {
            return bad("its base is not older".to_string());
        }
        let (mut at, mut rows, mut digest) = (Position(0), 0u64, 0);
        for part in &self.parts {
            if part.first_position <= at || part.last_position < part.first_position || part.rows == 0 {
                return bad(format!("part {} is empty or out of order", part.key));
            }
            if part.bytes > crate::format::FILE_BYTES_MAX {
                return bad(format!("part {} has {} bytes", part.key, part.bytes));
            }
            match crate::keys::parse_snapshot(&part.key) {
                Some(crate::keys::SnapshotKey::Part { index, first, sha256 })
                    if index <= self.last_index && first == part.first_position && sha256 == part.sha256 => {}
                _ => return bad(format!("part {} has a key that does not fit it", part.key)),
            }
            at = part.last_position;
            rows = rows.saturating_add(part.rows);
            digest = crate::format::crc::combine(digest, part.rows_crc, part.rows_bytes);
        }
        if at >= self.next_position {
            return bad(format!("its parts reach position {at}, next_position is {}", self.next_position));
        }
        if rows != self.rows || digest != self.state_digest {
            return bad(format!("its parts have {rows} rows and digest {digest:016x}, it names others"));
        }
        Ok(())
    }
}

mod hex64 {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{value:016x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        let text = String::deserialize(d)?;
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        u64::from_str_radix(&text, 16)
            .ok()
            .filter(|_| digits)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not 16 hexadecimal digits")))
    }
}
