//! Calls to object storage that were refused, or found what cannot be used, for the log and for readiness.
//!
//! They are tried again, as somebody may mend what is wrong. The log says so once, again when it is something else, and
//! after that once a minute.

use netsy_objects::keys;
use netsy_protocol::command::StoreCall;
use netsy_protocol::event::StoreResult;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often the log says that it is still so.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// A fault says nothing any more once nobody has asked for so long; the pauses between tries are shorter.
const KEPT: Duration = Duration::from_secs(15);

/// What is called, as operators know it. Reads and writes apart, as one may go where the other does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Subject {
    name: &'static str,
    writes: bool,
    /// What every node needs: the rest is for elections and for the Primary's proofs.
    of_log: bool,
}

impl Subject {
    pub(crate) fn of(call: &StoreCall) -> Self {
        let (name, writes, of_log) = match call {
            StoreCall::ReadManifest => (keys::CLUSTER, false, false),
            StoreCall::SwapManifest { .. } => (keys::CLUSTER, true, false),
            StoreCall::ReadLock => (keys::ELECTOR, false, false),
            StoreCall::SwapLock { .. } => (keys::ELECTOR, true, false),
            StoreCall::ListNodes => (keys::NODES, false, false),
            StoreCall::MarkStopped { .. } => (keys::NODES, true, false),
            StoreCall::LoadLog | StoreCall::CheckSeal { .. } => (keys::LOG, false, true),
            StoreCall::CreateSeal { .. } => (keys::LOG, true, true),
        };
        Self { name, writes, of_log }
    }
}

/// What lasts, by subject.
#[derive(Default)]
pub(crate) struct Faults(Mutex<HashMap<Subject, Fault>>);

struct Fault {
    why: String,
    since: Instant,
    said: Instant,
    last: Instant,
    /// It is being tried again.
    under_way: bool,
}

/// What the log is to say.
#[derive(Debug, PartialEq, Eq)]
enum Say {
    Nothing,
    /// For so long by now.
    Wrong(Duration),
    Well(Duration),
}

impl Faults {
    /// To be called before a call.
    pub(crate) fn begun(&self, subject: Subject) {
        if let Some(fault) = self.0.lock().get_mut(&subject) {
            fault.under_way = true;
        }
    }

    /// What it came to.
    pub(crate) fn ended(&self, subject: Subject, result: &StoreResult) {
        let mut faults = self.0.lock();
        let what = if subject.writes { "writing" } else { "reading" };
        // Said under the lock, so that lines are in the order of what they say.
        match note(&mut faults, subject, result, Instant::now()) {
            Say::Nothing => {}
            Say::Wrong(lasts) => {
                let why = faults.get(&subject).map(|fault| fault.why.as_str()).unwrap_or_default();
                let (key, seconds) = (subject.name, lasts.as_secs());
                tracing::warn!(%why, seconds, "object storage: {what} {key} fails; it is tried again until it is mended");
            }
            Say::Well(lasted) => {
                tracing::info!(seconds = lasted.as_secs(), "object storage: {what} {} is well again", subject.name);
            }
        }
    }

    /// What is wrong now with the object log, or, with `all`, with anything.
    pub(crate) fn lasts(&self, all: bool) -> Option<String> {
        lasts(&self.0.lock(), all, Instant::now())
    }
}

fn note(faults: &mut HashMap<Subject, Fault>, subject: Subject, result: &StoreResult, now: Instant) -> Say {
    match result {
        StoreResult::Refused(why) => {
            let new = || Fault { why: String::new(), since: now, said: now, last: now, under_way: false };
            let fault = faults.entry(subject).or_insert_with(new);
            (fault.last, fault.under_way) = (now, false);
            if fault.why == *why && now.saturating_duration_since(fault.said) < SAID_EVERY {
                return Say::Nothing;
            }
            (fault.why, fault.said) = (why.clone(), now);
            Say::Wrong(now.saturating_duration_since(fault.since))
        }
        // Neither says how what is there is.
        StoreResult::Unknown | StoreResult::Lost => {
            if let Some(fault) = faults.get_mut(&subject) {
                fault.under_way = false;
            }
            Say::Nothing
        }
        _ => match faults.remove(&subject) {
            Some(fault) => Say::Well(now.saturating_duration_since(fault.since)),
            None => Say::Nothing,
        },
    }
}

fn lasts(faults: &HashMap<Subject, Fault>, all: bool, now: Instant) -> Option<String> {
    let holds = |fault: &Fault| fault.under_way || now.saturating_duration_since(fault.last) < KEPT;
    let found = faults.iter().filter(|(subject, fault)| (all || subject.of_log) && holds(fault));
    let (_, oldest) = found.min_by_key(|(_, fault)| fault.since)?;
    Some(format!("object storage: {}", oldest.why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_said_once_and_then_once_a_minute() {
        let (mut faults, begun) = (HashMap::new(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        let of = Subject::of(&StoreCall::LoadLog);
        let refused = |why: &str| StoreResult::Refused(why.to_owned());
        let note = |faults: &mut _, result, seconds| note(faults, of, &result, at(seconds));
        assert_eq!(note(&mut faults, StoreResult::Loaded(None), 0), Say::Nothing);
        assert_eq!(note(&mut faults, refused("chunk 7"), 0), Say::Wrong(Duration::ZERO));
        for second in 1..50 {
            assert_eq!(note(&mut faults, refused("chunk 7"), second), Say::Nothing);
        }
        assert_eq!(note(&mut faults, refused("chunk 8"), 50), Say::Wrong(Duration::from_secs(50)), "it changed");
        assert_eq!(note(&mut faults, StoreResult::Unknown, 51), Say::Nothing);
        assert_eq!(note(&mut faults, refused("chunk 8"), 109), Say::Nothing);
        assert_eq!(note(&mut faults, refused("chunk 8"), 110), Say::Wrong(Duration::from_secs(110)));
        assert_eq!(note(&mut faults, StoreResult::Loaded(None), 111), Say::Well(Duration::from_secs(111)));
        assert!(faults.is_empty());
    }

    #[test]
    fn a_fault_lasts_while_it_is_tried_again() {
        let (mut faults, begun) = (HashMap::new(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        let (log, lock) = (Subject::of(&StoreCall::LoadLog), Subject::of(&StoreCall::ReadLock));
        note(&mut faults, lock, &StoreResult::Refused("elector.json: no JSON".to_owned()), at(0));
        assert_eq!(lasts(&faults, false, at(1)), None, "whoever follows a Primary needs no Elector");
        assert_eq!(lasts(&faults, true, at(1)).unwrap(), "object storage: elector.json: no JSON");
        assert_eq!(lasts(&faults, true, at(20)), None, "nobody asked since");
        note(&mut faults, log, &StoreResult::Refused("chunk 7".to_owned()), at(20));
        assert_eq!(lasts(&faults, false, at(21)).unwrap(), "object storage: chunk 7");
        faults.get_mut(&log).unwrap().under_way = true;
        assert_eq!(lasts(&faults, false, at(99)).unwrap(), "object storage: chunk 7", "a long load");
        note(&mut faults, log, &StoreResult::Unknown, at(100));
        assert_eq!(lasts(&faults, true, at(100)), None, "given up");
    }
}
