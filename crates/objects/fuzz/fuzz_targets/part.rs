#![no_main]

mod forge;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use netsy_objects::format::decode_part;

fuzz_target!(|input: &[u8]| {
    let _ = decode_part(&Bytes::copy_from_slice(input));
    let _ = decode_part(&forge::file(input).into());
});
