//! Comparing a node's log with the object log (R7).

use netsy_api::ids::{LogIndex, Term};
use thiserror::Error;

/// A stretch of a log whose entries are all of one term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The term.
    pub term: Term,
    /// The last index of it.
    pub last_index: LogIndex,
}

/// A log as its runs, in order: terms rise, indexes rise. Covers everything from index 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(Vec<Run>);

/// Why something is no log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("log entry {index} of term {term} follows one of index {last_index} and term {last_term}")]
pub struct NotALog {
    /// What was to be added.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The end it was to be added to.
    pub last_index: LogIndex,
    /// That end's term.
    pub last_term: Term,
}

impl Runs {
    /// From stored runs; checks that they rise.
    pub fn new(runs: impl IntoIterator<Item = Run>) -> Result<Self, NotALog> {
        let mut out = Self::default();
        for run in runs {
            let end = out.end();
            if run.last_index <= end.last_index || run.term <= end.term {
                return Err(NotALog {
                    index: run.last_index,
                    term: run.term,
                    last_index: end.last_index,
                    last_term: end.term,
                });
            }
            out.0.push(run);
        }
        Ok(out)
    }

    /// The runs, in order.
    pub fn as_slice(&self) -> &[Run] {
        &self.0
    }

    /// Term and index of the last entry; zeros for an empty log.
    pub fn end(&self) -> Run {
        self.0.last().copied().unwrap_or(Run { term: Term(0), last_index: LogIndex(0) })
    }

    /// Adds entries up to `last_index`, all of `term`.
    pub fn extend(&mut self, term: Term, last_index: LogIndex) -> Result<(), NotALog> {
        let end = self.end();
        if last_index <= end.last_index || term < end.term {
            return Err(NotALog { index: last_index, term, last_index: end.last_index, last_term: end.term });
        }
        match self.0.last_mut() {
            Some(last) if last.term == term => last.last_index = last_index,
            _ => self.0.push(Run { term, last_index }),
        }
        Ok(())
    }

    /// The term of the entry at `index`; 0 for index 0, `None` past the end.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index.0 == 0 {
            return Some(Term(0));
        }
        let at = self.0.partition_point(|run| run.last_index < index);
        self.0.get(at).map(|run| run.term)
    }

    /// The last index of the terms before `term`; 0: there is none.
    pub fn before(&self, term: Term) -> LogIndex {
        let at = self.0.partition_point(|run| run.term < term);
        at.checked_sub(1).and_then(|at| self.0.get(at)).map_or(LogIndex(0), |run| run.last_index)
    }

    /// The last index of the run that the entry at `index` belongs to; `None` past the end.
    pub fn run_end_at(&self, index: LogIndex) -> Option<LogIndex> {
        let at = self.0.partition_point(|run| run.last_index < index);
        self.0.get(at).map(|run| run.last_index)
    }

    /// The runs of the entries after `after`.
    pub fn after(&self, after: LogIndex) -> &[Run] {
        let at = self.0.partition_point(|run| run.last_index <= after);
        self.0.get(at..).unwrap_or_default()
    }

    /// The runs of the entries from after `after` to `through`, cut there.
    pub fn between(&self, after: LogIndex, through: LogIndex) -> Vec<Run> {
        let mut runs: Vec<Run> = vec![];
        for run in self.after(after) {
            let last_index = run.last_index.min(through);
            if runs.last().map_or(after, |r| r.last_index) < last_index {
                runs.push(Run { term: run.term, last_index });
            }
        }
        runs
    }

    /// Forgets what is after `last_index`.
    pub fn truncate(&mut self, last_index: LogIndex) {
        let keep = self.0.partition_point(|run| run.last_index <= last_index);
        let cut = self.0.get(keep).copied();
        self.0.truncate(keep);
        if let Some(run) = cut
            && last_index > self.end().last_index
        {
            self.0.push(Run { term: run.term, last_index });
        }
    }
}

/// What a node does with its own log when it meets the object log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconciled {
    /// Greatest index at which both logs have the same term: all up to it is the same (log matching).
    pub common: LogIndex,
    /// The first index to delete from the own log: where the two differ in term. `None`: nothing is deleted,
    /// as where the object log is a prefix of the own log.
    pub delete_from: Option<LogIndex>,
    /// The own log misses entries of the object log from here on; `None`: it has them all.
    pub fetch_from: Option<LogIndex>,
}

/// R7, against the object log. Both logs are complete from index 1 as runs.
pub fn with_object_log(own: &Runs, object_log: &Runs) -> Reconciled {
    let own_end = own.end().last_index;
    let object_end = object_log.end().last_index;
    // The greatest index with equal terms is the end of a run in one of the two, or the smaller end.
    let mut common = LogIndex(0);
    let ends = own.0.iter().chain(&object_log.0).map(|run| run.last_index);
    for index in ends {
        if index <= own_end && index <= object_end && index > common && own.term_at(index) == object_log.term_at(index)
        {
            common = index;
        }
    }
    let shorter = own_end.min(object_end);
    let delete_from = (common < shorter).then(|| common.next());
    let fetch_from = (common < object_end).then(|| common.next());
    Reconciled { common, delete_from, fetch_from }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(list: &[(u64, u64)]) -> Runs {
        Runs::new(list.iter().map(|&(term, last)| Run { term: Term(term), last_index: LogIndex(last) }))
            .expect("rising")
    }

    fn expand(list: &[(u64, u64)]) -> Vec<u64> {
        let mut out = vec![];
        for &(term, last) in list {
            while (out.len() as u64) < last {
                out.push(term);
            }
        }
        out
    }

    #[test]
    fn an_object_log_that_is_a_prefix_deletes_nothing() {
        // Flaw 4 of protocol-review.md: the quorum-committed tail must stay.
        let r = with_object_log(&runs(&[(1, 5), (2, 9)]), &runs(&[(1, 5), (2, 7)]));
        assert_eq!(r, Reconciled { common: LogIndex(7), delete_from: None, fetch_from: None });
    }

    #[test]
    fn an_empty_log_fetches_all() {
        let r = with_object_log(&Runs::default(), &runs(&[(1, 5)]));
        assert_eq!(r, Reconciled { common: LogIndex(0), delete_from: None, fetch_from: Some(LogIndex(1)) });
    }

    #[test]
    fn a_diverged_tail_goes_from_the_first_difference() {
        let r = with_object_log(&runs(&[(1, 8)]), &runs(&[(1, 5), (3, 7)]));
        assert_eq!(
            r,
            Reconciled { common: LogIndex(5), delete_from: Some(LogIndex(6)), fetch_from: Some(LogIndex(6)) }
        );
    }

    #[test]
    fn agrees_with_comparing_entry_by_entry() {
        // Every pair of logs over three terms that obeys log matching: up to some index the same, and after
        // it never the same term at the same index.
        let lists: Vec<Vec<(u64, u64)>> = {
            let mut out = vec![vec![]];
            for a in 1..5u64 {
                out.push(vec![(1, a)]);
                out.push(vec![(2, a)]);
                for b in a + 1..6 {
                    out.push(vec![(1, a), (2, b)]);
                    out.push(vec![(1, a), (3, b)]);
                    out.push(vec![(2, a), (3, b)]);
                }
            }
            out
        };
        let mut compared = 0;
        for a in &lists {
            for b in &lists {
                let (own, object) = (expand(a), expand(b));
                let same = own.iter().zip(&object).take_while(|(x, y)| x == y).count();
                if own.iter().zip(&object).skip(same).any(|(x, y)| x == y) {
                    continue;
                }
                compared += 1;
                let r = with_object_log(&runs(a), &runs(b));
                assert_eq!(r.common.0 as usize, same, "{a:?} {b:?}");
                let differ = same < own.len() && same < object.len();
                assert_eq!(r.delete_from.is_some(), differ, "{a:?} {b:?}");
                assert_eq!(r.fetch_from.is_some(), same < object.len(), "{a:?} {b:?}");
            }
        }
        assert!(compared > 300, "{compared}");
    }

    #[test]
    fn truncating_cuts_inside_a_run() {
        let mut log = runs(&[(1, 5), (2, 9)]);
        log.truncate(LogIndex(7));
        assert_eq!(log, runs(&[(1, 5), (2, 7)]));
        log.truncate(LogIndex(5));
        assert_eq!(log, runs(&[(1, 5)]));
        log.truncate(LogIndex(0));
        assert_eq!(log, Runs::default());
        assert!(log.extend(Term(3), LogIndex(0)).is_err());
        assert!(log.extend(Term(3), LogIndex(2)).is_ok());
        assert!(log.extend(Term(2), LogIndex(3)).is_err());
    }
}
