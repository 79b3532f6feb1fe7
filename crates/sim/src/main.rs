//! `netsy-sim`: sweeps seeds, or replays one.
//!
//! `netsy-sim --seeds 1..1000 [--seconds N] [--mutant NAME]`, `netsy-sim --fresh --seconds 300` (seeds nobody ran
//! before), `netsy-sim --seed 7 [--mutant NAME] [--trace]`, `netsy-sim --mutants --seeds 1..600`

use netsy_protocol::mutant::Mutant;
use netsy_sim::rare::unreached;
use netsy_sim::run::{Finding, run};
use netsy_sim::scenario::Scenario;
use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;

/// A cluster that takes longer to settle is worth a look.
const SLOW_MS: u64 = 15_000;
/// A sweep ends after so many seeds that fail.
const FAILED_MAX: usize = 10;

struct Arguments {
    seeds: Range<u64>,
    mutant: Option<(Mutant, String)>,
    trace: bool,
    mutants: bool,
    seconds: Option<u64>,
}

fn arguments() -> Result<Arguments, String> {
    let mut out = Arguments { seeds: 1..101, mutant: None, trace: false, mutants: false, seconds: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} wants a value"));
        match arg.as_str() {
            "--seeds" => {
                let text = value()?;
                let (first, last) = text.split_once("..").ok_or("--seeds wants FIRST..LAST")?;
                let number = |t: &str| t.trim_start_matches('=').parse::<u64>().map_err(|e| format!("{t}: {e}"));
                out.seeds = number(first)?..number(last)? + 1;
            }
            "--seed" => {
                let seed = value()?.parse::<u64>().map_err(|e| e.to_string())?;
                out.seeds = seed..seed + 1;
            }
            "--mutant" => {
                let name = value()?;
                let known = Mutant::ALL.iter().find(|(_, n, _)| *n == name);
                out.mutant = Some(known.map(|(m, n, _)| (*m, n.to_string())).ok_or(format!("no mutant {name}"))?);
            }
            "--seconds" => out.seconds = Some(value()?.parse::<u64>().map_err(|e| e.to_string())?),
            "--fresh" => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let first = now.map_err(|e| e.to_string())?.as_secs() * 1_000;
                println!("seeds from {first} on");
                out.seeds = first..u64::MAX;
            }
            "--trace" => out.trace = true,
            "--mutants" => out.mutants = true,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(out)
}

fn main() -> ExitCode {
    let args = match arguments() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if args.mutants {
        return sweep_mutants(args.seeds);
    }
    let mut sweep = Sweep::default();
    let began = std::time::Instant::now();
    for seed in args.seeds {
        if args.seconds.is_some_and(|s| began.elapsed().as_secs() >= s) || sweep.failed.len() >= FAILED_MAX {
            break;
        }
        let finding = run(Scenario::of_seed(seed), args.mutant.as_ref().map(|(m, _)| *m), args.trace);
        if !finding.breaches.is_empty() {
            tell(seed, &finding, args.mutant.as_ref().map(|(_, name)| name.as_str()));
        }
        sweep.add(seed, finding);
    }
    sweep.sum_up(began.elapsed().as_secs_f64(), args.mutant.is_none())
}

fn tell(seed: u64, finding: &Finding, mutant: Option<&str>) {
    println!("seed {seed} FAILED after {} steps:", finding.steps);
    for breach in &finding.breaches {
        let text: String = breach.chars().take(3_000).collect();
        println!("  {text}");
    }
    let mutant = mutant.map(|name| format!(" --mutant {name}")).unwrap_or_default();
    println!("  replay: cargo run --release -p netsy-sim -- --seed {seed}{mutant} --trace");
}

/// What the runs of a sweep came to.
#[derive(Default)]
struct Sweep {
    runs: u64,
    failed: Vec<u64>,
    /// The first breach of each that failed, to be said once more at the end.
    breaches: Vec<String>,
    steps: u64,
    simulated_ms: u64,
    settled_ms: Vec<u64>,
    ops_min: Option<u64>,
    faults_min: Option<u64>,
    counters: BTreeMap<&'static str, u64>,
}

impl Sweep {
    fn add(&mut self, seed: u64, finding: Finding) {
        self.runs += 1;
        self.steps += finding.steps;
        self.simulated_ms += finding.simulated;
        if let Some(ms) = finding.settled_ms.filter(|ms| *ms > SLOW_MS) {
            println!("seed {seed} settled only after {ms} ms");
        }
        self.settled_ms.extend(finding.settled_ms);
        if finding.breaches.is_empty() {
            self.ops_min = Some(self.ops_min.map_or(finding.ops, |least| least.min(finding.ops)));
            self.faults_min = Some(self.faults_min.map_or(finding.faults, |least| least.min(finding.faults)));
        } else {
            self.failed.push(seed);
            let breach: String = finding.breaches[0].chars().take(300).collect();
            self.breaches.push(format!("seed {seed}: {}", breach.replace('\n', " ")));
        }
        for (what, n) in finding.counters {
            *self.counters.entry(what).or_default() += n;
        }
    }

    fn sum_up(mut self, seconds: f64, all_paths: bool) -> ExitCode {
        self.settled_ms.sort_unstable();
        println!(
            "{} runs, {} failed {:?}, {} steps, {} s simulated in {seconds:.1} s; at least {:?} operations and {:?} faults \
             each; settled in {:?} ms at most, median {:?}",
            self.runs,
            self.failed.len(),
            self.failed,
            self.steps,
            self.simulated_ms / 1000,
            self.ops_min.unwrap_or(0),
            self.faults_min.unwrap_or(0),
            self.settled_ms.last(),
            self.settled_ms.get(self.settled_ms.len() / 2)
        );
        for (what, n) in &self.counters {
            println!("  {n:>10} {what}");
        }
        // Last of all, and as the test command looks for it: of a long record only the end may be kept.
        for breach in &self.breaches {
            println!("went wrong: {breach}");
        }
        let mut whole = self.failed.is_empty();
        if all_paths {
            for path in unreached(self.runs, &self.counters) {
                println!("went wrong: rare path not reached: {path}");
                whole = false;
            }
        }
        if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// For each broken variant, the first seed that shows it.
fn sweep_mutants(seeds: Range<u64>) -> ExitCode {
    let mut missed = 0;
    for (mutant, name, _) in Mutant::ALL {
        let caught = seeds.clone().find_map(|seed| {
            let finding = run(Scenario::of_seed(seed), Some(*mutant), false);
            finding.breaches.first().map(|b| (seed, b.chars().take(160).collect::<String>()))
        });
        match caught {
            Some((seed, breach)) => println!("{name}: seed {seed}: {}", breach.replace('\n', " ")),
            None => {
                missed += 1;
                println!("{name}: NOT CAUGHT");
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
