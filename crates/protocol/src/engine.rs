//! The engine: all rules of one process, driven from outside.
//!
//! A driver calls [`Engine::handle`] and the direct methods below, each time followed by taking all commands with
//! [`Engine::next_command`]. How it must carry them out: `docs/decisions/0006-protocol-engine.md`.
//!
//! What each part does stands in its own file: `promise` (R2), `take_over` (R4), `primary` (R5, R8), `streams` (R7 as
//! the Primary), `follower` (R7, R8 as a replica), `reads` (R9), `change` and `voter_plan` (R10), `election` (R6, R12), `lock`
//! and `health` (section 4), `hand_over` (planned moves, graceful stops), `disk`,
//! `snapshots` (who makes them), `watch_floor`.

use crate::command::{Command, LocalOp, Report, StoreCall};
use crate::config::{Millis, RegisteredNode, Settings, Start};
use crate::election::Election;
use crate::event::{CallId, Event, LocalSeq, StoreResult, StreamId};
use crate::follower::Follower;
use crate::hand_over::{HandOver, Stop};
use crate::health::Peers;
use crate::local_log::LocalLog;
use crate::lock::Lock;
use crate::manifest::{ElectorLock, Manifest, ProcessId};
use crate::message::{Message, Receipt, ToPrimary};
use crate::mutant::mutant;
use crate::primary::Primary;
use crate::random::Random;
use crate::read::{ReadId, ReadStart, ReadTicket};
use crate::reads::ReplicaReads;
use netsy_api::ids::{ChunkSeq, LogIndex, NodeId, Nonce, Revision, Term};
use std::collections::{BTreeMap, VecDeque};

/// Between two readings of the registrations: by the Elector, by others, and after one that failed.
const NODES_ELECTOR: Millis = 10_000;
const NODES: Millis = 30_000;
const NODES_AGAIN: Millis = 1_000;

/// Whether the writer may create entries now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creating {
    /// Yes.
    Yes,
    /// Not now: a hand-over or a stop is under way. Requests wait; either this node goes on, or `StepDown` comes.
    Paused,
    /// Not in this term any more (R2).
    No,
}

/// Entries were not taken: this process may create none in that term any more. Nothing of the batch counts; it is
/// dropped before anything is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no entry may be created in term {0} any more")]
pub struct NotPrimary(pub Term);

/// Why an object-store call was made; comes back with its answer.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    Learn,
    ReadProof {
        term: Term,
        covers: ReadId,
        sent: Millis,
    },
    ChangeSwap(Nonce),
    ChangeRead(Nonce),
    FirstManifest(Box<Manifest>),
    ElectionSwap(u64),
    ElectionRead(u64),
    LockRead,
    LockSwap(Box<ElectorLock>),
    Nodes,
    /// For a replica, or the take-over of a term.
    Load(Option<Term>),
    Seal(Term),
    CheckSeal(Term, ChunkSeq),
    MarkSelf,
    MarkOther,
}

/// See the module.
pub struct Engine {
    pub(crate) me: ProcessId,
    pub(crate) cluster_id: String,
    pub(crate) address: String,
    pub(crate) settings: Settings,
    pub(crate) now: Millis,
    pub(crate) random: Random,
    pub(crate) out: VecDeque<Command>,
    /// Messages to this node itself.
    inbox: VecDeque<Message>,
    pub(crate) log: LocalLog,
    pub(crate) led: Option<netsy_api::ids::Session>,
    pub(crate) calls: BTreeMap<CallId, Purpose>,
    last_call: CallId,
    last_stream: StreamId,
    /// The newest manifest that was read or written here.
    pub(crate) manifest: Option<Manifest>,
    /// When it was last known to be the newest.
    pub(crate) manifest_at: Millis,
    /// When object storage last answered.
    pub(crate) store_ok: Option<Millis>,
    /// Calls in a row that got no answer, and since when.
    pub(crate) store_failing_since: Option<Millis>,
    /// The greatest term this process acted in, or stepped down from.
    pub(crate) last_led: Term,
    pub(crate) nodes: BTreeMap<NodeId, RegisteredNode>,
    pub(crate) promise_answers: Vec<crate::promise::PromiseAnswer>,
    pub(crate) follower: Follower,
    pub(crate) primary: Option<Box<Primary>>,
    pub(crate) entries_from: LogIndex,
    pub(crate) reads: ReplicaReads,
    pub(crate) lock: Lock,
    pub(crate) peers: Peers,
    pub(crate) election: Option<Box<Election>>,
    pub(crate) quorum_lost: Option<crate::status::QuorumLost>,
    pub(crate) hand_over: Option<HandOver>,
    pub(crate) stop: Option<Stop>,
    /// Since when the local database's disk has been full, or when that was last acted on.
    pub(crate) disk_full: Option<Millis>,
    pub(crate) watch_lowest: Option<Revision>,
    pub(crate) watch_floor: Option<Revision>,
    /// Nothing is done any more.
    pub(crate) ended: bool,
    told_config_differs: bool,
    next_learn: Millis,
    /// A term that word came of while the manifest was being read: it may have been written after that read.
    learn_again: Option<Term>,
    /// The greatest term by others' word that a read begun since was to tell of.
    learned_of: Term,
    next_nodes: Millis,
    #[cfg(feature = "mutants")]
    pub(crate) mutant: Option<crate::mutant::Mutant>,
}

impl Engine {
    /// Begins with what the local database holds. Commands are waiting at once.
    pub fn new(now: Millis, start: Start) -> Self {
        let mut engine = Self::with(now, start);
        engine.begin();
        engine
    }

    /// The same with a rule broken.
    #[cfg(feature = "mutants")]
    pub fn broken(now: Millis, start: Start, mutant: Option<crate::mutant::Mutant>) -> Self {
        let mut engine = Self::with(now, start);
        engine.mutant = mutant;
        engine.begin();
        engine
    }

    fn with(now: Millis, start: Start) -> Self {
        let Start { cluster_id, me, address, settings, stored, seed, nodes } = start;
        let led = stored.led;
        let mut known: BTreeMap<NodeId, RegisteredNode> = nodes.into_iter().map(|n| (n.node_id.clone(), n)).collect();
        known.insert(
            me.node_id.clone(),
            RegisteredNode {
                node_id: me.node_id.clone(),
                incarnation: me.incarnation,
                stopped: false,
                address: address.clone(),
            },
        );
        Self {
            me,
            cluster_id,
            address,
            settings,
            now,
            random: Random::new(seed),
            out: VecDeque::new(),
            inbox: VecDeque::new(),
            log: LocalLog::new(stored),
            led,
            calls: BTreeMap::new(),
            last_call: CallId(0),
            last_stream: StreamId(0),
            manifest: None,
            manifest_at: 0,
            store_ok: None,
            store_failing_since: None,
            last_led: Term(0),
            nodes: known,
            promise_answers: vec![],
            follower: Follower::default(),
            primary: None,
            entries_from: LogIndex(1),
            reads: ReplicaReads::default(),
            lock: Lock::new(now),
            peers: Peers::new(now),
            election: None,
            quorum_lost: None,
            hand_over: None,
            stop: None,
            disk_full: None,
            watch_lowest: None,
            watch_floor: None,
            ended: false,
            told_config_differs: false,
            next_learn: now,
            learn_again: None,
            learned_of: Term(0),
            next_nodes: now,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }

    fn begin(&mut self) {
        if self.nodes.len() > 1 {
            self.out.push_back(Command::Nodes(self.nodes.values().cloned().collect()));
        }
        self.tick();
        self.drain_inbox();
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Millis, event: Event) {
        self.now = self.now.max(now);
        if self.ended {
            return;
        }
        match event {
            Event::Tick => self.tick(),
            Event::Message { from, message } => self.on_message(from, message),
            Event::PeerUp(node) => self.peers.up(&node),
            Event::PeerDown(node) => self.on_peer_down(node),
            Event::LocalDone(seq) => self.on_local_done(seq),
            Event::LogPiece { call, piece } => self.on_log_piece(call, piece),
            Event::StoreDone { call, result } => self.on_store(call, result),
            Event::StreamHello { stream, hello } => self.on_hello(stream, *hello),
            Event::FromReplica { stream, frame: ToPrimary::Receipt(receipt) } => self.on_receipt(stream, receipt),
            Event::FromReplica { stream, frame: ToPrimary::Alive { watch_lowest, watch_floor, stopping } } => {
                self.on_alive(stream, watch_lowest, watch_floor, stopping);
            }
            Event::FromPrimary { stream, frame } => self.on_frame(stream, frame),
            Event::StreamClosed(stream) => self.on_stream_closed(stream),
            Event::Leading(term) => self.on_leading(term),
            Event::Stop => self.on_stop(),
            Event::Finish => self.on_finish(),
            Event::MovePrimary(to) => self.on_move_primary(to),
            Event::SetCluster { quorum, copies_min } => self.on_set_cluster(quorum, copies_min),
            Event::Recover { lost } => self.on_recover(lost),
            Event::RemoveNode(node) => self.on_remove_node(node),
            Event::DiskFull(full) => self.on_disk_full(full),
            Event::WatchLowest(lowest) => self.watch_lowest = lowest,
            Event::WatchFloorSet { floor, lowest } => self.on_watch_floor_set(floor, lowest),
            Event::CompactWanted(revision) => self.on_compact_wanted(revision),
        }
        self.drain_inbox();
    }

    fn drain_inbox(&mut self) {
        while let Some(message) = self.inbox.pop_front() {
            let me = self.me.node_id.clone();
            self.on_message(me, message);
        }
        if self.ended {
            self.inbox.clear();
        }
    }

    /// The next thing to do.
    pub fn next_command(&mut self) -> Option<Command> {
        self.out.pop_front()
    }

    fn on_message(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Beat(beat) => self.on_beat(from, beat),
            Message::Report(report) => self.on_report(from, report),
            Message::PromiseAsk { election, term } => self.on_promise_ask(from, election, term),
            Message::Promised { election, term, process, end, stopping, store_age } => {
                let promise = crate::election::Promise { process, end, stopping, store_age };
                self.on_promised(from, election, term, promise);
            }
            Message::PromiseRefused { election, promised } => self.on_promise_refused(from, election, promised),
            Message::HearsAsk { query, term } => self.on_hears_ask(from, query, term),
            Message::Hears { query, incarnation, hears, primary_store_age } => {
                self.on_hears(from, query, incarnation, hears, primary_store_age);
            }
            Message::ElectorGoneAsk { query, session } => self.on_elector_gone_ask(from, query, session),
            Message::ElectorGone { query, gone } => self.on_elector_gone(from, query, gone),
            Message::ElectorResigns { session } => self.on_elector_resigns(session),
            Message::Elected { term, primary } => {
                // Just now; what an old manifest says tells nothing of who runs.
                if self.follower.target.as_ref().is_none_or(|(known, _)| *known < term) {
                    self.runs_again(&primary.node_id);
                }
                self.on_elected(term, primary);
            }
            Message::HandOver { term, to, reason } => self.on_hand_over_wish(from, term, to, reason),
            Message::Confirm { term, round } => self.on_confirm(from, term, round),
            Message::Confirmed { term, round, incarnation } => self.on_confirmed(from, term, round, incarnation),
            Message::HigherTerm { term, exists } => self.on_higher_term(term, exists),
            Message::ReadIndexAsk { id, session } => self.on_read_index_ask(from, id, session),
            Message::ReadIndex { id, term, index } => self.on_read_index(id, index, term),
            Message::ReadIndexRefused { id } => self.on_read_index_refused(id),
            Message::Leave { process } => self.on_leave(from, process),
            Message::Left { process } => self.on_left(process),
        }
    }

    fn tick(&mut self) {
        if self.now >= self.next_learn {
            // A probe of object storage, too: who reaches it is asked when a Primary does not (section 4).
            self.learn();
        }
        if self.now >= self.next_nodes && !self.is_calling(|p| matches!(p, Purpose::Nodes)) {
            self.next_nodes = self.now + if self.lock.held { NODES_ELECTOR } else { NODES };
            self.store(Purpose::Nodes, StoreCall::ListNodes);
        }
        self.tick_lock();
        self.tick_election();
        self.tick_health();
        self.tick_follower();
        self.tick_take_over();
        self.tick_primary();
        self.tick_change();
        self.tick_disk();
        self.tick_hand_over();
        self.tick_stop();
        self.tick_reads();
        self.tick_watch_floor();
    }

    // ---- what all parts use ----

    pub(crate) fn send(&mut self, to: &NodeId, message: Message) {
        if *to == self.me.node_id {
            self.inbox.push_back(message);
        } else {
            self.out.push_back(Command::Send { to: to.clone(), message });
        }
    }

    pub(crate) fn report(&mut self, report: Report) {
        self.out.push_back(Command::Report(report));
    }

    pub(crate) fn local(&mut self, (seq, op): (LocalSeq, LocalOp)) -> LocalSeq {
        self.out.push_back(Command::Local { seq, op });
        seq
    }

    pub(crate) fn store(&mut self, purpose: Purpose, what: StoreCall) -> CallId {
        self.last_call = CallId(self.last_call.0 + 1);
        let call = self.last_call;
        self.calls.insert(call, purpose);
        self.out.push_back(Command::Store { call, what });
        call
    }

    pub(crate) fn is_calling(&self, which: impl Fn(&Purpose) -> bool) -> bool {
        self.calls.values().any(which)
    }

    pub(crate) fn next_stream(&mut self) -> StreamId {
        self.last_stream = StreamId(self.last_stream.0 + 1);
        self.last_stream
    }

    /// Reads the manifest soon, to learn of terms.
    pub(crate) fn learn(&mut self) {
        self.next_learn = self.now + if self.manifest.is_none() { 500 } else { 2_000 };
        if !self.is_calling(|p| matches!(p, Purpose::Learn)) {
            self.store(Purpose::Learn, StoreCall::ReadManifest);
        }
    }

    /// The same at the word of a term that exists: a read that began before that word may not tell of it, and another
    /// one follows at once. One for each term: what that one does not tell, a third would not either.
    pub(crate) fn learn_of(&mut self, term: Term) {
        if term > self.learned_of {
            if self.is_calling(|p| matches!(p, Purpose::Learn)) {
                self.learn_again = self.learn_again.max(Some(term));
            } else {
                self.learned_of = term;
            }
        }
        self.learn();
    }

    fn learn_once_more(&mut self) {
        let Some(term) = self.learn_again.take() else { return };
        self.learned_of = self.learned_of.max(term);
        if self.manifest.as_ref().is_none_or(|manifest| manifest.term < term) {
            self.learn();
        }
    }

    /// Milliseconds since object storage last answered.
    pub(crate) fn store_age(&self) -> Option<u64> {
        self.store_ok.map(|at| self.now.saturating_sub(at))
    }

    pub(crate) fn halt(&mut self, reason: String) {
        self.fail_everything();
        self.out.push_back(Command::Halt(reason));
    }

    pub(crate) fn fail_everything(&mut self) {
        if let Some(primary) = self.primary.take() {
            self.out.push_back(Command::StepDown { term: primary.term });
        }
        self.out.push_back(Command::ReadsFailed { through: self.reads.last });
        self.ended = true;
    }

    // ---- object-store answers ----

    fn on_store(&mut self, call: CallId, result: StoreResult) {
        let Some(purpose) = self.calls.remove(&call) else { return };
        match &result {
            StoreResult::Unknown | StoreResult::Refused(_) => {
                self.store_failing_since.get_or_insert(self.now);
            }
            _ => self.store_works(),
        }
        match purpose {
            Purpose::Learn => {
                self.on_manifest_read(&result);
                self.learn_once_more();
            }
            Purpose::ReadProof { term, covers, sent } => {
                self.on_manifest_read(&result);
                self.on_read_proof(term, covers, sent, &result);
            }
            Purpose::ChangeSwap(nonce) => self.on_change_swap(nonce, result),
            Purpose::ChangeRead(nonce) => self.on_change_read(nonce, result),
            Purpose::FirstManifest(manifest) => self.on_first_manifest(*manifest, result),
            Purpose::ElectionSwap(election) => self.on_election_swap(election, result),
            Purpose::ElectionRead(election) => self.on_election_read(election, result),
            Purpose::LockRead => self.on_lock_read(result),
            Purpose::LockSwap(lock) => self.on_lock_swap(*lock, result),
            Purpose::Nodes => {
                match result {
                    StoreResult::Nodes(nodes) => self.learn_nodes(nodes),
                    // An Elector sends no beats to a node that it does not know, and hears nothing of it.
                    _ => self.next_nodes = self.next_nodes.min(self.now + NODES_AGAIN),
                }
            }
            Purpose::Load(term) => self.on_loaded(term, result),
            Purpose::Seal(term) => self.on_seal(term, result),
            Purpose::CheckSeal(term, seq) => self.on_check_seal(term, seq, result),
            Purpose::MarkSelf => self.on_marked_self(result),
            Purpose::MarkOther => {}
        }
    }

    pub(crate) fn store_works(&mut self) {
        self.store_ok = Some(self.now);
        self.store_failing_since = None;
    }

    fn on_manifest_read(&mut self, result: &StoreResult) {
        match result {
            StoreResult::Manifest(Some(manifest)) => self.see_manifest(manifest.clone()),
            StoreResult::Manifest(None) => self.no_manifest(),
            _ => self.next_learn = self.next_learn.min(self.now + 300),
        }
    }

    /// A manifest that this node read, or wrote with a certain outcome (R1).
    pub(crate) fn see_manifest(&mut self, manifest: Manifest) {
        if let Some(known) = &self.manifest
            && known.config_version > manifest.config_version
        {
            return; // Read before one that is known by now.
        }
        self.manifest_at = self.now;
        let is_new = self.manifest.as_ref().is_none_or(|known| known.nonce != manifest.nonce);
        if is_new {
            let differs = manifest.quorum != self.settings.quorum || manifest.copies_min != self.settings.copies_min;
            if differs && !self.told_config_differs {
                self.report(Report::ConfigDiffers { quorum: manifest.quorum, copies_min: manifest.copies_min });
            }
            self.told_config_differs = differs;
        }
        let (term, primary) = (manifest.term, manifest.primary.clone());
        self.manifest = Some(manifest);
        if self.primary.as_ref().is_some_and(|p| p.term < term) {
            self.step_down();
        }
        if let Some(primary) = self.primary.as_mut().filter(|p| p.term == term) {
            primary.doubted_until = 0;
        }
        let mine = primary == self.me
            || mutant!(self, ResumeTerm) && primary.node_id == self.me.node_id && self.last_led == Term(0);
        if mine && self.primary.is_none() && term > self.last_led {
            // R2: a term below the promise is over before it began.
            if self.log.promised() <= term {
                self.take_over();
            }
        }
        self.target(term, primary);
    }

    /// There is a Primary of `term`, by what a manifest or another node says.
    pub(crate) fn target(&mut self, term: Term, primary: ProcessId) {
        let newer = self.follower.target.as_ref().is_none_or(|(known, _)| *known < term);
        if newer {
            // A term exists only if a swap of the manifest wrote it (R1): this process is deposed, also where it cannot
            // read that itself, as it does not reach object storage.
            if self.primary.as_ref().is_some_and(|p| p.term < term) && primary != self.me {
                self.step_down();
            }
            self.follower.target = Some((term, primary));
            self.follower.retry_at = self.now;
            self.leave_old_primary(term);
            self.tick_follower();
        }
    }

    /// A node was known to have stopped, and is there: it may be called again.
    pub(crate) fn runs_again(&mut self, node: &NodeId) {
        if let Some(known) = self.nodes.get_mut(node).filter(|known| known.stopped) {
            known.stopped = false;
            self.out.push_back(Command::Nodes(self.nodes.values().cloned().collect()));
        }
    }

    pub(crate) fn learn_nodes(&mut self, nodes: Vec<RegisteredNode>) {
        let mut changed = false;
        for node in nodes {
            if node.node_id == self.me.node_id {
                continue;
            }
            let known = self.nodes.get(&node.node_id);
            if known != Some(&node) {
                changed = true;
                self.nodes.insert(node.node_id.clone(), node);
            }
        }
        if changed {
            self.out.push_back(Command::Nodes(self.nodes.values().cloned().collect()));
        }
    }

    // ---- the direct methods ----

    /// Whether the writer may create entries in `term`. Asked before a batch is evaluated.
    pub fn may_create(&self, term: Term) -> Creating {
        match &self.primary {
            Some(primary) if primary.term == term && primary.serves() => {
                if self.is_bound() || self.has_left() {
                    return Creating::No;
                }
                let paused = mutant!(self, LeaseWaitForWritesOnly) && self.now < primary.lease_wait_until
                    || self.hand_over.as_ref().is_some_and(|h| h.paused)
                    || self.stop.as_ref().is_some_and(|stop| stop.paused);
                if paused { Creating::Paused } else { Creating::Yes }
            }
            _ => Creating::No,
        }
    }

    /// The writer created entries of `term` up to `last` and is about to store them as the local operation returned.
    /// From here on they go down the streams. An error also where creating was paused since it was asked for.
    pub fn appended(&mut self, now: Millis, term: Term, last: LogIndex) -> Result<LocalSeq, NotPrimary> {
        self.now = self.now.max(now);
        if self.may_create(term) != Creating::Yes {
            return Err(NotPrimary(term));
        }
        let seq = self.log.append_own(term, last).map_err(|_| NotPrimary(term))?;
        self.on_appended(last);
        Ok(seq)
    }

    /// All local operations up to this one are durable: the same as `Event::LocalDone`.
    pub fn local_done(&mut self, now: Millis, seq: LocalSeq) {
        self.now = self.now.max(now);
        if !self.ended {
            self.on_local_done(seq);
            self.drain_inbox();
        }
    }

    /// A receipt came up a stream: the same as `Event::FromReplica` with one.
    pub fn receipt(&mut self, now: Millis, stream: StreamId, receipt: Receipt) {
        self.now = self.now.max(now);
        if !self.ended {
            self.on_receipt(stream, receipt);
            self.drain_inbox();
        }
    }

    /// Whether a chunk may be started in `term` (R2, R3). Asked before each creation, not before the repetition of one.
    pub fn may_start_chunk(&self, term: Term) -> bool {
        let primary = self.primary.as_ref();
        primary.is_some_and(|p| p.term == term && p.uploads() && self.now >= p.doubted_until) && !self.is_bound()
    }

    /// A chunk of `term` landed.
    pub fn chunk_landed(&mut self, now: Millis, term: Term, seq: ChunkSeq, last: LogIndex) {
        self.now = self.now.max(now);
        if !self.ended {
            self.store_works();
            self.on_chunk_landed(term, seq, last);
            self.drain_inbox();
        }
    }

    /// The number of the next chunk of `term` was taken by a chunk of term `by`, or (`None`) by one that is cleaned up
    /// by now: this term is over (R3).
    pub fn chunk_taken(&mut self, now: Millis, term: Term, by: Option<Term>) {
        self.now = self.now.max(now);
        if !self.ended && self.primary.as_ref().is_some_and(|p| p.term == term) {
            self.step_down();
            self.learn_of(by.unwrap_or(term));
            self.drain_inbox();
        }
    }

    /// The uploader's calls get no answer, or do again.
    pub fn store_answers(&mut self, now: Millis, answers: bool) {
        self.now = self.now.max(now);
        if answers {
            self.store_works();
        } else {
            self.store_failing_since.get_or_insert(self.now);
        }
    }

    /// A linearizable read arrived (R9).
    pub fn read_begin(&mut self, now: Millis) -> ReadStart {
        self.now = self.now.max(now);
        if self.ended {
            return ReadStart::NoPrimary;
        }
        let start = self.on_read_begin();
        self.drain_inbox();
        start
    }

    /// Whether what was read after [`read_begin`](Self::read_begin) said `Now` may be answered. If not, begin again.
    pub fn read_end(&self, now: Millis, ticket: ReadTicket) -> bool {
        let now = self.now.max(now);
        let Some(primary) = self.primary.as_ref().filter(|_| !self.is_bound()) else { return false };
        match ticket {
            ReadTicket::Own(term) => primary.term == term,
            ReadTicket::Lease(term) => primary.term == term && primary.lease.holds(now),
        }
    }

    /// Entries before this one are not at hand for followers any more.
    pub fn set_entries_from(&mut self, first: LogIndex) {
        self.entries_from = first;
    }

    /// Greatest index known to be committed here: as the Primary, or as its replica.
    pub fn committed(&self) -> LogIndex {
        match &self.primary {
            Some(primary) => primary.committed(),
            None => self.follower.told_commit.max(self.log.visible()),
        }
    }

    /// The end of the accepted log: what goes down the streams.
    pub fn log_end(&self) -> crate::reconcile::Run {
        self.log.end()
    }

    /// The runs of the accepted log from after `after` to `through`: what the driver's sender puts into an `Append`.
    pub fn runs_between(&self, after: LogIndex, through: LogIndex) -> Vec<crate::reconcile::Run> {
        self.log.runs().between(after, through)
    }

    /// The term of the accepted entry at `index`; `None` past the end.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.runs().term_at(index)
    }

    /// The last entry here of the terms before `term`.
    pub fn log_before(&self, term: Term) -> LogIndex {
        self.log.runs().before(term)
    }

    /// The promise (R2), durable or on its way.
    pub fn promised(&self) -> Term {
        self.log.promised()
    }

    /// The newest manifest that was read or written here.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }
}
