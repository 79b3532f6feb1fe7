//! What the local database holds, and what is on its way there (R2, R7).

use crate::command::LocalOp;
use crate::config::Stored;
use crate::event::LocalSeq;
use crate::reconcile::{NotALog, Run, Runs};
use netsy_api::ids::{LogIndex, Session, Term};
use std::collections::VecDeque;

/// An operation that is not known to be durable.
#[derive(Clone, Debug)]
enum Pending {
    Promise(Term),
    Truncate(LogIndex),
    Store(LogIndex),
    Led,
}

/// The local log: `runs` is what was accepted, `durable` how much of it a crash leaves.
#[derive(Clone, Debug)]
pub(crate) struct LocalLog {
    runs: Runs,
    durable: LogIndex,
    promised: Term,
    promised_durable: Term,
    /// Shown: never to be deleted.
    visible: LogIndex,
    /// Nothing between `visible` and this can be shown: a snapshot took the place of the entries.
    show_from: LogIndex,
    last_seq: LocalSeq,
    done_seq: LocalSeq,
    pending: VecDeque<(LocalSeq, Pending)>,
}

/// What is to be done to take over entries of somebody else's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    /// Delete everything after this first.
    pub(crate) truncate_after: Option<LogIndex>,
    /// Then store from here to the last; `None`: all of them are there.
    pub(crate) store_from: Option<LogIndex>,
}

impl LocalLog {
    pub(crate) fn new(stored: Stored) -> Self {
        let end = stored.runs.end().last_index;
        Self {
            runs: stored.runs,
            durable: end,
            promised: stored.promised,
            promised_durable: stored.promised,
            visible: stored.visible,
            show_from: stored.visible,
            last_seq: LocalSeq(0),
            done_seq: LocalSeq(0),
            pending: VecDeque::new(),
        }
    }

    pub(crate) fn runs(&self) -> &Runs {
        &self.runs
    }

    /// Index and term of the last accepted entry.
    pub(crate) fn end(&self) -> Run {
        self.runs.end()
    }

    /// Index and term of the last durable entry.
    pub(crate) fn durable_end(&self) -> Run {
        Run { term: self.runs.term_at(self.durable).unwrap_or_default(), last_index: self.durable }
    }

    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
    }

    pub(crate) fn promised(&self) -> Term {
        self.promised
    }

    pub(crate) fn visible(&self) -> LogIndex {
        self.visible
    }

    /// The last operation that was given a number.
    pub(crate) fn last_seq(&self) -> LocalSeq {
        self.last_seq
    }

    /// Everything up to here is durable.
    pub(crate) fn done_seq(&self) -> LocalSeq {
        self.done_seq
    }

    fn push(&mut self, what: Pending) -> LocalSeq {
        self.last_seq = LocalSeq(self.last_seq.0 + 1);
        self.pending.push_back((self.last_seq, what));
        self.last_seq
    }

    /// Shows entries up to `index`, if that is further and can be shown. True: it is now.
    pub(crate) fn show(&mut self, index: LogIndex) -> bool {
        if index <= self.visible || index < self.show_from {
            return false;
        }
        self.visible = index;
        true
    }

    pub(crate) fn promise(&mut self, term: Term) -> (LocalSeq, LocalOp) {
        self.promised = self.promised.max(term);
        (self.push(Pending::Promise(term)), LocalOp::Promise(term))
    }

    pub(crate) fn led(&mut self, session: Session) -> (LocalSeq, LocalOp) {
        (self.push(Pending::Led), LocalOp::Led(session))
    }

    /// Own entries of a Primary: the driver stores them itself.
    pub(crate) fn append_own(&mut self, term: Term, last: LogIndex) -> Result<LocalSeq, NotALog> {
        self.runs.extend(term, last)?;
        Ok(self.push(Pending::Store(last)))
    }

    /// Deletes what is after `after`; the caller has checked that none of it was shown.
    pub(crate) fn truncate(&mut self, after: LogIndex) -> (LocalSeq, LocalOp) {
        self.runs.truncate(after);
        self.durable = self.durable.min(after);
        (self.push(Pending::Truncate(after)), LocalOp::Truncate { after })
    }

    /// Adds entries `from` to the end of `runs`, which follow the log's end.
    pub(crate) fn store(&mut self, from: LogIndex, runs: &[Run]) -> Result<(LocalSeq, LocalOp), NotALog> {
        for run in runs.iter().filter(|run| run.last_index >= from) {
            self.runs.extend(run.term, run.last_index)?;
        }
        let through = self.end().last_index;
        Ok((self.push(Pending::Store(through)), LocalOp::Store { from, through }))
    }

    /// A snapshot takes the place of everything; up to `common` it is the same as what is there.
    pub(crate) fn install(&mut self, runs: Runs, common: LogIndex) -> (LocalSeq, LocalOp) {
        let index = runs.end().last_index;
        self.runs = runs;
        self.durable = self.durable.min(common);
        self.show_from = index;
        self.push(Pending::Truncate(common));
        (self.push(Pending::Store(index)), LocalOp::InstallSnapshot { index })
    }

    /// All operations up to `seq` are durable.
    pub(crate) fn done(&mut self, seq: LocalSeq) {
        while let Some((at, _)) = self.pending.front()
            && *at <= seq
        {
            let Some((at, what)) = self.pending.pop_front() else { break };
            self.done_seq = at;
            match what {
                Pending::Promise(term) => self.promised_durable = self.promised_durable.max(term),
                Pending::Store(through) => {
                    // What a later operation is to delete does not count, though it was stored.
                    let cut = self.pending.iter().filter_map(|(_, p)| match p {
                        Pending::Truncate(after) => Some(*after),
                        _ => None,
                    });
                    let stays = cut.fold(through, LogIndex::min);
                    self.durable = self.durable.max(stays.min(self.runs.end().last_index));
                }
                Pending::Truncate(_) | Pending::Led => {}
            }
        }
    }

    /// How entries that go on from `prev` fit into the log: those that are there with the same term stay, and from the
    /// first that differs the others take over. `None`: `prev` is not in the log.
    pub(crate) fn merge(&self, prev: Run, runs: &[Run]) -> Option<Merge> {
        if self.runs.term_at(prev.last_index) != Some(prev.term) {
            return None;
        }
        let end = self.end().last_index;
        let mut same = prev.last_index; // all up to here is the same
        for run in runs {
            // Within one run of theirs, ours is the same as long as its term is theirs: terms never fall.
            let reach = run.last_index.min(end);
            if reach <= same {
                break;
            }
            let first = self.runs.term_at(same.next());
            if first != Some(run.term) {
                break;
            }
            same = self.runs.run_end_at(same.next()).unwrap_or(same).min(reach);
            if same < run.last_index {
                break;
            }
        }
        let last = runs.last().map_or(prev.last_index, |run| run.last_index);
        Some(Merge {
            truncate_after: (same < end && same < last).then_some(same),
            store_from: (same < last).then(|| same.next()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(term: u64, last: u64) -> Run {
        Run { term: Term(term), last_index: LogIndex(last) }
    }

    fn log(list: &[(u64, u64)]) -> LocalLog {
        let runs = Runs::new(list.iter().map(|&(t, i)| run(t, i))).expect("rising");
        LocalLog::new(Stored { promised: Term(0), runs, visible: LogIndex(0), led: None })
    }

    #[test]
    fn what_a_later_operation_deletes_is_not_durable() {
        let mut log = log(&[(1, 5)]);
        let (first, _) = log.store(LogIndex(6), &[run(1, 8)]).expect("follows");
        assert_eq!(log.durable(), LogIndex(5));
        log.truncate(LogIndex(6));
        let (again, _) = log.store(LogIndex(7), &[run(1, 8)]).expect("follows");
        log.done(first);
        assert_eq!(log.durable(), LogIndex(6), "7 and 8 go and come again");
        log.done(again);
        assert_eq!(log.durable(), LogIndex(8));
    }

    #[test]
    fn merging_finds_the_first_difference() {
        let log = log(&[(1, 5), (2, 9)]);
        let merge = |prev, runs: &[Run]| log.merge(prev, runs);
        let none = Merge { truncate_after: None, store_from: None };
        assert_eq!(merge(run(1, 5), &[run(2, 8)]), Some(none));
        assert_eq!(merge(run(0, 0), &[run(1, 5), run(2, 9)]), Some(none));
        let more = Merge { truncate_after: None, store_from: Some(LogIndex(10)) };
        assert_eq!(merge(run(1, 4), &[run(1, 5), run(2, 9), run(3, 12)]), Some(more));
        let cut = Merge { truncate_after: Some(LogIndex(7)), store_from: Some(LogIndex(8)) };
        assert_eq!(merge(run(2, 7), &[run(3, 8)]), Some(cut));
        let cut = Merge { truncate_after: Some(LogIndex(3)), store_from: Some(LogIndex(4)) };
        assert_eq!(merge(run(1, 3), &[run(2, 5)]), Some(cut));
        assert_eq!(merge(run(1, 6), &[run(2, 8)]), None, "what stands before is another entry");
        assert_eq!(merge(run(2, 12), &[run(2, 13)]), None, "a gap");
        assert_eq!(merge(run(1, 3), &[]), Some(none));
    }

    #[test]
    fn merging_agrees_with_comparing_entry_by_entry() {
        let expand = |runs: &[(u64, u64)]| {
            let mut out = vec![];
            for &(term, last) in runs {
                while (out.len() as u64) < last {
                    out.push(term);
                }
            }
            out
        };
        let lists: &[&[(u64, u64)]] =
            &[&[], &[(1, 3)], &[(1, 5)], &[(1, 2), (2, 4)], &[(1, 2), (3, 6)], &[(2, 3)], &[(1, 1), (2, 3), (3, 6)]];
        for own in lists {
            for theirs in lists {
                let (a, b) = (expand(own), expand(theirs));
                let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count() as u64;
                let runs: Vec<Run> = theirs.iter().map(|&(t, i)| run(t, i)).collect();
                let merged = log(own).merge(run(0, 0), &runs).expect("from the start");
                let conflict = same < a.len() as u64 && same < b.len() as u64;
                assert_eq!(merged.truncate_after, conflict.then_some(LogIndex(same)), "{own:?} {theirs:?}");
                assert_eq!(merged.store_from, (same < b.len() as u64).then_some(LogIndex(same + 1)));
            }
        }
    }

    #[test]
    fn a_snapshot_hides_what_is_below_it() {
        let mut log = log(&[(1, 5)]);
        assert!(log.show(LogIndex(3)));
        let runs = Runs::new([run(1, 9)]).expect("rising");
        let (seq, _) = log.install(runs, LogIndex(5));
        assert!(!log.show(LogIndex(7)), "there is no state but that at 9");
        log.done(seq);
        assert_eq!(log.durable(), LogIndex(9));
        assert!(log.show(LogIndex(9)));
    }
}
