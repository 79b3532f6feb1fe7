//! The node's clocks.

use netsy_api::ids::UnixMillis;
use std::time::{SystemTime, UNIX_EPOCH};

/// Wall-clock milliseconds since 1970; what entries carry, for people to read. Nothing is decided by it.
pub(crate) fn unix_millis() -> UnixMillis {
    // Before 1970 only with a broken clock: 0 is as good as any, as nothing depends on it.
    UnixMillis(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64))
}

/// Milliseconds of a clock that never goes back and goes on while the machine is suspended: leases of
/// clients and the read lease (R9 iii, flaw 19b) are counted by it.
pub(crate) fn boot_millis() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000
}
