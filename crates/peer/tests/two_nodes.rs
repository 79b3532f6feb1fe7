//! Two nodes on loopback, with and without TLS: messages, streams, calls, and how each ends.

mod support;

use bytes::Bytes;
use futures::FutureExt;
use netsy_api::ids::{LogIndex, Revision, Term, UnixMillis};
use netsy_api::log::{Entry, Mutation};
use netsy_api::peer::{
    Append, CallStatus, Follow, NotRun, PrimaryFrame, Receipt, ReplicaFrame, not_run, primary_frame, replica_frame,
};
use netsy_peer::{
    CallError, Direction, EncodedEntries, ForwardReply, Lost, NotSent, Outcome, PeerConfig, PeerEvent, SendError,
    Unanswered, append_frame, decode_entries,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::pki::Ca;
use support::{CLUSTER, ForwardFn, PATIENCE, ReplicateFn, Setup, TestNode, quiet, request};
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// Runs a test without TLS and with it.
async fn both<F: Future<Output = ()>>(test: impl Fn(Tls) -> F) {
    test(Tls(None)).await;
    let dir = TempDir::new().expect("a folder");
    test(Tls(Some(Arc::new((Ca::new(), dir))))).await;
}

#[derive(Clone)]
struct Tls(Option<Arc<(Ca, TempDir)>>);

impl Tls {
    fn setup(&self, id: &'static str) -> Setup {
        let tls = self.0.as_ref().map(|made| made.0.node(made.1.path(), CLUSTER, id));
        Setup { tls, ..Setup::new(id) }
    }

    /// Two nodes, the first of which calls the second, whose handlers are these.
    async fn pair(&self, config: PeerConfig, forward: ForwardFn, replicate: ReplicateFn) -> (TestNode, TestNode) {
        let a = Setup { config: config.clone(), ..self.setup("a") }.start().await;
        let b = Setup { config, forward, replicate, ..self.setup("b") }.start().await;
        a.calls(&[&b]);
        let seen = a.up(Direction::Outgoing).await;
        assert_eq!(seen.node_id, b.id);
        assert_eq!(seen.version, 1);
        let seen = b.up(Direction::Incoming).await;
        assert_eq!(seen.node_id, a.id);
        (a, b)
    }
}

fn never() -> ForwardFn {
    Box::new(|_| std::future::pending().boxed())
}

fn no_log() -> ReplicateFn {
    Box::new(|_, _| async {}.boxed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_messages_go_both_ways_over_one_connection_in_order() {
    both(async |tls| {
        let (a, b) = tls.pair(quiet(), never(), no_log()).await;
        for i in 0..1000u32 {
            a.peers.send_engine(&b.id, Bytes::from(i.to_be_bytes().to_vec())).expect("room");
            b.peers.send_engine(&a.id, Bytes::from((i * 2).to_be_bytes().to_vec())).expect("room");
        }
        for i in 0..1000u32 {
            let (from, message) = b.message().await;
            assert_eq!((from.node_id.as_str(), &message[..]), ("a", &i.to_be_bytes()[..]));
            let (from, message) = a.message().await;
            assert_eq!((from.node_id.as_str(), &message[..]), ("b", &(i * 2).to_be_bytes()[..]));
        }
        assert_eq!(a.peers.send_engine(&support::node_id("nobody"), Bytes::new()), Err(SendError::Closed));
        a.peers.stop("the test is over").await;
        b.peers.stop("the test is over").await;
    })
    .await;
}

fn entry(index: u64, value: usize) -> Entry {
    let mutation = Mutation::Put {
        key: Bytes::from(format!("k{index}")),
        value: Bytes::from(vec![index as u8; value]),
        create_revision: Revision(index as i64),
        version: 1,
        lease: netsy_api::ids::LeaseId(0),
    };
    Entry {
        index: LogIndex(index),
        term: Term(1),
        time: UnixMillis(0),
        revision: Revision(index as i64),
        mutations: vec![mutation],
    }
}

fn follow() -> ReplicaFrame {
    ReplicaFrame { kind: Some(replica_frame::Kind::Follow(Follow { term: 1, ..Follow::default() })) }
}

fn receipt(held: u64) -> ReplicaFrame {
    ReplicaFrame { kind: Some(replica_frame::Kind::Receipt(Receipt { term: 1, held, ..Receipt::default() })) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_goes_one_way_and_receipts_the_other() {
    both(async |tls| {
        const ENTRIES: u64 = 500;
        let (done_send, mut done) = mpsc::unbounded_channel();
        let replicate: ReplicateFn = Box::new(move |from, mut stream| {
            let done = done_send.clone();
            async move {
                assert_eq!(from.node_id.as_str(), "a");
                let first = stream.receiver.next().await.expect("sound").expect("a Follow");
                assert_eq!(first, follow());
                for index in 1..=ENTRIES {
                    // Small ones, and now and then one that spans frames.
                    let size = if index % 50 == 0 { 600_000 } else { 100 };
                    let head = Append { term: 1, commit: index - 1, ..Append::default() };
                    stream.sender.append(&head, &EncodedEntries::encode([&entry(index, size)])).await.expect("sent");
                }
                let mut held = 0;
                while held < ENTRIES {
                    match stream.receiver.next().await.expect("sound").expect("a receipt").kind {
                        Some(replica_frame::Kind::Receipt(receipt)) => {
                            assert_eq!(receipt.held, held + 1);
                            held = receipt.held;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                let _ = done.send(held);
            }
            .boxed()
        });
        let (a, b) = tls.pair(quiet(), never(), replicate).await;
        let mut stream = a.peer(&b).follow().await.expect("connected");
        stream.sender.try_send(&follow()).expect("room");
        for index in 1..=ENTRIES {
            let frame = stream.receiver.next().await.expect("sound").expect("an append");
            let Some(primary_frame::Kind::Append(append)) = frame.kind else { panic!("{frame:?}") };
            assert_eq!(append.commit, index - 1);
            let size = if index % 50 == 0 { 600_000 } else { 100 };
            assert_eq!(decode_entries(&append).expect("sound"), [entry(index, size)]);
            stream.sender.send(&receipt(index)).await.expect("sent");
        }
        assert_eq!(done.recv().await, Some(ENTRIES));
        assert_eq!(stream.receiver.next().await, Ok(None), "the Primary's half ended with its future");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_does_not_read_holds_up_its_stream_and_nothing_else() {
    both(async |tls| {
        let (sent_send, mut sent) = mpsc::unbounded_channel();
        let go_on = Arc::new(Notify::new());
        let replicate: ReplicateFn = Box::new({
            let go_on = go_on.clone();
            move |_, stream| {
                let (sent, go_on) = (sent_send.clone(), go_on.clone());
                async move {
                    let stream = stream;
                    let batch = EncodedEntries::encode([&entry(1, 256 << 10)]);
                    let head = Append::default();
                    let mut count = 0usize;
                    // Full, and still so after a while: nothing moves any more.
                    loop {
                        match stream.sender.try_append(&head, &batch) {
                            Ok(()) => count += 1,
                            Err(SendError::Full) => {
                                let _ = tokio::time::timeout(Duration::from_millis(300), stream.sender.room()).await;
                                if stream.sender.try_append(&head, &batch).is_err() {
                                    break;
                                }
                                count += 1;
                            }
                            Err(other) => panic!("{other}"),
                        }
                    }
                    let _ = sent.send(count);
                    go_on.notified().await;
                    let _ = sent.send(count);
                    for _ in 0..20 {
                        stream.sender.append(&head, &batch).await.expect("there is room in time");
                    }
                }
                .boxed()
            }
        });
        let forward: ForwardFn = Box::new(|request| async move { ForwardReply::Answer(request.body) }.boxed());
        let (a, b) = tls.pair(quiet(), forward, replicate).await;
        let mut stream = a.peer(&b).follow().await.expect("connected");
        stream.sender.try_send(&follow()).expect("room");
        let count = tokio::time::timeout(PATIENCE, sent.recv()).await.expect("it is held up").expect("a count");
        let bytes = count * (256 << 10);
        assert!((8 << 20..80 << 20).contains(&bytes), "{bytes} bytes were taken");
        // Calls and messages of the same connection go on.
        let outcome = a.peer(&b).forward(request("/s/m", b"hello")).await;
        assert_eq!(outcome, Ok(Outcome::Answer(Bytes::from_static(b"hello"))));
        a.peers.send_engine(&b.id, Bytes::from_static(b"beat")).expect("room");
        assert_eq!(b.message().await.1, "beat");
        go_on.notify_one();
        for _ in 0..count + 20 {
            let frame = stream.receiver.next().await.expect("sound").expect("an append");
            assert!(matches!(frame.kind, Some(primary_frame::Kind::Append(_))));
        }
        assert_eq!(stream.receiver.next().await, Ok(None));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_either_half_of_a_stream_is_noticed_at_the_other_end() {
    let (ended_send, mut ended) = mpsc::unbounded_channel();
    let replicate: ReplicateFn = Box::new(move |_, mut stream| {
        let ended = ended_send.clone();
        async move {
            let outcome = loop {
                match stream.receiver.next().await {
                    Ok(Some(_)) => stream.sender.try_send(&append_frame(Append::default())).expect("room"),
                    Ok(None) => break "ended",
                    Err(_) => break "cut",
                }
            };
            let _ = ended.send(outcome);
            // A frame to who has dropped everything is refused sooner or later.
            while stream.sender.try_send(&append_frame(Append::default())) != Err(SendError::Closed) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let _ = ended.send("closed");
        }
        .boxed()
    });
    let (a, b) = Tls(None).pair(quiet(), never(), replicate).await;
    let stream = a.peer(&b).follow().await.expect("connected");
    stream.sender.try_send(&follow()).expect("room");
    let (sender, receiver) = (stream.sender, stream.receiver);
    drop(sender);
    assert_eq!(ended.recv().await, Some("ended"));
    drop(receiver);
    assert_eq!(ended.recv().await, Some("closed"));
    let mut stream = a.peer(&b).follow().await.expect("connected");
    stream.sender.try_send(&follow()).expect("room");
    // It is open at the other end: what is cut before that was never there.
    assert!(matches!(stream.receiver.next().await, Ok(Some(_))));
    drop(stream.receiver);
    assert_eq!(ended.recv().await, Some("cut"));
    assert_eq!(ended.recv().await, Some("closed"));
    assert_eq!(stream.sender.try_send(&follow()), Err(SendError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_requests_come_back_with_answer_or_status_or_undone() {
    both(async |tls| {
        let forward: ForwardFn = Box::new(|request| {
            async move {
                match request.path.as_str() {
                    "/etcdserverpb.KV/Put" => {
                        assert_eq!((request.client.as_str(), request.token.as_str()), ("kube", "t"));
                        assert!(request.require_leader);
                        assert!(request.deadline > Instant::now());
                        assert!(request.deadline <= Instant::now() + PATIENCE);
                        ForwardReply::Answer(request.body)
                    }
                    "/status" => ForwardReply::Status(CallStatus {
                        code: 11,
                        message: "etcdserver: mvcc: required revision has been compacted".into(),
                        details: Bytes::from_static(b"d"),
                    }),
                    "/panic" => panic!("as the test asks for"),
                    _ => ForwardReply::NotRun(NotRun {
                        reason: not_run::Reason::NotPrimary.into(),
                        primary: "c".into(),
                        term: 9,
                    }),
                }
            }
            .boxed()
        });
        let (a, b) = tls.pair(quiet(), forward, no_log()).await;
        let peer = a.peer(&b);
        for size in [0, 1, 1000, 100_000, 3 << 20] {
            let mut put = request("/etcdserverpb.KV/Put", &vec![size as u8; size]);
            put.client = "kube".into();
            put.token = "t".into();
            put.require_leader = true;
            assert_eq!(peer.forward(put).await, Ok(Outcome::Answer(Bytes::from(vec![size as u8; size]))));
        }
        match peer.forward(request("/status", b"")).await {
            Ok(Outcome::Status(status)) => {
                assert_eq!((status.code, &status.details[..]), (11, &b"d"[..]));
                assert_eq!(status.message, "etcdserver: mvcc: required revision has been compacted");
            }
            other => panic!("{other:?}"),
        }
        match peer.forward(request("/elsewhere", b"")).await {
            Err(CallError::NotSent(NotSent::NotRun(why))) => assert_eq!((why.primary.as_str(), why.term), ("c", 9)),
            other => panic!("{other:?}"),
        }
        match peer.forward(request("/panic", b"")).await {
            Ok(Outcome::Status(status)) => assert_eq!(status.code, 13),
            other => panic!("{other:?}"),
        }
        let too_large = request("/etcdserverpb.KV/Put", &vec![0; (72 << 20) + 1]);
        assert!(matches!(peer.forward(too_large).await, Err(CallError::NotSent(NotSent::TooLarge { .. }))));
        // The connection has survived all that.
        assert!(matches!(peer.forward(request("/status", b"")).await, Ok(Outcome::Status(_))));
    })
    .await;
}

/// Counts futures that were begun and dropped.
#[derive(Clone, Default)]
struct Watched(Arc<(AtomicUsize, AtomicUsize)>);

struct Begun(Watched);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.0.1.fetch_add(1, Ordering::SeqCst);
    }
}

impl Watched {
    fn forward(&self) -> ForwardFn {
        let this = self.clone();
        Box::new(move |_| {
            this.0.0.fetch_add(1, Ordering::SeqCst);
            let begun = Begun(this.clone());
            async move {
                let _begun = begun;
                std::future::pending().await
            }
            .boxed()
        })
    }

    async fn until(&self, begun: usize, dropped: usize) {
        let reached = async {
            while (self.0.0.load(Ordering::SeqCst), self.0.1.load(Ordering::SeqCst)) != (begun, dropped) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{begun} begun, {dropped} dropped"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_end_with_their_deadline_and_with_who_made_them() {
    both(async |tls| {
        let watched = Watched::default();
        let (a, b) = tls.pair(quiet(), watched.forward(), no_log()).await;
        let peer = a.peer(&b);
        let mut late = request("/s/m", b"");
        late.deadline = Instant::now() + Duration::from_millis(50);
        assert_eq!(peer.forward(late).await, Err(CallError::Unknown(Unanswered::Deadline)));
        watched.until(1, 1).await;
        let mut too_late = request("/s/m", b"");
        too_late.deadline = Instant::now();
        assert_eq!(peer.forward(too_late).await, Err(CallError::NotSent(NotSent::Deadline)));
        let call = tokio::spawn({
            let peer = peer.clone();
            async move { peer.forward(request("/s/m", b"")).await }
        });
        watched.until(2, 1).await;
        call.abort();
        watched.until(2, 2).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_calls_run_than_may() {
    let watched = Watched::default();
    let config = PeerConfig { calls_max: 3, ..quiet() };
    let (a, b) = Tls(None).pair(config, watched.forward(), no_log()).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let peer = a.peer(&b);
            tokio::spawn(async move { peer.forward(request("/s/m", b"")).await })
        })
        .collect();
    watched.until(3, 0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    watched.until(3, 0).await;
    // Those that wait get their turn; calls given up before they were begun are begun and ended at once.
    calls[0].abort();
    for call in &calls {
        call.abort();
    }
    a.peers.stop("the test is over").await;
    tokio::time::timeout(PATIENCE, async {
        while watched.0.0.load(Ordering::SeqCst) != watched.0.1.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("none is left");
}

/// A node in a runtime of its own, which can be ended as a crash would end it.
struct Doomed {
    runtime: Option<tokio::runtime::Runtime>,
    node: TestNode,
}

impl Doomed {
    fn start(setup: Setup) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
        let node = std::thread::scope(|s| s.spawn(|| runtime.block_on(setup.start())).join().expect("started"));
        Self { runtime: Some(runtime), node }
    }

    fn crash(&mut self) {
        self.runtime.take().expect("it runs").shutdown_background();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_noticed_at_once_and_what_was_sent_has_no_known_outcome() {
    both(async |tls| {
        let a = tls.setup("a").start().await;
        let watched = Watched::default();
        let mut b = Doomed::start(Setup { forward: watched.forward(), ..tls.setup("b") });
        a.calls(&[&b.node]);
        let first = a.up(Direction::Outgoing).await;
        let peer = a.peer(&b.node);
        let call = tokio::spawn({
            let peer = peer.clone();
            async move { peer.forward(request("/s/m", b"")).await }
        });
        watched.until(1, 0).await;
        b.crash();
        // Keep-alive would take hours.
        let lost = a
            .event(|event| match event {
                PeerEvent::Down { remote, lost, last, direction } => {
                    assert_eq!((remote, *direction), (&first, Direction::Outgoing));
                    assert!(*last);
                    Some(lost.clone())
                }
                _ => None,
            })
            .await;
        assert!(matches!(lost, Lost::Broken(_)), "{lost:?}");
        let outcome = call.await.expect("no panic");
        assert!(matches!(outcome, Err(CallError::Unknown(Unanswered::Lost(Lost::Broken(_))))), "{outcome:?}");
        let outcome = peer.forward(request("/s/m", b"")).await;
        assert_eq!(outcome, Err(CallError::NotSent(NotSent::NotConnected)));
        assert!(peer.follow().await.is_err());
        // Its process is gone and its machine is not.
        a.event(|event| match event {
            PeerEvent::Unreachable { node_id, error: netsy_peer::DialError::ConnectionRefused { .. } } => {
                assert_eq!(node_id.as_str(), "b");
                Some(())
            }
            _ => None,
        })
        .await;
        // Another process takes its place, at another address.
        let b = tls.setup("b").start().await;
        a.calls(&[&b]);
        let second = a.up(Direction::Outgoing).await;
        assert_ne!(first.session, second.session);
        a.peers.send_engine(&b.id, Bytes::from_static(b"again")).expect("room");
        assert_eq!(b.message().await.1, "again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_says_goodbye_and_is_no_crash() {
    both(async |tls| {
        let (a, b) = tls.pair(quiet(), never(), no_log()).await;
        b.calls(&[&a]);
        b.up(Direction::Outgoing).await;
        let call = tokio::spawn({
            let peer = a.peer(&b);
            async move { peer.forward(request("/s/m", b"")).await }
        });
        b.peers.stop("maintenance").await;
        for _ in 0..2 {
            let lost = a
                .event(|event| match event {
                    PeerEvent::Down { lost, .. } => Some(lost.clone()),
                    _ => None,
                })
                .await;
            assert_eq!(lost, Lost::Goodbye("maintenance".into()));
        }
        let outcome = call.await.expect("no panic");
        assert!(matches!(outcome, Err(CallError::Unknown(Unanswered::Lost(Lost::Goodbye(_))) | CallError::NotSent(_))));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_falls_silent_is_given_up() {
    let config = PeerConfig {
        keepalive_after: Duration::from_millis(100),
        keepalive_timeout: Duration::from_millis(200),
        ..quiet()
    };
    let a = Setup { config: config.clone(), ..Setup::new("a") }.start().await;
    let b = Setup { config, ..Setup::new("b") }.start().await;
    // Between them, something that swallows everything once it is told to.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let through = listener.local_addr().expect("an address");
    let swallow = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let target = b.peers.addr();
    tokio::spawn({
        let swallow = swallow.clone();
        async move {
            while let Ok((from, _)) = listener.accept().await {
                let to = tokio::net::TcpStream::connect(target).await.expect("it listens");
                let (from_read, from_write) = from.into_split();
                let (to_read, to_write) = to.into_split();
                tokio::spawn(relay(from_read, to_write, swallow.clone()));
                tokio::spawn(relay(to_read, from_write, swallow.clone()));
            }
        }
    });
    a.peers.set_addresses([(b.id.clone(), through.to_string())]);
    a.up(Direction::Outgoing).await;
    b.up(Direction::Incoming).await;
    // An idle connection is kept.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert!(a.peer(&b).can_ask());
    swallow.store(true, Ordering::SeqCst);
    for node in [&a, &b] {
        let lost = node
            .event(|event| match event {
                PeerEvent::Down { lost, .. } => Some(lost.clone()),
                _ => None,
            })
            .await;
        assert!(matches!(lost, Lost::Silent(300)), "{lost:?}");
    }
}

async fn relay(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    swallow: Arc<std::sync::atomic::AtomicBool>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 16 << 10];
    loop {
        let n = from.read(&mut buffer).await.unwrap_or(0);
        if swallow.load(Ordering::SeqCst) {
            // Both sockets stay open, and nothing passes.
            std::future::pending::<()>().await;
        }
        if n == 0 || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_not_named_any_more_are_not_called_any_more() {
    let (a, b) = Tls(None).pair(quiet(), never(), no_log()).await;
    let peer = a.peer(&b);
    a.peers.set_addresses([]);
    let lost = b
        .event(|event| match event {
            PeerEvent::Down { lost, .. } => Some(lost.clone()),
            _ => None,
        })
        .await;
    assert!(matches!(lost, Lost::Goodbye(_)), "no crash: {lost:?}");
    a.event(|event| matches!(event, PeerEvent::Down { last: true, .. }).then_some(())).await;
    assert!(!peer.can_ask());
    // And again, through the handle from before; itself is passed over.
    a.peers.set_addresses([
        (b.id.clone(), format!("http://{}/", b.peers.addr())),
        (a.id.clone(), a.peers.addr().to_string()),
    ]);
    a.up(Direction::Outgoing).await;
    assert!(peer.can_ask());
    assert_eq!(a.peers.connected().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_is_none_ends_the_stream_and_not_the_node() {
    let replicate: ReplicateFn = Box::new(|_, mut stream| {
        async move {
            // A Primary that sends what only replicas may: it is decoded as an unknown frame.
            let _ = stream.receiver.next().await;
            let _ = stream.sender.try_send(&PrimaryFrame { kind: None });
            std::future::pending().await
        }
        .boxed()
    });
    let (a, b) = Tls(None).pair(quiet(), never(), replicate).await;
    let mut stream = a.peer(&b).follow().await.expect("connected");
    stream.sender.try_send(&follow()).expect("room");
    assert_eq!(stream.receiver.next().await, Ok(Some(PrimaryFrame { kind: None })));
    assert!(a.peer(&b).can_ask());
}
