//! Paths that few runs take, and that a sweep must have taken all of: counters are by these names.

use std::collections::BTreeMap;

/// A sweep of so many runs reaches them all.
pub const RUNS_MIN: u64 = 2_000;

/// See above.
pub const RARE: &[&str] = &["seal in a hole"];

/// Those that were not reached.
pub fn unreached(counters: &BTreeMap<&'static str, u64>) -> Vec<&'static str> {
    RARE.iter().filter(|path| counters.get(**path).is_none_or(|n| *n == 0)).copied().collect()
}
