//! Clients that know all nodes, as a program with several endpoints does: each writes and reads without pause, through
//! the next node where one does not take a request, and measures how long it had to wait.

use crate::record::{Recorder, Shared};
use netsy_e2e::ops;
use netsy_history::{Outcome, Request};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two requests.
const EVERY: Duration = Duration::from_millis(5);
/// When no node took a request.
const BACK_OFF: Duration = Duration::from_millis(10);
/// Longest wait for one answer: longer than a node's own limit.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Numbers of these clients begin here.
const FIRST_NUMBER: u32 = 500;

/// What became of the requests of one or more of these clients.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    /// From the first try to the answer, at most.
    pub longest: Duration,
    /// When that one began, in the run's time.
    pub longest_at: u64,
    /// Requests that were not answered with a result.
    pub failed: usize,
}

impl Waits {
    /// Those of another client, too.
    pub fn add(&mut self, other: &Waits) {
        self.failed += other.failed;
        if other.longest > self.longest {
            (self.longest, self.longest_at) = (other.longest, other.longest_at);
        }
    }
}

/// Works until everybody is told to stop.
pub async fn run(shared: Arc<Shared>, number: usize) -> Waits {
    let mut recorder = Recorder::new(Arc::clone(&shared), FIRST_NUMBER + number as u32, ANSWER_WITHIN);
    let nodes = shared.nodes.len();
    let (mut node, mut waits) = (number % nodes, Waits::default());
    while recorder.goes_on().await {
        let key = format!("steady/{number}");
        let request = match shared.next() % 3 {
            0 => Request::Range(ops::get(key)),
            value => Request::Put(ops::put(key, format!("{value}:{}", shared.next()))),
        };
        let (began, at) = (Instant::now(), shared.now());
        let mut tries = 0;
        let outcome = loop {
            match recorder.ask(node, request.clone()).await {
                Some(outcome) => break outcome,
                None if recorder.stopped() => return waits,
                None => {
                    node = (node + 1) % nodes;
                    tries += 1;
                    if tries % nodes == 0 {
                        tokio::time::sleep(BACK_OFF).await;
                    }
                }
            }
        };
        waits.failed += usize::from(!matches!(outcome, Outcome::Done(_)));
        let took = began.elapsed();
        if took > waits.longest {
            (waits.longest, waits.longest_at) = (took, at);
        }
        tokio::time::sleep(EVERY).await;
    }
    waits
}
