//! How the nodes of a cluster talk to each other, and who everybody is: connections between nodes with
//! their greeting and protocol version, the log's streams, clients' requests that are passed on, messages of the
//! rules; and mutual TLS with netsy's identities, for clients as well.
//!
//! Not here: what the messages mean (`netsy_protocol`), what is done with them (`netsy_node`, `netsy_server`),
//! anything about SQLite, object storage or etcd's messages.
//!
//! Start reading at [`Peers`], then [`Handler`]; what is on the wire is told by `netsy/peer.proto`.

mod calls;
mod config;
mod connection;
mod dial;
pub mod engine_wire;
mod error;
pub mod framing;
mod gathered;
mod handler;
mod hub;
mod identity;
mod inbox;
mod link;
mod listen;
mod outbox;
mod peers;
mod replicate;
mod session;
mod socket;
mod tasks;
pub mod tls;
mod version;
mod wire;

pub use config::PeerConfig;
pub use error::{CallError, DialError, Lost, NotSent, Outcome, SendError, StartError, Unanswered};
pub use gathered::{Gathered, Gathering};
pub use handler::{Direction, ForwardReply, ForwardRequest, Handler, LocalNode, PeerEvent, Remote};
pub use identity::{CLIENT_NAME_BYTES_MAX, Identity, InvalidIdentity, Role, SCHEME};
pub use peers::{Peer, Peers};
pub use replicate::{
    EncodedEntries, FollowerStream, FrameReceiver, FrameSender, FrameStream, PrimaryStream, append_frame,
    decode_entries,
};
pub use version::{VERSION_MAX, VERSION_MIN, Versions};
