//! What clones of etcd get wrong most often (etcd.md section 8), as far as the state machine decides it.

mod common;

use common::*;
use netsy_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use netsy_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::etcdserverpb::{PutRequest, RangeRequest};
use netsy_api::ids::{LeaseId, Revision};
use netsy_api::log::{AlarmKind, Mutation};
use netsy_mvcc::*;

fn succeeded(h: &mut Harness, compare: netsy_api::etcdserverpb::Compare) -> bool {
    h.txn(txn(vec![compare], vec![], vec![])).unwrap().succeeded
}

fn keys(out: &model::RangeOut) -> Vec<&str> {
    out.kvs.iter().map(|kv| std::str::from_utf8(&kv.key).unwrap()).collect()
}

#[test]
fn mismatch_01_header_revisions_of_ranges_deletes_and_inner_operations() {
    let mut h = Harness::default();
    assert_eq!(h.store.visible_revision(), Revision(1), "an empty store");
    assert_eq!(h.put("a", "1"), Revision(2), "the first write");
    h.put("a", "2");
    assert_eq!(h.range(&RangeRequest { revision: 2, ..range("a", "") }).unwrap().header, 3, "the current revision");
    assert_eq!(h.delete("x", ""), Revision(3), "a delete of nothing");
    assert_eq!(h.delete("a", ""), Revision(4));

    let ops = vec![op_range("a", "\0"), op_delete("x", ""), op_put("b", "1"), op_range("a", "\0"), op_delete("x", "")];
    let done = h.write(WriteRequest::Txn(txn(vec![], ops, vec![]))).unwrap();
    assert_eq!(done.revision, Revision(5));
    let Outcome::Txn(result) = done.outcome else { panic!("a transaction") };
    let revisions: Vec<i64> = h
        .ops_out(&result)
        .into_iter()
        .map(|op| match op {
            model::OpOut::Range(range) => range.header,
            model::OpOut::Put(_, revision) | model::OpOut::Delete(_, _, revision) => revision,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(revisions, [4, 4, 5, 5, 5], "the old revision before the first write, the new one from then on");

    for request in [
        WriteRequest::Txn(txn(vec![], vec![op_range("b", "")], vec![op_put("b", "2")])),
        WriteRequest::Compact { revision: Revision(3) },
        alarm(AlarmKind::NoSpace, true),
        alarm(AlarmKind::NoSpace, false),
    ] {
        assert_eq!(h.write(request).unwrap().revision, Revision(5), "no key changed");
    }
}

#[test]
fn mismatch_02_value_compare_on_missing_key_is_false() {
    let mut h = Harness::default();
    for result in [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Less, CompareResult::Greater] {
        for key in ["missing", "gone"] {
            let is = compare(key, CompareTarget::Value, result, TargetUnion::Value("".into()));
            assert!(!succeeded(&mut h, is), "{result:?}");
        }
        h.put("gone", "");
        h.delete("gone", "");
    }
    for (target, union) in [
        (CompareTarget::Version, TargetUnion::Version(0)),
        (CompareTarget::Create, TargetUnion::CreateRevision(0)),
        (CompareTarget::Mod, TargetUnion::ModRevision(0)),
        (CompareTarget::Lease, TargetUnion::Lease(0)),
    ] {
        assert!(succeeded(&mut h, compare("missing", target, CompareResult::Equal, union)), "{target:?}");
    }
    // A range without keys is like a missing key, and every key of one with some has to agree.
    h.put("k1", "a");
    h.put("k2", "b");
    let ranged = |from: &str, to: &str, value: &str| netsy_api::etcdserverpb::Compare {
        range_end: to.to_string().into(),
        ..compare(from, CompareTarget::Value, CompareResult::Less, TargetUnion::Value(value.to_string().into()))
    };
    assert!(!succeeded(&mut h, ranged("x", "z", "zz")));
    assert!(!succeeded(&mut h, ranged("k2", "k1", "zz")));
    assert!(succeeded(&mut h, ranged("k", "l", "c")));
    assert!(!succeeded(&mut h, ranged("k", "l", "b")));
    // No target union is 0 or empty; a result of no known number holds.
    let bare = |target: CompareTarget, result: i32| netsy_api::etcdserverpb::Compare {
        result,
        target: target as i32,
        key: "missing".into(),
        range_end: Default::default(),
        target_union: None,
    };
    assert!(succeeded(&mut h, bare(CompareTarget::Version, 0)));
    assert!(succeeded(&mut h, bare(CompareTarget::Version, 77)));
    assert!(!succeeded(&mut h, bare(CompareTarget::Value, 77)));
}

#[test]
fn mismatch_03_nested_compares_see_the_state_before() {
    let mut h = Harness::default();
    let missing = compare("a", CompareTarget::Version, CompareResult::Equal, TargetUnion::Version(0));
    let nested = op_txn(vec![missing], vec![op_range("a", "")], vec![op_put("z", "")]);
    let result = h.txn(txn(vec![], vec![op_put("a", "1"), nested], vec![])).unwrap();
    let out = h.ops_out(&result);
    let model::OpOut::Txn(true, inner) = &out[1] else { panic!("{out:?}") };
    let model::OpOut::Range(found) = &inner[0] else { panic!("{inner:?}") };
    assert_eq!((found.count, found.header), (1, 2), "but ranges see what was written before them");
}

#[test]
fn mismatch_04_duplicate_keys_are_refused_in_both_branches() {
    let mut h = Harness::default();
    let put = || op_put("a", "1");
    let none = Vec::<netsy_api::etcdserverpb::RequestOp>::new;
    let refused = [
        vec![put(), put()],
        vec![put(), op_delete("a", "")],
        vec![op_delete("a", "b"), put()],
        vec![put(), op_txn(vec![], vec![put()], none())],
        vec![op_txn(vec![], none(), vec![put()]), put()],
        vec![op_delete("a", "c"), op_txn(vec![], vec![put()], none())],
        vec![op_txn(vec![], vec![op_delete("a", "")], none()), op_txn(vec![], vec![put()], none())],
        vec![op_txn(vec![], vec![put()], none()), op_txn(vec![], none(), vec![put()])],
        vec![put(), op_txn(vec![], none(), vec![op_delete("a", "z")])],
    ];
    for ops in refused {
        for (success, failure) in [(ops.clone(), none()), (none(), ops.clone())] {
            assert_eq!(h.txn(txn(vec![], success, failure)), Err(Error::DuplicateKey), "{ops:?}");
        }
    }
    let accepted = [
        vec![op_delete("a", "c"), op_delete("b", "d")],
        vec![put(), op_range("a", "z")],
        vec![op_txn(vec![], vec![put()], vec![put()])],
        // Two gaps that etcd has: deletes of a later nested transaction, and an end that is a zero byte.
        vec![op_txn(vec![], vec![put()], none()), op_txn(vec![], vec![op_delete("a", "")], none())],
        vec![put(), op_delete("0", "\0")],
    ];
    for ops in accepted {
        let result = h.txn(txn(vec![], ops.clone(), vec![]));
        assert!(result.is_ok(), "{ops:?}: {result:?}");
    }
    assert_eq!(h.range(&range("a", "")).unwrap().count, 0, "put, then deleted in the same revision");
    // Counting comes first, then each operation, then duplicates.
    let many = |n: usize| (0..n).map(|_| op_put("", "")).collect::<Vec<_>>();
    assert_eq!(h.txn(txn(vec![], many(129), vec![])), Err(Error::TooManyOps));
    assert_eq!(h.txn(txn(vec![], many(128), vec![])), Err(Error::EmptyKey));
    let nested = vec![op_txn(vec![], (0..128).map(|n| op_put(&n.to_string(), "")).collect(), none())];
    assert_eq!(h.txn(txn(vec![], nested, vec![])), Err(Error::TooManyOps), "the parent used one up");
    let bare = netsy_api::etcdserverpb::RequestOp { request: None };
    assert_eq!(h.txn(txn(vec![], vec![bare], vec![])), Err(Error::KeyNotFound));
}

#[test]
fn mismatch_05_limit_comes_before_a_sort_without_order() {
    let mut h = Harness::default();
    for key in ["d", "c", "b", "a"] {
        h.put(key, key);
    }
    let by_mod = |order: SortOrder, limit: i64| RangeRequest {
        sort_order: order as i32,
        sort_target: SortTarget::Mod as i32,
        limit,
        ..range("a", "z")
    };
    // The first two keys and the one that tells whether there are more, then sorted, then cut.
    assert_eq!(keys(&h.range(&by_mod(SortOrder::None, 2)).unwrap()), ["c", "b"]);
    assert_eq!(keys(&h.range(&by_mod(SortOrder::Ascend, 2)).unwrap()), ["d", "c"]);
    assert_eq!(keys(&h.range(&by_mod(SortOrder::Descend, 2)).unwrap()), ["a", "b"]);
    assert_eq!(keys(&h.range(&by_mod(SortOrder::None, 0)).unwrap()), ["d", "c", "b", "a"]);
    let bad = RangeRequest { sort_order: 3, ..range("a", "") };
    assert_eq!(h.range(&bad).unwrap_err(), Error::InvalidSortOption);
    let bad = RangeRequest { sort_target: -1, ..range("a", "") };
    assert_eq!(h.range(&bad).unwrap_err(), Error::InvalidSortOption);
}

#[test]
fn mismatch_06_count_is_the_total_under_a_limit() {
    let mut h = Harness::default();
    for n in 0..10 {
        h.put(&format!("k{n}"), "");
    }
    h.delete("k7", "");
    for (limit, found, more) in [(3, 3, true), (9, 9, false), (0, 9, false), (-5, 9, false)] {
        let out = h.range(&RangeRequest { limit, ..range("k", "l") }).unwrap();
        assert_eq!((out.kvs.len(), out.more, out.count), (found, more, 9), "limit {limit}");
    }
    let filtered = RangeRequest { limit: 1, min_mod_revision: 10, ..range("k", "l") };
    let out = h.range(&filtered).unwrap();
    assert_eq!((keys(&out), out.more, out.count), (vec!["k8"], true, 9));
    let counted = RangeRequest { count_only: true, limit: 2, ..range("k", "l") };
    let out = h.range(&counted).unwrap();
    assert_eq!((out.kvs.len(), out.more, out.count), (0, false, 9));
    assert_eq!(h.range(&RangeRequest { count_only: true, ..range("", "") }).unwrap_err(), Error::EmptyKey);
}

#[test]
fn mismatch_07_the_compacted_revision_is_readable() {
    let mut h = Harness::default();
    for value in ["1", "2", "3"] {
        h.put("a", value);
    }
    h.compact(3).unwrap();
    for physically in [false, true] {
        if physically {
            assert!(h.compact_physically(1).done);
        }
        let at = |revision: i64| h.range(&RangeRequest { revision, ..range("a", "") });
        assert_eq!(at(3).unwrap().kvs[0].value, b"2");
        assert_eq!(at(4).unwrap().kvs[0].value, b"3");
        assert_eq!(at(2).unwrap_err(), Error::Compacted);
        assert_eq!(at(5).unwrap_err(), Error::FutureRevision);
        assert_eq!(at(-1).unwrap().kvs[0].value, b"3");
    }
    // In a transaction a negative revision is compared like any other.
    let negative = |h: &mut Harness| {
        let old = RangeRequest { revision: -1, ..range("a", "") };
        h.txn(txn(vec![], vec![op(Request::RequestRange(old))], vec![]))
    };
    assert_eq!(negative(&mut h).unwrap_err(), Error::Compacted);
    let mut fresh = Harness::default();
    assert!(negative(&mut fresh).is_ok());
    let future = RangeRequest { revision: 2, ..range("a", "") };
    let ops = vec![op_put("a", ""), op(Request::RequestRange(future))];
    assert_eq!(fresh.txn(txn(vec![], ops, vec![])).unwrap_err(), Error::FutureRevision);
    assert_eq!(fresh.store.head_revision(), Revision(1), "nothing of it was done");
}

#[test]
fn mismatch_08_a_tombstone_at_the_compacted_revision_stays() {
    let mut h = Harness::default();
    h.put("a", "");
    h.put("b", "");
    h.delete("a", "");
    h.delete("b", "");
    h.compact(5).unwrap();
    assert!(h.compact_physically(10).done);
    let left: Vec<_> = h.db.rows.values().filter(|row| row.mutation.is_key_change()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(matches!(&left[0].mutation, Mutation::Delete { key } if key == "b"));
    h.put("c", "");
    h.compact(6).unwrap();
    assert!(h.compact_physically(10).done);
    assert_eq!(h.db.rows.values().filter(|row| matches!(row.mutation, Mutation::Delete { .. })).count(), 0);
    assert_eq!(h.store.key_count(), 1);
}

#[test]
fn mismatch_09_compacting_the_same_revision_again_is_an_error() {
    let mut h = Harness::default();
    assert!(h.compact(0).is_ok(), "0 is below nothing on a fresh store");
    assert_eq!(h.compact(0).unwrap_err(), Error::Compacted);
    h.put("a", "");
    assert_eq!(h.compact(3).unwrap_err(), Error::FutureRevision);
    let done = h.compact(2).unwrap();
    assert_eq!((done.revision, done.events.len()), (Revision(2), 0), "no new revision, no event");
    assert_eq!(h.compact(2).unwrap_err(), Error::Compacted);
    assert_eq!(h.compact(1).unwrap_err(), Error::Compacted);
    assert_eq!(h.store.compact_revision(), Revision(2));
}

#[test]
fn mismatch_13_watchers_that_are_gone_get_nothing() {
    use netsy_mvcc::watch_match::Matcher;
    let mut matcher = Matcher::default();
    let ids: Vec<_> = [("a", ""), ("a", ""), ("a", "c"), ("a", "\0"), ("b", "a")]
        .iter()
        .enumerate()
        .map(|(tag, (key, end))| matcher.add(KeyRange::new(key.as_bytes(), end.as_bytes()), tag as u32))
        .collect();
    let found = |matcher: &Matcher, key: &str| {
        let mut tags = Vec::new();
        matcher.for_each_match(key.as_bytes(), |tag| tags.push(tag));
        tags.sort_unstable();
        tags
    };
    assert_eq!(found(&matcher, "a"), [0, 1, 2, 3]);
    assert_eq!(found(&matcher, "b"), [2, 3]);
    matcher.remove(ids[0]);
    matcher.remove(ids[0]);
    matcher.remove(ids[2]);
    assert_eq!(found(&matcher, "a"), [1, 3]);
    assert_eq!(found(&matcher, "b"), [3]);
    assert_eq!(matcher.len(), 3);
}

#[test]
fn mismatch_16_what_a_key_was_before_is_gone_once_compacted() {
    let mut h = Harness::default();
    h.put("a", "1");
    let second = h.write(WriteRequest::Put(put("a", "2"))).unwrap();
    let gone = h.write(WriteRequest::DeleteRange(delete("a", ""))).unwrap();
    let before = |h: &Harness, done: &Evaluated| h.store.before(b"a", done.first_position).map(|kv| h.kv(&kv).value);
    assert_eq!(before(&h, &second), Some(b"1".to_vec()));
    assert_eq!(before(&h, &gone), Some(b"2".to_vec()));
    h.compact(3).unwrap();
    h.compact_physically(10);
    assert_eq!(before(&h, &second), None);
    assert_eq!(before(&h, &gone), Some(b"2".to_vec()));
    assert_eq!(second.events[0].prev.as_ref().map(|kv| kv.version), Some(1));
    assert_eq!(gone.events[0].kv.mod_revision, Revision(4));
    assert_eq!(gone.events[0].kv.version, 0);
}

#[test]
fn mismatch_17_lease_times() {
    let mut h = Harness::default();
    for (id, wished, granted) in [(1, -7, 2), (2, 0, 2), (3, 1, 2), (4, 60, 60), (5, 9_000_000_000, 9_000_000_000)] {
        assert_eq!(h.grant(id, wished).unwrap(), Outcome::LeaseGrant { id: LeaseId(id), ttl_seconds: granted });
    }
    assert_eq!(h.grant(6, 9_000_000_001).unwrap_err(), Error::LeaseTtlTooLarge);
    assert_eq!(h.grant(4, 60).unwrap_err(), Error::LeaseExists);
    let info = h.store.lease(LeaseId(4), 1).unwrap();
    assert_eq!((info.remaining_seconds, info.granted_seconds), (59, 60), "rounded down");
    assert_eq!(h.store.lease(LeaseId(77), 1), None);
    assert_eq!(h.store.lease(LeaseId(0), 1), None);
    let chosen = WriteRequest::LeaseGrant {
        id: LeaseId(0),
        ttl_seconds: 5,
        candidates: vec![LeaseId(-3), LeaseId(0), LeaseId(4), LeaseId(99), LeaseId(100)],
        now_ms: 0,
    };
    let done = h.write(chosen).unwrap();
    assert_eq!(done.outcome, Outcome::LeaseGrant { id: LeaseId(99), ttl_seconds: 5 });
    assert_eq!(done.revision, Revision(1));
}

#[test]
fn mismatch_18_a_lease_that_expires_is_not_renewed() {
    let mut h = Harness::default();
    h.grant(1, 2).unwrap();
    h.write(WriteRequest::Put(PutRequest { lease: 1, ..put("a", "") })).unwrap();
    let one = LeaseId(1);
    assert_eq!(h.store.lease_renew(one, 1_999), Renewal::Renewed { ttl_seconds: 2, reset_checkpoint: false });
    assert!(h.store.lease_expired(3_998, 10).is_empty());
    assert_eq!(h.store.lease_expired(3_999, 10), [one]);
    assert_eq!(h.store.lease_renew(one, 3_999), Renewal::Expiring);
    assert!(h.store.lease_expired(4_000, 10).is_empty(), "it is reported already");
    assert_eq!(h.store.lease_expired(6_999, 10), [one], "and again, as it is still there");
    let early = h.write(WriteRequest::LeaseExpire { id: one, now_ms: 3_998 }).unwrap();
    assert_eq!((early.outcome, early.entry), (Outcome::LeaseExpire { revoked: false }, None));
    let done = h.write(WriteRequest::LeaseExpire { id: one, now_ms: 3_999 }).unwrap();
    assert_eq!((done.outcome, done.events.len()), (Outcome::LeaseExpire { revoked: true }, 1));
    assert_eq!(h.store.lease_renew(one, 4_000), Renewal::NotFound);
    assert!(h.store.lease_expired(99_999, 10).is_empty());
}

#[test]
fn mismatch_19_a_revoke_is_one_revision() {
    let mut h = Harness::default();
    h.grant(1, 60).unwrap();
    for key in ["c", "a", "b"] {
        h.write(WriteRequest::Put(PutRequest { lease: 1, ..put(key, "") })).unwrap();
    }
    h.put("b", "detached");
    h.put("other", "");
    let before = h.store.head_revision();
    let done = h.write(WriteRequest::LeaseRevoke { id: LeaseId(1) }).unwrap();
    assert_eq!(done.revision, before.next());
    let gone: Vec<_> = done.events.iter().map(|e| (e.kv.key.clone(), e.kv.mod_revision)).collect();
    assert_eq!(gone, [("a".into(), before.next()), ("c".into(), before.next())]);
    assert_eq!(h.write(WriteRequest::LeaseRevoke { id: LeaseId(1) }).unwrap_err(), Error::LeaseNotFound);
    h.grant(2, 60).unwrap();
    let empty = h.write(WriteRequest::LeaseRevoke { id: LeaseId(2) }).unwrap();
    assert_eq!(empty.revision, before.next(), "no key, no revision");
    let lost = PutRequest { lease: 2, ..put("x", "") };
    assert_eq!(h.write(WriteRequest::Put(lost)).unwrap_err(), Error::LeaseNotFound);
}

#[test]
fn mismatch_20_error_texts() {
    let texts = [
        (Error::EmptyKey, "etcdserver: key is not provided", ErrorKind::InvalidArgument),
        (Error::KeyNotFound, "etcdserver: key not found", ErrorKind::InvalidArgument),
        (Error::ValueProvided, "etcdserver: value is provided", ErrorKind::InvalidArgument),
        (Error::LeaseProvided, "etcdserver: lease is provided", ErrorKind::InvalidArgument),
        (Error::TooManyOps, "etcdserver: too many operations in txn request", ErrorKind::InvalidArgument),
        (Error::DuplicateKey, "etcdserver: duplicate key given in txn request", ErrorKind::InvalidArgument),
        (Error::InvalidSortOption, "etcdserver: invalid sort option", ErrorKind::InvalidArgument),
        (Error::RequestTooLarge, "etcdserver: request is too large", ErrorKind::InvalidArgument),
        (Error::Compacted, "etcdserver: mvcc: required revision has been compacted", ErrorKind::OutOfRange),
        (Error::FutureRevision, "etcdserver: mvcc: required revision is a future revision", ErrorKind::OutOfRange),
        (Error::LeaseTtlTooLarge, "etcdserver: too large lease TTL", ErrorKind::OutOfRange),
        (Error::NoSpace, "etcdserver: mvcc: database space exceeded", ErrorKind::ResourceExhausted),
        (Error::LeaseNotFound, "etcdserver: requested lease not found", ErrorKind::NotFound),
        (Error::LeaseExists, "etcdserver: lease already exists", ErrorKind::FailedPrecondition),
        (Error::Corrupt, "etcdserver: corrupt cluster", ErrorKind::DataLoss),
    ];
    for (error, text, kind) in texts {
        assert_eq!((error.to_string().as_str(), error.kind()), (text, kind));
    }
    let mut h = Harness::default();
    let requests = [
        (PutRequest::default(), Error::EmptyKey),
        (PutRequest { ignore_value: true, ..put("a", "1") }, Error::ValueProvided),
        (PutRequest { ignore_lease: true, lease: 5, ..put("a", "1") }, Error::LeaseProvided),
        (PutRequest { ignore_value: true, ..put("a", "") }, Error::KeyNotFound),
        (PutRequest { ignore_lease: true, ..put("a", "1") }, Error::KeyNotFound),
        (PutRequest { lease: 5, ..put("a", "1") }, Error::LeaseNotFound),
    ];
    for (request, error) in requests {
        assert_eq!(h.write(WriteRequest::Put(request.clone())).unwrap_err(), error);
        let inside = txn(vec![], vec![op(Request::RequestPut(request))], vec![]);
        assert_eq!(h.txn(inside).unwrap_err(), error);
    }
    // Of several things that are wrong in a transaction, the first is told; of one put, its lease.
    let future = op(Request::RequestRange(RangeRequest { revision: 99, ..range("a", "") }));
    let lost = op(Request::RequestPut(PutRequest { lease: 5, ignore_value: true, ..put("a", "") }));
    let told = |h: &mut Harness, ops| h.txn(txn(vec![], ops, vec![])).unwrap_err();
    assert_eq!(told(&mut h, vec![future.clone(), lost.clone()]), Error::FutureRevision);
    assert_eq!(told(&mut h, vec![lost, future]), Error::LeaseNotFound);
    assert_eq!(h.write(WriteRequest::DeleteRange(delete("", "z"))).unwrap_err(), Error::EmptyKey);
    assert_eq!(h.range(&range("", "z")).unwrap_err(), Error::EmptyKey);
    assert_eq!(h.store.next_position().0, 1, "nothing came of any of them");
}

#[test]
fn mismatch_25_nospace_leaves_deletes_and_compaction() {
    let mut h = Harness::default();
    h.put("a", "1");
    h.grant(1, 60).unwrap();
    let raised = h.write(alarm(AlarmKind::NoSpace, true)).unwrap();
    assert_eq!(raised.outcome, Outcome::Alarm(vec![(9, AlarmKind::NoSpace)]));
    assert_eq!(h.write(alarm(AlarmKind::NoSpace, true)).unwrap().entry, None);
    assert_eq!(h.store.alarms(), [(9, AlarmKind::NoSpace)]);
    assert_eq!(h.write(WriteRequest::Put(put("b", ""))).unwrap_err(), Error::NoSpace);
    assert_eq!(h.grant(2, 60).unwrap_err(), Error::NoSpace);
    let with_put = |nested: bool| {
        let put = op_put("b", "");
        let put = if nested { op_txn(vec![], vec![], vec![put]) } else { put };
        txn(vec![], vec![], vec![put])
    };
    assert_eq!(h.txn(with_put(false)).unwrap_err(), Error::NoSpace, "also in the branch that is not taken");
    assert_eq!(h.txn(with_put(true)).unwrap_err(), Error::NoSpace);
    assert!(h.txn(txn(vec![], vec![op_delete("a", ""), op_range("a", "")], vec![])).is_ok());
    assert!(h.write(WriteRequest::DeleteRange(delete("a", ""))).is_ok());
    assert!(h.compact(2).is_ok());
    assert!(h.write(WriteRequest::LeaseRevoke { id: LeaseId(1) }).is_ok());
    assert!(h.range(&range("a", "")).is_ok());
    h.write(alarm(AlarmKind::NoSpace, false)).unwrap();
    assert_eq!(h.write(alarm(AlarmKind::NoSpace, false)).unwrap().outcome, Outcome::Alarm(vec![]));
    h.put("b", "");

    h.write(alarm(AlarmKind::Corrupt, true)).unwrap();
    for request in [
        WriteRequest::Put(put("b", "")),
        WriteRequest::DeleteRange(delete("b", "")),
        WriteRequest::Txn(txn(vec![], vec![op_delete("b", "")], vec![])),
        WriteRequest::Compact { revision: Revision(3) },
        WriteRequest::LeaseRevoke { id: LeaseId(1) },
    ] {
        assert_eq!(h.write(request).unwrap_err(), Error::Corrupt);
    }
    assert!(h.range(&range("b", "")).is_ok());
    h.write(alarm(AlarmKind::Corrupt, false)).unwrap();
    assert!(h.store.alarms().is_empty());
}
