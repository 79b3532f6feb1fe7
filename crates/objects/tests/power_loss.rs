//! The file provider when the power goes: cut before every single file operation of a
//! small history, with different luck for what was not synced. What was acknowledged is
//! there, what anybody saw is there, and every object is whole.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use common::sim_fs::SimFs;
use netsy_objects::fs_ops::FsOps;
use netsy_objects::{Bucket, CreateOutcome, StorageConfig, SwapOutcome, open_over};
use parking_lot::Mutex;

const KEYS: [&str; 6] = ["cluster.json", "log/1", "log/2", "nodes/a/deep.json", "part/x", "part/y"];
/// Of those, the ones that the history also deletes.
const DELETED: [&str; 2] = ["nodes/a/deep.json", "part/y"];
const LUCK: u64 = 6;

async fn bucket(fs: &SimFs, config: &StorageConfig) -> Option<Arc<dyn Bucket>> {
    Some(open_over(config, Arc::new(fs.clone())).await.ok()?.data)
}

/// What an acknowledgement promised: a body, or that there is none.
type Promised = BTreeMap<&'static str, Option<&'static str>>;

/// Every kind of write; stops at the first that fails, whose key it returns.
async fn history(b: &dyn Bucket, promised: &Mutex<Promised>) -> Option<&'static str> {
    let promise = |key, body| promised.lock().insert(key, body);
    for (key, body) in
        [("cluster.json", "c1"), ("log/1", "l1"), ("log/2", "l2"), ("nodes/a/deep.json", "n1"), ("part/y", "y1")]
    {
        let Ok(CreateOutcome::Created(_)) = b.create(key, Bytes::from_static(body.as_bytes())).await else {
            return Some(key);
        };
        promise(key, Some(body));
    }
    for body in ["c2", "c3"] {
        let Ok(Some(found)) = b.get("cluster.json").await else { return Some("cluster.json") };
        let swapped = b.swap("cluster.json", Some(&found.version), Bytes::from_static(body.as_bytes())).await;
        let Ok(SwapOutcome::Swapped(_)) = swapped else { return Some("cluster.json") };
        promise("cluster.json", Some(body));
    }
    let upload = async |body: &'static str| {
        let mut upload = b.upload("part/x").await?;
        upload.write(Bytes::from_static(body.as_bytes())).await?;
        upload.finish().await
    };
    for body in ["x1", "x2"] {
        if upload(body).await.is_err() {
            return Some("part/x");
        }
        promise("part/x", Some(body));
    }
    // Empties a folder, which goes too.
    if b.delete("nodes/a/deep.json").await.is_err() {
        return Some("nodes/a/deep.json");
    }
    promise("nodes/a/deep.json", None);
    if b.delete("part/y").await.is_err() {
        return Some("part/y");
    }
    promise("part/y", None);
    // And comes again.
    let Ok(CreateOutcome::Created(_)) = b.create("nodes/a/deep.json", Bytes::from_static(b"n2")).await else {
        return Some("nodes/a/deep.json");
    };
    promise("nodes/a/deep.json", Some("n2"));
    None
}

fn bodies(key: &str) -> &'static [&'static str] {
    match key {
        "cluster.json" => &["c1", "c2", "c3"],
        "log/1" => &["l1"],
        "log/2" => &["l2"],
        "nodes/a/deep.json" => &["n1", "n2"],
        "part/x" => &["x1", "x2"],
        _ => &["y1"],
    }
}

async fn contents(b: &dyn Bucket) -> BTreeMap<&'static str, Option<Bytes>> {
    let mut all = BTreeMap::new();
    for key in KEYS {
        all.insert(key, b.get(key).await.expect("a read after the power came back").map(|o| o.bytes));
    }
    all
}

/// How somebody else looks at the store just before the power goes.
#[derive(Clone, Copy, Debug)]
enum Look {
    Get,
    List,
    Create,
}

/// Returns the number of operations that the history takes, if the cut came after it.
async fn run(cut: u64, look: Look) -> Option<u64> {
    let dir = tempfile::tempdir().unwrap();
    let config = StorageConfig::file(dir.path());
    let fs = SimFs::new();
    // Whoever looks opened the store before.
    let onlooker = bucket(&fs.bystander(), &config).await.unwrap();
    let seen: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    {
        let (seen, runtime) = (Arc::clone(&seen), tokio::runtime::Handle::current());
        let (disk, root) = (fs.bystander(), dir.path().to_path_buf());
        fs.cut_before(cut, move || {
            let looking = async move {
                for key in KEYS {
                    let there = match look {
                        Look::Get => onlooker.get(key).await.unwrap().is_some(),
                        Look::List => onlooker.list("", None, 100).await.unwrap().iter().any(|l| l.key == key),
                        // Only where the key is taken, as otherwise it would be written.
                        Look::Create => {
                            disk.stat(&root.join(key)).is_ok_and(|s| s.is_file)
                                && onlooker.create(key, Bytes::new()).await.unwrap() == CreateOutcome::Exists
                        }
                    };
                    if there {
                        seen.lock().push(key);
                    }
                }
            };
            // On a thread of its own, as the operation may be one of a task's.
            std::thread::spawn(move || runtime.block_on(looking)).join().unwrap();
        });
    }
    let promised = Mutex::new(Promised::new());
    let failed = match bucket(&fs, &config).await {
        Some(b) => history(&*b, &promised).await,
        None => Some("(opening)"),
    };
    let promised = promised.into_inner();
    for luck in 0..LUCK {
        let after = fs.after_power_cut(cut * LUCK + luck);
        let b = bucket(&after, &config).await.expect("opening after the power came back");
        let found = contents(&*b).await;
        for key in KEYS {
            let body = found[key].as_deref().map(|b| std::str::from_utf8(b).unwrap());
            let case = format!("cut before operation {cut}, luck {luck}, {look:?}: {key} is {body:?}");
            // Whole, if there.
            assert!(body.is_none_or(|b| bodies(key).contains(&b)), "torn: {case}");
            if failed != Some(key) {
                assert_eq!(body, promised.get(key).copied().flatten(), "not as acknowledged: {case}");
            } else if let Some(Some(last)) = promised.get(key) {
                // A write of it was under way: the old or the new one, or a deletion.
                assert!(body.is_none_or(|b| b >= *last), "older than acknowledged: {case}");
                assert!(body.is_some() || DELETED.contains(&key), "gone: {case}");
            }
            // Seen is as good as acknowledged.
            assert!(!seen.lock().contains(&key) || body.is_some() || DELETED.contains(&key), "seen, then gone: {case}");
        }
        // It can be written again, and the dead writer's temporary files are in nobody's way.
        let more = luck > 0 || history_goes_on(&*b).await;
        assert!(more, "cut before operation {cut}, luck {luck}: the store does not work any more");
    }
    failed.is_none().then(|| fs.operations())
}

async fn history_goes_on(b: &dyn Bucket) -> bool {
    let promised = Mutex::new(Promised::new());
    b.delete_many(&KEYS.map(String::from)).await.unwrap();
    history(b, &promised).await.is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_power_may_go_at_any_operation() {
    for look in [Look::Get, Look::List, Look::Create] {
        let mut cut = 0;
        let operations = loop {
            if let Some(operations) = run(cut, look).await {
                break operations;
            }
            cut += 1;
        };
        assert!(cut > 60, "only {cut} cuts in {operations} operations");
    }
}
