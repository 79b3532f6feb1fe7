//! Background work on the bucket: folding small chunks, snapshots, clean-up (section 6).

use crate::clock::unix_millis;
use crate::failpoint;
use crate::load_log;
use crate::node::Inner;
use crate::shared::StateNumber;
use futures::Stream;
use netsy_api::ids::{ChunkSeq, Position, Revision};
use netsy_api::log::Row;
use netsy_objects::cleanup::{Cleaner, CleanupPolicy};
use netsy_objects::manifest::TermRun;
use netsy_objects::object_log::LogPoint;
use netsy_objects::segment::{FoldPolicy, fold_all};
use netsy_objects::snapshot::{
    CheckedSnapshot, SnapshotOptions, SnapshotSpec, WriteError, check_snapshot, newest_snapshot, write_snapshot,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A snapshot reads the whole state, however little changed: under load the next one waits this many times as
/// long as the last one took, so that snapshots take a bounded share of the machine.
const REST_FACTOR: u32 = 9;
/// How often thresholds are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Pause after something failed.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Clean-up runs this often even if nothing was folded or snapshotted: retention runs by the clock.
const CLEANUP_EVERY: Duration = Duration::from_secs(3600);
/// How long a snapshot waits for this node to be where the object log is.
const REACHED_WITHIN: Duration = Duration::from_secs(2);
/// Rows and bytes read from the database at a time.
const ROWS_PER_READ: usize = 2048;
const BYTES_PER_READ: usize = 4 << 20;

/// What the last snapshot covered.
struct Last {
    covers: LogPoint,
    bytes: u64,
    at: Instant,
    /// Not before this, whatever the thresholds say.
    next: Instant,
    checked: Option<CheckedSnapshot>,
}

pub(crate) async fn run(node: Arc<Inner>) {
    let policy = FoldPolicy::default();
    let mut cleaner = Cleaner::new(node.log.clone());
    let mut last: Option<Last> = None;
    let mut folded_to = ChunkSeq(0);
    let mut cleaned = Instant::now();
    let mut pause = TICK;
    loop {
        tokio::select! {
            () = node.stopping() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = TICK;
        if !node.ask_engine(|engine, _| engine.makes_snapshots()) {
            // Another node makes them: what it made is looked up before this one goes on.
            last = None;
            continue;
        }
        let work = async {
            let last = match &mut last {
                Some(last) => last,
                none => none.insert(newest(&node).await?),
            };
            let tail = node.tail();
            let mut clean = cleaned.elapsed() >= CLEANUP_EVERY;
            if due(&node, last, &tail) {
                *last = snapshot(&node, last).await?;
                clean = true;
            }
            if tail.seq.0.saturating_sub(folded_to.0) > policy.run_chunks_min as u64 {
                failpoint::hit("segment.before-fold");
                let segments = fold_all(&node.log, &policy).await.map_err(|e| format!("folding chunks: {e}"))?;
                folded_to = tail.seq;
                if !segments.is_empty() {
                    failpoint::hit("segment.created");
                    node.metrics.segments.fetch_add(segments.len() as u64, Ordering::Relaxed);
                    clean = true;
                }
            }
            if clean {
                clean_up(&node, &mut cleaner, last.checked.as_ref()).await?;
                cleaned = Instant::now();
            }
            Ok::<(), String>(())
        };
        if let Err(reason) = work.await {
            tracing::warn!(%reason, "background work on the bucket was not done; it will be tried again");
            node.metrics.background_failures.fetch_add(1, Ordering::Relaxed);
            pause = RETRY_PAUSE;
        }
    }
}

async fn newest(node: &Inner) -> Result<Last, String> {
    let found = newest_snapshot(&*node.bucket, &node.config.cluster_id)
        .await
        .map_err(|e| format!("the newest snapshot: {e}"))?;
    let (covers, age_ms) = match found {
        Some(manifest) => (manifest.covers(), unix_millis().0.saturating_sub(manifest.created_at.0).max(0)),
        None => (LogPoint::START, 0),
    };
    let now = Instant::now();
    let at = now.checked_sub(Duration::from_millis(age_ms as u64)).unwrap_or(now);
    Ok(Last { covers, bytes: entry_bytes(node), at, next: now, checked: None })
}

fn entry_bytes(node: &Inner) -> u64 {
    node.metrics.entry_bytes.load(Ordering::Relaxed)
}

fn due(node: &Inner, last: &Last, tail: &LogPoint) -> bool {
    let config = &node.config;
    let records = tail.next_position.0.saturating_sub(last.covers.next_position.0);
    let bytes = entry_bytes(node).saturating_sub(last.bytes);
    records > 0
        && Instant::now() >= last.next
        && (records >= config.snapshot_records
            || bytes >= config.snapshot_bytes
            || last.at.elapsed() >= config.snapshot_age)
}

async fn snapshot(node: &Arc<Inner>, last: &Last) -> Result<Last, String> {
    let started = Instant::now();
    // Rows that this state needs are not deleted while it is read.
    let _rows_stay = node.rows_stay.lock().await;
    let covers = node.tail();
    let bytes = entry_bytes(node);
    reached(node, covers).await?;
    let (state, compact_revision) = {
        let store = node.store.read();
        (store.number(), node.compactions.at(covers.last_index))
    };
    let compact_revision = compact_revision
        .ok_or_else(|| format!("the compaction that counts at index {} is not known any more", covers.last_index))?;
    let spec = SnapshotSpec {
        cluster_id: node.config.cluster_id.clone(),
        node_id: node.config.node_id.clone(),
        session: node.session,
        covers,
        runs: node.runs_through(&covers),
        compact_revision: compact_revision.max(Revision(0)),
        created_at: unix_millis(),
        version: env!("CARGO_PKG_VERSION").to_string(),
    };
    failpoint::hit("snapshot.begun");
    let rows = rows_before(node.clone(), state, covers.next_position);
    let written = write_snapshot(&node.bucket, spec, rows, last.checked.as_ref(), SnapshotOptions::default()).await;
    let checked = match written {
        Ok(checked) => checked,
        // An earlier try got further than it seemed.
        Err(WriteError::NotNewer { existing, .. }) => {
            check_snapshot(&node.bucket, &node.config.cluster_id, existing, last.checked.as_ref())
                .await
                .map_err(|e| format!("snapshot {existing}: {e}"))?
        }
        Err(e) => return Err(format!("snapshot {}: {e}", covers.last_index)),
    };
    failpoint::hit("snapshot.manifest-written");
    node.metrics.snapshots.fetch_add(1, Ordering::Relaxed);
    let took = started.elapsed();
    tracing::info!(
        index = checked.index().0,
        rows = checked.manifest().rows,
        seconds = took.as_secs_f64(),
        "snapshot written and read back"
    );
    let next = Instant::now() + took * REST_FACTOR;
    Ok(Last { covers: checked.manifest().covers(), bytes, at: started, next, checked: Some(checked) })
}

/// Waits until this node holds and shows what the object log holds up to `covers`: a replica may be a moment behind, and
/// what it holds beyond its Primary's word may be no part of the log.
async fn reached(node: &Arc<Inner>, covers: LogPoint) -> Result<(), String> {
    let here = async {
        node.wait_shown(covers.last_index).await?;
        node.wait_held_locally(covers.last_index).await
    };
    match tokio::time::timeout(REACHED_WITHIN, here).await {
        Ok(reached) => reached.map_err(|e| e.to_string())?,
        Err(_) => return Err(format!("entry {} has not come here yet", covers.last_index)),
    }
    let fits = node.thread.with(move |db| load_log::fits(db, &covers)).await.map_err(|gone| gone.to_string())?;
    if fits { Ok(()) } else { Err(format!("entry {} is not of term {} here", covers.last_index, covers.last_term)) }
}

/// All rows below `end`, in order, as `state` names them. The log has them durably here: they are in the object log.
pub(crate) fn rows_before(
    node: Arc<Inner>,
    state: StateNumber,
    end: Position,
) -> impl Stream<Item = Result<Vec<Row>, String>> + Send {
    futures::stream::try_unfold(Position(0), move |after| {
        let node = node.clone();
        async move {
            let readers = node.readers.clone();
            let read = tokio::task::spawn_blocking(move || readers.rows_after(after, ROWS_PER_READ, BYTES_PER_READ));
            let mut rows = read.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            // The compaction that is to be named is the state's; that of another snapshot may have let rows go.
            if node.is_lost(state) {
                return Err("another snapshot has taken the local database's place".to_string());
            }
            rows.truncate(rows.partition_point(|row| row.position < end));
            match rows.last() {
                Some(last) => {
                    let at = last.position;
                    Ok(Some((rows, at)))
                }
                None => Ok(None),
            }
        }
    })
}

async fn clean_up(node: &Inner, cleaner: &mut Cleaner, newest: Option<&CheckedSnapshot>) -> Result<(), String> {
    let policy = CleanupPolicy { retention_ms: node.config.snapshot_retention.as_millis() as i64, now: unix_millis() };
    let report = cleaner.run(newest, &policy).await.map_err(|e| format!("clean-up: {e}"))?;
    failpoint::hit(if newest.is_some() { "snapshot.cleaned" } else { "segment.cleaned" });
    for wrong in &report.bad {
        tracing::warn!(%wrong, "clean-up: an object is wrong; what it should cover is kept");
    }
    tracing::debug!(
        chunks = report.chunks,
        segments = report.segments,
        snapshots = report.snapshots,
        parts = report.parts,
        "clean-up"
    );
    Ok(())
}

/// The local database's runs of terms, up to `covers`, as a snapshot names them.
pub(crate) fn runs_through(runs: &[netsy_localdb::TermRun], covers: &LogPoint) -> Vec<TermRun> {
    let begun = runs.iter().take_while(|run| run.first_index <= covers.last_index);
    let ends = runs.iter().skip(1).map(|run| run.first_index.0 - 1).chain(std::iter::once(covers.last_index.0));
    begun
        .zip(ends)
        .map(|(run, end)| TermRun {
            term: run.term,
            last_index: netsy_api::ids::LogIndex(end.min(covers.last_index.0)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_api::ids::{LogIndex, Term};

    #[test]
    fn runs_are_cut_at_the_point_covered() {
        let runs = [(1, 1), (3, 6), (4, 9)]
            .map(|(term, first)| netsy_localdb::TermRun { term: Term(term), first_index: LogIndex(first) });
        let at = |last| {
            let covers = LogPoint { last_index: LogIndex(last), ..LogPoint::START };
            runs_through(&runs, &covers).iter().map(|r| (r.term.0, r.last_index.0)).collect::<Vec<_>>()
        };
        assert_eq!(at(12), [(1, 5), (3, 8), (4, 12)]);
        assert_eq!(at(8), [(1, 5), (3, 8)]);
        assert_eq!(at(7), [(1, 5), (3, 7)]);
        assert_eq!(at(0), []);
    }
}
