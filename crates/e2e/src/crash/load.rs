//! The work that a server is killed under: several writers, each with keys of its own and keys shared with all.

use super::checker::MAY_EXPIRE_BELOW;
use super::history::{Change, LeaseChange, Op, Outcome};
use crate::client::Client;
use crate::ops;
use crate::random::Random;
use netsy_api::etcdserverpb as pb;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tonic::{Code, Status};

/// Keys that every writer puts to.
const SHARED_KEYS: u64 = 16;
/// A writer whose call gets no answer for so long gives it up.
const CALL_WITHIN: Duration = Duration::from_secs(20);
/// No run takes so many seconds.
const LONG_TTL: i64 = 90_000;
/// The shortest that a server grants.
const SHORT_TTL: i64 = 2;

/// What all writers of a run share.
#[derive(Default)]
pub struct Shared {
    clock: AtomicU64,
    value: AtomicU64,
    lease: AtomicU64,
    /// The newest revision whose compaction was acknowledged.
    pub compacted: AtomicI64,
    /// Set to end the writers between two calls.
    pub stop: AtomicBool,
}

impl Shared {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

/// What a writer takes over from earlier lives; nobody else touches it.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// Keys without a lease.
    pub keys: BTreeSet<String>,
    /// Leases with their keys.
    pub leases: BTreeMap<i64, BTreeSet<String>>,
}

/// One writer in one life.
pub struct Writer {
    client: Client,
    shared: Arc<Shared>,
    random: Random,
    life: u32,
    /// Of its keys: `life/writer`.
    name: String,
    keys_made: u64,
    own: Holdings,
    known: BTreeMap<String, i64>,
    done: Vec<Op>,
}

impl Writer {
    /// A writer that has not begun.
    pub fn new(client: Client, shared: Arc<Shared>, random: Random, life: u32, number: usize, own: Holdings) -> Self {
        let name = format!("{life}/{number}");
        Self { client, shared, random, life, name, keys_made: 0, own, known: BTreeMap::new(), done: Vec::new() }
    }

    /// Works until it is told to stop or a call's outcome is unknown; gives what it did.
    pub async fn run(mut self) -> Vec<Op> {
        while !self.shared.stop.load(Ordering::SeqCst) {
            let sure = match self.random.below(100) {
                0..35 => self.put_shared().await,
                35..50 => self.put_own().await,
                50..65 => self.put_several().await,
                65..77 => self.compare_and_put().await,
                77..83 => self.delete_own().await,
                83..90 => self.attach().await,
                90..94 => self.revoke().await,
                94..96 => self.attach_short().await,
                _ => self.read().await,
            };
            if !sure {
                break;
            }
        }
        self.done
    }

    fn value(&mut self) -> String {
        let number = self.shared.value.fetch_add(1, Ordering::SeqCst);
        // Now and then one that does not fit into a page.
        let length = if self.random.chance(4) { self.random.below(40_000) } else { self.random.below(64) };
        format!("{number}:{}", "x".repeat(length as usize))
    }

    fn shared_key(&mut self) -> String {
        format!("s/{:02}", self.random.below(SHARED_KEYS))
    }

    fn new_key(&mut self, kind: &str) -> String {
        self.keys_made += 1;
        format!("{kind}/{}/{:06}", self.name, self.keys_made)
    }

    fn put_change(&mut self, key: String, lease: i64) -> Change {
        Change::Put { key, value: self.value(), lease }
    }

    /// Sends a transaction of these changes and keeps what came of it. False: the outcome is unknown.
    async fn send(&mut self, compare: Vec<pb::Compare>, changes: Vec<Change>) -> bool {
        let mut success: Vec<pb::RequestOp> = changes.iter().map(request_of).collect();
        // Nested and plain transactions do the same.
        if success.len() > 1 && self.random.chance(20) {
            let inner = success.split_off(1);
            success.push(ops::op(ops::txn(vec![], inner, vec![])));
        }
        let request = ops::txn(compare, success, vec![]);
        let client = self.client.clone();
        let call = async move {
            let answer = client.txn(request).await?;
            Ok((answer.header.map_or(0, |header| header.revision), answer.succeeded))
        };
        self.record(changes, LeaseChange::Nothing, call).await
    }

    async fn record(
        &mut self,
        changes: Vec<Change>,
        lease: LeaseChange,
        call: impl Future<Output = Result<(i64, bool), Status>>,
    ) -> bool {
        let invoked = self.shared.tick();
        let outcome = match tokio::time::timeout(CALL_WITHIN, call).await {
            Ok(Ok((revision, applied))) => Outcome::Acked { revision, applied },
            Ok(Err(status)) if surely_refused(&status) => Outcome::Refused,
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        };
        let returned = if outcome == Outcome::Unknown { u64::MAX } else { self.shared.tick() };
        if let Outcome::Acked { revision, applied: true } = outcome {
            self.remember(&changes, revision);
        }
        self.done.push(Op { life: self.life, invoked, returned, changes, lease, outcome });
        outcome != Outcome::Unknown
    }

    fn remember(&mut self, changes: &[Change], revision: i64) {
        for change in changes {
            match change {
                Change::Put { key, lease: 0, .. } if key.starts_with("o/") => drop(self.own.keys.insert(key.clone())),
                Change::Put { key, .. } if key.starts_with("s/") => drop(self.known.insert(key.clone(), revision)),
                Change::Put { key, lease, .. } if key.starts_with("l/") => {
                    self.own.leases.entry(*lease).or_default().insert(key.clone());
                }
                Change::Put { .. } => {}
                Change::Delete { key } => drop(self.own.keys.remove(key)),
            }
        }
    }

    async fn put_shared(&mut self) -> bool {
        let key = self.shared_key();
        let change = self.put_change(key, 0);
        self.put(change).await
    }

    async fn put_own(&mut self) -> bool {
        let key = self.new_key("o");
        let change = self.put_change(key, 0);
        self.put(change).await
    }

    async fn put(&mut self, change: Change) -> bool {
        let Change::Put { key, value, lease } = &change else { return true };
        let request = pb::PutRequest { lease: *lease, ..ops::put(key.as_str(), value.as_str()) };
        let client = self.client.clone();
        let call = async move { Ok((client.try_put(request).await?.header.map_or(0, |header| header.revision), true)) };
        self.record(vec![change], LeaseChange::Nothing, call).await
    }

    async fn put_several(&mut self) -> bool {
        let mut changes = Vec::new();
        for _ in 0..2 + self.random.below(4) {
            let key = self.new_key("o");
            changes.push(self.put_change(key, 0));
        }
        let shared = self.shared_key();
        changes.push(self.put_change(shared, 0));
        if let Some(key) = self.own.keys.first() {
            changes.push(Change::Delete { key: key.clone() });
        }
        self.send(vec![], changes).await
    }

    async fn compare_and_put(&mut self) -> bool {
        let key = self.shared_key();
        let expected = self.known.get(&key).copied().unwrap_or(0);
        let change = self.put_change(key.clone(), 0);
        let sure = self.send(vec![ops::mod_is(key.as_str(), expected)], vec![change]).await;
        if matches!(self.done.last().map(|op| op.outcome), Some(Outcome::Acked { applied: false, .. })) {
            let found = self.client.try_get(key.as_str()).await;
            let found = found.ok().and_then(|answer| answer.kvs.into_iter().next());
            self.known.insert(key, found.map_or(0, |kv| kv.mod_revision));
        }
        sure
    }

    /// Deletes all its keys under one name, as a range.
    async fn delete_own(&mut self) -> bool {
        let Some(first) = self.own.keys.first().cloned() else { return true };
        let group = first.rsplit_once('/').map_or(first.clone(), |(group, _)| format!("{group}/"));
        let of_group: Vec<Change> = self
            .own
            .keys
            .iter()
            .filter(|key| key.starts_with(&group))
            .map(|key| Change::Delete { key: key.clone() })
            .collect();
        let request = ops::delete_range(group.as_str(), ops::prefix_end(group.as_bytes()));
        let client = self.client.clone();
        let call =
            async move { Ok((client.delete_range(request).await?.header.map_or(0, |header| header.revision), true)) };
        self.record(of_group, LeaseChange::Nothing, call).await
    }

    async fn grant(&mut self, ttl: i64) -> Option<i64> {
        let id = 1000 + self.shared.lease.fetch_add(1, Ordering::SeqCst) as i64;
        let client = self.client.clone();
        let call =
            async move { Ok((client.try_grant(ttl, id).await?.header.map_or(0, |header| header.revision), true)) };
        self.record(vec![], LeaseChange::Grant { id, ttl }, call).await.then_some(id)
    }

    async fn attach(&mut self) -> bool {
        let Some(id) = self.grant(LONG_TTL).await else { return false };
        self.own.leases.entry(id).or_default();
        self.put_attached("l", id).await
    }

    async fn attach_short(&mut self) -> bool {
        const { assert!(SHORT_TTL < MAY_EXPIRE_BELOW) };
        let Some(id) = self.grant(SHORT_TTL).await else { return false };
        self.put_attached("x", id).await
    }

    async fn put_attached(&mut self, kind: &str, lease: i64) -> bool {
        let mut changes = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            let key = self.new_key(kind);
            changes.push(self.put_change(key, lease));
        }
        self.send(vec![], changes).await
    }

    async fn revoke(&mut self) -> bool {
        let Some((id, keys)) = self.own.leases.pop_first() else { return true };
        let changes = keys.into_iter().map(|key| Change::Delete { key }).collect();
        let client = self.client.clone();
        let call = async move { Ok((client.revoke(id).await?.header.map_or(0, |header| header.revision), true)) };
        self.record(changes, LeaseChange::Revoke { id }, call).await
    }

    async fn read(&mut self) -> bool {
        let key = self.shared_key();
        let client = self.client.clone();
        let call = async move { Ok((client.try_get(key).await?.header.map_or(0, |header| header.revision), true)) };
        self.record(vec![], LeaseChange::Nothing, call).await
    }
}

fn request_of(change: &Change) -> pb::RequestOp {
    match change {
        Change::Put { key, value, lease } => {
            ops::op(pb::PutRequest { lease: *lease, ..ops::put(key.as_str(), value.as_str()) })
        }
        Change::Delete { key } => ops::op(ops::delete(key.as_str())),
    }
}

/// Codes that are given before anything is done. Everything else may have been done.
fn surely_refused(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::OutOfRange
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unimplemented
    )
}
