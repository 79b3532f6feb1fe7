//! Accepts connections, tells their protocol, serves each in a task of its own, and drains.

use super::connection::{self, ConnectionLimits};
use super::http1;
use super::shared::Client;
use super::wire::Wire;
use super::{Routes, accept_queue};
use crate::metrics::{ConnectionGauge, Traffic};
use netsy_peer::Identity;
use socket2::{SockRef, TcpKeepalive};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// With what an HTTP/2 connection begins.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Dead peers are found by TCP itself after this much silence.
const TCP_KEEPALIVE_AFTER: Duration = Duration::from_secs(15);

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Turns an accepted socket into the stream that is spoken over: as it is, or with TLS around it.
pub trait Acceptor: Clone + Send + Sync + 'static {
    /// What is spoken over.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Whether every client that is greeted has an identity.
    const IDENTIFIES: bool;

    /// Greets the client, and says who it is if that is known. Bounded in time by the caller.
    fn accept(&self, socket: TcpStream) -> impl Future<Output = io::Result<Accepted<Self::Stream>>> + Send;
}

/// A client that was greeted.
pub struct Accepted<S> {
    /// What is spoken over.
    pub stream: S,
    /// Who it is, by its certificate; None without TLS.
    pub identity: Option<Arc<Identity>>,
}

/// No TLS.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Acceptor for Plain {
    type Stream = TcpStream;
    const IDENTIFIES: bool = false;

    async fn accept(&self, socket: TcpStream) -> io::Result<Accepted<TcpStream>> {
        Ok(Accepted { stream: socket, identity: None })
    }
}

/// What all connections of one listener have in common.
pub(crate) struct Listening<R, A> {
    pub(crate) routes: Arc<R>,
    pub(crate) acceptor: A,
    pub(crate) limits: ConnectionLimits,
    /// Further connections are closed as they come.
    pub(crate) connections_max: usize,
    /// The socket closes when this has drained. If not, somebody else listens on it, too, whose the connections are
    /// that wait to be accepted.
    pub(crate) closes: bool,
    pub(crate) traffic: Traffic,
    pub(crate) connections: ConnectionGauge,
}

impl<R: Routes, A: Acceptor> Listening<R, A> {
    /// Accepts until `drain` turns true, then lets the connections finish; those that have not
    /// after `drain_timeout` are cut.
    ///
    /// A client that was connected before is served like those that had made requests: greeted, told by a GOAWAY to go
    /// elsewhere, answered what it had asked. A connection that closes without that word fails its requests, as nobody
    /// can know whether they were done.
    pub(crate) async fn run(self, listener: TcpListener, mut drain: watch::Receiver<bool>, drain_timeout: Duration) {
        let this = Arc::new(self);
        // The listening socket goes first, then the connections hear of it: who is sent away, and comes back at once,
        // is to be refused at once.
        let (leave, leaving) = watch::channel(false);
        let mut tasks = JoinSet::new();
        {
            let mut over = pin!(this.over(&listener, &mut drain));
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = &mut over => break,
                    Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                        note_end(ended);
                        continue;
                    }
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((socket, peer)) => this.clone().admit(&mut tasks, socket, peer, &leaving),
                    Err(error) if is_per_connection(&error) => {
                        debug!(%error, "a connection was gone before it was accepted")
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept connections: raise the limit of open files if it is that");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        if this.closes {
            match accept_queue::close(listener) {
                Ok(waited) => {
                    for (socket, peer) in waited {
                        this.clone().admit(&mut tasks, socket, peer, &leaving);
                    }
                }
                Err(error) => warn!(%error, "connections that waited to be accepted are cut"),
            }
        } else {
            drop(listener);
        }
        leave.send_replace(true);
        let finished = async {
            while let Some(ended) = tasks.join_next().await {
                note_end(ended);
            }
        };
        if tokio::time::timeout(drain_timeout, finished).await.is_err() {
            warn!(connections = tasks.len(), "cutting connections that did not finish within drain_timeout");
            tasks.shutdown().await;
        }
    }

    /// Completes when nothing more is to be accepted but what waits then.
    async fn over(&self, listener: &TcpListener, drain: &mut watch::Receiver<bool>) {
        // An error means that the server is gone, which is draining too.
        let _ = drain.wait_for(|&draining| draining).await;
        if self.closes {
            match accept_queue::begin_no_more(listener) {
                Ok(()) => tokio::time::sleep(accept_queue::HALF_OPEN).await,
                Err(error) => debug!(%error, "connections may begin until the socket is closed"),
            }
        }
    }

    fn admit(
        self: Arc<Self>,
        tasks: &mut JoinSet<()>,
        socket: TcpStream,
        peer: SocketAddr,
        leaving: &watch::Receiver<bool>,
    ) {
        if tasks.len() < self.connections_max {
            tasks.spawn(self.connection(socket, peer, leaving.clone()));
        } else {
            self.connections.refused();
            warn!(%peer, connections_max = self.connections_max, "connection refused: too many are open");
        }
    }

    async fn connection(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, drain: watch::Receiver<bool>) {
        let _open = self.connections.open();
        if let Err(error) = self.serve(socket, peer, drain).await {
            debug!(%peer, %error, "connection ended");
        }
    }

    async fn serve(&self, socket: TcpStream, peer: SocketAddr, drain: watch::Receiver<bool>) -> io::Result<()> {
        socket.set_nodelay(true)?;
        SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE_AFTER))?;
        let greeting = async {
            let Accepted { stream, identity } = self.acceptor.accept(socket).await?;
            let wire = Wire::new(stream, self.traffic.clone());
            let head = poll_fn(|cx| wire.poll_peek(cx, tells_protocol)).await?;
            Ok::<_, io::Error>((wire, identity, head.starts_with(PREFACE)))
        };
        let last_call = async {
            draining(drain.clone()).await;
            tokio::time::sleep(self.limits.greeting_timeout_draining).await;
        };
        let (wire, identity, is_http2) = tokio::select! {
            greeted = tokio::time::timeout(self.limits.greeting_timeout, greeting) => {
                greeted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
            }
            () = last_call => return Ok(()),
        };
        if is_http2 {
            let client = Client { addr: peer, identity };
            connection::serve(wire, self.routes.clone(), &self.limits, client, drain).await
        } else {
            http1::serve(wire, self.routes.clone(), self.limits.greeting_timeout, drain).await
        }
    }
}

async fn draining(mut drain: watch::Receiver<bool>) {
    // An error means that the server is gone, which is draining too.
    let _ = drain.wait_for(|&draining| draining).await;
}

/// Enough was read to know whether it is HTTP/2.
fn tells_protocol(head: &[u8]) -> bool {
    head.len() >= PREFACE.len() || !PREFACE.starts_with(head)
}

pub(super) fn is_per_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; the others are not touched");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_is_told_as_early_as_possible() {
        assert!(!tells_protocol(b""));
        assert!(!tells_protocol(b"PRI * HT"));
        assert!(tells_protocol(b"GET "));
        assert!(tells_protocol(b"PRX"));
        assert!(tells_protocol(PREFACE));
    }
}
