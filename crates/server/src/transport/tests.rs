//! The transport with small calls behind it: what a client sees of framing, limits, pings, drains
//! and faults.

mod drain;

use super::connection::ConnectionLimits;
use super::listener::{Acceptor, Listening, Plain};
use super::{Incoming, Routes, Work};
use crate::grpc::call::{Call, CallLimits, CallSite, UnaryContext, unary};
use crate::grpc::reply::Body;
use crate::grpc::rpc::{Flow, Rpc};
use crate::grpc::status::{Code, Status};
use crate::metrics::Metrics;
use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use netsy_api::etcdserverpb::kv_client::KvClient;
use netsy_api::etcdserverpb::{PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader};
use netsy_api::mvccpb::KeyValue;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const LIMITS: CallLimits = CallLimits { message_bytes_max: 2 << 20, request_timeout: Duration::from_secs(7) };

/// Range answers with its key as often as `limit` says; Put panics on key "panic" and sleeps on "slow".
struct Echo(Metrics);

impl CallSite for Echo {
    fn metrics(&self) -> &Metrics {
        &self.0
    }

    fn limits(&self) -> CallLimits {
        LIMITS
    }

    fn admit(&self, _: Flow, _: &HeaderMap) -> Result<(), Status> {
        Ok(())
    }
}

fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: 1 << 60, member_id: 1 << 60, revision: 1 << 20, raft_term: 1 })
}

async fn range(_: &Echo, _: UnaryContext, request: RangeRequest) -> Result<Body, Status> {
    let kv = KeyValue { key: request.key, ..KeyValue::default() };
    let kvs = vec![kv; request.limit.max(1) as usize];
    Ok(Body::of(&RangeResponse { header: header(), count: kvs.len() as i64, kvs, more: false }))
}

async fn put(_: &Echo, _: UnaryContext, request: PutRequest) -> Result<Body, Status> {
    match &request.key[..] {
        b"panic" => panic!("as asked"),
        b"slow" => tokio::time::sleep(Duration::from_millis(300)).await,
        b"refuse" => return Err(Status::new(Code::Unknown, "caf\u{e9}: 100%")),
        _ => {}
    }
    Ok(Body::of(&PutResponse { header: header(), prev_kv: None }))
}

impl Routes for Echo {
    fn start(self: &Arc<Self>, incoming: Incoming) -> Work {
        match Rpc::of_path(incoming.head.uri.path()) {
            Some(Rpc::Range) => Work::Here(unary(self.clone(), Call::plain(incoming), Rpc::Range, range).boxed()),
            _ => Work::Queued(unary(self.clone(), Call::plain(incoming), Rpc::Put, put).boxed()),
        }
    }

    fn http(self: Arc<Self>, request: Request<()>) -> BoxFuture<'static, Response<Bytes>> {
        async move { Response::new(Bytes::from(format!("you asked for {}", request.uri().path()))) }.boxed()
    }
}

struct Running {
    addr: SocketAddr,
    metrics: Metrics,
    drain: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn start_with(limits: ConnectionLimits, connections_max: usize) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    start_on(listener, Plain, limits, connections_max)
}

fn start_on<A: Acceptor>(
    listener: TcpListener,
    acceptor: A,
    limits: ConnectionLimits,
    connections_max: usize,
) -> Running {
    let metrics = Metrics::new().unwrap();
    let addr = listener.local_addr().unwrap();
    let (drain, drained) = watch::channel(false);
    let listening = Listening {
        routes: Arc::new(Echo(metrics.clone())),
        acceptor,
        limits,
        connections_max,
        closes: true,
        traffic: metrics.traffic(),
        connections: metrics.connections(),
    };
    let task = tokio::spawn(listening.run(listener, drained, Duration::from_secs(5)));
    Running { addr, metrics, drain, task }
}

async fn start() -> Running {
    start_with(ConnectionLimits::default(), 100).await
}

impl Running {
    async fn client(&self) -> KvClient<tonic::transport::Channel> {
        KvClient::connect(format!("http://{}", self.addr)).await.unwrap()
    }

    /// A bare HTTP/2 connection.
    async fn h2(&self) -> h2::client::SendRequest<Bytes> {
        let socket = TcpStream::connect(self.addr).await.unwrap();
        let (send, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        send.ready().await.unwrap()
    }
}

fn key(text: &str) -> PutRequest {
    PutRequest { key: Bytes::copy_from_slice(text.as_bytes()), ..PutRequest::default() }
}

#[tokio::test]
async fn answers_small_large_and_many() {
    let server = start().await;
    let mut client = server.client().await.max_decoding_message_size(64 << 20);
    let answer = client.put(key("a")).await.unwrap();
    assert_eq!(answer.metadata().get("content-type").unwrap(), "application/grpc");
    // Larger than any window, in both directions.
    let big = RangeRequest { key: Bytes::from(vec![7; 1 << 20]), limit: 20, ..RangeRequest::default() };
    let kvs = client.range(big).await.unwrap().into_inner().kvs;
    assert_eq!(kvs.len(), 20);
    assert!(kvs.iter().all(|kv| kv.key.len() == 1 << 20 && kv.key.iter().all(|&b| b == 7)));
    let calls = (0..500).map(|i| {
        let mut client = client.clone();
        async move {
            let text = format!("key-{i}");
            let request = RangeRequest { key: text.clone().into(), limit: 1, ..RangeRequest::default() };
            assert_eq!(client.range(request).await.unwrap().into_inner().kvs[0].key, text);
        }
    });
    futures::future::join_all(calls).await;
}

#[tokio::test]
async fn too_large_a_message_is_refused_before_it_is_read() {
    let server = start().await;
    let mut client = server.client().await;
    // More than the connection's window in all: what is not read is given back.
    for _ in 0..10 {
        let big = PutRequest { value: Bytes::from(vec![0; 3 << 20]), ..key("a") };
        let status = client.put(big).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("received message larger than max"), "{status:?}");
        client.put(key("a")).await.unwrap();
    }
}

#[tokio::test]
async fn a_panic_ends_the_call_and_nothing_else() {
    let server = start().await;
    let mut client = server.client().await;
    let mut slow = client.clone();
    let slow = tokio::spawn(async move { slow.put(key("slow")).await });
    tokio::task::yield_now().await;
    let status = client.put(key("panic")).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    client.put(key("a")).await.unwrap();
    slow.await.unwrap().unwrap();
}

#[tokio::test]
async fn status_texts_survive_the_header() {
    let server = start().await;
    let status = server.client().await.put(key("refuse")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "caf\u{e9}: 100%"));
}

#[tokio::test]
async fn a_drain_lets_calls_finish() {
    let server = start().await;
    let mut client = server.client().await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    let slow = tokio::spawn(async move { client.put(key("slow")).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.drain.send(true).unwrap();
    slow.await.unwrap().unwrap();
    tokio::time::timeout(Duration::from_secs(2), server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn http1_is_spoken_on_the_same_port() {
    let server = start().await;
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"GET /some/path HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("you asked for /some/path"), "{answer}");
}

#[tokio::test]
async fn who_says_nothing_is_cut_off() {
    let limits = ConnectionLimits { greeting_timeout: Duration::from_millis(100), ..ConnectionLimits::default() };
    let server = start_with(limits, 100).await;
    for greeting in [&b""[..], b"PRI * HTTP", b"GET / HTTP/1.1\r\nhos"] {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.write_all(greeting).await.unwrap();
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "still open after {greeting:?}");
    }
}

#[tokio::test]
async fn connections_are_bounded() {
    let server = start_with(ConnectionLimits::default(), 1).await;
    let mut client = server.client().await;
    client.put(key("a")).await.unwrap();
    let mut second = TcpStream::connect(server.addr).await.unwrap();
    let mut space = [0; 1];
    assert_eq!(second.read(&mut space).await.unwrap_or(0), 0);
    client.put(key("a")).await.unwrap();
}

#[tokio::test]
async fn silent_connections_are_pinged_and_dead_ones_closed() {
    let limits = ConnectionLimits {
        ping_after: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(50),
        ..ConnectionLimits::default()
    };
    let server = start_with(limits, 100).await;
    // A live client answers the pings and stays.
    let mut live = server.client().await;
    // A dead one does not: it greets and then never reads or writes.
    let mut dead = TcpStream::connect(server.addr).await.unwrap();
    dead.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), dead.read_to_end(&mut rest)).await.unwrap().unwrap();
    live.put(key("a")).await.unwrap();
}

#[tokio::test]
async fn too_many_pings_end_with_the_text_clients_know() {
    let server = start().await;
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    for _ in 0..5 {
        socket.write_all(b"\0\0\x08\x06\0\0\0\0\0pingping").await.unwrap();
    }
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.windows(14).any(|w| w == b"too_many_pings"));
}

fn grpc_request(path: &str) -> Request<()> {
    Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc").body(()).unwrap()
}

#[tokio::test]
async fn broken_framing_gets_a_status() {
    let server = start().await;
    for (bytes, code) in [
        (&b""[..], "13"),
        (b"\0\0\0", "13"),
        (b"\0\0\0\0\x05ab", "13"),
        (b"\x01\0\0\0\x01a", "13"),
        (b"\x07\0\0\0\x01a", "13"),
        (b"\0\xff\xff\xff\xff", "8"),
        (b"\0\0\0\0\x02\xff\xff", "13"),
    ] {
        let mut h2 = server.h2().await;
        let (answer, mut send) = h2.send_request(grpc_request("/etcdserverpb.KV/Put"), false).unwrap();
        send.send_data(Bytes::from_static(bytes), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers().get("grpc-status").unwrap(), code, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_message_may_come_byte_by_byte() {
    let server = start().await;
    let mut h2 = server.h2().await;
    let (answer, mut send) = h2.send_request(grpc_request("/etcdserverpb.KV/Put"), false).unwrap();
    for &byte in b"\0\0\0\0\x03\x0a\x01k" {
        send.send_data(Bytes::copy_from_slice(&[byte]), false).unwrap();
        tokio::task::yield_now().await;
    }
    // Answered though the client has not said that it is done.
    let mut body = answer.await.unwrap().into_body();
    while body.data().await.is_some() {}
    assert_eq!(body.trailers().await.unwrap().unwrap().get("grpc-status").unwrap(), "0");
}

/// A client that opens calls and never reads: it stops being served, others do not notice.
#[tokio::test]
async fn who_does_not_read_blocks_only_itself() {
    let server = start().await;
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    let mut greeting = BytesMut::new();
    greeting.put_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    socket.write_all(&greeting).await.unwrap();
    let mut requests = Vec::new();
    let mut header = vec![0x83, 0x86]; // :method POST, :scheme http
    for (index, text) in [(0x04u8, "/etcdserverpb.KV/Range"), (0x01, "h")] {
        header.push(index); // :path, :authority, not indexed
        header.push(text.len() as u8);
        header.extend(text.as_bytes());
    }
    header.extend([0x0f, 0x10, 0x10]); // content-type, not indexed
    header.extend(b"application/grpc");
    for i in 0..20_000u32 {
        let stream = (2 * i + 1).to_be_bytes();
        requests.extend([0, 0, header.len() as u8, 1, 4]);
        requests.extend(stream);
        requests.extend(&header);
        let message = b"\0\0\0\0\x05\x0a\x01k\x18\x64";
        requests.extend([0, 0, message.len() as u8, 0, 1]);
        requests.extend(stream);
        requests.extend(message);
    }
    // The server stops reading long before all of it was sent.
    let wrote = tokio::time::timeout(Duration::from_secs(1), socket.write_all(&requests)).await;
    let mut other = server.client().await;
    for _ in 0..100 {
        tokio::time::timeout(Duration::from_secs(30), other.put(key("a"))).await.unwrap().unwrap();
    }
    drop(socket);
    drop(wrote);
    assert!(server.metrics.registry().gather().len() > 5);
}

/// Opening and resetting streams as fast as possible ends with the connection.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let server = start().await;
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut attack = Vec::new();
    for i in 0..50_000u32 {
        let stream = (2 * i + 1).to_be_bytes();
        attack.extend([0, 0, 3, 1, 4]);
        attack.extend(stream);
        attack.extend([0x83, 0x86, 0x84]);
        attack.extend([0, 0, 4, 3, 0]);
        attack.extend(stream);
        attack.extend([0, 0, 0, 8]);
    }
    let outcome = tokio::time::timeout(Duration::from_secs(20), async {
        let (mut read, mut write) = socket.split();
        let sending = async {
            let _ = write.write_all(&attack).await;
        };
        let mut rest = Vec::new();
        let reading = async {
            let _ = read.read_to_end(&mut rest).await;
        };
        futures::join!(sending, reading);
    })
    .await;
    assert!(outcome.is_ok(), "the server kept the connection");
    server.client().await.put(key("a")).await.unwrap();
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, fork: false, ..Default::default() })]

    /// Whatever comes in, the server goes on serving others.
    #[test]
    fn arbitrary_bytes_do_no_harm(
        greet in proptest::bool::ANY,
        chunks in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..200), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = start().await;
            let mut socket = TcpStream::connect(server.addr).await.unwrap();
            if greet {
                socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            }
            for chunk in &chunks {
                // The server may have closed already.
                let _ = socket.write_all(chunk).await;
                tokio::task::yield_now().await;
            }
            server.client().await.put(key("a")).await.unwrap();
        });
    }

    /// Any path, any body as a gRPC request: a status comes back.
    #[test]
    fn arbitrary_calls_get_a_status(
        path in "/[!-~&&[^\\\\#?{}|^`\"<>]]{0,40}",
        body in proptest::collection::vec(proptest::num::u8::ANY, 0..64),
        framed in proptest::bool::ANY,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = start().await;
            let mut h2 = server.h2().await;
            let Ok(request) = Request::post(format!("http://localhost{path}"))
                .header("content-type", "application/grpc").body(()) else { return };
            let (answer, mut send) = h2.send_request(request, false).unwrap();
            let mut data = BytesMut::new();
            if framed {
                data.put_u8(0);
                data.put_u32(body.len() as u32);
            }
            data.put_slice(&body);
            send.send_data(data.freeze(), true).unwrap();
            let (head, mut body) = answer.await.unwrap().into_parts();
            while body.data().await.is_some() {}
            let trailers = body.trailers().await.unwrap_or(None).unwrap_or_default();
            assert!(head.headers.contains_key("grpc-status") || trailers.contains_key("grpc-status"));
        });
    }
}
