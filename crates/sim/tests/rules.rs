//! Each rule as a scripted schedule on one engine: it holds as written, and breaks in the variant that weakens it.
//! Flaws 9, 18 and 19c of protocol-review.md, which random schedules do not reach, are among them.

use netsy_api::ids::{ChunkSeq, Incarnation, LogIndex, NodeId, Nonce, Session, Term};
use netsy_protocol::command::{Command, LocalOp, StoreCall};
use netsy_protocol::config::{RegisteredNode, Settings, Start, Stored};
use netsy_protocol::engine::{Creating, Engine};
use netsy_protocol::event::{CallId, ChunkFact, Event, LocalSeq, LogPiece, StoreResult, StreamId};
use netsy_protocol::manifest::{ElectorLock, Manifest, ProcessId, Recovered};
use netsy_protocol::message::{Append, Hello, Message, NodeReport, Receipt, ToPrimary, ToReplica, Welcome};
use netsy_protocol::mutant::Mutant;
use netsy_protocol::quorum::Voter;
use netsy_protocol::read::ReadStart;
use netsy_protocol::reconcile::{Run, Runs};
use std::collections::BTreeMap;

fn node(n: u8) -> NodeId {
    NodeId::new(format!("n{n}")).expect("valid")
}

fn process(n: u8) -> ProcessId {
    ProcessId { node_id: node(n), incarnation: Incarnation(u128::from(n) + 1), session: Session(u128::from(n) + 100) }
}

fn registered(n: u8, stopped: bool) -> RegisteredNode {
    RegisteredNode { node_id: node(n), incarnation: process(n).incarnation, stopped, address: String::new() }
}

fn run(term: u64, last: u64) -> Run {
    Run { term: Term(term), last_index: LogIndex(last) }
}

fn runs(list: &[(u64, u64)]) -> Runs {
    Runs::new(list.iter().map(|&(t, i)| run(t, i))).expect("rising")
}

fn manifest(term: u64, primary: u8, voters: &[u8], quorum: i32) -> Manifest {
    Manifest {
        cluster_id: "c".into(),
        term: Term(term),
        primary: process(primary),
        previous: Some(process(9)),
        released: None,
        voters: voters.iter().map(|v| process(*v).voter()).collect(),
        quorum,
        copies_min: 2,
        config_version: 10,
        nonce: Nonce(7),
        members: BTreeMap::from_iter((0..4).map(|n| (node(n), u64::from(n) + 1))),
        recovered: None,
        kept: None,
    }
}

/// One engine, n0, with a bucket that answers at once unless told otherwise.
struct Bench {
    engine: Engine,
    now: u64,
    manifest: Manifest,
    /// What swaps of the manifest answer, if not the truth; they do not land then.
    swap: Option<StoreResult>,
    swaps: Vec<Manifest>,
    hold_disk: bool,
    held: Vec<LocalSeq>,
    hold_uploads: bool,
    hold_reads: bool,
    held_reads: Vec<CallId>,
    /// What LISTs after the seal show, in order; then nothing.
    after_seal: Vec<bool>,
    seals: Vec<ChunkSeq>,
    pieces: Vec<LogPiece>,
    log_end: ChunkFact,
    /// This node takes the elector lock, and keeps it.
    elector: bool,
    /// Nodes whose registrations say that they stopped.
    stopped: Vec<u8>,
    seen: Vec<Command>,
}

impl Bench {
    fn new(manifest: Manifest, stored: &[(u64, u64)], visible: u64, mutant: Option<Mutant>) -> Self {
        Self::with(manifest, stored, visible, mutant, |_| {})
    }

    fn with(
        manifest: Manifest,
        stored: &[(u64, u64)],
        visible: u64,
        mutant: Option<Mutant>,
        adjust: impl FnOnce(&mut Bench),
    ) -> Self {
        let nodes = (0..4).map(|n| registered(n, false));
        let start = Start {
            cluster_id: "c".into(),
            me: process(0),
            address: String::new(),
            settings: Settings::default(),
            stored: Stored { promised: Term(0), runs: runs(stored), visible: LogIndex(visible), led: None },
            seed: 1,
            nodes: nodes.collect(),
        };
        let uploaded = stored.last().map_or(0, |(_, i)| *i);
        let mut bench = Self {
            engine: Engine::broken(1_000, start, mutant),
            now: 1_000,
            manifest,
            swap: None,
            swaps: vec![],
            hold_disk: false,
            held: vec![],
            hold_uploads: false,
            hold_reads: false,
            held_reads: vec![],
            after_seal: vec![],
            seals: vec![],
            pieces: vec![],
            elector: false,
            stopped: vec![],
            log_end: ChunkFact { seq: ChunkSeq(3), term: Term(1), last_index: LogIndex(uploaded) },
            seen: vec![],
        };
        adjust(&mut bench);
        bench.pump();
        bench
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(self.now, event);
        self.pump();
    }

    fn message(&mut self, from: u8, message: Message) {
        self.tell(Event::Message { from: node(from), message });
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(50) {
            self.now += 50;
            self.tell(Event::Tick);
        }
    }

    fn pump(&mut self) {
        while let Some(command) = self.engine.next_command() {
            self.seen.push(command.clone());
            match command {
                Command::Local { seq, .. } if self.hold_disk => self.held.push(seq),
                Command::Local { seq, .. } => self.engine.local_done(self.now, seq),
                Command::Store { call, what } => self.answer(call, what),
                Command::StartUploads { term, after, .. } => {
                    self.log_end = ChunkFact { seq: after, term, ..self.log_end }
                }
                Command::Flush(to) if !self.hold_uploads && to > self.log_end.last_index => {
                    self.log_end.seq = self.log_end.seq.next();
                    self.log_end.last_index = to;
                    self.engine.chunk_landed(self.now, self.log_end.term, self.log_end.seq, to);
                }
                Command::Lead { term } => self.engine.handle(self.now, Event::Leading(term)),
                _ => {}
            }
        }
    }

    fn answer(&mut self, call: CallId, what: StoreCall) {
        let result = match what {
            StoreCall::ReadManifest if self.hold_reads => return self.held_reads.push(call),
            StoreCall::ReadManifest => StoreResult::Manifest(Some(self.manifest.clone())),
            StoreCall::SwapManifest { expected, manifest } => {
                self.swaps.push((*manifest).clone());
                match self.swap.clone() {
                    Some(result) => result,
                    None if expected == Some(self.manifest.nonce) => {
                        self.manifest = *manifest;
                        StoreResult::Done
                    }
                    None => StoreResult::Lost,
                }
            }
            StoreCall::ReadLock => StoreResult::Lock(Some(ElectorLock {
                node_id: if self.elector { node(0) } else { node(1) },
                session: process(1).session,
                address: String::new(),
                counter: self.now,
                nonce: Nonce(u128::from(self.now)),
            })),
            StoreCall::SwapLock { .. } if self.elector => StoreResult::Done,
            StoreCall::SwapLock { .. } => StoreResult::Lost,
            StoreCall::ListNodes => StoreResult::Nodes(self.stopped.iter().map(|n| registered(*n, true)).collect()),
            StoreCall::MarkStopped { .. } => StoreResult::Done,
            StoreCall::LoadLog => {
                for piece in std::mem::take(&mut self.pieces) {
                    self.engine.handle(self.now, Event::LogPiece { call, piece });
                    self.pump();
                }
                StoreResult::Loaded(Some(self.log_end))
            }
            StoreCall::CreateSeal { seq, term } => {
                self.seals.push(seq);
                StoreResult::Sealed(ChunkFact { seq, term, last_index: self.log_end.last_index })
            }
            StoreCall::CheckSeal { .. } => {
                let more = if self.after_seal.is_empty() { false } else { self.after_seal.remove(0) };
                StoreResult::AnythingAfter(more)
            }
        };
        self.engine.handle(self.now, Event::StoreDone { call, result });
    }

    fn leads(&self) -> bool {
        self.seen.iter().any(|c| matches!(c, Command::Lead { .. }))
    }

    /// A replica follows and holds everything up to `held`.
    fn follow(&mut self, n: u8, stream: u64, log: &[(u64, u64)], held: u64) {
        let term = self.manifest.term;
        let hello = Hello {
            process: process(n),
            term,
            session: process(0).session,
            promised: term,
            runs: runs(log),
            stopping: false,
        };
        self.tell(Event::StreamHello { stream: StreamId(stream), hello: Box::new(hello) });
        self.receipt(n, stream, held);
    }

    fn receipt(&mut self, n: u8, stream: u64, held: u64) {
        let receipt = Receipt { term: self.manifest.term, incarnation: process(n).incarnation, held: LogIndex(held) };
        self.tell(Event::FromReplica { stream: StreamId(stream), frame: ToPrimary::Receipt(receipt) });
    }

    fn append(&mut self, last: u64) -> bool {
        let term = self.manifest.term;
        let Ok(seq) = self.engine.appended(self.now, term, LogIndex(last)) else { return false };
        if self.hold_disk {
            self.held.push(seq);
        } else {
            self.engine.local_done(self.now, seq);
        }
        self.pump();
        true
    }

    fn sync(&mut self) {
        for seq in std::mem::take(&mut self.held) {
            self.engine.local_done(self.now, seq);
        }
        self.pump();
    }

    fn read(&mut self) -> ReadStart {
        let read = self.engine.read_begin(self.now);
        self.pump();
        read
    }

    /// The greatest read that was let in.
    fn served(&self) -> u64 {
        self.seen
            .iter()
            .filter_map(|c| match c {
                Command::ReadsReady { through, .. } => Some(through.0),
                _ => None,
            })
            .max()
            .unwrap_or(0)
    }

    fn rounds(&self) -> Vec<u64> {
        self.seen
            .iter()
            .filter_map(|c| match c {
                Command::Send { message: Message::Confirm { round, .. }, .. } => Some(*round),
                _ => None,
            })
            .collect()
    }

    fn promised(&self) -> Option<(Run, Term)> {
        self.seen.iter().rev().find_map(|c| match c {
            Command::Send { message: Message::Promised { end, term, .. }, .. } => Some((*end, *term)),
            _ => None,
        })
    }

    fn confirm(&mut self, from: u8, round: u64) {
        let (term, incarnation) = (self.manifest.term, process(from).incarnation);
        self.message(from, Message::Confirmed { term, round, incarnation });
    }

    fn shown(&self) -> u64 {
        self.seen
            .iter()
            .filter_map(|c| match c {
                Command::Show(index) => Some(index.0),
                _ => None,
            })
            .max()
            .unwrap_or(0)
    }
}

/// n0 is Primary of term 5 with voters n0, n1, n2, all caught up.
fn primary(mutant: Option<Mutant>) -> Bench {
    let mut bench = Bench::new(manifest(5, 0, &[0, 1, 2], -1), &[(1, 10)], 10, mutant);
    assert!(bench.leads());
    bench.follow(1, 1, &[(1, 10)], 10);
    bench.follow(2, 2, &[(1, 10)], 10);
    bench
}

/// n0 follows n1, the Primary of term 5.
fn replica(
    mutant: Option<Mutant>,
    log: &[(u64, u64)],
    visible: u64,
    common: u64,
    end: Run,
    commit: u64,
) -> (Bench, StreamId) {
    let mut bench = Bench::new(manifest(5, 1, &[0, 1, 2], -1), log, visible, mutant);
    let stream = bench.seen.iter().find_map(|c| match c {
        Command::Follow { stream, .. } => Some(*stream),
        _ => None,
    });
    let stream = stream.expect("it follows");
    bench.tell(welcome(stream, common, end, commit));
    (bench, stream)
}

fn welcome(stream: StreamId, common: u64, end: Run, commit: u64) -> Event {
    let welcome = Welcome {
        term: Term(5),
        session: process(1).session,
        common: LogIndex(common),
        end,
        commit: LogIndex(commit),
        recovered: None,
    };
    Event::FromPrimary { stream, frame: ToReplica::Welcome(welcome) }
}

/// The rule holds as written, and not in the broken variant.
fn holds(mutant: Mutant, rule: impl Fn(Option<Mutant>) -> bool) {
    assert!(rule(None), "the rule does not hold");
    assert!(!rule(Some(mutant)), "{mutant:?} is not caught");
}

#[test]
fn a_round_serves_what_arrived_before_it_was_sent() {
    // Flaw 19c.
    holds(Mutant::RoundServesLaterReads, |mutant| {
        let mut bench = primary(mutant);
        let ReadStart::Wait(first) = bench.read() else { panic!("it waits for a round") };
        let ReadStart::Wait(_later) = bench.read() else { panic!("it waits for a round") };
        let round = *bench.rounds().first().expect("sent");
        bench.confirm(1, round);
        bench.served() == first.0
    });
}

#[test]
fn while_joint_both_sets_confirm_reads() {
    // Flaw 9: {n0, n1, n2} becomes {n0, n1, n2, n3}; the swap's answer is lost; n2 and n3 may have elected another.
    holds(Mutant::JointReadsOldOnly, |mutant| {
        let mut bench = primary(mutant);
        bench.swap = Some(StoreResult::Unknown);
        bench.hold_reads = true;
        bench.follow(3, 3, &[(1, 10)], 10);
        bench.pass(200);
        assert!(bench.engine.status(bench.now).changing);
        let ReadStart::Wait(read) = bench.read() else { panic!("it waits") };
        let round = *bench.rounds().last().expect("sent");
        bench.confirm(1, round); // two of the old three, two of the new four, which want three
        bench.served() < read.0
    });
}

#[test]
fn contents_of_the_manifest_never_repeat() {
    // Flaw 18: voters from O to N and back to O must not bring the first version back to life for an old swap.
    holds(Mutant::AbaEtag, |mutant| {
        let mut bench = primary(mutant);
        let mut nonces = vec![];
        for quorum in [1, -1, 1, -1] {
            bench.tell(Event::SetCluster { quorum: Some(quorum), copies_min: None });
            bench.pass(300);
            assert_eq!(bench.manifest.quorum, quorum);
            nonces.push(bench.manifest.nonce);
        }
        nonces.sort();
        nonces.windows(2).all(|pair| pair[0] != pair[1])
    });
}

#[test]
fn an_old_manifest_says_nothing_about_a_swap() {
    // Flaw 8: the change stays joint and repeats the same swap.
    holds(Mutant::OldManifestMeansFailed, |mutant| {
        let mut bench = primary(mutant);
        bench.swap = Some(StoreResult::Unknown);
        bench.hold_reads = true;
        bench.tell(Event::SetCluster { quorum: Some(1), copies_min: None });
        let reads = std::mem::take(&mut bench.held_reads);
        let old = bench.manifest.clone();
        for call in reads {
            bench.tell(Event::StoreDone { call, result: StoreResult::Manifest(Some(old.clone())) });
        }
        bench.engine.status(bench.now).changing && bench.swaps.len() == 2 && bench.swaps[0] == bench.swaps[1]
    });
}

#[test]
fn a_change_counts_both_rules_and_waits_for_the_new_one() {
    // R10 (1), (2): to quorum 2 of three, what only two hold must reach the third, or the bucket, before the swap.
    for mutant in [Mutant::ChangeSkipsCatchUp, Mutant::QuorumChangeUnchecked] {
        holds(mutant, |mutant| {
            let mut bench = primary(mutant);
            bench.hold_uploads = true;
            bench.append(11);
            bench.receipt(1, 1, 11);
            assert_eq!(bench.shown(), 11);
            bench.tell(Event::SetCluster { quorum: Some(2), copies_min: None });
            let early = bench.swaps.len();
            bench.receipt(2, 2, 11);
            early == 0 && bench.swaps.len() == 1
        });
    }
    holds(Mutant::NoJoint, |mutant| {
        let mut bench = primary(mutant);
        bench.swap = Some(StoreResult::Unknown);
        bench.hold_reads = true;
        bench.hold_uploads = true;
        bench.tell(Event::SetCluster { quorum: Some(2), copies_min: None });
        bench.append(11);
        bench.receipt(1, 1, 11);
        bench.shown() < 11 // two of three commit by the old rule only
    });
}

#[test]
fn nothing_is_changed_before_the_tail_is_up() {
    // Flaw 11.
    holds(Mutant::ChangeBeforeReady, |mutant| {
        let mut bench = Bench::with(manifest(5, 0, &[1, 2], -1), &[(1, 10)], 5, mutant, |bench| {
            bench.hold_uploads = true;
            bench.log_end.last_index = LogIndex(8);
        });
        bench.pass(300);
        bench.swaps.is_empty()
    });
}

#[test]
fn a_promise_covers_what_was_accepted_before() {
    // Flaw 6: the answer waits for the disk, and reports all of it.
    holds(Mutant::PromiseBeforeSync, |mutant| {
        let mut bench = primary(mutant);
        bench.hold_disk = true;
        bench.append(12);
        bench.message(1, Message::PromiseAsk { election: 1, term: Term(6) });
        let early = bench.promised();
        bench.sync();
        early.is_none() && bench.promised() == Some((run(5, 12), Term(6)))
    });
}

#[test]
fn a_promise_is_stored_before_it_is_answered() {
    holds(Mutant::PromiseNotDurable, |mutant| {
        let mut bench = primary(mutant);
        bench.message(1, Message::PromiseAsk { election: 1, term: Term(6) });
        bench.seen.iter().any(|c| matches!(c, Command::Local { op: LocalOp::Promise(Term(6)), .. }))
    });
}

#[test]
fn a_primary_that_promised_creates_nothing_and_confirms_nothing() {
    // Flaw 12.
    holds(Mutant::PrimaryIgnoresOwnPromise, |mutant| {
        let mut bench = primary(mutant);
        bench.message(1, Message::PromiseAsk { election: 1, term: Term(6) });
        let read = bench.read();
        let rounds = bench.rounds().len();
        let _ = read;
        bench.engine.may_create(Term(5)) == Creating::No
            && !bench.append(11)
            && !bench.engine.may_start_chunk(Term(5))
            && rounds == 0
    });
}

#[test]
fn nothing_below_the_promise_is_accepted_or_confirmed() {
    holds(Mutant::AcceptBelowPromise, |mutant| {
        let (mut bench, stream) = replica(mutant, &[(1, 10)], 10, 10, run(1, 10), 10);
        bench.message(2, Message::PromiseAsk { election: 1, term: Term(6) });
        // The stream is over; the Primary of term 5 is not followed again.
        let before = bench.seen.len();
        bench.pass(500);
        let append = Append { term: Term(5), prev: run(1, 10), runs: vec![run(5, 11)], commit: LogIndex(10) };
        bench.tell(Event::FromPrimary { stream, frame: ToReplica::Append(append) });
        !bench.seen[before..].iter().any(|c| matches!(c, Command::Follow { .. } | Command::Local { .. }))
    });
    holds(Mutant::ConfirmBelowPromise, |mutant| {
        let (mut bench, _) = replica(mutant, &[(1, 10)], 10, 10, run(1, 10), 10);
        bench.message(2, Message::PromiseAsk { election: 1, term: Term(6) });
        bench.message(1, Message::Confirm { term: Term(5), round: 1 });
        !bench.seen.iter().any(|c| matches!(c, Command::Send { message: Message::Confirmed { .. }, .. }))
    });
}

#[test]
fn adopting_a_chunk_raises_the_promise() {
    // Flaw 17.
    holds(Mutant::AdoptWithoutPromise, |mutant| {
        let mut bench = Bench::with(manifest(5, 1, &[0, 1, 2], -1), &[(1, 10)], 10, mutant, |bench| {
            let fact = ChunkFact { seq: ChunkSeq(4), term: Term(5), last_index: LogIndex(12) };
            bench.pieces = vec![LogPiece::Chunks { chunks: vec![fact], prev: run(1, 10), runs: vec![run(5, 12)] }];
        });
        let stream = bench.seen.iter().find_map(|c| match c {
            Command::Follow { stream, .. } => Some(*stream),
            _ => None,
        });
        bench.tell(Event::FromPrimary { stream: stream.expect("follows"), frame: ToReplica::LoadObjectLog });
        let promise = bench.seen.iter().position(|c| matches!(c, Command::Local { op: LocalOp::Promise(Term(5)), .. }));
        let store = bench.seen.iter().position(|c| matches!(c, Command::Local { op: LocalOp::Store { .. }, .. }));
        promise.is_some_and(|p| store.is_some_and(|s| p < s))
    });
}

#[test]
fn a_seal_in_a_hole_counts_for_nothing() {
    // Flaw 1.
    holds(Mutant::NoCheckAfterSeal, |mutant| {
        let bench = Bench::with(manifest(5, 0, &[0, 1, 2], -1), &[(1, 10)], 10, mutant, |bench| {
            bench.after_seal = vec![true];
        });
        bench.leads() && bench.seals.len() == 2
    });
}

#[test]
fn a_higher_term_in_the_log_deposes() {
    // Flaw 13, by chunk and by snapshot.
    let chunk = LogPiece::Chunks {
        chunks: vec![ChunkFact { seq: ChunkSeq(4), term: Term(6), last_index: LogIndex(10) }],
        prev: run(1, 10),
        runs: vec![],
    };
    let snapshot = LogPiece::Snapshot {
        covers: ChunkFact { seq: ChunkSeq(4), term: Term(6), last_index: LogIndex(10) },
        runs: runs(&[(1, 10)]),
    };
    for (mutant, piece) in [(Mutant::SealAfterHigherTerm, chunk), (Mutant::SnapshotWithoutTerm, snapshot)] {
        holds(mutant, |mutant| {
            let bench = Bench::with(manifest(5, 0, &[0, 1, 2], -1), &[(1, 10)], 10, mutant, |bench| {
                bench.pieces = vec![piece.clone()];
            });
            !bench.leads() && bench.seals.is_empty()
        });
    }
}

#[test]
fn a_replica_reads_only_what_was_compared_with_the_primarys_log() {
    // What it shows is past the read index, and may be what an operator gave up (R12).
    holds(Mutant::ReadsUnverified, |mutant| {
        let mut bench = Bench::new(manifest(5, 1, &[0, 1, 2], -1), &[(1, 10)], 10, mutant);
        let ReadStart::Wait(_) = bench.read() else { panic!("it asks the Primary") };
        bench.message(1, Message::ReadIndex { id: 1, term: Term(5), index: LogIndex(8) });
        let early = bench.served();
        let followed = bench.seen.iter().find_map(|c| match c {
            Command::Follow { stream, .. } => Some(*stream),
            _ => None,
        });
        bench.tell(welcome(followed.expect("it follows"), 10, run(1, 10), 10));
        assert_eq!(bench.served(), 1, "and then it does read");
        early == 0
    });
}

#[test]
fn the_commit_index_shows_verified_entries_only() {
    // Flaw 16.
    holds(Mutant::CommitUnverified, |mutant| {
        let (bench, _) = replica(mutant, &[(1, 5), (3, 12)], 5, 5, run(5, 12), 12);
        bench.shown() <= 5
    });
}

#[test]
fn an_old_message_deletes_nothing_of_the_primarys_own_term() {
    // Flaw 15.
    holds(Mutant::OldMessageTruncates, |mutant| {
        let (mut bench, stream) = replica(mutant, &[(1, 10)], 10, 10, run(1, 10), 10);
        let append =
            |prev: Run, last: u64| Append { term: Term(5), prev, runs: vec![run(5, last)], commit: LogIndex(10) };
        bench.tell(Event::FromPrimary { stream, frame: ToReplica::Append(append(run(1, 10), 13)) });
        bench.tell(Event::StreamClosed(stream));
        bench.tell(Event::FromPrimary { stream, frame: ToReplica::Append(append(run(1, 10), 11)) });
        bench.engine.log_end() == run(5, 13)
    });
}

#[test]
fn the_object_log_deletes_only_from_the_first_difference() {
    // Flaw 4.
    holds(Mutant::ReconcileAlwaysTruncates, |mutant| {
        let bench = Bench::with(manifest(5, 0, &[0, 1, 2], -1), &[(1, 10)], 5, mutant, |bench| {
            bench.log_end.last_index = LogIndex(8);
            let fact = ChunkFact { seq: ChunkSeq(3), term: Term(1), last_index: LogIndex(8) };
            bench.pieces = vec![LogPiece::Chunks { chunks: vec![fact], prev: run(0, 0), runs: vec![run(1, 8)] }];
        });
        bench.engine.log_end() == run(1, 10)
    });
}

#[test]
fn another_incarnation_has_no_vote() {
    // R11, on promises and receipts.
    holds(Mutant::IgnoreIncarnation, |mutant| {
        let mut m = manifest(5, 0, &[0, 1, 2], -1);
        for voter in &mut m.voters[1..] {
            *voter = Voter { incarnation: Incarnation(77), ..voter.clone() };
        }
        let mut bench = Bench::new(m, &[(1, 10)], 10, mutant);
        bench.hold_uploads = true;
        bench.swap = Some(StoreResult::Unknown);
        bench.hold_reads = true;
        bench.follow(1, 1, &[(1, 10)], 10);
        bench.append(11);
        bench.receipt(1, 1, 11);
        bench.shown() < 11
    });
}

// ---- R9 (iii) ----

/// n0 is Primary of term 5 where only the bucket commits.
fn bucket_only(mutant: Option<Mutant>, adjust: impl FnOnce(&mut Manifest)) -> Bench {
    let mut m = manifest(5, 0, &[0, 1, 2], 0);
    adjust(&mut m);
    Bench::new(m, &[(1, 10)], 10, mutant)
}

#[test]
fn a_new_primary_waits_for_old_leases() {
    holds(Mutant::NoLeaseWait, |mutant| {
        let mut bench = bucket_only(mutant, |_| {});
        let early = bench.leads();
        bench.pass(2_100);
        !early && bench.leads()
    });
    // Not where the old session gave its lease up.
    assert!(bucket_only(None, |m| m.released = Some(process(9).session)).leads());
    // An earlier process of the same node may have led without having waited for the one before it.
    holds(Mutant::SameNodeSkipsLeaseWait, |mutant| {
        let earlier = ProcessId { session: Session(55), ..process(0) };
        !bucket_only(mutant, |m| m.previous = Some(earlier.clone())).leads()
    });
}

#[test]
fn the_wait_holds_back_reads_too() {
    // Flaw 3.
    holds(Mutant::LeaseWaitForWritesOnly, |mutant| {
        let mut bench = bucket_only(mutant, |_| {});
        let read = bench.read();
        let waits = matches!(read, ReadStart::Wait(_) | ReadStart::NoPrimary);
        waits && bench.served() == 0
    });
}

#[test]
fn a_lease_counts_from_when_the_read_was_sent() {
    holds(Mutant::LeaseFromAnswer, |mutant| {
        let mut bench = bucket_only(mutant, |m| m.released = Some(process(9).session));
        bench.hold_reads = true;
        let ReadStart::Wait(_) = bench.read() else { panic!("no lease yet") };
        let calls = std::mem::take(&mut bench.held_reads);
        bench.now += 1_900;
        let shown = bench.manifest.clone();
        for call in calls {
            bench.tell(Event::StoreDone { call, result: StoreResult::Manifest(Some(shown.clone())) });
        }
        bench.now += 200;
        matches!(bench.read(), ReadStart::Wait(_))
    });
}

#[test]
fn no_lease_while_a_change_is_undecided() {
    // Flaw 19a.
    holds(Mutant::LeaseDuringChange, |mutant| {
        let mut bench = bucket_only(mutant, |m| m.released = Some(process(9).session));
        bench.follow(1, 1, &[(1, 10)], 10);
        bench.follow(2, 2, &[(1, 10)], 10);
        let _ = bench.read();
        assert!(matches!(bench.read(), ReadStart::Now(_)), "the lease is in force");
        bench.swap = Some(StoreResult::Unknown);
        bench.hold_reads = true;
        bench.tell(Event::SetCluster { quorum: Some(1), copies_min: None });
        matches!(bench.read(), ReadStart::Wait(_))
    });
}

// ---- R6 ----

/// n0 holds the lock and finds that n1, the Primary of term 5, is gone. The others promise, with these ends.
fn election(mutant: Option<Mutant>, quorum: i32, own: &[(u64, u64)], promises: &[(u8, Run)]) -> Bench {
    election_with(mutant, quorum, own, promises, |_| {})
}

fn election_with(
    mutant: Option<Mutant>,
    quorum: i32,
    own: &[(u64, u64)],
    promises: &[(u8, Run)],
    adjust: impl FnOnce(&mut Manifest),
) -> Bench {
    let mut manifest = manifest(5, 1, &[0, 1, 2, 3], quorum);
    adjust(&mut manifest);
    let mut bench = Bench::with(manifest, own, 5, mutant, |bench| bench.elector = true);
    assert!(bench.engine.status(bench.now).is_elector);
    bench.tell(Event::PeerDown(node(1)));
    let sent = |bench: &Bench, want: fn(&Message) -> Option<u64>| {
        bench.seen.iter().rev().find_map(|c| match c {
            Command::Send { message, .. } => want(message),
            _ => None,
        })
    };
    let query = sent(&bench, |m| if let Message::HearsAsk { query, .. } = m { Some(*query) } else { None });
    for n in [2, 3] {
        let incarnation = process(n).incarnation;
        let query = query.expect("asked");
        bench.message(n, Message::Hears { query, incarnation, hears: false, primary_store_age: None });
    }
    let id = sent(&bench, |m| if let Message::PromiseAsk { election, .. } = m { Some(*election) } else { None });
    for (n, end) in promises {
        let (term, process) = (Term(6), process(*n));
        let election = id.expect("an election began");
        bench
            .message(*n, Message::Promised { election, term, process, end: *end, stopping: false, store_age: Some(1) });
    }
    bench.pass(100);
    bench
}

#[test]
fn an_election_writes_term_and_primary_and_nothing_else() {
    // Flaw 10: the Elector's own configuration says another quorum than the manifest.
    holds(Mutant::ElectionWritesQuorum, |mutant| {
        let bench = election(mutant, 1, &[(1, 10)], &[(2, run(1, 10)), (3, run(1, 10))]);
        let swapped = bench.swaps.first().expect("elected");
        let before = manifest(5, 1, &[0, 1, 2, 3], 1);
        (&swapped.voters, swapped.quorum, swapped.copies_min) == (&before.voters, before.quorum, before.copies_min)
            && swapped.term == Term(6)
            && swapped.config_version == before.config_version + 1
            && swapped.previous == Some(process(1))
    });
}

#[test]
fn the_greatest_term_then_index_is_elected() {
    let elected = |mutant, own: &[(u64, u64)], promises: &[(u8, Run)]| {
        election(mutant, 1, own, promises).swaps.first().map(|m| m.primary.clone())
    };
    let ends = [(2, run(4, 11)), (3, run(3, 30))];
    assert_eq!(elected(None, &[(1, 10)], &ends), Some(process(2)));
    holds(Mutant::PickByIndexOnly, |mutant| elected(mutant, &[(1, 10)], &ends) == Some(process(2)));
    holds(Mutant::PickAnyPromiser, |mutant| {
        elected(mutant, &[(1, 10)], &[(2, run(1, 10)), (3, run(4, 12))]) == Some(process(3))
    });
    // Among equals rather not the Elector itself.
    assert_ne!(elected(None, &[(1, 10)], &[(2, run(1, 10)), (3, run(1, 10))]), Some(process(0)));
}

/// R12: an operator gave voters up in the term before this one; what was left ended at entry 12.
fn recovered(manifest: &mut Manifest) {
    manifest.recovered = Some(Recovered { term: Term(4), index: LogIndex(12) });
}

#[test]
fn what_was_given_up_does_not_come_back() {
    // Found by seeds 1795624567420 and 1795624572083: the one node that still has it is elected.
    let taken_over = |mutant, visible| {
        Bench::with(manifest(5, 0, &[0], -1), &[(1, 10), (3, 20)], visible, mutant, |bench| {
            recovered(&mut bench.manifest);
            bench.log_end.last_index = LogIndex(11);
        })
    };
    holds(Mutant::GivenUpComesBack, |mutant| {
        let bench = taken_over(mutant, 20);
        !bench.leads() && bench.seen.iter().any(|c| matches!(c, Command::Rebuild(_)))
    });
    // None of it was shown here: it goes, and the node goes on.
    let mut bench = taken_over(None, 12);
    bench.pass(10_000); // Read leases of the one before run out.
    assert!(bench.leads());
    assert_eq!(bench.engine.log_end(), run(3, 12));
    // Nor is anybody elected for it, or reported to go on with it.
    holds(Mutant::GivenUpComesBack, |mutant| {
        let promises = [(2, run(3, 12)), (3, run(3, 30))];
        let bench = election_with(mutant, 1, &[(1, 10)], &promises, recovered);
        bench.swaps.first().map(|m| m.primary.clone()) == Some(process(2))
    });
}

#[test]
fn who_differs_from_the_object_log_learns_of_recoveries_before_it_halts() {
    // Found by seed 1795624566727: a node that comes back is told to load the object log before it has read the manifest.
    holds(Mutant::HaltUnlearned, |mutant| {
        let mut bench = Bench::with(manifest(5, 1, &[1, 2], -1), &[(1, 10), (3, 20)], 20, mutant, |bench| {
            recovered(&mut bench.manifest);
            bench.hold_reads = true;
            let fact = ChunkFact { seq: ChunkSeq(4), term: Term(5), last_index: LogIndex(30) };
            bench.pieces = vec![LogPiece::Chunks { chunks: vec![fact], prev: run(3, 12), runs: vec![run(5, 30)] }];
        });
        bench.message(1, Message::Elected { term: Term(5), primary: process(1) });
        let told_to_load = |bench: &mut Bench| {
            let stream = bench.seen.iter().rev().find_map(|c| match c {
                Command::Follow { stream, .. } => Some(*stream),
                _ => None,
            });
            bench.tell(Event::FromPrimary { stream: stream.expect("follows"), frame: ToReplica::LoadObjectLog });
        };
        let pieces = bench.pieces.clone();
        told_to_load(&mut bench);
        let halts = |bench: &Bench| bench.seen.iter().any(|c| matches!(c, Command::Halt(_)));
        if halts(&bench) {
            return false;
        }
        bench.hold_reads = false;
        bench.pieces = pieces;
        for call in std::mem::take(&mut bench.held_reads) {
            bench.answer(call, StoreCall::ReadManifest);
        }
        told_to_load(&mut bench);
        !halts(&bench) && bench.seen.iter().any(|c| matches!(c, Command::Rebuild(_)))
    });
}

#[test]
fn too_few_promises_elect_nobody() {
    // Four voters, two copies commit: three promises elect.
    holds(Mutant::ElectionQuorumMinusOne, |mutant| {
        election(mutant, 1, &[(1, 10)], &[(2, run(1, 10))]).swaps.is_empty()
    });
    assert_eq!(election(None, 1, &[(1, 10)], &[(2, run(1, 10)), (3, run(1, 10))]).swaps.len(), 1);
}

#[test]
fn a_primary_that_enough_voters_hear_stays() {
    // Two of four voters hear it: enough to commit with quorum 1, too few for a majority.
    for (quorum, stays) in [(1, true), (-1, false)] {
        let mut bench =
            Bench::with(manifest(5, 1, &[0, 1, 2, 3], quorum), &[(1, 10)], 5, None, |bench| bench.elector = true);
        bench.tell(Event::PeerDown(node(1)));
        let query = bench.seen.iter().rev().find_map(|c| match c {
            Command::Send { message: Message::HearsAsk { query, .. }, .. } => Some(*query),
            _ => None,
        });
        for n in [2, 3] {
            let (incarnation, query) = (process(n).incarnation, query.expect("asked"));
            bench.message(n, Message::Hears { query, incarnation, hears: true, primary_store_age: Some(5) });
        }
        let asked = bench.seen.iter().any(|c| matches!(c, Command::Send { message: Message::PromiseAsk { .. }, .. }));
        assert_eq!(asked, !stays);
    }
}

#[test]
fn a_released_lease_is_not_used_again_while_the_release_stands() {
    // This process gave its lease up in an earlier term; a successor that reads so would not wait.
    let mut bench = bucket_only(None, |m| (m.previous, m.released) = (None, Some(process(0).session)));
    bench.swap = Some(StoreResult::Unknown);
    let _ = bench.read();
    assert!(matches!(bench.read(), ReadStart::Wait(_)), "the release stands");
    bench.swap = None;
    bench.pass(2_000);
    let _ = bench.read();
    assert!(matches!(bench.read(), ReadStart::Now(_)), "it is taken back first");
    assert_eq!(bench.manifest.released, None);
}

#[test]
fn a_primary_that_is_told_of_the_next_one_steps_down_at_once() {
    let mut bench = primary(None);
    bench.hold_reads = true;
    bench.message(1, Message::Elected { term: Term(6), primary: process(2) });
    assert!(bench.seen.iter().any(|c| matches!(c, Command::StepDown { term: Term(5) })));
    assert!(bench.seen.iter().any(|c| matches!(c, Command::Follow { primary, .. } if *primary == node(2))));
    // An older one tells nothing.
    let mut bench = primary(None);
    bench.message(1, Message::Elected { term: Term(5), primary: process(2) });
    assert!(!bench.seen.iter().any(|c| matches!(c, Command::StepDown { .. })));
}

#[test]
fn who_has_left_follows_until_it_is_finished_and_takes_part_in_no_election() {
    let stopping = |voters: &[u8]| {
        let mut bench = Bench::with(manifest(5, 1, voters, -1), &[(1, 10)], 10, None, |bench| bench.elector = true);
        bench.pass(100);
        bench.tell(Event::Stop);
        bench.pass(500);
        bench
    };
    let left = |bench: &Bench| bench.seen.iter().filter(|c| matches!(c, Command::Left)).count();
    let elects = |bench: &Bench| {
        bench.seen.iter().any(|c| matches!(c, Command::Report(netsy_protocol::command::Report::ElectionBegan { .. })))
    };
    // Still a voter: it goes nowhere, and elects where that is needed.
    let mut bench = stopping(&[0, 1]);
    assert_eq!(left(&bench), 0);
    bench.message(1, Message::PromiseAsk { election: 1, term: Term(6) });
    assert!(bench.promised().is_some());
    // No voter any more. The last Primary goes: the bucket is the whole cluster, and there is nobody to elect.
    let mut bench = stopping(&[]);
    assert_eq!(left(&bench), 1);
    assert!(!bench.seen.iter().any(|c| matches!(c, Command::Stopped { .. })));
    bench.tell(Event::PeerDown(node(1)));
    bench.pass(3_000);
    bench.message(2, Message::PromiseAsk { election: 1, term: Term(6) });
    assert_eq!(bench.promised(), None);
    assert!(!elects(&bench) && bench.swaps.is_empty());
    bench.tell(Event::Finish);
    assert!(bench.seen.iter().any(|c| matches!(c, Command::Stopped { undone } if undone.is_empty())));
    assert_eq!(left(&bench), 1);
}

/// To whom the Elector was asked to give the next term.
fn wished(bench: &Bench) -> Option<NodeId> {
    bench.seen.iter().find_map(|c| match c {
        Command::Send { message: Message::HandOver { to, .. }, .. } => to.clone(),
        _ => None,
    })
}

#[test]
fn a_primary_whose_disk_is_full_hands_over_to_one_that_can_write() {
    let mut bench = primary(None);
    bench.hold_disk = true;
    assert!(bench.append(11));
    // n1 and n2 hold the entry, which is thereby committed; n0's own disk has no room for it.
    bench.receipt(1, 1, 11);
    bench.receipt(2, 2, 11);
    assert_eq!(bench.shown(), 11);
    bench.tell(Event::DiskFull(true));
    bench.pass(500);
    assert_eq!(wished(&bench), None, "a disk may be full for a moment");
    for _ in 0..40 {
        bench.pass(100);
        bench.receipt(1, 1, 11);
        bench.receipt(2, 2, 11);
    }
    assert!(wished(&bench).is_some_and(|to| to != node(0)), "it hands over");
    assert_eq!(bench.engine.may_create(Term(5)), Creating::Paused);
}

#[test]
fn a_disk_that_has_room_again_keeps_its_primary() {
    let mut bench = primary(None);
    bench.tell(Event::DiskFull(true));
    bench.pass(800);
    bench.tell(Event::DiskFull(false));
    bench.pass(3_000);
    assert_eq!(wished(&bench), None);
    assert_eq!(bench.engine.may_create(Term(5)), Creating::Yes);
}

#[test]
fn a_primary_that_cannot_read_the_manifest_steps_down_at_the_word_of_a_later_term() {
    let mut bench = primary(None);
    bench.hold_reads = true;
    assert!(bench.append(11));
    bench.message(1, Message::Elected { term: Term(6), primary: process(2) });
    assert!(bench.seen.iter().any(|c| matches!(c, Command::StepDown { term: Term(5) })));
    assert_eq!(bench.engine.may_create(Term(5)), Creating::No);
    assert!(bench.seen.iter().any(|c| matches!(c, Command::Follow { primary, .. } if *primary == node(2))));
}

#[test]
fn a_replica_that_keeps_up_makes_the_snapshots_and_one_that_is_gone_does_not() {
    let told = |bench: &Bench| -> Vec<(u64, bool)> {
        let frames = bench.seen.iter().filter_map(|c| match c {
            Command::ToReplica { stream, frame: ToReplica::Beat(beat) } => Some((stream.0, beat.snapshots)),
            _ => None,
        });
        let all: Vec<_> = frames.collect();
        all[all.len().saturating_sub(2)..].to_vec()
    };
    let mut alone = Bench::new(manifest(5, 0, &[0], -1), &[(1, 10)], 10, None);
    alone.pass(6_000);
    assert!(alone.engine.makes_snapshots(), "nobody else is there");
    let mut bench = primary(None);
    let alive = |bench: &mut Bench, stream| {
        let frame = ToPrimary::Alive { watch_lowest: None, watch_floor: None, stopping: false };
        bench.tell(Event::FromReplica { stream: StreamId(stream), frame });
    };
    for _ in 0..10 {
        alive(&mut bench, 1);
        alive(&mut bench, 2);
        bench.pass(200);
    }
    assert!(!bench.engine.makes_snapshots());
    assert_eq!(told(&bench), [(1, true), (2, false)]);
    bench.tell(Event::StreamClosed(StreamId(1)));
    for _ in 0..10 {
        alive(&mut bench, 2);
        bench.pass(200);
    }
    assert_eq!(told(&bench)[1], (2, true));
    bench.tell(Event::StreamClosed(StreamId(2)));
    bench.pass(1_000);
    assert!(bench.engine.makes_snapshots());
}

fn elections_began(bench: &Bench) -> bool {
    bench.seen.iter().any(|c| matches!(c, Command::Send { message: Message::PromiseAsk { .. }, .. }))
}

#[test]
fn a_voter_that_is_late_with_its_answer_is_asked_again() {
    let mut bench = Bench::with(manifest(5, 1, &[0, 1, 2], -1), &[(1, 10)], 5, None, |bench| bench.elector = true);
    bench.tell(Event::PeerDown(node(1)));
    let asked = |bench: &Bench| {
        let all = bench.seen.iter().filter_map(|c| match c {
            Command::Send { to, message: Message::HearsAsk { query, .. } } if *to == node(2) => Some(*query),
            _ => None,
        });
        all.collect::<Vec<u64>>()
    };
    let first = *asked(&bench).last().expect("asked");
    bench.pass(600);
    assert!(asked(&bench).len() >= 2 && asked(&bench).iter().all(|query| *query == first));
    let lost = |c: &Command| matches!(c, Command::Report(netsy_protocol::command::Report::QuorumLost { .. }));
    assert!(!bench.seen.iter().any(lost), "it had no time yet");
    let incarnation = process(2).incarnation;
    bench.message(2, Message::Hears { query: first, incarnation, hears: false, primary_store_age: None });
    assert!(elections_began(&bench));
}

#[test]
fn no_hand_over_without_an_elector_or_object_storage() {
    // Nobody was heard as Elector.
    let mut bench = primary(None);
    bench.tell(Event::MovePrimary(Some(node(1))));
    assert_eq!(bench.engine.may_create(Term(5)), Creating::Yes);
    assert!(bench.seen.iter().any(|c| matches!(c, Command::Report(netsy_protocol::command::Report::Declined(_)))));
    // With one, writes pause; they go on when nothing comes of it.
    let mut bench = Bench::with(manifest(5, 0, &[0, 1, 2], -1), &[(1, 10)], 10, None, |bench| bench.elector = true);
    bench.pass(100);
    bench.follow(1, 1, &[(1, 10)], 10);
    bench.swap = Some(StoreResult::Unknown);
    bench.tell(Event::MovePrimary(Some(node(1))));
    assert_eq!(bench.engine.may_create(Term(5)), Creating::No, "it promised the next term to itself, the Elector");
    // Without object storage they do not pause.
    let mut bench = Bench::with(manifest(5, 0, &[0, 1, 2], -1), &[(1, 10)], 10, None, |bench| bench.elector = true);
    bench.pass(100);
    bench.follow(1, 1, &[(1, 10)], 10);
    bench.engine.store_answers(bench.now, false);
    bench.tell(Event::MovePrimary(Some(node(1))));
    assert_eq!(bench.engine.may_create(Term(5)), Creating::Yes);
}

#[test]
fn a_node_that_stopped_and_runs_again_is_called_again() {
    let called = |bench: &Bench, n: u8| {
        let last = bench.seen.iter().rev().find_map(|c| match c {
            Command::Nodes(nodes) => nodes.iter().find(|known| known.node_id == node(n)).map(|known| !known.stopped),
            _ => None,
        });
        last.expect("nodes were told")
    };
    // n1 and n2 stopped a while ago, by their registrations, and were started again with the same databases.
    let mut bench = Bench::with(manifest(5, 3, &[0, 1, 2, 3], -1), &[(1, 10)], 5, None, |bench| bench.elector = true);
    bench.stopped = vec![1, 2];
    bench.pass(31_000);
    assert!(!called(&bench, 1) && !called(&bench, 2));
    let report = NodeReport {
        process: process(1),
        address: String::new(),
        promised: Term(5),
        end: run(1, 10),
        leads: None,
        hears: None,
        store_age: None,
        stopping: false,
    };
    bench.message(1, Message::Report(report));
    assert!(called(&bench, 1), "it reports");
    bench.message(3, Message::Elected { term: Term(6), primary: process(2) });
    assert!(called(&bench, 2), "it was elected");
}
