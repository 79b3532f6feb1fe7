//! An established connection.

use crate::calls::Caller;
use crate::error::{Lost, SendError};
use crate::handler::{Direction, Remote};
use crate::outbox::{Outbox, pump};
use crate::replicate::{Body, PrimaryStream};
use crate::tasks::Tasks;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Uri, Version};
use netsy_api::peer::{SessionFrame, session_frame};
use std::sync::Arc;

/// Path of the session.
pub(crate) const SESSION_PATH: &str = "/netsy.peer.Peer/Session";
/// Path of the calls.
pub(crate) const CALLS_PATH: &str = "/netsy.peer.Peer/Calls";
/// Path of the log.
pub(crate) const REPLICATE_PATH: &str = "/netsy.peer.Peer/Replicate";

/// One connection after Hello and Welcome.
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) remote: Arc<Remote>,
    pub(crate) direction: Direction,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) session: Arc<Outbox>,
    /// Of outgoing ones.
    pub(crate) asking: Option<Asking>,
}

/// What only the end that opened the connection does.
pub(crate) struct Asking {
    pub(crate) caller: Arc<Caller>,
    pub(crate) requests: SendRequest<Bytes>,
    pub(crate) backlog_bytes_max: usize,
    pub(crate) message_bytes_max: usize,
}

impl Link {
    /// Sends a message of the engine.
    pub(crate) fn send_engine(&self, message: Bytes) -> Result<(), SendError> {
        let frame = SessionFrame { kind: Some(session_frame::Kind::Engine(message)) };
        self.session.push(&frame).map(|_| ())
    }

    /// Opens a stream to the Primary.
    pub(crate) async fn follow(&self) -> Result<PrimaryStream, SendError> {
        let asking = self.asking.as_ref().ok_or(SendError::Closed)?;
        let (response, send) = open_call(&asking.requests, REPLICATE_PATH).await.map_err(|_| SendError::Closed)?;
        let outbox = Outbox::new(asking.backlog_bytes_max, asking.message_bytes_max);
        let pumped = outbox.clone();
        self.tasks.spawn(Box::pin(async move {
            // Whoever reads the stream learns why it ended.
            let _ = pump(pumped, send, false).await;
        }));
        Ok(PrimaryStream::new(outbox, Body::Expected { response, message_bytes_max: asking.message_bytes_max }))
    }

    /// Everybody who waits for something is told that it is gone.
    pub(crate) fn close(&self, lost: &Lost) {
        self.session.close();
        if let Some(asking) = &self.asking {
            asking.caller.close(lost);
        }
    }
}

/// Opens one of the streams.
pub(crate) async fn open_call(
    requests: &SendRequest<Bytes>,
    path: &'static str,
) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
    let mut requests = requests.clone().ready().await?;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.authority = Some(http::uri::Authority::from_static("netsy"));
    uri.path_and_query = Some(http::uri::PathAndQuery::from_static(path));
    if let Ok(uri) = Uri::from_parts(uri) {
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    headers.insert(http::header::TE, http::HeaderValue::from_static("trailers"));
    requests.send_request(request, false)
}
