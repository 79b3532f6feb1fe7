//! The program against a small key-value service on tonic: a second HTTP/2 implementation beside
//! the Go one, one that counts what it was sent and can misbehave.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use netsy_api::etcdserverpb as pb;
use netsy_api::etcdserverpb::kv_server::{Kv, KvServer};
use netsy_api::mvccpb::KeyValue;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[derive(Default)]
struct State {
    revision: i64,
    keys: BTreeMap<Vec<u8>, KeyValue>,
}

#[derive(Default)]
struct Fake {
    state: Mutex<State>,
    puts: AtomicU64,
    /// Every so many gets answer an error; 0: none.
    get_fails_every: u64,
    gets: AtomicU64,
    /// Answers ranges without keys and values.
    loses_keys: bool,
}

impl State {
    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { revision: self.revision.max(1), ..Default::default() })
    }

    fn put(&mut self, put: &pb::PutRequest) {
        self.revision = self.revision.max(1) + 1;
        let kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            mod_revision: self.revision,
            ..Default::default()
        };
        self.keys.insert(put.key.to_vec(), kv);
    }

    fn range(&self, range: &pb::RangeRequest) -> pb::RangeResponse {
        let mut kvs: Vec<KeyValue> = match range.range_end.is_empty() {
            true => self.keys.get(&range.key[..]).cloned().into_iter().collect(),
            false => self.keys.range(range.key.to_vec()..range.range_end.to_vec()).map(|(_, kv)| kv.clone()).collect(),
        };
        let count = kvs.len() as i64;
        if range.limit > 0 {
            kvs.truncate(range.limit as usize);
        }
        let more = kvs.len() < count as usize;
        pb::RangeResponse { header: self.header(), kvs, more, count }
    }
}

type Answers = Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for Fake {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let get = self.gets.fetch_add(1, Ordering::Relaxed) + 1;
        if self.get_fails_every > 0 && get.is_multiple_of(self.get_fails_every) {
            return Err(Status::unavailable("out of order today"));
        }
        let mut answer = self.state.lock().unwrap().range(request.get_ref());
        if self.loses_keys {
            answer.kvs.clear();
        }
        Ok(Response::new(answer))
    }

    type RangeStreamStream = Answers;

    async fn range_stream(&self, request: Request<pb::RangeRequest>) -> Result<Response<Answers>, Status> {
        let whole = self.state.lock().unwrap().range(request.get_ref());
        let answers: Vec<_> = whole
            .kvs
            .chunks(7)
            .map(|kvs| pb::RangeResponse { kvs: kvs.to_vec(), ..Default::default() })
            .map(|part| Ok(pb::RangeStreamResponse { range_response: Some(part) }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap();
        state.put(request.get_ref());
        Ok(Response::new(pb::PutResponse { header: state.header(), prev_kv: None }))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let txn = request.into_inner();
        let mut state = self.state.lock().unwrap();
        let compare = &txn.compare[0];
        let Some(pb::compare::TargetUnion::ModRevision(expected)) = compare.target_union else {
            return Err(Status::invalid_argument("compare something else"));
        };
        let current = state.keys.get(&compare.key[..]).map_or(0, |kv| kv.mod_revision);
        let succeeded = current == expected;
        let mut responses = Vec::new();
        match if succeeded { &txn.success[0].request } else { &txn.failure[0].request } {
            Some(pb::request_op::Request::RequestPut(put)) => state.put(put),
            Some(pb::request_op::Request::RequestRange(range)) => {
                let response = Some(pb::response_op::Response::ResponseRange(state.range(range)));
                responses.push(pb::ResponseOp { response });
            }
            other => return Err(Status::invalid_argument(format!("{other:?}"))),
        }
        Ok(Response::new(pb::TxnResponse { header: state.header(), succeeded, responses }))
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn compact(&self, _: Request<pb::CompactionRequest>) -> Result<Response<pb::CompactionResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// Serves `fake` until the test ends.
fn serve(fake: Fake) -> (SocketAddr, Arc<Fake>, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fake = Arc::new(fake);
    let bound = runtime.block_on(async { TcpIncoming::bind("127.0.0.1:0".parse().unwrap()) });
    // Without this the kernel holds small answers back for 40 ms.
    let incoming = bound.unwrap().with_nodelay(Some(true));
    let address = incoming.local_addr().unwrap();
    let service = KvServer::from_arc(fake.clone()).max_decoding_message_size(2 << 20);
    runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    (address, fake, runtime)
}

fn bench(address: SocketAddr, line: &str) -> Output {
    let pid = std::process::id().to_string();
    Command::new(env!("CARGO_BIN_EXE_netsy-bench"))
        .arg("run")
        .args(line.split_ascii_whitespace())
        .args(["--endpoint", &address.to_string(), "--server-pid", &pid, "--rounds", "1", "--json", "-"])
        .args(["--warmup", "0.05", "--seconds", "20"])
        .output()
        .unwrap()
}

fn median(output: &Output, figure: &str) -> f64 {
    let text = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value = serde_json::from_str(&text[text.find("\n{").unwrap()..]).unwrap();
    json["servers"][0]["median"][figure].as_f64().unwrap_or_else(|| panic!("{figure}: {text}"))
}

fn operations(output: &Output) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value = serde_json::from_str(&text[text.find("\n{").unwrap()..]).unwrap();
    json["servers"][0]["rounds"][0]["operations"].as_u64().unwrap()
}

#[test]
fn every_unary_load_runs_and_is_counted() {
    let (address, fake, _runtime) = serve(Fake::default());
    for line in [
        "put --clients 20 --connections 3 --count 3000 --keys 100",
        "get --clients 20 --connections 3 --count 3000 --keys 100",
        "mixed --clients 20 --connections 3 --count 3000 --keys 100",
        "update-txn --clients 20 --connections 3 --count 3000 --keys 100",
        "list --clients 2 --connections 1 --count 30 --keys 500 --value-size 1024",
        "list --clients 2 --connections 1 --count 30 --keys 500 --value-size 1024 --page 60",
        "list --clients 2 --connections 1 --count 30 --keys 500 --value-size 1024 --range-stream",
        "put-while-list --clients 2 --connections 1 --count 3000 --keys 50",
        "load --keys 3000",
    ] {
        let before = fake.puts.load(Ordering::Relaxed);
        let output = bench(address, line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let least = if line.starts_with("list") { 30 } else { 3000 };
        assert!(operations(&output) >= least, "{line}: {}", operations(&output));
        for figure in ["p50 ms", "p99 ms", "server CPU µs/op", "client CPU µs/op", "peak MiB"] {
            assert!(median(&output, figure) > 0.0, "{line}: {figure}");
        }
        assert!(median(&output, "p50 ms") <= median(&output, "max ms"));
        if line.starts_with("put ") {
            // Counted operations are a part of the puts sent, and not a small one.
            let sent = fake.puts.load(Ordering::Relaxed) - before;
            assert!(operations(&output) <= sent, "{line}");
        }
        if line.starts_with("load") {
            assert_eq!(fake.puts.load(Ordering::Relaxed) - before, 3000);
        }
    }
}

/// Messages larger than the server's windows and frames: they go out in pieces as it allows.
#[test]
fn large_values_wait_for_the_servers_windows() {
    let (address, fake, _runtime) = serve(Fake::default());
    let output = bench(address, "put --clients 5 --connections 2 --value-size 700000 --count 40 --keys 5");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fake.state.lock().unwrap().keys.values().all(|kv| kv.value.len() == 700_000));
    let output = bench(address, "get --clients 5 --connections 2 --value-size 700000 --count 40 --keys 5");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A run in which calls fail says so and does not end well.
#[test]
fn failed_calls_are_reported() {
    let (address, _fake, _runtime) = serve(Fake { get_fails_every: 100, ..Fake::default() });
    let output = bench(address, "get --clients 4 --connections 1 --count 1000 --keys 10");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success() && stderr.contains("calls failed"), "{stdout}{stderr}");
    assert!(stdout.contains("gRPC code 14: out of order today"), "{stdout}");
}

/// An answer without what was put before is wrong, however fast it came.
#[test]
fn empty_answers_do_not_count() {
    let (address, _fake, _runtime) = serve(Fake { loses_keys: true, ..Fake::default() });
    for line in ["get --clients 4 --count 1000 --keys 10", "list --clients 1 --count 1000 --keys 10"] {
        let output = bench(address, line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains("calls failed"), "{line}: {stderr}");
    }
}

#[test]
fn nobody_there_is_an_error_that_says_where() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let output = bench(address, "put");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains(&address.to_string()), "{stderr}");
}
