//! Judges what one watch was told, over all its resumptions, against the log. Pure, as [`super::checker`].
//!
//! Held to (reference/etcd.md 7.2): ordered, unique, atomic (a revision comes in one answer), reliable (no gap),
//! resumable from the revision after the last one told.

use super::history::{Event, Step, steps};

/// One watch of all keys that begin with `prefix`.
#[derive(Clone, Debug)]
pub struct WatchChecker {
    /// For messages.
    pub name: String,
    /// Of the keys watched.
    pub prefix: String,
    told: i64,
}

impl WatchChecker {
    /// A watch that is to tell everything after `revision`.
    pub fn new(name: String, prefix: String, revision: i64) -> Self {
        Self { name, prefix, told: revision }
    }

    /// Where to resume: the revision after the last one told.
    pub fn resume_at(&self) -> i64 {
        self.told + 1
    }

    /// Judges answers (the events of each, in the order they came) against a log that reaches at least from
    /// [`Self::resume_at`] to `head`. With `whole`, everything up to the head must have come.
    pub fn check(&mut self, answers: &[Vec<Event>], log: &[Step], head: i64, whole: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let name = self.name.clone();
        let mut due = log
            .iter()
            .filter(|step| step.revision > self.told && step.revision <= head)
            .filter_map(|step| self.of_this_watch(step))
            .peekable();
        let mut told = self.told;
        for answer in answers {
            for (at, step) in steps(answer.iter().cloned()).into_iter().enumerate() {
                if step.revision <= told {
                    let what =
                        if at == 0 { "again or late, or its events came in two answers" } else { "out of order" };
                    wrong.push(format!("{name}: revision {} came {what}, after {told}", step.revision));
                    continue;
                }
                while due.peek().is_some_and(|expected| expected.revision < step.revision) {
                    let missed = due.next().map(|expected| expected.revision).unwrap_or_default();
                    wrong.push(format!("{name}: revision {missed} was left out, {} came", step.revision));
                }
                match due.peek() {
                    Some(expected) if expected.revision == step.revision => {
                        if !same(expected, &step) {
                            wrong.push(format!(
                                "{name}: revision {} is {expected:?}, the watch told {step:?}",
                                step.revision
                            ));
                        }
                        due.next();
                    }
                    _ => wrong
                        .push(format!("{name}: told revision {}, which is not in the log: {step:?}", step.revision)),
                }
                told = step.revision;
            }
        }
        if whole {
            wrong.extend(
                due.map(|missed| format!("{name}: revision {} never came, the store is at {head}", missed.revision)),
            );
            told = told.max(head);
        }
        self.told = told;
        wrong
    }

    /// The part of a step that this watch is to be told.
    fn of_this_watch(&self, step: &Step) -> Option<Step> {
        let events: Vec<Event> =
            step.events.iter().filter(|event| event.kv.key.starts_with(self.prefix.as_bytes())).cloned().collect();
        (!events.is_empty()).then_some(Step { revision: step.revision, events })
    }

    /// True if every event up to `head` has been told, of which `answers` are the last.
    pub fn reached(&self, answers: &[Vec<Event>], log: &[Step], head: i64) -> bool {
        let last_due = log
            .iter()
            .rev()
            .filter(|step| step.revision <= head)
            .find_map(|step| self.of_this_watch(step))
            .map_or(0, |step| step.revision);
        let last_told = answers.iter().flatten().map(|event| event.kv.mod_revision).max().unwrap_or(0).max(self.told);
        last_told >= last_due
    }
}

/// Previous values are judged apart: a watch need not have asked for them, nor a server have them still.
fn same(a: &Step, b: &Step) -> bool {
    a.events.len() == b.events.len()
        && a.events.iter().zip(&b.events).all(|(a, b)| a.deleted == b.deleted && a.kv == b.kv)
}
