//! The cluster file (config.md): one JSONC file, the same on every node.

mod reader;
pub mod values;

pub use reader::{Effective, Source};

use jsonc_parser::ast::Value as Ast;
use netsy_objects::{Encryption, Provider, StorageConfig};
use reader::Reader;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The settings of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    pub cluster_id: String,
    pub storage: StorageConfig,
    pub quorum: i32,
    pub copies_min: usize,
    pub chunk_bytes: usize,
    pub chunk_age: Duration,
    pub read_lease: Duration,
    pub snapshot_records: u64,
    pub snapshot_bytes: u64,
    pub snapshot_age: Duration,
    pub snapshot_retention: Duration,
    pub compaction_interval: Duration,
    pub compaction_retention: Duration,
    pub watch_progress_interval: Duration,
    pub drain_timeout: Duration,
    pub request_bytes_max: usize,
    pub txn_ops_max: usize,
    pub db_bytes_max: u64,
    pub keys: ClusterKeys,
}

/// Settings that matter with more than one node.
#[derive(Clone, Debug)]
pub struct ClusterKeys {
    pub heartbeat_interval: Duration,
    pub degradation_count: u32,
    pub deregistration_timeout: Duration,
    pub leader_timeout: Duration,
    pub quorum_timeout: Duration,
    pub voters_max: usize,
}

/// A cluster file that was read: its settings, where each came from, and what deserves a warning.
#[derive(Debug)]
pub struct Loaded {
    pub config: ClusterConfig,
    pub effective: Vec<Effective>,
    pub warnings: Vec<String>,
}

const S3_CLASSES: &[&str] = &["STANDARD", "STANDARD_IA", "INTELLIGENT_TIERING", "EXPRESS_ONEZONE"];
const GCS_CLASSES: &[&str] = &["STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"];
/// Classes that charge for early deletion or for each read: chunks live for hours.
const COSTLY_CLASSES: &[&str] = &["STANDARD_IA", "NEARLINE", "COLDLINE", "ARCHIVE"];

/// Reads and checks the file at `path`; the error lists every problem, one a line.
pub fn load(path: &Path) -> Result<Loaded, String> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        format!("config file {}: {e}: give the cluster's JSONC file with --config or NETSY_CONFIG", path.display())
    })?;
    parse(&text).map_err(|problems| {
        let lines: Vec<String> = problems.into_iter().map(|p| format!("config file {}: {p}", path.display())).collect();
        lines.join("\n")
    })
}

/// The text of a cluster file as JSON, unchecked.
pub fn value(text: &str) -> Result<serde_json::Value, String> {
    let options = jsonc_parser::ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let invalid = |e| format!("not valid JSON: {e}");
    let root = jsonc_parser::parse_to_serde_value(text, &options).map_err(invalid)?;
    let tree = jsonc_parser::parse_to_ast(text, &Default::default(), &options).map_err(invalid)?;
    match tree.value.and_then(|tree| given_twice(&tree, "")) {
        Some(key) => Err(format!("{key}: is given twice: keep one of them")),
        None => Ok(root),
    }
}

/// A key, by its whole path, of which an object has two.
fn given_twice(value: &Ast<'_>, path: &str) -> Option<String> {
    let Ast::Object(object) = value else { return None };
    let mut seen = BTreeSet::new();
    object.properties.iter().find_map(|property| {
        let name = property.name.as_str();
        let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        if seen.insert(name) { given_twice(&property.value, &path) } else { Some(path) }
    })
}

/// Reads and checks the text of a cluster file.
pub fn parse(text: &str) -> Result<Loaded, Vec<String>> {
    let root = value(text).map_err(|e| vec![e])?;
    if !root.is_object() {
        return Err(vec!["not a JSON object: write { \"cluster_id\": … }".to_string()]);
    }
    read(&root)
}

fn read(root: &serde_json::Value) -> Result<Loaded, Vec<String>> {
    let mut r = Reader::new(root);
    let mut warnings = vec![];
    let cluster_id = r.text("cluster_id", "");
    if cluster_id.is_empty() {
        r.refuse("cluster_id", "is missing: give the cluster a name of its own, like \"prod-1\"");
    } else if let Err(e) = netsy_api::ids::check_name("cluster id", &cluster_id) {
        r.refuse("cluster_id", e);
    }
    let storage = read_storage(&mut r, &mut warnings);
    let is_file = storage.provider == Provider::File;
    let quorum = r.number("replication.quorum", -1, -1, 100) as i32;
    let config = ClusterConfig {
        cluster_id,
        quorum,
        copies_min: r.number("replication.copies_min", 2, 1, 100) as usize,
        chunk_bytes: (r.number("replication.chunk_buffer.threshold_size_mb", 4, 1, 64) as usize) << 20,
        chunk_age: read_chunk_age(&mut r),
        read_lease: r.duration("replication.read_lease", if is_file { Duration::ZERO } else { Duration::from_secs(2) }),
        snapshot_records: r.number("snapshot.threshold_records", 10_000, 1, i64::MAX) as u64,
        snapshot_bytes: (r.number("snapshot.threshold_size_mb", 256, 1, 1 << 20) as u64) << 20,
        snapshot_age: Duration::from_secs(60 * r.number("snapshot.threshold_age_minutes", 60, 1, 525_600) as u64),
        snapshot_retention: r.duration("snapshot.retention", Duration::from_secs(86_400)),
        compaction_interval: r.duration("compaction_interval", Duration::from_secs(300)),
        compaction_retention: r.duration("compaction_retention", Duration::from_secs(300)),
        watch_progress_interval: r.duration("watch_progress_interval", Duration::from_secs(600)),
        drain_timeout: r.duration("drain_timeout", Duration::from_secs(30)),
        request_bytes_max: r.bytes("limits.request_bytes_max", 1_572_864) as usize,
        txn_ops_max: r.number("limits.txn_ops_max", 128, 1, 1_000_000) as usize,
        db_bytes_max: r.bytes("limits.db_bytes_max", 8 << 30),
        keys: read_cluster_keys(&mut r, quorum),
        storage,
    };
    if config.watch_progress_interval < Duration::from_millis(100) {
        r.refuse("watch_progress_interval", "must be at least \"100ms\"");
    }
    if config.chunk_age.is_zero() {
        r.refuse("replication.chunk_buffer.threshold_age", "must be more than 0");
    }
    if !(1024..=64 << 20).contains(&config.request_bytes_max) {
        r.refuse("limits.request_bytes_max", "must be from 1 KiB to 64 MiB");
    }
    if !(1 << 20..=1 << 60).contains(&config.db_bytes_max) {
        r.refuse("limits.db_bytes_max", "must be from 1 MiB to 1048576 TiB");
    }
    if config.read_lease > Duration::from_secs(60) {
        r.refuse("replication.read_lease", "must be at most \"60s\": a new Primary waits that long before it serves");
    }
    if config.copies_min > config.keys.voters_max {
        let (copies_min, voters_max) = (config.copies_min, config.keys.voters_max);
        warnings.push(format!(
            "replication.copies_min {copies_min} is more than replication.voters_max, {voters_max}: every write goes to object \
             storage before it is acknowledged"
        ));
    }
    let effective = r.finish()?;
    Ok(Loaded { config, effective, warnings })
}

/// Keys that matter with more than one node.
fn read_cluster_keys(r: &mut Reader<'_>, quorum: i32) -> ClusterKeys {
    let heartbeat_interval = r.duration("heartbeat_interval", Duration::from_millis(500));
    if heartbeat_interval < Duration::from_millis(10) {
        r.refuse("heartbeat_interval", "must be at least \"10ms\"");
    }
    let keys = ClusterKeys {
        heartbeat_interval,
        degradation_count: r.number("elector.degradation_count", 2, 1, 1000) as u32,
        deregistration_timeout: r.duration("elector.deregistration_timeout", Duration::from_secs(180)),
        leader_timeout: r.duration("elector.leader_timeout", Duration::from_secs(10)),
        quorum_timeout: r.duration("replication.quorum_timeout", Duration::from_millis(500)),
        voters_max: r.number("replication.voters_max", 5, 1, 101) as usize,
    };
    if quorum > 0 && quorum as usize >= keys.voters_max {
        let voters_max = keys.voters_max;
        r.refuse("replication.voters_max", format!("{voters_max} must exceed replication.quorum, {quorum}"));
    }
    keys
}

fn read_chunk_age(r: &mut Reader<'_>) -> Duration {
    let minutes_key = "replication.chunk_buffer.threshold_age_minutes";
    if !r.has(minutes_key) {
        return r.duration("replication.chunk_buffer.threshold_age", Duration::from_secs(1));
    }
    if r.has("replication.chunk_buffer.threshold_age") {
        r.refuse(minutes_key, "is set beside threshold_age, which says the same: keep one of them");
    }
    Duration::from_secs(60 * r.number(minutes_key, 1, 1, 1440) as u64)
}

fn read_storage(r: &mut Reader<'_>, warnings: &mut Vec<String>) -> StorageConfig {
    let name = r.one_of("storage.provider", "s3", &["s3", "gcs", "file"]);
    let provider = match name.as_str() {
        "gcs" => Provider::Gcs,
        "file" => Provider::File,
        _ => Provider::S3,
    };
    let mut storage = StorageConfig::new(provider);
    storage.bucket = r.optional_text("storage.bucket_name").unwrap_or_default();
    storage.path = r.optional_text("storage.path").map(PathBuf::from).unwrap_or_default();
    storage.key_prefix = r.text("storage.key_prefix", "").trim_matches('/').to_string();
    storage.endpoint = r.optional_text("storage.endpoint");
    storage.region = r.optional_text("storage.region");
    storage.path_style = r.optional_bool("storage.path_style");
    storage.allow_http = r.optional_bool("storage.allow_http").unwrap_or(false);
    match provider {
        Provider::File if storage.path.as_os_str().is_empty() => {
            r.refuse("storage.path", "is empty: set the folder the cluster keeps its data in");
        }
        Provider::S3 | Provider::Gcs if storage.bucket.is_empty() => {
            r.refuse("storage.bucket_name", "is empty: set the bucket the cluster keeps its data in");
        }
        _ => {}
    }
    let unused = match provider {
        Provider::File => [
            ("storage.bucket_name", !storage.bucket.is_empty()),
            ("storage.endpoint", storage.endpoint.is_some()),
            ("storage.region", storage.region.is_some()),
        ],
        Provider::Gcs => [
            ("storage.path", !storage.path.as_os_str().is_empty()),
            ("storage.region", storage.region.is_some()),
            ("storage.path_style", storage.path_style.is_some()),
        ],
        Provider::S3 => [("storage.path", !storage.path.as_os_str().is_empty()), ("", false), ("", false)],
    };
    for (key, _) in unused.iter().filter(|(_, given)| *given) {
        warnings.push(format!("{key} has no use with storage.provider {name:?}: remove it"));
    }
    let classes = if provider == Provider::Gcs { GCS_CLASSES } else { S3_CLASSES };
    let class = r.one_of("storage.class", "STANDARD", classes);
    if COSTLY_CLASSES.contains(&class.as_str()) {
        warnings.push(format!(
            "storage.class {class}: objects of this class have a minimum duration or a price for each read; netsy writes, \
             folds and deletes small objects all day: STANDARD is cheaper"
        ));
    }
    storage.class = (provider != Provider::File).then_some(class);
    let kms_key_id = r.optional_text("storage.kms_key_id");
    let encryption =
        r.one_of("storage.encryption", "provider-managed", &["provider-managed", "customer-managed", "none"]);
    storage.encryption = match (encryption.as_str(), kms_key_id) {
        ("customer-managed", Some(kms_key_id)) => Encryption::CustomerManaged { kms_key_id },
        ("customer-managed", None) => {
            r.refuse(
                "storage.kms_key_id",
                "is missing: storage.encryption is \"customer-managed\", which needs the key's id",
            );
            Encryption::ProviderManaged
        }
        (other, key) => {
            if key.is_some() {
                r.refuse(
                    "storage.kms_key_id",
                    format!("has no use with storage.encryption {other:?}: set that to \"customer-managed\""),
                );
            }
            if other == "none" { Encryption::None } else { Encryption::ProviderManaged }
        }
    };
    storage.timeout = r.duration("storage.timeout", Duration::from_secs(10));
    storage.retry_max_age = r.duration("storage.retry_max_age", Duration::from_secs(30));
    if storage.timeout.is_zero() {
        r.refuse("storage.timeout", "must be more than 0");
    }
    storage
}

#[cfg(test)]
mod tests;
