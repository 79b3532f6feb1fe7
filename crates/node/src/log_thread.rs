//! The log thread: the only one that changes the local database, whatever role the node has.
//!
//! Everything that waits is done in the order it came in. Writes of clients are evaluated and committed in batches
//! while this node is Primary ([`writer`](crate::writer)); entries of a Primary that it follows are committed in
//! batches with one sync each; everything else (promises, truncation, restores, upkeep) runs between them. As the
//! queue is one, what was accepted before a promise is durable before the promise is (R2).

use crate::adopt;
use crate::error::{NodeError, Unavailable};
use crate::failpoint;
use crate::node::Inner;
use crate::primary::Primary;
use crate::publisher::Reply;
use crate::reads::StoredValues;
use crate::writer::{Answer, BATCH_BYTES_MAX, BATCH_REQUESTS_MAX, ENTRY_OVERHEAD_BYTES};
use netsy_api::ids::{LogIndex, Position, Revision};
use netsy_api::log::Entry;
use netsy_localdb as localdb;
use netsy_mvcc::WriteRequest;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait for the thread; more wait in their callers.
pub(crate) const QUEUE_COMMANDS_MAX: usize = 8192;
/// Pause before a local commit that failed is tried again.
const COMMIT_RETRY_PAUSE: Duration = Duration::from_millis(500);

type Task = Box<dyn FnOnce(&mut localdb::Writer) + Send>;

pub(crate) enum Command {
    /// A client's write, for the Primary.
    Write { request: WriteRequest, reply: Reply },
    /// Entries of the Primary that this node follows, which continue the log (R7).
    Append { entries: Vec<Arc<Entry>> },
    /// Anything else that needs the database.
    Run(Task),
    /// This node is Primary from here on.
    Lead { primary: Arc<Primary>, done: oneshot::Sender<()> },
    /// It is Primary no more: what nobody was shown is taken out of the state again.
    Retire { done: oneshot::Sender<Result<(), String>> },
    Stop { done: oneshot::Sender<localdb::Writer> },
}

/// The thread is gone: the node stops.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone;

impl From<Gone> for NodeError {
    fn from(_: Gone) -> Self {
        Unavailable::Stopped.into()
    }
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the log thread has stopped")
    }
}

/// What sends commands to the thread.
#[derive(Clone)]
pub(crate) struct LogThread(mpsc::Sender<Command>);

impl LogThread {
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel(QUEUE_COMMANDS_MAX);
        (Self(commands), queue)
    }

    /// Has a write evaluated and waits until it is committed.
    pub(crate) async fn write(&self, request: WriteRequest) -> Result<Answer, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Write { request, reply }).await?;
        answer.await.map_err(|_| NodeError::from(Gone))?
    }

    /// Runs `f` with the database, after everything sent before.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut localdb::Writer) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (done, result) = oneshot::channel();
        let task = move |db: &mut localdb::Writer| {
            // Whoever asked may be gone: then nobody wants the result.
            let _ = done.send(f(db));
        };
        self.send(Command::Run(Box::new(task))).await?;
        result.await.map_err(|_| Gone)
    }

    /// Hands over entries of the Primary that is followed; returns before they are durable.
    pub(crate) async fn append(&self, entries: Vec<Arc<Entry>>) -> Result<(), Gone> {
        self.send(Command::Append { entries }).await
    }

    pub(crate) async fn lead(&self, primary: Arc<Primary>) -> Result<(), Gone> {
        let (done, led) = oneshot::channel();
        self.send(Command::Lead { primary, done }).await?;
        led.await.map_err(|_| Gone)
    }

    pub(crate) async fn retire(&self) -> Result<Result<(), String>, Gone> {
        let (done, retired) = oneshot::channel();
        self.send(Command::Retire { done }).await?;
        retired.await.map_err(|_| Gone)
    }

    /// Ends the thread; gives the database back.
    pub(crate) async fn stop(&self) -> Option<localdb::Writer> {
        let (done, stopped) = oneshot::channel();
        self.send(Command::Stop { done }).await.ok()?;
        stopped.await.ok()
    }

    async fn send(&self, command: Command) -> Result<(), Gone> {
        self.0.send(command).await.map_err(|_| Gone)
    }
}

/// What the thread runs on.
pub(crate) struct LogWork {
    pub(crate) node: Arc<Inner>,
    pub(crate) db: localdb::Writer,
    pub(crate) leading: Option<Arc<Primary>>,
}

impl LogWork {
    pub(crate) fn new(node: Arc<Inner>, db: localdb::Writer) -> Self {
        node.note_runs(db.term_runs());
        Self { node, db, leading: None }
    }

    /// Runs until told to stop or until nobody can send any more. Blocks: has a thread of its own.
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut requests = Vec::with_capacity(BATCH_REQUESTS_MAX);
        let mut appends: Vec<Arc<Entry>> = Vec::new();
        let mut append_bytes = 0;
        while let Some(first) = commands.blocking_recv() {
            let mut next = Some(first);
            while let Some(command) = next.take() {
                match command {
                    Command::Write { request, reply } => {
                        failpoint::hit("write.accepted");
                        self.append(&mut appends);
                        requests.push((request, reply));
                        if requests.len() < BATCH_REQUESTS_MAX {
                            next = commands.try_recv().ok();
                        }
                    }
                    Command::Append { entries } => {
                        self.batch(&mut requests);
                        append_bytes += entries.iter().map(|e| e.payload_bytes() + ENTRY_OVERHEAD_BYTES).sum::<usize>();
                        appends.extend(entries);
                        if append_bytes < BATCH_BYTES_MAX {
                            next = commands.try_recv().ok();
                        }
                    }
                    other => {
                        self.batch(&mut requests);
                        self.append(&mut appends);
                        if let Command::Stop { done } = other {
                            // Whoever asked for the stop may be gone; then the database just closes.
                            let _ = done.send(self.db);
                            return;
                        }
                        self.one(other);
                    }
                }
            }
            self.batch(&mut requests);
            self.append(&mut appends);
            append_bytes = 0;
        }
    }

    fn one(&mut self, command: Command) {
        match command {
            Command::Run(task) => {
                task(&mut self.db);
                self.node.note_runs(self.db.term_runs());
                self.held();
            }
            Command::Lead { primary, done } => {
                self.leading = Some(primary);
                // Whoever waited for it may be gone.
                let _ = done.send(());
            }
            Command::Retire { done } => {
                let _ = done.send(self.retire());
            }
            Command::Write { .. } | Command::Append { .. } | Command::Stop { .. } => unreachable!("handled by run"),
        }
    }

    /// R7, R8: a state that was evaluated ahead goes back to what readers saw. Its rows stay: whoever leads now says
    /// which of them are the log's.
    fn retire(&mut self) -> Result<(), String> {
        self.leading = None;
        let mut store = self.node.store.write();
        let visible = store.visible_index();
        store.rollback(visible).map_err(|e| e.to_string())?;
        store.lease_forget_deadlines();
        drop(store);
        self.node.compactions.roll_back(visible);
        let end = self.db.end().index;
        if end < visible {
            // A chunk that landed committed them, and the disk never took them.
            return Err(format!("entries up to {visible} were shown, the local database ends at {end}"));
        }
        Ok(())
    }

    /// Commits entries of the Primary that is followed, with one sync.
    fn append(&mut self, appends: &mut Vec<Arc<Entry>>) {
        let mut position = self.db.end().position.next();
        let mut entries: Vec<(Position, Arc<Entry>)> = Vec::with_capacity(appends.len());
        for entry in appends.drain(..) {
            let next = Position(position.0 + entry.mutations.len() as u64);
            entries.push((position, entry));
            position = next;
        }
        let Some((_, last)) = entries.last() else { return };
        let last = last.index;
        failpoint::hit("follow.before-local-commit");
        if self.commit(&entries) {
            failpoint::hit("follow.after-local-commit");
            self.node.note_runs(self.db.term_runs());
            self.held();
            self.node.appended(entries, last);
        }
    }

    fn held(&self) {
        let end = self.db.end().index;
        self.node.held_locally.send_if_modified(|held| std::mem::replace(held, end) != end);
    }

    /// Commits to the local database; a failure is repeated until it succeeds, since others build on it: meanwhile
    /// nothing is answered from this node's own disk, and readiness says why. False: the node goes down, and nothing
    /// of it was promised to be here.
    pub(crate) fn commit(&mut self, entries: &[(Position, Arc<Entry>)]) -> bool {
        let started = Instant::now();
        loop {
            let batch = localdb::Batch {
                entries,
                visible_index: Some(self.node.shown_index()),
                uploaded: self.uploaded(),
                ..localdb::Batch::default()
            };
            match self.db.commit(&batch) {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(%error, "local database: writes wait until it can be written again");
                    self.node.metrics.set_local_fault(Some(error.to_string()));
                    std::thread::sleep(COMMIT_RETRY_PAUSE);
                    let retired = self.leading.as_ref().is_some_and(|primary| primary.uploads.is_stopped());
                    if retired || self.node.is_ended() {
                        return false;
                    }
                }
            }
        }
        self.node.metrics.local_commit(started.elapsed(), entries.len());
        true
    }

    /// What is to be noted of the object log: only where the database holds the same.
    fn uploaded(&self) -> Option<localdb::Uploaded> {
        let tail = self.node.tail();
        let news = tail.seq > self.db.progress().uploaded.seq;
        (news && adopt::fits(&self.db, &tail)).then(|| adopt::uploaded(&tail))
    }

    pub(crate) fn values(&self) -> StoredValues<'_> {
        StoredValues(&self.node.readers)
    }
}

/// What a state that ends at an index and is followed by one entry is: its position and revision.
pub(crate) fn before_entry(first: Position, entry: &Entry) -> (Position, Revision) {
    let moves = entry.mutations.iter().any(netsy_api::log::Mutation::is_key_change);
    (first, Revision(entry.revision.0 - i64::from(moves)))
}

/// The index of the newest entry, for those that have to wait for it.
pub(crate) fn head(node: &Inner) -> LogIndex {
    node.store.read().last_index()
}
