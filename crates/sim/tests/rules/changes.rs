//! R1 and R10: writes of the manifest, changes of voters and quorum.

use crate::bench::{Bench, holds, manifest, primary};
use netsy_api::ids::LogIndex;
use netsy_protocol::event::{Event, StoreResult};
use netsy_protocol::mutant::Mutant;

#[test]
fn contents_of_the_manifest_never_repeat() {
    // Flaw 18: voters from O to N and back to O must not bring the first version back to life for an old swap.
    holds(Mutant::AbaEtag, |mutant| {
        let mut bench = primary(mutant);
        let mut nonces = vec![];
        for quorum in [1, -1, 1, -1] {
            bench.tell(Event::SetCluster { quorum: Some(quorum), copies_min: None });
            bench.pass(300);
            assert_eq!(bench.manifest.quorum, quorum);
            nonces.push(bench.manifest.nonce);
        }
        nonces.sort();
        nonces.windows(2).all(|pair| pair[0] != pair[1])
    });
}

#[test]
fn an_old_manifest_says_nothing_about_a_swap() {
    // Flaw 8: the change stays joint and repeats the same swap.
    holds(Mutant::OldManifestMeansFailed, |mutant| {
        let mut bench = primary(mutant);
        bench.swap = Some(StoreResult::Unknown);
        bench.hold_reads = true;
        bench.tell(Event::SetCluster { quorum: Some(1), copies_min: None });
        let reads = std::mem::take(&mut bench.held_reads);
        let old = bench.manifest.clone();
        for call in reads {
            bench.tell(Event::StoreDone { call, result: StoreResult::Manifest(Some(old.clone())) });
        }
        bench.engine.status(bench.now).changing && bench.swaps.len() == 2 && bench.swaps[0] == bench.swaps[1]
    });
}

#[test]
fn a_change_counts_both_rules_and_waits_for_the_new_one() {
    // R10 (1), (2): to quorum 2 of three, what only two hold must reach the third, or the bucket, before the swap.
    for mutant in [Mutant::ChangeSkipsCatchUp, Mutant::QuorumChangeUnchecked] {
        holds(mutant, |mutant| {
            let mut bench = primary(mutant);
            bench.hold_uploads = true;
            bench.append(11);
            bench.receipt(1, 1, 11);
            assert_eq!(bench.shown(), 11);
            bench.tell(Event::SetCluster { quorum: Some(2), copies_min: None });
            let early = bench.swaps.len();
            bench.receipt(2, 2, 11);
            early == 0 && bench.swaps.len() == 1
        });
    }
    holds(Mutant::NoJoint, |mutant| {
        let mut bench = primary(mutant);
        bench.swap = Some(StoreResult::Unknown);
        bench.hold_reads = true;
        bench.hold_uploads = true;
        bench.tell(Event::SetCluster { quorum: Some(2), copies_min: None });
        bench.append(11);
        bench.receipt(1, 1, 11);
        bench.shown() < 11 // two of three commit by the old rule only
    });
}

#[test]
fn nothing_is_changed_before_the_tail_is_up() {
    // Flaw 11.
    holds(Mutant::ChangeBeforeReady, |mutant| {
        let mut bench = Bench::with(manifest(5, 0, &[1, 2], -1), &[(1, 10)], 5, mutant, |bench| {
            bench.hold_uploads = true;
            bench.log_end.last_index = LogIndex(8);
        });
        bench.pass(300);
        bench.swaps.is_empty()
    });
}
