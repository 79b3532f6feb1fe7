//! One engine on a bench: what the rules' schedules share.

use netsy_api::ids::{ChunkSeq, Incarnation, LogIndex, NodeId, Nonce, Session, Term};
use netsy_protocol::command::{Command, StoreCall};
use netsy_protocol::config::{RegisteredNode, Settings, Start, Stored};
use netsy_protocol::engine::Engine;
use netsy_protocol::event::{CallId, ChunkFact, Event, LocalSeq, LogPiece, StoreResult, StreamId};
use netsy_protocol::manifest::{ElectorLock, Manifest, ProcessId};
use netsy_protocol::message::{Hello, Message, Receipt, ToPrimary, ToReplica, Welcome};
use netsy_protocol::mutant::Mutant;
use netsy_protocol::read::ReadStart;
use netsy_protocol::reconcile::{Run, Runs};
use std::collections::BTreeMap;

pub(crate) fn node(n: u8) -> NodeId {
    NodeId::new(format!("n{n}")).expect("valid")
}

pub(crate) fn process(n: u8) -> ProcessId {
    ProcessId { node_id: node(n), incarnation: Incarnation(u128::from(n) + 1), session: Session(u128::from(n) + 100) }
}

pub(crate) fn registered(n: u8, stopped: bool) -> RegisteredNode {
    RegisteredNode { node_id: node(n), incarnation: process(n).incarnation, stopped, address: String::new() }
}

pub(crate) fn run(term: u64, last: u64) -> Run {
    Run { term: Term(term), last_index: LogIndex(last) }
}

pub(crate) fn runs(list: &[(u64, u64)]) -> Runs {
    Runs::new(list.iter().map(|&(t, i)| run(t, i))).expect("rising")
}

pub(crate) fn manifest(term: u64, primary: u8, voters: &[u8], quorum: i32) -> Manifest {
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
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) now: u64,
    pub(crate) manifest: Manifest,
    /// What swaps of the manifest answer, if not the truth; they do not land then.
    pub(crate) swap: Option<StoreResult>,
    pub(crate) swaps: Vec<Manifest>,
    pub(crate) hold_disk: bool,
    pub(crate) held: Vec<LocalSeq>,
    pub(crate) hold_uploads: bool,
    pub(crate) hold_reads: bool,
    pub(crate) held_reads: Vec<CallId>,
    /// What LISTs after the seal show, in order; then nothing.
    pub(crate) after_seal: Vec<bool>,
    pub(crate) seals: Vec<ChunkSeq>,
    pub(crate) pieces: Vec<LogPiece>,
    pub(crate) log_end: ChunkFact,
    /// This node takes the elector lock, and keeps it.
    pub(crate) elector: bool,
    /// Nodes whose registrations say that they stopped.
    pub(crate) stopped: Vec<u8>,
    pub(crate) seen: Vec<Command>,
}

impl Bench {
    pub(crate) fn new(manifest: Manifest, stored: &[(u64, u64)], visible: u64, mutant: Option<Mutant>) -> Self {
        Self::with(manifest, stored, visible, mutant, |_| {})
    }

    pub(crate) fn with(
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

    pub(crate) fn tell(&mut self, event: Event) {
        self.engine.handle(self.now, event);
        self.pump();
    }

    pub(crate) fn message(&mut self, from: u8, message: Message) {
        self.tell(Event::Message { from: node(from), message });
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(50) {
            self.now += 50;
            self.tell(Event::Tick);
        }
    }

    pub(crate) fn pump(&mut self) {
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

    pub(crate) fn answer(&mut self, call: CallId, what: StoreCall) {
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

    pub(crate) fn leads(&self) -> bool {
        self.seen.iter().any(|c| matches!(c, Command::Lead { .. }))
    }

    /// A replica follows and holds everything up to `held`.
    pub(crate) fn follow(&mut self, n: u8, stream: u64, log: &[(u64, u64)], held: u64) {
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

    pub(crate) fn receipt(&mut self, n: u8, stream: u64, held: u64) {
        let receipt = Receipt { term: self.manifest.term, incarnation: process(n).incarnation, held: LogIndex(held) };
        self.tell(Event::FromReplica { stream: StreamId(stream), frame: ToPrimary::Receipt(receipt) });
    }

    pub(crate) fn append(&mut self, last: u64) -> bool {
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

    pub(crate) fn sync(&mut self) {
        for seq in std::mem::take(&mut self.held) {
            self.engine.local_done(self.now, seq);
        }
        self.pump();
    }

    pub(crate) fn read(&mut self) -> ReadStart {
        let read = self.engine.read_begin(self.now);
        self.pump();
        read
    }

    /// The greatest read that was let in.
    pub(crate) fn served(&self) -> u64 {
        self.seen
            .iter()
            .filter_map(|c| match c {
                Command::ReadsReady { through, .. } => Some(through.0),
                _ => None,
            })
            .max()
            .unwrap_or(0)
    }

    pub(crate) fn rounds(&self) -> Vec<u64> {
        self.seen
            .iter()
            .filter_map(|c| match c {
                Command::Send { message: Message::Confirm { round, .. }, .. } => Some(*round),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn promised(&self) -> Option<(Run, Term)> {
        self.seen.iter().rev().find_map(|c| match c {
            Command::Send { message: Message::Promised { end, term, .. }, .. } => Some((*end, *term)),
            _ => None,
        })
    }

    pub(crate) fn confirm(&mut self, from: u8, round: u64) {
        let (term, incarnation) = (self.manifest.term, process(from).incarnation);
        self.message(from, Message::Confirmed { term, round, incarnation });
    }

    pub(crate) fn shown(&self) -> u64 {
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
pub(crate) fn primary(mutant: Option<Mutant>) -> Bench {
    let mut bench = Bench::new(manifest(5, 0, &[0, 1, 2], -1), &[(1, 10)], 10, mutant);
    assert!(bench.leads());
    bench.follow(1, 1, &[(1, 10)], 10);
    bench.follow(2, 2, &[(1, 10)], 10);
    bench
}

/// n0 follows n1, the Primary of term 5.
pub(crate) fn replica(
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

pub(crate) fn welcome(stream: StreamId, common: u64, end: Run, commit: u64) -> Event {
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
pub(crate) fn holds(mutant: Mutant, rule: impl Fn(Option<Mutant>) -> bool) {
    assert!(rule(None), "the rule does not hold");
    assert!(!rule(Some(mutant)), "{mutant:?} is not caught");
}

/// n0 holds the lock and finds that n1, the Primary of term 5, is gone. The others promise, with these ends.
pub(crate) fn election(mutant: Option<Mutant>, quorum: i32, own: &[(u64, u64)], promises: &[(u8, Run)]) -> Bench {
    election_with(mutant, quorum, own, promises, |_| {})
}

pub(crate) fn election_with(
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
