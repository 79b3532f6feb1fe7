//! Is this store fit to keep a cluster's log?
//!
//! Stores that speak S3 differ in the one thing that matters here: some ignore the
//! conditions of a write, some look at them and then write, so that of two writers at once both
//! win. So the probe tries each condition, one by one and then in races, and a store that
//! fails is refused with the check that it failed. It costs about ten round trips.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::join_all;

use crate::bucket::{Bucket, CreateOutcome, ErrorKind, Object, StoreError, SwapOutcome, Version};
use crate::settle::{Settled, create_settled, swap_settled};

/// Where the probe's objects are while it runs.
pub const PROBE_PREFIX: &str = "probe/";

/// Objects raced for at once. They do not get in each other's way, so that many cost
/// hardly more time than one.
const RACES: usize = 16;
/// Writers to each. SeaweedFS lets contenders wait their turn, for seconds if there are many.
const CREATORS: usize = 2;
const SWAPPERS: usize = 2;
/// A probe that is this old was killed: what it left is cleared away.
const STALE_SECONDS: u64 = 3_600;
const STALE_OBJECTS_MAX: usize = 500;

/// Why a store is not used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("object storage {store} failed the start-up check \"{check}\": {found}. {remedy}")]
pub struct ProbeFailed {
    pub store: String,
    pub check: &'static str,
    pub found: String,
    pub remedy: String,
    /// The store could not be asked: trying again later may succeed. Otherwise it is unfit.
    pub unavailable: bool,
}

/// Tries everything that netsy relies on and removes what it wrote.
pub async fn probe(bucket: &dyn Bucket) -> Result<(), ProbeFailed> {
    if !bucket.needs_probe() {
        return Ok(());
    }
    let mut raw = [0u8; 8];
    getrandom::fill(&mut raw).map_err(|e| fail(bucket, "random numbers", e.to_string(), String::new(), true))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let probe = Probe { bucket, dir: format!("{PROBE_PREFIX}{now:012}-{:016x}/", u64::from_le_bytes(raw)) };
    let outcome = probe.run().await;
    probe.clean_up(now).await;
    outcome
}

fn fail(bucket: &dyn Bucket, check: &'static str, found: String, remedy: String, unavailable: bool) -> ProbeFailed {
    ProbeFailed { store: bucket.describe(), check, found, remedy, unavailable }
}

const UNFIT: &str = "Two primaries could both believe that they wrote: use a store with atomic conditional writes (Amazon S3, \
                     Google Cloud Storage, Cloudflare R2, SeaweedFS 4.48 or newer; not Garage, s3s-fs or rclone serve s3), or \
                     storage.provider \"file\" on one machine";

struct Probe<'a> {
    bucket: &'a dyn Bucket,
    dir: String,
}

impl Probe<'_> {
    async fn run(&self) -> Result<(), ProbeFailed> {
        let (key, first) = self.create().await?;
        let second = self.swap(&key, &first).await?;
        self.stale_swap(&key, &first).await?;
        self.swap_of_nothing(&second).await?;
        self.create_races().await?;
        self.swap_races().await?;
        self.read_range().await?;
        self.list_and_delete().await
    }

    fn key(&self, name: impl std::fmt::Display) -> String {
        format!("{}{name}", self.dir)
    }

    fn unfit(&self, check: &'static str, found: impl Into<String>) -> ProbeFailed {
        fail(self.bucket, check, found.into(), UNFIT.into(), false)
    }

    fn error(&self, check: &'static str, e: &StoreError) -> ProbeFailed {
        let remedy = match e.kind {
            ErrorKind::Refused => {
                "Correct storage.* or the bucket's permissions: objects are read, written, listed and deleted"
            }
            _ => "Is storage.endpoint right, and can this machine reach it?",
        };
        fail(self.bucket, check, e.reason.clone(), remedy.into(), e.is_retryable())
    }

    async fn read(&self, check: &'static str, key: &str) -> Result<Option<Object>, ProbeFailed> {
        self.bucket.get(key).await.map_err(|e| self.error(check, &e))
    }

    /// A create is a create, and a second one leaves the first in place.
    async fn create(&self) -> Result<(String, Version), ProbeFailed> {
        let check = "create an object";
        let key = self.key("object");
        let version = match settled_create(self.bucket, &key, "first").await {
            Ok(Settled::Mine(version)) => version,
            Ok(_) => return Err(self.unfit(check, "a new object cannot be found after it was written")),
            Err(e) => return Err(self.error(check, &e)),
        };
        match self.read(check, &key).await? {
            Some(object) if object.bytes[..] == *b"first" => {}
            _ => return Err(self.unfit(check, "the object does not read back as it was written")),
        }
        let check = "create-only write (If-None-Match: *) of an existing object";
        match settled_create(self.bucket, &key, "second").await {
            Ok(Settled::Theirs(theirs)) if theirs.object.bytes[..] == *b"first" => Ok((key, version)),
            Ok(_) => Err(self.unfit(check, "the store ignored the condition and replaced the object")),
            Err(e) => Err(self.error(check, &e)),
        }
    }

    /// A swap from the version that a write gave succeeds, and one from a version that a
    /// read gave.
    async fn swap(&self, key: &str, written: &Version) -> Result<Version, ProbeFailed> {
        let check = "compare-and-swap (If-Match) from the current version";
        self.swap_from(check, key, written, "swapped once").await?;
        let Some(read) = self.read(check, key).await? else {
            return Err(self.unfit(check, "the object is gone"));
        };
        self.swap_from(check, key, &read.version, "swapped twice").await
    }

    async fn swap_from(
        &self,
        check: &'static str,
        key: &str,
        from: &Version,
        body: &'static str,
    ) -> Result<Version, ProbeFailed> {
        match settled_swap(self.bucket, key, from, body).await {
            Ok(Settled::Mine(version)) => Ok(version),
            Ok(_) => Err(self.unfit(check, "the store refused a swap from the version that it gave itself")),
            Err(e) => Err(self.error(check, &e)),
        }
    }

    async fn stale_swap(&self, key: &str, stale: &Version) -> Result<(), ProbeFailed> {
        let check = "compare-and-swap (If-Match) from a stale version";
        match settled_swap(self.bucket, key, stale, "stale").await {
            Ok(Settled::Theirs(theirs)) if theirs.object.bytes[..] == *b"swapped twice" => Ok(()),
            Ok(_) => Err(self.unfit(check, "the store ignored the condition and replaced a newer object")),
            Err(e) => Err(self.error(check, &e)),
        }
    }

    async fn swap_of_nothing(&self, version: &Version) -> Result<(), ProbeFailed> {
        let check = "compare-and-swap (If-Match) of an object that does not exist";
        let key = self.key("nothing");
        match settled_swap(self.bucket, &key, version, "x").await {
            Ok(Settled::Missing) => Ok(()),
            Ok(_) => Err(self.unfit(check, "the store ignored the condition and made an object")),
            Err(e) => Err(self.error(check, &e)),
        }
    }

    /// Several create the same object at once: at most one may be told that it did.
    async fn create_races(&self) -> Result<(), ProbeFailed> {
        let check = "race of create-only writes";
        let races = (0..RACES).map(|n| async move {
            let key = self.key(format_args!("created-{n:02}"));
            let tries = (0..CREATORS).map(|writer| {
                let key = &key;
                async move { self.bucket.create(key, Bytes::from(format!("writer {writer}"))).await }
            });
            let won = join_all(tries).await.into_iter().enumerate().filter_map(|(writer, outcome)| match outcome {
                Ok(CreateOutcome::Created(_)) => Some(writer),
                _ => None,
            });
            self.judge_race(check, &key, won.collect()).await
        });
        join_all(races).await.into_iter().collect()
    }

    /// Several swap from the same version at once.
    async fn swap_races(&self) -> Result<(), ProbeFailed> {
        let check = "race of compare-and-swaps";
        let races = (0..RACES).map(|n| async move {
            let key = self.key(format_args!("swapped-{n:02}"));
            let version = match settled_create(self.bucket, &key, "before the race").await {
                Ok(Settled::Mine(version)) => version,
                Ok(_) => return Err(self.unfit(check, "a new object cannot be found after it was written")),
                Err(e) => return Err(self.error(check, &e)),
            };
            let tries = (0..SWAPPERS).map(|writer| {
                let (key, version) = (&key, &version);
                async move { self.bucket.swap(key, Some(version), Bytes::from(format!("writer {writer}"))).await }
            });
            let won = join_all(tries).await.into_iter().enumerate().filter_map(|(writer, outcome)| match outcome {
                Ok(SwapOutcome::Swapped(_)) => Some(writer),
                _ => None,
            });
            self.judge_race(check, &key, won.collect()).await
        });
        join_all(races).await.into_iter().collect()
    }

    /// Writers whose answer was lost or who were told to come back prove nothing.
    async fn judge_race(&self, check: &'static str, key: &str, won: Vec<usize>) -> Result<(), ProbeFailed> {
        match won[..] {
            [] => Ok(()),
            [writer] => match self.read(check, key).await? {
                Some(object) if object.bytes == format!("writer {writer}") => Ok(()),
                _ => {
                    Err(self.unfit(check, "the writer that was told that it won is not the one whose object is there"))
                }
            },
            _ => Err(self.unfit(check, format!("{} writers at once were all told that they won", won.len()))),
        }
    }

    async fn read_range(&self) -> Result<(), ProbeFailed> {
        let check = "read a part of an object (Range)";
        match self.bucket.get_range(&self.key("object"), 2..5).await {
            Ok(Some(bytes)) if bytes[..] == b"swapped twice"[2..5] => Ok(()),
            Ok(_) => Err(self.unfit(check, "other bytes than the ones asked for")),
            Err(e) => Err(self.error(check, &e)),
        }
    }

    /// A listing shows what was just written, in order, from a key on; a deletion takes it away.
    async fn list_and_delete(&self) -> Result<(), ProbeFailed> {
        let check = "list objects from a key on";
        let expected: Vec<String> = (0..RACES).map(|n| self.key(format_args!("swapped-{n:02}"))).collect();
        let listed = async |after: &str, limit| -> Result<Vec<String>, ProbeFailed> {
            let listed = self.bucket.list(&self.dir, Some(after), limit).await.map_err(|e| self.error(check, &e))?;
            Ok(listed.into_iter().map(|l| l.key).collect())
        };
        if listed(&self.key("swapped"), RACES * 2).await? != expected
            || listed(&expected[3], 2).await? != expected[4..6]
        {
            return Err(
                self.unfit(check, "the listing lacks objects that were just written, or is not in the order of keys")
            );
        }
        let check = "delete an object";
        let last = &expected[RACES - 1];
        self.bucket.delete(last).await.map_err(|e| self.error(check, &e))?;
        if self.read(check, last).await?.is_some() || !listed(&expected[RACES - 2], 2).await?.is_empty() {
            return Err(self.unfit(check, "a deleted object is still there"));
        }
        Ok(())
    }

    /// Removes this probe's objects, and those of probes that were killed.
    async fn clean_up(&self, now: u64) {
        let mut keys: Vec<String> = match self.bucket.list(&self.dir, None, STALE_OBJECTS_MAX).await {
            Ok(listed) => listed.into_iter().map(|l| l.key).collect(),
            Err(e) => return tracing::debug!(error = %e, "objects of the start-up check not removed"),
        };
        let until = format!("{PROBE_PREFIX}{:012}", now.saturating_sub(STALE_SECONDS));
        match self.bucket.list(PROBE_PREFIX, None, STALE_OBJECTS_MAX).await {
            Ok(listed) => keys.extend(listed.into_iter().map(|l| l.key).take_while(|key| *key < until)),
            Err(e) => tracing::debug!(error = %e, "objects of earlier start-up checks not removed"),
        }
        if let Err(e) = self.bucket.delete_many(&keys).await {
            tracing::debug!(error = %e, "objects of the start-up check not removed");
        }
    }
}

async fn settled_create(bucket: &dyn Bucket, key: &str, body: &'static str) -> Result<Settled, StoreError> {
    create_settled(bucket, key, Bytes::from_static(body.as_bytes()), &|found| found == body.as_bytes()).await
}

async fn settled_swap(
    bucket: &dyn Bucket,
    key: &str,
    from: &Version,
    body: &'static str,
) -> Result<Settled, StoreError> {
    swap_settled(bucket, key, Some(from), Bytes::from_static(body.as_bytes()), &|found| found == body.as_bytes()).await
}
