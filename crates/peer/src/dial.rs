//! Keeps a connection to one other node: connects, greets, and does it again when it is lost.

use crate::calls::Caller;
use crate::connection::{
    CONNECTION_WINDOW_BYTES, Driver, FRAME_BYTES_MAX, HEADER_BYTES_MAX, Io, KeepaliveTimes, SEND_BUFFER_BYTES,
    STREAM_WINDOW_BYTES, STREAMS_MAX,
};
use crate::error::{DialError, Lost};
use crate::handler::{Direction, PeerEvent, Remote};
use crate::hub::{Hub, Slot};
use crate::inbox::Inbox;
use crate::link::{Asking, CALLS_PATH, Link, SESSION_PATH, open_call};
use crate::outbox::{Outbox, pump};
use crate::session::{check_identity, hello, judge_answer, receive};
use crate::socket::{Socket, prepare};
use crate::tasks::Tasks;
use crate::wire::Wire;
use bytes::Bytes;
use futures::FutureExt;
use h2::client::SendRequest;
use netsy_api::peer::SessionFrame;
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

/// Why a connection ended whose task did not say.
const PANICKED: &str = "a panic in its task, which is a bug: please report it";

/// Keeps the connection until the slot has no address any more or the node stops.
pub(crate) async fn keep(hub: Arc<Hub>, slot: Arc<Slot>) {
    let mut addresses = slot.address.subscribe();
    let mut stopping = hub.stopping.subscribe();
    let mut failures = 0u32;
    let mut last_error: Option<DialError> = None;
    loop {
        let Some(address) = addresses.borrow_and_update().clone() else {
            let mut kept = slot.kept.lock();
            if slot.address.borrow().is_none() {
                *kept = false;
                return;
            }
            continue;
        };
        let dialled = tokio::select! {
            biased;
            _ = stopping.wait_for(Option::is_some) => return,
            () = other_address(&mut addresses, &address) => {
                failures = 0;
                continue;
            }
            dialled = dial(&hub, &slot, &address) => dialled,
        };
        match dialled {
            Ok((link, mut connection)) => {
                let Remote { node_id, version, software, .. } = &*link.remote;
                tracing::info!(node = %node_id, address, version, software, "connected");
                last_error = None;
                let since = Instant::now();
                let lost = tokio::select! {
                    lost = &mut connection => lost,
                    () = other_address(&mut addresses, &address) => {
                        link.tasks.end(Lost::Closed("it is not to be called there any more".into()));
                        connection.await
                    }
                };
                let lost = lost.unwrap_or(Lost::Closed("its task was ended".into()));
                tracing::info!(node = %slot.node_id, address, %lost, "connection lost");
                // Back at once, but not if it is always lost at once.
                failures = if since.elapsed() >= hub.config.backoff_max { 0 } else { failures.saturating_add(1) };
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                if last_error.as_ref() != Some(&error) {
                    tracing::warn!(node = %slot.node_id, %error, "cannot connect; trying again");
                } else {
                    tracing::debug!(node = %slot.node_id, %error, failures, "cannot connect");
                }
                last_error = Some(error.clone());
                hub.handler.event(PeerEvent::Unreachable { node_id: slot.node_id.clone(), error });
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause(&hub, failures)) => {}
            () = slot.nudge.notified() => {}
            () = other_address(&mut addresses, &address) => failures = 0,
            _ = stopping.wait_for(Option::is_some) => return,
        }
    }
}

async fn other_address(addresses: &mut tokio::sync::watch::Receiver<Option<String>>, address: &str) {
    // An error means that the slot is gone, which ends the loop as well.
    let _ = addresses.wait_for(|now| now.as_deref() != Some(address)).await;
}

/// Doubles with every failure and is never the same twice, so that nodes do not call in step.
fn pause(hub: &Hub, failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let full = hub.config.backoff_min.saturating_mul(1 << (failures - 1).min(16)).min(hub.config.backoff_max);
    let random = getrandom::u32().map_or(0.5, |r| f64::from(r) / f64::from(u32::MAX));
    full.mul_f64(0.75 + 0.25 * random)
}

/// Connects and greets. The task it returns ends with the connection.
async fn dial(hub: &Arc<Hub>, slot: &Arc<Slot>, address: &str) -> Result<(Arc<Link>, JoinHandle<Lost>), DialError> {
    let tcp = connect(address, hub.config.connect_timeout).await?;
    let deadline = Instant::now() + hub.config.greeting_timeout;
    let greeting = |error: String| DialError::Greeting { address: address.to_owned(), error };
    let addr = tcp.peer_addr().map_err(|e| greeting(e.to_string()))?;
    prepare(&tcp, hub.config.keepalive_after + hub.config.keepalive_timeout).map_err(|e| greeting(e.to_string()))?;
    let too_late = || greeting(format!("no answer within {} ms", hub.config.greeting_timeout.as_millis()));
    let socket = match &hub.tls {
        None => Socket::Plain(tcp),
        Some(tls) => {
            let failed = |error: io::Error| DialError::Tls { address: address.to_owned(), error: error.to_string() };
            let connecting = tls.connect(tcp);
            let (stream, identity) = timeout_at(deadline, connecting).await.map_err(|_| too_late())?.map_err(failed)?;
            check_identity(&identity, &hub.local.cluster_id, &slot.node_id).map_err(|e| failed(io::Error::other(e)))?;
            Socket::Tls(Box::new(stream.into()))
        }
    };
    let wire = Wire::new(socket);
    let (requests, h2) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .enable_push(false)
        .handshake::<_, Bytes>(wire.clone())
        .await
        .map_err(|e| greeting(e.to_string()))?;
    let tasks = Tasks::new();
    let session = Outbox::new(hub.config.backlog_bytes_max, hub.config.message_bytes_max);
    let times = KeepaliveTimes { after: hub.config.keepalive_after, timeout: hub.config.keepalive_timeout };
    let driver = Driver::new(Io::Client(h2), wire, tasks.clone(), None, session.clone(), times);
    let (greeted_send, greeted) = oneshot::channel();
    let established = Arc::new(Mutex::new(None));
    let opening = Opening {
        hub: hub.clone(),
        slot: slot.clone(),
        address: address.to_owned(),
        addr,
        requests,
        established: established.clone(),
    };
    let work = opening.run(tasks.clone(), session, greeted_send);
    tasks.spawn(Box::pin(work));
    // Whatever becomes of this future, the end of a connection that was up is told.
    let connection = tokio::spawn({
        let hub = hub.clone();
        async move {
            let lost =
                AssertUnwindSafe(driver.run()).catch_unwind().await.unwrap_or_else(|_| Lost::Closed(PANICKED.into()));
            let link = established.lock().take();
            if let Some(link) = link {
                hub.down(&link, lost.clone());
            }
            lost
        }
    });
    // Ended if this future is dropped: nobody else would.
    let mut unless_greeted = EndOnDrop(Some(tasks));
    match timeout_at(deadline, greeted).await {
        Ok(Ok(Ok(link))) => {
            unless_greeted.0 = None;
            Ok((link, connection))
        }
        Ok(Ok(Err(error))) => Err(error),
        // Dropped before it was told: the connection ended, and the driver knows why.
        Ok(Err(_)) => {
            Err(greeting(connection.await.unwrap_or_else(|_| Lost::Closed("its task was ended".into())).to_string()))
        }
        Err(_) => Err(too_late()),
    }
}

struct EndOnDrop(Option<Arc<Tasks>>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(tasks) = self.0.take() {
            tasks.end(Lost::Closed("it was not greeted, or is not to be called there any more".into()));
        }
    }
}

async fn connect(address: &str, limit: Duration) -> Result<TcpStream, DialError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::ConnectionRefused { address: address.to_owned() },
        _ => DialError::Connect { address: address.to_owned(), error: error.to_string() },
    };
    let connecting = async {
        let unresolved = |error: String| DialError::Resolve { address: address.to_owned(), error };
        let found = tokio::net::lookup_host(host_port(address)).await.map_err(|e| unresolved(e.to_string()))?;
        let mut last = None;
        for addr in found {
            match TcpStream::connect(addr).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| unresolved("the name has no address".to_owned()), failed))
    };
    timeout(limit, connecting).await.unwrap_or_else(|_| {
        Err(DialError::Connect {
            address: address.to_owned(),
            error: format!("no answer within {} ms", limit.as_millis()),
        })
    })
}

/// Addresses are HOST:PORT; a scheme before it is taken as decoration.
fn host_port(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.trim_end_matches('/')
}

/// The opening end's part of the greeting.
struct Opening {
    hub: Arc<Hub>,
    slot: Arc<Slot>,
    address: String,
    addr: SocketAddr,
    requests: SendRequest<Bytes>,
    /// Holds the link from when it is up.
    established: Arc<Mutex<Option<Arc<Link>>>>,
}

impl Opening {
    async fn run(
        self,
        tasks: Arc<Tasks>,
        session: Arc<Outbox>,
        greeted: oneshot::Sender<Result<Arc<Link>, DialError>>,
    ) {
        let (link, session_inbox, calls_inbox) = match self.greet(&tasks, &session).await {
            Ok(opened) => opened,
            Err(error) => {
                // Nobody waits any more if it took too long.
                let _ = greeted.send(Err(error));
                return;
            }
        };
        if greeted.send(Ok(link.clone())).is_err() {
            // Given up meanwhile: nobody would notice its end.
            return;
        }
        *self.established.lock() = Some(link.clone());
        self.hub.up(&self.slot, &link);
        if let (Some(asking), (response, message_bytes_max)) = (&link.asking, calls_inbox) {
            let caller = asking.caller.clone();
            let ended = tasks.clone();
            tasks.spawn(Box::pin(async move {
                let lost = match response.await {
                    Ok(response) => caller.receive(&mut Inbox::new(response.into_body(), message_bytes_max)).await,
                    Err(error) => Lost::Broken(error.to_string()),
                };
                ended.end(lost);
            }));
        }
        let lost = receive(session_inbox, &link.remote, &self.hub.handler).await;
        tasks.end(lost);
    }

    async fn greet(
        &self,
        tasks: &Arc<Tasks>,
        session: &Arc<Outbox>,
    ) -> Result<(Arc<Link>, Inbox, (h2::client::ResponseFuture, usize)), DialError> {
        let config = &self.hub.config;
        let greeting = |error: String| DialError::Greeting { address: self.address.clone(), error };
        let (response, send) = open_call(&self.requests, SESSION_PATH).await.map_err(|e| greeting(e.to_string()))?;
        session
            .push(&hello(&self.hub.local, &self.slot.node_id, &config.software))
            .map_err(|e| greeting(e.to_string()))?;
        spawn_pump(tasks, session, send);
        let response = response.await.map_err(|e| greeting(e.to_string()))?;
        if response.status() != http::StatusCode::OK {
            return Err(greeting(format!("it answered with HTTP status {}: no netsy node", response.status())));
        }
        let mut inbox = Inbox::new(response.into_body(), config.message_bytes_max);
        let answer = inbox
            .next::<SessionFrame>()
            .await
            .map_err(|e| greeting(e.to_string()))?
            .ok_or_else(|| greeting("it ended the session".to_owned()))?;
        let remote = judge_answer(&self.slot.node_id, &self.address, self.addr, answer)?;
        let (calls_response, calls_send) =
            open_call(&self.requests, CALLS_PATH).await.map_err(|e| greeting(e.to_string()))?;
        let calls = Outbox::new(config.backlog_bytes_max, config.message_bytes_max);
        spawn_pump(tasks, &calls, calls_send);
        let link = Arc::new(Link {
            id: self.hub.next_link(),
            remote: Arc::new(remote),
            direction: Direction::Outgoing,
            tasks: tasks.clone(),
            session: session.clone(),
            asking: Some(Asking {
                caller: Arc::new(Caller::new(calls, config.message_bytes_max)),
                requests: self.requests.clone(),
                backlog_bytes_max: config.backlog_bytes_max,
                message_bytes_max: config.message_bytes_max,
            }),
        });
        Ok((link, inbox, (calls_response, config.message_bytes_max)))
    }
}

/// A pump whose end is the connection's.
fn spawn_pump(tasks: &Arc<Tasks>, outbox: &Arc<Outbox>, send: h2::SendStream<Bytes>) {
    let (outbox, ended) = (outbox.clone(), tasks.clone());
    tasks.spawn(Box::pin(async move {
        if let Some(lost) = pump(outbox, send, false).await {
            ended.end(lost);
        }
    }));
}
