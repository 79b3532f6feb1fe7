//! What the engine tells its driver to do.

use crate::config::{Millis, RegisteredNode};
use crate::event::{CallId, LocalSeq, StreamId};
use crate::manifest::{ElectorLock, Manifest, ProcessId};
use crate::message::{Hello, Message, ToPrimary, ToReplica};
use crate::read::ReadId;
use netsy_api::ids::{ChunkSeq, Incarnation, LogIndex, NodeId, Nonce, Revision, Session, Term};

/// Why a wish to move the Primary is declined, though it may be fulfilled a moment later.
pub const NOT_CAUGHT_UP: &str = "no such voter has caught up";
/// Another such.
pub const NO_ELECTOR: &str = "there is no Elector at the moment";

/// An operation on the local database. All of them, and the entries of
/// [`Engine::appended`](crate::engine::Engine::appended), are executed in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalOp {
    /// Stores the promise.
    Promise(Term),
    /// Deletes every entry after this one; never a shown one.
    Truncate {
        /// The last one that stays.
        after: LogIndex,
    },
    /// Stores entries of the append or the piece of the object log that is being handled.
    Store {
        /// The first to store; those before it are there already.
        from: LogIndex,
        /// The last.
        through: LogIndex,
    },
    /// Reads the snapshot whose manifest is being handled and puts it in the place of everything that is stored. What
    /// is shown stays as it is until `Show` goes past the snapshot.
    InstallSnapshot {
        /// Its index.
        index: LogIndex,
    },
    /// Notes that this process led a term to the end of R4 and had waited for every lease before (R9): the next
    /// process of this database need not wait for this one's.
    Led(Session),
}

/// A call to object storage. It answers with [`StoreDone`](crate::event::Event::StoreDone), once, whatever happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreCall {
    /// Reads `cluster.json`. Every try is a new read begun after this command.
    ReadManifest,
    /// Swaps `cluster.json`.
    SwapManifest {
        /// The nonce of what is to be there; `None`: nothing.
        expected: Option<Nonce>,
        /// What is to be there then.
        manifest: Box<Manifest>,
    },
    /// Reads `elector.json`.
    ReadLock,
    /// Swaps `elector.json`.
    SwapLock {
        /// The nonce of what is to be there; `None`: nothing.
        expected: Option<Nonce>,
        /// What is to be there then.
        lock: Box<ElectorLock>,
    },
    /// Reads all registrations.
    ListNodes,
    /// Marks a registration as stopped, by compare-and-swap, if it is of this incarnation. Done also if it is gone or
    /// of another one.
    MarkStopped {
        /// Whose.
        node_id: NodeId,
        /// Of which database.
        incarnation: Incarnation,
    },
    /// LISTs the object log to its end and reads what the local database lacks, giving each part to the engine as a
    /// `LogPiece` first and doing what it then says; a missing number below the end means a segment or a snapshot.
    LoadLog,
    /// Creates a seal at the number after the log's end (R4).
    CreateSeal {
        /// The number.
        seq: ChunkSeq,
        /// The term.
        term: Term,
    },
    /// LISTs what is above the seal (R4).
    CheckSeal {
        /// The seal's number.
        seq: ChunkSeq,
    },
}

/// Something to log, count or show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// This node is the Elector.
    BecameElector,
    /// It is not any more.
    NoElector,
    /// An election begins.
    ElectionBegan {
        /// The term it is for.
        term: Term,
        /// Why.
        why: &'static str,
    },
    /// It was won by this process.
    Elected {
        /// The term.
        term: Term,
        /// By.
        primary: ProcessId,
    },
    /// R12: no election as long as these voters do not answer.
    QuorumLost {
        /// Promises wanted.
        needed: usize,
        /// Voters that answered.
        answered: Vec<NodeId>,
        /// Voters that did not.
        missing: Vec<NodeId>,
    },
    /// R12 is over.
    QuorumBack,
    /// The quorum is late: writes go to the object log (R8).
    QuorumLate,
    /// It has caught up.
    QuorumInTime,
    /// The seal fell into a hole that clean-up left; R4 starts over.
    SealInHole(ChunkSeq),
    /// The seal's number was taken.
    SealTaken(ChunkSeq),
    /// A change of voters, quorum or copies began.
    ChangeBegan,
    /// It is done.
    ChangeDone,
    /// It was cut short: another write came first.
    ChangeLost,
    /// An unknown outcome turned out to have landed.
    LateSwap,
    /// The configuration differs from the manifest, whose values count.
    ConfigDiffers {
        /// The manifest's.
        quorum: i32,
        /// The manifest's.
        copies_min: usize,
    },
    /// R12: what an operator gave up.
    Recovered {
        /// The term that began.
        term: Term,
        /// The end of the log it began from: entries after it, and of terms later than its own, that were acknowledged
        /// may be missing.
        index: LogIndex,
    },
    /// An operator's wish cannot be fulfilled; says why.
    Declined(String),
    /// A peer that reports less than was seen of it is refused (R11).
    Forgetful(NodeId),
}

/// What the driver is to do. Commands are taken in order; those that say nothing else may run at the same time.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Sends a message; may be lost.
    Send {
        /// To.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// An operation on the local database, in its turn; `LocalDone` once it is durable.
    Local {
        /// Its number.
        seq: LocalSeq,
        /// What.
        op: LocalOp,
    },
    /// A call to object storage.
    Store {
        /// Its number.
        call: CallId,
        /// Which.
        what: StoreCall,
    },
    /// Breaks off a `LoadLog` or `CreateSeal`: nothing more of it is wanted; it still ends with `StoreDone`.
    Abandon(CallId),
    /// Replica: opens a stream to the Primary; an older one is closed.
    Follow {
        /// This node's number for it.
        stream: StreamId,
        /// The Primary's node.
        primary: NodeId,
        /// The first frame.
        hello: Box<Hello>,
    },
    /// Primary: sends a frame. After `Welcome` the driver sends appends from `common` + 1 on, as entries come.
    ToReplica {
        /// The stream.
        stream: StreamId,
        /// What.
        frame: ToReplica,
    },
    /// Replica: sends a frame.
    ToPrimary {
        /// The stream.
        stream: StreamId,
        /// What.
        frame: ToPrimary,
    },
    /// Ends a stream, of either side.
    CloseStream(StreamId),
    /// Readers and watches see entries up to here (R8). On a replica all of them are durable.
    Show(LogIndex),
    /// Primary: the seal stands; chunks may be created after it, one at a time, each asked for with
    /// [`may_start_chunk`](crate::engine::Engine::may_start_chunk). Everything in the log goes up at once.
    StartUploads {
        /// The term.
        term: Term,
        /// The log's end: the seal.
        after: ChunkSeq,
        /// The last entry in it.
        last_index: LogIndex,
    },
    /// Primary: everything up to here is wanted in the object log now.
    Flush(LogIndex),
    /// Primary: whether chunks leave as soon as there is something to upload (R5 b, R8), or by size and age.
    UploadAtOnce(bool),
    /// Primary: R4 is done. The state is brought to the log's end, all of which is committed and shown; leases get
    /// their time anew; then `Leading`, and requests are taken.
    Lead {
        /// The term.
        term: Term,
    },
    /// No Primary any more: no entry is created, waiting writes end with an unknown outcome, uploads stop after the
    /// one in flight, what was not shown leaves the state (`Store::rollback`); streams to replicas are closed. The
    /// stored log stays.
    StepDown {
        /// The term that ended.
        term: Term,
    },
    /// Reads up to this one may be answered from what is visible at `index` or later.
    ReadsReady {
        /// The greatest of them.
        through: ReadId,
        /// The read index.
        index: LogIndex,
    },
    /// Reads up to this one cannot be confirmed now: they wait for a Primary again, or fail.
    ReadsFailed {
        /// The greatest of them.
        through: ReadId,
    },
    /// Nodes and their addresses are known anew.
    Nodes(Vec<RegisteredNode>),
    /// No watch begins below this revision any more; then `WatchFloorSet`.
    RefuseWatchesBelow(Revision),
    /// Primary: all nodes agreed: compact here.
    Compact(Revision),
    /// R12: this node's log holds what an operator gave up. The database is set aside and the node starts anew.
    Rebuild(String),
    /// R7: a committed entry would have to be deleted. The node ends, loudly.
    Halt(String),
    /// The graceful stop has come so far that the cluster does not need this process any more: it is no voter, and no
    /// Primary but the last one, of which the bucket has everything. It goes on following; requests that are under way
    /// are finished, then `Event::Finish`.
    Left,
    /// The graceful stop is done: the process may end.
    Stopped {
        /// What was left undone; empty: nothing.
        undone: String,
    },
    /// To log, count or show.
    Report(Report),
    /// The next `Tick` is wanted by then.
    Wake(Millis),
}
