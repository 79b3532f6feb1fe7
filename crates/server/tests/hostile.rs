//! Requests of any content: an answer or a refusal comes back, and the server goes on.

mod common;

use bytes::{BufMut, Bytes, BytesMut};
use common::{Running, key, put, start};
use netsy_api::etcdserverpb::*;
use proptest::prelude::*;
use prost::Message;
use std::sync::OnceLock;
use tokio::runtime::Runtime;

/// One server for all cases: what one case leaves behind must not harm the next.
fn shared() -> &'static (Runtime, Running) {
    static SHARED: OnceLock<(Runtime, Running)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let runtime = Runtime::new().unwrap();
        let running = runtime.block_on(start());
        (runtime, running)
    })
}

const UNARY: [&str; 17] = [
    "etcdserverpb.KV/Range",
    "etcdserverpb.KV/Put",
    "etcdserverpb.KV/DeleteRange",
    "etcdserverpb.KV/Txn",
    "etcdserverpb.KV/Compact",
    "etcdserverpb.KV/RangeStream",
    "etcdserverpb.Lease/LeaseGrant",
    "etcdserverpb.Lease/LeaseRevoke",
    "etcdserverpb.Lease/LeaseTimeToLive",
    "etcdserverpb.Lease/LeaseLeases",
    "etcdserverpb.Lease/LeaseKeepAlive",
    "etcdserverpb.Cluster/MemberList",
    "etcdserverpb.Maintenance/Status",
    "etcdserverpb.Maintenance/HashKV",
    "etcdserverpb.Maintenance/Snapshot",
    "etcdserverpb.Watch/Watch",
    "grpc.health.v1.Health/Check",
];

/// Sends one message and returns the status it ends with.
async fn call(running: &Running, path: &str, message: &[u8], headers: &[(String, Vec<u8>)]) -> i32 {
    let socket = tokio::net::TcpStream::connect(running.addr).await.unwrap();
    let (send, connection) = h2::client::handshake(socket).await.unwrap();
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut request =
        http::Request::post(format!("http://localhost/{path}")).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(name, value.as_slice());
    }
    let mut send = send.ready().await.unwrap();
    let (answer, mut stream) = send.send_request(request.body(()).unwrap(), false).unwrap();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    // Fails where the headers alone were answered already.
    let _ = stream.send_data(framed.freeze(), true);
    let (head, mut body) = answer.await.unwrap().into_parts();
    let status = |headers: &http::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    let code = match status(&head.headers) {
        Some(code) => code,
        // A watch stays open after the half-close: what it says first is enough.
        None if path.ends_with("Watch/Watch") => 0,
        None => {
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            status(&body.trailers().await.unwrap().unwrap()).unwrap()
        }
    };
    driver.abort();
    code
}

async fn still_serves(running: &Running) {
    let mut kv = running.kv().await;
    kv.put(put("alive", "1")).await.unwrap();
    assert_eq!(kv.range(key("alive")).await.unwrap().into_inner().count, 1);
}

fn some_bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::new()),
        Just(Bytes::from_static(b"\0")),
        prop::collection::vec(any::<u8>(), 0..6).prop_map(Bytes::from),
        prop::collection::vec(prop::sample::select(vec![b'a', b'b']), 1..3).prop_map(Bytes::from),
    ]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), Just(1), Just(-1), Just(i64::MAX), Just(i64::MIN), any::<i64>(), 0..200i64]
}

fn range_request() -> impl Strategy<Value = RangeRequest> {
    (some_bytes(), some_bytes(), prop::array::uniform6(number()), any::<(u8, u8, bool, bool, bool)>()).prop_map(
        |(key, range_end, n, (order, target, serializable, keys_only, count_only))| RangeRequest {
            key,
            range_end,
            limit: n[0],
            revision: n[1],
            sort_order: i32::from(order % 4),
            sort_target: i32::from(target % 6),
            serializable,
            keys_only,
            count_only,
            min_mod_revision: n[2],
            max_mod_revision: n[3],
            min_create_revision: n[4],
            max_create_revision: n[5],
        },
    )
}

fn operation() -> impl Strategy<Value = RequestOp> {
    use request_op::Request;
    let leaf = prop_oneof![
        Just(None),
        range_request().prop_map(|r| Some(Request::RequestRange(r))),
        (some_bytes(), some_bytes(), number(), any::<[bool; 3]>()).prop_map(|(key, value, lease, b)| {
            let lease = if lease % 2 == 0 { 0 } else { lease };
            Some(Request::RequestPut(PutRequest {
                key,
                value,
                lease,
                prev_kv: b[0],
                ignore_value: b[1],
                ignore_lease: b[2],
            }))
        }),
        (some_bytes(), some_bytes(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| {
            Some(Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv }))
        }),
    ]
    .prop_map(|request| RequestOp { request });
    leaf.prop_recursive(3, 12, 3, |inner| {
        (prop::collection::vec(inner.clone(), 0..3), prop::collection::vec(inner, 0..3), compare()).prop_map(
            |(success, failure, compare)| RequestOp {
                request: Some(Request::RequestTxn(TxnRequest { compare: vec![compare], success, failure })),
            },
        )
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    use compare::TargetUnion;
    let union = prop_oneof![
        Just(None),
        number().prop_map(|n| Some(TargetUnion::Version(n))),
        number().prop_map(|n| Some(TargetUnion::ModRevision(n))),
        some_bytes().prop_map(|b| Some(TargetUnion::Value(b))),
    ];
    (0..6i32, 0..7i32, some_bytes(), some_bytes(), union).prop_map(|(result, target, key, range_end, target_union)| {
        Compare { result, target, key, range_end, target_union }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, fork: false, ..Default::default() })]

    #[test]
    fn any_bytes_to_any_call(
        method in prop::sample::select(UNARY.to_vec()),
        message in prop::collection::vec(any::<u8>(), 0..80),
        header in prop::collection::vec(0x80u8..=0xff, 0..10),
        // Else nothing but the header is looked at.
        timeout in prop_oneof![4 => Just(b"5S".to_vec()), 1 => prop::collection::vec(0x80u8..=0xff, 0..10)],
    ) {
        let (runtime, running) = shared();
        runtime.block_on(async {
            let headers = [("client-api-version".to_owned(), header), ("grpc-timeout".to_owned(), timeout)];
            let code = call(running, method, &message, &headers).await;
            assert!((0..=16).contains(&code));
            // Nothing of this may look like a bug of the server's.
            assert_ne!(code, 15);
            still_serves(running).await;
        });
    }

    #[test]
    fn any_range(request in range_request()) {
        let (runtime, running) = shared();
        runtime.block_on(async {
            let bytes = request.encode_to_vec();
            let whole = call(running, "etcdserverpb.KV/Range", &bytes, &[]).await;
            assert!([0, 3, 11].contains(&whole), "{whole}: {request:?}");
            let stream = call(running, "etcdserverpb.KV/RangeStream", &bytes, &[]).await;
            assert!([0, 3, 11, 12].contains(&stream), "{stream}: {request:?}");
        });
    }

    #[test]
    fn any_transaction(
        compare in prop::collection::vec(compare(), 0..3),
        success in prop::collection::vec(operation(), 0..4),
        failure in prop::collection::vec(operation(), 0..4),
    ) {
        let (runtime, running) = shared();
        runtime.block_on(async {
            let request = TxnRequest { compare, success, failure };
            let code = call(running, "etcdserverpb.KV/Txn", &request.encode_to_vec(), &[]).await;
            assert!([0, 3, 5, 11].contains(&code), "{code}: {request:?}");
            still_serves(running).await;
        });
    }
}

/// Nesting deeper than the decoder goes is refused, not a stack that overflows.
#[test]
fn deep_nesting_is_refused() {
    let (runtime, running) = shared();
    let nested = |levels: usize| {
        // Encoding recurses as well: give it room.
        let encode = move || {
            let put = PutRequest { key: format!("deep/{levels}").into(), ..PutRequest::default() };
            let mut operation = request_op::Request::RequestPut(put);
            for _ in 0..levels {
                let success = vec![RequestOp { request: Some(operation) }];
                operation = request_op::Request::RequestTxn(TxnRequest { success, ..TxnRequest::default() });
            }
            let request_op::Request::RequestTxn(request) = operation else { panic!("no level") };
            let bytes = request.encode_to_vec();
            std::mem::forget(request);
            bytes
        };
        std::thread::Builder::new().stack_size(512 << 20).spawn(encode).unwrap().join().unwrap()
    };
    for levels in [1, 50, 51, 127, 128] {
        assert_eq!(runtime.block_on(call(running, "etcdserverpb.KV/Txn", &nested(levels), &[])), 0, "{levels} levels");
        let got = runtime.block_on(async { running.kv().await.range(key(&format!("deep/{levels}"))).await.unwrap() });
        assert_eq!(got.into_inner().count, 1, "{levels} levels");
    }
    for levels in [129, 5_000] {
        assert_eq!(runtime.block_on(call(running, "etcdserverpb.KV/Txn", &nested(levels), &[])), 3, "{levels} levels");
    }
    runtime.block_on(still_serves(running));
}
