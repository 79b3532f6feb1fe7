//! Object storage: what is there, and what a call does once it lands.

use crate::disk::Holes;
use crate::truth::Truth;
use netsy_api::ids::{ChunkSeq, Incarnation, LogIndex, NodeId, Nonce, Session, Term};
use netsy_api::log::Entry;
use netsy_protocol::config::RegisteredNode;
use netsy_protocol::event::ChunkFact;
use netsy_protocol::manifest::{ElectorLock, Manifest};
use netsy_protocol::mutant::Mutant;
use netsy_protocol::reconcile::Run;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A chunk of the object log; without entries a seal.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub seq: ChunkSeq,
    pub term: Term,
    pub session: Session,
    /// The entry before its first.
    pub prev: Run,
    pub entries: Vec<Arc<Entry>>,
}

impl Chunk {
    pub fn last(&self) -> Run {
        self.entries.last().map_or(self.prev, |e| Run { term: e.term, last_index: e.index })
    }

    pub fn fact(&self) -> ChunkFact {
        ChunkFact { seq: self.seq, term: self.term, last_index: self.last().last_index }
    }

    pub fn runs(&self) -> Vec<Run> {
        runs_of(&self.entries)
    }

    /// The same bytes.
    pub fn same(&self, other: &Chunk) -> bool {
        (self.seq, self.term, self.session, self.prev) == (other.seq, other.term, other.session, other.prev)
            && self.entries == other.entries
    }
}

/// The runs of consecutive entries.
pub fn runs_of(entries: &[Arc<Entry>]) -> Vec<Run> {
    let mut runs: Vec<Run> = vec![];
    for entry in entries {
        match runs.last_mut() {
            Some(run) if run.term == entry.term => run.last_index = entry.index,
            _ => runs.push(Run { term: entry.term, last_index: entry.index }),
        }
    }
    runs
}

/// A snapshot: entries up to its index, without the rows that compaction had taken.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub covers: ChunkFact,
    pub entries: Arc<Vec<Arc<Entry>>>,
    pub holes: Holes,
}

/// A run of chunks folded into one object.
#[derive(Clone, Debug)]
pub struct Segment {
    pub chunks: Vec<Chunk>,
}

/// The numbers in a segment's key.
pub type SegmentKey = (ChunkSeq, ChunkSeq);

impl Segment {
    pub fn key(&self) -> SegmentKey {
        let first = self.chunks.first().map_or(ChunkSeq(0), |c| c.seq);
        (first, self.chunks.last().map_or(first, |c| c.seq))
    }

    fn same(&self, other: &Segment) -> bool {
        self.chunks.len() == other.chunks.len() && self.chunks.iter().zip(&other.chunks).all(|(a, b)| a.same(b))
    }
}

/// Whether chunks follow each other without a gap.
pub fn follow(chunks: &[Chunk]) -> bool {
    chunks
        .iter()
        .zip(chunks.iter().skip(1))
        .all(|(a, b)| b.seq == a.seq.next() && b.prev.last_index == a.last().last_index && b.term >= a.term)
}

/// A registration.
#[derive(Clone, Debug)]
pub struct Registered {
    pub node: RegisteredNode,
    pub boot: u64,
    /// The process that wrote it: what its nonce tells.
    pub by: u64,
}

/// A call.
#[derive(Clone, Debug)]
pub enum Op {
    ReadManifest,
    SwapManifest {
        expected: Option<Nonce>,
        new: Box<Manifest>,
    },
    ReadLock,
    SwapLock {
        expected: Option<Nonce>,
        new: Box<ElectorLock>,
    },
    ListNodes,
    Register {
        node: RegisteredNode,
        boot: u64,
        by: u64,
        expected: Option<(Incarnation, u64)>,
    },
    /// What is registered for a node.
    ReadRegistration(NodeId),
    MarkStopped {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// The greatest chunk number, and the segments.
    ListLog,
    GetChunk(ChunkSeq),
    GetSegment(SegmentKey),
    NewestSnapshot,
    Create(Chunk),
    PutSnapshot(Snapshot),
}

/// What it answers.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // Few exist at a time.
pub enum Answer {
    Manifest(Option<Manifest>),
    Lock(Option<ElectorLock>),
    Swapped(bool),
    Nodes(Vec<RegisteredNode>),
    Registration(Option<(Incarnation, u64)>),
    /// R11: false where the database is behind its registration.
    Registered(bool),
    Log {
        end: ChunkSeq,
        segments: Vec<SegmentKey>,
    },
    Chunk(Option<Chunk>),
    Segment(Option<Segment>),
    Snapshot(Option<Snapshot>),
    Created(bool),
    Done,
    Unknown,
}

/// What is there.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    pub manifest: Option<Manifest>,
    pub lock: Option<ElectorLock>,
    pub nodes: BTreeMap<NodeId, Registered>,
    pub chunks: BTreeMap<ChunkSeq, Chunk>,
    /// Every chunk as it was first created in its place.
    pub archive: BTreeMap<ChunkSeq, Chunk>,
    pub segments: BTreeMap<SegmentKey, Segment>,
    pub snapshots: Vec<Snapshot>,
}

impl Bucket {
    /// The call lands.
    pub fn apply(&mut self, op: Op, mutant: Option<Mutant>, truth: &mut Truth) -> Answer {
        match op {
            Op::ReadManifest => Answer::Manifest(self.manifest.clone()),
            Op::SwapManifest { expected, new } => {
                let blind = mutant == Some(Mutant::BlindManifestWrite) && expected.is_some();
                let matches = self.manifest.as_ref().map(|m| m.nonce) == expected || blind;
                if matches {
                    truth.manifest_written(self.manifest.as_ref(), &new);
                    self.manifest = Some(*new);
                }
                Answer::Swapped(matches)
            }
            Op::ReadLock => Answer::Lock(self.lock.clone()),
            Op::SwapLock { expected, new } => {
                let matches = self.lock.as_ref().map(|l| l.nonce) == expected;
                if matches {
                    self.lock = Some(*new);
                }
                Answer::Swapped(matches)
            }
            Op::ListNodes => Answer::Nodes(self.nodes.values().map(|r| r.node.clone()).collect()),
            Op::Register { node, boot, by, expected } => {
                if self.nodes.get(&node.node_id).is_some_and(|r| r.by == by && r.boot == boot) {
                    return Answer::Registered(true); // An earlier try of the same.
                }
                if self.registered(&node.node_id) != expected {
                    return Answer::Unknown; // By compare-and-swap; a read tells, and then it is tried again.
                }
                let known = self.nodes.get(&node.node_id);
                let behind = known.is_some_and(|r| r.node.incarnation == node.incarnation && r.boot >= boot);
                if behind && mutant != Some(Mutant::ForgetBootCounter) {
                    return Answer::Registered(false);
                }
                self.nodes.insert(node.node_id.clone(), Registered { node, boot, by });
                Answer::Registered(true)
            }
            Op::ReadRegistration(node) => Answer::Registration(self.registered(&node)),
            Op::MarkStopped { node, incarnation } => {
                if let Some(known) = self.nodes.get_mut(&node).filter(|r| r.node.incarnation == incarnation) {
                    known.node.stopped = true;
                }
                Answer::Done
            }
            Op::ListLog => Answer::Log { end: self.end(), segments: self.segments.keys().copied().collect() },
            Op::GetChunk(seq) => Answer::Chunk(self.chunks.get(&seq).cloned()),
            Op::GetSegment(key) => Answer::Segment(self.segments.get(&key).cloned()),
            Op::NewestSnapshot => Answer::Snapshot(self.snapshots.last().cloned()),
            Op::Create(chunk) => self.create(chunk, mutant, truth),
            Op::PutSnapshot(snapshot) => {
                let newest = self.snapshots.last().map_or(ChunkSeq(0), |s| s.covers.seq);
                if snapshot.covers.seq > newest {
                    self.snapshots.push(snapshot);
                    if self.snapshots.len() > 3 {
                        self.snapshots.remove(0);
                    }
                }
                Answer::Done
            }
        }
    }

    /// What is registered for a node.
    pub fn registered(&self, node: &NodeId) -> Option<(Incarnation, u64)> {
        self.nodes.get(node).map(|r| (r.node.incarnation, r.boot))
    }

    pub fn end(&self) -> ChunkSeq {
        self.chunks.keys().next_back().copied().unwrap_or_default()
    }

    fn create(&mut self, chunk: Chunk, mutant: Option<Mutant>, truth: &mut Truth) -> Answer {
        let overwrite = mutant == Some(Mutant::OverwriteChunks);
        if self.chunks.contains_key(&chunk.seq) && !overwrite {
            return Answer::Created(false);
        }
        let greatest = self.archive.keys().next_back().copied().unwrap_or_default();
        if chunk.seq > greatest {
            let before = self.archive.get(&greatest);
            truth.chunk_landed(before, &chunk);
            self.archive.insert(chunk.seq, chunk.clone());
        } else {
            // It fell into a hole: garbage, which a snapshot or a segment must cover; or the late repetition of the same.
            let folded = self.segment_of(chunk.seq).is_some();
            let covered = folded || self.snapshots.last().is_some_and(|s| s.covers.seq >= chunk.seq);
            if folded {
                truth.count("landed in a hole below a segment");
            }
            let same = self.archive.get(&chunk.seq).is_some_and(|first| first.same(&chunk));
            truth.garbage(&chunk, covered, same);
        }
        self.chunks.insert(chunk.seq, chunk);
        Answer::Created(true)
    }

    /// The segment that holds this chunk, the one that reaches furthest.
    pub fn segment_of(&self, seq: ChunkSeq) -> Option<SegmentKey> {
        furthest(self.segments.keys(), seq)
    }

    /// A segment is created, or was there already.
    pub fn put_segment(&mut self, segment: Segment, truth: &mut Truth) {
        let key = segment.key();
        for chunk in &segment.chunks {
            if !self.archive.get(&chunk.seq).is_some_and(|first| first.same(chunk)) {
                truth.breach(format!("segment {key:?} holds as chunk {} what is not the log's", chunk.seq));
            }
        }
        match self.segments.get(&key) {
            Some(known) if !known.same(&segment) => truth.breach(format!("two contents for segment {key:?}")),
            Some(_) => {}
            None => {
                truth.count("segment");
                self.segments.insert(key, segment);
            }
        }
    }

    /// Everything that the bucket alone gives: the newest snapshot and the log after it.
    pub fn restore(&self) -> Result<(Vec<Arc<Entry>>, Holes), String> {
        let (mut entries, holes, mut at) = match self.snapshots.last() {
            Some(snapshot) => (snapshot.entries.to_vec(), snapshot.holes.clone(), snapshot.covers.seq),
            None => (vec![], Holes::default(), ChunkSeq(0)),
        };
        let end = self.end();
        while at < end {
            at = at.next();
            let chunk = match self.segment_of(at).and_then(|key| self.segments.get(&key)) {
                Some(segment) => segment.chunks.iter().find(|c| c.seq == at),
                None => self.chunks.get(&at),
            };
            let chunk = chunk.ok_or(format!("chunk {at} below the end {end} is missing"))?;
            let last = entries.last().map_or(LogIndex(0), |e| e.index);
            if chunk.prev.last_index != last {
                return Err(format!("chunk {at} follows entry {}, the log ends at {last}", chunk.prev.last_index));
            }
            entries.extend(chunk.entries.iter().cloned());
        }
        Ok((entries, holes))
    }
}

/// Of the segments that hold this chunk the one that reaches furthest.
pub fn furthest<'a>(segments: impl IntoIterator<Item = &'a SegmentKey>, seq: ChunkSeq) -> Option<SegmentKey> {
    let holding = segments.into_iter().filter(|(first, last)| *first <= seq && seq <= *last);
    holding.max_by_key(|(_, last)| *last).copied()
}
