//! Makes checksums right, so that the fuzzer gets past them: input is
//! `header_len:u8 header body_frames…`, where each body frame is `len:u16 message`.

use netsy_objects::format::crc;

fn frame(file: &mut Vec<u8>, message: &[u8]) {
    let start = file.len();
    let mut len = message.len();
    while len >= 0x80 {
        file.push(len as u8 | 0x80);
        len >>= 7;
    }
    file.push(len as u8);
    file.extend_from_slice(message);
    let crc = crc::mask(crc::checksum(&file[start..]));
    file.extend_from_slice(&crc.to_le_bytes());
}

/// A file of these messages.
pub fn file(input: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let Some((&len, rest)) = input.split_first() else { return file };
    let (header, mut rest) = rest.split_at(usize::from(len).min(rest.len()));
    frame(&mut file, header);
    while let [low, high, more @ ..] = rest {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(more.len());
        frame(&mut file, &more[..len]);
        rest = &more[len..];
    }
    let crc = crc::checksum(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    file
}
