//! Changes to a disk, as a fuzzer makes them up.

use afterimage_block::{Change, Extent, Length, Offset};
use arbitrary::Arbitrary;

/// The longest payload of one record.
const LONG: usize = 1 << 20;

/// One thing to be logged. Offsets are anywhere, so some lie behind the disk.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) enum Step {
    /// Up to 4 KiB of the byte `fill`.
    Write {
        offset: u32,
        length: u16,
        fill: u8,
    },
    /// As [`Write`](Self::Write), but about as long as the longest record, or longer than two.
    LongWrite {
        offset: u16,
        length: u16,
        twice: bool,
        fill: u8,
    },
    Zero {
        offset: u32,
        length: u32,
    },
    Discard {
        offset: u32,
        length: u32,
    },
    Bookmark(String),
}

/// A step with its payload.
pub(crate) enum Entry {
    Write(Offset, Vec<u8>),
    Zero(Extent),
    Discard(Extent),
    Bookmark(String),
}

impl Step {
    /// The entry on a disk of `size`, its offset and length folded so that about three of four lie on
    /// the disk; `None` for an extent that cannot be.
    pub(crate) fn entry(&self, size: Length) -> Option<Entry> {
        let fold = |n: u32, limit: u64| u64::from(n) % limit.saturating_add(limit / 4).max(1);
        let offset = |n| Offset::new(fold(n, size.get()));
        let extent = |at, length| Extent::new(offset(at), Length::new(fold(length, size.get())));
        match *self {
            Self::Write {
                offset: at,
                length,
                fill,
            } => {
                let length = usize::from(length) % 4096;
                Some(Entry::Write(offset(at), vec![fill; length]))
            }
            Self::LongWrite {
                offset,
                length,
                twice,
                fill,
            } => {
                let length = (usize::from(length) % 4096 + LONG - 2048) << u8::from(twice);
                // On a disk that is too small for it the data need not be there to be refused.
                let length = length.min(size.to_usize()?.saturating_add(1));
                Some(Entry::Write(Offset::new(offset.into()), vec![fill; length]))
            }
            Self::Zero { offset, length } => extent(offset, length).ok().map(Entry::Zero),
            Self::Discard { offset, length } => extent(offset, length).ok().map(Entry::Discard),
            Self::Bookmark(ref label) => Some(Entry::Bookmark(label.clone())),
        }
    }
}

impl Entry {
    /// The change; `None` for a bookmark.
    pub(crate) fn change(&self) -> Option<Change<'_>> {
        match self {
            Self::Write(offset, data) => Some(Change::Write {
                offset: *offset,
                data,
            }),
            Self::Zero(extent) => Some(Change::WriteZeroes(*extent)),
            Self::Discard(extent) => Some(Change::Discard(*extent)),
            Self::Bookmark(_) => None,
        }
    }

    /// Whether all of it lies on a disk of `size`.
    pub(crate) fn fits(&self, size: Length) -> bool {
        let extent = self.change().and_then(|change| change.extent());
        extent.is_none_or(|extent| extent.end().get() <= size.get())
    }

    /// The bytes that it adds to a log besides its records' headers.
    pub(crate) fn payload(&self) -> usize {
        match self {
            Self::Write(_, data) => data.len(),
            Self::Bookmark(label) => label.len(),
            Self::Zero(_) | Self::Discard(_) => 0,
        }
    }
}
