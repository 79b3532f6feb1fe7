//! The sending half of a call: one message and the trailers, within the client's flow control.

use super::message::{PREFIX_BYTES, cancelled};
use super::status::{Code, Status, code_value};
use crate::transport::shared::ConnShared;
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::poll_fn;
use h2::SendStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::OwnedSemaphorePermit;

/// One length-prefixed response message.
pub(crate) enum Body {
    /// All of it.
    Whole(Bytes),
    /// Made piece by piece as the client takes it, so that a long answer is never in memory twice.
    Pieces(Box<dyn Iterator<Item = Bytes> + Send>),
}

impl Body {
    /// Encodes `message` with its length prefix.
    pub(crate) fn of<M: Message>(message: &M) -> Self {
        Self::Whole(framed(message))
    }

    /// The same for an answer that may be long: `slot` is held until all of it is sent.
    pub(crate) fn holding<M: Message>(message: &M, slot: Option<OwnedSemaphorePermit>) -> Self {
        let bytes = framed(message);
        match slot {
            None => Self::Whole(bytes),
            Some(slot) => Self::Pieces(Box::new(std::iter::once(bytes).chain(std::iter::from_fn(move || {
                let _held = &slot;
                None
            })))),
        }
    }
}

impl Body {
    /// All of it at once.
    pub(crate) fn whole(self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Pieces(pieces) => {
                let mut all = BytesMut::new();
                pieces.for_each(|piece| all.extend_from_slice(&piece));
                all.freeze()
            }
        }
    }
}

/// A message with the prefix that gRPC puts before it.
pub(crate) fn framed<M: Message>(message: &M) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
    put_prefix(&mut out, length);
    message.encode_raw(&mut out);
    out.freeze()
}

/// The prefix of a message of `length` bytes. Lengths past 4 GiB cannot be sent and are cut off
/// by the limits on what a response may hold.
pub(crate) fn put_prefix(out: &mut impl BufMut, length: usize) {
    out.put_u8(0);
    out.put_u32(length as u32);
}

/// Answers one request.
pub(crate) struct Responder {
    pub(crate) send: SendResponse<Bytes>,
    pub(crate) shared: Arc<ConnShared>,
}

impl Responder {
    /// Sends the answer whole. A client that has gone away is no error: there is nobody to tell.
    pub(crate) async fn finish(&mut self, outcome: Result<Body, Status>) {
        self.shared.has_sent.store(true, Ordering::Relaxed);
        let body = match outcome {
            Ok(body) => body,
            Err(status) => return self.refuse(&status),
        };
        let Ok(mut stream) = self.send.send_response(response_head(), false) else { return };
        let sent = match body {
            Body::Whole(bytes) => send_all(&mut stream, bytes).await,
            Body::Pieces(pieces) => send_pieces(&mut stream, pieces).await,
        };
        if sent.is_ok() {
            // An error here means that the client is gone.
            let _ = stream.send_trailers(ok_trailers());
        }
    }

    /// Sends the end of the call in the only header frame.
    pub(crate) fn refuse(&mut self, status: &Status) {
        self.refuse_under(response_head(), status);
    }

    /// The same with other headers.
    pub(crate) fn refuse_under(&mut self, mut response: Response<()>, status: &Status) {
        status.write_to(response.headers_mut());
        // An error here means that the client is gone.
        let _ = self.send.send_response(response, true);
    }

    /// Sends a plain HTTP answer.
    pub(crate) async fn finish_http(mut self, response: Response<Bytes>) {
        self.shared.has_sent.store(true, Ordering::Relaxed);
        let (parts, bytes) = response.into_parts();
        let empty = bytes.is_empty();
        let Ok(mut stream) = self.send.send_response(Response::from_parts(parts, ()), empty) else { return };
        if !empty && send_all(&mut stream, bytes).await.is_ok() {
            // An error here means that the client is gone.
            let _ = stream.send_data(Bytes::new(), true);
        }
    }
}

async fn send_pieces(stream: &mut SendStream<Bytes>, pieces: impl Iterator<Item = Bytes>) -> Result<(), Status> {
    for piece in pieces {
        send_all(stream, piece).await?;
    }
    Ok(())
}

/// Sends `bytes` as the client's flow control allows.
pub(crate) async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), Status> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let mut room = stream.capacity();
        if room == 0 {
            room = match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(room)) => room,
                Some(Err(_)) | None => return Err(cancelled()),
            };
        }
        let part = bytes.split_to(room.min(bytes.len()));
        if !part.is_empty() {
            stream.send_data(part, false).map_err(|_| cancelled())?;
        }
    }
    Ok(())
}

/// Status 200 and the content type of every gRPC response.
pub(crate) fn response_head() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The trailers of a call that went well.
pub(crate) fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", code_value(Code::Ok));
    trailers
}
