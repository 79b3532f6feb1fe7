//! Paths that few runs take, and that a sweep must have taken all of: counters are by these names.

use std::collections::BTreeMap;

/// A sweep of so many runs reaches all of [`RARE`].
pub const RUNS_MIN: u64 = 3_000;
/// And one of so many those of [`RAREST`].
pub const RUNS_MANY: u64 = 10_000;

/// See above.
pub const RARE: &[&str] = &[
    // Terms and the object log (R1 to R4).
    "seal taken",
    "chunk taken",
    "chunk repeated",
    "landed in a hole",
    "landed in a hole below a segment",
    "landed unanswered",
    "store call lands late",
    "late swap",
    // Elections and roles (R6, section 4).
    "an election was left half done",
    "a node promised a higher term and cannot follow",
    "the Primary promised a higher term",
    "this node is Primary and promised a higher term",
    "this node was elected and cannot act in that term",
    "the Primary was an earlier process of this node",
    "the Primary does not take over",
    "the Primary takes over, but does not reach object storage",
    "the Primary does not reach object storage",
    "the Primary was not heard for too long",
    "the connection to the Primary broke",
    "the Primary hands over",
    "elector lost",
    "stepped down",
    "declined",
    "stopped gracefully",
    "stop left undone",
    // Commits, visibility, reads (R5, R8, R9).
    "quorum late",
    "quorum in time",
    "proven before it was committed",
    "read at once",
    "lease expired",
    // Voters, disks, operators (R10 to R12).
    "change cut short",
    "removal",
    "restored backup set aside",
    "disk lost",
    "disk full",
    "quorum lost",
    "quorum back",
    "quorum lost for good",
    "recovered",
    "recovery lost entries",
    // Catching up and clean-up (sections 5, 6).
    "snapshot loaded",
    "segment loaded",
    "state loaded anew",
    "fold broken off",
    "chunk deleted",
    "folded chunk deleted",
    "rows compacted",
    "entries compacted below a slow replica",
    // Watches.
    "watch compacted",
    "watch too slow",
];

/// About one run in a thousand reaches them.
pub const RAREST: &[&str] = &["seal in a hole", "rebuild"];

/// Those that so many runs were to reach and did not.
pub fn unreached(runs: u64, counters: &BTreeMap<&'static str, u64>) -> Vec<&'static str> {
    let rare = RARE.iter().filter(|_| runs >= RUNS_MIN);
    let wanted = rare.chain(RAREST.iter().filter(|_| runs >= RUNS_MANY));
    wanted.filter(|path| counters.get(**path).is_none_or(|n| *n == 0)).copied().collect()
}
