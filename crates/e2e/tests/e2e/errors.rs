//! Error codes and texts that clients match by string (reference/etcd.md 1.1): each that one server can be made to give.

use crate::check::fails;
use netsy_api::etcdserverpb as pb;
use netsy_e2e::ops::{delete, get, mod_is, op, put, txn};
use netsy_e2e::{Client, Server};
use tonic::Code;

const NO_KEY: &str = "etcdserver: key is not provided";
const KEY_NOT_FOUND: &str = "etcdserver: key not found";
const VALUE_PROVIDED: &str = "etcdserver: value is provided";
const LEASE_PROVIDED: &str = "etcdserver: lease is provided";
const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
const TOO_MANY_OPS: &str = "etcdserver: too many operations in txn request";
const SORT: &str = "etcdserver: invalid sort option";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";

/// A store at revision 5, compacted at 4, with the key `k`.
async fn store() -> (Server, Client) {
    let server = Server::start().await;
    let client = server.client().await;
    for value in ["2", "3", "4", "5"] {
        client.put("k", value).await;
    }
    client.compact(4, true).await.expect("compact");
    (server, client)
}

#[tokio::test]
async fn range_errors() {
    let (_server, client) = store().await;
    let table = [
        (get(""), Code::InvalidArgument, NO_KEY),
        (pb::RangeRequest { count_only: true, ..get("") }, Code::InvalidArgument, NO_KEY),
        (pb::RangeRequest { range_end: "z".into(), ..get("") }, Code::InvalidArgument, NO_KEY),
        (pb::RangeRequest { sort_order: 3, ..get("k") }, Code::InvalidArgument, SORT),
        (pb::RangeRequest { sort_target: 5, ..get("k") }, Code::InvalidArgument, SORT),
        (pb::RangeRequest { sort_order: -1, ..get("k") }, Code::InvalidArgument, SORT),
        (pb::RangeRequest { revision: 3, ..get("k") }, Code::OutOfRange, COMPACTED),
        (pb::RangeRequest { revision: 3, serializable: true, ..get("k") }, Code::OutOfRange, COMPACTED),
        (pb::RangeRequest { revision: 3, count_only: true, ..get("k") }, Code::OutOfRange, COMPACTED),
        (pb::RangeRequest { revision: 6, ..get("k") }, Code::OutOfRange, FUTURE),
        (pb::RangeRequest { revision: i64::MAX, ..get("k") }, Code::OutOfRange, FUTURE),
    ];
    for (request, code, text) in table {
        println!("{request:?}");
        fails(client.range(request).await, code, text);
    }
}

#[tokio::test]
async fn put_errors() {
    let (_server, client) = store().await;
    let table = [
        (put("", "v"), Code::InvalidArgument, NO_KEY),
        (pb::PutRequest { ignore_value: true, ..put("k", "v") }, Code::InvalidArgument, VALUE_PROVIDED),
        (pb::PutRequest { ignore_lease: true, lease: 1, ..put("k", "v") }, Code::InvalidArgument, LEASE_PROVIDED),
        (pb::PutRequest { ignore_value: true, ..put("none", "") }, Code::InvalidArgument, KEY_NOT_FOUND),
        (pb::PutRequest { ignore_lease: true, ..put("none", "v") }, Code::InvalidArgument, KEY_NOT_FOUND),
        (pb::PutRequest { lease: 99, ..put("k", "v") }, Code::NotFound, LEASE_NOT_FOUND),
        (pb::PutRequest { lease: -1, ..put("k", "v") }, Code::NotFound, LEASE_NOT_FOUND),
    ];
    for (request, code, text) in table {
        println!("{request:?}");
        fails(client.try_put(request).await, code, text);
    }
    fails(client.delete_range(delete("")).await, Code::InvalidArgument, NO_KEY);
    assert_eq!(client.revision().await, 5, "a refused write makes no revision");
}

#[tokio::test]
async fn txn_errors() {
    let (_server, client) = store().await;
    let many =
        |count: usize| -> Vec<pb::RequestOp> { (0..count).map(|at| op(put(format!("many/{at}"), "v"))).collect() };
    let gets = |count: usize| vec![op(get("k")); count];
    let compares = |count: usize| vec![mod_is("k", 5); count];
    let nested = |inner: pb::TxnRequest| txn(vec![], vec![op(inner)], vec![]);
    let empty_op = pb::RequestOp { request: None };
    let table = [
        ("129 puts", txn(vec![], many(129), vec![]), Code::InvalidArgument, TOO_MANY_OPS),
        ("129 in the other branch", txn(vec![], vec![], gets(129)), Code::InvalidArgument, TOO_MANY_OPS),
        ("129 compares", txn(compares(129), vec![], vec![]), Code::InvalidArgument, TOO_MANY_OPS),
        (
            "128 in a nested one, 1 around it",
            nested(txn(vec![], many(128), vec![])),
            Code::InvalidArgument,
            TOO_MANY_OPS,
        ),
        (
            "too many before no key",
            txn(vec![], [many(128), vec![op(put("", "v"))]].concat(), vec![]),
            Code::InvalidArgument,
            TOO_MANY_OPS,
        ),
        ("compare without a key", txn(vec![mod_is("", 5)], vec![], vec![]), Code::InvalidArgument, NO_KEY),
        ("put without a key", txn(vec![], vec![op(put("", "v"))], vec![]), Code::InvalidArgument, NO_KEY),
        (
            "in the branch not taken",
            txn(vec![mod_is("k", 5)], vec![], vec![op(put("", "v"))]),
            Code::InvalidArgument,
            NO_KEY,
        ),
        ("range without a key", txn(vec![], vec![op(get(""))], vec![]), Code::InvalidArgument, NO_KEY),
        ("delete without a key", txn(vec![], vec![op(delete(""))], vec![]), Code::InvalidArgument, NO_KEY),
        ("nested without a key", nested(txn(vec![], vec![op(put("", "v"))], vec![])), Code::InvalidArgument, NO_KEY),
        ("an empty operation", txn(vec![], vec![empty_op], vec![]), Code::InvalidArgument, KEY_NOT_FOUND),
        (
            "no key before duplicate",
            txn(vec![], vec![op(put("a", "v")), op(put("a", "v")), op(put("", "v"))], vec![]),
            Code::InvalidArgument,
            NO_KEY,
        ),
        (
            "duplicate",
            txn(vec![], vec![op(put("a", "v")), op(put("a", "v"))], vec![]),
            Code::InvalidArgument,
            DUPLICATE,
        ),
        (
            "sort",
            txn(vec![], vec![op(pb::RangeRequest { sort_order: 9, ..get("k") })], vec![]),
            Code::InvalidArgument,
            SORT,
        ),
        (
            "value",
            txn(vec![], vec![op(pb::PutRequest { ignore_value: true, ..put("k", "v") })], vec![]),
            Code::InvalidArgument,
            VALUE_PROVIDED,
        ),
        (
            "lease",
            txn(vec![], vec![op(pb::PutRequest { ignore_lease: true, lease: 1, ..put("k", "v") })], vec![]),
            Code::InvalidArgument,
            LEASE_PROVIDED,
        ),
        (
            "missing",
            txn(vec![], vec![op(put("a", "v")), op(pb::PutRequest { ignore_value: true, ..put("none", "") })], vec![]),
            Code::InvalidArgument,
            KEY_NOT_FOUND,
        ),
        (
            "no lease",
            txn(vec![], vec![op(put("a", "v")), op(pb::PutRequest { lease: 99, ..put("k", "v") })], vec![]),
            Code::NotFound,
            LEASE_NOT_FOUND,
        ),
        (
            "compacted",
            txn(vec![], vec![op(put("a", "v")), op(pb::RangeRequest { revision: 3, ..get("k") })], vec![]),
            Code::OutOfRange,
            COMPACTED,
        ),
        // The revision that the transaction itself would make is a future one.
        (
            "future",
            txn(vec![], vec![op(put("a", "v")), op(pb::RangeRequest { revision: 6, ..get("k") })], vec![]),
            Code::OutOfRange,
            FUTURE,
        ),
        (
            "nested future",
            nested(txn(vec![], vec![op(pb::RangeRequest { revision: 6, ..get("k") })], vec![])),
            Code::OutOfRange,
            FUTURE,
        ),
        (
            "reading only, future",
            txn(vec![], vec![op(pb::RangeRequest { revision: 6, ..get("k") })], vec![]),
            Code::OutOfRange,
            FUTURE,
        ),
    ];
    for (what, request, code, text) in table {
        println!("{what}");
        fails(client.txn(request).await, code, text);
    }
    assert_eq!(client.revision().await, 5, "a refused transaction changes nothing");
    assert!(client.get("a").await.is_none());

    let allowed = [
        ("128 puts", txn(vec![], many(128), vec![])),
        ("128 of each", txn(compares(128), gets(128), gets(128))),
        ("127 in a nested one", nested(txn(vec![], gets(127), vec![]))),
        ("nothing at all", txn(vec![], vec![], vec![])),
        (
            "an error in the branch not taken",
            txn(vec![], vec![], vec![op(pb::PutRequest { lease: 99, ..put("k", "v") })]),
        ),
    ];
    for (what, request) in allowed {
        println!("{what}");
        client.txn(request).await.expect("is allowed");
    }
}

#[tokio::test]
async fn lease_and_compaction_errors() {
    let (_server, client) = store().await;
    client.grant(100, 7).await;
    fails(client.try_grant(100, 7).await, Code::FailedPrecondition, "etcdserver: lease already exists");
    fails(client.try_grant(9_000_000_001, 0).await, Code::OutOfRange, "etcdserver: too large lease TTL");
    client.try_grant(9_000_000_000, 0).await.expect("the largest TTL");
    fails(client.revoke(8).await, Code::NotFound, LEASE_NOT_FOUND);
    fails(client.revoke(0).await, Code::NotFound, LEASE_NOT_FOUND);
    fails(client.compact(4, false).await, Code::OutOfRange, COMPACTED);
    fails(client.compact(-1, false).await, Code::OutOfRange, COMPACTED);
    fails(client.compact(6, false).await, Code::OutOfRange, FUTURE);
    let hash = async |revision| {
        client.maintenance().hash_kv(pb::HashKvRequest { revision }).await.map(tonic::Response::into_inner)
    };
    fails(hash(3).await, Code::OutOfRange, COMPACTED);
    fails(hash(6).await, Code::OutOfRange, FUTURE);
    let now = hash(0).await.expect("hash");
    assert_eq!((now.compact_revision, now.hash_revision), (4, 5));
    assert_eq!(hash(5).await.expect("hash").hash, now.hash, "0 means the current revision");
}

#[tokio::test]
async fn a_fresh_store_can_be_compacted_at_zero_once() {
    let server = Server::start().await;
    let client = server.client().await;
    client.compact(0, false).await.expect("compact");
    fails(client.compact(0, false).await, Code::OutOfRange, COMPACTED);
    client.compact(1, true).await.expect("compact");
}

/// What changes members finds fault as etcd does, and says what is so already.
#[tokio::test]
async fn member_errors() {
    let server = Server::start().await;
    let client = server.client().await;
    let cluster = || client.cluster();
    let list = cluster().member_list(pb::MemberListRequest { linearizable: true }).await.expect("list").into_inner();
    let me = &list.members[0];
    let missing = "etcdserver: member not found";
    for peer_ur_ls in [vec![], vec!["http://127.0.0.1:1".to_owned()], me.peer_ur_ls.clone()] {
        let update = cluster().member_update(pb::MemberUpdateRequest { id: 77, peer_ur_ls }).await;
        fails(update, Code::NotFound, missing);
    }
    fails(cluster().member_remove(pb::MemberRemoveRequest { id: 77 }).await, Code::NotFound, missing);
    fails(cluster().member_promote(pb::MemberPromoteRequest { id: 77 }).await, Code::NotFound, missing);
    let promote = cluster().member_promote(pb::MemberPromoteRequest { id: me.id }).await;
    fails(promote, Code::FailedPrecondition, "etcdserver: can only promote a learner member");
    let same = pb::MemberUpdateRequest { id: me.id, peer_ur_ls: me.peer_ur_ls.clone() };
    let updated = cluster().member_update(same).await.expect("no change").into_inner();
    assert_eq!(updated.members, list.members);
    assert_eq!(updated.header.expect("a header").member_id, me.id);
}
