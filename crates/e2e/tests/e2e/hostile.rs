//! Input that no well-behaved client sends. After each the server must still serve others, soon.

use bytes::{Bytes, BytesMut};
use netsy_api::etcdserverpb as pb;
use netsy_e2e::ops::{prefix, put, watch_prefix};
use netsy_e2e::raw_h2::{self, RawH2, frame};
use netsy_e2e::{Client, Server, raw_grpc};
use prost::Message;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::Code;

/// Another client's write and read, on a new connection, within a second or so.
async fn serves_others(server: &mut Server) {
    assert!(server.is_running(), "the server ended:\n{}", server.log_tail());
    let start = Instant::now();
    let client = tokio::time::timeout(Duration::from_secs(10), server.client()).await.expect("connect");
    client.put("others", "served").await;
    assert_eq!(client.get("others").await.expect("others").value, "served");
    assert!(start.elapsed() < Duration::from_secs(10), "others waited {:?}", start.elapsed());
}

#[tokio::test]
async fn malformed_messages() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let whole =
        pb::TxnRequest { success: vec![netsy_e2e::ops::op(put("k", "v"))], ..Default::default() }.encode_to_vec();
    let mut bad: Vec<Vec<u8>> = vec![
        vec![0xff; 64],                           // no field has such a tag
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], // a length of 4 GiB
        vec![0x0a, 0x05, b'a'],                   // cut short
        vec![0x08; 3],                            // a number that does not end
        vec![0x0b, 0x0b, 0x0b],                   // groups that never close
        vec![0x80; 11],                           // a tag too long
        whole[..whole.len() - 1].to_vec(),
    ];
    bad.push([&[0x1a, 0x08][..], &[0x80; 8]].concat());
    for path in [
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/DeleteRange",
        "/etcdserverpb.KV/Txn",
        "/etcdserverpb.KV/Compact",
    ] {
        for bytes in &bad {
            // A well-formed prefix may parse; anything may come but silence.
            let result =
                tokio::time::timeout(Duration::from_secs(10), raw_grpc::unary(&client, path, bytes.clone())).await;
            let result = result.unwrap_or_else(|_| panic!("{path} {bytes:02x?}: no answer"));
            if let Err(status) = result {
                assert_ne!(status.code(), Code::Ok);
                assert_ne!(status.code(), Code::Unavailable, "{path} {bytes:02x?}: {status:?}");
            }
        }
    }
    for path in ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"] {
        for bytes in &bad {
            let messages = vec![Bytes::from(bytes.clone())];
            let result =
                tokio::time::timeout(Duration::from_secs(10), raw_grpc::first_of_stream(&client, path, messages)).await;
            if let Ok(Err(status)) = result {
                assert_ne!(status.code(), Code::Unavailable, "{path} {bytes:02x?}: {status:?}");
            }
        }
    }
    serves_others(&mut server).await;
}

#[tokio::test]
async fn unknown_methods_and_services() {
    let mut server = Server::start().await;
    let client = server.client().await;
    for path in
        ["/etcdserverpb.KV/Nothing", "/nobody.Knows/This", "/", "/etcdserverpb.KV", "/etcdserverpb.KV/Range/More"]
    {
        let status = raw_grpc::unary(&client, path, Bytes::new()).await.expect_err(path);
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
    serves_others(&mut server).await;
}

/// What a later issue adds must say so in the way that clients know.
#[tokio::test]
async fn services_of_later_issues_are_unimplemented() {
    let server = Server::start().await;
    if server.kind() != netsy_e2e::Kind::Netsy {
        return;
    }
    let client = server.client().await;
    for path in [
        "/etcdserverpb.Auth/AuthEnable",
        "/etcdserverpb.Auth/Authenticate",
        "/v3lockpb.Lock/Lock",
        "/v3electionpb.Election/Campaign",
        "/etcdserverpb.Cluster/MemberAdd",
    ] {
        let status = raw_grpc::unary(&client, path, Bytes::new()).await.expect_err(path);
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
}

#[tokio::test]
async fn what_is_not_http2() {
    let mut server = Server::start().await;
    let junk: [&[u8]; 6] = [
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /etcdserverpb.KV/Range HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc\r\nContent-Length: 99999999\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", // a TLS hello
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff", // a frame of 16 MiB
    ];
    let mut open = Vec::new();
    for bytes in junk {
        let mut stream = TcpStream::connect(server.address()).await.expect("connect");
        stream.write_all(bytes).await.expect("write");
        open.push(stream); // Left open: it must cost nobody anything.
    }
    // Connections that say nothing at all.
    for _ in 0..200 {
        open.push(TcpStream::connect(server.address()).await.expect("connect"));
    }
    serves_others(&mut server).await;
}

#[tokio::test]
async fn floods_of_frames() {
    let mut server = Server::start().await;
    let address = server.address().to_owned();
    let headers = RawH2::call_headers("/etcdserverpb.KV/Range");

    // Calls opened and reset at once (CVE-2023-44487).
    let mut raw = RawH2::connect(&address).await.expect("connect");
    let mut burst = Vec::new();
    for call in 0..20_000u32 {
        let stream = call * 2 + 1;
        burst.extend(raw_h2::encode(frame::HEADERS, frame::END_HEADERS, stream, &headers));
        burst.extend(raw_h2::encode(frame::RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    // The server may hang up in the middle of it.
    let _ = tokio::time::timeout(Duration::from_secs(10), raw.send_bytes(&burst)).await;
    serves_others(&mut server).await;

    // Header blocks that never end (CVE-2024-27316).
    let mut raw = RawH2::connect(&address).await.expect("connect");
    raw.send(frame::HEADERS, 0, 1, &headers).await.expect("send");
    let mut block = BytesMut::new();
    raw_h2::literal_header(&mut block, "x-more", &"x".repeat(8000));
    for _ in 0..5_000 {
        let sent = tokio::time::timeout(Duration::from_secs(5), raw.send(frame::CONTINUATION, 0, 1, &block)).await;
        if !matches!(sent, Ok(Ok(()))) {
            break;
        }
    }
    assert!(server.resident_bytes() < 1 << 30, "{} bytes are held", server.resident_bytes());
    serves_others(&mut server).await;

    // Pings and settings whose answers nobody reads.
    for (kind, payload) in [(frame::PING, &[0u8; 8][..]), (frame::SETTINGS, &[])] {
        let mut raw = RawH2::connect(&address).await.expect("connect");
        let many: Vec<u8> = (0..50_000).flat_map(|_| raw_h2::encode(kind, 0, 0, payload)).collect();
        let _ = tokio::time::timeout(Duration::from_secs(5), raw.send_bytes(&many)).await;
        assert!(server.resident_bytes() < 1 << 30, "{} bytes are held", server.resident_bytes());
        serves_others(&mut server).await;
    }

    // Frames that make no sense where they stand.
    for (kind, flags, stream, payload) in [
        (frame::DATA, 0, 1, &b"no call is open"[..]),
        (frame::DATA, 0, 0, b"on the connection"),
        (frame::WINDOW_UPDATE, 0, 0, &[0; 4]),
        (frame::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        (frame::CONTINUATION, frame::END_HEADERS, 1, &[]),
        (frame::HEADERS, frame::END_HEADERS, 2, b"an even stream"),
        (frame::SETTINGS, 0, 0, &[1, 2, 3]),
        (0xee, 0, 0, b"no such kind"),
        (frame::HEADERS, frame::END_HEADERS | frame::END_STREAM, 1, &[0xff; 40]),
    ] {
        let mut raw = RawH2::connect(&address).await.expect("connect");
        raw.send(kind, flags, stream, payload).await.expect("send");
        raw.hung_up_within(Duration::from_millis(50)).await;
    }
    serves_others(&mut server).await;
}

#[tokio::test]
async fn messages_that_lie_about_their_length() {
    let mut server = Server::start().await;
    let headers = RawH2::call_headers("/etcdserverpb.KV/Put");
    let mut open = Vec::new();
    for length in [u32::MAX, 1 << 30, 3 << 20, 100] {
        let mut raw = RawH2::connect(server.address()).await.expect("connect");
        raw.send(frame::HEADERS, frame::END_HEADERS, 1, &headers).await.expect("send");
        let mut message = vec![0];
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(b"less than that");
        raw.send(frame::DATA, 0, 1, &message).await.expect("send");
        open.push(raw); // And then nothing.
    }
    // Compressed, which nobody agreed on.
    let mut raw = RawH2::connect(server.address()).await.expect("connect");
    raw.send(frame::HEADERS, frame::END_HEADERS, 1, &headers).await.expect("send");
    raw.send(frame::DATA, frame::END_STREAM, 1, &[1, 0, 0, 0, 2, 0x1f, 0x8b]).await.expect("send");
    assert!(server.resident_bytes() < 1 << 30, "{} bytes are held", server.resident_bytes());
    serves_others(&mut server).await;
}

#[tokio::test]
async fn large_headers() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let mut request = tonic::Request::new(netsy_e2e::ops::get("k"));
    for at in 0..2000 {
        let name: tonic::metadata::AsciiMetadataKey = format!("x-flood-{at}").parse().expect("a name");
        request.metadata_mut().insert(name, "v".repeat(1000).parse().expect("a value"));
    }
    // 2 MB of headers: an error, or the connection ends.
    let _ = tokio::time::timeout(Duration::from_secs(10), client.kv().range(request)).await;
    serves_others(&mut server).await;
}

#[tokio::test]
async fn readers_that_do_not_read() {
    let mut server = Server::start().await;
    let client = server.client().await;
    for at in 0..64 {
        client.put(format!("k/{at:02}"), vec![b'v'; 256 << 10]).await;
    }
    let before = server.resident_bytes();
    // Calls for 16 MiB each, on connections whose answers are never read.
    let mut open = Vec::new();
    let range = prefix("k/").encode_to_vec();
    let mut message = vec![0];
    message.extend_from_slice(&(range.len() as u32).to_be_bytes());
    message.extend_from_slice(&range);
    for _ in 0..8 {
        let mut raw = RawH2::connect(server.address()).await.expect("connect");
        raw.send(frame::HEADERS, frame::END_HEADERS, 1, &RawH2::call_headers("/etcdserverpb.KV/Range"))
            .await
            .expect("send");
        raw.send(frame::DATA, frame::END_STREAM, 1, &message).await.expect("send");
        open.push(raw);
    }
    // And watches of the same.
    let mut watches: Vec<Client> = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..8 {
        let watcher = server.client().await;
        let mut stream = watcher.watch().await;
        stream.add(pb::WatchCreateRequest { start_revision: 2, ..watch_prefix("k/") }).await;
        watches.push(watcher);
        streams.push(stream);
    }
    for at in 0..64 {
        client.put(format!("k/{at:02}"), vec![b'w'; 256 << 10]).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    serves_others(&mut server).await;
    let grown = server.resident_bytes().saturating_sub(before);
    println!("memory grew by {} MiB", grown >> 20);
    assert!(grown < 1 << 30, "{grown} bytes more are held");
}

#[tokio::test]
async fn many_calls_at_once_on_one_connection() {
    let mut server = Server::start().await;
    let client = server.client().await;
    let calls = (0..2000).map(|at| {
        let client = client.clone();
        async move { client.put(format!("k/{at}"), "v").await }
    });
    let mut revisions = futures::future::join_all(calls).await;
    revisions.sort_unstable();
    assert_eq!(revisions, (2..2002).collect::<Vec<i64>>());
    // And calls whose caller goes away at once.
    for at in 0..500 {
        let client = client.clone();
        let call = tokio::spawn(async move { client.try_put(put(format!("gone/{at}"), "v")).await.map(drop) });
        if at % 2 == 0 {
            tokio::task::yield_now().await;
        }
        call.abort();
    }
    serves_others(&mut server).await;
}
