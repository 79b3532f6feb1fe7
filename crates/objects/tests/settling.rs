//! The traps of conditional writes over a network, one by one, on both dialects: whatever
//! happens to an answer, a write is done once and its writer learns what became of it.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::fake::{DIALECTS, RETRY_MAX_AGE, TIMEOUT, config, start};
use netsy_fakestore::{Calls, Dialect, FakeStore, Fault, FaultKind, Op};
use netsy_objects::settle::{Settled, create_settled, swap_settled};
use netsy_objects::{Bucket, CreateOutcome, ErrorKind, StorageConfig, StoreError, SwapOutcome, Version, open};

const KEY: &str = "log/00000000000000000001.netsy";

async fn create(bucket: &dyn Bucket, text: &'static str) -> Result<Settled, StoreError> {
    create_settled(bucket, KEY, Bytes::from_static(text.as_bytes()), &move |b| b == text.as_bytes()).await
}

async fn swap(bucket: &dyn Bucket, from: &Version, text: &'static str) -> Result<Settled, StoreError> {
    swap_settled(bucket, KEY, Some(from), Bytes::from_static(text.as_bytes()), &move |b| b == text.as_bytes()).await
}

fn mine(settled: Result<Settled, StoreError>) -> Version {
    match settled {
        Ok(Settled::Mine(version)) => version,
        other => panic!("not mine: {other:?}"),
    }
}

fn puts(fake: &FakeStore) -> u64 {
    fake.calls(&Calls::new(Op::Put, KEY))
}

fn put_fault(kind: FaultKind) -> Fault {
    Fault::new(Calls::new(Op::Put, KEY), kind).once()
}

fn kept(fake: &FakeStore) -> String {
    fake.object(KEY).map_or_else(|| "(nothing)".into(), |b| String::from_utf8_lossy(&b).into_owned())
}

/// Answers that say nothing though the write was done.
fn after() -> Vec<FaultKind> {
    vec![
        FaultKind::StatusAfter(500),
        FaultKind::StatusAfter(503),
        FaultKind::StatusAfter(504),
        FaultKind::StatusAfter(408),
        FaultKind::CloseAfter,
        FaultKind::StallAfter(TIMEOUT * 2),
        FaultKind::NoVersion,
    ]
}

/// The same where it was not done.
fn before() -> Vec<FaultKind> {
    vec![
        FaultKind::StatusBefore(500),
        FaultKind::StatusBefore(503),
        FaultKind::StatusBefore(429),
        FaultKind::StatusBefore(408),
        FaultKind::CloseBefore,
        FaultKind::StallBefore(TIMEOUT * 2),
    ]
}

/// Runs one case on both dialects at once.
async fn both<F, R>(case: F)
where
    F: Fn(FakeStore, Arc<dyn Bucket>) -> R,
    R: Future<Output = ()>,
{
    futures::future::join_all(DIALECTS.map(async |dialect| {
        let (fake, buckets) = start(dialect).await;
        case(fake, buckets.data).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_answer_was_lost_but_which_landed_is_found_to_be_ours() {
    for kind in after() {
        both(async |fake, bucket| {
            let hits = fake.inject(put_fault(kind.clone()));
            let version = mine(create(&*bucket, "mine").await);
            assert_eq!((hits.hits(), kept(&fake).as_str()), (1, "mine"), "{kind:?}");
            assert_eq!(bucket.get(KEY).await.unwrap().unwrap().version, version);
            assert_eq!(puts(&fake), 1, "{kind:?}: written again before it was looked for");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_whose_answer_was_lost_but_which_landed_is_found_to_be_ours() {
    for kind in after() {
        both(async |fake, bucket| {
            let first = mine(create(&*bucket, "first").await);
            let hits = fake.inject(put_fault(kind.clone()));
            let second = mine(swap(&*bucket, &first, "second").await);
            assert_eq!((hits.hits(), kept(&fake).as_str()), (1, "second"), "{kind:?}");
            assert_eq!(bucket.get(KEY).await.unwrap().unwrap().version, second);
            assert_eq!(puts(&fake), 2, "{kind:?}: written again before it was looked for");
            // The version that was read is one to go on from.
            mine(swap(&*bucket, &second, "third").await);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_not_done_is_done_again() {
    for kind in before() {
        both(async |fake, bucket| {
            let hits = fake.inject(put_fault(kind.clone()));
            let first = mine(create(&*bucket, "first").await);
            assert_eq!((hits.hits(), kept(&fake).as_str()), (1, "first"), "{kind:?}");
            let hits = fake.inject(put_fault(kind.clone()));
            mine(swap(&*bucket, &first, "second").await);
            assert_eq!((hits.hits(), kept(&fake).as_str()), (1, "second"), "{kind:?}");
            assert_eq!(puts(&fake), 4);
        })
        .await;
    }
}

/// 409 is what S3 says while another conditional write is under way: nothing was lost
/// to anybody, and nothing exists.
#[tokio::test(flavor = "multi_thread")]
async fn a_409_is_no_loss() {
    both(async |fake, bucket| {
        let conflict = || put_fault(FaultKind::StatusBefore(409)).times(2);
        fake.inject(conflict());
        let raw = bucket.create(KEY, Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(raw.kind, ErrorKind::Unavailable, "taken for a taken key");
        let first = mine(create(&*bucket, "first").await);
        fake.inject(conflict());
        let raw = bucket.swap(KEY, Some(&first), Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(raw.kind, ErrorKind::Unavailable, "taken for a lost swap");
        mine(swap(&*bucket, &first, "second").await);
        assert_eq!((kept(&fake).as_str(), puts(&fake)), ("second", 6));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_somebody_elses_is_handed_back() {
    for kind in [
        None,
        Some(FaultKind::CloseBefore),
        Some(FaultKind::StatusAfter(500)),
        Some(FaultKind::StallBefore(TIMEOUT * 2)),
    ] {
        both(async |fake, bucket| {
            fake.put_object(KEY, "theirs");
            let unclear = kind.is_some();
            if let Some(kind) = &kind {
                fake.inject(put_fault(kind.clone()));
            }
            let Settled::Theirs(theirs) = create(&*bucket, "mine").await.unwrap() else { panic!("won") };
            assert_eq!((&theirs.object.bytes[..], theirs.ours_unclear), (&b"theirs"[..], unclear));
            let theirs = theirs.object.version;
            fake.put_object(KEY, "theirs still");
            if let Some(kind) = &kind {
                fake.inject(put_fault(kind.clone()));
            }
            let Settled::Theirs(now) = swap(&*bucket, &theirs, "mine").await.unwrap() else { panic!("won") };
            assert_eq!(&now.object.bytes[..], b"theirs still");
            assert_eq!(kept(&fake), "theirs still");
        })
        .await;
    }
}

/// "Taken", and then nothing there: cleaned up. The caller lists again.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_cleaned_up_while_we_look_is_missing() {
    both(async |fake, bucket| {
        fake.inject(put_fault(FaultKind::StatusBefore(412)));
        assert!(matches!(create(&*bucket, "mine").await.unwrap(), Settled::Missing));
        let first = mine(create(&*bucket, "first").await);
        fake.remove_object(KEY);
        assert!(matches!(swap(&*bucket, &first, "second").await.unwrap(), Settled::Missing));
        assert!(fake.object(KEY).is_none(), "a swap made an object");
    })
    .await;
}

/// S3's version is a function of the body: a stale one is accepted once the old bytes are
/// back. So every body carries a nonce, which this shows to be enough.
#[tokio::test(flavor = "multi_thread")]
async fn equal_bodies_have_equal_versions_on_s3_and_nonces_keep_them_apart() {
    both(async |fake, bucket| {
        let first = mine(create(&*bucket, "a").await);
        let second = mine(swap(&*bucket, &first, "b").await);
        let third = mine(swap(&*bucket, &second, "a").await);
        let stale = bucket.swap(KEY, Some(&first), Bytes::from_static(b"lost update")).await.unwrap();
        match fake.dialect() {
            Dialect::S3 => assert_eq!((first, matches!(stale, SwapOutcome::Swapped(_))), (third, true)),
            Dialect::Gcs => assert_eq!(stale, SwapOutcome::Conflict),
        }
        fake.remove_object(KEY);
        let first = mine(create(&*bucket, "a, nonce 1").await);
        let second = mine(swap(&*bucket, &first, "b, nonce 2").await);
        mine(swap(&*bucket, &second, "a, nonce 3").await);
        assert_eq!(bucket.swap(KEY, Some(&first), Bytes::from_static(b"x")).await.unwrap(), SwapOutcome::Conflict);
    })
    .await;
}

/// A slow-down that ends within `retry_max_age` is waited out, one that does not ends in an
/// error that says what is known; afterwards the same call succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_down_longer_than_the_retries_is_a_typed_error_and_no_loss() {
    let slow_down = |n| Fault::new(Calls::all(), FaultKind::StatusBefore(503)).times(n);
    futures::future::join_all(DIALECTS.map(async |dialect| {
        let fake = FakeStore::start(dialect).await.unwrap();
        let max_age = Duration::from_millis(1_500);
        let bucket = open(&StorageConfig { retry_max_age: max_age, ..config(&fake) }).await.unwrap().data;

        let storm = fake.inject(slow_down(6));
        let first = mine(create(&*bucket, "first").await);
        assert_eq!(storm.hits(), 6);

        let storm = fake.inject(slow_down(u64::MAX));
        let started = Instant::now();
        let error = swap(&*bucket, &first, "second").await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert!(error.to_string().contains("SlowDown"), "{error}");
        assert!(started.elapsed() > max_age / 2 && started.elapsed() < max_age * 4, "{:?}", started.elapsed());
        assert!(storm.hits() < 40, "{} calls in {max_age:?} are no backing off", storm.hits());
        for error in [
            bucket.get(KEY).await.unwrap_err(),
            bucket.list("", None, 10).await.unwrap_err(),
            bucket.download(KEY).await.unwrap_err(),
        ] {
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        }
        fake.clear_faults();
        mine(swap(&*bucket, &first, "second").await);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_unavailable_and_certainly_not_written() {
    for dialect in DIALECTS {
        let fake = FakeStore::start(dialect).await.unwrap();
        let config = StorageConfig { retry_max_age: Duration::from_millis(400), ..config(&fake) };
        let bucket = open(&config).await.unwrap().data;
        let address = fake.endpoint().trim_start_matches("http://").to_owned();
        drop(fake); // its port is closed, a moment later
        while tokio::net::TcpStream::connect(&address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(bucket.create(KEY, Bytes::new()).await.unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(create(&*bucket, "mine").await.unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(bucket.get(KEY).await.unwrap_err().kind, ErrorKind::Unavailable);
    }
}

/// A write that lands after its call gave up: it lands once, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_lands_late_is_still_one_create() {
    // Lands before the second try, and after it.
    for late in [TIMEOUT + TIMEOUT / 20, TIMEOUT * 3] {
        both(async |fake, bucket| {
            fake.inject(put_fault(FaultKind::ApplyLate(late)));
            mine(create(&*bucket, "mine").await);
            tokio::time::sleep(late).await;
            assert_eq!(kept(&fake), "mine");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_lands_late_undoes_nothing() {
    both(async |fake, bucket| {
        let first = mine(create(&*bucket, "first").await);
        let late = TIMEOUT * 3;
        fake.inject(put_fault(FaultKind::ApplyLate(late)));
        let second = mine(swap(&*bucket, &first, "second").await);
        mine(swap(&*bucket, &second, "third").await);
        tokio::time::sleep(late).await;
        assert_eq!(kept(&fake), "third", "the late one came through");
    })
    .await;
}

/// The caller gave up, the store did not: the error said that this may happen, and going on
/// with the same bytes finds the write.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_lands_after_the_caller_gave_up_is_found_by_going_on() {
    futures::future::join_all(DIALECTS.map(async |dialect| {
        let fake = FakeStore::start(dialect).await.unwrap();
        let bucket =
            open(&StorageConfig { retry_max_age: Duration::from_millis(1_200), ..config(&fake) }).await.unwrap().data;
        let late = TIMEOUT * 4;
        fake.inject(put_fault(FaultKind::ApplyLate(late)));
        // Whatever comes after it is turned away.
        let storm = Fault::new(Calls::all(), FaultKind::StatusBefore(503));
        fake.inject(storm);
        let error = create(&*bucket, "mine").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unclear, "{error}");
        assert!(fake.object(KEY).is_none(), "landed too early for this test");
        tokio::time::sleep(late).await;
        assert_eq!(kept(&fake), "mine");
        fake.clear_faults();
        mine(create(&*bucket, "mine").await);
        // And a stranger does not take it for its own.
        assert!(matches!(create(&*bucket, "other").await.unwrap(), Settled::Theirs(_)));
    }))
    .await;
}

/// Refused is refused: at once, and with the remedy.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_succeed_is_not_repeated() {
    both(async |fake, bucket| {
        for (status, says) in [(403, "permission"), (400, "400"), (501, "501")] {
            let hits = fake.inject(Fault::new(Calls::new(Op::Put, KEY), FaultKind::StatusBefore(status)));
            let started = Instant::now();
            let error = create(&*bucket, "mine").await.unwrap_err();
            assert_eq!((error.kind, hits.hits()), (ErrorKind::Refused, 1), "{error}");
            assert!(error.to_string().contains(says), "{error}");
            assert!(started.elapsed() < RETRY_MAX_AGE / 2);
            fake.clear_faults();
        }
    })
    .await;
    for dialect in DIALECTS {
        let fake = FakeStore::start(dialect).await.unwrap();
        let bucket = open(&StorageConfig { bucket: "nowhere".into(), ..config(&fake) }).await.unwrap().data;
        for error in [
            bucket.get(KEY).await.unwrap_err(),
            bucket.list("log/", None, 1).await.unwrap_err(),
            create(&*bucket, "mine").await.unwrap_err(),
            bucket.swap(KEY, Some(&Version::new("\"1\"")), Bytes::new()).await.unwrap_err(),
        ] {
            assert_eq!(error.kind, ErrorKind::Refused, "{error}");
            assert!(error.to_string().contains("does not exist"), "{error}");
        }
    }
}

/// Reads and listings go on by themselves, also in the middle of a body or between pages.
#[tokio::test(flavor = "multi_thread")]
async fn reads_survive_breaks() {
    both(async |fake, bucket| {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 241) as u8).collect();
        fake.put_object("big", bytes.clone());
        let get = |kind| Fault::new(Calls::new(Op::Get, "big"), kind).once();
        for kind in [
            FaultKind::CutBody(1_000_000),
            FaultKind::StatusBefore(503),
            FaultKind::CloseBefore,
            FaultKind::StallBefore(TIMEOUT * 2),
        ] {
            fake.inject(get(kind.clone()));
            assert!(bucket.get("big").await.unwrap().unwrap().bytes == bytes, "{kind:?}");
            fake.inject(get(kind.clone()));
            let mut body = bucket.download("big").await.unwrap().unwrap().body;
            let mut got = Vec::new();
            while let Some(piece) = futures::TryStreamExt::try_next(&mut body).await.unwrap() {
                got.extend_from_slice(&piece);
            }
            assert!(got == bytes, "{kind:?}");
            fake.inject(get(kind.clone()));
            let some = bucket.get_range("big", 500_000..2_500_000).await.unwrap().unwrap();
            assert!(some == bytes[500_000..2_500_000], "{kind:?}");
        }
        fake.set_page_size(10);
        let keys: Vec<String> = (0..35).map(|n| format!("page/{n:03}")).collect();
        for key in &keys {
            fake.put_object(key, "x");
        }
        for nth in 0..4 {
            fake.inject(Fault::new(Calls::new(Op::List, "page/"), FaultKind::StatusBefore(500)).skip(nth).once());
            let listed = bucket.list("page/", None, 100).await.unwrap();
            assert_eq!(listed.into_iter().map(|l| l.key).collect::<Vec<_>>(), keys);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streaming_uploads_survive_breaks() {
    both(async |fake, bucket| {
        let bytes: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 239) as u8).collect();
        for (n, (op, kind)) in [
            (Op::Part, FaultKind::StatusBefore(503)),
            (Op::Part, FaultKind::CloseAfter),
            (Op::Complete, FaultKind::StatusBefore(503)),
            (Op::Complete, FaultKind::StatusAfter(500)),
            (Op::Complete, FaultKind::CloseAfter),
        ]
        .into_iter()
        .enumerate()
        {
            let key = format!("part-{n}");
            let hits = fake.inject(Fault::new(Calls::new(op, &key), kind.clone()).once());
            let mut upload = bucket.upload(&key).await.unwrap();
            upload.write(bytes.clone().into()).await.unwrap();
            upload.finish().await.unwrap_or_else(|e| panic!("{op:?} {kind:?}: {e}"));
            assert_eq!(hits.hits(), 1);
            assert!(fake.object(&key).unwrap() == bytes, "{op:?} {kind:?}");
        }
    })
    .await;
}

/// Every write of a small history meets every fault: the history is what it should be.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_the_same_whichever_write_meets_whichever_fault() {
    const WRITES: u64 = 4;
    let mut kinds = [before(), after()].concat();
    kinds.push(FaultKind::StatusBefore(409));
    kinds.push(FaultKind::ApplyLate(TIMEOUT + TIMEOUT / 20));
    let runs = DIALECTS.into_iter().flat_map(|dialect| kinds.iter().map(move |kind| (dialect, kind.clone())));
    futures::future::join_all(runs.map(async |(dialect, kind)| {
        for nth in 0..WRITES {
            let (fake, buckets) = start(dialect).await;
            let hits = fake.inject(Fault::new(Calls::new(Op::Put, "*"), kind.clone()).skip(nth).once());
            let b = &*buckets.data;
            for seq in 1..=2 {
                let body = Bytes::from(format!("chunk {seq}"));
                let is_mine = |found: &[u8]| found == &body[..];
                mine(create_settled(b, &format!("log/{seq}"), body.clone(), &is_mine).await);
            }
            let first = mine(create(b, "manifest, nonce 1").await);
            mine(swap(b, &first, "manifest, nonce 2").await);
            assert_eq!(hits.hits(), 1);
            assert_eq!(fake.object("log/1").unwrap(), "chunk 1", "{dialect:?} {kind:?} {nth}");
            assert_eq!(fake.object("log/2").unwrap(), "chunk 2", "{dialect:?} {kind:?} {nth}");
            assert_eq!(kept(&fake), "manifest, nonce 2", "{dialect:?} {kind:?} {nth}");
            // Nobody else could have had them.
            assert_eq!(b.create("log/1", Bytes::new()).await.unwrap(), CreateOutcome::Exists);
        }
    }))
    .await;
}
