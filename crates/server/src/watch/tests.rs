//! The Watch service over real connections, with a hub whose history is a list.

use super::encode::Encoder;
use super::{FRAGMENT_OVERHEAD_BYTES, serve};
use crate::grpc::call::{Call, CallLimits, CallSite, streaming};
use crate::grpc::rpc::{Flow, Rpc};
use crate::grpc::status::Status;
use crate::grpc::streaming::{CallContext, RequestStream, ResponseSink};
use crate::metrics::Metrics;
use crate::transport::connection::ConnectionLimits;
use crate::transport::listener::{Listening, Plain};
use crate::transport::{Incoming, Routes, Work};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use netsy_api::etcdserverpb::watch_client::WatchClient;
use netsy_api::etcdserverpb::watch_create_request::FilterType;
use netsy_api::etcdserverpb::watch_request::RequestUnion;
use netsy_api::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use netsy_api::ids::{LeaseId, Position, Revision};
use netsy_api::mvccpb::event::EventType;
use netsy_mvcc::{Event, EventKind, KvRef, ValueRef};
use netsy_node::watch::{CommittedEvents, History, HistoryBatch, HistoryError, WatchHub, WatchOptions};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

const REQUEST_BYTES_MAX: usize = 3 << 19;

#[derive(Default)]
struct Past {
    /// Revision 2 and up.
    revisions: Vec<Vec<Event>>,
    compacted: i64,
}

impl Past {
    fn newest(&self, key: &[u8], at: i64) -> Option<KvRef> {
        let upto = self.revisions.iter().take(usize::try_from(at - 1).ok()?);
        let event = upto.flatten().rev().find(|e| e.kv.key == key)?;
        (event.kind == EventKind::Put).then(|| event.kv.clone())
    }
}

struct Store(Mutex<Past>);

impl History for Store {
    fn visible_revision(&self) -> Revision {
        Revision(self.0.lock().revisions.len() as i64 + 1)
    }

    fn compact_revision(&self) -> Revision {
        Revision(self.0.lock().compacted)
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn read(&self, from: Revision, until: Revision, bytes_max: usize) -> Result<HistoryBatch, HistoryError> {
        let past = self.0.lock();
        let mut batch = HistoryBatch { revisions: Vec::new(), through: Revision(from.0 - 1) };
        let mut bytes = 0;
        let numbered = (2..).map(Revision).zip(&past.revisions);
        for (revision, events) in numbered.filter(|(r, _)| *r >= from && *r <= until) {
            bytes += events.iter().map(|e| e.kv.key.len() + 1024).sum::<usize>();
            let events = events.iter().map(|e| Event { prev: None, ..e.clone() }).collect();
            batch.revisions.push(CommittedEvents { revision, events });
            batch.through = revision;
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(batch)
    }

    fn previous(&self, wanted: &[(Bytes, Revision)]) -> Result<Vec<Option<KvRef>>, HistoryError> {
        let past = self.0.lock();
        Ok(wanted.iter().map(|(key, at)| past.newest(key, at.0)).collect())
    }

    fn values(&self, at: &[Position]) -> Result<Vec<Option<Bytes>>, HistoryError> {
        Ok(vec![None; at.len()])
    }
}

/// A server with the Watch service only.
struct Site {
    hub: WatchHub,
    metrics: Metrics,
}

impl CallSite for Site {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn limits(&self) -> CallLimits {
        CallLimits { message_bytes_max: 2 << 20, request_timeout: Duration::from_secs(7) }
    }

    fn admit(&self, _: Flow, _: &HeaderMap) -> Result<(), Status> {
        Ok(())
    }
}

async fn handler(
    site: &Site,
    context: CallContext,
    requests: RequestStream<WatchRequest>,
    sink: &mut ResponseSink,
) -> Result<(), Status> {
    let encoder = Encoder::new(11, 22, 33, REQUEST_BYTES_MAX + FRAGMENT_OVERHEAD_BYTES);
    serve(&site.hub, encoder, &site.metrics, context, requests, sink).await
}

impl Routes for Site {
    fn start(self: &Arc<Self>, incoming: Incoming) -> Work {
        Work::Queued(streaming(self.clone(), Call::plain(incoming), Rpc::Watch, handler).boxed())
    }

    fn http(self: Arc<Self>, _: Request<()>) -> BoxFuture<'static, Response<Bytes>> {
        async { Response::new(Bytes::new()) }.boxed()
    }
}

struct World {
    store: Arc<Store>,
    hub: WatchHub,
    client: WatchClient<tonic::transport::Channel>,
    drain: watch::Sender<bool>,
}

impl World {
    async fn start() -> Self {
        Self::start_with(WatchOptions::default()).await
    }

    async fn start_with(options: WatchOptions) -> Self {
        let store = Arc::new(Store(Mutex::default()));
        let hub = WatchHub::start(store.clone(), Revision(1), options).unwrap();
        let metrics = Metrics::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (drain, draining) = watch::channel(false);
        let listening = Listening {
            routes: Arc::new(Site { hub: hub.clone(), metrics: metrics.clone() }),
            acceptor: Plain,
            limits: ConnectionLimits::default(),
            connections_max: 100,
            closes: true,
            traffic: metrics.traffic(),
            connections: metrics.connections(),
        };
        tokio::spawn(listening.run(listener, draining, Duration::from_secs(5)));
        let client = WatchClient::connect(format!("http://{addr}")).await.unwrap();
        Self { store, hub, client: client.max_decoding_message_size(64 << 20), drain }
    }

    /// Commits a transaction: (key, value), no value: a delete. Returns its revision.
    fn write(&self, writes: &[(&str, Option<&str>)]) -> i64 {
        let mut past = self.store.0.lock();
        let revision = past.revisions.len() as i64 + 2;
        let event = |(key, value): &(&str, Option<&str>)| {
            let prev = past.newest(key.as_bytes(), revision - 1);
            let kv = KvRef {
                key: Bytes::copy_from_slice(key.as_bytes()),
                create_revision: value
                    .map_or(Revision(0), |_| prev.as_ref().map_or(Revision(revision), |p| p.create_revision)),
                mod_revision: Revision(revision),
                version: value.map_or(0, |_| prev.as_ref().map_or(0, |p| p.version) + 1),
                lease: LeaseId(0),
                value: value.map_or(ValueRef::Omitted, |v| ValueRef::Here(Bytes::copy_from_slice(v.as_bytes()))),
            };
            Event { kind: if value.is_some() { EventKind::Put } else { EventKind::Delete }, kv, prev }
        };
        let events: Vec<Event> = writes.iter().map(event).collect();
        past.revisions.push(events.clone());
        drop(past);
        self.hub.publish(vec![events]);
        revision
    }

    fn put(&self, key: &str, value: &str) -> i64 {
        self.write(&[(key, Some(value))])
    }

    async fn open(&self) -> Watching {
        let (requests, receiver) = mpsc::channel(64);
        let responses = self.client.clone().watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Watching { requests: Some(requests), responses }
    }
}

struct Watching {
    requests: Option<mpsc::Sender<WatchRequest>>,
    responses: tonic::Streaming<WatchResponse>,
}

fn create(key: &str, range_end: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(range_end.as_bytes()),
        ..WatchCreateRequest::default()
    }
}

impl Watching {
    async fn ask(&self, union: RequestUnion) {
        self.requests.as_ref().unwrap().send(WatchRequest { request_union: Some(union) }).await.unwrap();
    }

    async fn next(&mut self) -> WatchResponse {
        let next = tokio::time::timeout(Duration::from_secs(20), self.responses.message());
        next.await.expect("no answer").unwrap().expect("the stream ended")
    }

    async fn create(&mut self, create: WatchCreateRequest) -> WatchResponse {
        self.ask(RequestUnion::CreateRequest(create)).await;
        self.next().await
    }

    async fn cancel(&self, watch_id: i64) {
        self.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await;
    }

    async fn progress(&self) {
        self.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    }

    async fn end(&mut self) -> tonic::Status {
        loop {
            match tokio::time::timeout(Duration::from_secs(20), self.responses.message()).await.expect("no end") {
                Ok(Some(_)) => {}
                Ok(None) => return tonic::Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

fn revision(response: &WatchResponse) -> i64 {
    response.header.as_ref().unwrap().revision
}

fn keys(response: &WatchResponse) -> Vec<String> {
    let key = |e: &netsy_api::mvccpb::Event| String::from_utf8(e.kv.as_ref().unwrap().key.to_vec()).unwrap();
    response.events.iter().map(key).collect()
}

#[tokio::test]
async fn created_first_ids_from_zero_then_events_with_their_revision() {
    let world = World::start().await;
    let mut watching = world.open().await;
    for id in 0..3 {
        let created = watching.create(create("k", "")).await;
        assert_eq!((created.watch_id, created.created, created.canceled), (id, true, false));
        let header = created.header.unwrap();
        assert_eq!((header.cluster_id, header.member_id, header.raft_term, header.revision), (11, 22, 33, 1));
    }
    world.put("other", "x");
    let at = world.put("k", "v");
    for id in 0..3 {
        let answer = watching.next().await;
        assert_eq!((answer.watch_id, revision(&answer), keys(&answer)), (id, at, vec!["k".to_string()]));
        let kv = answer.events[0].kv.as_ref().unwrap();
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version, &kv.value[..]), (at, at, 1, &b"v"[..]));
        assert_eq!(answer.events[0].prev_kv, None);
    }
}

#[tokio::test]
async fn failed_creates_are_created_and_canceled_with_etcds_reasons() {
    let world = World::start().await;
    let mut watching = world.open().await;
    watching.create(WatchCreateRequest { watch_id: 7, ..create("k", "") }).await;
    let negative = WatchCreateRequest { start_revision: -1, ..create("k", "") };
    let duplicate = WatchCreateRequest { watch_id: 7, ..create("k", "") };
    for (request, reason) in [
        (create("b", "a"), "mvcc: watcher range is empty"),
        (create("b", "b"), "mvcc: watcher range is empty"),
        (duplicate, "mvcc: duplicate watch ID provided on the WatchStream"),
        (negative, "etcdserver: mvcc: required revision has been compacted"),
    ] {
        let answer = watching.create(request).await;
        assert_eq!((answer.created, answer.canceled, answer.watch_id), (true, true, -1), "{reason}");
        assert_eq!((answer.cancel_reason.as_str(), answer.compact_revision), (reason, 0));
    }
    // None of them took an id.
    assert_eq!(watching.create(create("k", "")).await.watch_id, 0);
}

#[tokio::test]
async fn cancel_answers_for_known_ids_only() {
    let world = World::start().await;
    let mut watching = world.open().await;
    watching.create(create("k", "")).await;
    watching.cancel(5).await;
    watching.cancel(0).await;
    let canceled = watching.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled, canceled.created), (0, true, false));
    assert_eq!((canceled.cancel_reason.as_str(), canceled.compact_revision), ("", 0));
    world.put("k", "v");
    // The id counts on, and no event of the canceled one comes.
    assert_eq!(watching.create(create("k", "")).await.watch_id, 1);
}

#[tokio::test]
async fn history_with_previous_values_and_filters() {
    let world = World::start().await;
    world.put("k", "1");
    world.put("k", "2");
    world.write(&[("k", None)]);
    let mut watching = world.open().await;
    let all = WatchCreateRequest { start_revision: 2, prev_kv: true, ..create("k", "") };
    assert!(watching.create(all).await.created);
    let mut events = Vec::new();
    while events.len() < 3 {
        let answer = watching.next().await;
        // The store's revision, not below that of the events.
        assert_eq!(revision(&answer), 4);
        events.extend(answer.events);
    }
    assert_eq!(events[0].prev_kv, None);
    assert_eq!(&events[1].prev_kv.as_ref().unwrap().value[..], b"1");
    assert_eq!(events[2].r#type, EventType::Delete as i32);
    assert_eq!(&events[2].prev_kv.as_ref().unwrap().value[..], b"2");
    let gone = events[2].kv.as_ref().unwrap();
    assert_eq!((gone.mod_revision, gone.create_revision, gone.version, gone.value.len()), (4, 0, 0, 0));

    let filters = vec![FilterType::Noput as i32];
    let deletes = WatchCreateRequest { start_revision: 2, filters, ..create("k", "") };
    assert!(watching.create(deletes).await.created);
    let answer = watching.next().await;
    assert_eq!((answer.watch_id, answer.events.len()), (1, 1));
    assert_eq!(answer.events[0].r#type, EventType::Delete as i32);
}

#[tokio::test]
async fn compacted_start_is_created_then_canceled() {
    let world = World::start().await;
    for value in ["1", "2", "3"] {
        world.put("k", value);
    }
    world.store.0.lock().compacted = 3;
    let mut watching = world.open().await;
    let created = watching.create(WatchCreateRequest { start_revision: 2, ..create("k", "") }).await;
    assert!(created.created && !created.canceled);
    let canceled = watching.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled, canceled.compact_revision), (0, true, 3));
    assert_eq!((revision(&canceled), canceled.cancel_reason.as_str()), (0, ""));
    // Its id stays taken until the client cancels it.
    let again = watching.create(WatchCreateRequest { watch_id: 0, start_revision: 3, ..create("k", "") }).await;
    assert_eq!(again.watch_id, 1);
    assert_eq!(watching.next().await.events.len(), 2);
}

#[tokio::test]
async fn a_start_in_the_future_gets_nothing_earlier_and_holds_progress_back() {
    let world = World::start().await;
    let mut watching = world.open().await;
    assert!(watching.create(WatchCreateRequest { start_revision: 4, ..create("k", "") }).await.created);
    world.put("k", "2");
    watching.progress().await;
    world.put("k", "3");
    watching.progress().await;
    let at = world.put("k", "4");
    let answer = watching.next().await;
    assert_eq!((revision(&answer), answer.events.len(), at), (4, 1, 4));
    watching.progress().await;
    let progress = watching.next().await;
    assert_eq!((progress.watch_id, revision(&progress), progress.events.len()), (-1, 4, 0));
}

#[tokio::test]
async fn progress_is_silent_without_watchers_and_follows_events() {
    let world = World::start().await;
    let mut watching = world.open().await;
    watching.progress().await;
    assert!(watching.create(create("k", "")).await.created);
    for _ in 0..100 {
        let at = world.put("k", "v");
        watching.progress().await;
        let answer = watching.next().await;
        assert_eq!((answer.watch_id, revision(&answer)), (0, at));
        let progress = watching.next().await;
        assert_eq!((progress.watch_id, revision(&progress)), (-1, at));
    }
}

#[tokio::test]
async fn quiet_watchers_are_told_the_revision_now_and_then() {
    let options = WatchOptions { progress_notify_interval: Duration::from_millis(50), ..WatchOptions::default() };
    let world = World::start_with(options).await;
    let mut watching = world.open().await;
    watching.create(create("k", "")).await;
    let asked = WatchCreateRequest { progress_notify: true, ..create("k", "") };
    watching.create(asked).await;
    let at = world.put("other", "v");
    let notice = watching.next().await;
    assert_eq!((notice.watch_id, revision(&notice), notice.events.len()), (1, at, 0));
    assert!(!notice.created && !notice.canceled);
}

#[tokio::test]
async fn a_revision_comes_whole_and_large_ones_in_fragments_if_wished() {
    let world = World::start().await;
    let mut watching = world.open().await;
    let whole = create("k", "l");
    let split = WatchCreateRequest { fragment: true, ..create("k", "l") };
    watching.create(whole).await;
    watching.create(split).await;
    let value = "x".repeat(700 << 10);
    let names: Vec<String> = (0..7).map(|i| format!("k{i}")).collect();
    let writes: Vec<(&str, Option<&str>)> = names.iter().map(|k| (k.as_str(), Some(value.as_str()))).collect();
    let at = world.write(&writes);
    let mut fragments = Vec::new();
    let mut wholes = Vec::new();
    while fragments.iter().map(Vec::len).sum::<usize>() < 7 || wholes.is_empty() {
        let answer = watching.next().await;
        assert_eq!(revision(&answer), at);
        if answer.watch_id == 0 {
            assert!(!answer.fragment);
            wholes.push(keys(&answer));
        } else {
            fragments.push(keys(&answer));
            let last = fragments.iter().map(Vec::len).sum::<usize>() == 7;
            assert_eq!(answer.fragment, !last);
        }
    }
    assert_eq!(wholes, std::slice::from_ref(&names));
    // 2 MiB: two events of 700 KiB each.
    assert_eq!(fragments.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2, 1]);
    assert_eq!(fragments.concat(), names);
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_nothing_and_costs_little() {
    let options = WatchOptions { watch_backlog_bytes_max: 256 << 10, ..WatchOptions::default() };
    let world = World::start_with(options).await;
    let mut watching = world.open().await;
    let mut other = world.open().await;
    watching.create(create("k", "")).await;
    other.create(create("end", "")).await;
    let value = "v".repeat(2000);
    let last = (0..10_000).map(|_| world.put("k", &value)).last().unwrap();
    world.put("end", "v");
    // Somebody else is not held up.
    assert_eq!(other.next().await.events.len(), 1);
    assert_eq!(world.hub.stats().unsynced, 1);
    let mut expected = 2;
    while expected <= last {
        for event in watching.next().await.events {
            assert_eq!(event.kv.unwrap().mod_revision, expected);
            expected += 1;
        }
    }
    let at = world.put("k", "done");
    assert_eq!(watching.next().await.events[0].kv.as_ref().unwrap().mod_revision, at);
    assert_eq!(world.hub.stats().unsynced, 0);
}

#[tokio::test]
async fn a_half_closed_stream_stays_open_and_a_dropped_one_goes() {
    let world = World::start().await;
    let mut watching = world.open().await;
    watching.create(create("k", "")).await;
    watching.requests = None;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let at = world.put("k", "v");
    assert_eq!(revision(&watching.next().await), at);
    assert_eq!(world.hub.stats().streams, 1);
    drop(watching);
    for _ in 0..200 {
        if world.hub.stats().streams == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((world.hub.stats().streams, world.hub.stats().watchers), (0, 0));
}

#[tokio::test]
async fn streams_end_when_there_is_no_leader_or_no_server() {
    let world = World::start().await;
    let mut watching = world.open().await;
    watching.create(create("k", "")).await;
    let (requests, receiver) = mpsc::channel(8);
    let mut wish = tonic::Request::new(ReceiverStream::new(receiver));
    wish.metadata_mut().insert("hasleader", "true".parse().unwrap());
    let responses = world.client.clone().watch(wish).await.unwrap().into_inner();
    let mut wishing = Watching { requests: Some(requests), responses };
    wishing.create(create("k", "")).await;

    world.hub.leader_lost();
    let status = wishing.end().await;
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "etcdserver: no leader"));
    let at = world.put("k", "v");
    assert_eq!(revision(&watching.next().await), at);

    world.drain.send_replace(true);
    let status = watching.end().await;
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "etcdserver: server stopped"));
}
