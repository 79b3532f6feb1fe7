//! Puts or gets through the usual Rust gRPC client, on one thread like ours: what the hand-written
//! client measures can be believed if this one, at its higher price, shows the same server.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use netsy_api::etcdserverpb::kv_client::KvClient;
use netsy_api::etcdserverpb::{PutRequest, RangeRequest};
use tonic::transport::{Channel, Endpoint};

use crate::keys::{KeySpace, Rng, Values};
use crate::meter::{Meter, Sample};
use crate::report::{Series, run_table};
use crate::spec::{KEY_PREFIX, Mode, Spec};
use crate::target::Target;

#[derive(Args)]
pub struct TonicArgs {
    /// put or get.
    #[arg(value_enum)]
    mode: Mode,
    #[arg(long, default_value = "127.0.0.1:2379")]
    endpoint: SocketAddr,
    #[arg(long)]
    server_pid: Vec<u32>,
    #[command(flatten)]
    spec: Spec,
}

/// One round of each client against the same server, side by side.
pub fn main(args: &TonicArgs) -> Result<()> {
    ensure!(matches!(args.mode, Mode::Put | Mode::Get), "tonic-check knows put and get");
    args.spec.check(args.mode)?;
    let mut target = Target::new("hand-written", args.endpoint, args.server_pid.clone());
    target.prepare(Mode::Get, &args.spec)?;
    let ours = target.round(args.mode, &args.spec, 0)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let theirs = runtime.block_on(tokio::task::LocalSet::new().run_until(measure(args)))?;
    let one = |name: &str, sample| Series { name: name.into(), samples: vec![sample] };
    println!("{}", run_table(&[one("hand-written", ours), one("tonic", theirs)]));
    Ok(())
}

async fn measure(args: &TonicArgs) -> Result<Sample> {
    let spec = &args.spec;
    let mut channels = Vec::new();
    for _ in 0..spec.connections() {
        channels.push(Endpoint::try_from(format!("http://{}", args.endpoint))?.tcp_nodelay(true).connect().await?);
    }
    let start = Instant::now() + spec.warm();
    let window = (start, start + spec.measure());
    let clients: Vec<_> = (0..spec.clients)
        .map(|c| {
            let channel = channels[c % channels.len()].clone();
            tokio::task::spawn_local(client(channel, args.mode, spec.clone(), c as u64, window))
        })
        .collect();
    let mut meter = Meter::new(&args.server_pid)?;
    tokio::time::sleep(spec.warm()).await;
    meter.begin()?;
    tokio::time::sleep(spec.measure()).await;
    let mut latencies = Vec::new();
    let stopped = meter.stop_clock()?;
    for client in clients {
        latencies.extend(client.await??);
    }
    latencies.into_iter().for_each(|latency| meter.record(latency));
    meter.finish(stopped);
    meter.into_sample().context("nothing was measured")
}

async fn client(
    channel: Channel,
    mode: Mode,
    spec: Spec,
    number: u64,
    (start, end): (Instant, Instant),
) -> Result<Vec<Duration>> {
    let mut kv = KvClient::new(channel);
    let mut rng = Rng::new(spec.seed.wrapping_add(number << 32));
    let values = Values::new(spec.value_size, &mut rng);
    let mut keys = KeySpace::new(KEY_PREFIX, spec.key_size, spec.keys)?;
    let mut latencies = Vec::new();
    loop {
        let index = rng.below(keys.count());
        let key = keys.key(index).to_vec().into();
        let began = Instant::now();
        if mode == Mode::Put {
            let value = values.value(&mut rng).to_vec().into();
            kv.put(PutRequest { key, value, ..Default::default() }).await?;
        } else {
            let request = RangeRequest { key, serializable: spec.serializable, ..Default::default() };
            ensure!(kv.range(request).await?.into_inner().kvs.len() == 1, "a get found nothing");
        }
        let now = Instant::now();
        if now >= end {
            return Ok(latencies);
        }
        if now >= start {
            latencies.push(now - began);
        }
    }
}
