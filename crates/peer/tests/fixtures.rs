//! Messages of protocol version 1 as bytes: what was written by the first release is read by all later ones.
//!
//! `NETSY_WRITE_FIXTURES=1 cargo test -p netsy-peer --test fixtures` writes those that are missing, never one that is
//! there.

use netsy_api::peer::*;
use prost::Message;
use std::fmt::Debug;
use std::path::PathBuf;

fn check<M: Message + Default + PartialEq + Debug>(name: &str, message: M) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1").join(format!("{name}.bin"));
    if !path.exists() && std::env::var_os("NETSY_WRITE_FIXTURES").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, message.encode_to_vec()).expect("written");
    }
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(M::decode(&bytes[..]), Ok(message.clone_by_bytes()), "{name}");
    assert_eq!(message.encode_to_vec(), bytes, "{name} is written as it was");
}

trait CloneByBytes: Sized {
    fn clone_by_bytes(&self) -> Self;
}

impl<M: Message + Default> CloneByBytes for M {
    fn clone_by_bytes(&self) -> Self {
        M::decode(&self.encode_to_vec()[..]).expect("what was just encoded")
    }
}

fn session(kind: session_frame::Kind) -> SessionFrame {
    SessionFrame { kind: Some(kind) }
}

#[test]
fn the_session() {
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        cluster_id: "prod-1".into(),
        node_id: "a".into(),
        incarnation: vec![1; 16].into(),
        session: vec![2; 16].into(),
        to_node_id: "b".into(),
        software: "netsy 0.1.0".into(),
    };
    check("hello", session(session_frame::Kind::Hello(hello)));
    let welcome = Welcome {
        version: 1,
        node_id: "b".into(),
        incarnation: vec![3; 16].into(),
        session: vec![4; 16].into(),
        software: "netsy 0.1.0".into(),
    };
    check("welcome", session(session_frame::Kind::Welcome(welcome)));
    let refusal = Refusal {
        kind: refusal::Kind::Version.into(),
        text: "no".into(),
        version_min: 1,
        version_max: 1,
        software: "netsy 0.1.0".into(),
    };
    check("refusal", session(session_frame::Kind::Refusal(refusal)));
    check("engine", session(session_frame::Kind::Engine("message".into())));
    check("goodbye", session(session_frame::Kind::Goodbye(Goodbye { reason: "stops".into() })));
}

#[test]
fn the_calls() {
    let forward = Forward {
        path: "/etcdserverpb.KV/Put".into(),
        body: "body".into(),
        timeout_us: 7_000_000,
        client: "netsy://prod-1/client/c".into(),
        require_leader: true,
        token: "t".into(),
    };
    check("forward", CallRequest { id: 1, kind: Some(call_request::Kind::Forward(forward)) });
    check("cancel", CallRequest { id: 1, kind: Some(call_request::Kind::Cancel(Cancel {})) });
    let answered = |outcome| CallResponse {
        id: 1,
        kind: Some(call_response::Kind::Forwarded(Forwarded { outcome: Some(outcome) })),
    };
    check("forwarded-answer", answered(forwarded::Outcome::Answer("answer".into())));
    let status = CallStatus { code: 11, message: "compacted".into(), details: "d".into() };
    check("forwarded-status", answered(forwarded::Outcome::Status(status)));
    let not_run = NotRun { reason: not_run::Reason::NotPrimary.into(), primary: "c".into(), term: 9 };
    check("forwarded-not-run", answered(forwarded::Outcome::NotRun(not_run)));
}

#[test]
fn the_log() {
    let run = |term, last_index| Run { term, last_index };
    let log_end = Some(LogPoint { seq: 5, term: 3, last_index: 90, last_term: 2, next_position: 101, revision: 88 });
    let up = |kind| ReplicaFrame { kind: Some(kind) };
    let down = |kind| PrimaryFrame { kind: Some(kind) };
    let process = Process { node_id: "a".into(), incarnation: vec![1; 16].into(), session: vec![2; 16].into() };
    let follow = Follow {
        process: Some(process),
        term: 3,
        session: vec![4; 16].into(),
        promised: 3,
        runs: vec![run(1, 50), run(2, 95)],
        stopping: true,
    };
    check("follow", up(replica_frame::Kind::Follow(follow)));
    let receipt = Receipt { term: 3, incarnation: vec![1; 16].into(), held: 100 };
    check("receipt", up(replica_frame::Kind::Receipt(receipt)));
    check("alive", up(replica_frame::Kind::Alive(Alive { watch_lowest: 7, watch_floor: 6, stopping: true })));
    let leading = Leading {
        term: 3,
        session: vec![4; 16].into(),
        common: 95,
        end: Some(run(3, 100)),
        commit: 99,
        recovered: Some(Recovered { term: 1, index: 40 }),
        log_end,
    };
    check("leading", down(primary_frame::Kind::Leading(leading)));
    check("not-leading", down(primary_frame::Kind::NotLeading(NotLeading { higher: 4 })));
    check("load-object-log", down(primary_frame::Kind::LoadObjectLog(LoadObjectLog {})));
    let entry = netsy_api::file::Entry {
        index: 96,
        term: 3,
        time_ms: 1_700_000_000_000,
        revision: 90,
        mutations: vec![netsy_api::file::Mutation {
            kind: Some(netsy_api::file::mutation::Kind::Delete(netsy_api::file::Delete { key: "k".into() })),
        }],
    };
    let append = Append {
        term: 3,
        prev: Some(run(2, 95)),
        runs: vec![run(3, 96)],
        commit: 95,
        log_end,
        entries: vec![entry.encode_to_vec().into()],
    };
    check("append", down(primary_frame::Kind::Append(append)));
    let beat = Beat { term: 3, commit: 96, store_age_ms: Some(12), watch_floor: 5, log_end, snapshots: false };
    check("beat", down(primary_frame::Kind::Beat(beat)));
    check("beat-snapshots", down(primary_frame::Kind::Beat(Beat { snapshots: true, ..beat })));
}
