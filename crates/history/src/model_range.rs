//! Range reads in the model (etcd reference 2.3).

use crate::answer::RangeAnswer;
use bytes::Bytes;
use netsy_api::etcdserverpb::RangeRequest;
use netsy_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use netsy_api::mvccpb::KeyValue;
use std::cmp::Ordering;

/// What a read gives of the keys of its range, which come in order.
pub fn range(keys: Vec<KeyValue>, request: &RangeRequest) -> RangeAnswer {
    let count = keys.len() as i64;
    if request.count_only {
        return RangeAnswer { kvs: Vec::new(), more: false, count };
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let mut kvs: Vec<KeyValue> = keys.into_iter().filter(|kv| wanted(kv, request)).collect();
    let more = kvs.len() > limit;
    // Without an order the limit is applied in key order, before any sorting.
    if request.sort_order == SortOrder::None as i32 && !filters(request) {
        kvs.truncate(limit);
    }
    sort(&mut kvs, request);
    kvs.truncate(limit);
    if request.keys_only {
        for kv in &mut kvs {
            kv.value = Bytes::new();
        }
    }
    RangeAnswer { kvs, more, count }
}

fn filters(request: &RangeRequest) -> bool {
    let RangeRequest { min_mod_revision, max_mod_revision, min_create_revision, max_create_revision, .. } = request;
    [min_mod_revision, max_mod_revision, min_create_revision, max_create_revision].iter().any(|bound| **bound != 0)
}

fn wanted(kv: &KeyValue, request: &RangeRequest) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

fn sort(kvs: &mut [KeyValue], request: &RangeRequest) {
    let by_key = request.sort_target == SortTarget::Key as i32;
    let descend = request.sort_order == SortOrder::Descend as i32;
    if by_key && !descend {
        return;
    }
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    let compare = |a: &KeyValue, b: &KeyValue| -> Ordering {
        match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    kvs.sort_by(|a, b| if descend { compare(b, a) } else { compare(a, b) });
}

/// Is this answer one that the model allows? The order of equal keys of a sort is nobody's promise, nor is the lease
/// where only keys are asked for.
pub fn allowed(told: &RangeAnswer, expected: &RangeAnswer, request: &RangeRequest) -> bool {
    let plain = |kv: &KeyValue| match request.keys_only {
        true => KeyValue { lease: 0, ..kv.clone() },
        false => kv.clone(),
    };
    if (told.more, told.count, told.kvs.len()) != (expected.more, expected.count, expected.kvs.len()) {
        return false;
    }
    if request.sort_target == SortTarget::Key as i32 {
        return told.kvs.iter().zip(&expected.kvs).all(|(a, b)| plain(a) == plain(b));
    }
    if expected.more && (request.sort_order != SortOrder::None as i32 || filters(request)) {
        // Which of several equal ones the limit cut is open.
        return true;
    }
    let in_order = |kvs: &[KeyValue]| {
        let mut kvs: Vec<KeyValue> = kvs.iter().map(plain).collect();
        kvs.sort_by(|a, b| a.key.cmp(&b.key));
        kvs
    };
    in_order(&told.kvs) == in_order(&expected.kvs)
}
