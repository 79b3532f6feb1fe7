//! What the calls of one connection share.

use crate::grpc::status::{Code, Status};
use netsy_peer::Identity;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::{Semaphore, watch};

/// The most bytes of half-received requests that one connection may hold.
const PARTIAL_REQUEST_BYTES_MAX: usize = 64 << 20;

/// The most calls of one connection that run as tasks of their own (lists, streams of ranges) at
/// the same time, their sending included; others wait.
const APART_CALLS_MAX: usize = 64;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) addr: SocketAddr,
    /// By its certificate; None without TLS.
    pub(crate) identity: Option<Arc<Identity>>,
}

/// One connection, as its calls see it.
pub(crate) struct ConnShared {
    /// The other end's address.
    pub(crate) peer: SocketAddr,
    /// Who is there, by the certificate; None without TLS.
    pub(crate) identity: Option<Arc<Identity>>,
    /// Bytes of half-received requests.
    partial_bytes: AtomicUsize,
    /// Unary calls under way.
    pub(crate) unary_calls: AtomicUsize,
    /// Streaming calls under way.
    pub(crate) stream_calls: AtomicUsize,
    /// A header or data frame went out since the last look: pings are then no nuisance.
    pub(crate) has_sent: AtomicBool,
    /// Turns true when the server drains.
    pub(crate) drain: watch::Receiver<bool>,
    /// Bounds the calls that run apart.
    pub(crate) apart: Arc<Semaphore>,
    /// Compressed requests are read one at a time: of each that has begun, all that it says may be in memory.
    pub(crate) inflating: Arc<Semaphore>,
}

impl ConnShared {
    /// The identity in the client's certificate; empty without TLS.
    pub(crate) fn client(&self) -> String {
        self.identity.as_ref().map(|identity| identity.to_string()).unwrap_or_default()
    }

    pub(crate) fn new(client: Client, drain: watch::Receiver<bool>) -> Arc<Self> {
        Arc::new(Self {
            peer: client.addr,
            identity: client.identity,
            partial_bytes: AtomicUsize::new(0),
            unary_calls: AtomicUsize::new(0),
            stream_calls: AtomicUsize::new(0),
            has_sent: AtomicBool::new(false),
            drain,
            apart: Arc::new(Semaphore::new(APART_CALLS_MAX)),
            inflating: Arc::new(Semaphore::new(1)),
        })
    }
}

/// Counts a call while it lives.
pub(crate) struct Counted {
    shared: Arc<ConnShared>,
    stream: bool,
}

impl Counted {
    pub(crate) fn unary(shared: &Arc<ConnShared>) -> Self {
        shared.unary_calls.fetch_add(1, Ordering::Relaxed);
        Self { shared: shared.clone(), stream: false }
    }

    pub(crate) fn stream(shared: &Arc<ConnShared>) -> Self {
        shared.stream_calls.fetch_add(1, Ordering::Relaxed);
        Self { shared: shared.clone(), stream: true }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let counter = if self.stream { &self.shared.stream_calls } else { &self.shared.unary_calls };
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call's share of the connection's budget for half-received requests; given back on drop.
pub(crate) struct HeldBytes {
    shared: Arc<ConnShared>,
    bytes: usize,
}

impl HeldBytes {
    pub(crate) fn new(shared: Arc<ConnShared>) -> Self {
        Self { shared, bytes: 0 }
    }

    pub(crate) fn shared(&self) -> &ConnShared {
        &self.shared
    }

    /// Takes `bytes` more, or says that the connection holds too much.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), Status> {
        let before = self.shared.partial_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before + bytes > PARTIAL_REQUEST_BYTES_MAX {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "this connection holds {} bytes of unfinished requests, more than {PARTIAL_REQUEST_BYTES_MAX}: \
                     finish some before beginning others",
                    before + bytes
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn release(&mut self) {
        // Most messages come whole.
        if self.bytes > 0 {
            self.shared.partial_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
            self.bytes = 0;
        }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.release();
    }
}
