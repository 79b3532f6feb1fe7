//! Fuzzing without a special toolchain: true inputs are changed at random and handed to a decoder, which may refuse
//! them but not panic. An input that is accepted becomes one to change further.
//!
//! Everything that reads bytes from outside has a test named `fuzz_…` that calls [`run`]: the files and JSON objects of
//! the bucket (`crates/objects`), the local database (`crates/localdb`), entries and rows on their way into the state
//! machine (`crates/mvcc`), requests and connections (`crates/server`), the configuration (`crates/netsy`). They run a
//! bounded number of inputs with the other tests; `scripts/fuzz SECONDS` runs them for longer.
//!
//! - `NETSY_FUZZ_SECONDS`: how long each goes on, instead of its usual number of inputs.
//! - `NETSY_SEED`: repeats a run.

mod mutate;
mod random;

pub use mutate::mutate;
pub use random::Random;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// Inputs kept to be changed further.
const CORPUS_MAX: usize = 512;
/// Longest input made.
const INPUT_BYTES_MAX: usize = 1 << 20;
/// Changes made to an input, at most.
const CHANGES_MAX: u64 = 6;

/// What a decoder made of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is one of its kind: changes of it are worth a try.
    Accepted,
    /// It is not.
    Refused,
}

impl<T, E> From<&Result<T, E>> for Verdict {
    fn from(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Accepted } else { Self::Refused }
    }
}

/// How a run went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Inputs tried.
    pub inputs: u64,
    /// Of these accepted.
    pub accepted: u64,
}

/// Changes inputs of `corpus` and has `decode` judge each; `usual` of them, unless `NETSY_FUZZ_SECONDS` is set.
///
/// # Panics
/// If `decode` does: the message ends with how to repeat it. If an environment variable is no number.
pub fn run(name: &str, corpus: &[Vec<u8>], usual: u64, mut decode: impl FnMut(&[u8]) -> Verdict) -> Report {
    assert!(!corpus.is_empty(), "{name}: there is nothing to change");
    let seed = number("NETSY_SEED").unwrap_or_else(random::seed);
    let limit = number("NETSY_FUZZ_SECONDS").map(Duration::from_secs);
    let mut random = Random::new(seed);
    let mut corpus = corpus.to_vec();
    let true_ones = corpus.len();
    let mut report = Report::default();
    let start = Instant::now();
    while limit.map_or(report.inputs < usual, |limit| start.elapsed() < limit) {
        let mut input = corpus[random.below(corpus.len() as u64) as usize].clone();
        for _ in 0..=random.below(CHANGES_MAX) {
            let other = &corpus[random.below(corpus.len() as u64) as usize];
            mutate(&mut input, other, &mut random);
        }
        input.truncate(INPUT_BYTES_MAX);
        let verdict = catch_unwind(AssertUnwindSafe(|| decode(&input))).unwrap_or_else(|panic| {
            eprintln!("{name}: NETSY_SEED={seed}, input {} panicked: {}", report.inputs, hex(&input));
            resume_unwind(panic)
        });
        report.inputs += 1;
        if verdict == Verdict::Accepted {
            report.accepted += 1;
            if corpus.len() < CORPUS_MAX {
                corpus.push(input);
            } else {
                // The true ones stay.
                let at = true_ones + random.below((CORPUS_MAX - true_ones).max(1) as u64) as usize;
                if let Some(old) = corpus.get_mut(at) {
                    *old = input;
                }
            }
        }
    }
    println!("{name}: {report:?} in {:?}, NETSY_SEED={seed}", start.elapsed());
    report
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}: set it to a number")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A decoder with a mistake behind a check of three bytes, which only changes of accepted inputs get past.
    #[test]
    fn finds_what_is_hidden_behind_checks() {
        let found = catch_unwind(|| {
            run("mistaken", &[b"header 12 rest".to_vec()], 2_000_000, |input| {
                if !input.starts_with(b"head") {
                    return Verdict::Refused;
                }
                assert!(input.len() < 60, "too long for it");
                Verdict::Accepted
            })
        });
        assert!(found.is_err());
    }

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let inputs = |seed| {
            let mut random = Random::new(seed);
            let mut input = b"some 123 input {\"a\":[1,2]}".to_vec();
            let mut all = Vec::new();
            for _ in 0..1000 {
                mutate(&mut input, b"another", &mut random);
                all.push(input.clone());
            }
            all
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
    }
}
