//! What is wrong, for people.

use crate::op::Op;
use std::fmt;

/// Which promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The log has a hole, or a revision without changes.
    LogGap,
    /// An acknowledged write is not in the log, or something else is at its revision.
    LostWrite,
    /// Two acknowledged writes have one revision, or one write has two.
    DoubleRevision,
    /// A revision that no operation explains.
    Unexplained,
    /// An answer is not what the state at its revision gives.
    WrongAnswer,
    /// An answer is older than what was told before it was asked for, or a write's revision contradicts real time.
    RealTime,
    /// Something was told before it was asked for.
    FromTheFuture,
    /// A node's serializable answers went back.
    WentBack,
    /// An error that no state gives.
    WrongRefusal,
    /// What was compacted was read.
    ReadCompacted,
    /// A lease was over before its time.
    LeaseEarly,
    /// Anything else about leases.
    Lease,
    /// A watch was told revisions out of order.
    WatchOrder,
    /// A watch was told a revision twice.
    WatchTwice,
    /// A watch was not told something.
    WatchGap,
    /// A watch was told a part of a revision.
    WatchSplit,
    /// A progress notice came too early or went back.
    WatchProgress,
    /// A watch was told what is not so.
    WatchWrong,
    /// A watch could not go on where it was.
    WatchResume,
    /// Two nodes, or a node and the bucket, differ.
    NodesDiffer,
}

/// One broken promise.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Which.
    pub kind: Kind,
    /// What happened.
    pub text: String,
    /// The operations that show it.
    pub ops: Vec<Op>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)?;
        for op in &self.ops {
            write!(f, "\n    {op}")?;
        }
        Ok(())
    }
}

/// Of one kind, so many are kept; of the rest only the number.
const KEPT_MAX: usize = 20;

/// All that is wrong.
#[derive(Clone, Debug, Default)]
pub struct Report {
    found: Vec<Violation>,
    counts: std::collections::BTreeMap<Kind, usize>,
}

impl Report {
    /// Adds a violation without operations.
    pub fn add(&mut self, kind: Kind, text: String) {
        self.add_ops(kind, text, &[]);
    }

    /// Adds a violation.
    pub fn add_ops(&mut self, kind: Kind, text: String, ops: &[&Op]) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= KEPT_MAX {
            self.found.push(Violation { kind, text, ops: ops.iter().map(|op| (*op).clone()).collect() });
        }
    }

    /// Joins another.
    pub fn extend(&mut self, other: Self) {
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        self.found.extend(other.found);
    }

    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many are of this kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// The kinds there are.
    pub fn kinds(&self) -> Vec<Kind> {
        self.counts.keys().copied().collect()
    }

    /// Those kept, as found.
    pub fn violations(&self) -> &[Violation] {
        &self.found
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "nothing is wrong");
        }
        for (kind, count) in &self.counts {
            writeln!(f, "{count} × {kind:?}")?;
        }
        for violation in &self.found {
            writeln!(f, "{violation}")?;
        }
        Ok(())
    }
}
