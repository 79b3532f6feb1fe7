//! A node's disk: the log with the rows that compaction left of it, and what else a crash leaves.

use netsy_api::ids::{Incarnation, LogIndex, NodeId, Position, Revision, Session, Term};
use netsy_api::log::{Entry, Mutation, Row};
use netsy_mvcc::{LoadEnd, RowMeta, RowWhat, Store};
use netsy_protocol::quorum::Voter;
use netsy_protocol::reconcile::Run;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What compaction took of a log: rows, not entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes {
    pub gone: BTreeSet<Position>,
    /// Entries up to here lost a row, or came in a snapshot: those after it are whole.
    pub partial: LogIndex,
    /// What is left gives a state from here on: rows are let go for the sake of entries up to here.
    pub least: LogIndex,
}

/// How far a log is known to equal the object log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    pub seq: netsy_api::ids::ChunkSeq,
    pub term: Term,
    pub last: Run,
}

/// What a crash leaves.
#[derive(Clone, Debug)]
pub struct Disk {
    pub incarnation: Incarnation,
    /// The process that runs on it made it, or the next one will.
    pub new: bool,
    pub boot: u64,
    pub promised: Term,
    pub log: Vec<Arc<Entry>>,
    pub holes: Holes,
    pub visible: LogIndex,
    pub led: Option<Session>,
    /// Noted beside what was stored.
    pub point: Option<Point>,
}

/// An operation on its way to the disk.
#[derive(Clone, Debug)]
pub enum DiskOp {
    Promise(Term),
    Truncate(LogIndex),
    Store(Vec<Arc<Entry>>),
    Install(Arc<Vec<Arc<Entry>>>, Holes),
    Led(Session),
    /// Rows that a compaction let go, the entry of the last of them, and what was visible then: a restart must not go
    /// back behind it (R8).
    Delete {
        rows: Vec<Position>,
        through: LogIndex,
        least: LogIndex,
        visible: LogIndex,
    },
}

impl Disk {
    pub fn new(incarnation: u128) -> Self {
        Self {
            incarnation: Incarnation(incarnation),
            new: true,
            boot: 0,
            promised: Term(0),
            log: vec![],
            holes: Holes::default(),
            visible: LogIndex(0),
            led: None,
            point: None,
        }
    }

    /// Its node, as manifests name it.
    pub fn voter(&self, node_id: &NodeId) -> Voter {
        Voter { node_id: node_id.clone(), incarnation: self.incarnation }
    }

    pub fn apply(&mut self, op: DiskOp) {
        match op {
            DiskOp::Promise(term) => self.promised = self.promised.max(term),
            DiskOp::Truncate(after) => self.log.truncate(after.0 as usize),
            DiskOp::Store(entries) => self.log.extend(entries),
            DiskOp::Install(entries, holes) => {
                self.log = entries.to_vec();
                self.holes = holes;
            }
            DiskOp::Led(session) => self.led = Some(session),
            DiskOp::Delete { rows, through, least, visible } => {
                self.holes.gone.extend(rows);
                self.holes.partial = self.holes.partial.max(through);
                self.holes.least = self.holes.least.max(least);
                self.visible = self.visible.max(visible);
            }
        }
    }

    /// What a restart shows: rows are compacted away only where they are visible; a snapshot is of committed entries.
    pub fn shown(&self) -> LogIndex {
        self.visible.max(self.holes.partial).min(LogIndex(self.log.len() as u64))
    }
}

/// Whether a log has what the object log has up to `point`.
pub fn fits(log: &[Arc<Entry>], point: &Point) -> bool {
    let last = point.last.last_index;
    last.0 == 0 || log.get(last.0 as usize - 1).is_some_and(|e| e.term == point.last.term)
}

/// The entry that the row at `position` belongs to.
pub fn entry_of(log: &[Arc<Entry>], position: Position) -> Option<&Arc<Entry>> {
    let mut next = 1;
    log.iter().find(|entry| {
        next += entry.mutations.len() as u64;
        position.0 < next
    })
}

/// The rows that are left of the entries up to `through`.
pub fn rows(log: &[Arc<Entry>], holes: &Holes, through: LogIndex) -> Vec<Row> {
    let mut next = Position(1);
    let mut out = vec![];
    for entry in log.iter().take(through.0 as usize) {
        out.extend(entry.rows(next).filter(|row| !holes.gone.contains(&row.position)));
        next.0 += entry.mutations.len() as u64;
    }
    out
}

/// The state as of `through`, from the rows that are left.
pub fn load(log: &[Arc<Entry>], holes: &Holes, through: LogIndex) -> Result<Store, String> {
    let mut store = crate::process::new_store();
    let (mut next, mut last) = (Position(1), None);
    for entry in log.iter().take(through.0 as usize) {
        last = Some(entry);
        for row in entry.rows(next).filter(|row| !holes.gone.contains(&row.position)) {
            let value = match &row.mutation {
                Mutation::Put { value, .. } => Some(value.clone()),
                _ => None,
            };
            let meta = RowMeta {
                position: row.position,
                index: row.index,
                term: row.term,
                time: row.time,
                revision: row.revision,
                sub: row.sub,
                what: RowWhat::Other(&row.mutation),
            };
            store.load_row(meta, value).map_err(|e| format!("row {}: {e}", row.position))?;
        }
        next.0 += entry.mutations.len() as u64;
    }
    let compact_revision = store.compact_revision();
    store
        .finish_load(LoadEnd {
            last_index: last.map_or(LogIndex(0), |e| e.index),
            last_term: last.map_or(Term(0), |e| e.term),
            next_position: next,
            revision: last.map_or(Revision(1), |e| e.revision),
            compact_revision,
        })
        .map_err(|e| e.to_string())?;
    Ok(store)
}
