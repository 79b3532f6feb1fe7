//! What every bucket must do, whatever is behind it: the same assertions run against the
//! file provider, the fake stores and real servers.

// Each test program uses its own part of this.
#![allow(dead_code)]

pub mod fake;
pub mod sim_fs;
pub mod token_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::TryStreamExt;
use netsy_objects::settle::{Settled, create_settled, swap_settled};
use netsy_objects::{Bucket, CreateOutcome, ErrorKind, SwapOutcome, Version};

fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn created(bucket: &dyn Bucket, key: &str, text: &str) -> Version {
    match bucket.create(key, body(text)).await.expect("create") {
        CreateOutcome::Created(version) => version,
        CreateOutcome::Exists => panic!("{key} exists already"),
    }
}

async fn keys(bucket: &dyn Bucket, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    bucket.list(prefix, after, limit).await.expect("list").into_iter().map(|l| l.key).collect()
}

/// How hard to try; slow servers get less.
#[derive(Clone, Copy)]
pub struct Effort {
    pub listed_keys: usize,
    pub race_rounds: usize,
    pub race_width: usize,
    pub counter_tasks: usize,
    pub counter_steps: usize,
}

impl Effort {
    pub const FULL: Effort =
        Effort { listed_keys: 2_500, race_rounds: 50, race_width: 8, counter_tasks: 4, counter_steps: 25 };
}

/// Does a write by swap leave a version that was there before, when the bytes were?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// Versions never come back.
    Unique,
    /// S3: the version is a function of the bytes.
    OfContent,
}

pub async fn conforms(bucket: Arc<dyn Bucket>, effort: Effort, versions: Versions) {
    let b = &*bucket;
    read_and_create(b).await;
    swap(b, versions).await;
    names(b).await;
    delete(b).await;
    ranges_and_streams(b).await;
    listing(b, effort.listed_keys).await;
    create_race(&bucket, effort).await;
    counter(&bucket, effort).await;
}

async fn read_and_create(b: &dyn Bucket) {
    assert!(b.get("c/missing").await.unwrap().is_none());
    assert!(b.get_range("c/missing", 0..1).await.unwrap().is_none());
    assert!(b.download("c/missing").await.unwrap().is_none());
    let version = created(b, "c/one", "first").await;
    let found = b.get("c/one").await.unwrap().unwrap();
    assert_eq!((&found.bytes[..], &found.version), (&b"first"[..], &version));
    assert_eq!(b.create("c/one", body("second")).await.unwrap(), CreateOutcome::Exists);
    assert_eq!(b.swap("c/one", None, body("second")).await.unwrap(), SwapOutcome::Conflict);
    assert_eq!(&b.get("c/one").await.unwrap().unwrap().bytes[..], b"first");
    // Empty is not absent.
    created(b, "c/empty", "").await;
    assert_eq!(b.get("c/empty").await.unwrap().unwrap().bytes.len(), 0);
}

async fn swap(b: &dyn Bucket, versions: Versions) {
    let absent = created(b, "s/gone", "x").await;
    b.delete("s/gone").await.unwrap();
    assert_eq!(
        b.swap("s/gone", Some(&absent), body("y")).await.unwrap(),
        SwapOutcome::Conflict,
        "swapped what is not there"
    );
    assert!(b.get("s/gone").await.unwrap().is_none());

    let SwapOutcome::Swapped(first) = b.swap("s/one", None, body("a")).await.unwrap() else { panic!("not created") };
    let SwapOutcome::Swapped(second) = b.swap("s/one", Some(&first), body("b")).await.unwrap() else {
        panic!("not swapped")
    };
    assert_ne!(first, second);
    assert_eq!(b.swap("s/one", Some(&first), body("c")).await.unwrap(), SwapOutcome::Conflict, "a stale version won");
    let found = b.get("s/one").await.unwrap().unwrap();
    assert_eq!((&found.bytes[..], &found.version), (&b"b"[..], &second));
    // A -> B -> A
    let SwapOutcome::Swapped(third) = b.swap("s/one", Some(&second), body("a")).await.unwrap() else {
        panic!("not swapped")
    };
    match versions {
        Versions::Unique => {
            assert_ne!(first, third, "a version came back");
            assert_eq!(b.swap("s/one", Some(&first), body("d")).await.unwrap(), SwapOutcome::Conflict);
        }
        Versions::OfContent => assert_eq!(first, third, "equal bodies, equal versions: then every body needs a nonce"),
    }
}

async fn names(b: &dyn Bucket) {
    for bad in ["", "../x", "a/../x", "/abs", "a//b", ".netsy/locks/00", "a b", "a\\b", "x/", "a/.."] {
        for error in [
            b.get(bad).await.unwrap_err(),
            b.create(bad, body("")).await.unwrap_err(),
            b.swap(bad, Some(&Version::new("v")), body("")).await.unwrap_err(),
            b.delete(bad).await.unwrap_err(),
            b.upload(bad).await.err().expect("uploaded"),
            b.download(bad).await.unwrap_err(),
        ] {
            assert_eq!(error.kind, ErrorKind::Refused, "{bad:?}: {error}");
        }
    }
    assert!(b.list("no-slash", None, 1).await.is_err());
    // What keys may hold, the store must hand back as it was.
    for odd in ["n/a+b", "n/a=b@c,d", "n/A_b-c.json"] {
        created(b, odd, odd).await;
        assert_eq!(&b.get(odd).await.unwrap().unwrap().bytes[..], odd.as_bytes());
    }
    assert_eq!(keys(b, "n/", None, 10).await, ["n/A_b-c.json", "n/a+b", "n/a=b@c,d"]);
}

async fn delete(b: &dyn Bucket) {
    b.delete("d/missing").await.unwrap();
    let first = created(b, "d/one", "x").await;
    b.delete("d/one").await.unwrap();
    assert!(b.get("d/one").await.unwrap().is_none());
    let second = created(b, "d/one", "x").await;
    // With equal bodies S3 cannot tell; elsewhere a new object has a new version.
    let _ = (first, second);
    created(b, "d/two", "x").await;
    created(b, "d/deep/er/three", "x").await;
    b.delete_many(&["d/one".into(), "d/two".into(), "d/missing".into(), "d/deep/er/three".into()]).await.unwrap();
    assert_eq!(keys(b, "d/", None, 10).await, Vec::<String>::new());
}

async fn ranges_and_streams(b: &dyn Bucket) {
    created(b, "r/ten", "0123456789").await;
    let range = async |r: std::ops::Range<u64>| b.get_range("r/ten", r).await.unwrap().unwrap();
    assert_eq!(&range(0..10).await[..], b"0123456789");
    assert_eq!(&range(2..5).await[..], b"234");
    assert_eq!(&range(8..50).await[..], b"89", "a range is cut at the end");
    assert_eq!(range(10..20).await.len(), 0);
    assert_eq!(range(500..600).await.len(), 0);
    assert_eq!(range(4..4).await.len(), 0);

    // Three parts and a rest, in pieces that fit nothing.
    let all: Vec<u8> = (0..27_000_001_u32).map(|n| (n % 251) as u8).collect();
    for (key, length) in [("r/none", 0), ("r/small", 1_000), ("r/part", 8 << 20), ("r/large", all.len())] {
        let mut upload = b.upload(key).await.unwrap();
        for piece in all[..length].chunks(999_999) {
            upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert!(b.get(key).await.unwrap().is_none(), "{key} shows before it is finished");
        upload.finish().await.unwrap();
        let download = b.download(key).await.unwrap().unwrap();
        assert_eq!(download.size, length as u64);
        let pieces: Vec<Bytes> = download.body.try_collect().await.unwrap();
        assert!(pieces.concat() == all[..length], "{key} differs");
        assert!(b.get(key).await.unwrap().unwrap().bytes == all[..length], "{key} differs");
    }
    let mut upload = b.upload("r/small").await.unwrap();
    upload.write(body("replaced")).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!(&b.get("r/small").await.unwrap().unwrap().bytes[..], b"replaced");

    for (key, drop_it) in [("r/aborted", false), ("r/dropped", true)] {
        let mut upload = b.upload(key).await.unwrap();
        upload.write(Bytes::from(all[..(9 << 20)].to_vec())).await.unwrap();
        if drop_it {
            drop(upload)
        } else {
            upload.abort().await.unwrap()
        }
        assert!(b.get(key).await.unwrap().is_none());
    }
    b.delete_many(&["r/large", "r/part"].map(String::from)).await.unwrap();
}

async fn listing(b: &dyn Bucket, count: usize) {
    let expected: Vec<String> = (1..=count).map(|n| format!("log/{n:020}.netsy")).collect();
    // `0` sorts after `/`, `.` before it: order is that of whole keys.
    for odd in ["log.json", "log0", "logs/1"] {
        created(b, odd, "x").await;
    }
    for some in expected.chunks(16) {
        futures::future::join_all(some.iter().map(|key| created(b, key, "12345"))).await;
    }
    let all = b.list("log/", None, usize::MAX).await.unwrap();
    assert!(all.iter().all(|l| l.size == 5));
    assert_eq!(all.into_iter().map(|l| l.key).collect::<Vec<_>>(), expected, "one call, several pages");
    assert_eq!(keys(b, "log/", None, 7).await, expected[..7]);
    let middle = count / 2;
    assert_eq!(keys(b, "log/", Some(&expected[middle]), usize::MAX).await, expected[middle + 1..]);
    assert_eq!(keys(b, "log/", Some(&expected[middle]), 3).await, expected[middle + 1..middle + 4]);
    assert_eq!(keys(b, "log/", Some(&expected[count - 1]), 3).await, Vec::<String>::new());
    assert_eq!(keys(b, "log/", Some("log/5"), 3).await, Vec::<String>::new(), "after a key that is not there");
    assert_eq!(keys(b, "log/", Some("a"), 1).await, expected[..1], "after a key before the prefix");
    let mut walked = Vec::new();
    loop {
        let page = keys(b, "log/", walked.last().map(String::as_str), 999).await;
        let last = page.len() < 999;
        walked.extend(page);
        if last {
            break;
        }
    }
    assert_eq!(walked, expected);
    // Folders in folders, from a key in the middle of one.
    let deep = ["deep/1/a", "deep/1/b", "deep/10/a", "deep/2/a/x", "deep/2/b", "deep/3"];
    for key in deep {
        created(b, key, "x").await;
    }
    for (n, key) in deep.iter().enumerate() {
        assert_eq!(keys(b, "deep/", Some(key), 10).await, deep[n + 1..], "after {key}");
    }
    assert_eq!(keys(b, "", Some("deep/1/b"), 3).await, deep[2..5]);
    b.delete_many(&expected).await.unwrap();
    assert_eq!(keys(b, "log/", None, 10).await, Vec::<String>::new());
}

async fn create_race(bucket: &Arc<dyn Bucket>, effort: Effort) {
    for round in 0..effort.race_rounds {
        let won = Arc::new(AtomicUsize::new(0));
        let tasks = (0..effort.race_width).map(|n| {
            let (bucket, won) = (Arc::clone(bucket), Arc::clone(&won));
            tokio::spawn(async move {
                let mine = format!("{round}-{n}");
                let is_mine = |found: &[u8]| found == mine.as_bytes();
                let key = format!("race/{round}");
                if let Settled::Mine(_) = create_settled(&*bucket, &key, body(&mine), &is_mine).await.unwrap() {
                    won.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        for task in futures::future::join_all(tasks).await {
            task.unwrap();
        }
        assert_eq!(won.load(Ordering::Relaxed), 1, "round {round}");
    }
}

/// Increments by compare-and-swap: none may be lost.
async fn counter(bucket: &Arc<dyn Bucket>, effort: Effort) {
    created(&**bucket, "counter", "0 start").await;
    let tasks = (0..effort.counter_tasks).map(|n| {
        let bucket = Arc::clone(bucket);
        tokio::spawn(async move {
            for step in 0..effort.counter_steps {
                while !increment(&*bucket, "counter", &format!("{n}.{step}")).await {}
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    assert_eq!(count(&**bucket, "counter").await, effort.counter_tasks * effort.counter_steps);
}

/// One try to add one; the nonce keeps bodies, and so ETags, apart.
pub async fn increment(bucket: &dyn Bucket, key: &str, nonce: &str) -> bool {
    let found = bucket.get(key).await.unwrap().expect("the counter is gone");
    let next = format!("{} {nonce}", number(&found.bytes) + 1);
    let is_mine = |bytes: &[u8]| bytes == next.as_bytes();
    // Both a loss and one that was overtaken unseen: the latter cannot happen without faults.
    matches!(swap_settled(bucket, key, Some(&found.version), body(&next), &is_mine).await.unwrap(), Settled::Mine(_))
}

pub async fn count(bucket: &dyn Bucket, key: &str) -> usize {
    number(&bucket.get(key).await.unwrap().unwrap().bytes)
}

fn number(bytes: &[u8]) -> usize {
    std::str::from_utf8(bytes).unwrap().split(' ').next().unwrap().parse().unwrap()
}
