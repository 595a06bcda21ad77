//! The laws of HRL files, for any writes, any cut and any flipped bit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use afterimage_block::{Change, Extent, Length, MemoryDisk, Offset, Timestamp};
use afterimage_changelog::{
    Error, HrlHeader, HrlId, HrlLog, HrlOptions, HrlRecord, HrlVersion, HrlWriter,
};
use proptest::prelude::*;

const SIZE: u64 = 64 << 10;
/// 2017-02-08 04:13:01 UTC, a whole second.
const TIME: Timestamp = Timestamp::from_nanos(1_486_527_181_000_000_000);

type Writes = Vec<(u64, Vec<u8>)>;

fn writes() -> impl Strategy<Value = Writes> {
    let one = (0..SIZE, 1..3000_u64, any::<u8>()).prop_map(|(start, length, value)| {
        let length = usize::try_from(length.min(SIZE - start)).unwrap();
        (start, vec![value; length])
    });
    // More than the 127 entries of a metadata block, now and then.
    prop_oneof![
        8 => prop::collection::vec(one.clone(), 0..12),
        1 => prop::collection::vec(one, 120..300),
    ]
}

fn options() -> HrlOptions {
    HrlOptions::new(HrlId::from_bytes(*b"log of the test."), TIME)
}

fn change((offset, data): &(u64, Vec<u8>)) -> Change<'_> {
    Change::Write {
        offset: Offset::new(*offset),
        data,
    }
}

fn write(folder: &Path, options: &HrlOptions, writes: &Writes) -> HrlLog {
    let mut log = HrlWriter::create(&folder.join("log.hrl"), options).unwrap();
    for one in writes {
        log.append(change(one), TIME).unwrap();
    }
    log.close(TIME).unwrap()
}

fn contents_after(writes: &Writes) -> Vec<u8> {
    let disk = MemoryDisk::new(Length::new(SIZE));
    for one in writes {
        change(one).apply_to(&disk).unwrap();
    }
    disk.contents()
}

fn applied(log: &HrlLog) -> Vec<u8> {
    let disk = MemoryDisk::new(Length::new(SIZE));
    log.apply(&disk).unwrap();
    disk.contents()
}

fn records(log: &HrlLog) -> Vec<HrlRecord> {
    let mut records = Vec::new();
    log.entries(|record| {
        records.push(record);
        Ok(())
    })
    .unwrap();
    records
}

fn rewritten(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("rewritten.hrl");
    std::fs::write(&path, bytes).unwrap();
    path
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_was_written_is_read_in_order(writes in writes(), sums in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let options = options().with_data_checksums(sums);
        let log = write(folder.path(), &options, &writes);
        let bytes = std::fs::read(log.path()).unwrap();
        prop_assert_eq!(log.header().version, HrlVersion::V2);
        prop_assert_eq!(log.header().end, Some(bytes.len() as u64));
        prop_assert_eq!(log.summary().entries, writes.len() as u64);
        prop_assert_eq!(log.summary().checksummed, if sums { writes.len() as u64 } else { 0 });
        let records = records(&log);
        prop_assert_eq!(records.len(), writes.len());
        for (record, (offset, data)) in records.iter().zip(&writes) {
            let at = usize::try_from(record.data_at).unwrap();
            prop_assert_eq!(record.entry.offset.get(), *offset);
            prop_assert_eq!(Timestamp::from(record.entry.time), TIME);
            prop_assert_eq!(&bytes[at..at + data.len()], &data[..]);
        }
        log.verify().unwrap();
        let mut covered: Vec<Extent> = log.extents().unwrap();
        covered.dedup_by(|later, earlier| earlier.end() > later.start());
        prop_assert_eq!(covered.len(), log.index().unwrap().len(), "disjoint, in order");
        prop_assert!(applied(&log) == contents_after(&writes));
    }

    #[test]
    fn any_cut_is_found(writes in writes(), cut in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let log = write(folder.path(), &options(), &writes);
        let bytes = std::fs::read(log.path()).unwrap();
        let path = rewritten(folder.path(), &bytes[..cut.index(bytes.len())]);
        prop_assert!(HrlLog::open(&path).is_err());
    }

    /// Every byte but those of unused entries is under a checksum, and a single flipped bit always
    /// changes a sum of bytes.
    #[test]
    fn any_flipped_bit_that_matters_is_found(
        writes in writes(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let log = write(folder.path(), &options(), &writes);
        let mut bytes = std::fs::read(log.path()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let read = HrlLog::open(&rewritten(folder.path(), &bytes));
        let slots: Vec<_> = records(&log).iter().map(|record| record.at).collect();
        let unused = bytes_of_unused_entries(&log, &slots);
        match read {
            Err(error) => {
                prop_assert!(!unused.contains(&at));
                prop_assert!(matches!(error, Error::InFile { .. }), "{}", error);
            }
            Ok(read) => {
                prop_assert!(unused.contains(&at), "byte {}", at);
                prop_assert_eq!(records(&read), records(&log));
                prop_assert!(applied(&read) == contents_after(&writes));
            }
        }
    }

    /// What the format cannot see: data without a checksum, and bytes that changed places.
    #[test]
    fn data_is_only_as_safe_as_a_sum_of_bytes(value in 1..=255_u8, length in 2..500_usize) {
        let folder = tempfile::tempdir().unwrap();
        let mut data = vec![0; length];
        data[0] = value;
        let log = write(folder.path(), &options(), &vec![(0, data)]);
        let mut bytes = std::fs::read(log.path()).unwrap();
        bytes.swap(8192, 8193);
        let swapped = HrlLog::open(&rewritten(folder.path(), &bytes)).unwrap();
        prop_assert_eq!(&applied(&swapped)[..2], &[0, value]);

        bytes[8192] ^= 1;
        let path = rewritten(folder.path(), &bytes);
        prop_assert!(HrlLog::open(&path).is_err(), "a flipped bit is seen");

        std::fs::remove_file(log.path()).unwrap();
        let blind = options().with_data_checksums(false);
        let log = write(folder.path(), &blind, &vec![(0, vec![value; length])]);
        let mut bytes = std::fs::read(log.path()).unwrap();
        bytes[8192] ^= 1;
        let flipped = HrlLog::open(&rewritten(folder.path(), &bytes)).unwrap();
        prop_assert_eq!(applied(&flipped)[0], value ^ 1);
    }
}

/// Where in the file the entries of metadata blocks are that are not valid.
fn bytes_of_unused_entries(log: &HrlLog, used: &[u64]) -> std::collections::BTreeSet<usize> {
    let records = records(log);
    let mut blocks = vec![4096_u64];
    let mut data_end = 8192;
    for record in &records {
        if record.data_at != data_end {
            blocks.push(data_end);
            data_end = record.data_at;
        }
        data_end += u64::from(record.entry.length);
    }
    if !records.is_empty() {
        blocks.push(data_end);
    }
    assert_eq!(blocks.len() as u64, log.summary().blocks);
    let slots = blocks
        .iter()
        .flat_map(|block| (1..128).map(move |slot| block + slot * 32));
    slots
        .filter(|slot| !used.contains(slot))
        .flat_map(|slot| slot..slot + 32)
        .map(|at| usize::try_from(at).unwrap())
        .collect()
}

#[test]
fn zeros_and_long_writes_are_entries_of_a_mebibyte() {
    let folder = tempfile::tempdir().unwrap();
    let size = Length::mib(8);
    let path = folder.path().join("log.hrl");
    let mut log = HrlWriter::create(&path, &options()).unwrap();
    let data = vec![7; (5 << 19) + 3];
    let extent = |start, length| Extent::new(Offset::new(start), length).unwrap();
    let changes = [
        Change::Write {
            offset: Offset::new(1),
            data: &data,
        },
        Change::WriteZeroes(extent(100, Length::new(1000))),
        Change::Discard(extent(1 << 20, Length::mib(7))),
    ];
    for change in changes {
        log.append(change, TIME).unwrap();
    }
    assert_eq!(log.entries(), 3 + 1 + 7);
    let log = log.close(TIME).unwrap();
    let (read, made) = (MemoryDisk::new(size), MemoryDisk::new(size));
    log.apply(&read).unwrap();
    for change in changes {
        change.apply_to(&made).unwrap();
    }
    assert!(read.contents() == made.contents());
}

#[test]
fn limits_are_typed_and_leave_the_log_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.hrl");
    let options = options().with_quota(Length::new(8192 + 100 + 4096));
    let mut log = HrlWriter::create(&path, &options).unwrap();
    let change = |offset, data| Change::Write {
        offset: Offset::new(offset),
        data,
    };
    let quota = log.append(change(0, &[1; 101]), TIME).unwrap_err();
    assert!(matches!(quota.cause(), Error::OverQuota { .. }));
    let end = log.append(change(u64::MAX, &[1; 2]), TIME).unwrap_err();
    assert!(matches!(end, Error::Disk(_)));
    log.append(change(0, &[]), TIME).unwrap();
    log.append(change(5, &[1; 100]), TIME).unwrap();
    let log = log.close(TIME).unwrap();
    assert_eq!(log.summary().entries, 1);
    let length = std::fs::metadata(&path).unwrap().len();
    assert_eq!(length, 8192 + 100 + 4096, "the quota is exact");
    let again = HrlWriter::create(&path, &options).unwrap_err();
    assert!(matches!(again, Error::Io { .. }), "nothing is replaced");
}

#[test]
fn entries_past_the_end_of_the_disk_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let writes = vec![(0, vec![1; 512]), (SIZE - 512, vec![2; 513])];
    let log = write(folder.path(), &options(), &writes);
    let disk = MemoryDisk::new(Length::new(SIZE));
    let error = log.apply(&disk).unwrap_err();
    assert!(matches!(error.cause(), Error::OutOfRange { .. }), "{error}");
    assert!(error.to_string().contains("log.hrl"), "{error}");
    assert!(disk.contents().iter().all(|byte| *byte == 0));
    let disk = MemoryDisk::new(Length::new(SIZE + 512));
    log.apply(&disk).unwrap();
}

#[test]
fn a_log_that_was_not_closed_is_refused_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.hrl");
    let mut log = HrlWriter::create(&path, &options()).unwrap();
    log.append(change(&(0, vec![1])), TIME).unwrap();
    log.sync().unwrap();
    drop(log);
    let error = HrlLog::open(&path).unwrap_err();
    assert!(matches!(error.cause(), Error::NotClosed), "{error}");
}

/// Version 1, metadata blocks of another size, data before the first block: as no writer here does.
#[test]
fn version_1_and_other_metadata_sizes_are_read() {
    for (version, size) in [
        (HrlVersion::V1, 512),
        (HrlVersion::V1, 4096),
        (HrlVersion::V2, 65_536),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let template = write(folder.path(), &options(), &vec![(512, vec![9; 100])]);
        let entry = records(&template)[0].entry.encode();
        let mut block = vec![0; size];
        block[8] = 1;
        block[32..64].copy_from_slice(&entry);
        let sum: u32 = block[..32].iter().map(|byte| u32::from(*byte)).sum();
        block[12..16].copy_from_slice(&(!sum).to_le_bytes());
        let end = (4096 + 100 + size) as u64;
        let header = HrlHeader {
            version,
            metadata_size: u32::try_from(size).unwrap(),
            end: Some(end),
            current_size: end,
            ..*template.header()
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(&[9; 100]);
        bytes.extend_from_slice(&block);
        // What follows the end is not part of the log.
        bytes.extend_from_slice(&[0xFF; 77]);
        let log = HrlLog::open(&rewritten(folder.path(), &bytes)).unwrap();
        assert_eq!(log.header().version, version);
        assert_eq!(
            log.header().data_write_guid.is_some(),
            version == HrlVersion::V2
        );
        assert!(applied(&log) == contents_after(&vec![(512, vec![9; 100])]));
    }
}

/// The golden file is what version 2 is always written as, and what every release reads.
#[test]
fn the_golden_log_is_written_and_read_byte_for_byte() {
    let writes = vec![
        (4096, b"after-image".to_vec()),
        (4100, vec![0; 4]),
        (8192, vec![0xA5; 512]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut options = options().following(HrlId::from_bytes(*b"its predecessor."));
    options.data_write_guid = HrlId::from_bytes(*b"data write guid.");
    let log = write(folder.path(), &options, &writes);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/version-2.hrl");
    if std::env::var_os("AFTERIMAGE_WRITE_GOLDEN").is_some() {
        std::fs::copy(log.path(), &golden).unwrap();
    }
    let bytes = std::fs::read(&golden).unwrap();
    assert!(std::fs::read(log.path()).unwrap() == bytes);
    let read = HrlLog::open(&golden).unwrap();
    assert_eq!(read.header(), log.header());
    assert_eq!(read.header().previous.to_bytes(), *b"its predecessor.");
    assert!(applied(&read) == contents_after(&writes));
}
