//! `netsy member`: the nodes of a running cluster.

use super::node_client::{NodeArgs, described, say, short};
use clap::{Args, Subcommand};
use netsy_api::operator::{ClusterRequest, ClusterView, MovePrimaryRequest, NodeView, RemoveNodeRequest};
use std::time::{Duration, Instant};

/// A new Primary is waited for this long.
const TAKES_OVER_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

#[derive(Subcommand)]
pub enum MemberCommand {
    /// Lists the nodes as the node that is asked sees them.
    List(ListArgs),
    /// Has another node be Primary: writes pause for a moment, none is lost.
    MovePrimary(MoveArgs),
    /// Takes a node out that does not run any more. One that runs leaves by itself when it is stopped (SIGTERM).
    Remove(RemoveArgs),
}

#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Args)]
pub struct MoveArgs {
    /// The node that is to be Primary; by default whichever is best.
    to: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Args)]
pub struct RemoveArgs {
    /// The node's name.
    name: String,
    #[command(flatten)]
    node: NodeArgs,
}

pub fn run(command: MemberCommand) -> anyhow::Result<()> {
    match command {
        MemberCommand::List(args) => {
            let view: ClusterView = args.node.ask("Cluster", &ClusterRequest {})?;
            say(&format!("{}\n{}", described(&view), table(&view)))
        }
        MemberCommand::MovePrimary(args) => {
            let question = MovePrimaryRequest { to: args.to.unwrap_or_default() };
            let mut view: ClusterView = args.node.ask("MovePrimary", &question)?;
            // The node that is asked may not know yet what the old Primary does.
            let (asked, term) = (Instant::now(), view.term);
            while (view.primary.is_empty() || view.term < term) && asked.elapsed() < TAKES_OVER_WITHIN {
                std::thread::sleep(LOOK_PAUSE);
                view = args.node.ask("Cluster", &ClusterRequest {})?;
            }
            match view.primary.as_str() {
                "" => say(&format!("the Primary gave its term up, and {} does not see another yet\n", view.seen_by)),
                primary => say(&format!("{primary} is Primary, term {}\n", view.term)),
            }
        }
        MemberCommand::Remove(args) => {
            let view: ClusterView = args.node.ask("RemoveNode", &RemoveNodeRequest { node_id: args.name.clone() })?;
            say(&format!("{} is taken out of cluster {}\n\n{}", args.name, view.cluster_id, table(&view)))
        }
    }
}

/// What a node does, as far as the one that was asked can tell.
fn role(view: &ClusterView, node: &NodeView) -> &'static str {
    let votes = !node.voting_database.is_empty();
    if view.primary == node.node_id {
        "Primary"
    } else if votes && node.voting_database != node.database {
        // R11: another database runs under the voter's name.
        "voter's database missing"
    } else if votes {
        "voter"
    } else if node.stopped {
        "stopped"
    } else {
        "learner"
    }
}

fn table(view: &ClusterView) -> String {
    let width = view.nodes.iter().map(|n| n.node_id.len()).max().unwrap_or(0).max(4);
    let mut out =
        format!("{:width$}  {:24}  {:9}  {:8}  {:16}  CLIENTS\n", "NODE", "ROLE", "CONNECTED", "DATABASE", "MEMBER ID");
    for node in &view.nodes {
        out.push_str(&format!(
            "{:width$}  {:24}  {:9}  {:8}  {:16x}  {}\n",
            node.node_id,
            role(view, node),
            if node.answers { "yes" } else { "no" },
            short(&node.database),
            node.member_id,
            node.client_urls.join(",")
        ));
    }
    out
}
