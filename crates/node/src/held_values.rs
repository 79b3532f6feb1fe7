//! Bounds what values that were read for answers take until the answers are sent.
//!
//! A value that is in memory anyway is shared by all who show it. One that was read from the local database is its
//! answer's alone, and stays until the client has taken it, which may be never. So bytes of such values are
//! counted over all connections, from before they are read to when the last holder drops them; who finds no room waits a
//! while and is told that there are too many requests.

use crate::error::{NodeError, Unavailable};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Read, and reserved before, in one go.
pub(crate) const READ_BYTES: usize = 1 << 20;
/// The bound is what the cache of values may have, and at least this.
const HELD_BYTES_MIN: usize = 64 << 20;
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
    pub(crate) fn new(value_cache_bytes_max: usize) -> Self {
        let bytes_max = value_cache_bytes_max.clamp(HELD_BYTES_MIN, Semaphore::MAX_PERMITS);
        Self {
            room: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            large: Arc::new(Semaphore::new(1)),
            wait_max: WAIT_MAX,
        }
    }

    /// For the values of one answer.
    pub(crate) fn answer(&self) -> Answer<'_> {
        Answer { held: self, bytes: 0, large: None, wait_left: self.wait_max }
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
    large: Option<Arc<OwnedSemaphorePermit>>,
    /// For all its waiting together.
    wait_left: Duration,
}

impl Answer<'_> {
    /// Room for the next values. Error: there was none for long.
    pub(crate) async fn reserve(&mut self) -> Result<Reserved, NodeError> {
        if self.large.is_none() && self.bytes > self.held.bytes_max / LARGE_SHARE {
            self.large = Some(Arc::new(self.take(&self.held.large, 1).await?));
        }
        Ok(match &self.large {
            Some(large) => Reserved::Large(large.clone()),
            None => Reserved::Counted(self.take(&self.held.room, READ_BYTES).await?),
        })
    }

    async fn take(&mut self, from: &Arc<Semaphore>, permits: usize) -> Result<OwnedSemaphorePermit, NodeError> {
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        if let Ok(permit) = from.clone().try_acquire_many_owned(permits) {
            return Ok(permit);
        }
        let began = Instant::now();
        let waiting = tokio::time::timeout(self.wait_left, from.clone().acquire_many_owned(permits)).await;
        self.wait_left = self.wait_left.saturating_sub(began.elapsed());
        // The inner error is that of a closed semaphore, which this is never.
        waiting.ok().and_then(Result::ok).ok_or(NodeError::Unavailable(Unavailable::TooManyRequests))
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

/// Room for values, given back by whoever drops it last.
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
        let held = HeldValues { wait_max: Duration::from_millis(50), ..HeldValues::new(0) };
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
        let held = HeldValues { wait_max: Duration::from_millis(50), ..HeldValues::new(0) };
        let mut all = vec![];
        let refused = loop {
            match read(&mut held.answer(), &[READ_BYTES]).await {
                Ok(values) => all.push(values),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, NodeError::Unavailable(Unavailable::TooManyRequests));
        assert!((60..=64).contains(&all.len()), "{} of one MiB", all.len());
        let mut answer = held.answer();
        let mut waiting = std::pin::pin!(read(&mut answer, &[10]));
        assert!(futures::poll!(&mut waiting).is_pending());
        all.truncate(all.len() - 2);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn one_answer_may_be_larger_than_the_bound() {
        let held = HeldValues { wait_max: Duration::from_millis(50), ..HeldValues::new(0) };
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
}
