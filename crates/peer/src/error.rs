//! Why nothing came of it: dialling, calls, connections that end.

use crate::version::Versions;
use netsy_api::ids::NodeId;
use netsy_api::peer::{CallStatus, NotRun};
use std::borrow::Cow;
use std::io;
use thiserror::Error;

/// Why a connection is no more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Lost {
    /// The other end, or the machine between, closed or reset it: a crash looks like this.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Nothing was heard for the keep-alive's time.
    #[error("nothing was heard for {0} ms")]
    Silent(u64),
    /// The other node said goodbye before it closed: it stops gracefully.
    #[error("the node said goodbye: {0}")]
    Goodbye(String),
    /// It sent what is no valid message.
    #[error("the node sent what this version does not understand: {0}")]
    Malformed(String),
    /// A newer connection of the same node took its place.
    #[error("a newer connection took its place")]
    Superseded,
    /// This end closed it.
    #[error("this node closed it: {0}")]
    Closed(Cow<'static, str>),
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DialError {
    /// The address cannot be resolved.
    #[error("cannot resolve {address}: {error}")]
    Resolve {
        /// As it was given.
        address: String,
        /// Why.
        error: String,
    },
    /// Nobody listens there: the machine is up and the process is not.
    #[error("{address} refuses connections: nothing listens there")]
    ConnectionRefused {
        /// As it was given.
        address: String,
    },
    /// Any other failure of the network, a timeout included.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// As it was given.
        address: String,
        /// Why.
        error: String,
    },
    /// The TLS handshake failed, on either end's judgement.
    #[error("TLS with {address}: {error}")]
    Tls {
        /// As it was given.
        address: String,
        /// Why.
        error: String,
    },
    /// No protocol version is known to both.
    #[error(
        "node {node} at {address} ({software}) speaks peer protocol {theirs}, this node {ours}: \
         run releases that have a version in common"
    )]
    Version {
        /// As it was given.
        address: String,
        /// Who was called.
        node: NodeId,
        /// The other's release.
        software: String,
        /// What the other speaks.
        theirs: Versions,
        /// What this node speaks.
        ours: Versions,
    },
    /// The other node refused, or is not whom we looked for.
    #[error("{address}: {text}")]
    Refused {
        /// As it was given.
        address: String,
        /// Whether it refused only because it is stopping.
        stopping: bool,
        /// Why.
        text: String,
    },
    /// It was connected to, and then did not behave.
    #[error("{address}: the greeting failed: {error}")]
    Greeting {
        /// As it was given.
        address: String,
        /// Why.
        error: String,
    },
}

/// Why a call has no answer. The difference between the first and the second decides whether a
/// write may be sent again: what was sent may have happened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// Nothing left this node, or the other node says that it did nothing: it can be sent again.
    #[error("not sent: {0}")]
    NotSent(#[from] NotSent),
    /// It was sent, and no answer came: it may have happened, and may yet happen.
    #[error("sent, outcome unknown: {0}")]
    Unknown(#[from] Unanswered),
}

/// Why a call was not sent, or not run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotSent {
    /// There is no connection to that node now.
    #[error("not connected")]
    NotConnected,
    /// The connection broke before it was sent.
    #[error("the connection ended first: {0}")]
    Lost(Lost),
    /// Its time was over before there was room to send it.
    #[error("the deadline passed first")]
    Deadline,
    /// It is larger than what one message may be.
    #[error("{bytes} bytes are more than a message may have ({max})")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The other node got it and did nothing.
    #[error("the node did not run it: {0:?}")]
    NotRun(NotRun),
}

/// Why a call that was sent has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unanswered {
    /// The connection broke.
    #[error("{0}")]
    Lost(Lost),
    /// Its time is over. The other node was told to give it up.
    #[error("the deadline passed")]
    Deadline,
    /// The other node gave no outcome that this version understands.
    #[error("the answer is not understood")]
    Malformed,
}

/// Why a message cannot be put on its way.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// More is waiting than may wait: the other node is slower than this one.
    #[error("the queue is full")]
    Full,
    /// There is no connection, or no more.
    #[error("not connected")]
    Closed,
    /// It is larger than what one message may be.
    #[error("the message is too large")]
    TooLarge,
}

/// Why the peer port cannot be served.
#[derive(Debug, Error)]
pub enum StartError {
    /// The port cannot be had.
    #[error("cannot listen for other nodes on {addr}: {source}; choose another address or stop what uses it")]
    Bind {
        /// Which.
        addr: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// How a forwarded request ended on the other node.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The response's message.
    Answer(bytes::Bytes),
    /// A failure that is the client's to see.
    Status(CallStatus),
}
