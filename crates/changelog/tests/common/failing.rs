//! A disk that fails.

use std::sync::atomic::{AtomicUsize, Ordering};

use afterimage_block::{
    BlockRead, BlockWrite, Error as DiskError, Extent, Length, MemoryDisk, Offset, Run, Zeroing,
};

/// A disk that fails after some changes.
pub(crate) struct Failing {
    pub(crate) disk: MemoryDisk,
    left: AtomicUsize,
}

impl Failing {
    pub(crate) fn after(changes: usize, disk: MemoryDisk) -> Self {
        let left = AtomicUsize::new(changes);
        Self { disk, left }
    }

    fn spend(&self, extent: Extent) -> Result<(), DiskError> {
        let spend = |left: usize| left.checked_sub(1);
        let spent = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        spent.map(drop).map_err(|_| DiskError::OutOfRange {
            offset: extent.start(),
            length: extent.length(),
            size: Length::ZERO,
        })
    }
}

impl BlockRead for Failing {
    fn size(&self) -> Length {
        self.disk.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<(), DiskError> {
        self.disk.read_at(offset, buf)
    }

    fn next_run(&self, from: Offset) -> Result<Option<Run>, DiskError> {
        self.disk.next_run(from)
    }
}

impl BlockWrite for Failing {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<(), DiskError> {
        self.spend(Extent::new(offset, Length::of(data)).unwrap())?;
        self.disk.write_at(offset, data)
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<(), DiskError> {
        self.spend(extent)?;
        self.disk.write_zeroes(extent, zeroing)
    }

    fn discard(&self, extent: Extent) -> Result<(), DiskError> {
        self.spend(extent)?;
        self.disk.discard(extent)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.disk.flush()
    }
}
