//! What the nodes' own logs say that no run should leave unread: panics, and errors.

use crate::cluster::{Cluster, name};
use std::collections::BTreeMap;

/// Characters of an error by which two are taken for the same.
const SAME: usize = 110;

/// Panics, each with its node; there should be none.
pub fn panics(cluster: &Cluster) -> Vec<String> {
    lines(cluster, |line| line.contains("panicked at").then(|| line.to_owned()))
}

/// Errors that nodes logged, with how often.
pub fn errors(cluster: &Cluster) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let found = lines(cluster, |line| {
        // A failpoint's or a library's text may have the word, too: only the level counts.
        let (_, error) = line.split_once(" ERROR ")?;
        Some(error.chars().take(SAME).collect())
    });
    for error in found {
        *counts.entry(error).or_default() += 1;
    }
    counts.iter().map(|(error, count)| format!("\n      {count} x {error}")).collect()
}

fn lines(cluster: &Cluster, pick: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (node, one) in cluster.nodes.iter().enumerate() {
        // A node that never ran has no log.
        let text = std::fs::read(one.process.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        found.extend(text.lines().filter_map(&pick).map(|line| format!("{}: {line}", name(node))));
    }
    found
}
