//! Reading once more what should be right.

use std::ops::Range;

use afterimage_block::{ExtentSet, SessionId};

use crate::tree::Shape;
use crate::{Grid, Scope};

/// One unit of so many is read, at least.
const ONE_OF: u64 = 16;

/// No more units than this: 4 GiB in blocks of 64 KiB. Of a disk of which a hundredth is wrong, they
/// show it but for one time in 29 000.
const UNITS_MAX: u64 = 1024;

/// How much of a disk is read once more at the end of a resync, to see that it holds what was written and
/// what was found equal. What the page cache has is read from there: it takes a disk that is read past it
/// to look at the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reread {
    /// A sixteenth of it, at most 1024 pieces of 64 blocks, spread over the disk and picked at random by the
    /// session.
    Sample,
    /// All of it.
    Full,
}

impl Reread {
    /// The blocks to read once more of a disk, the same for the same session.
    pub fn scope(self, grid: Grid, session: SessionId) -> Scope {
        let shape = Shape::new(grid);
        let units = self.units(shape, session);
        let extents: ExtentSet = units
            .iter()
            .filter_map(|run| shape.extent_of(run))
            .collect();
        let (size, block_size) = (grid.size(), grid.block_size());
        Scope::new(size, block_size, &extents).unwrap_or_else(|_| Scope::whole(size, block_size))
    }

    /// The numbers of the units to read once more, in order.
    pub(crate) fn units(self, shape: Shape, session: SessionId) -> Vec<Range<u64>> {
        let units = shape.units();
        if self == Self::Full {
            return std::iter::once(0..units)
                .filter(|run| !run.is_empty())
                .collect();
        }
        let count = units.div_ceil(ONE_OF).min(UNITS_MAX);
        let session = u128::from_le_bytes(session.to_bytes());
        // Both halves have bits that are the same in every session.
        let mut dice = folded(session);
        // One of each stratum: rounded alike at both ends, they do not overlap.
        let start = |stratum: u64| {
            let scaled = u128::from(stratum).saturating_mul(units.into());
            let at = scaled.checked_div(count.into()).unwrap_or_default();
            u64::try_from(at).unwrap_or(units)
        };
        let picked = (0..count).map(|stratum| {
            let from = start(stratum);
            let length = start(stratum.saturating_add(1)).saturating_sub(from);
            dice = dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let unit = from.saturating_add(mixed(dice).checked_rem(length).unwrap_or_default());
            unit..unit.saturating_add(1)
        });
        picked.collect()
    }
}

fn folded(word: u128) -> u64 {
    let low = u64::try_from(word & u128::from(u64::MAX)).unwrap_or_default();
    let high = u64::try_from(word >> 64).unwrap_or_default();
    low ^ mixed(high)
}

/// SplitMix64's last step.
const fn mixed(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockSize;
    use afterimage_block::Length;
    use proptest::prelude::*;

    fn shape(blocks: u64) -> Shape {
        Shape::new(Grid::new(Length::new(4096 * blocks), BlockSize::MIN))
    }

    proptest! {
        #[test]
        fn a_sample_is_of_every_part_of_the_disk(blocks in 1..10_000_000_u64, session: [u8; 16]) {
            let (shape, session) = (shape(blocks), SessionId::from_bytes(session));
            let sample = Reread::Sample.units(shape, session);
            let units = shape.units();
            prop_assert_eq!(sample.len() as u64, units.div_ceil(16).min(1024));
            let part = units.div_ceil(sample.len() as u64);
            let mut last = 0;
            for run in &sample {
                prop_assert!(run.end - run.start == 1 && run.end <= units);
                prop_assert!(run.start >= last && run.start < last + 2 * part);
                last = run.end;
            }
            prop_assert!(units - last < 2 * part);
        }
    }

    #[test]
    fn another_session_picks_others() {
        let picked = |byte| Reread::Sample.units(shape(1 << 20), SessionId::from_bytes([byte; 16]));
        assert_eq!(picked(1), picked(1));
        assert_ne!(picked(1), picked(2));
    }

    #[test]
    fn all_is_all_and_nothing_is_of_an_empty_disk() {
        let session = SessionId::from_bytes([3; 16]);
        for blocks in [1, 63, 64, 65, 5000] {
            let grid = Grid::new(Length::new(4096 * blocks), BlockSize::MIN);
            let scope = Reread::Full.scope(grid, session);
            assert_eq!(scope, Scope::whole(grid.size(), BlockSize::MIN));
        }
        for reread in [Reread::Sample, Reread::Full] {
            assert!(reread.units(shape(0), session).is_empty());
        }
    }
}
