//! `netsy cluster`: what a running cluster goes by.

use super::node_client::{NodeArgs, described, say};
use anyhow::ensure;
use clap::{Args, Subcommand};
use netsy_api::operator::{ClusterRequest, ClusterView, SetClusterRequest};

#[derive(Subcommand)]
pub enum ClusterCommand {
    /// Shows what is in force.
    Show(ShowArgs),
    /// Changes it, while requests go on. The cluster file has no say in these once the cluster is made: change it, too,
    /// so that it says what is so.
    Set(SetArgs),
}

#[derive(Args)]
pub struct ShowArgs {
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Args)]
pub struct SetArgs {
    /// replication.quorum: -1 majority, 0 object storage, N replica receipts.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    quorum: Option<i32>,
    /// replication.copies_min: fewest disks a write is on before it is acknowledged without the bucket.
    #[arg(long, value_name = "N")]
    copies_min: Option<u32>,
    #[command(flatten)]
    node: NodeArgs,
}

pub fn run(command: ClusterCommand) -> anyhow::Result<()> {
    let view: ClusterView = match command {
        ClusterCommand::Show(args) => args.node.ask("Cluster", &ClusterRequest {})?,
        ClusterCommand::Set(SetArgs { quorum, copies_min, node }) => {
            ensure!(quorum.is_some() || copies_min.is_some(), "nothing to set: give --quorum or --copies-min");
            node.ask("SetCluster", &SetClusterRequest { quorum, copies_min })?
        }
    };
    say(&described(&view))
}
