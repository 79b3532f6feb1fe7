//! Mends the `:authority` of old clients.
//!
//! etcd's Go client before 3.5 sends a whole URL where HTTP/2 wants `host:port`, for endpoints that it took from
//! MemberList (`etcdctl --cluster`). Go's server takes any text there; ours ends the stream, as the standard says. Nothing
//! here looks at the authority, so `://` becomes three characters that may stand in one, on the way from the socket to
//! the HTTP/2 library. They are as long as what they stand for, plain and in HPACK's Huffman code: neither the frame nor
//! the library's header table changes its size.
//!
//! Only the first headers of a connection are looked at. Later ones refer to them by the header table.

use super::listener::PREFACE;

const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const FLAG_PADDED: u8 = 0x08;
const FLAG_PRIORITY: u8 = 0x20;
/// `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;
/// For `://`.
const STAND_IN: &[u8] = b"B--";

/// Watches what a client sends until its first headers have passed.
pub(super) struct AuthorityMender {
    /// Bytes that are no frame's head: the preface, then payloads.
    skip: usize,
    head: [u8; FRAME_HEAD_BYTES],
    head_len: usize,
    done: bool,
}

impl AuthorityMender {
    pub(super) fn new() -> Self {
        Self { skip: PREFACE.len(), head: [0; FRAME_HEAD_BYTES], head_len: 0, done: false }
    }

    /// Sees the next bytes of the connection. Headers that do not come in one piece stay as they are.
    pub(super) fn mend(&mut self, mut bytes: &mut [u8]) {
        while !self.done {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            bytes = &mut bytes[passed..];
            let wanted = (FRAME_HEAD_BYTES - self.head_len).min(bytes.len());
            self.head[self.head_len..self.head_len + wanted].copy_from_slice(&bytes[..wanted]);
            self.head_len += wanted;
            if self.head_len < FRAME_HEAD_BYTES {
                return;
            }
            bytes = &mut bytes[wanted..];
            self.head_len = 0;
            let [a, b, c, kind, flags, ..] = self.head;
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if kind != HEADERS {
                self.skip = length;
                continue;
            }
            self.done = true;
            let before = usize::from(flags & FLAG_PADDED != 0) + if flags & FLAG_PRIORITY != 0 { 5 } else { 0 };
            if let Some(block) = bytes.get_mut(before..length) {
                mend_block(block);
            }
        }
    }
}

/// Finds the authority in a header block, which may be cut off or malformed: the library judges that.
fn mend_block(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    loop {
        let first = *block.get(at)?;
        if first & 0x80 != 0 {
            // A whole field of a table.
            (_, at) = integer(block, at, 7)?;
        } else if first & 0xe0 == 0x20 {
            // The table's size.
            (_, at) = integer(block, at, 5)?;
        } else {
            let (name, value) = integer(block, at, if first & 0x40 != 0 { 6 } else { 4 })?;
            at = value;
            if name == 0 {
                let (length, text) = integer(block, at, 7)?;
                at = text.checked_add(length)?;
            }
            let is_huffman = *block.get(at)? & 0x80 != 0;
            let (length, text) = integer(block, at, 7)?;
            at = text.checked_add(length)?;
            if name == AUTHORITY {
                mend_value(block.get_mut(text..at)?, is_huffman);
                return Some(());
            }
        }
    }
}

/// A number whose first bits are the low `prefix` bits of the byte at `at`, and where it ends.
fn integer(block: &[u8], mut at: usize, prefix: u32) -> Option<(usize, usize)> {
    let most = (1 << prefix) - 1;
    let mut number = usize::from(*block.get(at)?) & most;
    at += 1;
    if number == most {
        // Longer than any block: three more bytes at most.
        for shift in [0, 7, 14] {
            let byte = *block.get(at)?;
            at += 1;
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some((number, at));
            }
        }
        return None;
    }
    Some((number, at))
}

fn mend_value(value: &mut [u8], is_huffman: bool) {
    for scheme in [&b"http"[..], b"https"] {
        if is_huffman {
            let (from, bits) = huffman(scheme, b"://");
            let (to, _) = huffman(scheme, STAND_IN);
            // Both are between 5 and 6 bytes.
            let Some(start) = value.first_chunk_mut::<6>() else { return };
            let mut word = start.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            let rest = 48 - bits;
            if word >> rest == from {
                word ^= (from ^ to) << rest;
                start.copy_from_slice(&word.to_be_bytes()[2..]);
                return;
            }
        } else if let Some(rest) = value.strip_prefix(scheme)
            && rest.starts_with(b"://")
        {
            value[scheme.len()..scheme.len() + STAND_IN.len()].copy_from_slice(STAND_IN);
            return;
        }
    }
}

/// The code of some of the characters met here (RFC 7541, appendix B), and its length in bits.
fn huffman(scheme: &[u8], rest: &[u8]) -> (u64, u32) {
    scheme.iter().chain(rest).fold((0, 0), |(code, bits), character| {
        let (next, length) = match character {
            b'h' => (0x27, 6),
            b't' => (0x9, 5),
            b'p' => (0x2b, 6),
            b's' => (0x8, 5),
            b':' => (0x5c, 7),
            b'/' => (0x18, 6),
            b'B' => (0x5d, 7),
            b'-' => (0x16, 6),
            _ => (0, 0),
        };
        (code << length | next, bits + length)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32;
        [&length.to_be_bytes()[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What Go's encoder sends first: method, scheme, path, then the authority.
    fn block(authority: &[u8], is_huffman: bool) -> Vec<u8> {
        let mut block = vec![0x83, 0x86, 0x44, 3, b'/', b'a', b'b', 0x41];
        block.push(authority.len() as u8 | if is_huffman { 0x80 } else { 0 });
        block.extend_from_slice(authority);
        block.extend_from_slice(&[0x40, 2, b't', b'e', 1, b'x']);
        block
    }

    fn encode(text: &str) -> Vec<u8> {
        let digits = |character| match character {
            b'0'..=b'2' => (u64::from(character - b'0'), 5),
            b'3'..=b'9' => (0x19 + u64::from(character - b'3'), 6),
            b'.' => (0x17, 6),
            b'b' => (0x23, 6),
            _ => huffman(&[character], &[]),
        };
        let mut bits: Vec<bool> = Vec::new();
        for character in text.bytes() {
            let (code, length) = digits(character);
            assert!(length > 0, "{text}");
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
    }

    fn mended(block: &[u8], flags: u8, before: &[u8], pieces: usize) -> Vec<u8> {
        let headers = frame(HEADERS, 4 | flags, &[before, block].concat());
        let mut all = [PREFACE, &frame(4, 0, &[0; 12]), &frame(8, 0, &[0; 4]), &headers].concat();
        let start = all.len() - block.len();
        let mut mender = AuthorityMender::new();
        let (first, second) = all.split_at_mut(pieces);
        mender.mend(first);
        mender.mend(second);
        all.split_off(start)
    }

    #[test]
    fn urls_become_authorities() {
        for (url, wanted) in [
            ("http://127.0.0.1:2379", "httpB--127.0.0.1:2379"),
            ("https://127.0.0.1:2379", "httpsB--127.0.0.1:2379"),
            ("127.0.0.1:2379", "127.0.0.1:2379"),
            ("http.b:9", "http.b:9"),
            ("http", "http"),
        ] {
            assert!(wanted.parse::<http::uri::Authority>().is_ok());
            assert_eq!(mended(&block(url.as_bytes(), false), 0, &[], 30), block(wanted.as_bytes(), false), "{url}");
            let (from, to) = (encode(url), encode(&wanted.replace('B', ":").replace("--", "//")));
            assert_eq!(from, to, "the test's own encoder");
            let after = mended(&block(&from, true), 0, &[], 7);
            assert_eq!(after.len(), block(&from, true).len());
            if url == wanted {
                assert_eq!(after, block(&from, true), "{url}");
            } else {
                let mut expected = from.clone();
                mend_value(&mut expected, true);
                assert_ne!(expected, from);
                assert_eq!(after, block(&expected, true), "{url}");
            }
        }
    }

    /// Bits of `http://` and of what stands for it, written out.
    #[test]
    fn huffman_codes_are_those_of_the_standard() {
        assert_eq!(huffman(b"http", b"://"), (0b1_0011_1010_0101_0011_0101_1101_1100_0110_0001_1000, 41));
        assert_eq!(huffman(b"http", b"B--"), (0b1_0011_1010_0101_0011_0101_1101_1101_0101_1001_0110, 41));
        assert_eq!(huffman(b"https", b"://").1, 46);
    }

    #[test]
    fn padding_and_priority_are_passed() {
        let url = block(b"http://a:1", false);
        assert_ne!(mended(&url, FLAG_PADDED | FLAG_PRIORITY, &[0, 0, 0, 0, 0, 0], 40), url);
        assert_ne!(mended(&url, FLAG_PRIORITY, &[0, 0, 0, 0, 0], 40), url);
    }

    #[test]
    fn only_the_first_headers_are_looked_at() {
        let url = frame(HEADERS, 4, &block(b"http://a:1", false));
        let mut all = [PREFACE, &url, &url].concat();
        AuthorityMender::new().mend(&mut all);
        assert_ne!(all[PREFACE.len()..PREFACE.len() + url.len()], url);
        assert_eq!(all[PREFACE.len() + url.len()..], url);
    }

    #[test]
    fn fuzz_header_blocks() {
        let corpus = [block(b"http://a:1", false), block(&encode("http://127.0.0.1:2379"), true)];
        netsy_fuzz::run("header blocks", &corpus, 50_000, |input| {
            let mut changed = input.to_vec();
            let found = mend_block(&mut changed).is_some();
            let mut all = [PREFACE, &frame(HEADERS, 4, input), input].concat();
            AuthorityMender::new().mend(&mut all);
            if found { netsy_fuzz::Verdict::Accepted } else { netsy_fuzz::Verdict::Refused }
        });
    }
}
