//! reference/etcd.md section 8, numbers 1 to 9: what a rewrite of etcd gets wrong most often in keys and transactions.

use crate::check::{delete_at, fails, keys, put_at, range_at, revision, txn_at};
use netsy_api::etcdserverpb as pb;
use netsy_api::etcdserverpb::compare::{CompareResult, TargetUnion};
use netsy_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use netsy_e2e::ops::{self, compare, delete, delete_range, get, mod_is, op, prefix, put, txn, value_is, version_is};
use netsy_e2e::{Server, ops::watch_key};
use tonic::Code;

#[tokio::test]
async fn mismatch_01_header_revisions() {
    let server = Server::start().await;
    let client = server.client().await;
    assert_eq!(client.revision().await, 1, "an empty store is at revision 1");
    assert_eq!(client.put("a", "1").await, 2);
    assert_eq!(client.put("a", "2").await, 3);

    let old = client.range(pb::RangeRequest { revision: 2, ..get("a") }).await.expect("read at revision 2");
    assert_eq!(revision(&old.header), 3, "a read of the past names the current revision");
    assert_eq!(old.kvs[0].value, "1");

    assert_eq!(client.delete("nothing").await, (3, 0), "deleting nothing makes no revision");
    let read_only = client.txn(txn(vec![], vec![op(get("a"))], vec![])).await.expect("a reading transaction");
    assert_eq!(revision(&read_only.header), 3);

    // Inside: the old revision before the first write, the new one after it.
    let ops = vec![
        op(get("a")),
        op(delete("nothing")),
        op(put("b", "1")),
        op(get("a")),
        op(delete("nothing either")),
        op(delete("a")),
    ];
    let answer = client.txn(txn(vec![], ops, vec![])).await.expect("a writing transaction");
    assert_eq!(revision(&answer.header), 4);
    assert_eq!(revision(&range_at(&answer, 0).header), 3);
    assert_eq!(revision(&delete_at(&answer, 1).header), 3);
    assert_eq!(revision(&put_at(&answer, 2).header), 4);
    assert_eq!(revision(&range_at(&answer, 3).header), 4);
    assert_eq!(revision(&delete_at(&answer, 4).header), 4);
    assert_eq!(revision(&delete_at(&answer, 5).header), 4);
    let inner = range_at(&answer, 0).header.as_ref().expect("a header");
    assert_eq!((inner.cluster_id, inner.member_id, inner.raft_term), (0, 0, 0), "an inner header has a revision only");
    let outer = answer.header.as_ref().expect("a header");
    assert!(
        outer.cluster_id != 0 && outer.member_id != 0 && outer.raft_term > 0,
        "an outer header is whole: {outer:?}"
    );

    let grant = client.try_grant(60, 0).await.expect("grant");
    assert_eq!(revision(&grant.header), 4, "a lease makes no revision");
    let compaction = client.compact(3, false).await.expect("compact");
    assert_eq!(revision(&compaction.header), 4, "a compaction makes no revision and names the current one");
    let failed =
        client.txn(txn(vec![mod_is("b", 99)], vec![op(put("b", "2"))], vec![])).await.expect("a failed compare");
    assert_eq!((failed.succeeded, revision(&failed.header)), (false, 4));
}

#[tokio::test]
async fn mismatch_02_compare_on_a_missing_key() {
    let server = Server::start().await;
    let client = server.client().await;
    let holds =
        async |compare: pb::Compare| client.txn(txn(vec![compare], vec![], vec![])).await.expect("compare").succeeded;
    for (operand, less) in [
        (TargetUnion::Version(0), TargetUnion::Version(1)),
        (TargetUnion::CreateRevision(0), TargetUnion::CreateRevision(1)),
        (TargetUnion::ModRevision(0), TargetUnion::ModRevision(1)),
        (TargetUnion::Lease(0), TargetUnion::Lease(1)),
    ] {
        assert!(holds(compare("none", CompareResult::Equal, operand.clone())).await, "{operand:?}: zero is equal");
        assert!(
            !holds(compare("none", CompareResult::NotEqual, operand.clone())).await,
            "{operand:?}: zero is not unequal"
        );
        assert!(holds(compare("none", CompareResult::Less, less.clone())).await, "{less:?}: zero is less");
        assert!(!holds(compare("none", CompareResult::Greater, less.clone())).await, "{less:?}: zero is not greater");
    }
    // A value compare never holds on a missing key.
    for result in [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Less, CompareResult::Greater] {
        for value in ["", "x"] {
            let operand = TargetUnion::Value(value.into());
            assert!(!holds(compare("none", result, operand)).await, "value {result:?} {value:?} must not hold");
        }
    }
    // An empty range is as a missing key; else every key in it must do.
    let over_range =
        |end: &str, result, operand| pb::Compare { range_end: end.to_owned().into(), ..compare("k", result, operand) };
    assert!(holds(over_range("l", CompareResult::Equal, TargetUnion::Version(0))).await);
    assert!(!holds(over_range("l", CompareResult::NotEqual, TargetUnion::Value("x".into()))).await);
    client.put("k1", "v").await;
    client.put("k2", "w").await;
    assert!(holds(over_range("l", CompareResult::Equal, TargetUnion::Version(1))).await);
    assert!(
        !holds(over_range("l", CompareResult::Equal, TargetUnion::Value("v".into()))).await,
        "k2 has another value"
    );
    assert!(holds(over_range("l", CompareResult::Less, TargetUnion::Value("x".into()))).await);
    assert!(holds(over_range("k2", CompareResult::Equal, TargetUnion::Value("v".into()))).await, "k2 is past the end");
}

#[tokio::test]
async fn mismatch_03_nested_compares_see_the_state_before() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "old").await;
    let nested = txn(vec![value_is("a", "old")], vec![op(put("saw", "old"))], vec![op(put("saw", "new"))]);
    let answer =
        client.txn(txn(vec![], vec![op(put("a", "new")), op(nested), op(get("a"))], vec![])).await.expect("nested");
    let inner = txn_at(&answer, 1);
    assert!(inner.succeeded, "the nested compare ran before the put beside it");
    assert!(inner.header.is_some(), "a nested answer has a header, an empty one");
    assert_eq!(revision(&inner.header), 0);
    assert_eq!(range_at(&answer, 2).kvs[0].value, "new", "a range does see earlier puts of its transaction");
    assert_eq!(client.get("saw").await.expect("saw").value, "old");
}

#[tokio::test]
async fn mismatch_04_duplicate_keys_in_both_branches() {
    let server = Server::start().await;
    let client = server.client().await;
    let text = "etcdserver: duplicate key given in txn request";
    let holds = vec![version_is("none", 0)];
    let twice = || vec![op(put("a", "1")), op(put("a", "2"))];
    let refused = [
        ("two puts", txn(vec![], twice(), vec![])),
        ("in the branch not taken", txn(holds.clone(), vec![], twice())),
        ("put then delete", txn(vec![], vec![op(put("a", "1")), op(delete("a"))], vec![])),
        ("delete then put", txn(vec![], vec![op(delete_range("a", "c")), op(put("b", "1"))], vec![])),
        (
            "nested put, put after",
            txn(vec![], vec![op(txn(vec![], vec![op(put("a", "1"))], vec![])), op(put("a", "2"))], vec![]),
        ),
        (
            "nested put, put before",
            txn(vec![], vec![op(put("a", "2")), op(txn(vec![], vec![], vec![op(put("a", "1"))]))], vec![]),
        ),
        (
            "nested put under a delete",
            txn(vec![], vec![op(delete("a")), op(txn(vec![], vec![op(put("a", "1"))], vec![]))], vec![]),
        ),
        (
            "nested delete over a put",
            txn(vec![], vec![op(put("a", "1")), op(txn(vec![], vec![op(delete("a"))], vec![]))], vec![]),
        ),
        (
            "nested delete, later nested put",
            txn(
                vec![],
                vec![op(txn(vec![], vec![op(delete("a"))], vec![])), op(txn(vec![], vec![op(put("a", "1"))], vec![]))],
                vec![],
            ),
        ),
        (
            "puts of two nested",
            txn(
                vec![],
                vec![
                    op(txn(vec![], vec![op(put("a", "1"))], vec![])),
                    op(txn(vec![], vec![op(put("a", "1"))], vec![])),
                ],
                vec![],
            ),
        ),
    ];
    for (what, request) in refused {
        let result = client.txn(request).await;
        assert!(result.is_err(), "{what}: was to be refused");
        fails(result, Code::InvalidArgument, text);
    }
    assert_eq!(client.revision().await, 1, "a refused transaction changes nothing");

    let allowed = [
        ("overlapping deletes", txn(vec![], vec![op(delete_range("a", "c")), op(delete("a"))], vec![])),
        ("the same key in both branches", txn(vec![], vec![op(put("a", "1"))], vec![op(put("a", "2"))])),
        (
            "both branches of a nested one",
            txn(vec![], vec![op(txn(vec![], vec![op(put("a", "1"))], vec![op(put("a", "2"))]))], vec![]),
        ),
        ("a range of a put key", txn(vec![], vec![op(put("a", "1")), op(get("a"))], vec![])),
        ("a put just past a delete", txn(vec![], vec![op(delete_range("a", "b")), op(put("b", "1"))], vec![])),
    ];
    for (what, request) in allowed {
        assert!(client.txn(request).await.is_ok(), "{what}: was to be accepted");
    }
}

#[tokio::test]
async fn mismatch_05_limit_before_sort_where_no_order_is_named() {
    let server = Server::start().await;
    let client = server.client().await;
    for key in ["d", "c", "a", "b"] {
        client.put(format!("k/{key}"), key).await;
    }
    let sorted = |target: SortTarget, order: SortOrder, limit: i64| {
        let request = pb::RangeRequest { sort_target: target as i32, sort_order: order as i32, limit, ..prefix("k/") };
        let client = client.clone();
        async move { keys(&client.range(request).await.expect("range").kvs) }
    };
    // Without an order the first keys are taken, one more than the limit, then sorted, then cut to the limit.
    assert_eq!(sorted(SortTarget::Create, SortOrder::None, 1).await, ["k/a"], "of a, b");
    assert_eq!(sorted(SortTarget::Create, SortOrder::None, 2).await, ["k/c", "k/a"], "of a, b, c");
    assert_eq!(sorted(SortTarget::Create, SortOrder::None, 3).await, ["k/d", "k/c", "k/a"]);
    assert_eq!(sorted(SortTarget::Create, SortOrder::None, 0).await, ["k/d", "k/c", "k/a", "k/b"]);
    // With one, all are sorted first.
    assert_eq!(sorted(SortTarget::Create, SortOrder::Ascend, 2).await, ["k/d", "k/c"]);
    assert_eq!(sorted(SortTarget::Create, SortOrder::Descend, 2).await, ["k/b", "k/a"]);
    assert_eq!(sorted(SortTarget::Key, SortOrder::Descend, 2).await, ["k/d", "k/c"]);
    assert_eq!(sorted(SortTarget::Key, SortOrder::Ascend, 2).await, ["k/a", "k/b"]);
    assert_eq!(sorted(SortTarget::Value, SortOrder::Descend, 2).await, ["k/d", "k/c"]);
    client.put("k/b", "b2").await;
    assert_eq!(sorted(SortTarget::Version, SortOrder::Descend, 1).await, ["k/b"]);
    assert_eq!(sorted(SortTarget::Mod, SortOrder::Ascend, 4).await, ["k/d", "k/c", "k/a", "k/b"]);
}

#[tokio::test]
async fn mismatch_06_count_is_the_total() {
    let server = Server::start().await;
    let client = server.client().await;
    for at in 0..5 {
        client.put(format!("k/{at}"), "v").await;
    }
    let limited = client.range(pb::RangeRequest { limit: 2, ..prefix("k/") }).await.expect("range");
    assert_eq!((limited.kvs.len(), limited.more, limited.count), (2, true, 5));
    let all = client.range(pb::RangeRequest { limit: 5, ..prefix("k/") }).await.expect("range");
    assert_eq!((all.kvs.len(), all.more, all.count), (5, false, 5));
    let negative = client.range(pb::RangeRequest { limit: -1, ..prefix("k/") }).await.expect("range");
    assert_eq!((negative.kvs.len(), negative.more, negative.count), (5, false, 5));
    let counted = client.range(pb::RangeRequest { limit: 2, count_only: true, ..prefix("k/") }).await.expect("range");
    assert_eq!((counted.kvs.len(), counted.more, counted.count), (0, false, 5));
    let filtered = client.range(pb::RangeRequest { min_mod_revision: 5, ..prefix("k/") }).await.expect("range");
    assert_eq!((filtered.kvs.len(), filtered.more, filtered.count), (2, false, 5), "filters do not change the count");
    let both = client.range(pb::RangeRequest { min_mod_revision: 3, limit: 2, ..prefix("k/") }).await.expect("range");
    assert_eq!((keys(&both.kvs), both.more, both.count), (vec!["k/1".to_owned(), "k/2".to_owned()], true, 5));
    let past = client.range(pb::RangeRequest { revision: 4, limit: 1, ..prefix("k/") }).await.expect("range");
    assert_eq!((past.kvs.len(), past.more, past.count), (1, true, 3));
    let from = client.range(pb::RangeRequest { limit: 1, ..ops::range("k/3", ops::OPEN) }).await.expect("range");
    assert_eq!((keys(&from.kvs), from.more, from.count), (vec!["k/3".to_owned()], true, 2));
}

#[tokio::test]
async fn mismatch_07_read_at_the_compacted_revision() {
    let server = Server::start().await;
    let client = server.client().await;
    for value in ["1", "2", "3"] {
        client.put("a", value).await;
    }
    client.compact(3, true).await.expect("compact");
    let at = |revision| client.range(pb::RangeRequest { revision, ..get("a") });
    assert_eq!(at(3).await.expect("the compacted revision is readable").kvs[0].value, "2");
    fails(at(2).await, Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    fails(at(5).await, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    assert_eq!(at(-7).await.expect("a negative revision is the latest").kvs[0].value, "3");
}

#[tokio::test]
async fn mismatch_08_tombstone_at_the_compacted_revision() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "1").await;
    client.delete("a").await;
    client.put("b", "1").await;
    client.compact(3, true).await.expect("compact");
    let mut watch = client.watch().await;
    watch.add(pb::WatchCreateRequest { start_revision: 3, ..watch_key("a") }).await;
    assert_eq!(netsy_e2e::watch::all_short(&watch.events(1).await), ["D a @3"]);
}

#[tokio::test]
async fn mismatch_09_compacting_the_same_revision_again() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "1").await;
    client.put("a", "2").await;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    client.compact(2, false).await.expect("compact");
    fails(client.compact(2, false).await, Code::OutOfRange, compacted);
    fails(client.compact(2, true).await, Code::OutOfRange, compacted);
    fails(client.compact(1, false).await, Code::OutOfRange, compacted);
    fails(client.compact(4, false).await, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    client.compact(3, true).await.expect("the current revision can be compacted");
    assert_eq!(client.get("a").await.expect("a").value, "2");
}
