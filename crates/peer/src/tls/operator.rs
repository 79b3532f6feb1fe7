//! TLS of who connects to a node's client port: an operator's command.

use super::files::{TlsError, certificates, key, read};
use super::verify::{Admission, OutgoingVerifier, identity_of};
use crate::identity::{Identity, Role};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Shows one certificate, and takes nodes of the same cluster only, whatever their addresses are called.
pub struct OperatorTls(Arc<ClientConfig>);

impl OperatorTls {
    /// Reads the files; the certificate may be anybody's of the cluster. The error names the file. Blocks.
    pub fn load(ca_cert: &Path, cert: &Path, cert_key: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca_cert, &read(ca_cert)?)? {
            roots.add(certificate).map_err(|e| TlsError::new(ca_cert, e))?;
        }
        let chain = certificates(cert, &read(cert)?)?;
        let own = chain.first().ok_or_else(|| TlsError::new(cert, "holds no certificate"))?;
        let own: Identity = identity_of(own).map_err(|e| TlsError::new(cert, e))?;
        let nodes = Admission { cluster_id: own.cluster_id, roles: &[Role::Peer] };
        let verifier = OutgoingVerifier::new(Arc::new(roots), &provider, nodes);
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| TlsError::new(cert, e))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(chain, key(cert_key, &read(cert_key)?)?)
            .map_err(|e| TlsError::new(cert_key, format!("does not go with {}: {e}", cert.display())))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        Ok(Self(Arc::new(config)))
    }

    /// Greets a node.
    pub async fn connect(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        // Not sent, and not compared: the identity counts.
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        TlsConnector::from(self.0.clone()).connect(name, tcp).await
    }
}
