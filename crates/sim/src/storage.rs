//! The driver's calls to object storage: manifest and lock, the object log (R3, R4), uploads.

use crate::bucket::{Answer, Chunk, Op};
use crate::process::{Load, Point};
use crate::world::{Input, Why, World};
use netsy_api::ids::{ChunkSeq, LogIndex, Term};
use netsy_api::log::Entry;
use netsy_protocol::command::StoreCall;
use netsy_protocol::event::{CallId, ChunkFact, Event, LogPiece, StoreResult};
use netsy_protocol::reconcile::{Run, Runs};
use std::sync::Arc;

/// Entries in one chunk.
const CHUNK_MAX: usize = 40;
/// Age at which a chunk leaves.
const AGE: u64 = 1_000;

impl World {
    pub fn store_call(&mut self, slot: usize, call: CallId, what: StoreCall) {
        let Some(process) = self.process(slot) else { return };
        let (life, session) = (process.life, process.session);
        let why = Why::Engine(call);
        let op = match what {
            StoreCall::ReadManifest => Op::ReadManifest,
            StoreCall::SwapManifest { expected, manifest } => Op::SwapManifest { expected, new: manifest },
            StoreCall::ReadLock => Op::ReadLock,
            StoreCall::SwapLock { expected, lock } => Op::SwapLock { expected, new: lock },
            StoreCall::ListNodes => Op::ListNodes,
            StoreCall::MarkStopped { node_id, incarnation } => Op::MarkStopped { node: node_id, incarnation },
            StoreCall::LoadLog => {
                process.load = Some(Load { call, end: ChunkSeq(0) });
                return self.call(slot, life, Why::LoadList(call), Op::ListEnd);
            }
            StoreCall::CreateSeal { seq, term } => {
                let prev = process.known_point().map_or(Run::default(), |p| p.last);
                let chunk = Chunk { seq, term, session, prev, entries: vec![] };
                return self.call(slot, life, Why::Seal(call, chunk.clone()), Op::Create(chunk));
            }
            StoreCall::CheckSeal { seq } => return self.call(slot, life, Why::CheckSeal(call, seq), Op::ListEnd),
        };
        self.call(slot, life, why, op);
    }

    pub fn done(&mut self, slot: usize, call: CallId, result: StoreResult) {
        let now = self.clock(slot);
        self.log(slot, || format!("<- store {call:?} {result:?}"));
        let Some(process) = self.process(slot) else { return };
        process.abandoned.remove(&call);
        process.engine.handle(now, Event::StoreDone { call, result });
        self.drain(slot, &[]);
    }

    pub fn on_storage(&mut self, slot: usize, why: Why, answer: Answer) {
        let Some(process) = self.process(slot) else { return };
        let life = process.life;
        match why {
            Why::Engine(call) => {
                let result = match answer {
                    Answer::Manifest(manifest) => StoreResult::Manifest(manifest),
                    Answer::Lock(lock) => StoreResult::Lock(lock),
                    Answer::Swapped(true) | Answer::Done => StoreResult::Done,
                    Answer::Swapped(false) => StoreResult::Lost,
                    Answer::Nodes(nodes) => StoreResult::Nodes(nodes),
                    _ => StoreResult::Unknown,
                };
                self.done(slot, call, result);
            }
            Why::LoadList(call) => match answer {
                Answer::End(end) => {
                    if let Some(load) = process.load.as_mut().filter(|l| l.call == call) {
                        load.end = end;
                    }
                    self.load_next(slot, call);
                }
                _ => self.done(slot, call, StoreResult::Unknown),
            },
            Why::LoadChunk(call) => match answer {
                Answer::Chunk(Some(chunk)) => {
                    if self.take_chunk(slot, call, &chunk) {
                        self.load_next(slot, call);
                    } else {
                        self.done(slot, call, StoreResult::Unknown);
                    }
                }
                // Missing below the end: a snapshot has it.
                Answer::Chunk(None) => self.call(slot, life, Why::LoadSnapshot(call), Op::NewestSnapshot),
                _ => self.done(slot, call, StoreResult::Unknown),
            },
            Why::LoadSnapshot(call) => match answer {
                Answer::Snapshot(Some(snapshot)) => {
                    let point = process.known_point();
                    let news = point.is_none_or(|p| p.seq < snapshot.covers.seq);
                    let last =
                        snapshot.entries.last().map_or(Run::default(), |e| Run { term: e.term, last_index: e.index });
                    let runs = Runs::new(crate::bucket::runs_of(&snapshot.entries)).unwrap_or_default();
                    let covers = snapshot.covers;
                    if !news {
                        return self.done(slot, call, StoreResult::Unknown);
                    }
                    let piece = LogPiece::Snapshot { covers, runs };
                    if self.offer(slot, call, piece, &snapshot.entries) {
                        if let Some(process) = self.process(slot) {
                            process.point = Some(Point { seq: covers.seq, term: covers.term, last });
                        }
                        self.count("snapshot loaded");
                        self.load_next(slot, call);
                    } else {
                        self.done(slot, call, StoreResult::Unknown);
                    }
                }
                Answer::Snapshot(None) => {
                    if let Some(process) = self.process(slot) {
                        process.point =
                            Some(Point { seq: ChunkSeq(0), term: Default::default(), last: Run::default() });
                    }
                    self.load_next(slot, call);
                }
                _ => self.done(slot, call, StoreResult::Unknown),
            },
            Why::Seal(call, seal) => match answer {
                Answer::Created(true) => self.sealed(slot, call, &seal),
                Answer::Created(false) => {
                    self.call(slot, life, Why::SealRead(call, seal.clone()), Op::GetChunk(seal.seq))
                }
                _ => self.done(slot, call, StoreResult::Unknown),
            },
            Why::SealRead(call, seal) => match answer {
                Answer::Chunk(Some(found)) if (found.term, found.session) == (seal.term, seal.session) => {
                    self.sealed(slot, call, &seal);
                }
                Answer::Chunk(Some(found)) => {
                    if self.mutant == Some(netsy_protocol::mutant::Mutant::SkipOnConflict) {
                        if let Some(process) = self.process(slot) {
                            process.point = Some(Point { seq: found.seq, term: found.term, last: seal.prev });
                        }
                        let fact =
                            ChunkFact { seq: found.seq, term: Default::default(), last_index: seal.prev.last_index };
                        return self.done(slot, call, StoreResult::SealTaken(fact));
                    }
                    let fact = found.fact();
                    let result = if self.take_chunk(slot, call, &found) {
                        StoreResult::SealTaken(fact)
                    } else {
                        StoreResult::Unknown
                    };
                    self.done(slot, call, result);
                }
                Answer::Chunk(None) => self.done(slot, call, StoreResult::SealCleanedUp),
                _ => self.done(slot, call, StoreResult::Unknown),
            },
            Why::CheckSeal(call, seq) => match answer {
                Answer::End(end) => self.done(slot, call, StoreResult::AnythingAfter(end > seq)),
                _ => self.done(slot, call, StoreResult::Unknown),
            },
            Why::Upload(term, seq) => self.uploaded(slot, term, seq, answer),
            Why::UploadRead(term, seq) => self.upload_read(slot, term, seq, answer),
            Why::Register | Why::Nothing => {}
        }
    }

    // ---- loading ----

    fn load_next(&mut self, slot: usize, call: CallId) {
        let Some(process) = self.process(slot) else { return };
        let life = process.life;
        let Some(load) = process.load.clone().filter(|l| l.call == call) else { return };
        if process.abandoned.contains(&call) {
            return self.done(slot, call, StoreResult::Unknown);
        }
        let Some(point) = process.known_point() else {
            process.point = None;
            return self.call(slot, life, Why::LoadSnapshot(call), Op::NewestSnapshot);
        };
        if point.seq >= load.end {
            process.load = None;
            let fact = ChunkFact { seq: point.seq, term: point.term, last_index: point.last.last_index };
            let end = (point.seq.0 > 0).then_some(fact);
            return self.done(slot, call, StoreResult::Loaded(end));
        }
        self.call(slot, life, Why::LoadChunk(call), Op::GetChunk(point.seq.next()));
    }

    /// Offers a chunk that follows the known point. False: it is not wanted, or does not follow.
    fn take_chunk(&mut self, slot: usize, call: CallId, chunk: &Chunk) -> bool {
        let Some(process) = self.process(slot) else { return false };
        let Some(point) = process.known_point() else { return false };
        if chunk.seq != point.seq.next() || chunk.prev.last_index != point.last.last_index {
            return false;
        }
        let piece = LogPiece::Chunks { chunks: vec![chunk.fact()], prev: point.last, runs: chunk.runs() };
        if !self.offer(slot, call, piece, &chunk.entries) {
            return false;
        }
        let Some(process) = self.process(slot) else { return false };
        let last = if chunk.entries.is_empty() { point.last } else { chunk.last() };
        process.point = Some(Point { seq: chunk.seq, term: chunk.term, last });
        true
    }

    fn offer(&mut self, slot: usize, call: CallId, piece: LogPiece, entries: &[Arc<Entry>]) -> bool {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return false };
        if process.abandoned.contains(&call) {
            return false;
        }
        let life = process.life;
        process.engine.handle(now, Event::LogPiece { call, piece });
        self.drain(slot, entries);
        self.process(slot).is_some_and(|p| p.life == life && !p.abandoned.contains(&call))
    }

    fn sealed(&mut self, slot: usize, call: CallId, seal: &Chunk) {
        let Some(process) = self.process(slot) else { return };
        process.point = Some(Point { seq: seal.seq, term: seal.term, last: seal.prev });
        self.done(slot, call, StoreResult::Sealed(seal.fact()));
    }

    // ---- uploads ----

    pub fn upload_soon(&mut self, slot: usize) {
        let Some(process) = self.process(slot) else { return };
        if process.uploads.is_some() && !process.upload_pending {
            process.upload_pending = true;
            let life = process.life;
            self.input(slot, life, 1, Input::Upload);
        }
    }

    pub fn upload(&mut self, slot: usize) {
        let now = self.now;
        let Some(process) = self.process(slot) else { return };
        let (life, session) = (process.life, process.session);
        let end = LogIndex(process.mem.len() as u64);
        let Some(uploads) = &mut process.uploads else { return };
        if uploads.in_flight.is_some() || end <= uploads.last.last_index {
            uploads.since = now;
            return;
        }
        let behind = (end.0 - uploads.last.last_index.0) as usize;
        let due = uploads.at_once
            || uploads.flush > uploads.last.last_index
            || behind >= CHUNK_MAX
            || now - uploads.since >= AGE;
        if !due || !process.engine.may_start_chunk(uploads.term) {
            return;
        }
        let from = uploads.last.last_index.0 as usize;
        let chunk = Chunk {
            seq: uploads.seq.next(),
            term: uploads.term,
            session,
            prev: uploads.last,
            entries: process.mem.iter().skip(from).take(CHUNK_MAX).cloned().collect(),
        };
        uploads.in_flight = Some(chunk.clone());
        uploads.since = now;
        let why = Why::Upload(chunk.term, chunk.seq);
        self.call(slot, life, why, Op::Create(chunk));
    }

    fn uploaded(&mut self, slot: usize, term: Term, seq: ChunkSeq, answer: Answer) {
        let Some(process) = self.process(slot) else { return };
        let life = process.life;
        let in_flight = process.uploads.as_ref().and_then(|u| u.in_flight.clone());
        // An answer to what an earlier term of this process sent says nothing about this one.
        let Some(chunk) = in_flight.filter(|c| (c.term, c.seq) == (term, seq)) else { return };
        match answer {
            Answer::Created(true) => self.chunk_landed(slot, &chunk),
            Answer::Created(false) => self.call(slot, life, Why::UploadRead(term, seq), Op::GetChunk(chunk.seq)),
            _ => self.repeat_upload(slot, chunk),
        }
    }

    fn repeat_upload(&mut self, slot: usize, chunk: Chunk) {
        let now = self.clock(slot);
        self.count("chunk repeated");
        let Some(process) = self.process(slot) else { return };
        let life = process.life;
        process.engine.store_answers(now, false);
        self.drain(slot, &[]);
        if self.process(slot).is_some_and(|p| p.uploads.as_ref().is_some_and(|u| u.in_flight.is_some())) {
            // The same bytes again (R3).
            let why = Why::Upload(chunk.term, chunk.seq);
            self.call(slot, life, why, Op::Create(chunk));
        }
    }

    fn upload_read(&mut self, slot: usize, term: Term, seq: ChunkSeq, answer: Answer) {
        let now = self.clock(slot);
        let skip = self.mutant == Some(netsy_protocol::mutant::Mutant::SkipOnConflict);
        let Some(process) = self.process(slot) else { return };
        let in_flight = process.uploads.as_ref().and_then(|u| u.in_flight.clone());
        // An answer to what an earlier term of this process sent says nothing about this one.
        let Some(chunk) = in_flight.filter(|c| (c.term, c.seq) == (term, seq)) else { return };
        match answer {
            Answer::Chunk(Some(found))
                if (found.term, found.session, found.last()) == (chunk.term, chunk.session, chunk.last()) =>
            {
                self.chunk_landed(slot, &chunk);
            }
            Answer::Chunk(found) => {
                if skip {
                    if let Some(uploads) = process.uploads.as_mut() {
                        uploads.in_flight = None;
                        uploads.seq = chunk.seq;
                    }
                    return self.upload_soon(slot);
                }
                process.engine.chunk_taken(now, term, found.map(|f| f.term));
                self.count("chunk taken");
                self.drain(slot, &[]);
            }
            _ => self.repeat_upload(slot, chunk),
        }
    }

    fn chunk_landed(&mut self, slot: usize, chunk: &Chunk) {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return };
        let last = chunk.last();
        if let Some(uploads) = &mut process.uploads {
            uploads.in_flight = None;
            (uploads.seq, uploads.last) = (chunk.seq, last);
        }
        process.point = Some(Point { seq: chunk.seq, term: chunk.term, last });
        process.engine.chunk_landed(now, chunk.term, chunk.seq, last.last_index);
        self.drain(slot, &[]);
        self.upload_soon(slot);
    }
}
