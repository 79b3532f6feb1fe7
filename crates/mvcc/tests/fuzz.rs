//! Entries and rows that no Primary wrote, though their files are whole: each is refused or makes a state that can be
//! read, compacted and rolled back; none makes the state machine panic. See `netsy_fuzz`.

mod common;

use common::{Harness, alarm, compare, load, op_delete, op_put, op_range, range, txn};
use netsy_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use netsy_api::file;
use netsy_api::ids::{LeaseId, Position, Revision};
use netsy_api::log::{AlarmKind, Entry, Row};
use netsy_fuzz::{Verdict, run};
use netsy_mvcc::{HashKv, Store, StoreConfig, WriteRequest};
use prost::Message;
use std::sync::Arc;

/// A log with everything in it.
fn log() -> Harness {
    let mut h = Harness::default();
    h.grant(7, 60).unwrap();
    h.put("a", "1");
    h.put("b", "2");
    let leased = netsy_api::etcdserverpb::PutRequest { lease: 7, ..common::put("c", "3") };
    h.write(WriteRequest::Put(leased)).unwrap();
    let holds = compare("a", CompareTarget::Version, CompareResult::Equal, TargetUnion::Version(1));
    h.txn(txn(vec![holds], vec![op_put("d", "4"), op_delete("a", ""), op_range("a", "z")], vec![])).unwrap();
    h.write(WriteRequest::LeaseCheckpoint(vec![(LeaseId(7), 30)])).unwrap();
    h.write(alarm(AlarmKind::NoSpace, true)).unwrap();
    h.write(alarm(AlarmKind::NoSpace, false)).unwrap();
    h.compact(3).unwrap();
    h.write(WriteRequest::LeaseRevoke { id: LeaseId(7) }).unwrap();
    h.put("a", "again");
    h
}

/// Messages, each after its length in two bytes.
fn join(messages: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut input = Vec::new();
    for message in messages {
        input.extend_from_slice(&(message.len() as u16).to_le_bytes());
        input.extend_from_slice(&message);
    }
    input
}

fn split(mut input: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let [low, high, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        messages.push(&rest[..length]);
        input = &rest[length..];
    }
    messages
}

/// Whatever readers and background work do with a state.
fn use_all(store: &mut Store) {
    store.set_visible(store.last_index());
    let visible = store.visible_revision();
    let mut reader = netsy_mvcc::RangeReader::new(&range("\0", "\0"), store).unwrap();
    while !reader.step(store, 3).unwrap() {}
    let found = reader.finish();
    assert_eq!(found.count as usize, found.kvs.len());
    for kv in &found.kvs {
        assert!(kv.mod_revision <= visible && kv.create_revision <= kv.mod_revision && kv.version > 0, "{kv:?}");
    }
    for id in store.leases() {
        let _ = store.lease(id, 1_000);
        let _ = store.lease_keys(id);
    }
    store.lease_extend_all(5);
    let _ = store.lease_expired(u64::MAX, 10);
    let _ = store.lease_due_checkpoints(u64::MAX, 10);
    let _ = store.alarms();
    let _ = HashKv::new(store, Revision(0));
    while !store.compact_index(5, netsy_api::ids::Revision(i64::MAX), netsy_api::ids::LogIndex(u64::MAX)).done {}
}

#[test]
fn fuzz_entries() {
    let corpus = [join(log().entries.iter().map(|entry| file::Entry::from(&**entry).encode_to_vec()))];
    run("entries", &corpus, 20_000, |input| {
        let mut store = Store::new(StoreConfig::default());
        let mut applied = 0;
        for message in split(input) {
            let Ok(entry) = file::Entry::decode(message) else { break };
            let Ok(entry) = Entry::try_from(entry) else { break };
            let before = (store.last_index(), store.head_revision(), store.next_position(), store.key_count());
            match store.apply(Arc::new(entry)) {
                Ok(_) => applied += 1,
                Err(_) => {
                    let after = (store.last_index(), store.head_revision(), store.next_position(), store.key_count());
                    assert_eq!(before, after, "an entry that is refused changes nothing");
                }
            }
        }
        use_all(&mut store);
        if applied > 5 { Verdict::Accepted } else { Verdict::Refused }
    });
}

#[test]
fn fuzz_rows() {
    let mut h = log();
    h.compact_physically(100);
    let corpus = [join(h.db.rows.values().map(|row| file::Row::from(row).encode_to_vec()))];
    let end = h.end();
    run("rows", &corpus, 20_000, |input| {
        let mut store = Store::new(StoreConfig::default());
        for (place, message) in split(input).into_iter().enumerate() {
            let Ok(row) = file::Row::decode(message) else { return Verdict::Refused };
            let Ok(row) = Row::try_from(row) else { return Verdict::Refused };
            if load(&mut store, &row, place % 2 == 0).is_err() {
                return Verdict::Refused;
            }
        }
        if store.finish_load(end).is_err() {
            return Verdict::Refused;
        }
        store.written_through(Position(u64::MAX));
        use_all(&mut store);
        Verdict::Accepted
    });
}
