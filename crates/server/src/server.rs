//! The server as the program starts it: ports, limits, a graceful end.

use crate::etcd::{FromPeers, Service};
use crate::grpc::call::CallLimits;
use crate::metrics::Metrics;
use crate::transport::connection::ConnectionLimits;
use crate::transport::listener::{Acceptor, Listening, Plain};
use crate::transport::{Incoming, Routes, Work};
use crate::web;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use netsy_node::Node;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Room for what surrounds a request of the largest size: etcd's figure.
const MESSAGE_OVERHEAD_BYTES: usize = 512 << 10;
/// Connections to the health port; probes and scrapers need few.
const HEALTH_CONNECTIONS_MAX: usize = 256;

/// Answers under way when a node begins to serve: they need no time.
const WAITING_DRAIN: Duration = Duration::from_millis(500);

/// What the server is told; parsing and defaults of the file are the program's.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// `limits.request_bytes_max`: larger writes are refused.
    pub request_bytes_max: usize,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// Open client connections; further ones are closed at once.
    pub connections_max: usize,
    /// A graceful stop's limit: then connections are cut.
    pub drain_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            request_bytes_max: 3 << 19,
            // etcd's: 5 s and two election time-outs.
            request_timeout: Duration::from_secs(7),
            connections_max: 20_000,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Why the server does not start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A port cannot be had.
    #[error("cannot listen on {addr}; choose another address or stop what uses it")]
    Bind {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Two metrics of one name: a bug.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A running server. Dropping it does not stop it: [`Server::stop`] does.
pub struct Server {
    drain: watch::Sender<bool>,
    client_addr: SocketAddr,
    health_addr: Option<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens without TLS for clients on `client` and, if given, for probes and scrapers on
    /// `health`. Must be called in a Tokio runtime.
    pub async fn start(
        config: ServerConfig,
        node: Node,
        client: SocketAddr,
        health: Option<SocketAddr>,
    ) -> Result<Self, ServerError> {
        Self::start_with(config, node, client, health, Plain).await
    }

    /// The same with an acceptor of the caller's for client connections.
    pub async fn start_with<A: Acceptor>(
        config: ServerConfig,
        node: Node,
        client: SocketAddr,
        health: Option<SocketAddr>,
        acceptor: A,
    ) -> Result<Self, ServerError> {
        let ports = Ports::listen(client, health).await?;
        Self::start_on(config, node, ports, acceptor)
    }

    /// The same on ports that are listened on already.
    pub fn start_on<A: Acceptor>(
        config: ServerConfig,
        node: Node,
        ports: Ports,
        acceptor: A,
    ) -> Result<Self, ServerError> {
        let Ports { client: client_listener, health: health_listener } = ports;
        let metrics = Metrics::new()?;
        let (drain, draining) = watch::channel(false);
        let service = Arc::new(Service {
            node,
            metrics: metrics.clone(),
            limits: CallLimits {
                message_bytes_max: config.request_bytes_max.saturating_add(MESSAGE_OVERHEAD_BYTES),
                request_timeout: config.request_timeout,
            },
            identities: A::IDENTIFIES,
            request_bytes_max: config.request_bytes_max,
            drain: draining.clone(),
        });
        service.node.set_forwarded(Arc::new(FromPeers { service: service.clone() }));
        let client_addr = client_listener.addr;
        let health_addr = health_listener.as_ref().map(|listener| listener.addr);
        let mut tasks = Vec::new();
        if let Some(listener) = health_listener {
            let listening = Listening {
                routes: Arc::new(HealthPort(service.clone())),
                acceptor: Plain,
                limits: ConnectionLimits::default(),
                connections_max: HEALTH_CONNECTIONS_MAX,
                closes: true,
                traffic: metrics.health_traffic(),
                connections: metrics.health_connections(),
            };
            tasks.push(tokio::spawn(listening.run(listener.listener, draining.clone(), config.drain_timeout)));
        }
        let listening = Listening {
            routes: service,
            acceptor,
            limits: ConnectionLimits::default(),
            connections_max: config.connections_max,
            closes: true,
            traffic: metrics.traffic(),
            connections: metrics.connections(),
        };
        tasks.push(tokio::spawn(listening.run(client_listener.listener, draining, config.drain_timeout)));
        Ok(Self { drain, client_addr, health_addr, tasks })
    }

    /// Where clients are served.
    pub fn client_addr(&self) -> SocketAddr {
        self.client_addr
    }

    /// Where probes and scrapers are served.
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health_addr
    }

    /// Stops gracefully: no new connections, streams end, calls under way finish, or are cut after
    /// `drain_timeout`. The node is the caller's to stop afterwards.
    pub async fn stop(self) {
        self.drain.send_replace(true);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a listener's task ended badly");
            }
        }
    }
}

/// The ports of a server, listened on before there is one: whoever starts finds out at once that one of them is taken.
/// Connections that come meanwhile wait.
pub struct Ports {
    client: Bound,
    health: Option<Bound>,
}

impl Ports {
    /// Listens for clients on `client` and, if given, for probes and scrapers on `health`.
    pub async fn listen(client: SocketAddr, health: Option<SocketAddr>) -> Result<Self, ServerError> {
        let client = bind(client).await?;
        let health = match health {
            Some(addr) => Some(bind(addr).await?),
            None => None,
        };
        Ok(Self { client, health })
    }
}

/// Probes are answered and clients refused while there is no node yet.
pub struct Waiting {
    client: SocketAddr,
    health: Option<Bound>,
    drain: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Ports {
    /// For a start that takes long: the health port tells `why`, and nobody listens for clients, who would hang and are to
    /// go elsewhere. Must be called in a Tokio runtime.
    pub fn wait(self, why: watch::Receiver<String>) -> Result<Waiting, ServerError> {
        let metrics = Metrics::new()?;
        let (drain, draining) = watch::channel(false);
        let mut task = None;
        if let Some(health) = &self.health {
            let listening = Listening {
                routes: Arc::new(NoNodeYet(why)),
                acceptor: Plain,
                limits: ConnectionLimits::default(),
                connections_max: HEALTH_CONNECTIONS_MAX,
                closes: false,
                traffic: metrics.health_traffic(),
                connections: metrics.health_connections(),
            };
            task = Some(tokio::spawn(listening.run(health.again()?, draining, WAITING_DRAIN)));
        }
        Ok(Waiting { client: self.client.addr, health: self.health, drain, task })
    }
}

impl Waiting {
    /// Listens for clients again. Connections that come from now on wait for the server.
    pub async fn stop(self) -> Result<Ports, ServerError> {
        let client = bind(self.client).await?;
        self.drain.send_replace(true);
        if let Some(task) = self.task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "a listener's task ended badly");
        }
        Ok(Ports { client, health: self.health })
    }
}

struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Bound {
    /// The same port for somebody else.
    fn again(&self) -> Result<TcpListener, ServerError> {
        let failed = |source| ServerError::Bind { addr: self.addr, source };
        let socket = SockRef::from(&self.listener).try_clone().map_err(failed)?;
        TcpListener::from_std(socket.into()).map_err(failed)
    }
}

async fn bind(addr: SocketAddr) -> Result<Bound, ServerError> {
    let failed = |source| ServerError::Bind { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    Ok(Bound { listener, addr })
}

/// The health port: plain HTTP only.
struct HealthPort(Arc<Service>);

impl Routes for HealthPort {
    fn start(self: &Arc<Self>, incoming: Incoming) -> Work {
        let this = self.clone();
        Work::Here(
            async move {
                let Incoming { head, send, shared, .. } = incoming;
                let response = web::health_port(this.0.clone(), Request::from_parts(head, ())).await;
                crate::grpc::reply::Responder { send, shared }.finish_http(response).await;
            }
            .boxed(),
        )
    }

    fn http(self: Arc<Self>, request: Request<()>) -> BoxFuture<'static, Response<Bytes>> {
        web::health_port(self.0.clone(), request).boxed()
    }
}

/// The health port before there is a node.
struct NoNodeYet(watch::Receiver<String>);

impl NoNodeYet {
    fn answer(&self, head: &http::request::Parts) -> Response<Bytes> {
        let why = self.0.borrow().clone();
        web::before_a_node(head, &why)
    }
}

impl Routes for NoNodeYet {
    fn start(self: &Arc<Self>, incoming: Incoming) -> Work {
        let Incoming { head, send, shared, .. } = incoming;
        let response = self.answer(&head);
        Work::Here(crate::grpc::reply::Responder { send, shared }.finish_http(response).boxed())
    }

    fn http(self: Arc<Self>, request: Request<()>) -> BoxFuture<'static, Response<Bytes>> {
        let response = self.answer(&request.into_parts().0);
        std::future::ready(response).boxed()
    }
}
