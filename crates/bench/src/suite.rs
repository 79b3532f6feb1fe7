//! The whole comparison: starts both servers afresh for each row, runs the row in alternating
//! rounds and prints what was reached.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::cli::{check_data_root, check_rounds, write_json};
use crate::report::{self, Metric, Series, mib, number};
use crate::restart::{self, Refilled};
use crate::rounds;
use crate::rows::{self, Goal, Row};
use crate::servers::{Server, Template};
use crate::spec::{Mode, Spec};

/// One node that acknowledges a write once its own disk has it, as a single etcd does.
const NETSY_COMMAND: &str = "{netsy} server --config={config} --node-id=bench-1 --data-dir={data}/node \
     --bind-client=127.0.0.1:{client} --bind-health=127.0.0.1:{health} --bind-peer=127.0.0.1:{peer} \
     --insecure-loopback-only --copies-min=1 --log=warn";
/// One node that acknowledges a write once the object store has it, which takes 30 ms a call.
const QUORUM_0_COMMAND: &str = "env NETSY_TEST_STORE_LATENCY=30ms {netsy} server --config={config} --node-id=bench-1 \
     --data-dir={data}/node --bind-client=127.0.0.1:{client} --bind-health=127.0.0.1:{health} \
     --bind-peer=127.0.0.1:{peer} --insecure-loopback-only --quorum=0 --log=warn";
const NETSY_CONFIG: &str = r#"{"cluster_id": "bench", "storage": {"provider": "file", "path": "{data}/store"}}"#;

#[derive(Args)]
pub struct SuiteArgs {
    /// etcd's program; scripts/etcd.sh builds it.
    #[arg(long, default_value = ".tools/etcd")]
    etcd: PathBuf,
    /// netsy's program.
    #[arg(long, default_value = "target/release/netsy")]
    netsy: PathBuf,
    /// Takes etcd's figures alone.
    #[arg(long)]
    etcd_only: bool,
    /// netsy's command line; {netsy}, {data}, {client}, {peer}, {health} and {config} are filled in.
    #[arg(long, default_value = NETSY_COMMAND)]
    netsy_cmd: String,
    /// A cluster file to use instead of the built-in one, filled in the same way as {config}.
    #[arg(long)]
    netsy_config: Option<PathBuf>,
    /// netsy's command line with quorum 0 and --call-ms added to each object-store call.
    #[arg(long, default_value = QUORUM_0_COMMAND)]
    quorum0_cmd: String,
    /// What the object store of --quorum0-cmd takes for a call, ms.
    #[arg(long, default_value_t = 30.0)]
    call_ms: f64,
    /// Rows to run, by id; all unless given.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measured seconds of a round.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Keys of the row about memory and start.
    #[arg(long, default_value_t = 1_000_000)]
    million: usize,
    /// Where the servers keep their data: a real disk.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    data_root: PathBuf,
    /// Write all figures here as JSON; "-" prints them.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A line of the table.
struct Line {
    load: String,
    figure: String,
    etcd: Option<f64>,
    netsy: Option<f64>,
    ratio: Option<f64>,
    goal: Option<Goal>,
}

struct Outcome {
    lines: Vec<Line>,
    json: serde_json::Map<String, Value>,
    /// CPU that went to others during each row, percent of the machine.
    noise: Vec<f64>,
}

impl Line {
    /// Whether the goal is reached; None where there is none or nothing to hold against it.
    fn met(&self) -> Option<bool> {
        Some(self.goal?.met(self.ratio?))
    }

    fn json(&self) -> Value {
        json!({
            "load": self.load,
            "figure": self.figure,
            "etcd": self.etcd,
            "netsy": self.netsy,
            "ratio": self.ratio,
            "goal": self.goal.map(Goal::text),
            "met": self.met(),
        })
    }
}

/// Runs the rows asked for. A goal that is missed is said in the table, not by the exit code.
pub fn main(args: &SuiteArgs) -> Result<()> {
    check_rounds(args.rounds)?;
    check_data_root(&args.data_root)?;
    ensure!(args.etcd.is_file(), "{} is not there: run scripts/etcd.sh first", args.etcd.display());
    let all = rows::rows();
    let ids: Vec<&str> = all.iter().map(|r| r.id).chain([rows::MILLION, rows::QUORUM_0]).collect();
    if let Some(unknown) = args.rows.iter().find(|id| !ids.contains(&id.as_str())) {
        bail!("--rows {unknown}: there is no such row; there are {}", ids.join(", "));
    }
    let wanted = |id: &str| args.rows.is_empty() || args.rows.iter().any(|r| r == id);

    let mut templates = Vec::new();
    if !args.etcd_only {
        ensure!(args.netsy.is_file(), "{} is not there: cargo build --release -p netsy", args.netsy.display());
        templates.push(netsy(args, &args.netsy_cmd)?);
    }
    templates.push(Template::etcd(&args.etcd));

    let mut outcome = Outcome { lines: Vec::new(), json: serde_json::Map::new(), noise: Vec::new() };
    for row in all.iter().filter(|r| wanted(r.id)) {
        eprintln!("{}: {} ...", row.id, row.load);
        comparison(args, row, &templates, &mut outcome).with_context(|| format!("row {}", row.id))?;
    }
    if wanted(rows::MILLION) {
        eprintln!("{}: {} keys ...", rows::MILLION, args.million);
        million(args, &templates, &mut outcome).context("row million")?;
    }
    if wanted(rows::QUORUM_0) && !args.etcd_only {
        eprintln!("{}: {} ms a call ...", rows::QUORUM_0, args.call_ms);
        quorum_0(args, &netsy(args, &args.quorum0_cmd)?, &mut outcome).context("row quorum-0")?;
    }
    let machine = report::machine_json();
    print!("{}\n{}", markdown(&outcome.lines), footer(&machine, &outcome.noise));
    if let Some(path) = &args.json {
        outcome.json.insert("machine".into(), machine);
        outcome.json.insert("table".into(), outcome.lines.iter().map(Line::json).collect());
        write_json(path, &outcome.json.into())?;
    }
    Ok(())
}

fn netsy(args: &SuiteArgs, command: &str) -> Result<Template> {
    let config = match &args.netsy_config {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?,
        None => NETSY_CONFIG.to_owned(),
    };
    let command = command.replace("{netsy}", &args.netsy.display().to_string());
    Ok(Template { name: "netsy".into(), command, config: Some(config) })
}

fn servers(templates: &[Template], args: &SuiteArgs) -> Result<Vec<Server>> {
    templates.iter().map(|t| Server::new(t, &args.data_root)).collect()
}

/// One row on fresh servers.
fn measure(args: &SuiteArgs, mode: Mode, spec: &Spec, templates: &[Template]) -> Result<Vec<Series>> {
    let spec = Spec { seconds: args.seconds, ..spec.clone() };
    spec.check(mode)?;
    let mut servers = servers(templates, args)?;
    let mut targets = Vec::new();
    for server in &mut servers {
        server.start()?;
        targets.push(server.target()?);
    }
    let series = rounds::alternate(&mut targets, mode, &spec, args.rounds)?;
    servers.iter_mut().try_for_each(Server::stop)?;
    eprintln!("{}", report::run_table(&series));
    Ok(series)
}

fn comparison(args: &SuiteArgs, row: &Row, templates: &[Template], outcome: &mut Outcome) -> Result<()> {
    let series = measure(args, row.mode, &row.spec, templates)?;
    let named = |name: &str| series.iter().find(|s| s.name == name);
    let (netsy, etcd) = (named("netsy"), named("etcd"));
    for &(metric, goal) in row.figures {
        outcome.lines.push(Line {
            load: row.load.into(),
            figure: metric.name().into(),
            etcd: etcd.and_then(|s| s.median(metric)),
            netsy: netsy.and_then(|s| s.median(metric)),
            ratio: netsy.zip(etcd).and_then(|(n, e)| report::ratio(n, e, metric)),
            goal,
        });
    }
    for one in series.iter().filter(|s| s.errors() > 0) {
        outcome.lines.push(Line {
            load: row.load.into(),
            figure: format!("failed calls of {}: the row does not count", one.name),
            etcd: None,
            netsy: None,
            ratio: None,
            goal: None,
        });
    }
    outcome.noise.extend(series.iter().filter_map(|s| s.median(Metric::Others)));
    outcome.json.insert(row.id.into(), series.iter().map(report::series_json).collect());
    Ok(())
}

/// Memory with many keys, and the time to serve them after a start.
fn million(args: &SuiteArgs, templates: &[Template], outcome: &mut Outcome) -> Result<()> {
    let spec = Spec { keys: args.million, ..rows::spec() };
    let mut servers = servers(templates, args)?;
    let results = restart::fill_and_restart(&mut servers, &spec, args.rounds)?;
    let of = |name: &str| servers.iter().position(|s| s.name() == name).map(|at| &results[at]);
    let (netsy, etcd) = (of("netsy"), of("etcd"));
    let started = |r: &Refilled, of: &dyn Fn(&restart::Started) -> f64| {
        report::median(r.starts.iter().map(of).collect()).unwrap_or_default()
    };
    type Figure<'a> = (&'a str, &'a dyn Fn(&Refilled) -> f64, Option<Goal>);
    let took = |r: &Refilled| started(r, &|s| s.took.as_secs_f64());
    let figures: [Figure<'_>; 5] = [
        ("peak MiB, filling and after a start", &|r| mib(r.peak()), Some(rows::MILLION_PEAK)),
        ("start to first answer, s", &took, Some(rows::MILLION_START)),
        ("peak MiB after a start", &|r| started(r, &|s| mib(s.memory.peak)), None),
        ("of it now, without mapped files, MiB", &|r| started(r, &|s| mib(s.memory.anonymous)), None),
        ("filling, puts/s", &|r| r.fill.throughput(), None),
    ];
    for (figure, value, goal) in figures {
        outcome.lines.push(Line {
            load: format!("{} keys of 256 B", args.million),
            figure: figure.into(),
            etcd: etcd.map(value),
            netsy: netsy.map(value),
            ratio: netsy.zip(etcd).map(|(n, e)| value(n) / value(e)),
            goal,
        });
    }
    let all: Vec<Value> = servers.iter().zip(&results).map(|(s, r)| refilled_json(s.name(), r)).collect();
    outcome.json.insert(rows::MILLION.into(), all.into());
    Ok(())
}

pub fn refilled_json(name: &str, result: &Refilled) -> Value {
    let memory = |m: &crate::proc::Memory| json!({ "peak MiB": mib(m.peak), "anonymous MiB": mib(m.anonymous), "mapped MiB": mib(m.mapped) });
    let starts: Vec<Value> =
        result.starts.iter().map(|s| json!({ "seconds": s.took.as_secs_f64(), "memory": memory(&s.memory) })).collect();
    json!({ "server": name, "fill operations/s": result.fill.throughput(), "filled": memory(&result.filled), "starts": starts })
}

/// Latency in object-store calls, and how throughput grows with the clients.
fn quorum_0(args: &SuiteArgs, netsy: &Template, outcome: &mut Outcome) -> Result<()> {
    let one_template = std::slice::from_ref(netsy);
    let mut medians = Vec::new();
    for clients in [1, 1000] {
        let spec = Spec { clients, ..rows::spec() };
        let series = measure(args, Mode::Put, &spec, one_template)?;
        let errors: u64 = series.iter().map(Series::errors).sum();
        ensure!(errors == 0, "{errors} puts of {clients} clients failed");
        let figure = |metric| series[0].median(metric).unwrap_or_default();
        medians.push((figure(Metric::Throughput), figure(Metric::P50)));
        let id = format!("{}-{clients}", rows::QUORUM_0);
        outcome.json.insert(id, series.iter().map(report::series_json).collect());
    }
    let (one, many) = (medians[0], medians[1]);
    let load = format!("quorum 0, {} ms a call", number(args.call_ms));
    let figures = [
        ("1 client: p50 in calls", one.1 / args.call_ms, rows::QUORUM_0_P50_ONE),
        ("1,000 clients: throughput to that of 1", many.0 / one.0, rows::QUORUM_0_GROWTH),
        ("1,000 clients: p50 in calls", many.1 / args.call_ms, rows::QUORUM_0_P50_MANY),
    ];
    for (figure, value, goal) in figures {
        outcome.lines.push(Line {
            load: load.clone(),
            figure: figure.into(),
            etcd: None,
            netsy: Some(value),
            ratio: Some(value),
            goal: Some(goal),
        });
    }
    Ok(())
}

fn markdown(lines: &[Line]) -> String {
    let cell = |value: Option<f64>| value.map_or_else(|| "not measured".into(), number);
    let mut text = "| load | figure | etcd | netsy | ratio | goal | |\n|---|---|---|---|---|---|---|\n".to_owned();
    for line in lines {
        let etcd = if line.load.starts_with("quorum 0") { "–".into() } else { cell(line.etcd) };
        let verdict = line.met().map_or("", |met| if met { "PASS" } else { "short" });
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            line.load,
            line.figure,
            etcd,
            cell(line.netsy),
            line.ratio.map_or_else(|| "–".into(), number),
            line.goal.map_or_else(|| "–".into(), Goal::text),
            verdict
        );
    }
    text
}

/// What the figures were taken on, and how quiet it was.
fn footer(machine: &Value, noise: &[f64]) -> String {
    let noise = match (noise.iter().copied().reduce(f64::max), report::median(noise.to_vec())) {
        (Some(most), Some(middle)) => {
            format!(" Other processes took {middle:.0} % of its CPU time (median of the rows; {most:.0} % at most).")
        }
        _ => String::new(),
    };
    let text = |key: &str| machine[key].to_string().replace('"', "");
    format!("{} cores of {}, Linux {}.{noise}\n", text("cores"), text("cpu"), text("kernel"))
}
