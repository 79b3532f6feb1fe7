//! The keys a request is about.

/// Where a range ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum End {
    /// It is the start key alone.
    Single,
    /// Before this key.
    Before(Box<[u8]>),
    /// Nowhere.
    Open,
}

/// A key or a range of keys, as etcd writes them (etcd.md 2.3): `range_end` empty: one key; a zero byte: all keys
/// from `key` on; not above `key`: nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    start: Box<[u8]>,
    end: End,
}

impl KeyRange {
    /// From the two fields of a request.
    pub fn new(key: &[u8], range_end: &[u8]) -> Self {
        let end = match range_end {
            [] => End::Single,
            [0] => End::Open,
            end => End::Before(end.into()),
        };
        Self { start: key.into(), end }
    }

    /// The key, if it is about one only.
    pub fn single(&self) -> Option<&[u8]> {
        match self.end {
            End::Single => Some(&self.start),
            _ => None,
        }
    }

    /// Where it starts.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The key before which it ends; `None`: nowhere, or it is one key only.
    pub(crate) fn end(&self) -> Option<&[u8]> {
        match &self.end {
            End::Before(end) => Some(end),
            End::Single | End::Open => None,
        }
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        match &self.end {
            End::Before(end) => **end <= *self.start,
            End::Single | End::Open => false,
        }
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        *self.start <= *key && self.ends_after(key)
    }

    /// Whether `key`, which is not before the start, is before the end.
    pub(crate) fn ends_after(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => *key == *self.start,
            End::Before(end) => *key < **end,
            End::Open => true,
        }
    }

    /// Before which key it stops, or, if it is a single one, at which; `None`: nowhere.
    pub(crate) fn stop(&self) -> Option<&[u8]> {
        match &self.end {
            End::Single => Some(&self.start),
            End::Before(end) => Some(end),
            End::Open => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_range() {
        let single = KeyRange::new(b"a", b"");
        assert!(single.contains(b"a") && !single.contains(b"a\0") && !single.contains(b"A"));
        let open = KeyRange::new(b"b", b"\0");
        assert!(open.contains(b"b") && open.contains(b"\xff\xff") && !open.contains(b"a"));
        let half = KeyRange::new(b"b", b"d");
        assert!(half.contains(b"c") && !half.contains(b"d") && !half.is_empty());
        for empty in [KeyRange::new(b"b", b"b"), KeyRange::new(b"b", b"a")] {
            assert!(empty.is_empty() && !empty.contains(b"b"));
        }
    }
}
