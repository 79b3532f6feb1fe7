//! A graceful stop (section 4).

use crate::error::Unavailable;
use crate::failpoint;
use crate::load_log;
use crate::node::{Ended, Inner, Node};
use netsy_localdb as localdb;
use netsy_protocol::event::Event;
use std::sync::Arc;
use std::time::Duration;

/// Time for a stop beside `drain_timeout`, which is the engine's to keep.
const STOP_GRACE: Duration = Duration::from_secs(5);

impl Node {
    /// Begins a graceful stop: a Primary hands over, a replica leaves the voters; the last node brings everything to
    /// object storage. Requests go on meanwhile, and after it, as this node still follows. Returns once the cluster
    /// does not need it any more; the error says what was left undone.
    pub async fn drain(&self) -> Result<(), String> {
        self.0.drain().await
    }

    /// After [`drain`](Self::drain), once no request is under way here any more: says goodbye. The error says what was
    /// left undone.
    pub async fn depart(&self) -> Result<(), String> {
        self.0.depart().await
    }

    /// Stops gracefully ([`drain`](Self::drain), [`depart`](Self::depart)) and ends. The error says what was left
    /// undone.
    pub async fn stop(&self) -> Result<(), String> {
        let drained = self.drain().await;
        let departed = self.depart().await;
        self.0.finish().await;
        drained.and(departed)
    }

    /// Ends at once, whatever was left undone.
    pub async fn finish(&self) {
        self.0.finish().await;
    }

    /// Whether nobody will take requests of this node's clients any more: it was the last Primary, and stops, or the
    /// last one stopped before.
    pub fn is_over(&self) -> bool {
        let node = &self.0;
        let left = *node.driver.left.borrow();
        let empty = || node.manifest_seen().is_some_and(|manifest| manifest.voters.is_empty());
        left && (node.leading().is_some() || empty()) || node.driver.stopped.borrow().is_some()
    }

    /// Whether other nodes are connected.
    pub fn has_company(&self) -> bool {
        self.0.peers().is_some_and(|peers| !peers.connected().is_empty())
    }
}

impl Inner {
    async fn drain(self: &Arc<Self>) -> Result<(), String> {
        if self.is_ended() {
            return Ok(());
        }
        self.engine(|engine, now| engine.handle(now, Event::Stop));
        let (mut left, mut stopped) = (self.driver.left.subscribe(), self.driver.stopped.subscribe());
        let limit = self.config.drain_timeout + STOP_GRACE;
        let undone = tokio::select! {
            _ = left.wait_for(|left| *left) => None,
            undone = stopped.wait_for(Option::is_some) => undone.ok().and_then(|undone| undone.clone()),
            () = self.wait_ended() => None,
            () = tokio::time::sleep(limit) => Some(format!(
                "the cluster did not let this node go within {limit:?}; what object storage lacks is safe in {}",
                self.config.data_dir.display()
            )),
        };
        failpoint::hit("stop.drained");
        match undone {
            Some(undone) if !undone.is_empty() => Err(undone),
            _ => Ok(()),
        }
    }

    async fn depart(self: &Arc<Self>) -> Result<(), String> {
        if self.is_ended() || !*self.driver.left.borrow() {
            return Ok(()); // There is nothing to say, or why not was said.
        }
        self.engine(|engine, now| engine.handle(now, Event::Finish));
        let mut stopped = self.driver.stopped.subscribe();
        let undone = tokio::select! {
            undone = stopped.wait_for(Option::is_some) => undone.ok().and_then(|undone| undone.clone()),
            () = self.wait_ended() => None,
            () = tokio::time::sleep(STOP_GRACE) => Some("the registration is not marked as stopped".to_string()),
        };
        match undone {
            Some(undone) if !undone.is_empty() => Err(undone),
            _ => Ok(()),
        }
    }

    /// Everything ends, whatever was left undone.
    async fn finish(self: &Arc<Self>) {
        self.begin_stop();
        self.end(Unavailable::Stopped, Ended::Stopped);
        if let Some(peers) = self.peers() {
            peers.stop("stopping").await;
        }
        if let Some(db) = self.thread.stop().await {
            self.note_end(db).await;
        }
    }

    /// The next start goes on from what is known now.
    async fn note_end(&self, mut db: localdb::Writer) {
        let (point, shown) = (self.tail(), self.shown_index());
        let noted = tokio::task::spawn_blocking(move || {
            let uploaded = load_log::fits(&db, &point).then(|| load_log::uploaded(&point));
            let visible_index = Some(shown.min(db.end().index));
            db.commit(&localdb::Batch { uploaded, visible_index, ..localdb::Batch::default() })
                .map_err(|e| e.to_string())
        });
        match noted.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the local database could not note its state"),
            Err(error) => tracing::warn!(%error, "the local database could not note its state"),
        }
    }
}
