//! reference/etcd.md section 8, numbers 10 to 16: what a rewrite of etcd gets wrong most often in watches.

use crate::check::revision;
use netsy_api::etcdserverpb as pb;
use netsy_api::etcdserverpb::watch_request::RequestUnion;
use netsy_e2e::Server;
use netsy_e2e::ops::{watch_all, watch_key, watch_prefix};
use netsy_e2e::watch::all_short;
use std::time::Duration;

#[tokio::test]
async fn mismatch_10_created_before_events_and_ids_from_zero() {
    let server = Server::start().await;
    let client = server.client().await;
    for at in 0..50 {
        client.put("a", at.to_string()).await;
    }
    for _ in 0..2 {
        let mut stream = client.watch().await;
        let mut events = [0; 3];
        let mut count = |answer: &pb::WatchResponse| {
            for event in &answer.events {
                let at = &mut events[answer.watch_id as usize];
                *at += 1;
                assert_eq!(
                    event.kv.as_ref().expect("kv").mod_revision,
                    *at as i64 + 1,
                    "each watch sees every event in order"
                );
            }
            events.iter().sum::<usize>()
        };
        // Events are due at once; the created answer comes first all the same.
        for expected_id in 0..3 {
            stream
                .send(RequestUnion::CreateRequest(pb::WatchCreateRequest { start_revision: 2, ..watch_key("a") }))
                .await;
            let mut created = stream.next().await;
            while !created.created {
                assert!(
                    created.watch_id < expected_id,
                    "events of watch {expected_id} before it was made: {created:?}"
                );
                count(&created);
                created = stream.next().await;
            }
            assert_eq!(created.watch_id, expected_id, "ids count from 0 on each stream");
            assert!(created.events.is_empty(), "a created answer carries no events");
            assert_eq!(revision(&created.header), 51);
        }
        let mut counted = count(&pb::WatchResponse::default());
        while counted < 150 {
            let answer = stream.next().await;
            assert!(!answer.events.is_empty(), "an empty answer: {answer:?}");
            counted = count(&answer);
        }
    }
}

#[tokio::test]
async fn mismatch_11_failed_creates() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "1").await;
    let mut stream = client.watch().await;
    assert_eq!(
        stream.add(pb::WatchCreateRequest { watch_id: 7, ..watch_key("a") }).await,
        7,
        "a client may choose the id"
    );

    let refused =
        |answer: &pb::WatchResponse| (answer.created, answer.canceled, answer.watch_id, answer.compact_revision);
    let duplicate = stream.create(pb::WatchCreateRequest { watch_id: 7, ..watch_key("b") }).await;
    assert_eq!(refused(&duplicate), (true, true, -1, 0));
    assert_eq!(duplicate.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");

    for (key, end) in [("b", "a"), ("b", "b")] {
        let empty = stream.create(pb::WatchCreateRequest { range_end: end.into(), ..watch_key(key) }).await;
        assert_eq!(refused(&empty), (true, true, -1, 0));
        assert_eq!(empty.cancel_reason, "mvcc: watcher range is empty");
        assert_eq!(revision(&empty.header), 2);
    }

    let negative = stream.create(pb::WatchCreateRequest { start_revision: -1, ..watch_key("a") }).await;
    assert_eq!(refused(&negative), (true, true, -1, 0));
    assert_eq!(negative.cancel_reason, "etcdserver: mvcc: required revision has been compacted");

    // The stream goes on, and so does the first watch.
    assert_eq!(stream.add(watch_key("a")).await, 0);
    client.put("a", "2").await;
    let mut ids = vec![stream.next().await.watch_id, stream.next().await.watch_id];
    ids.sort_unstable();
    assert_eq!(ids, [0, 7]);
}

#[tokio::test]
async fn mismatch_12_cancel_by_compaction() {
    let server = Server::start().await;
    let client = server.client().await;
    for at in 0..5 {
        client.put("a", at.to_string()).await;
    }
    client.compact(4, true).await.expect("compact");
    let mut stream = client.watch().await;
    let created = stream.create(pb::WatchCreateRequest { start_revision: 2, ..watch_key("a") }).await;
    assert!(created.created && !created.canceled, "first a usual created answer: {created:?}");
    assert_eq!(revision(&created.header), 6);
    let canceled = stream.next().await;
    assert_eq!((canceled.created, canceled.canceled, canceled.watch_id), (false, true, created.watch_id));
    assert_eq!(canceled.compact_revision, 4);
    assert_eq!(canceled.cancel_reason, "");
    assert_eq!(revision(&canceled.header), 0);
    assert!(canceled.events.is_empty());

    let at_compacted = stream.add(pb::WatchCreateRequest { start_revision: 4, ..watch_key("a") }).await;
    let answer = stream.next().await;
    assert_eq!(answer.watch_id, at_compacted);
    assert_eq!(all_short(&answer.events), ["P a=2 @4", "P a=3 @5", "P a=4 @6"]);
}

#[tokio::test]
async fn mismatch_13_cancel_of_an_unknown_id_is_silent() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut stream = client.watch().await;
    stream.cancel(42).await;
    stream.silent_for(Duration::from_millis(500)).await;
    let id = stream.add(watch_key("a")).await;
    stream.cancel(id).await;
    let canceled = stream.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled, canceled.created), (id, true, false));
    assert_eq!((canceled.cancel_reason.as_str(), canceled.compact_revision), ("", 0));
    stream.cancel(id).await;
    stream.silent_for(Duration::from_millis(500)).await;
    client.put("a", "1").await;
    stream.silent_for(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn mismatch_14_a_watch_on_the_future_gets_nothing_earlier() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut stream = client.watch().await;
    stream.add(pb::WatchCreateRequest { start_revision: 6, ..watch_key("a") }).await;
    for at in 2..=5 {
        assert_eq!(client.put("a", at.to_string()).await, at);
    }
    // Nor is it told how far the store has got: that would be before its start.
    stream.ask_progress().await;
    stream.silent_for(Duration::from_millis(500)).await;
    client.put("a", "6").await;
    client.put("a", "7").await;
    assert_eq!(all_short(&stream.events(2).await), ["P a=6 @6", "P a=7 @7"]);
    assert_eq!(stream.progress().await, (7, vec![]));
}

#[tokio::test]
async fn mismatch_15_progress_never_overtakes_events() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut stream = client.watch().await;
    stream.ask_progress().await;
    stream.silent_for(Duration::from_millis(300)).await; // Without watches nothing is said.

    for at in 0..300 {
        client.put("a", at.to_string()).await;
    }
    stream.add(pb::WatchCreateRequest { start_revision: 2, ..watch_key("a") }).await;
    let writer = {
        let client = client.clone();
        tokio::spawn(async move {
            for at in 300..600 {
                client.put("a", at.to_string()).await;
            }
        })
    };
    let (mut last, mut answered) = (1, 0);
    while last < 601 || answered == 0 {
        stream.ask_progress().await;
        while let Some(answer) = stream.next_within(Duration::from_millis(5)).await {
            if answer.events.is_empty() {
                assert_eq!((answer.watch_id, answer.created, answer.canceled), (-1, false, false));
                let progress = revision(&answer.header);
                assert!(progress <= last, "told revision {progress} was reached, events up to {last} had come");
                assert_eq!(progress, last, "all that happens is of this watch");
                answered += 1;
            }
            for event in answer.events {
                let revision = event.kv.expect("kv").mod_revision;
                assert_eq!(revision, last + 1);
                last = revision;
            }
        }
    }
    writer.await.expect("the writer");
    assert_eq!(stream.progress().await.0, 601);

    // A watch that had no events at all is told too, once it caught up (etcd bug 17507).
    let mut quiet = client.watch().await;
    quiet.add(pb::WatchCreateRequest { start_revision: 2, ..watch_key("none") }).await;
    assert_eq!(quiet.progress().await, (601, vec![]));
}

#[tokio::test]
async fn mismatch_16_prev_kv_is_absent_once_compacted() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut live = client.watch().await;
    live.add(pb::WatchCreateRequest { prev_kv: true, ..watch_prefix("a") }).await;
    for value in ["1", "2", "3"] {
        client.put("a", value).await;
    }
    client.delete("a").await;
    let prev = |event: &netsy_api::mvccpb::Event| event.prev_kv.as_ref().map(|kv| (kv.value.clone(), kv.mod_revision));
    let events = live.events(4).await;
    let seen: Vec<_> = events.iter().map(prev).collect();
    assert_eq!(seen, [None, Some(("1".into(), 2)), Some(("2".into(), 3)), Some(("3".into(), 4))]);
    let deleted = events[3].kv.as_ref().expect("kv");
    assert_eq!(
        (deleted.create_revision, deleted.version, deleted.lease),
        (0, 0, 0),
        "a delete event has key and revision only"
    );
    assert_eq!((deleted.value.len(), deleted.mod_revision), (0, 5));

    client.compact(4, true).await.expect("compact");
    let mut late = client.watch().await;
    late.add(pb::WatchCreateRequest { prev_kv: true, start_revision: 4, ..watch_all() }).await;
    let events = late.events(2).await;
    assert_eq!(all_short(&events), ["P a=3 @4", "D a @5"]);
    assert_eq!(prev(&events[0]), None, "what was before a compacted revision is not known any more");
    assert_eq!(prev(&events[1]), Some(("3".into(), 4)));
}
