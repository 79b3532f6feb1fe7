//! gRPC over HTTP/2 streams: messages in, messages out, and how a call ends.

pub(crate) mod call;
pub(crate) mod deadline;
pub(crate) mod gunzip;
pub(crate) mod message;
pub(crate) mod pieces;
pub(crate) mod reply;
pub(crate) mod rpc;
pub mod status;
pub mod streaming;
