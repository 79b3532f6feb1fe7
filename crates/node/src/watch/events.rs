//! The events of one revision, shared by all watchers that get them.

use super::history::HistoryError;
use super::stream::StreamQueue;
use bytes::Bytes;
use netsy_api::ids::{Position, Revision};
use netsy_mvcc::{Event, KvRef, ValueRef};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The key changes of one revision, in order of their sub revisions.
#[derive(Clone, Debug)]
pub struct CommittedEvents {
    /// The main revision of them all.
    pub revision: Revision,
    /// Not empty. `prev` is `None` for the first put of a key's life.
    pub events: Vec<Event>,
}

/// What an event costs beside its keys and values.
const EVENT_OVERHEAD_BYTES: usize = 192;

pub(super) fn held_bytes(kv: &KvRef) -> usize {
    let value = match &kv.value {
        ValueRef::Here(value) => value.len(),
        ValueRef::Stored(_) | ValueRef::Omitted => 0,
    };
    kv.key.len() + value
}

impl CommittedEvents {
    /// Bytes of memory it holds, about.
    pub(super) fn bytes(&self) -> usize {
        self.events
            .iter()
            .map(|e| EVENT_OVERHEAD_BYTES + held_bytes(&e.kv) + e.prev.as_ref().map_or(0, held_bytes))
            .sum()
    }
}

/// Events as they go on the wire, one after the other in one piece of memory.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    /// All events.
    pub bytes: Bytes,
    /// Where each ends in `bytes`.
    pub ends: Vec<usize>,
}

impl Encoded {
    /// The bytes of events `first..end`.
    pub fn slice(&self, first: u32, end: u32) -> &[u8] {
        let start = if first == 0 { 0 } else { self.ends[first as usize - 1] };
        let stop = if end == 0 { 0 } else { self.ends[end as usize - 1] };
        &self.bytes[start..stop]
    }
}

#[derive(Default)]
struct Resolving {
    requested: bool,
    waiting: Vec<Arc<StreamQueue>>,
}

/// The events of one revision on their way to streams: shared, encoded once, and with values that
/// are no longer in memory read once, off the publisher's path.
pub struct RevisionEvents {
    committed: Arc<CommittedEvents>,
    bytes: usize,
    stored_value: bool,
    stored_prev: bool,
    resolved: OnceLock<Result<Vec<Event>, HistoryError>>,
    resolving: Mutex<Resolving>,
    encoded: OnceLock<Encoded>,
    encoded_prev: OnceLock<Encoded>,
    /// The stream whose queue counted its bytes last.
    charged: AtomicU64,
}

fn is_stored(kv: &KvRef) -> bool {
    matches!(kv.value, ValueRef::Stored(_))
}

impl RevisionEvents {
    pub(super) fn new(committed: Arc<CommittedEvents>) -> Self {
        let stored_value = committed.events.iter().any(|e| is_stored(&e.kv));
        let stored_prev = committed.events.iter().any(|e| e.prev.as_ref().is_some_and(is_stored));
        // Once more for the encoded form.
        let bytes = 2 * committed.bytes();
        Self {
            committed,
            bytes,
            stored_value,
            stored_prev,
            resolved: OnceLock::new(),
            resolving: Mutex::default(),
            encoded: OnceLock::new(),
            encoded_prev: OnceLock::new(),
            charged: AtomicU64::new(0),
        }
    }

    /// The main revision of all events.
    pub fn revision(&self) -> Revision {
        self.committed.revision
    }

    /// The events; those that the [`Selection`] of a delivered item names have their values `Here`
    /// (previous ones: where the watcher asked for them), unless a compaction has removed them.
    pub fn events(&self) -> &[Event] {
        match self.resolved.get() {
            Some(Ok(events)) => events,
            Some(Err(_)) | None => &self.committed.events,
        }
    }

    /// Their encoded form, made by `encode` on first use: one for watchers with and one for those
    /// without previous key-values. `encode` must be a pure function of its arguments.
    pub fn encoded(&self, with_prev: bool, encode: impl FnOnce(&[Event], bool) -> Encoded) -> &Encoded {
        let cell = if with_prev { &self.encoded_prev } else { &self.encoded };
        cell.get_or_init(|| encode(self.events(), with_prev))
    }

    /// Bytes of memory it holds, about; its encoded form is smaller.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the stream's queue counts it already; told by the hub under its lock.
    pub(super) fn is_charged(&self, stream: u64) -> bool {
        self.charged.load(Ordering::Relaxed) == stream
    }

    pub(super) fn charge(&self, stream: u64) {
        self.charged.store(stream, Ordering::Relaxed);
    }

    /// Whether a watcher can be served without reading values first. `Err`: they cannot be read.
    pub(super) fn ready(&self, with_prev: bool) -> Result<bool, HistoryError> {
        let stored = self.stored_value || (with_prev && self.stored_prev);
        if !stored {
            return Ok(true);
        }
        match self.resolved.get() {
            None => Ok(false),
            Some(Ok(_)) => Ok(true),
            Some(Err(error)) => Err(error.clone()),
        }
    }

    /// Has `stream` woken once values are read. `Some(true)`: nobody asked for them before. `None`: they
    /// are there by now.
    pub(super) fn await_values(&self, stream: &Arc<StreamQueue>) -> Option<bool> {
        let mut resolving = self.resolving.lock();
        if self.resolved.get().is_some() {
            return None;
        }
        resolving.waiting.push(stream.clone());
        Some(!std::mem::replace(&mut resolving.requested, true))
    }

    /// Positions of the values that are not in memory, in the order in which `resolve` wants them.
    pub(super) fn stored(&self) -> impl Iterator<Item = Position> + '_ {
        let kvs = self.committed.events.iter().flat_map(|e| std::iter::once(&e.kv).chain(e.prev.as_ref()));
        kvs.filter_map(|kv| match kv.value {
            ValueRef::Stored(at) => Some(at),
            _ => None,
        })
    }

    /// Fills in the values of [`stored`](Self::stored), in that order, and returns who waits for them.
    /// A value that is gone takes its previous key-value with it, as etcd has it; one that an event
    /// itself needs is an error.
    pub(super) fn resolve(&self, values: Result<Vec<Option<Bytes>>, HistoryError>) -> Vec<Arc<StreamQueue>> {
        let filled = values.and_then(|values| self.fill(values.into_iter()));
        let mut resolving = self.resolving.lock();
        // A second resolution has the same outcome: the first stays.
        let _ = self.resolved.set(filled);
        std::mem::take(&mut resolving.waiting)
    }

    fn fill(&self, mut values: impl Iterator<Item = Option<Bytes>>) -> Result<Vec<Event>, HistoryError> {
        let mut events = self.committed.events.clone();
        for event in &mut events {
            if let ValueRef::Stored(at) = event.kv.value {
                let Some(value) = values.next().flatten() else {
                    return Err(HistoryError(format!(
                        "the value at position {at} of revision {} is gone before it was sent to its watchers: \
                         watch again from that revision",
                        self.committed.revision
                    )));
                };
                event.kv.value = ValueRef::Here(value);
            }
            if event.prev.as_ref().is_some_and(is_stored) {
                event.prev = match (event.prev.take(), values.next().flatten()) {
                    (Some(prev), Some(value)) => Some(KvRef { value: ValueRef::Here(value), ..prev }),
                    _ => None,
                };
            }
        }
        Ok(events)
    }
}

/// Which events of a revision a watcher gets, by their place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// `first..end`, not empty.
    Run {
        /// The first.
        first: u32,
        /// After the last.
        end: u32,
    },
    /// These, ascending.
    Picks(Vec<u32>),
}

impl Selection {
    pub(super) fn one(at: u32) -> Self {
        Self::Run { first: at, end: at + 1 }
    }

    /// Adds a place above all in it.
    pub(super) fn push(&mut self, at: u32) {
        match self {
            Self::Run { end, .. } if *end == at => *end += 1,
            Self::Run { first, end } => *self = Self::Picks((*first..*end).chain([at]).collect()),
            Self::Picks(picks) => picks.push(at),
        }
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Run { first, end } => (end - first) as usize,
            Self::Picks(picks) => picks.len(),
        }
    }

    /// The places, as runs of neighbours `(first, end)`, ascending.
    pub fn runs(&self) -> impl Iterator<Item = (u32, u32)> + Clone + '_ {
        let (run, picks) = match self {
            Self::Run { first, end } => (Some((*first, *end)), &[][..]),
            Self::Picks(picks) => (None, &picks[..]),
        };
        run.into_iter().chain(picks.iter().map(|&at| (at, at + 1)))
    }

    /// The places, ascending.
    pub fn places(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs().flat_map(|(first, end)| first..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_grow() {
        let mut selection = Selection::one(3);
        selection.push(4);
        assert_eq!((&selection, selection.count()), (&Selection::Run { first: 3, end: 5 }, 2));
        selection.push(7);
        selection.push(8);
        assert_eq!(selection.places().collect::<Vec<_>>(), [3, 4, 7, 8]);
        assert_eq!(selection.count(), 4);
    }
}
