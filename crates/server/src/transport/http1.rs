//! Plain HTTP/1 on the same port: health, version, metrics.

use super::Routes;
use super::wire::Wire;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// The most bytes of a request's line and headers.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Serves HTTP/1 on `wire` until the client leaves or a drain is over.
pub(super) async fn serve<S, R>(
    wire: Wire<S>,
    routes: Arc<R>,
    header_timeout: Duration,
    mut drain: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    R: Routes,
{
    wire.write_through();
    let service = service_fn(move |request: Request<Incoming>| {
        let (parts, _) = request.into_parts();
        let answer = routes.clone().http(Request::from_parts(parts, ()));
        async move {
            let (parts, body) = answer.await.into_parts();
            Ok::<_, Infallible>(Response::from_parts(parts, Full::<Bytes>::new(body)))
        }
    });
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(wire), service)
    );
    let mut drained = pin!(async move {
        // An error means that the server is gone, which is draining too.
        let _ = drain.wait_for(|&draining| draining).await;
    });
    let mut draining = false;
    std::future::poll_fn(|cx| {
        if !draining && drained.as_mut().poll(cx).is_ready() {
            draining = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await
    .map_err(io::Error::other)
}
