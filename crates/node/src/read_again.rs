//! Reads that a snapshot got in the way of.
//!
//! A snapshot takes the local database's place first, and its state is shown once it is loaded. In between the state in
//! memory names rows that the snapshot's compaction let go: whoever misses one waits for the new state and begins again.

use crate::error::{NodeError, Unavailable};
use crate::node::{Inner, REQUEST_TIMEOUT};
use crate::shared::StateNumber;

/// Why a read came to nothing.
pub(crate) enum Unread {
    /// Another state took the place of the one that it began in.
    Replaced,
    /// A row that the state names cannot be read: an error, unless a snapshot has taken the database's place.
    Gone { state: StateNumber, error: NodeError },
    /// It would fail again.
    Failed(NodeError),
}

impl Unread {
    /// An error of the state machine, which reads values, too.
    pub(crate) fn of(error: netsy_mvcc::Error, state: StateNumber) -> Self {
        match error {
            netsy_mvcc::Error::ValueUnreadable { .. } => Self::Gone { state, error: error.into() },
            other => Self::Failed(other.into()),
        }
    }
}

impl From<NodeError> for Unread {
    fn from(error: NodeError) -> Self {
        Self::Failed(error)
    }
}

impl From<netsy_mvcc::Error> for Unread {
    fn from(error: netsy_mvcc::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Inner {
    /// Whether rows that `state` names may be gone since a snapshot has taken the database's place.
    pub(crate) fn is_lost(&self, state: StateNumber) -> bool {
        !self.follower.is_shown(&self.store) || self.store.read().number() != state
    }

    /// Waits until a read that came to nothing may be begun again. Error: there is no use in that.
    pub(crate) async fn may_read_again(&self, unread: Unread) -> Result<(), NodeError> {
        match unread {
            Unread::Replaced => Ok(()),
            Unread::Gone { state, .. } if self.is_lost(state) => self.wait_whole().await,
            Unread::Gone { error, .. } | Unread::Failed(error) => Err(error),
        }
    }

    /// Waits until the state that is shown is that of the local database.
    pub(crate) async fn wait_whole(&self) -> Result<(), NodeError> {
        let installed = self.follower.snapshot();
        let shown = tokio::time::timeout(REQUEST_TIMEOUT, self.wait_shown(installed)).await;
        shown.unwrap_or_else(|_| Err(Unavailable::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{load_through, store_config};
    use crate::node::Node;
    use futures::{StreamExt, poll};
    use netsy_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
    use netsy_api::etcdserverpb::request_op::Request;
    use netsy_api::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
    use netsy_api::ids::{Position, Revision};
    use netsy_api::log::Mutation;
    use netsy_localdb::{LogEnd, RestoreEnd, TermRun, Uploaded};
    use netsy_mvcc::{KvRef, OpResult, RangeResult, ValueRef, WriteRequest};
    use std::pin::pin;

    const COMPACTED: NodeError = NodeError::Mvcc(netsy_mvcc::Error::Compacted);

    fn put(key: &str, value: &'static str) -> PutRequest {
        PutRequest { key: key.to_owned().into(), value: value.into(), ..PutRequest::default() }
    }

    /// All, not linearizable, as a replica may be asked while it catches up.
    fn all() -> RangeRequest {
        let (key, range_end) = ("\0".into(), "\0".into());
        RangeRequest { key, range_end, serializable: true, ..RangeRequest::default() }
    }

    fn one(key: &'static str, revision: Revision) -> RangeRequest {
        RangeRequest { key: key.into(), revision: revision.0, serializable: true, ..RangeRequest::default() }
    }

    /// A node that holds no value in memory, with the keys `a`, so many between, and `z`.
    async fn started(between: usize) -> (Node, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("folder");
        let storage = netsy_objects::StorageConfig::file(folder.path().join("store"));
        let buckets = netsy_objects::open(&storage).await.expect("a bucket");
        let mut config = crate::config::tests::config(&folder.path().join("node"));
        config.value_cache_bytes_max = 0;
        let node = Node::start(config, buckets, None).await.expect("starts");
        node.serving().await.expect("serves");
        node.write(WriteRequest::Put(put("a", "old"))).await.expect("a write");
        let keys: Vec<String> = (0..between).map(|n| format!("m{n:04}")).collect();
        for keys in keys.chunks(100) {
            let puts = keys.iter().map(|key| RequestOp { request: Some(Request::RequestPut(put(key, "old"))) });
            let txn = TxnRequest { success: puts.collect(), ..TxnRequest::default() };
            node.write(WriteRequest::Txn(txn)).await.expect("a write");
        }
        node.write(WriteRequest::Put(put("z", "old"))).await.expect("a write");
        (node, folder)
    }

    /// As a replica: takes a snapshot in which `z` is another, and compacted there.
    async fn install(node: &Node) {
        let node = &node.0;
        node.wait_held_locally(node.shown_index()).await.expect("held");
        let mut rows = node.readers.rows_after(Position(0), usize::MAX, usize::MAX).expect("rows");
        let last = rows.pop().expect("a row");
        let Mutation::Put { key, create_revision, lease, .. } = last.mutation.clone() else { panic!("no put") };
        assert_eq!(key, "z");
        let revision = Revision(last.revision.0 + 1);
        let put = Mutation::Put { key, value: "new".into(), create_revision, version: 2, lease };
        let mut index = last.index;
        for mutation in [put, Mutation::Compact { revision }] {
            index = index.next();
            let position = Position(last.position.0 + index.0 - last.index.0);
            rows.push(netsy_api::log::Row { position, index, revision, sub: 0, mutation, ..last.clone() });
        }
        let position = Position(last.position.0 + 2);
        let end = LogEnd { index, term: last.term, position, revision };
        let runs = vec![TermRun { term: last.term, first_index: netsy_api::ids::LogIndex(1) }];
        let visible_index = node.shown_index();
        let follower = node.follower.clone();
        let installed = node.thread.with(move |db| {
            let mut built = db.begin_restore()?;
            built.push_rows(&rows)?;
            built.end_snapshot(end, runs)?;
            follower.installed(index);
            db.finish_restore(built, &RestoreEnd { visible_index, uploaded: Uploaded::default() })
        });
        installed.await.expect("the log thread").expect("installs");
    }

    /// What the follower's thread does in its turn.
    async fn show(node: &Node) {
        let node = node.0.clone();
        let through = node.follower.snapshot();
        let shown = tokio::task::spawn_blocking(move || {
            let store = load_through(&node, through, store_config(&node.config)).expect("loads");
            node.replace_state(store);
        });
        shown.await.expect("shown");
    }

    fn value(kv: &KvRef) -> &[u8] {
        match &kv.value {
            ValueRef::Here(value) => value,
            other => panic!("{other:?}"),
        }
    }

    fn values(result: &RangeResult) -> Vec<(&[u8], &[u8])> {
        result.kvs.iter().map(|kv| (&kv.key[..], value(kv))).collect()
    }

    #[tokio::test]
    async fn a_read_of_what_a_snapshot_let_go_waits_for_it_and_begins_again() {
        let (node, _folder) = started(0).await;
        let before = node.revision();
        install(&node).await;
        let (now, old) = (one("z", Revision(0)), one("z", before));
        let (mut now, mut old) = (pin!(node.range(&now)), pin!(node.range(&old)));
        let compare = Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Value as i32,
            key: "z".into(),
            target_union: Some(TargetUnion::Value("new".into())),
            ..Compare::default()
        };
        let range = RequestOp { request: Some(Request::RequestRange(one("z", Revision(0)))) };
        let txn = TxnRequest { compare: vec![compare], success: vec![range], ..TxnRequest::default() };
        let mut txn = pin!(node.read_txn(&txn));
        assert!(poll!(&mut now).is_pending() && poll!(&mut old).is_pending() && poll!(&mut txn).is_pending());
        let still = node.range(&one("a", before)).await.expect("a row that is in both");
        assert_eq!(values(&still), [(&b"a"[..], &b"old"[..])]);
        let hash = tokio::spawn({
            let node = node.clone();
            async move { node.hash_kv(Revision(0)).await }
        });
        show(&node).await;
        assert_eq!(values(&now.await.expect("read")), [(&b"z"[..], &b"new"[..])]);
        assert_eq!(old.await, Err(COMPACTED));
        let (result, _) = txn.await.expect("read");
        assert!(result.succeeded);
        assert!(matches!(&result.responses[..], [OpResult::Range(range)] if value(&range.kvs[0]) == b"new"));
        assert_eq!(hash.await.expect("a task").expect("a hash"), node.hash_kv(Revision(0)).await.expect("a hash"));
        node.finish().await;
    }

    #[tokio::test]
    async fn a_long_read_that_a_snapshot_comes_into_begins_again() {
        let (node, _folder) = started(600).await;
        let range = RequestOp { request: Some(Request::RequestRange(all())) };
        let txn = TxnRequest { success: vec![range], ..TxnRequest::default() };
        let mut txn = pin!(node.read_txn(&txn));
        assert!(poll!(&mut txn).is_pending(), "after its first step");
        install(&node).await;
        show(&node).await;
        let (result, _) = txn.await.expect("read");
        let [OpResult::Range(range)] = &result.responses[..] else { panic!("{result:?}") };
        assert_eq!(range.kvs.len(), 602);
        assert_eq!(range.kvs.last().map(value), Some(&b"new"[..]));
        node.finish().await;
    }

    #[tokio::test]
    async fn no_snapshot_is_written_across_another() {
        let (node, _folder) = started(0).await;
        let state = node.0.store.read().number();
        let rows = || crate::snapshotter::rows_before(node.0.clone(), state, Position(u64::MAX));
        let before: Vec<_> = rows().collect().await;
        assert!(!before.is_empty() && before.iter().all(Result::is_ok));
        install(&node).await;
        assert!(pin!(rows()).next().await.expect("an end").is_err());
        show(&node).await;
        assert!(pin!(rows()).next().await.expect("an end").is_err());
        node.finish().await;
    }

    #[tokio::test]
    async fn slices_that_a_snapshot_comes_between() {
        let (node, _folder) = started(0).await;
        let mut begun = node.range_pages(all(), 1).await.expect("begins");
        let slice = begun.next(1).await.expect("read").expect("a slice");
        assert_eq!(values(&slice), [(&b"a"[..], &b"old"[..])]);
        let mut untold = node.range_pages(all(), 10).await.expect("begins");
        let mut of_before =
            node.range_pages(RangeRequest { revision: node.revision().0, ..all() }, 1).await.expect("begins");
        install(&node).await;
        {
            let (mut next, mut first) = (pin!(begun.next(1)), pin!(untold.next(10)));
            assert!(poll!(&mut next).is_pending() && poll!(&mut first).is_pending());
            show(&node).await;
            assert!(matches!(next.await, Err(COMPACTED)), "part of it was told of the state before");
            let whole = first.await.expect("read").expect("a slice");
            assert_eq!(values(&whole), [(&b"a"[..], &b"old"[..]), (&b"z"[..], &b"new"[..])]);
        }
        assert!(matches!(of_before.next(1).await, Err(COMPACTED)));
        node.finish().await;
    }
}
