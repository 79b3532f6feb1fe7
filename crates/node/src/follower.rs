//! A replica's visible state: entries become visible once they are committed and durable here (R8).
//!
//! Entries that are stored and not yet visible are in the local database alone; those that came lately are kept in
//! memory, too, so that they need not be read back.

use crate::failpoint;
use crate::node::Inner;
use crate::writer::ENTRY_OVERHEAD_BYTES;
use netsy_api::ids::{LogIndex, Position};
use netsy_api::log::{Entry, Mutation};
use netsy_mvcc::Event;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of keys and values kept in memory for becoming visible; what does not fit is read back.
const PENDING_BYTES_MAX: usize = 64 << 20;
/// Entries applied before the state's lock is given to readers for a moment.
const LOCKED_ENTRIES_MAX: usize = 64;
/// Bytes of entries read back at a time.
const READ_BACK_BYTES: usize = 4 << 20;

/// See above. While the node is Primary it does nothing.
#[derive(Default)]
pub(crate) struct Follower {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Consecutive durable entries that are not visible yet, with their positions; the newest of them, as many as fit.
    pending: VecDeque<(Position, Arc<Entry>)>,
    bytes: usize,
    /// Everything up to here is durable and verified.
    durable: LogIndex,
    /// Everything up to here is committed.
    committed: LogIndex,
    /// The node is Primary: its publisher shows what is committed.
    leading: bool,
}

fn cost(entry: &Entry) -> usize {
    entry.payload_bytes() + ENTRY_OVERHEAD_BYTES
}

impl Follower {
    /// This node follows from here on: what it holds beyond what is visible has yet to be verified.
    pub(crate) fn begin(&self, visible: LogIndex) {
        *self.state.lock() = State { durable: visible, committed: visible, ..State::default() };
    }

    /// The log was cut: what came after `last` is gone.
    pub(crate) fn truncated(&self, last: LogIndex) {
        let mut state = self.state.lock();
        while state.pending.back().is_some_and(|(_, e)| e.index > last) {
            if let Some((_, entry)) = state.pending.pop_back() {
                state.bytes -= cost(&entry);
            }
        }
        state.durable = state.durable.min(last);
    }

    /// This node is Primary from here on.
    pub(crate) fn lead(&self) {
        *self.state.lock() = State { leading: true, ..State::default() };
    }

    /// These are durable: kept until they become visible.
    pub(crate) fn keep(&self, entries: Vec<(Position, Arc<Entry>)>) {
        let mut state = self.state.lock();
        if state.leading {
            return;
        }
        for (position, entry) in entries {
            let follows = state.pending.back().is_none_or(|(_, last)| entry.index == last.index.next());
            if !follows {
                state.pending.clear();
                state.bytes = 0;
            }
            state.bytes += cost(&entry);
            state.pending.push_back((position, entry));
        }
        while state.bytes > PENDING_BYTES_MAX && state.pending.len() > 1 {
            // The oldest are read back when their turn comes.
            if let Some((_, entry)) = state.pending.pop_front() {
                state.bytes -= cost(&entry);
            }
        }
    }

    /// Everything up to `durable` is verified with the Primary and durable, everything up to `committed` is committed:
    /// shows what is both. Blocks while entries are read back from the local database. An error: the state here is not
    /// what the Primary made, or cannot be read.
    pub(crate) fn advance(
        &self,
        node: &Inner,
        durable: Option<LogIndex>,
        committed: Option<LogIndex>,
    ) -> Result<(), String> {
        let mut state = self.state.lock();
        if state.leading {
            return Ok(());
        }
        state.durable = state.durable.max(durable.unwrap_or_default());
        state.committed = state.committed.max(committed.unwrap_or_default());
        let target = state.durable.min(state.committed);
        loop {
            let shown = node.shown_index();
            if shown >= target {
                return Ok(());
            }
            let ready = self.ready(&mut state, node, shown.next(), target)?;
            self.show(node, ready)?;
        }
    }

    /// The next entries that may be shown, at least one.
    fn ready(
        &self,
        state: &mut State,
        node: &Inner,
        next: LogIndex,
        target: LogIndex,
    ) -> Result<Vec<(Position, Arc<Entry>)>, String> {
        while state.pending.front().is_some_and(|(_, e)| e.index < next) {
            if let Some((_, entry)) = state.pending.pop_front() {
                state.bytes -= cost(&entry);
            }
        }
        if state.pending.front().is_some_and(|(_, e)| e.index == next) {
            let count = state.pending.partition_point(|(_, e)| e.index <= target).min(LOCKED_ENTRIES_MAX);
            let taken: Vec<_> = state.pending.drain(..count).collect();
            state.bytes -= taken.iter().map(|(_, e)| cost(e)).sum::<usize>();
            return Ok(taken);
        }
        let read = node.readers.entries_from(next, READ_BACK_BYTES).map_err(|e| e.to_string())?;
        let upto = read.partition_point(|(_, e)| e.index <= target);
        if upto == 0 {
            return Err(format!("entry {next} is committed and said to be durable, but is not in the local database"));
        }
        Ok(read.into_iter().take(upto).map(|(position, entry)| (position, Arc::new(entry))).collect())
    }

    fn show(&self, node: &Inner, entries: Vec<(Position, Arc<Entry>)>) -> Result<(), String> {
        for entries in entries.chunks(LOCKED_ENTRIES_MAX) {
            let mut events: Vec<Vec<Event>> = Vec::with_capacity(entries.len());
            let Some((_, last)) = entries.last() else { continue };
            let shown = last.index;
            {
                let mut store = node.store.write();
                for (position, entry) in entries {
                    if let [Mutation::Compact { revision }] = entry.mutations[..] {
                        node.compactions.push(entry.index, revision);
                    }
                    let applied = store.apply(entry.clone()).map_err(|e| e.to_string())?;
                    if applied.first_position != *position {
                        return Err(format!(
                            "entry {} is at position {position}, in the state at {}",
                            entry.index, applied.first_position
                        ));
                    }
                    events.push(applied.events);
                }
                store.set_visible(shown);
                // All of it is in the local database already.
                let end = Position(store.next_position().0 - 1);
                store.written_through(end);
            }
            events.retain(|events| !events.is_empty());
            if !events.is_empty() {
                node.hub().publish(events);
            }
            node.shown.send_replace(shown);
            failpoint::hit("follow.shown");
        }
        Ok(())
    }
}
