//! What changes when the node becomes Primary, is one, and is one no more, as the engine says.

use crate::background;
use crate::error::{NodeError, Unavailable};
use crate::failpoint;
use crate::gather::Gather;
use crate::local_queue::LocalItem;
use crate::node::{Ended, Inner};
use crate::primary::Primary;
use crate::reports;
use crate::uploader::{UploadEnd, Uploader};
use netsy_api::ids::{ChunkSeq, LogIndex, Revision, Term};
use netsy_mvcc::WriteRequest;
use netsy_protocol::event::Event;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Readers and watches see entries up to `index` (R8).
pub(crate) fn show(node: &Arc<Inner>, index: LogIndex) {
    match node.acting().filter(|primary| primary.leads()) {
        Some(primary) => primary.publisher.advance(index),
        None => node.follower.show_through(index),
    }
}

/// R4: the seal stands, and what the own log has beyond it goes up.
pub(crate) fn start_uploads(node: &Arc<Inner>, term: Term, after: ChunkSeq, last_index: LogIndex) {
    let Some(point) = node.driver.log_state.sealed(after) else {
        node.halt(format!("the seal of term {term} at chunk {after} is not the one that was made"));
        return;
    };
    if point.last_index != last_index {
        node.halt(format!("the seal of term {term} stands after entry {}, not after {last_index}", point.last_index));
        return;
    }
    node.saw_tail(point);
    let primary = Primary::new(node, term, node.upload_at_once());
    primary.uploads.extend_to(*node.held_locally.borrow());
    node.set_acting(Some(primary.clone()));
    let uploader = Uploader {
        age: node.config.chunk_age,
        node: node.clone(),
        primary: primary.clone(),
        gather: Gather::default(),
    };
    let node = node.clone();
    node.clone().spawn("uploads", async move {
        let end = uploader.run().await;
        uploading_ended(&node, &primary, end);
    });
}

fn uploading_ended(node: &Arc<Inner>, primary: &Primary, end: UploadEnd) {
    match end {
        UploadEnd::Stopped => {}
        UploadEnd::Deposed { by, why } => {
            tracing::warn!(term = primary.term.0, %why, "another process writes the object log");
            node.engine(|engine, now| engine.chunk_taken(now, primary.term, by));
        }
        UploadEnd::Failed(why) => {
            tracing::error!(%why, "this node cannot write the object log");
            node.end(Unavailable::NoLeader, Ended::Failed(why));
        }
    }
}

/// Everything up to `index` is wanted in the object log now.
pub(crate) fn flush(node: &Arc<Inner>, index: LogIndex) {
    if let Some(primary) = node.acting() {
        primary.uploads.extend_to(index);
    }
}

/// Whether chunks leave as soon as there is something to upload.
pub(crate) fn upload_at_once(node: &Arc<Inner>, at_once: bool) {
    node.set_upload_at_once(at_once);
    if let Some(primary) = node.acting() {
        primary.uploads.set_at_once(at_once);
    }
}

/// R4 is done: once the state is at the log's end, requests are taken.
pub(crate) fn lead(node: &Arc<Inner>, term: Term) {
    let Some(primary) = node.acting().filter(|primary| primary.term == term) else {
        node.halt(format!("term {term} is to be led without a seal"));
        return;
    };
    failpoint::hit("start.tail-uploaded");
    let node = node.clone();
    node.clone().spawn("taking over", async move {
        if node.follower.wait_shown(&node).await.is_err() || primary.is_retired() {
            return;
        }
        if node.driver.locals.push_item(LocalItem::Lead(primary)) {
            node.thread.kick();
        }
    });
}

/// The log thread leads from here on: requests are let in.
pub(crate) fn led(node: &Arc<Inner>, primary: &Arc<Primary>) {
    let term = primary.term;
    node.engine(|engine, now| engine.handle(now, Event::Leading(term)));
    node.set_leading(primary);
    look(node);
    if node.leading().is_some_and(|leading| Arc::ptr_eq(&leading, primary)) {
        tracing::info!(term = term.0, node = %node.config.node_id, database = %node.incarnation, "this node is Primary");
        node.spawn("leases", background::leases(node.clone(), primary.clone()));
        node.spawn("automatic compaction", background::automatic_compaction(node.clone(), primary.clone()));
    }
}

/// This node is Primary no more: what waits ends with an unknown outcome. The log thread rolls the state back in its
/// turn.
pub(crate) fn step_down(node: &Arc<Inner>, term: Term) {
    let Some(primary) = node.acting() else { return };
    node.set_acting(None);
    primary.end(if node.is_stopping() { Unavailable::Stopped } else { Unavailable::LeaderChanged });
    node.unset_leading(&primary);
    node.driver.streams.close_followers();
    if primary.leads() {
        if node.is_stopping() {
            tracing::info!(term = term.0, "this node is no Primary any more");
        } else {
            tracing::warn!(term = term.0, "this node is no Primary any more");
        }
    }
    look(node);
}

/// No watch begins below `floor` any more.
pub(crate) fn refuse_watches_below(node: &Arc<Inner>, floor: Revision) {
    node.hub().refuse_below(floor);
    // After the floor is in force: whatever is needed below it was asked for before.
    let lowest = node.hub().oldest_needed();
    let node = node.clone();
    // Not from here: commands come out of a call into the engine.
    node.clone().spawn("watch floor", async move {
        node.engine(|engine, now| engine.handle(now, Event::WatchFloorSet { floor, lowest }));
    });
}

/// All nodes agreed to a compaction.
pub(crate) fn compact(node: &Arc<Inner>, revision: Revision) {
    if revision <= node.compact_revision() {
        return;
    }
    let node = node.clone();
    node.clone().spawn("automatic compaction", async move {
        match node.submit(WriteRequest::Compact { revision }).await {
            Ok(_) => tracing::info!(revision = revision.0, "automatic compaction"),
            // Somebody else compacted further meanwhile.
            Err(NodeError::Mvcc(_)) => {}
            Err(error) => tracing::warn!(%error, "automatic compaction was not done; it will be tried again"),
        }
    });
}

/// Takes over what the engine knows of roles, for those that ask or wait.
pub(crate) fn look(node: &Arc<Inner>) {
    let status = node.ask_engine(|engine, now| engine.status(now));
    node.saw_term(status.term);
    reports::note_quorum(node, &status);
    if let Some(manifest) = &status.manifest {
        node.saw_manifest(manifest);
    }
    let here = node.leading().is_some();
    let primary = if here {
        Some(node.config.node_id.clone())
    } else {
        let other = status.primary.filter(|_| status.primary_ready).map(|(_, process)| process.node_id);
        other.filter(|primary| *primary != node.config.node_id)
    };
    node.set_leader(primary, here);
    if node.driver.paused.load(Ordering::Acquire) {
        node.thread.kick();
    }
}
