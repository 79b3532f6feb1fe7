//! What a driver tells the engine.

use crate::config::RegisteredNode;
use crate::manifest::{ElectorLock, Manifest};
use crate::message::{Hello, Message, ToPrimary, ToReplica};
use crate::reconcile::{Run, Runs};
use netsy_api::ids::{ChunkSeq, LogIndex, NodeId, Revision, Term};

/// The number of a local operation: they are executed and become durable in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalSeq(pub u64);

/// The number of an object-store call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// A stream as this node numbers it: replica and Primary each have their own number for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// A chunk, as far as the rules look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkFact {
    /// Its number.
    pub seq: ChunkSeq,
    /// The term that wrote it.
    pub term: Term,
    /// The last entry of the log once it is read: for a seal, that of the chunk before.
    pub last_index: LogIndex,
}

/// A part of the object log that was read, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPiece {
    /// Chunks, from chunks or segments.
    Chunks {
        /// Ascending, without a gap.
        chunks: Vec<ChunkFact>,
        /// The entry before the first of `runs`.
        prev: Run,
        /// Terms of all entries in them, going on from `prev`; empty if they are all seals.
        runs: Vec<Run>,
    },
    /// A snapshot's manifest, before its parts are read.
    Snapshot {
        /// The last chunk it covers.
        covers: ChunkFact,
        /// All entries up to its index.
        runs: Runs,
    },
}

/// How an object-store call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // Few exist at a time.
pub enum StoreResult {
    /// Of `ReadManifest`.
    Manifest(Option<Manifest>),
    /// Of `ReadLock`.
    Lock(Option<ElectorLock>),
    /// Of a swap: it is in place. Of `MarkStopped`: it is done.
    Done,
    /// Of a swap: what was expected is not there (any more).
    Lost,
    /// Of `ListNodes`.
    Nodes(Vec<RegisteredNode>),
    /// Of `LoadLog`: everything was given to the engine as [`LogPiece`]s up to this chunk, which was the last one in a
    /// LIST begun after the call. `None`: there is no chunk.
    Loaded(Option<ChunkFact>),
    /// Of `CreateSeal`: it is there.
    Sealed(ChunkFact),
    /// Of `CreateSeal`: another chunk has the number; it was given to the engine as a [`LogPiece`].
    SealTaken(ChunkFact),
    /// Of `CreateSeal`: the number was taken by something that is deleted by now (R3).
    SealCleanedUp,
    /// Of `CheckSeal`: whether a key above the seal exists.
    AnythingAfter(bool),
    /// No answer, or one that leaves the outcome open; a write may yet land.
    Unknown,
    /// The store refused, or what is there cannot be used; repeating will not help soon. Says why.
    Refused(String),
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time passed: at least every tenth of the heartbeat interval, and when the engine asked to be woken.
    Tick,
    /// A message came.
    Message {
        /// From.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// A connection to this node is up.
    PeerUp(NodeId),
    /// The connection to this node broke or was refused: its process is gone, for all this node can see. Not to be
    /// told where a packet was merely lost.
    PeerDown(NodeId),
    /// All local operations up to this one are durable.
    LocalDone(LocalSeq),
    /// A part of the object log was read for `LoadLog`, or found by `CreateSeal`.
    LogPiece {
        /// The call.
        call: CallId,
        /// What.
        piece: LogPiece,
    },
    /// An object-store call ended.
    StoreDone {
        /// The call.
        call: CallId,
        /// How.
        result: StoreResult,
    },
    /// Primary: a replica opened a stream.
    StreamHello {
        /// This node's number for it, never used before.
        stream: StreamId,
        /// Who.
        hello: Box<Hello>,
    },
    /// Primary: a frame of a replica.
    FromReplica {
        /// The stream.
        stream: StreamId,
        /// What.
        frame: ToPrimary,
    },
    /// Replica: a frame of the Primary.
    FromPrimary {
        /// The stream.
        stream: StreamId,
        /// What.
        frame: ToReplica,
    },
    /// A stream broke, or could not be opened.
    StreamClosed(StreamId),
    /// The store has its state at the end of the log, and takes requests in this term: the answer to `Lead`.
    Leading(Term),
    /// SIGTERM: stop gracefully.
    Stop,
    /// After `Left`: no request is under way here any more.
    Finish,
    /// An operator wants another Primary; `None`: whichever is best.
    MovePrimary(Option<NodeId>),
    /// An operator changes what the manifest holds (R10); `None`: as it is.
    SetCluster {
        /// -1 majority, 0 object storage, N replica receipts.
        quorum: Option<i32>,
        /// At least 1.
        copies_min: Option<usize>,
    },
    /// An operator says that the databases with which these nodes vote are gone for good (R12). A node that runs under
    /// its name with another one is no reason against it.
    Recover {
        /// They.
        lost: Vec<NodeId>,
    },
    /// An operator takes a node that is not running out of the cluster.
    RemoveNode(NodeId),
    /// The local database cannot be written, as its disk is full; false: it can again.
    DiskFull(bool),
    /// The lowest revision that watches on this node need; to be told before each tick. `None`: none needs any.
    WatchLowest(Option<Revision>),
    /// `RefuseWatchesBelow` is in force; `lowest` was taken after that.
    WatchFloorSet {
        /// The floor.
        floor: Revision,
        /// The lowest revision that watches still need.
        lowest: Option<Revision>,
    },
    /// Primary: a compaction that keeps the retention would go up to here.
    CompactWanted(Revision),
}
