//! Frames of the log's streams as they travel, to and from the engine's.

use netsy_api::ids::{ChunkSeq, Incarnation, LogIndex, NodeId, Position, Revision, Session, Term};
use netsy_api::log::Entry;
use netsy_api::peer;
use netsy_objects::object_log::LogPoint;
use netsy_protocol::manifest::{ProcessId, Recovered};
use netsy_protocol::message::{Append, Beat, Hello, Receipt, ToPrimary, ToReplica, Welcome};
use netsy_protocol::reconcile::{Run, Runs};
use std::sync::Arc;
use thiserror::Error;

/// Why a frame cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub(crate) struct Malformed(String);

fn bad<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(what.into()))
}

fn token(bytes: &[u8]) -> Result<u128, Malformed> {
    match <[u8; 16]>::try_from(bytes) {
        Ok(bytes) => Ok(u128::from_be_bytes(bytes)),
        Err(_) => bad(format!("a token of {} bytes", bytes.len())),
    }
}

fn bytes(token: u128) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&token.to_be_bytes())
}

fn run(run: &Run) -> peer::Run {
    peer::Run { term: run.term.0, last_index: run.last_index.0 }
}

fn from_run(run: Option<peer::Run>) -> Run {
    let run = run.unwrap_or_default();
    Run { term: Term(run.term), last_index: LogIndex(run.last_index) }
}

fn process(p: &ProcessId) -> peer::Process {
    peer::Process {
        node_id: p.node_id.as_str().to_string(),
        incarnation: bytes(p.incarnation.0),
        session: bytes(p.session.0),
    }
}

fn from_process(p: Option<peer::Process>) -> Result<ProcessId, Malformed> {
    let Some(p) = p else { return bad("no process") };
    Ok(ProcessId {
        node_id: NodeId::new(p.node_id).map_err(|e| Malformed(e.to_string()))?,
        incarnation: Incarnation(token(&p.incarnation)?),
        session: Session(token(&p.session)?),
    })
}

fn point(p: &LogPoint) -> peer::LogPoint {
    peer::LogPoint {
        seq: p.seq.0,
        term: p.term.0,
        last_index: p.last_index.0,
        last_term: p.last_term.0,
        next_position: p.next_position.0,
        revision: p.revision.0,
    }
}

fn from_point(p: peer::LogPoint) -> LogPoint {
    LogPoint {
        seq: ChunkSeq(p.seq),
        term: Term(p.term),
        last_index: LogIndex(p.last_index),
        last_term: Term(p.last_term),
        next_position: Position(p.next_position),
        revision: Revision(p.revision),
    }
}

/// A replica presents itself.
pub(crate) fn follow(hello: &Hello) -> peer::ReplicaFrame {
    let follow = peer::Follow {
        process: Some(process(&hello.process)),
        term: hello.term.0,
        session: bytes(hello.session.0),
        promised: hello.promised.0,
        runs: hello.runs.as_slice().iter().map(run).collect(),
        stopping: hello.stopping,
    };
    peer::ReplicaFrame { kind: Some(peer::replica_frame::Kind::Follow(follow)) }
}

/// The first frame of a replica.
pub(crate) fn hello(frame: peer::ReplicaFrame) -> Result<Hello, Malformed> {
    let Some(peer::replica_frame::Kind::Follow(follow)) = frame.kind else {
        return bad("a stream that does not begin with who follows");
    };
    let runs = follow.runs.into_iter().map(|run| from_run(Some(run)));
    Ok(Hello {
        process: from_process(follow.process)?,
        term: Term(follow.term),
        session: Session(token(&follow.session)?),
        promised: Term(follow.promised),
        runs: Runs::new(runs).map_err(|e| Malformed(e.to_string()))?,
        stopping: follow.stopping,
    })
}

/// From a replica, after it presented itself.
pub(crate) fn to_primary(frame: &ToPrimary) -> peer::ReplicaFrame {
    use peer::replica_frame::Kind;
    let kind = match frame {
        ToPrimary::Receipt(receipt) => Kind::Receipt(peer::Receipt {
            term: receipt.term.0,
            incarnation: bytes(receipt.incarnation.0),
            held: receipt.held.0,
        }),
        ToPrimary::Alive { watch_lowest, watch_floor, stopping } => Kind::Alive(peer::Alive {
            watch_lowest: watch_lowest.map_or(0, |r| r.0),
            watch_floor: watch_floor.map_or(0, |r| r.0),
            stopping: *stopping,
        }),
    };
    peer::ReplicaFrame { kind: Some(kind) }
}

/// The same, as the Primary takes it.
pub(crate) fn from_replica(frame: peer::ReplicaFrame) -> Result<ToPrimary, Malformed> {
    use peer::replica_frame::Kind;
    let revision = |r: i64| (r > 0).then_some(Revision(r));
    Ok(match frame.kind {
        Some(Kind::Receipt(receipt)) => ToPrimary::Receipt(Receipt {
            term: Term(receipt.term),
            incarnation: Incarnation(token(&receipt.incarnation)?),
            held: LogIndex(receipt.held),
        }),
        Some(Kind::Alive(alive)) => ToPrimary::Alive {
            watch_lowest: revision(alive.watch_lowest),
            watch_floor: revision(alive.watch_floor),
            stopping: alive.stopping,
        },
        Some(Kind::Follow(_)) => return bad("a replica presented itself twice"),
        None => return bad("a frame of no known kind"),
    })
}

/// What the Primary says, but for appends' entries.
pub(crate) fn from_primary(frame: &ToReplica, log_end: Option<LogPoint>) -> peer::PrimaryFrame {
    use peer::primary_frame::Kind;
    let log_end = log_end.as_ref().map(point);
    let kind = match frame {
        ToReplica::Welcome(welcome) => Kind::Leading(peer::Leading {
            term: welcome.term.0,
            session: bytes(welcome.session.0),
            common: welcome.common.0,
            end: Some(run(&welcome.end)),
            commit: welcome.commit.0,
            recovered: welcome.recovered.map(|r| peer::Recovered { term: r.term.0, index: r.index.0 }),
            log_end,
        }),
        ToReplica::Refused { higher } => Kind::NotLeading(peer::NotLeading { higher: higher.map_or(0, |term| term.0) }),
        ToReplica::LoadObjectLog => Kind::LoadObjectLog(peer::LoadObjectLog {}),
        ToReplica::Append(append) => Kind::Append(append_head(append, None)),
        ToReplica::Beat(beat) => Kind::Beat(peer::Beat {
            term: beat.term.0,
            commit: beat.commit.0,
            store_age_ms: beat.store_age,
            watch_floor: beat.watch_floor.map_or(0, |r| r.0),
            log_end,
            snapshots: beat.snapshots,
        }),
    };
    peer::PrimaryFrame { kind: Some(kind) }
}

/// An append without its entries.
pub(crate) fn append_head(append: &Append, log_end: Option<LogPoint>) -> peer::Append {
    peer::Append {
        term: append.term.0,
        prev: Some(run(&append.prev)),
        runs: append.runs.iter().map(run).collect(),
        commit: append.commit.0,
        log_end: log_end.as_ref().map(point),
        entries: vec![],
    }
}

type FromPrimary = (ToReplica, Vec<Arc<Entry>>, Option<LogPoint>);

/// What the Primary said, with the entries and the object log's end that came with it.
pub(crate) fn to_replica(frame: peer::PrimaryFrame) -> Result<FromPrimary, Malformed> {
    use peer::primary_frame::Kind;
    Ok(match frame.kind {
        Some(Kind::Leading(leading)) => {
            let welcome = Welcome {
                term: Term(leading.term),
                session: Session(token(&leading.session)?),
                common: LogIndex(leading.common),
                end: from_run(leading.end),
                commit: LogIndex(leading.commit),
                recovered: leading.recovered.map(|r| Recovered { term: Term(r.term), index: LogIndex(r.index) }),
            };
            (ToReplica::Welcome(welcome), vec![], leading.log_end.map(from_point))
        }
        Some(Kind::NotLeading(not)) => {
            (ToReplica::Refused { higher: (not.higher > 0).then_some(Term(not.higher)) }, vec![], None)
        }
        Some(Kind::LoadObjectLog(_)) => (ToReplica::LoadObjectLog, vec![], None),
        Some(Kind::Append(append)) => {
            let decoded = netsy_peer::decode_entries(&append).map_err(|e| Malformed(e.to_string()))?;
            let entries: Vec<Arc<Entry>> = decoded.into_iter().map(Arc::new).collect();
            let prev = from_run(append.prev);
            let log_end = append.log_end.map(from_point);
            let head = Append {
                term: Term(append.term),
                prev,
                runs: runs_of(prev, &entries)?,
                commit: LogIndex(append.commit),
            };
            (ToReplica::Append(head), entries, log_end)
        }
        Some(Kind::Beat(beat)) => {
            let message = Beat {
                term: Term(beat.term),
                commit: LogIndex(beat.commit),
                store_age: beat.store_age_ms,
                watch_floor: (beat.watch_floor > 0).then_some(Revision(beat.watch_floor)),
                snapshots: beat.snapshots,
            };
            (ToReplica::Beat(message), vec![], beat.log_end.map(from_point))
        }
        None => return bad("a frame of no known kind"),
    })
}

/// The entries' terms, by the entries themselves: what is stored is what was checked.
fn runs_of(prev: Run, entries: &[Arc<Entry>]) -> Result<Vec<Run>, Malformed> {
    let mut runs: Vec<Run> = Vec::with_capacity(1);
    let mut before = prev;
    for entry in entries {
        if entry.index != before.last_index.next() || entry.term < before.term {
            return bad(format!(
                "entry {} of term {} after entry {} of term {}",
                entry.index, entry.term, before.last_index, before.term
            ));
        }
        before = Run { term: entry.term, last_index: entry.index };
        match runs.last_mut() {
            Some(run) if run.term == entry.term => run.last_index = entry.index,
            _ => runs.push(before),
        }
    }
    if runs.is_empty() { bad("an append without entries") } else { Ok(runs) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went() {
        let me = ProcessId {
            node_id: NodeId::new("a").expect("valid"),
            incarnation: Incarnation(7),
            session: Session(1 << 100),
        };
        let runs = [(1, 3), (4, 9)].map(|(term, last)| Run { term: Term(term), last_index: LogIndex(last) });
        let presented = Hello {
            process: me,
            term: Term(5),
            session: Session(9),
            promised: Term(5),
            runs: Runs::new(runs).expect("rising"),
            stopping: true,
        };
        assert_eq!(hello(follow(&presented)), Ok(presented));
        let receipt = Receipt { term: Term(5), incarnation: Incarnation(7), held: LogIndex(12) };
        let alive = ToPrimary::Alive { watch_lowest: Some(Revision(4)), watch_floor: None, stopping: false };
        for frame in [ToPrimary::Receipt(receipt), alive] {
            assert_eq!(from_replica(to_primary(&frame)), Ok(frame));
        }
        let welcome = ToReplica::Welcome(Welcome {
            term: Term(5),
            session: Session(3),
            common: LogIndex(8),
            end: runs[1],
            commit: LogIndex(7),
            recovered: Some(Recovered { term: Term(2), index: LogIndex(1) }),
        });
        let (term, commit, watch_floor) = (Term(5), LogIndex(2), Some(Revision(3)));
        let beat = Beat { term, commit, store_age: Some(0), watch_floor, snapshots: true };
        let end = LogPoint { seq: ChunkSeq(4), ..LogPoint::START };
        for frame in [welcome, ToReplica::Beat(beat)] {
            assert_eq!(to_replica(from_primary(&frame, Some(end))), Ok((frame, vec![], Some(end))));
        }
        for frame in [ToReplica::Refused { higher: Some(Term(9)) }, ToReplica::LoadObjectLog] {
            assert_eq!(to_replica(from_primary(&frame, None)), Ok((frame, vec![], None)));
        }
        let append = Append { term: Term(5), prev: runs[0], runs: vec![], commit: LogIndex(2) };
        assert!(to_replica(from_primary(&ToReplica::Append(append), None)).is_err(), "an append without entries");
    }
}
