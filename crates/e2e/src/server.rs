//! A server process of a test's own: started in an empty folder, killed with the test.

use crate::arguments;
use crate::client::Client;
use crate::random::Random;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NETSY_ARGS: &str = include_str!("../../../conformance/servers/netsy.args");
const NETSY_CONFIG: &str = include_str!("../../../conformance/servers/netsy.jsonc");
const ETCD_ARGS: &str = include_str!("../../../conformance/servers/etcd.args");

/// From start to first answer; generous, as the machine may be busy building.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A graceful stop has nothing to drain in a test.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Which program is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What this project builds.
    Netsy,
    /// A real etcd, to check the tests themselves.
    Etcd,
}

impl Kind {
    /// `NETSY_E2E_SERVER`: `netsy` (default) or `etcd`.
    pub fn under_test() -> Self {
        match std::env::var("NETSY_E2E_SERVER").as_deref() {
            Err(_) | Ok("" | "netsy") => Self::Netsy,
            Ok("etcd") => Self::Etcd,
            Ok(other) => panic!("NETSY_E2E_SERVER is {other:?}: set it to netsy or etcd"),
        }
    }

    /// Where it is.
    pub fn program(self) -> PathBuf {
        match self {
            Self::Netsy => find_program("NETSY_BIN", &["netsy", "../release/netsy"], "build it: cargo build -p netsy"),
            Self::Etcd => find_program("ETCD_BIN", &["../../.tools/etcd"], "build it: scripts/etcd.sh"),
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::Netsy => NETSY_ARGS,
            Self::Etcd => ETCD_ARGS,
        }
    }
}

/// The program named by an environment variable, or the first of `places` (relative to the build's folder) that exists.
pub(crate) fn find_program(variable: &str, places: &[&str], remedy: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return PathBuf::from(path);
    }
    let own = std::env::current_exe().expect("the path of this test program");
    // target/PROFILE/deps/TEST
    let build = own.ancestors().nth(2).expect("a test program lies in target/PROFILE/deps");
    places
        .iter()
        .map(|place| build.join(place))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{} is not in {}: {remedy}, or set {variable}", places[0], build.display()))
}

/// What a test wants different from the usual.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Time between watch progress notices.
    pub progress_interval: Option<&'static str>,
    /// Size of the database that raises NOSPACE, bytes.
    pub quota_bytes: Option<u64>,
    /// Fewest disks a write is on before it is acknowledged without the bucket.
    pub copies_min: Option<u8>,
    /// Records that changed until a snapshot is written.
    pub snapshot_records: Option<u32>,
    /// How long what a snapshot covers is kept.
    pub snapshot_retention: Option<&'static str>,
    /// Another command and configuration of netsy than those of `conformance/servers`, with the same placeholders.
    pub template: Option<(&'static str, String)>,
    /// Another build of the program.
    pub program: Option<PathBuf>,
    /// Environment of the process.
    pub env: Vec<(String, String)>,
    /// Arguments after the usual ones.
    pub extra_args: Vec<String>,
}

/// A running (or killed) server and its folder. Dropping it kills the process and removes the folder.
pub struct Server {
    kind: Kind,
    options: Options,
    folder: tempfile::TempDir,
    client_address: String,
    peer_address: String,
    child: Option<Child>,
}

impl Server {
    /// An empty server that answers.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// An empty server that answers.
    pub async fn start_with(options: Options) -> Self {
        let mut server = Self::new(options);
        server.start_again().await;
        server
    }

    /// A server not started yet.
    pub fn new(options: Options) -> Self {
        Self {
            kind: Kind::under_test(),
            options,
            folder: tempfile::tempdir().expect("make a folder for the server"),
            client_address: free_address(),
            peer_address: free_address(),
            child: None,
        }
    }

    /// Starts the process in the same folder on the same ports and waits until it answers.
    pub async fn start_again(&mut self) {
        self.spawn();
        self.await_ready().await;
    }

    /// The program it runs.
    pub fn program(&self) -> PathBuf {
        self.options.program.clone().unwrap_or_else(|| self.kind.program())
    }

    /// Starts the process and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        let config = self.folder.path().join("config.jsonc");
        let values = [
            ("config", Some(config.display().to_string())),
            ("data", Some(self.data_dir().display().to_string())),
            ("client", Some(self.client_address.clone())),
            ("peer", Some(self.peer_address.clone())),
            ("progress_interval", self.options.progress_interval.map(str::to_owned)),
            ("quota_bytes", self.options.quota_bytes.map(|bytes| bytes.to_string())),
            ("copies_min", self.options.copies_min.map(|copies| copies.to_string())),
            ("snapshot_records", self.options.snapshot_records.map(|records| records.to_string())),
            ("snapshot_retention", self.options.snapshot_retention.map(str::to_owned)),
        ];
        let (args, settings) = match &self.options.template {
            Some((args, settings)) => (*args, settings.as_str()),
            None => (self.kind.template(), NETSY_CONFIG),
        };
        std::fs::write(&config, arguments::fill(settings, &values).join("\n"))
            .expect("write the server's configuration");
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("open the server's log");
        let program = self.program();
        let mut command = Command::new(&program);
        command
            .args(arguments::fill(args, &values))
            .args(&self.options.extra_args)
            .envs(self.options.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the server's log"))
            .stderr(log);
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            // The kernel ends the server when the thread that started it ends, however that happens.
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("start {}: {error}", program.display())));
    }

    /// Waits until the server answers a linearizable read.
    pub async fn await_ready(&mut self) {
        self.try_await_ready(READY_WITHIN).await.unwrap_or_else(|why| panic!("{why}"));
    }

    /// Waits until the server answers a linearizable read; says why it does not.
    pub async fn try_await_ready(&mut self, limit: Duration) -> Result<(), String> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Err(format!(
                    "the server ended before it was ready ({status}); it printed:\n{}",
                    self.log_tail()
                ));
            }
            let answer = match Client::try_connect(&self.url()).await {
                Ok(client) => match tokio::time::timeout(Duration::from_secs(2), client.try_get("ready?")).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(status)) => status.to_string(),
                    Err(_) => "no answer in 2 s".to_owned(),
                },
                Err(error) => error,
            };
            if start.elapsed() > limit {
                return Err(format!("not ready after {limit:?} ({answer}); it printed:\n{}", self.log_tail()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL, as a power cut would be but for the page cache. Returns when the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it is gone already.
            let _ = child.kill();
            child.wait().expect("wait for the killed server");
        }
    }

    /// SIGTERM; waits for the end and asserts that it was a clean one.
    pub async fn stop(&mut self) {
        self.try_stop().await.unwrap_or_else(|why| panic!("{why}; it printed:\n{}", self.log_tail()));
    }

    /// SIGTERM; waits for the end. An error: it was not a clean one.
    pub async fn try_stop(&mut self) -> Result<(), String> {
        self.signal(libc::SIGTERM);
        let Some(status) = self.wait_for_end(STOP_WITHIN).await else {
            self.kill();
            return Err(format!("the server still ran {STOP_WITHIN:?} after SIGTERM"));
        };
        let clean = status.success() || (self.kind == Kind::Etcd && status.signal() == Some(libc::SIGTERM));
        if clean { Ok(()) } else { Err(format!("SIGTERM ended the server with {status}")) }
    }

    /// Waits for the process to end by itself. None: it still runs.
    pub async fn wait_for_end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                self.child = None;
                return Some(status);
            }
            if start.elapsed() > limit {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// True between a start and the process' end.
    pub fn is_running(&mut self) -> bool {
        self.child.is_some() && self.ended().is_none()
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("ask for the server's state"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = self.pid() as i32;
        // SAFETY: kill takes two numbers; the pid is of our own child, not yet waited for.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "send signal {signal} to {pid}: {}", std::io::Error::last_os_error());
    }

    /// Removes the local database and keeps the object store, as after the loss of a machine.
    pub fn wipe_local_database(&self) {
        assert_eq!(self.kind, Kind::Netsy, "only netsy has a second place to restore from");
        assert!(self.child.is_none(), "stop the server first");
        assert!(self.has_local_database(), "{} holds no database and store", self.data_dir().display());
        let node = self.data_dir().join(NODE_FOLDER);
        std::fs::remove_dir_all(&node).unwrap_or_else(|error| panic!("remove {}: {error}", node.display()));
    }

    /// True where there is one, and an object store beside it or elsewhere.
    pub fn has_local_database(&self) -> bool {
        let store = self.options.template.is_some() || self.data_dir().join(STORE_FOLDER).exists();
        self.data_dir().join(NODE_FOLDER).exists() && store
    }

    /// Runs the program with other arguments (an operator's command); gives what it printed.
    pub fn command(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(self.program())
            .args(args)
            .envs(self.options.env.iter().map(|(name, value)| (name, value)))
            .output()
            .map_err(|error| format!("run {args:?}: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("{args:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// What is different from the usual at the next start.
    pub fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    /// A new connection.
    pub async fn client(&self) -> Client {
        Client::connect(&self.url()).await
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.client_address)
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        &self.client_address
    }

    /// Which program it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// The folder the server keeps everything in.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// The end of what it printed, over all its lives.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.log_path()).unwrap_or_default();
        let from = text.len().saturating_sub(8 * 1024);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }

    /// Memory the process holds, bytes (VmRSS).
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS line");
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("VmRSS is a number of kB");
        kib * 1024
    }

    /// Keeps the server's folder for a look after a failure; says where it is.
    pub fn keep_folder(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }
}

/// In the data folder of `netsy dev`: its database, and the object store.
const NODE_FOLDER: &str = "node";
const STORE_FOLDER: &str = "store";

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of the server's log\n{}\n---", self.log_tail());
        }
        self.kill();
    }
}

/// A loopback address nobody listens on. Below the range the kernel gives to outgoing connections, so that none takes
/// it before the server does, and again while the server is down.
pub fn free_address() -> String {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    loop {
        let seed = (u64::from(std::process::id()) << 32) | DRAWN.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + Random::new(seed).below(20_000);
        let address = format!("127.0.0.1:{port}");
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}
