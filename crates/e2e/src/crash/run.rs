//! The driver: starts, loads, kills, restarts, and has the checkers judge.

use super::checker::Checker;
use super::history::{Event, Op, Outcome, Step};
use super::load::{Holdings, Shared, Writer};
use super::observe::{Watching, observe};
use super::watch_checker::WatchChecker;
use crate::client::Client;
use crate::ops;
use crate::random::Random;
use crate::server::{Kind, Options, Server};
use netsy_api::etcdserverpb as pb;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const WRITERS: usize = 8;
/// A failpoint that is not reached within this under load never is.
const FAILPOINT_WITHIN: Duration = Duration::from_secs(15);
/// For a second pass over the same place, which not every run comes to.
const FAILPOINT_AGAIN_WITHIN: Duration = Duration::from_secs(2);
const CATCH_UP_WITHIN: Duration = Duration::from_secs(20);
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What a run does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often the server is killed at a random instant.
    pub kills: u32,
    /// Seed of everything random.
    pub seed: u64,
    /// Fewest disks a write is on before it is acknowledged without the bucket.
    pub copies_min: u8,
    /// In how many of 100 restarts the local database is wiped first.
    pub wipe_percent: u64,
    /// Which failpoints are tried.
    pub failpoints: fn(&str) -> bool,
    /// Records that change until a snapshot is written.
    pub snapshot_records: u32,
    /// How long what a snapshot covers is kept: short, and clean-up has something to do.
    pub snapshot_retention: &'static str,
    /// A build with the file layer that forgets at a kill what was not synced.
    pub crashfs: Option<PathBuf>,
    /// After so many lives the data folder goes back to what it was a while before: the run must fail.
    pub forget_after: Option<u32>,
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// At random instants.
    pub kills: u32,
    /// Of which before the server was ready again.
    pub kills_at_start: u32,
    /// Ends by SIGTERM.
    pub stops: u32,
    /// Restarts without the local database.
    pub wipes: u32,
    /// Places at which the process ended itself.
    pub failpoints: Vec<String>,
    /// Writes that were acknowledged.
    pub acked: usize,
    /// Writes that had no answer.
    pub unknown: usize,
    /// Events told to watches.
    pub events: usize,
    /// The store's revision at the end.
    pub revision: i64,
    /// Failures that did not end the run.
    pub problems: Vec<String>,
}

/// How a life ends.
enum End {
    Kill,
    KillAtStart,
    Stop,
}

struct Watcher {
    checker: WatchChecker,
    prev_kv: bool,
    now: Option<Watching>,
    /// Of the life before: to be held against the log that the next one shows.
    answers: Vec<Vec<Event>>,
}

struct Run {
    plan: Plan,
    random: Random,
    server: Server,
    checker: Checker,
    shared: Arc<Shared>,
    life: u32,
    ops: Vec<Op>,
    watchers: Vec<Watcher>,
    /// The steps that some watch has not told yet, and later ones.
    log: Vec<Step>,
    /// The newest revision that a compaction was asked for, whatever became of it: nothing below is asked for again.
    compacted: i64,
    wipe_next: bool,
    report: Report,
}

/// Runs a plan. An error says what is wrong, with the seed.
pub async fn run(plan: Plan) -> Result<Report, String> {
    let seed = plan.seed;
    let mut options = Options {
        copies_min: Some(plan.copies_min),
        snapshot_records: Some(plan.snapshot_records),
        snapshot_retention: Some(plan.snapshot_retention),
        ..Options::default()
    };
    if let Some(program) = &plan.crashfs {
        options.program = Some(program.clone());
        options.env.push(("NETSY_CRASHFS".to_owned(), "1".to_owned()));
    }
    let watch = |name: &str, prefix: &str, prev_kv| Watcher {
        checker: WatchChecker::new(name.to_owned(), prefix.to_owned(), 1),
        prev_kv,
        now: None,
        answers: Vec::new(),
    };
    let mut run = Run {
        random: Random::new(seed),
        server: Server::new(options),
        checker: Checker::default(),
        shared: Arc::default(),
        life: 0,
        ops: Vec::new(),
        watchers: vec![
            watch("all", "", false),
            watch("all with prev_kv", "", true),
            watch("shared", "s/", true),
            watch("own", "o/", false),
        ],
        log: Vec::new(),
        compacted: 0,
        wipe_next: false,
        report: Report::default(),
        plan,
    };
    match run.all_lives().await {
        Ok(()) if run.report.problems.is_empty() => Ok(run.report),
        Ok(()) => Err(format!("NETSY_SEED={seed}: {:#?}", run.report)),
        Err(wrong) => {
            let folder = run.server.keep_folder().display().to_string();
            Err(format!("NETSY_SEED={seed}, life {}, folder {folder}, so far {:?}\n{wrong}", run.life, run.report))
        }
    }
}

impl Run {
    async fn all_lives(&mut self) -> Result<(), String> {
        while self.report.kills < self.plan.kills {
            let end = match self.random.below(100) {
                0..10 if self.life > 0 => End::KillAtStart,
                10..15 => End::Stop,
                _ => End::Kill,
            };
            self.life(end).await?;
        }
        let names = if is_netsy() { self.server.command(&["failpoints"])? } else { String::new() };
        let wanted = self.plan.failpoints;
        for name in names.lines().map(str::trim).filter(|name| !name.is_empty() && wanted(name)) {
            for nth in [1, 2 + self.random.below(20)] {
                self.failpoint(name, nth).await?;
            }
        }
        self.last_life().await
    }

    /// One start of the server, its work and its end.
    async fn life(&mut self, end: End) -> Result<(), String> {
        self.life += 1;
        self.prepare_data()?;
        self.server.spawn();
        if let End::KillAtStart = end {
            tokio::time::sleep(Duration::from_micros(self.random.below(60_000))).await;
            self.server.kill();
            self.report.kills += 1;
            self.report.kills_at_start += 1;
            self.after_kill()?;
            return Ok(());
        }
        self.server.try_await_ready(READY_WITHIN).await?;
        let client = self.server.client().await;
        self.judge(&client).await?;
        let work = self.start_work(&client);
        match end {
            End::Stop => {
                tokio::time::sleep(Duration::from_millis(self.random.below(100))).await;
                self.shared.stop.store(true, Ordering::SeqCst);
                if let Err(why) = self.server.try_stop().await {
                    // Goes on, as what it left must be whole all the same.
                    let line = self.server.log_tail().lines().last().unwrap_or_default().to_owned();
                    self.report.problems.push(format!("life {}: {why}: {line}", self.life));
                }
                self.report.stops += 1;
            }
            _ => {
                tokio::time::sleep(Duration::from_micros(1000 + self.random.below(120_000))).await;
                self.server.kill();
                self.report.kills += 1;
            }
        }
        self.end_work(work).await;
        self.after_kill()
    }

    /// Has the server end itself at a place: under load, or while it starts, without its database if need be.
    async fn failpoint(&mut self, name: &str, nth: u64) -> Result<(), String> {
        let can_wipe = self.plan.copies_min > 1 && self.plan.wipe_percent > 0 && self.server.has_local_database();
        let (wipe, within) = match name.split_once('.').map_or(name, |(group, _)| group) {
            // Reached before the server is ready, on its way down, or never.
            "start" | "stop" => (false, Duration::from_millis(300)),
            "restore" => (can_wipe, Duration::from_millis(300)),
            _ if nth > 1 => (false, FAILPOINT_AGAIN_WITHIN),
            _ => (false, FAILPOINT_WITHIN),
        };
        self.wipe_next = wipe;
        self.server.options_mut().env.push(("NETSY_FAILPOINT".to_owned(), format!("{name}:{nth}")));
        let ended = self.failpoint_life(within).await;
        self.server.options_mut().env.pop();
        if ended? {
            self.report.failpoints.push(format!("{name}:{nth}"));
            // What it left must be whole.
            self.life(End::Kill).await?;
            return Ok(());
        }
        // A later pass over a place that a short run reaches once is not worth a failure.
        if nth == 1 {
            self.report.problems.push(format!("failpoint {name} was not reached within {within:?}"));
        }
        Ok(())
    }

    /// True: the process ended itself.
    async fn failpoint_life(&mut self, within: Duration) -> Result<bool, String> {
        self.life += 1;
        self.prepare_data()?;
        self.server.spawn();
        let ready = self.server.try_await_ready(READY_WITHIN).await;
        if self.server.ended().is_some() {
            self.server.kill();
            self.after_kill()?;
            return Ok(true);
        }
        ready?;
        let client = match Client::try_connect(&self.server.url()).await {
            Ok(client) => client,
            Err(_) => return self.finish_failpoint(Vec::new(), within).await,
        };
        // It may end while it is looked at; then the next life looks.
        let judged = self.judge(&client).await;
        if let Err(wrong) = judged {
            if self.server.wait_for_end(Duration::from_millis(500)).await.is_none() {
                return Err(wrong);
            }
            self.drop_watches().await;
            self.after_kill()?;
            return Ok(true);
        }
        let work = self.start_work(&client);
        self.finish_failpoint(work, within).await
    }

    async fn finish_failpoint(
        &mut self,
        work: Vec<tokio::task::JoinHandle<Vec<Op>>>,
        within: Duration,
    ) -> Result<bool, String> {
        let start = Instant::now();
        let mut ended = false;
        while start.elapsed() < within && !ended {
            tokio::time::sleep(Duration::from_millis(5)).await;
            ended = self.server.ended().is_some();
        }
        if !ended {
            // Places on the way of a graceful stop.
            self.shared.stop.store(true, Ordering::SeqCst);
            self.server.signal(libc::SIGTERM);
            let status = self.server.wait_for_end(Duration::from_secs(20)).await;
            ended = status.is_some_and(|status| !status.success());
        }
        self.server.kill();
        self.end_work(work).await;
        self.after_kill()?;
        Ok(ended)
    }

    async fn last_life(&mut self) -> Result<(), String> {
        self.life += 1;
        self.prepare_data()?;
        self.server.start_again().await;
        let client = self.server.client().await;
        self.judge(&client).await?;
        // Short leases have their time, and their keys must go with them.
        let start = Instant::now();
        while !client.range(ops::prefix("x/")).await.map_err(|status| status.to_string())?.kvs.is_empty() {
            if start.elapsed() > Duration::from_secs(30) {
                return Err("keys of expired leases are still there after 30 s".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.end_work(Vec::new()).await;
        self.judge(&client).await?;
        self.drop_watches().await;
        self.report.revision = self.checker.revision();
        self.server.kill();
        Ok(())
    }

    fn prepare_data(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.wipe_next) {
            self.server.wipe_local_database();
            self.report.wipes += 1;
        }
        Ok(())
    }

    fn after_kill(&mut self) -> Result<(), String> {
        let data = self.server.data_dir();
        if self.plan.crashfs.is_some() {
            // All that was not synced is lost, or some of it by chance, as a disk may write in any order.
            let loss = if self.random.chance(50) { String::new() } else { self.random.number().to_string() };
            self.server.options_mut().env.push(("NETSY_CRASHFS_SEED".to_owned(), loss));
            let recovered = self.server.command(&["crashfs-recover", &data.display().to_string()]);
            self.server.options_mut().env.pop();
            recovered?;
        }
        if let Some(after) = self.plan.forget_after {
            let kept = data.with_extension("kept");
            if self.life == after / 2 {
                copy_folder(&data, &kept)?;
            } else if self.life == after {
                std::fs::remove_dir_all(&data).map_err(|error| error.to_string())?;
                copy_folder(&kept, &data)?;
            }
        }
        self.wipe_next = self.random.chance(self.plan.wipe_percent) && self.server.has_local_database();
        Ok(())
    }

    /// Looks at everything and holds it against what was done; then has the watches catch up.
    async fn judge(&mut self, client: &Client) -> Result<(), String> {
        let seen = observe(client, self.checker.revision() + 1).await?;
        let ops = std::mem::take(&mut self.ops);
        let mut wrong = self.checker.check(&ops, &seen);
        for op in ops.iter().filter(|op| !op.changes.is_empty()) {
            match op.outcome {
                Outcome::Acked { .. } => self.report.acked += 1,
                Outcome::Unknown => self.report.unknown += 1,
                Outcome::Refused => {}
            }
        }
        self.log.extend(seen.log);
        for watcher in &mut self.watchers {
            let answers = std::mem::take(&mut watcher.answers);
            self.report.events += answers.iter().map(Vec::len).sum::<usize>();
            wrong.extend(watcher.checker.check(&answers, &self.log, seen.head, false));
        }
        wrong.extend(self.check_compacted(client).await);
        if wrong.is_empty() {
            wrong.extend(self.catch_up(client, seen.head).await);
        }
        let told = self.watchers.iter().map(|watcher| watcher.checker.resume_at()).min().unwrap_or(0);
        self.log.retain(|step| step.revision >= told);
        if wrong.is_empty() { Ok(()) } else { Err(wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n")) }
    }

    async fn check_compacted(&self, client: &Client) -> Option<String> {
        let surely = self.shared.compacted.load(Ordering::SeqCst);
        if surely < 2 {
            return None;
        }
        let at = |revision| client.range(pb::RangeRequest { revision, ..ops::get("no such key") });
        match (at(surely - 1).await, at(self.compacted).await) {
            (Err(below), Ok(_)) if below.code() == tonic::Code::OutOfRange => None,
            (Err(_), Err(above)) if above.code() != tonic::Code::OutOfRange => None,
            (below, above) => Some(format!(
                "revision {surely} was compacted, {} perhaps: a read below the one gave {below:?}, a read at the other {above:?}",
                self.compacted
            )),
        }
    }

    /// Resumes every watch from the revision after its last, and waits until each has told all there is.
    async fn catch_up(&mut self, client: &Client, head: i64) -> Vec<String> {
        let log = &self.log;
        for watcher in &mut self.watchers {
            let request = pb::WatchCreateRequest {
                start_revision: watcher.checker.resume_at(),
                prev_kv: watcher.prev_kv,
                ..if watcher.checker.prefix.is_empty() {
                    ops::watch_all()
                } else {
                    ops::watch_prefix(watcher.checker.prefix.as_str())
                }
            };
            if watcher.now.is_none() {
                watcher.now = Some(Watching::start(client.clone(), watcher.checker.name.clone(), request));
            }
        }
        let start = Instant::now();
        let reached = |watcher: &Watcher| {
            watcher.now.as_ref().is_none_or(|now| now.look(|answers| watcher.checker.reached(answers, log, head)))
        };
        // A server that ended itself meanwhile owes the rest after its restart.
        while !self.watchers.iter().all(reached) && start.elapsed() < CATCH_UP_WITHIN && self.server.is_running() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let all = self.watchers.iter().all(reached);
        let whole = all || start.elapsed() >= CATCH_UP_WITHIN;
        let mut wrong = Vec::new();
        for watcher in &mut self.watchers {
            let Some(now) = &watcher.now else { continue };
            let (answers, said) = now.take();
            wrong.extend(said);
            // A lease may have expired since the look: that belongs to the next one.
            let (mut due, mut later) = (Vec::new(), Vec::new());
            for answer in answers {
                let (old, new): (Vec<Event>, Vec<Event>) =
                    answer.into_iter().partition(|event| event.kv.mod_revision <= head);
                due.extend((!old.is_empty()).then_some(old));
                later.extend((!new.is_empty()).then_some(new));
            }
            self.report.events += due.iter().map(Vec::len).sum::<usize>();
            wrong.extend(watcher.checker.check(&due, log, head, whole));
            watcher.answers = later;
        }
        wrong
    }

    fn start_work(&mut self, client: &Client) -> Vec<tokio::task::JoinHandle<Vec<Op>>> {
        self.shared.stop.store(false, Ordering::SeqCst);
        let mut holdings = self.holdings();
        let armed = self.server.options_mut().env.last().map(|(_, value)| value.clone()).unwrap_or_default();
        let compacting = armed.starts_with("compaction.");
        let mut work: Vec<_> = (0..WRITERS)
            .map(|number| {
                let own = holdings.pop().unwrap_or_default();
                let writer =
                    Writer::new(client.clone(), self.shared.clone(), self.random.fork(), self.life, number, own);
                tokio::spawn(writer.run())
            })
            .collect();
        if (compacting || self.random.chance(40)) && self.checker.revision() > self.compacted + 1 {
            let span = (self.checker.revision() - self.compacted) as u64;
            let revision = self.compacted + 1 + self.random.below(span) as i64;
            self.compacted = revision;
            work.push(tokio::spawn(maintain(client.clone(), self.shared.clone(), revision, self.random.fork())));
        }
        work
    }

    /// Keys and leases of earlier lives, dealt out so that each has one owner.
    fn holdings(&mut self) -> Vec<Holdings> {
        let mut holdings = vec![Holdings::default(); WRITERS];
        for (at, (id, _)) in self.checker.leases().enumerate() {
            holdings[at % WRITERS].leases.insert(id, Default::default());
        }
        for (key, kv) in self.checker.keys() {
            if kv.lease != 0 {
                if let Some(keys) = holdings.iter_mut().find_map(|own| own.leases.get_mut(&kv.lease)) {
                    keys.insert(key.clone());
                }
            } else if key.starts_with("o/") {
                // By life and writer, so that a range delete of one group meets one owner.
                let group = key.rsplit_once('/').map_or(key.as_str(), |(group, _)| group);
                let owner =
                    group.bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)))
                        % WRITERS;
                holdings[owner].keys.insert(key.clone());
            }
        }
        holdings
    }

    /// The server is gone (or idle): collects what the writers and watches have to say.
    async fn end_work(&mut self, work: Vec<tokio::task::JoinHandle<Vec<Op>>>) {
        for task in work {
            self.ops.extend(task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
        }
        self.ops.sort_by_key(|op| op.invoked);
        if !self.server.is_running() {
            self.drop_watches().await;
        }
    }

    async fn drop_watches(&mut self) {
        for watcher in &mut self.watchers {
            if let Some(now) = watcher.now.take() {
                let (answers, _) = now.end().await;
                watcher.answers.extend(answers);
            }
        }
    }
}

/// Compacts and, now and then, defragments, in the middle of the load.
async fn maintain(client: Client, shared: Arc<Shared>, revision: i64, mut random: Random) -> Vec<Op> {
    tokio::time::sleep(Duration::from_micros(random.below(60_000))).await;
    let compacted = client.compact(revision, random.chance(50)).await;
    if compacted.is_ok() {
        shared.compacted.fetch_max(revision, Ordering::SeqCst);
    }
    if random.chance(25) {
        // It may be cut short like everything else.
        let _ = client.maintenance().defragment(pb::DefragmentRequest {}).await;
    }
    Vec::new()
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), String> {
    let status =
        std::process::Command::new("cp").arg("-a").args([from, to]).status().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("cp {} {} ended with {status}", from.display(), to.display())) }
}

/// True where the program under test has a bucket and failpoints.
pub fn is_netsy() -> bool {
    Kind::under_test() == Kind::Netsy
}
