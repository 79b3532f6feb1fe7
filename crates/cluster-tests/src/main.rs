//! netsy-cluster-tests: starts clusters of real processes, breaks things while clients write, read and watch through all
//! nodes, and checks the whole history (crate `netsy-history`).
//!
//! A scenario is a file in `scenarios/`. The same ones run against a real etcd (`--server etcd`), which is how the
//! harness and the checks were checked.
//!
//! Start reading at [`run::run`]; [`net`] says how the network is cut.

mod bench;
mod checks;
mod cluster;
mod faults;
mod kept;
mod logs;
mod net;
mod operator;
mod process;
mod proxy;
mod record;
mod run;
mod scenario;
mod shim;
mod steady;
mod store;
mod tls;
mod watcher;
mod workload;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use cluster::Programs;
use run::{Plan, Verdict};
use scenario::{Scenario, ServerKind};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Clusters of real processes under faults.
#[derive(Parser)]
#[command(name = "netsy-cluster-tests", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs scenarios by name, or `all`, or `ci` (the short set).
    Run(RunArgs),
    /// Lists the scenarios.
    List(Common),
    /// Measures failover, throughput and restoring of clusters, and prints a table.
    Bench(BenchRun),
}

#[derive(Args, Clone)]
struct Common {
    /// Where the scenarios are.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios"))]
    scenarios: PathBuf,
}

/// The programs, and where they work.
#[derive(Args, Clone)]
struct Machine {
    /// The netsy program.
    #[arg(long, env = "NETSY_BIN")]
    netsy: Option<PathBuf>,
    /// The etcd program.
    #[arg(long, env = "ETCD_BIN", default_value = ".tools/etcd")]
    etcd: PathBuf,
    /// Where clusters keep their data.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    data_root: PathBuf,
    /// Use loopback addresses of the machine even where namespaces could be had.
    #[arg(long)]
    no_namespaces: bool,
}

#[derive(Args, Clone)]
struct BenchRun {
    #[command(flatten)]
    args: bench::BenchArgs,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Args, Clone)]
struct RunArgs {
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    common: Common,
    /// What is tested.
    #[arg(long, value_enum, default_value = "netsy")]
    server: ServerKind,
    /// The seed of all chance; by default one that differs from run to run.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs of each scenario, each with a seed of its own.
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Other numbers of nodes than the scenarios say.
    #[arg(long)]
    nodes: Option<usize>,
    #[command(flatten)]
    machine: Machine,
    /// Keep all files of every run.
    #[arg(long)]
    keep: bool,
    /// One run of several: a skipped one ends with a status of its own.
    #[arg(long, hide = true)]
    apart: bool,
    /// Longest that one run may take, seconds.
    #[arg(long, default_value_t = 600)]
    limit: u64,
}

/// How the process of one run of several ends that was skipped.
const SKIPPED: u8 = 77;

/// What a run came to, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ran {
    Good,
    Skipped,
    Bad,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::List(common) => list(&common).map(|()| Ran::Good),
        Command::Run(args) => run_all(&args),
        Command::Bench(run) => measure(&run).map(|()| Ran::Good),
    };
    match done {
        Ok(Ran::Good) => ExitCode::SUCCESS,
        Ok(Ran::Skipped) => ExitCode::from(SKIPPED),
        Ok(Ran::Bad) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("netsy-cluster-tests: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn list(common: &Common) -> Result<()> {
    for name in names(&common.scenarios)? {
        let scenario = Scenario::read(&common.scenarios.join(format!("{name}.json")))?;
        println!("{name}{}\n    {}", if scenario.ci { " (ci)" } else { "" }, scenario.about);
    }
    Ok(())
}

/// Begins what a run found to be bad.
const BAD: &str = "    BAD:";
/// So many lines of it are said again at the end of several runs.
const BAD_LINES: usize = 4;

/// One run is done here; several by processes of their own, so that each has a network and a time limit of its own.
fn run_all(args: &RunArgs) -> Result<Ran> {
    let known = names(&args.common.scenarios)?;
    let mut wanted = Vec::new();
    for name in &args.names {
        match name.as_str() {
            "all" => wanted.extend(known.clone()),
            "ci" => {
                for name in &known {
                    if Scenario::read(&args.common.scenarios.join(format!("{name}.json")))?.ci {
                        wanted.push(name.clone());
                    }
                }
            }
            name if known.iter().any(|known| known == name) => wanted.push(name.to_owned()),
            other => bail!("there is no scenario {other:?}; there are: {}", known.join(", ")),
        }
    }
    ensure!(!wanted.is_empty() && args.times > 0, "nothing to run");
    if let ([name], 1) = (&wanted[..], args.times) {
        let ran = run_one(name, args, args.machine.isolation())?;
        return Ok(if ran == Ran::Skipped && !args.apart { Ran::Good } else { ran });
    }
    let (mut bad, mut good, mut skipped) = (Vec::new(), 0, 0);
    for (name, number) in wanted.iter().flat_map(|name| (0..args.times).map(move |number| (name, number))) {
        let seed = args.seed.unwrap_or_else(netsy_e2e::random::Random::seed_of_run) + u64::from(number);
        let (ran, why) = run_apart(name, seed, args)?;
        match ran {
            Ran::Good => good += 1,
            Ran::Skipped => skipped += 1,
            Ran::Bad => bad.push(format!("{name} --seed {seed}{why}")),
        }
    }
    // In the form of cargo's test runner, so that the test command counts each run.
    let word = if bad.is_empty() { "ok" } else { "FAILED" };
    println!("test result: {word}. {good} passed; {} failed; {skipped} skipped", bad.len());
    if bad.is_empty() {
        return Ok(Ran::Good);
    }
    // Once more at the end, where one looks first.
    for what in bad {
        println!("went wrong: {what}");
    }
    Ok(Ran::Bad)
}

/// The same program again for one run, and what it found to be bad. The limit is a little longer than its own.
fn run_apart(name: &str, seed: u64, args: &RunArgs) -> Result<(Ran, String)> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(["run", name, "--apart", "--seed", &seed.to_string(), "--limit", &args.limit.to_string()]);
    command.arg("--scenarios").arg(&args.common.scenarios);
    command.arg("--etcd").arg(&args.machine.etcd).arg("--data-root").arg(&args.machine.data_root);
    command.args(["--server", if args.server == ServerKind::Etcd { "etcd" } else { "netsy" }]);
    if let Some(netsy) = &args.machine.netsy {
        command.arg("--netsy").arg(netsy);
    }
    if let Some(nodes) = args.nodes {
        command.args(["--nodes", &nodes.to_string()]);
    }
    command.args(args.keep.then_some("--keep"));
    command.args(args.machine.no_namespaces.then_some("--no-namespaces"));
    let mut child = command.stdout(std::process::Stdio::piped()).spawn()?;
    let said = child.stdout.take().context("the run has no output")?;
    let said = std::thread::spawn(move || pass_on(BufReader::new(said)));
    let start = Instant::now();
    let ran = loop {
        if let Some(status) = child.try_wait()? {
            break match status.code() {
                Some(0) => Ran::Good,
                Some(code) if code == i32::from(SKIPPED) => Ran::Skipped,
                _ => Ran::Bad,
            };
        }
        if start.elapsed() > Duration::from_secs(args.limit + 30) {
            child.kill()?;
            child.wait()?;
            break Ran::Bad;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let why = said.join().map_err(|_| anyhow::anyhow!("reading the run's output panicked"))??;
    Ok((ran, why))
}

/// Prints what a run prints, and gives back the first lines that say what is bad.
fn pass_on(said: impl BufRead) -> std::io::Result<String> {
    let (mut why, mut lines) = (String::new(), 0);
    for line in said.lines() {
        let line = line?;
        println!("{line}");
        if line == BAD {
            lines = BAD_LINES;
        } else if lines > 0 {
            why.push_str("\n    ");
            why.push_str(&line);
            lines -= 1;
        }
    }
    Ok(why)
}

fn run_one(name: &str, args: &RunArgs, isolation: net::Isolation) -> Result<Ran> {
    let scenario = Scenario::read(&args.common.scenarios.join(format!("{name}.json")))?;
    let seed = args.seed.unwrap_or_else(netsy_e2e::random::Random::seed_of_run);
    let server = if args.server == ServerKind::Etcd { " --server etcd" } else { "" };
    let nodes = args.nodes.map(|nodes| format!(" --nodes {nodes}")).unwrap_or_default();
    let replay = format!("cargo run -p netsy-cluster-tests -- run {name} --seed {seed}{server}{nodes}");
    println!("{name}: {}\n    {replay}", scenario.about);
    let plan = Plan {
        kind: args.server,
        programs: args.machine.programs()?,
        isolation,
        data_root: args.machine.data_root.clone(),
        seed,
        nodes: args.nodes,
        keep: args.keep,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let limit = Duration::from_secs(args.limit);
    let verdict = runtime.block_on(async {
        tokio::time::timeout(limit, run::run(&scenario, &plan))
            .await
            .with_context(|| format!("not over after {limit:?}"))?
    });
    match verdict? {
        Verdict::Good(figures) => {
            println!("    good: {figures}");
            Ok(Ran::Good)
        }
        Verdict::Skipped(why) => {
            println!("    skipped: {why}");
            Ok(Ran::Skipped)
        }
        Verdict::Bad(text, folder) => {
            println!("{BAD}\n{text}");
            println!("{name} went wrong; its files are in {}; again with: {replay}", folder.display());
            Ok(Ran::Bad)
        }
    }
}

impl Machine {
    fn isolation(&self) -> net::Isolation {
        match self.no_namespaces {
            true => net::Isolation::None("--no-namespaces".into()),
            false => net::isolate(),
        }
    }

    /// By default netsy is beside this program, where cargo puts both.
    fn programs(&self) -> Result<Programs> {
        let netsy = match &self.netsy {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("netsy"),
        };
        Ok(Programs { netsy, etcd: self.etcd.clone() })
    }
}

fn measure(run: &BenchRun) -> Result<()> {
    let isolation = run.machine.isolation();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(bench::run(&run.args, run.machine.programs()?, isolation, run.machine.data_root.clone()))
}
