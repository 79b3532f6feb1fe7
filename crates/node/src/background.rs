//! Work beside requests: leases that run out, automatic compaction, deleting rows, database figures.

use crate::clock::boot_millis;
use crate::error::{NodeError, Unavailable};
use crate::failpoint;
use crate::node::Inner;
use crate::primary::Primary;
use netsy_api::ids::{LeaseId, LogIndex, Position, Revision};
use netsy_localdb as localdb;
use netsy_mvcc::WriteRequest;
use netsy_protocol::event::Event;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often leases are looked at.
const LEASE_TICK: Duration = Duration::from_millis(500);
/// Leases ended per tick: a mass expiry is spread, so that it does not hold up writes.
const LEASES_PER_TICK_MAX: usize = 500;
/// How often database figures are read.
const FIGURES_TICK: Duration = Duration::from_millis(500);
/// How often it is looked whether object storage answers.
const SILENCE_TICK: Duration = Duration::from_secs(1);
/// Keys of the index looked at under one lock by a compaction.
const COMPACT_KEYS_PER_STEP: usize = 1024;
/// Rows deleted in one commit, so that writes wait little for it.
const DELETE_ROWS_PER_STEP: usize = 500;
/// Pause while a long read needs what is to be removed.
const PIN_PAUSE: Duration = Duration::from_millis(20);
/// Pause between two deletes.
const DELETE_PAUSE: Duration = Duration::from_millis(2);

/// Ends leases whose time is over and records how much is left of long ones, while this node is Primary.
pub(crate) async fn leases(node: Arc<Inner>, primary: Arc<Primary>) {
    let mut tick = tokio::time::interval(LEASE_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = node.stopping() => return,
            () = primary.ended() => return,
            _ = tick.tick() => {}
        }
        let now = boot_millis();
        let (expired, due) = {
            let mut store = node.store.write();
            (store.lease_expired(now, LEASES_PER_TICK_MAX), store.lease_due_checkpoints(now, LEASES_PER_TICK_MAX))
        };
        if !due.is_empty()
            && let Err(error) = node.submit(WriteRequest::LeaseCheckpoint(due)).await
        {
            tracing::warn!(%error, "lease checkpoints were not recorded; they will be tried again");
        }
        // At once into the writer's queue, so that they share a commit.
        let ended = expired.into_iter().map(|id| expire(&node, id, now));
        futures::future::join_all(ended).await;
    }
}

async fn expire(node: &Inner, id: LeaseId, now_ms: u64) {
    match node.submit(WriteRequest::LeaseExpire { id, now_ms }).await {
        Ok(_) => {
            failpoint::hit("lease.expired");
            node.metrics.leases_expired.fetch_add(1, Ordering::Relaxed);
        }
        // A hand-over: the next Primary does it.
        Err(NodeError::Unavailable(Unavailable::NotPrimary)) => {}
        Err(error) => {
            tracing::warn!(%id, %error, "a lease that ran out could not be ended yet; it will be tried again")
        }
    }
}

/// Reads sizes of the database now and then, for the quota and Status.
pub(crate) async fn figures(node: Arc<Inner>) {
    let mut tick = tokio::time::interval(FIGURES_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = node.stopping() => return,
            _ = tick.tick() => {}
        }
        node.read_figures().await;
    }
}

/// Says in the log that object storage gives no answer.
pub(crate) async fn storage_silence(node: Arc<Inner>) {
    let mut tick = tokio::time::interval(SILENCE_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = node.wait_ended() => return,
            _ = tick.tick() => {}
        }
        node.driver.calls.log.look();
        node.driver.calls.control.look();
    }
}

impl Inner {
    /// Reads the database's sizes now.
    pub(crate) async fn read_figures(&self) {
        let measuring = self.metrics.usage.begin();
        let readers = self.readers.clone();
        let read = tokio::task::spawn_blocking(move || {
            Ok::<_, netsy_localdb::Error>((readers.size_bytes()?, readers.in_use_bytes()?))
        });
        match read.await {
            Ok(Ok((size, in_use))) => {
                self.metrics.db_bytes.store(size, Ordering::Relaxed);
                self.metrics.db_bytes_in_use.store(in_use, Ordering::Relaxed);
                self.metrics.usage.measured(measuring, in_use);
            }
            Ok(Err(error)) => tracing::warn!(%error, "the size of the local database could not be read"),
            Err(error) => tracing::warn!(%error, "the size of the local database could not be read"),
        }
    }
}

/// Compacts by itself every `compaction_interval`, keeping `compaction_retention` and what live watches need, while this
/// node is Primary.
pub(crate) async fn automatic_compaction(node: Arc<Inner>, primary: Arc<Primary>) {
    let (interval, retention) = (node.config.compaction_interval, node.config.compaction_retention);
    if interval.is_zero() {
        return;
    }
    // Samples often enough that the retention is kept to within a tenth.
    let pause = (interval.min(retention.max(Duration::from_secs(1))) / 10).max(Duration::from_millis(100));
    let mut samples: VecDeque<(Instant, Revision)> = VecDeque::new();
    let mut next = Instant::now() + interval;
    loop {
        tokio::select! {
            () = node.stopping() => return,
            () = primary.ended() => return,
            () = tokio::time::sleep(pause) => {}
        }
        samples.push_back((Instant::now(), node.revision()));
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + interval;
        let mut target = None;
        while samples.front().is_some_and(|(at, _)| at.elapsed() >= retention) {
            target = samples.pop_front().map(|(_, revision)| revision);
        }
        let Some(target) = target else { continue };
        if target <= node.compact_revision() || target.0 <= 1 {
            continue;
        }
        // Once no node's watches need what lies below it, the engine says so.
        node.engine(|engine, now| engine.handle(now, Event::CompactWanted(target)));
    }
}

/// Removes what compactions let go, first from the index, then from the database.
pub(crate) async fn physical_compaction(node: Arc<Inner>) {
    let mut shown = node.shown.subscribe();
    loop {
        let wanted = node.compact_revision();
        if wanted > *node.compacted.borrow() {
            match remove_through(&node, wanted).await {
                Ok(()) => {
                    // Whoever waits for the space may want to use it.
                    node.read_figures().await;
                    node.compacted.send_replace(wanted);
                }
                Err(reason) => {
                    if node.is_stopping() {
                        return;
                    }
                    tracing::error!(%reason, "compaction: rows could not be deleted; it will be tried again");
                    node.metrics.background_failures.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            continue;
        }
        tokio::select! {
            () = node.stopping() => return,
            changed = shown.changed() => if changed.is_err() { return },
        }
    }
}

async fn remove_through(node: &Arc<Inner>, revision: Revision) -> Result<(), String> {
    // Rows go only once the object log has them: a restore then needs none of them from here.
    let logged = node.shown_index();
    logged_through(node, logged).await?;
    failpoint::hit("compaction.logged");
    loop {
        // Not beyond: what a later compaction lets go, or a later entry, may not be in the object log yet.
        let step = node.store.write().compact_index(COMPACT_KEYS_PER_STEP, revision, logged);
        failpoint::hit("compaction.index-step");
        if !step.removed.is_empty() {
            node.store.readers_passed().await;
            delete_rows(node, step.removed).await?;
        }
        if step.done {
            tracing::debug!(revision = revision.0, "compaction: rows are gone");
            return Ok(());
        }
        if step.waiting {
            // A long read still needs them.
            tokio::time::sleep(PIN_PAUSE).await;
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until the object log is known to cover `index`.
pub(crate) async fn logged_through(node: &Arc<Inner>, index: LogIndex) -> Result<(), String> {
    let mut logged = node.logged.subscribe();
    let mut leader = node.leader.subscribe();
    loop {
        if logged.borrow_and_update().last_index >= index {
            return Ok(());
        }
        leader.borrow_and_update();
        if let Some(primary) = node.leading() {
            // Without waiting for size or age.
            primary.uploads.wish();
        }
        tokio::select! {
            () = node.stopping() => return Err("the node is stopping".to_string()),
            changed = logged.changed() => if changed.is_err() { return Err("the node is gone".to_string()) },
            changed = leader.changed() => if changed.is_err() { return Err("the node is gone".to_string()) },
        }
    }
}

async fn delete_rows(node: &Arc<Inner>, rows: Vec<Position>) -> Result<(), String> {
    // Not while a snapshot or a hash reads them.
    let _rows_stay = node.rows_stay.lock().await;
    for rows in rows.chunks(DELETE_ROWS_PER_STEP) {
        failpoint::hit("compaction.before-delete");
        loop {
            let (delete, shown) = (rows.to_vec(), node.shown_index());
            // What it lets go is visible: a restart must not go back behind it (R8).
            let deleted = node.thread.with(move |db| {
                db.commit(&localdb::Batch { delete: &delete, visible_index: Some(shown), ..localdb::Batch::default() })
            });
            match deleted.await {
                Ok(Ok(())) => break,
                Ok(Err(error)) if error.is_disk_full() => {
                    // They are out of the index already, so they must go: nothing else would take them away.
                    tracing::warn!(%error, "compaction: rows could not be deleted; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Ok(Err(error)) => {
                    node.halt(format!("local database: {error}"));
                    return Err(error.to_string());
                }
                Err(gone) => return Err(gone.to_string()),
            }
        }
        failpoint::hit("compaction.after-delete");
        node.metrics.rows_compacted.fetch_add(rows.len() as u64, Ordering::Relaxed);
        tokio::time::sleep(DELETE_PAUSE).await;
    }
    Ok(())
}

/// Ends the watch streams that want a leader where there is none for too long; clients go to another node.
pub(crate) async fn leaderless(node: Arc<Inner>) {
    let mut leader = node.leader.subscribe();
    loop {
        tokio::select! {
            () = node.wait_ended() => return,
            () = node.leader_lost() => node.hub().leader_lost(),
        }
        tokio::select! {
            () = node.wait_ended() => return,
            found = leader.wait_for(|leader| leader.primary.is_some()) => if found.is_err() { return },
        }
    }
}
