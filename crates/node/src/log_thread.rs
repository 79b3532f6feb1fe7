//! The log thread: the only one that changes the local database, whatever role the node has.
//!
//! Everything that waits is done in the order it came in. Writes of clients are evaluated and committed in batches
//! while this node is Primary ([`writer`](crate::writer)); entries of a Primary that it follows are committed in
//! batches with one sync each; everything else (promises, truncation, restores, upkeep) runs between them. As the
//! queue is one, what was accepted before a promise is durable before the promise is (R2).

use crate::clock::boot_millis;
use crate::error::{NodeError, Unavailable};
use crate::fail_stop::FailStop;
use crate::failpoint;
use crate::load_log;
use crate::local_queue::{LocalItem, Op};
use crate::node::Inner;
use crate::primary::Primary;
use crate::publisher::Reply;
use crate::reads::StoredValues;
use crate::roles;
use crate::writer::{Answer, BATCH_BYTES_MAX, BATCH_REQUESTS_MAX, ENTRY_OVERHEAD_BYTES};
use netsy_api::ids::{LogIndex, Position, Revision};
use netsy_api::log::Entry;
use netsy_localdb as localdb;
use netsy_mvcc::WriteRequest;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

use netsy_protocol::event::{Event, LocalSeq};

/// Commands that may wait for the thread; more wait in their callers.
pub(crate) const QUEUE_COMMANDS_MAX: usize = 8192;
/// Pause before a local commit that failed is tried again.
const COMMIT_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The note that names the newest process of this database that led a term (R9).
pub(crate) const LED_NOTE: &str = "led";

type Task = Box<dyn FnOnce(&mut localdb::Writer) + Send>;

pub(crate) enum Command {
    /// A client's write, for the Primary.
    Write {
        request: WriteRequest,
        reply: Reply,
    },
    /// The engine's queue has something.
    Kick,
    /// Anything else that needs the database.
    Run(Task),
    Stop {
        done: oneshot::Sender<localdb::Writer>,
    },
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

    /// The same, waiting on a thread that may block.
    pub(crate) fn with_blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut localdb::Writer) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (done, result) = oneshot::channel();
        let task = move |db: &mut localdb::Writer| {
            // Whoever asked may be gone: then nobody wants the result.
            let _ = done.send(f(db));
        };
        self.0.blocking_send(Command::Run(Box::new(task))).map_err(|_| Gone)?;
        result.blocking_recv().map_err(|_| Gone)
    }

    /// The engine's queue has something. A full queue of commands needs no kick: the thread looks at each turn.
    pub(crate) fn kick(&self) {
        let _ = self.0.try_send(Command::Kick);
    }

    /// Commands that wait for the thread.
    pub(crate) fn queued(&self) -> usize {
        self.0.max_capacity() - self.0.capacity()
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
    /// Entries up to here are not whole any more, as the engine was told.
    partial: LogIndex,
    /// The disk has no room, as the engine was told.
    disk_full: bool,
}

impl LogWork {
    pub(crate) fn new(node: Arc<Inner>, db: localdb::Writer) -> Self {
        Self { node, db, leading: None, partial: LogIndex(0), disk_full: false }
    }

    /// Runs until told to stop or until nobody can send any more. Blocks: has a thread of its own.
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let _fail_stop = FailStop("log");
        self.changed();
        let mut requests = Vec::with_capacity(BATCH_REQUESTS_MAX);
        while let Some(first) = commands.blocking_recv() {
            let mut next = Some(first);
            while let Some(command) = next.take() {
                match command {
                    Command::Write { request, reply } => {
                        failpoint::hit("write.accepted");
                        requests.push((request, reply));
                        if requests.len() < BATCH_REQUESTS_MAX {
                            next = commands.try_recv().ok();
                        }
                    }
                    Command::Kick => {}
                    Command::Run(task) => {
                        self.batch(&mut requests);
                        self.locals(None);
                        task(&mut self.db);
                        self.changed();
                    }
                    Command::Stop { done } => {
                        self.batch(&mut requests);
                        self.locals(None);
                        // Whoever asked for the stop may be gone; then the database just closes.
                        let _ = done.send(self.db);
                        return;
                    }
                }
            }
            self.batch(&mut requests);
            self.locals(None);
            if self.leading.is_none() {
                // Those that were held up are told to go elsewhere.
                self.batch(&mut requests);
            }
        }
    }

    /// Does what the engine asked for; with `before`: what stands before that operation. Entries that follow each
    /// other share a sync.
    pub(crate) fn locals(&mut self, before: Option<LocalSeq>) {
        if before.is_none() {
            self.node.driver.locals.told.store(false, Ordering::Release);
        }
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut bytes = 0;
        let mut stored = None;
        while let Some(item) = self.node.driver.locals.pop(before) {
            if let LocalItem::Op { seq, op: Op::Store(more) } = item {
                bytes += more.iter().map(|e| e.payload_bytes() + ENTRY_OVERHEAD_BYTES).sum::<usize>();
                entries.extend(more);
                stored = Some(seq);
                if bytes >= BATCH_BYTES_MAX {
                    bytes = 0;
                    self.store(&mut entries, stored.take());
                }
                continue;
            }
            self.store(&mut entries, stored.take());
            bytes = 0;
            match item {
                LocalItem::Op { seq, op } => match self.operate(op) {
                    Ok(()) => {
                        self.changed();
                        self.node.local_done(seq);
                    }
                    Err(why) => {
                        self.node.halt(format!("local database: {why}"));
                        return;
                    }
                },
                LocalItem::Lead(primary) => self.lead(primary),
                LocalItem::StepDown => self.retire(),
            }
        }
        self.store(&mut entries, stored);
    }

    fn operate(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Promise(term) => {
                self.until_written(|db| db.set_promised_term(term))?;
                failpoint::hit("start.promised");
            }
            Op::Truncate(after) => {
                self.node.follower.truncated(after);
                self.until_written(|db| db.truncate_after(after))?;
            }
            Op::Led(session) => self.until_written(|db| db.set_note(LED_NOTE, session.to_string().as_bytes()))?,
            Op::Install(snapshot) => {
                let index = snapshot.built.end().index;
                let visible_index = self.node.shown_index();
                let end = localdb::RestoreEnd { visible_index, uploaded: snapshot.uploaded };
                self.node.follower.installed(index);
                self.db.finish_restore(snapshot.built, &end).map_err(|e| e.to_string())?;
            }
            Op::Missing(what) => return Err(what),
            Op::Store(_) => {}
        }
        Ok(())
    }

    /// Repeats a change while the disk is full; another error is one that repeating does not mend.
    fn until_written(
        &mut self,
        mut change: impl FnMut(&mut localdb::Writer) -> Result<(), localdb::Error>,
    ) -> Result<(), String> {
        loop {
            match change(&mut self.db) {
                Ok(()) => {
                    self.disk_has_room();
                    return Ok(());
                }
                Err(error) if error.is_disk_full() && !self.node.is_ended() => self.wait_for_room(&error),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Nothing is answered from this node's own disk meanwhile; readiness says why, and a Primary hands over.
    fn wait_for_room(&mut self, error: &localdb::Error) {
        if !std::mem::replace(&mut self.disk_full, true) {
            tracing::error!(%error, "local database: writes wait until it can be written again");
        }
        self.node.metrics.set_local_fault(Some(error.to_string()));
        self.node.engine(|engine, now| engine.handle(now, Event::DiskFull(true)));
        std::thread::sleep(COMMIT_RETRY_PAUSE);
    }

    fn disk_has_room(&mut self) {
        if std::mem::take(&mut self.disk_full) {
            self.node.metrics.set_local_fault(None);
            tracing::info!("local database: writable again");
            self.node.engine(|engine, now| engine.handle(now, Event::DiskFull(false)));
        }
    }

    /// Commits entries of the Primary that is followed, or of the object log, with one sync.
    fn store(&mut self, entries: &mut Vec<Arc<Entry>>, seq: Option<LocalSeq>) {
        let Some(seq) = seq else { return };
        let mut position = self.db.end().position.next();
        let mut placed: Vec<(Position, Arc<Entry>)> = Vec::with_capacity(entries.len());
        for entry in entries.drain(..) {
            let next = Position(position.0 + entry.mutations.len() as u64);
            placed.push((position, entry));
            position = next;
        }
        failpoint::hit("follow.before-local-commit");
        if self.commit(&placed) {
            failpoint::hit("follow.after-local-commit");
            self.changed();
            self.node.follower.keep(placed);
            self.node.local_done(seq);
        }
    }

    /// The state is at the log's end: entries are made here from now on.
    fn lead(&mut self, primary: Arc<Primary>) {
        if primary.is_retired() {
            return;
        }
        self.node.follower.lead();
        let end = self.db.end().index;
        let at = {
            let mut store = self.node.store.write();
            store.lease_extend_all(boot_millis());
            (store.visible_index(), store.last_index())
        };
        if at != (end, end) {
            let (visible, last) = at;
            self.node.halt(format!("a Primary whose log ends at {end} is to lead, its state at {visible} and {last}"));
            return;
        }
        primary.begin(end);
        self.measure();
        self.leading = Some(primary.clone());
        roles::led(&self.node, &primary);
    }

    /// R7, R8: a state that was evaluated ahead goes back to what readers saw. Its rows stay: whoever leads now says
    /// which of them are the log's.
    fn retire(&mut self) {
        if self.leading.take().is_none() {
            return;
        }
        let visible = {
            let mut store = self.node.store.write();
            let visible = store.visible_index();
            if let Err(error) = store.rollback(visible) {
                drop(store);
                self.node.halt(error.to_string());
                return;
            }
            store.lease_forget_deadlines();
            visible
        };
        self.node.compactions.roll_back(visible);
        let end = self.db.end().index;
        if end < visible {
            // A chunk that landed committed them, and the disk never took them.
            self.node.halt(format!("entries up to {visible} were shown, the local database ends at {end}"));
            return;
        }
        self.node.follower.follow();
    }

    /// The database changed.
    pub(crate) fn changed(&mut self) {
        self.node.note_runs(self.db.term_runs());
        self.held();
        let partial = self.db.progress().partial_through;
        if partial != self.partial {
            self.partial = partial;
            self.node.engine(|engine, _| engine.set_entries_from(partial.next()));
        }
    }

    fn held(&self) {
        let end = self.db.end().index;
        self.node.held_locally.send_if_modified(|held| std::mem::replace(held, end) != end);
    }

    /// Commits to the local database. While its disk is full this is repeated, since others build on it; any other failure
    /// is one that repeating does not mend. False: the node goes down, and nothing of it was promised to be here.
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
                Ok(()) => break self.node.metrics.usage.commit(),
                Err(error) if error.is_disk_full() => {
                    self.wait_for_room(&error);
                    if self.node.is_ended() {
                        return false;
                    }
                }
                Err(error) => {
                    self.node.halt(format!("local database: {error}"));
                    return false;
                }
            }
        }
        self.disk_has_room();
        let bytes = entries.iter().map(|(_, entry)| entry.payload_bytes()).sum();
        self.node.metrics.local_commit(started.elapsed(), entries.len(), bytes);
        true
    }

    /// What is to be noted of the object log: only where the database holds the same.
    fn uploaded(&self) -> Option<localdb::Uploaded> {
        let tail = self.node.tail();
        let news = tail.seq > self.db.progress().uploaded.seq;
        (news && load_log::fits(&self.db, &tail)).then(|| load_log::uploaded(&tail))
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
