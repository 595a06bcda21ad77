//! Barriers and resizes: records that change no bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use afterimage_block::{Change, ContentDigest, Extent, Length, Lsn, MemoryDisk, Offset, Timestamp};
use afterimage_changelog::{
    BarrierMark, ChangeLog, Consistency, Error, FileWriter, GroupId, Kind, LogHeader, SealedLog,
    WriterOptions, merge,
};
use common::{SIZE, header, mark};

const TIME: Timestamp = Timestamp::from_nanos(1_764_000_000_123_456_789);
const LARGER: Length = Length::new(SIZE + 4096);

const WRITE: Change<'_> = Change::Write {
    offset: Offset::new(4096),
    data: b"after-image",
};

/// A log of a write and a barrier, in which the disk is then resized.
fn resized(path: &Path, header: LogHeader) -> SealedLog {
    let mut log = FileWriter::create(path, header, WriterOptions::default()).unwrap();
    log.append(WRITE, TIME).unwrap();
    log.barrier(&mark("nightly"), TIME).unwrap();
    log.resize(LARGER, TIME).unwrap();
    log.seal(ContentDigest::new([5; 32])).unwrap()
}

/// What version 1 has always written for these kinds, and what every release reads.
#[test]
fn the_golden_log_of_marks_is_written_and_read_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let log = resized(&folder.path().join("log"), header(7, 7));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/version-1-marks.ailog");
    if std::env::var_os("AFTERIMAGE_WRITE_GOLDEN").is_some() {
        std::fs::copy(log.path(), &golden).unwrap();
    }
    assert_eq!(
        std::fs::read(log.path()).unwrap(),
        std::fs::read(&golden).unwrap()
    );
    let log = SealedLog::open(&golden).unwrap();
    assert_eq!(log.summary().resized, Some(LARGER));
    let mut kinds = Vec::new();
    log.records(|record| {
        kinds.push(record.header.kind);
        let expected = BarrierMark {
            group: GroupId::from_bytes(*b"all of a machine"),
            consistency: Consistency::Application,
            label: "nightly",
        };
        if record.header.kind == Kind::Barrier {
            assert_eq!(record.barrier()?, Some(expected));
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(kinds, [Kind::Write, Kind::Barrier, Kind::Resize]);
}

#[test]
fn no_change_follows_a_resize() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut log = FileWriter::create(&path, header(1, 1), WriterOptions::default()).unwrap();
    for size in [0, 511, u64::MAX] {
        let refused = log.resize(Length::new(size), TIME);
        assert!(matches!(refused, Err(Error::NotASize { .. })), "{size}");
    }
    log.resize(LARGER, TIME).unwrap();
    let zeroed = Change::Discard(Extent::new(Offset::ZERO, Length::new(1)).unwrap());
    for refused in [
        log.append(WRITE, TIME),
        log.append_batch(&[(zeroed, TIME)]),
        log.resize(LARGER, TIME),
    ] {
        assert!(matches!(refused, Err(Error::Resized { size: LARGER })));
    }
    log.bookmark("end", TIME).unwrap();
    let log = log.seal(ContentDigest::NONE).unwrap();
    assert_eq!(SealedLog::open(log.path()).unwrap().summary().records, 2);
}

/// The next log is of the disk as it is then, and only the end of a merged log resizes.
#[test]
fn logs_follow_and_merge_up_to_a_resize() {
    let folder = tempfile::tempdir().unwrap();
    let of = |first, size| LogHeader {
        disk_size: size,
        ..header(first, first)
    };
    let last = resized(&folder.path().join("2"), of(2, Length::new(SIZE)));
    let next = |name, size| {
        let header = of(3, size);
        common::seal(&folder.path().join(name), header, &[], last.content())
    };
    let (larger, same) = (next("3", LARGER), next("4", Length::new(SIZE)));
    larger.check_follows(&last).unwrap();
    assert!(same.check_follows(&last).is_err());

    let options = WriterOptions::default();
    let merged = merge(&last, &[], &folder.path().join("6"), options.clone()).unwrap();
    let merged = SealedLog::open(merged.path()).unwrap();
    assert_eq!(merged.summary().resized, Some(LARGER));
    let disk = MemoryDisk::new(Length::new(SIZE));
    merged.apply(&disk).unwrap();
    assert_eq!(&disk.contents()[4096..4107], b"after-image");

    let error = merge(&last, &[larger], &folder.path().join("7"), options).unwrap_err();
    assert!(matches!(error.cause(), Error::Resized { .. }), "{error}");
}

/// Seals a log of what `append` appends, one record, and opens it with byte `at` of the record's
/// payload changed to `byte`, and the record's checksum to that of the new bytes.
fn with_byte(append: impl Fn(&mut FileWriter) -> Lsn, at: usize, byte: u8) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut log = FileWriter::create(&path, header(1, 1), WriterOptions::default()).unwrap();
    append(&mut log);
    let log = log.seal(ContentDigest::NONE).unwrap();
    let mut bytes = std::fs::read(log.path()).unwrap();
    bytes[128 + 48 + at] = byte;
    let salt = u32::from_le_bytes(bytes[124..128].try_into().unwrap());
    let payload = log.summary().payload.to_usize().unwrap();
    let mut crc = crc32fast::Hasher::new_with_initial(salt);
    crc.update(&bytes[128..128 + 44]);
    crc.update(&bytes[128 + 48..][..payload]);
    bytes[128 + 44..128 + 48].copy_from_slice(&crc.finalize().to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    SealedLog::open(&path).unwrap_err()
}

/// Checksums that match do not make a barrier of anything.
#[test]
fn a_barrier_that_makes_no_sense_is_refused() {
    // Consistency 1 becomes 9.
    let error = with_byte(|log| log.barrier(&mark(""), TIME).unwrap(), 16, 9);
    assert!(matches!(error, Error::Damaged { at: 128, .. }), "{error}");
}

#[test]
fn a_label_that_is_no_text_is_refused() {
    let error = with_byte(|log| log.bookmark("label", TIME).unwrap(), 2, 0xFF);
    assert!(matches!(error, Error::Damaged { at: 128, .. }), "{error}");
    assert!(error.to_string().contains("no text"), "{error}");
}
