//! Broken variants that random schedules catch, each with the seed that shows it; the others are in `rules/` and
//! `scenarios.rs`. And the rules as written, over some seeds.

use netsy_protocol::mutant::Mutant;
use netsy_sim::run::run;
use netsy_sim::scenario::Scenario;

fn breaks(mutant: Mutant, seed: u64) -> bool {
    !run(Scenario::of_seed(seed), Some(mutant), false).breaches.is_empty()
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow: scripts/test runs it in release")]
fn the_rules_hold() {
    for seed in 1..=30 {
        let finding = run(Scenario::of_seed(seed), None, false);
        assert!(finding.breaches.is_empty(), "seed {seed}: {:?}", finding.breaches);
    }
}

/// Each showed a fault once (docs/track-record.md).
#[test]
#[cfg_attr(debug_assertions, ignore = "slow: scripts/test runs it in release")]
fn seeds_that_found_something() {
    let found = [1795995516831, 1795995519689, 1796100010267, 1796100018389, 1796200004893, 1795996002427, 1743];
    for seed in found {
        let finding = run(Scenario::of_seed(seed), None, false);
        assert!(finding.breaches.is_empty(), "seed {seed}: {:?}", finding.breaches);
    }
}

#[test]
fn a_seed_replays_exactly() {
    let (a, b) = (run(Scenario::of_seed(12), None, false), run(Scenario::of_seed(12), None, false));
    assert_eq!((a.steps, a.simulated, a.ops, a.counters), (b.steps, b.simulated, b.ops, b.counters));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow: scripts/test runs it in release")]
fn each_is_caught_by_a_named_seed() {
    // Any change of the engine moves all schedules: some seeds each, so that not every change asks for others.
    let caught = |(mutant, seeds): &&(Mutant, &[u64])| seeds.iter().any(|seed| breaks(*mutant, *seed));
    let missed: Vec<_> = SEEDS.iter().filter(|named| !caught(named)).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}; look for other seeds with --mutants");
}

const SEEDS: &[(Mutant, &[u64])] = &[
    (Mutant::AckBeforeSync, &[20, 38, 61, 64]),
    (Mutant::BlindManifestWrite, &[2, 3, 8, 9, 12, 17]),
    (Mutant::CommitQuorumMinusOne, &[4, 11, 12, 16]),
    (Mutant::CommitBeforeProves, &[1_796_100_018_389]),
    (Mutant::ConfirmQuorumMinusOne, &[44, 54, 82, 90, 129, 153]),
    (Mutant::ForwardAgain, &[2, 5, 9, 11, 16, 22]),
    (Mutant::GcNewest, &[69, 85, 91, 92, 133, 321]),
    (Mutant::KeptForgotten, &[1_077, 1_795_995_516_831]),
    (Mutant::NoReadCheck, &[60, 73, 82, 85, 121, 129]),
    (Mutant::NoSeal, &[7, 21, 22, 25]),
    (Mutant::NoTailNoTermCheck, &[15, 39, 46, 92]),
    (Mutant::NoTailUpload, &[9, 15, 26, 36, 37, 39]),
    (Mutant::OverwriteChunks, &[2, 3, 4, 7]),
    (Mutant::ProofAlone, &[47, 130, 144, 196, 308, 390]),
    (Mutant::ReadBeforeReady, &[3, 8, 11, 12, 13, 14]),
    (Mutant::RecoverByTimer, &[1, 4, 10, 15]),
    (Mutant::ReplicaAheadOfPrimary, &[1, 2, 3, 4, 5]),
    (Mutant::ResumeTerm, &[76, 78, 122, 151]),
    (Mutant::RowsGoBeforeLogged, &[1, 3, 4, 5]),
    (Mutant::RowsOfNewestGo, &[2, 3, 4, 27, 30, 37]),
    (Mutant::SealsDeleted, &[22, 92, 99, 103, 193, 225]),
    (Mutant::ServeBeforeSeal, &[2, 11, 14, 20]),
    (Mutant::SkipOnConflict, &[27, 29, 30, 55]),
    (Mutant::SnapshotPastObjectLog, &[2, 3, 4, 7, 11, 12]),
    (Mutant::UnprovenAnswers, &[105]),
];

/// Those that `rules/` shows to be caught by a scripted schedule.
const SCRIPTED: &[Mutant] = &[
    Mutant::PromiseNotDurable,
    Mutant::PromiseBeforeSync,
    Mutant::AcceptBelowPromise,
    Mutant::ConfirmBelowPromise,
    Mutant::PrimaryIgnoresOwnPromise,
    Mutant::AdoptWithoutPromise,
    Mutant::NoCheckAfterSeal,
    Mutant::SealAfterHigherTerm,
    Mutant::SnapshotWithoutTerm,
    Mutant::IgnoreIncarnation,
    Mutant::ElectionQuorumMinusOne,
    Mutant::PickAnyPromiser,
    Mutant::PickByIndexOnly,
    Mutant::ElectionWritesQuorum,
    Mutant::ReconcileAlwaysTruncates,
    Mutant::OldMessageTruncates,
    Mutant::CommitUnverified,
    Mutant::RoundServesLaterReads,
    Mutant::JointReadsOldOnly,
    Mutant::NoLeaseWait,
    Mutant::LeaseWaitForWritesOnly,
    Mutant::LeaseDuringChange,
    Mutant::LeaseFromAnswer,
    Mutant::SameNodeSkipsLeaseWait,
    Mutant::NoJoint,
    Mutant::ChangeBeforeReady,
    Mutant::ChangeSkipsCatchUp,
    Mutant::QuorumChangeUnchecked,
    Mutant::OldManifestMeansFailed,
    Mutant::AbaEtag,
    Mutant::ReadsUnverified,
    Mutant::GivenUpComesBack,
    Mutant::HaltUnlearned,
    // In the unit test of `background.rs`.
    Mutant::FoldUnchecked,
    // In `scenarios.rs`.
    Mutant::HaltOnRecovered,
    Mutant::ReleasedLeaseUsed,
    Mutant::RaiseBootFirst,
    Mutant::ForgetBootCounter,
    Mutant::ReadsBeforeShown,
    Mutant::UploadAnswerOfAnyTerm,
    Mutant::DeadRowsGoBeforeLogged,
    Mutant::RenewalLeavesNoEntry,
];

#[test]
fn every_broken_variant_is_caught_somewhere() {
    for (mutant, name, _) in Mutant::ALL {
        let caught = SCRIPTED.contains(mutant) || SEEDS.iter().any(|(seeded, _)| seeded == mutant);
        assert!(caught, "{name} is caught by nothing");
    }
}
