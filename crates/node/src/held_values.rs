//! Bounds what values that were read for answers take until the answers are sent.
//!
//! A value that is in memory anyway is shared by all who show it. One that was read from the local database is its
//! answer's alone, and stays until the client has taken it, which may be never. So bytes of such values are
//! counted over all connections, from before they are read to when the last holder drops them; who finds no room waits a
//! while and is told that there are too many requests.
//!
//! What a list has of its own beside values, its keys and numbers, has the same kind of bound, and room of its own: reads of
//! single values do not wait for lists of many keys. A list below [`OWN_FREE_BYTES`] is not counted, as it
//! takes no more than the buffers of its connection.

use crate::error::{NodeError, Unavailable};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Read, and reserved before, in one go.
pub(crate) const READ_BYTES: usize = 1 << 20;
/// What lists may have of their own, together: some 1.7 million short keys.
pub(crate) const LISTS_BYTES_MAX: usize = 256 << 20;
/// What an answer may have of its own without being counted.
pub(crate) const OWN_FREE_BYTES: usize = 128 << 10;
/// Values of long answers may have, together, as much as the cache of values may, and at least this.
pub(crate) const LONG_BYTES_MIN: usize = 256 << 20;
/// Those of answers with a few values, which long ones that nobody takes do not keep from being read.
pub(crate) const SHORT_BYTES_MAX: usize = 64 << 20;
/// One answer with more than this share of the bound is a large one.
const LARGE_SHARE: usize = 4;
/// What a value costs beside its bytes.
const VALUE_OVERHEAD_BYTES: usize = 128;
/// Less than a request may take.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The bytes of all answers under way.
#[derive(Debug)]
pub(crate) struct HeldValues {
    room: Arc<Semaphore>,
    bytes_max: usize,
    /// Else an answer that has no room in all that there is would never be given: one at a time is read uncounted from
    /// where it became a large one.
    large: Arc<Semaphore>,
    wait_max: Duration,
}

impl HeldValues {
    /// For so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS);
        Self {
            room: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            large: Arc::new(Semaphore::new(1)),
            wait_max: WAIT_MAX,
        }
    }

    /// For the values of one answer.
    pub(crate) fn answer(&self) -> Answer<'_> {
        Answer { held: self, bytes: 0, own: None, large: None, wait_left: self.wait_max }
    }

    #[cfg(test)]
    fn used(&self) -> usize {
        self.bytes_max - self.room.available_permits()
    }
}

/// An answer whose values are being read.
pub(crate) struct Answer<'a> {
    held: &'a HeldValues,
    bytes: usize,
    /// Not of values.
    own: Option<OwnedSemaphorePermit>,
    large: Option<Arc<OwnedSemaphorePermit>>,
    /// For all its waiting together.
    wait_left: Duration,
}

impl Answer<'_> {
    /// Room for the next values. Error: there was none for long.
    pub(crate) async fn reserve(&mut self) -> Result<Reserved, NodeError> {
        self.room(self.bytes, READ_BYTES).await
    }

    /// Room for `more` bytes of an answer that has `bytes` then. A large one has the place of the large answer; where there is no
    /// room another goes on in that place, too, whichever is free first: answers that hold room and want more would wait
    /// for each other.
    async fn room(&mut self, bytes: usize, more: usize) -> Result<Reserved, NodeError> {
        if let Some(large) = &self.large {
            return Ok(Reserved::Large(large.clone()));
        }
        let is_large = bytes > self.held.bytes_max / LARGE_SHARE;
        let permits = u32::try_from(more).unwrap_or(u32::MAX);
        let began = Instant::now();
        let first = async {
            tokio::select! {
                biased;
                room = self.held.room.clone().acquire_many_owned(permits), if !is_large => room.map(Reserved::Counted),
                large = self.held.large.clone().acquire_owned() => large.map(|large| Reserved::Large(Arc::new(large))),
            }
        };
        let first = tokio::time::timeout(self.wait_left, first).await;
        self.wait_left = self.wait_left.saturating_sub(began.elapsed());
        // The inner error is that of a closed semaphore, which these are never.
        let room = first.ok().and_then(Result::ok).ok_or(NodeError::Unavailable(Unavailable::TooManyRequests))?;
        if let Reserved::Large(large) = &room {
            self.large = Some(large.clone());
        }
        Ok(room)
    }

    /// Room for an answer that has so many bytes of its own by now. Error: there was none for long.
    pub(crate) async fn grow_to(&mut self, bytes: usize) -> Result<(), NodeError> {
        if bytes <= OWN_FREE_BYTES || bytes <= self.bytes {
            return Ok(());
        }
        if let Reserved::Counted(more) = self.room(bytes, bytes - self.bytes).await? {
            match &mut self.own {
                Some(own) => own.merge(more),
                none => *none = Some(more),
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// The room that it has grown to is given back with these bytes.
    pub(crate) fn keep_with(self, last: Bytes) -> Bytes {
        match (self.own, self.large) {
            (None, None) => last,
            (own, large) => Bytes::from_owner(HeldWith { bytes: last, _own: own, _large: large }),
        }
    }

    /// Counts values that were read on a reservation: about [`READ_BYTES`], but for the last.
    pub(crate) fn count(&mut self, reserved: Reserved, values: Vec<Bytes>) -> impl Iterator<Item = Bytes> {
        let cost = |value: &Bytes| value.len() + VALUE_OVERHEAD_BYTES;
        let bytes: usize = values.iter().map(cost).sum();
        self.bytes += bytes;
        let mut of = reserved;
        if let Reserved::Counted(permit) = &mut of
            && let Some(more) = bytes.checked_sub(READ_BYTES)
            && let Ok(more) = self.held.room.clone().try_acquire_many_owned(u32::try_from(more).unwrap_or(u32::MAX))
        {
            // Where there is no room for the end of the last value it goes uncounted: it is read already.
            permit.merge(more);
        }
        values.into_iter().map(move |value| {
            let share = match &mut of {
                Reserved::Large(large) => Reserved::Large(large.clone()),
                Reserved::Counted(permit) => {
                    let bytes = cost(&value).min(permit.num_permits());
                    match permit.split(bytes) {
                        Some(share) => Reserved::Counted(share),
                        None => return value,
                    }
                }
            };
            Bytes::from_owner(HeldValue { value, _share: share })
        })
    }
}

/// Room, given back by whoever drops it last.
pub(crate) enum Reserved {
    Counted(OwnedSemaphorePermit),
    Large(Arc<OwnedSemaphorePermit>),
}

struct HeldValue {
    value: Bytes,
    _share: Reserved,
}

impl AsRef<[u8]> for HeldValue {
    fn as_ref(&self) -> &[u8] {
        &self.value
    }
}

struct HeldWith {
    bytes: Bytes,
    _own: Option<OwnedSemaphorePermit>,
    _large: Option<Arc<OwnedSemaphorePermit>>,
}

impl AsRef<[u8]> for HeldWith {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(answer: &mut Answer<'_>, sizes: &[usize]) -> Result<Vec<Bytes>, NodeError> {
        let reserved = answer.reserve().await?;
        let values = sizes.iter().map(|&size| Bytes::from(vec![7; size])).collect();
        Ok(answer.count(reserved, values).collect())
    }

    #[tokio::test]
    async fn what_is_held_is_counted_and_given_back() {
        let held = HeldValues { wait_max: Duration::from_millis(50), ..HeldValues::new(64 << 20) };
        let mut values = read(&mut held.answer(), &[10, 1_000, 0]).await.unwrap();
        assert_eq!(values.iter().map(Bytes::len).collect::<Vec<_>>(), [10, 1_000, 0]);
        assert_eq!(held.used(), 1_010 + 3 * VALUE_OVERHEAD_BYTES);
        let copy = values[1].slice(5..10);
        values.clear();
        assert_eq!(held.used(), 1_000 + VALUE_OVERHEAD_BYTES, "a part of one is still there");
        drop(copy);
        assert_eq!(held.used(), 0);
        // One value may be larger than what is reserved.
        let values = read(&mut held.answer(), &[3 << 20]).await.unwrap();
        assert_eq!(held.used(), (3 << 20) + VALUE_OVERHEAD_BYTES);
        drop(values);
        assert_eq!(held.used(), 0);
    }

    #[tokio::test]
    async fn who_finds_no_room_waits_and_is_refused() {
        let held = HeldValues { wait_max: Duration::from_millis(50), ..HeldValues::new(64 << 20) };
        let mut all = vec![];
        let refused = loop {
            match read(&mut held.answer(), &[READ_BYTES]).await {
                Ok(values) => all.push(values),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, NodeError::Unavailable(Unavailable::TooManyRequests));
        // The last one as the large one.
        assert!((60..=65).contains(&all.len()), "{} of one MiB", all.len());
        let mut answer = held.answer();
        let mut waiting = std::pin::pin!(read(&mut answer, &[10]));
        assert!(futures::poll!(&mut waiting).is_pending());
        all.truncate(all.len() - 2);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn answers_that_hold_room_and_want_more_do_not_wait_for_each_other() {
        let held = HeldValues { wait_max: Duration::from_secs(600), ..HeldValues::new(64 << 20) };
        let held = Arc::new(held);
        let mut lists = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let held = held.clone();
            lists.spawn(async move {
                let mut answer = held.answer();
                let mut values = vec![];
                for _ in 0..12 {
                    values.extend(read(&mut answer, &[READ_BYTES]).await.unwrap());
                    tokio::task::yield_now().await;
                }
            });
        }
        while let Some(done) = lists.join_next().await {
            done.unwrap();
        }
        assert_eq!(held.used(), 0);
    }

    #[tokio::test]
    async fn one_answer_may_be_larger_than_the_bound() {
        let held = HeldValues { wait_max: Duration::from_millis(50), ..HeldValues::new(64 << 20) };
        let (mut first, mut second) = (held.answer(), held.answer());
        let mut all = vec![];
        for _ in 0..100 {
            all.extend(read(&mut first, &[READ_BYTES]).await.unwrap());
        }
        assert!(held.used() <= held.bytes_max / LARGE_SHARE + 2 * READ_BYTES);
        let mut others = vec![];
        let refused = loop {
            match read(&mut second, &[READ_BYTES]).await {
                Ok(values) => others.extend(values),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, NodeError::Unavailable(Unavailable::TooManyRequests), "another large one");
        // Dropped with its values.
        drop((first, all));
        read(&mut second, &[READ_BYTES]).await.unwrap();
    }

    #[tokio::test]
    async fn a_list_is_counted_until_its_last_key_is_dropped() {
        let held = HeldValues { wait_max: Duration::from_millis(50), ..HeldValues::new(64 << 20) };
        let mut small = held.answer();
        small.grow_to(OWN_FREE_BYTES).await.unwrap();
        let small = small.keep_with(Bytes::from_static(b"key"));
        assert_eq!((&small[..], held.used()), (&b"key"[..], 0));
        let list = async |mib: usize| {
            let mut answer = held.answer();
            for step in 1..=mib {
                answer.grow_to(step << 20).await?;
            }
            Ok::<_, NodeError>(answer.keep_with(Bytes::from_static(b"key")))
        };
        let mut lists = vec![];
        for _ in 0..5 {
            lists.push(list(12).await.unwrap());
        }
        assert_eq!(held.used(), 60 << 20);
        // One goes on where there is no room, the next has none.
        let more = list(5).await.unwrap();
        assert_eq!(list(5).await, Err(NodeError::Unavailable(Unavailable::TooManyRequests)));
        drop(more);
        assert_eq!(held.used(), 60 << 20, "given back");
        // As above, one may be larger than all the room, and one only.
        lists.truncate(2);
        let large = list(100).await.unwrap();
        assert_eq!(list(20).await, Err(NodeError::Unavailable(Unavailable::TooManyRequests)));
        drop(large);
        list(20).await.unwrap();
        drop(lists);
        assert_eq!(held.used(), 0);
    }
}
