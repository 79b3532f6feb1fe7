//! The files that certificates and keys are read from.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Certificates and keys are a few KiB; whatever is larger is not one of them.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where certificates and keys are, each in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `NETSY_TLS_CA_CERT`: one CA, or more while they change.
    pub ca_cert: PathBuf,
    /// `NETSY_TLS_SERVER_CERT`: shown to clients and to nodes that connect here.
    pub server_cert: PathBuf,
    /// `NETSY_TLS_SERVER_KEY`
    pub server_key: PathBuf,
    /// `NETSY_TLS_CLIENT_CERT`: shown to nodes that this one connects to.
    pub client_cert: PathBuf,
    /// `NETSY_TLS_CLIENT_KEY`
    pub client_key: PathBuf,
}

/// Why TLS cannot be set up from these files.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}: {why}", path.display())]
pub struct TlsError {
    /// The file it is about.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl TlsError {
    pub(super) fn new(path: &Path, why: impl ToString) -> Self {
        Self { path: path.to_path_buf(), why: why.to_string() }
    }
}

/// The content of the files: what is compared to find out whether they changed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) ca_cert: Vec<u8>,
    pub(super) server_cert: Vec<u8>,
    pub(super) server_key: Vec<u8>,
    pub(super) client_cert: Vec<u8>,
    pub(super) client_key: Vec<u8>,
}

impl Contents {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            ca_cert: read(&files.ca_cert)?,
            server_cert: read(&files.server_cert)?,
            server_key: read(&files.server_key)?,
            client_cert: read(&files.client_cert)?,
            client_key: read(&files.client_key)?,
        })
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |error: io::Error| TlsError::new(path, error);
    let mut bytes = vec![];
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::new(path, format!("larger than {FILE_BYTES_MAX} bytes: no certificate or key in PEM")));
    }
    Ok(bytes)
}

/// All certificates in a file, in order; at least one.
pub(super) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| TlsError::new(path, e))?;
    if found.is_empty() {
        return Err(TlsError::new(path, "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(found)
}

/// The key in a file.
pub(super) fn key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|e| TlsError::new(path, format!("holds no private key in PEM that can be used: {e}")))
}
