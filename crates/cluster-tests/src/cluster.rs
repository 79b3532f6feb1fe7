//! A cluster of real processes: how its nodes are started, and who is what.

use crate::net::{Isolation, Net, Place};
use crate::process::{Launch, Process};
use crate::scenario::{Scenario, ServerKind};
use crate::shim::{Shim, Told};
use crate::store::Store;
use crate::tls::Certificates;
use anyhow::{Context, Result, anyhow, bail, ensure};
use netsy_e2e::Client;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tonic::transport::Endpoint;

const CLUSTER_ID: &str = "cluster-tests";
/// Where each node serves clients, peers, and its health.
const PORTS: [u16; 3] = [2379, 2380, 8080];
/// From a start to the first answer, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A graceful stop.
const STOP_WITHIN: Duration = Duration::from_secs(40);
/// For a question about roles.
const ASK_WITHIN: Duration = Duration::from_millis(1500);
const CONNECT_WITHIN: Duration = Duration::from_millis(1500);

/// The programs that are tested.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Of `ServerKind::Netsy`.
    pub netsy: PathBuf,
    /// Of `ServerKind::Etcd`.
    pub etcd: PathBuf,
}

/// What a client needs to know of a node.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Where it serves clients.
    pub address: SocketAddr,
    /// Which life of its process runs, or ran last.
    pub life: Arc<AtomicU64>,
}

/// One node.
pub struct Node {
    /// Its process.
    pub process: Process,
    /// For clients.
    pub view: NodeView,
    /// What is lost when it is wiped.
    pub data: PathBuf,
    /// What its preloaded library is told.
    pub told: Option<Told>,
}

/// All nodes and what is around them.
pub struct Cluster {
    /// What runs.
    pub kind: ServerKind,
    /// By number, from 0.
    pub nodes: Vec<Node>,
    /// Who hears whom.
    pub net: Net,
    /// Where the objects are.
    pub store: Store,
    /// The netsy program, for what an operator does.
    pub netsy: PathBuf,
    certificates: Option<Certificates>,
    folder: tempfile::TempDir,
    disks: Vec<PathBuf>,
}

impl Cluster {
    /// Everything but running nodes.
    pub async fn new(
        kind: ServerKind,
        programs: &Programs,
        scenario: &Scenario,
        isolation: &Isolation,
        data_root: &Path,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("netsy-cluster-").tempdir_in(data_root)?;
        let net = Net::new(isolation, scenario.nodes)?;
        let store = Store::start(scenario.store, &net, folder.path()).await?;
        let shim = match scenario.all_faults().any(|fault| fault.needs_shim()) {
            true => Some(Shim::build(folder.path())?),
            false => None,
        };
        let config = folder.path().join("cluster.jsonc");
        let mut text = json!({
            "cluster_id": CLUSTER_ID,
            "storage": store.config(&net),
            // A history is judged by compactions that clients asked for.
            "compaction_interval": "0s",
        });
        merge(&mut text, &scenario.config);
        std::fs::write(&config, format!("{text:#}"))?;
        let netsy = programs.netsy.clone();
        let certificates = match scenario.tls {
            true => {
                let addresses: Vec<_> = (0..scenario.nodes).map(|node| net.address(Place::Node(node)).into()).collect();
                Some(Certificates::make(&netsy, folder.path(), CLUSTER_ID, &addresses)?)
            }
            false => None,
        };
        let mut cluster = Self { kind, nodes: Vec::new(), net, store, netsy, certificates, folder, disks: Vec::new() };
        for node in 0..scenario.nodes {
            let name = name(node);
            let home = cluster.folder.path().join(&name);
            std::fs::create_dir_all(&home)?;
            if let Some(mib) = scenario.disk_mib {
                cluster.mount(&home, mib, isolation)?;
            }
            let data = home.join("data");
            let mut env = Vec::new();
            let mut told = None;
            if let Some(shim) = &shim {
                let node_told = Told::new(cluster.folder.path().join(format!("{name}.shim")))?;
                env.extend(shim.environment(&node_told));
                told = Some(node_told);
            }
            let (program, args) = match kind {
                ServerKind::Netsy => {
                    if scenario.store_latency_ms > 0 {
                        let latency = format!("{}ms", scenario.store_latency_ms);
                        env.push(("NETSY_TEST_STORE_LATENCY".into(), latency));
                    }
                    env.push(("AWS_ACCESS_KEY_ID".into(), "test".into()));
                    env.push(("AWS_SECRET_ACCESS_KEY".into(), "testtest".into()));
                    (&programs.netsy, cluster.netsy_args(node, &config, &data, &programs.netsy, scenario.nodes)?)
                }
                ServerKind::Etcd => (&programs.etcd, cluster.etcd_args(node, &data, scenario.nodes)),
            };
            ensure!(program.exists(), "{} is not there: build it, or say where it is", program.display());
            let launch = Launch { program: program.clone(), args, env };
            let process = Process::new(node, launch, cluster.folder.path().join(format!("{name}.log")));
            let address = cluster.address(node, 0);
            let view = NodeView { address, life: Arc::default() };
            cluster.nodes.push(Node { process, view, data, told });
        }
        Ok(cluster)
    }

    fn address(&self, node: usize, port: usize) -> SocketAddr {
        SocketAddr::from((self.net.address(Place::Node(node)), PORTS[port]))
    }

    fn netsy_args(&self, node: usize, config: &Path, data: &Path, program: &Path, nodes: usize) -> Result<Vec<String>> {
        let [client, peer, health] = [0, 1, 2].map(|port| self.address(node, port));
        let mut args = vec![
            "server".to_owned(),
            format!("--config={}", config.display()),
            format!("--node-id={}", name(node)),
            format!("--data-dir={}", data.display()),
            format!("--bind-client={client}"),
            format!("--bind-health={health}"),
        ];
        match &self.certificates {
            Some(certificates) => args.extend(certificates.arguments(node)),
            None => args.push("--insecure-loopback-only".to_owned()),
        }
        let help = Command::new(program).args(["server", "--help"]).output()?;
        if String::from_utf8_lossy(&help.stdout).contains("--bind-peer") {
            args.push(format!("--bind-peer={peer}"));
        } else if nodes > 1 {
            bail!("{} makes no clusters: its server command has no --bind-peer", program.display());
        }
        Ok(args)
    }

    fn etcd_args(&self, node: usize, data: &Path, nodes: usize) -> Vec<String> {
        let [client, peer, _] = [0, 1, 2].map(|port| self.address(node, port));
        let members: Vec<String> =
            (0..nodes).map(|node| format!("{}=http://{}", name(node), self.address(node, 1))).collect();
        vec![
            format!("--name={}", name(node)),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls=http://{client}"),
            format!("--advertise-client-urls=http://{client}"),
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            format!("--initial-cluster={}", members.join(",")),
            "--log-level=warn".to_owned(),
            "--watch-progress-notify-interval=1s".to_owned(),
            "--quota-backend-bytes=8589934592".to_owned(),
        ]
    }

    /// A small disk. It is in this process' own mounts, which end with it.
    fn mount(&mut self, at: &Path, mib: u64, isolation: &Isolation) -> Result<()> {
        if let Isolation::None(why) = isolation {
            bail!("no disk of its own for a node: {why}");
        }
        let options = format!("size={mib}m");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "netsy-cluster"]).arg(at).status()?;
        ensure!(done.success(), "mount a small disk at {}: {done}", at.display());
        self.disks.push(at.to_owned());
        Ok(())
    }

    /// Starts it and does not wait.
    pub fn start(&mut self, node: usize) -> Result<()> {
        let one = &mut self.nodes[node];
        one.process.start(&self.net)?;
        one.view.life.store(one.process.lives, Ordering::SeqCst);
        Ok(())
    }

    /// SIGTERM, and waits for a clean end; with `undone`, it may say that something was left undone.
    pub async fn stop(&mut self, node: usize, undone: bool) -> Result<()> {
        let process = &mut self.nodes[node].process;
        process.terminate()?;
        match process.wait(STOP_WITHIN).await? {
            Some(status) if status.success() || self.kind == ServerKind::Etcd => Ok(()),
            Some(status) if undone && status.code().is_some() => Ok(()),
            Some(status) => Err(anyhow!("SIGTERM ended {} with {status}", name(node))),
            None => {
                process.kill()?;
                Err(anyhow!("{} still ran {STOP_WITHIN:?} after SIGTERM", name(node)))
            }
        }
    }

    /// SIGKILL, and its data is gone.
    pub fn wipe(&mut self, node: usize) -> Result<()> {
        let node = &mut self.nodes[node];
        node.process.kill()?;
        match std::fs::remove_dir_all(&node.data) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", node.data.display()))
            }
            _ => Ok(()),
        }
    }

    /// Starts all, at once, and waits until each answers.
    pub async fn start_all(&mut self) -> Result<()> {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.start_some(&all).await
    }

    /// The same for some.
    pub async fn start_some(&mut self, nodes: &[usize]) -> Result<()> {
        for node in nodes {
            self.start(*node)?;
        }
        for node in nodes {
            self.ready(*node).await?;
        }
        Ok(())
    }

    /// Waits until the node answers a linearizable read.
    pub async fn ready(&mut self, node: usize) -> Result<()> {
        let start = Instant::now();
        loop {
            let one = &mut self.nodes[node];
            ensure!(one.process.is_running(), "{} ended: {}", name(node), one.process.log_tail(4096));
            let asked = async {
                let client = connect(one.view.address).await?;
                client.try_get("ready?").await.map_err(|status| anyhow!("{status}"))
            };
            let answer = match tokio::time::timeout(Duration::from_secs(10), asked).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer".to_owned(),
            };
            if start.elapsed() > READY_WITHIN {
                bail!("{} is not ready ({answer}): {}", name(node), one.process.log_tail(4096));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The node that takes the writes, as far as the nodes that answer know.
    pub async fn primary(&self) -> Option<usize> {
        let asked = self.nodes.iter().enumerate().map(|(node, one)| {
            let address = one.view.address;
            tokio::spawn(async move {
                let ask = async {
                    let status = connect(address).await.ok()?.status().await.ok()?;
                    let header = status.header?;
                    (status.leader != 0 && status.leader == header.member_id).then_some((header.raft_term, node))
                };
                tokio::time::timeout(ASK_WITHIN, ask).await.ok().flatten()
            })
        });
        let mut found = None;
        for asked in asked.collect::<Vec<_>>() {
            found = found.max(asked.await.ok().flatten());
        }
        found.map(|(_, node)| node)
    }

    /// The holder of the elector lock.
    pub fn elector(&self) -> Option<usize> {
        let text = self.store.object("elector.json")?;
        let lock: Value = serde_json::from_slice(&text).ok()?;
        let holder = find_text(&lock, &["holder", "node_id", "node"])?;
        (0..self.nodes.len()).find(|node| name(*node) == holder)
    }

    /// The manifest's voters.
    pub fn voters(&self) -> Option<Vec<usize>> {
        let manifest: Value = serde_json::from_slice(&self.store.object("cluster.json")?).ok()?;
        let names = manifest.get("voters")?.as_array()?.iter().map(|voter| find_text(voter, &["node_id"]));
        let names: Option<Vec<&str>> = names.collect();
        Some((0..self.nodes.len()).filter(|node| names.as_ref().is_some_and(|n| n.contains(&&*name(*node)))).collect())
    }

    /// Where a node answers about its health.
    pub fn health_address(&self, node: usize) -> SocketAddr {
        self.address(node, 2)
    }

    /// New certificates for these nodes; new connections are greeted with them after `within` at most.
    pub async fn renew(&mut self, nodes: &[usize], within: Duration) -> Result<()> {
        let certificates = self.certificates.as_ref().context("the cluster has no certificates")?;
        for node in nodes {
            certificates.renew(&self.netsy, *node, self.net.address(Place::Node(*node)).into())?;
        }
        let start = Instant::now();
        for node in nodes {
            while !certificates.shows_new(*node, self.address(*node, 0)).await? {
                ensure!(start.elapsed() < within, "{} shows an old certificate {within:?} later", name(*node));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// Where everything is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves all files where they are.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// For clients.
    pub fn views(&self) -> Vec<NodeView> {
        self.nodes.iter().map(|node| node.view.clone()).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // The disk cannot go before its process.
            let _ = node.process.kill();
        }
        for disk in &self.disks {
            let _ = Command::new("umount").arg(disk).status();
        }
    }
}

/// `n1`, `n2`, ...
pub fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

/// A connection that notices when nobody is there any more.
pub async fn connect(address: SocketAddr) -> Result<Client> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(3));
    Ok(Client::over(crate::tls::connect(endpoint).await?))
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, from) => *into = from.clone(),
    }
}

fn find_text<'a>(value: &'a Value, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| match value.get(name)? {
        Value::String(text) => Some(text.as_str()),
        nested => find_text(nested, names),
    })
}
