//! Connections, faults, and the calls.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};

use crate::fault::{FaultKind, Faults, Op};
use crate::objects::{Condition, Conditions, Dialect, Objects, Refusal, Stored};
use crate::wire::{self, Call};

const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Between the look and the write of a racy store.
const RACE_WINDOW: Duration = Duration::from_millis(5);
/// How long a call that will never be answered is kept open, if its fault does not say.
const SILENCE: Duration = Duration::from_secs(60);

type Answer = Response<BoxBody<Bytes, BrokenOff>>;

/// Returned to hyper, it closes the connection.
#[derive(Debug)]
pub(crate) struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken off by a fault")
    }
}

impl std::error::Error for BrokenOff {}

pub(crate) struct State {
    pub dialect: Dialect,
    pub objects: Mutex<Objects>,
    pub faults: Faults,
    pub latency: Mutex<Duration>,
    pub page_size: Mutex<usize>,
    pub conditions: Mutex<Conditions>,
    pub seen: Mutex<Vec<(Op, String)>>,
    /// Of the last call: who made it, for tests of credentials.
    pub authorization: Mutex<String>,
}

impl State {
    pub fn new(dialect: Dialect) -> Self {
        State {
            dialect,
            objects: Mutex::new(Objects::new(dialect)),
            faults: Faults::default(),
            latency: Mutex::default(),
            page_size: Mutex::new(1_000),
            conditions: Mutex::new(Conditions::Enforced),
            seen: Mutex::default(),
            authorization: Mutex::default(),
        }
    }
}

pub(crate) async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        connections.spawn(serve(socket, Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(socket: TcpStream, state: Arc<State>) {
    // Without it small answers wait for the client's acknowledgement.
    let _ = socket.set_nodelay(true);
    let service = service_fn(move |request| handle(request, Arc::clone(&state)));
    // An error is a client that left, or a fault.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

async fn handle(request: Request<Incoming>, state: Arc<State>) -> Result<Answer, BrokenOff> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else { return Err(BrokenOff) };
    let body = body.to_bytes();
    let Some(call) = wire::understand(&head.method, &head.uri) else {
        return Ok(status(StatusCode::NOT_IMPLEMENTED, "NotImplemented"));
    };
    let latency = *state.latency.lock();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    state.seen.lock().push((call.op, call.key.clone()));
    let header = |name| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    *state.authorization.lock() = format!("{} {}", header("authorization"), header("x-amz-security-token"));
    let fault = state.faults.take(call.op, &call.key);
    let todo = Todo { state, method: head.method, headers: head.headers, call, body };
    match fault {
        None => Ok(todo.answer().await),
        Some(FaultKind::Delay(time)) => {
            tokio::time::sleep(time).await;
            Ok(todo.answer().await)
        }
        Some(FaultKind::StatusBefore(code)) => Ok(fault_status(code)),
        Some(FaultKind::StatusAfter(code)) => {
            todo.answer().await;
            Ok(fault_status(code))
        }
        Some(FaultKind::CloseBefore) => Err(BrokenOff),
        Some(FaultKind::CloseAfter) => {
            todo.answer().await;
            Err(BrokenOff)
        }
        Some(FaultKind::StallBefore(time)) => {
            tokio::time::sleep(time).await;
            Err(BrokenOff)
        }
        Some(FaultKind::StallAfter(time)) => {
            todo.answer().await;
            tokio::time::sleep(time).await;
            Err(BrokenOff)
        }
        Some(FaultKind::ApplyLate(time)) => {
            // In a task of its own: this one ends when the client leaves.
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                todo.answer().await;
            });
            tokio::time::sleep(time.max(SILENCE)).await;
            Err(BrokenOff)
        }
        Some(FaultKind::NoVersion) => {
            let mut answer = todo.answer().await;
            for name in ["etag", "x-goog-generation"] {
                answer.headers_mut().remove(name);
            }
            Ok(answer)
        }
        Some(kind @ (FaultKind::CutBody(_) | FaultKind::ShortBody(_) | FaultKind::FlipBody(_))) => {
            Ok(spoil(todo.answer().await, &kind).await)
        }
    }
}

/// A call about to be done.
struct Todo {
    state: Arc<State>,
    method: Method,
    headers: HeaderMap,
    call: Call,
    body: Bytes,
}

impl Todo {
    async fn answer(&self) -> Answer {
        if self.call.bucket != crate::BUCKET {
            return status(StatusCode::NOT_FOUND, "NoSuchBucket");
        }
        match self.call.op {
            Op::Get => self.get(),
            Op::Put => self.put().await,
            Op::Delete => self.delete(),
            Op::List => self.list(),
            Op::Part => self.part(),
            Op::Complete => self.complete(),
        }
    }

    fn get(&self) -> Answer {
        let objects = self.state.objects.lock();
        let Some(object) = objects.get(&self.call.key) else { return status(StatusCode::NOT_FOUND, "NoSuchKey") };
        let size = object.bytes.len();
        let mut answer =
            versioned(object).header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT").header("accept-ranges", "bytes");
        let body = match wire::range(&self.headers, size) {
            Err(()) => return status(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"),
            Ok(None) => object.bytes.clone(),
            Ok(Some((from, to))) => {
                let content_range = format!("bytes {from}-{}/{size}", to - 1);
                answer = answer.status(StatusCode::PARTIAL_CONTENT).header("content-range", content_range);
                object.bytes.slice(from..to)
            }
        };
        answer = answer.header("content-length", body.len());
        finish(answer, if self.method == Method::HEAD { Bytes::new() } else { body })
    }

    async fn put(&self) -> Answer {
        let asked = wire::condition(&self.headers);
        let how = *self.state.conditions.lock();
        let swap = matches!(asked, Condition::ETag(_)) || matches!(asked, Condition::Generation(g) if g != 0);
        let key = &self.call.key;
        let looked = match how {
            Conditions::Ignored => Ok(()),
            Conditions::SwapIgnored if swap => Ok(()),
            Conditions::SwapRefused if swap => Err(Refusal::Failed),
            Conditions::Racy => {
                let looked = self.state.objects.lock().check(key, &asked);
                tokio::time::sleep(RACE_WINDOW).await;
                looked
            }
            _ => {
                // The look and the write under one lock.
                let mut objects = self.state.objects.lock();
                if let Err(refusal) = objects.check(key, &asked) {
                    return refused(&refusal);
                }
                return finish(versioned(&objects.put(key, self.body.clone())), Bytes::new());
            }
        };
        match looked {
            Err(refusal) => refused(&refusal),
            Ok(()) => finish(versioned(&self.state.objects.lock().put(key, self.body.clone())), Bytes::new()),
        }
    }

    fn delete(&self) -> Answer {
        let existed = self.state.objects.lock().remove(&self.call.key);
        match self.state.dialect {
            Dialect::Gcs if !existed => status(StatusCode::NOT_FOUND, "NoSuchKey"),
            _ => finish(Response::builder().status(StatusCode::NO_CONTENT), Bytes::new()),
        }
    }

    fn list(&self) -> Answer {
        let query = &self.call.query;
        let get = |name: &str| query.get(name).map(String::as_str);
        let after = match get("continuation-token") {
            Some(token) => token.strip_prefix("after:").unwrap_or(token),
            None => get("start-after").unwrap_or_default(),
        };
        let asked = get("max-keys").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        let (page, more) =
            self.state.objects.lock().list(&self.call.key, after, asked.min(*self.state.page_size.lock()));
        xml(StatusCode::OK, wire::listing(&self.call.bucket, &page, more))
    }

    fn part(&self) -> Answer {
        let query = &self.call.query;
        let upload = query.get("uploadId").map(String::as_str).unwrap_or_default();
        let mut objects = self.state.objects.lock();
        match self.method {
            Method::POST => {
                xml(StatusCode::OK, wire::upload_started(&self.call.bucket, &self.call.key, &objects.start_upload()))
            }
            Method::DELETE if objects.abort_upload(upload) => {
                finish(Response::builder().status(StatusCode::NO_CONTENT), Bytes::new())
            }
            Method::PUT => match query.get("partNumber").and_then(|n| n.parse().ok()) {
                None => status(StatusCode::BAD_REQUEST, "InvalidArgument"),
                Some(number) => match objects.put_part(upload, number, self.body.clone()) {
                    Some(tag) => finish(Response::builder().header("etag", tag), Bytes::new()),
                    None => status(StatusCode::NOT_FOUND, "NoSuchUpload"),
                },
            },
            _ => status(StatusCode::NOT_FOUND, "NoSuchUpload"),
        }
    }

    fn complete(&self) -> Answer {
        let upload = self.call.query.get("uploadId").map(String::as_str).unwrap_or_default();
        match self.state.objects.lock().complete_upload(&self.call.key, upload) {
            None => status(StatusCode::NOT_FOUND, "NoSuchUpload"),
            Some(stored) => finish(
                versioned(&stored).header("content-type", "application/xml"),
                wire::upload_completed(&self.call.key, &stored.e_tag).into(),
            ),
        }
    }
}

fn versioned(object: &Stored) -> http::response::Builder {
    Response::builder().header("etag", &object.e_tag).header("x-goog-generation", object.generation)
}

fn refused(refusal: &Refusal) -> Answer {
    match refusal {
        Refusal::Failed => status(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"),
        Refusal::Missing => status(StatusCode::NOT_FOUND, "NoSuchKey"),
    }
}

fn fault_status(code: u16) -> Answer {
    let name = match code {
        503 => "SlowDown",
        409 => "ConditionalRequestConflict",
        403 => "AccessDenied",
        400 => "InvalidRequest",
        _ => "InternalError",
    };
    status(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), name)
}

fn status(code: StatusCode, name: &str) -> Answer {
    xml(code, wire::error(name))
}

fn xml(code: StatusCode, text: String) -> Answer {
    finish(Response::builder().status(code).header("content-type", "application/xml"), text.into())
}

fn finish(head: http::response::Builder, body: Bytes) -> Answer {
    let body = Full::new(body).map_err(|e: Infallible| match e {}).boxed();
    head.body(body).unwrap_or_else(|_| {
        let mut plain = Response::new(Full::new(Bytes::new()).map_err(|e: Infallible| match e {}).boxed());
        *plain.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        plain
    })
}

/// Damages the body of a successful read.
async fn spoil(answer: Answer, kind: &FaultKind) -> Answer {
    let (mut head, body) = answer.into_parts();
    let Ok(body) = body.collect().await else { return fault_status(500) };
    let mut bytes = body.to_bytes().to_vec();
    if head.status.is_success() {
        match *kind {
            FaultKind::FlipBody(at) if !bytes.is_empty() => {
                let at = at % bytes.len();
                bytes[at] ^= 1;
            }
            FaultKind::ShortBody(length) => {
                bytes.truncate(length);
                head.headers.insert("content-length", bytes.len().into());
            }
            FaultKind::CutBody(length) => {
                // The head keeps its content-length; the stream fails before it.
                bytes.truncate(length);
                let pieces = [Ok(Frame::data(Bytes::from(bytes))), Err(BrokenOff)];
                let body = StreamBody::new(futures::stream::iter(pieces)).boxed();
                return Response::from_parts(head, body);
            }
            _ => {}
        }
    }
    Response::from_parts(head, Full::new(Bytes::from(bytes)).map_err(|e: Infallible| match e {}).boxed())
}
