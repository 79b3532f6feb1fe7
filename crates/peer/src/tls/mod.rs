//! Mutual TLS with netsy's identities: who may speak to whom, and certificates that change while
//! connections go on.
//!
//! Both ends of every connection are checked for CA, cluster and role. Between nodes the identity in the
//! certificate takes the place of a host name, as addresses of nodes change and names do not; clients
//! check host names as they do everywhere.
//!
//! Start reading at [`TlsStore`].

mod files;
mod material;
mod operator;
mod store;
mod verify;

pub use files::{TlsError, TlsFiles};
pub use operator::OperatorTls;
pub use store::{ClientTls, PeerTls, RELOAD_INTERVAL, Reload, TlsStore};
pub use verify::{CaIdentity, ca_identity, identity_of};
