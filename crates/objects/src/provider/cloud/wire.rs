//! The HTTP client under `object_store`: its time-outs, and a note of what happened to
//! each request, which `object_store`'s own errors blur (a 409 and a 412 become one, a 5xx
//! and a closed connection another).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::bucket::{Result, StoreError};

const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// Kept connections are dropped before the store is likely to close them, since a request
/// on a connection that is being closed ends unanswered.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(15);
/// A body gets this much longer than the plain time-out: seconds per byte at 1 MiB/s.
const SLOWEST_BYTES_PER_SECOND: u64 = 1024 * 1024;
/// Of an error's body, for messages.
const ERROR_BODY_BYTES_MAX: usize = 4 * 1024;

/// What became of a request, as far as this end can tell.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// No connection: the store has not seen it.
    NotSent,
    Answered(StatusCode),
    /// Sent, wholly or in part, and no answer.
    Unanswered,
}

/// Travels with a request through `object_store` and is filled in by [`Wire`].
#[derive(Debug, Clone, Default)]
pub(crate) struct FateNote(Arc<Mutex<Option<Fate>>>);

impl FateNote {
    pub fn get(&self) -> Option<Fate> {
        self.0.lock().clone()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Wire {
    client: reqwest::Client,
    /// Until the answer's head; then again between any two pieces of its body.
    timeout: Duration,
}

impl Wire {
    /// `extra_roots`: PEM certificates to trust besides the system's.
    pub fn new(timeout: Duration, extra_roots: Option<&[u8]>) -> Result<Wire> {
        // An error means that the program chose one before: fine.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let fail = |e: reqwest::Error| StoreError::refused("open", "", format_args!("no HTTP client: {}", chain(&e)));
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("netsy/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout.min(CONNECT_TIMEOUT_MAX))
            .pool_idle_timeout(IDLE_CONNECTION_MAX);
        if let Some(pem) = extra_roots {
            builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(pem).map_err(fail)?);
        }
        Ok(Wire { client: builder.build().map_err(fail)?, timeout })
    }

    /// For other libraries that call the provider's services.
    #[cfg(feature = "aws-profile")]
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    fn time_for(&self, body: u64) -> Duration {
        self.timeout + Duration::from_millis(body.saturating_mul(1_000) / SLOWEST_BYTES_PER_SECOND)
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let note = parts.extensions.get::<FateNote>().cloned();
        let set = |fate| {
            if let Some(note) = &note {
                *note.0.lock() = Some(fate);
            }
        };
        let length = body.content_length() as u64;
        let url =
            parts.uri.to_string().parse::<reqwest::Url>().map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let mut request = reqwest::Request::new(parts.method.clone(), url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(reqwest::Body::wrap(body));

        set(Fate::Unanswered);
        let answer = match tokio::time::timeout(self.time_for(length), self.client.execute(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => {
                if e.is_connect() {
                    set(Fate::NotSent);
                }
                return Err(http_error(e));
            }
            Err(_) => return Err(HttpError::new(HttpErrorKind::Timeout, TimedOut(self.timeout))),
        };
        set(Fate::Answered(answer.status()));
        let answer: http::Response<reqwest::Body> = answer.into();
        let (parts_back, body) = answer.into_parts();
        // An error's body is text for a message: one that is too long or not text would
        // make `object_store` report that instead of the status.
        let plain = parts_back.status.is_success() || parts.method == Method::HEAD;
        let body = Watched { body, idle: Box::pin(tokio::time::sleep(self.timeout)), timeout: self.timeout };
        if plain {
            return Ok(HttpResponse::from_parts(parts_back, HttpResponseBody::new(body)));
        }
        let text = error_text(body).await;
        Ok(HttpResponse::from_parts(parts_back, HttpResponseBody::from(text)))
    }
}

async fn error_text(body: Watched) -> String {
    use http_body_util::BodyExt;
    let limited = http_body_util::Limited::new(body, ERROR_BODY_BYTES_MAX);
    match limited.collect().await {
        Ok(whole) => String::from_utf8_lossy(&whole.to_bytes()).into_owned(),
        Err(e) => format!("(the answer's body cannot be read: {e})"),
    }
}

fn http_error(e: reqwest::Error) -> HttpError {
    let kind = if e.is_connect() {
        HttpErrorKind::Connect
    } else if e.is_timeout() {
        HttpErrorKind::Timeout
    } else {
        HttpErrorKind::Interrupted
    };
    let text = chain(&e.without_url());
    HttpError::new(kind, std::io::Error::other(text))
}

/// An error and what is behind it, in one line.
pub(crate) fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(e) = next {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = e.source();
    }
    text
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct TimedOut(Duration);

/// A body that fails when nothing of it arrives for a while.
struct Watched {
    body: reqwest::Body,
    idle: Pin<Box<tokio::time::Sleep>>,
    timeout: Duration,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.idle.as_mut().reset(Instant::now() + this.timeout);
            return Poll::Ready(frame.map(|f| f.map_err(http_error)));
        }
        ready!(this.idle.as_mut().poll(cx));
        Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, TimedOut(this.timeout)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
