//! R4, R7 and R8: taking the object log over, following a Primary.

use crate::bench::{Bench, holds, manifest, replica, run, runs};
use netsy_api::ids::{ChunkSeq, LogIndex, Term};
use netsy_protocol::event::{ChunkFact, Event, LogPiece};
use netsy_protocol::message::{Append, ToReplica};
use netsy_protocol::mutant::Mutant;
use netsy_protocol::reconcile::Run;

#[test]
fn a_seal_in_a_hole_counts_for_nothing() {
    // Flaw 1.
    holds(Mutant::NoCheckAfterSeal, |mutant| {
        let bench = Bench::with(manifest(5, 0, &[0, 1, 2], -1), &[(1, 10)], 10, mutant, |bench| {
            bench.after_seal = vec![true];
        });
        bench.leads() && bench.seals.len() == 2
    });
}

#[test]
fn a_higher_term_in_the_log_deposes() {
    // Flaw 13, by chunk and by snapshot.
    let chunk = LogPiece::Chunks {
        chunks: vec![ChunkFact { seq: ChunkSeq(4), term: Term(6), last_index: LogIndex(10) }],
        prev: run(1, 10),
        runs: vec![],
    };
    let snapshot = LogPiece::Snapshot {
        covers: ChunkFact { seq: ChunkSeq(4), term: Term(6), last_index: LogIndex(10) },
        runs: runs(&[(1, 10)]),
    };
    for (mutant, piece) in [(Mutant::SealAfterHigherTerm, chunk), (Mutant::SnapshotWithoutTerm, snapshot)] {
        holds(mutant, |mutant| {
            let bench = Bench::with(manifest(5, 0, &[0, 1, 2], -1), &[(1, 10)], 10, mutant, |bench| {
                bench.pieces = vec![piece.clone()];
            });
            !bench.leads() && bench.seals.is_empty()
        });
    }
}

#[test]
fn the_object_log_deletes_only_from_the_first_difference() {
    // Flaw 4.
    holds(Mutant::ReconcileAlwaysTruncates, |mutant| {
        let bench = Bench::with(manifest(5, 0, &[0, 1, 2], -1), &[(1, 10)], 5, mutant, |bench| {
            bench.log_end.last_index = LogIndex(8);
            let fact = ChunkFact { seq: ChunkSeq(3), term: Term(1), last_index: LogIndex(8) };
            bench.pieces = vec![LogPiece::Chunks { chunks: vec![fact], prev: run(0, 0), runs: vec![run(1, 8)] }];
        });
        bench.engine.log_end() == run(1, 10)
    });
}

#[test]
fn an_old_message_deletes_nothing_of_the_primarys_own_term() {
    // Flaw 15.
    holds(Mutant::OldMessageTruncates, |mutant| {
        let (mut bench, stream) = replica(mutant, &[(1, 10)], 10, 10, run(1, 10), 10);
        let append =
            |prev: Run, last: u64| Append { term: Term(5), prev, runs: vec![run(5, last)], commit: LogIndex(10) };
        bench.tell(Event::FromPrimary { stream, frame: ToReplica::Append(append(run(1, 10), 13)) });
        bench.tell(Event::StreamClosed(stream));
        bench.tell(Event::FromPrimary { stream, frame: ToReplica::Append(append(run(1, 10), 11)) });
        bench.engine.log_end() == run(5, 13)
    });
}

#[test]
fn the_commit_index_shows_verified_entries_only() {
    // Flaw 16.
    holds(Mutant::CommitUnverified, |mutant| {
        let (bench, _) = replica(mutant, &[(1, 5), (3, 12)], 5, 5, run(5, 12), 12);
        bench.shown() <= 5
    });
}
