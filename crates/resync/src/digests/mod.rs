//! What is known of a disk's content from before.

mod file;

use std::ops::Range;

use afterimage_block::{Extent, Length, Offset};

use crate::algorithm::Algorithm;
use crate::tree::{Node, Shape, Tree};
use crate::{Error, Grid, Result};

pub use file::DigestsError;

/// The digests of a disk's units of 64 blocks, as far as they are known: what an end knew of its disk
/// after one resync, to begin the next one with. What is known is not read again.
///
/// It is a value: [`encode`](Self::encode) gives the bytes of a cache file, as `CACHE.md` in the
/// crate's folder specifies them, and [`decode`](Self::decode) takes them back for a disk that is as it
/// was. What was written since must be told to [`invalidate`](Self::invalidate), by a tracker that
/// misses nothing; of a disk without one all is to be forgotten unless something proves that it was
/// not written at all. A digest that should have been forgotten hides a difference.
///
/// Memory is 33 bytes a unit: 8.3 MiB for 1 TiB in blocks of 64 KiB.
///
/// ```
/// use afterimage_block::{Extent, Length, Offset};
/// use afterimage_resync::{Algorithm, BlockSize, Digests, Grid};
///
/// let grid = Grid::new(Length::gib(1), BlockSize::default());
/// let mut digests = Digests::of_zeros(Algorithm::default(), grid)?; // of a new disk
/// digests.invalidate(Extent::new(Offset::new(5 << 20), Length::kib(4))?);
/// assert_eq!(digests.known(), Length::gib(1).saturating_sub(Length::mib(4)));
///
/// let file = digests.encode(b"generation 7, position 12");
/// let again = Digests::decode(&file, Algorithm::default(), grid, b"generation 7, position 12")?;
/// assert_eq!(again, digests);
/// let later = Digests::decode(&file, Algorithm::default(), grid, b"generation 7, position 13");
/// assert!(later.is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Digests {
    algorithm: Algorithm,
    shape: Shape,
    /// `None` of a unit that is not known.
    units: Vec<Option<Node>>,
}

impl Digests {
    /// Of a disk of zeros: all is known.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if there is no memory for the units of such a disk.
    pub fn of_zeros(algorithm: Algorithm, grid: Grid) -> Result<Self> {
        Self::all(algorithm, grid, Some(Node::ZERO))
    }

    /// Of a disk of which nothing is known.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if there is no memory for the units of such a disk.
    pub fn unknown(algorithm: Algorithm, grid: Grid) -> Result<Self> {
        Self::all(algorithm, grid, None)
    }

    fn all(algorithm: Algorithm, grid: Grid, unit: Option<Node>) -> Result<Self> {
        let shape = Shape::new(grid);
        let count = usize::try_from(shape.units()).ok();
        let mut units = Vec::new();
        let room = count.filter(|count| units.try_reserve_exact(*count).is_ok());
        units.resize(room.ok_or(Error::TooLarge { grid })?, unit);
        Ok(Self {
            algorithm,
            shape,
            units,
        })
    }

    /// Of a tree whose units are right but for those in `doubt`.
    pub(crate) fn of(tree: &Tree, doubt: &[Range<u64>]) -> Self {
        let mut digests = Self {
            algorithm: tree.algorithm(),
            shape: tree.shape(),
            units: tree.units().iter().copied().map(Some).collect(),
        };
        for run in doubt {
            digests.forget(run.clone());
        }
        digests
    }

    /// How the disk's blocks are hashed.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The disk's size and blocks.
    pub const fn grid(&self) -> Grid {
        self.shape.grid()
    }

    /// So much of the disk is known.
    pub fn known(&self) -> Length {
        self.shape.length_beside(&self.doubt())
    }

    /// Forgets the units that `extent` touches, which was or may have been written. What lies behind
    /// the disk's end is ignored.
    pub fn invalidate(&mut self, extent: Extent) {
        let grid = self.grid();
        let last = extent.end().get().saturating_sub(1);
        let unit = |at| Shape::unit_of(grid.index_at(at).get());
        let first = unit(extent.start());
        let end = unit(Offset::new(last)).saturating_add(1);
        self.forget(first..end);
    }

    fn forget(&mut self, run: Range<u64>) {
        let at = |unit: u64| usize::try_from(unit).unwrap_or(usize::MAX);
        let end = at(run.end).min(self.units.len());
        if let Some(units) = self.units.get_mut(at(run.start)..end) {
            units.fill(None);
        }
    }

    /// The units that are not known, in runs.
    pub(crate) fn doubt(&self) -> Vec<Range<u64>> {
        let mut at = 0_u64;
        let mut doubt = Vec::new();
        for run in self
            .units
            .chunk_by(|one, next| one.is_some() == next.is_some())
        {
            let end = at.saturating_add(run.len() as u64);
            if run.first().is_some_and(Option::is_none) {
                doubt.push(at..end);
            }
            at = end;
        }
        doubt
    }

    /// The units, zero where they are not known.
    pub(crate) fn units(&self) -> impl Iterator<Item = Node> {
        self.units.iter().map(|unit| unit.unwrap_or(Node::ZERO))
    }
}

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digests")
            .field("algorithm", &self.algorithm)
            .field("grid", &self.grid())
            .field("doubt", &self.doubt())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
