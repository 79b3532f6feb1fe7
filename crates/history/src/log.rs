//! The log: all key changes by revision, as the survivors have them in the end.

use crate::violation::{Kind, Report};
use netsy_api::mvccpb::{Event, KeyValue};
use std::collections::BTreeMap;

/// All that one revision changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its number.
    pub revision: i64,
    /// Not empty; in the order of the writes. `prev_kv` is not looked at.
    pub events: Vec<Event>,
}

/// Every change after a base.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Revision of the base; 1: the empty store.
    pub base_revision: i64,
    /// What is there at the base.
    pub base: Vec<KeyValue>,
    /// Ascending; dense, if all is well.
    pub steps: Vec<Step>,
}

impl Default for Log {
    fn default() -> Self {
        Self { base_revision: 1, base: Vec::new(), steps: Vec::new() }
    }
}

/// The revision of an event.
pub(crate) fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// Puts events in their order into steps. An event whose revision is the one before joins its step.
pub fn steps(events: impl IntoIterator<Item = Event>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for event in events {
        let revision = revision_of(&event);
        match steps.last_mut() {
            Some(last) if last.revision == revision => last.events.push(event),
            _ => steps.push(Step { revision, events: vec![event] }),
        }
    }
    steps
}

/// Previous values apart: a watch need not have asked for them, nor a server have them still.
pub(crate) fn same_events(a: &[Event], b: &[Event]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.r#type == b.r#type && a.kv == b.kv)
}

impl Log {
    /// After an empty store.
    pub fn new(steps: Vec<Step>) -> Self {
        Self { steps, ..Self::default() }
    }

    /// The last revision.
    pub fn head(&self) -> i64 {
        self.steps.last().map_or(self.base_revision, |step| step.revision)
    }

    /// The log that several observers (nodes' logs, watches of everything) have parts of. Where two of them differ,
    /// the report says so and the first one counts.
    pub fn merge<'a>(parts: impl IntoIterator<Item = (&'a str, &'a [Step])>, report: &mut Report) -> Self {
        let mut all: BTreeMap<i64, (&str, &Step)> = BTreeMap::new();
        for (name, steps) in parts {
            for step in steps {
                let (first, known) = all.entry(step.revision).or_insert((name, step));
                if !same_events(&known.events, &step.events) {
                    report.add(
                        Kind::NodesDiffer,
                        format!(
                            "revision {} is {:?} for {first}, {:?} for {name}",
                            step.revision, known.events, step.events
                        ),
                    );
                }
            }
        }
        Self::new(all.into_values().map(|(_, step)| step.clone()).collect())
    }

    pub(crate) fn check_dense(&self, report: &mut Report) {
        let mut last = self.base_revision;
        for step in &self.steps {
            if step.revision != last + 1 {
                report.add(Kind::LogGap, format!("after revision {last} the log goes on with {}", step.revision));
            }
            if step.events.is_empty() || step.events.iter().any(|event| revision_of(event) != step.revision) {
                report.add(Kind::LogGap, format!("revision {} has no events of its own: {step:?}", step.revision));
            }
            last = step.revision;
        }
    }
}
