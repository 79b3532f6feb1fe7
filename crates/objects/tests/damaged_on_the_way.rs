//! Objects that are whole in the bucket and arrive changed or cut: they are read again.

mod common;
mod support;

use common::fake::{config, start};
use futures::StreamExt;
use netsy_api::ids::ChunkSeq;
use netsy_fakestore::{Calls, Dialect, FakeStore, Fault, FaultHandle, FaultKind, Op};
use netsy_objects::object_log::{Created, ObjectLog};
use netsy_objects::{keys, open};
use support::{CLUSTER, MemBucket, Writer};

/// The first read of each key is damaged.
fn damage(fake: &FakeStore, key: &str) -> FaultHandle {
    fake.inject(Fault::new(Calls::new(Op::Get, key), FaultKind::FlipBody(70)).once())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_and_its_ends() {
    for dialect in [Dialect::S3, Dialect::Gcs] {
        let (fake, buckets) = start(dialect).await;
        let log = ObjectLog::new(buckets.data, CLUSTER);
        let mut writer = Writer::new(&MemBucket::new());
        for count in [3, 5, 1] {
            let entries = writer.make(count);
            let chunk = writer.next(entries);
            assert!(matches!(log.create(&chunk).await.unwrap(), Created::Landed));
        }
        let hits: Vec<FaultHandle> = (1..=3).map(|seq| damage(&fake, &keys::chunk(ChunkSeq(seq)))).collect();
        let plan = log.list(ChunkSeq(0)).await.unwrap().plan(ChunkSeq(0), &Default::default()).unwrap();
        let pieces: Vec<_> = log.read(plan).collect().await;
        let entries: Vec<usize> = pieces.into_iter().map(|piece| piece.unwrap().entries.len()).collect();
        assert_eq!(entries, [3, 5, 1]);
        assert!(hits.iter().all(|hit| hit.hits() == 1));

        damage(&fake, &keys::chunk(ChunkSeq(2)));
        assert_eq!(log.read_chunk(ChunkSeq(2)).await.unwrap().unwrap().entries.len(), 5);
        // Twice is no accident.
        let twice = Fault::new(Calls::new(Op::Get, &keys::chunk(ChunkSeq(2))), FaultKind::FlipBody(70)).times(2);
        fake.inject(twice);
        assert!(log.read_chunk(ChunkSeq(2)).await.is_err());
    }
}

/// The answer to a create is lost, and what settles it arrives damaged.
#[tokio::test(flavor = "multi_thread")]
async fn the_read_that_settles_a_create() {
    for dialect in [Dialect::S3, Dialect::Gcs] {
        let (fake, buckets) = start(dialect).await;
        let log = ObjectLog::new(buckets.data, CLUSTER);
        let mut writer = Writer::new(&MemBucket::new());
        let entries = writer.make(4);
        let chunk = writer.next(entries);
        let key = keys::chunk(ChunkSeq(1));
        fake.inject(Fault::new(Calls::new(Op::Put, &key), FaultKind::CloseAfter).once());
        let hit = damage(&fake, &key);
        assert!(matches!(log.create(&chunk).await.unwrap(), Created::Landed));
        assert_eq!(hit.hits(), 1);
        // Somebody else's is told, too.
        let other = ObjectLog::new(open(&config(&fake)).await.unwrap().data, CLUSTER);
        let mut second = Writer::new(&MemBucket::new());
        second.session = netsy_api::ids::Session(77);
        let entries = second.make(4);
        let late = second.next(entries);
        damage(&fake, &key);
        assert!(matches!(other.create(&late).await.unwrap(), Created::Taken(_)));
    }
}
