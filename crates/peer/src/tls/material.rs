//! TLS settings made from the files, and the checks they must pass first.

use super::files::{Contents, TlsError, TlsFiles, certificates, key};
use super::verify::{Admission, IncomingVerifier, OutgoingVerifier, identity_of};
use crate::identity::{Identity, Role};
use netsy_api::ids::NodeId;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A certificate with less time left than this is warned about.
const EXPIRY_WARNING: Duration = Duration::from_secs(7 * 24 * 3600);

/// Who the files are for.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) cluster_id: String,
    pub(super) node_id: NodeId,
}

/// Settings made from one state of the files.
pub(super) struct Material {
    pub(super) contents: Contents,
    /// For nodes that connect here.
    pub(super) from_peers: Arc<ServerConfig>,
    /// For nodes that this one connects to.
    pub(super) to_peers: Arc<ClientConfig>,
    /// For clients.
    pub(super) from_clients: Arc<ServerConfig>,
    /// What works now and will not for long.
    pub(super) warnings: Vec<String>,
    server_cert: CertificateDer<'static>,
}

impl Material {
    /// Reads and checks everything; the error names the file.
    pub(super) fn load(files: &TlsFiles, contents: Contents, owner: &Owner) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca_cert, &contents.ca_cert)? {
            roots.add(certificate).map_err(|e| TlsError::new(&files.ca_cert, e))?;
        }
        let roots = Arc::new(roots);
        let server_chain = certificates(&files.server_cert, &contents.server_cert)?;
        let client_chain = certificates(&files.client_cert, &contents.client_cert)?;
        let check = OwnCheck { roots: &roots, provider: &provider, owner };
        let mut warnings = vec![];
        check.own(&files.server_cert, &server_chain, Use::Server, &mut warnings)?;
        if files.client_cert != files.server_cert {
            check.own(&files.client_cert, &client_chain, Use::Client, &mut warnings)?;
        } else {
            check.own(&files.client_cert, &client_chain, Use::Client, &mut vec![])?;
        }

        let peers = Admission { cluster_id: owner.cluster_id.clone(), roles: &[Role::Peer] };
        let roles = &[Role::Client, Role::Operator, Role::Peer];
        let clients = Admission { cluster_id: owner.cluster_id.clone(), roles };
        let server = |admission: Admission, versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&[u8]]| {
            let chain = chain_verifier(&roots, &provider).map_err(|e| TlsError::new(&files.ca_cert, e))?;
            let verifier = Arc::new(IncomingVerifier { chain, admission });
            let mut config = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(versions)
                .map_err(|e| TlsError::new(&files.server_cert, e))?
                .with_client_cert_verifier(verifier)
                .with_single_cert(server_chain.clone(), key(&files.server_key, &contents.server_key)?)
                .map_err(|e| pair_error(&files.server_key, &files.server_cert, e))?;
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            // Every connection shows its certificate: a resumed one would not.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Ok::<_, TlsError>(Arc::new(config))
        };
        let from_peers = server(peers.clone(), &[&rustls::version::TLS13], &[b"h2"])?;
        let from_clients = server(clients, &[&rustls::version::TLS13, &rustls::version::TLS12], &[b"h2", b"http/1.1"])?;
        let mut to_peers = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| TlsError::new(&files.client_cert, e))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OutgoingVerifier::new(roots.clone(), &provider, peers)))
            .with_client_auth_cert(client_chain, key(&files.client_key, &contents.client_key)?)
            .map_err(|e| pair_error(&files.client_key, &files.client_cert, e))?;
        to_peers.alpn_protocols = vec![b"h2".to_vec()];
        to_peers.resumption = Resumption::disabled();
        to_peers.enable_sni = false;
        let server_cert = first(&files.server_cert, &server_chain)?.clone();
        Ok(Self { contents, from_peers, to_peers: Arc::new(to_peers), from_clients, warnings, server_cert })
    }

    /// Whether clients that know this node as `host` accept its certificate.
    pub(super) fn covers(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else { return false };
        let Ok(parsed) = ParsedCertificate::try_from(&self.server_cert) else { return false };
        rustls::client::verify_server_name(&parsed, &name).is_ok()
    }
}

fn chain_verifier(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::server::VerifierBuilderError> {
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()
}

fn first<'a>(path: &Path, chain: &'a [CertificateDer<'static>]) -> Result<&'a CertificateDer<'static>, TlsError> {
    chain.first().ok_or_else(|| TlsError::new(path, "holds no certificate"))
}

fn pair_error(key: &Path, cert: &Path, error: Error) -> TlsError {
    TlsError::new(key, format!("does not go with the certificate {}: {error}", cert.display()))
}

#[derive(Clone, Copy)]
enum Use {
    Server,
    Client,
}

/// A node looks at its own certificates as others will: what they would refuse is found at the start.
struct OwnCheck<'a> {
    roots: &'a Arc<RootCertStore>,
    provider: &'a Arc<CryptoProvider>,
    owner: &'a Owner,
}

impl OwnCheck<'_> {
    fn own(
        &self,
        path: &Path,
        chain: &[CertificateDer<'static>],
        used_as: Use,
        warnings: &mut Vec<String>,
    ) -> Result<(), TlsError> {
        let certificate = first(path, chain)?;
        let expected = Identity::peer(&self.owner.cluster_id, &self.owner.node_id);
        let found = identity_of(certificate).map_err(|e| TlsError::new(path, e))?;
        if found != expected {
            return Err(TlsError::new(
                path,
                format!("speaks for {found}, and this node is {expected}: give the node its own certificate"),
            ));
        }
        let now = UnixTime::now();
        self.verify(certificate, &chain[1..], used_as, now).map_err(|error| {
            let role = match used_as {
                Use::Server => "as a server",
                Use::Client => "as a client",
            };
            TlsError::new(path, format!("would not be accepted by other nodes {role}: {error}"))
        })?;
        let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + EXPIRY_WARNING);
        if let Err(error) = self.verify(certificate, &chain[1..], used_as, later) {
            warnings.push(format!(
                "{}: within {} days: {error}: renew it",
                path.display(),
                EXPIRY_WARNING.as_secs() / 86_400
            ));
        }
        Ok(())
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'static>,
        intermediates: &[CertificateDer<'static>],
        used_as: Use,
        now: UnixTime,
    ) -> Result<(), Error> {
        match used_as {
            Use::Server => {
                let admission = Admission { cluster_id: self.owner.cluster_id.clone(), roles: &[Role::Peer] };
                let verifier = OutgoingVerifier::new(self.roots.clone(), self.provider, admission);
                // Any name: the identity counts.
                let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
                verifier.verify_server_cert(certificate, intermediates, &name, &[], now).map(|_| ())
            }
            Use::Client => {
                let verifier = chain_verifier(self.roots, self.provider).map_err(|e| Error::General(e.to_string()))?;
                verifier.verify_client_cert(certificate, intermediates, now).map(|_| ())
            }
        }
    }
}
