//! Checks of certificates beyond the chain: cluster and role.

use crate::identity::{Identity, Role, SCHEME};
use netsy_api::ids::check_name;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use std::fmt;
use std::sync::Arc;

/// The identity in a certificate; the text says why there is none.
pub fn identity_of(certificate: &CertificateDer<'_>) -> Result<Identity, String> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|e| format!("no valid certificate: {e}"))?;
    let mut uris = parsed.valid_uri_names();
    match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.parse().map_err(|e: crate::identity::InvalidIdentity| e.to_string()),
        (None, _) => Err(format!("the certificate has no URI as a subject alternative name: it needs one, {SCHEME}…")),
        (Some(_), Some(_)) => {
            Err(format!("the certificate has several URIs as subject alternative names: it needs one, {SCHEME}…"))
        }
    }
}

/// Whose certificates are taken.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    pub(super) cluster_id: String,
    pub(super) roles: &'static [Role],
}

impl Admission {
    /// Whether the holder of a certificate that the CA signed may speak.
    pub(super) fn judge(&self, certificate: &CertificateDer<'_>) -> Result<Identity, Error> {
        let identity = identity_of(certificate).map_err(refused)?;
        if identity.cluster_id != self.cluster_id {
            return Err(refused(format!("{identity} is of another cluster than {:?}", self.cluster_id)));
        }
        if !self.roles.contains(&identity.role) {
            let wanted: Vec<_> = self.roles.iter().map(|role| role.as_str()).collect();
            return Err(refused(format!("{identity} has not the role that is needed here: {}", wanted.join(" or "))));
        }
        Ok(identity)
    }
}

#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

fn refused(why: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refused(why)))))
}

/// Checks who connects here.
#[derive(Debug)]
pub(super) struct IncomingVerifier {
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) admission: Admission,
}

impl ClientCertVerifier for IncomingVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.admission.judge(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Checks whom this node connects to: by identity, whatever its address is called.
#[derive(Debug)]
pub(super) struct OutgoingVerifier {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) admission: Admission,
}

impl OutgoingVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>, provider: &CryptoProvider, admission: Admission) -> Self {
        Self { roots, algorithms: provider.signature_verification_algorithms, admission }
    }
}

impl ServerCertVerifier for OutgoingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)?;
        self.admission.judge(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What `netsy certs ca` writes into a CA's certificate: the cluster it is for. No identity: nobody can speak as it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaIdentity {
    /// The cluster.
    pub cluster_id: String,
}

impl fmt::Display for CaIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/ca", self.cluster_id)
    }
}

/// Reads a CA's certificate in PEM; the text says why it is none of netsy's.
pub fn ca_identity(pem: &str) -> Result<CaIdentity, String> {
    let certificate =
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| format!("no certificate in PEM: {e}"))?;
    let parsed = webpki::EndEntityCert::try_from(&certificate).map_err(|e| format!("no valid certificate: {e}"))?;
    let cluster_id = parsed
        .valid_uri_names()
        .find_map(|uri| uri.strip_prefix(SCHEME)?.strip_suffix("/ca"))
        .ok_or_else(|| format!("no URI {SCHEME}CLUSTER/ca in it"))?;
    check_name("cluster id", cluster_id).map_err(|e| e.to_string())?;
    Ok(CaIdentity { cluster_id: cluster_id.to_owned() })
}
