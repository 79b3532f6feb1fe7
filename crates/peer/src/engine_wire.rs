//! Messages of the rules to and from the bytes that a session carries (`netsy/engine.proto`).

use crate::session::token;
use bytes::Bytes;
use netsy_api::engine as wire;
use netsy_api::ids::{Incarnation, LogIndex, NodeId, Session, Term};
use netsy_api::peer;
use netsy_protocol::config::RegisteredNode;
use netsy_protocol::manifest::ProcessId;
use netsy_protocol::message::{ElectorBeat, HandOverReason, Message, NodeReport};
use netsy_protocol::reconcile::Run;
use netsy_protocol::status::QuorumLost;
use prost::Message as _;
use thiserror::Error;
use wire::message::Kind;

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no valid message: {0}")]
pub struct InvalidMessage(String);

fn bad(what: impl Into<String>) -> InvalidMessage {
    InvalidMessage(what.into())
}

/// The bytes of a message.
pub fn encode(message: &Message) -> Bytes {
    wire::Message { kind: Some(to_kind(message)) }.encode_to_vec().into()
}

/// The message in `bytes`. Error: it is none that this version knows.
pub fn decode(bytes: Bytes) -> Result<Message, InvalidMessage> {
    let message = wire::Message::decode(bytes).map_err(|e| bad(e.to_string()))?;
    from_kind(message.kind.ok_or_else(|| bad("of no known kind"))?)
}

/// A process on the wire.
pub fn process_to_wire(process: &ProcessId) -> peer::Process {
    peer::Process {
        node_id: process.node_id.as_str().to_owned(),
        incarnation: incarnation_to_wire(process.incarnation),
        session: session_to_wire(process.session),
    }
}

/// And back.
pub fn process_from_wire(process: Option<peer::Process>) -> Result<ProcessId, InvalidMessage> {
    let process = process.ok_or_else(|| bad("a process is missing"))?;
    Ok(ProcessId {
        node_id: node_id(process.node_id)?,
        incarnation: incarnation_from_wire(&process.incarnation)?,
        session: session_from_wire(&process.session)?,
    })
}

/// An incarnation on the wire.
pub fn incarnation_to_wire(incarnation: Incarnation) -> Bytes {
    Bytes::copy_from_slice(&incarnation.0.to_be_bytes())
}

/// And back.
pub fn incarnation_from_wire(bytes: &[u8]) -> Result<Incarnation, InvalidMessage> {
    token(bytes).map(Incarnation).ok_or_else(|| bad("an incarnation is not 16 bytes"))
}

/// A session on the wire.
pub fn session_to_wire(session: Session) -> Bytes {
    Bytes::copy_from_slice(&session.0.to_be_bytes())
}

/// And back.
pub fn session_from_wire(bytes: &[u8]) -> Result<Session, InvalidMessage> {
    token(bytes).map(Session).ok_or_else(|| bad("a session is not 16 bytes"))
}

/// A run on the wire.
pub fn run_to_wire(run: Run) -> peer::Run {
    peer::Run { term: run.term.0, last_index: run.last_index.0 }
}

/// And back; a missing one is the end of an empty log.
pub fn run_from_wire(run: Option<peer::Run>) -> Run {
    let run = run.unwrap_or_default();
    Run { term: Term(run.term), last_index: LogIndex(run.last_index) }
}

fn node_id(text: String) -> Result<NodeId, InvalidMessage> {
    NodeId::new(text).map_err(|e| bad(e.to_string()))
}

fn node_ids(texts: Vec<String>) -> Result<Vec<NodeId>, InvalidMessage> {
    texts.into_iter().map(node_id).collect()
}

fn to_kind(message: &Message) -> Kind {
    match message {
        Message::Beat(beat) => Kind::ElectorBeat(beat_to_wire(beat)),
        Message::Report(report) => Kind::NodeReport(report_to_wire(report)),
        Message::PromiseAsk { election, term } => {
            Kind::PromiseAsk(wire::PromiseAsk { election: *election, term: term.0 })
        }
        Message::Promised { election, term, process, end, stopping, store_age } => Kind::Promised(wire::Promised {
            election: *election,
            term: term.0,
            process: Some(process_to_wire(process)),
            end: Some(run_to_wire(*end)),
            stopping: *stopping,
            store_age_ms: *store_age,
        }),
        Message::PromiseRefused { election, promised } => {
            Kind::PromiseRefused(wire::PromiseRefused { election: *election, promised: promised.0 })
        }
        Message::HearsAsk { query, term } => Kind::HearsAsk(wire::HearsAsk { query: *query, term: term.0 }),
        Message::Hears { query, incarnation, hears, primary_store_age } => Kind::Hears(wire::Hears {
            query: *query,
            incarnation: incarnation_to_wire(*incarnation),
            hears: *hears,
            primary_store_age_ms: *primary_store_age,
        }),
        Message::ElectorGoneAsk { query, session } => {
            Kind::ElectorGoneAsk(wire::ElectorGoneAsk { query: *query, session: session_to_wire(*session) })
        }
        Message::ElectorGone { query, gone } => Kind::ElectorGone(wire::ElectorGone { query: *query, gone: *gone }),
        Message::ElectorResigns { session } => {
            Kind::ElectorResigns(wire::ElectorResigns { session: session_to_wire(*session) })
        }
        Message::Elected { term, primary } => {
            Kind::Elected(wire::Elected { term: term.0, primary: Some(process_to_wire(primary)) })
        }
        Message::HandOver { term, to, reason } => Kind::HandOver(wire::HandOver {
            term: term.0,
            to: to.as_ref().map(|to| to.as_str().to_owned()).unwrap_or_default(),
            reason: match reason {
                HandOverReason::Planned => wire::hand_over::Reason::Planned,
                HandOverReason::StoreUnreachable => wire::hand_over::Reason::StoreUnreachable,
                HandOverReason::Refused => wire::hand_over::Reason::Refused,
            }
            .into(),
        }),
        Message::Confirm { term, round } => Kind::Confirm(wire::Confirm { term: term.0, round: *round }),
        Message::Confirmed { term, round, incarnation } => Kind::Confirmed(wire::Confirmed {
            term: term.0,
            round: *round,
            incarnation: incarnation_to_wire(*incarnation),
        }),
        Message::HigherTerm { term, exists } => Kind::HigherTerm(wire::HigherTerm { term: term.0, exists: *exists }),
        Message::ReadIndexAsk { id, session } => {
            Kind::ReadIndexAsk(wire::ReadIndexAsk { id: *id, session: session_to_wire(*session) })
        }
        Message::ReadIndex { id, term, index } => {
            Kind::ReadIndex(wire::ReadIndex { id: *id, term: term.0, index: index.0 })
        }
        Message::ReadIndexRefused { id } => Kind::ReadIndexRefused(wire::ReadIndexRefused { id: *id }),
        Message::Leave { process } => Kind::Leave(wire::Leave { process: Some(process_to_wire(process)) }),
        Message::Left { process } => Kind::Left(wire::Left { process: Some(process_to_wire(process)) }),
    }
}

fn from_kind(kind: Kind) -> Result<Message, InvalidMessage> {
    Ok(match kind {
        Kind::ElectorBeat(beat) => Message::Beat(beat_from_wire(beat)?),
        Kind::NodeReport(report) => Message::Report(report_from_wire(report)?),
        Kind::PromiseAsk(m) => Message::PromiseAsk { election: m.election, term: Term(m.term) },
        Kind::Promised(m) => Message::Promised {
            election: m.election,
            term: Term(m.term),
            process: process_from_wire(m.process)?,
            end: run_from_wire(m.end),
            stopping: m.stopping,
            store_age: m.store_age_ms,
        },
        Kind::PromiseRefused(m) => Message::PromiseRefused { election: m.election, promised: Term(m.promised) },
        Kind::HearsAsk(m) => Message::HearsAsk { query: m.query, term: Term(m.term) },
        Kind::Hears(m) => Message::Hears {
            query: m.query,
            incarnation: incarnation_from_wire(&m.incarnation)?,
            hears: m.hears,
            primary_store_age: m.primary_store_age_ms,
        },
        Kind::ElectorGoneAsk(m) => Message::ElectorGoneAsk { query: m.query, session: session_from_wire(&m.session)? },
        Kind::ElectorGone(m) => Message::ElectorGone { query: m.query, gone: m.gone },
        Kind::ElectorResigns(m) => Message::ElectorResigns { session: session_from_wire(&m.session)? },
        Kind::Elected(m) => Message::Elected { term: Term(m.term), primary: process_from_wire(m.primary)? },
        Kind::HandOver(m) => Message::HandOver {
            term: Term(m.term),
            reason: match m.reason() {
                wire::hand_over::Reason::Planned => HandOverReason::Planned,
                wire::hand_over::Reason::StoreUnreachable => HandOverReason::StoreUnreachable,
                wire::hand_over::Reason::Refused => HandOverReason::Refused,
                wire::hand_over::Reason::Unspecified => return Err(bad("a hand-over for no known reason")),
            },
            to: if m.to.is_empty() { None } else { Some(node_id(m.to)?) },
        },
        Kind::Confirm(m) => Message::Confirm { term: Term(m.term), round: m.round },
        Kind::Confirmed(m) => Message::Confirmed {
            term: Term(m.term),
            round: m.round,
            incarnation: incarnation_from_wire(&m.incarnation)?,
        },
        Kind::HigherTerm(m) => Message::HigherTerm { term: Term(m.term), exists: m.exists },
        Kind::ReadIndexAsk(m) => Message::ReadIndexAsk { id: m.id, session: session_from_wire(&m.session)? },
        Kind::ReadIndex(m) => Message::ReadIndex { id: m.id, term: Term(m.term), index: LogIndex(m.index) },
        Kind::ReadIndexRefused(m) => Message::ReadIndexRefused { id: m.id },
        Kind::Leave(m) => Message::Leave { process: process_from_wire(m.process)? },
        Kind::Left(m) => Message::Left { process: process_from_wire(m.process)? },
    })
}

fn report_to_wire(report: &NodeReport) -> wire::NodeReport {
    wire::NodeReport {
        process: Some(process_to_wire(&report.process)),
        address: report.address.clone(),
        promised: report.promised.0,
        end: Some(run_to_wire(report.end)),
        leads: report.leads.map(|(term, serving)| wire::Leads { term: term.0, serving }),
        hears: report.hears.map(|term| term.0),
        store_age_ms: report.store_age,
        stopping: report.stopping,
    }
}

fn report_from_wire(report: wire::NodeReport) -> Result<NodeReport, InvalidMessage> {
    Ok(NodeReport {
        process: process_from_wire(report.process)?,
        address: report.address,
        promised: Term(report.promised),
        end: run_from_wire(report.end),
        leads: report.leads.map(|leads| (Term(leads.term), leads.serving)),
        hears: report.hears.map(Term),
        store_age: report.store_age_ms,
        stopping: report.stopping,
    })
}

fn beat_to_wire(beat: &ElectorBeat) -> wire::ElectorBeat {
    let names = |nodes: &[NodeId]| nodes.iter().map(|node| node.as_str().to_owned()).collect();
    wire::ElectorBeat {
        elector: Some(process_to_wire(&beat.elector)),
        address: beat.address.clone(),
        counter: beat.counter,
        primary: beat
            .primary
            .as_ref()
            .map(|(term, process)| wire::Primary { term: term.0, process: Some(process_to_wire(process)) }),
        nodes: beat
            .nodes
            .iter()
            .map(|node| wire::RegisteredNode {
                node_id: node.node_id.as_str().to_owned(),
                incarnation: incarnation_to_wire(node.incarnation),
                stopped: node.stopped,
                address: node.address.clone(),
            })
            .collect(),
        quorum_lost: beat.quorum_lost.as_ref().map(|lost| wire::QuorumLost {
            needed: lost.needed as u64,
            answered: names(&lost.answered),
            missing: names(&lost.missing),
        }),
    }
}

fn beat_from_wire(beat: wire::ElectorBeat) -> Result<ElectorBeat, InvalidMessage> {
    let primary = match beat.primary {
        None => None,
        Some(primary) => Some((Term(primary.term), process_from_wire(primary.process)?)),
    };
    let nodes = beat
        .nodes
        .into_iter()
        .map(|node| {
            Ok(RegisteredNode {
                node_id: node_id(node.node_id)?,
                incarnation: incarnation_from_wire(&node.incarnation)?,
                stopped: node.stopped,
                address: node.address,
            })
        })
        .collect::<Result<_, InvalidMessage>>()?;
    let quorum_lost = match beat.quorum_lost {
        None => None,
        Some(lost) => Some(QuorumLost {
            needed: usize::try_from(lost.needed).map_err(|_| bad("more promises than there are"))?,
            answered: node_ids(lost.answered)?,
            missing: node_ids(lost.missing)?,
        }),
    };
    Ok(ElectorBeat {
        elector: process_from_wire(beat.elector)?,
        address: beat.address,
        counter: beat.counter,
        primary,
        nodes,
        quorum_lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str) -> ProcessId {
        ProcessId {
            node_id: NodeId::new(name).expect("valid"),
            incarnation: Incarnation(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            session: Session(u128::MAX - 1),
        }
    }

    fn report() -> NodeReport {
        NodeReport {
            process: process("a"),
            address: "10.0.0.1:2380".into(),
            promised: Term(8),
            end: Run { term: Term(7), last_index: LogIndex(1000) },
            leads: Some((Term(7), false)),
            hears: Some(Term(0)),
            store_age: Some(0),
            stopping: true,
        }
    }

    fn beat() -> ElectorBeat {
        ElectorBeat {
            elector: process("e"),
            address: "e:1".into(),
            counter: 5,
            primary: Some((Term(7), process("a"))),
            nodes: vec![RegisteredNode {
                node_id: NodeId::new("b").expect("valid"),
                incarnation: Incarnation(0),
                stopped: true,
                address: String::new(),
            }],
            quorum_lost: Some(QuorumLost {
                needed: 2,
                answered: vec![],
                missing: vec![NodeId::new("b").expect("valid")],
            }),
        }
    }

    /// One of each kind, and those whose optional parts are missing.
    fn messages() -> Vec<Message> {
        let (election, term, query, session) = (3, Term(9), 4, Session(5));
        let end = Run { term: Term(0), last_index: LogIndex(0) };
        let hand_over = |to: Option<&str>, reason| Message::HandOver {
            term,
            to: to.map(|to| NodeId::new(to).expect("valid")),
            reason,
        };
        vec![
            Message::Beat(beat()),
            Message::Beat(ElectorBeat { primary: None, nodes: vec![], quorum_lost: None, ..beat() }),
            Message::Report(report()),
            Message::Report(NodeReport { leads: None, hears: None, store_age: None, stopping: false, ..report() }),
            Message::PromiseAsk { election, term },
            Message::Promised { election, term, process: process("a"), end, stopping: false, store_age: None },
            Message::PromiseRefused { election, promised: term },
            Message::HearsAsk { query, term },
            Message::Hears { query, incarnation: Incarnation(1), hears: true, primary_store_age: Some(0) },
            Message::Hears { query, incarnation: Incarnation(1), hears: false, primary_store_age: None },
            Message::ElectorGoneAsk { query, session },
            Message::ElectorGone { query, gone: true },
            Message::ElectorResigns { session },
            Message::Elected { term, primary: process("a") },
            hand_over(None, HandOverReason::Planned),
            hand_over(Some("b"), HandOverReason::StoreUnreachable),
            hand_over(None, HandOverReason::Refused),
            Message::Confirm { term, round: 6 },
            Message::Confirmed { term, round: 6, incarnation: Incarnation(2) },
            Message::HigherTerm { term, exists: true },
            Message::ReadIndexAsk { id: 1, session },
            Message::ReadIndex { id: 1, term, index: LogIndex(10) },
            Message::ReadIndexRefused { id: 1 },
            Message::Leave { process: process("a") },
            Message::Left { process: process("a") },
        ]
    }

    #[test]
    fn every_message_comes_back_as_it_was() {
        let messages = messages();
        for message in &messages {
            assert_eq!(decode(encode(message)).as_ref(), Ok(message));
        }
        let kinds: std::collections::HashSet<_> = messages.iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), 20, "one of each kind is tried");
    }

    /// Messages as the first release writes them, one a line, in hex: all later ones read them.
    /// `NETSY_WRITE_FIXTURES=1 cargo test -p netsy-peer --lib fixtures` adds those that are missing.
    #[test]
    fn messages_kept_as_fixtures_are_understood() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1/engine-messages.txt");
        let mut text = std::fs::read_to_string(&path).unwrap_or_default();
        let hex = |message: &Message| encode(message).iter().map(|b| format!("{b:02x}")).collect::<String>();
        let messages = messages();
        let missing = |text: &str| -> Vec<String> {
            messages.iter().map(hex).filter(|line| !text.lines().any(|known| known == line)).collect()
        };
        if std::env::var_os("NETSY_WRITE_FIXTURES").is_some() {
            missing(&text).iter().for_each(|line| text += &format!("{line}\n"));
            std::fs::write(&path, &text).expect("written");
        }
        assert_eq!(missing(&text), Vec::<String>::new(), "every message is written as it was");
        for line in text.lines() {
            let byte = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).expect("hex");
            let bytes: Bytes = (0..line.len()).step_by(2).map(byte).collect::<Vec<u8>>().into();
            let message = decode(bytes).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert!(messages.contains(&message), "{line} is read as {message:?}");
        }
    }

    #[test]
    fn what_is_cut_or_spoilt_is_refused_and_never_a_panic() {
        for message in messages() {
            let bytes = encode(&message);
            for cut in 0..bytes.len() {
                let _ = decode(bytes.slice(..cut));
                for bit in 0..8 {
                    let mut spoilt = bytes.to_vec();
                    spoilt[cut] ^= 1 << bit;
                    let _ = decode(spoilt.into());
                }
            }
        }
        assert!(decode(Bytes::new()).is_err());
        let nobody = wire::Message { kind: Some(Kind::Leave(wire::Leave { process: None })) };
        assert!(decode(nobody.encode_to_vec().into()).is_err());
        let unknown = wire::HandOver { reason: 99, ..Default::default() };
        assert!(decode(wire::Message { kind: Some(Kind::HandOver(unknown)) }.encode_to_vec().into()).is_err());
    }
}
