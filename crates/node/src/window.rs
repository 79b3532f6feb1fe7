//! The newest entries, for followers: kept in memory and encoded once, however many read them.

use crate::writer::ENTRY_OVERHEAD_BYTES;
use netsy_api::ids::{LogIndex, Position};
use netsy_api::log::Entry;
use netsy_peer::EncodedEntries;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// Bytes of keys and values kept; followers further behind are served from the local database.
const WINDOW_BYTES_MAX: usize = 64 << 20;

/// Entries that follow each other and go out together.
pub(crate) struct EntryBatch {
    pub(crate) entries: Vec<Arc<Entry>>,
    bytes: usize,
    encoded: OnceLock<EncodedEntries>,
}

impl EntryBatch {
    pub(crate) fn new(entries: Vec<Arc<Entry>>) -> Self {
        let bytes = entries.iter().map(|e| e.payload_bytes() + ENTRY_OVERHEAD_BYTES).sum();
        Self { entries, bytes, encoded: OnceLock::new() }
    }

    fn first(&self) -> LogIndex {
        self.entries.first().map_or(LogIndex(0), |e| e.index)
    }

    fn last(&self) -> LogIndex {
        self.entries.last().map_or(LogIndex(0), |e| e.index)
    }

    /// As they travel: encoded by the first who asks.
    pub(crate) fn encoded(&self) -> &EncodedEntries {
        self.encoded.get_or_init(|| EncodedEntries::encode(self.entries.iter().map(|e| &**e)))
    }
}

/// Entries of the own term's log, newest last, without a gap.
#[derive(Default)]
pub(crate) struct Window {
    state: Mutex<State>,
    /// The last entry.
    end: watch::Sender<LogIndex>,
}

#[derive(Default)]
struct State {
    batches: VecDeque<Arc<EntryBatch>>,
    bytes: usize,
}

/// What a follower is sent next.
pub(crate) enum Next {
    /// These.
    Entries(Arc<EntryBatch>),
    /// It has everything.
    Nothing,
    /// They left memory, or never were here: they are in the local database.
    Stored,
}

impl Window {
    /// The log ends at `end`, before anything is pushed.
    pub(crate) fn begin(&self, end: LogIndex) {
        self.end.send_replace(end);
    }

    /// Takes entries in log order.
    pub(crate) fn push(&self, entries: &[(Position, Arc<Entry>)]) {
        let Some((_, last)) = entries.last() else { return };
        let batch = EntryBatch::new(entries.iter().map(|(_, entry)| entry.clone()).collect());
        let mut state = self.state.lock();
        state.bytes += batch.bytes;
        state.batches.push_back(Arc::new(batch));
        while state.bytes > WINDOW_BYTES_MAX && state.batches.len() > 1 {
            if let Some(batch) = state.batches.pop_front() {
                state.bytes -= batch.bytes;
            }
        }
        drop(state);
        self.end.send_replace(last.index);
    }

    /// From `next` on, a batch of them.
    pub(crate) fn after(&self, next: LogIndex) -> Next {
        if next > *self.end.borrow() {
            return Next::Nothing;
        }
        let state = self.state.lock();
        let at = state.batches.partition_point(|batch| batch.last() < next);
        let Some(batch) = state.batches.get(at).filter(|batch| batch.first() <= next) else {
            return Next::Stored;
        };
        if batch.first() == next {
            return Next::Entries(batch.clone());
        }
        let rest = batch.entries.iter().filter(|e| e.index >= next).cloned().collect();
        Next::Entries(Arc::new(EntryBatch::new(rest)))
    }

    /// Follows the end.
    pub(crate) fn watch_end(&self) -> watch::Receiver<LogIndex> {
        self.end.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_api::ids::{LeaseId, Revision, Term, UnixMillis};
    use netsy_api::log::Mutation;

    fn entry(index: u64, bytes: usize) -> (Position, Arc<Entry>) {
        let mutation = Mutation::Put {
            key: bytes::Bytes::from_static(b"k"),
            value: vec![0; bytes].into(),
            create_revision: Revision(2),
            version: 1,
            lease: LeaseId(0),
        };
        let entry = Entry {
            index: LogIndex(index),
            term: Term(1),
            time: UnixMillis(0),
            revision: Revision(index as i64 + 1),
            mutations: vec![mutation],
        };
        (Position(index), Arc::new(entry))
    }

    fn indexes(next: Next) -> Vec<u64> {
        match next {
            Next::Entries(batch) => batch.entries.iter().map(|e| e.index.0).collect(),
            Next::Nothing => vec![],
            Next::Stored => vec![0],
        }
    }

    #[test]
    fn old_entries_leave_memory_and_new_ones_are_found() {
        let window = Window::default();
        assert!(indexes(window.after(LogIndex(1))).is_empty());
        window.begin(LogIndex(4));
        assert!(indexes(window.after(LogIndex(5))).is_empty());
        assert_eq!(indexes(window.after(LogIndex(4))), [0]);
        for first in (5..75).step_by(2) {
            window.push(&[entry(first, 1 << 20), entry(first + 1, 1 << 20)]);
        }
        assert_eq!(indexes(window.after(LogIndex(5))), [0]);
        assert_eq!(indexes(window.after(LogIndex(71))), [71, 72]);
        assert_eq!(indexes(window.after(LogIndex(72))), [72]);
        assert_eq!(indexes(window.after(LogIndex(74))), [74]);
        assert!(indexes(window.after(LogIndex(75))).is_empty());
    }
}
