//! A throw-away layer of writes over a disk that stays as it is.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::layers::Layers;
use crate::{
    BlockRead, BlockWrite, Extent, ExtentSet, Length, Offset, RawDisk, Result, Run, Zeroing,
    check_range,
};

/// A disk that takes writes over one that does not: what is written goes to an unnamed temporary
/// file, which is gone when the overlay is dropped, and the disk below stays as it is.
///
/// ```
/// use std::sync::Arc;
/// use afterimage_block::{BlockRead, BlockWrite, Length, MemoryDisk, Offset, Overlay};
///
/// let base = Arc::new(MemoryDisk::new(Length::mib(1)));
/// let overlay = Overlay::new(base.clone(), &std::env::temp_dir())?;
/// overlay.write_at(Offset::new(512), &[7; 512])?;
/// let mut read = [0; 1024];
/// overlay.read_at(Offset::ZERO, &mut read)?;
/// assert!(read[..512] == [0; 512] && read[512..] == [7; 512]);
/// assert_eq!(base.contents()[512], 0);
/// # Ok::<(), afterimage_block::Error>(())
/// ```
pub struct Overlay {
    base: Arc<dyn BlockRead>,
    top: RawDisk,
    /// What is read from the top. Memory is proportional to its runs.
    written: RwLock<ExtentSet>,
}

impl Overlay {
    /// Lays an empty layer, whose file is in `folder`, over `base`.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File).
    pub fn new(base: Arc<dyn BlockRead>, folder: &Path) -> Result<Self> {
        let top = RawDisk::scratch(folder, base.size())?;
        Ok(Self {
            base,
            top,
            written: RwLock::default(),
        })
    }

    /// The bytes that were written so far.
    pub fn written(&self) -> Length {
        self.read().total()
    }

    fn read(&self) -> RwLockReadGuard<'_, ExtentSet> {
        self.written.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows `extent` of the top from now on. It is there already.
    fn cover(&self, extent: Extent) {
        let mut written = self.written.write().unwrap_or_else(PoisonError::into_inner);
        written.insert(extent);
    }

    fn layers<'a>(&'a self, covered: &'a ExtentSet) -> Layers<'a> {
        Layers {
            top: &self.top,
            covered,
            base: self.base.as_ref(),
        }
    }
}

impl BlockRead for Overlay {
    fn size(&self) -> Length {
        self.base.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        self.layers(&self.read()).read_at(offset, buf)
    }

    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        self.layers(&self.read()).next_run(from)
    }
}

impl BlockWrite for Overlay {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        let Some(extent) = check_range(offset, Length::of(data), self.size())? else {
            return Ok(());
        };
        self.top.write_at(offset, data)?;
        self.cover(extent);
        Ok(())
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<()> {
        check_range(extent.start(), extent.length(), self.size())?;
        self.top.write_zeroes(extent, zeroing)?;
        self.cover(extent);
        Ok(())
    }

    fn discard(&self, extent: Extent) -> Result<()> {
        check_range(extent.start(), extent.length(), self.size())?;
        self.top.discard(extent)?;
        self.cover(extent);
        Ok(())
    }

    /// Does nothing: no write outlives the overlay.
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay")
            .field("size", &self.size())
            .field("written", &self.written())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::MemoryDisk;

    const SECTORS: u64 = 64;

    fn extent(first: u64, sectors: u64) -> Extent {
        let sectors = sectors.min(SECTORS - first);
        Extent::new(Offset::new(first * 512), Length::new(sectors * 512)).unwrap()
    }

    proptest! {
        /// An overlay reads as a disk to which all was done, its runs are true, and the base stays.
        #[test]
        fn reads_as_a_disk_that_was_written(
            steps in prop::collection::vec((0..SECTORS, 1..9_u64, 0..4_u8, 1..=u8::MAX), 0..40),
        ) {
            let size = Length::new(SECTORS * 512);
            let base = Arc::new(MemoryDisk::new(size));
            base.write_at(Offset::new(512), &[9; 8192]).unwrap();
            let before = base.contents();
            let model = MemoryDisk::new(size);
            model.write_at(Offset::ZERO, &before).unwrap();
            let overlay = Overlay::new(base.clone(), &std::env::temp_dir()).unwrap();
            for (first, sectors, kind, value) in steps {
                let extent = extent(first, sectors);
                let data = vec![value; extent.length().to_usize().unwrap()];
                for disk in [&model as &dyn BlockWrite, &overlay] {
                    match kind {
                        0 => disk.write_zeroes(extent, Zeroing::Allocate).unwrap(),
                        1 => disk.discard(extent).unwrap(),
                        _ => disk.write_at(extent.start(), &data).unwrap(),
                    }
                }
            }
            let mut found = vec![0; model.contents().len()];
            overlay.read_at(Offset::ZERO, &mut found).unwrap();
            prop_assert_eq!(&found, &model.contents());
            prop_assert_eq!(base.contents(), before);
            let mut at = Offset::ZERO;
            while let Some(run) = overlay.next_run(at).unwrap() {
                prop_assert_eq!(run.extent.start(), at);
                at = run.extent.end();
            }
            prop_assert_eq!(at.get(), size.get());
        }
    }

    #[test]
    fn nothing_is_taken_behind_the_end() {
        let base = Arc::new(MemoryDisk::new(Length::kib(4)));
        let overlay = Overlay::new(base, &std::env::temp_dir()).unwrap();
        assert!(overlay.write_at(Offset::new(4096), &[1; 512]).is_err());
        let behind = Extent::new(Offset::new(3584), Length::kib(1)).unwrap();
        assert!(overlay.discard(behind).is_err());
        assert_eq!(overlay.written(), Length::ZERO);
    }
}
