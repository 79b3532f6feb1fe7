//! Bounds and times of the peer connections.

use std::time::Duration;

/// What the peer connections are allowed; the defaults are for a local network.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Name and version of this program, as other nodes log it.
    pub software: String,
    /// Time for TCP to connect.
    pub connect_timeout: Duration,
    /// Time for TLS and Hello together.
    pub greeting_timeout: Duration,
    /// A silent connection is asked for a sign of life after this long.
    pub keepalive_after: Duration,
    /// And is lost when none comes for this much longer.
    pub keepalive_timeout: Duration,
    /// Pause after a first failed attempt to connect; doubled for each further one.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// The largest message taken or sent, bytes.
    pub message_bytes_max: usize,
    /// What may wait to be sent on one stream, bytes: engine messages, calls and the log each have one.
    pub backlog_bytes_max: usize,
    /// Calls of one other node that run here at a time; further ones wait in its connection.
    pub calls_max: usize,
    /// Open connections accepted; further ones are closed at once.
    pub connections_max: usize,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            software: concat!("netsy ", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(2),
            greeting_timeout: Duration::from_secs(5),
            keepalive_after: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            message_bytes_max: 72 << 20,
            backlog_bytes_max: 8 << 20,
            calls_max: 10_000,
            connections_max: 512,
        }
    }
}
