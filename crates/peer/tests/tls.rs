//! What a node's own certificates must be, and their change while it runs.

mod support;

use bytes::Bytes;
use netsy_peer::tls::{Reload, TlsFiles, TlsStore};
use netsy_peer::{Direction, PeerEvent};
use rcgen::ExtendedKeyUsagePurpose;
use std::path::Path;
use support::pki::{Ca, Leaf};
use support::{CLUSTER, Setup, node_id};
use tempfile::TempDir;

fn load(files: TlsFiles) -> Result<(), String> {
    TlsStore::load(files, CLUSTER, &node_id("a")).map(|_| ()).map_err(|e| e.to_string())
}

#[test]
fn certificates_that_others_would_refuse_are_found_at_the_start() {
    let dir = TempDir::new().expect("a folder");
    let ca = Ca::new();
    let sound = || Leaf::of("netsy://test/peer/a");
    assert_eq!(load(ca.write(dir.path(), &sound())), Ok(()));
    let cases = [
        ("netsy://test/peer/b, and this node is netsy://test/peer/a", Leaf::of("netsy://test/peer/b")),
        ("netsy://other/peer/a", Leaf::of("netsy://other/peer/a")),
        ("netsy://test/client/a", Leaf::of("netsy://test/client/a")),
        ("no URI", Leaf { uris: vec![], ..sound() }),
        ("expired", Leaf { expired: true, ..sound() }),
        ("as a client", Leaf { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..sound() }),
        ("as a server", Leaf { usages: vec![ExtendedKeyUsagePurpose::ClientAuth], ..sound() }),
    ];
    for (part, leaf) in cases {
        let error = load(ca.write(dir.path(), &leaf)).expect_err(part);
        assert!(error.contains(part) && error.contains("node.crt"), "{part:?} is not in {error:?}");
    }
    let sound_files = || ca.write(dir.path(), &sound());
    let files = sound_files();
    std::fs::write(&files.ca_cert, Ca::new().pem).expect("written");
    let error = load(files).expect_err("another CA");
    assert!(error.contains("UnknownIssuer"), "{error}");
    let files = sound_files();
    std::fs::write(&files.server_key, ca.issue(&sound()).1).expect("written");
    let error = load(files).expect_err("another key");
    assert!(error.contains("node.key") && error.contains("does not go with"), "{error}");
    for (name, content) in [("node.key", ""), ("node.crt", "nothing"), ("ca.crt", "-----BEGIN"), ("ca.crt", "")] {
        let files = sound_files();
        std::fs::write(dir.path().join(name), content).expect("written");
        let error = load(files).expect_err(name);
        assert!(error.contains(name), "{error}");
    }
    let files = sound_files();
    std::fs::remove_file(&files.client_key).expect("removed");
    let error = load(files).expect_err("no key");
    assert!(error.contains("node.key"), "{error}");
    let files = sound_files();
    std::fs::write(&files.ca_cert, vec![b'x'; 2 << 20]).expect("written");
    assert!(load(files).expect_err("too large").contains("ca.crt"));
}

#[test]
fn host_names_are_known() {
    let dir = TempDir::new().expect("a folder");
    let files = Ca::new().write(dir.path(), &Leaf::of("netsy://test/peer/a"));
    let store = TlsStore::load(files, CLUSTER, &node_id("a")).expect("valid");
    for (host, covered) in
        [("localhost", true), ("127.0.0.1", true), ("127.0.0.2", false), ("example.com", false), ("", false)]
    {
        assert_eq!(store.covers(host), covered, "{host}");
    }
}

/// Puts the files of another issue in place, one after the other, as an operator's tool would.
fn replace(ca: &Ca, into: &Path, leaf: &Leaf) {
    ca.write(into, leaf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_without_a_restart_and_without_losing_a_connection() {
    let dir = TempDir::new().expect("a folder");
    let (old, new) = (Ca::new(), Ca::new());
    let store_a = old.node(dir.path(), CLUSTER, "a");
    let store_b = old.node(dir.path(), CLUSTER, "b");
    let a = Setup { tls: Some(store_a.clone()), ..Setup::new("a") }.start().await;
    let b = Setup { tls: Some(store_b.clone()), ..Setup::new("b") }.start().await;
    a.calls(&[&b]);
    a.up(Direction::Outgoing).await;
    b.up(Direction::Incoming).await;
    assert_eq!((store_a.reload(), store_b.reload()), (Reload::Unchanged, Reload::Unchanged));

    // Something unusable: the old ones stay.
    let key = dir.path().join("b/node.key");
    let sound_key = std::fs::read(&key).expect("there");
    std::fs::write(&key, "half a ke").expect("written");
    assert!(matches!(store_b.reload(), Reload::Rejected(_)));
    assert!(matches!(store_b.reload(), Reload::Rejected(_)));
    let c = Setup { tls: Some(old.node(dir.path(), CLUSTER, "c")), ..Setup::new("c") }.start().await;
    c.calls(&[&b]);
    c.up(Direction::Outgoing).await;
    std::fs::write(&key, sound_key).expect("written");
    assert_eq!(store_b.reload(), Reload::Unchanged);

    // b moves to another CA: its open connections stay, new ones are judged anew.
    replace(&new, &dir.path().join("b"), &Leaf::of("netsy://test/peer/b"));
    assert_eq!(store_b.reload(), Reload::Replaced);
    assert_eq!(store_b.reload(), Reload::Unchanged);
    for (from, to) in [(&a, &b), (&b, &a), (&c, &b)] {
        from.peers.send_engine(&to.id, Bytes::from_static(b"still")).expect("connected");
        assert_eq!(to.message().await.1, "still");
    }
    let d = Setup { tls: Some(old.node(dir.path(), CLUSTER, "d")), ..Setup::new("d") }.start().await;
    d.calls(&[&b]);
    d.event(|event| matches!(event, PeerEvent::Unreachable { .. }).then_some(())).await;
    // d follows, while it keeps trying.
    replace(&new, &dir.path().join("d"), &Leaf::of("netsy://test/peer/d"));
    let store_d =
        TlsStore::load(new.write(&dir.path().join("d"), &Leaf::of("netsy://test/peer/d")), CLUSTER, &node_id("d"));
    assert!(store_d.is_ok());
    let d = Setup { tls: Some(store_d.expect("valid")), ..Setup::new("d") }.start().await;
    d.calls(&[&b]);
    d.up(Direction::Outgoing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_files_are_found_by_themselves() {
    let dir = TempDir::new().expect("a folder");
    let (old, new) = (Ca::new(), Ca::new());
    let store_a = old.node(dir.path(), CLUSTER, "a");
    let b = Setup { tls: Some(new.node(dir.path(), CLUSTER, "b")), ..Setup::new("b") }.start().await;
    let a = Setup { tls: Some(store_a.clone()), ..Setup::new("a") }.start().await;
    let watching = tokio::spawn(store_a.watch(std::time::Duration::from_millis(20)));
    a.calls(&[&b]);
    a.event(|event| matches!(event, PeerEvent::Unreachable { .. }).then_some(())).await;
    replace(&new, &dir.path().join("a"), &Leaf::of("netsy://test/peer/a"));
    a.up(Direction::Outgoing).await;
    watching.abort();
}
