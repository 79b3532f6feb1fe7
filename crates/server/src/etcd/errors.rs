//! What the node could not do, as codes and texts that etcd clients match (reference/etcd.md 1.1).

use crate::grpc::status::{Code, Status};
use netsy_mvcc::ErrorKind;
use netsy_node::{NodeError, Unavailable};

/// The status for an error of the node.
pub(crate) fn status(error: NodeError) -> Status {
    match error {
        NodeError::Mvcc(error) => {
            let code = match error.kind() {
                ErrorKind::InvalidArgument => Code::InvalidArgument,
                ErrorKind::OutOfRange => Code::OutOfRange,
                ErrorKind::ResourceExhausted => Code::ResourceExhausted,
                ErrorKind::NotFound => Code::NotFound,
                ErrorKind::FailedPrecondition => Code::FailedPrecondition,
                ErrorKind::DataLoss => Code::DataLoss,
                ErrorKind::Unavailable => Code::Unavailable,
            };
            Status::new(code, error.to_string())
        }
        // etcd sends this one with the code Unknown, and clients know it by its text.
        NodeError::Unavailable(Unavailable::TooManyRequests) => {
            Status::new(Code::Unknown, "etcdserver: too many requests")
        }
        NodeError::Unavailable(Unavailable::NotPrimary) => super::forward::not_primary(),
        NodeError::Unavailable(reason) => Status::new(Code::Unavailable, reason.to_string()),
        NodeError::Storage(_) => Status::new(Code::Internal, error.to_string()),
    }
}

/// The server's own deadline has passed, or the client's.
pub(crate) fn timed_out() -> Status {
    Status::new(Code::Unavailable, "etcdserver: request timed out")
}

/// Refused before anything was done.
pub(crate) fn request_too_large() -> Status {
    Status::new(Code::InvalidArgument, "etcdserver: request is too large")
}

/// There is nobody to decide.
pub(crate) fn no_leader() -> Status {
    Status::new(Code::Unavailable, "etcdserver: no leader")
}

/// The client names its version in bytes that are no text.
pub(crate) fn invalid_client_api_version() -> Status {
    Status::new(Code::InvalidArgument, "etcdserver: invalid client api version")
}

/// The node answered another question than was asked: a bug.
pub(crate) fn wrong_outcome(what: &'static str) -> Status {
    Status::internal(format!("netsy: internal error: the node's answer does not fit a {what}"))
}
