//! The real `etcdctl`, end to end. Works with Debian's 3.4 and with newer ones.

use netsy_e2e::Server;
use netsy_e2e::etcdctl::Etcdctl;
use serde_json::Value;
use std::time::Duration;

async fn start() -> (Server, Etcdctl) {
    let server = Server::start().await;
    let ctl = Etcdctl::new(&server);
    (server, ctl)
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[tokio::test]
async fn put() {
    let (_server, ctl) = start().await;
    assert_eq!(ctl.run(&["put", "a", "1"]), "OK\n");
    assert_eq!(ctl.run(&["put", "a", "2", "--prev-kv"]), "OK\na\n1\n");
    assert_eq!(ctl.run(&["get", "a"]), "a\n2\n");
    let lease = ctl.json(&["lease", "grant", "100"]);
    let id = format!("{:x}", lease["ID"].as_i64().expect("an id"));
    ctl.run(&["put", "b", "1", &format!("--lease={id}")]);
    ctl.run(&["put", "b", "2", "--ignore-lease"]);
    ctl.run(&["put", "b", "--ignore-value", &format!("--lease={id}")]);
    let kv = &ctl.json(&["get", "b"])["kvs"][0];
    assert_eq!((kv["version"].as_i64(), &kv["lease"]), (Some(3), &lease["ID"]));
    assert!(ctl.fails(&["put", "none", "--ignore-value"]).contains("etcdserver: key not found"));
    assert!(ctl.fails(&["put", "a", "1", "--lease=1234"]).contains("etcdserver: requested lease not found"));
    let done = ctl.run_with_input(&["put", "from stdin"], "piped");
    assert!(done.ok, "{done:?}");
    assert_eq!(ctl.run(&["get", "from stdin", "--print-value-only"]), "piped\n");
}

#[tokio::test]
async fn get_with_every_flag() {
    let (_server, ctl) = start().await;
    for (key, value) in [("k3", "a"), ("k1", "c"), ("k2", "b"), ("k1", "d"), ("other", "o")] {
        ctl.run(&["put", key, value]);
    }
    // Revisions: k3 2, k1 3 and 5, k2 4, other 6.
    assert_eq!(ctl.run(&["get", "k1"]), "k1\nd\n");
    assert_eq!(ctl.run(&["get", "none"]), "");
    assert_eq!(ctl.run(&["get", "k1", "k3"]), "k1\nd\nk2\nb\n");
    assert_eq!(ctl.run(&["get", "k", "--prefix", "--keys-only"]), "k1\n\nk2\n\nk3\n\n");
    assert_eq!(ctl.run(&["get", "", "--prefix", "--print-value-only"]), "d\nb\na\no\n");
    assert_eq!(ctl.run(&["get", "k3", "--from-key"]), "k3\na\nother\no\n");
    assert_eq!(ctl.run(&["get", "k", "--prefix", "--limit=2"]), "k1\nd\nk2\nb\n");
    assert_eq!(ctl.run(&["get", "k1", "--rev=4"]), "k1\nc\n");
    assert_eq!(ctl.run(&["get", "k1", "--consistency=s"]), "k1\nd\n");
    assert_eq!(ctl.run(&["get", "k1", "--consistency=l"]), "k1\nd\n");
    let sorted = |by: &str, order: &str| {
        let out =
            ctl.run(&["get", "k", "--prefix", "--keys-only", &format!("--sort-by={by}"), &format!("--order={order}")]);
        out.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(sorted("KEY", "DESCEND"), "k3 k2 k1");
    assert_eq!(sorted("CREATE", "ASCEND"), "k3 k1 k2");
    assert_eq!(sorted("MODIFY", "DESCEND"), "k1 k2 k3");
    assert_eq!(sorted("VERSION", "DESCEND").split(' ').next(), Some("k1"));
    assert_eq!(sorted("VALUE", "ASCEND"), "k3 k2 k1");
    let count = ctl.try_run(&["get", "k", "--prefix", "--count-only", "--write-out=fields"]);
    // Newer than Debian's.
    assert!(count.out.contains("\"Count\" : 3") || count.err.contains("unknown flag"), "{count:?}");
    let json = ctl.json(&["get", "k1"]);
    assert_eq!((json["header"]["revision"].as_i64(), json["count"].as_i64()), (Some(6), Some(1)));
    let kv = &json["kvs"][0];
    let numbers = ["create_revision", "mod_revision", "version"].map(|name| kv[name].as_i64());
    assert_eq!(numbers, [Some(3), Some(5), Some(2)]);
    assert_eq!((kv["key"].as_str(), kv["value"].as_str()), (Some("azE="), Some("ZA==")), "base64 of k1 and d");
    assert_eq!(ctl.run(&["get", "k1", "--hex"]), "\\x6b\\x31\n\\x64\n");
    let simple = ctl.run(&["get", "k1", "--write-out=fields"]);
    assert!(simple.contains("\"ModRevision\" : 5"), "{simple}");
    assert!(ctl.fails(&["get", "k1", "--rev=99"]).contains("etcdserver: mvcc: required revision is a future revision"));
}

#[tokio::test]
async fn del() {
    let (_server, ctl) = start().await;
    for key in ["a", "b1", "b2", "b3", "c", "d"] {
        ctl.run(&["put", key, "v"]);
    }
    assert_eq!(ctl.run(&["del", "none"]), "0\n");
    assert_eq!(ctl.run(&["del", "a", "--prev-kv"]), "1\na\nv\n");
    assert_eq!(ctl.run(&["del", "b1", "b3"]), "2\n");
    assert_eq!(ctl.run(&["del", "b", "--prefix"]), "1\n");
    assert_eq!(ctl.run(&["del", "c", "--from-key"]), "2\n");
    assert_eq!(ctl.run(&["get", "", "--prefix"]), "");
    assert_eq!(ctl.json(&["get", "a"])["header"]["revision"], 11);
}

#[tokio::test]
async fn txn() {
    let (_server, ctl) = start().await;
    ctl.run(&["put", "a", "1"]);
    let run = |input: &str| {
        let done = ctl.run_with_input(&["txn"], input);
        assert!(done.ok, "{done:?}");
        done.out
    };
    let out =
        run("value(\"a\") = \"1\"\nmod(\"a\") = \"2\"\nversion(\"a\") > \"0\"\n\nput a 2\nput b 1\nget a\n\nget a\n\n");
    assert_eq!(
        lines(&out).into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>(),
        ["SUCCESS", "OK", "OK", "a", "2"]
    );
    let out = run("create(\"b\") = \"0\"\n\nput b 2\n\nget b\ndel a\n\n");
    assert_eq!(lines(&out).into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>(), ["FAILURE", "b", "1", "1"]);
    assert_eq!(ctl.run(&["get", "", "--prefix"]), "b\n1\n");
    let twice = ctl.run_with_input(&["txn"], "\nput a 1\nput a 2\n\n\n");
    assert!(!twice.ok && twice.err.contains("etcdserver: duplicate key given in txn request"), "{twice:?}");
}

#[tokio::test]
async fn watch_from_a_past_revision() {
    let (_server, ctl) = start().await;
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2")] {
        ctl.run(&["put", key, value]);
    }
    ctl.run(&["del", "a"]);
    let past = ctl.start(&["watch", "a", "--rev=2", "--prev-kv"]);
    let prefix = ctl.start(&["watch", "", "--prefix", "--rev=3"]);
    assert_eq!(lines(&past.await_lines(13)), ["PUT", "a", "1", "PUT", "a", "1", "a", "2", "DELETE", "a", "2", "a", ""]);
    assert_eq!(lines(&prefix.await_lines(9)), ["PUT", "b", "1", "PUT", "a", "2", "DELETE", "a", ""]);
    ctl.run(&["put", "a", "3"]);
    assert!(prefix.await_lines(12).ends_with("PUT\na\n3\n"));
}

#[tokio::test]
async fn watch_tells_of_a_compaction() {
    let (_server, ctl) = start().await;
    for value in ["1", "2", "3"] {
        ctl.run(&["put", "a", value]);
    }
    ctl.run(&["compaction", "4"]);
    let watch = ctl.start(&["watch", "a", "--rev=2"]);
    watch.await_error("etcdserver: mvcc: required revision has been compacted");
}

#[tokio::test]
async fn lease() {
    let (_server, ctl) = start().await;
    let granted = ctl.run(&["lease", "grant", "100"]);
    let id = granted.split_whitespace().nth(1).expect("lease ID granted").to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(100s)\n"));
    ctl.run(&["put", "a", "1", &format!("--lease={id}")]);
    let left = ctl.run(&["lease", "timetolive", &id, "--keys"]);
    assert!(
        left.starts_with(&format!("lease {id} granted with TTL(100s), remaining("))
            && left.contains("attached keys([a])"),
        "{left}"
    );
    assert_eq!(ctl.run(&["lease", "list"]), format!("found 1 leases\n{id}\n"));
    assert_eq!(ctl.run(&["lease", "keep-alive", "--once", &id]), format!("lease {id} keepalived with TTL(100)\n"));
    assert_eq!(ctl.run(&["lease", "revoke", &id]), format!("lease {id} revoked\n"));
    assert_eq!(ctl.run(&["get", "a"]), "");
    assert!(ctl.run(&["lease", "timetolive", &id]).contains("already expired"));
    assert!(ctl.fails(&["lease", "revoke", &id]).contains("etcdserver: requested lease not found"));

    let short = ctl.run(&["lease", "grant", "1"]);
    let id = short.split_whitespace().nth(1).expect("an id").to_owned();
    assert!(short.contains("TTL(2s)"), "{short}");
    ctl.run(&["put", "b", "1", &format!("--lease={id}")]);
    let keeping = ctl.start(&["lease", "keep-alive", &id]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(ctl.run(&["get", "b"]), "b\n1\n", "kept alive");
    drop(keeping);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(ctl.run(&["get", "b"]), "", "and then not any more");
}

#[tokio::test]
async fn compaction_and_defrag() {
    let (_server, ctl) = start().await;
    for value in ["1", "2", "3"] {
        ctl.run(&["put", "a", value]);
    }
    assert_eq!(ctl.run(&["compaction", "3"]), "compacted revision 3\n");
    assert_eq!(ctl.run(&["compaction", "4", "--physical"]), "compacted revision 4\n");
    assert!(ctl.fails(&["compaction", "4"]).contains("etcdserver: mvcc: required revision has been compacted"));
    assert!(ctl.fails(&["get", "a", "--rev=3"]).contains("etcdserver: mvcc: required revision has been compacted"));
    assert!(ctl.run(&["defrag"]).contains("Finished defragmenting etcd member"));
    assert_eq!(ctl.run(&["get", "a"]), "a\n3\n");
}

#[tokio::test]
async fn alarm() {
    let (server, ctl) = start().await;
    assert_eq!(ctl.run(&["alarm", "list"]), "");
    let client = server.client().await;
    let member_id = client.status().await.expect("status").header.expect("a header").member_id;
    let request = netsy_api::etcdserverpb::AlarmRequest { action: 1, member_id, alarm: 1 };
    client.maintenance().alarm(request).await.expect("raise an alarm");
    // Versions of etcdctl differ in their spaces.
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(ctl.run(&["alarm", "list"])), format!("memberID:{member_id} alarm:NOSPACE"));
    assert!(ctl.fails(&["put", "a", "1"]).contains("etcdserver: mvcc: database space exceeded"));
    assert_eq!(words(ctl.run(&["alarm", "disarm"])), format!("memberID:{member_id} alarm:NOSPACE"));
    assert_eq!(ctl.run(&["alarm", "list"]), "");
    ctl.run(&["put", "a", "1"]);
}

#[tokio::test]
async fn endpoint_commands() {
    let (server, ctl) = start().await;
    ctl.run(&["put", "a", "1"]);
    let health = ctl.try_run(&["endpoint", "health"]);
    assert!(health.ok && format!("{}{}", health.out, health.err).contains("is healthy"), "{health:?}");
    let health = ctl.json(&["endpoint", "health"]);
    assert_eq!(health[0]["health"], true);
    let status = &ctl.json(&["endpoint", "status"])[0]["Status"];
    assert_eq!(status["header"]["revision"], 2);
    assert!(status["version"].as_str().is_some_and(|version| version.starts_with("3.")), "{status}");
    assert!(
        status["dbSize"].as_i64().is_some_and(|size| size > 0) && status["leader"] == status["header"]["member_id"],
        "{status}"
    );
    assert!(status["errors"].is_null(), "{status}");
    assert!(ctl.run(&["endpoint", "status", "--write-out=table"]).contains(server.address()));
    let hash = &ctl.json(&["endpoint", "hashkv"])[0]["HashKV"];
    assert!(hash["hash"].as_u64().is_some_and(|hash| hash > 0), "{hash}");
    assert_eq!(&ctl.json(&["endpoint", "hashkv"])[0]["HashKV"]["hash"], &hash["hash"], "the same again");
    ctl.run(&["put", "a", "2"]);
    assert_ne!(&ctl.json(&["endpoint", "hashkv"])[0]["HashKV"]["hash"], &hash["hash"]);
    assert_eq!(&ctl.json(&["endpoint", "hashkv", "--rev=2"])[0]["HashKV"]["hash"], &hash["hash"], "as it was");
    // Through the member list, as operators do. An etcdctl before 3.5 sends URLs where HTTP/2 wants an authority.
    for command in ["status", "health", "hashkv"] {
        let by_cluster = ctl.json(&["endpoint", command, "--cluster"]);
        assert_eq!(by_cluster.as_array().map(Vec::len), Some(1), "{command}");
    }
}

#[tokio::test]
async fn member_list() {
    let (server, ctl) = start().await;
    let list = ctl.json(&["member", "list"]);
    let member = &list["members"][0];
    assert_eq!(list["members"].as_array().map(Vec::len), Some(1));
    assert_eq!(member["ID"], list["header"]["member_id"]);
    assert_eq!(member["clientURLs"], Value::from(vec![server.url()]));
    let line = ctl.run(&["member", "list"]);
    assert!(line.contains(", started, ") && line.contains(&server.url()), "{line}");
}

#[tokio::test]
async fn version_and_bad_requests() {
    let (_server, ctl) = start().await;
    assert!(ctl.run(&["version"]).contains("API version: 3."));
    assert!(
        !ctl.try_run(&["get", ""]).ok || ctl.run(&["get", ""]).is_empty(),
        "an empty key is refused or matches nothing"
    );
}

/// A minute each: run with `--ignored`.
mod perf {
    use super::start;

    async fn passes(load: &str) {
        let (_server, ctl) = start().await;
        let done = ctl.try_run_long(&["check", "perf", &format!("--load={load}")]);
        println!("{}{}", done.out, done.err);
        assert!(done.ok, "check perf --load={load} did not pass: {done:?}");
        assert!(!format!("{}{}", done.out, done.err).contains("FAIL"), "{done:?}");
    }

    #[tokio::test]
    #[ignore = "takes a minute"]
    async fn check_perf_small() {
        passes("s").await;
    }

    #[tokio::test]
    #[ignore = "takes a minute"]
    async fn check_perf_medium() {
        passes("m").await;
    }
}
