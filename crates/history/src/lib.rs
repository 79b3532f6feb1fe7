//! What clients did and were told, and whether it keeps etcd's promises (KV: strict serializability by revision;
//! watches: ordered, unique, reliable, atomic, resumable, bookmarkable; leases: never over early).
//!
//! A run (simulated or with real processes) fills a [`History`]: every operation with its times and outcome, what
//! every watch was told, and the *log*: all key changes by revision, as the survivors have them in the end.
//! [`History::check`] replays the log in a model of its own and gives a list of [`Violation`]s; empty: nothing is wrong.
//!
//! Not here: I/O, clocks, threads, and any code of what is checked: the model is written from etcd's description only.
//!
//! Start reading at [`History`]; then [`Op`], [`Log`], [`WatchRecord`].

#![deny(clippy::disallowed_methods, clippy::iter_over_hash_type)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable))]

mod answer;
mod check;
mod leases;
mod log;
mod matching;
mod model;
mod model_range;
mod op;
mod order;
mod reads;
mod refusals;
mod states;
mod timeline;
mod violation;
mod watch;
mod watch_check;
mod writes;

pub use answer::{Answer, RangeAnswer};
pub use check::{History, Rules};
pub use log::{Log, Step, steps};
pub use op::{Done, Op, Outcome, Refusal, Request};
pub use states::{NodeState, check_states};
pub use timeline::{Timeline, View};
pub use violation::{Kind, Report, Violation};
pub use watch::{Told, WatchMessage, WatchRecord, WatchSession};
