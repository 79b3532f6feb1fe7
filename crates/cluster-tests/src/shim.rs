//! What is told to the library that is preloaded into nodes (`shim/shim.c`): slow fsyncs, a wrong clock.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("../shim/shim.c");

/// The built library.
pub struct Shim {
    library: PathBuf,
}

impl Shim {
    /// Builds it into a folder; needs a C compiler.
    pub fn build(folder: &Path) -> Result<Self> {
        let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
        std::fs::write(&source, SOURCE)?;
        let mut command = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let output = command.output().context("run the C compiler (CC)")?;
        if !output.status.success() {
            bail!("the C compiler: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Self { library })
    }

    /// What a node's environment must hold.
    pub fn environment(&self, told: &Told) -> [(String, String); 2] {
        [
            ("LD_PRELOAD".to_owned(), self.library.display().to_string()),
            ("NETSY_SHIM_FILE".to_owned(), told.path.display().to_string()),
        ]
    }
}

/// What one node is told.
pub struct Told {
    path: PathBuf,
    fsync_delay_us: i64,
    clock_offset_ns: i64,
}

impl Told {
    /// Nothing.
    pub fn new(path: PathBuf) -> Result<Self> {
        let told = Self { path, fsync_delay_us: 0, clock_offset_ns: 0 };
        told.write()?;
        Ok(told)
    }

    /// Each fsync takes so much longer.
    pub fn set_fsync_delay(&mut self, milliseconds: u64) -> Result<()> {
        self.fsync_delay_us = i64::try_from(milliseconds)?.saturating_mul(1000);
        self.write()
    }

    /// The wall clock is so far ahead.
    pub fn set_clock_offset(&mut self, seconds: f64) -> Result<()> {
        self.clock_offset_ns = (seconds * 1e9) as i64;
        self.write()
    }

    fn write(&self) -> Result<()> {
        use std::io::Write;
        // In place: the node has the file mapped.
        let mut file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
        let mut bytes = self.fsync_delay_us.to_ne_bytes().to_vec();
        bytes.extend(self.clock_offset_ns.to_ne_bytes());
        file.write_all(&bytes).with_context(|| format!("write {}", self.path.display()))
    }
}
