//! What clients do: all kinds of operations on keys that all of them use, through any node.

use crate::record::{Recorder, Shared};
use crate::scenario::Workload;
use bytes::Bytes;
use netsy_api::etcdserverpb as pb;
use netsy_e2e::ops;
use netsy_e2e::random::Random;
use netsy_history::{Answer, Outcome, Request};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// After an answer that says nothing, or none.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Leases that expire while a run lasts, seconds.
const TTL: [i64; 3] = [2, 3, 5];
/// Keys of transactions that write several.
const GROUP_MAX: u64 = 4;
/// So far behind the newest revision compactions stay.
const COMPACT_BEHIND: i64 = 200;
/// So far behind, reads of the past go.
const READ_BEHIND: u64 = 100;

/// One client's work.
pub struct Worker {
    recorder: Recorder,
    random: Random,
    workload: Workload,
    /// What it last saw of keys: their mod revisions.
    seen: BTreeMap<String, i64>,
    leases: Vec<i64>,
}

impl Worker {
    /// A client that has not begun.
    pub fn new(shared: Arc<Shared>, number: u32, workload: &Workload, random: Random) -> Self {
        let recorder = Recorder::new(shared, number, Duration::from_millis(workload.timeout_ms));
        Self { recorder, random, workload: workload.clone(), seen: BTreeMap::new(), leases: Vec::new() }
    }

    /// Works until told to stop.
    pub async fn run(mut self) {
        while self.recorder.goes_on().await {
            let node = self.random.below(self.recorder.shared.nodes.len() as u64) as usize;
            let request = self.request();
            let outcome = self.recorder.ask(node, request.clone()).await;
            match &outcome {
                None | Some(Outcome::Unknown) => tokio::time::sleep(BACK_OFF).await,
                Some(outcome) => self.learn(&request, outcome),
            }
            tokio::time::sleep(Duration::from_millis(self.random.below(2 * self.workload.pause_ms + 1))).await;
        }
    }

    fn learn(&mut self, request: &Request, outcome: &Outcome) {
        match (request, outcome) {
            (Request::Range(range), Outcome::Done(done)) if range.range_end.is_empty() && range.revision == 0 => {
                if let Answer::Range(answer) = &done.answer {
                    let found = answer.kvs.first().map_or(0, |kv| kv.mod_revision);
                    self.seen.insert(String::from_utf8_lossy(&range.key).into_owned(), found);
                }
            }
            (Request::Put(put), Outcome::Done(done)) => {
                self.seen.insert(String::from_utf8_lossy(&put.key).into_owned(), done.revision);
            }
            (Request::LeaseGrant { id, .. }, Outcome::Done(_)) => self.leases.push(*id),
            (Request::LeaseKeepAlive { id } | Request::LeaseRevoke { id }, Outcome::Refused(_)) => {
                self.leases.retain(|lease| lease != id);
            }
            (Request::LeaseRevoke { id }, _) => self.leases.retain(|lease| lease != id),
            (Request::LeaseKeepAlive { id }, Outcome::Done(done))
                if done.answer == (Answer::LeaseKeepAlive { ttl: 0 }) =>
            {
                self.leases.retain(|lease| lease != id);
            }
            _ => {}
        }
    }

    fn key(&mut self) -> String {
        format!("k/{:02}", self.random.below(self.workload.keys))
    }

    fn value(&mut self) -> String {
        let number = self.recorder.shared.next();
        let length = if self.random.chance(2) { self.random.below(self.workload.large_value + 1) } else { 10 };
        format!("{number}:{}", "x".repeat(length as usize))
    }

    fn put(&mut self) -> pb::PutRequest {
        let (key, value) = (self.key(), self.value());
        pb::PutRequest { prev_kv: self.random.chance(30), ..ops::put(key, value) }
    }

    fn lease(&mut self) -> Option<i64> {
        let count = self.leases.len() as u64;
        (count > 0).then(|| self.leases[self.random.below(count) as usize])
    }

    fn request(&mut self) -> Request {
        match self.random.below(100) {
            0..28 => Request::Put(self.put()),
            28..33 => {
                let key = self.key();
                let delete = ops::delete(key);
                Request::DeleteRange(pb::DeleteRangeRequest { prev_kv: self.random.chance(50), ..delete })
            }
            33..35 => {
                let from = self.random.below(self.workload.keys);
                Request::DeleteRange(ops::delete_range(format!("k/{from:02}"), format!("k/{:02}", from + 3)))
            }
            35..45 => self.several(),
            45..57 => self.compare_and_put(),
            57..69 => Request::Range(ops::get(self.key())),
            69..77 => Request::Range(pb::RangeRequest { serializable: true, ..ops::get(self.key()) }),
            77..82 => {
                let serializable = self.random.chance(50);
                let limit = if self.random.chance(30) { 5 } else { 0 };
                Request::Range(pb::RangeRequest { serializable, limit, ..ops::prefix("k/") })
            }
            82..85 => {
                let newest = self.recorder.shared.revision.load(Ordering::SeqCst);
                let revision = (newest - self.random.below(READ_BEHIND) as i64).max(1);
                Request::Range(pb::RangeRequest { revision, ..ops::prefix("k/") })
            }
            85 if self.workload.compactions && self.random.chance(20) => {
                let revision = self.recorder.shared.revision.load(Ordering::SeqCst) - COMPACT_BEHIND;
                Request::Compact { revision: revision.max(1) }
            }
            86..100 if self.workload.leases => self.lease_request(),
            _ => Request::Put(self.put()),
        }
    }

    fn lease_request(&mut self) -> Request {
        let Some(id) = self.lease().filter(|_| self.random.chance(75)) else {
            let id = 1_000_000 + self.recorder.shared.next() as i64;
            return Request::LeaseGrant { id, ttl: TTL[self.random.below(TTL.len() as u64) as usize] };
        };
        match self.random.below(100) {
            0..45 => {
                let (number, value) = (self.random.below(4), self.value());
                Request::Put(pb::PutRequest { lease: id, ..ops::put(format!("l/{id}/{number}"), value) })
            }
            45..75 => Request::LeaseKeepAlive { id },
            75..90 => Request::LeaseTimeToLive { id, keys: true },
            _ => Request::LeaseRevoke { id },
        }
    }

    /// A transaction that writes several keys, and reads what it wrote.
    fn several(&mut self) -> Request {
        let mut keys: Vec<String> = (0..2 + self.random.below(GROUP_MAX - 1)).map(|_| self.key()).collect();
        keys.sort();
        keys.dedup();
        let mut success: Vec<pb::RequestOp> = Vec::new();
        for key in &keys {
            success.push(match self.random.below(5) {
                0 => ops::op(ops::delete(key.as_str())),
                _ => ops::op(ops::put(key.as_str(), self.value())),
            });
        }
        success.push(ops::op(ops::get(keys[0].as_str())));
        if self.random.chance(25) {
            let inner = success.split_off(1);
            success.push(ops::op(ops::txn(vec![], inner, vec![])));
        }
        Request::Txn(ops::txn(vec![], success, vec![]))
    }

    fn compare_and_put(&mut self) -> Request {
        let key = self.key();
        let expected = self.seen.get(&key).copied().unwrap_or(0);
        let put = ops::op(ops::put(key.as_str(), self.value()));
        let look = ops::op(ops::get(key.as_str()));
        Request::Txn(ops::txn(vec![ops::mod_is(key.as_str(), expected)], vec![put], vec![look]))
    }
}

/// Everything there is.
pub fn read_all(serializable: bool) -> Request {
    let all = ops::range(Bytes::from_static(ops::OPEN), Bytes::from_static(ops::OPEN));
    Request::Range(pb::RangeRequest { serializable, ..all })
}
