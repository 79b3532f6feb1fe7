//! Object storage: what is there, and what a call does once it lands.

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

    fn same(&self, other: &Chunk) -> bool {
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

/// A snapshot: in this simulator all entries up to its index.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub covers: ChunkFact,
    pub entries: Arc<Vec<Arc<Entry>>>,
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
    /// The greatest chunk number.
    ListEnd,
    GetChunk(ChunkSeq),
    NewestSnapshot,
    Create(Chunk),
    PutSnapshot(Snapshot),
    Delete(ChunkSeq),
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
    End(ChunkSeq),
    Chunk(Option<Chunk>),
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
            Op::ListEnd => Answer::End(self.end()),
            Op::GetChunk(seq) => Answer::Chunk(self.chunks.get(&seq).cloned()),
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
            Op::Delete(seq) => {
                self.chunks.remove(&seq);
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
            // It fell into a hole: garbage, which a snapshot must cover; or the late repetition of the same.
            let covered = self.snapshots.last().is_some_and(|s| s.covers.seq >= chunk.seq);
            let same = self.archive.get(&chunk.seq).is_some_and(|first| first.same(&chunk));
            truth.garbage(&chunk, covered, same);
        }
        self.chunks.insert(chunk.seq, chunk);
        Answer::Created(true)
    }

    /// Everything that the bucket alone gives: the newest snapshot and the chunks after it.
    pub fn restore(&self) -> Result<Vec<Arc<Entry>>, String> {
        let (mut entries, mut at) = match self.snapshots.last() {
            Some(snapshot) => (snapshot.entries.to_vec(), snapshot.covers.seq),
            None => (vec![], ChunkSeq(0)),
        };
        let end = self.end();
        while at < end {
            at = at.next();
            let chunk = self.chunks.get(&at).ok_or(format!("chunk {at} below the end {end} is missing"))?;
            let last = entries.last().map_or(LogIndex(0), |e| e.index);
            if chunk.prev.last_index != last {
                return Err(format!("chunk {at} follows entry {}, the log ends at {last}", chunk.prev.last_index));
            }
            entries.extend(chunk.entries.iter().cloned());
        }
        Ok(entries)
    }
}
