//! Mutual TLS: certificates that `netsy certs` makes for a cluster, and the tests' own connections.

use crate::cluster::name;
use anyhow::{Context, Result, anyhow, ensure};
use http::Uri;
use hyper_util::rt::TokioIo;
use netsy_peer::tls::OperatorTls;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// What the tests show to nodes; each run of a scenario with TLS makes its own.
static CLIENT: parking_lot::RwLock<Option<&'static OperatorTls>> = parking_lot::RwLock::new(None);

/// Certificates of one cluster.
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes them with the program that is tested; from then on the tests connect with them.
    pub fn make(program: &Path, folder: &Path, cluster_id: &str, nodes: &[IpAddr]) -> Result<Self> {
        let this = Self { folder: folder.join("certificates") };
        run(program, &this.folder, &["ca", "--cluster-id", cluster_id])?;
        for (node, address) in nodes.iter().enumerate() {
            run(program, &this.folder, &["node", &name(node), "--host", &address.to_string()])?;
        }
        run(program, &this.folder, &["operator", "tests"])?;
        let file = |name: &str| this.folder.join(name);
        let client = OperatorTls::load(&file("ca.crt"), &file("operator-tests.crt"), &file("operator-tests.key"));
        // A few in the life of the program.
        *CLIENT.write() = Some(Box::leak(Box::new(client.map_err(|e| anyhow!("TLS: {e}"))?)));
        Ok(this)
    }

    /// Makes another certificate and key for a node, and puts each in the place of the one before.
    pub fn renew(&self, program: &Path, node: usize, address: IpAddr) -> Result<()> {
        let (name, beside) = (name(node), self.folder.join("renewed"));
        std::fs::create_dir_all(&beside)?;
        for file in ["ca.crt", "ca.key"] {
            std::fs::copy(self.folder.join(file), beside.join(file))?;
        }
        run(program, &beside, &["node", &name, "--host", &address.to_string()])?;
        // The key first: until both are there the pair does not fit, and the one from before stays in use.
        for file in [format!("node-{name}.key"), format!("node-{name}.crt")] {
            std::fs::rename(beside.join(&file), self.folder.join(&file))?;
        }
        Ok(())
    }

    /// Whether a connection made now is greeted with the certificate that is in the node's file.
    pub async fn shows_new(&self, node: usize, address: SocketAddr) -> Result<bool> {
        let tls = CLIENT.read().context("the tests have no certificate")?;
        let stream = tls.connect(TcpStream::connect(address).await?).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let shown = shown.context("the node showed no certificate")?;
        let file = self.folder.join(format!("node-{}.crt", name(node)));
        let wanted = CertificateDer::from_pem_file(&file).map_err(|e| anyhow!("{}: {e}", file.display()))?;
        Ok(*shown == wanted)
    }

    /// What a node's server is told.
    pub fn arguments(&self, node: usize) -> Vec<String> {
        let file = |name: String| self.folder.join(name).display().to_string();
        vec![
            format!("--tls-ca-cert={}", file("ca.crt".into())),
            format!("--tls-server-cert={}", file(format!("node-{}.crt", name(node)))),
            format!("--tls-server-key={}", file(format!("node-{}.key", name(node)))),
        ]
    }
}

fn run(program: &Path, folder: &Path, args: &[&str]) -> Result<()> {
    let done = Command::new(program).arg("certs").args(args).arg("--dir").arg(folder).output()?;
    ensure!(done.status.success(), "netsy certs {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

impl Drop for Certificates {
    fn drop(&mut self) {
        *CLIENT.write() = None;
    }
}

/// Connects, with TLS where the cluster that runs has it.
pub async fn connect(endpoint: Endpoint) -> Result<Channel> {
    let Some(tls) = *CLIENT.read() else { return Ok(endpoint.connect().await?) };
    let connector = tower::service_fn(move |uri: Uri| async move {
        let address = uri.authority().map(|authority| authority.as_str().to_owned());
        let tcp = TcpStream::connect(address.context("no address")?).await?;
        tcp.set_nodelay(true)?;
        anyhow::Ok(TokioIo::new(tls.connect(tcp).await?))
    });
    Ok(endpoint.connect_with_connector(connector).await?)
}
