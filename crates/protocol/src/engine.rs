//! The engine: all rules of one process, driven from outside.
//!
//! A driver calls [`Engine::handle`] and the direct methods below, each time followed by taking all commands with
//! [`Engine::next_command`]. How it must carry them out: `docs/decisions/0006-protocol-engine.md`.

use crate::command::Command;
use crate::config::{Millis, Start};
use crate::event::{Event, LocalSeq, StreamId};
use crate::message::Receipt;
use crate::read::{ReadStart, ReadTicket};
use crate::status::Status;
use netsy_api::ids::{ChunkSeq, LogIndex, Term};
use std::collections::VecDeque;

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

/// See the module.
pub struct Engine {
    out: VecDeque<Command>,
}

impl Engine {
    /// Begins with what the local database holds. Commands may be waiting at once.
    pub fn new(_now: Millis, _start: Start) -> Self {
        Self { out: VecDeque::new() }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, _now: Millis, _event: Event) {}

    /// The next thing to do.
    pub fn next_command(&mut self) -> Option<Command> {
        self.out.pop_front()
    }

    /// Whether the writer may create entries in `term`. Asked before a batch is evaluated.
    pub fn may_create(&self, _term: Term) -> Creating {
        Creating::No
    }

    /// The writer created entries of `term` up to `last` and is about to store them as the local operation returned.
    /// From here on they go down the streams.
    pub fn appended(&mut self, _now: Millis, term: Term, _last: LogIndex) -> Result<LocalSeq, NotPrimary> {
        Err(NotPrimary(term))
    }

    /// All local operations up to this one are durable: the same as `Event::LocalDone`.
    pub fn local_done(&mut self, _now: Millis, _seq: LocalSeq) {}

    /// A receipt came up a stream: the same as `Event::FromReplica` with one.
    pub fn receipt(&mut self, _now: Millis, _stream: StreamId, _receipt: Receipt) {}

    /// Whether a chunk may be started in `term` (R2, R3). Asked before each creation, not before the repetition of one.
    pub fn may_start_chunk(&self, _term: Term) -> bool {
        false
    }

    /// A chunk of `term` landed.
    pub fn chunk_landed(&mut self, _now: Millis, _term: Term, _seq: ChunkSeq, _last: LogIndex) {}

    /// The number of the next chunk of `term` was taken by a chunk of term `by`, or (`None`) by one that is cleaned up
    /// by now: this term is over.
    pub fn chunk_taken(&mut self, _now: Millis, _term: Term, _by: Option<Term>) {}

    /// A chunk of `term` could not be created yet (the store does not answer), or can again.
    pub fn store_answers(&mut self, _now: Millis, _answers: bool) {}

    /// A linearizable read arrived (R9).
    pub fn read_begin(&mut self, _now: Millis) -> ReadStart {
        ReadStart::NoPrimary
    }

    /// Whether what was read after [`read_begin`](Self::read_begin) said `Now` may be answered. If not, begin again.
    pub fn read_end(&self, _now: Millis, _ticket: ReadTicket) -> bool {
        false
    }

    /// Entries before this one are not at hand for followers any more.
    pub fn set_entries_from(&mut self, _first: LogIndex) {}

    /// Greatest index known to be committed.
    pub fn committed(&self) -> LogIndex {
        LogIndex(0)
    }

    /// What this node knows.
    pub fn status(&self, _now: Millis) -> Status {
        Status {
            role: crate::status::Role::Replica,
            term: Term(0),
            promised: Term(0),
            primary: None,
            primary_ready: false,
            elector: None,
            is_elector: false,
            manifest: None,
            changing: false,
            quorum_late: false,
            quorum_lost: None,
            committed: LogIndex(0),
            visible: LogIndex(0),
            end: LogIndex(0),
            in_object_log: LogIndex(0),
            nodes: vec![],
            stopping: false,
        }
    }
}
