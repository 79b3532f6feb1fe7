//! The engine's only source of chance: seeded from outside, so that a schedule can be replayed.

use netsy_api::ids::Nonce;

/// Two 64-bit SplitMix streams; 128 bits of seed keep nonces of different processes apart.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    a: u64,
    b: u64,
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    pub(crate) fn new(seed: u128) -> Self {
        Self { a: seed as u64, b: (seed >> 64) as u64 }
    }

    pub(crate) fn nonce(&mut self) -> Nonce {
        Nonce((u128::from(split_mix(&mut self.a)) << 64) | u128::from(split_mix(&mut self.b)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        split_mix(&mut self.a)
    }

    /// From 0 to below `bound`; 0 for 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }
}
