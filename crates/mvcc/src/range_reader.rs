//! Reading a range at one revision, in steps that each hold the state's lock for a short time (etcd.md 2.3).

use crate::check::check_range;
use crate::error::Error;
use crate::key_index::Version;
use crate::key_range::KeyRange;
use crate::pins::Pin;
use crate::store::Store;
use crate::types::{KvRef, ValueRef};
use bytes::{Bytes, BytesMut};
use netsy_api::etcdserverpb::RangeRequest;
use netsy_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use netsy_api::ids::{Position, Revision};
use std::ops::ControlFlow;

/// Bytes that keys of a result are gathered in, so that a long one costs few allocations.
const KEY_CHUNK_BYTES: usize = 16 << 10;

/// The most results that room is made for at once, unless there are several times as many already.
const GROWTH_MAX: usize = 32 << 10;

/// What a range came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeResult {
    /// In the order asked for.
    pub kvs: Vec<KvRef>,
    /// Whether the limit left some out.
    pub more: bool,
    /// Keys in the range at that revision, whatever limit and filters say.
    pub count: i64,
    /// The store's revision when the read began, not the one that was asked for.
    pub header_revision: Revision,
}

#[derive(Debug)]
struct Filters {
    mod_revision: (i64, i64),
    create_revision: (i64, i64),
}

impl Filters {
    fn of(request: &RangeRequest) -> Option<Self> {
        let r = request;
        let all = [r.min_mod_revision, r.max_mod_revision, r.min_create_revision, r.max_create_revision];
        let span = |min: i64, max: i64| (if min == 0 { i64::MIN } else { min }, if max == 0 { i64::MAX } else { max });
        all.iter().any(|bound| *bound != 0).then(|| Self {
            mod_revision: span(r.min_mod_revision, r.max_mod_revision),
            create_revision: span(r.min_create_revision, r.max_create_revision),
        })
    }

    fn accept(&self, version: &Version) -> bool {
        let within = |revision: Revision, (min, max): (i64, i64)| min <= revision.0 && revision.0 <= max;
        within(version.main, self.mod_revision) && within(version.create, self.create_revision)
    }
}

#[derive(Debug)]
struct Started {
    at: Revision,
    header: Revision,
    /// From the first step that did not finish on.
    pin: Option<Pin>,
}

/// See above. [`step`](Self::step) until it says so, then [`finish`](Self::finish). In between a compaction does not
/// disturb it.
#[derive(Debug)]
pub struct RangeReader {
    range: KeyRange,
    requested: Option<Revision>,
    order: SortOrder,
    target: SortTarget,
    /// How many the client wants.
    limit: usize,
    /// How many are collected.
    fetch: usize,
    keys_only: bool,
    count_only: bool,
    filters: Option<Filters>,
    started: Option<Started>,
    /// Something collected has its value elsewhere.
    has_stored: bool,
    after: Option<Box<[u8]>>,
    looked_at: usize,
    collected: usize,
    count: u64,
    kvs: Vec<KvRef>,
    key_bytes: usize,
    done: bool,
}

impl RangeReader {
    /// Checks the request. Its revision is fixed by the first step, which may be under a later lock.
    pub fn new(request: &RangeRequest, store: &Store) -> Result<Self, Error> {
        let reader = Self::prepare(request)?;
        if let Some(revision) = reader.requested {
            store.check_revision(revision)?;
        }
        Ok(reader)
    }

    /// A read at `at`, whatever readers see.
    pub(crate) fn fixed(request: &RangeRequest, at: Revision, header: Revision) -> Result<Self, Error> {
        let mut reader = Self::prepare(request)?;
        let at = reader.requested.unwrap_or(at);
        reader.started = Some(Started { at, header, pin: None });
        Ok(reader)
    }

    fn prepare(request: &RangeRequest) -> Result<Self, Error> {
        let (order, target) = check_range(request)?;
        let filters = Filters::of(request);
        let limit = usize::try_from(request.limit).ok().filter(|l| *l > 0).unwrap_or(usize::MAX);
        let in_key_order = target == SortTarget::Key && order != SortOrder::Descend;
        let fetch = if filters.is_some() || (order != SortOrder::None && !in_key_order) {
            usize::MAX
        } else if in_key_order {
            limit
        } else {
            // As etcd has it, the limit comes before a sort that was asked for by target only.
            limit.saturating_add(1)
        };
        Ok(Self {
            range: KeyRange::new(&request.key, &request.range_end),
            requested: (request.revision > 0).then_some(Revision(request.revision)),
            order,
            target,
            limit,
            fetch: if request.count_only { 0 } else { fetch },
            keys_only: request.keys_only,
            count_only: request.count_only,
            filters,
            started: None,
            has_stored: false,
            after: None,
            looked_at: 0,
            collected: 0,
            count: 0,
            kvs: Vec::new(),
            key_bytes: 0,
            done: false,
        })
    }

    /// Reads on over at most `keys_budget` keys (at least one), under a read lock of the caller's; `true`: that was all.
    pub fn step(&mut self, store: &Store, keys_budget: usize) -> Result<bool, Error> {
        if self.done {
            return Ok(true);
        }
        let at = match &self.started {
            Some(started) => started.at,
            None => {
                let at = self.requested.unwrap_or(store.visible.revision);
                store.check_revision(at)?;
                self.started = Some(Started { at, header: store.visible.revision, pin: None });
                at
            }
        };
        if let Some(key) = self.range.single() {
            if let Some(version) = store.index.get(key).and_then(|versions| versions.at(at)) {
                self.count = 1;
                if self.fetch > 0 && self.filters.as_ref().is_none_or(|f| f.accept(version)) {
                    let key = Bytes::copy_from_slice(key);
                    self.collect(store, key, version);
                }
            }
            self.looked_at = 1;
            self.done = true;
            return Ok(true);
        }
        self.make_room(keys_budget);
        let mut chunk = BytesMut::new();
        let mut looked_at = 0;
        let after = self.after.take();
        let range = std::mem::replace(&mut self.range, KeyRange::new(&[], &[]));
        let stopped_at = store.index.for_each(&range, after.as_deref(), |key, versions| {
            if let Some(version) = versions.at(at) {
                if self.collected < self.fetch && self.filters.as_ref().is_none_or(|f| f.accept(version)) {
                    if chunk.capacity() < key.len() {
                        chunk = BytesMut::with_capacity(KEY_CHUNK_BYTES.max(key.len()));
                    }
                    key.parts().iter().for_each(|part| chunk.extend_from_slice(part));
                    self.collect(store, chunk.split().freeze(), version);
                }
                self.count += 1;
            }
            looked_at += 1;
            if looked_at >= keys_budget { ControlFlow::Break(key) } else { ControlFlow::Continue(()) }
        });
        self.range = range;
        self.looked_at += looked_at;
        self.done = stopped_at.is_none();
        if let Some(key) = stopped_at {
            self.after = Some(key.to_vec().into());
            if let Some(started) = self.started.as_mut().filter(|s| s.pin.is_none()) {
                started.pin = Some(store.pins.pin(at));
            }
        }
        Ok(self.done)
    }

    /// Further steps are in `store`, which took the place of the state before. Error: what is read is compacted in it.
    pub fn go_on_in(&mut self, store: &Store) -> Result<(), Error> {
        if let Some(started) = &mut self.started {
            store.check_revision(started.at)?;
            started.pin = Some(store.pins.pin(started.at));
        }
        Ok(())
    }

    /// Reads all, over at most `keys_max` keys, without letting go of the lock; returns how many were looked at.
    pub(crate) fn step_within(&mut self, store: &Store, keys_max: usize) -> Result<usize, Error> {
        let done = self.step(store, keys_max.saturating_add(1))?;
        let looked_at = self.looked_at;
        if done { Ok(looked_at) } else { Err(Error::TooManyOps) }
    }

    /// For what a further step may find. Were the result doubled each time, a long one would be copied several times.
    fn make_room(&mut self, keys_budget: usize) {
        let wanted = keys_budget.min(self.fetch.saturating_sub(self.collected));
        if self.looked_at > 0 && self.kvs.capacity() - self.kvs.len() < wanted {
            self.kvs.reserve_exact(growth(self.kvs.len(), wanted));
        }
    }

    fn collect(&mut self, store: &Store, key: Bytes, version: &Version) {
        self.collected += 1;
        self.key_bytes += key.len();
        let mut kv = KvRef {
            key,
            create_revision: version.create,
            mod_revision: version.main,
            version: version.version,
            lease: version.lease,
            value: ValueRef::Omitted,
        };
        if !self.keys_only || self.target == SortTarget::Value {
            kv.value = store.value_ref(version);
            self.has_stored |= matches!(kv.value, ValueRef::Stored(_));
        }
        self.kvs.push(kv);
    }

    /// Whether what is collected is in its final order already, so that it may be sent on in pages
    /// ([`take_page`](Self::take_page)): no sorting but by ascending key, no revision filter.
    pub fn can_page(&self) -> bool {
        self.filters.is_none() && self.target == SortTarget::Key && self.order != SortOrder::Descend
    }

    /// Takes what was collected since the last call: at most the budget of the steps in between. Only where
    /// [`can_page`](Self::can_page). `finish` then returns the rest.
    pub fn take_page(&mut self) -> Vec<KvRef> {
        std::mem::take(&mut self.kvs)
    }

    /// Bytes of memory that the result takes so far beside values, where no page was taken.
    pub fn own_bytes(&self) -> usize {
        self.kvs.len() * size_of::<KvRef>() + self.key_bytes
    }

    /// The revision that is read, once there was a step.
    pub fn revision(&self) -> Option<Revision> {
        self.started.as_ref().map(|s| s.at)
    }

    /// Whether something that was collected so far has its value in the local database only.
    pub fn has_stored(&self) -> bool {
        self.has_stored
    }

    /// Keys looked at so far.
    pub(crate) fn looked_at(&self) -> usize {
        self.looked_at
    }

    /// Rows whose values must be given to [`fill`](Self::fill) before `finish`: of a sort by value those that are
    /// not in memory, else none.
    pub fn wanted(&self) -> Vec<Position> {
        if self.target != SortTarget::Value {
            return Vec::new();
        }
        let stored = self.kvs.iter().filter_map(|kv| match kv.value {
            ValueRef::Stored(at) => Some(at),
            _ => None,
        });
        stored.collect()
    }

    /// Values for [`wanted`](Self::wanted), in that order.
    pub fn fill(&mut self, values: impl IntoIterator<Item = Bytes>) {
        let stored = self.kvs.iter_mut().filter(|kv| matches!(kv.value, ValueRef::Stored(_)));
        for (kv, value) in stored.zip(values) {
            kv.value = ValueRef::Here(value);
        }
    }

    /// The result, once `step` said that it was all and wanted values were filled in.
    pub fn finish(mut self) -> RangeResult {
        let count = i64::try_from(self.count).unwrap_or(i64::MAX);
        let more = if self.count_only {
            false
        } else if self.fetch == usize::MAX {
            self.kvs.len() > self.limit
        } else {
            self.count > self.limit as u64
        };
        self.sort();
        self.kvs.truncate(self.limit);
        if self.keys_only {
            for kv in &mut self.kvs {
                kv.value = ValueRef::Omitted;
            }
        }
        let header_revision = self.started.map_or(Revision(0), |s| s.header);
        RangeResult { kvs: self.kvs, more, count, header_revision }
    }

    fn sort(&mut self) {
        fn value(kv: &KvRef) -> &[u8] {
            match &kv.value {
                ValueRef::Here(bytes) => bytes,
                ValueRef::Stored(_) | ValueRef::Omitted => &[],
            }
        }
        match self.target {
            SortTarget::Key => {} // The index is in that order.
            SortTarget::Version => self.kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create => self.kvs.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod => self.kvs.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value => self.kvs.sort_by(|a, b| value(a).cmp(value(b))),
        }
        if self.order == SortOrder::Descend {
            self.kvs.reverse();
        }
    }
}

/// Room for how many more is made where `len` are there and `wanted` may come. In proportion from some length on: a list
/// of millions would be copied hundreds of times else.
fn growth(len: usize, wanted: usize) -> usize {
    wanted.max(len.saturating_mul(7).min(GROWTH_MAX)).max(len / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_grows_in_proportion() {
        let (mut len, mut capacity, mut copied) = (0, 0, 0);
        while len < 10_000_000 {
            if capacity - len < 512 {
                copied += len;
                capacity = len + growth(len, 512);
            }
            len += 512;
        }
        assert!(copied < 6 * len, "{copied} copied for {len}");
        assert!(capacity < len + len / 4 + GROWTH_MAX, "room for {capacity}, {len} are there");
    }
}
