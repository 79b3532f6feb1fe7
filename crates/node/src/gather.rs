//! How long the next chunk waits for those who were just answered, where only the object log commits.
//!
//! A client that waits for each answer writes again right after it. Were the next chunk begun at the instant the one
//! before has landed, it would take the few whose writes were quickest, and all others would wait for two calls, time
//! after time. So it waits until as many have come as were just answered, as long as they keep coming faster than
//! writes do anyway, and never longer than a part of what the call itself takes.

use std::time::{Duration, Instant};

/// The whole wait is at most the time of a call divided by this.
const WAIT_PART: u32 = 2;
/// It ends when nothing has come for the time of a call divided by this.
const IDLE_PART: u32 = 8;
/// From this part of a call on, it ends where no more come than would anyway: three come now in the time in which two
/// came on average.
const JUDGED_PART: u32 = 4;

/// A call that took longer met a store that was away: its length says nothing of when clients come back.
const CALL_MAX: Duration = Duration::from_secs(1);

/// Of one uploader: its last chunk.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    landed: Option<Landed>,
}

#[derive(Debug)]
struct Landed {
    at: Instant,
    /// How long its creation took.
    call: Duration,
    /// Its entries: about as many come in the time of a call.
    carried: usize,
    /// Entries that had come while it was on its way.
    waiting: usize,
}

impl Gather {
    /// A chunk of `carried` entries has landed after `call`, while `waiting` others had come.
    pub(crate) fn landed(&mut self, at: Instant, call: Duration, carried: usize, waiting: usize) {
        self.landed = Some(Landed { at, call: call.min(CALL_MAX), carried, waiting });
    }

    /// How long to wait before asking again, where `waiting` entries are there, the last of them came at `arrived`, and
    /// `queued` writes wait to become some. `None`: the chunk begins now.
    pub(crate) fn wait(
        &self,
        now: Instant,
        waiting: usize,
        queued: usize,
        arrived: Option<Instant>,
    ) -> Option<Duration> {
        let last = self.landed.as_ref()?;
        if waiting >= last.carried + last.waiting {
            return None;
        }
        let passed = now.saturating_duration_since(last.at);
        let came = (waiting + queued).saturating_sub(last.waiting) as f64;
        let usual = last.carried as f64 * passed.as_secs_f64() / last.call.as_secs_f64();
        if passed >= last.call / JUDGED_PART && came < 1.5 * usual {
            return None;
        }
        // What is queued waits for a local commit.
        let quiet_since = if queued > 0 { now } else { arrived.map_or(last.at, |arrived| arrived.max(last.at)) };
        let end = (last.at + last.call / WAIT_PART).min(quiet_since + last.call / IDLE_PART);
        end.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Duration = Duration::from_millis(32);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_first_chunk_and_one_client_wait_for_nobody() {
        let start = Instant::now();
        let mut gather = Gather::default();
        assert_eq!(gather.wait(start, 1, 0, Some(start)), None);
        gather.landed(start, CALL, 1, 0);
        assert_eq!(gather.wait(start + ms(1), 1, 0, Some(start + ms(1))), None, "it came back: all are there");
    }

    #[test]
    fn those_answered_are_waited_for_while_they_keep_coming() {
        let start = Instant::now();
        let mut gather = Gather::default();
        gather.landed(start, CALL, 500, 500);
        assert_eq!(gather.wait(start, 500, 0, Some(start - ms(5))), Some(ms(4)));
        assert_eq!(gather.wait(start + ms(1), 600, 0, Some(start + ms(1))), Some(ms(4)));
        assert_eq!(gather.wait(start + ms(8), 999, 0, Some(start + ms(8))), Some(ms(4)));
        assert_eq!(gather.wait(start + ms(8), 1_000, 0, Some(start + ms(8))), None, "all are there");
    }

    #[test]
    fn a_pause_or_half_of_the_call_ends_it() {
        let start = Instant::now();
        let mut gather = Gather::default();
        gather.landed(start, CALL, 500, 0);
        assert_eq!(gather.wait(start + ms(4), 100, 0, Some(start)), None, "nothing came for 4 ms");
        assert_eq!(gather.wait(start + ms(5), 100, 9, Some(start)), Some(ms(4)), "some wait for a local commit");
        assert_eq!(gather.wait(start + ms(15), 490, 0, Some(start + ms(15))), Some(ms(1)), "the rest of 16 ms");
        assert_eq!(gather.wait(start + ms(16), 490, 0, Some(start + ms(16))), None);
        assert_eq!(gather.wait(start + ms(500), 100, 0, Some(start + ms(500))), None, "long after, at once");
    }

    #[test]
    fn writes_that_come_by_themselves_are_not_waited_for() {
        let start = Instant::now();
        let mut gather = Gather::default();
        // 320 in a call, ten each millisecond.
        gather.landed(start, CALL, 320, 320);
        assert_eq!(gather.wait(start + ms(7), 390, 0, Some(start + ms(7))), Some(ms(4)), "too early to tell");
        assert_eq!(gather.wait(start + ms(8), 400, 0, Some(start + ms(8))), None);
        assert_eq!(gather.wait(start + ms(8), 440, 0, Some(start + ms(8))), Some(ms(4)), "those answered come back");
    }

    #[test]
    fn after_a_store_that_was_away_the_wait_is_short() {
        let start = Instant::now();
        let mut gather = Gather::default();
        gather.landed(start, Duration::from_secs(600), 500, 500);
        assert_eq!(gather.wait(start, 500, 0, Some(start)), Some(CALL_MAX / IDLE_PART));
    }
}
