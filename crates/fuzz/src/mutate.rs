//! One change of an input.

use crate::Random;

/// Numbers at which arithmetic goes wrong.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    u64::MAX,
    1 << 40,
];

/// What texts are made of.
const WORDS: [&[u8]; 16] = [
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"{}",
    b"[]",
    b"\"\"",
    b"\\u0000",
    b"\xff\xfe",
    b"/*",
    b"//",
    b"0s",
    b"../",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":",
    b"18446744073709551616",
];

/// Changes `input` at one place; `other` is what a piece may be taken from.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(input.len() as u64 + 1) as usize;
    match random.below(13) {
        0 | 1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        2 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.number() as u8;
            }
        }
        3 => {
            let length = random.below(9) as usize;
            let bytes: Vec<u8> = (0..length).map(|_| random.number() as u8).collect();
            insert(input, at, &bytes);
        }
        4 => {
            let end = (at + piece(random, input.len() - at)).min(input.len());
            input.drain(at..end);
        }
        5 => {
            let bytes = input[at..at + piece(random, input.len() - at)].to_vec();
            let to = random.below(input.len() as u64 + 1) as usize;
            insert(input, to, &bytes);
        }
        6 => {
            let from = random.below(other.len() as u64 + 1) as usize;
            insert(input, at, &other[from..from + piece(random, other.len() - from)]);
        }
        7 => {
            // A new end.
            let from = random.below(other.len() as u64 + 1) as usize;
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        8 => input.truncate(at),
        9 => overwrite(input, at, &fixed(random)),
        10 => {
            // A length or number of protobuf.
            let end = (at..input.len()).find(|i| input[*i] < 0x80).map_or(input.len(), |i| i + 1);
            let bytes = varint(number(random));
            input.splice(at..end, bytes);
        }
        11 => {
            // A number of a text.
            let Some(from) = (at..input.len()).find(|i| input[*i].is_ascii_digit()) else { return };
            let end = (from..input.len()).find(|i| !input[*i].is_ascii_digit()).unwrap_or(input.len());
            let text = number(random).to_string();
            input.splice(from..end, text.into_bytes());
        }
        _ => insert(input, at, WORDS[random.below(WORDS.len() as u64) as usize]),
    }
}

/// A length up to `most`, likelier a short one.
fn piece(random: &mut Random, most: usize) -> usize {
    let bound = if random.below(4) == 0 { most } else { most.min(16) };
    random.below(bound as u64 + 1) as usize
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

fn overwrite(input: &mut [u8], at: usize, bytes: &[u8]) {
    for (byte, new) in input.iter_mut().skip(at).zip(bytes) {
        *byte = *new;
    }
}

fn number(random: &mut Random) -> u64 {
    match random.below(3) {
        0 => random.below(300),
        1 => random.number(),
        _ => NUMBERS[random.below(NUMBERS.len() as u64) as usize],
    }
}

fn fixed(random: &mut Random) -> Vec<u8> {
    let number = number(random);
    match random.below(4) {
        0 => number.to_le_bytes().to_vec(),
        1 => number.to_be_bytes().to_vec(),
        2 => (number as u32).to_le_bytes().to_vec(),
        _ => (number as u16).to_be_bytes().to_vec(),
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
