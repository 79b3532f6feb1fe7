//! Real object stores, started on loopback for a test and killed after it.
//! `scripts/tools.sh` installs them.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{BUCKET, signed};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The key id that these servers are given.
pub const KEY_ID: &str = "test";
/// And the secret that belongs to it.
pub const SECRET: &str = "testtest";

/// A running server with the bucket [`BUCKET`]; killed when dropped. Where it cannot be started, the test panics.
pub struct RealServer {
    name: &'static str,
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Drop for RealServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the programs are: `NETSY_TOOLS`, or `.tools` in the root of the repository.
fn tool(path: &str) -> PathBuf {
    let tools = match std::env::var_os("NETSY_TOOLS") {
        Some(tools) => PathBuf::from(tools),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools"),
    };
    let tool = tools.join(path);
    assert!(
        tool.exists(),
        "{} is not there: run scripts/tools.sh, which installs the servers that this test needs, or set NETSY_TOOLS to \
         the folder they are in",
        tool.display()
    );
    tool
}

/// Ports that were free a moment ago, low enough for SeaweedFS, which may use one 10,000 higher.
fn free_ports<const N: usize>() -> [u16; N] {
    let mut held: Vec<TcpListener> = Vec::new();
    let mut seed = std::process::id() ^ u32::from(free_port());
    let mut found = [0; N];
    let mut at = 0;
    while at < N {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let port = 10_000 + (seed >> 16) as u16 % 20_000;
        let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
        let (Some(one), Some(two)) = (bind(port), bind(port + 10_000)) else { continue };
        held.extend([one, two]);
        found[at] = port;
        at += 1;
    }
    found
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Starts moto with one request at a time: it checks a condition and acts on it without a lock, so that of two writers
/// at once both may win.
const MOTO: &str = "\
import sys, threading
import moto.server as server

lock, serve = threading.Lock(), server.run_simple

def one_at_a_time(app):
    def call(environ, start):
        with lock:
            return list(app(environ, start))
    return call

server.run_simple = lambda host, port, app, *more, **named: serve(host, port, one_at_a_time(app), *more, **named)
server.main(sys.argv[1:])
";

impl RealServer {
    fn start(name: &'static str, port: u16, dir: tempfile::TempDir, command: &mut Command) -> RealServer {
        let log = File::create(dir.path().join("server.log")).unwrap();
        let child = command
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{name} cannot be started: {e}"));
        let mut server = RealServer { name, child, port, dir };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let give_up = Instant::now() + START_TIMEOUT;
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < give_up, "{} does not listen: {}", server.name, server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default()
    }

    /// `http://127.0.0.1:port`
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// SeaweedFS, which is fit.
    pub fn seaweedfs() -> RealServer {
        let dir = tempfile::tempdir().unwrap();
        let [s3, master, volume, filer, admin, extra] = free_ports();
        let mut command = Command::new(tool("venv/bin/weed"));
        command.args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false"]);
        command.args([format!("-bucket={BUCKET}"), format!("-dir={}", dir.path().display())]);
        for (name, port) in [
            ("s3.port", s3),
            ("master.port", master),
            ("volume.port", volume),
            ("filer.port", filer),
            ("admin.port", admin),
        ] {
            command.arg(format!("-{name}={port}"));
        }
        // Its other listeners have fixed ports, on which two tests would meet.
        command.args([format!("-s3.port.iceberg={extra}"), "-s3.port.lance=0".into()]);
        let server = RealServer::start("SeaweedFS", s3, dir, &mut command);
        server.wait_for_bucket();
        server
    }

    /// moto, which is fit.
    pub fn moto() -> RealServer {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(tool("venv/bin/python"));
        command.args(["-c", MOTO, "-H", "127.0.0.1", "-p", &port.to_string()]);
        let server = RealServer::start("moto", port, dir, &mut command);
        assert_eq!(server.request("PUT"), Some(200), "moto made no bucket");
        server
    }

    /// rclone's server, which ignores conditions.
    pub fn rclone() -> RealServer {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        std::fs::create_dir_all(dir.path().join("data").join(BUCKET)).unwrap();
        let mut command = Command::new(tool("venv/bin/rclone"));
        command.args(["serve", "s3", "--config", "/dev/null", "--auth-key", "test,testtest"]);
        command.args([format!("--addr=127.0.0.1:{port}"), dir.path().join("data").display().to_string()]);
        RealServer::start("rclone", port, dir, &mut command)
    }

    /// s3s-fs, whose conditions lose races.
    pub fn s3s_fs() -> RealServer {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        std::fs::create_dir_all(dir.path().join("data").join(BUCKET)).unwrap();
        let mut command = Command::new(tool("bin/s3s-fs-0.14.1"));
        command.args([
            "--host",
            "127.0.0.1",
            "--access-key",
            "test",
            "--secret-key",
            "testtest",
            "--port",
            &port.to_string(),
        ]);
        command.arg(dir.path().join("data"));
        RealServer::start("s3s-fs", port, dir, &mut command)
    }

    /// An unsigned request for the bucket; its status.
    fn request(&self, method: &str) -> Option<u16> {
        use std::io::{Read, Write};
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let head =
            format!("{method} /{BUCKET} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    /// SeaweedFS listens before it has made its bucket.
    fn wait_for_bucket(&self) {
        let give_up = Instant::now() + START_TIMEOUT;
        while !signed::has_bucket(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), BUCKET) {
            assert!(Instant::now() < give_up, "{} made no bucket: {}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
