//! Files that somebody made to break a reader: nothing panics, nothing takes the memory that the file
//! asks for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use afterimage_block::{ContentDigest, Length, MemoryDisk, Offset, Timestamp};
use afterimage_changelog::{
    ChangeLog, Error, HrlEntry, HrlHeader, HrlId, HrlLog, HrlOptions, HrlTime, HrlVersion,
    HrlWriter, SealedLog, open_log, salvage,
};
use common::{Step, header, seal};
use proptest::prelude::*;

/// Writes the complement of the sum of `bytes` without the field at `field` there.
fn sum(bytes: &mut [u8], field: usize) {
    bytes[field..field + 4].fill(0);
    let sum = bytes
        .iter()
        .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    bytes[field..field + 4].copy_from_slice(&(!sum).to_le_bytes());
}

fn block(back: u64, count: u32, entries: &[HrlEntry], size: usize) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    bytes[..8].copy_from_slice(&back.to_le_bytes());
    bytes[8..12].copy_from_slice(&count.to_le_bytes());
    sum(&mut bytes, 12);
    for entry in entries {
        bytes.extend_from_slice(&entry.encode());
    }
    bytes.resize(size, 0);
    bytes
}

fn hrl_header(end: u64, metadata_size: u32, entries: u64) -> HrlHeader {
    HrlHeader {
        version: HrlVersion::V2,
        created: HrlTime::default(),
        creator: *b"evil",
        creator_version: 0,
        original_size: u64::MAX,
        current_size: u64::MAX,
        end: Some(end).filter(|end| *end != 0),
        error_code: i32::MIN,
        metadata_size,
        id: HrlId::NIL,
        previous: HrlId::NIL,
        modified: HrlTime::default(),
        entries,
        data_write_guid: None,
    }
}

/// Everything that reads the file at `path`. Nothing may panic.
fn read_in_every_way(path: &Path) {
    let disk = MemoryDisk::new(Length::new(4096));
    if let Ok(log) = open_log(path) {
        let _ = log.extents();
        let _ = log.apply(&disk);
        let _ = log.changes(&mut |_, _| Ok(()));
    }
    if let Ok(salvaged) = HrlLog::salvage(path) {
        let _ = salvaged.log.apply(&disk);
        let _ = salvaged.log.index();
    }
    let _ = salvage(path, |_| Ok(()));
}

/// Numbers near the places where arithmetic breaks, or that fit.
fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(4096),
        Just(8192),
        (0..20_000_u64),
        (0..5000_u64).prop_map(|less| u64::MAX - less),
        any::<u64>(),
    ]
}

fn entries() -> impl Strategy<Value = Vec<HrlEntry>> {
    let entry = (
        numbers(),
        any::<u32>(),
        0..3000_u32,
        any::<bool>(),
        any::<u32>(),
    );
    let entry = entry.prop_map(|(offset, long, short, is_long, checksum)| HrlEntry {
        offset: Offset::new(offset),
        length: if is_long { long } else { short },
        time: HrlTime::from_secs(long),
        data_checksum: std::num::NonZeroU32::new(checksum).filter(|_| is_long),
    });
    prop::collection::vec(entry, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// With checksums that match, so that what is behind them is reached.
    #[test]
    fn hostile_hrls_do_not_panic(
        end in numbers(), size in prop_oneof![Just(512_u32), Just(4096), Just(1 << 20), any::<u32>()],
        total in numbers(), backs in prop::collection::vec((numbers(), any::<u32>(), entries()), 0..5),
        body in prop::collection::vec(any::<u8>(), 0..5000),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hostile.hrl");
        let mut bytes = hrl_header(end, size, total).encode().to_vec();
        for (back, count, entries) in &backs {
            let size = usize::try_from(size).unwrap().clamp(512, 4096);
            let count = if count % 4 == 0 { *count } else { u32::try_from(entries.len()).unwrap() };
            bytes.extend(block(*back, count, entries, size));
        }
        bytes.extend(&body);
        std::fs::write(&path, &bytes).unwrap();
        read_in_every_way(&path);
        // Closed where the file ends, and never closed.
        for end in [bytes.len() as u64, 0] {
            let header = hrl_header(end, size, total).encode();
            bytes[..4096].copy_from_slice(&header);
            std::fs::write(&path, &bytes).unwrap();
            read_in_every_way(&path);
        }
    }

    #[test]
    fn rubbish_behind_either_magic_does_not_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..9000), native in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rubbish");
        let start = if native { header(1, 1).encode().to_vec() } else { b"msctlog ".to_vec() };
        let keep = start.len().min(bytes.len());
        bytes[..keep].copy_from_slice(&start[..keep]);
        if !native && bytes.len() >= 4096 {
            sum(&mut bytes[..4096], 40);
        }
        std::fs::write(&path, &bytes).unwrap();
        read_in_every_way(&path);
        prop_assert!(open_log(&path).is_err());
    }
}

/// Blocks that point at themselves, at each other, or before the beginning.
#[test]
fn back_pointers_do_not_loop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("loop.hrl");
    for (first, second) in [
        (0, 0),
        (0, u64::MAX),
        (0, 4096 + 1),
        (1, 4096),
        (4096, 4096),
        (0, 8192),
    ] {
        let mut bytes = hrl_header(12_288, 4096, 0).encode().to_vec();
        bytes.extend(block(first, 0, &[], 4096));
        bytes.extend(block(second, 0, &[], 4096));
        std::fs::write(&path, &bytes).unwrap();
        let error = HrlLog::open(&path).unwrap_err();
        let damaged = matches!(
            error.cause(),
            Error::Damaged {
                at: 4096 | 8192,
                ..
            }
        );
        assert!(damaged, "{first} {second}: {error}");
        read_in_every_way(&path);
    }
}

/// Data that no entry describes could hide anything; entries without data would take the metadata's.
#[test]
fn data_fills_exactly_what_is_between_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gap.hrl");
    let open = |described: u32, data: usize, version, total| {
        let entry = HrlEntry {
            offset: Offset::new(0),
            length: described,
            time: HrlTime::default(),
            data_checksum: None,
        };
        let end = (8192 + data + 4096) as u64;
        let header = HrlHeader {
            version,
            ..hrl_header(end, 4096, total)
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend(block(0, 0, &[], 4096));
        bytes.resize(bytes.len() + data, 7);
        bytes.extend(block((4096 + data) as u64, 1, &[entry], 4096));
        std::fs::write(&path, &bytes).unwrap();
        HrlLog::open(&path)
    };
    for version in [HrlVersion::V1, HrlVersion::V2] {
        assert!(open(100, 100, version, 1).is_ok());
        for described in [0, 99, 101, 4196, u32::MAX] {
            let error = open(described, 100, version, 1).unwrap_err();
            let damaged = matches!(error.cause(), Error::Damaged { at: 8292, .. });
            assert!(damaged, "{described}: {error}");
        }
        let error = open(100, 100, version, 2).unwrap_err();
        assert!(
            matches!(error.cause(), Error::Damaged { at: 96, .. }),
            "{error}"
        );
    }
}

/// The most memory that this process has had, in bytes.
fn memory_peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// Entries of 4 GiB whose data is a hole of a sparse file, and a footer of 64 GiB that is one.
#[test]
fn memory_is_not_what_a_file_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.hrl");
    let entry = HrlEntry {
        offset: Offset::new(0),
        length: u32::MAX,
        time: HrlTime::default(),
        data_checksum: None,
    };
    let end = 8192 + u64::from(u32::MAX) + 4096;
    let file = File::create(&path).unwrap();
    file.write_all_at(&hrl_header(end, 4096, 1).encode(), 0)
        .unwrap();
    file.write_all_at(&block(0, 0, &[], 4096), 4096).unwrap();
    file.write_all_at(&block(end - 8192, 1, &[entry], 4096), end - 4096)
        .unwrap();
    let before = memory_peak();
    let log = HrlLog::open(&path).unwrap();
    assert_eq!(log.summary().payload, Length::new(u32::MAX.into()));
    let error = log.apply(&MemoryDisk::new(Length::mib(1))).unwrap_err();
    assert!(matches!(error.cause(), Error::OutOfRange { .. }));
    let stop = log.changes(&mut |_, change| {
        assert_eq!(change.extent().unwrap().length(), Length::mib(1));
        Err(Error::NotSealed)
    });
    assert!(matches!(stop, Err(Error::NotSealed)));

    let native = seal(
        &folder.path().join("1"),
        header(1, 1),
        &[Step::Write(0, vec![1; 9])],
        ContentDigest::NONE,
    );
    let bytes = std::fs::read(native.path()).unwrap();
    let mut trailer = bytes[bytes.len() - 32..].to_vec();
    let long = 64_u64 << 30;
    trailer[8..16].copy_from_slice(&128_u64.to_le_bytes());
    trailer[16..24].copy_from_slice(&long.to_le_bytes());
    let checksum = crc32(&trailer[..28]);
    trailer[28..].copy_from_slice(&checksum.to_le_bytes());
    let sparse = File::options().write(true).open(native.path()).unwrap();
    sparse.set_len(0).unwrap();
    sparse.write_all_at(&bytes[..128], 0).unwrap();
    sparse.write_all_at(&trailer, 128 + long).unwrap();
    let error = SealedLog::open(native.path()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let grown = memory_peak() - before;
    assert!(grown < 64 << 20, "{grown} bytes");
}

/// CRC-32 bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| {
        if crc & 1 == 1 {
            crc >> 1 ^ 0xEDB8_8320
        } else {
            crc >> 1
        }
    };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), step);
    !bytes.iter().fold(u32::MAX, byte)
}

/// The header alone can be believed only as far as the file goes.
#[test]
fn an_end_behind_the_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.hrl");
    let options = HrlOptions::new(HrlId::NIL, Timestamp::default());
    let log = HrlWriter::create(&path, &options).unwrap();
    let log = log.close(Timestamp::default()).unwrap();
    for end in [1, 4095, 4096, 8191, 8193, u64::MAX] {
        let header = HrlHeader {
            end: Some(end),
            ..*log.header()
        };
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[..4096].copy_from_slice(&header.encode());
        std::fs::write(&path, &bytes).unwrap();
        let error = HrlLog::open(&path).unwrap_err();
        assert!(
            matches!(error.cause(), Error::Damaged { .. }),
            "{end}: {error}"
        );
    }
}
