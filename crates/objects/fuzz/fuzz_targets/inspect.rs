#![no_main]

mod forge;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use netsy_objects::inspect::{InspectFormat, inspect};

fuzz_target!(|input: &[u8]| {
    for bytes in [Bytes::copy_from_slice(input), forge::file(input).into()] {
        for format in [InspectFormat::Text, InspectFormat::JsonLines] {
            let _ = inspect("input", &bytes, format, &mut std::io::sink());
        }
    }
});
