//! A cluster of real processes on loopback, with one folder as its object store.

use crate::server::{Options, Server};
use std::path::{Path, PathBuf};

const ARGS: &str = "server\n--config={config}\n--data-dir={data}/node\n--bind-client={client}\n--bind-peer={peer}\n\
                    --bind-health=127.0.0.1:0\n";

/// Nodes n1, n2, … and what they share. Dropping it kills them.
pub struct Nodes {
    servers: Vec<Server>,
    store: tempfile::TempDir,
}

impl Nodes {
    /// Nodes that are not started yet. `settings` are further lines of the cluster file.
    pub fn new(count: usize, settings: &str) -> Self {
        Self::with(count, settings, |_| vec!["--insecure-loopback-only".to_owned()])
    }

    /// The same with what each node gets as further arguments.
    pub fn with(count: usize, settings: &str, arguments: impl Fn(&str) -> Vec<String>) -> Self {
        let store = tempfile::tempdir().expect("make a folder for the object store");
        let path = store.path().join("objects").display().to_string();
        let config = format!(
            "{{\n\"cluster_id\": \"e2e\",\n\"storage\": {{ \"provider\": \"file\", \"path\": {path:?} }},\n{settings}\n}}"
        );
        let servers = (1..=count).map(|number| {
            let name = format!("n{number}");
            let mut extra_args = vec![format!("--node-id={name}")];
            extra_args.extend(arguments(&name));
            Server::new(Options { template: Some((ARGS, config.clone())), extra_args, ..Options::default() })
        });
        Self { servers: servers.collect(), store }
    }

    /// Starts all at once and waits until all answer.
    pub async fn start(&mut self) {
        self.spawn();
        for server in &mut self.servers {
            server.await_ready().await;
        }
    }

    /// Starts all that do not run and does not wait.
    pub fn spawn(&mut self) {
        for server in self.servers.iter_mut() {
            if !server.is_running() {
                server.spawn();
            }
        }
    }

    /// kill -9 to all.
    pub fn kill_all(&mut self) {
        self.servers.iter_mut().for_each(Server::kill);
    }

    /// The node n`number`.
    pub fn node(&mut self, number: usize) -> &mut Server {
        &mut self.servers[number - 1]
    }

    /// `--endpoints` of all nodes.
    pub fn endpoints(&self) -> String {
        let addresses: Vec<&str> = self.servers.iter().map(Server::address).collect();
        addresses.join(",")
    }

    /// Where the objects are.
    pub fn store(&self) -> PathBuf {
        self.store.path().join("objects")
    }

    /// A folder of the test's own beside them.
    pub fn folder(&self) -> &Path {
        self.store.path()
    }

    /// Runs an operator's command against node n`number`; gives what it printed.
    pub fn command(&self, number: usize, args: &[&str]) -> Result<String, String> {
        let server = &self.servers[number - 1];
        let mut all = args.to_vec();
        all.extend(["--endpoints", server.address()]);
        server.command(&all)
    }

    /// Runs the program; gives what it printed.
    pub fn program(&self, args: &[&str]) -> Result<String, String> {
        self.servers[0].command(args)
    }

    /// The number of the node that n1, or the first that runs, sees as Primary; waits for one.
    pub async fn primary(&mut self) -> usize {
        for _ in 0..400 {
            let running = (1..=self.servers.len()).find(|number| self.servers[number - 1].is_running());
            let number = running.expect("a node runs");
            let list = self.command(number, &["member", "list"]).unwrap_or_default();
            let primary = list.lines().next().and_then(|line| line.split_once("Primary n"));
            let found = primary.and_then(|(_, rest)| rest.split(',').next()?.parse::<usize>().ok());
            // One that a test killed may still be taken for it.
            if let Some(found) = found.filter(|found| self.servers[found - 1].is_running()) {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("no Primary in time");
    }

    /// Waits until as many vote as `member list` of node n`number` shows.
    pub async fn await_voters(&mut self, number: usize, voters: usize) {
        let mut list = String::new();
        for _ in 0..400 {
            list = self.command(number, &["member", "list"]).unwrap_or_default();
            let voting = |line: &&str| line.contains("  voter  ") || line.contains("  Primary  ");
            if list.lines().filter(voting).count() == voters {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{voters} voters were to be, this is seen:\n{list}");
    }
}
