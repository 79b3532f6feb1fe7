//! What clients talk to: etcd services over gRPC, health, version and metrics over HTTP.
//!
//! Not here: any rule of the state machine (`netsy_mvcc`), anything that is kept (`netsy_node` and
//! below). A file per etcd service translates messages to what the node does and back.
//!
//! Start reading at [`Server`], then `transport::connection`, which drives one client's
//! connection, and `grpc::call`, the frame around every handler. A streaming service works with
//! [`grpc::streaming`].

pub(crate) mod etcd;
pub mod grpc;
pub(crate) mod metrics;
mod server;
mod tls;
pub(crate) mod transport;
pub(crate) mod watch;
pub(crate) mod web;

pub use server::{Ports, Server, ServerConfig, ServerError, Waiting};
pub use tls::Mutual;
pub use transport::listener::{Accepted, Acceptor, Plain};
