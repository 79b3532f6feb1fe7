//! One run of one scenario: start, load, faults, cure, last reads, judgement.

use crate::cluster::{Cluster, Programs, connect, name};
use crate::faults::Faults;
use crate::kept;
use crate::logs;
use crate::net::Isolation;
use crate::record::{Recorder, Shared, UNITS_PER_SECOND};
use crate::scenario::{Fault, Scenario, ServerKind};
use crate::steady::{self, Waits};
use crate::watcher::{Watcher, is_of_everything};
use crate::workload::{Worker, read_all};
use anyhow::{Context, Result, anyhow, bail, ensure};
use netsy_api::etcdserverpb::{HashKvRequest, LeaseLeasesRequest};
use netsy_e2e::ops;
use netsy_e2e::random::Random;
use netsy_history::{History, Log, NodeState, Outcome, Report, Request, Rules, Step, Told, WatchRecord, steps};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What the last reads and the watches may take when nothing is wrong any more.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);
/// The longest lease of the workload, and what a new Primary may add.
const LEASES_END_WITHIN: Duration = Duration::from_secs(30);
/// A single call of these.
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// Number of the client that makes the last reads.
const LAST_CLIENT: u32 = 1_000;

/// How to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program.
    pub kind: ServerKind,
    /// Where the programs are.
    pub programs: Programs,
    /// What this process could get for itself.
    pub isolation: Isolation,
    /// Where data goes.
    pub data_root: PathBuf,
    /// Of all chance.
    pub seed: u64,
    /// Fewer or more nodes than the scenario says.
    pub nodes: Option<usize>,
    /// Keep all files also when nothing is wrong.
    pub keep: bool,
}

/// What a run came to.
pub enum Verdict {
    /// As it should, with a line of figures.
    Good(String),
    /// It makes no sense here, and why.
    Skipped(String),
    /// Not as it should; where the files are.
    Bad(String, PathBuf),
}

/// Runs it.
pub async fn run(scenario: &Scenario, plan: &Plan) -> Result<Verdict> {
    let mut scenario = scenario.clone();
    scenario.nodes = plan.nodes.unwrap_or(scenario.nodes);
    if let Some(why) = skipped(&scenario, plan) {
        return Ok(Verdict::Skipped(why));
    }
    let mut cluster = Cluster::new(plan.kind, &plan.programs, &scenario, &plan.isolation, &plan.data_root).await?;
    let done = attempt(&scenario, plan, &mut cluster).await;
    if plan.keep {
        eprintln!("    files are kept in {}", cluster.keep().display());
    }
    let (wrong, figures) = match done {
        Ok((report, figures)) if report.is_empty() => return Ok(Verdict::Good(figures)),
        Ok((report, figures)) => (report.to_string(), figures),
        Err(error) => (format!("{error:#}"), String::new()),
    };
    let mut text = format!("{wrong}\n{figures}\n");
    for node in &cluster.nodes {
        text += &format!("--- the end of {}:\n{}\n", node.process.log().display(), node.process.log_tail(3000));
    }
    let folder = cluster.keep();
    std::fs::write(folder.join("report.txt"), &text)?;
    Ok(Verdict::Bad(text, folder))
}

fn skipped(scenario: &Scenario, plan: &Plan) -> Option<String> {
    if !scenario.only.is_empty() && !scenario.only.contains(&plan.kind) {
        return Some(format!("it is about {:?}", scenario.only));
    }
    let own_disk = scenario.disk_mib.is_some();
    if let Isolation::None(why) = &plan.isolation
        && (own_disk || scenario.all_faults().any(Fault::cuts))
    {
        return Some(why.clone());
    }
    if plan.kind == ServerKind::Etcd {
        if scenario.all_faults().any(Fault::needs_shim) {
            return Some("etcd is linked statically: nothing can be preloaded into it".into());
        }
        if scenario.all_faults().any(|fault| fault.needs_store() || matches!(fault, Fault::Wipe { .. })) {
            return Some("etcd has no object store".into());
        }
    }
    None
}

async fn attempt(scenario: &Scenario, plan: &Plan, cluster: &mut Cluster) -> Result<(Report, String)> {
    let mut random = Random::new(plan.seed);
    let mut faults = Faults::new(random.fork());
    let first = faults.nodes(cluster, &scenario.starts, &[]).await?;
    cluster.start_some(&first).await?;
    let shared = Shared::new(cluster.views());
    let mut reader = Recorder::new(Arc::clone(&shared), LAST_CLIENT, CALL_WITHIN);
    if let Some(node) = first.first() {
        kept::grant(&mut reader, *node).await?;
    }
    let mut workers = JoinSet::new();
    for client in 0..scenario.workload.clients {
        let worker = Worker::new(Arc::clone(&shared), client as u32 + 1, &scenario.workload, random.fork());
        workers.spawn(worker.run());
    }
    let mut steady = JoinSet::new();
    for number in 0..scenario.workload.steady {
        steady.spawn(steady::run(Arc::clone(&shared), number));
    }
    let last = Arc::new(AtomicI64::new(0));
    let mut watchers = JoinSet::new();
    let mut reached = Vec::new();
    let of_nodes = (0..scenario.nodes).map(|node| Watcher::of_node(Arc::clone(&shared), node, random.fork()));
    let mut all: Vec<Watcher> = of_nodes.collect();
    for number in 0..scenario.workload.watchers {
        all.push(Watcher::roaming(Arc::clone(&shared), ["k/", "l/", "k/0"][number % 3], random.fork()));
    }
    for watcher in all {
        reached.push(watcher.reached());
        watchers.spawn(watcher.run(Arc::clone(&last)));
    }

    let began = Instant::now();
    let broken = break_things(scenario, cluster, &mut faults, &mut random, &shared).await;
    let left = Duration::from_secs_f64(scenario.seconds).saturating_sub(began.elapsed());
    if broken.is_ok() {
        tokio::time::sleep(left).await;
    }
    let count = broken?;
    let mut recovery = Duration::ZERO;
    if !scenario.expect.halts {
        faults.cure(cluster)?;
        let cured = Instant::now();
        serve_again(cluster, &shared, Duration::from_secs_f64(scenario.expect.serves_within)).await?;
        recovery = cured.elapsed();
    }
    shared.stop.store(true, Ordering::SeqCst);
    while let Some(ended) = workers.join_next().await {
        ended.context("a client")?;
    }
    let mut waits = Waits::default();
    while let Some(ended) = steady.join_next().await {
        waits.add(&ended.context("a client that knows all nodes")?);
    }

    let (head, states) = if scenario.expect.halts {
        // What is not known to anybody any more is not there to be read: the watchers' own word is the log.
        last.store(-1, Ordering::SeqCst);
        (0, Vec::new())
    } else {
        leases_end(cluster).await?;
        let head = final_write(&mut reader).await?;
        last.store(head, Ordering::SeqCst);
        let states = last_reads(cluster, &mut reader, head).await?;
        kept::check(&mut reader, cluster.nodes.len() - 1).await?;
        (head, states)
    };
    let watched = tokio::time::timeout(SETTLE_WITHIN, async {
        while reached.iter().any(|reached| reached.load(Ordering::SeqCst) < head) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let late = watched.await.is_err();
    if late {
        // Told to give up; what did not come is for the check to say.
        last.store(-1, Ordering::SeqCst);
    }
    let mut records = Vec::new();
    while let Some(ended) = watchers.join_next().await {
        records.extend(ended.context("a watcher")?);
    }
    if plan.kind == ServerKind::Netsy && scenario.expect.restore && !scenario.expect.halts {
        restored_from_the_bucket(cluster, &mut reader, head).await?;
    }

    let mut report = Report::default();
    let history = assemble(&shared, records, states, head, scenario, &mut report);
    logs::no_panic(cluster)?;
    let unknown = history.ops.iter().filter(|op| op.outcome == Outcome::Unknown).count();
    let refused = history.ops.iter().filter(|op| matches!(op.outcome, Outcome::Refused(_))).count();
    let written = shared.acknowledged.load(Ordering::SeqCst);
    let sessions: usize = history.watches.iter().map(|watch| watch.sessions.len()).sum();
    let figures = format!(
        "{} operations ({written} acknowledged writes, {unknown} unknown, {refused} refused), {} revisions, {sessions} \
         watch streams, {count} faults, served again after {recovery:.1?}, longest wait of a client with all endpoints \
         {:.2?} (at {:.2} s), {} of its requests failed, {}",
        history.ops.len(),
        history.log.steps.len(),
        waits.longest,
        waits.longest_at as f64 / UNITS_PER_SECOND as f64,
        waits.failed,
        longest_pause(&history.ops),
    );
    let figures = format!("{figures}{}{}", unknown_texts(&shared), logs::troubles(cluster));
    report.extend(history.check());
    if plan.keep || !report.is_empty() {
        dump(&history, &cluster.folder().join("history.txt"))?;
    }
    ensure!(
        !scenario.expect.no_failures || waits.failed == 0,
        "{} requests of clients that know all endpoints failed: {figures}",
        waits.failed
    );
    ensure!(
        written >= scenario.expect.acknowledged as u64,
        "only {written} writes were acknowledged, the run says nothing: {figures}"
    );
    Ok((report, figures))
}

/// What requests of unknown outcome were told, a line each.
fn unknown_texts(shared: &Shared) -> String {
    shared.told_unknown().iter().map(|(told, count)| format!("\n        {count} unknown: {told}")).collect()
}

/// The longest time in which no write was acknowledged.
fn longest_pause(ops: &[netsy_history::Op]) -> String {
    let mut times: Vec<u64> =
        ops.iter().filter(|op| op.wrote() && op.client < LAST_CLIENT).map(|op| op.returned).collect();
    times.sort_unstable();
    let seconds = |units: u64| units as f64 / UNITS_PER_SECOND as f64;
    match times.windows(2).max_by_key(|two| two[1] - two[0]) {
        Some(two) => {
            format!("writes paused for {:.2} s at most, from {:.1} s on", seconds(two[1] - two[0]), seconds(two[0]))
        }
        None => "no writes to speak of".into(),
    }
}

/// The faults of the scenario, then those by chance.
async fn break_things(
    scenario: &Scenario,
    cluster: &mut Cluster,
    faults: &mut Faults,
    random: &mut Random,
    shared: &Shared,
) -> Result<usize> {
    let mut count = 0;
    for round in 0..scenario.rounds {
        let round_starts = f64::from(round) * scenario.round_seconds * UNITS_PER_SECOND as f64;
        for step in &scenario.faults {
            let at = (round_starts + step.at * UNITS_PER_SECOND as f64) as u64;
            tokio::time::sleep(Duration::from_micros(at.saturating_sub(shared.now()))).await;
            apply(cluster, faults, &step.fault, shared).await?;
            count += 1;
        }
    }
    let Some(by_chance) = &scenario.random else { return Ok(count) };
    let mut between = |of: [f64; 2]| {
        let share = random.below(1_000) as f64 / 1_000.0;
        Duration::from_secs_f64(of[0] + (of[1] - of[0]) * share)
    };
    for number in 0..by_chance.count {
        tokio::time::sleep(between(by_chance.gap)).await;
        let drawn = (between([0.0, 1.0]).as_secs_f64() * by_chance.of.len() as f64) as usize;
        let fault = by_chance.of.get(drawn).with_context(|| format!("fault {number}: random.of is empty"))?;
        apply(cluster, faults, fault, shared).await?;
        tokio::time::sleep(between(by_chance.lasts)).await;
        apply(cluster, faults, &Fault::Cure, shared).await?;
        count += 1;
    }
    Ok(count)
}

async fn apply(cluster: &mut Cluster, faults: &mut Faults, fault: &Fault, shared: &Shared) -> Result<()> {
    let at = shared.now() as f64 / UNITS_PER_SECOND as f64;
    let what = faults.apply(cluster, fault, shared).await.with_context(|| format!("{fault:?} at {at:.1} s"))?;
    println!("    {at:7.2} s: {what}");
    Ok(())
}

/// Waits until every node takes a write.
async fn serve_again(cluster: &Cluster, shared: &Arc<Shared>, limit: Duration) -> Result<()> {
    let mut recorder = Recorder::new(Arc::clone(shared), LAST_CLIENT + 1, Duration::from_secs(5));
    let start = Instant::now();
    for node in 0..cluster.nodes.len() {
        loop {
            let put = Request::Put(ops::put(format!("cured/{}", name(node)), format!("cured {}", shared.next())));
            if let Some(Outcome::Done(_)) = recorder.ask(node, put).await {
                break;
            }
            ensure!(start.elapsed() < limit, "{limit:?} after everything was put right {} takes no writes", name(node));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// Nobody renews them any more: soon there are none.
async fn leases_end(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster.nodes[0].view.address).await?;
    let start = Instant::now();
    loop {
        let mut left = client.lease().lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases;
        left.retain(|lease| lease.id != kept::LEASE);
        if left.is_empty() {
            return Ok(());
        }
        ensure!(start.elapsed() < LEASES_END_WITHIN, "{} leases are left after {LEASES_END_WITHIN:?}", left.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The last revision of the run.
async fn final_write(reader: &mut Recorder) -> Result<i64> {
    let put = Request::Put(ops::put("end", "end"));
    match reader.ask(0, put).await {
        Some(Outcome::Done(done)) => Ok(done.revision),
        other => bail!("the last write: {other:?}"),
    }
}

/// Both kinds of reads of everything at every node, and a digest of each.
async fn last_reads(cluster: &Cluster, reader: &mut Recorder, head: i64) -> Result<Vec<NodeState>> {
    let mut states = Vec::new();
    for (node, one) in cluster.nodes.iter().enumerate() {
        for serializable in [false, true] {
            match reader.ask(node, read_all(serializable)).await {
                Some(Outcome::Done(_)) => {}
                other => bail!("the last read at {}: {other:?}", name(node)),
            }
        }
        let client = connect(one.view.address).await?;
        let start = Instant::now();
        // Past compactions of it, and until a node that lags behind has it.
        let hash = loop {
            let asked = client.maintenance().hash_kv(HashKvRequest { revision: head }).await;
            match asked {
                Ok(answer) => break answer.into_inner(),
                Err(status) if start.elapsed() > SETTLE_WITHIN => {
                    return Err(anyhow!("the digest of {}: {status}", name(node)));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        states.push(NodeState {
            name: name(node),
            at: format!("revision {} compacted at {}", hash.hash_revision, hash.compact_revision),
            digest: hash.hash.to_be_bytes().to_vec(),
        });
    }
    Ok(states)
}

/// All nodes stop and lose their disks; one starts from the bucket and must have everything.
async fn restored_from_the_bucket(cluster: &mut Cluster, reader: &mut Recorder, head: i64) -> Result<()> {
    for node in &mut cluster.nodes {
        node.process.terminate()?;
    }
    for node in 0..cluster.nodes.len() {
        cluster.stop(node, false).await?;
        cluster.wipe(node)?;
    }
    cluster.start(0)?;
    cluster.ready(0).await.context("a node started from the bucket alone")?;
    match reader.ask(0, read_all(false)).await {
        Some(Outcome::Done(done)) if done.revision >= head => kept::check(reader, 0).await,
        other => bail!("from the bucket alone, revision {head} and more was to be read: {other:?}"),
    }
}

fn assemble(
    shared: &Shared,
    mut records: Vec<WatchRecord>,
    states: Vec<NodeState>,
    head: i64,
    scenario: &Scenario,
    report: &mut Report,
) -> History {
    let mut parts: Vec<(String, Vec<Step>)> = Vec::new();
    for record in &mut records {
        // An earlier life of a watcher ended at a compaction.
        let ended = record.sessions.last().and_then(|session| session.messages.last());
        if head > 0 && !matches!(ended.map(|message| &message.told), Some(Told::Cancelled { .. })) {
            record.whole_to = Some(head);
        }
        for session in record.sessions.iter().filter(|session| is_of_everything(&session.request)) {
            let events = session.messages.iter().filter_map(|message| match &message.told {
                Told::Events { events, .. } => Some(events.iter().cloned()),
                _ => None,
            });
            parts.push((format!("{} (node {})", record.name, session.node), steps(events.flatten())));
        }
    }
    let mut log = Log::merge(parts.iter().map(|(name, steps)| (name.as_str(), &steps[..])), report);
    // A grant of unknown outcome may have come late: what its end deletes after the last write not everybody was told.
    let mut ops = shared.take();
    let after = |op: &netsy_history::Op| op.done().is_some_and(|done| done.revision > log.head());
    ops.retain(|op| !(op.client == LAST_CLIENT && after(op)));
    let seen: BTreeSet<i64> = log.steps.iter().map(|step| step.revision).collect();
    log.steps.retain(|step| {
        head == 0 || step.revision <= head || (head..step.revision).all(|revision| seen.contains(&revision))
    });
    let rules = Rules {
        units_per_second: Some(UNITS_PER_SECOND),
        auto_compaction: scenario.compacts_by_itself(),
        ..Rules::default()
    };
    History { ops, watches: records, log, states, rules }
}

/// All that was done and seen, to look into what is wrong.
fn dump(history: &History, to: &Path) -> Result<()> {
    use std::io::Write;
    let mut file = std::io::BufWriter::new(std::fs::File::create(to)?);
    let mut ops: Vec<_> = history.ops.iter().collect();
    ops.sort_by_key(|op| op.invoked);
    for op in ops {
        writeln!(file, "{op}")?;
    }
    writeln!(file, "--- the log")?;
    for step in &history.log.steps {
        writeln!(file, "{step:?}")?;
    }
    for watch in &history.watches {
        writeln!(file, "--- {} up to {:?}", watch.name, watch.whole_to)?;
        for session in &watch.sessions {
            writeln!(file, "stream at node {}: {:?}", session.node, session.request)?;
            for message in &session.messages {
                writeln!(file, "    {message:?}")?;
            }
        }
    }
    file.flush().with_context(|| format!("write {}", to.display()))
}
