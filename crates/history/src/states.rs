//! Nodes, and stores restored from the bucket, against each other.

use crate::violation::{Kind, Report};
use std::collections::BTreeMap;

/// What somebody holds, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// For messages: a node, or "restored from the bucket".
    pub name: String,
    /// What the digest is of: digests are compared only where these are equal (revision, index, compaction: whatever
    /// the caller's digest depends on).
    pub at: String,
    /// Of everything there.
    pub digest: Vec<u8>,
}

/// All that are at the same point hold the same.
pub fn check_states(states: &[NodeState], report: &mut Report) {
    let mut first: BTreeMap<&str, &NodeState> = BTreeMap::new();
    for state in states {
        let known = first.entry(&state.at).or_insert(state);
        if known.digest != state.digest {
            let text = format!(
                "at {} {} holds {:02x?}, {} holds {:02x?}",
                state.at, known.name, known.digest, state.name, state.digest
            );
            report.add(Kind::NodesDiffer, text);
        }
    }
}
