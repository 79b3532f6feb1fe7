//! Fill, stop, start: how much memory a server takes for many keys and how soon it serves them.

use std::time::Duration;

use anyhow::Result;

use crate::meter::Sample;
use crate::proc::{self, Memory};
use crate::servers::Server;
use crate::spec::Spec;

const AFTER_START: Duration = Duration::from_secs(1);

pub struct Refilled {
    pub fill: Sample,
    /// When all keys were put.
    pub filled: Memory,
    pub starts: Vec<Started>,
}

#[derive(Clone, Copy)]
pub struct Started {
    /// From the program's start to its first linearizable answer.
    pub took: Duration,
    pub memory: Memory,
}

impl Refilled {
    /// The most memory it ever took, bytes.
    pub fn peak(&self) -> u64 {
        self.starts.iter().map(|s| s.memory.peak).fold(self.filled.peak, u64::max)
    }
}

/// Fills each server in turn, the others stopped; then starts and stops them in alternating
/// rounds. They are stopped at the end.
pub fn fill_and_restart(servers: &mut [Server], spec: &Spec, rounds: usize) -> Result<Vec<Refilled>> {
    let mut results = Vec::new();
    for server in servers.iter_mut() {
        server.start()?;
        let mut target = server.target()?;
        let fill = target.fill(spec)?;
        results.push(Refilled { fill, filled: proc::memory(&target.pids)?, starts: Vec::new() });
        server.stop()?;
    }
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..servers.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let took = servers[at].start()?;
            // What a start leaves to the background counts too.
            std::thread::sleep(AFTER_START);
            let memory = proc::memory(&servers[at].target()?.pids)?;
            servers[at].stop()?;
            results[at].starts.push(Started { took, memory });
        }
    }
    Ok(results)
}
