//! The write-intent file: which regions were written in a generation, known before they are.
//!
//! # Format
//!
//! All integers are little-endian.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `AIINTENT` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | 0 |
//! | 16 | 16 | disk id |
//! | 32 | 8 | disk size |
//! | 40 | 8 | region size |
//! | 48 | 12 | 0 |
//! | 60 | 4 | CRC-32 of bytes 0 to 60 |
//! | 64 | 64 | the doubt slot: all zero, or everything is in doubt |
//! | 128 | 16 each | entries |
//!
//! An entry is the region's index (8 bytes), 4 bytes of zeros, and the CRC-32 of the disk id, the
//! entry's own number (8 bytes) and the region's index. Entries are appended and forced to the
//! medium *before* the first write to their region; the first entry that is all zeros ends them. So
//! an entry that is torn stands for a write that was never made.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use crate::error::failed;
use crate::{DiskId, Error, Extent, ExtentSet, Length, Offset, Result, durable};

const MAGIC: &[u8; 8] = b"AIINTENT";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const DOUBT_SLOT: u64 = 64;
const ENTRIES: u64 = 128;
const ENTRY: usize = 16;
/// Reserved when the file is made, so that marks do not fail for want of space: the header and over
/// four thousand entries, or as many as the disk has regions.
const RESERVED_MAX: u64 = 64 << 10;
/// No file is longer: one entry for each region of the largest disk that is worth reading.
const FILE_MAX: u64 = 1 << 30;

/// What of a disk may have been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// At most these extents.
    Extents(ExtentSet),
    /// Anything.
    Everything {
        /// Why no more is known.
        reason: String,
    },
}

impl Doubt {
    /// Whether nothing was written.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Extents(extents) if extents.is_empty())
    }

    fn everything(reason: impl Into<String>) -> Self {
        Self::Everything {
            reason: reason.into(),
        }
    }
}

/// The open write-intent file of one disk and generation.
///
/// A mark never fails for its caller, whose write goes on in any case. Where a region cannot be
/// marked, everything is put in doubt durably: in a slot that is there already, or by removing the
/// file, whose absence says the same.
#[derive(Debug)]
pub struct IntentLog {
    path: PathBuf,
    disk: DiskId,
    size: Length,
    region: Length,
    marked: RwLock<ExtentSet>,
    /// Regions that wait for the next append: one force serves all that wait.
    wanted: Mutex<ExtentSet>,
    file: Mutex<Appender>,
}

#[derive(Debug)]
struct Appender {
    file: File,
    entries: u64,
    lost: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl IntentLog {
    /// The size of a region unless another is asked for: small enough that reading a hot region
    /// again is cheap, large enough that few writes are the first to theirs.
    pub const REGION: Length = Length::mib(1);

    /// Makes the file at `path`, durably, with no region marked; a file that is there is replaced.
    ///
    /// # Errors
    /// [`Error::File`].
    ///
    /// # Panics
    /// If `region` is zero.
    pub fn create(path: &Path, disk: DiskId, size: Length, region: Length) -> Result<Self> {
        assert!(!region.is_zero(), "a region holds something");
        let header = header(disk, size, region);
        let reserved = reserved(size, region);
        let file = durable::make(path, |file| begin(file, &header, reserved));
        let file = file.map_err(|source| failed("create", path, source))?;
        Ok(Self {
            path: path.into(),
            disk,
            size,
            region,
            marked: RwLock::default(),
            wanted: Mutex::default(),
            file: Mutex::new(Appender {
                file,
                entries: 0,
                lost: None,
            }),
        })
    }

    /// Returns once the regions of `extent` are durably marked, or everything is in doubt.
    pub fn mark(&self, extent: Extent) {
        let regions = extent.aligned_out(self.region, self.size);
        if self.is_marked(regions) {
            return;
        }
        lock(&self.wanted).insert(regions);
        let mut appender = lock(&self.file);
        if appender.lost.is_some() || self.is_marked(regions) {
            return; // whoever had the file before us marked ours too
        }
        let wanted = std::mem::take(&mut *lock(&self.wanted));
        match self.append(&mut appender, &wanted) {
            Ok(()) => {
                let mut marked = self.marked.write().unwrap_or_else(PoisonError::into_inner);
                marked.union_with(&wanted);
            }
            Err(error) => self.lose(&mut appender, &error),
        }
    }

    fn is_marked(&self, regions: Extent) -> bool {
        let marked = self.marked.read().unwrap_or_else(PoisonError::into_inner);
        marked.contains(regions)
    }

    fn append(&self, appender: &mut Appender, regions: &ExtentSet) -> io::Result<()> {
        let mut entries = Vec::new();
        let mut number = appender.entries;
        for piece in regions.iter().flat_map(|run| run.pieces(self.region)) {
            if !self.is_marked(piece) {
                let region = piece.start().get() / self.region.get();
                entries.extend_from_slice(&entry(self.disk, number, region));
                number += 1;
            }
        }
        let at = ENTRIES + appender.entries * ENTRY as u64;
        appender.file.write_all_at(&entries, at)?;
        appender.file.sync_data()?;
        appender.entries = number;
        Ok(())
    }

    /// Puts everything in doubt, durably.
    fn lose(&self, appender: &mut Appender, error: &io::Error) {
        let slot = appender.file.write_all_at(&[0xff; 64], DOUBT_SLOT);
        if slot.and_then(|()| appender.file.sync_data()).is_err() {
            // The absence of the file says the same. If even that fails, the folder is gone, and
            // with it what could be misread.
            let _ = std::fs::remove_file(&self.path);
            let _ = durable::sync_folder(&self.path);
        }
        appender.lost = Some(format!("cannot mark a region as written: {error}"));
    }

    /// What may have been written in this generation.
    pub fn doubt(&self) -> Doubt {
        if let Some(reason) = &lock(&self.file).lost {
            return Doubt::everything(reason);
        }
        let marked = self.marked.read().unwrap_or_else(PoisonError::into_inner);
        Doubt::Extents(marked.clone())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what a former process left at `path`: what may have been written in that generation.
    /// A file that is missing, damaged, of another disk or of a larger one puts everything in doubt; one
    /// of when the disk was smaller is as good as one of its present `size`.
    ///
    /// # Errors
    /// [`Error::File`] if the file is there and cannot be read.
    pub fn read(path: &Path, disk: DiskId, size: Length) -> Result<Doubt> {
        let failed = |source| Error::File {
            operation: "read",
            path: path.into(),
            source,
        };
        let found = match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Doubt::everything("the write-intent file is missing"));
            }
            found => found.map_err(failed)?,
        };
        if found.len() > FILE_MAX {
            return Ok(Doubt::everything("the write-intent file is too long"));
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        Ok(parse(&bytes, disk, size))
    }
}

/// How long the file of a disk is made: a region that is marked is not marked again.
fn reserved(size: Length, region: Length) -> u64 {
    let regions = size.get().div_ceil(region.get());
    let entries = regions.saturating_mul(ENTRY as u64);
    ENTRIES.saturating_add(entries).min(RESERVED_MAX)
}

/// What an intent file begins with, in space that later marks need not ask for.
fn begin(file: &File, header: &[u8; HEADER], reserved: u64) -> io::Result<()> {
    let flags = rustix::fs::FallocateFlags::empty();
    match rustix::fs::fallocate(file, flags, 0, reserved) {
        // Without support for it, marks may fail for want of space, and say so.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(errno.into()),
    }
    file.write_all_at(header, 0)
}

fn header(disk: DiskId, size: Length, region: Length) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..32].copy_from_slice(&disk.to_bytes());
    header[32..40].copy_from_slice(&size.get().to_le_bytes());
    header[40..48].copy_from_slice(&region.get().to_le_bytes());
    let checksum = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn entry(disk: DiskId, number: u64, region: u64) -> [u8; ENTRY] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&disk.to_bytes());
    crc.update(&number.to_le_bytes());
    crc.update(&region.to_le_bytes());
    let mut entry = [0; ENTRY];
    entry[..8].copy_from_slice(&region.to_le_bytes());
    // Never zero as a whole: an entry of zeros ends the list.
    entry[12..].copy_from_slice(&crc.finalize().max(1).to_le_bytes());
    entry
}

fn parse(bytes: &[u8], disk: DiskId, size: Length) -> Doubt {
    let Some((head, entries)) = bytes.split_at_checked(128) else {
        return Doubt::everything("the write-intent file is cut short");
    };
    let (head, slot) = head.split_at(HEADER);
    let region = head.get(40..48).and_then(|field| field.try_into().ok());
    let region = Length::new(region.map_or(0, u64::from_le_bytes));
    let then = head.get(32..40).and_then(|field| field.try_into().ok());
    let then = Length::new(then.map_or(0, u64::from_le_bytes));
    if head != header(disk, then, region) || region.is_zero() || then > size {
        return Doubt::everything("the write-intent file is damaged or of another disk");
    }
    if slot.iter().any(|byte| *byte != 0) {
        return Doubt::everything("a region could not be marked as written");
    }
    let mut marked = ExtentSet::new();
    let mut rest = entries.chunks(ENTRY).zip(0..);
    for (found, number) in rest.by_ref() {
        match region_of(found, disk, number, region, then) {
            Some(extent) => marked.insert(extent),
            // The end, or torn and so never relied upon - unless anything follows it.
            None => break,
        }
    }
    if rest.any(|(found, _)| found.iter().any(|byte| *byte != 0)) {
        return Doubt::everything("the write-intent file is damaged");
    }
    Doubt::Extents(marked)
}

/// The region that a valid entry names, held at the disk's end.
fn region_of(
    found: &[u8],
    disk: DiskId,
    number: u64,
    region: Length,
    size: Length,
) -> Option<Extent> {
    let index = u64::from_le_bytes(found.get(..8)?.try_into().ok()?);
    if found != entry(disk, number, index) {
        return None;
    }
    let start = Offset::new(index.checked_mul(region.get())?);
    let end = start.get().saturating_add(region.get()).min(size.get());
    Extent::between(start, Offset::new(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: Length = Length::new((40 << 20) + 512);

    fn extent(start: u64, length: u64) -> Extent {
        Extent::new(Offset::new(start), Length::new(length)).unwrap()
    }

    fn disk() -> DiskId {
        DiskId::from_bytes([7; 16])
    }

    fn marked_file(extents: &[Extent]) -> (tempfile::TempDir, PathBuf, ExtentSet) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.intent");
        let log = IntentLog::create(&path, disk(), SIZE, IntentLog::REGION).unwrap();
        for extent in extents {
            log.mark(*extent);
        }
        let Doubt::Extents(marked) = log.doubt() else {
            panic!("nothing failed")
        };
        (folder, path, marked)
    }

    fn is_superset(doubt: &Doubt, marked: &ExtentSet) -> bool {
        match doubt {
            Doubt::Extents(extents) => marked.iter().all(|run| extents.contains(run)),
            Doubt::Everything { .. } => true,
        }
    }

    #[test]
    fn what_was_marked_is_read_back() {
        let extents = [
            extent(0, 1),
            extent((5 << 20) - 1, 2),
            extent(SIZE.get() - 1, 1),
        ];
        let (_folder, path, marked) = marked_file(&extents);
        assert_eq!(marked.total(), Length::new((3 << 20) + 512));
        assert_eq!(
            IntentLog::read(&path, disk(), SIZE).unwrap(),
            Doubt::Extents(marked)
        );
    }

    #[test]
    fn another_disk_or_a_smaller_one_or_no_file_is_everything() {
        let (folder, path, _) = marked_file(&[extent(0, 1)]);
        let everything = |path: &Path, disk, size| {
            let doubt = IntentLog::read(path, disk, size).unwrap();
            assert!(matches!(doubt, Doubt::Everything { .. }), "{doubt:?}");
        };
        everything(&path, DiskId::from_bytes([8; 16]), SIZE);
        everything(&path, disk(), Length::mib(40));
        let grown = IntentLog::read(&path, disk(), Length::mib(80)).unwrap();
        assert_eq!(grown, IntentLog::read(&path, disk(), SIZE).unwrap());
        everything(&folder.path().join("2.intent"), disk(), SIZE);
    }

    #[test]
    fn a_file_that_cannot_be_made_anew_stays_as_it_is() {
        let (folder, path, marked) = marked_file(&[extent(0, 1)]);
        std::fs::create_dir(path.with_extension("intent.new")).unwrap();
        assert!(IntentLog::create(&path, disk(), SIZE, IntentLog::REGION).is_err());
        assert_eq!(
            IntentLog::read(&path, disk(), SIZE).unwrap(),
            Doubt::Extents(marked)
        );
        drop(folder);
    }

    #[test]
    fn regions_past_two_tebibytes_are_named_exactly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.intent");
        let size = Length::new(5 << 40);
        let log = IntentLog::create(&path, disk(), size, IntentLog::REGION).unwrap();
        for at in [
            (128_u64 << 30) - 1,
            128 << 30,
            (2 << 40) - 1,
            2 << 40,
            (5 << 40) - 512,
        ] {
            log.mark(extent(at, 1));
            let Doubt::Extents(read) = IntentLog::read(&path, disk(), size).unwrap() else {
                panic!("undamaged")
            };
            assert!(read.contains(extent(at, 1)), "{at}");
        }
    }

    #[test]
    fn the_file_of_a_small_disk_is_short_and_has_room_for_every_region() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.intent");
        let log = IntentLog::create(&path, disk(), SIZE, IntentLog::REGION).unwrap();
        let length = || std::fs::metadata(&path).unwrap().len();
        let reserved = length();
        assert!(reserved <= 128 + 41 * ENTRY as u64, "{reserved} bytes");
        let whole = extent(0, SIZE.get());
        log.mark(whole);
        assert_eq!(length(), 128 + 41 * ENTRY as u64);
        let read = IntentLog::read(&path, disk(), SIZE).unwrap();
        assert_eq!(read, Doubt::Extents(whole.into()));
    }

    #[test]
    fn a_file_that_cannot_be_appended_to_puts_everything_in_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.intent");
        let log = IntentLog::create(&path, disk(), SIZE, IntentLog::REGION).unwrap();
        log.mark(extent(0, 1));
        // A handle that takes no writes stands for a medium that fails.
        lock(&log.file).file = File::open(&path).unwrap();
        log.mark(extent(10 << 20, 1));
        assert!(matches!(log.doubt(), Doubt::Everything { .. }));
        let read = IntentLog::read(&path, disk(), SIZE).unwrap();
        assert!(matches!(read, Doubt::Everything { .. }), "{read:?}");
    }

    #[test]
    fn marks_of_many_threads_are_all_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.intent");
        let log = IntentLog::create(&path, disk(), SIZE, Length::kib(64)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let log = &log;
                scope.spawn(move || {
                    (0..40).for_each(|i| log.mark(extent((i * 8 + thread) << 16, 100)));
                });
            }
        });
        let read = IntentLog::read(&path, disk(), SIZE).unwrap();
        assert_eq!(read, log.doubt());
        assert_eq!(read, Doubt::Extents(extent(0, 320 << 16).into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_cut_keeps_what_was_forced_before_it_and_a_flip_never_hides_a_mark(
            starts in prop::collection::vec(0..40_u64, 1..12),
            flip in 0..400_usize,
            bit in 0..8_u8,
        ) {
            let extents: Vec<_> = starts.iter().map(|start| extent(start << 20, 10)).collect();
            let (_folder, path, marked) = marked_file(&extents);
            let bytes = std::fs::read(&path).unwrap();
            let used = 128 + ENTRY * marked.iter().flat_map(|r| r.pieces(IntentLog::REGION)).count();

            let mut flipped = bytes.clone();
            flipped[flip % used] ^= 1 << bit;
            let doubt = parse(&flipped, disk(), SIZE);
            // The last entry is as good as torn: a write behind it would have forced it first.
            let last_entry = flip % used >= used - ENTRY;
            prop_assert!(last_entry || is_superset(&doubt, &marked), "{:?}", doubt);

            for cut in (0..used).step_by(3) {
                let whole = cut.saturating_sub(128) / ENTRY;
                let doubt = parse(&bytes[..cut], disk(), SIZE);
                match doubt {
                    Doubt::Extents(extents) => {
                        let regions = extents.iter().flat_map(|r| r.pieces(IntentLog::REGION));
                        prop_assert_eq!(regions.count(), whole);
                    }
                    Doubt::Everything { .. } => prop_assert!(cut < 128),
                }
            }
        }
    }
}
