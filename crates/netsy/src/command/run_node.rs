//! Running a node until a signal or its own end.

use crate::config::ClusterConfig;
use anyhow::{Context, anyhow, bail};
use netsy_api::ids::NodeId;
use netsy_node::{Ended, Node, NodeConfig, Opened, PeerListen};
use netsy_objects::{Buckets, StorageConfig};
use netsy_peer::tls::{RELOAD_INTERVAL, TlsStore};
use netsy_server::{Mutual, Plain, Ports, Server, ServerConfig};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Bytes of current values kept in memory.
const VALUE_CACHE_BYTES_MAX: usize = 64 << 20;

/// Between two tries of a start to reach object storage, the first time and at most.
const STORE_PAUSE_MIN: Duration = Duration::from_millis(500);
const STORE_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A start that takes longer than this answers probes.
const QUIET_START: Duration = Duration::from_secs(2);

/// Where a node listens.
pub struct Listen {
    pub client: SocketAddr,
    pub health: Option<SocketAddr>,
    /// `None`: made from the address it listens on.
    pub advertise_client: Option<String>,
    /// For clients and other nodes; `None`: no TLS, loopback only.
    pub tls: Option<Arc<TlsStore>>,
    /// Where other nodes connect; `None`: the node is alone.
    pub peer: Option<SocketAddr>,
    /// `None`: made from the address it listens on.
    pub advertise_peer: Option<String>,
}

impl Listen {
    /// The URL of an address that is listened on. One that stands for all of the machine's addresses is told by
    /// the machine's name.
    fn url(&self, addr: SocketAddr) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        if !addr.ip().is_unspecified() {
            return format!("{scheme}://{addr}");
        }
        let system = rustix::system::uname();
        format!("{scheme}://{}:{}", system.nodename().to_string_lossy(), addr.port())
    }
}

/// The host in a URL.
fn host_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, _)| host),
        None => Some(authority.rsplit_once(':').map_or(authority, |(host, _)| host)),
    }
}

/// What a running node can say of itself.
pub struct Started {
    pub client: SocketAddr,
    pub survives: String,
}

/// For benchmarks and tests: time added to each call of the object store, which stands in for a distant one.
pub fn store_latency_from_environment() -> anyhow::Result<Duration> {
    match std::env::var("NETSY_TEST_STORE_LATENCY") {
        Err(_) => Ok(Duration::ZERO),
        Ok(text) => crate::config::values::duration(&text).map_err(|e| anyhow!("NETSY_TEST_STORE_LATENCY: {e}")),
    }
}

/// For tests: whether the node is to run over the file layer that forgets at a kill what was not synced.
fn forgets_what_is_not_synced() -> anyhow::Result<bool> {
    let asked = match std::env::var("NETSY_CRASHFS") {
        Err(_) => false,
        Ok(text) => match text.as_str() {
            "1" => true,
            "" | "0" => false,
            other => bail!("NETSY_CRASHFS={other:?}: 1 or nothing"),
        },
    };
    if asked && !cfg!(feature = "crashfs") {
        bail!(
            "NETSY_CRASHFS=1: this netsy was built without the file layer for tests; \
             build it with --features crashfs, or unset the variable"
        );
    }
    Ok(asked)
}

/// The bucket, and the file layer of the local database if it is not the usual one.
async fn open_storage(storage: &StorageConfig, data_dir: &Path) -> anyhow::Result<(Buckets, Option<String>)> {
    if forgets_what_is_not_synced()? {
        #[cfg(feature = "crashfs")]
        {
            let vfs = super::crashfs::track(data_dir)?;
            return Ok((super::crashfs::open(storage).await.context("object storage")?, Some(vfs)));
        }
    }
    let _ = data_dir;
    Ok((netsy_objects::open(storage).await.context("object storage")?, None))
}

/// Runs a node. Returns once it has stopped gracefully; anything else is an error.
pub fn run(
    cluster: ClusterConfig,
    node_id: NodeId,
    data_dir: PathBuf,
    listen: Listen,
    announce: impl FnMut(&Started),
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let mut announce = announce;
    let result = runtime.block_on(async {
        if let Some(tls) = &listen.tls {
            tokio::spawn(tls.clone().watch(RELOAD_INTERVAL));
        }
        while let Next::Again = serve(&cluster, &node_id, &data_dir, &listen, &mut announce).await? {}
        Ok(())
    });
    // Threads that still read from a store that hangs must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(
    cluster: &ClusterConfig,
    node_id: &NodeId,
    data_dir: &Path,
    listen: &Listen,
    announce: &mut impl FnMut(&Started),
) -> anyhow::Result<Next> {
    // Before anything slow, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    // Before the node takes part in anything: a port that is taken ends it without a trace.
    let ports = Ports::listen(listen.client, listen.health).await?;
    let (buckets, sqlite_vfs) = open_storage(&cluster.storage, data_dir).await?;
    let peers = match listen.peer {
        Some(addr) => {
            let listener = tokio::net::TcpListener::bind(addr).await;
            Some(listener.with_context(|| format!("cannot listen for other nodes on {addr}"))?)
        }
        None => None,
    };
    let advertise = Advertised {
        client: listen.advertise_client.clone().unwrap_or_else(|| listen.url(listen.client)),
        peer: match (&listen.advertise_peer, &peers) {
            (Some(url), _) => vec![url.clone()],
            (None, Some(listener)) => vec![listen.url(listener.local_addr().context("the peer port")?)],
            (None, None) => vec![],
        },
    };
    if let Some(tls) = &listen.tls
        && let Some(host) = host_of(&advertise.client)
        && !tls.covers(host)
    {
        tracing::warn!(
            host,
            url = advertise.client,
            "the server certificate is not for this host: clients will refuse it"
        );
    }
    let config = NodeConfig { sqlite_vfs, ..node_config(cluster, node_id.clone(), data_dir.to_path_buf(), advertise)? };
    let peers = peers.map(|listener| PeerListen { listener, tls: listen.tls.as_ref().map(|tls| tls.peers()) });
    let (node, ports) = tokio::select! {
        started = start(config, &buckets, ports, peers) => started?,
        _ = terminate.recv() => bail!("stopped by SIGTERM before it served"),
        _ = interrupt.recv() => bail!("stopped before it served"),
    };
    let limits = ServerConfig {
        request_bytes_max: cluster.request_bytes_max,
        request_timeout: netsy_node::REQUEST_TIMEOUT,
        drain_timeout: cluster.drain_timeout,
        ..ServerConfig::default()
    };
    let started = match &listen.tls {
        None => Server::start_on(limits, node.clone(), ports, Plain),
        Some(tls) => Server::start_on(limits, node.clone(), ports, Mutual::new(tls.clients())),
    };
    let server = match started {
        Ok(server) => server,
        Err(error) => {
            node.finish().await;
            return Err(error.into());
        }
    };
    let client = server.client_addr();
    let mut announce = Some(announce);
    let ended = loop {
        tokio::select! {
            biased; // Whether it has served is known before a signal is looked at.
            served = node.serving(), if announce.is_some() => {
                let Some(announce) = announce.take().filter(|_| served.is_ok()) else { continue };
                let started = Started { client, survives: node.survives().unwrap_or_default() };
                tracing::info!("durability: {}", started.survives);
                announce(&started);
                tracing::info!(client = %client, revision = node.revision().0, "ready to serve client requests");
            }
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            ended = node.ended() => break Some(ended),
        }
    };
    match ended {
        // Nobody was answered anything, and nobody else is there to take over: as if it had not been started.
        None if announce.is_some() && !node.has_company() => {
            node.finish().await;
            bail!("stopped before it served");
        }
        None => {
            if node.has_company() {
                tracing::info!("stopping: other nodes take over, then requests under way are finished");
                let drained = node.drain().await;
                // Until the last answer this node still follows, or is the last Primary.
                server.stop().await;
                let departed = node.depart().await;
                node.finish().await;
                drained.and(departed).map_err(|e| anyhow!("the stop was not complete: {e}"))?;
                tracing::info!("stopped: the other nodes go on");
            } else {
                tracing::info!(
                    "stopping: requests under way are finished, then everything is brought to object storage"
                );
                server.stop().await;
                node.stop().await.map_err(|e| anyhow!("the stop was not complete: {e}"))?;
                tracing::info!("stopped: object storage has everything");
            }
            Ok(Next::End)
        }
        Some(Ended::Stopped) => Ok(Next::End),
        Some(Ended::Rebuild(why)) => {
            tracing::error!(%why, "the local database is set aside and the node starts anew");
            server.stop().await;
            node.finish().await;
            let aside = data_dir.join(format!("set-aside-term-{}", node.term()));
            netsy_localdb::LocalDb::set_aside(data_dir, &aside)?;
            Ok(Next::Again)
        }
        // Clients are to go elsewhere at once; what was promised is in the bucket or on disk.
        Some(Ended::Failed(why)) => bail!("the node cannot go on: {why}"),
    }
}

async fn start(
    config: NodeConfig,
    buckets: &Buckets,
    ports: Ports,
    peers: Option<PeerListen>,
) -> anyhow::Result<(Node, Ports)> {
    let (opened, ports) = open(&config, buckets, ports).await?;
    Ok((Node::start_opened(opened, peers).await?, ports))
}

/// Opens what a node begins with. Object storage that cannot be asked is waited for: to end would make whoever watches
/// over this process start it again and again, and tell an operator less.
async fn open(config: &NodeConfig, buckets: &Buckets, ports: Ports) -> anyhow::Result<(Opened, Ports)> {
    let (why, told) = watch::channel("the node opens its local database and object storage".to_owned());
    let tries = async {
        let mut pause = STORE_PAUSE_MIN;
        loop {
            match Opened::open(config.clone(), buckets.clone()).await {
                Err(error) if error.storage_is_out() => {
                    tracing::warn!(%error, "object storage does not answer: the node waits for it, and starts then");
                    why.send_replace(format!("object storage does not answer: {error}"));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(STORE_PAUSE_MAX);
                }
                done => return done,
            }
        }
    };
    let mut tries = std::pin::pin!(tries);
    if let Ok(opened) = tokio::time::timeout(QUIET_START, &mut tries).await {
        return Ok((opened?, ports));
    }
    let waiting = ports.wait(told)?;
    let opened = tries.await?;
    Ok((opened, waiting.stop().await?))
}

/// What follows a node's end.
enum Next {
    End,
    Again,
}

/// Under which URLs a node is reached.
struct Advertised {
    client: String,
    peer: Vec<String>,
}

fn node_config(
    cluster: &ClusterConfig,
    node_id: NodeId,
    data_dir: PathBuf,
    advertise: Advertised,
) -> anyhow::Result<NodeConfig> {
    Ok(NodeConfig {
        cluster_id: cluster.cluster_id.clone(),
        node_id,
        data_dir,
        advertise_client: vec![advertise.client],
        advertise_peer: advertise.peer,
        quorum: cluster.quorum,
        copies_min: cluster.copies_min,
        quorum_timeout: cluster.keys.quorum_timeout,
        voters_max: cluster.keys.voters_max,
        heartbeat_interval: cluster.keys.heartbeat_interval,
        degradation_count: cluster.keys.degradation_count,
        deregistration_timeout: cluster.keys.deregistration_timeout,
        leader_timeout: cluster.keys.leader_timeout,
        read_lease: cluster.read_lease,
        chunk_bytes: cluster.chunk_bytes,
        chunk_age: cluster.chunk_age,
        snapshot_records: cluster.snapshot_records,
        snapshot_bytes: cluster.snapshot_bytes,
        snapshot_age: cluster.snapshot_age,
        snapshot_retention: cluster.snapshot_retention,
        compaction_interval: cluster.compaction_interval,
        compaction_retention: cluster.compaction_retention,
        watch_progress_interval: cluster.watch_progress_interval,
        drain_timeout: cluster.drain_timeout,
        request_bytes_max: cluster.request_bytes_max,
        txn_ops_max: cluster.txn_ops_max,
        db_bytes_max: cluster.db_bytes_max,
        value_cache_bytes_max: VALUE_CACHE_BYTES_MAX,
        sqlite_vfs: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_urls() {
        for (url, host) in [
            ("https://n1:2379", Some("n1")),
            ("https://n1", Some("n1")),
            ("https://10.0.0.1:2379/", Some("10.0.0.1")),
            ("https://[::1]:2379", Some("::1")),
            ("n1:2379", None),
        ] {
            assert_eq!(host_of(url), host, "{url}");
        }
    }

    #[test]
    fn an_address_for_all_is_told_by_the_machines_name() {
        let listen = Listen {
            client: SocketAddr::from(([127, 0, 0, 1], 1)),
            health: None,
            advertise_client: None,
            tls: None,
            peer: None,
            advertise_peer: None,
        };
        assert_eq!(listen.url(listen.client), "http://127.0.0.1:1");
        let all = listen.url(SocketAddr::from(([0, 0, 0, 0], 2379)));
        assert!(all.ends_with(":2379") && !all.contains("0.0.0.0"), "{all}");
    }
}
