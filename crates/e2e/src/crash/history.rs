//! What a run has done and seen, as plain data: the driver fills it, the checker judges it.

use netsy_api::mvccpb::KeyValue;
use std::collections::BTreeMap;

/// One key's part in an operation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The value is never used twice in a run, so that a put can be told from every other.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// 0: none.
        lease: i64,
    },
    /// A key that exists is deleted; no key is deleted by two operations of one life.
    Delete {
        /// The key.
        key: String,
    },
}

impl Change {
    /// The key.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// What an operation does to leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// None.
    Nothing,
    /// A lease of `ttl` seconds comes to be.
    Grant {
        /// Chosen by the driver, never twice.
        id: i64,
        /// Seconds.
        ttl: i64,
    },
    /// A lease goes, and with it the keys that the operation's changes name.
    Revoke {
        /// Granted before.
        id: i64,
    },
}

/// What the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Success, with the header's revision.
    Acked {
        /// Of the header.
        revision: i64,
        /// False: a compare did not hold, and nothing was written.
        applied: bool,
    },
    /// An error that says that nothing was done.
    Refused,
    /// No answer, or one that leaves it open.
    Unknown,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Op {
    /// Which start of the server it was sent to.
    pub life: u32,
    /// A clock of the driver, ticking with every start and end of an operation.
    pub invoked: u64,
    /// When the answer came; `u64::MAX`: none came.
    pub returned: u64,
    /// What it does to keys where it is applied; empty: it reads.
    pub changes: Vec<Change>,
    /// What it does to leases where it is applied.
    pub lease: LeaseChange,
    /// What the client was told.
    pub outcome: Outcome,
}

/// One key's part in a revision, as a watch told it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// False: a put.
    pub deleted: bool,
    /// The key as it is now.
    pub kv: KeyValue,
    /// The key as it was, where the watch asked for it and the server knew.
    pub prev: Option<KeyValue>,
}

/// All that one revision changed, in the order told.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its number.
    pub revision: i64,
    /// Not empty.
    pub events: Vec<Event>,
}

/// Puts events in their order into steps. An event whose revision is the one before joins its step.
pub fn steps(events: impl IntoIterator<Item = Event>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for event in events {
        let revision = event.kv.mod_revision;
        match steps.last_mut() {
            Some(last) if last.revision == revision => last.events.push(event),
            _ => steps.push(Step { revision, events: vec![event] }),
        }
    }
    steps
}

/// All that can be seen of the server after a restart, before new work is sent.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The revision of a linearizable read.
    pub head: i64,
    /// What a watch from the revision after the last checked one told, up to the head.
    pub log: Vec<Step>,
    /// Every key, from a range read.
    pub state: Vec<KeyValue>,
    /// Every lease with its granted seconds.
    pub leases: BTreeMap<i64, i64>,
}
