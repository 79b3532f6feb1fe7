//! What may be configured about watches.

use std::time::Duration;

/// Bounds and intervals of the watch hub.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// Bytes of events waiting in one stream's queue; past it its watchers are fed from the database.
    pub watch_backlog_bytes_max: usize,
    /// Bytes of the newest events kept in memory, from which a watcher catches up at the end.
    pub recent_bytes_max: usize,
    /// Revisions kept in memory for the same.
    pub recent_revisions_max: usize,
    /// Bytes of rows read from the database in one replay round.
    pub replay_batch_bytes_max: usize,
    /// Watchers that share the rows of one replay round.
    pub replay_watchers_max: usize,
    /// Deliveries gathered in one replay round, over all its watchers.
    pub replay_deliveries_max: usize,
    /// Previous key-values that replay asks the database for at once.
    pub replay_previous_max: usize,
    /// Recent events looked at under the hub's lock to make the watchers of one round synced.
    pub join_events_max: usize,
    /// How often a watcher that asked for it is told the revision while nothing happens to its keys.
    pub progress_notify_interval: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            watch_backlog_bytes_max: 4 << 20,
            recent_bytes_max: 8 << 20,
            recent_revisions_max: 8192,
            replay_batch_bytes_max: 1 << 20,
            replay_watchers_max: 512,
            replay_deliveries_max: 65_536,
            replay_previous_max: 256,
            join_events_max: 16_384,
            progress_notify_interval: Duration::from_secs(600),
        }
    }
}
