//! Servers that the load generator starts and stops itself.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::target::Target;

/// How long a server may take to end when told to, and to serve after its start.
const STOP_MAX: Duration = Duration::from_secs(60);
const START_MAX: Duration = Duration::from_secs(300);
/// Lines of a failed server's output that are shown.
const LOG_LINES: usize = 15;

/// A command line with places to fill in: `{data}` an empty folder, `{client}`, `{peer}` and
/// `{health}` free ports of 127.0.0.1, `{config}` a file made of `config` in the same way.
/// Words are split at white space; no shell reads them.
#[derive(Clone, Debug)]
pub struct Template {
    pub name: String,
    pub command: String,
    pub config: Option<String>,
}

pub struct Server {
    template: Template,
    data: PathBuf,
    ports: [u16; 3],
    child: Option<(Child, Instant)>,
}

impl Template {
    /// etcd as one member, with room enough for the loads and quiet about slow requests.
    pub fn etcd(program: &Path) -> Template {
        let command = format!(
            "{} --name=default --data-dir={{data}}/etcd --log-level=error --quota-backend-bytes=8589934592 \
             --listen-client-urls=http://127.0.0.1:{{client}} --advertise-client-urls=http://127.0.0.1:{{client}} \
             --listen-peer-urls=http://127.0.0.1:{{peer}} --initial-advertise-peer-urls=http://127.0.0.1:{{peer}} \
             --initial-cluster=default=http://127.0.0.1:{{peer}}",
            program.display()
        );
        Template { name: "etcd".into(), command, config: None }
    }

    fn fill(&self, text: &str, data: &Path, ports: [u16; 3]) -> String {
        let mut text = text.replace("{data}", &data.display().to_string());
        text = text.replace("{config}", &config_file(data).display().to_string());
        for (place, port) in ["{client}", "{peer}", "{health}"].iter().zip(ports) {
            text = text.replace(place, &port.to_string());
        }
        text
    }
}

fn config_file(data: &Path) -> PathBuf {
    data.join("config.jsonc")
}

impl Server {
    /// A server over a new folder below `root`, not started yet.
    pub fn new(template: &Template, root: &Path) -> Result<Server> {
        let listeners = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let mut ports = [0; 3];
        for (port, listener) in ports.iter_mut().zip(listeners.iter()) {
            let listener = listener.as_ref().map_err(|e| anyhow!("no free port on 127.0.0.1: {e}"))?;
            *port = listener.local_addr()?.port();
        }
        let data = tempfile::Builder::new()
            .prefix(&format!("{}-", template.name))
            .tempdir_in(root)
            .with_context(|| format!("making a data folder in {}", root.display()))?
            .keep();
        if let Some(config) = &template.config {
            std::fs::write(config_file(&data), template.fill(config, &data, ports))?;
        }
        Ok(Server { template: template.clone(), data, ports, child: None })
    }

    pub fn name(&self) -> &str {
        &self.template.name
    }

    /// Starts the program and waits for its first answer; returns how long that took.
    pub fn start(&mut self) -> Result<Duration> {
        ensure!(self.child.is_none(), "{} runs already", self.name());
        let line = self.template.fill(&self.template.command, &self.data, self.ports);
        let mut words = line.split_ascii_whitespace();
        let program = words.next().with_context(|| format!("the command of {} is empty", self.name()))?;
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: prctl is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| {
                // A load generator that is killed must not leave servers behind.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let since = Instant::now();
        let child = command.spawn().with_context(|| format!("starting {line}"))?;
        self.child = Some((child, since));
        let answered = self.target()?.first_answer(since, START_MAX);
        answered.map_err(|e| anyhow!("{e:#}\nit was started by: {line}\n{}", self.log_tail()))
    }

    pub fn target(&self) -> Result<Target> {
        let (child, _) = self.child.as_ref().with_context(|| format!("{} is not running", self.name()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[0]));
        Ok(Target::new(self.name(), address, vec![child.id()]))
    }

    /// Asks it to end and waits; a server that does not is killed, and that is an error.
    pub fn stop(&mut self) -> Result<()> {
        let Some((mut child, _)) = self.child.take() else { return Ok(()) };
        // SAFETY: the child is ours and not reaped, so the id is its own.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        let asked = Instant::now();
        while child.try_wait()?.is_none() {
            if asked.elapsed() > STOP_MAX {
                child.kill()?;
                child.wait()?;
                bail!("{} did not end {STOP_MAX:?} after SIGTERM", self.name());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.data.join("output.log")
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.child.take() {
            // Nothing more can be done about a child that cannot be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() || std::env::var_os("NETSY_BENCH_KEEP").is_some() {
            return;
        }
        if let Err(e) = std::fs::remove_dir_all(&self.data) {
            eprintln!("netsy-bench: cannot remove {}: {e}", self.data.display());
        }
    }
}
