//! `netsy certs`: a CA, and certificates of nodes, clients and operators, for trying things out.
//!
//! What an organisation's own CA issues serves as well: all that counts is the URI in it (`netsy_peer::Identity`).

use super::node_client::say;
use crate::config;
use anyhow::{Context, anyhow, bail, ensure};
use clap::{Args, Subcommand};
use netsy_api::ids::{NodeId, check_name};
use netsy_peer::Identity;
use netsy_peer::tls::{CaIdentity, ca_identity};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

/// Clocks that are behind by less than this take a new certificate.
const CLOCK_SKEW: Duration = Duration::hours(1);
/// The longest a certificate may be valid.
const DAYS_MAX: u32 = 36_500;

#[derive(Subcommand)]
pub enum CertsCommand {
    /// Makes a CA for one cluster: ca.crt, which everybody gets, and ca.key, which stays here.
    Ca(CaArgs),
    /// Makes a certificate for a node, signed by the CA in the folder.
    Node(NodeArgs),
    /// Makes a certificate for a client, signed by the CA in the folder.
    Client(ClientArgs),
    /// Makes a certificate for who runs the cluster, signed by the CA in the folder: a client's that may also change
    /// the cluster (`netsy member`, `netsy cluster`, `netsy recover`).
    Operator(ClientArgs),
}

#[derive(Args)]
pub struct CaArgs {
    /// The cluster's id, as in its file.
    #[arg(long, value_name = "ID", conflicts_with = "config", required_unless_present = "config")]
    cluster_id: Option<String>,
    /// The cluster's JSONC file, which the id is taken from.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// How long it is valid.
    #[arg(long, default_value_t = 3650, value_name = "DAYS")]
    days: u32,
}

#[derive(Args)]
pub struct NodeArgs {
    /// The node's id.
    name: String,
    /// A name or address under which clients reach the node; may be given several times. This machine's loopback
    /// names are always in it.
    #[arg(long = "host", value_name = "HOST", value_delimiter = ',')]
    hosts: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// How long it is valid.
    #[arg(long, default_value_t = 365, value_name = "DAYS")]
    days: u32,
}

#[derive(Args)]
pub struct ClientArgs {
    /// A name, as logs will show it.
    name: String,
    #[command(flatten)]
    place: Place,
    /// How long it is valid.
    #[arg(long, default_value_t = 365, value_name = "DAYS")]
    days: u32,
}

#[derive(Args)]
struct Place {
    /// The folder of the certificates.
    #[arg(long, default_value = "./netsy-certs", value_name = "DIR")]
    dir: PathBuf,
}

pub fn run(command: CertsCommand) -> anyhow::Result<()> {
    let text = match command {
        CertsCommand::Ca(args) => make_ca(args)?,
        CertsCommand::Node(args) => make_node(args)?,
        CertsCommand::Client(args) => make_client(args)?,
        CertsCommand::Operator(args) => make_operator(args)?,
    };
    say(&format!("{text}\n"))
}

fn make_ca(args: CaArgs) -> anyhow::Result<String> {
    let cluster_id = match (args.cluster_id, args.config) {
        (Some(id), _) => id,
        (None, Some(path)) => config::load(&path).map_err(|e| anyhow!("{e}"))?.config.cluster_id,
        (None, None) => bail!("give --cluster-id or --config"),
    };
    check_name("cluster id", &cluster_id)?;
    std::fs::create_dir_all(&args.place.dir).with_context(|| format!("folder {}", args.place.dir.display()))?;
    let mut params = params(args.days, &format!("netsy CA of {cluster_id}"))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names.push(uri(&CaIdentity { cluster_id: cluster_id.clone() }.to_string())?);
    let key = KeyPair::generate().context("making a key")?;
    let certificate = params.self_signed(&key).context("signing")?;
    let [crt, key_path] = write_pair(&args.place.dir, "ca", &certificate.pem(), &key.serialize_pem())?;
    Ok(format!(
        "Made a CA for the cluster {cluster_id}, valid for {days} days:\n\
         \x20 {crt}    every node and every client gets a copy\n\
         \x20 {key}    whoever has it can make certificates: keep it here\n\
         \n\
         Next:  netsy certs node NODE_ID --host HOST --dir {dir}\n\
         \x20      netsy certs client NAME --dir {dir}\n\
         \x20      netsy certs operator NAME --dir {dir}",
        days = args.days,
        crt = crt.display(),
        key = key_path.display(),
        dir = args.place.dir.display(),
    ))
}

fn make_node(args: NodeArgs) -> anyhow::Result<String> {
    let ca = Ca::open(&args.place.dir)?;
    let node_id = NodeId::new(args.name.as_str())?;
    let identity = Identity::peer(&ca.cluster_id, &node_id);
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    for host in args.hosts {
        ensure!(!host.is_empty(), "--host is empty: give a name or an address");
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let (certificate, key) = ca.issue(&identity, &hosts, usages, args.days)?;
    let [crt, key] = write_pair(&args.place.dir, &format!("node-{node_id}"), &certificate, &key)?;
    Ok(format!(
        "Made a certificate for {identity}, valid for {days} days, for the hosts {hosts}:\n\
         \n\
         Set for that node (its certificate serves towards clients and towards other nodes):\n\
         \x20 NETSY_TLS_CA_CERT={ca}\n\
         \x20 NETSY_TLS_SERVER_CERT={crt}\n\
         \x20 NETSY_TLS_SERVER_KEY={key}",
        days = args.days,
        hosts = hosts.join(", "),
        ca = ca.crt.display(),
        crt = crt.display(),
        key = key.display(),
    ))
}

fn make_client(args: ClientArgs) -> anyhow::Result<String> {
    let ca = Ca::open(&args.place.dir)?;
    let identity = Identity::client(&ca.cluster_id, &args.name)?;
    make_own(&args, &ca, &identity, |tls| {
        format!(
            "etcdctl --endpoints=https://localhost:2379 --cacert={} \\\n\x20       --cert={} --key={} get hello",
            tls[0], tls[1], tls[2]
        )
    })
}

fn make_operator(args: ClientArgs) -> anyhow::Result<String> {
    let ca = Ca::open(&args.place.dir)?;
    let identity = Identity::operator(&ca.cluster_id, &args.name)?;
    make_own(&args, &ca, &identity, |tls| {
        format!(
            "netsy member list --endpoints https://localhost:2379 --cacert {} \\\n\x20       --cert {} --key {}",
            tls[0], tls[1], tls[2]
        )
    })
}

/// A certificate to connect with, and what to try it with: a command with CA, certificate and key.
fn make_own(
    args: &ClientArgs,
    ca: &Ca,
    identity: &Identity,
    command: impl Fn([std::path::Display<'_>; 3]) -> String,
) -> anyhow::Result<String> {
    let (certificate, key) = ca.issue(identity, &[], vec![ExtendedKeyUsagePurpose::ClientAuth], args.days)?;
    let name = format!("{}-{}", identity.role, args.name);
    let [crt, key] = write_pair(&args.place.dir, &name, &certificate, &key)?;
    Ok(format!(
        "Made a certificate for {identity}, valid for {days} days:\n\
         \n\
         Try:  {command}",
        days = args.days,
        command = command([ca.crt.display(), crt.display(), key.display()]),
    ))
}

/// A CA made before.
struct Ca {
    cluster_id: String,
    issuer: Issuer<'static, KeyPair>,
    crt: PathBuf,
}

impl Ca {
    fn open(dir: &Path) -> anyhow::Result<Self> {
        let (crt, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        let read = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| {
                format!("{}: make a CA first: netsy certs ca --cluster-id ID --dir {}", path.display(), dir.display())
            })
        };
        let (crt_pem, key_pem) = (read(&crt)?, read(&key)?);
        let CaIdentity { cluster_id } =
            ca_identity(&crt_pem).map_err(|e| anyhow!("{}: {e}: it was not made by netsy certs ca", crt.display()))?;
        let key_pair = KeyPair::from_pem(&key_pem).with_context(|| key.display().to_string())?;
        let issuer = Issuer::from_ca_cert_pem(&crt_pem, key_pair).with_context(|| crt.display().to_string())?;
        Ok(Self { cluster_id, issuer, crt: crt.canonicalize().unwrap_or(crt) })
    }

    /// Certificate and key in PEM.
    fn issue(
        &self,
        identity: &Identity,
        hosts: &[String],
        usages: Vec<ExtendedKeyUsagePurpose>,
        days: u32,
    ) -> anyhow::Result<(String, String)> {
        let mut params = params(days, &identity.name)?;
        for host in hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
        params.subject_alt_names.push(uri(&identity.to_string())?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("making a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("signing")?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

fn params(days: u32, common_name: &str) -> anyhow::Result<CertificateParams> {
    ensure!((1..=DAYS_MAX).contains(&days), "--days {days}: must be from 1 to {DAYS_MAX}");
    let mut params = CertificateParams::new(vec![]).context("an empty certificate")?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(i64::from(days));
    Ok(params)
}

fn host_name(host: &str) -> anyhow::Result<SanType> {
    if let Ok(address) = host.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._*".contains(c);
    ensure!(host.chars().all(allowed), "--host {host:?}: give a name or an address, without scheme and port");
    let name = host.try_into().map_err(|e| anyhow!("--host {host:?}: {e}"))?;
    Ok(SanType::DnsName(name))
}

fn uri(text: &str) -> anyhow::Result<SanType> {
    Ok(SanType::URI(text.try_into().map_err(|e| anyhow!("{text:?}: {e}"))?))
}

/// Writes `name.crt` and `name.key`, which must not exist, for this user only. Returns their full paths.
fn write_pair(dir: &Path, name: &str, certificate: &str, key: &str) -> anyhow::Result<[PathBuf; 2]> {
    let paths = ["crt", "key"].map(|extension| dir.join(format!("{name}.{extension}")));
    for path in &paths {
        ensure!(!path.exists(), "{} exists already and is not overwritten: remove it first", path.display());
    }
    let [crt_path, key_path] = &paths;
    write_new(key_path, key).with_context(|| key_path.display().to_string())?;
    if let Err(error) = write_new(crt_path, certificate) {
        // A key without its certificate is of no use; what cannot be removed is named by the error.
        let _ = std::fs::remove_file(key_path);
        return Err(error).with_context(|| crt_path.display().to_string());
    }
    Ok(paths.map(|path| path.canonicalize().unwrap_or(path)))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netsy_peer::tls::{TlsFiles, TlsStore};
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    fn place(dir: &TempDir) -> Place {
        Place { dir: dir.path().join("certs") }
    }

    fn ca(dir: &TempDir, cluster: &str) -> anyhow::Result<String> {
        make_ca(CaArgs { cluster_id: Some(cluster.into()), config: None, place: place(dir), days: 10 })
    }

    fn node(dir: &TempDir, name: &str, hosts: &[&str]) -> anyhow::Result<String> {
        let hosts = hosts.iter().map(|h| h.to_string()).collect();
        make_node(NodeArgs { name: name.into(), hosts, place: place(dir), days: 10 })
    }

    fn client(dir: &TempDir, name: &str) -> anyhow::Result<String> {
        make_client(ClientArgs { name: name.into(), place: place(dir), days: 10 })
    }

    fn operator(dir: &TempDir, name: &str) -> anyhow::Result<String> {
        make_operator(ClientArgs { name: name.into(), place: place(dir), days: 10 })
    }

    #[test]
    fn what_is_made_is_what_a_node_takes() {
        let dir = TempDir::new().unwrap();
        assert!(node(&dir, "n1", &[]).unwrap_err().to_string().contains("netsy certs ca"));
        ca(&dir, "prod-1").unwrap();
        let text = node(&dir, "n1", &["10.0.0.7", "n1.example.com,n1"]).unwrap_err().to_string();
        assert!(text.contains("n1.example.com,n1"), "clap splits at commas, this function does not: {text}");
        let text = node(&dir, "n1", &["10.0.0.7", "n1.example.com", "localhost"]).unwrap();
        assert!(text.contains("NETSY_TLS_SERVER_KEY=") && text.contains("netsy://prod-1/peer/n1"), "{text}");
        assert!(client(&dir, "kube-apiserver").unwrap().contains("etcdctl"));
        let text = operator(&dir, "alice").unwrap();
        assert!(text.contains("netsy://prod-1/operator/alice") && text.contains("netsy member list"), "{text}");
        assert!(text.contains("operator-alice.crt --key"), "{text}");
        let certs = place(&dir).dir;
        for entry in std::fs::read_dir(&certs).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
        let (server_cert, server_key) = (certs.join("node-n1.crt"), certs.join("node-n1.key"));
        let files = TlsFiles {
            ca_cert: certs.join("ca.crt"),
            client_cert: server_cert.clone(),
            client_key: server_key.clone(),
            server_cert,
            server_key,
        };
        let store = TlsStore::load(files, "prod-1", &NodeId::new("n1").unwrap()).unwrap();
        for host in ["localhost", "127.0.0.1", "::1", "10.0.0.7", "n1.example.com"] {
            assert!(store.covers(host), "{host}");
        }
        assert!(!store.covers("n2.example.com"));
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = TempDir::new().unwrap();
        ca(&dir, "c").unwrap();
        node(&dir, "n1", &[]).unwrap();
        client(&dir, "me").unwrap();
        operator(&dir, "me").unwrap();
        for name in ["ca", "node-n1", "client-me", "operator-me"] {
            let path = |extension: &str| place(&dir).dir.join(format!("{name}.{extension}"));
            let before = (std::fs::read(path("crt")).unwrap(), std::fs::read(path("key")).unwrap());
            let again = || match name {
                "ca" => ca(&dir, "c"),
                "node-n1" => node(&dir, "n1", &[]),
                "operator-me" => operator(&dir, "me"),
                _ => client(&dir, "me"),
            };
            assert!(again().unwrap_err().to_string().contains("exists already"));
            assert_eq!((std::fs::read(path("crt")).unwrap(), std::fs::read(path("key")).unwrap()), before);
        }
        // One half alone is enough of a reason.
        std::fs::remove_file(place(&dir).dir.join("client-me.crt")).unwrap();
        assert!(client(&dir, "me").is_err());
        assert!(!place(&dir).dir.join("client-me.crt").exists());
    }

    #[test]
    fn names_and_times_are_checked() {
        let dir = TempDir::new().unwrap();
        assert!(ca(&dir, "No Cluster").is_err());
        ca(&dir, "c").unwrap();
        for name in ["", "A", "a b", "../a"] {
            assert!(node(&dir, name, &[]).is_err(), "{name:?}");
        }
        for name in ["", "a b", "../a", "a/b"] {
            assert!(client(&dir, name).is_err(), "{name:?}");
            assert!(operator(&dir, name).is_err(), "{name:?}");
        }
        for host in ["https://a", "a:1", "", "a b"] {
            assert!(node(&dir, "n1", &[host]).is_err(), "{host:?}");
        }
        for days in [0, DAYS_MAX + 1] {
            assert!(make_client(ClientArgs { name: "me".into(), place: place(&dir), days }).is_err(), "{days}");
        }
        std::fs::write(place(&dir).dir.join("ca.crt"), "nothing").unwrap();
        assert!(node(&dir, "n1", &[]).unwrap_err().to_string().contains("ca.crt"));
    }
}
