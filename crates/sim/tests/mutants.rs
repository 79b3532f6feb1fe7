//! Broken variants that random schedules catch, each with the seed that shows it; the others are in `rules.rs`. And the
//! rules as written, over some seeds.

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

#[test]
fn a_seed_replays_exactly() {
    let (a, b) = (run(Scenario::of_seed(12), None, false), run(Scenario::of_seed(12), None, false));
    assert_eq!((a.steps, a.simulated, a.ops, a.counters), (b.steps, b.simulated, b.ops, b.counters));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "slow: scripts/test runs it in release")]
fn each_is_caught_by_its_seed() {
    for (mutant, seed) in SEEDS {
        assert!(breaks(*mutant, *seed), "{mutant:?} is not caught by seed {seed}: look for another with --mutants");
    }
}

const SEEDS: &[(Mutant, u64)] = &[
    (Mutant::AckBeforeSync, 10),
    (Mutant::BlindManifestWrite, 3),
    (Mutant::CommitQuorumMinusOne, 9),
    (Mutant::ConfirmQuorumMinusOne, 4),
    (Mutant::ForgetBootCounter, 343),
    (Mutant::GcNewest, 63),
    (Mutant::NoReadCheck, 46),
    (Mutant::NoSeal, 39),
    (Mutant::NoTailNoTermCheck, 14),
    (Mutant::NoTailUpload, 7),
    (Mutant::OverwriteChunks, 1),
    (Mutant::ReadBeforeReady, 2),
    (Mutant::RecoverByTimer, 37),
    (Mutant::ReplicaAheadOfPrimary, 8),
    (Mutant::ResumeTerm, 4),
    (Mutant::SealsDeleted, 124),
    (Mutant::ServeBeforeSeal, 9),
    (Mutant::SkipOnConflict, 41),
    (Mutant::SnapshotPastObjectLog, 3),
];

/// Those that `rules.rs` shows to be caught by a scripted schedule.
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
    // In the unit test of `background.rs`.
    Mutant::FoldUnchecked,
];

#[test]
fn every_broken_variant_is_caught_somewhere() {
    for (mutant, name, _) in Mutant::ALL {
        let caught = SCRIPTED.contains(mutant) || SEEDS.iter().any(|(seeded, _)| seeded == mutant);
        assert!(caught, "{name} is caught by nothing");
    }
}
