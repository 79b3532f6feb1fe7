//! Visibility, rollback, replicas that refuse, leases over time, what compaction hands back, hostile requests.

mod common;

use common::*;
use netsy_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use netsy_api::etcdserverpb::{PutRequest, RangeRequest};
use netsy_api::ids::{LeaseId, LogIndex, Position, Revision, Term, UnixMillis};
use netsy_api::log::{AlarmKind, Entry, Mutation};
use netsy_mvcc::*;
use std::sync::Arc;

fn grant(id: i64, ttl_seconds: i64, now_ms: u64) -> WriteRequest {
    WriteRequest::LeaseGrant { id: LeaseId(id), ttl_seconds, candidates: vec![], now_ms }
}

#[test]
fn nothing_uncommitted_is_shown() {
    let mut h = Harness::default();
    h.put("a", "1");
    h.write(grant(1, 60, 0)).unwrap();
    let shown = h.store.visible_index();
    h.evaluate(&WriteRequest::Put(PutRequest { lease: 1, ..put("a", "2") })).unwrap();
    h.evaluate(&WriteRequest::LeaseRevoke { id: LeaseId(1) }).unwrap();
    h.evaluate(&grant(2, 60, 0)).unwrap();
    h.evaluate(&alarm(AlarmKind::NoSpace, true)).unwrap();
    h.evaluate(&WriteRequest::Compact { revision: Revision(3) }).unwrap();
    let out = h.range(&range("a", "")).unwrap();
    assert_eq!((out.header, &out.kvs[0].value[..]), (2, &b"1"[..]));
    assert_eq!(h.range(&RangeRequest { revision: 3, ..range("a", "") }).unwrap_err(), Error::FutureRevision);
    assert_eq!(h.store.leases(), [LeaseId(1)]);
    assert_eq!(h.store.lease(LeaseId(2), 0), None);
    assert!(h.store.alarms().is_empty() && h.store.head_alarms().len() == 1);
    assert_eq!(h.store.compact_revision(), Revision(-1));
    assert_eq!(h.store.lease_keys(LeaseId(1)).len(), 0);
    h.store.set_visible(LogIndex(shown.0 + 1));
    assert_eq!(h.store.lease_keys(LeaseId(1)), ["a"], "revoked, but that is not shown yet");
    h.settle();
    assert!(h.store.lease_keys(LeaseId(1)).is_empty());
    assert_eq!(h.store.leases(), [LeaseId(2)]);
    assert_eq!(h.store.compact_revision(), Revision(3));
}

#[test]
fn a_rollback_takes_everything_back_but_what_was_shown() {
    let mut h = Harness::default();
    h.write(grant(1, 60, 0)).unwrap();
    h.write(WriteRequest::Put(PutRequest { lease: 1, ..put("a", "1") })).unwrap();
    h.write(alarm(AlarmKind::NoSpace, true)).unwrap();
    let (index, position) = (h.store.last_index(), h.store.next_position());
    h.evaluate(&alarm(AlarmKind::NoSpace, false)).unwrap();
    h.evaluate(&WriteRequest::Put(put("a", "2"))).unwrap();
    h.evaluate(&WriteRequest::LeaseCheckpoint(vec![(LeaseId(1), 30)])).unwrap();
    h.evaluate(&WriteRequest::LeaseRevoke { id: LeaseId(1) }).unwrap();
    h.evaluate(&grant(1, 500, 0)).unwrap();
    h.evaluate(&WriteRequest::Compact { revision: Revision(3) }).unwrap();
    h.evaluate(&WriteRequest::DeleteRange(delete("a", ""))).unwrap();
    let refused = h.store.rollback(LogIndex(index.0 - 1));
    assert_eq!(refused, Err(ApplyError::RollbackBelowVisible { last: LogIndex(index.0 - 1), visible: index }));
    h.store.rollback(index).unwrap();
    assert_eq!((h.store.last_index(), h.store.next_position()), (index, position));
    assert_eq!(h.store.head_revision(), Revision(2));
    assert_eq!(h.store.head_alarms(), [(9, AlarmKind::NoSpace)]);
    assert_eq!(h.store.lease(LeaseId(1), 0), Some(LeaseInfo { remaining_seconds: 60, granted_seconds: 60 }));
    assert_eq!(h.store.lease_keys(LeaseId(1)), ["a"]);
    assert_eq!(h.store.lease_expired(60_000, 9), [LeaseId(1)], "its deadline is back, too");
    assert_eq!(h.compact(1).map(|done| done.revision), Ok(Revision(2)));
    // A new value at a position that was used before is not taken for written.
    h.write(alarm(AlarmKind::NoSpace, false)).unwrap();
    h.evaluate(&WriteRequest::Put(put("a", "3"))).unwrap();
    h.store.set_visible(h.store.last_index());
    assert_eq!(h.range(&range("a", "")).unwrap().kvs[0].value, b"3");
}

fn entry(index: u64, revision: i64, mutations: Vec<Mutation>) -> Arc<Entry> {
    Arc::new(Entry {
        index: LogIndex(index),
        term: Term(2),
        time: UnixMillis(1),
        revision: Revision(revision),
        mutations,
    })
}

fn put_mutation(key: &str, create: i64, version: i64, lease: i64) -> Mutation {
    Mutation::Put {
        key: key.to_string().into(),
        value: "v".into(),
        create_revision: Revision(create),
        version,
        lease: LeaseId(lease),
    }
}

#[test]
fn a_replica_refuses_what_does_not_fit_and_stays_as_it_was() {
    let mut store = Store::new(StoreConfig::default());
    store.apply(entry(1, 2, vec![put_mutation("a", 2, 1, 0)])).unwrap();
    store.apply(entry(2, 2, vec![Mutation::LeaseGrant { id: LeaseId(1), ttl_seconds: 5 }])).unwrap();
    store.apply(entry(3, 3, vec![put_mutation("b", 3, 1, 1)])).unwrap();
    let good = || put_mutation("c", 4, 1, 0);
    let delete = |key: &str| Mutation::Delete { key: key.to_string().into() };
    let wrong = [
        entry(3, 4, vec![good()]),
        entry(5, 4, vec![good()]),
        entry(4, 5, vec![good()]),
        entry(4, 3, vec![good()]),
        entry(4, 4, vec![]),
        entry(4, 4, vec![good(), put_mutation("a", 2, 3, 0)]),
        entry(4, 4, vec![good(), put_mutation("a", 4, 1, 0)]),
        entry(4, 4, vec![good(), put_mutation("d", 4, 1, 7)]),
        entry(4, 4, vec![good(), put_mutation("", 4, 1, 0)]),
        entry(4, 4, vec![good(), delete("x")]),
        entry(4, 3, vec![Mutation::LeaseGrant { id: LeaseId(1), ttl_seconds: 5 }]),
        entry(4, 3, vec![Mutation::LeaseRevoke { id: LeaseId(1) }]),
        entry(4, 4, vec![delete("b"), Mutation::LeaseRevoke { id: LeaseId(2) }]),
        entry(4, 3, vec![Mutation::LeaseCheckpoint { id: LeaseId(2), remaining_seconds: 1 }]),
        entry(4, 3, vec![Mutation::Compact { revision: Revision(4) }]),
        entry(4, 3, vec![Mutation::Alarm { member_id: 1, alarm: AlarmKind::NoSpace, active: false }]),
        Arc::new(Entry { term: Term(1), ..(*entry(4, 4, vec![good()])).clone() }),
    ];
    for entry in wrong {
        let before = format!("{store:?}").len();
        assert!(store.apply(entry.clone()).is_err(), "{entry:?}");
        assert_eq!((store.last_index(), store.next_position()), (LogIndex(3), Position(4)));
        assert_eq!((store.key_count(), store.lease_count()), (2, 1), "{entry:?}");
        assert!(format!("{store:?}").len() >= before / 2);
    }
    store.apply(entry(4, 4, vec![delete("b"), Mutation::LeaseRevoke { id: LeaseId(1) }])).unwrap();
    assert_eq!((store.head_revision(), store.last_term()), (Revision(4), Term(2)));
}

#[test]
fn compaction_hands_back_rows_that_say_nothing_any_more() {
    let mut h = Harness::default();
    h.write(grant(1, 600, 0)).unwrap();
    h.write(grant(2, 600, 0)).unwrap();
    h.write(WriteRequest::LeaseCheckpoint(vec![(LeaseId(1), 500), (LeaseId(2), 500), (LeaseId(3), 9)])).unwrap();
    h.write(WriteRequest::LeaseCheckpoint(vec![(LeaseId(2), 400)])).unwrap();
    h.write(WriteRequest::LeaseRevoke { id: LeaseId(1) }).unwrap();
    h.put("b", "");
    h.put("b", "");
    h.write(alarm(AlarmKind::NoSpace, true)).unwrap();
    h.write(alarm(AlarmKind::NoSpace, false)).unwrap();
    h.write(alarm(AlarmKind::NoSpace, true)).unwrap();
    h.compact(2).unwrap();
    h.compact(3).unwrap();
    h.compact_physically(1);
    let kinds: Vec<&str> =
        h.db.rows
            .values()
            .map(|row| match row.mutation {
                Mutation::Put { .. } => "put",
                Mutation::Delete { .. } => "delete",
                Mutation::LeaseGrant { .. } => "grant",
                Mutation::LeaseRevoke { .. } => "revoke",
                Mutation::LeaseCheckpoint { .. } => "checkpoint",
                Mutation::Compact { .. } => "compact",
                Mutation::Alarm { .. } => "alarm",
            })
            .collect();
    assert_eq!(kinds, ["grant", "checkpoint", "put", "alarm", "compact"]);
    let store = h.reload(true);
    assert_eq!(store.leases(), [LeaseId(2)]);
    assert_eq!(store.lease(LeaseId(2), 0), Some(LeaseInfo { remaining_seconds: 400, granted_seconds: 600 }));
    assert_eq!(store.alarms(), [(9, AlarmKind::NoSpace)]);
    assert_eq!((store.compact_revision(), store.visible_revision()), (Revision(3), Revision(3)));
}

/// Whatever part of the rows compaction handed back is gone when a crash comes, the same state is loaded.
#[test]
fn any_part_of_the_removed_rows_may_be_gone() {
    let mut h = Harness::default();
    h.write(grant(1, 600, 0)).unwrap();
    h.write(WriteRequest::Put(PutRequest { lease: 1, ..put("a", "1") })).unwrap();
    h.put("b", "1");
    h.write(WriteRequest::LeaseCheckpoint(vec![(LeaseId(1), 500)])).unwrap();
    h.write(WriteRequest::LeaseRevoke { id: LeaseId(1) }).unwrap();
    h.put("b", "2");
    h.delete("b", "");
    h.put("c", "1");
    h.write(alarm(AlarmKind::NoSpace, true)).unwrap();
    h.write(alarm(AlarmKind::NoSpace, false)).unwrap();
    h.put("d", "1");
    let revision = h.store.visible_revision();
    h.compact(revision.0).unwrap();
    let mut removed = Vec::new();
    loop {
        let step = h.store.compact_index(2, netsy_api::ids::Revision(i64::MAX), netsy_api::ids::LogIndex(u64::MAX));
        removed.extend(step.removed);
        if step.done {
            break;
        }
    }
    assert!(removed.len() >= 10, "{removed:?}");
    for position in removed {
        h.db.rows.remove(&position).unwrap();
        let store = h.reload(false);
        assert_eq!(store.lease_count(), 0);
        assert!(store.alarms().is_empty());
        for key in ["a", "b"] {
            assert_eq!(store.get(key.as_bytes(), revision).unwrap(), None);
        }
        for key in ["c", "d"] {
            assert!(store.get(key.as_bytes(), revision).unwrap().is_some());
        }
    }
}

#[test]
fn the_revision_survives_when_every_key_is_gone() {
    let mut h = Harness::default();
    h.put("a", "");
    h.delete("a", "");
    h.put("b", "");
    h.delete("b", "");
    h.compact(5).unwrap();
    h.compact_physically(9);
    h.grant(1, 60).unwrap();
    let store = h.reload(true);
    assert_eq!((store.visible_revision(), store.compact_revision()), (Revision(5), Revision(5)));
    assert_eq!((store.last_index(), store.next_position()), (h.store.last_index(), h.store.next_position()));
    let mut wrong = h.end();
    wrong.revision = Revision(4);
    let mut store = Store::new(StoreConfig::default());
    for row in h.db.rows.values() {
        load(&mut store, row, true).unwrap();
    }
    assert!(store.finish_load(wrong).is_err());
}

#[test]
fn pins_hold_compaction_back() {
    let mut h = Harness::default();
    for value in ["1", "2", "3", "4"] {
        h.put("a", value);
    }
    let pin = h.store.pin(Revision(3)).unwrap();
    h.compact(5).unwrap();
    let step = h.compact_physically(10);
    assert!(step.waiting && !step.done);
    assert_eq!(h.store.compacted_physically(), Revision(3));
    assert_eq!(h.db.rows.values().filter(|row| row.mutation.is_key_change()).count(), 3);
    assert_eq!(h.store.pin(Revision(4)).unwrap_err(), Error::Compacted);
    drop(pin);
    assert!(h.compact_physically(10).done);
    assert_eq!(h.db.rows.values().filter(|row| row.mutation.is_key_change()).count(), 1);
}

#[test]
fn a_new_primary_gives_leases_what_they_had_left() {
    let mut h = Harness::default();
    h.write(grant(1, 1_000, 0)).unwrap();
    h.write(grant(2, 10, 0)).unwrap();
    assert!(h.store.lease_due_checkpoints(299_999, 9).is_empty());
    let due = h.store.lease_due_checkpoints(300_000, 9);
    assert_eq!(due, [(LeaseId(1), 700)], "leases that end soon are not recorded");
    h.write(WriteRequest::LeaseCheckpoint(due)).unwrap();
    let mut store = h.reload(true);
    assert_eq!(store.lease(LeaseId(1), 0), Some(LeaseInfo { remaining_seconds: 700, granted_seconds: 1_000 }));
    store.lease_extend_all(5_000);
    assert_eq!(store.leases(), [LeaseId(2), LeaseId(1)], "those that end first first");
    assert_eq!(store.lease_expired(14_999, 9), []);
    assert_eq!(store.lease_expired(15_000, 9), [LeaseId(2)]);
    assert_eq!(store.lease_expired(705_000, 1), [LeaseId(2)]);
    assert_eq!(store.lease_expired(705_000, 9), [LeaseId(1)]);
    let renewed = store.lease_renew(LeaseId(1), 6_000);
    assert_eq!(renewed, Renewal::Renewed { ttl_seconds: 1_000, reset_checkpoint: true });
    store.lease_forget_deadlines();
    assert!(store.lease_expired(u64::MAX, 9).is_empty());
}

#[test]
fn leases_follow_their_keys() {
    let mut h = Harness::default();
    h.grant(1, 60).unwrap();
    h.grant(2, 60).unwrap();
    let on = |key: &str, lease: i64| WriteRequest::Put(PutRequest { lease, ..put(key, "v") });
    h.write(on("a", 1)).unwrap();
    h.write(on("a", 2)).unwrap();
    h.write(on("b", 2)).unwrap();
    assert!(h.store.lease_keys(LeaseId(1)).is_empty());
    assert_eq!(h.store.lease_keys(LeaseId(2)), ["a", "b"]);
    let kept = PutRequest { ignore_lease: true, ..put("a", "w") };
    let done = h.write(WriteRequest::Put(kept)).unwrap();
    assert_eq!(done.events[0].kv.lease, LeaseId(2));
    let kept = PutRequest { ignore_value: true, ..put("a", "") };
    let done = h.write(WriteRequest::Put(kept)).unwrap();
    assert_eq!(done.events[0].kv.value, ValueRef::Here("w".into()));
    assert_eq!(h.store.lease_keys(LeaseId(2)), ["b"], "a put without a lease detaches");
    h.delete("b", "");
    assert!(h.store.lease_keys(LeaseId(2)).is_empty() && h.store.leases().len() == 2);
}

#[test]
fn an_evicted_value_that_cannot_be_read_changes_nothing() {
    let mut h = Harness::new(0);
    h.put("a", "a value that does not stay in memory");
    h.put("b", "another");
    h.db.rows.clear();
    let is = compare("a", CompareTarget::Value, CompareResult::Equal, TargetUnion::Value("x".into()));
    let error = h.txn(txn(vec![is], vec![], vec![])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let ops = vec![op_put("c", ""), op_put("d", "")];
    let kept = PutRequest { ignore_value: true, ..put("a", "") };
    let ops = ops.into_iter().chain([op(netsy_api::etcdserverpb::request_op::Request::RequestPut(kept))]).collect();
    assert_eq!(h.txn(txn(vec![], ops, vec![])).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!((h.store.key_count(), h.store.head_revision()), (2, Revision(3)));
    h.put("c", "");
}

#[test]
fn pages_of_a_range_are_the_range() {
    let mut h = Harness::default();
    for n in 0..100 {
        h.put(&format!("k{n:02}"), "v");
    }
    let request = RangeRequest { limit: 42, ..range("k", "l") };
    let whole = h.range(&request).unwrap();
    let mut reader = RangeReader::new(&request, &h.store).unwrap();
    assert!(reader.can_page());
    let mut pages = Vec::new();
    while !reader.step(&h.store, 10).unwrap() {
        let page = reader.take_page();
        assert!(page.len() <= 10);
        pages.extend(page);
    }
    let rest = reader.finish();
    pages.extend(rest.kvs);
    let pages: Vec<_> = pages.iter().map(|kv| h.kv(kv)).collect();
    assert_eq!((pages, rest.count, rest.more), (whole.kvs, 100, true));
}

/// What happens between its steps does not show in a transaction that reads.
#[test]
fn a_reading_transaction_is_of_one_moment() {
    let mut h = Harness::default();
    for n in 0..20 {
        h.put(&format!("k{n:02}"), "old"); // revisions 2 to 21
    }
    let past = |revision| {
        let range = RangeRequest { revision, ..range("k", "l") };
        op(netsy_api::etcdserverpb::request_op::Request::RequestRange(range))
    };
    let request = txn(vec![], vec![op_range("k", "l"), past(11), op_range("k05", "")], vec![]);
    let (whole, at) = h.read_txn(&request, usize::MAX).unwrap();
    let mut reader = TxnReader::new(&request, &h.store, &h.db).unwrap();
    let mut steps = 0;
    while !reader.step(&h.store, 3).unwrap() {
        steps += 1;
        if steps == 2 {
            h.delete("k", "l");
            h.put("k05", "new");
            h.compact(23).unwrap();
        }
        // Not gone while it reads.
        assert!(steps < 2 || h.compact_physically(1000).waiting);
    }
    assert!(steps > 10, "{steps}");
    let (result, revision) = h.finish_txn(reader);
    assert_eq!((h.ops_out(&result), revision), (h.ops_out(&whole), at));
    assert!(h.compact_physically(1000).done);
}

/// Deep and wide nesting, as much as a message can hold: an answer, and soon.
#[test]
fn hostile_transactions_are_answered() {
    let mut h = Harness::default();
    let mut deep = txn(vec![], vec![op_put("a", "")], vec![]);
    for _ in 0..127 {
        deep = txn(vec![], vec![op(netsy_api::etcdserverpb::request_op::Request::RequestTxn(deep))], vec![]);
    }
    assert!(h.txn(deep.clone()).is_ok());
    let deeper = txn(vec![], vec![op(netsy_api::etcdserverpb::request_op::Request::RequestTxn(deep))], vec![]);
    assert_eq!(h.txn(deeper).unwrap_err(), Error::TooManyOps);

    let leaf = |n: usize| op_txn(vec![], (0..42).map(|m| op_put(&format!("{n}/{m}"), "")).collect(), vec![]);
    let middle = |n: usize| op_txn(vec![], (0..42).map(|m| leaf(n * 42 + m)).collect(), vec![]);
    let wide = txn(vec![], (0..42).map(middle).collect(), vec![]);
    let result = h.txn(wide).unwrap();
    assert_eq!(result.responses.len(), 42);
    assert_eq!(h.range(&range("\0", "\0")).unwrap().count, 42 * 42 * 42 + 1);

    let everything = || {
        let mut all = compare("\0", CompareTarget::Version, CompareResult::Greater, TargetUnion::Version(0));
        all.range_end = "\0".into();
        all
    };
    let scan = txn((0..100).map(|_| everything()).collect(), vec![], vec![]);
    assert!(h.txn(scan.clone()).unwrap().succeeded);
    h.store = {
        let mut tight = Store::new(StoreConfig { txn_scan_keys_max: 10_000, ..StoreConfig::default() });
        for entry in &h.entries {
            tight.apply(entry.clone()).unwrap();
        }
        tight
    };
    h.settle();
    assert_eq!(h.txn(scan.clone()).unwrap_err(), Error::TooManyOps);
    assert_eq!(h.read_txn(&scan, 512).unwrap_err(), Error::TooManyOps);
    let ranges = txn(vec![], vec![op_range("\0", "\0")], vec![]);
    assert_eq!(h.read_txn(&ranges, 512).unwrap_err(), Error::TooManyOps);
    assert!(h.txn(txn(vec![], vec![op_delete("\0", "\0")], vec![])).is_ok());
    assert_eq!(h.range(&range("\0", "\0")).unwrap().count, 0);
}

#[test]
fn which_transactions_only_read() {
    let mut local = range("a", "");
    local.serializable = true;
    let local = || op(netsy_api::etcdserverpb::request_op::Request::RequestRange(local.clone()));
    let cases = [
        (txn(vec![], vec![], vec![]), true, true),
        (txn(vec![], vec![op_range("a", "")], vec![local()]), true, false),
        (txn(vec![], vec![local()], vec![local()]), true, true),
        (txn(vec![], vec![], vec![op_put("a", "")]), false, false),
        (txn(vec![], vec![op_txn(vec![], vec![], vec![])], vec![]), false, false),
    ];
    for (request, reads, serializable) in cases {
        assert_eq!((is_read_only(&request), all_serializable(&request)), (reads, serializable), "{request:?}");
    }
}
