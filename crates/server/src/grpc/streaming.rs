//! A streaming call's two halves: requests as they come, responses as the client takes them.
//!
//! A service gets a [`RequestStream`] and a [`ResponseSink`], usually uses them from one task, and
//! returns when the call is over. Responses may be given already encoded ([`frame`]), so that one
//! encoding serves many streams.

use super::message::MessageReader;
use super::message::cancelled;
use super::reply::{framed, ok_trailers, response_head, send_all};
use super::status::{Code, Status};
use crate::transport::shared::ConnShared;
use bytes::Bytes;
use futures::future::poll_fn;
use h2::SendStream;
use h2::server::SendResponse;
use http::HeaderMap;
use prost::Message;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::sync::watch;

/// What else is known about a call.
pub struct CallContext {
    /// Request headers (gRPC metadata).
    pub headers: HeaderMap,
    /// The client's address.
    pub peer: SocketAddr,
    /// `hasleader: true` was sent: end the call with `etcdserver: no leader` when there is none.
    pub require_leader: bool,
    pub(crate) drain: watch::Receiver<bool>,
    pub(crate) shared: Arc<ConnShared>,
}

impl CallContext {
    /// Completes once the server drains; the call should then end with [`server_stopped`].
    pub async fn draining(&self) {
        let mut drain = self.drain.clone();
        // An error means that the server is gone altogether, which is draining too.
        let _ = drain.wait_for(|&draining| draining).await;
    }
}

/// How a stream ends when the server stops.
pub fn server_stopped() -> Status {
    Status::new(Code::Unavailable, "etcdserver: server stopped")
}

/// The requests of one call.
pub struct RequestStream<M> {
    reader: MessageReader,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> RequestStream<M> {
    pub(crate) fn new(reader: MessageReader) -> Self {
        Self { reader, message: PhantomData }
    }

    /// The next request; None after the client's half-close. Cancel-safe: nothing is lost when the
    /// future is dropped. Errors: the client gave the call up, or sent what is no such message.
    pub async fn next(&mut self) -> Result<Option<M>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Self::next`] for hand-written futures.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<M>, Status>> {
        self.reader.poll_next(cx).map(|message| match message? {
            Some(bytes) => decode(bytes).map(Some),
            None => Ok(None),
        })
    }
}

/// Decodes a request. Errors: [`Code::Internal`], as gRPC servers answer to bytes that are no such message;
/// [`Code::InvalidArgument`] for what is nested deeper than the decoder goes.
pub(crate) fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes).map_err(|e| {
        let text = e.to_string();
        // It names every level that it was in, and has no other way to tell this case from the rest.
        if text.ends_with("recursion limit reached") {
            return Status::new(Code::InvalidArgument, "netsy: the request is nested too deeply");
        }
        Status::internal(format!("grpc: error unmarshalling request: {text}"))
    })
}

/// One response, encoded with its length prefix, to be sent any number of times.
pub fn frame<M: Message>(message: &M) -> Bytes {
    framed(message)
}

/// The responses of one call.
pub struct ResponseSink {
    send: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
    shared: Arc<ConnShared>,
}

impl ResponseSink {
    pub(crate) fn new(send: SendResponse<Bytes>, shared: Arc<ConnShared>) -> Self {
        Self { send, stream: None, shared }
    }

    /// Sends the response headers now; else they go with the first response.
    /// Error: the client is gone.
    pub fn open(&mut self) -> Result<&mut SendStream<Bytes>, Status> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.send.send_response(response_head(), false).map_err(|_| cancelled())?,
        };
        Ok(self.stream.insert(stream))
    }

    /// Sends one response once the client has room for it. Error: the client is gone.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), Status> {
        self.send_framed(framed(message)).await
    }

    /// Sends one or more responses encoded by [`frame`], once the client has room for them. Not
    /// cancel-safe: a dropped future may have sent a part. Error: the client is gone.
    pub async fn send_framed(&mut self, bytes: Bytes) -> Result<(), Status> {
        self.shared.has_sent.store(true, Ordering::Relaxed);
        send_all(self.open()?, bytes).await
    }

    /// Sends as much of `bytes` as the client has room for, at least something. Ready with an error: the
    /// client is gone.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<Result<(), Status>> {
        self.shared.has_sent.store(true, Ordering::Relaxed);
        let stream = self.open()?;
        stream.reserve_capacity(bytes.len());
        let mut room = stream.capacity();
        while room == 0 {
            room = match ready!(stream.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(_)) | None => return Poll::Ready(Err(cancelled())),
            };
        }
        let part = bytes.split_to(room.min(bytes.len()));
        Poll::Ready(stream.send_data(part, false).map_err(|_| cancelled()))
    }

    /// Ready once the client has given the call up.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.stream {
            Some(stream) => stream.poll_reset(cx).map(|_| ()),
            None => self.send.poll_reset(cx).map(|_| ()),
        }
    }

    /// Completes once the client has given the call up.
    pub async fn gone(&mut self) {
        poll_fn(|cx| self.poll_gone(cx)).await;
    }

    /// Ends the call.
    pub(crate) fn finish(&mut self, outcome: &Result<(), Status>) {
        self.shared.has_sent.store(true, Ordering::Relaxed);
        let Some(stream) = &mut self.stream else {
            let mut response = response_head();
            match outcome {
                Ok(()) => response.headers_mut().extend(ok_trailers()),
                Err(status) => status.write_to(response.headers_mut()),
            }
            // An error here, as below, means that the client is gone.
            let _ = self.send.send_response(response, true);
            return;
        };
        let mut trailers = ok_trailers();
        if let Err(status) = outcome {
            status.write_to(&mut trailers);
        }
        let _ = stream.send_trailers(trailers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_api::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request};

    #[test]
    fn transactions_within_each_other_have_a_limit_that_the_client_is_told_of() {
        let txn =
            |operation| TxnRequest { success: vec![RequestOp { request: Some(operation) }], ..TxnRequest::default() };
        let nested = |levels: usize| {
            let innermost = txn(Request::RequestPut(PutRequest::default()));
            let txn = (1..levels).fold(innermost, |inner, _| txn(Request::RequestTxn(inner)));
            decode::<TxnRequest>(txn.encode_to_vec().into())
        };
        assert!(nested(50).is_ok());
        for levels in [51, 100, 1000] {
            let refused = nested(levels).unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument, "{levels}");
            assert!(refused.message.contains("nested too deeply"), "{}", refused.message);
        }
        let damaged = decode::<TxnRequest>(Bytes::from_static(&[0x0a, 5, 1])).unwrap_err();
        assert_eq!(damaged.code, Code::Internal);
    }
}
