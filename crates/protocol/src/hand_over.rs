//! Planned moves of the Primary and graceful stops (section 4).

use crate::command::{Command, NO_ELECTOR, NOT_CAUGHT_UP, Report, StoreCall};
use crate::config::Millis;
use crate::engine::{Engine, Purpose};
use crate::event::StoreResult;
use crate::manifest::ProcessId;
use crate::message::{HandOverReason, Message};
use crate::primary::Phase;
use crate::read::ReadLease;
use netsy_api::ids::{LogIndex, NodeId, Term};

/// A hand-over on request is given up after this, and the Primary goes on.
const MOVE_MAX: Millis = 5_000;
/// Writes pause for this long at most; then the hand-over is given up.
const PAUSE_MAX: Millis = 2_000;
/// Uploads are waited for this long before a hand-over goes on without them.
const FLUSH_MAX: Millis = 1_000;
/// A stopping Primary whose hand-over came to nothing lets writes through for this long before the next try.
const NEXT_TRY: Millis = 1_000;
/// Wishes and Leave messages are repeated after this.
const REPEAT: Millis = 200;
/// A stopping Primary waits this long for a replica that could follow it to catch up.
const CATCH_UP_MAX: Millis = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Uploading what there is, while writes go on.
    Flushing(LogIndex),
    /// Writes pause; the rest goes out.
    Settling(Millis),
    /// The read lease is given up for ever (R9).
    Releasing,
    /// The Elector was asked.
    Asked,
}

/// A planned hand-over.
#[derive(Clone, Debug)]
pub(crate) struct HandOver {
    to: NodeId,
    stopping: bool,
    pub(crate) paused: bool,
    paused_at: Millis,
    since: Millis,
    step: Step,
    repeat_at: Millis,
}

/// A graceful stop.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    since: Millis,
    pub(crate) paused: bool,
    /// It is no voter any more and may end.
    left: bool,
    /// No request is under way any more.
    finishing: bool,
    flushed: Option<LogIndex>,
    repeat_at: Millis,
    /// No hand-over is tried before this.
    next_try: Millis,
    marking: bool,
}

impl Engine {
    /// Who could follow: a voter that has caught up and is not stopping, the furthest first; a learner if none.
    fn successor(&self, wished: Option<&NodeId>) -> Option<NodeId> {
        let primary = self.primary.as_ref()?;
        let silence = self.settings.silence();
        primary
            .streams
            .values()
            .filter(|r| r.held >= primary.end_before && !r.stopping && self.now.saturating_sub(r.last_heard) <= silence)
            .filter(|r| wished.is_none_or(|wished| *wished == r.process.node_id))
            .filter(|r| {
                // Where promises of voters elect, a learner cannot win.
                primary.manifest.names(&r.process.voter()) || primary.manifest.rule().election == 0
            })
            .max_by_key(|r| (primary.manifest.names(&r.process.voter()), r.held, r.process.node_id.clone()))
            .map(|r| r.process.node_id.clone())
    }

    pub(crate) fn on_move_primary(&mut self, to: Option<NodeId>) {
        let ready = self.primary.as_ref().is_some_and(|p| p.phase == Phase::Ready);
        if to.as_ref() == Some(&self.me.node_id) && ready {
            return; // It is there already.
        }
        let why = if !ready {
            "this node is not Primary"
        } else if self.hand_over.is_some() {
            "a hand-over is under way"
        } else if self.successor(to.as_ref()).is_none() {
            NOT_CAUGHT_UP
        } else if !self.elector_answers() {
            NO_ELECTOR
        } else {
            return self.start_hand_over(to.as_ref(), false);
        };
        self.report(Report::Declined(why.into()));
    }

    pub(crate) fn start_hand_over(&mut self, to: Option<&NodeId>, stopping: bool) {
        let Some(to) = self.successor(to) else { return };
        let end = self.log.end().last_index;
        self.hand_over = Some(HandOver {
            to,
            stopping,
            paused: false,
            paused_at: self.now,
            since: self.now,
            step: Step::Flushing(end),
            repeat_at: self.now,
        });
        self.flush_all();
        self.hand_over_may_go_on();
    }

    pub(crate) fn tick_hand_over(&mut self) {
        let now = self.now;
        let Some(hand_over) = &self.hand_over else { return };
        let paused = hand_over.paused && now.saturating_sub(hand_over.paused_at) >= PAUSE_MAX;
        if !paused && now.saturating_sub(hand_over.since) < MOVE_MAX {
            return self.hand_over_may_go_on();
        }
        // Writes go on here, unless this node promised another term meanwhile: then it is replaced anyway.
        let stopping = hand_over.stopping;
        self.hand_over = None;
        if let Some(primary) = &mut self.primary {
            primary.lease = ReadLease::new(self.settings.read_lease);
        }
        match &mut self.stop {
            // Perhaps another one can follow.
            Some(stop) if stopping => stop.next_try = now + NEXT_TRY,
            _ => self.report(Report::Declined("the hand-over was not done in time".into())),
        }
    }

    pub(crate) fn hand_over_may_go_on(&mut self) {
        let (now, end) = (self.now, self.log.end().last_index);
        let committed = self.committed();
        let failing = self.store_failing_since.is_some();
        let Some(hand_over) = &mut self.hand_over else { return };
        let Some(primary) = &mut self.primary else { return };
        let held = primary.streams.values().filter(|r| r.process.node_id == hand_over.to).map(|r| r.held).max();
        match hand_over.step {
            Step::Flushing(through) => {
                let over = now.saturating_sub(hand_over.since) >= FLUSH_MAX;
                // Without object storage nobody is elected: writes do not pause for that.
                if primary.change.is_some() || failing || primary.uploaded < through && !over {
                    return;
                }
                (hand_over.paused, hand_over.paused_at) = (true, now);
                hand_over.step = Step::Settling(now);
                self.flush_all();
                self.hand_over_may_go_on();
            }
            Step::Settling(since) => {
                let over = now.saturating_sub(since) >= FLUSH_MAX;
                let settled = committed >= end && held.is_some_and(|held| held >= end);
                if !settled || primary.uploaded < end && !over {
                    return;
                }
                let leased = primary.manifest.rule().election == 0 && self.settings.read_lease > 0;
                if leased && primary.manifest.released != Some(self.me.session) {
                    hand_over.step = Step::Releasing;
                    primary.lease = ReadLease::new(0);
                    let session = self.me.session;
                    self.begin_change(|m| m.released = Some(session));
                } else {
                    hand_over.step = Step::Asked;
                    self.hand_over_may_go_on();
                }
            }
            Step::Releasing => {
                if primary.manifest.released == Some(self.me.session) {
                    hand_over.step = Step::Asked;
                    self.hand_over_may_go_on();
                }
            }
            Step::Asked => {
                if now < hand_over.repeat_at {
                    return;
                }
                hand_over.repeat_at = now + REPEAT;
                let (term, to) = (primary.term, Some(hand_over.to.clone()));
                if let Some(elector) = self.lock.elector().cloned() {
                    let reason = HandOverReason::Planned;
                    self.send(&elector, Message::HandOver { term, to, reason });
                }
            }
        }
    }

    /// This process is no Primary any more: whatever was planned is done.
    pub(crate) fn hand_over_ended(&mut self, _term: Term) {
        self.hand_over = None;
        if let Some(stop) = &mut self.stop {
            stop.paused = false;
            stop.flushed = None;
        }
    }

    // ---- graceful stop ----

    pub(crate) fn on_stop(&mut self) {
        if self.stop.is_some() {
            return;
        }
        self.stop = Some(Stop {
            since: self.now,
            paused: false,
            left: false,
            finishing: false,
            flushed: None,
            repeat_at: self.now,
            next_try: self.now,
            marking: false,
        });
        self.tell_elector();
        self.send_alive();
        self.learn();
        self.tick_stop();
    }

    pub(crate) fn tick_stop(&mut self) {
        let now = self.now;
        let Some(stop) = &mut self.stop else { return };
        let waited = now.saturating_sub(stop.since);
        if stop.left && !stop.finishing {
            // Requests are being finished, which has a time limit of its own; and the cluster may end meanwhile.
            if now >= stop.repeat_at {
                stop.repeat_at = now + REPEAT;
                self.learn();
            }
            return;
        }
        if waited >= self.settings.drain_timeout {
            let undone = if stop.left {
                "the registration is not marked as stopped".to_string()
            } else if self.primary.is_some() {
                format!(
                    "what is after entry {} may not be in the object log: the data folder has it",
                    self.primary.as_ref().map(|p| p.uploaded).unwrap_or_default()
                )
            } else {
                "this node is still a voter: the cluster waits for it, or removes it later".to_string()
            };
            return self.stopped(undone);
        }
        if stop.left {
            return self.mark_stopped();
        }
        if self.primary.is_some() {
            return self.stop_as_primary(waited);
        }
        let me = self.me.voter();
        let Some(stop) = &mut self.stop else { return };
        if now < stop.repeat_at {
            return;
        }
        stop.repeat_at = now + REPEAT;
        let since = stop.since;
        // The manifest as of after the stop began: it may have been rewritten by a Primary that is gone by now.
        if self.manifest_at > since && self.manifest.as_ref().is_some_and(|m| !m.names(&me) && m.primary != self.me) {
            return self.leave_done();
        }
        self.learn();
        if let Some((_, primary)) = self.follower.target.clone() {
            self.send(&primary.node_id, Message::Leave { process: self.me.clone() });
        }
    }

    fn stop_as_primary(&mut self, waited: Millis) {
        let end = self.log.end().last_index;
        let committed = self.committed();
        let silence = self.settings.silence();
        let Some(primary) = &self.primary else { return };
        if primary.phase != Phase::Ready || self.hand_over.is_some() || self.is_bound() {
            return;
        }
        if self.successor(None).is_some() && self.stop.as_ref().is_some_and(|s| !s.paused) {
            // A stop cannot be done without an Elector and object storage: until then writes go on.
            let may = self.stop.as_ref().is_some_and(|s| self.now >= s.next_try) && self.elector_answers();
            if may {
                self.start_hand_over(None, true);
            }
            return;
        }
        let Some(primary) = &mut self.primary else { return };
        let others = primary.streams.values().any(|r| !r.stopping && self.now.saturating_sub(r.last_heard) <= silence);
        if others && waited < CATCH_UP_MAX {
            return;
        }
        // Nobody follows: everything goes into the bucket, and the voters go.
        if primary.change.is_some() {
            return;
        }
        if primary.manifest.voters.is_empty() && primary.manifest.released == Some(self.me.session) {
            let stopping: Vec<ProcessId> =
                primary.streams.values().filter(|r| r.stopping).map(|r| r.process.clone()).collect();
            for process in stopping {
                self.send(&process.node_id.clone(), Message::Left { process });
            }
            return self.leave_done();
        }
        let uploaded = primary.uploaded;
        let Some(stop) = &mut self.stop else { return };
        stop.paused = true;
        if stop.flushed != Some(end) {
            stop.flushed = Some(end);
            self.flush_all();
        } else if uploaded >= end && committed >= end {
            let session = self.me.session;
            primary.lease = ReadLease::new(0);
            self.begin_change(|m| {
                m.voters.clear();
                m.released = Some(session);
            });
        }
    }

    pub(crate) fn stop_may_go_on(&mut self) {
        if self.stop.is_some() && !self.ended {
            self.tick_stop();
        }
    }

    pub(crate) fn on_left(&mut self, process: ProcessId) {
        if process == self.me && self.stop.is_some() {
            self.leave_done();
        }
    }

    /// Whether this process stops and is needed no more.
    pub(crate) fn has_left(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.left)
    }

    fn leave_done(&mut self) {
        if let Some(stop) = self.stop.as_mut().filter(|stop| !stop.left) {
            stop.left = true;
            self.out.push_back(Command::Left);
        }
    }

    pub(crate) fn on_finish(&mut self) {
        let now = self.now;
        if let Some(stop) = self.stop.as_mut().filter(|stop| stop.left && !stop.finishing) {
            (stop.finishing, stop.since, stop.repeat_at) = (true, now, now);
            self.mark_stopped();
        }
    }

    fn mark_stopped(&mut self) {
        let now = self.now;
        let Some(stop) = self.stop.as_mut().filter(|s| !s.marking && now >= s.repeat_at) else {
            if let Some(stop) = self.stop.as_mut().filter(|s| !s.marking) {
                stop.repeat_at = stop.repeat_at.min(now + REPEAT);
            }
            return;
        };
        stop.marking = true;
        let (node_id, incarnation) = (self.me.node_id.clone(), self.me.incarnation);
        self.store(Purpose::MarkSelf, StoreCall::MarkStopped { node_id, incarnation });
    }

    pub(crate) fn on_marked_self(&mut self, result: StoreResult) {
        if result == StoreResult::Done {
            return self.stopped(String::new());
        }
        let again = self.now + REPEAT;
        if let Some(stop) = &mut self.stop {
            (stop.marking, stop.repeat_at) = (false, again);
        }
    }

    fn stopped(&mut self, undone: String) {
        self.resign();
        if let Some(primary) = self.primary.take() {
            self.out.push_back(Command::StepDown { term: primary.term });
        }
        self.close_all();
        self.out.push_back(Command::Stopped { undone });
    }
}
