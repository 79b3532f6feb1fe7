//! The keys a watcher wants.

use bytes::Bytes;
use std::fmt;

/// The range a client asked for holds no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeEmpty;

impl fmt::Display for RangeEmpty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the watched range holds no key: its end must be above its start")
    }
}

impl std::error::Error for RangeEmpty {}

/// One key, or the keys from one up to (not with) another, or up to the end of all keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchRange {
    /// Just this key.
    One(Bytes),
    /// From the first up to, not with, the second.
    Between(Bytes, Bytes),
    /// This key and all above.
    From(Bytes),
}

impl WatchRange {
    /// etcd's reading of a key and a range end: no key is the lowest key, the end `\0` is no end at all.
    /// Copies both: they are slices of the connection's receive buffer.
    pub fn from_request(key: &[u8], range_end: &[u8]) -> Result<Self, RangeEmpty> {
        let key = Bytes::copy_from_slice(if key.is_empty() { &[0] } else { key });
        match range_end {
            [] => Ok(Self::One(key)),
            [0] => Ok(Self::From(key)),
            end if key.as_ref() >= end => Err(RangeEmpty),
            end => Ok(Self::Between(key, Bytes::copy_from_slice(end))),
        }
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one.as_ref() == key,
            Self::Between(start, end) => start.as_ref() <= key && key < end.as_ref(),
            Self::From(start) => start.as_ref() <= key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_requests_as_etcd_does() {
        let range = |key: &[u8], end: &[u8]| WatchRange::from_request(key, end);
        assert!(range(b"a", b"").unwrap().contains(b"a"));
        assert!(!range(b"a", b"").unwrap().contains(b"a\0"));
        assert!(range(b"", b"\0").unwrap().contains(b"\xff\xff"));
        assert!(range(b"b", b"\0").unwrap().contains(b"b") && !range(b"b", b"\0").unwrap().contains(b"a"));
        assert!(range(b"a", b"b").unwrap().contains(b"a\xff") && !range(b"a", b"b").unwrap().contains(b"b"));
        assert_eq!(range(b"a", b"a"), Err(RangeEmpty));
        assert_eq!(range(b"b", b"a"), Err(RangeEmpty));
        // No key is the key "\0": alone it is one key.
        assert_eq!(range(b"", b""), Ok(WatchRange::One(Bytes::from_static(b"\0"))));
    }
}
