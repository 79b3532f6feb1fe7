//! A scenario: topology, workload and faults, as data (`scenarios/*.json`).

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::Path;

/// All of a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is for, in a sentence.
    pub about: String,
    /// How many nodes.
    #[serde(default = "three")]
    pub nodes: usize,
    /// Those that run from the beginning; the others have a place and are started by a fault.
    #[serde(default = "all")]
    pub starts: Who,
    /// The object store.
    #[serde(default)]
    pub store: StoreKind,
    /// Milliseconds that each call of the object store takes longer.
    #[serde(default)]
    pub store_latency_ms: u64,
    /// Put over the cluster's configuration file.
    #[serde(default)]
    pub config: serde_json::Value,
    /// Part of the short set.
    #[serde(default)]
    pub ci: bool,
    /// Nodes and clients speak over mutual TLS.
    #[serde(default)]
    pub tls: bool,
    /// Each node's data is on a disk of its own of so many MiB.
    pub disk_mib: Option<u64>,
    /// How long the clients work at least, seconds.
    pub seconds: f64,
    /// What the clients do.
    #[serde(default)]
    pub workload: Workload,
    /// In this order, at these times.
    #[serde(default)]
    pub faults: Vec<Step>,
    /// All faults so many times.
    #[serde(default = "one")]
    pub rounds: u32,
    /// From one round to the next, seconds.
    #[serde(default)]
    pub round_seconds: f64,
    /// Faults drawn by the seed.
    pub random: Option<Random>,
    /// What is expected beside a right history.
    #[serde(default)]
    pub expect: Expect,
    /// Programs that this makes sense for; none: all.
    #[serde(default)]
    pub only: Vec<ServerKind>,
}

fn three() -> usize {
    3
}

fn one() -> u32 {
    1
}

fn all() -> Who {
    "all".into()
}

/// What is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ServerKind {
    /// What this project builds.
    Netsy,
    /// A real etcd, to check the tests themselves.
    Etcd,
}

/// Where netsy keeps its objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// A folder that all nodes share.
    #[default]
    File,
    /// The project's own S3 look-alike, which can fail in more ways.
    Fake,
    /// SeaweedFS (scripts/tools.sh).
    Seaweedfs,
}

/// Clients and what they do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    /// Each asks any node, one thing after the other.
    pub clients: usize,
    /// Between two things, milliseconds.
    pub pause_ms: u64,
    /// Keys that all of them use.
    pub keys: u64,
    /// Longest wait for an answer, milliseconds.
    pub timeout_ms: u64,
    /// Watchers that change nodes, beside one for each node.
    pub watchers: usize,
    /// Clients that know all nodes and work without pause, whose waits are measured.
    pub steady: usize,
    /// Granting, renewing, revoking, letting expire.
    pub leases: bool,
    /// Now and then.
    pub compactions: bool,
    /// Sizes of values, bytes: nearly all small, now and then so large.
    pub large_value: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            clients: 6,
            pause_ms: 5,
            keys: 16,
            timeout_ms: 8_000,
            watchers: 2,
            steady: 2,
            leases: true,
            compactions: true,
            large_value: 20_000,
        }
    }
}

/// A fault at a time.
#[derive(Clone, Debug, Deserialize)]
pub struct Step {
    /// Seconds after the round's start.
    pub at: f64,
    /// What happens.
    #[serde(flatten)]
    pub fault: Fault,
}

/// Faults by chance, each cured before the next.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// How many.
    pub count: u32,
    /// Seconds between a cure and the next fault: from, to.
    pub gap: [f64; 2],
    /// Seconds until the cure: from, to.
    pub lasts: [f64; 2],
    /// What may happen.
    pub of: Vec<Fault>,
}

/// Which nodes: `n1`.. by number; `primary`; `elector`; `replica` (one that is not Primary), `replicas` (all that
/// are not); `any`; `last` (those of the
/// fault before); `rest` (those that the fault does not name otherwise); `all`; `none`; `stopped`; several with `+` between them.
/// Beside nodes, for cuts: `store`, `clients`.
pub type Who = String;

/// What goes wrong, or is put right.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL.
    Kill { node: Who },
    /// SIGTERM, and wait for the end; with `undone`, it may say that something was left undone.
    Stop {
        node: Who,
        #[serde(default)]
        undone: bool,
    },
    /// Start again.
    Start { node: Who },
    /// SIGSTOP.
    Pause { node: Who },
    /// SIGCONT.
    Resume { node: Who },
    /// SIGKILL, and its data is gone.
    Wipe { node: Who },
    /// What the first send to the second is lost; with `both`, the other way too.
    Cut {
        from: Who,
        to: Who,
        #[serde(default)]
        both: bool,
    },
    /// A node hears nobody and nobody hears it; with `clients`, they neither.
    Isolate {
        node: Who,
        #[serde(default)]
        clients: bool,
    },
    /// The network is whole.
    Heal,
    /// A node's disk has no byte left (needs `disk_mib`).
    DiskFull { node: Who },
    /// It has room again.
    DiskFree { node: Who },
    /// A node's fsyncs take so much longer.
    DiskSlow { node: Who, ms: u64 },
    /// A node's wall clock is so far ahead.
    Clock { node: Who, seconds: f64 },
    /// The object store refuses connections.
    StoreDown,
    /// It takes requests and answers nothing.
    StoreHangs,
    /// Every call takes so much longer.
    StoreSlow { ms: u64 },
    /// So many of 100 calls are answered with an error, half of them after they were done.
    StoreFails { percent: u64 },
    /// The object store is well.
    StoreOk,
    /// Clients do nothing new until told to work.
    Rest,
    /// They go on.
    Work,
    /// An operator gives databases up (R12): `netsy recover`, asked at one node, and confirmed.
    Recover { node: Who, lost: Who },
    /// Ask the Primary to hand over (etcd's MoveLeader); with `apart`, only where it is the Elector, too.
    MovePrimary {
        #[serde(default)]
        apart: bool,
    },
    /// No fault: the manifest's voters are these nodes, and no others, at the latest after so many seconds.
    Voters { node: Who, within: f64 },
    /// No fault: a write is acknowledged within so many seconds.
    Serves { within: f64 },
    /// No fault: no write is acknowledged for so many seconds.
    Halted { seconds: f64 },
    /// No fault: a node's log (`"in": "log"`), or an answer of its health port (`"in": "/health"`), has this text, at the
    /// latest after so many seconds.
    Says {
        node: Who,
        #[serde(rename = "in")]
        place: String,
        text: String,
        within: f64,
    },
    /// No fault: a node's log, or an answer of its health port, does not have this text.
    SaysNot {
        node: Who,
        #[serde(rename = "in")]
        place: String,
        text: String,
    },
    /// New certificates of these nodes are written in the place of those they have (needs `tls`); from some seconds later
    /// on, new connections are greeted with them.
    Renew { node: Who, within: f64 },
    /// Everything is put right.
    Cure,
}

/// What is expected beside a right history.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// When everything is put right, every node takes writes after so many seconds.
    pub serves_within: f64,
    /// So many writes are acknowledged, or the run says nothing.
    pub acknowledged: usize,
    /// What is in the bucket in the end, a cluster started from it alone has (netsy).
    pub restore: bool,
    /// No request of a client that knows all nodes fails.
    pub no_failures: bool,
    /// The cluster stands still in the end, and rightly (R12): the history up to there is judged.
    pub halts: bool,
}

impl Default for Expect {
    fn default() -> Self {
        Self { serves_within: 30.0, acknowledged: 100, restore: true, halts: false, no_failures: false }
    }
}

impl Scenario {
    /// Nothing goes wrong, and nobody does anything.
    pub fn plain(nodes: usize) -> Self {
        Self {
            about: String::new(),
            nodes,
            starts: all(),
            store: StoreKind::File,
            store_latency_ms: 0,
            config: serde_json::Value::Null,
            ci: false,
            tls: false,
            disk_mib: None,
            seconds: 0.0,
            workload: Workload::default(),
            faults: Vec::new(),
            rounds: 1,
            round_seconds: 0.0,
            random: None,
            expect: Expect::default(),
            only: Vec::new(),
        }
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let scenario: Self = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        scenario.check().with_context(|| format!("{}", path.display()))?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        ensure!((1..=9).contains(&self.nodes), "nodes: 1 to 9");
        ensure!((0.0..=600.0).contains(&self.seconds), "seconds: up to 600");
        ensure!((1..=64).contains(&self.workload.clients), "workload.clients: 1 to 64");
        ensure!((1..=100).contains(&self.rounds), "rounds: 1 to 100");
        ensure!(self.rounds == 1 || self.round_seconds > 0.0, "round_seconds: more than 0, as there are rounds");
        let in_order = self.faults.windows(2).all(|two| two[0].at <= two[1].at);
        ensure!(in_order, "faults: in the order of their times");
        let asks_for_disk = |fault: &Fault| matches!(fault, Fault::DiskFull { .. });
        ensure!(
            self.disk_mib.is_some() || !self.all_faults().any(asks_for_disk),
            "disk_mib: a disk that is to be full must have a size"
        );
        let renews = self.all_faults().any(|fault| matches!(fault, Fault::Renew { .. }));
        ensure!(self.tls || !renews, "tls: certificates that are to be renewed must be there");
        Ok(())
    }

    /// The program compacts by itself.
    pub fn compacts_by_itself(&self) -> bool {
        self.config.get("compaction_interval").and_then(|every| every.as_str()).is_some_and(|every| every != "0s")
    }

    /// Every fault that may happen.
    pub fn all_faults(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().map(|step| &step.fault).chain(self.random.iter().flat_map(|random| &random.of))
    }
}

impl Fault {
    /// Does it need a network of our own?
    pub fn cuts(&self) -> bool {
        matches!(self, Self::Cut { .. } | Self::Isolate { .. })
    }

    /// Does it need a library preloaded into the node?
    pub fn needs_shim(&self) -> bool {
        matches!(self, Self::DiskSlow { .. } | Self::Clock { .. })
    }

    /// Does it need an object store behind the network?
    pub fn needs_store(&self) -> bool {
        matches!(self, Self::StoreDown | Self::StoreHangs | Self::StoreSlow { .. } | Self::StoreFails { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_scenarios_are_valid_and_the_short_set_has_some() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut short = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let scenario = Scenario::read(&entry.unwrap().path()).unwrap();
            short += usize::from(scenario.ci);
        }
        assert!(short >= 5);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |text: &str| {
            let scenario: Result<Scenario, _> = serde_json::from_str(text);
            scenario.is_err() || scenario.is_ok_and(|scenario| scenario.check().is_err())
        };
        assert!(!refused(r#"{"about": "", "seconds": 1}"#));
        assert!(refused(r#"{"about": "", "seconds": 1, "secnods": 1}"#));
        assert!(refused(r#"{"about": "", "seconds": 1, "faults": [{"at": 1, "do": "disk_full", "node": "n1"}]}"#));
        assert!(refused(r#"{"about": "", "seconds": 1, "faults": [{"at": 1, "do": "explode"}]}"#));
        assert!(refused(
            r#"{"about": "", "seconds": 1, "faults": [{"at": 2, "do": "heal"}, {"at": 1, "do": "heal"}]}"#
        ));
        assert!(refused(r#"{"about": "", "seconds": 1, "rounds": 2}"#));
        assert!(refused(
            r#"{"about": "", "seconds": 1, "faults": [{"at": 1, "do": "renew", "node": "n1", "within": 9}]}"#
        ));
    }
}
