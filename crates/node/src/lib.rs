//! A running node: it drives the protocol, owns the tasks and threads, and answers what the server asks.
//!
//! Not here: etcd's messages and texts beyond what the state machine itself speaks (`netsy-server`), SQL
//! (`netsy-localdb`), object keys (`netsy-objects`).
//!
//! Start reading at [`Node`]; the way of a write is `writer`, `publisher`, `uploader`.

mod background;
mod clock;
mod compactions;
mod config;
mod driver;
mod error;
mod fail_stop;
pub mod failpoint;
mod faults;
mod follower;
mod gather;
mod held_values;
mod history;
mod load;
mod load_log;
mod local_queue;
mod log_thread;
mod manifest_store;
pub mod metrics;
mod net;
mod node;
mod operator;
mod primary;
mod publisher;
mod quota;
mod read_again;
mod read_wait;
mod reads;
mod recover;
mod register;
mod reports;
mod requests;
mod roles;
mod shared;
mod silence;
mod snapshotter;
mod start;
mod stop;
mod store_calls;
mod streams;
mod uploader;
pub mod watch;
mod window;
mod wire;
mod writer;

pub use config::NodeConfig;
pub use error::{NodeError, Unavailable};
pub use manifest_store::ManifestStoreError;
pub use metrics::Metrics;
pub use net::{Forwarded, PeerListen};
pub use node::{Ended, Identity, Node, REQUEST_TIMEOUT};
pub use operator::{ClusterView, LogEnd, NodeView, RecoveredView};
pub use reads::RangePages;
pub use recover::RecoveryPlan;
pub use requests::{HashKvResult, LeaseInfo, MemberInfo, NodeStatus};
pub use start::{Opened, StartError};
pub use writer::Written;
