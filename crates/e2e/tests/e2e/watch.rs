//! The watch contract (reference/etcd.md 2.5) beyond what the mismatches cover.

use crate::check::revision;
use netsy_api::etcdserverpb as pb;
use netsy_api::etcdserverpb::watch_create_request::FilterType;
use netsy_e2e::ops::{delete, delete_range, op, put, txn, watch_all, watch_key, watch_prefix};
use netsy_e2e::watch::all_short;
use netsy_e2e::{Options, Server};
use std::collections::BTreeMap;
use std::time::Duration;

#[tokio::test]
async fn ranges_of_keys() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut stream = client.watch().await;
    let to = |end: &[u8], key: &str| pb::WatchCreateRequest { range_end: end.to_vec().into(), ..watch_key(key) };
    let key = stream.add(watch_key("b")).await;
    let half_open = stream.add(to(b"c", "b")).await;
    let from = stream.add(to(b"\0", "b")).await;
    let all = stream.add(watch_all()).await;
    let no_key = stream.add(to(b"b", "")).await;
    let no_key_no_end = stream.add(watch_key("")).await;
    for written in ["a", "b", "bb", "c", "\0"] {
        client.put(written, "1").await;
    }
    let mut seen: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    while seen.values().map(Vec::len).sum::<usize>() < 1 + 2 + 3 + 5 + 2 + 1 {
        let answer = stream.next().await;
        for event in answer.events {
            seen.entry(answer.watch_id)
                .or_default()
                .push(String::from_utf8_lossy(&event.kv.expect("kv").key).into_owned());
        }
    }
    stream.silent_for(Duration::from_millis(200)).await;
    assert_eq!(seen[&key], ["b"]);
    assert_eq!(seen[&half_open], ["b", "bb"]);
    assert_eq!(seen[&from], ["b", "bb", "c"]);
    assert_eq!(seen[&all], ["a", "b", "bb", "c", "\0"]);
    assert_eq!(seen[&no_key], ["a", "\0"], "no key means from the first");
    assert_eq!(seen[&no_key_no_end], ["\0"], "no key and no end is the key \\0 alone");
}

#[tokio::test]
async fn start_revision_0_means_from_now() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "1").await;
    let mut stream = client.watch().await;
    let created = stream.create(watch_key("a")).await;
    assert_eq!(revision(&created.header), 2);
    stream.silent_for(Duration::from_millis(300)).await;
    client.put("a", "2").await;
    let answer = stream.next().await;
    assert_eq!(revision(&answer.header), 3, "a live event comes with its own revision");
    assert_eq!(all_short(&answer.events), ["P a=2 @3"]);
    // From the current revision on: that one is told again.
    stream.add(pb::WatchCreateRequest { start_revision: 3, ..watch_key("a") }).await;
    assert_eq!(all_short(&stream.events(1).await), ["P a=2 @3"]);
    stream.add(pb::WatchCreateRequest { start_revision: 4, ..watch_key("a") }).await;
    stream.silent_for(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn history_comes_whole_then_live() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut expected = Vec::new();
    for at in 0..2500i64 {
        let key = format!("k/{}", at % 7);
        let revision = client.put(key.as_str(), at.to_string()).await;
        expected.push(format!("P {key}={at} @{revision}"));
    }
    let mut stream = client.watch().await;
    stream.add(pb::WatchCreateRequest { start_revision: 2, ..watch_prefix("k/") }).await;
    let writer = client.clone();
    let live = tokio::spawn(async move {
        let mut live = Vec::new();
        for at in 0..300 {
            live.push(format!("P k/live={at} @{}", writer.put("k/live", at.to_string()).await));
        }
        live
    });
    let mut seen = Vec::new();
    while seen.len() < 2800 {
        let answer = stream.next().await;
        let last = answer.events.last().and_then(|event| event.kv.as_ref()).expect("events").mod_revision;
        assert!(revision(&answer.header) >= last, "the header is never behind the events");
        seen.extend(all_short(&answer.events));
    }
    expected.extend(live.await.expect("writer"));
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_transaction_comes_in_one_answer() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("k/0", "old").await;
    let mut live = client.watch().await;
    live.add(watch_prefix("k/")).await;
    for round in 0..20 {
        let mut ops: Vec<_> = (1..=40).map(|at| op(put(format!("k/{at:02}"), round.to_string()))).collect();
        ops.push(op(delete("k/0")));
        client.txn(txn(vec![], ops, vec![])).await.expect("txn");
        client.put("k/0", round.to_string()).await;
    }
    let mut replay = client.watch().await;
    replay.add(pb::WatchCreateRequest { start_revision: 3, ..watch_prefix("k/") }).await;
    for stream in [&mut live, &mut replay] {
        let mut last = 2;
        while last < 42 {
            let answer = stream.next().await;
            let mut per_revision: BTreeMap<i64, usize> = BTreeMap::new();
            for event in &answer.events {
                *per_revision.entry(event.kv.as_ref().expect("kv").mod_revision).or_default() += 1;
            }
            for (revision, events) in per_revision {
                assert_eq!(revision, last + 1);
                assert_eq!(events, if revision % 2 == 1 { 41 } else { 1 }, "revision {revision} is whole");
                last = revision;
            }
        }
    }
    // In the order of the transaction.
    let mut first = client.watch().await;
    first.add(pb::WatchCreateRequest { start_revision: 3, ..watch_prefix("k/") }).await;
    let events = all_short(&first.next().await.events[..41]);
    assert_eq!(
        (events[0].as_str(), events[39].as_str(), events[40].as_str()),
        ("P k/01=0 @3", "P k/40=0 @3", "D k/0 @3")
    );
}

#[tokio::test]
async fn filters_and_deletes_of_a_range() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut stream = client.watch().await;
    let with = |filters: &[FilterType]| pb::WatchCreateRequest {
        filters: filters.iter().map(|filter| *filter as i32).collect(),
        ..watch_prefix("k/")
    };
    let puts = stream.add(with(&[FilterType::Nodelete])).await;
    let deletes = stream.add(with(&[FilterType::Noput])).await;
    let nothing = stream.add(with(&[FilterType::Noput, FilterType::Nodelete])).await;
    client.put("k/1", "1").await;
    client.put("k/2", "1").await;
    client.delete_range(delete_range("k/", "k0")).await.expect("delete");
    let (at, events) = stream.progress().await;
    assert_eq!(at, 4, "what is filtered out does not hold up progress");
    assert_eq!(all_short(&events), ["P k/1=1 @2", "P k/2=1 @3", "D k/1 @4", "D k/2 @4"]);

    // Replayed, each on its own.
    for (filter, expected) in
        [(FilterType::Nodelete, vec!["P k/1=1 @2", "P k/2=1 @3"]), (FilterType::Noput, vec!["D k/1 @4", "D k/2 @4"])]
    {
        let mut replay = client.watch().await;
        replay.add(pb::WatchCreateRequest { start_revision: 2, ..with(&[filter]) }).await;
        assert_eq!(all_short(&replay.progress().await.1), expected);
    }
    assert_eq!((puts, deletes, nothing), (0, 1, 2));
}

#[tokio::test]
async fn prev_kv_of_history() {
    let server = Server::start().await;
    let client = server.client().await;
    for value in ["1", "2"] {
        client.put("a", value).await;
    }
    client.delete("a").await;
    client.put("a", "3").await;
    let mut stream = client.watch().await;
    stream.add(pb::WatchCreateRequest { start_revision: 2, prev_kv: true, ..watch_key("a") }).await;
    let events = stream.events(4).await;
    let prev: Vec<_> = events
        .iter()
        .map(|event| event.prev_kv.as_ref().map(|kv| (kv.value.clone(), kv.version, kv.create_revision)))
        .collect();
    assert_eq!(prev, [None, Some(("1".into(), 1, 2)), Some(("2".into(), 2, 2)), None]);
    assert_eq!(events[3].kv.as_ref().map(|kv| (kv.create_revision, kv.version)), Some((5, 1)), "a new life of the key");
}

#[tokio::test]
async fn fragments_of_a_large_revision() {
    let server = Server::start().await;
    let client = server.client().await;
    for at in 0..12 {
        client.put(format!("k/{at:02}"), vec![b'v'; 700 << 10]).await;
    }
    // One revision whose events, with what was there before, are far larger than one message may be.
    let mut stream = client.watch().await;
    let last = client.get("k/11").await.expect("put").mod_revision;
    stream
        .add(pb::WatchCreateRequest { start_revision: last + 1, fragment: true, prev_kv: true, ..watch_prefix("k/") })
        .await;
    client.delete_range(delete_range("k/", "k0")).await.expect("delete");
    let (mut events, mut fragments, mut headers) = (Vec::new(), 0, Vec::new());
    while events.len() < 12 {
        let answer = stream.next().await;
        let bytes: usize =
            answer.events.iter().map(|event| event.prev_kv.as_ref().map_or(0, |kv| kv.value.len())).sum();
        assert!(bytes <= 3 << 20, "a fragment of {bytes} bytes");
        fragments += usize::from(answer.fragment);
        headers.push((revision(&answer.header), answer.fragment));
        events.extend(answer.events);
        assert_eq!(events.len() == 12, !answer.fragment || events.len() == 12, "all but the last say that more comes");
    }
    assert!(fragments >= 3, "8 MiB came in {fragments} fragments");
    assert!(headers.iter().all(|(revision, _)| *revision == headers[0].0), "one answer, one header: {headers:?}");
    assert!(!headers[headers.len() - 1].1, "the last fragment says so");

    let mut whole = client.watch().await;
    whole.add(pb::WatchCreateRequest { start_revision: last + 1, prev_kv: true, ..watch_prefix("k/") }).await;
    assert!(!whole.next().await.fragment, "nobody asked for fragments");
}

#[tokio::test]
async fn progress_notices_by_the_clock() {
    let server = Server::start_with(Options { progress_interval: Some("500ms"), ..Options::default() }).await;
    let client = server.client().await;
    let mut stream = client.watch().await;
    let told = stream.add(pb::WatchCreateRequest { progress_notify: true, ..watch_key("a") }).await;
    stream.add(watch_key("b")).await;
    client.put("unwatched", "1").await;
    let notice = stream.next().await;
    assert_eq!((notice.watch_id, notice.events.len(), notice.created, notice.canceled), (told, 0, false, false));
    assert_eq!(revision(&notice.header), 2, "a notice names the store's revision");
    let again = stream.next().await;
    assert_eq!((again.watch_id, again.events.len()), (told, 0));
}

#[tokio::test]
async fn ids_are_per_stream_and_reused_only_after_cancel() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut stream = client.watch().await;
    assert_eq!(stream.add(pb::WatchCreateRequest { watch_id: 1, ..watch_key("a") }).await, 1);
    assert_eq!(stream.add(watch_key("a")).await, 0);
    assert_eq!(stream.add(watch_key("a")).await, 2, "a taken id is stepped over");
    stream.cancel(1).await;
    assert!(stream.next().await.canceled);
    assert_eq!(
        stream.add(pb::WatchCreateRequest { watch_id: 1, ..watch_key("b") }).await,
        1,
        "a canceled id is free again"
    );

    // One that compaction canceled stays taken until the client cancels it too.
    client.put("a", "1").await;
    client.put("a", "2").await;
    client.put("a", "3").await;
    client.compact(4, true).await.expect("compact");
    let mut other = client.watch().await;
    other.add(pb::WatchCreateRequest { watch_id: 9, start_revision: 2, ..watch_key("a") }).await;
    assert!(other.next().await.canceled);
    let taken = other.create(pb::WatchCreateRequest { watch_id: 9, ..watch_key("a") }).await;
    assert!(taken.canceled, "the id is taken: {taken:?}");
    assert_eq!(taken.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
}

#[tokio::test]
async fn many_watches_on_one_stream() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut stream = client.watch().await;
    for at in 0..500 {
        assert_eq!(stream.add(watch_key(format!("k/{}", at % 250))).await, at);
    }
    for at in 0..250 {
        client.put(format!("k/{at}"), "1").await;
    }
    let mut seen = vec![0; 500];
    for _ in 0..500 {
        let answer = stream.next().await;
        assert_eq!(answer.events.len(), 1);
        seen[answer.watch_id as usize] += 1;
    }
    assert!(seen.iter().all(|count| *count == 1), "{seen:?}");
    assert_eq!(stream.progress().await, (251, vec![]));
}

#[tokio::test]
async fn a_slow_reader_loses_nothing() {
    let server = Server::start().await;
    let client = server.client().await;
    let slow = server.client().await;
    let mut stream = slow.watch().await;
    stream.add(pb::WatchCreateRequest { prev_kv: true, ..watch_prefix("k/") }).await;
    // 64 MiB while nothing is read, far past any socket or window.
    let value = vec![b'v'; 32 << 10];
    for at in 0..2048i64 {
        assert_eq!(client.put(format!("k/{}", at % 5), value.clone()).await, at + 2);
    }
    let mut last = 1;
    while last < 2049 {
        for event in stream.next().await.events {
            let kv = event.kv.expect("kv");
            assert_eq!(kv.mod_revision, last + 1);
            assert_eq!(kv.value.len(), value.len());
            assert_eq!(event.prev_kv.map(|prev| prev.mod_revision), (last > 5).then_some(last - 4));
            last += 1;
        }
    }
    assert_eq!(stream.progress().await, (2049, vec![]));
}

#[tokio::test]
async fn the_end_of_a_watchers_requests_does_not_end_its_watch() {
    let server = Server::start().await;
    let client = server.client().await;
    // A finished request stream: half-closed, still listening.
    let request =
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(watch_key("a"))) };
    let mut service = pb::watch_client::WatchClient::new(client.channel());
    let mut answers = service.watch(tokio_stream::iter([request])).await.expect("watch").into_inner();
    assert!(answers.message().await.expect("answer").expect("created").created);
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.put("a", "1").await;
    let answer =
        tokio::time::timeout(Duration::from_secs(10), answers.message()).await.expect("an event").expect("answer");
    assert_eq!(all_short(&answer.expect("an event").events), ["P a=1 @2"]);
}

#[tokio::test]
async fn a_running_watch_ends_when_a_compaction_overtakes_it() {
    let server = Server::start().await;
    let client = server.client().await;
    let slow = server.client().await;
    let mut stream = slow.watch().await;
    stream.add(watch_prefix("k/")).await;
    let value = vec![b'v'; 64 << 10];
    for at in 0..600 {
        client.put(format!("k/{}", at % 3), value.clone()).await;
    }
    client.compact(601, true).await.expect("compact");
    // Whatever it had not been told is gone: either it still gets all of it, or it is told that it cannot.
    let mut last = 1;
    loop {
        let answer = stream.next().await;
        if answer.canceled {
            assert_eq!((answer.compact_revision, answer.cancel_reason.as_str(), answer.events.len()), (601, "", 0));
            assert!(last < 601);
            break;
        }
        for event in answer.events {
            let revision = event.kv.expect("kv").mod_revision;
            assert_eq!(revision, last + 1, "no gap without a cancel");
            last = revision;
        }
        if last == 601 {
            break;
        }
    }
}

#[tokio::test]
async fn has_leader_metadata_is_accepted() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut metadata = tonic::metadata::MetadataMap::new();
    metadata.insert("hasleader", "true".parse().expect("ascii"));
    let mut stream = client.watch_with(metadata);
    stream.add(watch_key("a")).await;
    client.put("a", "1").await;
    assert_eq!(all_short(&stream.events(1).await), ["P a=1 @2"]);
}
