//! The file provider: conformance, several processes, and what it refuses.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use common::{Effort, Versions};
use netsy_objects::{Bucket, CreateOutcome, ErrorKind, StorageConfig, SwapOutcome, open};

const CHILD_FOLDER: &str = "NETSY_TEST_COUNTER_FOLDER";
const PROCESSES: usize = 4;
const STEPS: usize = 100;

async fn bucket(path: &std::path::Path) -> std::sync::Arc<dyn Bucket> {
    open(&StorageConfig::file(path)).await.unwrap().data
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let dir = tempfile::tempdir().unwrap();
    common::conforms(bucket(dir.path()).await, Effort::FULL, Versions::Unique).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_below_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let config = StorageConfig { key_prefix: "team/one".into(), ..StorageConfig::file(dir.path().join("new/folder")) };
    let buckets = open(&config).await.unwrap();
    common::conforms(buckets.data, Effort { listed_keys: 50, race_rounds: 5, ..Effort::FULL }, Versions::Unique).await;
    assert!(dir.path().join("new/folder/team/one/s/one").exists());
}

/// Started again as a child by the next test; alone it does nothing.
#[tokio::test]
async fn child_counts() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let bucket = bucket(folder.as_ref()).await;
    let me = std::process::id();
    for step in 0..STEPS {
        while !common::increment(&*bucket, "counter", &format!("{me}.{step}")).await {}
        // The log as the protocol uses it: each number taken exactly once.
        let mut number = 1;
        while bucket.create(&format!("log/{number:020}"), Bytes::from(me.to_string())).await.unwrap()
            == CreateOutcome::Exists
        {
            number += 1;
        }
    }
}

#[tokio::test]
async fn several_processes_lose_no_update() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    bucket.create("counter", Bytes::from_static(b"0 start")).await.unwrap();
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_counts"])
                .env(CHILD_FOLDER, dir.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(common::count(&*bucket, "counter").await, PROCESSES * STEPS);
    let log = bucket.list("log/", None, usize::MAX).await.unwrap();
    assert_eq!(log.len(), PROCESSES * STEPS);
}

/// A writer killed at any moment leaves whole objects and nothing that is in anybody's way.
#[tokio::test]
async fn killed_writers_leave_whole_objects_and_no_litter() {
    let dir = tempfile::tempdir().unwrap();
    let watching = bucket(dir.path()).await;
    watching.create("counter", Bytes::from_static(b"0 start")).await.unwrap();
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_counts"])
            .env(CHILD_FOLDER, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(30 + 7 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        common::count(&*watching, "counter").await;
    }
    // The log is dense, and every object in it is whole.
    let log = watching.list("log/", None, usize::MAX).await.unwrap();
    for (n, object) in log.iter().enumerate() {
        assert_eq!(object.key, format!("log/{:020}", n + 1));
        assert!(object.size > 0);
    }
    assert!(log.len() > 20, "the children did nothing");
    // Locks died with their holders.
    assert!(common::increment(&*watching, "counter", "after").await);
    // The next to open clears away what the killed ones were writing.
    drop(watching);
    // (On a busy machine a killed one may hold its lock for a moment yet.)
    let mut left = 0;
    for _ in 0..50 {
        let _again = bucket(dir.path()).await;
        left = std::fs::read_dir(dir.path().join(".netsy/tmp")).unwrap().count();
        if left == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(left, 1, "temporary files of dead processes were left");
}

/// What a writer has shown but not synced, a reader syncs before it acts on it.
#[tokio::test]
async fn whoever_meets_a_pending_object_makes_it_durable() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    let file = dir.path().join("x/one");
    let mode = || std::fs::metadata(&file).unwrap().mode() & 0o777;
    let pend = || std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
    bucket.create("x/one", Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(mode(), 0o600);
    pend();
    bucket.get("x/one").await.unwrap();
    assert_eq!(mode(), 0o600, "get");
    pend();
    assert_eq!(bucket.create("x/one", Bytes::new()).await.unwrap(), CreateOutcome::Exists);
    assert_eq!(mode(), 0o600, "create");
    pend();
    bucket.download("x/one").await.unwrap();
    assert_eq!(mode(), 0o600, "download");
}

#[tokio::test]
async fn versions_do_not_come_back_after_a_deletion() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..300 {
        let CreateOutcome::Created(version) = bucket.create("same", Bytes::from_static(b"same")).await.unwrap() else {
            panic!("exists")
        };
        assert!(seen.insert(version), "a version came back");
        bucket.delete("same").await.unwrap();
    }
}

/// The clock may stand still or go back: the next version is past the last all the same.
#[tokio::test]
async fn versions_do_not_depend_on_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    bucket.create("k", Bytes::from_static(b"0")).await.unwrap();
    let future = std::time::SystemTime::now() + Duration::from_secs(1_000_000);
    std::fs::File::open(dir.path().join("k")).unwrap().set_modified(future).unwrap();
    let mut version = bucket.get("k").await.unwrap().unwrap().version;
    for _ in 0..10 {
        let SwapOutcome::Swapped(next) = bucket.swap("k", Some(&version), Bytes::from_static(b"0")).await.unwrap()
        else {
            panic!("conflict")
        };
        assert_ne!(next, version);
        assert!(std::fs::metadata(dir.path().join("k")).unwrap().modified().unwrap() > future);
        version = next;
    }
}

#[tokio::test]
async fn a_cached_read_sees_what_another_handle_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (bucket(dir.path()).await, bucket(dir.path()).await);
    one.create("cluster.json", Bytes::from_static(b"0 x")).await.unwrap();
    for n in 0..50 {
        assert_eq!(common::count(&*one, "cluster.json").await, n);
        assert!(common::increment(&*two, "cluster.json", "y").await);
    }
    one.delete("cluster.json").await.unwrap();
    assert!(two.get("cluster.json").await.unwrap().is_none());
    assert!(one.get("cluster.json").await.unwrap().is_none());
}

#[tokio::test]
async fn links_that_lead_outside_are_not_followed() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let bucket = bucket(dir.path()).await;
    symlink(outside.path().join("secret"), dir.path().join("link")).unwrap();
    symlink(outside.path(), dir.path().join("folder")).unwrap();
    let e = bucket.get("link").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Refused, "{e}");
    let e = bucket.create("folder/new", Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Refused, "{e}");
    assert!(!outside.path().join("new").exists());
    let e = bucket.get("folder/secret").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Refused, "{e}");
    assert!(bucket.list("", None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (path, says) in
        [(file.join("below"), "below"), (file.clone(), "file"), (std::path::PathBuf::new(), "storage.path is empty")]
    {
        let e = open(&StorageConfig::file(&path)).await.unwrap_err();
        assert!(e.to_string().contains(says), "{e}");
    }
    let config = StorageConfig { key_prefix: "../up".into(), ..StorageConfig::file(dir.path()) };
    assert!(open(&config).await.unwrap_err().to_string().contains("storage.key_prefix"));
}

/// Objects that an operator put there by hand (bootstrap.netsy) are objects.
#[tokio::test]
async fn files_put_there_by_hand_are_objects() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    std::fs::write(dir.path().join("bootstrap.netsy"), "by hand").unwrap();
    let found = bucket.get("bootstrap.netsy").await.unwrap().unwrap();
    assert_eq!(&found.bytes[..], b"by hand");
    assert!(matches!(
        bucket.swap("bootstrap.netsy", Some(&found.version), Bytes::from_static(b"new")).await.unwrap(),
        SwapOutcome::Swapped(_)
    ));
    // Exactly the object's bytes are in the file: tools can read it, and copy it elsewhere.
    assert_eq!(std::fs::read(dir.path().join("bootstrap.netsy")).unwrap(), b"new");
}
