//! What a node has only while it is Primary.

use crate::error::Unavailable;
use crate::node::Inner;
use crate::publisher::Publisher;
use crate::uploader::{ChunkWriter, Uploads};
use crate::window::Window;
use netsy_api::ids::{LogIndex, Position, Term};
use netsy_api::log::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// One per term that this process acts in.
pub(crate) struct Primary {
    pub(crate) term: Term,
    pub(crate) publisher: Publisher,
    pub(crate) uploads: Uploads,
    pub(crate) window: Window,
    pub(crate) chunk_writer: ChunkWriter,
    leads: AtomicBool,
    retired: watch::Sender<bool>,
}

impl Primary {
    /// For a term whose seal stands; it leads once R4 is done.
    pub(crate) fn new(node: &Arc<Inner>, term: Term, at_once: bool) -> Arc<Self> {
        Arc::new(Self {
            term,
            publisher: Publisher::new(node),
            uploads: Uploads::new(node.logged.clone(), at_once, node.config.chunk_bytes),
            window: Window::default(),
            chunk_writer: ChunkWriter::of(node, term),
            leads: AtomicBool::new(false),
            retired: watch::Sender::new(false),
        })
    }

    /// The state is at the log's end, all of which is shown.
    pub(crate) fn begin(&self, end: LogIndex) {
        self.publisher.begin(end);
        self.window.begin(end);
        self.leads.store(true, Ordering::Release);
    }

    /// Whether entries are made.
    pub(crate) fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }

    /// Entries were made; they are not durable yet.
    pub(crate) fn entries_made(&self, entries: &[(Position, Arc<Entry>)]) {
        self.window.push(entries);
        self.uploads.push(entries);
    }

    /// Everything that belongs to this term ends; requests that wait are answered with `reason`.
    pub(crate) fn end(&self, reason: Unavailable) {
        self.retired.send_replace(true);
        self.publisher.close(reason);
        self.uploads.stop();
    }

    pub(crate) fn is_retired(&self) -> bool {
        *self.retired.borrow()
    }

    /// Resolves once [`end`](Self::end) was called.
    pub(crate) async fn ended(&self) {
        let mut retired = self.retired.subscribe();
        // The sender lives as long as self.
        let _ = retired.wait_for(|retired| *retired).await;
    }
}
