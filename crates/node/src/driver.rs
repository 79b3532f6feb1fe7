//! Drives the engine: every call into it, and every command it gives, in the order it gives them.
//!
//! Calls come from many threads: the log thread, streams, ticks, calls to object storage. Operations on the local
//! database go into the log thread's queue under the engine's lock; all other commands go into one queue that one
//! caller at a time works off, so that none overtakes another. No command blocks.

use crate::clock::boot_millis;
use crate::error::NodeError;
use crate::fail_stop::FailStop;
use crate::faults::Subject;
use crate::load_log::{self, LogState};
use crate::local_queue::{Brought, LocalItem, LocalQueue};
use crate::log_thread::Gone;
use crate::node::{Ended, Inner};
use crate::read_wait::{ReadWait, Told};
use crate::reports;
use crate::roles;
use crate::store_calls::{self, StoreCalls};
use crate::streams::Streams;
use netsy_protocol::command::{Command, StoreCall};
use netsy_protocol::engine::Engine;
use netsy_protocol::event::{CallId, Event, LocalSeq, StoreResult};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

/// What drives the engine.
pub(crate) struct Driver {
    engine: Mutex<Engine>,
    commands: Mutex<Commands>,
    pub(crate) locals: LocalQueue,
    /// The last local operation that is durable.
    local_done: watch::Sender<LocalSeq>,
    pub(crate) reads: ReadWait,
    pub(crate) calls: StoreCalls,
    pub(crate) log_state: LogState,
    abandoned: Mutex<BTreeMap<CallId, oneshot::Sender<()>>>,
    pub(crate) streams: Streams,
    /// When the engine wants its next tick.
    wake: Mutex<Option<u64>>,
    woken: Notify,
    /// A graceful stop has come so far that only requests under way are to be finished.
    pub(crate) left: watch::Sender<bool>,
    /// What the engine said at the end of a graceful stop.
    pub(crate) stopped: watch::Sender<Option<String>>,
    pub(crate) seen: reports::Seen,
    /// Writes are held up in the log thread.
    pub(crate) paused: AtomicBool,
}

#[derive(Default)]
struct Commands {
    queue: VecDeque<Command>,
    busy: bool,
}

impl Driver {
    pub(crate) fn new(engine: Engine) -> Self {
        Self {
            engine: Mutex::new(engine),
            commands: Mutex::default(),
            locals: LocalQueue::default(),
            local_done: watch::Sender::new(LocalSeq(0)),
            reads: ReadWait::default(),
            calls: StoreCalls::default(),
            log_state: LogState::default(),
            abandoned: Mutex::default(),
            streams: Streams::default(),
            wake: Mutex::new(None),
            woken: Notify::new(),
            left: watch::Sender::new(false),
            stopped: watch::Sender::new(None),
            seen: reports::Seen::default(),
            paused: AtomicBool::new(false),
        }
    }
}

impl Inner {
    /// Calls the engine and has its commands carried out.
    pub(crate) fn engine<T>(self: &Arc<Self>, call: impl FnOnce(&mut Engine, u64) -> T) -> T {
        self.engine_with(Brought::default(), call).0
    }

    /// Looks at the engine without changing it.
    pub(crate) fn ask_engine<T>(&self, ask: impl FnOnce(&Engine, u64) -> T) -> T {
        ask(&self.driver.engine.lock(), boot_millis())
    }

    /// The same with what came with an event; gives also the last local operation that was asked for.
    pub(crate) fn engine_with<T>(
        self: &Arc<Self>,
        mut brought: Brought,
        call: impl FnOnce(&mut Engine, u64) -> T,
    ) -> (T, Option<LocalSeq>) {
        let _fail_stop = FailStop("engine");
        let driver = &self.driver;
        let (mut tell, mut last_local, mut any) = (false, None, false);
        let result = {
            let mut engine = driver.engine.lock();
            let result = call(&mut engine, boot_millis());
            let mut commands: Option<parking_lot::MutexGuard<'_, Commands>> = None;
            while let Some(command) = engine.next_command() {
                match command {
                    Command::Local { seq, op } => {
                        tell |= driver.locals.push(seq, op, &mut brought);
                        last_local = Some(seq);
                        continue;
                    }
                    // The log thread rolls the state back in its turn; the rest is done by `execute`.
                    Command::StepDown { .. } => tell |= driver.locals.push_item(LocalItem::StepDown),
                    _ => {}
                }
                any = true;
                commands.get_or_insert_with(|| driver.commands.lock()).queue.push_back(command);
            }
            result
        };
        if tell {
            self.thread.kick();
        }
        if any {
            self.work_off();
        }
        (result, last_local)
    }

    /// Carries out what is queued, unless somebody is at it: then that one does.
    fn work_off(self: &Arc<Self>) {
        loop {
            let batch = {
                let mut commands = self.driver.commands.lock();
                if commands.busy || commands.queue.is_empty() {
                    return;
                }
                commands.busy = true;
                std::mem::take(&mut commands.queue)
            };
            for command in batch {
                self.execute(command);
            }
            self.driver.commands.lock().busy = false;
        }
    }

    fn execute(self: &Arc<Self>, command: Command) {
        match command {
            Command::Local { .. } => {}
            Command::Send { to, message } => self.send_message(&to, &message),
            Command::Store { call, what } => self.begin_call(call, what),
            Command::Abandon(call) => {
                if let Some(abandon) = self.driver.abandoned.lock().remove(&call) {
                    // Ended by itself at this moment.
                    let _ = abandon.send(());
                }
            }
            Command::Follow { stream, primary, hello } => self.follow(stream, primary, *hello),
            Command::ToReplica { stream, frame } => self.to_replica(stream, frame),
            Command::ToPrimary { stream, frame } => self.to_primary(stream, frame),
            Command::CloseStream(stream) => self.close_stream(stream),
            Command::Show(index) => roles::show(self, index),
            Command::StartUploads { term, after, last_index } => roles::start_uploads(self, term, after, last_index),
            Command::Flush(index) => roles::flush(self, index),
            Command::UploadAtOnce(at_once) => roles::upload_at_once(self, at_once),
            Command::Lead { term } => roles::lead(self, term),
            Command::StepDown { term } => roles::step_down(self, term),
            Command::ReadsReady { through, index } => self.driver.reads.tell(through, Told::Ready(index)),
            Command::ReadsFailed { through } => self.driver.reads.tell(through, Told::Again),
            Command::Nodes(nodes) => self.saw_nodes(nodes),
            Command::RefuseWatchesBelow(floor) => roles::refuse_watches_below(self, floor),
            Command::Compact(revision) => roles::compact(self, revision),
            Command::Rebuild(why) => self.end(crate::error::Unavailable::NoLeader, Ended::Rebuild(why)),
            Command::Halt(why) => self.halt(why),
            Command::Left => {
                self.driver.left.send_replace(true);
                roles::look(self);
            }
            Command::Stopped { undone } => {
                self.driver.stopped.send_replace(Some(undone));
            }
            Command::Report(report) => reports::report(self, report),
            Command::Wake(at) => {
                let mut wake = self.driver.wake.lock();
                let sooner = wake.is_none_or(|known| at < known);
                if sooner {
                    *wake = Some(at);
                    drop(wake);
                    self.driver.woken.notify_one();
                }
            }
        }
    }

    /// The node ends, loudly: committed state would be lost otherwise.
    pub(crate) fn halt(self: &Arc<Self>, why: String) {
        tracing::error!(%why, "halted");
        self.end(crate::error::Unavailable::NoLeader, Ended::Failed(format!("halted: {why}")));
    }

    fn begin_call(self: &Arc<Self>, call: CallId, what: StoreCall) {
        let node = self.clone();
        let (abandon, mut abandoned) = oneshot::channel();
        let subject = Subject::of(&what);
        self.driver.calls.faults.begun(subject);
        let loads = matches!(what, StoreCall::LoadLog);
        let breakable = matches!(what, StoreCall::LoadLog | StoreCall::CreateSeal { .. });
        if breakable {
            self.driver.abandoned.lock().insert(call, abandon);
        }
        self.spawn("a call to object storage", async move {
            let work = async {
                match what {
                    StoreCall::LoadLog => load_log::load_log(&node, call).await,
                    StoreCall::CreateSeal { seq, term } => load_log::create_seal(&node, call, seq, term).await,
                    StoreCall::CheckSeal { seq } => load_log::check_seal(&node, seq).await,
                    other => store_calls::call(&node, other).await,
                }
            };
            let result = if breakable {
                tokio::select! {
                    result = work => result,
                    // An error: the sender was dropped, which only this task's end does.
                    Ok(()) = &mut abandoned => StoreResult::Unknown,
                }
            } else {
                work.await
            };
            node.driver.calls.faults.ended(subject, &result);
            let pause = if loads { node.driver.log_state.pause_after(&result) } else { Duration::ZERO };
            if !pause.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = &mut abandoned => {}
                }
            }
            node.driver.abandoned.lock().remove(&call);
            node.engine(|engine, now| engine.handle(now, Event::StoreDone { call, result }));
        });
    }

    /// All local operations up to `seq` are durable.
    pub(crate) fn local_done(self: &Arc<Self>, seq: LocalSeq) {
        self.engine(|engine, now| engine.local_done(now, seq));
        self.driver.local_done.send_replace(seq);
    }

    /// Waits until a local operation is durable.
    pub(crate) async fn local_done_through(&self, seq: LocalSeq) -> Result<(), Gone> {
        let mut done = self.driver.local_done.subscribe();
        let wait = done.wait_for(|done| *done >= seq);
        tokio::select! {
            found = wait => found.map(|_| ()).map_err(|_| Gone),
            () = self.wait_ended() => Err(Gone),
        }
    }

    /// Lets a linearizable read in by the engine's word (R9): waits for a proof, and for a Primary if there is none.
    pub(crate) async fn read_proof(self: &Arc<Self>) -> Result<crate::reads::Entered, NodeError> {
        use crate::error::Unavailable;
        use crate::reads::Entered;
        use netsy_protocol::read::ReadStart;
        let mut leader = self.leader.subscribe();
        loop {
            leader.borrow_and_update();
            let start = self.engine(|engine, now| match engine.read_begin(now) {
                ReadStart::Now(ticket) => Ok(Some(Ok(ticket))),
                // Under the engine's lock: nobody is told of this read before it waits.
                ReadStart::Wait(id) => self.driver.reads.wait(id).map(|told| Some(Err(told))),
                ReadStart::NoPrimary => Ok(None),
            })?;
            match start {
                Some(Ok(ticket)) => return Ok(Entered::Now(self.clone(), ticket)),
                Some(Err(told)) => match told.await {
                    Ok(Told::Ready(index)) => {
                        self.wait_shown(index).await?;
                        return Ok(Entered::Settled);
                    }
                    Ok(Told::Again) => {}
                    Err(_) => return Err(Unavailable::Stopped.into()),
                },
                None => {}
            }
            if self.is_ended() || self.driver.stopped.borrow().is_some() {
                return Err(Unavailable::Stopped.into());
            }
            // Until who asks gives up, or somebody leads.
            let _ = tokio::time::timeout(NO_PRIMARY_PAUSE, leader.changed()).await;
        }
    }

    /// Waits until readers see everything up to `index`.
    pub(crate) async fn wait_shown(&self, index: netsy_api::ids::LogIndex) -> Result<(), NodeError> {
        if self.shown_index() >= index {
            return Ok(());
        }
        let mut shown = self.shown.subscribe();
        tokio::select! {
            found = shown.wait_for(|shown| *shown >= index) => found.map(|_| ()).map_err(|_| Gone.into()),
            () = self.wait_ended() => Err(Gone.into()),
        }
    }
}

/// Pause before a read asks again where no Primary was ready.
const NO_PRIMARY_PAUSE: Duration = Duration::from_millis(20);

/// Ticks: every tenth of the heartbeat interval, and when the engine asked for one.
pub(crate) async fn ticks(node: Arc<Inner>) {
    let every = (node.config.heartbeat_interval / 10).max(Duration::from_millis(1));
    loop {
        let wanted = node.driver.wake.lock().take();
        let pause = match wanted {
            Some(at) => Duration::from_millis(at.saturating_sub(boot_millis())).min(every),
            None => every,
        };
        tokio::select! {
            () = node.wait_ended() => return,
            () = node.driver.woken.notified() => continue_with(&node, wanted),
            () = tokio::time::sleep(pause) => {
                let lowest = node.hub().oldest_needed();
                node.engine(|engine, now| {
                    engine.handle(now, Event::WatchLowest(lowest));
                    engine.handle(now, Event::Tick);
                });
                roles::look(&node);
            }
        }
    }
}

/// A sooner wish came: the one that was taken out is kept beside it.
fn continue_with(node: &Inner, wanted: Option<u64>) {
    let mut wake = node.driver.wake.lock();
    *wake = match (*wake, wanted) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}
