//! What an operator does with the netsy program.

use crate::cluster::{Cluster, name};
use anyhow::{Context, Result, bail};
use std::time::Duration;
use tokio::process::Command;

/// A command that waits for the cluster says itself when it gives up; this is for one that does not.
const COMMAND_WITHIN: Duration = Duration::from_secs(90);

/// R12: gives the databases of these nodes up. The command is asked what it would do, and then told to do that.
pub async fn recover(cluster: &Cluster, at: usize, lost: &[usize]) -> Result<()> {
    let lost: Vec<String> = lost.iter().map(|node| name(*node)).collect();
    let endpoint = cluster.nodes[at].view.address.to_string();
    let ask = ["recover", "--lost", &lost.join(","), "--endpoints", &endpoint].map(str::to_owned);
    let explained = run(cluster, &ask).await?;
    // Its last line is the command that does it.
    let command = explained.trim_end().lines().last().unwrap_or_default();
    let Some(args) = command.trim().strip_prefix("netsy ").filter(|args| args.contains("--confirm")) else {
        bail!("netsy recover does not say how it is confirmed: {explained}");
    };
    run(cluster, &args.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).await?;
    Ok(())
}

async fn run(cluster: &Cluster, args: &[String]) -> Result<String> {
    let done = Command::new(&cluster.netsy).args(args).kill_on_drop(true).output();
    let output =
        tokio::time::timeout(COMMAND_WITHIN, done).await.with_context(|| format!("netsy {args:?}: no end"))??;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("netsy {}: {}: {out}{}", args.join(" "), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(out)
}
