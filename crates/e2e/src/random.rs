//! A small random source with a seed that a failing run prints, so that it can be run again.

/// SplitMix64: enough for picking keys and instants.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed that differs from run to run, unless `NETSY_SEED` names one.
    pub fn seed_of_run() -> u64 {
        if let Ok(text) = std::env::var("NETSY_SEED") {
            return text.parse().unwrap_or_else(|_| panic!("NETSY_SEED is {text:?}: set it to a number"));
        }
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        (since.as_nanos() as u64) ^ u64::from(std::process::id())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// True in `percent` of 100 calls.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A source of its own, for a task of its own.
    pub fn fork(&mut self) -> Self {
        Self::new(self.number())
    }
}
