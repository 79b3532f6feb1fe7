//! Lists that their clients never read: what was read from disk for them, and what they have of their own, is bounded, and
//! others are served.

mod common;

use bytes::{BufMut, Bytes, BytesMut};
use common::{Running, all, key, put, start, start_with};
use netsy_api::etcdserverpb::request_op::Request;
use netsy_api::etcdserverpb::{RequestOp, TxnRequest};
use netsy_server::ServerConfig;
use prost::Message;
use std::time::{Duration, Instant};

/// Each measures the memory of all.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const VALUE_BYTES: usize = 1 << 20;
const VALUES: usize = 48;
const CLIENTS: usize = 16;

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Asks for everything and takes nothing; the status, if one came in the headers.
async fn list_unread(addr: std::net::SocketAddr) -> (Option<String>, h2::RecvStream) {
    let socket = tokio::net::TcpStream::connect(addr).await.unwrap();
    let (send, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = http::Request::post("http://localhost/etcdserverpb.KV/Range")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (answer, mut stream) = send.ready().await.unwrap().send_request(request, false).unwrap();
    let message = all().encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    stream.send_data(framed.freeze(), true).unwrap();
    let (head, body) = answer.await.unwrap().into_parts();
    (head.headers.get("grpc-message").map(|text| text.to_str().unwrap().to_owned()), body)
}

/// So many unread lists at once, while others write and read: the lists, how many were refused, and the most memory that
/// came to it.
async fn lists_unread(running: &Running, clients: usize) -> (Vec<h2::RecvStream>, usize, usize) {
    let mut kv = running.kv().await;
    let before = resident_bytes();
    let mut lists = tokio::task::JoinSet::new();
    for _ in 0..clients {
        lists.spawn(list_unread(running.addr));
    }
    let mut most = 0;
    let mut held = vec![];
    let mut refused = 0;
    let mut last_get = Instant::now();
    while !lists.is_empty() {
        if let Ok(Some(list)) = tokio::time::timeout(Duration::from_millis(100), lists.join_next()).await {
            let (text, body) = list.unwrap();
            match text {
                None => held.push(body),
                Some(text) => {
                    // The second where the reading took its time as well.
                    let known = ["etcdserver: too many requests", "etcdserver: request timed out"];
                    assert!(known.contains(&&text[..]), "{text}");
                    refused += 1;
                }
            }
        }
        most = most.max(resident_bytes().saturating_sub(before));
        if last_get.elapsed() > Duration::from_millis(300) {
            // Writes, and reads of what is in memory.
            kv.put(put("hot", "1")).await.unwrap();
            assert_eq!(kv.range(key("hot")).await.unwrap().into_inner().count, 1);
            last_get = Instant::now();
        }
    }
    (held, refused, most)
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_nobody_reads_take_bounded_memory() {
    let _alone = ALONE.lock().await;
    let running = start_with(|node, _| node.value_cache_bytes_max = 1 << 20, ServerConfig::default()).await;
    let mut kv = running.kv().await;
    for n in 0..VALUES {
        kv.put(put(&format!("k{n:02}"), Bytes::from(vec![n as u8; VALUE_BYTES]))).await.unwrap();
    }
    let (held, refused, most) = lists_unread(&running, CLIENTS).await;
    println!("{} lists unread, {refused} refused, {} MiB more at most", held.len(), most >> 20);
    assert!(!held.is_empty() && refused > 0);
    assert!(most < 460 << 20, "{} MiB for lists of {CLIENTS} x {VALUES} MiB", most >> 20);
    // What is on disk only is still read for others, and once the lists are given up for many.
    let got = kv.range(key("k00")).await.unwrap().into_inner();
    assert_eq!(got.kvs[0].value.len(), VALUE_BYTES);
    drop(held);
    assert_eq!(kv.range(all()).await.unwrap().into_inner().count as usize, VALUES + 1);
}

const KEY_BYTES: usize = 1 << 10;
const KEYS_PER_TXN: usize = 128;
const TXNS: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_of_keys_that_nobody_reads_take_bounded_memory() {
    let _alone = ALONE.lock().await;
    let running = start().await;
    let mut kv = running.kv().await;
    for txn in 0..TXNS {
        let keys = (0..KEYS_PER_TXN).map(|n| format!("{:0KEY_BYTES$}", txn * KEYS_PER_TXN + n));
        let success = keys.map(|key| RequestOp { request: Some(Request::RequestPut(put(&key, ""))) }).collect();
        kv.txn(TxnRequest { success, ..TxnRequest::default() }).await.unwrap();
    }
    let list_bytes = TXNS * KEYS_PER_TXN * KEY_BYTES;
    let clients = (384 << 20) / list_bytes;
    let (held, refused, most) = lists_unread(&running, clients).await;
    println!("{} lists unread, {refused} refused, {} MiB more at most", held.len(), most >> 20);
    assert!(!held.is_empty() && refused > 0);
    assert!(most < 340 << 20, "{} MiB for {clients} lists of {} MiB", most >> 20, list_bytes >> 20);
    // A short list is not counted.
    let mut few = all();
    few.limit = 2;
    assert_eq!(kv.range(few).await.unwrap().into_inner().kvs.len(), 2);
    drop(held);
    assert_eq!(kv.range(all()).await.unwrap().into_inner().count as usize, TXNS * KEYS_PER_TXN + 1);
}
