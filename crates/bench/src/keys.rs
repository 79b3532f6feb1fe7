//! Keys, values and random numbers of a load, all from one seed: two servers get the same bytes.

use anyhow::{Result, ensure};

/// SplitMix64: eight bytes of state and enough quality to spread keys.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

/// `count` keys of one length: a prefix and the number in decimal, so that they sort by number.
#[derive(Clone)]
pub struct KeySpace {
    template: Vec<u8>,
    prefix_len: usize,
    count: usize,
}

impl KeySpace {
    /// Errors when `count` numbers do not fit `key_bytes`.
    pub fn new(prefix: &str, key_bytes: usize, count: usize) -> Result<KeySpace> {
        ensure!(count > 0, "--keys is 0: give at least one");
        let digits = count.saturating_sub(1).to_string().len();
        ensure!(
            key_bytes >= prefix.len() + digits,
            "--key-size {key_bytes} is too short for {count} keys: give at least {}",
            prefix.len() + digits
        );
        let mut template = prefix.as_bytes().to_vec();
        template.resize(key_bytes, b'0');
        Ok(KeySpace { template, prefix_len: prefix.len(), count })
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn key_bytes(&self) -> usize {
        self.template.len()
    }

    /// Key number `index`; it lives in this space's buffer until the next call.
    pub fn key(&mut self, index: usize) -> &[u8] {
        let (mut rest, mut at) = (index, self.template.len());
        while at > self.prefix_len {
            at -= 1;
            self.template[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        &self.template
    }

    /// The end of the range of all keys: the first string that has not their prefix.
    pub fn range_end(&self) -> Vec<u8> {
        let mut end = self.template[..self.prefix_len].to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1; // prefixes are ASCII
        }
        end
    }
}

/// Incompressible values of one length, cut from one random pool at changing places.
#[derive(Clone)]
pub struct Values {
    pool: Vec<u8>,
    bytes: usize,
}

impl Values {
    const SPREAD: usize = 4096;

    pub fn new(bytes: usize, rng: &mut Rng) -> Values {
        let pool = (0..bytes + Self::SPREAD).map(|_| rng.next() as u8).collect();
        Values { pool, bytes }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn value(&self, rng: &mut Rng) -> &[u8] {
        let at = rng.below(Self::SPREAD);
        &self.pool[at..at + self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_one_length_and_sort_by_number() {
        let mut keys = KeySpace::new("bench/", 16, 1000).unwrap();
        assert_eq!(keys.key(7), b"bench/0000000007");
        assert_eq!(keys.key(999), b"bench/0000000999");
        assert_eq!(keys.range_end(), b"bench0");
        assert!(KeySpace::new("bench/", 8, 1000).is_err());
        assert!(KeySpace::new("bench/", 9, 1000).is_ok());
    }

    #[test]
    fn one_seed_gives_one_load() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..100).map(|_| rng.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(3).iter().all(|&n| n < 10));
    }
}
