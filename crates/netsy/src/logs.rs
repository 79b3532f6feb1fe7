//! Structured logs on standard error.

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What to log: a level (error, warn, info, debug, trace) or a filter like "info,netsy_objects=debug".
    #[arg(long, env = "NETSY_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How to write it.
    #[arg(long, env = "NETSY_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// To be called once, before anything is logged.
pub fn start(args: &LogArgs) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&args.log).with_context(|| format!("log filter {:?} (--log, NETSY_LOG)", args.log))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let started = match args.log_format {
        LogFormat::Text => builder.with_target(true).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|e| anyhow!("logs: {e}"))
}
