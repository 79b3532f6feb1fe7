//! A node's process.

use crate::bucket::Chunk;
use crate::convert::Rows;
use crate::disk::{DiskOp, Holes, Point, fits};
use netsy_api::ids::{ChunkSeq, LogIndex, NodeId, Revision, Session, Term};
use netsy_api::log::Entry;
use netsy_history::{Outcome, Request};
use netsy_mvcc::{Store, StoreConfig};
use netsy_protocol::engine::Engine;
use netsy_protocol::event::{CallId, LocalSeq, StreamId};
use netsy_protocol::read::{ReadId, ReadTicket};
use netsy_protocol::reconcile::Run;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

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
    /// A slow connection takes nothing until then.
    pub busy_until: u64,
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
    /// Segments in the LIST.
    pub segments: Vec<(ChunkSeq, ChunkSeq)>,
    /// Up to here it is loaded, or was there before; `None`: from a snapshot on.
    pub at: Option<Point>,
}

/// A process.
pub struct Process {
    pub life: u64,
    pub session: Session,
    pub engine: Engine,
    pub store: Store,
    /// Everything accepted, durable or not.
    pub mem: Vec<Arc<Entry>>,
    pub holes: Holes,
    /// The log came in a snapshot up to here: the state is loaded anew to go past it.
    pub installed: LogIndex,
    pub queue: VecDeque<(LocalSeq, DiskOp)>,
    pub syncing: Option<LocalSeq>,
    /// The last sync failed for want of space: it is tried again, and the writer waits for it.
    pub disk_full: bool,
    pub requests: VecDeque<(Ask, To)>,
    pub writing: bool,
    pub leading: Option<Term>,
    /// What is to be shown, and whether the state is on its way there.
    pub to_show: LogIndex,
    pub showing: bool,
    pub waiting: VecDeque<Waiting>,
    pub reads: VecDeque<(ReadId, Ask)>,
    /// Reads that are proven, and wait until this node shows as much.
    pub proven: Vec<(LogIndex, Ask)>,
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
    /// Up to here the own log is the object log, as noted on the disk or loaded.
    pub point: Option<Point>,
    /// How far the object log is known to reach, by own calls or by the Primary's word.
    pub logged: Point,
    /// Where the object log was last read to its end, and what was sealed after it (R4).
    pub loaded: Option<Point>,
    /// The compaction whose rows are gone.
    pub compacted: Revision,
    /// The next one, and what the object log is to reach before its rows go.
    pub removing: Option<(Revision, LogIndex)>,
    pub last_local: LocalSeq,
    pub floor: Revision,
    pub next_lease_tick: u64,
    pub next_compaction: u64,
    pub compacted_at: Vec<(u64, Revision)>,
    pub told_down: BTreeSet<NodeId>,
    pub halted: Option<String>,
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

    /// The newest point up to which the local log is known to equal the object log.
    pub fn known_point(&self) -> Option<Point> {
        let told = Some(self.logged).filter(|p| p.seq.0 > 0);
        self.point.into_iter().chain(told).filter(|p| fits(&self.mem, p)).max_by_key(|p| p.seq)
    }

    /// The object log is known to reach this.
    pub fn saw_point(&mut self, point: Point) {
        if point.seq > self.logged.seq {
            self.logged = point;
        }
    }

    /// Values that left the state machine's memory.
    pub fn rows(&self) -> Rows<'_> {
        Rows { log: &self.mem, holes: &self.holes }
    }

    /// Entries from here on are at hand.
    pub fn whole_from(&self) -> LogIndex {
        self.holes.partial.next()
    }

    pub fn ticket_holds(&self, now: u64, ticket: ReadTicket) -> bool {
        self.engine.read_end(now, ticket)
    }
}
