//! A replica's visible state: entries become visible once the engine says that they are committed and durable (R8).
//!
//! Entries that are stored and not yet visible are in the local database alone; those that came lately are kept in
//! memory, too, so that they need not be read back. A thread of its own applies them, so that nothing waits for it.

use crate::fail_stop::FailStop;
use crate::failpoint;
use crate::load::{load_through, store_config};
use crate::log_thread::Gone;
use crate::node::Inner;
use crate::shared::SharedStore;
use crate::writer::ENTRY_OVERHEAD_BYTES;
use netsy_api::ids::{LogIndex, Position};
use netsy_api::log::{Entry, Mutation};
use netsy_mvcc::Event;
use parking_lot::{Condvar, Mutex};
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
    wanted: Condvar,
}

#[derive(Default)]
struct State {
    /// Consecutive durable entries that are not visible yet, with their positions; the newest of them, as many as fit.
    pending: VecDeque<(Position, Arc<Entry>)>,
    bytes: usize,
    /// Everything up to here is to be shown.
    target: LogIndex,
    /// The database holds a snapshot up to here instead of entries: the state is loaded anew to go past it.
    snapshot: LogIndex,
    /// The node is Primary: its publisher shows what is committed.
    leading: bool,
    stopped: bool,
}

fn cost(entry: &Entry) -> usize {
    entry.payload_bytes() + ENTRY_OVERHEAD_BYTES
}

/// What is to be done next.
enum Step {
    Apply(Vec<(Position, Arc<Entry>)>),
    ReadBack { from: LogIndex, target: LogIndex },
    Load { through: LogIndex },
}

impl Follower {
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

    /// The log was cut: what came after `last` is gone.
    pub(crate) fn truncated(&self, last: LogIndex) {
        let mut state = self.state.lock();
        while state.pending.back().is_some_and(|(_, e)| e.index > last) {
            if let Some((_, entry)) = state.pending.pop_back() {
                state.bytes -= cost(&entry);
            }
        }
    }

    /// The database is about to be replaced by a snapshot up to `index`.
    pub(crate) fn installed(&self, index: LogIndex) {
        let mut state = self.state.lock();
        state.snapshot = index;
        state.pending.clear();
        state.bytes = 0;
    }

    /// The end of the last snapshot that takes the database's place, or has; 0: there was none.
    pub(crate) fn snapshot(&self) -> LogIndex {
        self.state.lock().snapshot
    }

    /// Whether the local database is that of the state in `store`: it is not from when a snapshot takes its place until that
    /// is shown.
    pub(crate) fn is_shown(&self, store: &SharedStore) -> bool {
        // In this order: the snapshot is noted before it takes the database's place.
        let installed = self.snapshot();
        store.read().visible_index() >= installed
    }

    /// The publisher shows what is committed from here on.
    pub(crate) fn lead(&self) {
        let mut state = self.state.lock();
        state.leading = true;
        state.pending.clear();
        state.bytes = 0;
    }

    /// This node follows from here on.
    pub(crate) fn follow(&self) {
        self.state.lock().leading = false;
        self.wanted.notify_all();
    }

    /// Everything up to `index` is to be shown; all of it is durable.
    pub(crate) fn show_through(&self, index: LogIndex) {
        let mut state = self.state.lock();
        if index > state.target {
            state.target = index;
            drop(state);
            self.wanted.notify_all();
        }
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.wanted.notify_all();
    }

    /// Waits until everything that was to be shown by now is.
    pub(crate) async fn wait_shown(&self, node: &Inner) -> Result<(), Gone> {
        let target = self.state.lock().target;
        node.wait_shown(target).await.map_err(|_| Gone)
    }

    /// Runs until the node ends. Blocks: has a thread of its own.
    pub(crate) fn run(&self, node: &Arc<Inner>) {
        let _fail_stop = FailStop("showing");
        while let Some(step) = self.next(node) {
            let done = match step {
                Step::Apply(entries) => show(node, &entries),
                Step::ReadBack { from, target } => read_back(node, from, target).and_then(|e| show(node, &e)),
                Step::Load { through } => load(node, through),
            };
            if let Err(why) = done {
                node.halt(format!("this node's state is not what the log says: {why}"));
                return;
            }
        }
    }

    /// Waits until there is something to do. `None`: the node ends.
    fn next(&self, node: &Inner) -> Option<Step> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            let next = node.shown_index().next();
            if !state.leading && state.target >= next {
                let target = state.target;
                if next <= state.snapshot {
                    if target >= state.snapshot {
                        return Some(Step::Load { through: state.snapshot });
                    }
                } else {
                    return Some(state.step(next, target));
                }
            }
            self.wanted.wait(&mut state);
        }
    }
}

impl State {
    fn step(&mut self, next: LogIndex, target: LogIndex) -> Step {
        while self.pending.front().is_some_and(|(_, e)| e.index < next) {
            if let Some((_, entry)) = self.pending.pop_front() {
                self.bytes -= cost(&entry);
            }
        }
        if self.pending.front().is_none_or(|(_, e)| e.index != next) {
            return Step::ReadBack { from: next, target };
        }
        let count = self.pending.partition_point(|(_, e)| e.index <= target);
        let taken: Vec<_> = self.pending.drain(..count).collect();
        self.bytes -= taken.iter().map(|(_, e)| cost(e)).sum::<usize>();
        Step::Apply(taken)
    }
}

fn read_back(node: &Inner, from: LogIndex, target: LogIndex) -> Result<Vec<(Position, Arc<Entry>)>, String> {
    let read = node.readers.entries_from(from, READ_BACK_BYTES).map_err(|e| e.to_string())?;
    let upto = read.partition_point(|(_, e)| e.index <= target);
    if upto == 0 {
        return Err(format!("entry {from} is committed and said to be durable, but is not in the local database"));
    }
    Ok(read.into_iter().take(upto).map(|(position, entry)| (position, Arc::new(entry))).collect())
}

fn load(node: &Arc<Inner>, through: LogIndex) -> Result<(), String> {
    let store = load_through(node, through, store_config(&node.config)).map_err(|e| e.to_string())?;
    node.replace_state(store);
    Ok(())
}

fn show(node: &Inner, entries: &[(Position, Arc<Entry>)]) -> Result<(), String> {
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
