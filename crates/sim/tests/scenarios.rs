//! Whole clusters through what operators do, and through what the issue names.

use netsy_sim::run::{Finding, run};
use netsy_sim::scenario::{DiskFate, Fault, Scenario};

fn clean(scenario: Scenario) -> Finding {
    let finding = run(scenario, None, false);
    assert!(finding.breaches.is_empty(), "{:?}", finding.breaches);
    finding
}

fn count(finding: &Finding, what: &str) -> u64 {
    finding.counters.iter().find(|(name, _)| **name == what).map_or(0, |(_, n)| *n)
}

#[test]
fn down_to_nothing_and_back_with_the_bucket_alone() {
    for (nodes, quorum) in [(1, -1), (3, -1), (5, -1), (3, 0), (3, 1)] {
        let mut faults = vec![(6_000, Fault::StopAll { down: 9_000 })];
        faults.extend((0..nodes).map(|node| (14_500, Fault::Wipe { node })));
        let finding = clean(Scenario::scripted(3, nodes, quorum, 25_000, &faults));
        assert_eq!(count(&finding, "stopped gracefully"), nodes as u64, "{nodes} nodes, quorum {quorum}");
        assert_eq!(count(&finding, "stop left undone"), 0, "{nodes} nodes, quorum {quorum}");
    }
}

#[test]
fn a_rolling_restart_hands_over() {
    let faults: Vec<(u64, Fault)> =
        (0..3).map(|node| (6_000 + 4_000 * node as u64, Fault::Stop { node, down: 500 })).collect();
    let finding = clean(Scenario::scripted(5, 3, -1, 20_000, &faults));
    assert_eq!(count(&finding, "stopped gracefully"), 3);
    assert_eq!(count(&finding, "quorum lost"), 0);
}

#[test]
fn the_primary_moves_on_request() {
    let faults = [(6_000, Fault::Move), (9_000, Fault::Move)];
    let finding = clean(Scenario::scripted(6, 3, -1, 14_000, &faults));
    assert!(count(&finding, "leads") >= 3);
    assert_eq!(count(&finding, "declined"), 0);
    assert_eq!(count(&finding, "op not done"), 0, "writes wait for the next Primary");
}

#[test]
fn voters_gone_for_good_are_given_up_by_an_operator_only() {
    let gone = [
        (8_000, Fault::Crash { node: 1, down: 20_000, disk: DiskFate::Wiped }),
        (8_000, Fault::Crash { node: 2, down: 20_000, disk: DiskFate::Wiped }),
    ];
    let quiet = |faults: &[(u64, Fault)]| {
        let mut scenario = Scenario::scripted(8, 3, -1, 32_000, faults);
        // Everything is in the bucket when they go.
        (scenario.clients, scenario.think) = (1, 3_000);
        scenario
    };
    let finding = clean(quiet(&gone));
    assert_eq!(count(&finding, "quorum lost for good"), 1, "nothing decides this by a timer");
    assert_eq!(count(&finding, "recovered"), 0);
    let mut recovered = gone.to_vec();
    recovered.push((14_000, Fault::Recover));
    let finding = clean(quiet(&recovered));
    assert_eq!(count(&finding, "recovered"), 1);
    assert_eq!(count(&finding, "quorum lost for good"), 0);
}

#[test]
fn nodes_that_all_lost_their_disks_go_on_once_an_operator_gives_their_databases_up() {
    // Found by hand: the names of the voters run again, and an answer under a name was taken for the voter's.
    for nodes in [1, 3] {
        let wipe = |node| (8_000, Fault::Crash { node, down: 1_000, disk: DiskFate::Wiped });
        let mut faults: Vec<(u64, Fault)> = (0..nodes).map(wipe).collect();
        let quiet = |faults: &[(u64, Fault)]| {
            let mut scenario = Scenario::scripted(8, nodes, -1, 32_000, faults);
            (scenario.clients, scenario.think) = (1, 3_000);
            scenario
        };
        if nodes > 1 {
            let finding = clean(quiet(&faults));
            assert_eq!(count(&finding, "quorum lost for good"), 1, "{nodes} nodes");
        }
        faults.push((14_000, Fault::Recover));
        let finding = clean(quiet(&faults));
        assert_eq!(count(&finding, "recovered"), u64::from(nodes > 1), "{nodes} nodes");
        assert_eq!(count(&finding, "quorum lost for good"), 0, "{nodes} nodes");
    }
}

#[test]
fn the_bucket_gone_for_a_while_stops_no_write_of_a_quorum() {
    let faults = [(6_000, Fault::StoreDown { length: 10_000 })];
    let finding = clean(Scenario::scripted(9, 3, -1, 20_000, &faults));
    assert_eq!(count(&finding, "op not done"), 0);
}

#[test]
fn losing_the_elector_alone_stops_no_write() {
    let faults = [(6_000, Fault::CrashElector { down: 3_000 })];
    let finding = clean(Scenario::scripted(11, 3, -1, 14_000, &faults));
    assert!(count(&finding, "became elector") >= 2);
}
