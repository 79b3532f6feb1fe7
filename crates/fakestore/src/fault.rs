//! What can go wrong with a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// The kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// GET or HEAD of an object.
    Get,
    /// PUT of a whole object.
    Put,
    Delete,
    List,
    /// Starting, filling or aborting a multipart upload.
    Part,
    /// Completing a multipart upload.
    Complete,
}

/// Which calls.
#[derive(Debug, Clone)]
pub struct Calls {
    op: Option<Op>,
    prefix: String,
    suffix: String,
    /// The prefix is the whole key.
    exact: bool,
}

impl Calls {
    /// `pattern` is a key with at most one `*`, which stands for anything. A listing's key is its prefix.
    pub fn new(op: impl Into<Option<Op>>, pattern: &str) -> Calls {
        let (prefix, suffix, exact) = match pattern.split_once('*') {
            Some((prefix, suffix)) => (prefix, suffix, false),
            None => (pattern, "", true),
        };
        Calls { op: op.into(), prefix: prefix.into(), suffix: suffix.into(), exact }
    }

    pub fn all() -> Calls {
        Calls::new(None, "*")
    }

    pub(crate) fn matches(&self, op: Op, key: &str) -> bool {
        self.op.is_none_or(|o| o == op)
            && key.starts_with(&self.prefix)
            && key.ends_with(&self.suffix)
            && (if self.exact { key == self.prefix } else { key.len() >= self.prefix.len() + self.suffix.len() })
    }
}

/// What happens. "Before" is without doing what was asked, "after" is having done it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// Any status; 503 says SlowDown, 409 ConditionalRequestConflict, 500 InternalError.
    StatusBefore(u16),
    StatusAfter(u16),
    CloseBefore,
    CloseAfter,
    /// No answer for this long, then a closed connection.
    StallBefore(Duration),
    StallAfter(Duration),
    /// No answer, and it is done after this long, whether or not anybody still waits.
    ApplyLate(Duration),
    /// As asked, but only after this long.
    Delay(Duration),
    /// A read's body ends after this many bytes, though the head promised all.
    CutBody(usize),
    /// A read's body is shorter, and the head agrees.
    ShortBody(usize),
    /// One bit of a read's body is another; the offset counts from the body's start.
    FlipBody(usize),
    /// A write is done and answered without the headers that name its version.
    NoVersion,
}

#[derive(Debug, Clone)]
pub struct Fault {
    calls: Calls,
    kind: FaultKind,
    skip: u64,
    times: u64,
}

impl Fault {
    /// Every matching call, until told otherwise.
    pub fn new(calls: Calls, kind: FaultKind) -> Fault {
        Fault { calls, kind, skip: 0, times: u64::MAX }
    }

    /// Leaves the first `n` matching calls alone.
    pub fn skip(self, n: u64) -> Fault {
        Fault { skip: n, ..self }
    }

    /// Only `n` calls.
    pub fn times(self, n: u64) -> Fault {
        Fault { times: n, ..self }
    }

    /// The first matching call only.
    pub fn once(self) -> Fault {
        self.times(1)
    }
}

/// Counts what a fault did.
#[derive(Debug, Clone, Default)]
pub struct FaultHandle(Arc<AtomicU64>);

impl FaultHandle {
    /// Calls that it hit.
    pub fn hits(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Armed>>);

#[derive(Debug)]
struct Armed {
    fault: Fault,
    hits: FaultHandle,
}

impl Faults {
    pub fn add(&self, fault: Fault) -> FaultHandle {
        let hits = FaultHandle::default();
        self.0.lock().push(Armed { fault, hits: hits.clone() });
        hits
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }

    pub fn take(&self, op: Op, key: &str) -> Option<FaultKind> {
        for armed in self.0.lock().iter_mut() {
            if armed.fault.times == 0 || !armed.fault.calls.matches(op, key) {
                continue;
            }
            if armed.fault.skip > 0 {
                armed.fault.skip -= 1;
                continue;
            }
            armed.fault.times -= 1;
            armed.hits.0.fetch_add(1, Ordering::SeqCst);
            return Some(armed.fault.kind.clone());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let m = |p: &str, k: &str| Calls::new(None, p).matches(Op::Get, k);
        assert!(m("*", "") && m("*", "a/b"));
        assert!(m("log/*", "log/1") && m("log/*", "log/") && !m("log/*", "lo"));
        assert!(m("*.json", "a.json") && !m("*.json", "a.jso"));
        assert!(m("a*a", "aa") && m("a*a", "aba") && !m("a*a", "a"));
        assert!(m("a", "a") && !m("a", "aa") && !m("a", "b"));
        assert!(!Calls::new(Op::Put, "*").matches(Op::Get, "x"));
    }

    #[test]
    fn the_nth_call_and_no_other() {
        let faults = Faults::default();
        let handle = faults.add(Fault::new(Calls::all(), FaultKind::CloseAfter).skip(2).once());
        let taken: Vec<bool> = (0..5).map(|_| faults.take(Op::Put, "k").is_some()).collect();
        assert_eq!(taken, [false, false, true, false, false]);
        assert_eq!(handle.hits(), 1);
    }
}
