//! A server under load: how one round of any mode is run against it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::engine::{self, Load, Plan};
use crate::keys::{KeySpace, Rng, Values};
use crate::loads::lease::KeepAlive;
use crate::loads::requests::{Fill, Gets, Lists, Mixed, Probe, Puts, Updates};
use crate::loads::unary::{Closed, Requests};
use crate::loads::watch::Fanout;
use crate::meter::Sample;
use crate::spec::{KEY_PREFIX, LIST_PREFIX, Mode, Spec};

/// Clients that fill a server before a round.
const FILL_CLIENTS: usize = 200;
/// Longest time without an answer before a run is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

pub struct Target {
    pub name: String,
    pub address: SocketAddr,
    /// Its processes on this machine, if known.
    pub pids: Vec<u32>,
    /// What the keys were filled at; update-txn goes on from there.
    revisions: Vec<u64>,
}

impl Target {
    pub fn new(name: &str, address: SocketAddr, pids: Vec<u32>) -> Target {
        Target { name: name.to_owned(), address, pids, revisions: Vec::new() }
    }

    fn plan(&self, layout: Vec<u32>) -> Plan<'_> {
        Plan {
            address: self.address,
            layout,
            warmup: Duration::ZERO,
            measure: None,
            count: None,
            silence_max: SILENCE_MAX,
            pids: &self.pids,
            stop: None,
        }
    }

    /// Puts what `mode` needs to find.
    pub fn prepare(&mut self, mode: Mode, spec: &Spec) -> Result<()> {
        match mode {
            Mode::Get | Mode::UpdateTxn | Mode::Mixed => self.fill(spec).map(drop),
            Mode::List => self.fill_list(spec, spec.value_size),
            Mode::PutWhileList => self.fill_list(spec, spec.list_value_size),
            Mode::Put | Mode::Watch | Mode::LeaseKeepAlive | Mode::Load | Mode::Start => Ok(()),
        }
    }

    /// Puts every key once.
    pub fn fill(&mut self, spec: &Spec) -> Result<Sample> {
        let keys = KeySpace::new(KEY_PREFIX, spec.key_size, spec.keys)?;
        let (sample, revisions) = self.fill_keys(keys, spec.value_size, spec.seed)?;
        self.revisions = revisions;
        Ok(sample)
    }

    fn fill_list(&self, spec: &Spec, value_size: usize) -> Result<()> {
        self.fill_keys(KeySpace::new(LIST_PREFIX, spec.key_size, spec.keys)?, value_size, spec.seed).map(drop)
    }

    fn fill_keys(&self, keys: KeySpace, value_size: usize, seed: u64) -> Result<(Sample, Vec<u64>)> {
        let mut rng = Rng::new(seed);
        let clients = FILL_CLIENTS.min(keys.count());
        let values = Values::new(value_size, &mut rng);
        let mut fill = Fill::new(clients, keys, values, rng);
        let sample = engine::run(&self.plan(Plan::spread(clients, clients.div_ceil(10))), &mut Closed::new(&mut fill))
            .with_context(|| format!("filling {}", self.name))?;
        let missing = fill.revisions.iter().filter(|&&r| r == 0).count();
        ensure!(missing == 0, "{} did not take {missing} keys: {:?}", self.name, sample.first_error);
        Ok((sample, fill.revisions))
    }

    /// Waits for the first linearizable answer; returns how long it took, from `since`.
    pub fn first_answer(&self, since: Instant, limit: Duration) -> Result<Duration> {
        loop {
            let mut probe = Probe::default();
            let mut plan = self.plan(vec![0]);
            plan.pids = &[];
            let last = match engine::run(&plan, &mut Closed::new(&mut probe)) {
                Ok(sample) if sample.operations == 1 => return Ok(since.elapsed()),
                Ok(sample) => sample.first_error.unwrap_or_default(),
                Err(e) => format!("{e:#}"),
            };
            for &pid in &self.pids {
                ensure!(crate::proc::is_running(pid), "{} (process {pid}) has ended: {last}", self.name);
            }
            ensure!(
                since.elapsed() < limit,
                "{} at {} serves nothing after {limit:?}: {last}",
                self.name,
                self.address
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// One round. `number` varies the seed, the same for every target.
    pub fn round(&mut self, mode: Mode, spec: &Spec, number: u64) -> Result<Sample> {
        let mut rng = Rng::new(spec.seed.wrapping_add(number.wrapping_mul(0x5851_f42d_4c95_7f2d)));
        let clients = spec.clients;
        let values = Values::new(spec.value_size, &mut rng);
        let keys = || KeySpace::new(KEY_PREFIX, spec.key_size, spec.keys);
        let puts = |rng: &Rng| Ok::<_, anyhow::Error>(Puts::new(clients, keys()?, values.clone(), rng.clone()));
        let gets = |rng: &Rng| {
            let gets = Gets::new(clients, keys()?, spec.value_size, spec.serializable, rng.clone());
            Ok::<_, anyhow::Error>(gets)
        };
        match mode {
            Mode::Put => self.unary(spec, &mut puts(&rng)?),
            Mode::Get => self.unary(spec, &mut gets(&rng)?),
            Mode::Mixed => {
                let (gets, puts) = (gets(&rng)?, puts(&rng)?);
                self.unary(spec, &mut Mixed::new(gets, puts, spec.read_percent, clients, rng))
            }
            Mode::UpdateTxn => {
                let mut revisions = std::mem::take(&mut self.revisions);
                let mut updates = Updates::new(clients, keys()?, values, rng, &mut revisions);
                let sample = self.unary(spec, &mut updates);
                self.revisions = revisions;
                sample
            }
            Mode::List => self.unary(spec, &mut lists(spec, clients, spec.value_size)?),
            Mode::PutWhileList => self.put_while_list(spec, &mut puts(&rng)?),
            Mode::Watch => {
                let key = keys()?.key(0).to_vec();
                let streams = spec.streams();
                let mut load = Fanout::new(key, values, rng, spec.writers, streams, spec.watchers)?;
                let connections = spec.connections.unwrap_or(streams.div_ceil(10));
                self.run(spec, Fanout::layout(spec.writers, streams, connections), &mut load)
            }
            Mode::LeaseKeepAlive => {
                self.run(spec, Plan::spread(clients, spec.connections()), &mut KeepAlive::default())
            }
            Mode::Load | Mode::Start => self.fill(spec),
        }
    }

    fn unary(&self, spec: &Spec, requests: &mut dyn Requests) -> Result<Sample> {
        self.run(spec, Plan::spread(spec.clients, spec.connections()), &mut Closed::new(requests))
    }

    fn run(&self, spec: &Spec, layout: Vec<u32>, load: &mut dyn Load) -> Result<Sample> {
        let mut plan = self.plan(layout);
        plan.warmup = spec.warm();
        plan.measure = Some(spec.measure());
        plan.count = spec.count;
        engine::run(&plan, load).with_context(|| format!("load on {} at {}", self.name, self.address))
    }

    fn put_while_list(&self, spec: &Spec, puts: &mut Puts) -> Result<Sample> {
        let stop = AtomicBool::new(false);
        let mut lists = lists(spec, 1, spec.list_value_size)?;
        let mut plan = self.plan(vec![0]);
        plan.stop = Some(&stop);
        std::thread::scope(|scope| {
            let lister = scope.spawn(|| engine::run(&plan, &mut Closed::new(&mut lists)));
            let sample = self.unary(spec, puts);
            stop.store(true, Ordering::Relaxed);
            let listed = lister.join().map_err(|_| anyhow::anyhow!("the listing thread panicked"))?;
            let (mut sample, listed) = (sample?, listed.context("listing beside the puts")?);
            ensure!(listed.operations > 0, "not one list ended while the puts ran");
            sample.errors += listed.errors;
            sample.first_error = sample.first_error.or_else(|| listed.first_error.clone());
            sample.beside = Some(listed.throughput());
            Ok(sample)
        })
    }
}

fn lists(spec: &Spec, slots: usize, value_size: usize) -> Result<Lists> {
    let keys = KeySpace::new(LIST_PREFIX, spec.key_size, spec.keys)?;
    Ok(Lists::new(slots, keys, value_size, spec.page, spec.range_stream, spec.serializable))
}
