//! The watch hub: which committed events go to which watcher, and how a watcher that is behind
//! catches up.
//!
//! The node's publisher calls [`WatchHub::publish`] with every committed revision in order; the
//! server opens one [`WatchStream`] per client stream, creates watchers on it and polls it for
//! [`WatchItem`]s. A watcher that wants older events, or whose stream is over its bound, is fed by
//! the replay thread from [`History`] (the local database) in bounded batches.
//!
//! # Invariants
//!
//! `published` is the greatest revision handed to `publish`; `first` is the lowest revision a
//! watcher wants. Everything below changes only under the hub's lock, appends to stream queues
//! included, so the order of appends is the order of state changes.
//!
//! - **W1** Of a *synced* watcher every matching event with `first <= revision <= published` was
//!   appended to its stream's queue: once, ascending, whole revisions.
//! - **W2** Of an *unsynced* watcher the same holds for `first <= revision < next`, and nothing with
//!   `revision >= next` was appended.
//! - **W3** synced → unsynced happens while `r` is published, before anything of `r` is appended for
//!   it, with `next = r`; or when revisions were skipped (a state loaded from a snapshot).
//! - **W4** unsynced → synced happens only where `next == published + 1`.
//! - **W5** Stream queues are first in, first out. `created` is appended before the watcher can match
//!   anything, a progress answer with `published` as its revision: so it never overtakes an event.
//! - **W6** A watcher with `next` below the compact revision is canceled, never fed. The compact
//!   revision is read *after* the rows: a batch that a compaction may have thinned is not used. Nor is one read while a
//!   snapshot has taken the database's place and is not shown yet: its compaction is not known here. Watchers wait.
//!
//! A stream's queue holds at most `watch_backlog_bytes_max` plus one item; what does not fit is not
//! queued but read from the database later (W3), when the queue has been drained to half.

mod events;
mod history;
mod hub;
mod item;
mod options;
mod progress;
mod publish;
mod range;
mod recent;
mod replay;
mod resolve;
mod state;
mod stream;
mod ticks;

pub use events::{CommittedEvents, Encoded, RevisionEvents, Selection};
pub use history::{History, HistoryBatch, HistoryError};
pub use hub::{WatchHub, WatchStats};
pub use item::{ALL_WATCHES, CreateError, Deliveries, Delivery, Replayed, StreamEnd, WatchItem};
pub use options::WatchOptions;
pub use stream::{NewWatch, WatchStream};
