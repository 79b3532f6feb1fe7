//! Certificates for tests.

use netsy_peer::Identity;
use netsy_peer::tls::{TlsFiles, TlsStore};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use std::path::Path;
use std::sync::Arc;

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// What a certificate is to say.
pub struct Leaf {
    pub uris: Vec<String>,
    pub hosts: Vec<String>,
    pub expired: bool,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Leaf {
    pub fn of(identity: &str) -> Self {
        Self {
            uris: vec![identity.to_owned()],
            hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            expired: false,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).expect("valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        params.distinguished_name.push(DnType::CommonName, format!("test CA {:?}", &key.public_key_raw()[..8]));
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key in PEM.
    pub fn issue(&self, leaf: &Leaf) -> (String, String) {
        let mut params = CertificateParams::new(leaf.hosts.clone()).expect("valid");
        for uri in &leaf.uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().expect("ascii")));
        }
        params.extended_key_usages = leaf.usages.clone();
        if leaf.expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        (cert.pem(), key.serialize_pem())
    }

    /// Writes the files of a node into `dir`, one certificate for both uses.
    pub fn write(&self, dir: &Path, leaf: &Leaf) -> TlsFiles {
        let (cert, key) = self.issue(leaf);
        std::fs::create_dir_all(dir).expect("a folder");
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let ca_cert = write("ca.crt", &self.pem);
        let server_cert = write("node.crt", &cert);
        let server_key = write("node.key", &key);
        TlsFiles { ca_cert, client_cert: server_cert.clone(), client_key: server_key.clone(), server_cert, server_key }
    }

    /// A node's certificates, ready for use.
    pub fn node(&self, dir: &Path, cluster: &str, name: &str) -> Arc<TlsStore> {
        let id = super::node_id(name);
        let files = self.write(&dir.join(name), &Leaf::of(&Identity::peer(cluster, &id).to_string()));
        TlsStore::load(files, cluster, &id).expect("valid certificates")
    }
}
