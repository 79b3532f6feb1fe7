//! The command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

use crate::report::{self, Series};
use crate::restart::{self, Refilled};
use crate::rounds;
use crate::servers::{Server, Template};
use crate::spec::{Mode, Spec};
use crate::suite::{self, SuiteArgs};
use crate::target::Target;
use crate::tonic_check::{self, TonicArgs};

/// Load generator for netsy and anything else that speaks the etcd v3 API, on this machine or
/// near it, without TLS.
#[derive(Parser)]
#[command(name = "netsy-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one load against one server, or against two in alternating rounds.
    Run(Box<RunArgs>),
    /// Starts etcd and netsy itself and runs the whole comparison of docs/benchmarks.md.
    Suite(SuiteArgs),
    /// The same puts or gets through the usual Rust gRPC client, to check this one against.
    TonicCheck(TonicArgs),
}

#[derive(Args)]
struct RunArgs {
    #[arg(value_enum)]
    mode: Mode,
    /// The server, IP:port.
    #[arg(long, default_value = "127.0.0.1:2379")]
    endpoint: SocketAddr,
    /// Its name in the output.
    #[arg(long, default_value = "server")]
    name: String,
    /// Its process, for CPU time and memory; may be given several times.
    #[arg(long)]
    server_pid: Vec<u32>,
    /// Start it by this command instead; filled in are {data}, an empty folder, and
    /// {client}, {peer} and {health}, free ports of 127.0.0.1.
    #[arg(long, conflicts_with_all = ["endpoint", "server_pid"])]
    server_cmd: Option<String>,
    /// A second server to run the same load on; ratios are first to second.
    #[arg(long)]
    vs: Option<SocketAddr>,
    #[arg(long, default_value = "vs")]
    vs_name: String,
    #[arg(long)]
    vs_pid: Vec<u32>,
    /// Start the second server by this command.
    #[arg(long, conflicts_with_all = ["vs", "vs_pid"])]
    vs_cmd: Option<String>,
    /// Rounds; servers alternate.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where servers that are started here keep their data: a real disk.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    data_root: PathBuf,
    /// Write all figures here as JSON; "-" prints them.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    spec: Spec,
}

/// Parses the command line and does what it says.
pub fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Suite(args) => suite::main(&args),
        Command::TonicCheck(args) => tonic_check::main(&args),
    }
}

/// Limits that keep any run bounded.
pub fn check_rounds(rounds: usize) -> Result<()> {
    ensure!((1..=1000).contains(&rounds), "--rounds {rounds}: give 1 to 1000");
    Ok(())
}

pub fn check_data_root(root: &Path) -> Result<()> {
    ensure!(root.is_dir(), "--data-root {} is not a folder", root.display());
    if crate::proc::is_memory_file_system(root) {
        eprintln!("warning: {} is in memory: fsync is free there, figures of writes mean nothing", root.display());
    }
    Ok(())
}

pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value:#}\n");
    if path == Path::new("-") {
        print!("{text}");
        return Ok(());
    }
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn run(args: &RunArgs) -> Result<()> {
    args.spec.check(args.mode)?;
    check_rounds(args.rounds)?;
    let commands = [(&args.name, &args.server_cmd), (&args.vs_name, &args.vs_cmd)];
    if commands.iter().any(|(_, command)| command.is_some()) {
        check_data_root(&args.data_root)?;
    }
    let mut servers = Vec::new();
    for (name, command) in commands {
        if let Some(command) = command {
            let template = Template { name: name.clone(), command: command.clone(), config: None };
            servers.push(Server::new(&template, &args.data_root)?);
        }
    }
    if args.mode == Mode::Start || args.mode == Mode::Load && !servers.is_empty() {
        ensure!(
            !servers.is_empty() && args.vs.is_none() && (args.server_cmd.is_some() || args.vs_cmd.is_none()),
            "start, and load that restarts, need --server-cmd (and --vs-cmd): they stop and start the servers"
        );
        let results = restart::fill_and_restart(&mut servers, &args.spec, args.rounds)?;
        return show_restarts(args, &servers, &results);
    }
    let mut targets = Vec::new();
    let mut started = servers.iter_mut();
    match args.server_cmd {
        Some(_) => targets.push(start(started.next())?),
        None => targets.push(Target::new(&args.name, args.endpoint, args.server_pid.clone())),
    }
    match (&args.vs_cmd, args.vs) {
        (Some(_), _) => targets.push(start(started.next())?),
        (None, Some(address)) => targets.push(Target::new(&args.vs_name, address, args.vs_pid.clone())),
        (None, None) => {}
    }
    let series = rounds::alternate(&mut targets, args.mode, &args.spec, args.rounds)?;
    println!("{}", report::run_table(&series));
    if let Some(path) = &args.json {
        let all: Vec<Value> = series.iter().map(report::series_json).collect();
        let mut value =
            json!({ "mode": format!("{:?}", args.mode), "machine": report::machine_json(), "servers": all });
        if let [subject, baseline] = &series[..] {
            value["ratios"] = ratios(subject, baseline);
        }
        write_json(path, &value)?;
    }
    failures(&series)
}

fn start(server: Option<&mut Server>) -> Result<Target> {
    let server = server.context("a server command without a server")?;
    server.start()?;
    server.target()
}

fn ratios(subject: &Series, baseline: &Series) -> Value {
    let all = report::ALL.iter();
    all.filter_map(|&m| Some((m.name().to_owned(), json!(report::ratio(subject, baseline, m)?))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A run with failed calls has measured something else than it says.
fn failures(series: &[Series]) -> Result<()> {
    let failed: u64 = series.iter().map(Series::errors).sum();
    if failed > 0 {
        bail!("{failed} calls failed");
    }
    Ok(())
}

fn show_restarts(args: &RunArgs, servers: &[Server], results: &[Refilled]) -> Result<()> {
    let mut rows = vec![
        vec!["server", "fill op/s", "filled MiB", "start s", "started MiB", "anonymous", "mapped"]
            .into_iter()
            .map(String::from)
            .collect::<Vec<_>>(),
    ];
    let mut all = Vec::new();
    for (server, result) in servers.iter().zip(results) {
        let middle = |of: &dyn Fn(&restart::Started) -> f64| {
            report::median(result.starts.iter().map(of).collect()).unwrap_or_default()
        };
        let figures = [
            result.fill.throughput(),
            report::mib(result.filled.peak),
            middle(&|s| s.took.as_secs_f64()),
            middle(&|s| report::mib(s.memory.peak)),
            middle(&|s| report::mib(s.memory.anonymous)),
            middle(&|s| report::mib(s.memory.mapped)),
        ];
        let mut row = vec![server.name().to_owned()];
        row.extend(figures.iter().map(|&f| report::number(f)));
        rows.push(row);
        all.push(suite::refilled_json(server.name(), result));
    }
    print!("{}", report::aligned(&rows));
    match &args.json {
        Some(path) => {
            write_json(path, &json!({ "keys": args.spec.keys, "machine": report::machine_json(), "servers": all }))
        }
        None => Ok(()),
    }
}
