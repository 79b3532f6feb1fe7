//! A set of keys made of ranges, asked only whether it holds a key.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Ranges that do not touch, by start; `None` ends nowhere. Adding costs a logarithm and what it swallows.
#[derive(Debug, Default)]
pub(crate) struct Intervals<'a>(BTreeMap<Cow<'a, [u8]>, Option<Cow<'a, [u8]>>>);

impl<'a> Intervals<'a> {
    /// Adds one key.
    pub(crate) fn add_key(&mut self, key: &'a [u8]) {
        let mut end = key.to_vec();
        end.push(0);
        self.add(Cow::Borrowed(key), Some(Cow::Owned(end)));
    }

    /// Adds `start..end`; nothing, if it is empty.
    pub(crate) fn add_range(&mut self, start: &'a [u8], end: &'a [u8]) {
        if start < end {
            self.add(Cow::Borrowed(start), Some(Cow::Borrowed(end)));
        }
    }

    fn add(&mut self, mut start: Cow<'a, [u8]>, mut end: Option<Cow<'a, [u8]>>) {
        let before = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(&*start))).next_back();
        if let Some((s, e)) = before
            && e.as_ref().is_none_or(|e| *e >= start)
        {
            start = s.clone();
        }
        while let Some((s, e)) = self.0.range::<[u8], _>((Bound::Included(&*start), Bound::Unbounded)).next() {
            if end.as_ref().is_some_and(|end| s > end) {
                break;
            }
            let longer = match (e, &end) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(e), Some(end)) => e > end,
            };
            if longer {
                end = e.clone();
            }
            let s = s.clone();
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    /// Whether `key` is in one of them.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        let before = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        before.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < &**end))
    }

    /// Both together; the smaller is added to the larger.
    pub(crate) fn union(self, other: Self) -> Self {
        let (mut large, small) = if self.0.len() >= other.0.len() { (self, other) } else { (other, self) };
        for (start, end) in small.0 {
            large.add(start, end);
        }
        large
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_ranges_become_one() {
        let mut set = Intervals::default();
        set.add_range(b"a", b"c");
        set.add_range(b"e", b"g");
        set.add_key(b"x");
        set.add_range(b"z", b"y");
        for (key, inside) in [
            ("a", true),
            ("b", true),
            ("c", false),
            ("d", false),
            ("f", true),
            ("x", true),
            ("x1", false),
            ("z", false),
        ] {
            assert_eq!(set.contains(key.as_bytes()), inside, "{key}");
        }
        set.add_range(b"b", b"f");
        assert_eq!(set.0.len(), 2);
        assert!(set.contains(b"d") && !set.contains(b"g"));
        let mut other = Intervals::default();
        other.add_range(b"g", b"x");
        let both = set.union(other);
        assert_eq!(both.0.len(), 1);
        assert!(both.contains(b"x") && both.contains(b"m") && !both.contains(b"x\0"));
    }
}
