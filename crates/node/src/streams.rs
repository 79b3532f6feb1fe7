//! The streams on which the log travels: to this node from the Primary it follows, and from it to its followers.

use crate::local_queue::Brought;
use crate::node::Inner;
use crate::primary::Primary;
use crate::window::{EntryBatch, Next};
use crate::wire;
use netsy_api::ids::{LogIndex, NodeId};
use netsy_api::peer::{PrimaryFrame, ReplicaFrame};
use netsy_objects::object_log::LogPoint;
use netsy_peer::{FollowerStream, FrameReceiver, FrameSender, Remote};
use netsy_protocol::event::{Event, StreamId};
use netsy_protocol::message::{Append, Hello, ToPrimary, ToReplica};
use netsy_protocol::reconcile::Run;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Frames that may wait to be sent on a stream, beside entries: a stream that takes none of so many is closed.
const FRAMES_MAX: usize = 4096;
/// Bytes of entries read back for a follower at a time.
const READ_BACK_BYTES: usize = 2 << 20;
/// Numbers of accepted streams begin here: the engine numbers those it opens from the other end.
const ACCEPTED_FIRST: u64 = 1 << 63;
/// Pause after a stream could not be opened, so that a Primary that is gone is not called without end.
const OPEN_PAUSE: Duration = Duration::from_millis(20);

/// One end of a stream that runs.
struct Handle<T> {
    frames: mpsc::Sender<T>,
    /// True: the stream is to end.
    stop: watch::Sender<bool>,
}

/// Those that run.
#[derive(Default)]
pub(crate) struct Streams {
    accepted: AtomicU64,
    following: Mutex<Option<(StreamId, Handle<ToPrimary>)>>,
    followers: Mutex<BTreeMap<StreamId, Handle<ToReplica>>>,
}

impl Streams {
    /// This node leads no more: nobody is sent anything any more.
    pub(crate) fn close_followers(&self) {
        for follower in std::mem::take(&mut *self.followers.lock()).into_values() {
            follower.stop.send_replace(true);
        }
    }
}

impl Inner {
    /// Opens a stream to the Primary; an older one ends.
    pub(crate) fn follow(self: &Arc<Self>, stream: StreamId, primary: NodeId, hello: Hello) {
        let (frames, queue) = mpsc::channel(FRAMES_MAX);
        let (stop, stopping) = watch::channel(false);
        let before = self.driver.streams.following.lock().replace((stream, Handle { frames, stop }));
        if let Some((_, before)) = before {
            before.stop.send_replace(true);
        }
        let node = self.clone();
        self.spawn("following", async move {
            let mut stopping = stopping;
            tokio::select! {
                () = run_following(&node, stream, &primary, hello, queue) => {}
                _ = stopping.wait_for(|stop| *stop) => {}
                () = node.wait_ended() => return,
            }
            {
                let mut following = node.driver.streams.following.lock();
                if following.as_ref().is_some_and(|(id, _)| *id == stream) {
                    *following = None;
                }
            }
            node.engine(|engine, now| engine.handle(now, Event::StreamClosed(stream)));
            crate::roles::look(&node);
        });
    }

    pub(crate) fn to_primary(&self, stream: StreamId, frame: ToPrimary) {
        let following = self.driver.streams.following.lock();
        if let Some((id, handle)) = following.as_ref()
            && *id == stream
            && handle.frames.try_send(frame).is_err()
        {
            // It takes nothing any more.
            handle.stop.send_replace(true);
        }
    }

    pub(crate) fn to_replica(&self, stream: StreamId, frame: ToReplica) {
        let followers = self.driver.streams.followers.lock();
        if let Some(handle) = followers.get(&stream)
            && handle.frames.try_send(frame).is_err()
        {
            handle.stop.send_replace(true);
        }
    }

    pub(crate) fn close_stream(&self, stream: StreamId) {
        if let Some(follower) = self.driver.streams.followers.lock().remove(&stream) {
            follower.stop.send_replace(true);
        }
        let following = self.driver.streams.following.lock();
        if let Some((id, handle)) = following.as_ref()
            && *id == stream
        {
            handle.stop.send_replace(true);
        }
    }

    /// Serves a replica that wants to follow; ends with the stream.
    pub(crate) async fn serve_follower(self: Arc<Self>, from: Arc<Remote>, stream: FollowerStream) {
        let FollowerStream { sender, mut receiver } = stream;
        let hello = match receiver.next().await {
            Ok(Some(frame)) => wire::hello(frame),
            _ => return,
        };
        let hello = match hello {
            Ok(hello) if hello.process.node_id == from.node_id && hello.process.session == from.session => hello,
            Ok(_) => {
                tracing::warn!(peer = %from.node_id, "a stream in another process's name was refused");
                return;
            }
            Err(error) => {
                tracing::warn!(peer = %from.node_id, %error, "a stream that began badly was refused");
                return;
            }
        };
        let id = StreamId(ACCEPTED_FIRST + self.driver.streams.accepted.fetch_add(1, Ordering::Relaxed));
        let (frames, queue) = mpsc::channel(FRAMES_MAX);
        let (stop, mut stopping) = watch::channel(false);
        self.driver.streams.followers.lock().insert(id, Handle { frames, stop });
        let hello = Box::new(hello);
        self.engine(|engine, now| engine.handle(now, Event::StreamHello { stream: id, hello }));
        tokio::select! {
            () = send_to_follower(&self, id, sender, queue) => {}
            () = hear_follower(&self, id, &from, receiver) => {}
            _ = stopping.wait_for(|stop| *stop) => {}
            () = self.wait_ended() => {}
        }
        self.driver.streams.followers.lock().remove(&id);
        self.engine(|engine, now| engine.handle(now, Event::StreamClosed(id)));
    }
}

/// Replica: runs the stream until it breaks.
async fn run_following(
    node: &Arc<Inner>,
    stream: StreamId,
    primary: &NodeId,
    hello: Hello,
    mut queue: mpsc::Receiver<ToPrimary>,
) {
    let Some(peer) = node.peers().and_then(|peers| peers.peer(primary)) else {
        tokio::time::sleep(OPEN_PAUSE).await;
        return;
    };
    peer.connect_now();
    let opened = match peer.follow().await {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(%primary, %error, "no stream to the Primary yet");
            tokio::time::sleep(OPEN_PAUSE).await;
            return;
        }
    };
    let (sender, receiver) = (opened.sender, opened.receiver);
    if sender.send(&wire::follow(&hello)).await.is_err() {
        return;
    }
    let send = async {
        while let Some(frame) = queue.recv().await {
            if sender.send(&wire::to_primary(&frame)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = send => {}
        () = hear_primary(node, stream, receiver) => {}
    }
}

async fn hear_primary(node: &Arc<Inner>, stream: StreamId, mut receiver: FrameReceiver<PrimaryFrame>) {
    loop {
        let frame = match receiver.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(lost) => {
                tracing::debug!(%lost, "the stream from the Primary broke");
                return;
            }
        };
        let (frame, entries, log_end) = match wire::to_replica(frame) {
            Ok(parts) => parts,
            Err(error) => {
                tracing::error!(%error, "the Primary sent what is not understood");
                return;
            }
        };
        if let Some(point) = log_end {
            node.saw_tail(point);
        }
        let tells = matches!(frame, ToReplica::Welcome(_) | ToReplica::Refused { .. });
        if !entries.is_empty() {
            node.driver.locals.room().await;
        }
        let brought = Brought { entries, snapshot: None };
        node.engine_with(brought, |engine, now| engine.handle(now, Event::FromPrimary { stream, frame }));
        if tells {
            crate::roles::look(node);
        }
    }
}

/// Primary: takes receipts and signs of life until the stream breaks.
async fn hear_follower(node: &Arc<Inner>, stream: StreamId, from: &Remote, mut receiver: FrameReceiver<ReplicaFrame>) {
    loop {
        match receiver.next().await.map(|frame| frame.map(wire::from_replica)) {
            Ok(Some(Ok(ToPrimary::Receipt(receipt)))) => {
                node.engine(|engine, now| engine.receipt(now, stream, receipt));
            }
            Ok(Some(Ok(frame))) => {
                node.engine(|engine, now| engine.handle(now, Event::FromReplica { stream, frame }));
            }
            Ok(Some(Err(error))) => {
                tracing::error!(peer = %from.node_id, %error, "a replica sent what is not understood");
                return;
            }
            Ok(None) | Err(_) => return,
        }
    }
}

/// Primary: what the engine says, and from its welcome on all entries, in order.
async fn send_to_follower(
    node: &Arc<Inner>,
    stream: StreamId,
    sender: FrameSender<PrimaryFrame>,
    mut queue: mpsc::Receiver<ToReplica>,
) {
    let mut sending: Option<Sending> = None;
    let mut told = LogPoint::START;
    let mut shown = node.shown.subscribe();
    let mut logged = node.logged.subscribe();
    loop {
        // What the engine says goes first: it is small.
        while let Ok(frame) = queue.try_recv() {
            if !send_frame(node, &sender, frame, &mut sending, &mut told).await {
                return;
            }
        }
        let Some(now) = &mut sending else {
            let Some(frame) = queue.recv().await else { return };
            if !send_frame(node, &sender, frame, &mut sending, &mut told).await {
                return;
            }
            continue;
        };
        let batch = match now.primary.window.after(now.prev.last_index.next()) {
            Next::Entries(batch) => batch,
            Next::Stored => match read_back(node, now.prev.last_index.next()).await {
                Some(batch) => batch,
                None => return,
            },
            Next::Nothing => {
                // The commit index moved, or a chunk landed (a follower that is elected reads no chunk that it knows),
                // and there is nothing to tell it with.
                if *shown.borrow_and_update() > now.commit || logged.borrow_and_update().seq > told.seq {
                    let beat = node.ask_engine(|engine, _| engine.beat(stream));
                    now.commit = beat.commit;
                    if sender.send(&wire::from_primary(&ToReplica::Beat(beat), news(node, &mut told))).await.is_err() {
                        return;
                    }
                    continue;
                }
                let frame = tokio::select! {
                    frame = queue.recv() => frame,
                    changed = now.ends.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    changed = shown.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    changed = logged.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                };
                let Some(frame) = frame else { return };
                if !send_frame(node, &sender, frame, &mut sending, &mut told).await {
                    return;
                }
                continue;
            }
        };
        if batch.entries.is_empty() {
            // Handed over, and about to be in the database.
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        let runs = runs_of(&batch.entries);
        let Some(last) = runs.last().copied() else { return };
        let head = Append {
            term: now.primary.term,
            prev: now.prev,
            runs,
            commit: node.ask_engine(|engine, _| engine.committed()),
        };
        now.commit = head.commit;
        let head = wire::append_head(&head, news(node, &mut told));
        if sender.append(&head, batch.encoded()).await.is_err() {
            return;
        }
        now.prev = last;
    }
}

/// What a follower was sent.
struct Sending {
    primary: Arc<Primary>,
    prev: Run,
    /// The commit index it was told.
    commit: LogIndex,
    ends: watch::Receiver<LogIndex>,
}

async fn send_frame(
    node: &Arc<Inner>,
    sender: &FrameSender<PrimaryFrame>,
    frame: ToReplica,
    sending: &mut Option<Sending>,
    told: &mut LogPoint,
) -> bool {
    if let ToReplica::Welcome(welcome) = &frame {
        let Some(primary) = node.acting().filter(|primary| primary.term == welcome.term) else { return false };
        let Some(term) = node.ask_engine(|engine, _| engine.term_at(welcome.common)) else { return false };
        let ends = primary.window.watch_end();
        *sending =
            Some(Sending { primary, prev: Run { term, last_index: welcome.common }, commit: welcome.commit, ends });
    }
    sender.send(&wire::from_primary(&frame, news(node, told))).await.is_ok()
}

/// Where the object log ends, if that was not told yet.
fn news(node: &Inner, told: &mut LogPoint) -> Option<LogPoint> {
    let tail = node.tail();
    if tail.seq == told.seq {
        return None;
    }
    *told = tail;
    Some(tail)
}

fn runs_of(entries: &[Arc<netsy_api::log::Entry>]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(1);
    for entry in entries {
        match runs.last_mut() {
            Some(run) if run.term == entry.term => run.last_index = entry.index,
            _ => runs.push(Run { term: entry.term, last_index: entry.index }),
        }
    }
    runs
}

/// Entries that left memory. `None`: they are gone from the database, too, and the follower has to load them from the
/// object log.
async fn read_back(node: &Inner, from: LogIndex) -> Option<Arc<EntryBatch>> {
    let readers = node.readers.clone();
    let read = tokio::task::spawn_blocking(move || readers.entries_from(from, READ_BACK_BYTES)).await;
    match read {
        Ok(Ok(entries)) => {
            Some(Arc::new(EntryBatch::new(entries.into_iter().map(|(_, entry)| Arc::new(entry)).collect())))
        }
        Ok(Err(error)) => {
            tracing::info!(%error, "a follower needs entries that are not here any more");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "reading entries for a follower");
            None
        }
    }
}
