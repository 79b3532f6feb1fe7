//! What clients talk to: etcd services over gRPC, health, version and metrics over HTTP.
//!
//! Not here: any rule of the state machine (`netsy_mvcc`), anything that is kept (`netsy_node` and
//! below). A file per etcd service translates messages to what the node does and back.
//!
//! Start reading at `transport::connection`, which drives one client's connection, then
//! `grpc::call`, the frame around every handler. A streaming service works with
//! [`grpc::streaming`].

pub mod grpc;
pub(crate) mod metrics;
pub(crate) mod transport;
