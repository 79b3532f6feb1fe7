//! `netsy dev --nodes N`: a cluster on one machine, each node a process of its own, so that one can be killed.
//!
//! A node that ends stays ended until the person at the terminal starts it again: what a cluster does without it is
//! what there is to see.

use super::node_client::NodeArgs;
use anyhow::{Context, anyhow, bail, ensure};
use netsy_api::operator::{ClusterRequest, ClusterView};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// More make no better trial on one machine.
pub const NODES_MAX: u16 = 9;
/// The nodes are waited for this long before what can be said is said.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Looks at the nodes are this far apart.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Beside `drain_timeout`, until a node that does not stop is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// What a node that ended at once has to say for itself.
const LOG_LINES: usize = 5;

/// What the nodes are made of.
pub struct Cluster {
    /// Holds everything; absolute.
    pub data_dir: PathBuf,
    /// How the person named it.
    pub shown: PathBuf,
    /// The cluster file, written anew.
    pub config: PathBuf,
    pub nodes: u16,
    /// The first node's; the others' follow, each after its node's port for peers.
    pub listen_client: SocketAddr,
    pub drain_timeout: Duration,
}

struct Node {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    folder: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// Runs the nodes until Ctrl-C or SIGTERM.
pub fn run(cluster: &Cluster) -> anyhow::Result<()> {
    // One thread: the kernel ends the nodes with the thread that started them, however that ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let result = runtime.block_on(serve(cluster));
    // A read of the terminal that is under way must not hold up the end.
    runtime.shutdown_background();
    result
}

fn nodes_of(cluster: &Cluster) -> anyhow::Result<Vec<Node>> {
    let port = |number: u16| {
        let port = cluster.listen_client.port().checked_add(number);
        port.map(|port| SocketAddr::new(cluster.listen_client.ip(), port))
            .ok_or_else(|| anyhow!("--listen-client {}: the ports after it are too few", cluster.listen_client))
    };
    (1..=cluster.nodes)
        .map(|number| {
            let name = format!("dev-{number}");
            // The first is the node of `netsy dev` without --nodes.
            let folder = if number == 1 { "node".to_string() } else { format!("node-{number}") };
            Ok(Node {
                client: port(2 * (number - 1))?,
                peer: port(2 * (number - 1) + 1)?,
                folder: cluster.data_dir.join(folder),
                log: cluster.data_dir.join(format!("{name}.log")),
                name,
                child: None,
            })
        })
        .collect()
}

impl Node {
    fn start(&mut self, config: &Path) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("log {}", self.log.display()))?;
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = std::process::Command::new(program);
        command
            .arg("server")
            .arg("--config")
            .arg(config)
            .args(["--node-id", &self.name])
            .arg("--data-dir")
            .arg(&self.folder)
            .args(["--bind-client", &self.client.to_string()])
            .args(["--bind-peer", &self.peer.to_string()])
            .args(["--bind-health", &SocketAddr::new(self.client.ip(), 0).to_string()])
            .arg("--insecure-loopback-only")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("the log")?)
            .stderr(log)
            // Ctrl-C goes to this process, which stops the nodes.
            .process_group(0);
        // Of the terminal's environment, nothing is to name another node or certificates.
        for (name, _) in std::env::vars_os() {
            let own = name.to_str().is_some_and(|name| {
                name.starts_with("NETSY_") && !name.starts_with("NETSY_TEST_") && !name.starts_with("NETSY_LOG")
            });
            if own {
                command.env_remove(name);
            }
        }
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let term = rustix::process::Signal::TERM;
                rustix::process::set_parent_process_death_signal(Some(term)).map_err(Into::into)
            });
        }
        let child = Command::from(command).spawn().with_context(|| format!("starting {}", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    fn signal(&self, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| anyhow!("{} does not run", self.name))?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("sending {} a signal", self.name))
    }

    /// How it ended, if it did since the last look.
    fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let ended = child.try_wait().with_context(|| format!("looking at {}", self.name))?;
        if ended.is_some() {
            self.child = None;
        }
        Ok(ended)
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(LOG_LINES).collect();
        lines.into_iter().rev().map(|line| format!("  {line}\n")).collect()
    }

    async fn view(&self) -> Option<ClusterView> {
        let view = NodeArgs::at(self.client).ask_async("Cluster", &ClusterRequest {}).await;
        view.ok().filter(|view: &ClusterView| !view.primary.is_empty())
    }
}

async fn serve(cluster: &Cluster) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut nodes = nodes_of(cluster)?;
    for node in &nodes {
        for address in [node.client, node.peer] {
            // Told here rather than by a node that ends.
            std::net::TcpListener::bind(address)
                .with_context(|| format!("{} cannot listen on {address}: choose --listen-client", node.name))?;
        }
    }
    for node in &mut nodes {
        node.start(&cluster.config)?;
    }
    let (mut typed, mut terminal) = (BufReader::new(tokio::io::stdin()).lines(), true);
    let (started, mut welcomed, mut stop) = (Instant::now(), false, false);
    let mut failed = None;
    while !stop {
        tokio::select! {
            _ = terminate.recv() => stop = true,
            _ = interrupt.recv() => stop = true,
            line = typed.next_line(), if terminal => match line {
                Ok(Some(line)) => {
                    if let Err(error) = obey(&mut nodes, cluster, &line) {
                        println!("{error:#}");
                    }
                }
                // No terminal, or its end: the nodes run on.
                _ => terminal = false,
            },
            () = tokio::time::sleep(LOOK_PAUSE) => {
                for node in &mut nodes {
                    let Some(status) = node.ended()? else { continue };
                    if !welcomed && status.signal().is_none() {
                        failed = Some(anyhow!("{} ended ({status}) before it served:\n{}", node.name, node.last_lines()));
                        stop = true;
                    } else {
                        println!("{} ended ({status}); `start {}` starts it again", node.name, node.name);
                    }
                }
                if !welcomed && !stop {
                    let view = all_serve(&nodes).await;
                    if view.is_some() || started.elapsed() > READY_WITHIN {
                        welcome(cluster, &nodes, view.as_ref());
                        welcomed = true;
                    }
                }
            }
        }
    }
    println!("stopping the nodes; Ctrl-C again kills them");
    let stopped = stop_all(&mut nodes, cluster.drain_timeout + STOP_GRACE, &mut interrupt).await;
    match failed {
        Some(error) => Err(error),
        None => stopped,
    }
}

/// The cluster as the last node sees it, once all see a Primary and all vote.
async fn all_serve(nodes: &[Node]) -> Option<ClusterView> {
    let mut last = None;
    for node in nodes {
        last = Some(node.view().await?);
    }
    last.filter(|view| {
        view.nodes.iter().filter(|n| !n.voting_database.is_empty()).count() >= nodes.len().min(VOTERS_MAX)
    })
}

/// `replication.voters_max`, by default.
const VOTERS_MAX: usize = 5;

/// Does what was typed.
fn obey(nodes: &mut [Node], cluster: &Cluster, line: &str) -> anyhow::Result<()> {
    const COMMANDS: &str =
        "kill N (kill -9), stop N (SIGTERM), start N, wipe N (its database, once it has ended), list";
    let mut words = line.split_whitespace();
    let (Some(what), which) = (words.next(), words.next()) else { return Ok(()) };
    ensure!(words.next().is_none(), "{line:?} has a word too many: {COMMANDS}");
    if what == "list" {
        for node in nodes.iter() {
            match node.pid() {
                Some(pid) => println!("{}  {}  pid {pid}", node.name, node.client),
                None => println!("{}  {}  does not run", node.name, node.client),
            }
        }
        return Ok(());
    }
    let which = which.ok_or_else(|| anyhow!("{line:?} is not known: {COMMANDS}"))?;
    let name = if which.starts_with("dev-") { which.to_string() } else { format!("dev-{which}") };
    let node = nodes.iter_mut().find(|node| node.name == name).ok_or_else(|| anyhow!("there is no node {name}"))?;
    match what {
        "kill" => node.signal(rustix::process::Signal::KILL),
        "stop" => node.signal(rustix::process::Signal::TERM),
        "start" => {
            ensure!(node.child.is_none(), "{name} runs");
            node.start(&cluster.config)?;
            println!("{name} starts, pid {}", node.pid().unwrap_or_default());
            Ok(())
        }
        "wipe" => {
            ensure!(node.child.is_none(), "{name} runs: kill it or stop it first");
            match std::fs::remove_dir_all(&node.folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("removing {}", node.folder.display()))
                }
                _ => {
                    println!(
                        "{name} has no database any more: started again, it takes all from the others or the store"
                    );
                    Ok(())
                }
            }
        }
        _ => bail!("{what} is not known: {COMMANDS}"),
    }
}

async fn stop_all(
    nodes: &mut [Node],
    limit: Duration,
    interrupt: &mut tokio::signal::unix::Signal,
) -> anyhow::Result<()> {
    // All at once: what has to wait for another is the cluster's to arrange.
    for node in nodes.iter().filter(|node| node.child.is_some()) {
        if let Err(error) = node.signal(rustix::process::Signal::TERM) {
            println!("{error:#}");
        }
    }
    let begun = Instant::now();
    let mut unclean = vec![];
    while nodes.iter().any(|node| node.child.is_some()) {
        let kill = tokio::select! {
            _ = interrupt.recv() => true,
            () = tokio::time::sleep(LOOK_PAUSE) => begun.elapsed() > limit,
        };
        for node in nodes.iter_mut() {
            if let Some(status) = node.ended()?
                && !status.success()
            {
                unclean.push(format!(
                    "{} ended with {status}; the end of {}:\n{}",
                    node.name,
                    node.log.display(),
                    node.last_lines()
                ));
            } else if kill && node.child.is_some() {
                node.signal(rustix::process::Signal::KILL)?;
            }
        }
    }
    ensure!(unclean.is_empty(), "{}", unclean.join("\n"));
    println!("stopped: the object store has everything");
    Ok(())
}

fn welcome(cluster: &Cluster, nodes: &[Node], view: Option<&ClusterView>) {
    let endpoints: Vec<String> = nodes.iter().map(|node| node.client.to_string()).collect();
    println!(
        "netsy {}: {} nodes for development, one cluster, speaking the etcd v3 API\n",
        env!("CARGO_PKG_VERSION"),
        nodes.len()
    );
    for node in nodes {
        let relative = |path: &Path| cluster.shown.join(path.file_name().unwrap_or_default()).display().to_string();
        println!(
            "  {}  {}  pid {:<8}  database {}  log {}",
            node.name,
            node.client,
            node.pid().unwrap_or_default(),
            relative(&node.folder),
            relative(&node.log)
        );
    }
    println!("\n  object store  {}    the permanent copy of everything", cluster.shown.join("store").display());
    match view {
        Some(view) => println!("  durability    {}\n  Primary       {}", view.survives, view.primary),
        None => println!("  not all nodes serve yet: see the logs"),
    }
    let example = nodes.last().and_then(Node::pid).unwrap_or_default();
    println!(
        "\n\
         Try:  etcdctl --endpoints={all} put hello world\n\
         \x20     etcdctl --endpoints={last} get hello\n\
         \x20     netsy member list --endpoints {first}\n\
         \n\
         Try a failover: kill a node, the Primary or another, and go on writing:\n\
         \x20     kill -9 {example}        or type `kill {count}` here\n\
         A node that ended stays so until you type `start {count}`; `wipe {count}` before that takes its database away.\n\
         `stop {count}` is a graceful end, `list` shows the pids. With {majority} of {count} nodes gone\n\
         writes wait, unless the Primary is among those left: it goes on by the object store alone.\n\
         \n\
         Ctrl-C stops all; the same command goes on where they were.",
        all = endpoints.join(","),
        last = endpoints.last().map(String::as_str).unwrap_or_default(),
        first = endpoints.first().map(String::as_str).unwrap_or_default(),
        count = nodes.len(),
        majority = nodes.len() - nodes.len() / 2,
    );
}
