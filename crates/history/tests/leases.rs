//! Leases: who said when that they live.

mod common;

use common::*;
use netsy_api::etcdserverpb::PutRequest;
use netsy_api::mvccpb::KeyValue;
use netsy_history::*;

fn grant(at: u64, id: i64, ttl: i64) -> Op {
    op(at, at + 1, Request::LeaseGrant { id, ttl }, done(5, Answer::LeaseGrant { ttl }))
}

fn keep_alive(at: u64, id: i64, ttl: i64, revision: i64) -> Op {
    op(at, at + 1, Request::LeaseKeepAlive { id }, done(revision, Answer::LeaseKeepAlive { ttl }))
}

fn time_to_live(at: u64, id: i64, ttl: i64, granted: i64, keys: Option<&[&str]>) -> Op {
    let request = Request::LeaseTimeToLive { id, keys: keys.is_some() };
    let keys = keys.unwrap_or_default().iter().map(|key| bytes(key)).collect();
    op(at, at + 1, request, done(6, Answer::LeaseTimeToLive { ttl, granted, keys }))
}

fn put_on(key: &str, value: &str, lease: i64) -> Request {
    Request::Put(PutRequest { lease, ..put_request(key, value) })
}

fn on(lease: i64, kv: KeyValue) -> KeyValue {
    KeyValue { lease, ..kv }
}

/// Lease 7 of 10 s, granted at 10, with the key `l` at revision 6, put at 12.
fn leased() -> History {
    let mut history = with([grant(10, 7, 10), op(12, 13, put_on("l", "x", 7), put_done(6))]);
    history.log.steps.extend(steps([put_event(on(7, kv("l", "x", 6)))]));
    history
}

/// Its end, seen by a read at this time.
fn ended(mut history: History, seen: u64) -> History {
    history.log.steps.extend(steps([delete_event("l", 7)]));
    history.ops.push(op(seen - 1, seen, get("l"), done(7, range_answer(vec![]))));
    history
}

#[test]
fn a_lease_ends_after_its_time_and_not_before() {
    assert_good(&leased());
    assert_good(&ended(leased(), 20));
    assert_kinds(&ended(leased(), 19), &[Kind::LeaseEarly]);
    let mut drift = ended(leased(), 19);
    drift.rules.lease_slack = 1;
    assert_good(&drift);
    let mut no_durations = ended(leased(), 19);
    no_durations.rules.units_per_second = None;
    assert_good(&no_durations);
}

#[test]
fn a_renewal_makes_it_live_longer() {
    let mut renewed = leased();
    renewed.ops.push(keep_alive(15, 7, 10, 6));
    assert_kinds(&ended(renewed.clone(), 24), &[Kind::LeaseEarly]);
    assert_good(&ended(renewed, 25));
}

#[test]
fn a_revoke_ends_it_at_any_time() {
    let revoke = Op { ..op(14, 15, Request::LeaseRevoke { id: 7 }, done(7, Answer::LeaseRevoke)) };
    let mut history = ended(leased(), 16);
    history.ops.push(revoke.clone());
    assert_good(&history);
    history.ops.last_mut().unwrap().outcome = Outcome::Unknown;
    assert_good(&history);
    history.ops.last_mut().unwrap().outcome = Outcome::Refused(Refusal::Other("".into()));
    assert_kinds(&history, &[Kind::LeaseEarly]);
    // Acknowledged, and the key is still there.
    let mut left = leased();
    left.ops.push(Op { outcome: done(6, Answer::LeaseRevoke), ..revoke });
    assert_kinds(&left, &[Kind::Lease]);
}

#[test]
fn its_keys_go_all_and_at_once() {
    let two = |deletes: Vec<netsy_api::mvccpb::Event>| {
        let mut history = leased();
        history.ops.push(op(14, 15, put_on("m", "y", 7), put_done(7)));
        history.log.steps.extend(steps([put_event(on(7, kv("m", "y", 7)))]));
        history.log.steps.extend(steps(deletes));
        history
    };
    assert_good(&two(vec![delete_event("l", 8), delete_event("m", 8)]));
    assert_kinds(&two(vec![delete_event("l", 8)]), &[Kind::Unexplained]);
}

#[test]
fn an_answer_that_it_is_gone_is_not_early() {
    let ask = |request: Request, outcome: Outcome, at: u64| {
        let mut history = leased();
        history.ops.push(op(at, at, request, outcome));
        history.check().kinds()
    };
    let alive = || done(6, Answer::LeaseKeepAlive { ttl: 0 });
    assert_eq!(ask(Request::LeaseKeepAlive { id: 7 }, alive(), 19), [Kind::LeaseEarly]);
    assert_eq!(ask(Request::LeaseKeepAlive { id: 7 }, alive(), 20), []);
    let gone = || done(6, Answer::LeaseTimeToLive { ttl: -1, granted: 0, keys: vec![] });
    assert_eq!(ask(Request::LeaseTimeToLive { id: 7, keys: false }, gone(), 19), [Kind::LeaseEarly]);
    assert_eq!(ask(Request::LeaseTimeToLive { id: 7, keys: false }, gone(), 20), []);
    let refused = || Outcome::Refused(Refusal::LeaseNotFound);
    assert_eq!(ask(put_on("n", "z", 7), refused(), 19), [Kind::WrongRefusal]);
    assert_eq!(ask(put_on("n", "z", 7), refused(), 20), []);
    assert_eq!(ask(put_on("n", "z", 8), refused(), 19), []);
    assert_eq!(
        ask(Request::LeaseGrant { id: 8, ttl: 1 }, Outcome::Refused(Refusal::LeaseExists), 19),
        [Kind::WrongRefusal]
    );
    assert_eq!(ask(Request::LeaseGrant { id: 7, ttl: 1 }, Outcome::Refused(Refusal::LeaseExists), 19), []);
}

#[test]
fn it_does_not_live_after_its_end() {
    let mut history = ended(leased(), 16);
    history.ops.push(op(14, 15, Request::LeaseRevoke { id: 7 }, done(7, Answer::LeaseRevoke)));
    assert_good(&history);
    let mut alive = history.clone();
    alive.ops.push(keep_alive(17, 7, 10, 7));
    assert_kinds(&alive, &[Kind::Lease]);
    let mut alive = history.clone();
    alive.ops.push(time_to_live(17, 7, 3, 10, None));
    assert_kinds(&alive, &[Kind::Lease]);
    let mut put_after = history;
    put_after.ops.push(op(17, 18, put_on("n", "z", 7), put_done(8)));
    put_after.log.steps.extend(steps([put_event(on(7, kv("n", "z", 8)))]));
    assert_kinds(&put_after, &[Kind::Lease]);
    // Expired, and then used.
    let mut expired = ended(leased(), 30);
    expired.ops.push(op(31, 32, put_on("n", "z", 7), put_done(8)));
    expired.log.steps.extend(steps([put_event(on(7, kv("n", "z", 8)))]));
    assert_kinds(&expired, &[Kind::Lease]);
}

#[test]
fn nobody_hangs_on_a_lease_that_nobody_was_granted() {
    let mut history = with([op(12, 13, put_on("l", "x", 7), put_done(6))]);
    history.log.steps.extend(steps([put_event(on(7, kv("l", "x", 6)))]));
    assert_kinds(&history, &[Kind::Lease]);
    let answered = with([keep_alive(9, 3, 10, 5)]);
    assert_kinds(&answered, &[Kind::Lease]);
    let revoked = with([op(14, 15, Request::LeaseRevoke { id: 3 }, done(5, Answer::LeaseRevoke))]);
    assert_kinds(&revoked, &[Kind::Lease]);
}

#[test]
fn times_and_keys_are_right() {
    let with = |ask: Op| {
        let mut history = leased();
        history.ops.push(ask);
        history.check().kinds()
    };
    assert_eq!(with(time_to_live(14, 7, 9, 10, Some(&["l"]))), []);
    assert_eq!(with(time_to_live(14, 7, 11, 10, None)), [Kind::Lease]);
    assert_eq!(with(time_to_live(14, 7, 9, 12, None)), [Kind::Lease]);
    assert_eq!(with(time_to_live(14, 7, 9, 10, Some(&[]))), [Kind::Lease]);
    assert_eq!(with(time_to_live(14, 7, 9, 10, Some(&["l", "b"]))), [Kind::Lease]);
    assert_eq!(with(keep_alive(14, 7, 12, 6)), [Kind::Lease]);
    let short = op(14, 15, Request::LeaseGrant { id: 9, ttl: 10 }, done(6, Answer::LeaseGrant { ttl: 5 }));
    assert_eq!(with(short), [Kind::Lease]);
}
