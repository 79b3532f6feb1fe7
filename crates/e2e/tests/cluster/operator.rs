//! Moving the Primary, changing settings, taking nodes out: by netsy's commands and by etcd's API.

use netsy_api::etcdserverpb as pb;
use netsy_e2e::nodes::Nodes;
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn the_primary_moves_on_request_and_no_write_is_lost() {
    if netsy_e2e::Kind::under_test() != netsy_e2e::Kind::Netsy {
        return;
    }
    let mut nodes = Nodes::new(3, "");
    nodes.start().await;
    nodes.await_voters(1, 3).await;
    let client = nodes.node(1).client().await;
    let writer = tokio::spawn(async move {
        let mut written = 0;
        for number in 0.. {
            client.put("counter", number.to_string()).await;
            written = number;
            if number >= 400 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        written
    });
    for _ in 0..2 {
        let before = nodes.primary().await;
        let to = before % 3 + 1;
        // Any node passes it on.
        let other = to % 3 + 1;
        let said = nodes.command(other, &["member", "move-primary", &format!("n{to}")]).expect("moved");
        assert!(said.contains(&format!("n{to} is Primary")), "{said}");
        assert_eq!(nodes.primary().await, to);
    }
    // etcd's call: to the leader only, by member id.
    let leader = nodes.primary().await;
    let client = nodes.node(leader).client().await;
    let list = client.cluster().member_list(pb::MemberListRequest { linearizable: true }).await.expect("list");
    let member = |name: String| list.get_ref().members.iter().find(|m| m.name == name).expect("a member").id;
    let target = leader % 3 + 1;
    let request = pb::MoveLeaderRequest { target_id: member(format!("n{target}")) };
    let wrong = nodes.node(target).client().await.maintenance().move_leader(request).await.expect_err("not leader");
    assert_eq!((wrong.code(), wrong.message()), (Code::FailedPrecondition, "etcdserver: not leader"));
    let nobody = client.maintenance().move_leader(pb::MoveLeaderRequest { target_id: 77 }).await.expect_err("nobody");
    assert_eq!(nobody.message(), "etcdserver: bad leader transferee");
    // A voter that follows the new Primary since a moment ago may not have caught up: then it is asked again.
    let began = std::time::Instant::now();
    while let Err(refused) = client.maintenance().move_leader(request).await {
        assert_eq!(refused.message(), "netsy: the Primary stays: no such voter has caught up");
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "it never caught up");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert_eq!(nodes.primary().await, target);
    let last = writer.await.expect("every write succeeds");
    for number in 1..=3 {
        let found = nodes.node(number).client().await.get("counter").await.expect("there");
        assert_eq!(found.value, last.to_string().as_bytes(), "n{number}");
    }
    let refused = nodes.command(1, &["member", "move-primary", "n9"]).expect_err("no such node");
    assert!(refused.contains("no such voter"), "{refused}");
}

#[tokio::test]
async fn settings_are_changed_while_the_cluster_serves() {
    if netsy_e2e::Kind::under_test() != netsy_e2e::Kind::Netsy {
        return;
    }
    let mut nodes = Nodes::new(3, "");
    nodes.start().await;
    nodes.await_voters(2, 3).await;
    let shown = nodes.command(2, &["cluster", "show"]).expect("shown");
    assert!(shown.contains("quorum -1, copies_min 2: a write is acknowledged once 2 of 3 nodes"), "{shown}");
    // Through a node that is not the Primary, too.
    for number in 1..=3 {
        let quorum = if number == 2 { "-1" } else { "0" };
        let set = nodes.command(number, &["cluster", "set", "--quorum", quorum]).expect("set");
        assert!(set.contains(&format!("quorum {quorum}, ")), "{set}");
        nodes.node(number).client().await.put("k", quorum).await;
    }
    let manifest = std::fs::read_to_string(nodes.store().join("cluster.json")).expect("cluster.json");
    assert!(manifest.contains("\"quorum\": 0"), "{manifest}");
    // Who closes the pipe has seen enough.
    let mut list = std::process::Command::new(netsy_e2e::Kind::Netsy.program());
    list.args(["member", "list", "--endpoints", nodes.node(1).address()]).stdout(std::process::Stdio::piped());
    let mut list = list.stderr(std::process::Stdio::piped()).spawn().expect("start");
    drop(list.stdout.take());
    let ended = list.wait_with_output().expect("its end");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    for wrong in [["--quorum", "5"], ["--quorum", "-2"], ["--copies-min", "0"]] {
        let refused = nodes.command(1, &["cluster", "set", wrong[0], wrong[1]]).expect_err("refused");
        assert!(
            refused.contains("voters_max") || refused.contains("use -1") || refused.contains("from 1"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_node_that_is_gone_is_taken_out_and_one_that_runs_is_not() {
    if netsy_e2e::Kind::under_test() != netsy_e2e::Kind::Netsy {
        return;
    }
    let mut nodes = Nodes::new(3, "");
    nodes.start().await;
    nodes.await_voters(1, 3).await;
    let primary = nodes.primary().await;
    let (gone, other) = (primary % 3 + 1, (primary + 1) % 3 + 1);
    let refused = nodes.command(other, &["member", "remove", &format!("n{gone}")]).expect_err("it runs");
    assert!(refused.contains("is running"), "{refused}");
    let client = nodes.node(other).client().await;
    let list = client.cluster().member_list(pb::MemberListRequest { linearizable: true }).await.expect("list");
    let id = list.get_ref().members.iter().find(|m| m.name == format!("n{gone}")).expect("a member").id;
    let runs = client.cluster().member_remove(pb::MemberRemoveRequest { id }).await.expect_err("it runs");
    assert_eq!(runs.code(), Code::FailedPrecondition, "{runs}");
    // A node tells its own addresses: what it tells is no change, anything else is refused; as etcd finds fault.
    let urls =
        |name: &str| list.get_ref().members.iter().find(|m| m.name == name).expect("a member").peer_ur_ls.clone();
    let own = urls(&format!("n{gone}"));
    let cluster = || client.cluster();
    let update = async |id, peer_ur_ls| cluster().member_update(pb::MemberUpdateRequest { id, peer_ur_ls }).await;
    let same = update(id, own.clone()).await.expect("no change").into_inner();
    assert_eq!(same.members.iter().find(|m| m.id == id).expect("a member").peer_ur_ls, own);
    assert!(same.header.is_some_and(|header| header.member_id != 0 && header.revision == 0), "{:?}", same.header);
    let taken = update(id, urls(&format!("n{primary}"))).await.expect_err("another's");
    let exists = "etcdserver: Peer URLs already exists";
    assert_eq!((taken.code(), taken.message()), (Code::FailedPrecondition, exists));
    for other in [vec!["http://127.0.0.1:1".to_owned()], vec![]] {
        let refused = update(id, other).await.expect_err("not its own");
        let told = format!("n{gone} tells its own addresses, {} at present", own.join(", "));
        assert!(refused.code() == Code::FailedPrecondition && refused.message().contains(&told), "{refused}");
    }
    let promoted = client.cluster().member_promote(pb::MemberPromoteRequest { id }).await.expect_err("a voter");
    assert_eq!(promoted.message(), "etcdserver: can only promote a learner member");
    let unknown = client.cluster().member_remove(pb::MemberRemoveRequest { id: 77 }).await.expect_err("unknown");
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "etcdserver: member not found"));
    let added = client.cluster().member_add(pb::MemberAddRequest::default()).await.expect_err("by itself");
    assert!(added.code() == Code::Unimplemented && added.message().contains("joins by itself"), "{added}");

    nodes.node(gone).kill();
    let mut removed = client.cluster().member_remove(pb::MemberRemoveRequest { id }).await;
    for _ in 0..100 {
        // The Primary may not have seen its connection end yet.
        if removed.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        removed = client.cluster().member_remove(pb::MemberRemoveRequest { id }).await;
    }
    let left: Vec<String> = removed.expect("removed").into_inner().members.into_iter().map(|m| m.name).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(!left.contains(&format!("n{gone}")), "{left:?}");
    nodes.await_voters(other, 2).await;
    client.put("k", "with two").await;
    // Started again it joins again: with its log, and as a voter.
    nodes.node(gone).start_again().await;
    nodes.await_voters(other, 3).await;
    let nobody = nodes.command(other, &["member", "remove", "n9"]).expect_err("nobody");
    assert!(nobody.contains("there is no node n9"), "{nobody}");
}

#[tokio::test]
async fn a_learner_is_not_promoted_by_hand() {
    if netsy_e2e::Kind::under_test() != netsy_e2e::Kind::Netsy {
        return;
    }
    let mut nodes = Nodes::new(2, "\"replication\": { \"voters_max\": 1, \"copies_min\": 1 },");
    nodes.start().await;
    nodes.await_voters(1, 1).await;
    for number in 1..=2 {
        let client = nodes.node(number).client().await;
        let mut learners = vec![];
        for _ in 0..400 {
            let list = client.cluster().member_list(pb::MemberListRequest { linearizable: true }).await.expect("list");
            learners = list.into_inner().members.into_iter().filter(|member| member.is_learner).collect();
            if learners.len() == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let [learner] = learners.as_slice() else { panic!("one learner was to be: {learners:?}") };
        let request = pb::MemberPromoteRequest { id: learner.id };
        let refused = client.cluster().member_promote(request).await.expect_err("there is room for one voter");
        let text = "etcdserver: can only promote a learner member which is in sync with leader";
        assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, text));
    }
}
