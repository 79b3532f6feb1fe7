//! R9 (iii): read leases, where the bucket alone elects.

use crate::bench::{Bench, holds, manifest, process};
use netsy_api::ids::Session;
use netsy_protocol::event::{Event, StoreResult};
use netsy_protocol::manifest::{Manifest, ProcessId};
use netsy_protocol::mutant::Mutant;
use netsy_protocol::read::ReadStart;

/// n0 is Primary of term 5 where only the bucket commits.
fn bucket_only(mutant: Option<Mutant>, adjust: impl FnOnce(&mut Manifest)) -> Bench {
    let mut m = manifest(5, 0, &[0, 1, 2], 0);
    adjust(&mut m);
    Bench::new(m, &[(1, 10)], 10, mutant)
}

#[test]
fn a_new_primary_waits_for_old_leases() {
    holds(Mutant::NoLeaseWait, |mutant| {
        let mut bench = bucket_only(mutant, |_| {});
        let early = bench.leads();
        bench.pass(2_100);
        !early && bench.leads()
    });
    // Not where the old session gave its lease up.
    assert!(bucket_only(None, |m| m.released = Some(process(9).session)).leads());
    // An earlier process of the same node may have led without having waited for the one before it.
    holds(Mutant::SameNodeSkipsLeaseWait, |mutant| {
        let earlier = ProcessId { session: Session(55), ..process(0) };
        !bucket_only(mutant, |m| m.previous = Some(earlier.clone())).leads()
    });
}

#[test]
fn the_wait_holds_back_reads_too() {
    // Flaw 3.
    holds(Mutant::LeaseWaitForWritesOnly, |mutant| {
        let mut bench = bucket_only(mutant, |_| {});
        let read = bench.read();
        let waits = matches!(read, ReadStart::Wait(_) | ReadStart::NoPrimary);
        waits && bench.served() == 0
    });
}

#[test]
fn a_lease_counts_from_when_the_read_was_sent() {
    holds(Mutant::LeaseFromAnswer, |mutant| {
        let mut bench = bucket_only(mutant, |m| m.released = Some(process(9).session));
        bench.hold_reads = true;
        let ReadStart::Wait(_) = bench.read() else { panic!("no lease yet") };
        let calls = std::mem::take(&mut bench.held_reads);
        bench.now += 1_900;
        let shown = bench.manifest.clone();
        for call in calls {
            bench.tell(Event::StoreDone { call, result: StoreResult::Manifest(Some(shown.clone())) });
        }
        bench.now += 200;
        matches!(bench.read(), ReadStart::Wait(_))
    });
}

#[test]
fn no_lease_while_a_change_is_undecided() {
    // Flaw 19a.
    holds(Mutant::LeaseDuringChange, |mutant| {
        let mut bench = bucket_only(mutant, |m| m.released = Some(process(9).session));
        bench.follow(1, 1, &[(1, 10)], 10);
        bench.follow(2, 2, &[(1, 10)], 10);
        let _ = bench.read();
        assert!(matches!(bench.read(), ReadStart::Now(_)), "the lease is in force");
        bench.swap = Some(StoreResult::Unknown);
        bench.hold_reads = true;
        bench.tell(Event::SetCluster { quorum: Some(1), copies_min: None });
        matches!(bench.read(), ReadStart::Wait(_))
    });
}

#[test]
fn a_released_lease_is_not_used_again_while_the_release_stands() {
    // This process gave its lease up in an earlier term; a successor that reads so would not wait.
    let mut bench = bucket_only(None, |m| (m.previous, m.released) = (None, Some(process(0).session)));
    bench.swap = Some(StoreResult::Unknown);
    let _ = bench.read();
    assert!(matches!(bench.read(), ReadStart::Wait(_)), "the release stands");
    bench.swap = None;
    bench.pass(2_000);
    let _ = bench.read();
    assert!(matches!(bench.read(), ReadStart::Now(_)), "it is taken back first");
    assert_eq!(bench.manifest.released, None);
}
