//! What nodes say to each other. Entries travel beside [`Append`], never inside: the engine deals in positions.
//!
//! Unary messages ([`Message`]) may be lost, late, doubled and reordered. Stream frames ([`ToReplica`], [`ToPrimary`])
//! arrive in order until the stream breaks; what comes of a broken stream later is ignored.

use crate::config::RegisteredNode;
use crate::manifest::ProcessId;
use crate::reconcile::{Run, Runs};
use netsy_api::ids::{Incarnation, LogIndex, NodeId, Revision, Session, Term};

/// What a node says of itself to the Elector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// Who it is.
    pub process: ProcessId,
    /// Where peers reach it.
    pub address: String,
    /// Its promise.
    pub promised: Term,
    /// The end of its durable log.
    pub end: Run,
    /// The term it acts in as Primary, and whether R4 is done; `None`: it is no Primary.
    pub leads: Option<(Term, bool)>,
    /// The term of the Primary that it hears now; `None`: none.
    pub hears: Option<Term>,
    /// How long ago a call to object storage last succeeded, in milliseconds; `None`: never.
    pub store_age: Option<u64>,
    /// It is on its way out.
    pub stopping: bool,
}

/// The Elector makes itself known, every heartbeat interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectorBeat {
    /// The process that holds the lock.
    pub elector: ProcessId,
    /// Where peers reach it.
    pub address: String,
    /// How often it renewed the lock: of two Electors the one further on counts.
    pub counter: u64,
    /// The newest term it knows, and its Primary.
    pub primary: Option<(Term, ProcessId)>,
    /// The nodes it knows.
    pub nodes: Vec<RegisteredNode>,
    /// R12: why there is no election.
    pub quorum_lost: Option<crate::status::QuorumLost>,
}

/// Why a Primary wants another one in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOverReason {
    /// It stops, or was asked to by an operator: all it has is on the node that should follow.
    Planned,
    /// It cannot reach object storage.
    StoreUnreachable,
    /// A voter refused it with a higher promise: an election was left half done.
    Refused,
}

/// A message outside of streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The Elector's heartbeat.
    Beat(ElectorBeat),
    /// The answer to it; also sent unasked, by a node that starts or whose state changed.
    Report(NodeReport),
    /// The Elector asks for a promise (R2).
    PromiseAsk {
        /// Which election.
        election: u64,
        /// The term.
        term: Term,
    },
    /// Granted: durable, as is all that it reports.
    Promised {
        /// Which election.
        election: u64,
        /// The term.
        term: Term,
        /// Who promised.
        process: ProcessId,
        /// The end of its log: all of it durable.
        end: Run,
        /// It is on its way out.
        stopping: bool,
        /// How long ago object storage last answered it, in milliseconds.
        store_age: Option<u64>,
    },
    /// Not granted.
    PromiseRefused {
        /// Which election.
        election: u64,
        /// What it promised already.
        promised: Term,
    },
    /// Before it deposes a Primary, the Elector asks whether others hear it.
    HearsAsk {
        /// Tells answers apart.
        query: u64,
        /// The term.
        term: Term,
    },
    /// The answer.
    Hears {
        /// Of which question.
        query: u64,
        /// The incarnation that answers.
        incarnation: Incarnation,
        /// Whether it hears the Primary of that term.
        hears: bool,
        /// How long ago that Primary last reached object storage, by its own word, in milliseconds.
        primary_store_age: Option<u64>,
    },
    /// A node that lost the Elector asks whether others lost it too.
    ElectorGoneAsk {
        /// Tells answers apart.
        query: u64,
        /// The Elector's process.
        session: Session,
    },
    /// The answer.
    ElectorGone {
        /// Of which question.
        query: u64,
        /// Whether it is gone for the one that answers, too.
        gone: bool,
    },
    /// The Elector stops: the receiver may take the lock over at once.
    ElectorResigns {
        /// The Elector's process.
        session: Session,
    },
    /// A new Primary was elected: to it, and to all others.
    Elected {
        /// The term.
        term: Term,
        /// Who acts in it.
        primary: ProcessId,
    },
    /// A Primary asks for another one in its place.
    HandOver {
        /// The term it acts in.
        term: Term,
        /// Who should follow.
        to: Option<NodeId>,
        /// Why.
        reason: HandOverReason,
    },
    /// A Primary makes sure that it still is one (R9 i).
    Confirm {
        /// Its term.
        term: Term,
        /// Numbers the round.
        round: u64,
    },
    /// The answer: nothing above that term is promised.
    Confirmed {
        /// The term.
        term: Term,
        /// The round.
        round: u64,
        /// Of the answering node (R11).
        incarnation: Incarnation,
    },
    /// A higher term is promised, or known to exist: who acts in a lower one reads the manifest.
    HigherTerm {
        /// That term.
        term: Term,
        /// The manifest is known to name it; otherwise it is only promised.
        exists: bool,
    },
    /// A replica asks for a read index.
    ReadIndexAsk {
        /// Tells answers apart: of one process, rising.
        id: u64,
        /// The asking process.
        session: Session,
    },
    /// The answer: what is visible from `index` on is linearizable for all that waited.
    ReadIndex {
        /// Of which question.
        id: u64,
        /// The term that answers.
        term: Term,
        /// The read index.
        index: LogIndex,
    },
    /// Not Primary, or not yet or no longer able to say.
    ReadIndexRefused {
        /// Of which question.
        id: u64,
    },
    /// A replica stops gracefully and wants to be no voter any more (R10).
    Leave {
        /// Who.
        process: ProcessId,
    },
    /// It is none any more.
    Left {
        /// Who.
        process: ProcessId,
    },
}

/// The first frame of a stream: a replica presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who.
    pub process: ProcessId,
    /// The term and session it wants to follow.
    pub term: Term,
    /// The Primary's process it means.
    pub session: Session,
    /// Its promise.
    pub promised: Term,
    /// All runs of its log, accepted ones included.
    pub runs: Runs,
    /// It is on its way out.
    pub stopping: bool,
}

/// The Primary's answer to a Hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The term.
    pub term: Term,
    /// The Primary's process.
    pub session: Session,
    /// Greatest index at which both logs have the same term: appends go on from here.
    pub common: LogIndex,
    /// The end of the Primary's log at this moment, and its term (R7).
    pub end: Run,
    /// Committed.
    pub commit: LogIndex,
    /// When it last recovered from quorum loss (R12).
    pub recovered: Option<crate::manifest::Recovered>,
}

/// A run of entries; the entries travel beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The Primary's term.
    pub term: Term,
    /// Index and term of the entry before the first.
    pub prev: Run,
    /// The entries' terms: runs that go on from `prev` without a gap. Never empty.
    pub runs: Vec<Run>,
    /// Committed, as the Primary knows.
    pub commit: LogIndex,
}

impl Append {
    /// The last index it brings.
    pub fn last(&self) -> Run {
        self.runs.last().copied().unwrap_or(self.prev)
    }
}

/// The Primary's sign of life, every heartbeat interval and whenever the commit index moves with nothing to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The term.
    pub term: Term,
    /// Committed.
    pub commit: LogIndex,
    /// How long ago object storage last answered the Primary, in milliseconds.
    pub store_age: Option<u64>,
    /// No watch may begin below this revision any more.
    pub watch_floor: Option<Revision>,
    /// The replica that hears it is to make the snapshots, and to fold and clean up the object log (section 6).
    pub snapshots: bool,
}

/// From the Primary down a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToReplica {
    /// The stream is on.
    Welcome(Welcome),
    /// It is not: the sender is no such Primary, or not yet. The higher term it knows, if any.
    Refused {
        /// A term above the one that was asked for.
        higher: Option<Term>,
    },
    /// What the replica needs is not at hand any more: it loads the object log first, then comes again.
    LoadObjectLog,
    /// Entries.
    Append(Append),
    /// A sign of life.
    Beat(Beat),
}

/// From a replica up a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToPrimary {
    /// What it durably holds, verified with this term's Primary.
    Receipt(Receipt),
    /// A sign of life, every heartbeat interval.
    Alive {
        /// The lowest revision that its watches need; `None`: no watch needs any.
        watch_lowest: Option<Revision>,
        /// The floor below which it takes no watch, as announced and in force when `watch_lowest` was taken.
        watch_floor: Option<Revision>,
        /// It is on its way out.
        stopping: bool,
    },
}

/// A receipt (R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The Primary's term.
    pub term: Term,
    /// The database that holds it (R11).
    pub incarnation: Incarnation,
    /// Everything up to here is durable and verified.
    pub held: LogIndex,
}
