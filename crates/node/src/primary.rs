//! What a node has only while it is Primary.

use crate::background;
use crate::clock::boot_millis;
use crate::confirm::Confirmer;
use crate::error::Unavailable;
use crate::node::{Ended, Inner};
use crate::publisher::Publisher;
use crate::start::{StartError, blocking};
use crate::term::{self, Held};
use crate::uploader::{ChunkWriter, Thresholds, UploadEnd, Uploader, Uploads};
use netsy_objects::object_log::LogPoint;
use netsy_protocol::read::ReadProof;
use tokio::sync::Mutex as AsyncMutex;
use netsy_api::ids::{LogIndex, Position, Term};
use netsy_api::log::Entry;
use netsy_protocol::commit::CommitTracker;
use netsy_protocol::quorum::{QuorumRule, Voter};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::watch;

/// One per term that this process acts in.
pub(crate) struct Primary {
    pub(crate) term: Term,
    pub(crate) rule: QuorumRule,
    pub(crate) me: Voter,
    pub(crate) tracker: Mutex<CommitTracker>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) confirmer: Arc<Confirmer>,
    pub(crate) chunk_writer: ChunkWriter,
    pub(crate) held: AsyncMutex<Option<Held>>,
    retired: watch::Sender<bool>,
}

/// This node leads: R4 is done, so that all of its log is in the object log, which ends at `point`.
pub(crate) async fn lead(
    node: &Arc<Inner>,
    held: Held,
    chunk_writer: ChunkWriter,
    point: LogPoint,
    lease_ms: u64,
) -> Result<(), StartError> {
    let shower = node.clone();
    let end = point.last_index;
    blocking(move || shower.follower.advance(&shower, Some(end), Some(end)))
        .await?
        .map_err(StartError::Local)?;
    node.follower.lead();
    node.store.write().lease_extend_all(boot_millis());
    if let Some(id) = held.manifest.members.get(&node.config.node_id) {
        node.identity.set_member_id(id.0);
    }
    let me = Voter { node_id: node.config.node_id.clone(), incarnation: node.incarnation };
    let term = held.manifest.term;
    let rule = term::rule_of(&held.manifest);
    let voters = term::voters_of(&held.manifest);
    let proof = ReadProof::needed(rule, &voters, &me);
    let primary = Arc::new(Primary {
        term,
        rule,
        tracker: Mutex::new(CommitTracker::new(term, rule, voters, end)),
        me,
        publisher: Publisher::new(node, end),
        uploads: Uploads::new(node.logged.clone(), rule.only_object_log()),
        confirmer: Confirmer::new(node.manifest.clone(), term, node.session, proof, lease_ms),
        chunk_writer,
        held: AsyncMutex::new(Some(held)),
        retired: watch::Sender::new(false),
    });
    node.thread.lead(primary.clone()).await?;
    node.set_leading(primary.clone());
    let uploader = Uploader {
        thresholds: Thresholds { bytes: node.config.chunk_bytes, age: node.config.chunk_age },
        node: node.clone(),
        primary: primary.clone(),
    };
    let watched = node.clone();
    tokio::spawn(async move { uploading_ended(&watched, uploader.run().await) });
    tokio::spawn(background::leases(node.clone(), primary.clone()));
    tokio::spawn(background::automatic_compaction(node.clone(), primary));
    Ok(())
}

fn uploading_ended(node: &Inner, end: UploadEnd) {
    let (reason, ended) = match end {
        UploadEnd::Stopped => return,
        UploadEnd::Deposed(by) => (Unavailable::LeaderChanged, Ended::Deposed(by)),
        UploadEnd::Failed(why) => (Unavailable::NoLeader, Ended::Failed(why)),
    };
    tracing::error!(?ended, "this node cannot go on as Primary");
    if let Some(primary) = node.leading() {
        primary.confirmer.depose();
    }
    node.end(reason, ended);
}

impl Primary {
    /// Entries were made; they are not durable yet.
    pub(crate) fn entries_made(&self, entries: &[(Position, Arc<Entry>)], _last: LogIndex) {
        self.uploads.push(entries);
    }

    /// The own database durably holds everything up to `index`.
    pub(crate) fn held_locally(&self, index: LogIndex) {
        let moved = self.tracker.lock().held(&self.me, index);
        if let Some(committed) = moved {
            self.publisher.advance(committed);
        }
    }

    /// A chunk that ends at `index` is in the object log.
    pub(crate) fn landed(&self, index: LogIndex) {
        let moved = self.tracker.lock().landed(index);
        if let Some(committed) = moved {
            self.publisher.advance(committed);
        }
    }

    /// Everything that belongs to this term ends; requests that wait are answered with `reason`.
    pub(crate) fn end(&self, reason: Unavailable) {
        self.publisher.close(reason);
        self.confirmer.depose();
        self.uploads.stop();
        self.retired.send_replace(true);
    }

    /// Resolves once [`end`](Self::end) was called.
    pub(crate) async fn ended(&self) {
        let mut retired = self.retired.subscribe();
        // The sender lives as long as self.
        let _ = retired.wait_for(|retired| *retired).await;
    }
}
