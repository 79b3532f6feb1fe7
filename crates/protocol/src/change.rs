//! Changing voters, `quorum` or `copies_min` (R10): joint from its start until its outcome is known.

use crate::command::{Command, Report, StoreCall};
use crate::commit::Electorate;
use crate::config::Millis;
use crate::engine::{Engine, Purpose};
use crate::event::StoreResult;
use crate::manifest::Manifest;
use crate::mutant::mutant;
use crate::primary::Phase;
use netsy_api::ids::{LogIndex, Nonce};

/// A change that has not been sent to the manifest may be given up after this.
const WAITS_MAX: Millis = 5_000;
/// Pause before the manifest is read again for an outcome that is not known.
const RETRY: Millis = 300;

/// What an operator wants the manifest to hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) quorum: Option<i32>,
    pub(crate) copies_min: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// (2): the new rule's quorum, or the object log, is to hold everything that was there as of (1).
    Waiting,
    /// (3): the outcome is awaited, or has to be read.
    Swapping,
    ReadAt(Millis),
}

/// A change under way.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) new: Manifest,
    /// The nonce it swaps from.
    from: Nonce,
    /// The log's end as of (1).
    target: LogIndex,
    since: Millis,
    step: Step,
    flushed: bool,
    unclear: bool,
}

impl Engine {
    /// Begins a change; `apply` makes the new manifest from the present one. False: not now.
    pub(crate) fn begin_change(&mut self, apply: impl FnOnce(&mut Manifest)) -> bool {
        let bound = self.is_bound();
        let mut nonce = self.random.nonce();
        let target = self.log.end().last_index;
        let (now, committed) = (self.now, self.committed());
        let early = mutant!(self, ChangeBeforeReady);
        let Some(primary) = &mut self.primary else { return false };
        // Only after R4, one at a time; and nothing by who promised above its term.
        let ready = primary.phase == Phase::Ready || early && primary.uploads();
        if primary.change.is_some() || bound || !ready {
            return false;
        }
        let mut new = primary.manifest.clone();
        apply(&mut new);
        // R12: with R4 done, what a recovery kept is in the object log.
        new.kept = None;
        new.config_version = primary.manifest.config_version + 1;
        if mutant!(self, AbaEtag) {
            nonce = crate::mutant_support::content_nonce(&new);
        }
        new.nonce = nonce;
        let target = if early { committed } else { target };
        let from = primary.manifest.nonce;
        let change =
            Change { new: new.clone(), from, target, since: now, step: Step::Waiting, flushed: false, unclear: false };
        let primary = match &mut self.primary {
            Some(primary) => primary,
            None => return false,
        };
        primary.change = Some(change);
        // R9 (iii): no lease from here until it is known to be done.
        if !mutant!(self, LeaseDuringChange)
            && let Some(primary) = &mut self.primary
        {
            primary.lease.ended();
        }
        let electorate = self.electorate(&new);
        if !mutant!(self, NoJoint)
            && let Some(tracker) = self.primary.as_mut().and_then(|p| p.tracker.as_mut())
        {
            tracker.begin_joint(electorate);
        }
        self.report(Report::ChangeBegan);
        self.update_upload_mode();
        self.change_may_go_on();
        true
    }

    /// Whether step (2) is done.
    fn change_is_held(&self) -> bool {
        let Some(primary) = &self.primary else { return false };
        let (Some(change), Some(tracker)) = (&primary.change, &primary.tracker) else {
            return primary.change.is_some() && mutant!(self, ChangeBeforeReady);
        };
        let same_voters = change.new.voters == primary.manifest.voters;
        if mutant!(self, ChangeSkipsCatchUp) || mutant!(self, QuorumChangeUnchecked) && same_voters {
            return true;
        }
        let electorate: Electorate = self.electorate(&change.new);
        tracker.in_object_log() >= change.target
            || tracker.counted_by(&electorate).is_some_and(|counted| counted >= change.target)
    }

    pub(crate) fn change_may_go_on(&mut self) {
        let waiting = self.primary.as_ref().and_then(|p| p.change.as_ref()).is_some_and(|c| c.step == Step::Waiting);
        if waiting && !self.is_bound() && self.change_is_held() {
            self.swap_change();
        }
    }

    fn swap_change(&mut self) {
        let blind = mutant!(self, BlindManifestWrite);
        let Some(change) = self.primary.as_mut().and_then(|p| p.change.as_mut()) else { return };
        change.step = Step::Swapping;
        let nonce = change.new.nonce;
        let expected = if blind { self.manifest.as_ref().map(|m| m.nonce) } else { Some(change.from) };
        let what = StoreCall::SwapManifest { expected, manifest: Box::new(change.new.clone()) };
        self.store(Purpose::ChangeSwap(nonce), what);
    }

    fn change_of(&mut self, nonce: Nonce) -> Option<&mut Change> {
        self.primary.as_mut()?.change.as_mut().filter(|change| change.new.nonce == nonce)
    }

    pub(crate) fn on_change_swap(&mut self, nonce: Nonce, result: StoreResult) {
        if self.change_of(nonce).is_none() {
            return;
        }
        match result {
            StoreResult::Done => self.change_done(nonce),
            _ => {
                // Lost, or unknown: a read tells. "Lost" may be the answer to the repetition of one that landed.
                if let Some(change) = self.change_of(nonce) {
                    change.unclear |= result == StoreResult::Unknown;
                }
                self.read_change(nonce);
            }
        }
    }

    fn read_change(&mut self, nonce: Nonce) {
        if let Some(change) = self.change_of(nonce) {
            change.step = Step::Swapping;
            self.store(Purpose::ChangeRead(nonce), StoreCall::ReadManifest);
        }
    }

    pub(crate) fn on_change_read(&mut self, nonce: Nonce, result: StoreResult) {
        let now = self.now;
        let failed = mutant!(self, OldManifestMeansFailed);
        let Some(change) = self.change_of(nonce) else { return };
        let from = change.from;
        match result {
            StoreResult::Manifest(Some(found)) if found.nonce == nonce => self.change_done(nonce),
            // Still the old one: the swap may land yet. The same one again, and joint until then.
            StoreResult::Manifest(Some(found)) if found.nonce == from => {
                if failed {
                    self.cancel_change();
                } else {
                    self.swap_change();
                }
            }
            StoreResult::Manifest(Some(found)) => {
                // Somebody else wrote: ours can never land any more.
                self.report(Report::ChangeLost);
                let (term, same) = (found.term, self.primary.as_ref().is_some_and(|p| p.term == found.term));
                self.see_manifest(found.clone());
                if let Some(primary) = self.primary.as_mut().filter(|p| p.term == term && same) {
                    primary.manifest = found.clone();
                    let electorate = self.electorate(&found);
                    self.settle(electorate);
                }
            }
            _ => change.step = Step::ReadAt(now + RETRY),
        }
    }

    /// (4): the new rule alone.
    fn change_done(&mut self, nonce: Nonce) {
        let Some(change) = self.primary.as_mut().and_then(|p| p.change.take_if(|c| c.new.nonce == nonce)) else {
            return;
        };
        if change.unclear {
            self.report(Report::LateSwap);
        }
        self.report(Report::ChangeDone);
        if let Some(primary) = &mut self.primary {
            primary.manifest = change.new.clone();
            let now = self.now;
            for voter in &change.new.voters {
                primary.voter_heard.entry(voter.clone()).or_insert(now);
            }
        }
        self.see_manifest(change.new.clone());
        let electorate = self.electorate(&change.new);
        self.settle(electorate);
        self.answer_leavers();
        self.hand_over_may_go_on();
        self.stop_may_go_on();
    }

    fn settle(&mut self, electorate: Electorate) {
        let Some(primary) = &mut self.primary else { return };
        primary.change = None;
        primary.lease.ended();
        // Confirmations gathered under the old rule do not count.
        primary.round = None;
        let committed = primary.tracker.as_mut().and_then(|tracker| tracker.settle(electorate));
        if let Some(committed) = committed {
            self.on_committed(committed);
        }
        self.update_upload_mode();
        self.start_reads();
    }

    /// Gives a change up that was not sent, or that the broken variant takes for failed.
    fn cancel_change(&mut self) {
        self.report(Report::ChangeLost);
        let Some(primary) = &mut self.primary else { return };
        primary.change = None;
        let committed = primary.tracker.as_mut().and_then(|tracker| tracker.cancel_joint());
        if let Some(committed) = committed {
            self.on_committed(committed);
        }
        self.update_upload_mode();
    }

    pub(crate) fn tick_change(&mut self) {
        self.plan_voters();
        let now = self.now;
        let timeout = self.settings.quorum_timeout;
        let Some(primary) = &mut self.primary else { return };
        let Some(change) = &mut primary.change else { return };
        let (target, nonce) = (change.target, change.new.nonce);
        match change.step {
            Step::Waiting => {
                let waited = now.saturating_sub(change.since);
                let only_object_log = change.new.rule().only_object_log();
                if !change.flushed && (only_object_log || waited >= timeout) {
                    change.flushed = true;
                    self.out.push_back(Command::Flush(target));
                }
                if waited >= WAITS_MAX && self.stop.is_none() {
                    self.cancel_change();
                } else {
                    self.change_may_go_on();
                }
            }
            Step::ReadAt(at) if now >= at => self.read_change(nonce),
            _ => {}
        }
    }
}
