//! The six promises of watches.

mod common;

use common::*;
use netsy_api::etcdserverpb::WatchCreateRequest;
use netsy_api::etcdserverpb::watch_create_request::FilterType;
use netsy_api::mvccpb::Event;
use netsy_history::*;

/// The events of the base at these revisions.
fn of(revisions: &[i64]) -> Vec<Event> {
    revisions.iter().map(|revision| base().log.steps[*revision as usize - 2].events[0].clone()).collect()
}

fn kinds(sessions: Vec<WatchSession>, whole_to: Option<i64>) -> Vec<Kind> {
    let mut history = base();
    history.watches = vec![WatchRecord { whole_to, ..record(sessions) }];
    history.check().kinds()
}

fn one(start: i64, mut messages: Vec<WatchMessage>) -> Vec<Kind> {
    messages.insert(0, created(10, 5));
    kinds(vec![session(watch_all(start), messages)], None)
}

#[test]
fn good_ones() {
    assert_eq!(one(2, vec![events(11, of(&[2, 3])), events(12, of(&[4])), events(13, of(&[5]))]), []);
    assert_eq!(one(4, vec![events(11, of(&[4, 5])), progress(12, 5)]), []);
    assert_eq!(one(2, vec![]), []);
    let live = session(watch_all(0), vec![created(3, 2), events(4, of(&[3])), progress(5, 3), events(8, of(&[4, 5]))]);
    assert_eq!(kinds(vec![live], Some(5)), []);
}

#[test]
fn ordered() {
    assert_eq!(one(2, vec![events(11, of(&[2, 4, 3]))]), [Kind::WatchOrder, Kind::WatchGap]);
    assert_eq!(one(2, vec![events(11, of(&[2, 4])), events(12, of(&[3]))]), [Kind::WatchOrder, Kind::WatchGap]);
    let before = session(watch_all(2), vec![events(9, of(&[2])), created(10, 5)]);
    assert_eq!(kinds(vec![before], None), [Kind::WatchOrder]);
}

#[test]
fn unique() {
    assert_eq!(one(2, vec![events(11, of(&[2, 3])), events(12, of(&[4])), events(13, of(&[3]))]), [Kind::WatchTwice]);
}

#[test]
fn reliable() {
    assert_eq!(one(2, vec![events(11, of(&[2, 4]))]), [Kind::WatchGap]);
    assert_eq!(one(2, vec![events(11, of(&[3]))]), [Kind::WatchGap]);
    let ends = |messages| kinds(vec![session(watch_all(2), messages)], Some(5));
    assert_eq!(ends(vec![created(10, 5), events(11, of(&[2, 3, 4, 5]))]), []);
    assert_eq!(ends(vec![created(10, 5), events(11, of(&[2, 3, 4]))]), [Kind::WatchGap]);
    assert_eq!(ends(vec![created(10, 5), events(11, of(&[2, 3, 4])), progress(12, 5)]), [Kind::WatchProgress]);
}

#[test]
fn only_what_it_watches_and_as_it_is() {
    let of_b = WatchCreateRequest { key: bytes("b"), start_revision: 2, ..Default::default() };
    let told = |revisions: &[i64]| {
        kinds(vec![session(of_b.clone(), vec![created(10, 5), events(11, of(revisions))])], Some(5))
    };
    assert_eq!(told(&[4]), []);
    assert_eq!(told(&[3, 4]), [Kind::WatchWrong]);
    let mut wrong = of(&[2]);
    wrong[0].kv.as_mut().unwrap().value = bytes("else");
    assert_eq!(one(2, vec![events(11, wrong)]), [Kind::WatchWrong]);
    let invented = vec![put_event(kv("c", "x", 9))];
    assert_eq!(
        one(2, vec![events(11, of(&[2, 3, 4, 5])), events(12, invented)]),
        [Kind::FromTheFuture, Kind::WatchWrong]
    );
    let mut header = events(11, of(&[2, 3]));
    header.revision = 2;
    assert_eq!(one(2, vec![header]), [Kind::WatchWrong]);
}

#[test]
fn filters() {
    let no_deletes = WatchCreateRequest { filters: vec![FilterType::Nodelete as i32], ..watch_all(2) };
    let told = |revisions: &[i64]| {
        kinds(vec![session(no_deletes.clone(), vec![created(10, 5), events(11, of(revisions))])], Some(5))
    };
    assert_eq!(told(&[2, 3, 4]), []);
    assert_eq!(told(&[2, 3, 4, 5]), [Kind::WatchWrong]);
}

#[test]
fn atomic() {
    let mut history = base();
    let both = vec![put_event(kv("c", "x", 6)), put_event(kv("d", "y", 6))];
    history.log.steps.extend(steps(both.clone()));
    let request = txn(vec![], vec![op_put("c", "x"), op_put("d", "y")], vec![]);
    history.ops.push(op(9, 10, request, Outcome::Unknown));
    let mut told = |messages: Vec<WatchMessage>| {
        history.watches = vec![record(vec![session(watch_all(6), messages)])];
        history.check().kinds()
    };
    let (c, d) = (vec![both[0].clone()], vec![both[1].clone()]);
    assert_eq!(told(vec![created(11, 5), events(12, both.clone())]), []);
    assert_eq!(told(vec![created(11, 5), events(12, c.clone()), events(13, d.clone())]), [Kind::WatchSplit]);
    assert_eq!(told(vec![created(11, 5), events(12, c.clone())]), [Kind::WatchSplit]);
    let swapped = vec![both[1].clone(), both[0].clone()];
    assert_eq!(told(vec![created(11, 5), events(12, swapped)]), [Kind::WatchWrong]);
    // Parts that say that they are ones.
    let first = WatchMessage { at: 12, revision: 6, told: Told::Events { events: c, fragment: true } };
    assert_eq!(told(vec![created(11, 5), first.clone(), events(13, d)]), []);
    assert_eq!(told(vec![created(11, 5), first, progress(13, 6)]), [Kind::WatchProgress]);
}

#[test]
fn resumable() {
    let first = session(watch_all(2), vec![created(10, 5), events(11, of(&[2, 3]))]);
    let goes_on = |start: i64, messages: Vec<WatchMessage>| {
        let second = WatchSession { node: 2, ..session(watch_all(start), messages) };
        kinds(vec![first.clone(), second], Some(5))
    };
    assert_eq!(goes_on(4, vec![created(12, 5), events(13, of(&[4, 5]))]), []);
    // The other node is behind; that is no reason to leave anything out.
    assert_eq!(goes_on(4, vec![created(12, 2), events(13, of(&[4, 5]))]), []);
    assert_eq!(goes_on(4, vec![created(12, 5), events(13, of(&[5]))]), [Kind::WatchGap]);
    assert_eq!(goes_on(4, vec![created(12, 5), events(13, of(&[3, 4, 5]))]), [Kind::WatchResume]);
    // The test itself left something out.
    assert_eq!(goes_on(5, vec![created(12, 5), events(13, of(&[5]))]), [Kind::WatchGap]);
    // From before: told again is right.
    assert_eq!(goes_on(3, vec![created(12, 5), events(13, of(&[3, 4, 5]))]), []);
    let ended =
        WatchMessage { at: 13, revision: 5, told: Told::Cancelled { compact_revision: 0, reason: "why not".into() } };
    assert_eq!(one(2, vec![events(11, of(&[2, 3, 4, 5])), ended]), [Kind::WatchResume]);
}

#[test]
fn compacted() {
    let ended = |at: u64, compact_revision: i64| WatchMessage {
        at,
        revision: 0,
        told: Told::Cancelled { compact_revision, reason: String::new() },
    };
    let check = |start: i64, compact_revision: i64, compacted: bool| {
        let mut history = base();
        if compacted {
            history.ops.push(op(9, 10, Request::Compact { revision: 4 }, done(5, Answer::Compact)));
        }
        history.watches =
            vec![record(vec![session(watch_all(start), vec![created(11, 5), ended(12, compact_revision)])])];
        history.check().kinds()
    };
    assert_eq!(check(3, 4, true), []);
    assert_eq!(check(4, 4, true), [Kind::WatchResume]);
    assert_eq!(check(3, 5, true), [Kind::WatchResume]);
    assert_eq!(check(3, 4, false), [Kind::WatchResume]);
}

#[test]
fn bookmarkable() {
    assert_eq!(one(2, vec![events(11, of(&[2, 3])), progress(12, 4)]), [Kind::WatchProgress]);
    assert_eq!(one(2, vec![progress(11, 3), events(12, of(&[2, 3, 4]))]), [Kind::WatchProgress]);
    assert_eq!(one(2, vec![events(11, of(&[2, 3])), progress(12, 2)]), [Kind::WatchProgress]);
    assert_eq!(one(2, vec![events(11, of(&[2, 3])), progress(12, 3), events(13, of(&[4, 5]))]), []);
    // Of a key that nothing happens to.
    let of_z = WatchCreateRequest { key: bytes("z"), start_revision: 2, ..Default::default() };
    assert_eq!(kinds(vec![session(of_z.clone(), vec![created(3, 2), progress(4, 3), progress(9, 5)])], Some(5)), []);
    assert_eq!(
        kinds(vec![session(of_z, vec![created(3, 2), progress(9, 5), progress(10, 3)])], Some(5)),
        [Kind::WatchProgress]
    );
}

#[test]
fn from_a_future_revision() {
    let from_5 = |messages| kinds(vec![session(watch_all(5), messages)], None);
    assert_eq!(from_5(vec![created(3, 2), events(8, of(&[5]))]), []);
    assert_eq!(from_5(vec![created(3, 2), events(6, of(&[4]))]), [Kind::WatchResume]);
    assert_eq!(from_5(vec![created(3, 2), progress(5, 3)]), [Kind::WatchProgress]);
    // Before it was even sent.
    assert_eq!(from_5(vec![created(3, 2), events(6, of(&[5]))]), [Kind::RealTime, Kind::FromTheFuture]);
}

#[test]
fn previous_values() {
    let with_prev = WatchCreateRequest { prev_kv: true, ..watch_all(5) };
    let told = |request: &WatchCreateRequest, prev| {
        let mut deleted = of(&[5]);
        deleted[0].prev_kv = prev;
        kinds(vec![session(request.clone(), vec![created(10, 5), events(11, deleted)])], None)
    };
    let a2 = again(&kv("a", "1", 2), "2", 3);
    assert_eq!(told(&with_prev, Some(a2.clone())), []);
    assert_eq!(told(&with_prev, Some(kv("a", "1", 2))), [Kind::WatchWrong]);
    assert_eq!(told(&with_prev, None), [Kind::WatchWrong]);
    assert_eq!(told(&watch_all(5), Some(a2)), [Kind::WatchWrong]);
    assert_eq!(told(&watch_all(5), None), []);
}

#[test]
fn what_a_watch_told_a_later_read_must_know() {
    let mut history = base();
    history.ops[2].returned = 100;
    history.ops.truncate(3);
    history.log.steps.truncate(3);
    history.watches = vec![record(vec![session(watch_all(4), vec![created(5, 3), events(7, of(&[4]))])])];
    assert_good(&history);
    history.ops.push(op(8, 9, get("b"), done(3, range_answer(vec![]))));
    assert_kinds(&history, &[Kind::RealTime]);
}
