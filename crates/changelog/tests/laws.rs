//! The laws of the native format, for any changes, any cut and any flipped bit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use afterimage_block::{
    BlockWrite, Change, ContentDigest, Epoch, Extent, Length, Lsn, MemoryDisk, Offset, Timestamp,
};
use afterimage_changelog::{
    Error, FileWriter, Kind, LogHeader, PAYLOAD_MAX, Packing, Reader, SealedLog, Tail,
    WriterOptions, open_log, recover, recover_with,
};
use common::{SIZE, Step, contents_after, disk, keys, mark, packings, steps};
use proptest::prelude::*;

fn header() -> LogHeader {
    common::header(7, 7)
}

fn write(path: &Path, steps: &[Step], packing: &Packing) -> FileWriter {
    let log = common::write_as(path, header(), steps, packing);
    assert_eq!(log.records(), steps.len() as u64);
    log
}

fn sealed(steps: &[Step]) -> (tempfile::TempDir, SealedLog) {
    sealed_as(steps, &Packing::default())
}

fn sealed_as(steps: &[Step], packing: &Packing) -> (tempfile::TempDir, SealedLog) {
    let folder = tempfile::tempdir().unwrap();
    let log = write(&folder.path().join("log"), steps, packing);
    let sealed = log.seal(ContentDigest::new([5; 32])).unwrap();
    assert_eq!(sealed.form(), packing.form());
    (folder, sealed)
}

/// Where each record of the log in `bytes` ends.
fn ends(bytes: Vec<u8>) -> Vec<u64> {
    let reader = Reader::with_keys(bytes.into(), &keys()).unwrap();
    reader.map(|record| record.at + record.length()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn decoding_is_the_inverse_of_encoding(steps in steps(), packing in packings()) {
        let (_folder, log) = sealed_as(&steps, &packing);
        let bytes = std::fs::read(log.path()).unwrap();
        let mut reader = Reader::with_keys(bytes.into(), &keys()).unwrap();
        prop_assert_eq!(reader.form(), packing.form());
        prop_assert_eq!(reader.header(), &header());
        for (number, step) in steps.iter().enumerate() {
            let record = reader.next().unwrap();
            prop_assert_eq!(record.header.lsn, Lsn::new(number as u64));
            prop_assert_eq!(record.time(), Timestamp::from_nanos(number as u64));
            prop_assert_eq!(record.change(), step.change());
            if let Step::Bookmark(label) = step {
                prop_assert_eq!(record.header.kind, Kind::Bookmark);
                prop_assert_eq!(&record.payload[..], label.as_bytes());
            }
            if let Step::Barrier(label) = step {
                prop_assert_eq!(record.barrier().unwrap(), Some(mark(label)));
            }
        }
        prop_assert_eq!(reader.next(), None);
        prop_assert_eq!(reader.tail(), Some(Tail::Whole));
    }

    #[test]
    fn applying_by_the_index_is_making_the_changes_in_order(steps in steps(), packing in packings()) {
        let (_folder, log) = sealed_as(&steps, &packing);
        let proved = SealedLog::open_with(log.path(), &keys()).unwrap();
        prop_assert_eq!(proved.summary(), log.summary());
        prop_assert_eq!(proved.summary().records, steps.len() as u64);
        prop_assert_eq!(proved.summary().predecessor, ContentDigest::new([5; 32]));
        let disk = disk();
        for _ in 0..2 {
            proved.apply(&disk).unwrap();
            prop_assert!(disk.contents() == contents_after(&steps), "applying twice is applying once");
        }
    }

    #[test]
    fn a_cut_leaves_exactly_the_whole_records_before_it(
        steps in steps(), packing in packings(), cut in 0.0..1.0_f64,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = write(&path, &steps, &packing);
        let length = log.length().get();
        drop(log);
        let ends = ends(std::fs::read(&path).unwrap());
        prop_assert_eq!(ends.last().copied().unwrap_or(LogHeader::LEN as u64), length);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss,
            clippy::cast_precision_loss, reason = "any cut will do")]
        let cut = LogHeader::LEN as u64 + ((length - 128) as f64 * cut) as u64;
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
        let expected = ends.iter().filter(|end| **end <= cut).count();
        let mut changes = Vec::new();
        let recovered = recover_with(&path, &keys(), |record| {
            changes.push(record.clone());
            Ok(())
        }).unwrap();
        prop_assert_eq!(recovered.records, expected as u64);
        for (record, step) in changes.iter().zip(&steps) {
            prop_assert_eq!(record.change(), step.change());
        }
        prop_assert!(matches!(SealedLog::open_with(&path, &keys()), Err(Error::NotSealed)));
    }

    #[test]
    fn any_flipped_bit_of_a_sealed_log_is_found(
        steps in steps(), packing in packings(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let (_folder, log) = sealed_as(&steps, &packing);
        let mut bytes = std::fs::read(log.path()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        std::fs::write(log.path(), &bytes).unwrap();
        let result = SealedLog::open_with(log.path(), &keys());
        prop_assert!(result.is_err(), "byte {} of {}", at, bytes.len());
    }

    #[test]
    fn rubbish_neither_panics_nor_passes(mut bytes in prop::collection::vec(any::<u8>(), 0..2000), keep in 0..400_usize) {
        // Half of the time behind a true beginning, so that the deeper parsers are reached.
        let (folder, log) = sealed(&[Step::Write(5, vec![1; 100]), Step::Bookmark("x".into())]);
        let truth = std::fs::read(log.path()).unwrap();
        let keep = keep.min(truth.len()).min(bytes.len());
        bytes[..keep].copy_from_slice(&truth[..keep]);
        let path = folder.path().join("rubbish");
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(SealedLog::open(&path).is_err());
        let _ = recover(&path, |_| Ok(()));
        if let Ok(reader) = Reader::new(bytes.into()) {
            prop_assert!(reader.count() <= 2);
        }
    }
}

#[test]
fn damage_is_told_by_file_record_and_byte() {
    let steps: Vec<_> = (0..5)
        .map(|at| Step::Write(at * 100, vec![1; 50]))
        .collect();
    let (_folder, log) = sealed(&steps);
    let mut bytes = std::fs::read(log.path()).unwrap();
    let at = LogHeader::LEN + 3 * (48 + 50);
    bytes[at + 60] ^= 1;
    std::fs::write(log.path(), &bytes).unwrap();
    let path = log.path().display();
    let expected = format!(
        "`{path}`: change log is damaged at byte {at}, in record 3: the record's checksum does not match"
    );
    for error in [
        open_log(log.path()).unwrap_err(),
        log.records(|_| Ok(())).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn long_writes_are_several_records() {
    let folder = tempfile::tempdir().unwrap();
    let size = Length::mib(4);
    let header = LogHeader {
        disk_size: size,
        ..header()
    };
    let path = folder.path().join("log");
    let mut log = FileWriter::create(&path, header, WriterOptions::default()).unwrap();
    let data: Vec<u8> = (0..(5 << 19) + 3)
        .map(|i: u32| i.to_le_bytes()[1])
        .collect();
    let change = Change::Write {
        offset: Offset::new(1),
        data: &data,
    };
    log.append(change, Timestamp::default()).unwrap();
    assert_eq!(log.records(), 3);
    let sealed = log.seal(ContentDigest::NONE).unwrap();
    let disk = MemoryDisk::new(size);
    SealedLog::open(sealed.path())
        .unwrap()
        .apply(&disk)
        .unwrap();
    assert!(disk.contents()[1..=data.len()] == data);
    assert_eq!(PAYLOAD_MAX, Length::mib(1));
}

/// A batch of more records than one vectored write takes is what appending each is.
#[test]
fn a_batch_is_its_changes_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let changes: Vec<_> = (0..1300_u64)
        .map(|number| {
            let offset = Offset::new(number * 37 % (SIZE - 64));
            let zeroed = Extent::new(offset, Length::new(7)).unwrap();
            let change = match number % 5 {
                0 => Change::WriteZeroes(zeroed),
                1 => Change::Discard(zeroed),
                _ => Change::Write {
                    offset,
                    data: &[0xAB; 64][..usize::try_from(number % 64).unwrap()],
                },
            };
            (change, Timestamp::from_nanos(number))
        })
        .collect();
    let create = |name| {
        let path = folder.path().join(name);
        FileWriter::create(&path, header(), WriterOptions::default()).unwrap()
    };
    let (mut batch, mut single) = (create("batch"), create("single"));
    assert_eq!(batch.append_batch(&changes).unwrap(), Lsn::ZERO);
    for (change, time) in &changes {
        single.append(*change, *time).unwrap();
    }
    let past = Change::Discard(Extent::new(Offset::new(SIZE), Length::new(1)).unwrap());
    let refused = batch.append_batch(&[changes[2], (past, Timestamp::default())]);
    assert!(matches!(refused, Err(Error::OutOfRange { .. })));
    batch.append_batch(&[]).unwrap();
    let bytes = |log: FileWriter| {
        let sealed = log.seal(ContentDigest::NONE).unwrap();
        std::fs::read(SealedLog::open(sealed.path()).unwrap().path()).unwrap()
    };
    assert!(bytes(batch) == bytes(single));
}

#[test]
fn limits_are_typed_and_leave_the_log_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let options = WriterOptions::default().with_quota(Length::new(350));
    let mut log = FileWriter::create(&path, header(), options).unwrap();
    let write = |log: &mut FileWriter, offset, length| {
        let data = vec![1; length];
        let offset = Offset::new(offset);
        log.append(
            Change::Write {
                offset,
                data: &data,
            },
            Timestamp::default(),
        )
    };
    write(&mut log, 0, 100).unwrap();
    assert!(matches!(
        write(&mut log, 0, 100),
        Err(Error::OverQuota { .. })
    ));
    assert!(matches!(
        write(&mut log, SIZE - 1, 2),
        Err(Error::OutOfRange { .. })
    ));
    assert!(matches!(write(&mut log, u64::MAX, 2), Err(Error::Disk(_))));
    write(&mut log, 5, 2).unwrap();
    let sealed = log.seal(ContentDigest::NONE).unwrap();
    assert_eq!(SealedLog::open(sealed.path()).unwrap().summary().records, 2);
}

/// Reserved space is neither a tear nor part of a sealed log.
#[test]
fn reserved_space_changes_no_byte_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let seal = |name, options| {
        let path = folder.path().join(name);
        let mut log = FileWriter::create(&path, header(), options).unwrap();
        for offset in 0..40 {
            let offset = Offset::new(offset);
            let change = Change::Write {
                offset,
                data: &[7; 999],
            };
            log.append(change, Timestamp::default()).unwrap();
        }
        let open = std::fs::metadata(&path).unwrap().len() - log.length().get();
        let recovered = recover(&path, |_| Ok(())).unwrap();
        assert_eq!((recovered.records, recovered.tail), (40, Tail::Whole));
        log.seal(ContentDigest::NONE).unwrap();
        SealedLog::open(&path).unwrap();
        (open, std::fs::read(&path).unwrap())
    };
    let (plain, expected) = seal("plain", WriterOptions::default());
    let options = WriterOptions::default().with_reserve(Length::kib(64));
    let (reserved, found) = seal("reserved", options);
    assert!(plain == 0 && reserved > 0, "{plain} {reserved}");
    assert!(found == expected);
}

#[test]
fn an_index_that_is_full_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = WriterOptions::default();
    options.pieces_max = 2;
    let path = folder.path().join("log");
    let mut log = FileWriter::create(&path, header(), options).unwrap();
    let mut write = |offset| {
        let offset = Offset::new(offset);
        log.append(Change::Write { offset, data: b"x" }, Timestamp::default())
    };
    write(0).unwrap();
    write(100).unwrap();
    assert!(matches!(write(200), Err(Error::IndexFull { limit: 2 })));
    assert_eq!(log.index_used_percent(), 100);
}

#[test]
fn a_log_of_another_size_of_disk_changes_nothing() {
    let (_folder, log) = sealed(&[Step::Write(0, vec![1; 512])]);
    let disk = MemoryDisk::new(Length::new(SIZE + 512));
    assert!(matches!(log.apply(&disk), Err(Error::WrongDisk { .. })));
    assert!(disk.contents().iter().all(|byte| *byte == 0));
    disk.flush().unwrap();
}

#[test]
fn newer_versions_are_refused_as_such() {
    let mut bytes = header().encode();
    bytes[8] = 2;
    let checksum = crc32fast_of(&bytes[..124]);
    bytes[124..].copy_from_slice(&checksum.to_le_bytes());
    assert!(matches!(
        LogHeader::parse(&bytes),
        Err(Error::NewerVersion { found: 2 })
    ));
    bytes[8] = 1;
    bytes[12] = 4;
    let checksum = crc32fast_of(&bytes[..124]);
    bytes[124..].copy_from_slice(&checksum.to_le_bytes());
    assert!(matches!(
        LogHeader::parse(&bytes),
        Err(Error::Damaged { .. })
    ));
}

/// CRC-32 bit by bit, after the specification rather than after the library.
fn crc32fast_of(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[test]
fn a_record_of_another_log_does_not_pass() {
    let (_a, one) = sealed(&[Step::Write(0, vec![1; 64])]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other");
    let other = LogHeader {
        epoch: Epoch::new(4),
        ..header()
    };
    drop(FileWriter::create(&path, other, WriterOptions::default()).unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    let record = &std::fs::read(one.path()).unwrap()[128..128 + 48 + 64];
    bytes.extend_from_slice(record);
    let mut reader = Reader::new(bytes.into()).unwrap();
    assert_eq!(reader.next(), None);
    assert!(matches!(reader.tail(), Some(Tail::Torn { at: 128, .. })));
}

/// The golden file is what version 1 has always written, and what every release reads.
#[test]
fn the_golden_log_is_written_and_read_byte_for_byte() {
    let steps = [
        Step::Write(4096, b"after-image".to_vec()),
        Step::Zero(Extent::new(Offset::new(4100), Length::new(4)).unwrap()),
        Step::Discard(Extent::new(Offset::new(8192), Length::new(512)).unwrap()),
        Step::Bookmark("backup".into()),
    ];
    let (_folder, log) = sealed(&steps);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/version-1.ailog");
    if std::env::var_os("AFTERIMAGE_WRITE_GOLDEN").is_some() {
        std::fs::copy(log.path(), &golden).unwrap();
    }
    assert_eq!(
        std::fs::read(log.path()).unwrap(),
        std::fs::read(&golden).unwrap()
    );
    let disk = disk();
    SealedLog::open(&golden).unwrap().apply(&disk).unwrap();
    assert!(disk.contents() == contents_after(&steps));
}

/// The bytes of the example in FORMAT.md: rows of an offset and up to 16 bytes.
fn example() -> Vec<u8> {
    let specification = include_str!("../FORMAT.md");
    let (_, example) = specification.split_once("## Example").unwrap();
    let mut bytes = Vec::new();
    for row in example.lines() {
        let (offset, row) = row.split_once("  ").unwrap_or_default();
        let Ok(offset) = usize::from_str_radix(offset, 16) else {
            continue;
        };
        assert_eq!(offset, bytes.len(), "a row is missing, or too long");
        let row = row.split_whitespace();
        bytes.extend(row.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}

#[test]
fn the_example_of_the_specification_is_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let steps = [Step::Write(4096, b"after-image".to_vec())];
    let log = common::seal(&path, header(), &steps, ContentDigest::NONE);
    assert_eq!(example(), std::fs::read(log.path()).unwrap());
    std::fs::write(&path, example()).unwrap();
    let disk = disk();
    SealedLog::open(&path).unwrap().apply(&disk).unwrap();
    assert!(disk.contents() == contents_after(&steps));
}
