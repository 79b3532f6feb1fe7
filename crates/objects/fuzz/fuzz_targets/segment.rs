#![no_main]

mod forge;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use netsy_objects::format::decode_segment;

fuzz_target!(|input: &[u8]| {
    let _ = decode_segment(&Bytes::copy_from_slice(input));
    let _ = decode_segment(&forge::file(input).into());
});
