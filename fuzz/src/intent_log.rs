//! Any bytes as a write-intent file, and what a crash makes of a real one.
//!
//! Laws:
//!
//! - Whatever the file holds, what is in doubt lies on the disk, or is everything.
//! - Marked regions are in doubt after any tear behind them, and after any change of one byte that is
//!   not in the last entry: a last entry that is torn stands for a write that was never made.
//! - A file of another disk, or of a larger one, puts everything in doubt.

use std::path::Path;

use afterimage_block::{DiskId, Doubt, Extent, ExtentSet, IntentLog, Length, Offset};
use arbitrary::{Arbitrary, Unstructured};

use crate::scratch;

const DISK: DiskId = DiskId::from_bytes([7; 16]);
const HEADER: usize = 64;
const ENTRIES: usize = 128;
const ENTRY: usize = 16;

#[derive(Arbitrary, Debug)]
enum Input {
    /// A file of these bytes, for a disk of so many sectors.
    Raw { sectors: u64, bytes: Vec<u8> },
    /// As `Raw`, but the header is right, and each entry has the checksum that it should have.
    Dressed {
        sectors: u64,
        region: u64,
        slot: Option<u8>,
        regions: Vec<u64>,
        tail: Vec<u8>,
    },
    /// A file as it is written, and something done to it.
    Written {
        sectors: u64,
        region: u64,
        marks: Vec<(u64, u64)>,
        damage: Damage,
    },
}

#[derive(Arbitrary, Debug)]
enum Damage {
    None,
    /// This is written behind the last entry, where the next one would go.
    Torn([u8; ENTRY]),
    /// The byte at this position is changed.
    Flipped {
        at: u16,
        by: u8,
    },
    /// Another disk's file is taken for this one's.
    OtherDisk,
    OtherSize,
}

/// Checks the laws on what `input` says.
pub fn check(input: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(input)) else {
        return;
    };
    let folder = scratch();
    let path = folder.path().join("intent");
    match input {
        Input::Raw { sectors, bytes } => {
            std::fs::write(&path, &bytes).expect("a file can be written");
            read(&path, disk_size(sectors));
        }
        Input::Dressed {
            sectors,
            region,
            slot,
            regions,
            tail,
        } => {
            let size = disk_size(sectors);
            let mut file = header(size, region).to_vec();
            file.extend([slot.unwrap_or(0); ENTRIES - HEADER]);
            let numbered = regions.iter().zip(0..);
            file.extend(numbered.flat_map(|(region, number)| entry(number, *region)));
            file.extend(tail);
            std::fs::write(&path, &file).expect("a file can be written");
            let doubt = read(&path, size);
            let lost = slot.is_some_and(|byte| byte != 0) || region == 0;
            assert!(!lost || matches!(doubt, Doubt::Everything { .. }));
        }
        Input::Written {
            sectors,
            region,
            marks,
            damage,
        } => written(&path, disk_size(sectors), region.max(1), &marks, &damage),
    }
}

fn disk_size(sectors: u64) -> Length {
    Length::new(sectors % (u64::MAX / 512) * 512)
}

/// What is in doubt by the file at `path`, which must lie on the disk.
fn read(path: &Path, size: Length) -> Doubt {
    let doubt = IntentLog::read(path, DISK, size).expect("the file can be read");
    if let Doubt::Extents(extents) = &doubt {
        let end = extents.iter().map(|extent| extent.end().get()).max();
        assert!(end.unwrap_or(0) <= size.get(), "behind the disk");
    }
    doubt
}

fn written(path: &Path, size: Length, region: u64, marks: &[(u64, u64)], damage: &Damage) {
    let marked = make(path, size, region, marks);
    let mut file = std::fs::read(path).expect("the file is there");
    let entries = file[ENTRIES..].chunks(ENTRY);
    let used = entries.take_while(|entry| entry.iter().any(|byte| *byte != 0));
    let end = ENTRIES + used.count() * ENTRY;
    let mut last_is_torn = false;
    let (disk, found_size) = match damage {
        Damage::OtherDisk => (DiskId::from_bytes([8; 16]), size),
        Damage::OtherSize => (DISK, Length::new(size.get().saturating_sub(512))),
        _ => (DISK, size),
    };
    match damage {
        Damage::Torn(bytes) => {
            // Room is reserved for the entries of all regions, and for no more.
            file.resize(file.len().max(end + ENTRY), 0);
            file[end..end + ENTRY].copy_from_slice(bytes);
        }
        Damage::Flipped { at, by } => {
            let at = usize::from(*at) % end;
            file[at] ^= by;
            last_is_torn = end > ENTRIES && at >= end - ENTRY;
        }
        Damage::None | Damage::OtherDisk | Damage::OtherSize => {}
    }
    std::fs::write(path, &file).expect("a file can be written");
    if (disk, found_size) != (DISK, size) {
        let doubt = IntentLog::read(path, disk, found_size).expect("the file can be read");
        assert!(matches!(doubt, Doubt::Everything { .. }), "{damage:?}");
        return;
    }
    if let Doubt::Extents(found) = read(path, size) {
        let holds = marked.iter().all(|extent| found.contains(extent));
        assert!(holds || last_is_torn, "forgotten: {marked:?} {found:?}");
    }
}

/// Makes a file at `path` and marks there; what must be in doubt from then on.
fn make(path: &Path, size: Length, region: u64, marks: &[(u64, u64)]) -> ExtentSet {
    // No more than 64 regions a mark, so that the file stays small.
    let longest = region.saturating_mul(64);
    let log = IntentLog::create(path, DISK, size, Length::new(region)).expect("it can be made");
    let mut marked = ExtentSet::new();
    for (start, length) in marks.iter().take(16) {
        let start = start % size.get().max(1);
        let length = (length % longest).min(size.get().saturating_sub(start));
        if let Ok(extent) = Extent::new(Offset::new(start), Length::new(length)) {
            log.mark(extent);
            marked.insert(extent);
        }
    }
    let Doubt::Extents(told) = log.doubt() else {
        panic!("a mark failed");
    };
    assert!(marked.iter().all(|extent| told.contains(extent)));
    told
}

fn header(size: Length, region: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(b"AIINTENT");
    header[8] = 1;
    header[16..32].copy_from_slice(&DISK.to_bytes());
    header[32..40].copy_from_slice(&size.get().to_le_bytes());
    header[40..48].copy_from_slice(&region.to_le_bytes());
    let checksum = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn entry(number: u64, region: u64) -> [u8; ENTRY] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&DISK.to_bytes());
    crc.update(&number.to_le_bytes());
    crc.update(&region.to_le_bytes());
    let mut entry = [0; ENTRY];
    entry[..8].copy_from_slice(&region.to_le_bytes());
    entry[12..].copy_from_slice(&crc.finalize().max(1).to_le_bytes());
    entry
}
