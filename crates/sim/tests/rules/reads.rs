//! R9 (i) and (ii): reads are proven by a round, or by a read of the manifest, that began after they arrived.

use crate::bench::{Bench, holds, manifest, primary, run, welcome};
use netsy_api::ids::{LogIndex, Term};
use netsy_protocol::command::Command;
use netsy_protocol::event::StoreResult;
use netsy_protocol::message::Message;
use netsy_protocol::mutant::Mutant;
use netsy_protocol::read::ReadStart;

#[test]
fn a_round_serves_what_arrived_before_it_was_sent() {
    // Flaw 19c.
    holds(Mutant::RoundServesLaterReads, |mutant| {
        let mut bench = primary(mutant);
        let ReadStart::Wait(first) = bench.read() else { panic!("it waits for a round") };
        let ReadStart::Wait(_later) = bench.read() else { panic!("it waits for a round") };
        let round = *bench.rounds().first().expect("sent");
        bench.confirm(1, round);
        bench.served() == first.0
    });
}

#[test]
fn while_joint_both_sets_confirm_reads() {
    // Flaw 9: {n0, n1, n2} becomes {n0, n1, n2, n3}; the swap's answer is lost; n2 and n3 may have elected another.
    holds(Mutant::JointReadsOldOnly, |mutant| {
        let mut bench = primary(mutant);
        bench.swap = Some(StoreResult::Unknown);
        bench.hold_reads = true;
        bench.follow(3, 3, &[(1, 10)], 10);
        bench.pass(200);
        assert!(bench.engine.status(bench.now).changing);
        let ReadStart::Wait(read) = bench.read() else { panic!("it waits") };
        let round = *bench.rounds().last().expect("sent");
        bench.confirm(1, round); // two of the old three, two of the new four, which want three
        bench.served() < read.0
    });
}

#[test]
fn a_replica_reads_only_what_was_compared_with_the_primarys_log() {
    // What it shows is past the read index, and may be what an operator gave up (R12).
    holds(Mutant::ReadsUnverified, |mutant| {
        let mut bench = Bench::new(manifest(5, 1, &[0, 1, 2], -1), &[(1, 10)], 10, mutant);
        let ReadStart::Wait(_) = bench.read() else { panic!("it asks the Primary") };
        bench.message(1, Message::ReadIndex { id: 1, term: Term(5), index: LogIndex(8) });
        let early = bench.served();
        let followed = bench.seen.iter().find_map(|c| match c {
            Command::Follow { stream, .. } => Some(*stream),
            _ => None,
        });
        bench.tell(welcome(followed.expect("it follows"), 10, run(1, 10), 10));
        assert_eq!(bench.served(), 1, "and then it does read");
        early == 0
    });
}
