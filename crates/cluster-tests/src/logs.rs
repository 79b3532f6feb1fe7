//! What the nodes' logs say that they should not.

use crate::cluster::{Cluster, name};
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// Kinds of lines shown; a run with more says how many.
const KINDS_MAX: usize = 12;

/// Panics and halts are bugs whatever was done to the nodes.
pub fn no_panic(cluster: &Cluster) -> Result<()> {
    for (number, node) in cluster.nodes.iter().enumerate() {
        let text = text(node.process.log());
        let found = text.lines().find(|line| line.contains("panicked at") || line.contains("halted: "));
        if let Some(line) = found {
            bail!("{}: {line}", name(number));
        }
    }
    Ok(())
}

/// Lines of errors and warnings, by kind, each with how often it is there.
pub fn troubles(cluster: &Cluster) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for node in &cluster.nodes {
        for line in text(node.process.log()).lines() {
            if let Some(kind) = kind_of(line) {
                *kinds.entry(kind).or_default() += 1;
            }
        }
    }
    let mut kinds: Vec<(String, usize)> = kinds.into_iter().collect();
    // Errors before warnings, those that are there most often first.
    kinds.sort_by_key(|(kind, count)| (!kind.starts_with("ERROR"), std::cmp::Reverse(*count)));
    let more = kinds.len().saturating_sub(KINDS_MAX);
    let mut lines: String =
        kinds.iter().take(KINDS_MAX).map(|(kind, count)| format!("\n        {count} × {kind}")).collect();
    if more > 0 {
        lines += &format!("\n        and {more} kinds of lines more");
    }
    lines
}

/// Level and text of an error or a warning, without what differs from one to the next.
fn kind_of(line: &str) -> Option<String> {
    let at = ["ERROR", "WARN"].iter().filter_map(|level| line.find(level)).min()?;
    let mut kind: String = line[at..].chars().take(160).collect();
    kind = kind.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
    while kind.contains("##") {
        kind = kind.replace("##", "#");
    }
    Some(kind)
}

fn text(log: &std::path::Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::kind_of;

    #[test]
    fn lines_of_one_kind_are_one() {
        let a = kind_of("2026-01-01T00:00:01Z  WARN netsy_node: no quorum term=12");
        assert_eq!(a, kind_of("2026-01-01T00:00:02Z  WARN netsy_node: no quorum term=3"));
        assert_eq!(a.as_deref(), Some("WARN netsy_node: no quorum term=#"));
        assert_eq!(kind_of("2026-01-01T00:00:02Z  INFO netsy_node: fine"), None);
    }
}
