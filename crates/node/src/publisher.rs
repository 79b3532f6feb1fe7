//! Lets out, in order, what waited for its commit on the Primary: visible state, watch events, answers (R8).

use crate::error::{NodeError, Unavailable};
use crate::failpoint;
use crate::node::Inner;
use crate::writer::Answer;
use netsy_api::ids::LogIndex;
use netsy_mvcc::Event;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use tokio::sync::oneshot;

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
    committed: LogIndex,
    waiting: VecDeque<Waiting>,
    events: VecDeque<PendingEvents>,
    /// Set once this node may answer no write any more.
    closed: Option<Unavailable>,
}

/// One per Primary and term.
pub(crate) struct Publisher {
    state: Mutex<State>,
    node: Weak<Inner>,
}

impl Publisher {
    pub(crate) fn new(node: &Arc<Inner>) -> Self {
        Self {
            state: Mutex::new(State {
                committed: LogIndex(0),
                waiting: VecDeque::new(),
                events: VecDeque::new(),
                closed: None,
            }),
            node: Arc::downgrade(node),
        }
    }

    /// The log is shown up to `end`, where it ends.
    pub(crate) fn begin(&self, end: LogIndex) {
        self.state.lock().committed = end;
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
        let committed = state.committed;
        for w in waiting {
            if w.index <= committed && state.waiting.is_empty() {
                // A client that went away needs no answer.
                let _ = w.reply.send(w.answer);
            } else {
                state.waiting.push_back(w);
            }
        }
    }

    /// Everything up to `committed` is committed. Under the state's lock, so that events and answers leave in log
    /// order.
    pub(crate) fn advance(&self, committed: LogIndex) {
        let Some(node) = self.node.upgrade() else { return };
        let mut state = self.state.lock();
        if state.closed.is_some() || committed <= state.committed {
            return;
        }
        failpoint::hit("write.before-publish");
        state.committed = committed;
        node.store.write().set_visible(committed);
        let ready = state.events.partition_point(|e| e.index <= committed);
        if ready > 0 {
            let events: Vec<Vec<Event>> = state.events.drain(..ready).map(|e| e.events).collect();
            node.hub().publish(events);
        }
        node.shown.send_replace(committed);
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

    /// Answers that wait for their entries to be committed.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }
}
