//! Each promise about keys: a history that keeps it, and one that breaks it.

mod common;

use common::*;
use netsy_api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use netsy_history::*;

#[test]
fn the_base_is_good() {
    assert_good(&base());
}

#[test]
fn answers_are_those_of_the_state_at_their_revision() {
    let a2 = again(&kv("a", "1", 2), "2", 3);
    assert_good(&with([op(4, 6, get("a"), done(3, range_answer(vec![a2.clone()])))]));
    assert_good(&with([op(9, 10, get("a"), done(5, range_answer(vec![])))]));
    assert_kinds(&with([op(9, 10, get("a"), done(5, range_answer(vec![a2.clone()])))]), &[Kind::WrongAnswer]);
    let old = Request::Range(RangeRequest { revision: 3, ..range_request("a", "\0") });
    assert_good(&with([op(9, 10, old.clone(), done(5, range_answer(vec![a2])))]));
    assert_kinds(&with([op(9, 10, old, done(5, range_answer(vec![])))]), &[Kind::WrongAnswer]);
    let mut wrong = base();
    wrong.ops[2].outcome = done(4, Answer::Put { prev: Some(kv("b", "0", 1)) });
    assert_kinds(&wrong, &[Kind::WrongAnswer]);
}

#[test]
fn an_acknowledged_write_is_there_where_it_was_acknowledged() {
    // The log ends before it.
    let lost = with([op(9, 10, put("c", "4"), put_done(6))]);
    assert_kinds(&lost, &[Kind::LostWrite, Kind::FromTheFuture]);
    // Something else is there.
    let mut other = base();
    other.ops[2].request = put("b", "else");
    assert_kinds(&other, &[Kind::LostWrite]);
    // It came undone: read again, an older state.
    let undone = with([op(9, 10, get("zzz"), done(7, range_answer(vec![])))]);
    assert_kinds(&undone, &[Kind::LostWrite, Kind::FromTheFuture]);
}

#[test]
fn no_two_writes_are_one_and_none_is_two() {
    let twice = with([op(5, 6, put("b", "3"), put_done(4))]);
    assert_kinds(&twice, &[Kind::DoubleRevision]);
    // One write of unknown outcome, done twice.
    let mut twice = base();
    let c = kv("c", "x", 6);
    twice.log.steps.extend(steps([put_event(c.clone()), put_event(again(&c, "x", 7))]));
    twice.ops.push(op(9, 10, put("c", "x"), Outcome::Unknown));
    assert_kinds(&twice, &[Kind::Unexplained]);
    twice.ops.push(op(9, 10, put("c", "x"), Outcome::Unknown));
    assert_good(&twice);
}

#[test]
fn unknown_writes_may_be_there_or_not() {
    assert_good(&with([op(9, 10, put("c", "x"), Outcome::Unknown)]));
    let mut there = with([op(1, 2, put("c", "x"), Outcome::Unknown)]);
    assert_eq!(there.check().kinds(), []);
    there.log.steps.extend(steps([put_event(kv("c", "x", 6))]));
    assert_good(&there);
    // It cannot have been told before it was sent.
    there.ops[4].invoked = 20;
    there.ops.push(op(11, 12, get("c"), done(6, range_answer(vec![kv("c", "x", 6)]))));
    assert_kinds(&there, &[Kind::Unexplained]);
    there.ops[4].invoked = 10;
    assert_good(&there);
}

#[test]
fn what_was_refused_never_appears() {
    let mut refused = with([op(9, 10, put("c", "x"), Outcome::Refused(Refusal::Other("no space".into())))]);
    assert_good(&refused);
    refused.log.steps.extend(steps([put_event(kv("c", "x", 6))]));
    assert_kinds(&refused, &[Kind::Unexplained]);
    assert!(refused.check().to_string().contains("it was refused"));
}

#[test]
fn unknown_deletes_are_matched_to_what_they_can_have_done() {
    let mut history = base();
    let (c, d) = (kv("c", "x", 6), kv("c", "y", 8));
    let more = [put_event(c), delete_event("c", 7), put_event(d), delete_event("c", 9)];
    history.log.steps.extend(steps(more));
    history.ops.push(op(9, 10, put("c", "x"), put_done(6)));
    history.ops.push(op(13, 14, put("c", "y"), put_done(8)));
    assert_kinds(&history, &[Kind::Unexplained]);
    // The range can have done both, the other only the second: 7 was told before it was sent.
    history.ops.push(op(12, 12, delete("c", ""), Outcome::Unknown));
    history.ops.push(op(11, 11, get("c"), done(7, range_answer(vec![]))));
    history.ops.last_mut().unwrap().returned = 11;
    assert_kinds(&history, &[Kind::Unexplained]);
    history.ops.push(op(10, 10, delete("c", "d"), Outcome::Unknown));
    assert_good(&history);
}

#[test]
fn reads_are_not_older_than_what_was_told() {
    let a1 = kv("a", "1", 2);
    let stale = op(5, 6, get("a"), done(2, range_answer(vec![a1.clone()])));
    assert_kinds(&with([stale.clone()]), &[Kind::RealTime, Kind::WentBack]);
    // Another node may be behind for serializable reads only.
    let elsewhere = Op { node: 2, ..stale };
    assert_kinds(&with([elsewhere.clone()]), &[Kind::RealTime]);
    assert_good(&with([Op { request: serializable("a"), ..elsewhere }]));
    // At the same time as the write: either.
    assert_good(&with([op(4, 6, get("a"), done(2, range_answer(vec![a1.clone()])))]));
    // One read saw the new state, a later one must.
    let mut two = base();
    two.ops[1] = Op { returned: 100, ..two.ops[1].clone() };
    two.ops.truncate(2);
    two.log.steps.truncate(2);
    two.ops.push(op(3, 4, get("a"), done(3, range_answer(vec![again(&a1, "2", 3)]))));
    assert_good(&two);
    two.ops.push(Op { node: 2, ..op(5, 6, get("a"), done(2, range_answer(vec![a1]))) });
    assert_kinds(&two, &[Kind::RealTime]);
}

#[test]
fn revisions_agree_with_real_time() {
    let mut swapped = base();
    // `b` was written after `a`'s second put was told, yet has the lower revision.
    let (a, b) = (kv("a", "1", 2), kv("b", "3", 3));
    swapped.log =
        Log::new(steps([put_event(a.clone()), put_event(b), put_event(again(&a, "2", 4)), delete_event("a", 5)]));
    swapped.ops[1].outcome = put_done(4);
    swapped.ops[2].outcome = put_done(3);
    let report = swapped.check();
    assert!(report.count(Kind::RealTime) == 1, "{report}");
}

#[test]
fn nothing_is_told_before_it_was_asked_for() {
    let early = with([op(1, 4, get("b"), done(4, range_answer(vec![kv("b", "3", 4)])))]);
    assert_kinds(&early, &[Kind::RealTime, Kind::FromTheFuture]);
    assert_good(&with([op(1, 6, get("b"), done(4, range_answer(vec![kv("b", "3", 4)])))]));
}

#[test]
fn serializable_reads_of_one_node_do_not_go_back() {
    let a = |at: u64, revision: i64, node: u32, session: u64| {
        let kvs = if revision == 2 { vec![kv("a", "1", 2)] } else { vec![] };
        Op { node, session, ..op(at, at + 1, serializable("a"), done(revision, range_answer(kvs))) }
    };
    assert_good(&with([a(20, 2, 2, 1), a(22, 5, 2, 1), a(24, 5, 2, 1)]));
    assert_kinds(&with([a(20, 5, 2, 1), a(22, 2, 2, 1)]), &[Kind::WentBack]);
    let mut restarted = with([a(20, 5, 2, 1), a(22, 2, 2, 2)]);
    assert_good(&restarted);
    restarted.rules.nodes_never_go_back = true;
    assert_kinds(&restarted, &[Kind::WentBack]);
    // At the same time: either.
    assert_good(&with([Op { returned: 30, ..a(20, 5, 2, 1) }, a(22, 2, 2, 1)]));
}

#[test]
fn transactions_take_the_branch_that_the_state_gives() {
    let request = txn(vec![mod_is("b", 4)], vec![op_put("c", "yes"), op_get("c")], vec![op_put("c", "no")]);
    let yes = kv("c", "yes", 6);
    let answer =
        Answer::Txn { succeeded: true, responses: vec![Answer::Put { prev: None }, range_answer(vec![yes.clone()])] };
    let mut good = with([op(9, 10, request.clone(), done(6, answer.clone()))]);
    good.log.steps.extend(steps([put_event(yes)]));
    assert_good(&good);
    let mut wrong_branch = good.clone();
    let failed = Answer::Txn { succeeded: false, responses: vec![Answer::Put { prev: None }] };
    wrong_branch.ops[4].outcome = done(6, failed);
    assert_kinds(&wrong_branch, &[Kind::WrongAnswer]);
    let mut wrong_write = good.clone();
    wrong_write.log.steps[4] = steps([put_event(kv("c", "no", 6))]).remove(0);
    assert_kinds(&wrong_write, &[Kind::LostWrite]);
    // One that says that it wrote nothing, and was to.
    let idle = Answer::Txn { succeeded: false, responses: vec![] };
    assert_kinds(&with([op(9, 10, request, done(5, idle))]), &[Kind::WrongAnswer]);
}

#[test]
fn transactions_are_whole() {
    let request = txn(vec![], vec![op_put("c", "x"), op_put("d", "y"), op_delete("b", "")], vec![]);
    let whole = [put_event(kv("c", "x", 6)), put_event(kv("d", "y", 6)), delete_event("b", 6)];
    let mut unknown = with([op(9, 10, request, Outcome::Unknown)]);
    unknown.log.steps.extend(steps(whole.clone()));
    assert_good(&unknown);
    unknown.log.steps[4].events.pop();
    assert_kinds(&unknown, &[Kind::Unexplained]);
    let mut apart = unknown.clone();
    apart.log.steps[4].events = vec![whole[0].clone()];
    apart.log.steps.extend(steps([put_event(kv("d", "y", 7))]));
    assert_kinds(&apart, &[Kind::Unexplained]);
}

#[test]
fn nested_transactions_choose_by_the_state_before_all() {
    let inner = txn_request(vec![mod_is("c", 0)], vec![op_put("d", "new")], vec![op_put("d", "old")]);
    let request = txn(vec![], vec![op_put("c", "x"), op_txn(inner)], vec![]);
    let put = Answer::Put { prev: None };
    let inner = Answer::Txn { succeeded: true, responses: vec![put.clone()] };
    let answer = Answer::Txn { succeeded: true, responses: vec![put, inner] };
    let mut history = with([op(9, 10, request, done(6, answer))]);
    history.log.steps.extend(steps([put_event(kv("c", "x", 6)), put_event(kv("d", "new", 6))]));
    assert_good(&history);
    history.log.steps[4].events[1] = put_event(kv("d", "old", 6));
    assert_kinds(&history, &[Kind::LostWrite]);
}

#[test]
fn previous_values_and_what_is_kept() {
    let b = kv("b", "3", 4);
    let keep = Request::Put(PutRequest { ignore_value: true, prev_kv: true, ..put_request("b", "") });
    let mut history = with([op(9, 10, keep, done(6, Answer::Put { prev: Some(b.clone()) }))]);
    history.log.steps.extend(steps([put_event(again(&b, "3", 6))]));
    assert_good(&history);
    history.ops[4].outcome = put_done(6);
    assert_kinds(&history, &[Kind::WrongAnswer]);
    // Unknown, it is found by its key.
    history.ops[4].outcome = Outcome::Unknown;
    assert_good(&history);

    let all = Request::DeleteRange(DeleteRangeRequest { prev_kv: true, ..delete_request("a", "\0") });
    let gone = Answer::DeleteRange { deleted: 1, prevs: vec![b] };
    let mut history = with([op(9, 10, all, done(6, gone))]);
    history.log.steps.extend(steps([delete_event("b", 6)]));
    assert_good(&history);
    let Outcome::Done(done) = &mut history.ops[4].outcome else { panic!() };
    done.answer = Answer::DeleteRange { deleted: 2, prevs: vec![] };
    assert_kinds(&history, &[Kind::WrongAnswer]);
}

#[test]
fn versions_in_the_log_are_those_that_the_writes_make() {
    let mut history = base();
    history.log.steps[1].events[0].kv.as_mut().unwrap().version = 7;
    assert_kinds(&history, &[Kind::LostWrite]);
}

#[test]
fn the_log_is_dense() {
    let mut hole = base();
    hole.log.steps.remove(1);
    hole.ops.remove(1);
    hole.ops.truncate(1);
    hole.log.steps.truncate(2);
    let report = hole.check();
    assert!(report.count(Kind::LogGap) == 1, "{report}");
}

#[test]
fn errors_are_those_that_some_state_gives() {
    let at = |revision: i64| Request::Range(RangeRequest { revision, ..range_request("a", "") });
    let refused = |at: u64, request, why| op(at, at + 1, request, Outcome::Refused(why));
    let compact = |at: u64, revision| op(at, at + 1, Request::Compact { revision }, done(5, Answer::Compact));
    assert_good(&with([compact(9, 4), refused(11, at(3), Refusal::Compacted)]));
    assert_kinds(&with([compact(9, 4), refused(11, at(4), Refusal::Compacted)]), &[Kind::WrongRefusal]);
    assert_kinds(&with([refused(11, at(3), Refusal::Compacted)]), &[Kind::WrongRefusal]);
    assert_good(&with([compact(9, 4), refused(11, Request::Compact { revision: 4 }, Refusal::Compacted)]));
    assert_kinds(
        &with([compact(9, 4), op(11, 12, at(3), done(5, range_answer(vec![again(&kv("a", "1", 2), "2", 3)])))]),
        &[Kind::ReadCompacted],
    );

    assert_good(&with([refused(9, at(6), Refusal::FutureRevision)]));
    assert_kinds(&with([refused(9, at(5), Refusal::FutureRevision)]), &[Kind::WrongRefusal]);

    let keep = |key: &str| Request::Put(PutRequest { ignore_value: true, ..put_request(key, "") });
    assert_good(&with([refused(9, keep("a"), Refusal::KeyNotFound)]));
    assert_kinds(&with([refused(9, keep("b"), Refusal::KeyNotFound)]), &[Kind::WrongRefusal]);
    assert_good(&with([refused(5, keep("b"), Refusal::KeyNotFound)]));
}

#[test]
fn a_run_may_begin_later() {
    let mut history = base();
    history.log.base_revision = 2;
    history.log.base = vec![kv("a", "1", 2)];
    history.log.steps.remove(0);
    history.ops.remove(0);
    assert_good(&history);
    history.log.base[0].value = bytes("else");
    assert_good(&history);
    history.ops.push(op(1, 2, get("a"), done(2, range_answer(vec![kv("a", "1", 2)]))));
    assert_kinds(&history, &[Kind::WrongAnswer]);
}

#[test]
fn states_at_the_same_point_are_equal() {
    let state = |name: &str, at: &str, digest: u8| NodeState { name: name.into(), at: at.into(), digest: vec![digest] };
    let mut history = base();
    history.states = vec![state("n1", "5", 1), state("n2", "5", 1), state("n3", "4", 2)];
    assert_good(&history);
    history.states.push(state("restored from the bucket", "5", 2));
    assert_kinds(&history, &[Kind::NodesDiffer]);
}

#[test]
fn nodes_with_different_logs_are_told_of() {
    let (good, mut bad) = (base().log.steps, base().log.steps);
    let mut report = Report::default();
    let log = Log::merge([("n1", &good[..2]), ("n2", &good[1..])], &mut report);
    assert!(report.is_empty() && log.steps == good);
    bad[1].events[0].kv.as_mut().unwrap().value = bytes("else");
    Log::merge([("n1", &good[..]), ("n2", &bad[..])], &mut report);
    assert_eq!(report.kinds(), [Kind::NodesDiffer]);
}
