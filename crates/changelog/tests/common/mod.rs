//! Changes to a small disk, and logs of them.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "shared by tests that each need some of it"
)]

mod failing;

use std::path::Path;

use afterimage_block::{
    Change, ContentDigest, DiskId, Epoch, Extent, Length, MemoryDisk, Offset, Sequence, Timestamp,
};
use afterimage_changelog::{
    BarrierMark, Consistency, FileWriter, GroupId, Keys, LogHeader, Packing, SealedLog,
    WriterOptions,
};
use proptest::prelude::*;

pub(crate) use failing::Failing;

pub(crate) const SIZE: u64 = 64 << 10;

pub(crate) fn header(first: u64, last: u64) -> LogHeader {
    LogHeader {
        disk: DiskId::from_bytes(*b"disk of the test"),
        disk_size: Length::new(SIZE),
        epoch: Epoch::new(3),
        first: Sequence::new(first),
        last: Sequence::new(last),
        created: Timestamp::from_nanos(1_764_000_000_123_456_789),
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write(u64, Vec<u8>),
    Zero(Extent),
    Discard(Extent),
    Bookmark(String),
    Barrier(String),
}

impl Step {
    pub(crate) fn change(&self) -> Option<Change<'_>> {
        match self {
            Self::Write(offset, data) => Some(Change::Write {
                offset: Offset::new(*offset),
                data,
            }),
            Self::Zero(extent) => Some(Change::WriteZeroes(*extent)),
            Self::Discard(extent) => Some(Change::Discard(*extent)),
            Self::Bookmark(_) | Self::Barrier(_) => None,
        }
    }
}

pub(crate) fn extents() -> impl Strategy<Value = Extent> {
    (0..SIZE, 1..8192_u64).prop_map(|(start, length)| {
        Extent::new(Offset::new(start), Length::new(length.min(SIZE - start))).unwrap()
    })
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (extents(), any::<u8>()).prop_map(|(extent, value)| {
        let length = extent.length().to_usize().unwrap();
        // Not all bytes alike, so that a piece of the wrong place is noticed.
        let data = (0..length).map(|at| value.wrapping_add(at.to_le_bytes()[0]));
        Step::Write(extent.start().get(), data.collect())
    });
    let step = prop_oneof![
        4 => write,
        1 => extents().prop_map(Step::Zero),
        1 => extents().prop_map(Step::Discard),
        1 => "[a-zé]{0,12}".prop_map(Step::Bookmark),
        1 => "[a-zé]{0,12}".prop_map(Step::Barrier),
    ];
    prop::collection::vec(step, 0..12)
}

/// The keys of the test.
#[cfg(feature = "aead")]
pub(crate) fn keys() -> Keys {
    Keys::from(key())
}

#[cfg(feature = "aead")]
pub(crate) fn key() -> afterimage_changelog::Key {
    afterimage_changelog::Key::new(b"the key of the test, 32 bytes it")
}

#[cfg(not(feature = "aead"))]
pub(crate) fn keys() -> Keys {
    Keys::none()
}

/// The ways to store records that this build knows.
pub(crate) fn all_packings() -> Vec<Packing> {
    let packings = vec![Packing::default()];
    #[cfg(feature = "lz4")]
    let packings = [packings, vec![Packing::default().with_compression()]].concat();
    #[cfg(feature = "aead")]
    let packings = {
        let encrypted = packings.iter().cloned().map(|p| p.with_key(key()));
        [encrypted.collect(), packings].concat()
    };
    packings
}

/// Any way to store records.
pub(crate) fn packings() -> impl Strategy<Value = Packing> {
    prop::sample::select(all_packings())
}

/// The disk of the test before any change.
pub(crate) fn disk() -> MemoryDisk {
    let bytes: Vec<u8> = (0..usize::try_from(SIZE).unwrap())
        .map(|at| 0xEE_u8.wrapping_mul(at.to_le_bytes()[1]))
        .collect();
    MemoryDisk::with_contents(&bytes)
}

pub(crate) fn contents_after<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Vec<u8> {
    let disk = disk();
    for change in steps.into_iter().filter_map(Step::change) {
        change.apply_to(&disk).unwrap();
    }
    disk.contents()
}

/// A barrier with this label.
pub(crate) fn mark(label: &str) -> BarrierMark<'_> {
    BarrierMark {
        group: GroupId::from_bytes(*b"all of a machine"),
        consistency: Consistency::Application,
        label,
    }
}

/// Writes a log; the n-th record at n nanoseconds.
pub(crate) fn write(path: &Path, header: LogHeader, steps: &[Step]) -> FileWriter {
    write_as(path, header, steps, &Packing::default())
}

/// As [`write`], stored in this way.
pub(crate) fn write_as(
    path: &Path,
    header: LogHeader,
    steps: &[Step],
    packing: &Packing,
) -> FileWriter {
    let options = WriterOptions::default().with_packing(packing.clone());
    let mut log = FileWriter::create(path, header, options).unwrap();
    for (number, step) in steps.iter().enumerate() {
        let time = Timestamp::from_nanos(number as u64);
        match step {
            Step::Bookmark(label) => log.bookmark(label, time).unwrap(),
            Step::Barrier(label) => log.barrier(&mark(label), time).unwrap(),
            step => log.append(step.change().unwrap(), time).unwrap(),
        };
    }
    log
}

pub(crate) fn seal(
    path: &Path,
    header: LogHeader,
    steps: &[Step],
    predecessor: ContentDigest,
) -> SealedLog {
    write(path, header, steps).seal(predecessor).unwrap()
}
