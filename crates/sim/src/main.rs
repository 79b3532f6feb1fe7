//! `netsy-sim`: sweeps seeds, or replays one.
//!
//! `netsy-sim --seeds 1..1000 [--mutant NAME]`, `netsy-sim --seed 7 [--mutant NAME] [--trace]`, `netsy-sim --mutants`

use netsy_protocol::mutant::Mutant;
use netsy_sim::run::run;
use netsy_sim::scenario::Scenario;
use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;

/// A cluster that takes longer to settle is worth a look.
const SLOW_MS: u64 = 15_000;

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
    let began = std::time::Instant::now();
    let mut counters: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut failed, mut runs, mut steps, mut simulated) = (vec![], 0u64, 0u64, 0u64);
    let mut settled = vec![];
    for seed in args.seeds {
        if args.seconds.is_some_and(|s| began.elapsed().as_secs() >= s) {
            break;
        }
        let finding = run(Scenario::of_seed(seed), args.mutant.as_ref().map(|(m, _)| *m), args.trace);
        runs += 1;
        steps += finding.steps;
        simulated += finding.simulated;
        if let Some(ms) = finding.settled_ms.filter(|ms| *ms > SLOW_MS) {
            println!("seed {seed} settled only after {ms} ms");
        }
        settled.extend(finding.settled_ms);
        for (what, n) in finding.counters {
            *counters.entry(what).or_default() += n;
        }
        if !finding.breaches.is_empty() {
            let mutant = args.mutant.as_ref().map(|(_, n)| format!(" --mutant {n}")).unwrap_or_default();
            println!("seed {seed} FAILED after {} steps:", finding.steps);
            for breach in &finding.breaches {
                let text: String = breach.chars().take(3_000).collect();
                println!("  {text}");
            }
            println!("  replay: cargo run --release -p netsy-sim -- --seed {seed}{mutant}");
            failed.push(seed);
            if failed.len() >= 10 {
                break;
            }
        }
    }
    settled.sort_unstable();
    println!(
        "{runs} runs, {} failed {failed:?}, {steps} steps, {} s simulated in {:.1} s; settled in {:?} ms at most, median {:?}",
        failed.len(),
        simulated / 1000,
        began.elapsed().as_secs_f64(),
        settled.last(),
        settled.get(settled.len() / 2)
    );
    for (what, n) in counters {
        println!("  {n:>10} {what}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
