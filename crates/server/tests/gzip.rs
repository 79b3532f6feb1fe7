//! Requests compressed with gzip, and headers that ask for what there is not: as grpc-go's server takes and refuses them,
//! which etcd is. (`malformed_timeouts` belongs here: it is the other header that is judged before the call.)

mod common;

use bytes::{BufMut, Bytes, BytesMut};
use common::{Running, key, put, start};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use netsy_api::etcdserverpb::*;
use prost::Message;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const GZIP: &[(&str, &str)] = &[("grpc-encoding", "gzip")];

fn zip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn frame(flag: u8, bytes: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(flag);
    framed.put_u32(bytes.len() as u32);
    framed.put_slice(bytes);
    framed.freeze()
}

/// What came back of one call.
#[derive(Debug)]
struct Answer {
    http: u16,
    headers: HeaderMap,
    code: i32,
    text: String,
    body: Bytes,
}

impl Answer {
    fn message<M: Message + Default>(&self) -> M {
        assert_eq!((self.code, &self.text[..]), (0, ""));
        assert_eq!(self.body[0], 0, "answers are not compressed");
        M::decode(&self.body[5..]).unwrap()
    }
}

/// A connection, for any number of calls.
#[derive(Clone)]
struct Raw(h2::client::SendRequest<Bytes>);

impl Raw {
    async fn connect(running: &Running) -> Self {
        let socket = tokio::net::TcpStream::connect(running.addr).await.unwrap();
        let (send, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self(send)
    }

    async fn call(&self, path: &str, headers: &[(&str, &str)], frames: Vec<Bytes>) -> Answer {
        let mut request = http::Request::post(format!("http://localhost/etcdserverpb.{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (answer, mut stream) =
            self.0.clone().ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
        for mut frame in frames {
            while !frame.is_empty() {
                stream.reserve_capacity(frame.len());
                // None, or an error: the server has answered before it had all.
                let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { break };
                if stream.send_data(frame.split_to(room.min(frame.len())), false).is_err() {
                    break;
                }
            }
        }
        let _ = stream.send_data(Bytes::new(), true);
        let (head, mut received) = answer.await.unwrap().into_parts();
        let mut body = BytesMut::new();
        let mut headers = head.headers;
        while let Some(data) = received.data().await {
            let data = data.unwrap();
            received.flow_control().release_capacity(data.len()).unwrap();
            body.extend_from_slice(&data);
        }
        if let Some(trailers) = received.trailers().await.unwrap() {
            headers.extend(trailers);
        }
        let header = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let (code, text) = (header("grpc-status").parse().unwrap(), header("grpc-message"));
        Answer { http: head.status.as_u16(), headers, code, text, body: body.freeze() }
    }
}

#[tokio::test]
async fn unary_and_streaming_requests_may_be_compressed() {
    let running = start().await;
    let raw = Raw::connect(&running).await;
    // Compressible and not, longer than a step and than a frame.
    let text = vec![b'v'; 1_000_000];
    let noise: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, value) in [("text", text), ("noise", noise), ("empty", vec![])] {
        let request = put(name, value.clone()).encode_to_vec();
        let put: PutResponse = raw.call("KV/Put", GZIP, vec![frame(1, &zip(&request))]).await.message();
        assert!(put.header.unwrap().revision > 1);
        let request = key(name).encode_to_vec();
        let got: RangeResponse = raw.call("KV/Range", GZIP, vec![frame(1, &zip(&request))]).await.message();
        assert_eq!(got.kvs[0].value, value);
        // A client that says gzip need not compress each message.
        let got: RangeResponse = raw.call("KV/Range", GZIP, vec![frame(0, &request)]).await.message();
        assert_eq!(got.kvs[0].value, value);
    }
    let grant = LeaseGrantRequest { ttl: 60, id: 7 }.encode_to_vec();
    raw.call("Lease/LeaseGrant", GZIP, vec![frame(1, &zip(&grant))]).await.message::<LeaseGrantResponse>();
    let alive = LeaseKeepAliveRequest { id: 7 }.encode_to_vec();
    let frames = vec![frame(1, &zip(&alive)), frame(0, &alive), frame(1, &zip(&alive))];
    let answers = raw.call("Lease/LeaseKeepAlive", GZIP, frames).await;
    let first: LeaseKeepAliveResponse =
        LeaseKeepAliveResponse::decode(&answers.body[5..][..answers.body[4].into()]).unwrap();
    assert_eq!((answers.code, first.ttl), (0, 60));
    assert_eq!(answers.body.len() % 3, 0, "three answers of one length");
}

#[tokio::test]
async fn what_cannot_be_decompressed_is_refused_with_grpcs_words() {
    let running = start().await;
    let raw = Raw::connect(&running).await;
    let request = key("a").encode_to_vec();
    let zipped = zip(&request);
    for path in ["KV/Range", "Lease/LeaseKeepAlive"] {
        let refused = raw.call(path, &[("grpc-encoding", "snappy")], vec![frame(1, &request)]).await;
        assert_eq!((refused.http, refused.code), (200, 12));
        assert_eq!(refused.text, "grpc: Decompressor is not installed for grpc-encoding \"snappy\"");
        assert_eq!(refused.headers["grpc-accept-encoding"], "identity,gzip");
        for headers in [&[][..], &[("grpc-encoding", "identity")]] {
            let refused = raw.call(path, headers, vec![frame(1, &zipped)]).await;
            assert_eq!(refused.code, 13);
            assert_eq!(refused.text, "grpc: compressed flag set with identity or empty encoding");
        }
        let refused = raw.call(path, GZIP, vec![frame(2, &zipped)]).await;
        assert_eq!((refused.code, &refused.text[..]), (13, "grpc: received unexpected payload format 2"));
        for damaged in [&zipped[..zipped.len() - 3], &request[..], b""] {
            let refused = raw.call(path, GZIP, vec![frame(1, damaged)]).await;
            assert_eq!(refused.code, 13);
            assert!(refused.text.starts_with("grpc: failed to decompress the message: "), "{}", refused.text);
        }
    }
}

#[tokio::test]
async fn the_limits_are_those_of_the_message() {
    let running = start().await;
    let raw = Raw::connect(&running).await;
    // Past the limit of a request, and past that of a message.
    let large = put("a", vec![b'v'; 1_600_000]).encode_to_vec();
    let refused = raw.call("KV/Put", GZIP, vec![frame(1, &zip(&large))]).await;
    assert_eq!((refused.code, &refused.text[..]), (3, "etcdserver: request is too large"));
    let refused = raw.call("KV/Put", GZIP, vec![frame(1, &zip(&vec![0; 64 << 20]))]).await;
    let max = (3 << 19) + (512 << 10);
    assert_eq!(refused.code, 8);
    assert_eq!(refused.text, format!("grpc: received message after decompression larger than max {max}"));
}

/// Few bytes that come to too many, and bytes that are nothing but the beginnings of blocks and take long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_do_not_hold_others_up() {
    let running = start().await;
    let zeroes = zip(&vec![0; 64 << 20]);
    let mut blocks = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    blocks.extend([0b0000_0010, 0b0000_1000, 0b0010_0000, 0b1000_0000, 0b0000_0000].repeat(40_000));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut attackers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let raw = Raw::connect(&running).await;
        for bomb in [&zeroes, &blocks] {
            for _ in 0..8 {
                let (raw, bomb, answered) = (raw.clone(), frame(1, bomb), answered.clone());
                attackers.spawn(async move {
                    loop {
                        let code = raw.call("KV/Put", GZIP, vec![bomb.clone()]).await.code;
                        assert!([8, 13].contains(&code), "answered with code {code}");
                        answered.fetch_add(1, Relaxed);
                    }
                });
            }
        }
    }
    let mut kv = running.kv().await;
    // Counted in bombs and not in seconds: a put and a get wait for no more than a few of the 64 that are always there.
    let mut waited_for = vec![];
    for _ in 0..50 {
        let before = answered.load(Relaxed);
        kv.put(put("a", "1")).await.unwrap();
        kv.range(key("a")).await.unwrap();
        waited_for.push(answered.load(Relaxed) - before);
    }
    waited_for.sort();
    println!("a put and a get took as long as {} bombs in the middle, {} at most", waited_for[25], waited_for[49]);
    assert!(waited_for[25] < 64, "{waited_for:?}");
    attackers.abort_all();
    while let Some(ended) = attackers.join_next().await {
        assert!(ended.unwrap_err().is_cancelled());
    }
}

#[tokio::test]
async fn malformed_timeouts() {
    let running = start().await;
    let raw = Raw::connect(&running).await;
    let request = key("a").encode_to_vec();
    // Whatever is called: the header is judged first.
    for path in ["KV/Range", "Lease/LeaseKeepAlive", "KV/NoSuchThing"] {
        let refused = raw.call(path, &[("grpc-timeout", "tomorrow")], vec![frame(0, &request)]).await;
        assert_eq!((refused.http, refused.code), (400, 13));
        assert_eq!(refused.text, "malformed grpc-timeout: transport: timeout unit is not recognized: \"tomorrow\"");
    }
    let got: RangeResponse = raw.call("KV/Range", &[("grpc-timeout", "5S")], vec![frame(0, &request)]).await.message();
    assert_eq!(got.count, 0);
}
