//! The objects themselves and their conditional writes.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    S3,
    Gcs,
}

/// Whether conditional writes are what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    Enforced,
    /// As Garage and rclone's server do.
    Ignored,
    /// Looked at some time before the write, as s3s-fs does: right one by one, wrong in a race.
    Racy,
    /// Creates are right, swaps take any version.
    SwapIgnored,
    /// Creates are right, no swap is ever accepted.
    SwapRefused,
}

#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub bytes: Bytes,
    /// A function of the bytes, in quotes.
    pub e_tag: String,
    /// Never the same twice in one store.
    pub generation: u64,
}

/// What a write asks to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    Absent,
    ETag(String),
    Generation(u64),
}

#[derive(Debug)]
pub(crate) enum Refusal {
    /// 412
    Failed,
    /// 404: a condition on an object that is not there (S3).
    Missing,
}

#[derive(Debug)]
pub(crate) struct Objects {
    dialect: Dialect,
    objects: BTreeMap<String, Stored>,
    uploads: HashMap<String, BTreeMap<u32, Bytes>>,
    last_generation: u64,
    last_upload: u64,
}

impl Objects {
    pub fn new(dialect: Dialect) -> Self {
        Objects {
            dialect,
            objects: BTreeMap::new(),
            uploads: HashMap::new(),
            last_generation: 1_700_000_000_000_000,
            last_upload: 0,
        }
    }

    pub fn get(&self, key: &str) -> Option<&Stored> {
        self.objects.get(key)
    }

    pub fn keys(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    pub fn check(&self, key: &str, condition: &Condition) -> Result<(), Refusal> {
        let current = self.objects.get(key);
        let holds = match (condition, current) {
            (Condition::None, _) => true,
            (Condition::Absent, current) => current.is_none(),
            (Condition::ETag(tag), Some(o)) => bare(tag) == bare(&o.e_tag),
            (Condition::ETag(_), None) => return Err(Refusal::Missing),
            (Condition::Generation(g), current) => current.map_or(0, |o| o.generation) == *g,
        };
        if holds { Ok(()) } else { Err(Refusal::Failed) }
    }

    pub fn put(&mut self, key: &str, bytes: Bytes) -> Stored {
        self.last_generation += 1;
        let stored = Stored { e_tag: e_tag(self.dialect, &bytes), bytes, generation: self.last_generation };
        self.objects.insert(key.to_string(), stored.clone());
        stored
    }

    pub fn remove(&mut self, key: &str) -> bool {
        self.objects.remove(key).is_some()
    }

    /// Up to `limit` objects with the prefix, after a key, and whether there are more.
    pub fn list(&self, prefix: &str, after: &str, limit: usize) -> (Vec<(String, Stored)>, bool) {
        use std::ops::Bound;
        let start =
            if after >= prefix { Bound::Excluded(after.to_string()) } else { Bound::Included(prefix.to_string()) };
        let mut found = self.objects.range((start, Bound::Unbounded)).take_while(|(k, _)| k.starts_with(prefix));
        let page: Vec<_> = found.by_ref().take(limit).map(|(k, o)| (k.clone(), o.clone())).collect();
        let more = found.next().is_some();
        (page, more)
    }

    pub fn start_upload(&mut self) -> String {
        self.last_upload += 1;
        let id = format!("upload-{}", self.last_upload);
        self.uploads.insert(id.clone(), BTreeMap::new());
        id
    }

    pub fn put_part(&mut self, upload: &str, number: u32, bytes: Bytes) -> Option<String> {
        let tag = e_tag(self.dialect, &bytes);
        self.uploads.get_mut(upload)?.insert(number, bytes);
        Some(tag)
    }

    pub fn complete_upload(&mut self, key: &str, upload: &str) -> Option<Stored> {
        let parts = self.uploads.remove(upload)?;
        let whole = parts.values().map(|part| &part[..]).collect::<Vec<_>>().concat();
        Some(self.put(key, whole.into()))
    }

    pub fn abort_upload(&mut self, upload: &str) -> bool {
        self.uploads.remove(upload).is_some()
    }

    pub fn open_uploads(&self) -> usize {
        self.uploads.len()
    }
}

fn bare(tag: &str) -> &str {
    tag.trim_matches('"')
}

fn e_tag(dialect: Dialect, bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().take(16).map(|b| format!("{b:02x}")).collect();
    match dialect {
        Dialect::S3 => format!("\"{hex}\""),
        // Google's XML interface quotes it too; it is not what conditions take.
        Dialect::Gcs => format!("\"gcs-{hex}\""),
    }
}
