//! A run of bytes on a disk.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Length, Offset};

/// A run of bytes on a disk: where it starts and how long it is. Never empty, never past
/// `u64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(Offset, Length)", into = "(Offset, Length)")]
pub struct Extent {
    start: Offset,
    length: Length,
}

/// An extent that would be empty or would end past `u64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an extent of {length} bytes at {start} is empty or ends past the largest offset")]
pub struct InvalidExtent {
    start: u64,
    length: u64,
}

impl Extent {
    /// The `length` bytes from `start` on.
    ///
    /// # Errors
    /// [`InvalidExtent`] if `length` is zero or the end does not fit in 64 bits.
    pub fn new(start: Offset, length: Length) -> Result<Self, InvalidExtent> {
        if length.is_zero() || start.checked_add(length).is_none() {
            return Err(InvalidExtent {
                start: start.get(),
                length: length.get(),
            });
        }
        Ok(Self { start, length })
    }

    /// The bytes from `start` up to, not including, `end`; `None` if there are none.
    pub fn between(start: Offset, end: Offset) -> Option<Self> {
        let length = end.checked_since(start).filter(|l| !l.is_zero())?;
        Some(Self { start, length })
    }

    /// The whole of a disk of `size`; `None` for an empty disk.
    pub fn whole(size: Length) -> Option<Self> {
        Self::new(Offset::ZERO, size).ok()
    }

    /// The first byte.
    pub const fn start(self) -> Offset {
        self.start
    }

    /// The number of bytes, at least one.
    pub const fn length(self) -> Length {
        self.length
    }

    /// The first byte after it.
    pub const fn end(self) -> Offset {
        Offset::new(self.start.get() + self.length.get())
    }

    /// Whether `other` lies wholly inside.
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Whether they share a byte.
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// The bytes that both have.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::between(self.start.max(other.start), self.end().min(other.end()))
    }

    /// The smallest extent around this one whose ends are multiples of `granularity`, the end
    /// held at `limit` (a disk's size).
    ///
    /// # Panics
    /// If `granularity` is zero.
    pub fn aligned_out(self, granularity: Length, limit: Length) -> Self {
        let unit = granularity.get();
        let start = self.start.get() / unit * unit;
        let end = self.end().get().div_ceil(unit).saturating_mul(unit);
        let end = end.min(limit.get()).max(self.end().get());
        Self {
            start: Offset::new(start),
            length: Length::new(end - start),
        }
    }

    /// It, cut at every multiple of `unit`, in order.
    ///
    /// # Panics
    /// If `unit` is zero.
    pub fn pieces(self, unit: Length) -> impl Iterator<Item = Self> {
        let end = self.end();
        let mut at = self.start;
        std::iter::from_fn(move || {
            let boundary = (at.get() / unit.get() + 1).saturating_mul(unit.get());
            let piece = Self::between(at, Offset::new(boundary).min(end))?;
            at = piece.end();
            Some(piece)
        })
    }
}

impl TryFrom<(Offset, Length)> for Extent {
    type Error = InvalidExtent;

    fn try_from((start, length): (Offset, Length)) -> Result<Self, Self::Error> {
        Self::new(start, length)
    }
}

impl From<Extent> for (Offset, Length) {
    fn from(extent: Extent) -> Self {
        (extent.start, extent.length)
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.length.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn extent(start: u64, length: u64) -> Extent {
        Extent::new(Offset::new(start), Length::new(length)).unwrap()
    }

    #[test]
    fn refuses_empty_and_overflowing() {
        assert!(Extent::new(Offset::ZERO, Length::ZERO).is_err());
        assert!(Extent::new(Offset::new(u64::MAX), Length::new(1)).is_err());
        assert!(serde_json_like((7, 0)).is_err());
        assert!(serde_json_like((u64::MAX, 2)).is_err());
    }

    fn serde_json_like((start, length): (u64, u64)) -> Result<Extent, InvalidExtent> {
        (Offset::new(start), Length::new(length)).try_into()
    }

    #[test]
    fn aligns_outwards_within_the_disk() {
        let aligned = extent(100, 50).aligned_out(Length::new(64), Length::new(150));
        assert_eq!(aligned, extent(64, 86));
    }

    proptest! {
        #[test]
        fn pieces_cover_it_in_order(start in 0_u64..10_000, length in 1_u64..10_000, unit in 1_u64..3_000) {
            let whole = extent(start, length);
            let mut at = whole.start();
            for piece in whole.pieces(Length::new(unit)) {
                prop_assert_eq!(piece.start(), at);
                prop_assert!(piece.length().get() <= unit);
                at = piece.end();
            }
            prop_assert_eq!(at, whole.end());
        }
    }
}
