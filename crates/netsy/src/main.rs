//! The program: command line, configuration, logs, signals. Nothing here that a library could own.

mod command;
mod config;
mod logs;
mod memory;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A replicated key-value database that speaks the etcd v3 API and keeps its data in object storage.
#[derive(Parser)]
#[command(name = "netsy", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "made once")]
enum Command {
    /// Starts a node for trying things out: object store and database in one folder, loopback only.
    Dev(command::dev::DevArgs),
    /// Starts a node of a cluster.
    Server(command::server::ServerArgs),
    /// Lists the nodes of a running cluster, moves the Primary, takes nodes out that are gone.
    #[command(subcommand)]
    Member(command::member::MemberCommand),
    /// Shows and changes what a running cluster goes by: quorum and copies_min.
    #[command(subcommand)]
    Cluster(command::cluster::ClusterCommand),
    /// After the loss of a quorum for good: says what is lost and, once confirmed, goes on without it.
    Recover(command::recover::RecoverArgs),
    /// Works with the cluster file.
    #[command(subcommand)]
    Config(command::config::ConfigCommand),
    /// Makes certificates for trying things out: a CA, and those of nodes and clients.
    #[command(subcommand)]
    Certs(command::certs::CertsCommand),
    /// Prints one of netsy's files: a path or an object URL (s3://, gs://, file://).
    Inspect(command::inspect::InspectArgs),
    /// Lists the places at which NETSY_FAILPOINT can end the process.
    #[command(hide = true)]
    Failpoints,
    #[cfg(feature = "crashfs")]
    /// Takes back whatever a killed node had written to a folder and not synced.
    #[command(hide = true)]
    CrashfsRecover { dir: std::path::PathBuf },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Dev(args) => command::dev::run(args),
        Command::Server(args) => command::server::run(args),
        Command::Member(args) => command::member::run(args),
        Command::Cluster(args) => command::cluster::run(args),
        Command::Recover(args) => command::recover::run(&args),
        Command::Config(args) => command::config::run(args),
        Command::Certs(args) => command::certs::run(args),
        Command::Inspect(args) => command::inspect::run(args),
        Command::Failpoints => {
            for name in netsy_node::failpoint::NAMES {
                println!("{name}");
            }
            Ok(())
        }
        #[cfg(feature = "crashfs")]
        Command::CrashfsRecover { dir } => command::crashfs::recover(&dir),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netsy: {}", in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what is behind it, in one line. Some errors name their cause themselves: it is said once.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::in_one_line;
    use anyhow::Context;

    #[test]
    fn a_cause_that_was_named_already_is_not_said_again() {
        let disk = || std::io::Error::other("disk full");
        let names_it = Err::<(), _>(disk()).context("making the folder: disk full: make room").unwrap_err();
        assert_eq!(in_one_line(&names_it), "making the folder: disk full: make room");
        let names_it_not = Err::<(), _>(disk()).context("making the folder").unwrap_err();
        assert_eq!(in_one_line(&names_it_not), "making the folder: disk full");
    }
}
