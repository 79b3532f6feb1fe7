//! R6: who is elected, and when.

use crate::bench::{Bench, election, holds, manifest, node, process, run};
use netsy_api::ids::Term;
use netsy_protocol::command::Command;
use netsy_protocol::event::{Event, StoreResult};
use netsy_protocol::manifest::Manifest;
use netsy_protocol::message::Message;
use netsy_protocol::mutant::Mutant;
use netsy_protocol::reconcile::Run;

#[test]
fn an_election_writes_term_and_primary_and_nothing_else() {
    // Flaw 10: the Elector's own configuration says another quorum than the manifest.
    holds(Mutant::ElectionWritesQuorum, |mutant| {
        let bench = election(mutant, 1, &[(1, 10)], &[(2, run(1, 10)), (3, run(1, 10))]);
        let swapped = bench.swaps.first().expect("elected");
        let before = manifest(5, 1, &[0, 1, 2, 3], 1);
        (&swapped.voters, swapped.quorum, swapped.copies_min) == (&before.voters, before.quorum, before.copies_min)
            && swapped.term == Term(6)
            && swapped.config_version == before.config_version + 1
            && swapped.previous == Some(process(1))
    });
}

#[test]
fn the_greatest_term_then_index_is_elected() {
    let elected = |mutant, own: &[(u64, u64)], promises: &[(u8, Run)]| {
        election(mutant, 1, own, promises).swaps.first().map(|m| m.primary.clone())
    };
    let ends = [(2, run(4, 11)), (3, run(3, 30))];
    assert_eq!(elected(None, &[(1, 10)], &ends), Some(process(2)));
    holds(Mutant::PickByIndexOnly, |mutant| elected(mutant, &[(1, 10)], &ends) == Some(process(2)));
    holds(Mutant::PickAnyPromiser, |mutant| {
        elected(mutant, &[(1, 10)], &[(2, run(1, 10)), (3, run(4, 12))]) == Some(process(3))
    });
    // Among equals rather not the Elector itself.
    assert_ne!(elected(None, &[(1, 10)], &[(2, run(1, 10)), (3, run(1, 10))]), Some(process(0)));
}

#[test]
fn too_few_promises_elect_nobody() {
    // Four voters, two copies commit: three promises elect.
    holds(Mutant::ElectionQuorumMinusOne, |mutant| {
        election(mutant, 1, &[(1, 10)], &[(2, run(1, 10))]).swaps.is_empty()
    });
    assert_eq!(election(None, 1, &[(1, 10)], &[(2, run(1, 10)), (3, run(1, 10))]).swaps.len(), 1);
}

#[test]
fn a_primary_that_enough_voters_hear_stays() {
    // Two of four voters hear it: enough to commit with quorum 1, too few for a majority.
    for (quorum, stays) in [(1, true), (-1, false)] {
        let mut bench =
            Bench::with(manifest(5, 1, &[0, 1, 2, 3], quorum), &[(1, 10)], 5, None, |bench| bench.elector = true);
        bench.tell(Event::PeerDown(node(1)));
        let query = bench.seen.iter().rev().find_map(|c| match c {
            Command::Send { message: Message::HearsAsk { query, .. }, .. } => Some(*query),
            _ => None,
        });
        for n in [2, 3] {
            let (incarnation, query) = (process(n).incarnation, query.expect("asked"));
            bench.message(n, Message::Hears { query, incarnation, hears: true, primary_store_age: Some(5) });
        }
        let asked = bench.seen.iter().any(|c| matches!(c, Command::Send { message: Message::PromiseAsk { .. }, .. }));
        assert_eq!(asked, !stays);
    }
}

fn elections_began(bench: &Bench) -> bool {
    bench.seen.iter().any(|c| matches!(c, Command::Send { message: Message::PromiseAsk { .. }, .. }))
}

#[test]
fn a_voter_that_is_late_with_its_answer_is_asked_again() {
    let mut bench = Bench::with(manifest(5, 1, &[0, 1, 2], -1), &[(1, 10)], 5, None, |bench| bench.elector = true);
    bench.tell(Event::PeerDown(node(1)));
    let asked = |bench: &Bench| {
        let all = bench.seen.iter().filter_map(|c| match c {
            Command::Send { to, message: Message::HearsAsk { query, .. } } if *to == node(2) => Some(*query),
            _ => None,
        });
        all.collect::<Vec<u64>>()
    };
    let first = *asked(&bench).last().expect("asked");
    bench.pass(600);
    assert!(asked(&bench).len() >= 2 && asked(&bench).iter().all(|query| *query == first));
    let lost = |c: &Command| matches!(c, Command::Report(netsy_protocol::command::Report::QuorumLost { .. }));
    assert!(!bench.seen.iter().any(lost), "it had no time yet");
    let incarnation = process(2).incarnation;
    bench.message(2, Message::Hears { query: first, incarnation, hears: false, primary_store_age: None });
    assert!(elections_began(&bench));
}

#[test]
fn word_of_an_election_that_comes_while_the_manifest_is_read_is_followed_at_once() {
    // n0 is elected while it reads the manifest; that read began before, and tells of the term before.
    let mut bench = Bench::with(manifest(5, 1, &[0, 1, 2], -1), &[(1, 10)], 10, None, |bench| bench.hold_reads = true);
    let before = bench.manifest.clone();
    let answer = |bench: &mut Bench, manifest: &Manifest| {
        let call = bench.held_reads.remove(0);
        bench.tell(Event::StoreDone { call, result: StoreResult::Manifest(Some(manifest.clone())) });
    };
    let elected = Message::Elected { term: Term(6), primary: process(0) };
    bench.message(1, elected.clone());
    bench.message(2, elected.clone());
    assert_eq!(bench.held_reads.len(), 1, "one at a time");
    answer(&mut bench, &before);
    assert_eq!(bench.held_reads.len(), 1, "and then another");
    // If that one does not tell of it either, a third would not: no reads without end.
    bench.message(2, elected);
    answer(&mut bench, &before);
    assert_eq!(bench.held_reads.len(), 0);
    // As it should be: the second tells.
    let mut bench = Bench::with(manifest(5, 1, &[0, 1, 2], -1), &[(1, 10)], 10, None, |bench| bench.hold_reads = true);
    bench.message(1, Message::Elected { term: Term(6), primary: process(0) });
    answer(&mut bench, &before);
    answer(&mut bench, &Manifest { config_version: 11, ..manifest(6, 0, &[0, 1, 2], -1) });
    assert!(bench.leads(), "without a tick");
}
