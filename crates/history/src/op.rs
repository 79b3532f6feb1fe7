//! Operations: what was asked, by whom, of whom, when, and what came of it.

use crate::answer::Answer;
use netsy_api::etcdserverpb::request_op::Request as OpRequest;
use netsy_api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use std::fmt;

/// What a client asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// A put. A value is best never used twice in a run, so that a put of unknown outcome can be told from others.
    Put(PutRequest),
    /// A delete.
    DeleteRange(DeleteRangeRequest),
    /// A transaction.
    Txn(TxnRequest),
    /// A read, linearizable or serializable, of now or of the past.
    Range(RangeRequest),
    /// A new lease. Ids are chosen by the clients and never used twice in a run.
    LeaseGrant {
        /// Not 0.
        id: i64,
        /// Wished, seconds.
        ttl: i64,
    },
    /// The end of a lease.
    LeaseRevoke {
        /// Which.
        id: i64,
    },
    /// A renewal.
    LeaseKeepAlive {
        /// Which.
        id: i64,
    },
    /// A look at a lease.
    LeaseTimeToLive {
        /// Which.
        id: i64,
        /// Whether its keys were asked for.
        keys: bool,
    },
    /// A compaction.
    Compact {
        /// The lowest revision that stays readable.
        revision: i64,
    },
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// Who asked.
    pub client: u32,
    /// The node that was asked.
    pub node: u32,
    /// Which life of that node's process; any number that differs between lives.
    pub session: u64,
    /// When it was sent. The unit is the run's own; [`crate::Rules::units_per_second`] says which.
    pub invoked: u64,
    /// When its answer came; meaningless where the outcome is unknown.
    pub returned: u64,
    /// What was asked.
    pub request: Request,
    /// What came of it.
    pub outcome: Outcome,
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Success.
    Done(Done),
    /// An error that says that nothing was done, nor will be.
    Refused(Refusal),
    /// No answer, or one that leaves it open: it may be done at any later time, once, or never.
    Unknown,
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// Of the header.
    pub revision: i64,
    /// The rest.
    pub answer: Answer,
}

/// Errors after which nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The revision asked for is compacted.
    Compacted,
    /// The revision asked for is not there yet.
    FutureRevision,
    /// `ignore_value` or `ignore_lease`, and there is no such key.
    KeyNotFound,
    /// There is no such lease.
    LeaseNotFound,
    /// There is such a lease.
    LeaseExists,
    /// Anything else that surely did nothing; whether it was right to refuse is not judged.
    Other(String),
}

impl Refusal {
    /// By etcd's texts (reference 1.1). `None`: another text, which the caller must judge by its gRPC code.
    pub fn of_text(text: &str) -> Option<Self> {
        Some(match text {
            "etcdserver: mvcc: required revision has been compacted" => Self::Compacted,
            "etcdserver: mvcc: required revision is a future revision" => Self::FutureRevision,
            "etcdserver: key not found" => Self::KeyNotFound,
            "etcdserver: requested lease not found" => Self::LeaseNotFound,
            "etcdserver: lease already exists" => Self::LeaseExists,
            _ => return None,
        })
    }
}

impl Op {
    /// The answer, if it was a success.
    pub fn done(&self) -> Option<&Done> {
        match &self.outcome {
            Outcome::Done(done) => Some(done),
            _ => None,
        }
    }

    /// May it have taken effect?
    pub fn may_have_happened(&self) -> bool {
        !matches!(self.outcome, Outcome::Refused(_))
    }

    /// Did it, by its own answer, change keys? Its header then names its own revision. A revoke's answer does not say.
    pub fn wrote(&self) -> bool {
        self.done().is_some_and(|done| done.answer.wrote())
    }
}

impl Request {
    /// Could it change keys?
    pub fn may_write(&self) -> bool {
        match self {
            Self::Put(_) | Self::DeleteRange(_) | Self::LeaseRevoke { .. } => true,
            Self::Txn(txn) => ops_write(&txn.success) || ops_write(&txn.failure),
            _ => false,
        }
    }

    /// May its answer be of the past? (etcd serves a transaction of serializable reads as one.)
    pub fn is_serializable(&self) -> bool {
        match self {
            Self::Range(range) => range.serializable,
            Self::Txn(txn) => txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
                Some(OpRequest::RequestRange(range)) => range.serializable,
                _ => false,
            }),
            _ => false,
        }
    }

    /// Does etcd promise that its header is at least what anybody was told before it began?
    pub(crate) fn is_linearizable(&self) -> bool {
        match self {
            Self::LeaseKeepAlive { .. } | Self::LeaseTimeToLive { .. } => false,
            other => !other.is_serializable(),
        }
    }

    /// Of keys: its answers by one node never go back.
    pub(crate) fn is_of_keys(&self) -> bool {
        matches!(self, Self::Put(_) | Self::DeleteRange(_) | Self::Txn(_) | Self::Range(_))
    }
}

fn ops_write(ops: &[RequestOp]) -> bool {
    ops.iter().any(|op| match &op.request {
        Some(OpRequest::RequestPut(_) | OpRequest::RequestDeleteRange(_)) => true,
        Some(OpRequest::RequestTxn(txn)) => ops_write(&txn.success) || ops_write(&txn.failure),
        _ => false,
    })
}

/// Longer texts are cut where an operation is printed.
const SHOWN_MAX: usize = 400;

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Op { client, node, session, invoked, returned, request, outcome } = self;
        write!(f, "client {client} at node {node}/{session}, {invoked}..")?;
        match outcome {
            Outcome::Unknown => write!(f, "?")?,
            _ => write!(f, "{returned}")?,
        }
        write!(f, ": {} -> ", cut(format!("{request:?}")))?;
        match outcome {
            Outcome::Done(done) => write!(f, "@{} {}", done.revision, cut(format!("{:?}", done.answer))),
            other => write!(f, "{other:?}"),
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > SHOWN_MAX {
        let at = (0..=SHOWN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(at);
        text.push('…');
    }
    text
}
