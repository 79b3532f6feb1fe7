//! `netsy inspect` of every kind of file, by path and by object URL.

use crate::everything::write;
use crate::setup::{Setting, environment, server};
use netsy_e2e::{Kind, Server};
use netsy_fakestore::{BUCKET, Dialect, FakeStore};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// How a cluster is set up that has files of every kind soon.
const SETTING: Setting = Setting { prefix: "all", quorum: 0, snapshot_records: 300 };
/// The first segment takes a number of chunks, and the snapshotter looks once a second.
const WITHIN: Duration = Duration::from_secs(60);

fn kind(key: &str) -> Option<&'static str> {
    let name = key.strip_prefix("all/")?;
    let folders = [("log/", "chunk"), ("segments/", "segment"), ("nodes/", "registration")];
    match name {
        "cluster.json" => Some("manifest"),
        _ if name.starts_with("snapshots/") && name.ends_with("manifest.json") => Some("snapshot manifest"),
        _ if name.starts_with("snapshots/") => Some("part"),
        _ => folders.iter().find(|(folder, _)| name.starts_with(folder)).map(|(_, kind)| *kind),
    }
}

fn kinds(store: &FakeStore) -> BTreeSet<&'static str> {
    store.keys().iter().filter_map(|key| kind(key)).collect()
}

/// The server, and how often it was written to.
async fn filled(store: &FakeStore) -> (Server, usize) {
    let mut server = server(store.dialect(), &store.endpoint(), SETTING);
    server.start_again().await;
    let client = server.client().await;
    let start = Instant::now();
    let mut round = 0;
    while kinds(store).len() < 6 {
        write(&client, round).await;
        round += 1;
        assert!(start.elapsed() < WITHIN, "only {:?} came up", kinds(store));
    }
    (server, round)
}

/// Runs it; whether it ended well, and what it printed.
fn inspect(server: &Server, env: &[(&str, &str)], args: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(server.program())
        .arg("inspect")
        .args(args)
        .envs(environment())
        .envs(env.iter().copied())
        .output()
        .expect("run netsy inspect");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_object_by_its_url() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    for (dialect, scheme, variable) in
        [(Dialect::S3, "s3", "AWS_ENDPOINT_URL"), (Dialect::Gcs, "gs", "STORAGE_EMULATOR_HOST")]
    {
        let store = FakeStore::start(dialect).await.expect("the fake starts");
        let (server, mut round) = filled(&store).await;
        let endpoint = store.endpoint();
        let env = [(variable, endpoint.as_str()), ("AWS_ALLOW_HTTP", "true")];
        for wanted in kinds(&store) {
            let shown = |key: &String| {
                let url = format!("{scheme}://{BUCKET}/{key}");
                let (text_ok, text) = inspect(&server, &env, &[&url]);
                let (json_ok, json) = inspect(&server, &env, &["--json", &url]);
                for line in json.lines().filter(|_| json_ok) {
                    serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{url}: {e}: {line}"));
                }
                assert!(store.object(key).is_none() || (text_ok && json_ok), "{url}: {text}{json}");
                text_ok && json_ok && !text.is_empty()
            };
            // What was listed may be cleaned up the next moment, and be the last of its kind until more is written.
            let start = Instant::now();
            while !store.keys().iter().rev().filter(|key| kind(key) == Some(wanted)).any(shown) {
                assert!(start.elapsed() < WITHIN, "no {wanted} could be shown");
                write(&server.client().await, round).await;
                round += 1;
            }
        }
        let (ok, text) = inspect(&server, &env, &[&format!("{scheme}://{BUCKET}/all/none.netsy")]);
        assert!(!ok && text.contains("there is no such object"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_version_by_their_paths() {
    if Kind::under_test() != Kind::Netsy {
        return;
    }
    let server = server(Dialect::S3, "http://127.0.0.1:9", SETTING);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../objects/tests/fixtures");
    let mut files: Vec<_> =
        std::fs::read_dir(&fixtures).expect("fixtures").map(|item| item.expect("a fixture").path()).collect();
    files.sort();
    assert!(files.iter().any(|path| path.to_string_lossy().contains("-v0")), "files of Netsy 1.0 are among them");
    for path in files {
        let shown = path.display().to_string();
        for args in [&[shown.as_str()][..], &["--json", &shown], &[&format!("file://{shown}")]] {
            let (ok, text) = inspect(&server, &[], args);
            assert!(ok && text.len() > 20, "{args:?}: {text}");
        }
        // One bit is enough to be told so.
        let mut bytes = std::fs::read(&path).expect("read");
        let at = bytes.len() / 2;
        bytes[at] ^= 0x40;
        let changed = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(changed.path(), bytes).expect("write");
        let (ok, text) = inspect(&server, &[], &[&changed.path().display().to_string()]);
        let is_json = shown.ends_with(".json");
        assert!(!ok || is_json, "{shown} with a flipped bit: {text}");
    }
    let (ok, text) = inspect(&server, &[], &["ftp://x/y"]);
    assert!(!ok && text.contains("none of s3, gs, file"), "{text}");
}
