//! Values in memory, within a budget of bytes.
//!
//! What the local database does not hold yet is never evicted. Other values go by the clock rule: a hand
//! walks over the slots and takes what was not read since it last came by.

use crate::key_index::{SLOT_EMPTY, SLOT_NONE};
use bytes::Bytes;
use netsy_api::ids::Position;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a value costs beside its bytes: the slot and the allocator's and the reference count's share.
const SLOT_OVERHEAD_BYTES: usize = 96;
/// Slots the hand looks at for one insertion, at most.
const HAND_STEPS_MAX: usize = 64;

/// See above.
#[derive(Debug)]
pub(crate) struct ValueCache {
    /// Whose value each slot has; 0: the slot is free. An index entry whose slot has another position has no value here.
    /// Apart from the values, so that asking for one that is not here costs little.
    positions: Vec<Position>,
    values: Vec<Bytes>,
    /// Read since the hand came by.
    read: Vec<AtomicBool>,
    free: Vec<u32>,
    hand: usize,
    bytes: usize,
    bytes_max: usize,
    /// Rows up to this are in the local database.
    written_through: Position,
    /// Values that are no longer current: (position of what came after, slot, position). Ascending; held until that
    /// is written, as readers at the committed state still want them.
    superseded: VecDeque<(Position, u32, Position)>,
}

impl ValueCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            positions: Vec::new(),
            values: Vec::new(),
            read: Vec::new(),
            free: Vec::new(),
            hand: 0,
            bytes: 0,
            bytes_max,
            written_through: Position(0),
            superseded: VecDeque::new(),
        }
    }

    /// Bytes held, overhead included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn has_room(&self, value_bytes: usize) -> bool {
        self.bytes + value_bytes + SLOT_OVERHEAD_BYTES <= self.bytes_max
    }

    /// The value of the row at `position`, if `slot` still is its.
    pub(crate) fn get(&self, slot: u32, position: Position) -> Option<Bytes> {
        if slot == SLOT_EMPTY {
            return Some(Bytes::new());
        }
        let at = slot as usize;
        if self.positions.get(at) != Some(&position) {
            return None;
        }
        let read = self.read.get(at)?;
        if !read.load(Ordering::Relaxed) {
            read.store(true, Ordering::Relaxed);
        }
        self.values.get(at).cloned()
    }

    /// Takes a value in and returns its slot. The value must be an allocation of its own.
    pub(crate) fn insert(&mut self, position: Position, bytes: Bytes) -> u32 {
        if bytes.is_empty() {
            return SLOT_EMPTY;
        }
        if self.free.is_empty() && self.positions.len() >= SLOT_EMPTY as usize {
            // Four thousand million values in memory: there is no number for one more.
            return SLOT_NONE;
        }
        self.bytes += bytes.len() + SLOT_OVERHEAD_BYTES;
        let at = self.free.pop().unwrap_or_else(|| {
            self.positions.push(Position(0));
            self.values.push(Bytes::new());
            self.read.push(AtomicBool::new(false));
            (self.positions.len() - 1) as u32
        });
        self.positions[at as usize] = position;
        self.values[at as usize] = bytes;
        *self.read[at as usize].get_mut() = false;
        self.evict();
        at
    }

    /// The value at `slot` is no longer current since the row at `by`.
    pub(crate) fn supersede(&mut self, slot: u32, position: Position, by: Position) {
        if position.0 != 0 && self.positions.get(slot as usize) == Some(&position) {
            self.superseded.push_back((by, slot, position));
        }
    }

    /// Forgets a value: its row is gone.
    pub(crate) fn remove(&mut self, slot: u32, position: Position) {
        if position.0 == 0 || self.positions.get(slot as usize) != Some(&position) {
            return;
        }
        self.positions[slot as usize] = Position(0);
        let old = std::mem::take(&mut self.values[slot as usize]);
        self.bytes -= old.len() + SLOT_OVERHEAD_BYTES;
        self.free.push(slot);
    }

    /// Rows up to `position` can be read from the local database from now on.
    pub(crate) fn set_written_through(&mut self, position: Position) {
        self.written_through = self.written_through.max(position);
        while let Some(&(by, slot, of)) = self.superseded.front()
            && by <= self.written_through
        {
            self.superseded.pop_front();
            self.remove(slot, of);
        }
        self.evict();
    }

    /// Rows after `last` are gone from the log: their numbers will be used again.
    pub(crate) fn roll_back(&mut self, last: Position) {
        self.written_through = self.written_through.min(last);
        while self.superseded.back().is_some_and(|&(by, _, _)| by > last) {
            self.superseded.pop_back();
        }
    }

    fn evict(&mut self) {
        let mut steps = 0;
        while self.bytes > self.bytes_max && steps < HAND_STEPS_MAX {
            steps += 1;
            if self.hand >= self.positions.len() {
                self.hand = 0;
            }
            let at = self.hand;
            self.hand += 1;
            let Some(&position) = self.positions.get(at) else { return };
            if position.0 == 0 || position > self.written_through || std::mem::take(self.read[at].get_mut()) {
                continue;
            }
            self.remove(at as u32, position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_written_values_are_evicted_and_stale_slots_do_not_match() {
        let mut cache = ValueCache::new(3 * (100 + SLOT_OVERHEAD_BYTES));
        let value = |n: u8| Bytes::from(vec![n; 100]);
        let slots: Vec<u32> = (1..=5).map(|n| cache.insert(Position(n), value(n as u8))).collect();
        for (n, slot) in (1u64..=5).zip(&slots) {
            assert_eq!(cache.get(*slot, Position(n)), Some(value(n as u8)), "nothing is written yet");
        }
        cache.set_written_through(Position(3));
        cache.set_written_through(Position(3));
        assert!(cache.bytes() <= 3 * (100 + SLOT_OVERHEAD_BYTES));
        assert!(cache.get(slots[3], Position(4)).is_some() && cache.get(slots[4], Position(5)).is_some());
        let reused = cache.insert(Position(6), value(6));
        assert!(slots.iter().zip(1u64..).all(|(s, n)| *s != reused || cache.get(*s, Position(n)).is_none()));
    }

    #[test]
    fn superseded_values_stay_until_what_came_after_is_written() {
        let mut cache = ValueCache::new(1 << 20);
        let slot = cache.insert(Position(1), Bytes::from_static(b"old"));
        cache.supersede(slot, Position(1), Position(2));
        cache.set_written_through(Position(1));
        assert!(cache.get(slot, Position(1)).is_some());
        cache.set_written_through(Position(2));
        assert!(cache.get(slot, Position(1)).is_none());
        assert_eq!(cache.bytes(), 0);
    }
}
