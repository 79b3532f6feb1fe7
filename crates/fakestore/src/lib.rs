//! An object store in the test's own process, on a loopback port, that speaks what
//! `object_store` needs of Amazon S3 and of Google Cloud Storage's XML interface, and fails
//! on demand.
//!
//! For: tests of whatever uses a bucket over HTTP. Its conditional writes are atomic, its
//! listings come in pages, its ETags (S3) are equal for equal bodies and its generations
//! (GCS) never repeat; the conformance suite in `objects` runs against it and against real
//! servers, so that it can be believed.
//!
//! Not for: anything but tests. It checks no signatures and keeps everything in memory.
//!
//! Start at [`FakeStore::start`] and [`Fault`]; [`real`] starts real servers.

mod fault;
mod objects;
pub mod real;
mod server;
pub mod signed;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use fault::{Calls, Fault, FaultHandle, FaultKind, Op};
pub use objects::{Conditions, Dialect};

use server::State;

/// The one bucket that there is at the start.
pub const BUCKET: &str = "test";

/// A running fake. It stops when dropped.
pub struct FakeStore {
    state: Arc<State>,
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl FakeStore {
    /// Listens on a free loopback port.
    pub async fn start(dialect: Dialect) -> std::io::Result<FakeStore> {
        Self::start_at(dialect, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Listens there.
    pub async fn start_at(dialect: Dialect, address: SocketAddr) -> std::io::Result<FakeStore> {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::new(dialect));
        let accepting = tokio::spawn(server::accept(listener, Arc::clone(&state)));
        Ok(FakeStore { state, address, accepting })
    }

    /// `http://127.0.0.1:port`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn dialect(&self) -> Dialect {
        self.state.dialect
    }

    /// Adds a fault. Of several that match a call, the one added first is taken.
    pub fn inject(&self, fault: Fault) -> FaultHandle {
        self.state.faults.add(fault)
    }

    /// Ends all faults, but not the late landings already on their way.
    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    /// Added before every call is looked at.
    pub fn set_latency(&self, latency: Duration) {
        *self.state.latency.lock() = latency;
    }

    /// Keys of a listing's page; 1,000 at the start.
    pub fn set_page_size(&self, keys: usize) {
        *self.state.page_size.lock() = keys.max(1);
    }

    /// Makes it one of the stores that must be refused.
    pub fn set_conditions(&self, conditions: Conditions) {
        *self.state.conditions.lock() = conditions;
    }

    /// What is kept under a key, past all faults.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.state.objects.lock().get(key).map(|o| o.bytes.clone())
    }

    pub fn keys(&self) -> Vec<String> {
        self.state.objects.lock().keys()
    }

    /// Replaces an object behind everybody's back.
    pub fn put_object(&self, key: &str, bytes: impl Into<Bytes>) {
        self.state.objects.lock().put(key, bytes.into());
    }

    pub fn remove_object(&self, key: &str) {
        self.state.objects.lock().remove(key);
    }

    /// Multipart uploads neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        self.state.objects.lock().open_uploads()
    }

    /// The last call's `authorization` header and session token, which nothing checks.
    pub fn last_authorization(&self) -> String {
        self.state.authorization.lock().clone()
    }

    /// Calls so far that were of this kind, faulty ones included.
    pub fn calls(&self, calls: &Calls) -> u64 {
        self.state.seen.lock().iter().filter(|(op, key)| calls.matches(*op, key)).count() as u64
    }
}

impl Drop for FakeStore {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
