//! The keys a watcher wants.

use netsy_mvcc::KeyRange;

/// etcd's reading of a watch's key and range end: no key is the lowest key, the end `\0` is no end at all.
/// `None`: no key can be in it. Copies both: they are slices of the connection's receive buffer.
pub(super) fn watched(key: &[u8], range_end: &[u8]) -> Option<KeyRange> {
    let key = if key.is_empty() { &[0] } else { key };
    let range = KeyRange::new(key, range_end);
    if range.is_empty() { None } else { Some(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_requests_as_etcd_does() {
        let range = |key: &[u8], end: &[u8]| watched(key, end).unwrap();
        assert!(range(b"a", b"").contains(b"a"));
        assert!(!range(b"a", b"").contains(b"a\0"));
        assert!(range(b"", b"\0").contains(b"\xff\xff"));
        assert!(range(b"b", b"\0").contains(b"b") && !range(b"b", b"\0").contains(b"a"));
        assert!(range(b"a", b"b").contains(b"a\xff") && !range(b"a", b"b").contains(b"b"));
        assert_eq!(watched(b"a", b"a"), None);
        assert_eq!(watched(b"b", b"a"), None);
        // No key is the key "\0": alone it is one key.
        assert_eq!(watched(b"", b"").unwrap().single(), Some(&b"\0"[..]));
    }
}
