//! When a client pings too often: etcd's rules for gRPC keep-alive (reference/etcd.md 1.0).

use std::time::{Duration, Instant};

/// Pings may come this often while calls are open.
const WITH_CALLS: Duration = Duration::from_secs(5);
/// Without calls, pings are expected to come no more often than a server would send them.
const WITHOUT_CALLS: Duration = Duration::from_secs(2 * 3600);
/// More violations than this and the connection is closed.
const STRIKES_MAX: u32 = 2;

/// Judges the pings of one connection.
#[derive(Default)]
pub(crate) struct PingPolicy {
    last: Option<Instant>,
    strikes: u32,
}

impl PingPolicy {
    /// Notes `pings` that arrived by `now`. `has_sent`: headers or data went out since the last
    /// call, which makes a client's pings legitimate. True: the client is to be turned away.
    pub(crate) fn observe(&mut self, pings: u32, now: Instant, has_calls: bool, has_sent: bool) -> bool {
        if has_sent {
            self.strikes = 0;
            self.last = Some(now);
            return false;
        }
        let gap = if has_calls { WITH_CALLS } else { WITHOUT_CALLS };
        for _ in 0..pings {
            if self.last.is_some_and(|last| now < last + gap) {
                self.strikes += 1;
            }
            self.last = Some(now);
        }
        self.strikes > STRIKES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patient_clients_stay() {
        let mut policy = PingPolicy::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            now += WITH_CALLS;
            assert!(!policy.observe(1, now, true, false));
        }
    }

    #[test]
    fn impatient_clients_go_unless_something_was_sent() {
        let mut policy = PingPolicy::default();
        let mut now = Instant::now();
        let mut step = |has_calls, has_sent| {
            now += Duration::from_secs(1);
            policy.observe(1, now, has_calls, has_sent)
        };
        assert!(!step(true, false));
        assert!(!step(true, false));
        assert!(!step(true, false));
        assert!(!step(true, true));
        assert!(!step(true, false));
        assert!(!step(true, false));
        assert!(step(true, false));
    }

    #[test]
    fn without_calls_even_slow_pings_are_too_many() {
        let mut policy = PingPolicy::default();
        let mut now = Instant::now();
        let verdicts: Vec<bool> = (0..5)
            .map(|_| {
                now += Duration::from_secs(60);
                policy.observe(1, now, false, false)
            })
            .collect();
        assert_eq!(verdicts, [false, false, false, true, true]);
    }
}
