//! Random operations on a store, a replica of it, and the obvious model: all must say the same.

mod common;

use common::model::{Keys, Kv, OpOut, State};
use common::{Harness, config};
use netsy_api::etcdserverpb::compare::TargetUnion;
use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use netsy_api::ids::{LeaseId, LogIndex, Position, Revision, UnixMillis};
use netsy_mvcc::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Write(WriteRequest),
    /// Write rows through: this part (of 4) of what is not written.
    Written(u64),
    /// Make visible: this part (of 4) of what is not visible.
    Visible(u64),
    /// Drop this part (of 4) of what is not visible.
    Rollback(u64),
    Compact {
        budget: usize,
        steps: usize,
    },
    Read {
        request: RangeRequest,
        budget: usize,
    },
    /// Begin a long read, or go on with it.
    LongRead(Option<RangeRequest>),
    Hash,
    Restart,
}

fn key() -> impl Strategy<Value = bytes::Bytes> {
    prop_oneof![
        20 => prop::sample::select(vec!["a", "b", "c", "d", "ab", "b\0", "bb"]),
        1 => Just(""),
    ]
    .prop_map(|k| bytes::Bytes::from_static(k.as_bytes()))
}

fn end() -> impl Strategy<Value = bytes::Bytes> {
    prop::sample::select(vec!["", "", "", "\0", "b", "c", "d", "e", "a", "b\0\0"])
        .prop_map(|k| bytes::Bytes::from_static(k.as_bytes()))
}

fn value() -> impl Strategy<Value = bytes::Bytes> {
    prop::sample::select(vec!["", "1", "2", "33", "a longer value so that the cache is soon full"])
        .prop_map(|k| bytes::Bytes::from_static(k.as_bytes()))
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0), 2 => 1..4i64]
}

prop_compose! {
    fn put()(key in key(), value in value(), lease in lease(), flags in 0..32u8) -> PutRequest {
        let ignore_value = flags & 7 == 7;
        let ignore_lease = flags >> 2 == 7;
        PutRequest {
            key,
            value: if ignore_value && flags & 8 == 0 { bytes::Bytes::new() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv: flags & 1 == 1,
            ignore_value,
            ignore_lease,
        }
    }
}

prop_compose! {
    fn delete()(key in key(), range_end in end(), prev_kv in any::<bool>()) -> DeleteRangeRequest {
        DeleteRangeRequest { key, range_end, prev_kv }
    }
}

prop_compose! {
    fn range()(
        key in key(), range_end in end(), limit in -1..5i64, revision in prop_oneof![3 => Just(0i64), 2 => -2..40i64],
        sort_order in 0..3i32, sort_target in prop_oneof![3 => Just(0i32), 2 => 0..5i32],
        flags in 0..64u8, bounds in prop::array::uniform4(0..30i64),
    ) -> RangeRequest {
        let bound = |n: usize| if flags & 24 == 24 && bounds[n] % 3 == 0 { bounds[n] } else { 0 };
        RangeRequest {
            key, range_end, limit, revision, sort_order, sort_target,
            serializable: false,
            keys_only: flags & 3 == 3,
            count_only: flags & 7 == 4,
            min_mod_revision: bound(0), max_mod_revision: bound(1),
            min_create_revision: bound(2), max_create_revision: bound(3),
        }
    }
}

fn compare() -> impl Strategy<Value = Compare> {
    let union = prop_oneof![
        (0..4i64).prop_map(TargetUnion::Version),
        (0..30i64).prop_map(TargetUnion::CreateRevision),
        (0..30i64).prop_map(TargetUnion::ModRevision),
        value().prop_map(TargetUnion::Value),
        lease().prop_map(TargetUnion::Lease),
    ];
    (0..4i32, 0..5i32, key(), end(), union, any::<bool>()).prop_map(|(result, target, key, range_end, union, fit)| {
        let fitting = match union {
            TargetUnion::Version(_) => 0,
            TargetUnion::CreateRevision(_) => 1,
            TargetUnion::ModRevision(_) => 2,
            TargetUnion::Value(_) => 3,
            TargetUnion::Lease(_) => 4,
        };
        Compare { result, target: if fit { fitting } else { target }, key, range_end, target_union: Some(union) }
    })
}

fn ops() -> impl Strategy<Value = TxnRequest> {
    fn request(leaf: bool, nested: BoxedStrategy<TxnRequest>) -> BoxedStrategy<RequestOp> {
        let plain = prop_oneof![
            range().prop_map(Request::RequestRange),
            put().prop_map(Request::RequestPut),
            put().prop_map(Request::RequestPut),
            delete().prop_map(Request::RequestDeleteRange),
        ];
        let wrap = |r: Request| RequestOp { request: Some(r) };
        if leaf {
            plain.prop_map(wrap).boxed()
        } else {
            prop_oneof![4 => plain.prop_map(wrap), 2 => nested.prop_map(move |t| wrap(Request::RequestTxn(t)))].boxed()
        }
    }
    fn txn(leaf: bool, nested: BoxedStrategy<TxnRequest>) -> BoxedStrategy<TxnRequest> {
        let list = || prop::collection::vec(request(leaf, nested.clone()), 0..3);
        (prop::collection::vec(compare(), 0..3), list(), list())
            .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
            .boxed()
    }
    let none = Just(TxnRequest::default()).boxed();
    let leaf = txn(true, none);
    let middle = txn(false, leaf.clone());
    prop_oneof![2 => leaf, 2 => txn(false, middle.clone()), 2 => middle]
}

fn write() -> impl Strategy<Value = WriteRequest> {
    prop_oneof![
        6 => put().prop_map(WriteRequest::Put),
        2 => delete().prop_map(WriteRequest::DeleteRange),
        6 => ops().prop_map(WriteRequest::Txn),
        2 => (1..4i64, -1..10i64).prop_map(|(id, ttl_seconds)| WriteRequest::LeaseGrant {
            id: LeaseId(id), ttl_seconds, candidates: vec![], now_ms: 0,
        }),
        1 => (1..4i64).prop_map(|id| WriteRequest::LeaseRevoke { id: LeaseId(id) }),
        1 => (-1..40i64).prop_map(|revision| WriteRequest::Compact { revision: Revision(revision) }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => write().prop_map(Step::Write),
        3 => (1..5u64).prop_map(Step::Written),
        4 => (1..5u64).prop_map(Step::Visible),
        1 => (1..5u64).prop_map(Step::Rollback),
        2 => (1..5usize, 1..8usize).prop_map(|(budget, steps)| Step::Compact { budget, steps }),
        6 => (range(), 1..4usize).prop_map(|(request, budget)| Step::Read { request, budget }),
        2 => prop::option::of(range()).prop_map(Step::LongRead),
        1 => Just(Step::Hash),
        1 => Just(Step::Restart),
    ]
}

/// What the store comes to, in the model's words.
fn out(h: &Harness, done: &Evaluated) -> OpOut {
    match &done.outcome {
        Outcome::Put { prev } => OpOut::Put(prev.as_ref().map(|kv| h.kv(kv)), done.revision.0),
        Outcome::DeleteRange { deleted, prevs } => {
            OpOut::Delete(*deleted, prevs.iter().map(|kv| h.kv(kv)).collect(), done.revision.0)
        }
        Outcome::Txn(txn) => OpOut::Txn(txn.succeeded, h.ops_out(txn)),
        Outcome::LeaseGrant { id, ttl_seconds } => OpOut::Lease(id.0, *ttl_seconds),
        _ => OpOut::Done,
    }
}

struct World {
    h: Harness,
    replica: Store,
    /// The state after each entry; the first is the empty one.
    states: Vec<State>,
    visible: usize,
    long: Option<(RangeReader, RangeRequest, Option<State>)>,
}

impl World {
    fn new() -> Self {
        World {
            h: Harness::new(600),
            replica: Store::new(config(600)),
            states: vec![State::new()],
            visible: 0,
            long: None,
        }
    }

    fn shown(&self) -> &State {
        &self.states[self.visible]
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write(request) => self.write(&request),
            Step::Written(part) => {
                let last = self.h.store.next_position().0 - 1;
                let written = self.h.db.written.0;
                let to = Position(written + (last.saturating_sub(written)) * part / 4);
                self.h.write_through(to);
                self.replica.written_through(to);
            }
            Step::Visible(part) => {
                let last = self.states.len() - 1;
                self.visible += (last - self.visible) * part as usize / 4;
                self.h.store.set_visible(LogIndex(self.visible as u64));
                self.replica.set_visible(LogIndex(self.visible as u64));
            }
            Step::Rollback(part) => {
                let last = self.states.len() - 1;
                let to = last - (last - self.visible) * part as usize / 4;
                self.h.store.rollback(LogIndex(to as u64)).unwrap();
                self.replica.rollback(LogIndex(to as u64)).unwrap();
                self.states.truncate(to + 1);
                self.h.entries.truncate(to);
                let next = self.h.store.next_position();
                self.h.db.rows.retain(|position, _| *position < next);
                self.h.db.written = self.h.db.written.min(Position(next.0 - 1));
            }
            Step::Compact { budget, steps } => {
                for _ in 0..steps {
                    for position in self
                        .h
                        .store
                        .compact_index(budget, netsy_api::ids::Revision(i64::MAX), netsy_api::ids::LogIndex(u64::MAX))
                        .removed
                    {
                        let row = self.h.db.rows.remove(&position).expect("a row is removed once");
                        assert!(row.revision.0 <= self.shown().compact, "row of a revision that is not compacted");
                    }
                    // A replica compacts at its own pace.
                    self.replica.compact_index(
                        1,
                        netsy_api::ids::Revision(i64::MAX),
                        netsy_api::ids::LogIndex(u64::MAX),
                    );
                }
            }
            Step::Read { request, budget } => {
                let got = self.h.range_in_steps(&request, budget);
                assert_eq!(got, self.shown().range(&request), "{request:?}");
            }
            Step::LongRead(request) => self.long_read(request),
            Step::Hash => self.hash(),
            Step::Restart => self.restart(),
        }
        self.check();
    }

    fn write(&mut self, request: &WriteRequest) {
        let state = self.states.last().unwrap();
        let position = self.h.store.next_position();
        match (self.h.evaluate(request), state.evaluate(request)) {
            (Ok(done), Ok((next, expected))) => {
                assert_eq!(out(&self.h, &done), expected, "{request:?}");
                assert_eq!(done.revision.0, next.revision());
                assert_eq!(done.first_position, position);
                let Some(entry) = done.entry else {
                    assert_eq!(next.revision(), state.revision());
                    assert!(done.events.is_empty());
                    return;
                };
                assert_eq!(entry.index.0 as usize, self.states.len());
                self.check_events(&done.events, state, &next);
                let applied = self.replica.apply(entry.clone()).unwrap();
                assert_eq!(applied.first_position, position);
                assert_eq!(applied.events.len(), done.events.len());
                self.states.push(next);
            }
            (Err(got), Err(expected)) => {
                assert_eq!(got, expected, "{request:?}");
                assert_eq!(self.h.store.next_position(), position);
            }
            (got, expected) => panic!("{request:?}: {got:?}, expected {expected:?}"),
        }
    }

    fn check_events(&self, events: &[Event], before: &State, after: &State) {
        let mut keys = before.keys().clone();
        for event in events {
            let kv = self.h.kv(&event.kv);
            assert_eq!(event.prev.as_ref().map(|prev| self.h.kv(prev)).as_ref(), keys.get(&kv.key));
            assert_eq!(kv.modified, after.revision());
            match event.kind {
                EventKind::Put => {
                    keys.insert(kv.key.clone(), kv);
                }
                EventKind::Delete => {
                    let bare = Kv { key: kv.key.clone(), value: vec![], create: 0, version: 0, lease: 0, ..kv };
                    assert_eq!(kv, bare);
                    keys.remove(&kv.key);
                }
            }
        }
        assert_eq!(&keys, after.keys());
    }

    /// A read that other steps come between: it must show its revision's state, or not have begun.
    fn long_read(&mut self, request: Option<RangeRequest>) {
        if let Some((mut reader, request, at_start)) = self.long.take() {
            let fixed = at_start.unwrap_or_else(|| self.shown().clone());
            match reader.step(&self.h.store, 1) {
                Ok(true) => {
                    let values: Vec<_> = reader.wanted().into_iter().map(|at| self.h.db.value(at).unwrap()).collect();
                    reader.fill(values);
                    assert_eq!(Ok(self.h.range_out(&reader.finish())), fixed.range(&request), "{request:?}");
                }
                Ok(false) => self.long = Some((reader, request, Some(fixed))),
                Err(error) => assert_eq!(Err(error), fixed.range(&request).map(drop)),
            }
        } else if let Some(request) = request {
            match RangeReader::new(&request, &self.h.store) {
                Ok(reader) => self.long = Some((reader, request, None)),
                Err(error) => assert_eq!(Err(error), self.shown().range(&request).map(drop)),
            }
        }
    }

    fn hash(&mut self) {
        let rows: Vec<_> = self.h.db.rows.values().cloned().collect();
        let mut ours = HashKv::new(&self.h.store, Revision(0)).unwrap();
        ours.rows(&self.h.store, &rows);
        let mut theirs = HashKv::new(&self.replica, Revision(0)).unwrap();
        theirs.rows(&self.replica, &rows);
        assert_eq!(ours.finish(), theirs.finish());
    }

    /// Everything is written and shown, then rebuilt from rows alone.
    fn restart(&mut self) {
        self.long = None;
        self.h.settle();
        self.replica.set_visible(self.replica.last_index());
        self.visible = self.states.len() - 1;
        let mut store = self.h.reload(self.visible.is_multiple_of(2));
        std::mem::swap(&mut self.h.store, &mut store);
        assert_eq!(self.h.store.lease_count(), store.lease_count());
    }

    fn check(&self) {
        let shown = self.shown();
        for store in [&self.h.store, &self.replica] {
            assert_eq!(store.visible_revision().0, shown.revision());
            assert_eq!(store.compact_revision().0, shown.compact);
            assert_eq!(store.head_revision().0, self.states.last().unwrap().revision());
            assert_eq!(store.last_index().0 as usize, self.states.len() - 1);
            let mut leases: Vec<i64> = store.leases().iter().map(|id| id.0).collect();
            leases.sort();
            assert_eq!(leases, shown.leases.keys().copied().collect::<Vec<_>>());
            for (id, ttl) in &shown.leases {
                assert_eq!(store.lease(LeaseId(*id), 0).unwrap().granted_seconds, *ttl);
                let keys: Vec<_> =
                    shown.keys().values().filter(|kv| kv.lease == *id).map(|kv| kv.key.clone()).collect();
                assert_eq!(store.lease_keys(LeaseId(*id)), keys);
            }
        }
    }

    /// Every revision that is readable, on both.
    fn check_all(&self) {
        let shown = self.shown();
        for revision in shown.compact.max(1)..=shown.revision() {
            let request = RangeRequest {
                key: bytes::Bytes::from_static(b"\0"),
                range_end: bytes::Bytes::from_static(b"\0"),
                revision,
                ..Default::default()
            };
            let keys: &Keys = shown.keys_at(revision);
            let all = self.h.range(&request).unwrap();
            assert_eq!(all.kvs, keys.values().cloned().collect::<Vec<_>>());
            let mut reader = RangeReader::new(&request, &self.replica).unwrap();
            reader.step(&self.replica, usize::MAX).unwrap();
            let found = reader.finish().kvs;
            assert_eq!(found.len(), keys.len());
            for (kv, expected) in found.iter().zip(keys.values()) {
                assert_eq!(
                    (&kv.key[..], kv.version, kv.mod_revision.0),
                    (&expected.key[..], expected.version, expected.modified)
                );
            }
        }
        for kv in shown.keys().values() {
            let got = self.h.store.get(&kv.key, self.h.store.visible_revision()).unwrap().unwrap();
            assert_eq!(&self.h.kv(&got), kv);
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "how long to try is no input of the state machine")]
fn cases() -> u32 {
    std::env::var("NETSY_PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn store_replica_and_model_agree(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.check_all();
        world.step(Step::Restart);
        world.check_all();
        world.h.compact_physically(2);
        world.check_all();
        world.step(Step::Restart);
        world.check_all();
    }

    /// Compacted to its last revision, nothing is kept but one version of what exists, and deletes of that revision.
    #[test]
    fn compaction_leaves_nothing_behind(requests in prop::collection::vec(write(), 1..60)) {
        let mut h = Harness::default();
        for request in requests {
            // Refused requests are as good as others here.
            let _ = h.write(request);
        }
        let revision = h.store.visible_revision();
        let _ = h.compact(revision.0);
        let step = h.compact_physically(3);
        prop_assert!(step.done && !step.waiting);
        let live = h.store.get(b"a", revision).is_ok();
        prop_assert!(live);
        let mut keys = std::collections::BTreeSet::new();
        for row in h.db.rows.values().rev() {
            match &row.mutation {
                netsy_api::log::Mutation::Put { key, .. } => prop_assert!(keys.insert(key.clone()), "{:?}", row),
                netsy_api::log::Mutation::Delete { key } => {
                    prop_assert!(keys.insert(key.clone()));
                    prop_assert_eq!(row.revision, revision);
                }
                _ => {}
            }
        }
    }

    /// A transaction that only reads gives the same through the writer and through readers.
    #[test]
    fn reading_transactions_agree(
        requests in prop::collection::vec(write(), 1..30),
        compares in prop::collection::vec(compare(), 0..3),
        ranges in prop::collection::vec(range(), 0..4),
        budget in 1usize..9,
    ) {
        let mut h = Harness::default();
        for request in requests {
            let _ = h.write(request);
        }
        let ranges: Vec<RequestOp> =
            ranges.into_iter().map(|r| RequestOp { request: Some(Request::RequestRange(r)) }).collect();
        let txn = TxnRequest { compare: compares, success: ranges.clone(), failure: ranges };
        prop_assert!(is_read_only(&txn));
        let read = h.read_txn(&txn, budget).map(|(result, _)| h.ops_out(&result));
        let written = h.store.evaluate(h.term, UnixMillis(1), &WriteRequest::Txn(txn), &h.db);
        match (read, written) {
            (Ok(read), Ok(Evaluated { entry: None, outcome: Outcome::Txn(result), .. })) => {
                prop_assert_eq!(read, h.ops_out(&result));
            }
            (Err(a), Err(b)) => prop_assert_eq!(a, b),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
