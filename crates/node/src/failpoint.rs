//! Named places at which a test can end the process as `kill -9` would.
//!
//! `NETSY_FAILPOINT=name:n` ends it the n-th time `name` is reached (n counts from 1 and may be left out).
//! Without the variable a place costs one relaxed load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every place, in the order a write meets them, then those of background work and of start-up.
pub const NAMES: &[&str] = &[
    "write.accepted",
    "write.evaluated",
    "write.handed-to-uploader",
    "write.before-local-commit",
    "write.after-local-commit",
    "write.before-publish",
    "write.after-publish",
    "write.answered",
    "follow.before-local-commit",
    "follow.after-local-commit",
    "follow.shown",
    "upload.chunk-encoded",
    "upload.before-create",
    "upload.after-create",
    "upload.landed",
    "segment.before-fold",
    "segment.created",
    "segment.cleaned",
    "snapshot.begun",
    "snapshot.manifest-written",
    "snapshot.cleaned",
    "compaction.logged",
    "compaction.index-step",
    "compaction.before-delete",
    "compaction.after-delete",
    "lease.expired",
    "start.counted",
    "start.registered",
    "start.promised",
    "start.adopted",
    "start.sealed",
    "start.tail-uploaded",
    "start.voters-changed",
    "restore.begun",
    "restore.loaded",
    "stop.drained",
];

struct Armed {
    name: String,
    left: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Reads `NETSY_FAILPOINT`. An unknown name is an error, so that a test cannot wait for a place that is not there.
pub fn arm_from_environment() -> Result<(), String> {
    let Ok(text) = std::env::var("NETSY_FAILPOINT") else {
        return Ok(());
    };
    let (name, nth) = match text.split_once(':') {
        Some((name, nth)) => {
            let nth: u64 = nth.parse().map_err(|_| format!("NETSY_FAILPOINT={text}: {nth:?} is not a number"))?;
            (name, nth)
        }
        None => (text.as_str(), 1),
    };
    if !NAMES.contains(&name) || nth == 0 {
        return Err(format!("NETSY_FAILPOINT={text}: use one of {} and a count from 1", NAMES.join(", ")));
    }
    ARMED
        .set(Some(Armed { name: name.to_string(), left: AtomicU64::new(nth) }))
        .map_err(|_| "failpoints are armed already".to_string())
}

/// Ends the process here if this place is armed and its turn has come.
#[inline]
pub(crate) fn hit(name: &'static str) {
    debug_assert!(NAMES.contains(&name), "{name} is not in failpoint::NAMES");
    if let Some(Some(armed)) = ARMED.get() {
        hit_armed(armed, name);
    }
}

#[cold]
fn hit_armed(armed: &Armed, name: &str) {
    if armed.name == name && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
        // As abrupt as it gets: no unwinding, no buffers written, no destructors.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::process::abort();
    }
}
