//! `netsy dev`: one command, one folder; one node, or a cluster of several.

use super::dev_nodes::{self, Cluster};
use super::node_client::say;
use super::run_node::{self, Listen, Started};
use crate::config;
use crate::logs::{self, LogArgs};
use anyhow::{Context, anyhow, ensure};
use clap::Args;
use netsy_api::ids::NodeId;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct DevArgs {
    /// Folder that holds everything: the object store in `store`, the node's database in `node`.
    #[arg(long, default_value = "./netsy-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Nodes to start, each a process of its own, to try failover by hand.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(dev_nodes::NODES_MAX)))]
    nodes: u16,
    /// Where clients connect; a loopback address. With several nodes the first one's: ports after it are taken in pairs,
    /// for clients and for nodes.
    #[arg(long, default_value = "127.0.0.1:2379", value_name = "HOST:PORT")]
    listen_client: SocketAddr,
    /// Where health and metrics are served beside the client port; a loopback address.
    #[arg(long, value_name = "HOST:PORT")]
    listen_health: Option<SocketAddr>,
    /// 2: a write is acknowledged once it is in the object store. 1: once it is on the node's own disk, as a
    /// single etcd does. Counts when the folder is new.
    #[arg(long, default_value_t = 2, value_name = "N")]
    copies_min: usize,
    /// Settings of a cluster file, which then decides everything but the storage.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    logs: LogArgs,
}

pub fn run(args: DevArgs) -> anyhow::Result<()> {
    logs::start(&args.logs)?;
    for address in std::iter::once(args.listen_client).chain(args.listen_health) {
        ensure!(
            address.ip().is_loopback(),
            "{address} is not a loopback address: netsy dev serves without TLS, so it listens on 127.0.0.1 or [::1] only"
        );
    }
    ensure!(args.copies_min >= 1, "--copies-min {}: must be at least 1", args.copies_min);
    std::fs::create_dir_all(&args.data_dir).with_context(|| format!("data folder {}", args.data_dir.display()))?;
    let data_dir = args.data_dir.canonicalize().with_context(|| format!("data folder {}", args.data_dir.display()))?;
    let store = data_dir.join("store");
    let mut cluster = match &args.config {
        Some(path) => config::load(path).map_err(|e| anyhow!("{e}"))?.config,
        None => {
            let text = serde_json::json!({
                "cluster_id": "dev",
                "storage": { "provider": "file", "path": store },
                "replication": { "copies_min": args.copies_min },
            });
            config::parse(&text.to_string()).map_err(|p| anyhow!("built-in configuration: {}", p.join("; ")))?.config
        }
    };
    if args.nodes > 1 {
        ensure!(
            args.listen_health.is_none(),
            "--listen-health is for one node: each of several serves its own on its client port"
        );
        let path = write_cluster_file(&args, &data_dir, &store)?;
        return dev_nodes::run(&Cluster {
            data_dir,
            shown: args.data_dir.clone(),
            config: path,
            nodes: args.nodes,
            listen_client: args.listen_client,
            drain_timeout: cluster.drain_timeout,
        });
    }
    cluster.storage = netsy_objects::StorageConfig::file(store);
    cluster.read_lease = std::time::Duration::ZERO;
    cluster.storage.extra_latency = run_node::store_latency_from_environment()?;
    let node_id = NodeId::new("dev-1").map_err(|e| anyhow!("{e}"))?;
    let listen = Listen {
        client: args.listen_client,
        health: args.listen_health,
        advertise_client: None,
        tls: None,
        peer: None,
        advertise_peer: None,
    };
    let shown = args.data_dir.clone();
    run_node::run(cluster, node_id, data_dir.join("node"), listen, move |started| print_welcome(started, &shown))
}

/// The cluster file of several nodes: what one node goes by, too.
fn write_cluster_file(args: &DevArgs, data_dir: &Path, store: &Path) -> anyhow::Result<PathBuf> {
    let mut settings = match &args.config {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("config file {}", path.display()))?;
            config::value(&text).map_err(|e| anyhow!("config file {}: {e}", path.display()))?
        }
        None => serde_json::json!({ "cluster_id": "dev", "replication": { "copies_min": args.copies_min } }),
    };
    let root = settings.as_object_mut().ok_or_else(|| anyhow!("the config file holds no JSON object"))?;
    root.insert("storage".to_string(), serde_json::json!({ "provider": "file", "path": store }));
    if let Some(replication) = root.get_mut("replication").and_then(|r| r.as_object_mut()) {
        replication.remove("read_lease");
    }
    let path = data_dir.join("cluster.jsonc");
    let text = format!("// Written by `netsy dev --nodes {}` at each start.\n{settings:#}\n", args.nodes);
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    config::load(&path).map_err(|e| anyhow!("{e}"))?;
    Ok(path)
}

fn print_welcome(started: &Started, data_dir: &std::path::Path) {
    let Started { client, survives, .. } = started;
    let text = format!(
        "netsy {version}: one node for development, speaking the etcd v3 API on {client}\n\
         \n\
         \x20 object store   {store}    the permanent copy of everything\n\
         \x20 database       {node}     delete it while netsy is stopped: it comes back from the store\n\
         \x20 durability     {survives}\n\
         \x20 health         http://{client}/health   metrics http://{client}/metrics\n\
         \n\
         Try:  etcdctl --endpoints={client} put hello world\n\
         \x20     etcdctl --endpoints={client} get hello\n\
         \x20     netsy dev --nodes 3    instead of this one: a cluster, to try failover by hand\n\
         \n\
         Ctrl-C stops it; the same command goes on where it was.\n",
        version = env!("CARGO_PKG_VERSION"),
        store = data_dir.join("store").display(),
        node = data_dir.join("node").display(),
    );
    // The node serves all the same where nobody reads this.
    if let Err(error) = say(&text) {
        tracing::warn!("{error:#}");
    }
}
