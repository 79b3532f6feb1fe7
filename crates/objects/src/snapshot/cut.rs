//! Where one part ends and the next begins.
//!
//! The rows themselves decide, by their positions: the same rows are cut at the same places whatever
//! came before or is gone since, so most parts of a snapshot are those of the one before, however
//! thinly the survivors of compaction are spread. Fixed ranges of positions would be either far too many or
//! far too large. Readers do not depend on this rule.

use netsy_api::ids::Position;

/// What a part has on average, in uncompressed bytes.
pub const PART_BYTES_TARGET: usize = 8 << 20;
/// A part is ended at this size at the latest; its last row may reach beyond it.
pub const PART_BYTES_MAX: usize = 32 << 20;

/// Decides after each row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cutter {
    target: usize,
    bytes_min: usize,
    bytes_max: usize,
}

impl Cutter {
    /// Parts of about `target` uncompressed bytes, at most four times that.
    pub(crate) fn new(target: usize) -> Self {
        let target = target.clamp(1, PART_BYTES_TARGET);
        Self { target, bytes_min: target / 8, bytes_max: target * (PART_BYTES_MAX / PART_BYTES_TARGET) }
    }

    /// Whether a part that has `part_bytes` with the row at `position`, of `row_bytes`, ends there.
    pub(crate) fn ends(&self, position: Position, row_bytes: usize, part_bytes: usize) -> bool {
        if part_bytes >= self.bytes_max {
            return true;
        }
        if part_bytes < self.bytes_min {
            return false;
        }
        // One chance in target/row_bytes, decided by the position alone.
        let threshold = (u64::MAX / self.target as u64).saturating_mul(row_bytes as u64);
        scatter(position.0) <= threshold
    }
}

/// splitmix64: every bit of the result depends on every bit of the number.
fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts, as (first, last) positions.
    fn cut(cutter: Cutter, rows: impl Iterator<Item = (u64, usize)>) -> Vec<(u64, u64)> {
        let (mut parts, mut first, mut bytes) = (Vec::new(), None, 0);
        let mut last = 0;
        for (position, row_bytes) in rows {
            bytes += row_bytes;
            last = position;
            let begin = *first.get_or_insert(position);
            if cutter.ends(Position(position), row_bytes, bytes) {
                parts.push((begin, position));
                (first, bytes) = (None, 0);
            }
        }
        parts.extend(first.map(|first| (first, last)));
        parts
    }

    #[test]
    fn parts_are_near_the_target_whatever_the_rows() {
        let cutter = Cutter::new(100_000);
        for row_bytes in [10, 300, 20_000, 1_000_000] {
            let rows = 40_000_000 / row_bytes;
            let parts = cut(cutter, (1..=rows as u64).map(|position| (position * 7, row_bytes))).len();
            let expected = (rows * row_bytes / 100_000).min(rows);
            assert!((expected / 2..=expected * 2).contains(&parts), "{row_bytes}: {parts} parts, not {expected}");
        }
    }

    #[test]
    fn a_row_that_is_gone_changes_the_parts_next_to_it_only() {
        let cutter = Cutter::new(10_000);
        let all = cut(cutter, (1..100_000).map(|position| (position, 100)));
        let without = cut(cutter, (1..100_000).filter(|&position| position != 50_000).map(|position| (position, 100)));
        let same = all.iter().filter(|part| without.contains(part)).count();
        assert!(same + 8 >= all.len() && all.len() > 500, "{same} of {} parts are the same", all.len());
    }
}
