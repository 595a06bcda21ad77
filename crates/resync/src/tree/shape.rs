//! Which nodes a tree has.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::ops::Range;

use afterimage_block::{Extent, Length};

use crate::protocol::{FAN_OUT, Place};
use crate::{BlockIndex, Grid};

/// Bits of a node's number that name it among its siblings.
const BITS: u32 = FAN_OUT.trailing_zeros();

/// Which nodes the tree over a disk has. Level 0 are the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    grid: Grid,
    top: u8,
}

impl Shape {
    /// Of a disk of that size in those blocks.
    pub fn new(grid: Grid) -> Self {
        let is_root = |level: &u8| count(grid.blocks(), *level) <= 1;
        let top = (1..=u8::MAX).find(is_root).unwrap_or(u8::MAX);
        Self { grid, top }
    }

    /// The disk's size and blocks.
    pub const fn grid(self) -> Grid {
        self.grid
    }

    /// The level of the root, at least 1.
    pub const fn top(self) -> u8 {
        self.top
    }

    /// The place whose only child is the root.
    pub const fn above_root(self) -> Place {
        let level = self.top.saturating_add(1);
        Place { level, index: 0 }
    }

    /// The number of nodes on `level`: none above that above the root.
    pub fn nodes(self, level: u8) -> u64 {
        if level > self.above_root().level {
            return 0;
        }
        count(self.grid.blocks(), level)
    }

    /// The number of units, nodes of level 1.
    pub fn units(self) -> u64 {
        self.nodes(1)
    }

    /// The numbers of a node's children on the level below; `None` if there is no such node or it is
    /// a block.
    pub fn children(self, of: Place) -> Option<Range<u64>> {
        let below = of.level.checked_sub(1)?;
        if of.index >= self.nodes(of.level) {
            return None;
        }
        Self::span(of.index, BITS, self.nodes(below))
    }

    /// The numbers of the blocks beneath a node; `None` if there is no such node.
    pub fn blocks(self, of: Place) -> Option<Range<u64>> {
        if of.index >= self.nodes(of.level) {
            return None;
        }
        Self::span(of.index, bits(of.level), self.grid.blocks())
    }

    /// The unit that holds `block`.
    pub const fn unit_of(block: u64) -> u64 {
        block >> BITS
    }

    /// The numbers of the units all of whose bytes are in `extent`.
    pub fn units_within(self, extent: Extent) -> Range<u64> {
        let unit = self.grid.block_size().get().saturating_mul(1 << BITS);
        let first = extent.start().get().div_ceil(unit);
        let end = if extent.end().get() >= self.grid.size().get() {
            self.units()
        } else {
            extent.end().get().checked_div(unit).unwrap_or_default()
        };
        first..end.max(first)
    }

    /// The numbers of the blocks of `unit`, none if there is no such unit.
    pub fn blocks_of_unit(self, unit: u64) -> Range<u64> {
        let level = 1;
        self.blocks(Place { level, index: unit })
            .unwrap_or_default()
    }

    /// The bytes of the disk but for those of the units in `runs`, no two of which overlap.
    pub(crate) fn length_beside(self, runs: &[Range<u64>]) -> Length {
        self.grid.size().saturating_sub(self.length_of(runs))
    }

    /// The bytes of the units in `runs`, no two of which overlap.
    pub(crate) fn length_of(self, runs: &[Range<u64>]) -> Length {
        let extents = runs.iter().filter_map(|run| self.extent_of(run));
        extents.fold(Length::ZERO, |sum, extent| {
            sum.saturating_add(extent.length())
        })
    }

    /// The bytes of these units; `None` if there are none.
    pub(crate) fn extent_of(self, units: &Range<u64>) -> Option<Extent> {
        let first = self.blocks_of_unit(units.start).start;
        let end = self.blocks_of_unit(units.end.saturating_sub(1)).end;
        let count = end.saturating_sub(first);
        self.grid.run(BlockIndex::new(first), count)
    }

    fn span(index: u64, bits: u32, most: u64) -> Option<Range<u64>> {
        let shifted = |index: u64| {
            let fits = bits <= index.leading_zeros();
            fits.then(|| index.checked_shl(bits)).flatten()
        };
        let start = if index == 0 { 0 } else { shifted(index)? };
        let end = index.checked_add(1).and_then(shifted).unwrap_or(most);
        Some(start..end.min(most))
    }
}

fn bits(level: u8) -> u32 {
    BITS.saturating_mul(level.into())
}

/// How many nodes of `level` stand for so many blocks.
fn count(blocks: u64, level: u8) -> u64 {
    let last = blocks.checked_sub(1);
    last.map_or(0, |last| {
        last.checked_shr(bits(level)).unwrap_or(0).saturating_add(1)
    })
}
