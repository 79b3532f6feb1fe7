//! When an entry is committed (R5) and how a Primary may count its own copy (R2).

use crate::quorum::{QuorumRule, Voter};
use netsy_api::ids::{LogIndex, Term};
use std::collections::BTreeMap;

/// A rule and those it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Electorate {
    /// The rule.
    pub rule: QuorumRule,
    /// Who counts.
    pub voters: Vec<Voter>,
}

impl Electorate {
    /// Whether enough of its voters are among those for which `yes` holds to make a commit quorum.
    pub fn commits(&self, yes: impl Fn(&Voter) -> bool) -> bool {
        self.rule.commit.is_some_and(|quorum| self.voters.iter().filter(|v| yes(v)).count() >= quorum)
    }
}

/// A Primary's view of who durably holds what, for one term.
#[derive(Clone, Debug)]
pub struct CommitTracker {
    term: Term,
    current: Electorate,
    /// While a change is under way (R10): the new rule, which counts as well.
    joint: Option<Electorate>,
    /// First index created in this term: counting copies commits nothing before it (R5 a).
    first_of_term: LogIndex,
    /// Of voters and learners: a learner may become a voter.
    held: BTreeMap<Voter, LogIndex>,
    landed: LogIndex,
    committed: LogIndex,
}

impl CommitTracker {
    /// For the Primary of `term` whose log ended at `log_end` once R4 was done, all of it in the object log.
    pub fn new(term: Term, rule: QuorumRule, voters: Vec<Voter>, log_end: LogIndex) -> Self {
        Self {
            term,
            current: Electorate { rule, voters },
            joint: None,
            first_of_term: log_end.next(),
            held: BTreeMap::new(),
            landed: log_end,
            committed: log_end,
        }
    }

    /// `voter` durably holds everything up to `through`, as verified with this term's Primary. The Primary
    /// reports its own copy the same way. Returns the new commit index if it moved. Copies of those who are no voters,
    /// or of another incarnation than the manifest names (R11), are noted and do not count.
    #[must_use]
    pub fn held(&mut self, voter: &Voter, through: LogIndex) -> Option<LogIndex> {
        match self.held.get_mut(voter) {
            Some(held) if *held >= through => return None,
            Some(held) => *held = through,
            None => {
                self.held.insert(voter.clone(), through);
            }
        }
        self.advance()
    }

    /// A chunk that ends at `last_index` is in the object log (R5 b). Returns the new commit index if it moved.
    #[must_use]
    pub fn landed(&mut self, last_index: LogIndex) -> Option<LogIndex> {
        self.landed = self.landed.max(last_index);
        self.advance()
    }

    /// R10 (1): from now on both the old and the new rule count.
    pub fn begin_joint(&mut self, new: Electorate) {
        self.joint = Some(new);
    }

    /// The change was never begun: the old rule alone counts on. Returns the new commit index if it moved.
    #[must_use]
    pub fn cancel_joint(&mut self) -> Option<LogIndex> {
        self.joint = None;
        self.advance()
    }

    /// R10 (4): `new` alone counts. Returns the new commit index if it moved.
    #[must_use]
    pub fn settle(&mut self, new: Electorate) -> Option<LogIndex> {
        self.current = new;
        self.joint = None;
        self.advance()
    }

    /// Forgets what `voter` holds: it is gone, and no voter.
    pub fn forget(&mut self, voter: &Voter) {
        let joint = self.joint.as_ref().is_some_and(|joint| joint.voters.contains(voter));
        if !joint && !self.current.voters.contains(voter) {
            self.held.remove(voter);
        }
    }

    /// What `voter` is known to hold.
    pub fn held_by(&self, voter: &Voter) -> Option<LogIndex> {
        self.held.get(voter).copied()
    }

    /// The greatest index that a commit quorum of `electorate` holds; `None`: counting commits nothing.
    pub fn counted_by(&self, electorate: &Electorate) -> Option<LogIndex> {
        let quorum = electorate.rule.commit?;
        if electorate.voters.len() == 3 && quorum == 2 {
            // The usual cluster, on the path of every receipt: the middle one of three.
            let at = |i: usize| electorate.voters.get(i).and_then(|v| self.held.get(v)).copied().unwrap_or_default();
            let (a, b, c) = (at(0), at(1), at(2));
            return Some(a.max(b).min(a.min(b).max(c)));
        }
        let mut held: Vec<LogIndex> =
            electorate.voters.iter().map(|v| self.held.get(v).copied().unwrap_or_default()).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        held.get(quorum.checked_sub(1)?).copied()
    }

    /// What counting copies alone commits by now; `None`: nothing ever.
    pub fn counted(&self) -> Option<LogIndex> {
        let current = self.counted_by(&self.current)?;
        match &self.joint {
            // R10 (1): both.
            Some(joint) => Some(current.min(self.counted_by(joint)?)),
            None => Some(current),
        }
    }

    fn advance(&mut self) -> Option<LogIndex> {
        // R5 (a): only entries of the own term are committed by counting; earlier ones go with them.
        let counted = self.counted().filter(|index| *index >= self.first_of_term).unwrap_or_default();
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

    /// The rule it counts by; while a change is under way, the old one.
    pub fn rule(&self) -> QuorumRule {
        self.current.rule
    }

    /// Who counts; while a change is under way, those of the old rule.
    pub fn current(&self) -> &Electorate {
        &self.current
    }

    /// The new rule, while a change is under way.
    pub fn joint(&self) -> Option<&Electorate> {
        self.joint.as_ref()
    }

    #[cfg(feature = "mutants")]
    pub(crate) fn weaken(&mut self, landed: LogIndex, count_all: bool) {
        (self.landed, self.committed) = (landed, landed);
        if count_all {
            self.first_of_term = LogIndex(0);
        }
    }

    /// Whether only the object log commits by now.
    pub fn only_object_log(&self) -> bool {
        self.current.rule.only_object_log() || self.joint.as_ref().is_some_and(|joint| joint.rule.only_object_log())
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
    fn a_joint_change_needs_both_rules() {
        let (a, b, c, d) = (voter("a", 1), voter("b", 1), voter("c", 1), voter("d", 1));
        let old = vec![a.clone(), b.clone(), c.clone()];
        let mut t = CommitTracker::new(Term(2), QuorumRule::new(3, -1, 2), old, LogIndex(10));
        let new = Electorate { rule: QuorumRule::new(2, -1, 2), voters: vec![a.clone(), d.clone()] };
        assert_eq!(t.held(&a, LogIndex(12)), None);
        t.begin_joint(new.clone());
        assert_eq!(t.held(&b, LogIndex(12)), None, "the old rule alone");
        assert_eq!(t.held(&d, LogIndex(11)), Some(LogIndex(11)));
        assert_eq!(t.settle(new), None);
        assert_eq!(t.held(&c, LogIndex(12)), None, "no voter any more");
        assert_eq!(t.held(&d, LogIndex(12)), Some(LogIndex(12)));
        t.begin_joint(Electorate { rule: QuorumRule::new(2, 0, 2), voters: vec![a.clone(), d.clone()] });
        assert_eq!(t.held(&a, LogIndex(14)), None);
        assert_eq!(t.held(&d, LogIndex(14)), None, "the new rule counts no copies");
        assert_eq!(t.landed(LogIndex(13)), Some(LogIndex(13)));
        assert_eq!(t.cancel_joint(), Some(LogIndex(14)));
    }

    #[test]
    fn the_middle_of_three_is_what_sorting_gives() {
        let names = ["a", "b", "c"].map(|n| voter(n, 1));
        let three = Electorate { rule: QuorumRule::new(3, -1, 2), voters: names.to_vec() };
        for (x, y, z) in [(1, 2, 3), (3, 2, 1), (2, 3, 1), (1, 1, 2), (2, 1, 1), (5, 5, 5), (0, 9, 4), (9, 0, 4)] {
            let mut t = CommitTracker::new(Term(1), three.rule, three.voters.clone(), LogIndex(0));
            for (name, held) in names.iter().zip([x, y, z]) {
                let _ = t.held(name, LogIndex(held));
            }
            let mut sorted = [x, y, z];
            sorted.sort_unstable();
            assert_eq!(t.counted_by(&three), Some(LogIndex(sorted[1])));
        }
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
