//! Runs the real `etcdctl` against a server.

use crate::server::{Server, find_program};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A command that hangs fails its test.
const DONE_WITHIN: &str = "--command-timeout=20s";

/// Debian's `etcd-client` where it is installed, else the one that `scripts/etcd.sh` builds; `ETCDCTL_BIN` names another.
fn program() -> PathBuf {
    find_program("ETCDCTL_BIN", &["/usr/bin/etcdctl", "../../.tools/etcdctl"], "apt-get install etcd-client")
}

/// `etcdctl` pointed at a server, or several.
pub struct Etcdctl {
    /// Arguments before every command's own.
    globals: Vec<String>,
}

/// What a finished command left.
#[derive(Debug)]
pub struct Done {
    /// Exit code 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Etcdctl {
    /// For this server.
    pub fn new(server: &Server) -> Self {
        Self { globals: vec![format!("--endpoints={}", server.address())] }
    }

    /// For these endpoints, with a certificate and its key, accepting what the CA signed.
    pub fn with_tls(endpoints: &str, ca: &Path, cert: &Path, key: &Path) -> Self {
        let endpoints: Vec<String> = endpoints.split(',').map(|address| format!("https://{address}")).collect();
        let globals = vec![
            format!("--endpoints={}", endpoints.join(",")),
            format!("--cacert={}", ca.display()),
            format!("--cert={}", cert.display()),
            format!("--key={}", key.display()),
        ];
        Self { globals }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(&self.globals).arg(DONE_WITHIN).args(args).env_remove("ETCDCTL_BIN");
        command
    }

    /// Runs a command that must succeed; gives its standard output.
    pub fn run(&self, args: &[&str]) -> String {
        let done = self.try_run(args);
        assert!(done.ok, "etcdctl {args:?} failed: {done:?}");
        done.out
    }

    /// Runs a command that must fail; gives its standard error.
    pub fn fails(&self, args: &[&str]) -> String {
        let done = self.try_run(args);
        assert!(!done.ok, "etcdctl {args:?} was to fail: {done:?}");
        done.err
    }

    /// Runs a command.
    pub fn try_run(&self, args: &[&str]) -> Done {
        done(self.command(args).stdin(Stdio::null()).output().expect("run etcdctl"))
    }

    /// Runs a command that takes its own time.
    pub fn try_run_long(&self, args: &[&str]) -> Done {
        let output = Command::new(program())
            .args(&self.globals)
            .args(args)
            .env_remove("ETCDCTL_BIN")
            .stdin(Stdio::null())
            .output();
        done(output.expect("run etcdctl"))
    }

    /// Runs a command that reads from standard input.
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Done {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run etcdctl");
        // A command that does not want its input ends early, which its result will tell.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        done(child.wait_with_output().expect("wait for etcdctl"))
    }

    /// Runs a command and reads its output as JSON.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut with_format = args.to_vec();
        with_format.push("--write-out=json");
        let text = self.run(&with_format);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("etcdctl {args:?} printed {text:?}: {error}"))
    }

    /// Starts a command that goes on (a watch, a keep-alive). Its output goes to a file, read as it grows.
    pub fn start(&self, args: &[&str]) -> Running {
        let file = || tempfile::NamedTempFile::new().expect("make a file for etcdctl's output");
        let (out, err) = (file(), file());
        let child = Command::new(program())
            .args(&self.globals)
            .args(args)
            .env_remove("ETCDCTL_BIN")
            .stdin(Stdio::null())
            .stdout(out.reopen().expect("open etcdctl's output"))
            .stderr(err.reopen().expect("open etcdctl's output"))
            .spawn()
            .expect("run etcdctl");
        Running { child, out, err }
    }
}

fn done(output: Output) -> Done {
    Done {
        ok: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A command that goes on; dropping it ends it.
pub struct Running {
    child: Child,
    out: tempfile::NamedTempFile,
    err: tempfile::NamedTempFile,
}

impl Running {
    /// Waits until it has printed `lines` lines; gives what it printed.
    pub fn await_lines(&self, lines: usize) -> String {
        await_text(&self.out, |text| text.lines().count() >= lines)
    }

    /// Waits until it has printed this as an error.
    pub fn await_error(&self, expected: &str) {
        await_text(&self.err, |text| text.contains(expected));
    }
}

fn await_text(file: &tempfile::NamedTempFile, enough: impl Fn(&str) -> bool) -> String {
    let start = Instant::now();
    loop {
        let text = std::fs::read_to_string(file.path()).expect("read etcdctl's output");
        if enough(&text) {
            return text;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "more was to come, this came: {text:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
