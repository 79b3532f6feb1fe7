//! `netsy server`: a node of a cluster.

use super::run_node::{self, Listen};
use super::tls::TlsArgs;
use crate::config;
use crate::logs::{self, LogArgs};
use anyhow::{Context, anyhow, ensure};
use clap::Args;
use netsy_api::ids::NodeId;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

#[derive(Args)]
pub struct ServerArgs {
    /// The cluster's JSONC file.
    #[arg(long, env = "NETSY_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// This node's name, unique in the cluster.
    #[arg(long, env = "NETSY_NODE_ID", value_name = "NAME")]
    node_id: String,
    /// Folder of the node's database.
    #[arg(long, env = "NETSY_DATA_DIR", default_value = "/var/lib/netsy", value_name = "DIR")]
    data_dir: PathBuf,
    /// Where clients connect.
    #[arg(long, env = "NETSY_BIND_CLIENT", default_value = ":2379", value_name = "HOST:PORT")]
    bind_client: String,
    /// The URL under which clients reach this node; by default made from the address it is bound to.
    #[arg(long, env = "NETSY_ADVERTISE_CLIENT", value_name = "URL")]
    advertise_client: Option<String>,
    /// Where other nodes connect.
    #[arg(long, env = "NETSY_BIND_PEER", default_value = ":2380", value_name = "HOST:PORT")]
    bind_peer: String,
    /// The URL under which other nodes reach this one; by default made from the address it is bound to.
    #[arg(long, env = "NETSY_ADVERTISE_PEER", value_name = "URL")]
    advertise_peer: Option<String>,
    /// Where health and metrics are served.
    #[arg(long, env = "NETSY_BIND_HEALTH", default_value = ":8080", value_name = "HOST:PORT")]
    bind_health: String,
    #[command(flatten)]
    tls: TlsArgs,
    /// Serve without TLS; every address must then be a loopback one.
    #[arg(long)]
    insecure_loopback_only: bool,
    /// Overrides replication.copies_min of the file. Counts when the cluster is created.
    #[arg(long, value_name = "N")]
    copies_min: Option<usize>,
    /// Overrides replication.quorum of the file. Counts when the cluster is created.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    quorum: Option<i32>,
    #[command(flatten)]
    logs: LogArgs,
}

/// `HOST:PORT`, or `:PORT` for every address (with `loopback`: for the loopback one).
fn address(what: &str, text: &str, loopback: bool) -> anyhow::Result<SocketAddr> {
    let full = match text.strip_prefix(':') {
        Some(port) if loopback => format!("127.0.0.1:{port}"),
        Some(port) => format!("0.0.0.0:{port}"),
        None => text.to_string(),
    };
    let mut found = full.to_socket_addrs().with_context(|| format!("{what} {text:?}: write HOST:PORT or :PORT"))?;
    let address = found.next().ok_or_else(|| anyhow!("{what} {text:?}: the name has no address"))?;
    ensure!(
        !loopback || address.ip().is_loopback(),
        "{what} {text:?} is not a loopback address, and --insecure-loopback-only serves without TLS"
    );
    Ok(address)
}

pub fn run(args: ServerArgs) -> anyhow::Result<()> {
    logs::start(&args.logs)?;
    let loaded = config::load(&args.config).map_err(|e| anyhow!("{e}"))?;
    let mut cluster = loaded.config;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let node_id = NodeId::new(args.node_id.as_str()).map_err(|e| anyhow!("--node-id: {e}"))?;
    let insecure = args.insecure_loopback_only;
    let tls = args.tls.load(insecure, &cluster.cluster_id, &node_id)?;
    if let Some(copies_min) = args.copies_min {
        ensure!(copies_min >= 1, "--copies-min {copies_min}: must be at least 1");
        cluster.copies_min = copies_min;
    }
    if let Some(quorum) = args.quorum {
        ensure!(
            (-1..=100).contains(&quorum),
            "--quorum {quorum}: use -1 (majority), 0 (object storage) or a number of receipts"
        );
        cluster.quorum = quorum;
    }
    let client = address("--bind-client", &args.bind_client, insecure)?;
    let peer = address("--bind-peer", &args.bind_peer, insecure)?;
    let health = address("--bind-health", &args.bind_health, insecure)?;
    cluster.storage.extra_latency = run_node::store_latency_from_environment()?;
    let listen = Listen {
        client,
        health: Some(health),
        advertise_client: args.advertise_client,
        tls,
        peer: Some(peer),
        advertise_peer: args.advertise_peer,
    };
    run_node::run(cluster, node_id, args.data_dir, listen, |_| {})
}
