//! One load, described: the flags of a run and the rows of the suite are both this.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use crate::keys::KeySpace;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Mode {
    /// Puts of random keys.
    Put,
    /// Compare a key's mod revision, then put it.
    UpdateTxn,
    /// Gets of random keys, linearizable unless --serializable.
    Get,
    /// Lists of all --keys.
    List,
    /// Gets with puts between them (--read-percent).
    Mixed,
    /// Watch fan-out: one key, --watchers watching it over --streams streams.
    Watch,
    /// Renews one lease for each client.
    LeaseKeepAlive,
    /// Fills --keys keys; with a server command also restarts it. Prints memory and times.
    Load,
    /// Puts while another client lists --keys keys in a loop.
    PutWhileList,
    /// Fills --keys keys, then stops and starts the server, and times start to first answer.
    Start,
}

#[derive(Args, Clone, Debug)]
pub struct Spec {
    /// Clients in a closed loop: each sends when it has the answer to its last request.
    #[arg(long, default_value_t = 100)]
    pub clients: usize,
    /// Connections they share; one for each ten clients unless given.
    #[arg(long)]
    pub connections: Option<usize>,
    /// Length of keys, bytes.
    #[arg(long, default_value_t = 32)]
    pub key_size: usize,
    /// Length of values, bytes (incompressible).
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    /// Number of different keys.
    #[arg(long, default_value_t = 10_000)]
    pub keys: usize,
    /// Measured seconds of a round.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Seconds of load before the measured ones.
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// End a round after about so many operations, if its seconds have not ended it.
    #[arg(long)]
    pub count: Option<u64>,
    /// Seed of keys, values and order.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// get, list, mixed: allow answers that are not linearizable.
    #[arg(long)]
    pub serializable: bool,
    /// mixed: share of gets.
    #[arg(long, default_value_t = 90)]
    pub read_percent: usize,
    /// list: keys a page; 0 lists all at once.
    #[arg(long, default_value_t = 0)]
    pub page: usize,
    /// list: call RangeStream instead of Range.
    #[arg(long)]
    pub range_stream: bool,
    /// watch: number of watchers.
    #[arg(long, default_value_t = 1000)]
    pub watchers: usize,
    /// watch: streams they share; a stream each unless given.
    #[arg(long)]
    pub streams: Option<usize>,
    /// watch: puts under way at once.
    #[arg(long, default_value_t = 1)]
    pub writers: usize,
    /// put-while-list: length of the listed values, bytes.
    #[arg(long, default_value_t = 1024)]
    pub list_value_size: usize,
}

/// Longest run a flag can ask for, seconds.
const SECONDS_MAX: f64 = 3600.0;

impl Spec {
    /// Errors name the flag that is out of bounds.
    pub fn check(&self, mode: Mode) -> Result<()> {
        ensure!(self.clients >= 1 && self.clients <= 100_000, "--clients {}: give 1 to 100000", self.clients);
        ensure!(self.connections.is_none_or(|c| (1..=10_000).contains(&c)), "--connections: give 1 to 10000");
        ensure!(self.value_size <= 1 << 20, "--value-size {}: give at most 1 MiB", self.value_size);
        ensure!(self.keys >= 1 && self.keys <= 100_000_000, "--keys {}: give 1 to 100000000", self.keys);
        for (flag, seconds) in [("--seconds", self.seconds), ("--warmup", self.warmup)] {
            ensure!((0.0..=SECONDS_MAX).contains(&seconds), "{flag} {seconds}: give 0 to {SECONDS_MAX}");
        }
        ensure!(self.read_percent <= 100, "--read-percent {}: give 0 to 100", self.read_percent);
        ensure!(
            mode != Mode::UpdateTxn || self.keys >= self.clients,
            "update-txn gives each client keys of its own: --keys {} must not be below --clients {}",
            self.keys,
            self.clients
        );
        KeySpace::new(LIST_PREFIX, self.key_size, self.keys).map(drop)
    }

    pub fn connections(&self) -> usize {
        self.connections.unwrap_or(self.clients.div_ceil(10)).max(1)
    }

    pub fn streams(&self) -> usize {
        self.streams.unwrap_or(self.watchers)
    }

    pub fn measure(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    pub fn warm(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }
}

/// The keys that single requests name, and those that lists cover.
pub const KEY_PREFIX: &str = "bench/k/";
pub const LIST_PREFIX: &str = "bench/list/";
