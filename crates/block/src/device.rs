//! What a block device can do.

use crate::{Error, Extent, Length, Offset, Result};

/// The unit that every disk's size is a multiple of.
pub const SECTOR: Length = Length::new(512);

/// Whether a run of a disk holds data or reads as zeros without being stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunKind {
    /// Stored bytes, which may be zeros all the same.
    Data,
    /// Not stored; reads as zeros.
    Hole,
}

/// A run of a disk of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// Where.
    pub extent: Extent,
    /// Data or hole.
    pub kind: RunKind,
}

/// How [`BlockWrite::write_zeroes`] may leave the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Zeroing {
    /// As a hole, where the device can.
    Deallocate,
    /// Allocated, so that a later write cannot fail for want of space.
    Allocate,
}

/// Positioned reads from a disk. Calls may come from many threads at once.
pub trait BlockRead: Send + Sync {
    /// The disk's size, a multiple of [`SECTOR`]. Some disks can grow while they are open; none shrinks.
    fn size(&self) -> Length;

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] before anything is read if the range ends behind the disk;
    /// [`Error::Io`] if the device fails, `buf` then holding nothing of meaning.
    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()>;

    /// The run that holds the byte at `from`, starting there and no longer than a run of one kind
    /// is; `None` at the end of the disk. Two runs that follow each other may be of one kind.
    ///
    /// The default knows no holes: all is data.
    ///
    /// # Errors
    /// [`Error::Io`] if the device cannot tell.
    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        let end = Offset::new(self.size().get());
        Ok(Extent::between(from, end).map(|extent| Run {
            extent,
            kind: RunKind::Data,
        }))
    }
}

/// Positioned writes to a disk. Calls may come from many threads at once; what two overlapping
/// writes in flight leave behind is either's, as on any disk.
pub trait BlockWrite: BlockRead {
    /// Writes all of `data` from `offset` on. Durable only after [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`Error::OutOfRange`] before anything is written if the range ends behind the disk;
    /// [`Error::Io`] if the device fails, the range then holding any mixture of old and new.
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()>;

    /// Makes `extent` read as zeros.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<()>;

    /// Gives the storage of `extent` back. It reads as zeros from then on.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn discard(&self, extent: Extent) -> Result<()>;

    /// Makes every write that returned before this call durable.
    ///
    /// # Errors
    /// [`Error::Io`] if the device fails; what was written since the last flush is then in doubt,
    /// and a later success does not mend it.
    fn flush(&self) -> Result<()>;
}

/// One change to a disk, as it is written and as it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// These bytes are written from `offset` on.
    Write {
        /// Where.
        offset: Offset,
        /// What; never empty.
        data: &'a [u8],
    },
    /// The extent is made to read as zeros.
    WriteZeroes(Extent),
    /// The extent's storage is given back; it reads as zeros.
    Discard(Extent),
}

impl Change<'_> {
    /// The bytes that change; `None` for an empty write.
    pub fn extent(&self) -> Option<Extent> {
        match *self {
            Self::Write { offset, data } => Extent::new(offset, Length::of(data)).ok(),
            Self::WriteZeroes(extent) | Self::Discard(extent) => Some(extent),
        }
    }

    /// Makes the change on `disk`.
    ///
    /// # Errors
    /// As [`BlockWrite::write_at`].
    pub fn apply_to(&self, disk: &(impl BlockWrite + ?Sized)) -> Result<()> {
        match *self {
            Self::Write { offset, data } => disk.write_at(offset, data),
            Self::WriteZeroes(extent) => disk.write_zeroes(extent, Zeroing::Deallocate),
            Self::Discard(extent) => disk.discard(extent),
        }
    }
}

/// Refuses the `length` bytes at `offset` unless they lie on a disk of `size`; `None` if there are
/// none. Implementations of [`BlockRead`] and [`BlockWrite`] call it first.
///
/// # Errors
/// [`Error::OutOfRange`].
pub fn check_range(offset: Offset, length: Length, size: Length) -> Result<Option<Extent>> {
    if length.is_zero() {
        return Ok(None);
    }
    match Extent::new(offset, length) {
        Ok(extent) if extent.end().get() <= size.get() => Ok(Some(extent)),
        _ => Err(Error::OutOfRange {
            offset,
            length,
            size,
        }),
    }
}
