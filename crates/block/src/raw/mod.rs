//! Raw image files and block devices.

mod direct;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Advice, FallocateFlags};

use crate::{
    BlockRead, BlockWrite, Error, Extent, Length, Offset, Result, Run, RunKind, SECTOR, Zeroing,
    check_range,
};

use crate::error::failed;
use direct::Direct;

/// Zeros for filesystems that cannot zero by themselves.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What a disk is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads only; nothing is locked.
    ReadOnly,
    /// Reads and writes, alone: the disk is locked against every other writer that locks.
    ReadWrite,
}

/// A raw image file or a block device.
///
/// Never shrinks it, and makes it larger only where it is asked to. Once a flush has failed every later one fails too: the kernel may have
/// dropped what it could not write, and a later success would not bring it back.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    path: PathBuf,
    /// In bytes.
    size: AtomicU64,
    access: Access,
    /// The file once more, where the page cache is left alone.
    direct: Option<Direct>,
    poisoned: AtomicBool,
}

impl RawDisk {
    /// Opens the disk at `path`.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be opened, [`Error::NotADisk`], [`Error::NotWholeSectors`] (also
    /// for an empty one), and [`Error::InUse`] if another process has it open for writing.
    pub fn open(path: impl Into<PathBuf>, access: Access) -> Result<Self> {
        let path = path.into();
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::ReadWrite);
        let file = options
            .open(&path)
            .map_err(|source| failed("open", &path, source))?;
        Self::adopt(file, path, access)
    }

    /// Makes a sparse image file of `size` at `path` and opens it for writing.
    ///
    /// # Errors
    /// [`Error::File`] if there is a file already or it cannot be made; else as
    /// [`open`](Self::open).
    pub fn create(path: impl Into<PathBuf>, size: Length) -> Result<Self> {
        let path = path.into();
        if size.is_zero() || !size.get().is_multiple_of(SECTOR.get()) {
            return Err(Error::NotWholeSectors { path, size });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .and_then(|file| file.set_len(size.get()).map(|()| file))
            .map_err(|source| failed("create", &path, source))?;
        Self::adopt(file, path, Access::ReadWrite)
    }

    /// An unnamed sparse file of `size` in `folder`, gone with the last handle.
    pub(crate) fn scratch(folder: &Path, size: Length) -> Result<Self> {
        let file = tempfile::tempfile_in(folder)
            .and_then(|file| file.set_len(size.get()).map(|()| file))
            .map_err(|source| failed("create a temporary file in", folder, source))?;
        Self::adopt(file, folder.join("(snapshot)"), Access::ReadWrite)
    }

    fn adopt(mut file: File, path: PathBuf, access: Access) -> Result<Self> {
        let kind = file
            .metadata()
            .map_err(|source| failed("inspect", &path, source))?;
        if !kind.file_type().is_file() && !kind.file_type().is_block_device() {
            return Err(Error::NotADisk { path });
        }
        if access == Access::ReadWrite {
            lock(&file, &path)?;
        }
        // A block device has no length as a file; its end can be sought.
        let end = file.seek(SeekFrom::End(0));
        let size = Length::new(end.map_err(|source| failed("measure", &path, source))?);
        if size.is_zero() || !size.get().is_multiple_of(SECTOR.get()) {
            return Err(Error::NotWholeSectors { path, size });
        }
        Ok(Self {
            file,
            path,
            size: AtomicU64::new(size.get()),
            access,
            direct: None,
            poisoned: AtomicBool::new(false),
        })
    }

    /// Reads and writes past the page cache (`O_DIRECT`), so that what others have in it stays there: in
    /// whole pages of 4 KiB; what is not, goes through it and is dropped from it at once.
    ///
    /// It costs a copy, and the kernel reads nothing ahead: for a disk that is read in order, large reads
    /// on several threads make up for it.
    ///
    /// # Errors
    /// [`Error::File`] if the filesystem cannot do this.
    pub fn direct(self) -> Result<Self> {
        let direct = Direct::of(&self.file, self.access == Access::ReadWrite);
        let refused = |source| failed("leave the page cache out of", &self.path, source);
        let direct = Some(direct.map_err(refused)?);
        Ok(Self { direct, ..self })
    }

    /// Moves the bytes of `extent` through the page cache, and where that is to be left alone drops them
    /// from it.
    fn buffered(
        &self,
        extent: Extent,
        run: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        run(&self.file)?;
        if self.direct.is_some() {
            let length = NonZeroU64::new(extent.length().get());
            let start = extent.start().get();
            // No more than advice: what is not on the disk yet stays for now.
            let _ = rustix::fs::fadvise(&self.file, start, length, Advice::DontNeed);
        }
        Ok(())
    }

    /// Makes the file at least `size` long, durably, where it is shorter: what there is more reads as
    /// zeros. The disk keeps its size until it [grows](Self::grow_to). A block device is made larger by
    /// whoever manages it.
    ///
    /// # Errors
    /// [`Error::NotWholeSectors`]; [`Error::File`] if the file cannot be so long, or it is a block device
    /// that is smaller.
    pub fn lengthen(&self, size: Length) -> Result<()> {
        if !size.get().is_multiple_of(SECTOR.get()) {
            let path = self.path.clone();
            return Err(Error::NotWholeSectors { path, size });
        }
        let lengthened = (&self.file).seek(SeekFrom::End(0)).and_then(|end| {
            if end >= size.get() {
                return Ok(());
            }
            self.file.set_len(size.get())?;
            self.file.sync_all()
        });
        lengthened.map_err(|source| failed("lengthen", &self.path, source))
    }

    /// The disk has `size` from now on, which its file was made [long enough](Self::lengthen) for; nothing
    /// if it is no smaller.
    pub fn grow_to(&self, size: Length) {
        self.size.fetch_max(size.get(), Ordering::AcqRel);
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a change that may not be made; what it would change otherwise.
    fn check_write(&self, offset: Offset, length: Length) -> Result<Option<Extent>> {
        if self.access == Access::ReadOnly {
            return Err(Error::ReadOnly {
                device: self.path.display().to_string(),
            });
        }
        check_range(offset, length, self.size())
    }

    fn io_error(&self, operation: &'static str, extent: Extent, source: io::Error) -> Error {
        Error::Io {
            operation,
            device: self.path.display().to_string(),
            offset: extent.start(),
            length: extent.length(),
            source,
        }
    }

    /// Has the filesystem zero `extent` in one of the ways of `flags`, in order; else writes zeros.
    fn zero(&self, extent: Extent, flags: FallocateFlags) -> Result<()> {
        let (start, length) = (extent.start().get(), extent.length().get());
        match rustix::fs::fallocate(&self.file, flags, start, length) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {
                self.write_zeros(extent)
            }
            Err(errno) => Err(self.io_error("zero", extent, errno.into())),
        }
    }

    fn write_zeros(&self, extent: Extent) -> Result<()> {
        for piece in extent.pieces(Length::of(&ZEROS)) {
            let length = piece.length().to_usize().unwrap_or(ZEROS.len());
            let written = self
                .file
                .write_all_at(&ZEROS[..length], piece.start().get());
            written.map_err(|source| self.io_error("zero", piece, source))?;
        }
        Ok(())
    }

    /// The end of the run of `kind` that holds `from`; `None` if `from` is not in one.
    fn run_end(&self, from: Offset, kind: RunKind) -> io::Result<Option<Offset>> {
        let find = match kind {
            RunKind::Data => rustix::fs::SeekFrom::Data(from.get()),
            RunKind::Hole => rustix::fs::SeekFrom::Hole(from.get()),
        };
        match rustix::fs::seek(&self.file, find) {
            Ok(found) => Ok(Some(Offset::new(found))),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.into() }),
        Err(TryLockError::Error(source)) => Err(failed("lock", path, source)),
    }
}

impl BlockRead for RawDisk {
    fn size(&self) -> Length {
        Length::new(self.size.load(Ordering::Acquire))
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        let Some(extent) = check_range(offset, Length::of(buf), self.size())? else {
            return Ok(());
        };
        let read = match &self.direct {
            Some(direct) if Direct::takes(offset.get(), buf.len()) => {
                direct.read(buf, offset.get())
            }
            _ => self.buffered(extent, |file| file.read_exact_at(buf, offset.get())),
        };
        read.map_err(|source| self.io_error("read", extent, source))
    }

    /// By SEEK_DATA and SEEK_HOLE; a filesystem or device without them has data only.
    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        let Some(rest) = Extent::between(from, Offset::new(self.size().get())) else {
            return Ok(None);
        };
        let io = |source| self.io_error("map", rest, source);
        let whole = |kind| Some(Run { extent: rest, kind });
        let data = match self.run_end(from, RunKind::Data) {
            Ok(None) => return Ok(whole(RunKind::Hole)),
            Ok(Some(data)) => data,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Ok(whole(RunKind::Data));
            }
            Err(error) => return Err(io(error)),
        };
        let (end, kind) = if data > from {
            (data, RunKind::Hole)
        } else {
            let hole = self.run_end(from, RunKind::Hole).map_err(io)?;
            (hole.unwrap_or(rest.end()), RunKind::Data)
        };
        Ok(Extent::between(from, end.min(rest.end())).map(|extent| Run { extent, kind }))
    }
}

impl BlockWrite for RawDisk {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        let Some(extent) = self.check_write(offset, Length::of(data))? else {
            return Ok(());
        };
        let written = match &self.direct {
            Some(direct) if Direct::takes(offset.get(), data.len()) => {
                direct.write(data, offset.get())
            }
            _ => self.buffered(extent, |file| file.write_all_at(data, offset.get())),
        };
        written.map_err(|source| self.io_error("write", extent, source))
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<()> {
        self.check_write(extent.start(), extent.length())?;
        let flags = match zeroing {
            Zeroing::Deallocate => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            Zeroing::Allocate => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        };
        self.zero(extent, flags)
    }

    fn discard(&self, extent: Extent) -> Result<()> {
        self.write_zeroes(extent, Zeroing::Deallocate)
    }

    fn flush(&self) -> Result<()> {
        let whole = Extent::whole(self.size());
        let error = |source| match whole {
            Some(whole) => self.io_error("flush", whole, source),
            None => failed("flush", &self.path, source),
        };
        if self.poisoned.load(Ordering::Acquire) {
            let reason = "an earlier flush failed, and what it should have kept may be lost";
            return Err(error(io::Error::other(reason)));
        }
        self.file.sync_data().map_err(|source| {
            self.poisoned.store(true, Ordering::Release);
            error(source)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size: u64) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        File::create(&path).unwrap().set_len(size).unwrap();
        (folder, path)
    }

    #[test]
    fn sizes_that_are_not_whole_sectors_are_refused() {
        for size in [0, 1, 511, 513, (1 << 20) + 100] {
            let (_folder, path) = image(size);
            let error = RawDisk::open(&path, Access::ReadOnly).unwrap_err();
            assert!(matches!(error, Error::NotWholeSectors { .. }), "{error}");
        }
    }

    #[test]
    fn a_folder_is_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let error = RawDisk::open(folder.path(), Access::ReadOnly).unwrap_err();
        assert!(matches!(error, Error::NotADisk { .. }), "{error}");
    }

    /// Wherever that is possible; where it is not, it says so.
    #[test]
    fn past_the_page_cache_it_is_the_same_disk() {
        let folders = [std::env::temp_dir(), "/dev/shm".into(), "/var/tmp".into()];
        for folder in folders.iter().filter(|folder| folder.is_dir()) {
            let folder = tempfile::tempdir_in(folder).unwrap();
            let path = folder.path().join("disk.raw");
            let size = (3 << 20) + 512;
            drop(RawDisk::create(&path, Length::new(size)).unwrap());
            let disk = RawDisk::open(&path, Access::ReadWrite).unwrap();
            let disk = match disk.direct() {
                Ok(disk) => disk,
                Err(error) => {
                    assert!(matches!(error, Error::File { .. }), "{error}");
                    assert!(error.to_string().contains("disk.raw"), "{error}");
                    continue;
                }
            };
            let mut expected = vec![0; usize::try_from(size).unwrap()];
            let extents = [
                (0, 4096),
                (8192, 2 << 20),
                (4096, 1 << 20),
                (size - 512, 512),
                (512, 4096),
                (12288, 512),
                (size - 512 - 8192, 8704),
            ];
            for (number, (start, length)) in (1..).zip(extents) {
                let at = usize::try_from(start).unwrap();
                expected[at..at + length].fill(number);
                disk.write_at(Offset::new(start), &expected[at..at + length])
                    .unwrap();
                let mut found = vec![0; length];
                disk.read_at(Offset::new(start), &mut found).unwrap();
                assert!(found == expected[at..at + length]);
            }
            let mut found = vec![0; expected.len()];
            disk.read_at(Offset::ZERO, &mut found).unwrap();
            assert!(found == expected && std::fs::read(&path).unwrap() == expected);
            let second = RawDisk::open(&path, Access::ReadWrite);
            assert!(matches!(second, Err(Error::InUse { .. })));
            disk.flush().unwrap();
            drop(disk);
            let disk = RawDisk::open(&path, Access::ReadOnly).unwrap();
            let disk = disk.direct().unwrap();
            assert!(disk.write_at(Offset::ZERO, &[0; 4096]).is_err());
            disk.read_at(Offset::ZERO, &mut found).unwrap();
            assert!(found == expected);
        }
    }

    #[test]
    fn a_second_writer_is_refused_and_a_reader_is_not() {
        let (_folder, path) = image(4096);
        let _first = RawDisk::open(&path, Access::ReadWrite).unwrap();
        let error = RawDisk::open(&path, Access::ReadWrite).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        assert!(RawDisk::open(&path, Access::ReadOnly).is_ok());
    }

    #[test]
    fn create_does_not_overwrite() {
        let (_folder, path) = image(4096);
        assert!(RawDisk::create(&path, Length::kib(4)).is_err());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096);
    }

    #[test]
    fn a_disk_grows_when_it_is_told_to() {
        let (_folder, path) = image(1 << 20);
        let disk = RawDisk::open(&path, Access::ReadWrite).unwrap();
        let larger = Length::mib(3);
        assert!(disk.lengthen(Length::new(100)).is_err());
        disk.lengthen(larger).unwrap();
        assert_eq!(disk.size(), Length::mib(1));
        assert!(disk.write_at(Offset::new(1 << 20), &[1]).is_err());
        disk.grow_to(larger);
        disk.write_at(Offset::new((3 << 20) - 1), &[1]).unwrap();
        // Neither makes it smaller.
        disk.lengthen(Length::mib(2)).unwrap();
        disk.grow_to(Length::mib(2));
        assert_eq!(disk.size(), larger);
        drop(disk);
        assert_eq!(
            RawDisk::open(&path, Access::ReadOnly).unwrap().size(),
            larger
        );
    }

    #[test]
    fn writes_past_the_end_or_to_a_read_only_disk_change_nothing() {
        let (_folder, path) = image(4096);
        let disk = RawDisk::open(&path, Access::ReadWrite).unwrap();
        for (offset, length) in [(4095, 2), (4096, 1), (u64::MAX, 1), (u64::MAX - 1, 512)] {
            let error = disk
                .write_at(Offset::new(offset), &vec![1; length])
                .unwrap_err();
            assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
        }
        drop(disk);
        let disk = RawDisk::open(&path, Access::ReadOnly).unwrap();
        assert!(matches!(
            disk.write_at(Offset::ZERO, &[1]),
            Err(Error::ReadOnly { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), vec![0; 4096]);
    }

    #[test]
    fn holes_are_found_and_punched() {
        let (_folder, path) = image(1 << 20);
        let disk = RawDisk::open(&path, Access::ReadWrite).unwrap();
        let data = Extent::new(Offset::new(256 << 10), Length::kib(64)).unwrap();
        disk.write_at(data.start(), &vec![7; 64 << 10]).unwrap();
        let run = disk.next_run(Offset::ZERO).unwrap().unwrap();
        assert!(run.extent.end() <= data.start() || run.kind == RunKind::Data);
        let kinds = |disk: &RawDisk| {
            let mut data = 0;
            let mut at = Offset::ZERO;
            while let Some(run) = disk.next_run(at).unwrap() {
                at = run.extent.end();
                if run.kind == RunKind::Data {
                    data += run.extent.length().get();
                }
            }
            assert_eq!(at.get(), 1 << 20, "the runs cover the disk");
            data
        };
        let before = kinds(&disk);
        assert!(before >= 64 << 10);
        disk.discard(data).unwrap();
        assert!(kinds(&disk) <= before);
        let mut back = vec![1; 64 << 10];
        disk.read_at(data.start(), &mut back).unwrap();
        assert_eq!(back, vec![0; 64 << 10]);
    }

    #[test]
    fn disks_past_two_tebibytes_work() {
        let folder = tempfile::tempdir().unwrap();
        let size = Length::new((3 << 40) + 512);
        let Ok(disk) = RawDisk::create(folder.path().join("large.raw"), size) else {
            return; // the filesystem has a lower limit
        };
        for at in [128_u64 << 30, (2 << 40) - 256, 3 << 40] {
            disk.write_at(Offset::new(at), &[9; 512]).unwrap();
            let mut back = [0; 512];
            disk.read_at(Offset::new(at), &mut back).unwrap();
            assert_eq!(back, [9; 512]);
        }
    }
}
