//! Whole clusters through what operators do, and through what the issue names.

use netsy_api::etcdserverpb::PutRequest;
use netsy_history::Request;
use netsy_protocol::mutant::Mutant;
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
        (scenario.clients, scenario.think) = (3, 3_000);
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

fn voters(finding: &Finding) -> Vec<String> {
    let mut voters: Vec<String> =
        finding.manifest.iter().flat_map(|m| &m.voters).map(|v| v.node_id.to_string()).collect();
    voters.sort();
    voters
}

#[test]
fn a_dead_member_is_taken_out_and_comes_back_as_a_voter() {
    let gone = (6_000, Fault::Crash { node: 2, down: 60_000, disk: DiskFate::Kept });
    let mut scenario = Scenario::scripted(12, 3, -1, 20_000, &[gone, (9_000, Fault::Remove { node: 2 })]);
    let finding = clean(scenario.clone());
    assert_eq!(voters(&finding), ["n0", "n1", "n2"], "it runs again once things are calm");
    assert!(count(&finding, "change done") >= 4, "two joined, one went, one came back");
    assert_eq!(count(&finding, "declined"), 0);
    // With it gone from the voters, what is left needs one promise only: one of the two can be lost.
    scenario.faults.push((12_000, Fault::CrashPrimary { down: 60_000, disk: DiskFate::Kept }));
    let finding = clean(scenario);
    assert_eq!(count(&finding, "quorum lost"), 0);
    assert!(count(&finding, "leads") >= 2);
}

#[test]
fn a_running_member_is_not_taken_out() {
    let finding = clean(Scenario::scripted(13, 3, -1, 14_000, &[(6_000, Fault::Remove { node: 1 })]));
    assert_eq!(count(&finding, "declined"), 1);
    assert_eq!(voters(&finding), ["n0", "n1", "n2"]);
}

#[test]
fn the_primary_moves_to_whom_the_operator_names() {
    for node in 0..3 {
        let faults = [(6_000, Fault::MoveTo { node }), (9_000, Fault::MoveTo { node: (node + 1) % 3 })];
        let finding = clean(Scenario::scripted(14, 3, -1, 14_000, &faults));
        let primary = finding.manifest.as_ref().map(|m| m.primary.node_id.to_string());
        assert_eq!(primary, Some(format!("n{}", (node + 1) % 3)));
        assert_eq!(count(&finding, "op not done"), 0);
    }
}

#[test]
fn quorums_are_switched_while_primaries_crash_and_the_bucket_goes() {
    let mut faults = vec![];
    for (i, quorum) in [0, 1, 2, -1, 0, -1].into_iter().enumerate() {
        let at = 5_000 + 5_000 * i as u64;
        faults.push((at, Fault::SetQuorum { quorum }));
        // In the midst of the change, and after it.
        faults.push((at + 15, Fault::CutStoreOfPrimary { length: 600 }));
        faults.push((at + 2_000, Fault::CrashPrimary { down: 700, disk: DiskFate::Kept }));
        faults.push((at + 3_500, Fault::SetCopies { copies: 1 + i % 2 }));
    }
    for nodes in [3, 5] {
        let finding = clean(Scenario::scripted(15, nodes, -1, 38_000, &faults));
        let manifest = finding.manifest.as_ref().expect("a manifest");
        assert_eq!((manifest.quorum, manifest.copies_min), (-1, 2));
        assert!(count(&finding, "change done") >= 8, "{:?}", finding.counters);
    }
}

#[test]
fn what_a_recovery_gives_up_is_rebuilt_where_it_comes_back() {
    let faults = [
        (5_000, Fault::MoveTo { node: 1 }),
        // n1 and n2 commit without n0 and without the bucket, and go.
        (8_000, Fault::StoreDown { length: 4_000 }),
        (8_000, Fault::Isolate { node: 0, length: 4_000 }),
        (11_000, Fault::Crash { node: 1, down: 15_000, disk: DiskFate::Kept }),
        (11_000, Fault::Crash { node: 2, down: 15_000, disk: DiskFate::Kept }),
        (16_000, Fault::Recover),
    ];
    let finding = clean(Scenario::scripted(16, 3, -1, 30_000, &faults));
    assert_eq!(count(&finding, "recovered"), 1);
    assert_eq!(count(&finding, "recovery lost entries"), 1);
    assert_eq!(count(&finding, "rebuild"), 2, "{:?}", finding.counters);
    let halts = run(Scenario::scripted(16, 3, -1, 30_000, &faults), Some(Mutant::HaltOnRecovered), false);
    assert!(halts.breaches.iter().any(|b| b.contains("halts")), "{:?}", halts.breaches);
    let without_an_operator: Vec<(u64, Fault)> = faults[..5].to_vec();
    let finding = clean(Scenario::scripted(16, 3, -1, 30_000, &without_an_operator));
    assert_eq!(count(&finding, "rebuild"), 0);
    assert!(count(&finding, "quorum lost") > 0);
}

#[test]
fn a_recovery_that_names_too_few_ends_by_itself() {
    let faults = [
        (6_000, Fault::Crash { node: 1, down: 40_000, disk: DiskFate::Wiped }),
        (7_000, Fault::Pause { node: 2, length: 30_000 }),
        // Without n1: but n2 is no less silent.
        (8_000, Fault::Recover),
    ];
    let finding = clean(Scenario::scripted(19, 3, -1, 25_000, &faults));
    assert_eq!((count(&finding, "recovery asked for"), count(&finding, "recovered")), (1, 0));
    assert_eq!(count(&finding, "declined"), 1, "after ten seconds: {:?}", finding.counters);
}

#[test]
fn a_primary_whose_disk_is_full_hands_over() {
    let faults = [(5_000, Fault::MoveTo { node: 1 }), (8_000, Fault::FullDisk { node: 1, length: 8_000 })];
    let finding = clean(Scenario::scripted(18, 3, -1, 18_000, &faults));
    assert!(count(&finding, "the Primary hands over") >= 1, "{:?}", finding.counters);
    let primary = finding.manifest.as_ref().map(|m| m.primary.node_id.to_string());
    assert_ne!(primary, Some("n1".to_string()));
}

#[test]
fn nodes_that_all_lost_their_disks_go_on_once_an_operator_gives_their_databases_up() {
    // Found by hand: the names of the voters run again, and an answer under a name was taken for the voter's.
    // By default a lone node acknowledges only what is in the bucket: nothing is lost with its disk, and no promise needed.
    for (nodes, copies) in [(1, 2), (1, 1), (3, 2)] {
        let needs_operator = nodes >= copies;
        let wipe = |node| (8_000, Fault::Crash { node, down: 1_000, disk: DiskFate::Wiped });
        let mut faults: Vec<(u64, Fault)> = (0..nodes).map(wipe).collect();
        let quiet = |faults: &[(u64, Fault)]| {
            let mut scenario = Scenario::scripted(8, nodes, -1, 32_000, faults);
            (scenario.clients, scenario.think) = (3, 3_000);
            scenario.settings.copies_min = copies;
            scenario
        };
        if needs_operator {
            let finding = clean(quiet(&faults));
            assert_eq!(count(&finding, "quorum lost for good"), 1, "{nodes} nodes");
        }
        faults.push((14_000, Fault::Recover));
        let finding = clean(quiet(&faults));
        assert_eq!(count(&finding, "recovered"), u64::from(needs_operator), "{nodes} nodes");
        assert_eq!(count(&finding, "quorum lost for good"), 0, "{nodes} nodes");
    }
}

#[test]
fn the_bucket_gone_for_a_while_stops_no_write_of_a_quorum() {
    let faults = [(6_000, Fault::StoreDown { length: 10_000 })];
    let finding = clean(Scenario::scripted(92, 3, -1, 20_000, &faults));
    assert_eq!(count(&finding, "op not done"), 0);
}

#[test]
fn losing_the_elector_alone_stops_no_write() {
    let faults = [(6_000, Fault::CrashElector { down: 3_000 })];
    let finding = clean(Scenario::scripted(11, 3, -1, 14_000, &faults));
    assert!(count(&finding, "became elector") >= 2);
}

/// The scenario shows nothing with the rules as written, and in the broken variant what `sign` is in.
fn caught(mutant: Mutant, scenario: &Scenario, sign: &str) -> Finding {
    let finding = clean(scenario.clone());
    let breaches = run(scenario.clone(), Some(mutant), false).breaches;
    assert!(breaches.iter().any(|b| b.contains(sign)), "{mutant:?} shows {breaches:?}");
    finding
}

#[test]
fn a_lease_that_was_given_up_is_taken_back_before_it_is_used() {
    let away = |node| Fault::Isolate { node, length: 7_000 };
    let faults = [
        (5_000, Fault::MoveTo { node: 1 }),
        // n1 gives its lease up for n0, and becomes Primary again without n0's doing anything.
        (8_000, Fault::MoveTo { node: 0 }),
        (11_000, Fault::Pause { node: 2, length: 7_000 }),
        (11_000, Fault::Crash { node: 0, down: 7_000, disk: DiskFate::Kept }),
        // While its lease still runs another is elected, who finds the release in the manifest.
        (28_000, away(1)),
        (28_000, Fault::CutStore { node: 1, length: 7_000 }),
    ];
    let mut scenario = Scenario::scripted(21, 3, 0, 40_000, &faults);
    (scenario.clients, scenario.settings.read_lease) = (30, 5_000);
    let finding = caught(Mutant::ReleasedLeaseUsed, &scenario, "RealTime");
    assert!(count(&finding, "read at once") > 0);
}

#[test]
fn a_backup_whose_first_starts_fail_is_still_told_from_the_database() {
    let crash = |node, down, disk| Fault::Crash { node, down, disk };
    let faults = [
        (4_000, Fault::MoveTo { node: 0 }),
        (6_000, Fault::Backup { node: 1 }),
        (6_500, crash(1, 100, DiskFate::Kept)),
        // n0 and n1 commit what nobody else has.
        (12_000, Fault::StoreDown { length: 6_000 }),
        (12_000, Fault::Isolate { node: 2, length: 2_500 }),
        // n0 goes, and n1 is given the backup, which is started again and again without reaching the registrations.
        (14_000, crash(0, 60_000, DiskFate::Kept)),
        (14_000, crash(1, 20, DiskFate::Old)),
        (14_500, crash(1, 20, DiskFate::Kept)),
        (15_000, crash(1, 20, DiskFate::Kept)),
    ];
    let scenario = Scenario::scripted(22, 3, -1, 30_000, &faults);
    caught(Mutant::ForgetBootCounter, &scenario, "which was shown as one of term");
    let finding = caught(Mutant::RaiseBootFirst, &scenario, "which was shown as one of term");
    assert_eq!(count(&finding, "restored backup set aside"), 1);
    assert_eq!(count(&finding, "quorum lost for good"), 0, "n0 comes back");
}

#[test]
fn a_proven_read_waits_for_what_this_node_is_still_to_show() {
    let mut scenario = Scenario::scripted(23, 3, -1, 9_000, &[]);
    scenario.weather.show_ms = (5, 80);
    caught(Mutant::ReadsBeforeShown, &scenario, "RealTime");
}

#[test]
fn an_answer_to_an_upload_of_an_earlier_term_says_nothing_of_this_one() {
    let faults = [
        (5_000, Fault::MoveTo { node: 0 }),
        (9_000, Fault::LateAnswers { node: 0, length: 200, by: 8_500 }),
        // Another leads, and hands back: n0's process has a chunk in flight, which does not land, when that answer comes.
        (9_200, Fault::Isolate { node: 0, length: 4_000 }),
        (15_000, Fault::MoveTo { node: 0 }),
        (17_000, Fault::CutStore { node: 0, length: 1_500 }),
    ];
    let mut scenario = Scenario::scripted(24, 3, 0, 22_000, &faults);
    (scenario.clients, scenario.settings.read_lease) = (12, 0);
    let finding = caught(Mutant::UploadAnswerOfAnyTerm, &scenario, "landed after chunk");
    assert!(count(&finding, "leads") >= 3, "{:?}", finding.counters);
}

#[test]
fn rows_that_say_nothing_any_more_wait_for_the_object_log() {
    let put = |key: &'static str| Request::Put(PutRequest { key: key.into(), value: "v".into(), ..Default::default() });
    let mut scenario = Scenario::scripted(25, 3, -1, 14_000, &[(5_000, Fault::MoveTo { node: 0 })]);
    (scenario.watchers, scenario.clients_from) = (0, 13_000);
    let keys = ["k0", "k1", "k2", "k3", "k4"];
    scenario.asks = keys.iter().enumerate().map(|(i, key)| (8_000 + 20 * i as u64, 0, put(key))).collect();
    let grants = (1..=40).map(|n| (9_000 + 10 * n, 0, Request::LeaseGrant { id: 1_000 + n as i64, ttl: 60 }));
    scenario.asks.extend(grants);
    // The newest revision is compacted; leases end after it, at that same revision.
    scenario.asks.push((12_000, 0, Request::Compact { revision: 6 }));
    scenario.asks.extend((1..=40).map(|n| (12_010 + 10 * n, 0, Request::LeaseRevoke { id: 1_000 + n as i64 })));
    let finding = caught(Mutant::DeadRowsGoBeforeLogged, &scenario, "rows of which are gone");
    assert!(count(&finding, "rows compacted") > 0);
}

#[test]
fn a_lease_that_was_renewed_is_not_ended_by_a_primary_of_before() {
    // Found by seed 1795996002427 of 4b8f739.
    let keep_alive = |at, node| (at, node, Request::LeaseKeepAlive { id: 1_001 });
    let faults = [
        (5_000, Fault::MoveTo { node: 0 }),
        // n0 sleeps, and hears nothing of the next Primary, which renews the lease, and writes nothing.
        (11_000, Fault::Isolate { node: 0, length: 7_400 }),
        (11_000, Fault::Pause { node: 0, length: 7_500 }),
        // It wakes, finds the lease over, and goes on with that where the other one ends.
        (18_506, Fault::CrashPrimary { down: 60_000, disk: DiskFate::Kept }),
    ];
    let mut scenario = Scenario::scripted(26, 3, -1, 40_000, &faults);
    (scenario.watchers, scenario.clients_from) = (0, 30_000);
    scenario.asks =
        vec![(10_000, 0, Request::LeaseGrant { id: 1_001, ttl: 8 }), keep_alive(16_000, 1), keep_alive(16_000, 2)];
    scenario.asks.extend([keep_alive(22_000, 0), keep_alive(22_100, 1), keep_alive(22_200, 2)]);
    let finding = caught(Mutant::RenewalLeavesNoEntry, &scenario, "LeaseEarly");
    assert!(count(&finding, "leads") >= 4);
}
