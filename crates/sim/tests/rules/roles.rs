//! Section 4: who is Primary, planned moves, graceful stops, who makes the snapshots.

use crate::bench::{Bench, manifest, node, primary, process, run};
use netsy_api::ids::{NodeId, Term};
use netsy_protocol::command::Command;
use netsy_protocol::engine::Creating;
use netsy_protocol::event::{Event, StoreResult, StreamId};
use netsy_protocol::message::{Message, NodeReport, ToPrimary, ToReplica};

#[test]
fn a_primary_that_is_told_of_the_next_one_steps_down_at_once() {
    let mut bench = primary(None);
    bench.hold_reads = true;
    bench.message(1, Message::Elected { term: Term(6), primary: process(2) });
    assert!(bench.seen.iter().any(|c| matches!(c, Command::StepDown { term: Term(5) })));
    assert!(bench.seen.iter().any(|c| matches!(c, Command::Follow { primary, .. } if *primary == node(2))));
    // An older one tells nothing.
    let mut bench = primary(None);
    bench.message(1, Message::Elected { term: Term(5), primary: process(2) });
    assert!(!bench.seen.iter().any(|c| matches!(c, Command::StepDown { .. })));
}

#[test]
fn a_primary_that_cannot_read_the_manifest_steps_down_at_the_word_of_a_later_term() {
    let mut bench = primary(None);
    bench.hold_reads = true;
    assert!(bench.append(11));
    bench.message(1, Message::Elected { term: Term(6), primary: process(2) });
    assert!(bench.seen.iter().any(|c| matches!(c, Command::StepDown { term: Term(5) })));
    assert_eq!(bench.engine.may_create(Term(5)), Creating::No);
    assert!(bench.seen.iter().any(|c| matches!(c, Command::Follow { primary, .. } if *primary == node(2))));
}

#[test]
fn who_has_left_follows_until_it_is_finished_and_takes_part_in_no_election() {
    let stopping = |voters: &[u8]| {
        let mut bench = Bench::with(manifest(5, 1, voters, -1), &[(1, 10)], 10, None, |bench| bench.elector = true);
        bench.pass(100);
        bench.tell(Event::Stop);
        bench.pass(500);
        bench
    };
    let left = |bench: &Bench| bench.seen.iter().filter(|c| matches!(c, Command::Left)).count();
    let elects = |bench: &Bench| {
        bench.seen.iter().any(|c| matches!(c, Command::Report(netsy_protocol::command::Report::ElectionBegan { .. })))
    };
    // Still a voter: it goes nowhere, and elects where that is needed.
    let mut bench = stopping(&[0, 1]);
    assert_eq!(left(&bench), 0);
    bench.message(1, Message::PromiseAsk { election: 1, term: Term(6) });
    assert!(bench.promised().is_some());
    // No voter any more. The last Primary goes: the bucket is the whole cluster, and there is nobody to elect.
    let mut bench = stopping(&[]);
    assert_eq!(left(&bench), 1);
    assert!(!bench.seen.iter().any(|c| matches!(c, Command::Stopped { .. })));
    bench.tell(Event::PeerDown(node(1)));
    bench.pass(3_000);
    bench.message(2, Message::PromiseAsk { election: 1, term: Term(6) });
    assert_eq!(bench.promised(), None);
    assert!(!elects(&bench) && bench.swaps.is_empty());
    bench.tell(Event::Finish);
    assert!(bench.seen.iter().any(|c| matches!(c, Command::Stopped { undone } if undone.is_empty())));
    assert_eq!(left(&bench), 1);
}

/// To whom the Elector was asked to give the next term.
fn wished(bench: &Bench) -> Option<NodeId> {
    bench.seen.iter().find_map(|c| match c {
        Command::Send { message: Message::HandOver { to, .. }, .. } => to.clone(),
        _ => None,
    })
}

#[test]
fn a_primary_whose_disk_is_full_hands_over_to_one_that_can_write() {
    let mut bench = primary(None);
    bench.hold_disk = true;
    assert!(bench.append(11));
    // n1 and n2 hold the entry, which is thereby committed; n0's own disk has no room for it.
    bench.receipt(1, 1, 11);
    bench.receipt(2, 2, 11);
    assert_eq!(bench.shown(), 11);
    bench.tell(Event::DiskFull(true));
    bench.pass(500);
    assert_eq!(wished(&bench), None, "a disk may be full for a moment");
    for _ in 0..40 {
        bench.pass(100);
        bench.receipt(1, 1, 11);
        bench.receipt(2, 2, 11);
    }
    assert!(wished(&bench).is_some_and(|to| to != node(0)), "it hands over");
    assert_eq!(bench.engine.may_create(Term(5)), Creating::Paused);
}

#[test]
fn a_disk_that_has_room_again_keeps_its_primary() {
    let mut bench = primary(None);
    bench.tell(Event::DiskFull(true));
    bench.pass(800);
    bench.tell(Event::DiskFull(false));
    bench.pass(3_000);
    assert_eq!(wished(&bench), None);
    assert_eq!(bench.engine.may_create(Term(5)), Creating::Yes);
}

#[test]
fn no_hand_over_without_an_elector_or_object_storage() {
    // Nobody was heard as Elector.
    let mut bench = primary(None);
    bench.tell(Event::MovePrimary(Some(node(1))));
    assert_eq!(bench.engine.may_create(Term(5)), Creating::Yes);
    assert!(bench.seen.iter().any(|c| matches!(c, Command::Report(netsy_protocol::command::Report::Declined(_)))));
    // With one, writes pause; they go on when nothing comes of it.
    let mut bench = Bench::with(manifest(5, 0, &[0, 1, 2], -1), &[(1, 10)], 10, None, |bench| bench.elector = true);
    bench.pass(100);
    bench.follow(1, 1, &[(1, 10)], 10);
    bench.swap = Some(StoreResult::Unknown);
    bench.tell(Event::MovePrimary(Some(node(1))));
    assert_eq!(bench.engine.may_create(Term(5)), Creating::No, "it promised the next term to itself, the Elector");
    // Without object storage they do not pause.
    let mut bench = Bench::with(manifest(5, 0, &[0, 1, 2], -1), &[(1, 10)], 10, None, |bench| bench.elector = true);
    bench.pass(100);
    bench.follow(1, 1, &[(1, 10)], 10);
    bench.engine.store_answers(bench.now, false);
    bench.tell(Event::MovePrimary(Some(node(1))));
    assert_eq!(bench.engine.may_create(Term(5)), Creating::Yes);
}

#[test]
fn a_node_that_stopped_and_runs_again_is_called_again() {
    let called = |bench: &Bench, n: u8| {
        let last = bench.seen.iter().rev().find_map(|c| match c {
            Command::Nodes(nodes) => nodes.iter().find(|known| known.node_id == node(n)).map(|known| !known.stopped),
            _ => None,
        });
        last.expect("nodes were told")
    };
    // n1 and n2 stopped a while ago, by their registrations, and were started again with the same databases.
    let mut bench = Bench::with(manifest(5, 3, &[0, 1, 2, 3], -1), &[(1, 10)], 5, None, |bench| bench.elector = true);
    bench.stopped = vec![1, 2];
    bench.pass(31_000);
    assert!(!called(&bench, 1) && !called(&bench, 2));
    let report = NodeReport {
        process: process(1),
        address: String::new(),
        promised: Term(5),
        end: run(1, 10),
        leads: None,
        hears: None,
        store_age: None,
        stopping: false,
    };
    bench.message(1, Message::Report(report));
    assert!(called(&bench, 1), "it reports");
    bench.message(3, Message::Elected { term: Term(6), primary: process(2) });
    assert!(called(&bench, 2), "it was elected");
}

#[test]
fn a_replica_that_keeps_up_makes_the_snapshots_and_one_that_is_gone_does_not() {
    let told = |bench: &Bench| -> Vec<(u64, bool)> {
        let frames = bench.seen.iter().filter_map(|c| match c {
            Command::ToReplica { stream, frame: ToReplica::Beat(beat) } => Some((stream.0, beat.snapshots)),
            _ => None,
        });
        let all: Vec<_> = frames.collect();
        all[all.len().saturating_sub(2)..].to_vec()
    };
    let mut alone = Bench::new(manifest(5, 0, &[0], -1), &[(1, 10)], 10, None);
    alone.pass(6_000);
    assert!(alone.engine.makes_snapshots(), "nobody else is there");
    let mut bench = primary(None);
    let alive = |bench: &mut Bench, stream| {
        let frame = ToPrimary::Alive { watch_lowest: None, watch_floor: None, stopping: false };
        bench.tell(Event::FromReplica { stream: StreamId(stream), frame });
    };
    for _ in 0..10 {
        alive(&mut bench, 1);
        alive(&mut bench, 2);
        bench.pass(200);
    }
    assert!(!bench.engine.makes_snapshots());
    assert_eq!(told(&bench), [(1, true), (2, false)]);
    bench.tell(Event::StreamClosed(StreamId(1)));
    for _ in 0..10 {
        alive(&mut bench, 2);
        bench.pass(200);
    }
    assert_eq!(told(&bench)[1], (2, true));
    bench.tell(Event::StreamClosed(StreamId(2)));
    bench.pass(1_000);
    assert!(bench.engine.makes_snapshots());
}
