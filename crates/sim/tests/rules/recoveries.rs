//! R12: what an operator gave up.

use crate::bench::{Bench, election_with, holds, manifest, process, run};
use netsy_api::ids::{ChunkSeq, LogIndex, Term};
use netsy_protocol::command::{Command, StoreCall};
use netsy_protocol::event::{ChunkFact, Event, LogPiece};
use netsy_protocol::manifest::{Manifest, Recovered};
use netsy_protocol::message::{Message, ToReplica};
use netsy_protocol::mutant::Mutant;

/// R12: an operator gave voters up in the term before this one; what was left ended at entry 12.
fn recovered(manifest: &mut Manifest) {
    manifest.recovered = Some(Recovered { term: Term(4), index: LogIndex(12) });
}

#[test]
fn what_was_given_up_does_not_come_back() {
    // Found by seeds 1795624567420 and 1795624572083: the one node that still has it is elected.
    let taken_over = |mutant, visible| {
        Bench::with(manifest(5, 0, &[0], -1), &[(1, 10), (3, 20)], visible, mutant, |bench| {
            recovered(&mut bench.manifest);
            bench.log_end.last_index = LogIndex(11);
        })
    };
    holds(Mutant::GivenUpComesBack, |mutant| {
        let bench = taken_over(mutant, 20);
        !bench.leads() && bench.seen.iter().any(|c| matches!(c, Command::Rebuild(_)))
    });
    // None of it was shown here: it goes, and the node goes on.
    let mut bench = taken_over(None, 12);
    bench.pass(10_000); // Read leases of the one before run out.
    assert!(bench.leads());
    assert_eq!(bench.engine.log_end(), run(3, 12));
    // Nor is anybody elected for it, or reported to go on with it.
    holds(Mutant::GivenUpComesBack, |mutant| {
        let promises = [(2, run(3, 12)), (3, run(3, 30))];
        let bench = election_with(mutant, 1, &[(1, 10)], &promises, recovered);
        bench.swaps.first().map(|m| m.primary.clone()) == Some(process(2))
    });
}

#[test]
fn who_differs_from_the_object_log_learns_of_recoveries_before_it_halts() {
    // Found by seed 1795624566727: a node that comes back is told to load the object log before it has read the manifest.
    holds(Mutant::HaltUnlearned, |mutant| {
        let mut bench = Bench::with(manifest(5, 1, &[1, 2], -1), &[(1, 10), (3, 20)], 20, mutant, |bench| {
            recovered(&mut bench.manifest);
            bench.hold_reads = true;
            let fact = ChunkFact { seq: ChunkSeq(4), term: Term(5), last_index: LogIndex(30) };
            bench.pieces = vec![LogPiece::Chunks { chunks: vec![fact], prev: run(3, 12), runs: vec![run(5, 30)] }];
        });
        bench.message(1, Message::Elected { term: Term(5), primary: process(1) });
        let told_to_load = |bench: &mut Bench| {
            let stream = bench.seen.iter().rev().find_map(|c| match c {
                Command::Follow { stream, .. } => Some(*stream),
                _ => None,
            });
            bench.tell(Event::FromPrimary { stream: stream.expect("follows"), frame: ToReplica::LoadObjectLog });
        };
        let pieces = bench.pieces.clone();
        told_to_load(&mut bench);
        let halts = |bench: &Bench| bench.seen.iter().any(|c| matches!(c, Command::Halt(_)));
        if halts(&bench) {
            return false;
        }
        bench.hold_reads = false;
        bench.pieces = pieces;
        for call in std::mem::take(&mut bench.held_reads) {
            bench.answer(call, StoreCall::ReadManifest);
        }
        told_to_load(&mut bench);
        !halts(&bench) && bench.seen.iter().any(|c| matches!(c, Command::Rebuild(_)))
    });
}
