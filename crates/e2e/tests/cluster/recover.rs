//! R12: a quorum that is gone for good, and `netsy recover`.

use netsy_e2e::nodes::Nodes;
use netsy_e2e::{Client, Server};
use std::time::Duration;

/// Uploads are far apart, so that acknowledged writes are on disks only.
const LATE_UPLOADS: &str =
    "\"replication\": { \"chunk_buffer\": { \"threshold_age\": \"60s\" }, \"copies_min\": {copies} },";

fn late_uploads(copies: u8) -> String {
    LATE_UPLOADS.replace("{copies}", &copies.to_string())
}

/// What `netsy recover` says to confirm with.
fn word(plan: &str) -> String {
    let (_, rest) = plan.rsplit_once("--confirm ").unwrap_or_else(|| panic!("no word to confirm with in:\n{plan}"));
    rest.split_whitespace().next().expect("a word").to_owned()
}

async fn halted(server: &mut Server) -> String {
    for _ in 0..600 {
        let log = server.log_tail();
        if let Some(line) = log.lines().rev().find(|line| line.contains("quorum lost")) {
            return line.to_owned();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it does not say that quorum is lost:\n{}", server.log_tail());
}

/// Waits until the node's plan is what a test can go on from: nodes may still be starting.
async fn plan(nodes: &Nodes, asked: usize, lost: &str) -> String {
    let mut said = String::new();
    for _ in 0..200 {
        match nodes.command(asked, &["recover", "--lost", lost]) {
            Ok(plan) if plan.contains("--confirm ") => return plan,
            Ok(other) | Err(other) => said = other,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no plan: {said}");
}

fn kept(said: &str) -> u64 {
    let (_, rest) = said.split_once("Kept: everything up to entry ").unwrap_or_else(|| panic!("{said}"));
    rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).expect("an entry's number")
}

#[tokio::test]
async fn a_cluster_that_lost_all_its_disks_goes_on_at_an_operators_word_only() {
    if netsy_e2e::Kind::under_test() != netsy_e2e::Kind::Netsy {
        return;
    }
    let mut nodes = Nodes::new(3, &late_uploads(2));
    nodes.start().await;
    nodes.await_voters(1, 3).await;
    let client = nodes.node(1).client().await;
    client.put("uploaded", "yes").await;
    // Whatever there is goes into the bucket with a change of the quorum.
    for quorum in ["0", "-1"] {
        nodes.command(1, &["cluster", "set", "--quorum", quorum]).expect("set");
    }
    let before = client.put("uploaded", "again").await;
    nodes.command(1, &["cluster", "set", "--quorum", "0"]).expect("set");
    nodes.command(1, &["cluster", "set", "--quorum", "-1"]).expect("set");
    for number in 0..5 {
        client.put(format!("on-disks-only-{number}"), "x").await;
    }
    nodes.kill_all();
    for number in 1..=3 {
        nodes.node(number).wipe_local_database();
    }
    nodes.spawn();
    let text = halted(nodes.node(2)).await;
    assert!(text.contains("netsy recover --lost"), "{text}");
    assert!(text.contains("another database"), "{text}");
    // It waits, however long: nothing but the operator ends this.
    let refused = Client::try_connect(&nodes.node(2).url()).await.expect("connect").try_get("uploaded").await;
    assert!(refused.is_err(), "{refused:?}");

    let plan = plan(&nodes, 2, "n1,n2,n3").await;
    assert!(plan.contains("Nothing was done."), "{plan}");
    let word = word(&plan);
    // Half of it, another cluster, another term, a stranger: nothing is done.
    let half = nodes.command(2, &["recover", "--lost", "n1"]).expect("explains");
    assert!(half.contains("That is not enough"), "{half}");
    for wrong in ["other/1", "e2e/77"] {
        let refused = nodes.command(2, &["recover", "--lost", "n1,n2,n3", "--confirm", wrong]).expect_err("refused");
        assert!(refused.contains("does not fit"), "{refused}");
    }
    let stranger = nodes.command(2, &["recover", "--lost", "n9", "--confirm", &word]).expect_err("refused");
    assert!(stranger.contains("n9 is no voter"), "{stranger}");

    let said = nodes.command(3, &["recover", "--lost", "n1,n2,n3", "--confirm", &word]).expect("recovered");
    assert!(said.contains("The cluster serves again"), "{said}");
    let kept = kept(&said);
    let manifest = std::fs::read_to_string(nodes.store().join("cluster.json")).expect("cluster.json");
    assert!(manifest.contains("\"recovered\""), "{manifest}");
    // Twice does nothing.
    let twice = nodes.command(3, &["recover", "--lost", "n1,n2,n3", "--confirm", &word]).expect_err("refused");
    assert!(twice.contains("does not fit"), "{twice}");
    let nothing = nodes.command(3, &["recover", "--lost", "n1"]).expect_err("nothing to recover");
    assert!(nothing.contains("there is nothing to recover"), "{nothing}");
    // What was uploaded is there, what was not is gone, and all nodes agree and take part.
    for number in 1..=3 {
        nodes.node(number).await_ready().await;
        let client = nodes.node(number).client().await;
        assert_eq!(client.get("uploaded").await.expect("kept").value, b"again"[..], "n{number}");
        assert!(client.get("on-disks-only-4").await.is_none(), "n{number}");
    }
    assert!(said.contains(&format!("entry {kept}, revision {before},")), "{said}");
    nodes.await_voters(1, 3).await;
    nodes.node(2).client().await.put("after", "x").await;
}

#[tokio::test]
async fn a_lone_node_that_acknowledged_from_its_own_disk_and_lost_it_goes_on_at_an_operators_word() {
    if netsy_e2e::Kind::under_test() != netsy_e2e::Kind::Netsy {
        return;
    }
    let mut nodes = Nodes::new(1, &late_uploads(1));
    nodes.start().await;
    let client = nodes.node(1).client().await;
    client.put("k", "on its disk only").await;
    nodes.kill_all();
    nodes.node(1).wipe_local_database();
    nodes.spawn();
    let text = halted(nodes.node(1)).await;
    assert!(text.contains("netsy recover --lost n1") && text.contains("another database"), "{text}");
    let plan = plan(&nodes, 1, "n1").await;
    let said = nodes.command(1, &["recover", "--lost", "n1", "--confirm", &word(&plan)]).expect("recovered");
    assert_eq!(kept(&said), 0, "{said}");
    nodes.node(1).await_ready().await;
    let client = nodes.node(1).client().await;
    assert!(client.get("k").await.is_none());
    client.put("k", "anew").await;
}

#[tokio::test]
async fn a_node_that_was_given_up_and_comes_back_starts_anew() {
    if netsy_e2e::Kind::under_test() != netsy_e2e::Kind::Netsy {
        return;
    }
    let mut nodes = Nodes::new(3, &late_uploads(2));
    nodes.start().await;
    nodes.await_voters(1, 3).await;
    let client = nodes.node(1).client().await;
    client.put("kept", "x").await;
    // n2 and n3 have what n1, which is killed first, lacks.
    if nodes.primary().await == 1 {
        nodes.command(1, &["member", "move-primary", "n2"]).expect("moved");
    }
    nodes.node(1).kill();
    let client = nodes.node(2).client().await;
    for number in 0..20 {
        client.put(format!("given-up-{number}"), "x").await;
    }
    nodes.kill_all();
    nodes.node(1).spawn();
    let text = halted(nodes.node(1)).await;
    assert!(text.contains("does not answer"), "{text}");
    let plan = plan(&nodes, 1, "n2,n3").await;
    let word = word(&plan);
    // A voter that answers after all is not given up.
    nodes.node(2).spawn();
    nodes.node(1).await_ready().await;
    let refused = nodes.command(1, &["recover", "--lost", "n2,n3", "--confirm", &word]).expect_err("n2 is back");
    assert!(refused.contains("does not fit") || refused.contains("nothing to recover"), "{refused}");
    assert!(nodes.node(1).client().await.get("given-up-19").await.is_some());
    // Now for good.
    nodes.kill_all();
    nodes.node(1).spawn();
    // Its log was brought up to date, so n1 is wiped: it has what the bucket has.
    nodes.node(1).kill();
    nodes.node(1).wipe_local_database();
    nodes.node(1).spawn();
    halted(nodes.node(1)).await;
    let plan = self::plan(&nodes, 1, "n1,n2,n3").await;
    nodes.command(1, &["recover", "--lost", "n1,n2,n3", "--confirm", &self::word(&plan)]).expect("recovered");
    nodes.node(1).await_ready().await;
    let client = nodes.node(1).client().await;
    let lost = client.get("given-up-19").await.is_none();
    client.put("new history", "x").await;
    // n2 comes back with its old data folder: its log is set aside where it was given up.
    nodes.node(2).spawn();
    nodes.node(2).await_ready().await;
    let client = nodes.node(2).client().await;
    assert!(client.get("new history").await.is_some());
    assert_eq!(client.get("given-up-19").await.is_none(), lost);
    nodes.await_voters(2, 2).await;
}

#[tokio::test]
async fn a_node_whose_log_a_recovery_kept_is_waited_for_until_it_is_given_up_too() {
    if netsy_e2e::Kind::under_test() != netsy_e2e::Kind::Netsy {
        return;
    }
    let mut nodes = Nodes::new(3, "");
    nodes.start().await;
    nodes.await_voters(1, 3).await;
    nodes.node(1).client().await.put("k", "v").await;
    nodes.kill_all();
    // As a recovery leaves it whose Primary, no voter, ended before it had served (docs/decisions/0009).
    let manifest = nodes.store().join("cluster.json");
    let text = std::fs::read_to_string(&manifest).expect("cluster.json");
    let mut noted: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut kept = noted["voters"][0].clone();
    kept["node_id"] = "n4".into();
    noted["kept"] = kept;
    std::fs::write(&manifest, noted.to_string()).expect("cluster.json");
    nodes.spawn();
    let text = halted(nodes.node(1)).await;
    assert!(text.contains("n4 (does not answer, and has the log that a recovery kept)"), "{text}");
    assert!(text.contains("netsy recover --lost n4"), "{text}");
    let stranger = nodes.command(1, &["recover", "--lost", "n9"]).expect_err("refused");
    assert!(stranger.contains("the last recovery kept the log of n4"), "{stranger}");
    let plan = plan(&nodes, 1, "n4").await;
    assert!(plan.contains("The last recovery kept the log of this node"), "{plan}");
    assert!(
        plan.lines().any(|line| line.starts_with("  n4  ") && line.ends_with("given up; does not answer")),
        "{plan}"
    );
    let said = nodes.command(2, &["recover", "--lost", "n4", "--confirm", &word(&plan)]).expect("recovered");
    assert!(said.contains("The cluster serves again"), "{said}");
    nodes.node(3).await_ready().await;
    assert_eq!(nodes.node(3).client().await.get("k").await.expect("kept").value, b"v"[..]);
}
