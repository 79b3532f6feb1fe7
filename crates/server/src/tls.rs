//! Mutual TLS for clients: certificates of this cluster's clients, operators and nodes.

use crate::transport::listener::{Accepted, Acceptor};
use netsy_peer::tls::ClientTls;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

/// Refusals are logged at most this often: anyone who reaches the port can cause them.
const REFUSALS_LOGGED_EVERY: Duration = Duration::from_secs(1);

/// Greets clients with mutual TLS.
#[derive(Clone)]
pub struct Mutual {
    tls: ClientTls,
    refusals: Arc<Mutex<Refusals>>,
}

#[derive(Default)]
struct Refusals {
    logged: Option<Instant>,
    since: u64,
}

impl Mutual {
    /// With the certificates that `tls` keeps.
    pub fn new(tls: ClientTls) -> Self {
        Self { tls, refusals: Arc::default() }
    }

    fn refused(&self, addr: Option<std::net::SocketAddr>, error: &io::Error) {
        let mut refusals = self.refusals.lock();
        let now = Instant::now();
        if refusals.logged.is_some_and(|at| now < at + REFUSALS_LOGGED_EVERY) {
            refusals.since += 1;
            return;
        }
        let not_logged = std::mem::take(&mut refusals.since);
        refusals.logged = Some(now);
        drop(refusals);
        let addr = addr.map(|addr| addr.to_string()).unwrap_or_default();
        tracing::warn!(addr, %error, not_logged, "a client was refused: TLS");
    }
}

impl Acceptor for Mutual {
    type Stream = TlsStream<TcpStream>;
    const IDENTIFIES: bool = true;

    async fn accept(&self, socket: TcpStream) -> io::Result<Accepted<Self::Stream>> {
        let addr = socket.peer_addr().ok();
        match self.tls.accept(socket).await {
            Ok((stream, identity)) => Ok(Accepted { stream, identity: Some(Arc::new(identity)) }),
            Err(error) => {
                self.refused(addr, &error);
                Err(error)
            }
        }
    }
}
