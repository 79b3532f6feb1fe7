//! A node's disk and its process.

use crate::bucket::Chunk;
use bytes::Bytes;
use netsy_api::ids::{ChunkSeq, Incarnation, LogIndex, NodeId, Position, Revision, Session, Term};
use netsy_api::log::Entry;
use netsy_history::{Outcome, Request};
use netsy_mvcc::{Store, StoreConfig, ValueSource};
use netsy_protocol::engine::Engine;
use netsy_protocol::event::{CallId, LocalSeq, StreamId};
use netsy_protocol::read::{ReadId, ReadTicket};
use netsy_protocol::reconcile::Run;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What a crash leaves.
#[derive(Clone, Debug)]
pub struct Disk {
    pub incarnation: Incarnation,
    pub boot: u64,
    pub promised: Term,
    pub log: Vec<Arc<Entry>>,
    pub visible: LogIndex,
    pub led: Option<Session>,
}

impl Disk {
    pub fn new(incarnation: u128) -> Self {
        Self {
            incarnation: Incarnation(incarnation),
            boot: 0,
            promised: Term(0),
            log: vec![],
            visible: LogIndex(0),
            led: None,
        }
    }

    pub fn apply(&mut self, op: DiskOp) {
        match op {
            DiskOp::Promise(term) => self.promised = self.promised.max(term),
            DiskOp::Truncate(after) => self.log.truncate(after.0 as usize),
            DiskOp::Store(entries) => self.log.extend(entries),
            DiskOp::Install(entries) => self.log = entries.to_vec(),
            DiskOp::Led(session) => self.led = Some(session),
        }
    }
}

/// An operation on its way to the disk.
#[derive(Clone, Debug)]
pub enum DiskOp {
    Promise(Term),
    Truncate(LogIndex),
    Store(Vec<Arc<Entry>>),
    Install(Arc<Vec<Arc<Entry>>>),
    Led(Session),
}

/// A client's request on its way.
#[derive(Clone, Debug)]
pub struct Ask {
    pub op: u64,
    pub request: Request,
    pub deadline: u64,
}

/// Where an answer goes.
#[derive(Clone, Debug)]
pub enum To {
    /// The client of this operation.
    Client(u64),
    /// The node that sent it on.
    Node {
        slot: usize,
        life: u64,
        op: u64,
    },
    Nobody,
}

/// An answer that waits for its entry to be committed.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub index: LogIndex,
    pub to: To,
    pub outcome: Outcome,
}

/// Sends entries down a stream.
#[derive(Clone, Debug)]
pub struct Sender {
    pub conn: u64,
    pub next: LogIndex,
    pub told: LogIndex,
}

/// Puts entries into the object log.
#[derive(Clone, Debug)]
pub struct Uploads {
    pub term: Term,
    pub seq: ChunkSeq,
    pub last: Run,
    pub at_once: bool,
    pub flush: LogIndex,
    pub in_flight: Option<Chunk>,
    pub since: u64,
}

/// A load of the object log under way.
#[derive(Clone, Debug)]
pub struct Load {
    pub call: CallId,
    pub end: ChunkSeq,
}

/// How far the local log is known to equal the object log.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub seq: ChunkSeq,
    pub term: Term,
    pub last: Run,
}

/// A process.
pub struct Process {
    pub life: u64,
    pub session: Session,
    pub engine: Engine,
    pub store: Store,
    /// Everything accepted, durable or not.
    pub mem: Vec<Arc<Entry>>,
    pub queue: VecDeque<(LocalSeq, DiskOp)>,
    pub syncing: Option<LocalSeq>,
    pub requests: VecDeque<(Ask, To)>,
    pub writing: bool,
    pub leading: Option<Term>,
    pub waiting: VecDeque<Waiting>,
    pub reads: VecDeque<(ReadId, Ask)>,
    pub renewals: VecDeque<(ReadId, LogIndex, To, Outcome)>,
    pub stalled: Vec<Ask>,
    pub forwarded: BTreeMap<u64, Ask>,
    /// Answers of the Primary that wait until this node shows as much.
    pub catching_up: Vec<(Revision, u64, Outcome)>,
    pub senders: BTreeMap<StreamId, Sender>,
    pub conns: BTreeMap<StreamId, u64>,
    pub next_stream: u64,
    pub uploads: Option<Uploads>,
    pub upload_pending: bool,
    pub load: Option<Load>,
    pub abandoned: BTreeSet<CallId>,
    pub point: Option<Point>,
    pub floor: Revision,
    pub next_lease_tick: u64,
    pub next_compaction: u64,
    pub compacted_at: Vec<(u64, Revision)>,
    pub told_down: BTreeSet<NodeId>,
    pub halted: Option<String>,
}

/// All values are in memory here.
pub struct NoStored;

impl ValueSource for NoStored {
    fn value(&self, at: Position) -> Result<Bytes, String> {
        Err(format!("no value at position {at}"))
    }
}

pub fn new_store() -> Store {
    Store::new(StoreConfig { value_cache_bytes_max: 1 << 40, ..StoreConfig::default() })
}

impl Process {
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index.0 == 0 { Some(Term(0)) } else { self.mem.get(index.0 as usize - 1).map(|e| e.term) }
    }

    pub fn run_at(&self, index: LogIndex) -> Run {
        Run { term: self.term_at(index).unwrap_or_default(), last_index: index }
    }

    /// The point up to which the local log equals the object log, if that is still so.
    pub fn known_point(&self) -> Option<Point> {
        self.point.filter(|p| self.term_at(p.last.last_index) == Some(p.last.term))
    }

    pub fn ticket_holds(&self, now: u64, ticket: ReadTicket) -> bool {
        self.engine.read_end(now, ticket)
    }
}
