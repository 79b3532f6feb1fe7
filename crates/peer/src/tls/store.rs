//! The certificates a node works with, and their replacement while it runs.

use super::files::{Contents, TlsError, TlsFiles};
use super::material::{Material, Owner};
use super::verify::identity_of;
use crate::identity::Identity;
use netsy_api::ids::NodeId;
use parking_lot::{Mutex, RwLock};
use rustls::CommonState;
use rustls::pki_types::ServerName;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// How often the files are looked at.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// The certificates of one node. New connections use what was valid last; open ones stay as they are.
pub struct TlsStore {
    files: TlsFiles,
    owner: Owner,
    current: RwLock<Arc<Material>>,
    /// What was found to be invalid last, so that it is logged once.
    rejected: Mutex<Option<TlsError>>,
}

/// What a look at the files brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reload {
    /// They are as they were.
    Unchanged,
    /// New connections use what they hold now.
    Replaced,
    /// They changed and cannot be used: what was used before stays in use.
    Rejected(TlsError),
}

impl TlsStore {
    /// Reads the files and checks that they are this node's and would be accepted by others. Blocks.
    pub fn load(files: TlsFiles, cluster_id: &str, node_id: &NodeId) -> Result<Arc<Self>, TlsError> {
        let owner = Owner { cluster_id: cluster_id.to_owned(), node_id: node_id.clone() };
        let material = Material::load(&files, Contents::read(&files)?, &owner)?;
        warn(&material);
        Ok(Arc::new(Self { files, owner, current: RwLock::new(Arc::new(material)), rejected: Mutex::new(None) }))
    }

    /// Looks at the files, and takes what they hold if it is valid. Blocks.
    pub fn reload(&self) -> Reload {
        let current = self.current.read().clone();
        let loaded = Contents::read(&self.files).and_then(|contents| {
            if contents == current.contents {
                return Ok(None);
            }
            Material::load(&self.files, contents, &self.owner).map(Some)
        });
        match loaded {
            Ok(None) => {
                *self.rejected.lock() = None;
                Reload::Unchanged
            }
            Ok(Some(material)) => {
                warn(&material);
                *self.current.write() = Arc::new(material);
                *self.rejected.lock() = None;
                tracing::info!("certificates were read anew: new connections use them");
                Reload::Replaced
            }
            Err(error) => {
                let mut rejected = self.rejected.lock();
                if rejected.as_ref() != Some(&error) {
                    tracing::error!(%error, "changed certificates cannot be used: those from before stay in use");
                    *rejected = Some(error.clone());
                }
                Reload::Rejected(error)
            }
        }
    }

    /// Looks at the files every `interval`, for as long as the future is polled.
    pub async fn watch(self: Arc<Self>, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            let this = self.clone();
            if tokio::task::spawn_blocking(move || this.reload()).await.is_err() {
                tracing::error!("reading certificates ended in a panic: please report this");
            }
        }
    }

    /// For connections between nodes.
    pub fn peers(self: &Arc<Self>) -> PeerTls {
        PeerTls(self.clone())
    }

    /// For connections of clients.
    pub fn clients(self: &Arc<Self>) -> ClientTls {
        ClientTls(self.clone())
    }

    /// Whether clients that know this node as `host` (a name or an address) accept its certificate.
    pub fn covers(&self, host: &str) -> bool {
        self.current.read().covers(host)
    }

    fn current(&self) -> Arc<Material> {
        self.current.read().clone()
    }
}

fn warn(material: &Material) {
    for warning in &material.warnings {
        tracing::warn!("{warning}");
    }
}

/// Greets other nodes: role `peer` on both ends.
#[derive(Clone)]
pub struct PeerTls(Arc<TlsStore>);

impl PeerTls {
    /// Greets a node that this one connected to. Whether it is the one that was looked for is the caller's to check.
    pub(crate) async fn connect(&self, tcp: TcpStream) -> io::Result<(client::TlsStream<TcpStream>, Identity)> {
        // Not sent, and not compared: the identity counts.
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let connector = TlsConnector::from(self.0.current().to_peers.clone());
        let stream = connector.connect(name, tcp).await?;
        let identity = identity(stream.get_ref().1)?;
        Ok((stream, identity))
    }

    /// Greets a node that connected to this one.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> io::Result<(server::TlsStream<TcpStream>, Identity)> {
        accept(self.0.current().from_peers.clone(), tcp).await
    }
}

/// Greets clients: role `client`, or `peer`.
#[derive(Clone)]
pub struct ClientTls(Arc<TlsStore>);

impl ClientTls {
    /// Greets a client, and says who it is.
    pub async fn accept(&self, tcp: TcpStream) -> io::Result<(server::TlsStream<TcpStream>, Identity)> {
        accept(self.0.current().from_clients.clone(), tcp).await
    }
}

async fn accept(
    config: Arc<rustls::ServerConfig>,
    tcp: TcpStream,
) -> io::Result<(server::TlsStream<TcpStream>, Identity)> {
    let stream = TlsAcceptor::from(config).accept(tcp).await?;
    let identity = identity(stream.get_ref().1)?;
    Ok((stream, identity))
}

/// The verifiers have judged it already; here it is only read again.
fn identity(state: &CommonState) -> io::Result<Identity> {
    let certificate = state
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or_else(|| io::Error::other("the other end showed no certificate"))?;
    identity_of(certificate).map_err(io::Error::other)
}
