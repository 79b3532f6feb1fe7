//! Alternating rounds: the same load on each server in turn, so that what else the machine does
//! hits them alike.

use std::time::Duration;

use anyhow::Result;

use crate::report::Series;
use crate::spec::{Mode, Spec};
use crate::target::Target;

/// What one server left unfinished should not land in the round of the next.
const PAUSE: Duration = Duration::from_millis(300);

/// Prepares every target, then runs `rounds` rounds, each in the opposite order of the last.
pub fn alternate(targets: &mut [Target], mode: Mode, spec: &Spec, rounds: usize) -> Result<Vec<Series>> {
    for target in targets.iter_mut() {
        target.prepare(mode, spec)?;
    }
    let mut series: Vec<Series> =
        targets.iter().map(|t| Series { name: t.name.clone(), samples: Vec::with_capacity(rounds) }).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..targets.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            std::thread::sleep(PAUSE);
            series[at].samples.push(targets[at].round(mode, spec, round as u64)?);
        }
    }
    Ok(series)
}
