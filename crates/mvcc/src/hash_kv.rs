//! One number for all key changes that count up to a revision: equal on nodes that hold the same (etcd.md 2.10).
//!
//! CRC-32C over `key`, then for each row that counts, in order:
//!
//! ```text
//! | 8 main, BE | 4 sub, BE | 1 kind: 0 put, 1 delete | 8 key length, BE | key |
//! and of a put | 8 create, BE | 8 version, BE | 8 lease, BE | 8 value length, BE | value |
//! ```
//!
//! A row counts if its revision is above the compaction's, or if it is the newest up to that of its key and no delete.
//! So it does not matter how far physical compaction got.

use crate::error::Error;
use crate::pins::Pin;
use crate::store::Store;
use crc_fast::{CrcAlgorithm, Digest};
use netsy_api::ids::Revision;
use netsy_api::log::{Mutation, Row};

/// See above. Feed it all rows of the local database up to [`revision`](Self::revision), ascending.
pub struct HashKv {
    revision: Revision,
    compact: Revision,
    digest: Digest,
    _pin: Pin,
}

impl HashKv {
    /// Begins a hash at `revision`; 0 or below: the visible one.
    pub fn new(store: &Store, revision: Revision) -> Result<Self, Error> {
        let revision = if revision.0 <= 0 { store.visible.revision } else { revision };
        store.check_revision(revision)?;
        let compact = store.visible.compact;
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(b"key");
        Ok(Self { revision, compact, digest, _pin: store.pins.pin(compact) })
    }

    /// The revision hashed.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The compaction as of the beginning.
    pub fn compact_revision(&self) -> Revision {
        self.compact
    }

    /// Adds rows, ascending, under a read lock of the caller's; those that do not count are skipped.
    pub fn rows(&mut self, store: &Store, rows: &[Row]) {
        for row in rows {
            match &row.mutation {
                Mutation::Put { key, value, create_revision, version, lease } if self.counts(store, row, key) => {
                    self.head(row, 0, key);
                    let numbers = [create_revision.0, *version, lease.0, value.len() as i64];
                    for number in numbers {
                        self.digest.update(&number.to_be_bytes());
                    }
                    self.digest.update(value);
                }
                Mutation::Delete { key } if self.counts(store, row, key) => self.head(row, 1, key),
                _ => {}
            }
        }
    }

    fn counts(&self, store: &Store, row: &Row, key: &[u8]) -> bool {
        if row.revision > self.compact {
            return row.revision <= self.revision;
        }
        let kept = store.index.get(key).and_then(|versions| versions.at(self.compact));
        kept.is_some_and(|version| version.position == row.position)
    }

    fn head(&mut self, row: &Row, kind: u8, key: &[u8]) {
        self.digest.update(&row.revision.0.to_be_bytes());
        self.digest.update(&row.sub.to_be_bytes());
        self.digest.update(&[kind]);
        self.digest.update(&(key.len() as u64).to_be_bytes());
        self.digest.update(key);
    }

    /// The hash.
    pub fn finish(self) -> u32 {
        self.digest.finalize() as u32
    }
}
