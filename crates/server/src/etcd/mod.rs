//! etcd's services, and that of operators: a file each. They translate messages to what the node does and back, and know
//! which header, code and text belongs to which answer.

mod admit;
mod cluster;
mod deep_txn;
mod encode;
mod errors;
mod forward;
mod header;
mod health;
mod keep_alive;
mod kv;
mod kv_messages;
mod lease;
mod maintenance;
mod operator;
mod permit;
mod range_stream;
mod router;
pub(crate) mod versions;

pub(crate) use errors::{no_leader, timed_out};
pub(crate) use forward::FromPeers;
pub(crate) use maintenance::alarm_name;

use crate::grpc::call::CallLimits;
use crate::grpc::status::Status;
use crate::metrics::Metrics;
use crate::transport::shared::ConnShared;
use netsy_node::Node;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;

/// All services of one node.
pub(crate) struct Service {
    pub(crate) node: Node,
    pub(crate) metrics: Metrics,
    pub(crate) limits: CallLimits,
    /// Clients show certificates: one without an identity is none of ours, whoever passes its request on.
    pub(crate) identities: bool,
    /// A larger write is refused.
    pub(crate) request_bytes_max: usize,
    /// Turns true when the server drains.
    pub(crate) drain: watch::Receiver<bool>,
}

impl Service {
    /// Refuses a write that is too large to replicate.
    fn check_size(&self, request_bytes: usize) -> Result<(), Status> {
        // etcd counts its own envelope, about this much.
        const ENVELOPE_BYTES: usize = 32;
        if request_bytes + ENVELOPE_BYTES > self.request_bytes_max {
            return Err(errors::request_too_large());
        }
        Ok(())
    }
}

/// Runs `work`, which may compute for long, in a task of its own, once the connection has a slot
/// for it. The slot is to be held until the answer is sent: so the memory of one connection's long
/// answers is bounded. Dropping the future ends the task.
async fn apart<T: Send + 'static>(
    shared: &ConnShared,
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<(T, Option<OwnedSemaphorePermit>), Status> {
    // The semaphore is never closed; were it, running unbounded beats not running.
    let slot = Arc::clone(&shared.apart).acquire_owned().await.ok();
    let mut tasks = JoinSet::new();
    tasks.spawn(work);
    match tasks.join_next().await {
        Some(Ok(outcome)) => Ok((outcome?, slot)),
        Some(Err(error)) => match error.try_into_panic() {
            // Goes up to the frame around the handler, which counts and reports it.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Status::internal(format!("netsy: internal error: {error}"))),
        },
        None => Err(Status::internal("netsy: internal error: a task was lost")),
    }
}
