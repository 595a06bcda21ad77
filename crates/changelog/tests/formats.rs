//! Either format where a log is asked for, and one into the other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use afterimage_block::{BlockWrite, Change, ContentDigest, Length, MemoryDisk, Offset, Timestamp};
use afterimage_changelog::{
    AnyLog, ChangeLog, Error, HrlId, HrlLog, HrlOptions, HrlWriter, SealedLog, WriterOptions,
    open_log, to_hrl, to_native,
};
use common::{SIZE, Step, contents_after, header, seal, steps};
use proptest::prelude::*;

const TIME: Timestamp = Timestamp::from_nanos(1_486_527_181_000_000_000);

fn options() -> HrlOptions {
    HrlOptions::new(HrlId::from_bytes(*b"log of the test."), TIME)
}

fn applied(log: &dyn ChangeLog) -> Vec<u8> {
    let disk = common::disk();
    log.apply(&disk).unwrap();
    disk.contents()
}

/// The bytes that each change leaves behind, zeros as bytes.
fn changes(log: &dyn ChangeLog) -> Vec<(u64, Vec<u8>)> {
    let mut changes = Vec::new();
    log.changes(&mut |_, change| {
        let Some(extent) = change.extent() else {
            return Ok(());
        };
        let data = match change {
            Change::Write { data, .. } => data.to_vec(),
            _ => vec![0; extent.length().to_usize().unwrap()],
        };
        changes.push((extent.start().get(), data));
        Ok(())
    })
    .unwrap();
    changes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_change_survives_the_way_to_hrl_and_back(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let native = seal(&folder.path().join("1"), header(1, 1), &steps, ContentDigest::NONE);
        let hrl = to_hrl(&native, &folder.path().join("2"), &options(), TIME).unwrap();
        let back = folder.path().join("3");
        let back = to_native(&hrl, &back, header(1, 1), WriterOptions::default(), ContentDigest::NONE).unwrap();
        SealedLog::open(back.path()).unwrap();
        prop_assert_eq!(changes(&native), changes(&hrl));
        prop_assert_eq!(changes(&native), changes(&back));
        let expected = contents_after(&steps);
        for path in [native.path(), hrl.path(), back.path()] {
            let log = open_log(path).unwrap();
            prop_assert!(applied(&log) == expected);
            prop_assert_eq!(log.path(), path);
            log.check_fits(Length::new(SIZE)).unwrap();
            let total: u64 = log.extents().unwrap().iter().map(|extent| extent.length().get()).sum();
            let pieces: u64 = native.index().unwrap().iter().map(|piece| piece.extent.length().get()).sum();
            prop_assert_eq!(total, pieces);
        }
    }
}

#[test]
fn the_format_is_found_by_how_the_file_begins() {
    let folder = tempfile::tempdir().unwrap();
    let write = [Step::Write(0, vec![1; 10])];
    let native = seal(
        &folder.path().join("a.hrl"),
        header(1, 1),
        &write,
        ContentDigest::NONE,
    );
    let hrl = to_hrl(&native, &folder.path().join("a.ailog"), &options(), TIME).unwrap();
    let opened = open_log(native.path()).unwrap();
    assert!(matches!(opened, AnyLog::Native(_)));
    assert_eq!(opened.disk(), Some(header(1, 1).disk));
    assert_eq!(opened.content(), native.summary().content);
    let opened = open_log(hrl.path()).unwrap();
    assert!(matches!(opened, AnyLog::Hrl(_)));
    assert_eq!(
        (opened.disk(), opened.content()),
        (None, ContentDigest::NONE)
    );

    for rubbish in [&b""[..], b"vhdxfile", b"msctlo", &[0; 9000]] {
        let path = folder.path().join("rubbish");
        std::fs::write(&path, rubbish).unwrap();
        let error = open_log(&path).unwrap_err();
        assert!(matches!(error.cause(), Error::UnknownFormat), "{error}");
        assert!(error.to_string().contains("rubbish"), "{error}");
    }
    let none = open_log(&folder.path().join("none")).unwrap_err();
    assert!(matches!(none, Error::Io { .. }));
}

#[test]
fn a_conversion_that_fails_leaves_no_file_and_replaces_none() {
    let folder = tempfile::tempdir().unwrap();
    let write = [Step::Write(0, vec![1; 1000])];
    let native = seal(
        &folder.path().join("1"),
        header(1, 1),
        &write,
        ContentDigest::NONE,
    );
    let path = folder.path().join("2");
    let small = options().with_quota(Length::new(9000));
    let error = to_hrl(&native, &path, &small, TIME).unwrap_err();
    assert!(matches!(error.cause(), Error::OverQuota { .. }));
    assert!(!path.exists());

    let hrl = to_hrl(&native, &path, &options(), TIME).unwrap();
    let smaller = afterimage_changelog::LogHeader {
        disk_size: Length::new(512),
        ..header(1, 1)
    };
    let third = folder.path().join("3");
    let options_native = WriterOptions::default();
    let error = to_native(
        &hrl,
        &third,
        smaller,
        options_native.clone(),
        ContentDigest::NONE,
    )
    .unwrap_err();
    assert!(matches!(error, Error::OutOfRange { .. }));
    assert!(!third.exists());

    let onto_itself = to_native(
        &hrl,
        &path,
        header(1, 1),
        options_native,
        ContentDigest::NONE,
    );
    assert!(matches!(onto_itself.unwrap_err(), Error::Io { .. }));
    HrlLog::open(&path).unwrap();
    assert!(to_hrl(&native, native.path(), &options(), TIME).is_err());
    SealedLog::open(native.path()).unwrap();
}

/// Long zeros take space in an HRL, and no memory.
#[test]
fn zeros_become_written_zeros_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let size = Length::mib(40);
    let large = afterimage_changelog::LogHeader {
        disk_size: size,
        ..header(1, 1)
    };
    let whole = afterimage_block::Extent::whole(size).unwrap();
    let native = seal(
        &folder.path().join("1"),
        large,
        &[Step::Discard(whole)],
        ContentDigest::NONE,
    );
    let hrl = to_hrl(&native, &folder.path().join("2"), &options(), TIME).unwrap();
    assert_eq!(hrl.summary().entries, 40);
    let disk = MemoryDisk::new(size);
    disk.write_at(Offset::new(12_345_678), b"before").unwrap();
    hrl.apply(&disk).unwrap();
    assert!(disk.contents().iter().all(|byte| *byte == 0));
}

/// An entry of more than a record's payload is several records.
#[test]
fn long_entries_are_handed_over_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1");
    let mut hrl = HrlWriter::create(&path, &options()).unwrap();
    let data = vec![5; (1 << 20) + 1];
    let offset = Offset::ZERO;
    hrl.append(
        Change::Write {
            offset,
            data: &data,
        },
        TIME,
    )
    .unwrap();
    let hrl = hrl.close(TIME).unwrap();
    let lengths: Vec<_> = changes(&hrl).iter().map(|(_, data)| data.len()).collect();
    assert_eq!(lengths, [1 << 20, 1]);
}
