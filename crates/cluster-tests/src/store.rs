//! The object store of a run, and what goes wrong with it.

use crate::net::{Net, Place};
use crate::proxy::{Mode, Proxy};
use crate::scenario::StoreKind;
use anyhow::{Context, Result, bail, ensure};
use netsy_fakestore::{BUCKET, Calls, Dialect, FakeStore, Fault, FaultKind};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where nodes reach it.
const PORT: u16 = 9000;
/// Where it is behind the proxy.
const BEHIND: u16 = 9001;
/// SeaweedFS has several other listeners.
const SEAWEEDFS_PORTS: [(&str, u16); 5] = [
    ("master.port", 9101),
    ("volume.port", 9102),
    ("filer.port", 9103),
    ("admin.port", 9104),
    ("s3.port.iceberg", 9105),
];
/// More than a scenario makes while the store fails.
const FAILING_CALLS: u64 = 2_000;
const START_WITHIN: Duration = Duration::from_secs(60);

/// A running store.
pub enum Store {
    /// A folder.
    File(PathBuf),
    /// In this process.
    Fake { store: Box<FakeStore>, proxy: Proxy },
    /// SeaweedFS.
    Seaweedfs {
        #[allow(dead_code)]
        process: Guard,
        proxy: Proxy,
    },
}

impl Store {
    /// Starts one whose data is in `folder`.
    pub async fn start(kind: StoreKind, net: &Net, folder: &Path) -> Result<Self> {
        let address = |port| SocketAddr::from((net.address(Place::Store), port));
        let data = folder.join("store");
        std::fs::create_dir_all(&data)?;
        match kind {
            StoreKind::File => Ok(Self::File(data)),
            StoreKind::Fake => {
                let store = FakeStore::start_at(Dialect::S3, address(BEHIND)).await?;
                let proxy = Proxy::start(address(PORT), address(BEHIND)).await?;
                Ok(Self::Fake { store: Box::new(store), proxy })
            }
            StoreKind::Seaweedfs => {
                let process = seaweedfs(net, folder, &data).await?;
                let proxy = Proxy::start(address(PORT), address(BEHIND)).await?;
                Ok(Self::Seaweedfs { process, proxy })
            }
        }
    }

    /// The `storage` of the cluster's configuration.
    pub fn config(&self, net: &Net) -> Value {
        match self {
            Self::File(path) => json!({ "provider": "file", "path": path }),
            Self::Fake { .. } | Self::Seaweedfs { .. } => json!({
                "provider": "s3",
                "bucket_name": BUCKET,
                "endpoint": format!("http://{}:{PORT}", net.address(Place::Store)),
                "allow_http": true,
                "path_style": true,
                "region": "us-east-1",
                "encryption": "none",
            }),
        }
    }

    fn proxy(&self) -> Result<&Proxy> {
        match self {
            Self::File(_) => bail!("a folder has no network to break: use the store \"fake\" or \"seaweedfs\""),
            Self::Fake { proxy, .. } | Self::Seaweedfs { proxy, .. } => Ok(proxy),
        }
    }

    /// Puts it right.
    pub fn well(&self) {
        if let Self::Fake { store, .. } = self {
            store.clear_faults();
        }
        if let Ok(proxy) = self.proxy() {
            proxy.set(Mode::Pass);
        }
    }

    /// Breaks it.
    pub fn set(&self, mode: Mode) -> Result<()> {
        self.proxy()?.set(mode);
        Ok(())
    }

    /// Some calls get errors, half of them though they were done.
    pub fn fail(&self, percent: u64) -> Result<()> {
        match self {
            Self::Fake { store, .. } => {
                // Every nth call: the look-alike has no chance of its own.
                let every = 100 / percent.clamp(1, 100);
                for n in 0..FAILING_CALLS {
                    let kind = if n % 2 == 0 { FaultKind::StatusBefore(503) } else { FaultKind::StatusAfter(500) };
                    store.inject(Fault::new(Calls::all(), kind).skip(n * every.saturating_sub(1)).once());
                }
                Ok(())
            }
            _ => self.set(Mode::Fail { percent }),
        }
    }

    /// An object's bytes, if the store can be asked from here.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        match self {
            Self::File(folder) => std::fs::read(folder.join(key)).ok(),
            Self::Fake { store, .. } => store.object(key).map(|bytes| bytes.to_vec()),
            Self::Seaweedfs { .. } => None,
        }
    }
}

async fn seaweedfs(net: &Net, folder: &Path, data: &Path) -> Result<Guard> {
    let tools = std::env::var_os("NETSY_TOOLS").map_or_else(|| PathBuf::from(".tools"), PathBuf::from);
    let program = tools.join("venv/bin/weed");
    ensure!(program.exists(), "{} is not there: run scripts/tools.sh, or set NETSY_TOOLS", program.display());
    // It is started in another folder.
    let program = std::path::absolute(&program)?;
    let ip = net.address(Place::Store);
    let log = std::fs::File::create(folder.join("seaweedfs.log"))?;
    let mut command = Command::new(&program);
    command.args(["mini", "-admin.ui=false", "-webdav=false", "-s3.port.lance=0"]);
    command.args([format!("-ip={ip}"), format!("-ip.bind={ip}"), format!("-bucket={BUCKET}")]);
    command.args([format!("-dir={}", data.display()), format!("-s3.port={BEHIND}")]);
    command.args(SEAWEEDFS_PORTS.map(|(name, port)| format!("-{name}={port}")));
    command
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "testtest")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = Guard(command.spawn().with_context(|| format!("start {}", program.display()))?);
    let start = Instant::now();
    // It listens before it has made its bucket.
    let server = SocketAddr::from((ip, BEHIND));
    while !tokio::task::spawn_blocking(move || netsy_fakestore::signed::has_bucket(server, BUCKET)).await? {
        ensure!(start.elapsed() < START_WITHIN, "SeaweedFS has no bucket after {START_WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(child)
}

/// A process that ends with this.
pub struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Nothing more can be done about one that cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
