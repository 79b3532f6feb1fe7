//! Since when object storage gives no answer, for the log, and for readiness of nodes that cannot do without it.
//!
//! What counts is the time in which something waited for an answer and none came: a call that hangs, or one try after
//! another that fails. Any answer ends it, whatever it says.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Without an answer for so long, object storage counts as silent: longer than a call takes that is only slow.
const SILENT_AFTER: Duration = Duration::from_secs(5);
/// A failure says nothing any more once nobody has asked for so long.
const FAILURE_KEPT: Duration = Duration::from_secs(5);

/// Calls of one kind: those to the object log, or those to the small objects that the cluster is agreed on with. Apart, as
/// a store may read and not write.
pub(crate) struct Silence {
    /// What the calls are to.
    of: &'static str,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    under_way: usize,
    /// Something waits for an answer since then, and none came.
    since: Option<Instant>,
    /// The last failure since then.
    failed: Option<(Instant, String)>,
    /// It was said that no answer comes since then.
    said: Option<Instant>,
}

impl Silence {
    pub(crate) fn of(of: &'static str) -> Self {
        Self { of, state: Mutex::default() }
    }

    /// To be called again and again: says once that no answer comes.
    pub(crate) fn look(&self) {
        // Said under the lock, so that lines are in the order of what they say.
        let mut state = self.state.lock();
        if let Some(text) = state.news(Instant::now()) {
            tracing::warn!(of = self.of, "{text}; it is asked again until it answers");
        }
    }

    /// To be called before a call. It ends with an answer or when it is dropped.
    pub(crate) fn call(&self) -> Call<'_> {
        let mut call = Call { silence: self, under_way: false };
        call.again();
        call
    }

    /// How long object storage gave no answer, and what went wrong last, if it is long.
    pub(crate) fn lasts(&self) -> Option<String> {
        self.state.lock().lasts(Instant::now())
    }
}

impl State {
    fn begin(&mut self, now: Instant) {
        if self.under_way == 0 && !self.fails(now) {
            (self.since, self.failed) = (None, None);
        }
        self.under_way += 1;
        self.since.get_or_insert(now);
    }

    /// Gives how long there was none, if that was said.
    fn answer(&mut self, now: Instant) -> Option<Duration> {
        self.under_way -= 1;
        // Others are heard of from here on only.
        self.since = (self.under_way > 0).then_some(now);
        self.failed = None;
        self.said.take().map(|since| now.saturating_duration_since(since))
    }

    /// What is to be said, once.
    fn news(&mut self, now: Instant) -> Option<String> {
        let text = self.lasts(now).filter(|_| self.said.is_none())?;
        self.said = self.since;
        Some(text)
    }

    /// Nobody waits for it any more, and nothing is known of it.
    fn give_up(&mut self) {
        self.under_way -= 1;
        if self.under_way == 0 && self.failed.is_none() {
            self.since = None;
        }
    }

    fn fails(&self, now: Instant) -> bool {
        self.failed.as_ref().is_some_and(|(at, _)| now.saturating_duration_since(*at) < FAILURE_KEPT)
    }

    fn lasts(&self, now: Instant) -> Option<String> {
        let silent = now.saturating_duration_since(self.since?);
        if silent < SILENT_AFTER || (self.under_way == 0 && !self.fails(now)) {
            return None;
        }
        let why = self.failed.as_ref().map(|(_, error)| format!(" ({error})")).unwrap_or_default();
        Some(format!("object storage: no answer for {} s{why}", silent.as_secs()))
    }
}

/// A call, or one after another of the same task.
pub(crate) struct Call<'a> {
    silence: &'a Silence,
    under_way: bool,
}

impl Call<'_> {
    /// It waits for an answer, another than the last.
    pub(crate) fn again(&mut self) {
        if !std::mem::replace(&mut self.under_way, true) {
            self.silence.state.lock().begin(Instant::now());
        }
    }

    /// An answer came.
    pub(crate) fn answered(&mut self) {
        if std::mem::take(&mut self.under_way) {
            let mut state = self.silence.state.lock();
            if let Some(lasted) = state.answer(Instant::now()) {
                tracing::info!(of = self.silence.of, seconds = lasted.as_secs(), "object storage: answers again");
            }
        }
    }

    /// A try came to nothing: there is no answer yet.
    pub(crate) fn failed(&mut self, error: String) {
        self.silence.state.lock().failed = Some((Instant::now(), error));
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.under_way {
            self.silence.state.lock().give_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(begun: Instant, seconds: u64) -> Instant {
        begun + Duration::from_secs(seconds)
    }

    #[test]
    fn a_call_that_hangs() {
        let (mut state, begun) = (State::default(), Instant::now());
        state.begin(begun);
        state.begin(at(begun, 2));
        assert_eq!(state.lasts(at(begun, 4)), None);
        assert_eq!(state.lasts(at(begun, 5)).unwrap(), "object storage: no answer for 5 s");
        state.give_up();
        assert_eq!(state.lasts(at(begun, 7)).unwrap(), "object storage: no answer for 7 s", "the other hangs yet");
        state.give_up();
        assert_eq!(state.lasts(at(begun, 7)), None, "nobody asks");
        state.begin(at(begun, 8));
        assert_eq!(state.lasts(at(begun, 12)), None, "a new one");
    }

    #[test]
    fn a_store_that_answers_others_is_not_silent() {
        let (mut state, begun) = (State::default(), Instant::now());
        state.begin(begun);
        for second in 0..20 {
            state.begin(at(begun, second));
            state.answer(at(begun, second));
            assert_eq!(state.lasts(at(begun, second)), None);
        }
        assert!(state.lasts(at(begun, 24)).is_some());
        state.answer(at(begun, 25));
        assert_eq!(state.lasts(at(begun, 40)), None);
    }

    #[test]
    fn it_is_said_once_and_how_long_it_lasted() {
        let (mut state, begun) = (State::default(), Instant::now());
        state.begin(begun);
        assert_eq!(state.news(at(begun, 4)), None);
        assert_eq!(state.news(at(begun, 5)).unwrap(), "object storage: no answer for 5 s");
        assert_eq!(state.news(at(begun, 6)), None);
        state.give_up();
        // Nobody asked for a while: it is the same silence.
        state.begin(at(begun, 60));
        assert_eq!(state.news(at(begun, 66)), None);
        assert_eq!(state.answer(at(begun, 67)), Some(Duration::from_secs(67)));
        state.begin(at(begun, 70));
        assert_eq!(state.answer(at(begun, 71)), None);
    }

    #[test]
    fn calls_that_fail_one_after_the_other() {
        let (mut state, begun) = (State::default(), Instant::now());
        for second in [0, 3, 6] {
            state.begin(at(begun, second));
            state.failed = Some((at(begun, second + 2), format!("error {second}")));
            state.give_up();
        }
        assert_eq!(state.lasts(at(begun, 8)).unwrap(), "object storage: no answer for 8 s (error 6)");
        assert_eq!(state.lasts(at(begun, 13)), None, "nobody asked since");
        state.begin(at(begun, 14));
        assert_eq!(state.lasts(at(begun, 18)), None);
        assert_eq!(state.lasts(at(begun, 19)).unwrap(), "object storage: no answer for 5 s");
    }
}
