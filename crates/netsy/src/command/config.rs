//! `netsy config check`.

use super::node_client::say;
use crate::config::{self, Source};
use anyhow::anyhow;
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Checks a cluster file and prints the effective configuration, with where each value came from.
    Check {
        /// The cluster's JSONC file.
        #[arg(long, env = "NETSY_CONFIG", value_name = "FILE")]
        config: PathBuf,
    },
}

pub fn run(command: ConfigCommand) -> anyhow::Result<()> {
    let ConfigCommand::Check { config } = command;
    let loaded = config::load(&config).map_err(|e| anyhow!("{e}"))?;
    let width = loaded.effective.iter().map(|e| e.key.len()).max().unwrap_or(0);
    let mut lines = String::new();
    for line in &loaded.effective {
        let source = match line.source {
            Source::Default => "default",
            Source::File => "file",
        };
        lines.push_str(&format!("{:width$}  {:24}  ({source})\n", line.key, line.value));
    }
    say(&lines)?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}
