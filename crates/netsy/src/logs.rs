//! Structured logs on standard error.

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use std::borrow::Cow;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The library that speaks with object storage tells of each try of each call, several a second while the store is out,
/// at the level info. That storage is out netsy says itself.
const STORE_CLIENT: &str = "object_store";

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
    let filter = EnvFilter::try_new(without_tries(&args.log))
        .with_context(|| format!("log filter {:?} (--log, NETSY_LOG)", args.log))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let started = match args.log_format {
        LogFormat::Text => builder.with_target(true).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|e| anyhow!("logs: {e}"))
}

/// The filter, with the library's lines from warnings on where it would show more and does not name the library.
fn without_tries(filter: &str) -> Cow<'_, str> {
    // What a filter has for everything that it does not name: its last bare level.
    let rest = filter.split(',').filter_map(|part| part.parse::<LevelFilter>().ok()).next_back();
    if filter.contains(STORE_CLIENT) || rest.is_none_or(|rest| rest <= LevelFilter::WARN) {
        return filter.into();
    }
    format!("{filter},{STORE_CLIENT}=warn").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Which of these lines are shown: the library's at info and warn, another's at info and warn.
    fn shown(filter: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::try_new(without_tries(filter)).expect("a filter"))
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "object_store::client::retry", "<library-info>");
            tracing::warn!(target: "object_store::client::retry", "<library-warn>");
            tracing::info!(target: "netsy_node", "<info>");
            tracing::warn!(target: "netsy_node", "<warn>");
        });
        let text = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("text");
        let all = ["<library-info>", "<library-warn>", "<info>", "<warn>"];
        all.into_iter().filter(|line| text.contains(line)).collect()
    }

    #[test]
    fn tries_of_calls_to_the_store_are_shown_to_who_asks_for_them() {
        for filter in ["info", "debug", "info,netsy_objects=debug", "netsy_peer=debug,info", "INFO", "3"] {
            assert_eq!(shown(filter), "<library-warn><info><warn>", "{filter}");
        }
        assert_eq!(shown("info,object_store=info"), "<library-info><library-warn><info><warn>");
        assert_eq!(shown("warn,object_store::client=info"), "<library-info><library-warn><warn>");
        // No more than was asked for.
        assert_eq!(shown("error"), "");
        assert_eq!(shown("warn"), "<library-warn><warn>");
        assert_eq!(shown("netsy_node=info"), "<info><warn>");
        assert_eq!(shown("info,object_store=off"), "<info><warn>");
    }
}
