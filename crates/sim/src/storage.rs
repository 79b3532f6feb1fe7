//! The driver's calls to object storage: manifest and lock, loading and sealing the object log (R4).

use crate::bucket::{Answer, Chunk, Op, Segment, Snapshot, furthest, runs_of};
use crate::disk::Point;
use crate::driver::Brought;
use crate::process::Load;
use crate::world::{Why, World};
use netsy_api::ids::ChunkSeq;
use netsy_api::log::Entry;
use netsy_protocol::command::StoreCall;
use netsy_protocol::event::{CallId, ChunkFact, Event, LogPiece, StoreResult};
use netsy_protocol::mutant::Mutant;
use netsy_protocol::reconcile::{Run, Runs};
use std::sync::Arc;

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
                let at = process.known_point();
                process.load = Some(Load { call, end: ChunkSeq(0), segments: vec![], at });
                return self.call(slot, life, Why::LoadList(call), Op::ListLog);
            }
            StoreCall::CreateSeal { seq, term } => {
                let Some(loaded) = process.loaded.filter(|p| p.seq.next() == seq) else {
                    return self.done(slot, call, StoreResult::Unknown);
                };
                let prev = loaded.last;
                let chunk = Chunk { seq, term, session, prev, entries: vec![] };
                return self.call(slot, life, Why::Seal(call, chunk.clone()), Op::Create(chunk));
            }
            StoreCall::CheckSeal { seq } => return self.call(slot, life, Why::CheckSeal(call, seq), Op::ListLog),
        };
        self.call(slot, life, why, op);
    }

    pub fn done(&mut self, slot: usize, call: CallId, result: StoreResult) {
        let now = self.clock(slot);
        self.log(slot, || format!("<- store {call:?} {result:?}"));
        let Some(process) = self.process(slot) else { return };
        process.abandoned.remove(&call);
        process.engine.handle(now, Event::StoreDone { call, result });
        self.drain(slot);
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
                Answer::Log { end, segments } => {
                    if let Some(load) = process.load.as_mut().filter(|l| l.call == call) {
                        (load.end, load.segments) = (end, segments);
                    }
                    self.load_next(slot, call);
                }
                _ => self.done(slot, call, StoreResult::Unknown),
            },
            Why::LoadChunk(call) => match answer {
                Answer::Chunk(Some(chunk)) => self.take_or_give_up(slot, call, &[chunk]),
                // Missing below the end: a snapshot has it, or a segment that is newer than the LIST.
                Answer::Chunk(None) => self.call(slot, life, Why::LoadSnapshot(call), Op::NewestSnapshot),
                _ => self.done(slot, call, StoreResult::Unknown),
            },
            Why::LoadSegment(call) => match answer {
                Answer::Segment(Some(Segment { chunks })) => {
                    self.count("segment loaded");
                    self.take_or_give_up(slot, call, &chunks);
                }
                Answer::Segment(None) => self.call(slot, life, Why::LoadSnapshot(call), Op::NewestSnapshot),
                _ => self.done(slot, call, StoreResult::Unknown),
            },
            Why::LoadSnapshot(call) => match answer {
                Answer::Snapshot(snapshot) => self.take_snapshot(slot, call, snapshot),
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
                    if self.mutant == Some(Mutant::SkipOnConflict) {
                        if let Some(process) = self.process(slot) {
                            process.loaded = Some(Point { seq: found.seq, term: found.term, last: seal.prev });
                        }
                        let fact =
                            ChunkFact { seq: found.seq, term: Default::default(), last_index: seal.prev.last_index };
                        return self.done(slot, call, StoreResult::SealTaken(fact));
                    }
                    let fact = found.fact();
                    let at = self.process(slot).and_then(|p| p.loaded);
                    let result = match self.take_chunks(slot, call, at, &[found]) {
                        Some(at) => {
                            if let Some(process) = self.process(slot) {
                                process.loaded = Some(at);
                            }
                            StoreResult::SealTaken(fact)
                        }
                        None => StoreResult::Unknown,
                    };
                    self.done(slot, call, result);
                }
                Answer::Chunk(None) => self.done(slot, call, StoreResult::SealCleanedUp),
                _ => self.done(slot, call, StoreResult::Unknown),
            },
            Why::CheckSeal(call, seq) => match answer {
                Answer::Log { end, .. } => self.done(slot, call, StoreResult::AnythingAfter(end > seq)),
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
        let Some(point) = load.at else {
            return self.call(slot, life, Why::LoadSnapshot(call), Op::NewestSnapshot);
        };
        if point.seq >= load.end {
            process.load = None;
            process.point = Some(point);
            process.loaded = Some(point);
            process.saw_point(point);
            let fact = ChunkFact { seq: point.seq, term: point.term, last_index: point.last.last_index };
            let end = (point.seq.0 > 0).then_some(fact);
            return self.done(slot, call, StoreResult::Loaded(end));
        }
        let next = point.seq.next();
        match furthest(&load.segments, next) {
            Some(key) => self.call(slot, life, Why::LoadSegment(call), Op::GetSegment(key)),
            None => self.call(slot, life, Why::LoadChunk(call), Op::GetChunk(next)),
        }
    }

    fn take_or_give_up(&mut self, slot: usize, call: CallId, chunks: &[Chunk]) {
        let at = self.process(slot).and_then(|p| p.load.as_ref()).filter(|l| l.call == call).and_then(|l| l.at);
        let Some(point) = at else { return self.done(slot, call, StoreResult::Unknown) };
        let next = chunks.iter().find(|c| c.seq > point.seq);
        if next.is_none_or(|c| c.seq != point.seq.next() || c.prev.last_index != point.last.last_index) {
            // What fell into a hole that clean-up left: gone around, by a snapshot.
            let life = self.life_of(slot);
            self.count("garbage gone around");
            return self.call(slot, life, Why::LoadSnapshot(call), Op::NewestSnapshot);
        }
        match self.take_chunks(slot, call, at, chunks) {
            Some(at) => self.loaded_to(slot, call, at),
            None => self.done(slot, call, StoreResult::Unknown),
        }
    }

    fn loaded_to(&mut self, slot: usize, call: CallId, at: Point) {
        if let Some(process) = self.process(slot)
            && let Some(load) = process.load.as_mut().filter(|l| l.call == call)
        {
            load.at = Some(at);
            // What was taken stays: a load that breaks off goes on from there.
            process.point = Some(at);
        }
        self.load_next(slot, call);
    }

    /// Offers chunks, those that follow `at`. `None`: they are not wanted, or do not follow.
    fn take_chunks(&mut self, slot: usize, call: CallId, at: Option<Point>, chunks: &[Chunk]) -> Option<Point> {
        let mut at = at?;
        let begin = at;
        let (mut facts, mut entries): (_, Vec<Arc<Entry>>) = (vec![], vec![]);
        for chunk in chunks.iter().filter(|c| c.seq > begin.seq) {
            if chunk.seq != at.seq.next() || chunk.prev.last_index != at.last.last_index {
                return None;
            }
            facts.push(chunk.fact());
            entries.extend(chunk.entries.iter().cloned());
            let last = if chunk.entries.is_empty() { at.last } else { chunk.last() };
            at = Point { seq: chunk.seq, term: chunk.term, last };
        }
        let piece = LogPiece::Chunks { chunks: facts, prev: begin.last, runs: runs_of(&entries) };
        self.offer(slot, call, piece, Brought { entries: &entries, holes: None }).then_some(at)
    }

    fn take_snapshot(&mut self, slot: usize, call: CallId, snapshot: Option<Snapshot>) {
        let load = self.process(slot).and_then(|p| p.load.as_ref()).filter(|l| l.call == call);
        let Some(at) = load.map(|l| l.at) else { return self.done(slot, call, StoreResult::Unknown) };
        let Some(snapshot) = snapshot else {
            return match at {
                None => self.loaded_to(slot, call, Point::default()),
                Some(_) => self.begin_anew(slot, call),
            };
        };
        let Snapshot { covers, entries, holes } = snapshot;
        if at.is_some_and(|at| at.seq >= covers.seq) {
            return self.begin_anew(slot, call);
        }
        let last = entries.last().map_or(Run::default(), |e| Run { term: e.term, last_index: e.index });
        let runs = Runs::new(runs_of(&entries)).unwrap_or_default();
        let piece = LogPiece::Snapshot { covers, runs };
        if self.offer(slot, call, piece, Brought { entries: &entries, holes: Some(&holes) }) {
            self.count("snapshot loaded");
            self.loaded_to(slot, call, Point { seq: covers.seq, term: covers.term, last });
        } else {
            self.done(slot, call, StoreResult::Unknown);
        }
    }

    /// No way on from where the load is: a seal that fell into a hole may have been taken for the log's. The next one
    /// begins with a snapshot.
    fn begin_anew(&mut self, slot: usize, call: CallId) {
        if let Some(process) = self.process(slot) {
            process.point = None;
        }
        self.done(slot, call, StoreResult::Unknown);
    }

    fn offer(&mut self, slot: usize, call: CallId, piece: LogPiece, brought: Brought<'_>) -> bool {
        let now = self.clock(slot);
        let Some(process) = self.process(slot) else { return false };
        if process.abandoned.contains(&call) {
            return false;
        }
        let life = process.life;
        process.engine.handle(now, Event::LogPiece { call, piece });
        self.drain_with(slot, brought);
        self.process(slot).is_some_and(|p| p.life == life && !p.abandoned.contains(&call))
    }

    fn sealed(&mut self, slot: usize, call: CallId, seal: &Chunk) {
        let Some(process) = self.process(slot) else { return };
        let point = Point { seq: seal.seq, term: seal.term, last: seal.prev };
        process.loaded = Some(point);
        process.point = Some(point);
        process.saw_point(point);
        self.done(slot, call, StoreResult::Sealed(seal.fact()));
    }
}
