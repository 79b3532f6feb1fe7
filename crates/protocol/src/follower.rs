//! Following a Primary (R7, R8) and loading the object log (section 5).

use crate::command::{Command, StoreCall};
use crate::config::Millis;
use crate::engine::{Engine, Purpose};
use crate::event::{CallId, LogPiece, StoreResult, StreamId};
use crate::manifest::{ProcessId, Recovered};
use crate::message::{Append, Beat, Hello, Message, Receipt, ToPrimary, ToReplica, Welcome};
use crate::mutant::mutant;
use crate::reconcile::{Run, Runs, with_object_log};
use netsy_api::ids::{LogIndex, Revision, Term};

/// Pause before a stream that broke is opened again.
const RETRY: Millis = 50;
/// The same after the first refusal: a Primary that was just elected may not know it yet.
const RETRY_FIRST: Millis = 10;
/// The longest such pause.
const RETRY_MAX: Millis = 1_000;

/// A stream to a Primary.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) term: Term,
    pub(crate) primary: ProcessId,
    pub(crate) welcomed: bool,
    pub(crate) last_heard: Millis,
}

/// What a replica knows of its Primary.
#[derive(Clone, Debug, Default)]
pub(crate) struct Follower {
    /// The newest term that this node knows of, and its Primary.
    pub(crate) target: Option<(Term, ProcessId)>,
    pub(crate) stream: Option<Stream>,
    pub(crate) retry_at: Millis,
    pause: Millis,
    /// Everything up to here equals the log of the Primary of `verified_term`.
    pub(crate) verified: LogIndex,
    pub(crate) verified_term: Term,
    /// Committed, by the word of the Primary of `verified_term`.
    pub(crate) told_commit: LogIndex,
    /// The last receipt sent on this stream.
    receipted: LogIndex,
    /// How old the Primary's last contact with object storage was, and when it said so.
    pub(crate) primary_store: Option<(u64, Millis)>,
    /// The Primary wants this node to make the snapshots.
    pub(crate) snapshots: bool,
    next_alive: Millis,
    load: Option<CallId>,
    load_wanted: bool,
    recovered: Option<Recovered>,
}

impl Engine {
    /// Whether this node hears the Primary of `term` now.
    pub(crate) fn hears(&self, term: Term) -> bool {
        self.follower.stream.as_ref().is_some_and(|s| {
            let broken = self.peers.is_down(&s.primary.node_id);
            s.welcomed && s.term == term && !broken && self.now.saturating_sub(s.last_heard) <= self.settings.silence()
        })
    }

    /// A higher term is promised or known: what comes from a lower one is not accepted any more.
    pub(crate) fn leave_old_primary(&mut self, term: Term) {
        if let Some(stream) = self.follower.stream.take_if(|s| s.term < term) {
            self.out.push_back(Command::CloseStream(stream.id));
            let exists = self.follower.target.as_ref().is_some_and(|(known, _)| *known >= term);
            self.send(&stream.primary.node_id, Message::HigherTerm { term, exists });
        }
    }

    fn close_stream(&mut self, pause: Millis) {
        if let Some(stream) = self.follower.stream.take() {
            self.out.push_back(Command::CloseStream(stream.id));
        }
        self.follower.retry_at = self.now + pause;
    }

    pub(crate) fn tick_follower(&mut self) {
        if let Some(stream) = &self.follower.stream
            && self.now.saturating_sub(stream.last_heard) > self.settings.silence()
        {
            self.close_stream(RETRY);
        }
        if self.follower.load_wanted && self.follower.load.is_none() && self.follower.stream.is_none() {
            self.follower.load = Some(self.store(Purpose::Load(None), StoreCall::LoadLog));
        }
        self.follow();
        if self.follower.stream.as_ref().is_some_and(|s| s.welcomed) && self.now >= self.follower.next_alive {
            self.send_alive();
        }
    }

    pub(crate) fn send_alive(&mut self) {
        self.follower.next_alive = self.now + self.settings.heartbeat_interval;
        let Some(stream) = self.follower.stream.as_ref().filter(|s| s.welcomed) else { return };
        let frame = ToPrimary::Alive {
            watch_lowest: self.watch_lowest,
            watch_floor: self.watch_floor,
            stopping: self.stop.is_some(),
        };
        self.out.push_back(Command::ToPrimary { stream: stream.id, frame });
    }

    /// Opens a stream to the Primary of the newest term, if there is none.
    fn follow(&mut self) {
        let busy = self.primary.is_some()
            || self.follower.stream.is_some()
            || self.follower.load.is_some()
            || self.follower.load_wanted
            || self.now < self.follower.retry_at;
        let Some((term, primary)) = self.follower.target.clone().filter(|_| !busy) else { return };
        let below = term < self.log.promised() && !mutant!(self, AcceptBelowPromise);
        if primary.node_id == self.me.node_id || below {
            return;
        }
        let id = self.next_stream();
        let hello = Hello {
            process: self.me.clone(),
            term,
            session: primary.session,
            promised: self.log.promised(),
            runs: self.log.runs().clone(),
            stopping: self.stop.is_some(),
        };
        self.follower.stream =
            Some(Stream { id, term, primary: primary.clone(), welcomed: false, last_heard: self.now });
        self.out.push_back(Command::Follow { stream: id, primary: primary.node_id, hello: Box::new(hello) });
    }

    pub(crate) fn on_stream_closed(&mut self, stream: StreamId) {
        if self.follower.stream.as_ref().is_some_and(|s| s.id == stream) {
            self.follower.stream = None;
            self.back_off();
        }
        self.on_replica_gone(stream);
    }

    fn back_off(&mut self) {
        self.follower.pause = (self.follower.pause * 2).clamp(RETRY_FIRST, RETRY_MAX);
        self.follower.retry_at = self.now + self.follower.pause + self.random.below(RETRY.min(self.follower.pause));
    }

    pub(crate) fn on_frame(&mut self, stream: StreamId, frame: ToReplica) {
        let Some(current) = self.follower.stream.as_mut().filter(|s| s.id == stream) else {
            if let (true, ToReplica::Append(append)) = (mutant!(self, OldMessageTruncates), frame) {
                self.truncate_for_old_message(&append);
            }
            return; // Of a stream that is over.
        };
        current.last_heard = self.now;
        match frame {
            ToReplica::Refused { higher } => {
                let known = current.term;
                self.close_stream(0);
                self.back_off();
                if let Some(higher) = higher.filter(|higher| *higher > known) {
                    self.learn_of(higher);
                }
            }
            ToReplica::LoadObjectLog => {
                self.close_stream(0);
                self.follower.load_wanted = true;
                self.tick_follower();
            }
            ToReplica::Welcome(welcome) => self.on_welcome(welcome),
            ToReplica::Append(append) => self.on_append(append),
            ToReplica::Beat(beat) => self.on_primary_beat(beat),
        }
    }

    /// Whether something of `term` may be accepted (R2); then nothing of a lower one is from here on.
    fn accepts(&mut self, term: Term) -> bool {
        if term < self.log.promised() {
            return mutant!(self, AcceptBelowPromise);
        }
        self.raise_promise(term);
        true
    }

    /// R7, against a Primary.
    fn on_welcome(&mut self, welcome: Welcome) {
        let Some(stream) = self.follower.stream.clone() else { return };
        let ours = stream.term == welcome.term && stream.primary.session == welcome.session && !stream.welcomed;
        if !ours || !self.accepts(welcome.term) {
            return self.close_stream(RETRY);
        }
        self.follower.pause = 0;
        self.follower.recovered = welcome.recovered;
        let Welcome { term, common, end, commit, .. } = welcome;
        if mutant!(self, CommitUnverified) {
            let shown = commit.min(self.log.durable());
            self.show(shown);
        }
        let own_end = self.log.end().last_index;
        if common > own_end || common > end.last_index {
            return self.close_stream(RETRY_MAX); // Not about the log that was presented.
        }
        let cut = if mutant!(self, ReconcileAlwaysTruncates) {
            (own_end > common).then_some(common)
        } else if common < end.last_index {
            // From the first conflicting index; an entry of the Primary's own term is never one.
            (own_end > common).then_some(common)
        } else {
            // Past the Primary's declared end, what is of an earlier term.
            let first = self.log.runs().term_at(common.next());
            first.is_some_and(|first| first < term).then_some(common)
        };
        if let Some(after) = cut {
            if self.log.runs().term_at(after.next()).is_some_and(|t| t >= term) {
                return self.close_stream(RETRY_MAX);
            }
            if !self.cut(after, term) {
                return;
            }
        }
        if let Some(stream) = &mut self.follower.stream {
            stream.welcomed = true;
        }
        self.peers.up(&stream.primary.node_id);
        self.follower.verified = common;
        self.follower.verified_term = term;
        self.follower.told_commit = commit;
        self.follower.snapshots = false;
        self.follower.receipted = LogIndex(0);
        self.send_alive();
        self.send_receipt();
        self.show_told();
        self.reads_visible();
        self.ask_read_index();
    }

    /// Deletes what is after `after`, as the log of `told` differs there, unless it was shown (R7). False: nothing was
    /// deleted, and this node goes on no more, or not before it has read the manifest of that term.
    pub(crate) fn cut(&mut self, after: LogIndex, told: Term) -> bool {
        let visible = self.log.visible();
        if after < visible {
            let first = after.next();
            let term = self.log.runs().term_at(first).unwrap_or_default();
            let text = format!(
                "entry {first} of term {term} was shown as committed (up to {visible}), and is not in the log that the cluster goes on with"
            );
            let learned = self.manifest.as_ref();
            let recovered = self.follower.recovered.max(learned.and_then(|m| m.recovered));
            let welcomed = self.follower.stream.as_ref().is_some_and(|s| s.term >= told);
            if !welcomed && learned.is_none_or(|m| m.term < told) && !mutant!(self, HaltUnlearned) {
                // R12: the object log alone does not say whether an operator gave this up.
                self.learn_of(told);
                return false;
            }
            if recovered.is_some_and(|recovered| term < recovered.term) && !mutant!(self, HaltOnRecovered) {
                // R12: an operator gave it up.
                self.fail_everything();
                self.out.push_back(Command::Rebuild(text));
            } else {
                self.halt(text);
            }
            return false;
        }
        let op = self.log.truncate(after);
        self.local(op);
        self.follower.verified = self.follower.verified.min(after);
        true
    }

    fn on_append(&mut self, append: Append) {
        let following = self.follower.stream.as_ref().is_some_and(|s| s.welcomed && s.term == append.term);
        if !following || !self.accepts(append.term) {
            return self.close_stream(RETRY);
        }
        // Every append names what stands before it: no hole, and nothing that was not verified.
        let Some(merge) =
            self.log.merge(append.prev, &append.runs).filter(|_| append.prev.last_index <= self.follower.verified)
        else {
            return self.close_stream(RETRY);
        };
        if let Some(after) = merge.truncate_after {
            let conflicting = self.log.runs().term_at(after.next());
            if conflicting.is_none_or(|t| t >= append.term) || !self.cut(after, append.term) {
                return self.close_stream(RETRY);
            }
        }
        if let Some(from) = merge.store_from {
            match self.log.store(from, &append.runs) {
                Ok(op) => {
                    self.local(op);
                }
                Err(_) => return self.close_stream(RETRY),
            }
        }
        self.follower.verified = self.follower.verified.max(append.last().last_index);
        self.follower.told_commit = self.follower.told_commit.max(append.commit);
        self.send_receipt();
        self.show_told();
    }

    fn truncate_for_old_message(&mut self, append: &Append) {
        let end = append.last().last_index;
        if self.log.promised() == append.term && end < self.log.end().last_index && end >= self.log.visible() {
            self.cut(end, append.term);
        }
    }

    fn on_primary_beat(&mut self, beat: Beat) {
        let following = self.follower.stream.as_ref().is_some_and(|s| s.welcomed && s.term == beat.term);
        if !following || self.log.promised() > beat.term {
            return;
        }
        self.follower.told_commit = self.follower.told_commit.max(beat.commit);
        self.follower.snapshots = beat.snapshots;
        self.follower.primary_store = beat.store_age.map(|age| (age, self.now));
        self.show_told();
        self.on_announced_floor(beat.watch_floor);
    }

    /// R8: what the Primary says is committed, as far as it is verified, and durable here.
    pub(crate) fn show_told(&mut self) {
        if self.primary.is_none() {
            let index = self.follower.told_commit.min(self.follower.verified).min(self.log.durable());
            self.show(index);
        }
    }

    pub(crate) fn show(&mut self, index: LogIndex) {
        if self.log.show(index) {
            self.out.push_back(Command::Show(index));
            self.reads_visible();
        }
    }

    /// Tells the Primary what is durable here (R5), if that is more than before.
    pub(crate) fn send_receipt(&mut self) {
        self.show_told();
        let Some(stream) = self.follower.stream.as_ref().filter(|s| s.welcomed) else { return };
        let held = if mutant!(self, AckBeforeSync) {
            self.follower.verified
        } else {
            self.follower.verified.min(self.log.durable())
        };
        let kept = self.log.promised() <= stream.term || mutant!(self, AcceptBelowPromise);
        if held > self.follower.receipted && kept {
            let receipt = Receipt { term: stream.term, incarnation: self.me.incarnation, held };
            self.follower.receipted = held;
            let (stream, frame) = (stream.id, ToPrimary::Receipt(receipt));
            self.out.push_back(Command::ToPrimary { stream, frame });
        }
    }

    // ---- the object log ----

    /// A part of the object log was read, by a replica or by a Primary-to-be.
    pub(crate) fn on_log_piece(&mut self, call: CallId, piece: LogPiece) {
        let taking_over = match self.calls.get(&call) {
            Some(Purpose::Load(term)) => *term,
            Some(Purpose::Seal(term)) => Some(*term),
            _ => return,
        };
        let wanted = match taking_over {
            Some(term) => self.primary.as_ref().is_some_and(|p| p.term == term && !p.serves()),
            None => self.follower.load == Some(call) && self.primary.is_none(),
        };
        if !wanted {
            self.out.push_back(Command::Abandon(call));
            return;
        }
        let chunk_term = match &piece {
            LogPiece::Chunks { chunks, .. } => chunks.iter().map(|c| c.term).max().unwrap_or_default(),
            LogPiece::Snapshot { .. } if mutant!(self, SnapshotWithoutTerm) => Term(0),
            LogPiece::Snapshot { covers, .. } => covers.term,
        };
        match taking_over {
            // R4: a chunk of a higher term, or a snapshot that covers one.
            Some(term) if chunk_term > term && !mutant!(self, SealAfterHigherTerm) => {
                self.out.push_back(Command::Abandon(call));
                self.step_down();
                return self.learn_of(chunk_term);
            }
            Some(_) => {}
            // R2: accepting anything of a term first raises the promise to it.
            None if !mutant!(self, AdoptWithoutPromise) => self.raise_promise(chunk_term),
            None => {}
        }
        let taken = match piece {
            LogPiece::Chunks { prev, runs, .. } => self.take_chunks(prev, &runs, chunk_term),
            LogPiece::Snapshot { runs, .. } => self.take_snapshot(runs, chunk_term),
        };
        if !taken {
            self.out.push_back(Command::Abandon(call));
        } else if mutant!(self, ReplicaAheadOfPrimary) && taking_over.is_none() {
            let end = self.log.end().last_index;
            self.show(end);
        }
    }

    /// R7, against the object log: deletes only from where the two differ in term.
    fn take_chunks(&mut self, prev: Run, runs: &[Run], told: Term) -> bool {
        let Some(mut merge) = self.log.merge(prev, runs) else { return false };
        if mutant!(self, ReconcileAlwaysTruncates) && merge.store_from.is_none() {
            let last = runs.last().map_or(prev.last_index, |r| r.last_index);
            if last < self.log.end().last_index && last >= self.log.visible() {
                merge.truncate_after = Some(last);
            }
        }
        if let Some(after) = merge.truncate_after
            && !self.cut(after, told)
        {
            return false;
        }
        let Some(from) = merge.store_from else { return true };
        match self.log.store(from, runs) {
            Ok(op) => {
                self.local(op);
                true
            }
            Err(_) => false,
        }
    }

    fn take_snapshot(&mut self, runs: Runs, told: Term) -> bool {
        let met = with_object_log(self.log.runs(), &runs);
        if met.fetch_from.is_none() {
            return true; // The own log has all of it, and maybe more.
        }
        if met.common < self.log.visible() && met.delete_from.is_some() {
            return self.cut(met.common, told);
        }
        let op = self.log.install(runs, met.common);
        self.follower.verified = self.follower.verified.min(met.common);
        self.local(op);
        true
    }

    /// A replica's load ended.
    pub(crate) fn on_replica_loaded(&mut self, result: &StoreResult) {
        self.follower.load = None;
        self.follower.load_wanted = false;
        self.follower.retry_at = match result {
            StoreResult::Loaded(_) => self.now,
            _ => self.now + RETRY_MAX,
        };
        self.tick_follower();
    }

    /// A process that becomes Primary follows nobody.
    pub(crate) fn stop_following(&mut self) {
        if let Some(stream) = self.follower.stream.take() {
            self.out.push_back(Command::CloseStream(stream.id));
        }
        if let Some(call) = self.follower.load.take() {
            self.out.push_back(Command::Abandon(call));
        }
        self.follower.load_wanted = false;
    }

    pub(crate) fn on_elected(&mut self, term: Term, primary: ProcessId) {
        let mine = primary == self.me;
        // This process is deposed: whoever waits here is to go to the new Primary now, not once the manifest is read.
        if self.primary.as_ref().is_some_and(|p| p.term < term) {
            self.step_down();
            self.learn_of(term);
        }
        self.target(term, primary);
        // R1: it acts only once it read that itself.
        if mine && self.last_led < term && self.manifest.as_ref().is_none_or(|m| m.term < term) {
            self.learn_of(term);
        }
    }

    /// A floor was announced: no watch begins below it here, then the Primary is told.
    fn on_announced_floor(&mut self, floor: Option<Revision>) {
        if floor > self.watch_floor
            && let Some(floor) = floor
        {
            self.out.push_back(Command::RefuseWatchesBelow(floor));
        }
    }
}
