use proptest::prelude::*;

use super::*;
use crate::MemoryDisk;

const SECTORS: u64 = 64;
const IDENTITY: [u8; 32] = [5; 32];

fn extent(first: u64, sectors: u64) -> Extent {
    let sectors = sectors.min(SECTORS - first);
    Extent::new(Offset::new(first * 512), Length::new(sectors * 512)).unwrap()
}

fn bytes(extent: Extent) -> std::ops::Range<usize> {
    let at = |offset: Offset| usize::try_from(offset.get()).unwrap();
    at(extent.start())..at(extent.end())
}

/// A source with data and a hole.
fn source() -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new(Length::new(SECTORS * 512));
    let data: Vec<_> = (0..16 << 10)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    disk.write_at(Offset::new(8192), &data).unwrap();
    Arc::new(disk)
}

fn read(disk: &dyn BlockRead) -> Vec<u8> {
    let mut found = vec![0; disk.size().to_usize().unwrap()];
    disk.read_at(Offset::ZERO, &mut found).unwrap();
    found
}

fn open(image: &Path) -> Result<HydratingDisk> {
    HydratingDisk::open(source(), IDENTITY, image)
}

/// What a disk may hold after a crash: of each byte what was flushed, or anything later.
struct Model {
    now: Vec<u8>,
    possible: Vec<Vec<u8>>,
}

impl Model {
    fn new(content: Vec<u8>) -> Self {
        let possible = content.iter().map(|byte| vec![*byte]).collect();
        Self {
            now: content,
            possible,
        }
    }

    fn write(&mut self, extent: Extent, value: u8) {
        for at in bytes(extent) {
            self.now[at] = value;
            self.possible[at].push(value);
        }
    }

    fn flush(&mut self) {
        *self = Self::new(std::mem::take(&mut self.now));
    }

    fn crash(&mut self, found: Vec<u8>) {
        for (at, byte) in found.iter().enumerate() {
            assert!(
                self.possible[at].contains(byte),
                "byte {at} was never {byte}"
            );
        }
        *self = Self::new(found);
    }
}

proptest! {
    // Each forces files many times.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is written, hydrated, flushed and cut short: reads are of the newest bytes, what was
    /// flushed is never lost, and the image is whole in the end.
    #[test]
    fn reads_as_a_copy_of_its_source_that_was_written(
        steps in prop::collection::vec((0..8_u8, 0..SECTORS, 1..9_u64, 1..=u8::MAX), 0..60),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.raw");
        let mut disk = open(&image).unwrap();
        let mut model = Model::new(source().contents());
        for (kind, first, sectors, value) in steps {
            let extent = extent(first, sectors);
            match kind {
                0 => {
                    disk.discard(extent).unwrap();
                    model.write(extent, 0);
                }
                1 => {
                    disk.write_zeroes(extent, Zeroing::Allocate).unwrap();
                    model.write(extent, 0);
                }
                2 | 3 => disk.hydrate(extent).unwrap(),
                4 => {
                    disk.flush().unwrap();
                    model.flush();
                }
                5 => {
                    drop(disk);
                    disk = open(&image).unwrap();
                    model.crash(read(&disk));
                }
                _ => {
                    let data = vec![value; extent.length().to_usize().unwrap()];
                    disk.write_at(extent.start(), &data).unwrap();
                    model.write(extent, value);
                }
            }
            prop_assert_eq!(&read(&disk), &model.now);
            let mut at = Offset::ZERO;
            while let Some(run) = disk.next_run(at).unwrap() {
                prop_assert_eq!(run.extent.start(), at);
                if run.kind == RunKind::Hole {
                    prop_assert!(model.now[bytes(run.extent)].iter().all(|byte| *byte == 0));
                }
                at = run.extent.end();
            }
            prop_assert_eq!(at.get(), SECTORS * 512);
        }
        while let Some(missing) = disk.missing(Offset::ZERO) {
            prop_assert!(disk.finish().is_err());
            disk.hydrate(missing).unwrap();
        }
        disk.finish().unwrap();
        prop_assert_eq!(&std::fs::read(&image).unwrap(), &model.now);
        disk.write_at(Offset::ZERO, &[1; 512]).unwrap();
        drop(disk);
        let again = open(&image).unwrap();
        prop_assert!(again.missing(Offset::ZERO).is_none());
        prop_assert_eq!(again.finish().is_ok(), true);
    }
}

/// A disk of which a part is local, in two records, and its journal.
fn part_local() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.raw");
    let disk = open(&image).unwrap();
    for first in [1, 20] {
        disk.write_at(extent(first, 2).start(), &[9; 1024]).unwrap();
        disk.flush().unwrap();
    }
    let journal = folder.path().join("disk.raw.hydration");
    (folder, image, journal)
}

#[test]
fn a_torn_record_stands_for_nothing_and_is_written_over() {
    let (_folder, image, journal) = part_local();
    let whole = std::fs::read(&journal).unwrap();
    assert_eq!(whole.len(), 64 + 2 * 32);
    for cut in 96..whole.len() {
        std::fs::write(&journal, &whole[..cut]).unwrap();
        let disk = open(&image).unwrap();
        assert_eq!(disk.local(), Length::new(1024), "cut at {cut}");
        assert_eq!(read(&disk)[512..1536], [9; 1024]);
        drop(disk);
        assert_eq!(std::fs::metadata(&journal).unwrap().len(), 96);
    }
}

#[test]
fn every_flipped_bit_but_of_the_last_record_is_found() {
    let (_folder, image, journal) = part_local();
    let whole = std::fs::read(&journal).unwrap();
    for bit in 0..96 * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&journal, &flipped).unwrap();
        let error = open(&image).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "bit {bit}: {error}");
        assert_eq!(
            std::fs::read(&journal).unwrap(),
            flipped,
            "it is left as it is"
        );
    }
}

#[test]
fn another_source_and_an_image_of_another_making_are_refused() {
    let (folder, image, _journal) = part_local();
    let other = [6; 32];
    let error = HydratingDisk::open(source(), other, &image).unwrap_err();
    assert!(matches!(error, Error::OtherSource { .. }), "{error}");
    let longer = Arc::new(MemoryDisk::new(Length::mib(1)));
    let error = HydratingDisk::open(longer, IDENTITY, &image).unwrap_err();
    assert!(matches!(error, Error::OtherSource { .. }), "{error}");
    let image = folder.path().join("made.raw");
    std::fs::write(&image, [1; 512]).unwrap();
    let error = open(&image).unwrap_err();
    assert!(error.to_string().contains("made.raw"), "{error}");
    assert_eq!(std::fs::read(&image).unwrap(), [1; 512]);
}

#[test]
fn two_processes_do_not_hydrate_one_image() {
    let (_folder, image, journal) = part_local();
    let _first = open(&image).unwrap();
    let error = open(&image).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    // Nor while the first one has no journal yet.
    std::fs::remove_file(&journal).unwrap();
    let error = open(&image).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
}

#[test]
fn what_a_write_that_was_cut_short_left_is_not_taken_for_a_hole() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.raw");
    let disk = open(&image).unwrap();
    disk.write_at(Offset::ZERO, &[3; 512]).unwrap();
    drop(disk); // never flushed
    let disk = open(&image).unwrap();
    while let Some(missing) = disk.missing(Offset::ZERO) {
        disk.hydrate(missing).unwrap();
    }
    disk.finish().unwrap();
    assert_eq!(std::fs::read(&image).unwrap(), source().contents());
}

/// A source that cannot be read, as one that is out of reach.
struct Unreachable;

impl BlockRead for Unreachable {
    fn size(&self) -> Length {
        Length::new(SECTORS * 512)
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        Err(Error::Io {
            operation: "read",
            device: "source".into(),
            offset,
            length: Length::of(buf),
            source: io::ErrorKind::TimedOut.into(),
        })
    }
}

#[test]
fn a_source_out_of_reach_fails_what_needs_it_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.raw");
    let disk = HydratingDisk::open(Arc::new(Unreachable), IDENTITY, &image).unwrap();
    disk.write_at(Offset::ZERO, &[4; 1024]).unwrap();
    disk.flush().unwrap();
    let mut found = [0; 1024];
    disk.read_at(Offset::ZERO, &mut found).unwrap();
    assert_eq!(found, [4; 1024]);
    assert!(disk.read_at(Offset::new(1024), &mut found).is_err());
    let missing = disk.missing(Offset::ZERO).unwrap();
    assert!(disk.hydrate(missing).unwrap_err().is_recoverable());
    assert_eq!(disk.local(), Length::new(1024));
}
