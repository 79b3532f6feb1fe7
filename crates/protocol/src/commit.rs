//! When an entry is committed (R5) and how a Primary may count its own copy (R2).

use crate::quorum::{QuorumRule, Voter};
use netsy_api::ids::{LogIndex, Term};
use std::collections::BTreeMap;

/// A Primary's view of who durably holds what, for one term.
#[derive(Clone, Debug)]
pub struct CommitTracker {
    term: Term,
    rule: QuorumRule,
    voters: Vec<Voter>,
    /// First index created in this term: counting copies commits nothing before it (R5 a).
    first_of_term: LogIndex,
    held: BTreeMap<Voter, LogIndex>,
    landed: LogIndex,
    committed: LogIndex,
}

impl CommitTracker {
    /// For the Primary of `term` whose log ended at `log_end` once R4 was done, all of it in the object log.
    pub fn new(term: Term, rule: QuorumRule, voters: Vec<Voter>, log_end: LogIndex) -> Self {
        Self {
            term,
            rule,
            voters,
            first_of_term: log_end.next(),
            held: BTreeMap::new(),
            landed: log_end,
            committed: log_end,
        }
    }

    /// `voter` durably holds everything up to `through`, as verified with this term's Primary. The Primary
    /// reports its own copy the same way. Returns the new commit index if it moved.
    #[must_use]
    pub fn held(&mut self, voter: &Voter, through: LogIndex) -> Option<LogIndex> {
        if !self.voters.contains(voter) {
            return None; // A learner, or an incarnation the manifest does not name (R11).
        }
        let entry = self.held.entry(voter.clone()).or_default();
        *entry = (*entry).max(through);
        self.advance()
    }

    /// A chunk that ends at `last_index` is in the object log (R5 b). Returns the new commit index if it moved.
    #[must_use]
    pub fn landed(&mut self, last_index: LogIndex) -> Option<LogIndex> {
        self.landed = self.landed.max(last_index);
        self.advance()
    }

    fn advance(&mut self) -> Option<LogIndex> {
        let counted = self
            .rule
            .commit
            .and_then(|quorum| {
                let mut held: Vec<LogIndex> =
                    self.voters.iter().map(|v| self.held.get(v).copied().unwrap_or_default()).collect();
                held.sort_unstable_by(|a, b| b.cmp(a));
                held.get(quorum.checked_sub(1)?).copied()
            })
            // R5 (a): only entries of the own term are committed by counting; earlier ones go with them.
            .filter(|index| *index >= self.first_of_term)
            .unwrap_or_default();
        let committed = counted.max(self.landed);
        (committed > self.committed).then(|| {
            self.committed = committed;
            committed
        })
    }

    /// Greatest committed index.
    pub fn committed(&self) -> LogIndex {
        self.committed
    }

    /// Greatest index the object log holds, as far as known.
    pub fn in_object_log(&self) -> LogIndex {
        self.landed
    }

    /// The term it is for.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The rule it counts by.
    pub fn rule(&self) -> QuorumRule {
        self.rule
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_api::ids::{Incarnation, NodeId};

    fn voter(name: &str, incarnation: u128) -> Voter {
        Voter { node_id: NodeId::new(name).expect("valid"), incarnation: Incarnation(incarnation) }
    }

    #[test]
    fn a_lone_voter_commits_from_its_own_disk_only_if_told_so() {
        let me = voter("a", 1);
        let mut own = CommitTracker::new(Term(1), QuorumRule::new(1, -1, 1), vec![me.clone()], LogIndex(5));
        assert_eq!(own.held(&me, LogIndex(7)), Some(LogIndex(7)));
        let mut bucket = CommitTracker::new(Term(1), QuorumRule::new(1, -1, 2), vec![me.clone()], LogIndex(5));
        assert_eq!(bucket.held(&me, LogIndex(7)), None);
        assert_eq!(bucket.landed(LogIndex(6)), Some(LogIndex(6)));
        assert_eq!(bucket.landed(LogIndex(6)), None);
    }

    #[test]
    fn majority_counts_each_named_incarnation_once() {
        let (a, b, c) = (voter("a", 1), voter("b", 1), voter("c", 1));
        let voters = vec![a.clone(), b.clone(), c.clone()];
        let mut t = CommitTracker::new(Term(2), QuorumRule::new(3, -1, 2), voters, LogIndex(10));
        assert_eq!(t.held(&a, LogIndex(12)), None);
        assert_eq!(t.held(&a, LogIndex(13)), None);
        assert_eq!(t.held(&voter("b", 9), LogIndex(13)), None, "another incarnation has no vote");
        assert_eq!(t.held(&b, LogIndex(12)), Some(LogIndex(12)));
        assert_eq!(t.held(&c, LogIndex(13)), Some(LogIndex(13)));
        assert_eq!(t.held(&c, LogIndex(3)), None, "a late receipt takes nothing back");
        assert_eq!(t.committed(), LogIndex(13));
    }

    #[test]
    fn counting_commits_nothing_of_earlier_terms_alone() {
        let (a, b) = (voter("a", 1), voter("b", 1));
        let mut t = CommitTracker::new(Term(2), QuorumRule::new(2, -1, 2), vec![a.clone(), b.clone()], LogIndex(10));
        assert_eq!(t.held(&a, LogIndex(9)), None);
        assert_eq!(t.held(&b, LogIndex(9)), None);
        assert_eq!(t.committed(), LogIndex(10));
    }
}
