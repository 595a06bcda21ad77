//! Disks that are read or written no faster than a limit.

use std::fmt;

use afterimage_block::{BlockRead, BlockWrite, Extent, Length, Offset, Result, Run, Zeroing};

use super::Limit;

/// A disk that is read no faster than a limit, so that those who use it meanwhile are not held up.
pub struct LimitedSource<'d> {
    disk: &'d dyn BlockRead,
    limit: Limit,
}

impl<'d> LimitedSource<'d> {
    /// Limits what is read of `disk`.
    pub const fn new(disk: &'d dyn BlockRead, limit: Limit) -> Self {
        Self { disk, limit }
    }
}

impl BlockRead for LimitedSource<'_> {
    fn size(&self) -> Length {
        self.disk.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        self.limit.wait(buf.len());
        self.disk.read_at(offset, buf)
    }

    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        self.disk.next_run(from)
    }
}

/// A disk to which data is written no faster than a limit. To make zeros, and to read, has none.
pub struct LimitedDisk<'d> {
    disk: &'d dyn BlockWrite,
    limit: Limit,
}

impl<'d> LimitedDisk<'d> {
    /// Limits what is written to `disk`.
    pub const fn new(disk: &'d dyn BlockWrite, limit: Limit) -> Self {
        Self { disk, limit }
    }
}

impl BlockRead for LimitedDisk<'_> {
    fn size(&self) -> Length {
        self.disk.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        self.disk.next_run(from)
    }
}

impl BlockWrite for LimitedDisk<'_> {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        self.limit.wait(data.len());
        self.disk.write_at(offset, data)
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<()> {
        self.disk.write_zeroes(extent, zeroing)
    }

    fn discard(&self, extent: Extent) -> Result<()> {
        self.disk.discard(extent)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }
}

impl fmt::Debug for LimitedSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { disk: _, limit } = self;
        f.debug_tuple("LimitedSource").field(limit).finish()
    }
}

impl fmt::Debug for LimitedDisk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { disk: _, limit } = self;
        f.debug_tuple("LimitedDisk").field(limit).finish()
    }
}
