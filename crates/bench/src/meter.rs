//! What is counted during the measured part of a run, and what comes out of it.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::proc::{self, Memory};

/// Latencies from 1 µs (finer ones count as one) to 5 minutes, to three digits, in nanoseconds.
const LATENCY_NS: (u64, u64) = (1_000, 300_000_000_000);

pub fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(LATENCY_NS.0, LATENCY_NS.1, 3)?)
}

/// One measured round.
#[derive(Clone, Debug)]
pub struct Sample {
    pub operations: u64,
    pub seconds: f64,
    pub latency: Histogram<u64>,
    /// Calls that failed; they are not among the operations.
    pub errors: u64,
    pub first_error: Option<String>,
    /// Updates that lost their comparison and were tried again.
    pub retries: u64,
    /// None where no process id of the server is known.
    pub server_cpu_seconds: Option<f64>,
    pub memory: Option<Memory>,
    /// The load generator's own.
    pub client_cpu_seconds: f64,
    /// What the load beside it got done a second, where there is one.
    pub beside: Option<f64>,
    /// Share of the machine that neither of the two used: the noise.
    pub others_share: Option<f64>,
}

impl Sample {
    pub fn throughput(&self) -> f64 {
        self.operations as f64 / self.seconds.max(1e-9)
    }

    pub fn percentile_ms(&self, percent: f64) -> f64 {
        self.latency.value_at_percentile(percent) as f64 / 1e6
    }

    pub fn max_ms(&self) -> f64 {
        self.latency.max() as f64 / 1e6
    }

    /// The server's CPU time for each operation, µs.
    pub fn server_cpu_us(&self) -> Option<f64> {
        self.server_cpu_seconds.filter(|_| self.operations > 0).map(|s| s * 1e6 / self.operations as f64)
    }

    pub fn client_cpu_us(&self) -> f64 {
        self.client_cpu_seconds * 1e6 / (self.operations as f64).max(1.0)
    }
}

/// Counts while it runs; ignores everything before and after.
pub struct Meter {
    pids: Vec<u32>,
    running: bool,
    operations: u64,
    latency: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
    retries: u64,
    begun: Option<Baseline>,
    ended: Option<Sample>,
}

struct Baseline {
    at: Instant,
    server: Option<f64>,
    client: f64,
    machine: Option<f64>,
}

/// What the measured part cost, up to one moment.
#[derive(Default)]
pub struct Clock {
    seconds: f64,
    client: f64,
    server: Option<f64>,
    machine: Option<f64>,
    memory: Option<Memory>,
}

impl Meter {
    pub fn new(pids: &[u32]) -> Result<Meter> {
        Ok(Meter {
            pids: pids.to_vec(),
            running: false,
            operations: 0,
            latency: histogram()?,
            errors: 0,
            first_error: None,
            retries: 0,
            begun: None,
            ended: None,
        })
    }

    pub fn record(&mut self, latency: Duration) {
        self.record_many(latency, 1);
    }

    /// `count` operations that took equally long.
    pub fn record_many(&mut self, latency: Duration, count: u64) {
        if self.running {
            self.operations += count;
            self.latency.saturating_record_n(latency.as_nanos() as u64, count);
        }
    }

    /// A failed call. Returns how many there were: the caller gives up at some number.
    pub fn error(&mut self, what: impl FnOnce() -> String) -> u64 {
        self.errors += 1;
        self.first_error.get_or_insert_with(what);
        self.errors
    }

    pub fn retry(&mut self) {
        if self.running {
            self.retries += 1;
        }
    }

    pub fn operations(&self) -> u64 {
        self.operations
    }

    pub fn begin(&mut self) -> Result<()> {
        let (server, machine) = (self.server_cpu()?, proc::machine_cpu_seconds().ok());
        self.begun = Some(Baseline { at: Instant::now(), server, client: proc::own_cpu_seconds(), machine });
        self.running = true;
        Ok(())
    }

    fn server_cpu(&self) -> Result<Option<f64>> {
        if self.pids.is_empty() {
            return Ok(None);
        }
        self.pids.iter().map(|&pid| proc::cpu_seconds(pid)).sum::<Result<f64>>().map(Some)
    }

    /// Ends the measured part; calling it again changes nothing.
    pub fn end(&mut self) -> Result<()> {
        if self.running {
            let clock = self.stop_clock()?;
            self.finish(clock);
        }
        Ok(())
    }

    /// The time and CPU figures of now, for a later [`Meter::finish`].
    pub fn stop_clock(&self) -> Result<Clock> {
        let Some(begun) = &self.begun else { return Ok(Clock::default()) };
        let seconds = begun.at.elapsed().as_secs_f64();
        let client = proc::own_cpu_seconds() - begun.client;
        let server = self.server_cpu()?.zip(begun.server).map(|(now, then)| now - then);
        let machine = proc::machine_cpu_seconds().ok().zip(begun.machine).map(|(now, then)| now - then);
        let memory = if self.pids.is_empty() { None } else { Some(proc::memory(&self.pids)?) };
        Ok(Clock { seconds, client, server, machine, memory })
    }

    /// Ends the measured part at `clock`; records after it do not count.
    pub fn finish(&mut self, clock: Clock) {
        self.running = false;
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let others = clock.machine.zip(clock.server).map(|(all, server)| all - server - clock.client);
        self.ended = Some(Sample {
            operations: self.operations,
            seconds: clock.seconds,
            latency: self.latency.clone(),
            errors: 0,
            first_error: None,
            retries: self.retries,
            server_cpu_seconds: clock.server,
            memory: clock.memory,
            client_cpu_seconds: clock.client,
            beside: None,
            others_share: others.map(|others| (others / (clock.seconds * cores).max(1e-9)).clamp(0.0, 1.0)),
        });
    }

    pub fn into_first_error(self) -> Option<String> {
        self.first_error
    }

    /// The measured part; None if it never began.
    pub fn into_sample(self) -> Option<Sample> {
        let (errors, first_error) = (self.errors, self.first_error);
        self.ended.map(|sample| Sample { errors, first_error, ..sample })
    }
}
