//! Reads values that are no longer in memory, for events that wait in streams' queues.

use super::events::RevisionEvents;
use super::history::HistoryError;
use super::hub::Shared;
use crate::fail_stop::FailStop;
use netsy_api::ids::Position;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

/// Events whose values are read together.
const RESOLVE_EVENTS_MAX: usize = 256;

#[derive(Default)]
struct Inbox {
    /// Bounded by the events at the heads of the streams' queues.
    waiting: Vec<Arc<RevisionEvents>>,
    stopped: bool,
}

/// Events whose values are wanted.
#[derive(Default)]
pub(super) struct Resolver {
    inbox: Mutex<Inbox>,
    ready: Condvar,
}

impl Resolver {
    pub(super) fn push(&self, events: Arc<RevisionEvents>) {
        self.inbox.lock().waiting.push(events);
        self.ready.notify_one();
    }

    pub(super) fn stop(&self) {
        self.inbox.lock().stopped = true;
        self.ready.notify_all();
    }

    fn take(&self) -> Vec<Arc<RevisionEvents>> {
        let mut inbox = self.inbox.lock();
        let some = inbox.waiting.len().min(RESOLVE_EVENTS_MAX);
        inbox.waiting.drain(..some).collect()
    }

    /// Waits for work; `false`: there will be none.
    fn wait(&self) -> bool {
        let mut inbox = self.inbox.lock();
        while inbox.waiting.is_empty() && !inbox.stopped {
            self.ready.wait(&mut inbox);
        }
        !inbox.stopped
    }
}

impl Shared {
    /// Reads the values of what waits; `false`: nothing does.
    pub(super) fn resolve_round(&self) -> bool {
        let some = self.resolver.take();
        let counts = some.iter().map(|events| events.stored().count());
        let at: Vec<Position> = some.iter().flat_map(|events| events.stored()).collect();
        let read = match self.history.values(&at) {
            Ok(values) if values.len() != at.len() => {
                Err(HistoryError(format!("{} values were read where {} were asked for", values.len(), at.len())))
            }
            other => other,
        };
        if let Err(error) = &read {
            tracing::error!(%error, "values for watchers cannot be read: their streams are ended");
        }
        let mut read = read.map(|values| values.into_iter());
        for (events, count) in some.iter().zip(counts) {
            let values = match &mut read {
                Ok(values) => Ok(values.by_ref().take(count).collect()),
                Err(error) => Err(error.clone()),
            };
            for stream in events.resolve(values) {
                stream.wake();
            }
        }
        !some.is_empty()
    }

    pub(super) fn run_resolver(&self) {
        let _fail_stop = FailStop("values of watches");
        while self.resolver.wait() {
            self.resolve_round();
        }
    }
}
