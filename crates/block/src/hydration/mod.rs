//! A disk that is used at once and becomes local meanwhile.

mod journal;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use crate::durable::sync_folder;
use crate::error::failed;
use crate::layers::Layers;
use crate::range_lock::RangeLocks;
use crate::{
    Access, BlockRead, BlockWrite, Error, Extent, ExtentSet, Length, Offset, RawDisk, Result, Run,
    RunKind, Zeroing, check_range,
};
use journal::Journal;

/// The most that is read from the source, and copied, at a time.
const PIECE: Length = Length::mib(1);

/// A disk that can be used before it is here: what is not local yet is read from its source, and
/// what is written goes to an image that [`hydrate`](Self::hydrate) fills with the rest.
///
/// While it is filled the image is `NAME.hydrating`; beside it `NAME.hydration` says durably what of
/// it is local, so that nothing that was flushed is lost when the process ends, and the next one goes
/// on. The image has its name once it is whole ([`finish`](Self::finish)).
///
/// A write never waits for the source.
///
/// ```
/// use std::sync::Arc;
/// use afterimage_block::*;
///
/// let folder = tempfile::tempdir()?;
/// let source = Arc::new(MemoryDisk::with_contents(&[1; 4096]));
/// let image = folder.path().join("root.raw");
/// let disk = HydratingDisk::open(source, [7; 32], &image)?;
/// disk.write_at(Offset::ZERO, &[2; 512])?;
/// while let Some(missing) = disk.missing(Offset::ZERO) {
///     disk.hydrate(missing)?;
/// }
/// disk.finish()?;
/// let content = std::fs::read(&image)?;
/// assert!(content[..512] == [2; 512] && content[512..] == [1; 3584]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct HydratingDisk {
    source: Arc<dyn BlockRead>,
    image: RawDisk,
    files: Files,
    /// What is read from the image. Memory is proportional to its runs.
    local: RwLock<ExtentSet>,
    /// What of it the journal does not have yet.
    fresh: Mutex<ExtentSet>,
    journal: Mutex<Journal>,
    in_flight: RangeLocks,
}

/// The names of the files of an image.
#[derive(Debug)]
struct Files {
    image: PathBuf,
    partial: PathBuf,
    journal: PathBuf,
}

impl Files {
    fn of(image: &Path) -> Self {
        Self {
            image: image.into(),
            partial: image.with_added_extension("hydrating"),
            journal: image.with_added_extension("hydration"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HydratingDisk {
    /// Whether a disk was begun at `image`, be it whole by now or not.
    pub fn is_begun(image: &Path) -> bool {
        Files::of(image).journal.exists()
    }

    /// Opens the disk that `source` becomes at `image`, or goes on with it. `identity` tells sources
    /// apart: it stands for what the source holds, which never changes.
    ///
    /// # Errors
    /// [`Error::File`] if the files cannot be made or opened, or if there is an image that was not
    /// hydrated; [`Error::OtherSource`] if it was, from another source; [`Error::Damaged`] if it is not
    /// known what is local; [`Error::InUse`]; [`Error::NotWholeSectors`].
    pub fn open(source: Arc<dyn BlockRead>, identity: [u8; 32], image: &Path) -> Result<Self> {
        let (files, size) = (Files::of(image), source.size());
        // The image is locked before the journal is touched.
        let (image, (journal, local)) = if files.journal.exists() {
            let image = files.reopen()?;
            (image, Journal::open(&files.journal, identity, size)?)
        } else {
            let image = files.begin(size)?;
            let journal = Journal::create(&files.journal, identity, size)?;
            (image, (journal, ExtentSet::new()))
        };
        if image.size() != size {
            return Err(Error::Damaged {
                path: image.path().into(),
                at: size.get().min(image.size().get()),
                reason: "it has another size than its source",
            });
        }
        Ok(Self {
            source,
            image,
            files,
            local: RwLock::new(local),
            fresh: Mutex::default(),
            journal: Mutex::new(journal),
            in_flight: RangeLocks::default(),
        })
    }

    /// The bytes that are local so far.
    pub fn local(&self) -> Length {
        self.covered().total()
    }

    /// The first extent behind `from` that is not local, at most 1 MiB of it; `None` if there is none.
    pub fn missing(&self, from: Offset) -> Option<Extent> {
        let rest = Extent::between(from, Offset::new(self.size().get()))?;
        let gap = self.covered().gaps(rest).next();
        gap.and_then(|gap| gap.pieces(PIECE).next())
    }

    /// Copies what of `extent` is not local from the source. What is written meanwhile stays. Made
    /// durable by the next [`flush`](BlockWrite::flush).
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; as the source's reads and the image's writes.
    pub fn hydrate(&self, extent: Extent) -> Result<()> {
        check_range(extent.start(), extent.length(), self.size())?;
        let gaps: Vec<_> = self.covered().gaps(extent).collect();
        let mut buffer = Vec::new();
        for gap in gaps {
            let mut at = gap.start();
            while let Some(run) = self.source.next_run(at)?
                && let Some(part) = run.extent.intersection(gap)
            {
                at = part.end();
                for piece in part.pieces(PIECE) {
                    self.copy(piece, run.kind, &mut buffer)?;
                }
            }
        }
        Ok(())
    }

    /// Copies a piece of one kind. The source, which may be far away, is read before the piece is
    /// held against writes.
    fn copy(&self, piece: Extent, kind: RunKind, buffer: &mut Vec<u8>) -> Result<()> {
        if kind == RunKind::Data {
            buffer.resize(piece.length().to_usize().unwrap_or_default(), 0);
            self.source.read_at(piece.start(), buffer)?;
        }
        let _alone = self.in_flight.lock(piece);
        let gaps: Vec<_> = self.covered().gaps(piece).collect();
        for gap in gaps {
            match kind {
                // A write that was cut short may have left something there.
                RunKind::Hole => self.image.discard(gap)?,
                RunKind::Data => {
                    let skip = gap.start().checked_since(piece.start());
                    let skip = skip.and_then(Length::to_usize).unwrap_or_default();
                    let length = gap.length().to_usize().unwrap_or_default();
                    let data = buffer.get(skip..skip + length).unwrap_or_default();
                    self.image.write_at(gap.start(), data)?;
                }
            }
        }
        self.cover(piece);
        Ok(())
    }

    /// Gives the image, all of which is local, its name, durably. It can go on being used.
    ///
    /// # Errors
    /// [`Error::File`], also while something is missing; as [`flush`](BlockWrite::flush).
    pub fn finish(&self) -> Result<()> {
        self.flush()?;
        let Files { image, partial, .. } = &self.files;
        if self.missing(Offset::ZERO).is_some() {
            let reason = io::Error::other("not all of it is local");
            return Err(failed("finish", partial, reason));
        }
        if partial.exists() {
            std::fs::rename(partial, image)
                .and_then(|()| sync_folder(image))
                .map_err(|source| failed("rename", partial, source))?;
        }
        Ok(())
    }

    fn covered(&self) -> RwLockReadGuard<'_, ExtentSet> {
        self.local.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads `extent` from the image from now on. It is there already.
    fn cover(&self, extent: Extent) {
        if self.covered().contains(extent) {
            return;
        }
        lock(&self.fresh).insert(extent);
        let mut local = self.local.write().unwrap_or_else(PoisonError::into_inner);
        local.insert(extent);
    }

    fn change(&self, extent: Extent, make: impl FnOnce(&RawDisk) -> Result<()>) -> Result<()> {
        let _alone = self.in_flight.lock(extent);
        make(&self.image)?;
        self.cover(extent);
        Ok(())
    }

    fn layers<'a>(&'a self, covered: &'a ExtentSet) -> Layers<'a> {
        Layers {
            top: &self.image,
            covered,
            base: self.source.as_ref(),
        }
    }
}

impl Files {
    /// Makes the image. What an attempt left behind that did not come to its journal holds nothing.
    fn begin(&self, size: Length) -> Result<RawDisk> {
        if self.image.exists() {
            let reason = io::ErrorKind::AlreadyExists.into();
            return Err(failed("hydrate to", &self.image, reason));
        }
        if self.partial.exists() {
            if let Err(error @ Error::InUse { .. }) =
                RawDisk::open(&self.partial, Access::ReadWrite)
            {
                return Err(error);
            }
            std::fs::remove_file(&self.partial)
                .map_err(|source| failed("remove", &self.partial, source))?;
        }
        RawDisk::create(&self.partial, size)
    }

    /// Opens the image, which may have been given its name before the process ended.
    fn reopen(&self) -> Result<RawDisk> {
        let path = if self.image.exists() {
            &self.image
        } else {
            &self.partial
        };
        RawDisk::open(path, Access::ReadWrite)
    }
}

impl BlockRead for HydratingDisk {
    fn size(&self) -> Length {
        self.image.size()
    }

    /// Nothing is held while the source is read: what a write changes meanwhile is read or not.
    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        let Some(extent) = check_range(offset, Length::of(buf), self.size())? else {
            return Ok(());
        };
        let covered = self.covered().within(extent).collect();
        self.layers(&covered).read_at(offset, buf)
    }

    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        let Some(rest) = Extent::between(from, Offset::new(self.size().get())) else {
            return Ok(None);
        };
        let covered = self.covered().within(rest).take(1).collect();
        self.layers(&covered).next_run(from)
    }
}

impl BlockWrite for HydratingDisk {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        let Some(extent) = check_range(offset, Length::of(data), self.size())? else {
            return Ok(());
        };
        self.change(extent, |image| image.write_at(offset, data))
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<()> {
        check_range(extent.start(), extent.length(), self.size())?;
        self.change(extent, |image| image.write_zeroes(extent, zeroing))
    }

    fn discard(&self, extent: Extent) -> Result<()> {
        check_range(extent.start(), extent.length(), self.size())?;
        self.change(extent, |image| image.discard(extent))
    }

    /// First what is local, then that it is.
    fn flush(&self) -> Result<()> {
        let mut journal = lock(&self.journal);
        let fresh = std::mem::take(&mut *lock(&self.fresh));
        let flushed = self.image.flush().and_then(|()| journal.append(&fresh));
        if flushed.is_err() {
            lock(&self.fresh).union_with(&fresh);
        }
        flushed
    }
}

impl fmt::Debug for HydratingDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HydratingDisk")
            .field("files", &self.files)
            .field("local", &self.local())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
