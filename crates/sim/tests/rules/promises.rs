//! R2 and R11: promises, and whose they are.

use crate::bench::{Bench, holds, manifest, primary, replica, run};
use netsy_api::ids::{ChunkSeq, Incarnation, LogIndex, Term};
use netsy_protocol::command::{Command, LocalOp};
use netsy_protocol::engine::Creating;
use netsy_protocol::event::{ChunkFact, Event, LogPiece, StoreResult};
use netsy_protocol::message::{Append, Message, ToReplica};
use netsy_protocol::mutant::Mutant;
use netsy_protocol::quorum::Voter;

#[test]
fn a_promise_covers_what_was_accepted_before() {
    // Flaw 6: the answer waits for the disk, and reports all of it.
    holds(Mutant::PromiseBeforeSync, |mutant| {
        let mut bench = primary(mutant);
        bench.hold_disk = true;
        bench.append(12);
        bench.message(1, Message::PromiseAsk { election: 1, term: Term(6) });
        let early = bench.promised();
        bench.sync();
        early.is_none() && bench.promised() == Some((run(5, 12), Term(6)))
    });
}

#[test]
fn a_promise_is_stored_before_it_is_answered() {
    holds(Mutant::PromiseNotDurable, |mutant| {
        let mut bench = primary(mutant);
        bench.message(1, Message::PromiseAsk { election: 1, term: Term(6) });
        bench.seen.iter().any(|c| matches!(c, Command::Local { op: LocalOp::Promise(Term(6)), .. }))
    });
}

#[test]
fn a_primary_that_promised_creates_nothing_and_confirms_nothing() {
    // Flaw 12.
    holds(Mutant::PrimaryIgnoresOwnPromise, |mutant| {
        let mut bench = primary(mutant);
        bench.message(1, Message::PromiseAsk { election: 1, term: Term(6) });
        let read = bench.read();
        let rounds = bench.rounds().len();
        let _ = read;
        bench.engine.may_create(Term(5)) == Creating::No
            && !bench.append(11)
            && !bench.engine.may_start_chunk(Term(5))
            && rounds == 0
    });
}

#[test]
fn nothing_below_the_promise_is_accepted_or_confirmed() {
    holds(Mutant::AcceptBelowPromise, |mutant| {
        let (mut bench, stream) = replica(mutant, &[(1, 10)], 10, 10, run(1, 10), 10);
        bench.message(2, Message::PromiseAsk { election: 1, term: Term(6) });
        // The stream is over; the Primary of term 5 is not followed again.
        let before = bench.seen.len();
        bench.pass(500);
        let append = Append { term: Term(5), prev: run(1, 10), runs: vec![run(5, 11)], commit: LogIndex(10) };
        bench.tell(Event::FromPrimary { stream, frame: ToReplica::Append(append) });
        !bench.seen[before..].iter().any(|c| matches!(c, Command::Follow { .. } | Command::Local { .. }))
    });
    holds(Mutant::ConfirmBelowPromise, |mutant| {
        let (mut bench, _) = replica(mutant, &[(1, 10)], 10, 10, run(1, 10), 10);
        bench.message(2, Message::PromiseAsk { election: 1, term: Term(6) });
        bench.message(1, Message::Confirm { term: Term(5), round: 1 });
        !bench.seen.iter().any(|c| matches!(c, Command::Send { message: Message::Confirmed { .. }, .. }))
    });
}

#[test]
fn adopting_a_chunk_raises_the_promise() {
    // Flaw 17.
    holds(Mutant::AdoptWithoutPromise, |mutant| {
        let mut bench = Bench::with(manifest(5, 1, &[0, 1, 2], -1), &[(1, 10)], 10, mutant, |bench| {
            let fact = ChunkFact { seq: ChunkSeq(4), term: Term(5), last_index: LogIndex(12) };
            bench.pieces = vec![LogPiece::Chunks { chunks: vec![fact], prev: run(1, 10), runs: vec![run(5, 12)] }];
        });
        let stream = bench.seen.iter().find_map(|c| match c {
            Command::Follow { stream, .. } => Some(*stream),
            _ => None,
        });
        bench.tell(Event::FromPrimary { stream: stream.expect("follows"), frame: ToReplica::LoadObjectLog });
        let promise = bench.seen.iter().position(|c| matches!(c, Command::Local { op: LocalOp::Promise(Term(5)), .. }));
        let store = bench.seen.iter().position(|c| matches!(c, Command::Local { op: LocalOp::Store { .. }, .. }));
        promise.is_some_and(|p| store.is_some_and(|s| p < s))
    });
}

#[test]
fn another_incarnation_has_no_vote() {
    // R11, on promises and receipts.
    holds(Mutant::IgnoreIncarnation, |mutant| {
        let mut m = manifest(5, 0, &[0, 1, 2], -1);
        for voter in &mut m.voters[1..] {
            *voter = Voter { incarnation: Incarnation(77), ..voter.clone() };
        }
        let mut bench = Bench::new(m, &[(1, 10)], 10, mutant);
        bench.hold_uploads = true;
        bench.swap = Some(StoreResult::Unknown);
        bench.hold_reads = true;
        bench.follow(1, 1, &[(1, 10)], 10);
        bench.append(11);
        bench.receipt(1, 1, 11);
        bench.shown() < 11
    });
}
