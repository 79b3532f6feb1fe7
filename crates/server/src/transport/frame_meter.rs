//! Follows the HTTP/2 frames in the bytes that arrive, without keeping them: the HTTP/2 library
//! answers pings by itself and tells nobody, and a client that pings too often must be told off.

/// Length of the text with which an HTTP/2 client begins.
const PREFACE_BYTES: usize = 24;
/// Length of a frame's header.
const HEADER_BYTES: usize = 9;
const TYPE_PING: u8 = 6;
const FLAG_ACK: u8 = 1;

/// Counts pings in a byte stream that is cut anywhere.
pub(crate) struct FrameMeter {
    /// Bytes of preface or payload still to pass over.
    skip: usize,
    header: [u8; HEADER_BYTES],
    header_len: usize,
    pings: u32,
}

impl FrameMeter {
    pub(crate) fn new() -> Self {
        Self { skip: PREFACE_BYTES, header: [0; HEADER_BYTES], header_len: 0, pings: 0 }
    }

    /// Sees the next bytes.
    pub(crate) fn observe(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                self.skip -= n;
                bytes = &bytes[n..];
                continue;
            }
            let n = (HEADER_BYTES - self.header_len).min(bytes.len());
            self.header[self.header_len..self.header_len + n].copy_from_slice(&bytes[..n]);
            self.header_len += n;
            bytes = &bytes[n..];
            if self.header_len == HEADER_BYTES {
                let [a, b, c, kind, flags, ..] = self.header;
                self.header_len = 0;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                if kind == TYPE_PING && flags & FLAG_ACK == 0 {
                    self.pings = self.pings.saturating_add(1);
                }
            }
        }
    }

    /// Pings since the last call.
    pub(crate) fn take_pings(&mut self) -> u32 {
        std::mem::take(&mut self.pings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 0];
        bytes.extend(std::iter::repeat_n(6u8, payload));
        bytes
    }

    #[test]
    fn counts_pings_wherever_the_stream_is_cut() {
        let mut stream = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        stream.extend(frame(4, 0, 12));
        stream.extend(frame(6, 0, 8));
        stream.extend(frame(0, 1, 1000));
        stream.extend(frame(6, 1, 8));
        stream.extend(frame(6, 0, 8));
        for cut in [1, 2, 3, 7, 9, 10, 64, stream.len()] {
            let mut meter = FrameMeter::new();
            for part in stream.chunks(cut) {
                meter.observe(part);
            }
            assert_eq!(meter.take_pings(), 2, "cut into {cut}");
            assert_eq!(meter.take_pings(), 0);
        }
    }
}
