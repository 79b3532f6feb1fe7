#![no_main]

mod forge;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use netsy_objects::format::decode_chunk;

fuzz_target!(|input: &[u8]| {
    let _ = decode_chunk(&Bytes::copy_from_slice(input));
    let _ = decode_chunk(&forge::file(input).into());
});
