#![no_main]

use libfuzzer_sys::fuzz_target;
use netsy_objects::manifest::{ClusterManifest, ElectorLock, JsonObject, Registration, SnapshotManifest};

fn try_one<T: JsonObject + PartialEq + std::fmt::Debug>(input: &[u8]) {
    if let Ok(object) = T::from_json(input) {
        let again = object.to_json().expect("what was read can be written");
        assert_eq!(T::from_json(&again).expect("and read again"), object);
    }
}

fuzz_target!(|input: &[u8]| {
    try_one::<ClusterManifest>(input);
    try_one::<ElectorLock>(input);
    try_one::<Registration>(input);
    try_one::<SnapshotManifest>(input);
});
