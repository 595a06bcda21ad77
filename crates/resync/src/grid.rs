//! A disk cut into blocks of one size.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;
use std::str::FromStr;

use afterimage_block::{Extent, Length, Offset};
use serde::{Deserialize, Serialize};

/// The size of the blocks that a disk is compared in: a power of two from 4 KiB to 16 MiB, 64 KiB
/// by default.
///
/// ```
/// use afterimage_resync::BlockSize;
/// let block: BlockSize = "128 KiB".parse()?;
/// assert_eq!(block.get(), 131_072);
/// assert!("48 KiB".parse::<BlockSize>().is_err());
/// # Ok::<(), afterimage_resync::InvalidBlockSize>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Length", into = "Length")]
pub struct BlockSize(u32);

impl BlockSize {
    /// The smallest, 4 KiB.
    pub const MIN: Self = Self(4 << 10);
    /// The largest, 16 MiB.
    pub const MAX: Self = Self(16 << 20);

    /// The size in bytes.
    pub const fn get(self) -> u64 {
        self.0 as u64
    }

    /// The size as a [`Length`].
    pub const fn length(self) -> Length {
        Length::new(self.get())
    }
}

impl Default for BlockSize {
    fn default() -> Self {
        Self(64 << 10)
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.length().fmt(f)
    }
}

/// A text or a number that is no block size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a block size: choose a power of two from 4 KiB to 16 MiB")]
pub struct InvalidBlockSize(String);

impl TryFrom<Length> for BlockSize {
    type Error = InvalidBlockSize;

    fn try_from(length: Length) -> Result<Self, Self::Error> {
        u32::try_from(length.get())
            .ok()
            .filter(|bytes| bytes.is_power_of_two())
            .map(Self)
            .filter(|size| (Self::MIN..=Self::MAX).contains(size))
            .ok_or_else(|| InvalidBlockSize(length.to_string()))
    }
}

impl From<BlockSize> for Length {
    fn from(size: BlockSize) -> Self {
        size.length()
    }
}

impl FromStr for BlockSize {
    type Err = InvalidBlockSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Length>()
            .ok()
            .and_then(|length| Self::try_from(length).ok())
            .ok_or_else(|| InvalidBlockSize(text.into()))
    }
}

/// The number of a block on its disk, from 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BlockIndex(u64);

impl BlockIndex {
    /// Block number `index`.
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A disk's size and the block size that it is compared in. The last block is short if the size is
/// not a multiple of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grid {
    size: Length,
    block_size: BlockSize,
}

impl Grid {
    /// A disk of `size` bytes in blocks of `block_size`.
    pub const fn new(size: Length, block_size: BlockSize) -> Self {
        Self { size, block_size }
    }

    /// The disk's size in bytes.
    pub const fn size(self) -> Length {
        self.size
    }

    /// The block size.
    pub const fn block_size(self) -> BlockSize {
        self.block_size
    }

    /// The number of blocks.
    pub const fn blocks(self) -> u64 {
        self.size.get().div_ceil(self.block_size.get())
    }

    /// The number of the block that holds the byte at `offset`, whether or not the disk reaches so
    /// far.
    pub const fn index_at(self, offset: Offset) -> BlockIndex {
        BlockIndex(offset.get() >> self.block_size.0.trailing_zeros())
    }

    /// Where block `index` lies; `None` behind the end of the disk.
    pub fn block(self, index: BlockIndex) -> Option<Extent> {
        self.run(index, 1)
    }

    /// Where the `count` blocks from `first` on lie, cut at the end of the disk; `None` if that
    /// leaves none.
    pub fn run(self, first: BlockIndex, count: u64) -> Option<Extent> {
        let start = first.0.checked_mul(self.block_size.get())?;
        let end = count
            .saturating_mul(self.block_size.get())
            .saturating_add(start);
        Extent::between(Offset::new(start), Offset::new(end.min(self.size.get())))
    }

    /// The blocks that `extent` touches; `None` if it ends behind the disk.
    pub fn around(self, extent: Extent) -> Option<Extent> {
        let inside = extent.end().get() <= self.size.get();
        inside.then(|| extent.aligned_out(self.block_size.length(), self.size))
    }

    /// The last block boundary at or before `offset`.
    pub(crate) const fn floor(self, offset: Offset) -> Offset {
        Offset::new(offset.get() & !self.mask())
    }

    /// The first block boundary at or after `offset`, the end of the disk being one.
    pub(crate) fn ceil(self, offset: Offset) -> Offset {
        let up = offset.get().saturating_add(self.mask()) & !self.mask();
        Offset::new(up.min(self.size.get()))
    }

    /// Whether a block starts or the disk ends at `offset`.
    pub(crate) const fn is_boundary(self, offset: Offset) -> bool {
        offset.get() & self.mask() == 0 || offset.get() == self.size.get()
    }

    /// The block size as a slice length, which every machine can address.
    pub(crate) const fn block_len(self) -> usize {
        self.block_size.0 as usize
    }

    const fn mask(self) -> u64 {
        self.block_size.get().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_block_size() {
        for text in ["", "0", "2 KiB", "32 MiB", "65537", "48 KiB", "16 EiB"] {
            assert!(text.parse::<BlockSize>().is_err(), "{text}");
        }
        assert_eq!("4KiB".parse(), Ok(BlockSize::MIN));
        assert_eq!("16 MiB".parse(), Ok(BlockSize::MAX));
        assert_eq!(BlockSize::default().to_string(), "64 KiB");
    }

    #[test]
    fn the_last_block_is_cut_at_the_end_of_the_disk() {
        let grid = Grid::new(Length::new(4096 + 512), BlockSize::MIN);
        assert_eq!(grid.blocks(), 2);
        let last = Extent::new(Offset::new(4096), Length::new(512)).unwrap();
        assert_eq!(grid.block(BlockIndex::new(1)), Some(last));
        assert_eq!(grid.block(BlockIndex::new(2)), None);
        assert_eq!(grid.block(BlockIndex::new(u64::MAX)), None);
        assert_eq!(grid.run(BlockIndex::new(1), u64::MAX), Some(last));
        assert_eq!(grid.ceil(Offset::new(4097)), last.end());
    }
}
