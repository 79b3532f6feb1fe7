//! mTLS on every connection: certificates of `netsy certs`, etcdctl as client, and certificates that change while all
//! goes on.

use netsy_e2e::etcdctl::Etcdctl;
use netsy_e2e::nodes::Nodes;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A folder with a CA, and what it signed.
struct Ca {
    dir: PathBuf,
}

impl Ca {
    fn new(nodes: &Nodes, dir: PathBuf, cluster: &str) -> Self {
        let ca = Self { dir };
        ca.make(nodes, &["certs", "ca", "--cluster-id", cluster]);
        ca
    }

    fn make(&self, nodes: &Nodes, args: &[&str]) {
        let mut all = args.to_vec();
        let dir = self.dir.display().to_string();
        all.extend(["--dir", &dir]);
        nodes.program(&all).expect("certificates");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn etcdctl(&self, trusted: &Path, endpoints: &str, client: &str) -> Etcdctl {
        let file = |kind: &str| self.file(&format!("client-{client}.{kind}"));
        Etcdctl::with_tls(endpoints, trusted, &file("crt"), &file("key"))
    }

    /// What a command of netsy's is told to connect as `holder`, such as `client-app`.
    fn options(&self, holder: &str) -> Vec<String> {
        let [ca, cert, key] = ["ca.crt".to_owned(), format!("{holder}.crt"), format!("{holder}.key")]
            .map(|name| self.file(&name).display().to_string());
        vec![format!("--cacert={ca}"), format!("--cert={cert}"), format!("--key={key}")]
    }
}

/// As a tool that renews certificates does: each file is replaced as a whole.
fn put(from: &Path, to: &Path) {
    let beside = to.with_extension("new");
    std::fs::copy(from, &beside).expect("copy");
    std::fs::rename(&beside, to).expect("rename");
}

/// The folder from which node `name` reads its certificates.
fn live(root: &Path, name: &str) -> PathBuf {
    root.join("live").join(name)
}

fn node_arguments(root: &Path, name: &str) -> Vec<String> {
    let dir = live(root, name);
    [("ca-cert", "ca.crt"), ("server-cert", "node.crt"), ("server-key", "node.key")]
        .map(|(option, file)| format!("--tls-{option}={}", dir.join(file).display()))
        .to_vec()
}

fn give(ca: &Ca, root: &Path, nodes: usize) {
    for number in 1..=nodes {
        let (name, dir) = (format!("n{number}"), live(root, &format!("n{number}")));
        // The key first: until both are there the pair does not fit, and the one from before stays in use.
        put(&ca.file(&format!("node-{name}.key")), &dir.join("node.key"));
        put(&ca.file(&format!("node-{name}.crt")), &dir.join("node.crt"));
    }
}

fn trust(cas: &[&Ca], root: &Path, nodes: usize) -> PathBuf {
    let all: String = cas.iter().map(|ca| std::fs::read_to_string(ca.file("ca.crt")).expect("ca.crt")).collect();
    let bundle = root.join("bundle.crt");
    std::fs::write(&bundle, all).expect("bundle");
    for number in 1..=nodes {
        put(&bundle, &live(root, &format!("n{number}")).join("ca.crt"));
    }
    bundle
}

/// Waits until each node has read its certificates anew for the `times`th time.
async fn reloaded(nodes: &mut Nodes, times: usize) {
    for number in 1..=3 {
        let mut seen = 0;
        for _ in 0..600 {
            seen = nodes.node(number).log_tail().matches("certificates were read anew").count();
            if seen >= times {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(seen >= times, "n{number} has read them {seen} times:\n{}", nodes.node(number).log_tail());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_with_mtls_and_certificates_that_change_under_load() {
    if netsy_e2e::Kind::under_test() != netsy_e2e::Kind::Netsy {
        return;
    }
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path().to_path_buf();
    let dir = root.clone();
    let mut nodes = Nodes::with(3, "", move |name| node_arguments(&dir, name));
    let old = Ca::new(&nodes, root.join("old"), "e2e");
    for name in ["n1", "n2", "n3"] {
        std::fs::create_dir_all(live(&root, name)).expect("a folder");
        old.make(&nodes, &["certs", "node", name]);
    }
    old.make(&nodes, &["certs", "client", "app"]);
    let old_ca = old.file("ca.crt");
    trust(&[&old], &root, 3);
    give(&old, &root, 3);
    nodes.spawn();
    let own = old.options("client-app");
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let list = [&["member", "list"], own.as_slice()].concat();
    let mut seen = String::new();
    for _ in 0..600 {
        seen = nodes.command(1, &list).unwrap_or_else(|error| error);
        if seen.matches("  voter  ").count() == 2 && seen.contains("  Primary  ") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(seen.matches("  voter  ").count() == 2, "three voters were to be:\n{seen}");
    assert!(seen.contains("https://127.0.0.1"), "{seen}");

    // Every node, with etcdctl; writes on two of them are passed on.
    let endpoints = nodes.endpoints();
    for address in endpoints.split(',') {
        let etcdctl = old.etcdctl(&old_ca, address, "app");
        assert_eq!(etcdctl.run(&["put", "k", address]), "OK\n");
        assert_eq!(etcdctl.run(&["get", "k", "--print-value-only"]), format!("{address}\n"));
    }
    // Nobody else: not without TLS, not without a certificate of this CA, not of another cluster.
    let first = endpoints.split(',').next().expect("an address");
    assert!(netsy_e2e::Client::connect(&format!("http://{first}")).await.try_get("k").await.is_err());
    let stranger = Ca::new(&nodes, root.join("stranger"), "e2e");
    stranger.make(&nodes, &["certs", "client", "app"]);
    stranger.etcdctl(&old_ca, first, "app").fails(&["get", "k"]);
    let other = stranger.options("client-app");
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let refused = nodes.command(1, &[&["member", "list"], other.as_slice()].concat()).expect_err("another CA");
    assert!(refused.contains("TLS"), "{refused}");

    // From here on a watch and a lease stay on their connections, and writes come over new and over passed-on ones.
    let etcdctl = Arc::new(old.etcdctl(&old_ca, &endpoints, "app"));
    let watch = etcdctl.start(&["watch", "w/", "--prefix"]);
    let lease = etcdctl.run(&["lease", "grant", "9"]);
    let lease = lease.split_whitespace().nth(1).expect("an id").to_owned();
    let renewals = etcdctl.start(&["lease", "keep-alive", &lease]);
    renewals.await_lines(1);
    let (stop, client) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(etcdctl.clone())));
    let writer = {
        let (stop, client) = (stop.clone(), client.clone());
        std::thread::spawn(move || {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                let etcdctl = client.lock().expect("the client").clone();
                let done = etcdctl.try_run(&["put", &format!("w/{written}"), "x"]);
                assert!(done.ok, "write {written}: {done:?}");
                written += 1;
            }
            written
        })
    };

    // A new CA, step by step: trusted beside the old one, then used by the nodes, then by the client, then alone.
    let new = Ca::new(&nodes, root.join("new"), "e2e");
    for name in ["n1", "n2", "n3"] {
        new.make(&nodes, &["certs", "node", name]);
    }
    new.make(&nodes, &["certs", "client", "app"]);
    let both = trust(&[&old, &new], &root, 3);
    reloaded(&mut nodes, 1).await;
    *client.lock().expect("the client") = Arc::new(old.etcdctl(&both, &endpoints, "app"));
    give(&new, &root, 3);
    reloaded(&mut nodes, 2).await;
    *client.lock().expect("the client") = Arc::new(new.etcdctl(&both, &endpoints, "app"));
    // No write of the old client is under way any more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let alone = root.join("new/ca.crt");
    for number in 1..=3 {
        put(&alone, &live(&root, &format!("n{number}")).join("ca.crt"));
    }
    reloaded(&mut nodes, 3).await;
    *client.lock().expect("the client") = Arc::new(new.etcdctl(&alone, &endpoints, "app"));
    old.etcdctl(&both, first, "app").fails(&["get", "k"]);
    renewals.await_lines(5);
    stop.store(true, Ordering::Relaxed);
    let written: usize = writer.join().expect("no write failed");
    assert!(written > 10, "{written} writes");
    // The watch, on the connection it began on, has seen each.
    let events = watch.await_lines(3 * written);
    for number in 0..written {
        assert!(events.contains(&format!("w/{number}\n")), "w/{number} was not seen");
    }
    // Nodes that connect anew do so with the new certificates.
    nodes.node(2).kill();
    nodes.node(2).spawn();
    let address = endpoints.split(',').nth(1).expect("an address");
    let etcdctl = new.etcdctl(&alone, address, "app");
    for _ in 0..200 {
        if etcdctl.try_run(&["get", "k"]).ok {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(etcdctl.run(&["put", "k", "after"]), "OK\n");
}

/// docs/decisions/0010: what changes the cluster takes an operator's certificate, or a node's.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_does_not_change_the_cluster() {
    if netsy_e2e::Kind::under_test() != netsy_e2e::Kind::Netsy {
        return;
    }
    let root = tempfile::tempdir().expect("a folder");
    let dir = root.path().to_path_buf();
    let mut nodes = Nodes::with(3, "", move |name| node_arguments(&dir, name));
    let root = root.path();
    let ca = Ca::new(&nodes, root.join("ca"), "e2e");
    for name in ["n1", "n2", "n3"] {
        std::fs::create_dir_all(live(root, name)).expect("a folder");
        ca.make(&nodes, &["certs", "node", name]);
    }
    ca.make(&nodes, &["certs", "client", "app"]);
    ca.make(&nodes, &["certs", "operator", "alice"]);
    let trusted = trust(&[&ca], root, 3);
    give(&ca, root, 3);
    nodes.spawn();
    let run = |nodes: &Nodes, number: usize, holder: &str, command: &[&str]| {
        let options = ca.options(holder);
        nodes.command(number, &[command, &options.iter().map(String::as_str).collect::<Vec<_>>()].concat())
    };
    let mut seen = String::new();
    for _ in 0..600 {
        // Anybody may look.
        seen = run(&nodes, 1, "client-app", &["member", "list"]).unwrap_or_else(|error| error);
        if seen.matches("  voter  ").count() == 2 && seen.contains("  Primary  ") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let primary = seen.lines().next().and_then(|line| line.split_once("Primary n")?.1.chars().next()?.to_digit(10));
    let primary = primary.unwrap_or_else(|| panic!("three voters were to be:\n{seen}")) as usize;
    let other = primary % 3 + 1;
    let endpoints = nodes.endpoints();
    let endpoint = |number: usize| endpoints.split(',').nth(number - 1).expect("an address");

    for number in [primary, other] {
        for command in [
            ["member", "move-primary", "n1"].as_slice(),
            &["member", "remove", "n9"],
            &["cluster", "set", "--quorum", "0"],
            &["recover", "--lost", "n1"],
            &["recover", "--lost", "n1", "--confirm", "e2e/1"],
        ] {
            let refused = run(&nodes, number, "client-app", command).expect_err("a client");
            assert!(refused.contains("netsy://e2e/client/app may not call"), "{command:?}: {refused}");
            assert!(refused.contains("netsy certs operator NAME"), "{command:?}: {refused}");
        }
        let refused = ca.etcdctl(&trusted, endpoint(number), "app").fails(&["member", "remove", "77"]);
        assert!(refused.contains("netsy://e2e/client/app may not call MemberRemove"), "{refused}");
    }
    // etcdctl asks the leader alone.
    let refused = ca.etcdctl(&trusted, &endpoints, "app").fails(&["move-leader", "77"]);
    assert!(refused.contains("netsy://e2e/client/app may not call MoveLeader"), "{refused}");
    // An operator may, and a node may: at the Primary, and passed on to it.
    for (number, holder) in [(primary, "operator-alice"), (other, "operator-alice"), (other, "node-n1")] {
        for quorum in ["0", "-1"] {
            let set = run(&nodes, number, holder, &["cluster", "set", "--quorum", quorum]).expect("set");
            assert!(set.contains(&format!("quorum {quorum}, ")), "{set}");
        }
        let nobody = run(&nodes, number, holder, &["member", "remove", "n9"]).expect_err("nobody");
        assert!(nobody.contains("there is no node n9"), "{nobody}");
        let nothing = run(&nodes, number, holder, &["recover", "--lost", "n1"]).expect_err("it serves");
        assert!(nothing.contains("there is nothing to recover"), "{nothing}");
    }
    let file = |kind: &str| ca.file(&format!("operator-alice.{kind}"));
    let etcdctl = Etcdctl::with_tls(endpoint(other), &trusted, &file("crt"), &file("key"));
    assert!(etcdctl.fails(&["member", "remove", "77"]).contains("member not found"));
    // An operator is a client, too.
    assert_eq!(etcdctl.run(&["put", "k", "v"]), "OK\n");
    let moved = run(&nodes, other, "operator-alice", &["member", "move-primary", &format!("n{other}")]).expect("moved");
    assert!(moved.contains(&format!("n{other} is Primary")), "{moved}");
}
