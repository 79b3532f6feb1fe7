//! Accepts the connections of other nodes.

use crate::calls::Answering;
use crate::connection::{
    Accept, CONNECTION_WINDOW_BYTES, Driver, FRAME_BYTES_MAX, HEADER_BYTES_MAX, Io, KeepaliveTimes, SEND_BUFFER_BYTES,
    STREAM_WINDOW_BYTES, STREAMS_MAX,
};
use crate::error::Lost;
use crate::handler::{Direction, Remote};
use crate::hub::Hub;
use crate::identity::Identity;
use crate::inbox::Inbox;
use crate::link::{CALLS_PATH, Link, REPLICATE_PATH, SESSION_PATH};
use crate::outbox::{Outbox, pump};
use crate::replicate::{Body, FollowerStream};
use crate::session::{judge_hello, no_hello, receive, stopping};
use crate::socket::{Socket, prepare};
use crate::tasks::Tasks;
use crate::wire::Wire;
use bytes::Bytes;
use futures::FutureExt;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use netsy_api::peer::{Refusal, SessionFrame, refusal, session_frame};
use parking_lot::Mutex;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the node stops, then lets the connections say goodbye.
pub(crate) async fn run(hub: Arc<Hub>, listener: TcpListener) {
    let mut stopping = hub.stopping.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopping.wait_for(Option::is_some) => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                note_end(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, addr)) if connections.len() < hub.config.connections_max => {
                connections.spawn(serve(hub.clone(), tcp, addr));
            }
            Ok((_, addr)) => {
                tracing::warn!(%addr, connections_max = hub.config.connections_max, "peer connection refused: too many are open");
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept peer connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        note_end(ended);
    }
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a peer connection's task panicked; the others are not touched: please report this");
    }
}

async fn serve(hub: Arc<Hub>, tcp: TcpStream, addr: SocketAddr) {
    let deadline = Instant::now() + hub.config.greeting_timeout;
    match timeout_at(deadline, greet(&hub, tcp)).await {
        Err(_) => tracing::debug!(%addr, "a connection to the peer port did not greet in time"),
        Ok(Err(error)) => tracing::warn!(%addr, %error, "a connection to the peer port was refused"),
        Ok(Ok((wire, h2, identity))) => drive(hub, wire, h2, identity, addr, deadline).await,
    }
}

type Greeted = (Wire<Socket>, h2::server::Connection<Wire<Socket>, Bytes>, Option<Identity>);

/// TLS and the greeting of HTTP/2.
async fn greet(hub: &Hub, tcp: TcpStream) -> io::Result<Greeted> {
    prepare(&tcp, hub.config.keepalive_after + hub.config.keepalive_timeout)?;
    let (socket, identity) = match &hub.tls {
        None => (Socket::Plain(tcp), None),
        Some(tls) => {
            let (stream, identity) = tls.accept(tcp).await?;
            (Socket::Tls(Box::new(stream.into())), Some(identity))
        }
    };
    let wire = Wire::new(socket);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX);
    let mut handshake = pin!(builder.handshake::<_, Bytes>(wire.clone()));
    let drained = wire.clone();
    let h2 = poll_fn(move |cx| {
        let result = handshake.as_mut().poll(cx);
        match drained.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => result.map(|r| r.map_err(io::Error::other)),
        }
    })
    .await?;
    Ok((wire, h2, identity))
}

async fn drive(
    hub: Arc<Hub>,
    wire: Wire<Socket>,
    h2: h2::server::Connection<Wire<Socket>, Bytes>,
    identity: Option<Identity>,
    addr: SocketAddr,
    deadline: Instant,
) {
    let tasks = Tasks::new();
    let session = Outbox::new(hub.config.backlog_bytes_max, hub.config.message_bytes_max);
    let accepting = Arc::new(Accepting {
        hub: hub.clone(),
        tasks: tasks.clone(),
        session: session.clone(),
        identity,
        addr,
        deadline,
        state: Mutex::new(State::default()),
    });
    let accept: Accept = {
        let accepting = accepting.clone();
        Box::new(move |request, respond| accepting.accept(request, respond))
    };
    let times = KeepaliveTimes { after: hub.config.keepalive_after, timeout: hub.config.keepalive_timeout };
    let driver = Driver::new(Io::Server(h2), wire, tasks.clone(), Some(accept), session, times);
    tasks.spawn(Box::pin({
        let accepting = accepting.clone();
        async move {
            tokio::time::sleep_until(deadline).await;
            if accepting.state.lock().link.is_none() {
                accepting.tasks.end(Lost::Closed("no Hello came in time".into()));
            }
        }
    }));
    let lost = match AssertUnwindSafe(driver.run()).catch_unwind().await {
        Ok(lost) => lost,
        Err(_) => {
            tracing::error!(%addr, "a peer connection's task panicked: please report this");
            Lost::Closed("a panic in its task, which is a bug".into())
        }
    };
    let link = accepting.state.lock().link.take();
    match link {
        Some(link) => {
            tracing::info!(node = %link.remote.node_id, %addr, %lost, "connection of another node ended");
            hub.down(&link, lost);
        }
        None => tracing::debug!(%addr, %lost, "a connection to the peer port ended before a Hello was accepted"),
    }
}

/// One accepted connection.
struct Accepting {
    hub: Arc<Hub>,
    tasks: Arc<Tasks>,
    session: Arc<Outbox>,
    identity: Option<Identity>,
    addr: SocketAddr,
    deadline: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    has_session: bool,
    has_calls: bool,
    link: Option<Arc<Link>>,
}

impl Accepting {
    /// Begins a call of the other end.
    fn accept(self: &Arc<Self>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (head, body) = request.into_parts();
        let inbox = Inbox::new(body, self.hub.config.message_bytes_max);
        let path = head.uri.path();
        if path == SESSION_PATH {
            if std::mem::replace(&mut self.state.lock().has_session, true) {
                return respond.send_reset(Reason::REFUSED_STREAM);
            }
            let Some(()) = self.open(&mut respond, self.session.clone(), true) else { return };
            let this = self.clone();
            self.tasks.spawn(Box::pin(async move { this.session(inbox).await }));
            return;
        }
        // Nothing is done for who has not said who it is.
        let Some(remote) = self.state.lock().link.as_ref().map(|link| link.remote.clone()) else {
            return respond.send_reset(Reason::REFUSED_STREAM);
        };
        let config = &self.hub.config;
        let outbox = Outbox::new(config.backlog_bytes_max, config.message_bytes_max);
        match path {
            CALLS_PATH => {
                if std::mem::replace(&mut self.state.lock().has_calls, true) {
                    return respond.send_reset(Reason::REFUSED_STREAM);
                }
                let Some(()) = self.open(&mut respond, outbox.clone(), true) else { return };
                let handler = self.hub.handler.clone();
                let answering = Answering::new(remote, handler, outbox, self.tasks.clone(), config.calls_max);
                let tasks = self.tasks.clone();
                self.tasks.spawn(Box::pin(async move {
                    let lost = answering.serve(inbox).await;
                    tasks.end(lost);
                }));
            }
            REPLICATE_PATH => {
                let Some(()) = self.open(&mut respond, outbox.clone(), false) else { return };
                let stream = FollowerStream::new(outbox, Body::Open(inbox));
                self.replicate(remote, stream);
            }
            _ => respond.send_reset(Reason::REFUSED_STREAM),
        }
    }

    /// Sends the headers of the answer and lets `outbox` flow. `vital`: the connection ends with it.
    fn open(&self, respond: &mut SendResponse<Bytes>, outbox: Arc<Outbox>, vital: bool) -> Option<()> {
        let mut response = Response::new(());
        let content_type = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
        // An error means that the other end gave the call up.
        let send = respond.send_response(response, false).ok()?;
        let tasks = self.tasks.clone();
        self.tasks.spawn(Box::pin(async move {
            if let Some(lost) = pump(outbox, send, true).await
                && vital
            {
                tasks.end(lost);
            }
        }));
        Some(())
    }

    fn replicate(&self, remote: Arc<Remote>, stream: FollowerStream) {
        let work = self.hub.handler.replicate(&remote, stream);
        self.tasks.spawn(Box::pin(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                tracing::error!(node = %remote.node_id, "a replica's stream ended in a panic: please report this");
            }
        }));
    }

    async fn session(self: Arc<Self>, mut inbox: Inbox) {
        let config = &self.hub.config;
        let first = match timeout_at(self.deadline, inbox.next::<SessionFrame>()).await {
            Ok(Ok(Some(SessionFrame { kind: Some(session_frame::Kind::Hello(hello)) }))) => Some(hello),
            Ok(Err(lost @ Lost::Broken(_))) => return self.tasks.end(lost),
            Err(_) => return self.tasks.end(Lost::Closed("no Hello came in time".into())),
            Ok(_) => None,
        };
        let judged = match first {
            None => Err(no_hello(&config.software)),
            Some(_) if self.hub.stopping.borrow().is_some() => Err(stopping(&self.hub.local, &config.software)),
            Some(hello) => judge_hello(&self.hub.local, &config.software, self.identity.as_ref(), self.addr, hello),
        };
        let (remote, welcome) = match judged {
            Ok(accepted) => accepted,
            Err(refusal) => return self.refuse(refusal),
        };
        let Some(slot) = self.hub.slot_or_new(&remote.node_id) else {
            tracing::warn!(node = %remote.node_id, "another node was refused: too many names are known");
            return self.tasks.end(Lost::Closed("too many nodes".into()));
        };
        let remote = Arc::new(remote);
        // An error means that the connection is over, which its driver notices.
        if self.session.push(&SessionFrame { kind: Some(session_frame::Kind::Welcome(welcome)) }).is_err() {
            return;
        }
        tracing::info!(node = %remote.node_id, addr = %self.addr, version = remote.version, software = remote.software, "another node connected");
        let link = Arc::new(Link {
            id: self.hub.next_link(),
            remote: remote.clone(),
            direction: Direction::Incoming,
            tasks: self.tasks.clone(),
            session: self.session.clone(),
            asking: None,
        });
        self.state.lock().link = Some(link.clone());
        self.hub.up(&slot, &link);
        let lost = receive(inbox, &remote, &self.hub.handler).await;
        self.tasks.end(lost);
    }

    fn refuse(&self, refusal: Refusal) {
        match refusal.kind() {
            refusal::Kind::Stopping => tracing::debug!(addr = %self.addr, "another node is told that this one stops"),
            _ => tracing::warn!(addr = %self.addr, reason = refusal.text, "a connection of another node was refused"),
        }
        // An error means that nobody is there to be told.
        let _ = self.session.push(&SessionFrame { kind: Some(session_frame::Kind::Refusal(refusal)) });
        self.tasks.end(Lost::Closed("it was refused".into()));
    }
}
