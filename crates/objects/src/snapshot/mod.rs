//! Snapshots: the surviving rows up to a chunk of the log, in parts, and a manifest that names them.
//!
//! How snapshots are written while old ones are cleaned up, without clocks or locks:
//!
//! - A snapshot's index is the last index of a chunk known to exist. Parts and manifest are created
//!   once and never replaced; the manifest comes last.
//! - A snapshot may use parts that another one's manifest names: its *base*, the newest snapshot
//!   when it was begun, itself checked.
//! - A snapshot is *checked* ([`CheckedSnapshot`]) once all its parts were read back whole, and a
//!   LIST begun after its manifest was in place showed no manifest with a greater index and none
//!   between its base's and its own. Only a checked snapshot is a reason to delete anything.
//! - Clean-up that knows a checked snapshot X deletes manifests below X; a part in a folder below
//!   X's, if a LIST begun after those deletes, read together with all manifests it shows, has no
//!   manifest naming it; and log objects that the oldest remaining snapshot covers. The newest
//!   checked snapshot is never deleted.
//!
//! So no part of a checked snapshot N is ever deleted while N's manifest is there: a part in N's own
//! folder only falls to one who knew a checked X above N, and X or one above it stays for ever, so
//! N's check would have shown it, unless the check came first, and then the later LIST shows N. A part of
//! N's base B falls only after B's manifest did, which takes a checked X above B; if that was there
//! before N's check it was seen by it (it, or one above it, lies between B and N or above N); if not, B was deleted
//! after N's manifest was in place, and the LIST before the part's deletion shows N. Deletes and creates
//! that land late change nothing: no key that was a candidate for deletion is named by a snapshot
//! that can still be checked. A snapshot that fails its check, or whose writer died, is garbage that
//! loaders step over and that goes with the next clean-up.

mod check;
mod cut;
mod load;
mod write;

pub use check::{CheckedSnapshot, NotChecked, check_snapshot};
pub use cut::{PART_BYTES_MAX, PART_BYTES_TARGET};
pub(crate) use load::first_readable;
pub use load::{list_snapshots, load_snapshot, newest_snapshot, read_snapshot_manifest};
pub use write::{SnapshotOptions, SnapshotSpec, WriteError, write_snapshot};

use crate::manifest::SnapshotManifest;
use crate::object_log::LogPoint;

impl SnapshotManifest {
    /// The place in the log that it covers.
    pub fn covers(&self) -> LogPoint {
        LogPoint {
            seq: self.seq,
            term: self.term,
            last_index: self.last_index,
            last_term: self.runs.last().map_or(netsy_api::ids::Term(0), |run| run.term),
            next_position: self.next_position,
            revision: self.revision,
        }
    }
}
