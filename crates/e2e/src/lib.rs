//! Tests that see netsy as its users do: as a program that is started, talked to over loopback and
//! killed. Here is what those tests share; the tests themselves are in `tests/`.
//!
//! Not here: anything of netsy's own code but the wire messages, so that the two cannot be wrong in
//! the same way. The same tests run against a real etcd (`NETSY_E2E_SERVER=etcd`), which is how each
//! expected result was checked.
//!
//! Functions here panic where something is not as a test needs it: a panic is how a test fails.
//!
//! Start reading at [`Server`] and [`Client`]; the crash test at [`crash::run`].

pub mod arguments;
pub mod client;
pub mod crash;
pub mod etcdctl;
pub mod nodes;
pub mod ops;
pub mod random;
pub mod raw_grpc;
pub mod raw_h2;
pub mod server;
pub mod watch;

pub use client::Client;
pub use server::{Kind, Options, Server};
pub use watch::WatchStream;
