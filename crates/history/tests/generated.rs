//! Long histories of a perfect store are good, quickly; each with one thing changed is not.

mod common;

use common::*;
use netsy_api::etcdserverpb::RangeRequest;
use netsy_api::mvccpb::{Event, KeyValue};
use netsy_history::*;
use std::collections::BTreeMap;
use std::time::Instant;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % end
    }
}

/// Operations that each happen at one instant between their times, on a plain map.
struct Perfect {
    random: Random,
    now: u64,
    revision: i64,
    keys: BTreeMap<String, KeyValue>,
    /// Past states, for serializable reads; by revision.
    past: Vec<(i64, BTreeMap<String, KeyValue>)>,
    events: Vec<Event>,
    ops: Vec<Op>,
}

impl Perfect {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            now: 1000,
            revision: 1,
            keys: BTreeMap::new(),
            past: vec![],
            events: vec![],
            ops: vec![],
        }
    }

    fn put(&mut self, key: &str, value: &str) -> Option<KeyValue> {
        let before = self.keys.get(key).cloned();
        let now = match &before {
            Some(before) => again(before, value, self.revision),
            None => kv(key, value, self.revision),
        };
        self.events.push(put_event(now.clone()));
        self.keys.insert(key.to_owned(), now);
        before
    }

    fn step(&mut self, number: u64) {
        self.now += 1 + self.random.below(20);
        let key = format!("k{:02}", self.random.below(30));
        let value = format!("v{number}");
        let kind = self.random.below(100);
        let (request, revision, answer) = match kind {
            0..40 => {
                self.revision += 1;
                self.put(&key, &value);
                (put(&key, &value), self.revision, Answer::Put { prev: None })
            }
            40..50 => {
                let end = format!("k{:02}", self.random.below(30));
                let gone: Vec<String> = self.keys.range(key.clone()..).map(|(key, _)| key.clone()).collect();
                let gone: Vec<String> = gone.into_iter().filter(|key| *key < end).collect();
                self.revision += i64::from(!gone.is_empty());
                for key in &gone {
                    self.keys.remove(key);
                    self.events.push(delete_event(key, self.revision));
                }
                let deleted = gone.len() as i64;
                (delete(&key, &end), self.revision, Answer::DeleteRange { deleted, prevs: vec![] })
            }
            50..60 => {
                let is = self.keys.get(&key).map_or(0, |kv| kv.mod_revision);
                let guess = is * i64::from(self.random.below(3) > 0);
                let request =
                    txn(vec![mod_is(&key, guess)], vec![op_put(&key, &value), op_get(&key)], vec![op_get(&key)]);
                let succeeded = guess == is;
                let mut responses = vec![];
                if succeeded {
                    self.revision += 1;
                    self.put(&key, &value);
                    responses.push(Answer::Put { prev: None });
                }
                responses.push(range_answer(self.keys.get(&key).cloned().into_iter().collect()));
                (request, self.revision, Answer::Txn { succeeded, responses })
            }
            60..90 => {
                let kvs = self.keys.get(&key).cloned().into_iter().collect();
                (get(&key), self.revision, range_answer(kvs))
            }
            _ => {
                let kvs = self.keys.values().cloned().collect();
                (Request::Range(range_request("a", "\0")), self.revision, range_answer(kvs))
            }
        };
        let (before, after) = (self.random.below(100), self.random.below(100));
        let node = 1 + self.random.below(3) as u32;
        let lost = kind < 60 && self.random.below(20) == 0;
        let outcome = if lost { Outcome::Unknown } else { done(revision, answer) };
        let (invoked, returned) = (self.now - before, self.now + after);
        self.ops.push(Op { client: 0, node, session: 0, invoked, returned, request, outcome });
        if self.random.below(50) == 0 {
            self.past.push((self.revision, self.keys.clone()));
        }
    }

    /// Reads of old states by a node that is behind, further and further on.
    fn serializable_reads(&mut self) {
        for (number, (revision, keys)) in self.past.iter().enumerate() {
            let at = self.now + 1000 + number as u64 * 2;
            let request = Request::Range(RangeRequest { serializable: true, ..range_request("a", "\0") });
            let outcome = done(*revision, range_answer(keys.values().cloned().collect()));
            self.ops.push(Op { node: 9, ..op(at, at + 1, request, outcome) });
        }
    }

    fn run(seed: u64, ops: u64) -> History {
        let mut perfect = Self::new(seed);
        for number in 0..ops {
            perfect.step(number);
        }
        perfect.serializable_reads();
        let told: Vec<WatchMessage> = perfect
            .events
            .chunk_by(|a, b| revision(a) == revision(b))
            .map(|events_| events(perfect.now + 500, events_.to_vec()))
            .collect();
        let messages = [vec![created(perfect.now + 400, perfect.revision)], told].concat();
        let watch = WatchRecord { whole_to: Some(perfect.revision), ..record(vec![session(watch_all(2), messages)]) };
        History { ops: perfect.ops, log: Log::new(steps(perfect.events)), watches: vec![watch], ..History::default() }
    }
}

fn revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

#[test]
fn perfect_stores_are_good() {
    for seed in 0..100 {
        assert_good(&Perfect::run(seed, 300));
    }
}

#[test]
fn long_histories() {
    let history = Perfect::run(1, 100_000);
    let start = Instant::now();
    assert_good(&history);
    println!("{} operations, {} revisions: {:?}", history.ops.len(), history.log.steps.len(), start.elapsed());
}

#[test]
fn any_change_of_one_thing_is_found() {
    for seed in 0..300 {
        let mut history = Perfect::run(seed, 300);
        let mut random = Random(seed);
        let what = match seed % 5 {
            0 => {
                let step = random.below(history.log.steps.len() as u64) as usize;
                history.log.steps[step].events[0].kv.as_mut().unwrap().value = bytes("else");
                // A delete has no value: its event is no longer one that a delete makes.
                "the log"
            }
            1 => {
                let reads: Vec<usize> = (0..history.ops.len())
                    .filter(|at| matches!(history.ops[*at].done(), Some(Done { answer: Answer::Range(_), .. })))
                    .collect();
                let at = reads[random.below(reads.len() as u64) as usize];
                let Outcome::Done(Done { answer: Answer::Range(range), .. }) = &mut history.ops[at].outcome else {
                    panic!()
                };
                range.kvs.push(kv("zz", "extra", 2));
                range.count += 1;
                "a read"
            }
            2 => {
                let writes: Vec<usize> = (0..history.ops.len()).filter(|at| history.ops[*at].wrote()).collect();
                let at = writes[random.below(writes.len() as u64) as usize];
                history.ops[at].outcome = Outcome::Refused(Refusal::Other("?".into()));
                "a write's outcome"
            }
            3 => {
                let messages = &mut history.watches[0].sessions[0].messages;
                let at = 1 + random.below(messages.len() as u64 - 1) as usize;
                messages.remove(at);
                "a watch"
            }
            _ => {
                // An acknowledged write vanishes, and what came after moves down.
                let writes: Vec<usize> = (0..history.ops.len())
                    .filter(|at| matches!(history.ops[*at].request, Request::Put(_)) && history.ops[*at].wrote())
                    .collect();
                let at = writes[random.below(writes.len() as u64) as usize];
                let gone = history.ops[at].done().unwrap().revision;
                history.log.steps.retain(|step| step.revision != gone);
                for step in history.log.steps.iter_mut().filter(|step| step.revision > gone) {
                    step.revision -= 1;
                    for event in &mut step.events {
                        event.kv.as_mut().unwrap().mod_revision -= 1;
                    }
                }
                "a lost write"
            }
        };
        assert!(!history.check().is_empty(), "seed {seed}: {what} was changed and nothing was found");
    }
}
