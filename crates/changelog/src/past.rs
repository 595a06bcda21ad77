//! A disk as it was before some of its history.

use std::fmt;
use std::io;

use afterimage_block::{
    BlockRead, BlockWrite, Change, Error as BlockError, Extent, Length, Offset, check_range,
};

use crate::{Error, IndexedLog};

/// A disk that reads as it was before a step of its [`History`](crate::History), while the disk itself
/// stays as it is: nothing is copied, and of the undo logs only what a read needs is read, and proved.
/// A read costs a look into the index of each step since; it knows no holes.
pub struct PastDisk<'h> {
    disk: &'h dyn BlockWrite,
    /// Newest first: what an older one has goes over what a newer one has.
    undo: Vec<IndexedLog>,
}

impl<'h> PastDisk<'h> {
    pub(crate) fn new(disk: &'h dyn BlockWrite, undo: Vec<IndexedLog>) -> Self {
        Self { disk, undo }
    }
}

impl BlockRead for PastDisk<'_> {
    fn size(&self) -> Length {
        self.disk.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> afterimage_block::Result<()> {
        let Some(extent) = check_range(offset, Length::of(buf), self.size())? else {
            return Ok(());
        };
        self.disk.read_at(offset, buf)?;
        for undo in &self.undo {
            let laid_over = undo.changes(extent, |_, change| {
                lay_over(extent, change, buf);
                Ok(())
            });
            laid_over.map_err(|error| failed(extent, error))?;
        }
        Ok(())
    }
}

impl fmt::Debug for PastDisk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PastDisk")
            .field("steps", &self.undo.len())
            .finish_non_exhaustive()
    }
}

/// Makes a change, which is within `whole`, in the bytes of that.
fn lay_over(whole: Extent, change: Change<'_>, buf: &mut [u8]) {
    let (start, length) = match change {
        Change::Write { offset, data } => (offset, Length::of(data)),
        Change::WriteZeroes(extent) | Change::Discard(extent) => (extent.start(), extent.length()),
    };
    let from = start
        .checked_since(whole.start())
        .and_then(Length::to_usize);
    let from = from.unwrap_or_default();
    let part = buf.get_mut(from..from + length.to_usize().unwrap_or_default());
    let part = part.unwrap_or_default();
    match change {
        Change::Write { data, .. } => part.copy_from_slice(data),
        Change::WriteZeroes(_) | Change::Discard(_) => part.fill(0),
    }
}

/// The error of a disk that an undo log gives.
fn failed(extent: Extent, error: Error) -> BlockError {
    BlockError::Io {
        operation: "read",
        device: "the disk as it was".into(),
        offset: extent.start(),
        length: extent.length(),
        source: io::Error::other(error),
    }
}
