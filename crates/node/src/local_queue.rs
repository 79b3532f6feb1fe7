//! Local operations that the engine asked for, in its order, on their way to the log thread.

use netsy_api::ids::LogIndex;
use netsy_api::log::Entry;
use netsy_localdb as localdb;
use netsy_protocol::command::LocalOp;
use netsy_protocol::event::LocalSeq;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

use crate::primary::Primary;
use crate::writer::ENTRY_OVERHEAD_BYTES;

/// Bytes of entries that may wait for the log thread; whoever brings more waits first.
const QUEUE_BYTES_MAX: usize = 32 << 20;

/// What comes with the event that is being handled.
#[derive(Default)]
pub(crate) struct Brought {
    /// Its entries, consecutive.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// The snapshot whose manifest it is, built beside the database.
    pub(crate) snapshot: Option<Box<Snapshot>>,
}

/// A snapshot, ready to take the database's place.
pub(crate) struct Snapshot {
    pub(crate) built: localdb::Restore,
    pub(crate) uploaded: localdb::Uploaded,
}

/// One thing for the log thread to do.
pub(crate) enum LocalItem {
    /// An operation on the database.
    Op { seq: LocalSeq, op: Op },
    /// This node is Primary from here on.
    Lead(Arc<Primary>),
    /// It is Primary no more.
    StepDown,
}

pub(crate) enum Op {
    Promise(netsy_api::ids::Term),
    Truncate(LogIndex),
    Led(netsy_api::ids::Session),
    Store(Vec<Arc<Entry>>),
    Install(Box<Snapshot>),
    /// What was asked for did not come with the event.
    Missing(String),
}

#[derive(Default)]
struct State {
    items: VecDeque<LocalItem>,
    bytes: usize,
}

/// See above.
#[derive(Default)]
pub(crate) struct LocalQueue {
    state: Mutex<State>,
    room: Notify,
    /// The log thread was told that there is something.
    pub(crate) told: AtomicBool,
}

fn cost(op: &Op) -> usize {
    match op {
        Op::Store(entries) => entries.iter().map(|e| e.payload_bytes() + ENTRY_OVERHEAD_BYTES).sum(),
        _ => 0,
    }
}

impl LocalQueue {
    /// To be called under the engine's lock, so that the order is the engine's. True: the log thread is to be told.
    pub(crate) fn push(&self, seq: LocalSeq, op: LocalOp, brought: &mut Brought) -> bool {
        let op = match op {
            LocalOp::Promise(term) => Op::Promise(term),
            LocalOp::Truncate { after } => Op::Truncate(after),
            LocalOp::Led(session) => Op::Led(session),
            LocalOp::Store { from, through } => {
                let found = brought.entries.first().map_or(LogIndex(0), |e| e.index);
                let skip = from.0.checked_sub(found.0).filter(|_| found.0 > 0).map(|skip| skip as usize);
                let count = (through.0 + 1).saturating_sub(from.0) as usize;
                match skip.and_then(|skip| brought.entries.get(skip..skip + count)) {
                    Some(entries) => Op::Store(entries.to_vec()),
                    None => Op::Missing(format!("entries {from} to {through} were to be stored and did not come")),
                }
            }
            LocalOp::InstallSnapshot { index } => match brought.snapshot.take() {
                Some(snapshot) => Op::Install(snapshot),
                None => Op::Missing(format!("snapshot {index} was to be installed and was not read")),
            },
        };
        let mut state = self.state.lock();
        state.bytes += cost(&op);
        state.items.push_back(LocalItem::Op { seq, op });
        !self.told.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn push_item(&self, item: LocalItem) -> bool {
        self.state.lock().items.push_back(item);
        !self.told.swap(true, Ordering::AcqRel)
    }

    /// The next thing to do; with `before`: only what stands before that operation.
    pub(crate) fn pop(&self, before: Option<LocalSeq>) -> Option<LocalItem> {
        let mut state = self.state.lock();
        if let Some(before) = before {
            match state.items.front() {
                Some(LocalItem::Op { seq, .. }) if *seq < before => {}
                // A change of role came after the operation, or that would not be.
                _ => return None,
            }
        }
        let item = state.items.pop_front()?;
        if let LocalItem::Op { op, .. } = &item {
            let freed = cost(op);
            state.bytes -= freed;
            drop(state);
            if freed > 0 {
                self.room.notify_waiters();
            }
        }
        Some(item)
    }

    /// Waits until there is room for more entries.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.room.notified();
            if self.state.lock().bytes < QUEUE_BYTES_MAX {
                return;
            }
            // Entries leave the queue at the latest when the log thread can write again.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(100), freed).await;
        }
    }
}
