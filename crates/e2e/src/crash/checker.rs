//! Judges what is seen after a restart against what was done before it. Pure: made-up histories test it.
//!
//! Held to: every acknowledged write is there, at the revision it was acknowledged with; one of unknown outcome is
//! there wholly or not at all, and never appears later; a refused one is not; nothing is there twice; revisions are
//! dense; their order agrees with real time; keys, versions and leases are what the writes make them.

use super::history::{Change, Event, LeaseChange, Op, Outcome, Seen, Step};
use netsy_api::mvccpb::KeyValue;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Leases granted for less than this many seconds may expire while a run lasts.
pub const MAY_EXPIRE_BELOW: i64 = 3600;

/// What the history so far makes of the store.
#[derive(Clone, Debug)]
pub struct Checker {
    revision: i64,
    keys: BTreeMap<String, KeyValue>,
    /// With the granted seconds.
    leases: BTreeMap<i64, i64>,
    /// Every lease ever granted for a time so short that it may go by itself. When it does so cannot be told from
    /// outside, only that its keys go with it.
    short: BTreeSet<i64>,
}

impl Default for Checker {
    /// An empty store.
    fn default() -> Self {
        Self { revision: 1, keys: BTreeMap::new(), leases: BTreeMap::new(), short: BTreeSet::new() }
    }
}

/// Where a step finds the operation it comes from.
#[derive(PartialEq, Eq, Hash)]
enum Trace<'a> {
    Put(&'a str, &'a str),
    Delete(&'a str),
}

impl<'a> Trace<'a> {
    fn of(change: &'a Change) -> Self {
        match change {
            Change::Put { key, value, .. } => Self::Put(key, value),
            Change::Delete { key } => Self::Delete(key),
        }
    }
}

impl Checker {
    /// The last revision checked.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Every key as the history makes it.
    pub fn keys(&self) -> &BTreeMap<String, KeyValue> {
        &self.keys
    }

    /// Every lease that stays, with its granted seconds.
    pub fn leases(&self) -> impl Iterator<Item = (i64, i64)> {
        self.leases.iter().filter(|(id, _)| !self.short.contains(id)).map(|(id, ttl)| (*id, *ttl))
    }

    /// Judges all operations sent since the last check. Gives what is wrong; empty: nothing.
    pub fn check(&mut self, ops: &[Op], seen: &Seen) -> Vec<String> {
        let mut wrong = Vec::new();
        self.check_revisions(ops, seen, &mut wrong);
        self.short.extend(ops.iter().filter_map(|op| match op.lease {
            LeaseChange::Grant { id, ttl } if ttl < MAY_EXPIRE_BELOW => Some(id),
            _ => None,
        }));

        let mut by_trace: HashMap<Trace<'_>, Vec<usize>> = HashMap::new();
        for (at, op) in ops.iter().enumerate() {
            for change in &op.changes {
                by_trace.entry(Trace::of(change)).or_default().push(at);
            }
        }
        let mut revision_of: Vec<Option<i64>> = vec![None; ops.len()];
        for step in &seen.log {
            let changes = changes_of(step);
            match find_op(&changes, &by_trace, ops) {
                Found::Op(at) => self.check_op(at, step.revision, &ops[at], &mut revision_of, &mut wrong),
                Found::Nothing => match self.expired_lease(&changes) {
                    Some(id) => {
                        self.leases.remove(&id);
                    }
                    None => wrong.push(format!(
                        "revision {} is of no operation since the last check: {changes:?}",
                        step.revision
                    )),
                },
                Found::Part(of) => {
                    wrong.push(format!("revision {} has {changes:?}, the operation was {:?}", step.revision, ops[of]))
                }
            }
            self.apply(step, &mut wrong);
        }
        for (op, revision) in ops.iter().zip(&revision_of) {
            if let (Outcome::Acked { revision: acked, applied: true }, None, false) =
                (op.outcome, revision, op.changes.is_empty())
            {
                wrong.push(format!("an acknowledged write is lost: revision {acked}: {op:?}"));
            }
        }
        check_real_time(ops, &revision_of, &mut wrong);
        self.check_state(seen, &mut wrong);
        self.check_leases(ops, &revision_of, seen, &mut wrong);
        self.revision = seen.head;
        wrong
    }

    fn check_revisions(&self, ops: &[Op], seen: &Seen, wrong: &mut Vec<String>) {
        let mut due = self.revision + 1;
        for step in &seen.log {
            if step.revision != due {
                wrong.push(format!("revision {due} was due, the log goes on with {}", step.revision));
            }
            due = step.revision + 1;
        }
        if due != seen.head + 1 {
            wrong.push(format!("the store is at revision {}, the log ends with {}", seen.head, due - 1));
        }
        if seen.head < self.revision {
            wrong.push(format!("the store went back from revision {} to {}", self.revision, seen.head));
        }
        let acked = ops.iter().filter_map(|op| match op.outcome {
            Outcome::Acked { revision, .. } => Some(revision),
            _ => None,
        });
        if let Some(newest) = acked.max().filter(|newest| *newest > seen.head) {
            wrong.push(format!("revision {newest} was told to a client, the store is at {}", seen.head));
        }
    }

    fn check_op(
        &mut self,
        at: usize,
        revision: i64,
        op: &Op,
        revision_of: &mut [Option<i64>],
        wrong: &mut Vec<String>,
    ) {
        if let Some(before) = revision_of[at].replace(revision) {
            wrong.push(format!("done twice, at revisions {before} and {revision}: {op:?}"));
        }
        match op.outcome {
            Outcome::Acked { revision: acked, applied: true } if acked == revision => {}
            Outcome::Acked { revision: acked, applied: true } => {
                wrong.push(format!("acknowledged as revision {acked}, is revision {revision}: {op:?}"));
            }
            Outcome::Acked { applied: false, .. } => {
                wrong.push(format!("said not to apply, is revision {revision}: {op:?}"))
            }
            Outcome::Refused => wrong.push(format!("refused, is revision {revision}: {op:?}")),
            Outcome::Unknown => {}
        }
        if let LeaseChange::Revoke { id } = op.lease {
            self.leases.remove(&id);
        }
    }

    /// The lease whose keys are just those deleted, if it may have expired.
    fn expired_lease(&self, changes: &BTreeSet<Change>) -> Option<i64> {
        let mut id = 0;
        for change in changes {
            let Change::Delete { key } = change else { return None };
            id = self.keys.get(key)?.lease;
        }
        let attached = self.keys.values().filter(|kv| kv.lease == id).count();
        (self.short.contains(&id) && attached == changes.len()).then_some(id)
    }

    fn apply(&mut self, step: &Step, wrong: &mut Vec<String>) {
        for event in &step.events {
            let key = text(&event.kv.key);
            let before = self.keys.get(&key).cloned();
            if let Some(told) = &event.prev
                && Some(told) != before.as_ref()
            {
                wrong.push(format!("revision {}: {key} was {before:?}, the watch told {told:?}", step.revision));
            }
            let expected = expected_kv(event, before.as_ref(), step.revision);
            if event.kv != expected {
                wrong.push(format!("revision {}: {key} is {expected:?}, the watch told {:?}", step.revision, event.kv));
            }
            if event.deleted {
                if before.is_none() {
                    wrong.push(format!("revision {} deletes {key}, which is not there", step.revision));
                }
                self.keys.remove(&key);
            } else {
                self.keys.insert(key, expected);
            }
        }
    }

    fn check_state(&self, seen: &Seen, wrong: &mut Vec<String>) {
        let state: BTreeMap<String, &KeyValue> = seen.state.iter().map(|kv| (text(&kv.key), kv)).collect();
        if state.len() != seen.state.len() {
            wrong.push(format!("a range read gave {} keys, only {} of them different", seen.state.len(), state.len()));
        }
        for (key, kv) in &self.keys {
            match state.get(key) {
                Some(read) if *read == kv => {}
                read => wrong.push(format!("{key} is {kv:?}, a range read gives {read:?}")),
            }
        }
        for key in state.keys().filter(|key| !self.keys.contains_key(*key)) {
            wrong.push(format!("{key} is not there, a range read gives it"));
        }
    }

    fn check_leases(&mut self, ops: &[Op], revision_of: &[Option<i64>], seen: &Seen, wrong: &mut Vec<String>) {
        for (op, revision) in ops.iter().zip(revision_of) {
            let surely = matches!(op.outcome, Outcome::Acked { applied: true, .. });
            let perhaps = op.outcome == Outcome::Unknown;
            match op.lease {
                LeaseChange::Grant { id, ttl } if surely || perhaps => {
                    let short = self.short.contains(&id);
                    let revoked = ops.iter().any(|other| other.lease == LeaseChange::Revoke { id });
                    if surely && !revoked && !short && !seen.leases.contains_key(&id) {
                        wrong.push(format!("an acknowledged lease is lost: {op:?}"));
                    }
                    if seen.leases.contains_key(&id) || short {
                        self.leases.insert(id, ttl);
                    }
                }
                LeaseChange::Revoke { id } if surely || perhaps => {
                    let there = seen.leases.contains_key(&id);
                    if surely && there {
                        wrong.push(format!("a revoked lease is there: {op:?}"));
                    }
                    // The keys and the lease go at once.
                    if perhaps && !op.changes.is_empty() && there == revision.is_some() {
                        wrong.push(format!(
                            "a lease and its keys went apart: lease there {there}, keys' revision {revision:?}: {op:?}"
                        ));
                    }
                    if !there {
                        self.leases.remove(&id);
                    }
                }
                _ => {}
            }
        }
        for (id, granted) in &self.leases {
            match seen.leases.get(id) {
                Some(ttl) if ttl == granted => {}
                Some(ttl) => wrong.push(format!("lease {id} was granted for {granted} s, the server says {ttl}")),
                None if self.short.contains(id) => {}
                None => wrong.push(format!("lease {id} is lost")),
            }
        }
        for id in seen.leases.keys().filter(|id| !self.leases.contains_key(id) && !self.short.contains(id)) {
            wrong.push(format!("lease {id} is there, nobody was granted it"));
        }
        let attached: BTreeSet<i64> = self.keys.values().map(|kv| kv.lease).collect();
        let short = &self.short;
        self.leases.retain(|id, _| seen.leases.contains_key(id) || (short.contains(id) && attached.contains(id)));
        for kv in self.keys.values().filter(|kv| kv.lease != 0 && !self.leases.contains_key(&kv.lease)) {
            wrong.push(format!("{} hangs on lease {}, which is not there", text(&kv.key), kv.lease));
        }
    }
}

enum Found {
    Op(usize),
    Part(usize),
    Nothing,
}

/// The operation whose changes are these. An applied one is preferred to one known not to be: a refused revoke and the
/// one that did it change the same.
fn find_op(changes: &BTreeSet<Change>, by_trace: &HashMap<Trace<'_>, Vec<usize>>, ops: &[Op]) -> Found {
    let Some(first) = changes.iter().next() else { return Found::Nothing };
    let candidates = by_trace.get(&Trace::of(first)).map(Vec::as_slice).unwrap_or_default();
    let whole =
        candidates.iter().filter(|at| ops[**at].changes.iter().collect::<BTreeSet<_>>() == changes.iter().collect());
    if let Some(at) = whole.min_by_key(|at| ops[**at].outcome == Outcome::Refused) {
        return Found::Op(*at);
    }
    let any = changes.iter().find_map(|change| by_trace.get(&Trace::of(change)));
    match any.and_then(|at| at.first()) {
        Some(at) if !matches!(ops[*at].changes[0], Change::Delete { .. }) => Found::Part(*at),
        _ => Found::Nothing,
    }
}

fn changes_of(step: &Step) -> BTreeSet<Change> {
    let change = |event: &Event| {
        let key = text(&event.kv.key);
        match event.deleted {
            true => Change::Delete { key },
            false => Change::Put { key, value: text(&event.kv.value), lease: event.kv.lease },
        }
    };
    step.events.iter().map(change).collect()
}

fn expected_kv(event: &Event, before: Option<&KeyValue>, revision: i64) -> KeyValue {
    if event.deleted {
        return KeyValue { key: event.kv.key.clone(), mod_revision: revision, ..Default::default() };
    }
    KeyValue {
        key: event.kv.key.clone(),
        value: event.kv.value.clone(),
        lease: event.kv.lease,
        mod_revision: revision,
        create_revision: before.map_or(revision, |kv| kv.create_revision),
        version: before.map_or(1, |kv| kv.version + 1),
    }
}

/// What was answered before another began has the lower revision, and no read is older than what was answered before it.
fn check_real_time(ops: &[Op], revision_of: &[Option<i64>], wrong: &mut Vec<String>) {
    let mut in_order: Vec<(i64, &Op)> =
        ops.iter().zip(revision_of).filter_map(|(op, revision)| Some(((*revision)?, op))).collect();
    in_order.sort_by_key(|(revision, _)| *revision);
    let mut latest: Option<(i64, &Op)> = None;
    for (revision, op) in &in_order {
        if let Some((before, earlier)) = latest.filter(|(_, earlier)| op.returned < earlier.invoked) {
            wrong.push(format!(
                "revision {revision} was answered before revision {before} was asked for: {op:?}, {earlier:?}"
            ));
        }
        if latest.is_none_or(|(_, earlier)| op.invoked > earlier.invoked) {
            latest = Some((*revision, op));
        }
    }
    // Answers in the order they came, with the newest revision told until then.
    let mut told: Vec<(u64, i64)> = Vec::new();
    for op in ops {
        if let Outcome::Acked { revision, .. } = op.outcome {
            told.push((op.returned, revision));
        }
    }
    told.sort_unstable();
    let mut newest = i64::MIN;
    for (_, revision) in &mut told {
        newest = newest.max(*revision);
        *revision = newest;
    }
    for op in ops {
        let Outcome::Acked { revision, .. } = op.outcome else { continue };
        let before = told.partition_point(|(returned, _)| *returned < op.invoked);
        if let Some((_, newest)) = before.checked_sub(1).map(|at| told[at]).filter(|(_, newest)| *newest > revision) {
            wrong.push(format!("answered with revision {revision} after revision {newest} had been told: {op:?}"));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
