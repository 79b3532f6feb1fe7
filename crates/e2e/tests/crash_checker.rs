//! Made-up histories: the checker must find what is wrong with each, and nothing wrong with the good one.

use netsy_api::mvccpb::KeyValue;
use netsy_e2e::crash::checker::Checker;
use netsy_e2e::crash::history::{Change, Event, LeaseChange, Op, Outcome, Seen, Step, steps};
use netsy_e2e::crash::watch_checker::WatchChecker;

fn kv(key: &str, value: &str, create_revision: i64, mod_revision: i64, version: i64, lease: i64) -> KeyValue {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    KeyValue { key, value, create_revision, mod_revision, version, lease }
}

fn put_event(kv: KeyValue) -> Event {
    Event { deleted: false, kv, prev: None }
}

fn delete_event(key: &str, revision: i64) -> Event {
    Event {
        deleted: true,
        kv: KeyValue { key: key.to_owned().into(), mod_revision: revision, ..Default::default() },
        prev: None,
    }
}

fn put(key: &str, value: &str) -> Change {
    Change::Put { key: key.to_owned(), value: value.to_owned(), lease: 0 }
}

fn put_with(key: &str, value: &str, lease: i64) -> Change {
    Change::Put { key: key.to_owned(), value: value.to_owned(), lease }
}

fn delete(key: &str) -> Change {
    Change::Delete { key: key.to_owned() }
}

fn op(times: (u64, u64), changes: Vec<Change>, outcome: Outcome) -> Op {
    Op { life: 0, invoked: times.0, returned: times.1, changes, lease: LeaseChange::Nothing, outcome }
}

fn acked(revision: i64) -> Outcome {
    Outcome::Acked { revision, applied: true }
}

/// Six operations, one of unknown outcome that was applied, a lease that was granted and one that expired.
fn good() -> (Vec<Op>, Seen) {
    let grant = |at, id, ttl| Op { lease: LeaseChange::Grant { id, ttl }, ..op((at, at + 1), vec![], acked(1)) };
    let ops = vec![
        grant(0, 70, 9999),
        grant(2, 71, 2),
        op((10, 11), vec![put("a", "a1")], acked(2)),
        op((12, 13), vec![put("a", "a2"), put("b", "b1")], acked(3)),
        op((14, 15), vec![put_with("c", "c1", 70), put_with("d", "d1", 71)], acked(4)),
        op((16, 17), vec![delete("b")], acked(5)),
        op((20, 21), vec![put("a", "never")], Outcome::Acked { revision: 6, applied: false }),
        op((22, u64::MAX), vec![put("e", "e1"), delete("a")], Outcome::Unknown),
        op((22, u64::MAX), vec![put("f", "f1")], Outcome::Unknown),
        op((23, 24), vec![put("g", "g1")], Outcome::Refused),
    ];
    let log = steps([
        put_event(kv("a", "a1", 2, 2, 1, 0)),
        put_event(kv("a", "a2", 2, 3, 2, 0)),
        put_event(kv("b", "b1", 3, 3, 1, 0)),
        put_event(kv("c", "c1", 4, 4, 1, 70)),
        put_event(kv("d", "d1", 4, 4, 1, 71)),
        delete_event("b", 5),
        delete_event("d", 6),
        delete_event("a", 7),
        put_event(kv("e", "e1", 7, 7, 1, 0)),
    ]);
    let state = vec![kv("c", "c1", 4, 4, 1, 70), kv("e", "e1", 7, 7, 1, 0)];
    (ops, Seen { head: 7, log, state, leases: [(70, 9999)].into() })
}

#[test]
fn a_good_history_passes() {
    let (ops, seen) = good();
    let mut checker = Checker::default();
    assert_eq!(checker.check(&ops, &seen), Vec::<String>::new());
    assert_eq!(checker.revision(), 7);
    assert_eq!(checker.check(&[], &Seen { log: vec![], ..seen }), Vec::<String>::new(), "nothing new is fine too");
}

/// Checks the good history with something spoilt; what is found must say `expected`.
#[track_caller]
fn finds(expected: &str, spoil: impl FnOnce(&mut Vec<Op>, &mut Seen)) {
    let (mut ops, mut seen) = good();
    spoil(&mut ops, &mut seen);
    let wrong = Checker::default().check(&ops, &seen);
    assert!(wrong.iter().any(|what| what.contains(expected)), "{expected:?} was to be found, this was: {wrong:#?}");
}

#[test]
fn finds_a_lost_write() {
    finds("an acknowledged write is lost: revision 8", |ops, _| ops.push(op((30, 31), vec![put("z", "z1")], acked(8))));
    finds("revision 8 was told to a client, the store is at 7", |ops, _| {
        ops.push(op((30, 31), vec![put("z", "z1")], acked(8)))
    });
    // The last revisions are gone, as after a lost fsync.
    finds("an acknowledged write is lost: revision 5", |_, seen| {
        seen.log.truncate(3);
        seen.head = 4;
    });
}

#[test]
fn finds_a_gap_and_a_wrong_head() {
    finds("revision 5 was due, the log goes on with 6", |_, seen| drop(seen.log.remove(3)));
    finds("the store is at revision 9, the log ends with 7", |_, seen| seen.head = 9);
    let (ops, seen) = good();
    let mut checker = Checker::default();
    checker.check(&ops, &seen);
    let wrong = checker.check(&[], &Seen { head: 6, log: vec![], ..seen });
    assert!(wrong.iter().any(|what| what.contains("went back from revision 7 to 6")), "{wrong:?}");
}

#[test]
fn finds_half_an_operation() {
    finds("the operation was", |_, seen| drop(seen.log[1].events.remove(1)));
    // Half of one whose outcome is unknown is as bad.
    finds("the operation was", |_, seen| drop(seen.log[5].events.remove(0)));
    // Two operations in one revision.
    finds("revision 2 has", |_, seen| seen.log[0].events.push(put_event(kv("f", "f1", 2, 2, 1, 0))));
}

#[test]
fn finds_what_should_not_be_there() {
    let add = |seen: &mut Seen, key: &str, value: &str| {
        seen.log.push(Step { revision: 8, events: vec![put_event(kv(key, value, 8, 8, 1, 0))] });
        seen.head = 8;
    };
    finds("refused, is revision 8", |_, seen| add(seen, "g", "g1"));
    finds("said not to apply, is revision 8", |_, seen| add(seen, "a", "never"));
    finds("revision 8 is of no operation", |_, seen| add(seen, "nobody", "wrote this"));
    finds("done twice, at revisions 7 and 8", |_, seen| {
        let again = Step { revision: 8, events: seen.log[5].events.clone() };
        seen.log.push(again);
        seen.head = 8;
    });
    // One of unknown outcome that was not there after the restart must never come.
    let (ops, seen) = good();
    let mut checker = Checker::default();
    checker.check(&ops, &seen);
    let mut late = Seen { log: vec![], ..seen };
    add(&mut late, "f", "f1");
    let wrong = checker.check(&[], &late);
    assert!(wrong.iter().any(|what| what.contains("revision 8 is of no operation")), "{wrong:?}");
}

#[test]
fn finds_wrong_revisions_versions_and_previous_values() {
    finds("acknowledged as revision 5, is revision 3", |ops, _| ops[3].outcome = acked(5));
    finds("the watch told", |_, seen| seen.log[1].events[0].kv.version = 1);
    finds("the watch told", |_, seen| seen.log[1].events[0].kv.create_revision = 3);
    finds("the watch told", |_, seen| seen.log[1].events[0].prev = Some(kv("a", "a0", 2, 2, 1, 0)));
    finds("deletes x, which is not there", |ops, seen| {
        ops.push(op((30, 31), vec![delete("x")], acked(8)));
        seen.log.push(Step { revision: 8, events: vec![delete_event("x", 8)] });
        seen.head = 8;
    });
}

#[test]
fn finds_an_order_against_real_time() {
    // a2 was answered before a1 was asked for.
    finds("was answered before revision", |ops, _| {
        (ops[2].invoked, ops[2].returned) = (14, 15);
        (ops[3].invoked, ops[3].returned) = (10, 11);
    });
    // An unknown outcome has no end, so nothing came before it; but it was asked for after others.
    finds("was answered before revision", |ops, _| ops[3].invoked = 100_000);
    finds("answered with revision 4 after revision 5 had been told", |ops, _| {
        ops.push(op((18, 19), vec![], Outcome::Acked { revision: 4, applied: true }));
    });
}

#[test]
fn finds_a_state_that_is_not_the_log() {
    finds("c is", |_, seen| drop(seen.state.remove(0)));
    finds("b is not there, a range read gives it", |_, seen| seen.state.push(kv("b", "b1", 3, 3, 1, 0)));
    finds("e is", |_, seen| seen.state[1].version = 2);
    finds("e is", |_, seen| seen.state[1].value = "torn".into());
    finds("only 2 of them different", |_, seen| seen.state.push(kv("e", "e1", 7, 7, 1, 0)));
}

#[test]
fn finds_wrong_leases() {
    finds("an acknowledged lease is lost", |_, seen| seen.leases.clear());
    finds("c hangs on lease 70, which is not there", |_, seen| seen.leases.clear());
    finds("was granted for 9999 s, the server says 5", |_, seen| seen.leases = [(70, 5)].into());
    finds("lease 72 is there, nobody was granted it", |_, seen| seen.leases.extend([(72, 5)]));
    // A lease that may not expire did.
    finds("revision 6 is of no operation", |ops, _| ops[1].lease = LeaseChange::Grant { id: 71, ttl: 9999 });
    // Half the keys of an expired lease.
    finds("revision 6 is of no operation", |ops, seen| {
        ops[2].changes = vec![put_with("a", "a1", 71)];
        ops[3].changes = vec![put_with("a", "a2", 71), put("b", "b1")];
        seen.log[0].events[0].kv.lease = 71;
        seen.log[1].events[0].kv.lease = 71;
    });
    let revoke = |outcome| Op { lease: LeaseChange::Revoke { id: 70 }, ..op((30, 31), vec![delete("c")], outcome) };
    finds("a revoked lease is there", |ops, seen| {
        ops.push(revoke(acked(8)));
        seen.log.push(Step { revision: 8, events: vec![delete_event("c", 8)] });
        seen.head = 8;
    });
    finds("a lease and its keys went apart", |ops, seen| {
        ops.push(Op { returned: u64::MAX, ..revoke(Outcome::Unknown) });
        seen.leases.clear();
    });
    let (ops, seen) = good();
    let mut checker = Checker::default();
    checker.check(&ops, &seen);
    let wrong = checker.check(&[], &Seen { leases: [].into(), log: vec![], ..seen });
    assert!(wrong.iter().any(|what| what == "lease 70 is lost"), "in a later life: {wrong:?}");
    let (mut ops, mut seen) = good();
    ops.push(revoke(acked(8)));
    seen.log.push(Step { revision: 8, events: vec![delete_event("c", 8)] });
    (seen.head, seen.state, seen.leases) = (8, vec![kv("e", "e1", 7, 7, 1, 0)], [].into());
    assert_eq!(Checker::default().check(&ops, &seen), Vec::<String>::new(), "a revoke as it should be");
}

/// The answers a watch of everything would get for the good history, one revision each.
fn good_answers() -> (Vec<Vec<Event>>, Vec<Step>) {
    let (_, seen) = good();
    (seen.log.iter().map(|step| step.events.clone()).collect(), seen.log)
}

#[track_caller]
fn watch_finds(expected: &str, spoil: impl FnOnce(&mut Vec<Vec<Event>>)) {
    let (mut answers, log) = good_answers();
    spoil(&mut answers);
    let wrong = WatchChecker::new("w".to_owned(), String::new(), 1).check(&answers, &log, 7, true);
    assert!(wrong.iter().any(|what| what.contains(expected)), "{expected:?} was to be found, this was: {wrong:#?}");
}

#[test]
fn a_good_watch_passes_in_any_portions() {
    let (answers, log) = good_answers();
    let whole = || WatchChecker::new("w".to_owned(), String::new(), 1);
    assert_eq!(whole().check(&answers, &log, 7, true), Vec::<String>::new());
    assert_eq!(whole().check(&[answers.concat()], &log, 7, true), Vec::<String>::new(), "all in one answer");
    let mut resumed = whole();
    assert_eq!(resumed.check(&answers[..2], &log[..2], 3, false), Vec::<String>::new());
    assert_eq!(resumed.resume_at(), 4);
    assert!(!resumed.reached(&[], &log, 7));
    assert!(resumed.reached(&answers[2..], &log, 7));
    assert_eq!(resumed.check(&answers[2..], &log, 7, true), Vec::<String>::new());

    let mut prefix = WatchChecker::new("w".to_owned(), "a".to_owned(), 1);
    let only: Vec<Vec<Event>> = answers
        .iter()
        .map(|events| events.iter().filter(|event| event.kv.key.starts_with(b"a")).cloned().collect())
        .collect();
    assert_eq!(prefix.check(&only, &log, 7, true), Vec::<String>::new());
    assert_eq!(prefix.resume_at(), 8);
}

#[test]
fn finds_what_is_wrong_with_a_watch() {
    watch_finds("revision 4 was left out, 5 came", |answers| drop(answers.remove(2)));
    watch_finds("revision 7 never came", |answers| drop(answers.pop()));
    watch_finds("revision 3 came again", |answers| answers.insert(2, answers[1].clone()));
    watch_finds("revision 3 came again or late", |answers| answers.swap(1, 2));
    watch_finds("revision 3 is", |answers| drop(answers[1].pop()));
    watch_finds("its events came in two answers", |answers| {
        let second = answers[1].split_off(1);
        answers.insert(2, second);
    });
    watch_finds("told revision 8, which is not in the log", |answers| answers.push(vec![delete_event("e", 8)]));
    watch_finds("revision 2 is", |answers| answers[0][0].kv.value = "other".into());
    watch_finds("revision 5 is", |answers| answers[3][0].deleted = false);
}
