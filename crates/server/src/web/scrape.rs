//! `/metrics`: what was counted, and what the node, its watches and the process say when asked.
//!
//! Names that dashboards and Kubernetes read are etcd's; the rest begins with `netsy_`.

use super::process::Process;
use super::{TEXT, answer};
use crate::etcd::{Service, alarm_name, versions};
use bytes::Bytes;
use http::{Response, StatusCode};
use netsy_api::log::AlarmKind;
use netsy_node::metrics::{DURATION_BUCKETS_US, Durations};
use prometheus::{Encoder, TextEncoder};
use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) fn scrape(service: &Service) -> Response<Bytes> {
    let mut out = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&service.metrics.registry().gather(), &mut out) {
        tracing::error!(%error, "metrics could not be encoded");
        return answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "metrics could not be encoded\n");
    }
    let mut page = Page(String::with_capacity(8192));
    node(service, &mut page);
    storage(service, &mut page);
    watches(service, &mut page);
    process(&mut page);
    out.extend_from_slice(page.0.as_bytes());
    answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", out)
}

/// Metrics in Prometheus' text format, as they are written.
struct Page(String);

impl Page {
    fn head(&mut self, kind: &str, name: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head("gauge", name, help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head("counter", name, help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn count(&mut self, name: &str, help: &str, value: &AtomicU64) {
        self.counter(name, help, value.load(Ordering::Relaxed));
    }

    fn histogram(&mut self, name: &str, help: &str, durations: &Durations) {
        self.head("histogram", name, help);
        let mut total = 0;
        for (count, bound) in durations.counts.iter().zip(DURATION_BUCKETS_US) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{}\"}} {total}", bound as f64 / 1e6);
        }
        total += durations.counts.last().map_or(0, |above| above.load(Ordering::Relaxed));
        let sum = durations.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(self.0, "{name}_bucket{{le=\"+Inf\"}} {total}\n{name}_sum {sum}\n{name}_count {total}");
    }
}

fn node(service: &Service, page: &mut Page) {
    let status = service.node.status();
    let identity = service.node.identity();
    let has_leader = status.leader_member_id != 0;
    page.gauge("etcd_server_has_leader", "Whether a leader is known.", u8::from(has_leader));
    let leads = has_leader && status.leader_member_id == identity.member_id();
    page.gauge("etcd_server_is_leader", "Whether this node is the leader.", u8::from(leads));
    page.gauge("etcd_server_is_learner", "Whether this node has no vote.", u8::from(service.node.is_learner()));
    let help = "Elections this process has seen.";
    page.count("etcd_server_leader_changes_seen_total", help, &service.node.metrics().leader_changes);
    let help = "Voters that the cluster waits for, as it has lost its quorum.";
    page.gauge("netsy_quorum_missing_voters", help, status.missing_voters);
    page.gauge("netsy_term", "The term of the Primary.", status.term.0);
    page.gauge("etcd_server_proposals_committed_total", "Index of the newest committed entry.", status.index.0);
    page.gauge("etcd_server_proposals_applied_total", "Index of the newest applied entry.", status.applied_index.0);
    let metrics = service.node.metrics();
    let pending = metrics.proposals_pending.load(Ordering::Relaxed);
    page.gauge("etcd_server_proposals_pending", "Writes that are not answered yet.", pending);
    page.count("etcd_server_proposals_failed_total", "Writes that failed.", &metrics.proposals_failed);
    page.gauge("etcd_debugging_mvcc_keys_total", "Keys in the index.", status.keys);
    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the local database.", status.db_size);
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of it in use.", status.db_size_in_use);
    page.gauge("etcd_server_quota_backend_bytes", "Bytes past which NOSPACE is raised.", status.db_quota);
    page.gauge("etcd_debugging_mvcc_current_revision", "The store's revision.", service.node.revision().0);
    page.gauge(
        "etcd_debugging_mvcc_compact_revision",
        "The lowest readable revision.",
        service.node.compact_revision().0,
    );
    page.head("gauge", "netsy_alarm", "Active alarms.");
    for kind in [AlarmKind::NoSpace, AlarmKind::Corrupt] {
        let active = status.alarms.iter().filter(|(_, found)| *found == kind).count();
        let _ = writeln!(page.0, "netsy_alarm{{alarm=\"{}\"}} {active}", alarm_name(kind));
    }
    page.gauge("netsy_ready", "Whether the node can serve.", u8::from(status.ready.is_ok()));
    page.head("gauge", "etcd_server_version", "The etcd version that clients are told.");
    let _ = writeln!(page.0, "etcd_server_version{{server_version=\"{}\"}} 1", versions::SERVER);
    page.head("gauge", "etcd_cluster_version", "The cluster version that clients are told.");
    let _ = writeln!(page.0, "etcd_cluster_version{{cluster_version=\"{}\"}} 1", versions::CLUSTER);
}

fn storage(service: &Service, page: &mut Page) {
    let metrics = service.node.metrics();
    // One sync makes an entry durable here, so it stands for both of etcd's.
    let help = "Time of a local commit, its sync included.";
    page.histogram("etcd_disk_wal_fsync_duration_seconds", help, &metrics.local_commits);
    page.histogram("etcd_disk_backend_commit_duration_seconds", help, &metrics.local_commits);
    page.count("netsy_entries_total", "Entries made durable locally.", &metrics.entries);
    page.histogram(
        "netsy_chunk_create_duration_seconds",
        "Time from a chunk's first try to its landing in the bucket.",
        &metrics.chunk_creates,
    );
    page.count("netsy_chunks_total", "Chunks that landed in the bucket.", &metrics.chunks);
    page.count("netsy_chunk_bytes_total", "Their stored bytes.", &metrics.chunk_bytes);
    page.count(
        "netsy_chunk_retries_total",
        "Chunk uploads that did not land at the first try.",
        &metrics.chunk_retries,
    );
    page.count("netsy_segments_total", "Segments written.", &metrics.segments);
    page.count("netsy_snapshots_total", "Snapshots written.", &metrics.snapshots);
    page.count(
        "netsy_background_failures_total",
        "Background work that failed and is tried again.",
        &metrics.background_failures,
    );
    page.count("etcd_debugging_lease_expired_total", "Leases that ran out.", &metrics.leases_expired);
    page.count("netsy_rows_compacted_total", "Rows deleted by compaction.", &metrics.rows_compacted);
    let unarchived = metrics.unarchived_bytes.load(Ordering::Relaxed);
    page.gauge("netsy_unarchived_bytes", "Bytes committed here and not yet in the bucket.", unarchived);
}

fn watches(service: &Service, page: &mut Page) {
    let stats = service.node.watch_hub().stats();
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams.", stats.streams);
    page.gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", stats.watchers);
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are behind.", stats.unsynced);
    let help = "Events that wait to be sent to watchers.";
    page.gauge("etcd_debugging_mvcc_pending_events_total", help, stats.pending);
}

fn process(page: &mut Page) {
    let Some(process) = Process::read() else { return };
    page.counter("process_cpu_seconds_total", "CPU time used.", process.cpu_seconds);
    page.gauge("process_resident_memory_bytes", "Memory in use.", process.resident_bytes);
    page.gauge("process_virtual_memory_bytes", "Address space in use.", process.virtual_bytes);
    page.gauge("process_open_fds", "Open files.", process.open_files);
    page.gauge("process_threads", "Threads.", process.threads);
}
