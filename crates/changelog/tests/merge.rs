//! Consecutive logs merged into one do what they did one after the other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use afterimage_block::{ContentDigest, DiskId, Epoch, Extent, Length, Offset, Timestamp};
use afterimage_changelog::{ChangeLog, Error, LogHeader, SealedLog, WriterOptions, merge};
use common::{Step, contents_after, disk, header, seal, steps};
use proptest::prelude::*;

/// Logs of consecutive generations from 1 on, each naming the one before.
fn chain(folder: &Path, generations: &[Vec<Step>]) -> Vec<SealedLog> {
    let mut predecessor = ContentDigest::new([9; 32]);
    let mut logs = Vec::new();
    for (steps, number) in generations.iter().zip(1..) {
        let path = folder.join(number.to_string());
        let log = seal(&path, header(number, number), steps, predecessor);
        predecessor = log.summary().content;
        logs.push(log);
    }
    logs
}

fn merged(logs: &[SealedLog], path: &Path) -> SealedLog {
    let (first, rest) = logs.split_first().unwrap();
    merge(first, rest, path, WriterOptions::default()).unwrap();
    // As anybody finds it, who has only the file.
    SealedLog::open(path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn merging_is_applying_in_order(generations in prop::collection::vec(steps(), 1..5)) {
        let folder = tempfile::tempdir().unwrap();
        let logs = chain(folder.path(), &generations);
        let log = merged(&logs, &folder.path().join("merged"));

        let (one_by_one, at_once) = (disk(), disk());
        for log in &logs {
            log.apply(&one_by_one).unwrap();
        }
        log.apply(&at_once).unwrap();
        prop_assert!(one_by_one.contents() == contents_after(generations.iter().flatten()));
        prop_assert!(at_once.contents() == one_by_one.contents());

        let last = header(1, logs.len() as u64);
        prop_assert_eq!(log.header(), &last);
        prop_assert_eq!(log.summary().predecessor, ContentDigest::new([9; 32]));
        // Each byte at most once, and no payload that is not needed.
        let mut end = 0;
        let mut payload = 0;
        log.records(|record| {
            let extent = record.header.extent.unwrap();
            assert!(extent.start().get() >= end);
            end = extent.end().get();
            payload += record.payload.len() as u64;
            Ok(())
        }).unwrap();
        prop_assert_eq!(payload, log.summary().payload.get());
        prop_assert_eq!(log.index().unwrap().pieces() as u64, log.summary().records);
    }

    #[test]
    fn merging_what_was_merged_is_merging_all(generations in prop::collection::vec(steps(), 3..5)) {
        let folder = tempfile::tempdir().unwrap();
        let logs = chain(folder.path(), &generations);
        let all = merged(&logs, &folder.path().join("all"));
        let two = merged(&logs[..2], &folder.path().join("two"));
        let mut rest = vec![two];
        rest.extend_from_slice(&logs[2..]);
        let again = merged(&rest, &folder.path().join("again"));
        let pieces = |log: &SealedLog| {
            log.index().unwrap().iter().map(|piece| (piece.extent, piece.discarded)).collect::<Vec<_>>()
        };
        prop_assert_eq!(pieces(&all), pieces(&again));
        prop_assert!(std::fs::read(all.path()).unwrap() == std::fs::read(again.path()).unwrap());
    }
}

#[test]
fn zeros_discards_and_times_are_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let extent = |start: u64, length| Extent::new(Offset::new(start), Length::new(length)).unwrap();
    let logs = chain(
        folder.path(),
        &[
            vec![Step::Write(0, vec![1; 100]), Step::Discard(extent(50, 100))],
            vec![
                Step::Bookmark("x".into()),
                Step::Zero(extent(60, 10)),
                Step::Write(140, vec![2; 20]),
            ],
        ],
    );
    let log = merged(&logs, &folder.path().join("merged"));
    let mut found = Vec::new();
    log.records(|record| {
        let extent = record.header.extent.unwrap();
        let kind = record.header.kind as u8;
        found.push((
            kind,
            extent.start().get(),
            extent.end().get(),
            record.time().as_nanos(),
        ));
        Ok(())
    })
    .unwrap();
    let expected = [
        (1, 0, 50, 0),
        (3, 50, 60, 1),
        (2, 60, 70, 1),
        (3, 70, 140, 1),
        (1, 140, 160, 2),
    ];
    assert_eq!(found, expected);
}

#[test]
fn logs_that_do_not_follow_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = [Step::Write(0, vec![1; 10])];
    let first = seal(
        &folder.path().join("1"),
        header(1, 1),
        &write,
        ContentDigest::NONE,
    );
    let content = first.summary().content;
    let path = folder.path().join("2");
    let target = folder.path().join("merged");
    let refused = |header: LogHeader, predecessor| {
        let second = seal(&path, header, &write, predecessor);
        let result = merge(&first, &[second], &target, WriterOptions::default());
        let Err(refused) = result else {
            std::fs::remove_file(&target).unwrap();
            return false;
        };
        assert!(matches!(refused, Error::NotConsecutive { .. }), "{refused}");
        assert!(!target.exists());
        true
    };
    let good = header(2, 2);
    assert!(!refused(good, content));
    assert!(
        !refused(good, ContentDigest::NONE),
        "it does not know its predecessor"
    );
    assert!(refused(good, ContentDigest::new([1; 32])));
    assert!(refused(header(3, 3), content));
    assert!(refused(header(1, 1), content));
    let disk = DiskId::from_bytes([1; 16]);
    assert!(refused(LogHeader { disk, ..good }, content));
    let epoch = Epoch::new(4);
    assert!(refused(LogHeader { epoch, ..good }, content));
    let disk_size = Length::mib(1);
    assert!(refused(LogHeader { disk_size, ..good }, content));
}

#[test]
fn the_last_generation_has_no_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let log = |name: &str| {
        let path = folder.path().join(name);
        seal(&path, header(u64::MAX, u64::MAX), &[], ContentDigest::NONE)
    };
    let result = merge(
        &log("1"),
        &[log("2")],
        &folder.path().join("m"),
        WriterOptions::default(),
    );
    assert!(matches!(result, Err(Error::NotConsecutive { .. })));
}

#[test]
fn a_log_that_was_changed_since_it_was_proved_is_not_merged() {
    let folder = tempfile::tempdir().unwrap();
    let logs = chain(folder.path(), &[vec![Step::Write(0, vec![1; 10])], vec![]]);
    let mut bytes = std::fs::read(logs[0].path()).unwrap();
    bytes[128 + 48 + 3] ^= 1;
    std::fs::write(logs[0].path(), &bytes).unwrap();
    let target = folder.path().join("merged");
    let result = merge(&logs[0], &logs[1..], &target, WriterOptions::default());
    let error = result.unwrap_err();
    assert!(
        matches!(error.cause(), Error::Damaged { at: 128, .. }),
        "{error}"
    );
    assert!(!target.exists());
}

#[test]
fn a_log_that_was_replaced_since_it_was_proved_is_neither_merged_nor_applied() {
    let folder = tempfile::tempdir().unwrap();
    let logs = chain(folder.path(), &[vec![Step::Write(0, vec![1; 10])], vec![]]);
    let other = [Step::Write(0, vec![2; 10])];
    for header in [header(1, 1), header(5, 5)] {
        seal(logs[0].path(), header, &other, ContentDigest::new([9; 32]));
        let target = folder.path().join("merged");
        let result = merge(&logs[0], &logs[1..], &target, WriterOptions::default());
        let error = result.unwrap_err();
        assert!(matches!(error.cause(), Error::Damaged { .. }), "{error}");
        let disk = disk();
        assert!(logs[0].apply(&disk).is_err());
        assert!(disk.contents() == contents_after(&[]));
    }
}

#[test]
fn nothing_is_replaced_not_even_one_of_the_logs() {
    let folder = tempfile::tempdir().unwrap();
    let logs = chain(folder.path(), &[vec![Step::Write(0, vec![1; 10])], vec![]]);
    let result = merge(
        &logs[0],
        &logs[1..],
        logs[0].path(),
        WriterOptions::default(),
    );
    assert!(matches!(result, Err(Error::Io { .. })));
    assert_eq!(
        SealedLog::open(logs[0].path()).unwrap().summary(),
        logs[0].summary()
    );
}

/// More logs than files are kept open, and more records than are kept.
#[test]
fn many_logs_are_merged_in_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let large = |number: u64| Step::Write(number * 7, vec![number.to_le_bytes()[0]; 5000]);
    let generations: Vec<_> = (0..150).map(|number| vec![large(number)]).collect();
    let logs = chain(folder.path(), &generations);
    let log = merged(&logs, &folder.path().join("merged"));
    let disk = disk();
    ChangeLog::apply(&log, &disk).unwrap();
    assert!(disk.contents() == contents_after(generations.iter().flatten()));
    assert_eq!(
        log.header().created,
        Timestamp::from_nanos(1_764_000_000_123_456_789)
    );
}

/// So much in small pieces that a thread reads ahead of the writes.
mod long {
    use std::os::unix::fs::FileExt;

    use afterimage_block::{Change, MemoryDisk};
    use afterimage_changelog::FileWriter;

    use super::*;

    const DISK: Length = Length::mib(8);
    const PIECE: u64 = 4096;

    /// Two logs, the second of which overwrites every other piece of what the first writes.
    fn logs(folder: &Path) -> [SealedLog; 2] {
        [(1, 1), (2, 2)].map(|(number, every)| {
            let header = LogHeader {
                disk_size: DISK,
                ..header(number, number)
            };
            let path = folder.join(number.to_string());
            let mut log = FileWriter::create(&path, header, WriterOptions::default()).unwrap();
            for at in (0..DISK.get() / PIECE).step_by(every) {
                let data: Vec<_> = (0..PIECE / 8)
                    .flat_map(|word| (at * number + word).to_le_bytes())
                    .collect();
                let offset = Offset::new(at * PIECE);
                let change = Change::Write {
                    offset,
                    data: &data,
                };
                log.append(change, Timestamp::default()).unwrap();
            }
            log.seal(ContentDigest::NONE).unwrap()
        })
    }

    #[test]
    fn it_does_what_its_logs_do() {
        let folder = tempfile::tempdir().unwrap();
        let logs = logs(folder.path());
        let (one, other) = (MemoryDisk::new(DISK), MemoryDisk::new(DISK));
        for log in &logs {
            log.apply(&one).unwrap();
        }
        let merged = merged(&logs, &folder.path().join("merged"));
        assert_eq!(merged.summary().payload, DISK);
        merged.apply(&other).unwrap();
        assert!(one.contents() == other.contents());
    }

    #[test]
    fn damage_far_in_is_named_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let logs = logs(folder.path());
        let at = logs[1].summary().file_length.get() / 2;
        let file = std::fs::File::options()
            .write(true)
            .open(logs[1].path())
            .unwrap();
        file.write_all_at(b"damage", at).unwrap();
        let target = folder.path().join("merged");
        let error = merge(&logs[0], &logs[1..], &target, WriterOptions::default()).unwrap_err();
        assert!(matches!(error.cause(), Error::Damaged { .. }), "{error}");
        assert!(
            error.to_string().contains(logs[1].path().to_str().unwrap()),
            "{error}"
        );
        assert!(!target.exists());
    }

    #[test]
    fn a_write_that_fails_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let logs = logs(folder.path());
        let target = folder.path().join("merged");
        let options = WriterOptions::default().with_quota(Length::mib(1));
        let error = merge(&logs[0], &logs[1..], &target, options).unwrap_err();
        assert!(matches!(error.cause(), Error::OverQuota { .. }), "{error}");
        assert!(!target.exists());
    }
}
