//! Which blocks of a disk are in doubt.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use afterimage_block::{Extent, ExtentSet, Length, Offset};
use serde::{Deserialize, Serialize};

use crate::{BlockSize, Error, Grid, Result};

/// The blocks of a disk that are in doubt, as whole blocks. Memory is proportional to the number of
/// runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(Grid, ExtentSet)", into = "(Grid, ExtentSet)")]
pub struct Scope {
    grid: Grid,
    extents: ExtentSet,
    total: Length,
}

impl Scope {
    /// Every block of a disk of `size` bytes.
    pub fn whole(size: Length, block_size: BlockSize) -> Self {
        Self {
            grid: Grid::new(size, block_size),
            extents: Extent::whole(size).into_iter().collect(),
            total: size,
        }
    }

    /// The blocks that `doubtful` touches on a disk of `size` bytes.
    ///
    /// # Errors
    /// [`Error::ScopeOutOfRange`] if an extent ends behind the disk.
    pub fn new(size: Length, block_size: BlockSize, doubtful: &ExtentSet) -> Result<Self> {
        let grid = Grid::new(size, block_size);
        let extents = doubtful
            .iter()
            .map(|extent| {
                let out_of_range = Error::ScopeOutOfRange { extent, size };
                grid.around(extent).ok_or(out_of_range)
            })
            .collect::<Result<ExtentSet>>()?;
        let total = extents.total();
        Ok(Self {
            grid,
            extents,
            total,
        })
    }

    /// The disk's size and blocks.
    pub const fn grid(&self) -> Grid {
        self.grid
    }

    /// The bytes of all blocks in doubt.
    pub const fn total(&self) -> Length {
        self.total
    }

    /// The run of blocks in doubt that holds or follows `at`, from `at` on.
    pub fn next_from(&self, at: Offset) -> Option<Extent> {
        let rest = Extent::between(at, Offset::new(self.grid.size().get()))?;
        self.extents.within(rest).next()
    }

    /// The bytes in doubt before `at`.
    pub(crate) fn total_before(&self, at: Offset) -> Length {
        let before = Extent::between(Offset::ZERO, at);
        let runs = before.into_iter().flat_map(|all| self.extents.within(all));
        runs.fold(Length::ZERO, |sum, run| sum.saturating_add(run.length()))
    }
}

impl TryFrom<(Grid, ExtentSet)> for Scope {
    type Error = Error;

    fn try_from((grid, extents): (Grid, ExtentSet)) -> Result<Self> {
        Self::new(grid.size(), grid.block_size(), &extents)
    }
}

impl From<Scope> for (Grid, ExtentSet) {
    fn from(scope: Scope) -> Self {
        (scope.grid, scope.extents)
    }
}
