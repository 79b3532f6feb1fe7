//! Changed requests and changed connections: the server answers or refuses, nothing in it panics, and it goes on
//! serving. See `netsy_fuzz`; `hostile.rs` makes requests up from their types.

mod common;

use bytes::{BufMut, BytesMut};
use common::{Running, key, put, start};
use flate2::Compression;
use flate2::write::GzEncoder;
use netsy_api::etcdserverpb::*;
use netsy_fuzz::{Verdict, run};
use prost::Message;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A connection that has not ended by itself is left after this.
const ANSWER_WITHIN: Duration = Duration::from_millis(60);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn literal(block: &mut Vec<u8>, first: u8, name: Option<&str>, value: &str) {
    block.push(first);
    for text in name.into_iter().chain([value]) {
        assert!(text.len() < 127);
        block.push(text.len() as u8);
        block.extend_from_slice(text.as_bytes());
    }
}

/// A call as frames: its headers and its message.
fn call_frames(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    frames_of(stream, path, message, false)
}

/// The same with `message` said to be compressed.
fn gzip_frames(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    frames_of(stream, path, message, true)
}

fn frames_of(stream: u32, path: &str, message: &[u8], gzip: bool) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    literal(&mut block, 0x44, None, path);
    literal(&mut block, 0x41, None, "http://127.0.0.1:2379");
    literal(&mut block, 0x5f, None, "application/grpc");
    literal(&mut block, 0x40, Some("te"), "trailers");
    literal(&mut block, 0x40, Some("grpc-timeout"), "1S");
    if gzip {
        literal(&mut block, 0x40, Some("grpc-encoding"), "gzip");
    }
    let mut framed = BytesMut::new();
    framed.put_u8(u8::from(gzip));
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    [frame(1, 4, stream, &block), frame(0, 1, stream, &framed)].concat()
}

fn calls() -> Vec<(&'static str, Vec<u8>)> {
    let range = RangeRequest { limit: 3, revision: 1, sort_order: 1, sort_target: 2, ..common::all() };
    let compare = Compare {
        key: "a".into(),
        target: 1,
        target_union: Some(compare::TargetUnion::Version(1)),
        ..Compare::default()
    };
    let op = |request| RequestOp { request: Some(request) };
    let nested = TxnRequest { success: vec![op(request_op::Request::RequestRange(key("a")))], ..TxnRequest::default() };
    let txn = TxnRequest {
        compare: vec![compare],
        success: vec![op(request_op::Request::RequestPut(put("a", "1"))), op(request_op::Request::RequestTxn(nested))],
        failure: vec![op(request_op::Request::RequestDeleteRange(DeleteRangeRequest {
            key: "b".into(),
            range_end: "c".into(),
            prev_kv: true,
        }))],
    };
    let create = WatchCreateRequest { key: "a".into(), start_revision: 1, filters: vec![0], ..Default::default() };
    let create = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    let lease = LeaseGrantRequest { ttl: 60, id: 7 };
    vec![
        ("/etcdserverpb.KV/Range", range.encode_to_vec()),
        ("/etcdserverpb.KV/RangeStream", range.encode_to_vec()),
        ("/etcdserverpb.KV/Put", PutRequest { lease: 7, prev_kv: true, ..put("a", "1") }.encode_to_vec()),
        ("/etcdserverpb.KV/DeleteRange", DeleteRangeRequest { key: "a".into(), ..Default::default() }.encode_to_vec()),
        ("/etcdserverpb.KV/Txn", txn.encode_to_vec()),
        ("/etcdserverpb.KV/Compact", CompactionRequest { revision: 2, physical: true }.encode_to_vec()),
        ("/etcdserverpb.Watch/Watch", create.encode_to_vec()),
        ("/etcdserverpb.Lease/LeaseGrant", lease.encode_to_vec()),
        ("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest { id: 7 }.encode_to_vec()),
        ("/etcdserverpb.Lease/LeaseKeepAlive", LeaseKeepAliveRequest { id: 7 }.encode_to_vec()),
        ("/etcdserverpb.Lease/LeaseTimeToLive", LeaseTimeToLiveRequest { id: 7, keys: true }.encode_to_vec()),
        ("/etcdserverpb.Lease/LeaseLeases", LeaseLeasesRequest {}.encode_to_vec()),
        ("/etcdserverpb.Cluster/MemberList", MemberListRequest { linearizable: true }.encode_to_vec()),
        ("/etcdserverpb.Maintenance/Alarm", AlarmRequest { action: 0, member_id: 1, alarm: 1 }.encode_to_vec()),
        ("/etcdserverpb.Maintenance/Status", StatusRequest {}.encode_to_vec()),
        ("/etcdserverpb.Maintenance/Hash", HashRequest {}.encode_to_vec()),
        ("/etcdserverpb.Maintenance/HashKV", HashKvRequest { revision: 1 }.encode_to_vec()),
        ("/etcdserverpb.Maintenance/Defragment", DefragmentRequest {}.encode_to_vec()),
        ("/grpc.health.v1.Health/Check", vec![]),
    ]
}

/// Sends bytes and takes what comes until a call is answered, the connection is closed, or for a while; whether a call
/// was answered.
async fn send(running: &Running, bytes: &[u8]) -> bool {
    let mut socket = TcpStream::connect(running.addr).await.expect("the server accepts connections");
    // It may have closed before everything was sent.
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let answered = async {
        while !has_answer(&answer) {
            if socket.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {
                continue;
            }
            return answer.starts_with(b"HTTP/1.1 ");
        }
        true
    };
    tokio::time::timeout(ANSWER_WITHIN, answered).await.unwrap_or(false)
}

/// Whether headers that end a stream are among these frames.
fn has_answer(mut frames: &[u8]) -> bool {
    while let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = frames {
        if *kind == 1 && flags & 1 != 0 {
            return true;
        }
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        frames = rest.get(length..).unwrap_or_default();
    }
    false
}

async fn goes_on(running: &Running) {
    let mut kv = running.kv().await;
    // A changed alarm request may have raised one.
    for alarm in [1, 2] {
        let member_id = running.node.identity().member_id();
        let request = AlarmRequest { action: 2, member_id, alarm };
        running.maintenance().await.alarm(request).await.expect("disarm");
    }
    kv.put(put("alive", "1")).await.expect("put");
    assert_eq!(kv.range(key("alive")).await.expect("range").into_inner().count, 1);
    let (_, metrics) = running.get("/metrics").await;
    let panics =
        metrics.lines().find(|line| line.starts_with("netsy_handler_panics_total")).expect("the counter of panics");
    assert!(panics.ends_with(" 0"), "{panics}");
}

fn fuzz(name: &str, corpus: &[Vec<u8>], usual: u64, bytes: impl Fn(&[u8]) -> Vec<u8>) {
    let runtime = Runtime::new().expect("a runtime");
    let running = runtime.block_on(start());
    // A panic of a connection's task would end nothing but that connection.
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = panics.clone();
    let usual_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        counted.fetch_add(1, Ordering::SeqCst);
        usual_hook(info);
    }));
    let mut sent = 0;
    run(name, corpus, usual, |input| {
        let answered = runtime.block_on(async {
            sent += 1;
            if sent % 50 == 0 {
                goes_on(&running).await;
            }
            send(&running, &bytes(input)).await
        });
        assert_eq!(panics.load(Ordering::SeqCst), 0, "something in the server panicked");
        if answered { Verdict::Accepted } else { Verdict::Refused }
    });
    runtime.block_on(goes_on(&running));
}

/// The first byte says which call; the rest is its message, in a sound frame.
#[test]
fn fuzz_messages_of_requests() {
    let calls = calls();
    let corpus: Vec<Vec<u8>> =
        (0u8..).zip(&calls).map(|(number, (_, message))| [&[number][..], message].concat()).collect();
    let begin = [PREFACE.to_vec(), frame(4, 0, 0, &[])].concat();
    fuzz("messages of requests", &corpus, 1_000, |input| {
        let (number, message) = input.split_first().map_or((0, &[][..]), |(number, rest)| (*number, rest));
        let (path, _) = calls[usize::from(number) % calls.len()];
        [begin.clone(), call_frames(1, path, message)].concat()
    });
}

/// The same with the message compressed, and then changed.
#[test]
fn fuzz_compressed_messages() {
    let calls = calls();
    let corpus: Vec<Vec<u8>> =
        (0u8..).zip(&calls).map(|(number, (_, message))| [vec![number], zip(message)].concat()).collect();
    let begin = [PREFACE.to_vec(), frame(4, 0, 0, &[])].concat();
    fuzz("compressed messages", &corpus, 500, |input| {
        let (number, message) = input.split_first().map_or((0, &[][..]), |(number, rest)| (*number, rest));
        let (path, _) = calls[usize::from(number) % calls.len()];
        [begin.clone(), gzip_frames(1, path, message)].concat()
    });
}

fn zip(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(message).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

/// Everything a client sends, HTTP/2 and HTTP/1.
#[test]
fn fuzz_connections() {
    let begin = [PREFACE.to_vec(), frame(4, 0, 0, &[0, 4, 0, 1, 0, 0]), frame(8, 0, 0, &[0, 1, 0, 0])].concat();
    let mut corpus: Vec<Vec<u8>> =
        calls().iter().map(|(path, message)| [begin.clone(), call_frames(1, path, message)].concat()).collect();
    let several = calls().into_iter().zip((1u32..).step_by(2));
    let several: Vec<u8> = several.flat_map(|((path, message), stream)| call_frames(stream, path, &message)).collect();
    corpus.push([begin.clone(), several].concat());
    corpus.push([begin, frame(6, 0, 0, &[7; 8]), frame(3, 0, 1, &[0, 0, 0, 8]), frame(7, 0, 0, &[0; 8])].concat());
    for path in ["/health", "/metrics", "/readyz?verbose&exclude=x", "/livez/serializable_read", "/version"] {
        corpus.push(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").into_bytes());
    }
    fuzz("connections", &corpus, 300, <[u8]>::to_vec);
}
