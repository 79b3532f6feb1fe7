//! A running node: it drives the protocol, owns the tasks and threads, and answers what the server asks.
//!
//! Not here: etcd's messages and texts beyond what the state machine itself speaks (`netsy-server`), SQL
//! (`netsy-localdb`), object keys (`netsy-objects`).
//!
//! Start reading at [`Node`]; the way of a write is `writer`, `publisher`, `uploader`.

mod adopt;
mod background;
mod clock;
mod compactions;
mod config;
mod confirm;
mod error;
pub mod failpoint;
mod history;
mod load;
mod manifest_store;
pub mod metrics;
mod node;
mod publisher;
mod quota;
mod reads;
mod requests;
mod restore;
mod shared;
mod snapshotter;
mod start;
mod term;
mod uploader;
pub mod watch;
mod writer;

pub use config::NodeConfig;
pub use error::{NodeError, Unavailable};
pub use manifest_store::ManifestStoreError;
pub use metrics::Metrics;
pub use node::{Ended, Identity, Node, REQUEST_TIMEOUT};
pub use reads::RangePages;
pub use requests::{HashKvResult, LeaseInfo, MemberInfo, NodeStatus};
pub use start::StartError;
pub use writer::Written;
