//! `netsy recover`: going on after the loss of a quorum (R12).

use super::node_client::{NodeArgs, described, log_end, say, short};
use anyhow::{Context, ensure};
use clap::Args;
use netsy_api::operator::{ClusterView, NodeView, RecoverRequest, RecoverResponse};

#[derive(Args)]
pub struct RecoverArgs {
    /// Nodes whose data folders, with which they vote, are gone for good. A node that lost its disk and runs again with a
    /// new database is named, too: what voted is gone.
    #[arg(long, value_delimiter = ',', required = true, value_name = "NODE")]
    lost: Vec<String>,
    /// Does it. What to give here is told by the same command without it: it fits one cluster in one term, once.
    #[arg(long, value_name = "CLUSTER/TERM")]
    confirm: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

pub fn run(args: &RecoverArgs) -> anyhow::Result<()> {
    let confirm = args.confirm.clone().unwrap_or_default();
    ensure!(args.confirm.is_none() || !confirm.is_empty(), "--confirm is empty: run the command without it first");
    let question = RecoverRequest { lost: args.lost.clone(), confirm };
    let answer: RecoverResponse = args.node.ask("Recover", &question)?;
    let view = answer.view.clone().context("the node's answer says nothing of the cluster")?;
    if args.confirm.is_some() { say(&done(&view)) } else { say(&plan(args, &view, &answer)) }
}

/// What becomes of a database that the cluster waits for.
fn fate(node: &NodeView, wanted: &str, given_up: bool) -> String {
    let other = !node.database.is_empty() && node.database != wanted;
    match (given_up, node.answers) {
        (true, true) if other => {
            format!("given up; runs with another database, {}, which does not count", short(&node.database))
        }
        (true, _) => "given up; does not answer".to_string(),
        (false, true) if !other => match node.log_end {
            Some(end) => format!("answers; its log ends at entry {end}"),
            None => "answers".to_string(),
        },
        (false, _) => "does not answer with this database: it must, or be given up, too".to_string(),
    }
}

/// It votes, or a recovery kept its log, and it does not answer with that database.
fn must_come(node: &NodeView) -> bool {
    let wanted = [&node.voting_database, &node.kept_database];
    wanted.into_iter().any(|wanted| !wanted.is_empty() && (!node.answers || node.database != *wanted))
}

fn plan(args: &RecoverArgs, view: &ClusterView, answer: &RecoverResponse) -> String {
    let mut out = format!("{}\nVoters, and the databases they vote with:\n", described(view));
    for node in view.nodes.iter().filter(|n| !n.voting_database.is_empty()) {
        let given_up = args.lost.contains(&node.node_id);
        let fate = fate(node, &node.voting_database, given_up);
        out.push_str(&format!("  {}  {}  {fate}\n", node.node_id, short(&node.voting_database)));
    }
    if let Some(node) = view.nodes.iter().find(|n| !n.kept_database.is_empty()) {
        let fate = fate(node, &node.kept_database, args.lost.contains(&node.node_id));
        out.push_str(&format!(
            "\nThe last recovery kept the log of this node, and no Primary has served with it yet, so that it is \
             waited for like a voter:\n  {}  {}  {fate}\n",
            node.node_id,
            short(&node.kept_database),
        ));
    }
    let object_log = answer.object_log.unwrap_or_default();
    let own = view.own_log.unwrap_or_default();
    let known = if own.index > object_log.index { own } else { object_log };
    let needed: Vec<&str> = view
        .nodes
        .iter()
        .filter(|n| !args.lost.contains(&n.node_id) && must_come(n))
        .map(|n| n.node_id.as_str())
        .collect();
    if !needed.is_empty() {
        out.push_str(&format!(
            "\nThat is not enough: {} must answer with the database named here, or be given up, too. Nothing was done.\n",
            needed.join(", ")
        ));
        return out;
    }
    out.push_str(&format!(
        "\nIf {} {} given up, the cluster goes on from the longer of what is left:\n\
         \x20 object log  {} ({})\n\
         \x20 {}  {}\n\
         \x20 and the logs of the other nodes that answer then.\n\
         \n\
         Kept: everything up to {} at least.\n\
         Lost: what was acknowledged after that and was on the disks given up only; how much that is nobody can tell \
         any more. At most, all that was acknowledged between that entry and the moment the quorum was lost; if a log \
         that is left is of an older term than those lost, also what they had of later terms. Clients have \
         been told that those writes are done; revisions after it will be given out a second time, so watchers should list \
         anew. A data folder that turns up later is set aside by its node, not merged.\n\
         \n\
         Nothing was done. If the disks can still be brought back, do that instead. To go on without them:\n\
         \n\
         \x20 netsy recover --lost {} --confirm {} {}\n",
        args.lost.join(", "),
        if args.lost.len() == 1 { "is" } else { "are" },
        log_end(&object_log),
        view.store,
        view.seen_by,
        log_end(&own),
        log_end(&known),
        args.lost.join(","),
        answer.confirm,
        args.node.as_options(),
    ));
    out
}

fn done(view: &ClusterView) -> String {
    let recovered = view.recovered.unwrap_or_default();
    let kept = recovered.kept.unwrap_or_default();
    format!(
        "The cluster serves again: term {}, Primary {}.\n\
         Kept: everything up to {}.\n\
         Lost: whatever was acknowledged after entry {} in terms before {}; if the log that was kept was of an older \
         term than one that was lost, also what was acknowledged in the terms between. cluster.json says so, too \
         (\"recovered\").\n",
        view.term,
        view.primary,
        log_end(&kept),
        kept.index,
        recovered.term,
    )
}
