//! One node's process, over all its lives.

use crate::net::Net;
use anyhow::{Context, Result, bail, ensure};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How to start it.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Added to its environment.
    pub env: Vec<(String, String)>,
}

/// A process and its log.
pub struct Process {
    node: usize,
    launch: Launch,
    log: PathBuf,
    child: Option<Child>,
    paused: bool,
    /// Starts so far.
    pub lives: u64,
}

impl Process {
    /// Not started.
    pub fn new(node: usize, launch: Launch, log: PathBuf) -> Self {
        Self { node, launch, log, child: None, paused: false, lives: 0 }
    }

    /// Starts it and does not wait.
    pub fn start(&mut self, net: &Net) -> Result<()> {
        ensure!(self.child.is_none(), "node {} runs already", self.node + 1);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.launch.program);
        command
            .args(&self.launch.args)
            .envs(self.launch.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        net.place(&mut command, self.node);
        // SAFETY: prctl is async-signal-safe.
        unsafe {
            // The kernel ends the node when the thread that started it ends, however that happens.
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().with_context(|| format!("start {}", self.launch.program.display()))?;
        self.child = Some(child);
        self.lives += 1;
        Ok(())
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.paused = false;
        if let Some(mut child) = self.child.take() {
            // An error means that it is gone already.
            let _ = child.kill();
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM; does not wait.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(libc::SIGTERM)
    }

    /// SIGSTOP.
    pub fn pause(&mut self) -> Result<()> {
        self.paused = true;
        self.signal(libc::SIGSTOP)
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        if std::mem::take(&mut self.paused) { self.signal(libc::SIGCONT) } else { Ok(()) }
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // SAFETY: kill takes two numbers; the process is our child, not yet waited for.
        if unsafe { libc::kill(pid as i32, signal) } != 0 {
            bail!("signal {signal} to node {}: {}", self.node + 1, std::io::Error::last_os_error());
        }
        Ok(())
    }

    /// Its id, between start and kill.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Started and not known to have ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// Waits for it to end by itself. `None`: it still runs.
    pub async fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        while let Some(child) = &mut self.child {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(Some(status));
            }
            if start.elapsed() > limit {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(None)
    }

    /// Where it logs to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The end of its log.
    pub fn log_tail(&self, bytes: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(bytes)..]).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing more can be done about one that cannot be killed.
        let _ = self.kill();
    }
}
