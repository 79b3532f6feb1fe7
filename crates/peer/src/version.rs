//! Versions of what nodes say to each other (`netsy/peer.proto`).

use std::fmt;

/// The oldest this program speaks.
pub const VERSION_MIN: u32 = 1;
/// The newest this program speaks.
pub const VERSION_MAX: u32 = 1;

/// A range of protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl Versions {
    /// What this program speaks.
    pub const OWN: Self = Self { min: VERSION_MIN, max: VERSION_MAX };

    /// The greatest version that both know.
    pub fn agree(self, other: Self) -> Option<u32> {
        let version = self.max.min(other.max);
        (version >= self.min && version >= other.min && version > 0).then_some(version)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.max) } else { write!(f, "{} to {}", self.min, self.max) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_common_version_is_spoken() {
        let range = |min, max| Versions { min, max };
        assert_eq!(range(1, 1).agree(range(1, 1)), Some(1));
        assert_eq!(range(1, 3).agree(range(2, 5)), Some(3));
        assert_eq!(range(2, 5).agree(range(1, 3)), Some(3));
        assert_eq!(range(1, 1).agree(range(2, 3)), None);
        assert_eq!(range(2, 3).agree(range(1, 1)), None);
        assert_eq!(range(0, 0).agree(range(0, 0)), None, "0 is what an empty message says");
        assert_eq!(range(3, 1).agree(range(1, 3)), None, "no range at all");
    }
}
