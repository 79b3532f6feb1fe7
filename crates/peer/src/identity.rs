//! Who a certificate speaks for: `netsy://{cluster_id}/{role}/{name}` (config.md, Identities).

use netsy_api::ids::{NAME_CHARS_MAX, NodeId, check_name};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// With what every identity begins.
pub const SCHEME: &str = "netsy://";
/// The most bytes a client's name may have.
pub const CLIENT_NAME_BYTES_MAX: usize = 128;

/// What the holder of a certificate may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A node: speaks to other nodes, and to the client port as a client does.
    Peer,
    /// A client.
    Client,
    /// Who runs the cluster: a client that may also change it.
    Operator,
}

impl Role {
    /// As it stands in a certificate.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Client => "client",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The one URI a certificate carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster it is valid in.
    pub cluster_id: String,
    /// What its holder may do.
    pub role: Role,
    /// The node id of a peer; any name of a client or an operator.
    pub name: String,
}

/// Why a text is no identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{uri:?} is no identity of netsy's: {why}; it has the form netsy://CLUSTER/peer/NODE, netsy://CLUSTER/client/NAME \
     or netsy://CLUSTER/operator/NAME"
)]
pub struct InvalidIdentity {
    /// The text.
    pub uri: String,
    /// What is wrong with it.
    pub why: String,
}

impl Identity {
    /// A node's.
    pub fn peer(cluster_id: &str, node_id: &NodeId) -> Self {
        Self { cluster_id: cluster_id.to_owned(), role: Role::Peer, name: node_id.as_str().to_owned() }
    }

    /// A client's; checks the name.
    pub fn client(cluster_id: &str, name: &str) -> Result<Self, InvalidIdentity> {
        format!("{SCHEME}{cluster_id}/client/{name}").parse()
    }

    /// An operator's; checks the name.
    pub fn operator(cluster_id: &str, name: &str) -> Result<Self, InvalidIdentity> {
        format!("{SCHEME}{cluster_id}/operator/{name}").parse()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.cluster_id, self.role, self.name)
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(uri: &str) -> Result<Self, InvalidIdentity> {
        let bad = |why: String| InvalidIdentity { uri: uri.to_owned(), why };
        let rest = uri.strip_prefix(SCHEME).ok_or_else(|| bad(format!("it does not begin with {SCHEME}")))?;
        let mut parts = rest.split('/');
        let (Some(cluster_id), Some(role), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad("it does not have three parts".to_owned()));
        };
        check_name("cluster id", cluster_id).map_err(|e| bad(e.to_string()))?;
        let role = match role {
            "peer" => Role::Peer,
            "client" => Role::Client,
            "operator" => Role::Operator,
            other => return Err(bad(format!("the role {other:?} is neither peer, client nor operator"))),
        };
        match role {
            Role::Peer => check_name("node id", name).map_err(|e| bad(e.to_string()))?,
            Role::Client | Role::Operator => check_client_name(name).map_err(bad)?,
        }
        Ok(Self { cluster_id: cluster_id.to_owned(), role, name: name.to_owned() })
    }
}

/// Names of clients and operators are for logs and permissions: letters, digits and a few signs that need no
/// escapes in a URI.
fn check_client_name(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~@:+".contains(&b);
    if name.is_empty() || name.len() > CLIENT_NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(format!("the name {name:?} is not 1 to {CLIENT_NAME_BYTES_MAX} letters, digits and -._~@:+"));
    }
    Ok(())
}

const _: () = assert!(NAME_CHARS_MAX <= CLIENT_NAME_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_and_written() {
        for text in [
            "netsy://prod-1/peer/node-1",
            "netsy://c/client/kube-apiserver",
            "netsy://c/client/a.b@c:D+e_~",
            "netsy://c/operator/alice@example.com",
        ] {
            assert_eq!(text.parse::<Identity>().map(|i| i.to_string()), Ok(text.to_owned()));
        }
        let peer: Identity = "netsy://prod-1/peer/node-1".parse().expect("valid");
        assert_eq!((peer.cluster_id.as_str(), peer.role, peer.name.as_str()), ("prod-1", Role::Peer, "node-1"));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "netsy://",
            "netsy://c/peer",
            "netsy://c/peer/",
            "netsy://c/peer/a/b",
            "netsy:///peer/a",
            "netsy://C/peer/a",
            "netsy://c/Peer/a",
            "netsy://c/admin/a",
            "netsy://c/peer/A",
            "netsy://c/peer/a--b",
            "netsy://c/client/a b",
            "netsy://c/operator/",
            "netsy://c/Operator/a",
            "netsy://c/client/%41",
            "https://c/peer/a",
            " netsy://c/peer/a",
            "NETSY://c/peer/a",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?}");
        }
        let long = format!("netsy://c/client/{}", "x".repeat(CLIENT_NAME_BYTES_MAX + 1));
        assert!(long.parse::<Identity>().is_err());
    }
}
