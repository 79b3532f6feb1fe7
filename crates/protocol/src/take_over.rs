//! Taking over the object log at the start of a term (R4), and stepping down from it.

use crate::command::{Command, Report, StoreCall};
use crate::config::Millis;
use crate::engine::{Engine, Purpose};
use crate::event::StoreResult;
use crate::message::Message;
use crate::mutant::mutant;
use crate::primary::{Phase, Primary};
use crate::read::ReadLease;
use netsy_api::ids::{ChunkSeq, LogIndex, Term};

/// Pause before an object-store call of the take-over is repeated.
const RETRY: Millis = 200;
/// After the seal's number was taken this often, the old Primary is told that it is deposed.
const SEAL_LOSSES_TOLD: u32 = 1;

impl Engine {
    /// A manifest that this process read names its own session: R4 begins.
    pub(crate) fn take_over(&mut self) {
        let Some(manifest) = self.manifest.clone() else { return };
        if self.ended || self.has_left() {
            return;
        }
        let term = manifest.term;
        self.raise_promise(term);
        self.stop_following();
        self.last_led = term;
        let mut primary = Primary::new(manifest, self.now, self.settings.read_lease);
        primary.lease_wait_until = self.lease_wait(&primary);
        self.primary = Some(Box::new(primary));
        self.load_object_log();
        if mutant!(self, ServeBeforeSeal) {
            self.answer_waiting_hellos();
        }
    }

    /// R9: whether leases of a Primary before may still run, and until when.
    fn lease_wait(&self, primary: &Primary) -> Millis {
        let manifest = &primary.manifest;
        let recovered_now = manifest.recovered.is_some_and(|r| r.term == manifest.term);
        if (manifest.rule().election > 0 && !recovered_now) || mutant!(self, NoLeaseWait) {
            return 0;
        }
        let over = match &manifest.previous {
            None => true,
            // Its lease is given up for ever, or it was a process of this very database (whose folder is locked
            // exclusively) that had itself waited for all leases before.
            Some(previous) => {
                manifest.released == Some(previous.session)
                    || self.led == Some(previous.session)
                    || mutant!(self, SameNodeSkipsLeaseWait) && previous.incarnation == self.me.incarnation
            }
        };
        if over { 0 } else { self.now + ReadLease::takeover_wait_ms(self.settings.read_lease) }
    }

    fn taking_over(&mut self, term: Term) -> Option<&mut Box<Primary>> {
        self.primary.as_mut().filter(|p| p.term == term)
    }

    fn load_object_log(&mut self) {
        let Some(primary) = &mut self.primary else { return };
        let term = primary.term;
        primary.phase = Phase::Loading;
        self.store(Purpose::Load(Some(term)), StoreCall::LoadLog);
    }

    pub(crate) fn on_loaded(&mut self, term: Option<Term>, result: StoreResult) {
        let Some(term) = term else { return self.on_replica_loaded(&result) };
        let Some(primary) = self.taking_over(term).filter(|p| p.phase == Phase::Loading) else { return };
        let StoreResult::Loaded(end) = result else {
            primary.phase = Phase::Retry { at: 0, seal: false };
            return self.retry_later(RETRY, false);
        };
        (primary.seq, primary.uploaded) = end.map_or((ChunkSeq(0), LogIndex(0)), |end| (end.seq, end.last_index));
        if self.drop_given_up(term) {
            self.create_seal();
        }
    }

    /// R12: what a recovery gave up does not come back, though the one node that has it is the next Primary: entries
    /// of terms before the recovery that are neither in the object log, which the first Primary after it put all of its
    /// own into (R4), nor in what that one was elected with. False: this node goes on no more.
    fn drop_given_up(&mut self, term: Term) -> bool {
        let Some(primary) = self.primary.as_ref() else { return false };
        let Some(recovered) = primary.manifest.recovered else { return true };
        let kept = primary.uploaded.max(recovered.index);
        let given_up = self.log.runs().term_at(kept.next()).is_some_and(|first| first < recovered.term);
        !given_up || mutant!(self, GivenUpComesBack) || self.cut(kept, term)
    }

    fn retry_later(&mut self, pause: Millis, seal: bool) {
        let at = self.now + pause;
        if let Some(primary) = &mut self.primary {
            primary.phase = Phase::Retry { at, seal };
        }
    }

    fn create_seal(&mut self) {
        if mutant!(self, NoSeal) {
            return self.sealed();
        }
        let Some(primary) = &mut self.primary else { return };
        // A Primary that promised above its term starts no chunk (R2): this one waits to be replaced.
        let (term, seq) = (primary.term, primary.seq.next());
        if self.is_bound() {
            return self.retry_later(RETRY, true);
        }
        if let Some(primary) = &mut self.primary {
            primary.phase = Phase::Sealing;
        }
        self.store(Purpose::Seal(term), StoreCall::CreateSeal { seq, term });
    }

    pub(crate) fn on_seal(&mut self, term: Term, result: StoreResult) {
        let past = mutant!(self, SealAfterHigherTerm);
        let Some(primary) = self.taking_over(term).filter(|p| p.phase == Phase::Sealing) else { return };
        match result {
            StoreResult::Sealed(seal) => self.check_seal(seal.seq),
            StoreResult::SealTaken(other) if other.term > term && !past => {
                self.step_down();
                self.learn_of(other.term);
            }
            // Only this process writes in this term: an earlier try of the same seal.
            StoreResult::SealTaken(other) if other.term == term => self.check_seal(other.seq),
            StoreResult::SealTaken(other) => {
                primary.seq = other.seq;
                primary.uploaded = primary.uploaded.max(other.last_index);
                primary.seal_losses += 1;
                let previous = primary.manifest.previous.clone();
                let tell = primary.seal_losses >= SEAL_LOSSES_TOLD;
                self.report(Report::SealTaken(other.seq));
                if let Some(previous) = previous.filter(|_| tell) {
                    // The old Primary goes on unaware; as long as it does, this one may lose the race for ever.
                    self.send(&previous.node_id, Message::HigherTerm { term, exists: true });
                }
                self.create_seal();
            }
            StoreResult::SealCleanedUp => self.load_object_log(),
            _ => self.retry_later(RETRY, true),
        }
    }

    fn check_seal(&mut self, seq: ChunkSeq) {
        let Some(primary) = &mut self.primary else { return };
        let term = primary.term;
        primary.seq = seq;
        if mutant!(self, NoCheckAfterSeal) {
            return self.sealed();
        }
        primary.phase = Phase::CheckingSeal;
        self.store(Purpose::CheckSeal(term, seq), StoreCall::CheckSeal { seq });
    }

    pub(crate) fn on_check_seal(&mut self, term: Term, seq: ChunkSeq, result: StoreResult) {
        if self.taking_over(term).filter(|p| p.phase == Phase::CheckingSeal).is_none() {
            return;
        }
        match result {
            StoreResult::AnythingAfter(false) => self.sealed(),
            StoreResult::AnythingAfter(true) => {
                // It fell into a hole that clean-up left, and counts for nothing.
                self.report(Report::SealInHole(seq));
                self.load_object_log();
            }
            _ => {
                self.store(Purpose::CheckSeal(term, seq), StoreCall::CheckSeal { seq });
            }
        }
    }

    /// The seal stands: the tail goes up.
    fn sealed(&mut self) {
        let end = self.log.end().last_index;
        let Some(primary) = &mut self.primary else { return };
        let (term, after, last_index) = (primary.term, primary.seq, primary.uploaded);
        primary.phase = Phase::Tail { through: end };
        self.out.push_back(Command::StartUploads { term, after, last_index });
        if last_index < end {
            self.out.push_back(Command::Flush(end));
        }
        self.tail_landed();
    }

    /// Once all of the log is in the object log, R4 is done, but for leases of a Primary before.
    pub(crate) fn tail_landed(&mut self) {
        let skip = mutant!(self, NoTailUpload) || mutant!(self, NoTailNoTermCheck);
        let now = self.now;
        let Some(primary) = &mut self.primary else { return };
        let Phase::Tail { through } = primary.phase else { return };
        if primary.uploaded < through && !skip {
            return;
        }
        if now < primary.lease_wait_until && !mutant!(self, LeaseWaitForWritesOnly) {
            primary.phase = Phase::LeaseWait;
            return;
        }
        self.lead();
    }

    fn lead(&mut self) {
        if self.is_bound() {
            return self.wait_bound();
        }
        let end = self.log.end().last_index;
        let Some(primary) = &mut self.primary else { return };
        primary.phase = Phase::Starting;
        let term = primary.term;
        primary.begin_commits(end);
        #[cfg(feature = "mutants")]
        self.weaken_commits();
        let op = self.log.led(self.me.session);
        self.local(op);
        let committed = self.committed();
        self.show(committed);
        self.out.push_back(Command::Lead { term });
        self.own_copy();
        self.answer_waiting_hellos();
        self.update_upload_mode();
    }

    fn wait_bound(&mut self) {
        if let Some(primary) = &mut self.primary {
            primary.phase = Phase::LeaseWait;
        }
    }

    pub(crate) fn on_leading(&mut self, term: Term) {
        let Some(primary) = self.primary.as_mut().filter(|p| p.term == term && p.phase == Phase::Starting) else {
            return;
        };
        primary.phase = Phase::Ready;
        self.tell_elector();
        self.start_reads();
    }

    pub(crate) fn tick_take_over(&mut self) {
        let now = self.now;
        let Some(primary) = &self.primary else { return };
        match primary.phase {
            Phase::Retry { at, seal } if now >= at => {
                if seal {
                    self.create_seal();
                } else {
                    self.load_object_log();
                }
            }
            Phase::LeaseWait if now >= primary.lease_wait_until && !self.is_bound() => self.lead(),
            _ => {}
        }
    }

    /// This term is over for this process.
    pub(crate) fn step_down(&mut self) {
        let Some(primary) = self.primary.take() else { return };
        let term = primary.term;
        for stream in primary.streams.keys().chain(primary.waiting_hellos.keys()) {
            self.out.push_back(Command::CloseStream(*stream));
        }
        self.out.push_back(Command::StepDown { term });
        for (asker, ask) in &primary.remote_reads {
            self.send(asker, Message::ReadIndexRefused { id: ask.id });
        }
        self.hand_over_ended(term);
        self.follower.verified = self.log.visible();
        self.follower.verified_term = Term(0);
        self.follower.told_commit = self.log.visible();
        self.follower.retry_at = self.now;
        self.tell_elector();
        self.tick_follower();
        self.ask_read_index();
    }
}
