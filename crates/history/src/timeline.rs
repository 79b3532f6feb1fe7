//! The model's store: every version of every key, as the log has them.

use crate::log::Log;
use bytes::Bytes;
use netsy_api::mvccpb::KeyValue;
use netsy_api::mvccpb::event::EventType;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// All versions.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// By key: (revision, what is there from then on), ascending.
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    /// By lease: every key that ever hung on it.
    attached: BTreeMap<i64, BTreeSet<Bytes>>,
}

/// What is there at one revision.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    timeline: &'a Timeline,
    /// Which.
    pub revision: i64,
}

impl Timeline {
    /// What the log makes.
    pub fn new(log: &Log) -> Self {
        let mut timeline = Self::default();
        for kv in &log.base {
            timeline.set(&kv.key, log.base_revision, Some(kv));
        }
        for step in &log.steps {
            for event in &step.events {
                let Some(kv) = &event.kv else { continue };
                let now = (event.r#type != EventType::Delete as i32).then_some(kv);
                timeline.set(&kv.key, step.revision, now);
            }
        }
        timeline
    }

    fn set(&mut self, key: &Bytes, revision: i64, now: Option<&KeyValue>) {
        if let Some(kv) = now.filter(|kv| kv.lease != 0) {
            self.attached.entry(kv.lease).or_default().insert(key.clone());
        }
        let versions = self.keys.entry(key.clone()).or_default();
        match versions.last_mut() {
            // A later operation of the same transaction.
            Some(last) if last.0 == revision => last.1 = now.cloned(),
            _ => versions.push((revision, now.cloned())),
        }
    }

    /// What is there at a revision.
    pub fn at(&self, revision: i64) -> View<'_> {
        View { timeline: self, revision }
    }
}

/// Is `key` in the range that etcd writes as `start`, `end`?
pub(crate) fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

impl<'a> View<'a> {
    /// The key, if it is there.
    pub fn get(&self, key: &[u8]) -> Option<&'a KeyValue> {
        self.current(self.timeline.keys.get(key)?)
    }

    fn current(&self, versions: &'a [(i64, Option<KeyValue>)]) -> Option<&'a KeyValue> {
        let after = versions.partition_point(|(revision, _)| *revision <= self.revision);
        versions[..after].last()?.1.as_ref()
    }

    /// All keys of a range that are there, in order. `start` and `end` as in etcd's requests.
    pub fn scan(&self, start: &[u8], end: &'a [u8]) -> Vec<&'a KeyValue> {
        if end.is_empty() {
            return self.get(start).into_iter().collect();
        }
        let open = end == [0];
        self.timeline
            .keys
            .range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
            .take_while(|(key, _)| open || &key[..] < end)
            .filter_map(|(_, versions)| self.current(versions))
            .collect()
    }

    /// The keys that hang on a lease, in order.
    pub fn attached(&self, lease: i64) -> Vec<&'a KeyValue> {
        let ever = self.timeline.attached.get(&lease).into_iter().flatten();
        ever.filter_map(|key| self.get(key)).filter(|kv| kv.lease == lease).collect()
    }

    /// The same keys at another revision.
    pub fn at(&self, revision: i64) -> View<'a> {
        self.timeline.at(revision)
    }
}
