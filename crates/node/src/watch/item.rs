//! What a stream is told.

use super::events::{RevisionEvents, Selection};
use super::history::HistoryError;
use netsy_api::ids::Revision;
use std::sync::Arc;

/// The watch id that stands for "all of this stream" in progress answers.
pub const ALL_WATCHES: i64 = -1;

/// Why no watcher was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateError {
    /// The range holds no key.
    RangeEmpty,
    /// The client chose an id that the stream has already.
    DuplicateId,
    /// The start revision is negative.
    StartNegative,
}

/// The events of one revision for one watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Whose.
    pub watch_id: i64,
    /// Whether it asked for previous key-values.
    pub prev_kv: bool,
    /// Whether it takes large answers in fragments.
    pub fragment: bool,
    /// Which events.
    pub selection: Selection,
}

/// Who of a stream gets events of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deliveries {
    /// One watcher.
    One(Delivery),
    /// Several, each once.
    Many(Vec<Delivery>),
}

impl Deliveries {
    /// All of them.
    pub fn as_slice(&self) -> &[Delivery] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [Delivery] {
        match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => many,
        }
    }

    pub(super) fn push(&mut self, delivery: Delivery) {
        match self {
            Self::Many(many) => many.push(delivery),
            Self::One(one) => {
                let none = Delivery { watch_id: 0, prev_kv: false, fragment: false, selection: Selection::one(0) };
                let first = std::mem::replace(one, none);
                *self = Self::Many(vec![first, delivery]);
            }
        }
    }
}

/// Events of several revisions for one watcher that was behind.
pub struct Replayed {
    /// Whose.
    pub watch_id: i64,
    /// Whether it asked for previous key-values.
    pub prev_kv: bool,
    /// Whether it takes large answers in fragments.
    pub fragment: bool,
    /// The store's revision when they were queued: not below any of them.
    pub revision: Revision,
    /// Ascending revisions; not empty.
    pub parts: Vec<(Arc<RevisionEvents>, Selection)>,
}

/// One thing a stream is told; in the order in which they come.
pub enum WatchItem {
    /// A watcher exists; comes before everything else about it.
    Created {
        /// Its id.
        watch_id: i64,
        /// The store's revision.
        revision: Revision,
    },
    /// A watcher was refused.
    CreateFailed {
        /// Why.
        error: CreateError,
        /// The store's revision.
        revision: Revision,
    },
    /// A watcher is gone: nothing about it comes after this.
    Canceled {
        /// Its id.
        watch_id: i64,
        /// The store's revision.
        revision: Revision,
        /// It was too far behind: the history it needs was compacted, up to this revision.
        compacted: Option<Revision>,
    },
    /// Every event up to `revision` was told before this.
    Progress {
        /// Of this watcher; [`ALL_WATCHES`]: of all of the stream's.
        watch_id: i64,
        /// Up to and with this revision.
        revision: Revision,
    },
    /// Events that just happened.
    Live {
        /// All of the revision.
        events: Arc<RevisionEvents>,
        /// Who gets which.
        deliveries: Deliveries,
    },
    /// Events from the past.
    Replayed(Box<Replayed>),
}

/// What an item costs in a queue, beside its events.
const ITEM_OVERHEAD_BYTES: usize = 96;

impl WatchItem {
    /// Bytes it holds, its events not counted.
    pub(super) fn overhead_bytes(&self) -> usize {
        let extra = match self {
            Self::Live { deliveries, .. } => std::mem::size_of_val(deliveries.as_slice()),
            Self::Replayed(replayed) => std::mem::size_of_val(&replayed.parts[..]),
            _ => 0,
        };
        ITEM_OVERHEAD_BYTES + extra
    }

    /// How many events watchers get by it, each watcher's counted.
    pub(super) fn events(&self) -> usize {
        match self {
            Self::Live { deliveries, .. } => deliveries.as_slice().iter().map(|d| d.selection.count()).sum(),
            Self::Replayed(replayed) => replayed.parts.iter().map(|(_, selection)| selection.count()).sum(),
            _ => 0,
        }
    }

    /// The events in it for which values must be read before it can be sent.
    pub(super) fn unready(&self) -> Result<Vec<&Arc<RevisionEvents>>, HistoryError> {
        let mut unready = Vec::new();
        match self {
            Self::Live { events, deliveries } => {
                // Deliveries are only looked through where something is stored at all.
                let with_prev = || deliveries.as_slice().iter().any(|d| d.prev_kv);
                if !events.ready(true)? && !events.ready(with_prev())? {
                    unready.push(events);
                }
            }
            Self::Replayed(replayed) => {
                for (events, _) in &replayed.parts {
                    if !events.ready(replayed.prev_kv)? {
                        unready.push(events);
                    }
                }
            }
            _ => {}
        }
        Ok(unready)
    }
}

/// Why a stream ended on the server's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The client wants a leader and there is none.
    NoLeader,
    /// The node stops.
    Stopped,
    /// History it needs cannot be read.
    Failed(HistoryError),
}
