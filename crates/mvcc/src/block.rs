//! A short sorted list of keys with an item each, packed: the keys' common beginning once, the rest end to end.
//!
//! ```text
//! prefix | heads: beginning and length of each rest, as a number | ends: where each rest ends in `rests` | rests | items
//! ```
//!
//! A search compares numbers that lie side by side, and looks at a rest or two only where they are long.

use std::cmp::Ordering;

/// Bytes of keys from which on a block is split, so that long keys are not moved often.
pub(crate) const BLOCK_BYTES_MAX: usize = 8 << 10;

/// See above.
#[derive(Debug)]
pub(crate) struct Block<T> {
    prefix: Box<[u8]>,
    heads: Vec<u64>,
    ends: Vec<u32>,
    rests: Vec<u8>,
    items: Vec<T>,
}

/// A key in a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyParts<'a> {
    prefix: &'a [u8],
    rest: &'a [u8],
}

impl KeyParts<'_> {
    pub(crate) fn len(&self) -> usize {
        self.prefix.len() + self.rest.len()
    }

    /// The two parts of the key.
    pub(crate) fn parts(&self) -> [&[u8]; 2] {
        [self.prefix, self.rest]
    }

    pub(crate) fn to_vec(self) -> Vec<u8> {
        self.parts().concat()
    }
}

/// The first 7 bytes and, in the lowest byte, the length, cut at 8: a number that sorts like the rest, and is all of it
/// where the length says so.
fn head(rest: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = rest.len().min(7);
    bytes[..len].copy_from_slice(&rest[..len]);
    bytes[7] = rest.len().min(8) as u8;
    u64::from_be_bytes(bytes)
}

fn shared_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Room for a few more only: most blocks are long-lived, and doubling would waste a quarter of the memory.
fn make_room<T>(list: &mut Vec<T>, more: usize) {
    if list.capacity() - list.len() < more {
        list.reserve_exact(more.max(4 + list.len() / 8));
    }
}

impl<T> Block<T> {
    pub(crate) fn new() -> Self {
        Self { prefix: Box::default(), heads: vec![], ends: vec![], rests: vec![], items: vec![] }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn item(&self, at: usize) -> Option<&T> {
        self.items.get(at)
    }

    pub(crate) fn item_mut(&mut self, at: usize) -> Option<&mut T> {
        self.items.get_mut(at)
    }

    /// Whether it should be split; a single key never is.
    pub(crate) fn is_over(&self, len_max: usize) -> bool {
        self.len() > len_max || (self.len() > 1 && self.rests.len() > BLOCK_BYTES_MAX)
    }

    fn rest(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        &self.rests[start..self.ends[at] as usize]
    }

    /// The key at a place that exists.
    pub(crate) fn key(&self, at: usize) -> KeyParts<'_> {
        KeyParts { prefix: &self.prefix, rest: self.rest(at) }
    }

    /// Where `key` is, or where it would have to be.
    pub(crate) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let shared = self.prefix.len().min(key.len());
        match self.prefix[..].cmp(&key[..shared]) {
            Ordering::Less => return Err(self.len()),
            Ordering::Greater => return Err(0),
            Ordering::Equal => {}
        }
        let rest = &key[shared..];
        let wanted = head(rest);
        let mut low = self.heads.partition_point(|h| *h < wanted);
        if rest.len() < 8 {
            return if self.heads.get(low) == Some(&wanted) { Ok(low) } else { Err(low) };
        }
        let mut high = low;
        while high < self.heads.len() && self.heads[high] == wanted {
            high += 1;
        }
        while low < high {
            let middle = low.midpoint(high);
            match self.rest(middle).cmp(rest) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// Inserts a key at the place that `find` gave.
    pub(crate) fn insert(&mut self, at: usize, key: &[u8], item: T) {
        if self.items.is_empty() {
            self.prefix = key.into();
        } else {
            let shared = shared_len(&self.prefix, key);
            if shared < self.prefix.len() {
                self.shorten_prefix(shared);
            }
        }
        let rest = &key[self.prefix.len()..];
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        make_room(&mut self.rests, rest.len());
        let old_len = self.rests.len();
        self.rests.resize(old_len + rest.len(), 0);
        self.rests.copy_within(start..old_len, start + rest.len());
        self.rests[start..start + rest.len()].copy_from_slice(rest);
        for end in &mut self.ends[at..] {
            *end += rest.len() as u32;
        }
        make_room(&mut self.ends, 1);
        self.ends.insert(at, (start + rest.len()) as u32);
        make_room(&mut self.heads, 1);
        self.heads.insert(at, head(rest));
        make_room(&mut self.items, 1);
        self.items.insert(at, item);
    }

    /// Removes what is at a place that exists.
    pub(crate) fn remove(&mut self, at: usize) -> T {
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        let end = self.ends[at] as usize;
        self.rests.drain(start..end);
        self.ends.remove(at);
        for later in &mut self.ends[at..] {
            *later -= (end - start) as u32;
        }
        self.heads.remove(at);
        self.items.remove(at)
    }

    /// Takes off everything from `at` on, as a block of its own.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let mut other = Self::new();
        let cut = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        other.rests = self.rests.split_off(cut);
        other.ends = self.ends.split_off(at).into_iter().map(|end| end - cut as u32).collect();
        other.heads = self.heads.split_off(at);
        other.items = self.items.split_off(at);
        other.prefix = self.prefix.clone();
        self.lengthen_prefix();
        other.lengthen_prefix();
        self.shrink();
        other
    }

    /// Appends all of `next`, whose keys are above all of this one's.
    pub(crate) fn append(&mut self, mut next: Self) {
        if self.items.is_empty() {
            *self = next;
            return;
        }
        let shared = shared_len(&self.prefix, &next.prefix);
        self.shorten_prefix(shared);
        next.shorten_prefix(shared);
        let offset = self.rests.len() as u32;
        self.rests.append(&mut next.rests);
        self.ends.extend(next.ends.iter().map(|end| end + offset));
        self.heads.append(&mut next.heads);
        self.items.append(&mut next.items);
        self.shrink();
    }

    fn shrink(&mut self) {
        self.rests.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.heads.shrink_to_fit();
        self.items.shrink_to_fit();
    }

    fn shorten_prefix(&mut self, len: usize) {
        if len < self.prefix.len() {
            let moved = self.prefix[len..].to_vec();
            self.prefix = self.prefix[..len].into();
            self.set_rests(|rest, rests| {
                rests.extend_from_slice(&moved);
                rests.extend_from_slice(rest);
            });
        }
    }

    /// Moves what all rests begin with to the prefix.
    fn lengthen_prefix(&mut self) {
        if self.items.is_empty() {
            return;
        }
        let shared = shared_len(self.rest(0), self.rest(self.len() - 1));
        if shared > 0 {
            self.prefix = [&self.prefix, &self.rest(0)[..shared]].concat().into();
            self.set_rests(|rest, rests| rests.extend_from_slice(&rest[shared..]));
        }
    }

    fn set_rests(&mut self, write: impl Fn(&[u8], &mut Vec<u8>)) {
        let mut rests = Vec::new();
        let mut ends = Vec::with_capacity(self.len());
        for at in 0..self.len() {
            let start = rests.len();
            write(self.rest(at), &mut rests);
            self.heads[at] = head(&rests[start..]);
            ends.push(rests.len() as u32);
        }
        rests.shrink_to_fit();
        (self.rests, self.ends) = (rests, ends);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn contents(block: &Block<u32>) -> Vec<(Vec<u8>, u32)> {
        (0..block.len()).map(|at| (block.key(at).to_vec(), block.items[at])).collect()
    }

    #[test]
    fn does_what_a_map_does() {
        let (mut block, mut map) = (Block::new(), BTreeMap::new());
        let mut random = 7u32;
        for round in 0..3_000u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let digits = ["", "\0", "\0\0", "1", "12", "1\0"][random as usize >> 8 & 3];
            let long = if random >> 12 & 3 == 0 { "a long beginning of a key / " } else { "a long" };
            let key = format!("{long}{}{digits}", random >> 16 & 31).into_bytes();
            match (block.find(&key), map.contains_key(&key)) {
                (Ok(at), true) if random & 1 == 0 => {
                    assert_eq!(Some(block.remove(at)), map.remove(&key));
                }
                (Ok(at), true) => assert_eq!(block.item(at), map.get(&key)),
                (Err(at), false) => {
                    block.insert(at, &key, round);
                    map.insert(key, round);
                }
                other => panic!("{key:?}: {other:?}"),
            }
            if random >> 4 & 63 == 0 {
                let at = random as usize % (block.len() + 1);
                let tail = block.split_off(at);
                assert!((0..at).all(|n| tail.len() == 0 || block.key(n).to_vec() < tail.key(0).to_vec()));
                block.append(tail);
            }
            assert!(contents(&block).into_iter().eq(map.clone()));
        }
    }
}
