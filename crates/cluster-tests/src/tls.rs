//! Mutual TLS: certificates that `netsy certs` makes for a cluster, and the tests' own connections.

use crate::cluster::name;
use anyhow::{Context, Result, anyhow, ensure};
use http::Uri;
use hyper_util::rt::TokioIo;
use netsy_peer::tls::OperatorTls;
use std::net::IpAddr;
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
        this.run(program, &["ca", "--cluster-id", cluster_id])?;
        for (node, address) in nodes.iter().enumerate() {
            this.run(program, &["node", &name(node), "--host", &address.to_string()])?;
        }
        this.run(program, &["client", "tests"])?;
        let file = |name: &str| this.folder.join(name);
        let client = OperatorTls::load(&file("ca.crt"), &file("client-tests.crt"), &file("client-tests.key"));
        // A few in the life of the program.
        *CLIENT.write() = Some(Box::leak(Box::new(client.map_err(|e| anyhow!("TLS: {e}"))?)));
        Ok(this)
    }

    fn run(&self, program: &Path, args: &[&str]) -> Result<()> {
        let done = Command::new(program).arg("certs").args(args).arg("--dir").arg(&self.folder).output()?;
        ensure!(done.status.success(), "netsy certs {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
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
