//! Every operation of every client, as it was sent and answered.

use crate::cluster::{NodeView, connect};
use netsy_api::etcdserverpb::ResponseHeader;
use netsy_e2e::Client;
use netsy_history::{Answer, Done, Op, Outcome, Refusal, Request};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// Units of all times.
pub const UNITS_PER_SECOND: u64 = 1_000_000;

/// Between two looks whether clients still rest.
const REST: Duration = Duration::from_millis(50);

/// What all clients of a run share.
pub struct Shared {
    start: Instant,
    /// The nodes.
    pub nodes: Vec<NodeView>,
    ops: Mutex<Vec<Op>>,
    /// Numbers for values and leases.
    pub number: AtomicU64,
    /// The newest revision told to anybody.
    pub revision: AtomicI64,
    /// Successful writes so far.
    pub acknowledged: AtomicU64,
    /// Set to end all clients between two operations.
    pub stop: AtomicBool,
    /// Set to have them wait between two operations.
    pub rest: AtomicBool,
    /// What requests of unknown outcome were told, and how often.
    unknown: Mutex<BTreeMap<String, u64>>,
}

impl Shared {
    /// Of a run that begins now.
    pub fn new(nodes: Vec<NodeView>) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            nodes,
            ops: Mutex::default(),
            number: AtomicU64::new(1),
            revision: AtomicI64::new(1),
            acknowledged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            rest: AtomicBool::new(false),
            unknown: Mutex::default(),
        })
    }

    /// The run's time.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// All operations so far.
    pub fn take(&self) -> Vec<Op> {
        std::mem::take(&mut self.ops.lock())
    }

    /// What requests of unknown outcome were told, those that were told most first.
    pub fn told_unknown(&self) -> Vec<(String, u64)> {
        let mut told: Vec<(String, u64)> = self.unknown.lock().clone().into_iter().collect();
        told.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        told
    }

    /// A number never given before.
    pub fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::SeqCst)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// One client with a connection to each node.
pub struct Recorder {
    /// The run.
    pub shared: Arc<Shared>,
    number: u32,
    connections: Vec<Option<Client>>,
    timeout: Duration,
}

impl Recorder {
    /// Not connected yet.
    pub fn new(shared: Arc<Shared>, number: u32, timeout: Duration) -> Self {
        let connections = vec![None; shared.nodes.len()];
        Self { shared, number, connections, timeout }
    }

    /// Should this client end?
    pub fn stopped(&self) -> bool {
        self.shared.stopped()
    }

    /// Waits while clients are to rest; false: this client is to end.
    pub async fn goes_on(&self) -> bool {
        while self.shared.rest.load(Ordering::SeqCst) && !self.stopped() {
            tokio::time::sleep(REST).await;
        }
        !self.stopped()
    }

    async fn connection(&mut self, node: usize) -> Option<Client> {
        if self.connections[node].is_none() {
            self.connections[node] = connect(self.shared.nodes[node].address).await.ok();
        }
        self.connections[node].clone()
    }

    /// Asks a node. `None`: it was not sent, as there is no connection, or none any more.
    pub async fn ask(&mut self, node: usize, request: Request) -> Option<Outcome> {
        let client = self.connection(node).await?;
        let life = &self.shared.nodes[node].life;
        let (life_before, invoked) = (life.load(Ordering::SeqCst), self.shared.now());
        let answer = tokio::time::timeout(self.timeout, send(&client, &request)).await;
        let (returned, life_after) = (self.shared.now(), life.load(Ordering::SeqCst));
        let (outcome, told) = match answer {
            Ok(Ok(done)) => (Outcome::Done(done), String::new()),
            Ok(Err(status)) if was_not_sent(&status) => {
                self.connections[node] = None;
                return None;
            }
            Ok(Err(status)) => (outcome_of(&status), format!("{:?}: {}", status.code(), status.message())),
            Err(_) => (Outcome::Unknown, format!("no answer within {:?}", self.timeout)),
        };
        if outcome == Outcome::Unknown {
            self.connections[node] = None;
            *self.shared.unknown.lock().entry(told).or_default() += 1;
        }
        // An answer around a restart is of either life: of one of its own, as far as its node's order goes.
        let session = if life_before == life_after { life_before } else { (1 << 32) + self.shared.next() };
        let op = Op { client: self.number, node: node as u32 + 1, session, invoked, returned, request, outcome };
        if let Some(done) = op.done() {
            self.shared.revision.fetch_max(done.revision, Ordering::SeqCst);
            if op.wrote() {
                self.shared.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
        }
        let outcome = op.outcome.clone();
        self.shared.ops.lock().push(op);
        Some(outcome)
    }
}

async fn send(client: &Client, request: &Request) -> Result<Done, Status> {
    fn done(header: Option<ResponseHeader>, answer: impl Into<Answer>) -> Result<Done, Status> {
        let header = header.ok_or_else(|| Status::internal("an answer without a header"))?;
        Ok(Done { revision: header.revision, answer: answer.into() })
    }
    macro_rules! ask {
        ($call:expr) => {{
            let mut answer = $call.await?;
            done(answer.header.take(), answer)
        }};
    }
    match request {
        Request::Put(put) => ask!(client.try_put(put.clone())),
        Request::DeleteRange(delete) => ask!(client.delete_range(delete.clone())),
        Request::Txn(txn) => ask!(client.txn(txn.clone())),
        Request::Range(range) => ask!(client.range(range.clone())),
        Request::LeaseGrant { id, ttl } => ask!(client.try_grant(*ttl, *id)),
        Request::LeaseRevoke { id } => ask!(client.revoke(*id)),
        Request::LeaseKeepAlive { id } => ask!(client.keep_alive(*id)),
        Request::LeaseTimeToLive { id, .. } => ask!(client.time_to_live(*id)),
        Request::Compact { revision } => ask!(client.compact(*revision, false)),
    }
}

/// Whether the request surely never reached a server's handler: there was no connection, or the server closed it
/// gracefully before (a stream that its GOAWAY does not cover, or refuses). Clients may send it again elsewhere.
pub fn was_not_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.downcast_ref::<tonic::ConnectError>().is_some() {
            return true;
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return refused || error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
        }
        cause = error.source();
    }
    false
}

/// Only what is said before anything is done is sure; everything else may have been done.
fn outcome_of(status: &Status) -> Outcome {
    if let Some(refusal) = Refusal::of_text(status.message()) {
        return Outcome::Refused(refusal);
    }
    match status.code() {
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => {
            Outcome::Refused(Refusal::Other(status.to_string()))
        }
        Code::ResourceExhausted if status.message().starts_with("etcdserver: ") => {
            Outcome::Refused(Refusal::Other(status.to_string()))
        }
        _ => Outcome::Unknown,
    }
}
