//! The TLS files of a node, as flags and environment.

use anyhow::{anyhow, bail};
use clap::Args;
use netsy_api::ids::NodeId;
use netsy_peer::tls::{TlsFiles, TlsStore};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Args, Clone, Debug, Default)]
pub struct TlsArgs {
    /// The CA that signed the certificates of nodes and clients, in PEM.
    #[arg(long, env = "NETSY_TLS_CA_CERT", value_name = "FILE")]
    tls_ca_cert: Option<PathBuf>,
    /// This node's certificate, shown to clients and to nodes that connect here.
    #[arg(long, env = "NETSY_TLS_SERVER_CERT", value_name = "FILE")]
    tls_server_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, env = "NETSY_TLS_SERVER_KEY", value_name = "FILE")]
    tls_server_key: Option<PathBuf>,
    /// This node's certificate, shown to nodes that it connects to; by default that of --tls-server-cert.
    #[arg(long, env = "NETSY_TLS_CLIENT_CERT", value_name = "FILE")]
    tls_client_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, env = "NETSY_TLS_CLIENT_KEY", value_name = "FILE")]
    tls_client_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads and checks the files. None: the node serves without TLS, as `insecure` asks for.
    pub fn load(&self, insecure: bool, cluster_id: &str, node_id: &NodeId) -> anyhow::Result<Option<Arc<TlsStore>>> {
        let Some(files) = self.files(insecure)? else { return Ok(None) };
        TlsStore::load(files, cluster_id, node_id).map(Some).map_err(|e| anyhow!("TLS: {e}"))
    }

    fn files(&self, insecure: bool) -> anyhow::Result<Option<TlsFiles>> {
        let needed = [
            ("NETSY_TLS_CA_CERT", &self.tls_ca_cert),
            ("NETSY_TLS_SERVER_CERT", &self.tls_server_cert),
            ("NETSY_TLS_SERVER_KEY", &self.tls_server_key),
        ];
        let optional =
            [("NETSY_TLS_CLIENT_CERT", &self.tls_client_cert), ("NETSY_TLS_CLIENT_KEY", &self.tls_client_key)];
        if insecure {
            let set: Vec<_> =
                needed.iter().chain(&optional).filter(|(_, path)| path.is_some()).map(|(name, _)| *name).collect();
            if !set.is_empty() {
                bail!(
                    "--insecure-loopback-only serves without TLS, and {} is set: leave out one or the other",
                    set.join(", ")
                );
            }
            return Ok(None);
        }
        let missing: Vec<_> = needed.iter().filter(|(_, path)| path.is_none()).map(|(name, _)| *name).collect();
        let (Some(ca_cert), Some(server_cert), Some(server_key)) =
            (&self.tls_ca_cert, &self.tls_server_cert, &self.tls_server_key)
        else {
            bail!(
                "netsy server does not serve without TLS, and {} {} not set: give the node its certificates \
                 (`netsy certs` makes some for trying things out), or, for a node that only this machine can reach, \
                 say --insecure-loopback-only",
                missing.join(", "),
                if missing.len() == 1 { "is" } else { "are" }
            );
        };
        let (client_cert, client_key) = match (&self.tls_client_cert, &self.tls_client_key) {
            (None, None) => (server_cert, server_key),
            (Some(cert), Some(key)) => (cert, key),
            _ => bail!("NETSY_TLS_CLIENT_CERT and NETSY_TLS_CLIENT_KEY go together: set both or neither"),
        };
        Ok(Some(TlsFiles {
            ca_cert: ca_cert.clone(),
            server_cert: server_cert.clone(),
            server_key: server_key.clone(),
            client_cert: client_cert.clone(),
            client_key: client_key.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(path: &str) -> Option<PathBuf> {
        Some(PathBuf::from(path))
    }

    #[test]
    fn a_node_serves_with_all_of_tls_or_says_that_it_does_without() {
        let none = TlsArgs::default();
        assert_eq!(none.files(true).unwrap(), None);
        let error = none.files(false).unwrap_err().to_string();
        assert!(error.contains("NETSY_TLS_CA_CERT, NETSY_TLS_SERVER_CERT, NETSY_TLS_SERVER_KEY are not"), "{error}");
        let most = TlsArgs { tls_ca_cert: some("ca"), tls_server_cert: some("crt"), ..TlsArgs::default() };
        let error = most.files(false).unwrap_err().to_string();
        assert!(error.contains("NETSY_TLS_SERVER_KEY is not set"), "{error}");
        assert!(most.files(true).unwrap_err().to_string().contains("NETSY_TLS_CA_CERT, NETSY_TLS_SERVER_CERT is set"));
        let all = TlsArgs { tls_server_key: some("key"), ..most };
        let files = all.files(false).unwrap().unwrap();
        assert_eq!((files.client_cert, files.client_key), (PathBuf::from("crt"), PathBuf::from("key")));
        let own = TlsArgs { tls_client_cert: some("c.crt"), tls_client_key: some("c.key"), ..all.clone() };
        assert_eq!(own.files(false).unwrap().unwrap().client_key, PathBuf::from("c.key"));
        let half = TlsArgs { tls_client_cert: some("c.crt"), ..all };
        assert!(half.files(false).unwrap_err().to_string().contains("go together"));
    }
}
