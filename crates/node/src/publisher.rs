//! Moves the commit index and lets out, in order, what waited for it: visible state, watch events, answers (R8).

use crate::error::{NodeError, Unavailable};
use crate::failpoint;
use crate::shared::SharedStore;
use crate::watch::WatchHub;
use crate::writer::Answer;
use netsy_api::ids::LogIndex;
use netsy_mvcc::Event;
use netsy_protocol::commit::CommitTracker;
use netsy_protocol::quorum::Voter;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

/// Where the answer to a write goes.
pub(crate) type Reply = oneshot::Sender<Result<Answer, NodeError>>;

/// An answer that may leave once `index` is committed: all it depends on is committed then.
pub(crate) struct Waiting {
    pub(crate) index: LogIndex,
    pub(crate) reply: Reply,
    pub(crate) answer: Result<Answer, NodeError>,
}

/// Key changes of one entry, for watchers.
pub(crate) struct PendingEvents {
    pub(crate) index: LogIndex,
    pub(crate) events: Vec<Event>,
}

struct State {
    tracker: CommitTracker,
    waiting: VecDeque<Waiting>,
    events: VecDeque<PendingEvents>,
    /// Set once this node may answer no write any more.
    closed: Option<Unavailable>,
}

/// One per Primary and term.
pub(crate) struct Publisher {
    state: Mutex<State>,
    store: SharedStore,
    hub: WatchHub,
    me: Voter,
    committed: watch::Sender<LogIndex>,
}

impl Publisher {
    pub(crate) fn new(tracker: CommitTracker, me: Voter, store: SharedStore, hub: WatchHub) -> Arc<Self> {
        let committed = watch::Sender::new(tracker.committed());
        Arc::new(Self {
            state: Mutex::new(State { tracker, waiting: VecDeque::new(), events: VecDeque::new(), closed: None }),
            store,
            hub,
            me,
            committed,
        })
    }

    /// Takes the answers and events of one batch, in log order. What waits for nothing leaves at once.
    pub(crate) fn enqueue(&self, waiting: Vec<Waiting>, events: Vec<PendingEvents>) {
        let mut state = self.state.lock();
        if let Some(reason) = &state.closed {
            let reason = reason.clone();
            drop(state);
            for w in waiting {
                let _ = w.reply.send(Err(reason.clone().into()));
            }
            return;
        }
        state.events.extend(events);
        let committed = state.tracker.committed();
        for w in waiting {
            if w.index <= committed && state.waiting.is_empty() {
                // A client that went away needs no answer.
                let _ = w.reply.send(w.answer);
            } else {
                state.waiting.push_back(w);
            }
        }
    }

    /// The own database durably holds everything up to `index`.
    pub(crate) fn held_locally(&self, index: LogIndex) {
        let mut state = self.state.lock();
        if state.tracker.held(&self.me, index).is_some() {
            self.publish(&mut state);
        }
    }

    /// A chunk that ends at `index` is in the object log.
    pub(crate) fn landed(&self, index: LogIndex) {
        let mut state = self.state.lock();
        if state.tracker.landed(index).is_some() {
            self.publish(&mut state);
        }
    }

    /// Under the state's lock, so that events and answers leave in log order.
    fn publish(&self, state: &mut State) {
        if state.closed.is_some() {
            return;
        }
        failpoint::hit("write.before-publish");
        let committed = state.tracker.committed();
        self.store.write().set_visible(committed);
        let ready = state.events.partition_point(|e| e.index <= committed);
        if ready > 0 {
            let events: Vec<Vec<Event>> = state.events.drain(..ready).map(|e| e.events).collect();
            self.hub.publish(events);
        }
        self.committed.send_replace(committed);
        failpoint::hit("write.after-publish");
        while state.waiting.front().is_some_and(|w| w.index <= committed) {
            if let Some(w) = state.waiting.pop_front() {
                let _ = w.reply.send(w.answer);
            }
        }
        failpoint::hit("write.answered");
    }

    /// Ends all that waits: this node is no Primary any more, or stops. Outcomes are unknown to the clients.
    pub(crate) fn close(&self, reason: Unavailable) {
        let mut state = self.state.lock();
        state.closed.get_or_insert_with(|| reason.clone());
        state.events.clear();
        for w in state.waiting.drain(..) {
            let _ = w.reply.send(Err(reason.clone().into()));
        }
    }

    /// Greatest committed index.
    pub(crate) fn committed(&self) -> LogIndex {
        *self.committed.borrow()
    }

    /// Greatest index known to be in the object log.
    pub(crate) fn in_object_log(&self) -> LogIndex {
        self.state.lock().tracker.in_object_log()
    }

    /// Follows the commit index.
    pub(crate) fn watch_committed(&self) -> watch::Receiver<LogIndex> {
        self.committed.subscribe()
    }

    /// Answers that wait for their entries to be committed.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }
}
