//! What only broken variants need.

#[cfg(feature = "mutants")]
use crate::manifest::Manifest;
#[cfg(feature = "mutants")]
use netsy_api::ids::Nonce;

/// A nonce that is the same for the same contents: what a content hash as ETag and no nonce come to.
#[cfg(feature = "mutants")]
pub(crate) fn content_nonce(manifest: &Manifest) -> Nonce {
    let mut same = manifest.clone();
    same.config_version = 0;
    same.nonce = Nonce(0);
    let text = format!("{same:?}");
    let hash = text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    Nonce(hash)
}

#[cfg(not(feature = "mutants"))]
pub(crate) fn content_nonce(manifest: &crate::manifest::Manifest) -> netsy_api::ids::Nonce {
    manifest.nonce
}
