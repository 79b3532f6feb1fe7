//! The greeting, and the messages of the engine after it.

use crate::error::{DialError, Lost};
use crate::handler::{Handler, LocalNode, Remote};
use crate::identity::{Identity, Role};
use crate::inbox::Inbox;
use crate::version::Versions;
use netsy_api::ids::{Incarnation, NodeId, Session};
use netsy_api::peer::{Hello, Refusal, SessionFrame, Welcome, refusal, session_frame};
use std::net::SocketAddr;
use std::sync::Arc;

/// 16 bytes, big-endian, as sessions and incarnations are sent.
pub(crate) fn token(bytes: &[u8]) -> Option<u128> {
    bytes.try_into().ok().map(u128::from_be_bytes)
}

/// What the one that opens a connection says first.
pub(crate) fn hello(local: &LocalNode, to: &NodeId, software: &str) -> SessionFrame {
    let Versions { min, max } = Versions::OWN;
    let hello = Hello {
        version_min: min,
        version_max: max,
        cluster_id: local.cluster_id.clone(),
        node_id: local.node_id.as_str().to_owned(),
        incarnation: local.incarnation.0.to_be_bytes().to_vec().into(),
        session: local.session.0.to_be_bytes().to_vec().into(),
        to_node_id: to.as_str().to_owned(),
        software: software.to_owned(),
    };
    SessionFrame { kind: Some(session_frame::Kind::Hello(hello)) }
}

fn refuse(kind: refusal::Kind, text: String, software: &str) -> Refusal {
    let Versions { min, max } = Versions::OWN;
    Refusal { kind: kind.into(), text, version_min: min, version_max: max, software: software.to_owned() }
}

/// Judges a Hello. `certified`: who the certificate speaks for, with TLS.
pub(crate) fn judge_hello(
    local: &LocalNode,
    software: &str,
    certified: Option<&Identity>,
    addr: SocketAddr,
    hello: Hello,
) -> Result<(Remote, Welcome), Refusal> {
    let theirs = Versions { min: hello.version_min, max: hello.version_max };
    // Before anything else: what else it says may mean something else in its versions.
    let Some(version) = Versions::OWN.agree(theirs) else {
        let text = format!(
            "{} runs {software} and speaks peer protocol {}; {} runs {} and speaks {theirs}: \
             run releases that have a version in common",
            local.node_id,
            Versions::OWN,
            shown(&hello.node_id),
            shown(&hello.software),
        );
        return Err(refuse(refusal::Kind::Version, text, software));
    };
    let malformed = |what: &str| refuse(refusal::Kind::Malformed, format!("the Hello is not valid: {what}"), software);
    let node_id = NodeId::new(hello.node_id).map_err(|e| malformed(&e.to_string()))?;
    let incarnation = token(&hello.incarnation).map(Incarnation).ok_or_else(|| malformed("no incarnation"))?;
    let session = token(&hello.session).map(Session).ok_or_else(|| malformed("no session"))?;
    if hello.cluster_id != local.cluster_id {
        let text = format!(
            "{} is of the cluster {:?}, and {node_id} of {}: one of them has another's configuration or address",
            local.node_id,
            local.cluster_id,
            shown(&hello.cluster_id)
        );
        return Err(refuse(refusal::Kind::Cluster, text, software));
    }
    let identity = |text: String| refuse(refusal::Kind::Identity, text, software);
    if let Some(certified) = certified {
        check_identity(certified, &local.cluster_id, &node_id).map_err(identity)?;
    }
    if hello.to_node_id != local.node_id.as_str() {
        return Err(identity(format!(
            "this is {}, and {node_id} looked for {} here: an address that was another node's",
            local.node_id,
            shown(&hello.to_node_id)
        )));
    }
    if node_id == local.node_id {
        return Err(identity(format!("two nodes have the name {node_id}: give each a node id of its own")));
    }
    let welcome = Welcome {
        version,
        node_id: local.node_id.as_str().to_owned(),
        incarnation: local.incarnation.0.to_be_bytes().to_vec().into(),
        session: local.session.0.to_be_bytes().to_vec().into(),
        software: software.to_owned(),
    };
    let software = bounded(hello.software);
    Ok((Remote { node_id, incarnation, session, version, software, addr }, welcome))
}

/// A peer may only speak for its own node id.
pub(crate) fn check_identity(certified: &Identity, cluster_id: &str, node_id: &NodeId) -> Result<(), String> {
    if certified.role != Role::Peer || certified.cluster_id != cluster_id || certified.name != node_id.as_str() {
        return Err(format!(
            "the certificate speaks for {certified}, not for netsy://{cluster_id}/peer/{node_id}: \
             a node may only speak for its own node id"
        ));
    }
    Ok(())
}

/// Judges the answer to a Hello.
pub(crate) fn judge_answer(
    expected: &NodeId,
    address: &str,
    addr: SocketAddr,
    answer: SessionFrame,
) -> Result<Remote, DialError> {
    let greeting = |error: &str| DialError::Greeting { address: address.to_owned(), error: error.to_owned() };
    match answer.kind {
        Some(session_frame::Kind::Welcome(welcome)) => {
            let theirs = Versions { min: welcome.version, max: welcome.version };
            if Versions::OWN.agree(theirs) != Some(welcome.version) {
                return Err(DialError::Version {
                    address: address.to_owned(),
                    node: expected.clone(),
                    software: shown(&welcome.software),
                    theirs,
                    ours: Versions::OWN,
                });
            }
            if welcome.node_id != expected.as_str() {
                return Err(DialError::Refused {
                    address: address.to_owned(),
                    stopping: false,
                    text: format!("the node there is {}, not {expected}", shown(&welcome.node_id)),
                });
            }
            Ok(Remote {
                node_id: expected.clone(),
                incarnation: token(&welcome.incarnation).map(Incarnation).ok_or_else(|| greeting("no incarnation"))?,
                session: token(&welcome.session).map(Session).ok_or_else(|| greeting("no session"))?,
                version: welcome.version,
                software: bounded(welcome.software),
                addr,
            })
        }
        Some(session_frame::Kind::Refusal(refusal)) if refusal.kind() == refusal::Kind::Version => {
            Err(DialError::Version {
                address: address.to_owned(),
                node: expected.clone(),
                software: shown(&refusal.software),
                theirs: Versions { min: refusal.version_min, max: refusal.version_max },
                ours: Versions::OWN,
            })
        }
        Some(session_frame::Kind::Refusal(refusal)) => Err(DialError::Refused {
            address: address.to_owned(),
            stopping: refusal.kind() == refusal::Kind::Stopping,
            text: bounded(refusal.text),
        }),
        _ => Err(greeting("it did not answer with a Welcome")),
    }
}

/// The refusal of a node that stops.
pub(crate) fn stopping(local: &LocalNode, software: &str) -> Refusal {
    refuse(refusal::Kind::Stopping, format!("{} is stopping", local.node_id), software)
}

/// The refusal of one that does not greet.
pub(crate) fn no_hello(software: &str) -> Refusal {
    refuse(refusal::Kind::Malformed, "the first message was no Hello".to_owned(), software)
}

/// Passes on the messages of the engine until the session ends.
pub(crate) async fn receive(mut inbox: Inbox, remote: &Arc<Remote>, handler: &Arc<dyn Handler>) -> Lost {
    loop {
        match inbox.next::<SessionFrame>().await {
            Ok(Some(SessionFrame { kind: Some(session_frame::Kind::Engine(message)) })) => {
                handler.engine(remote, message);
            }
            Ok(Some(SessionFrame { kind: Some(session_frame::Kind::Goodbye(goodbye)) })) => {
                return Lost::Goodbye(bounded(goodbye.reason));
            }
            Ok(Some(_)) => return Lost::Malformed("a second greeting, or a frame of no known kind".to_owned()),
            Ok(None) => return Lost::Broken("the other end ended the session".to_owned()),
            Err(lost) => return lost,
        }
    }
}

/// The most of a text of the other end that is logged.
const TEXT_CHARS_MAX: usize = 500;

fn bounded(text: String) -> String {
    if text.chars().nth(TEXT_CHARS_MAX).is_none() { text } else { text.chars().take(TEXT_CHARS_MAX).collect() }
}

/// As it may stand in a log: whatever it holds, it is one short line.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(100).collect::<String>())
}
