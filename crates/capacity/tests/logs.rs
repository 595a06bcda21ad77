//! The lengths of logs that are reckoned are those of files.

#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "a test fails by panicking, and lengths are whole numbers"
)]

use std::time::Duration;

use afterimage_block::{
    Change, ContentDigest, DiskId, Epoch, Extent, Length, Offset, Sequence, Timestamp,
};
use afterimage_capacity::{Assumptions, Plan, Recording};
use afterimage_changelog::{
    FileWriter, HrlId, HrlOptions, HrlWriter, LogHeader, SealedLog, WriterOptions, merge, open_log,
};
use proptest::prelude::*;

const SIZE: Length = Length::mib(4);

fn header(sequence: u64) -> LogHeader {
    LogHeader {
        disk: DiskId::from_bytes([1; 16]),
        disk_size: SIZE,
        epoch: Epoch::new(1),
        first: Sequence::new(sequence),
        last: Sequence::new(sequence),
        created: Timestamp::default(),
    }
}

/// Offset and length, in units of 512, and what is done there.
type Step = (u64, u64, u8);

fn log(path: &std::path::Path, steps: &[Step]) -> SealedLog {
    let mut log = FileWriter::create(path, header(1), WriterOptions::default()).unwrap();
    for (second, (at, length, kind)) in (0..).zip(steps) {
        let extent = Extent::new(Offset::new(at * 512), Length::new(length * 512)).unwrap();
        let data = vec![*kind; extent.length().to_usize().unwrap()];
        let change = match kind {
            0 => Change::WriteZeroes(extent),
            1 => Change::Discard(extent),
            _ => Change::Write {
                offset: extent.start(),
                data: &data,
            },
        };
        log.append(change, Timestamp::from_nanos(second)).unwrap();
    }
    log.seal(ContentDigest::NONE).unwrap()
}

fn planned(log: &SealedLog, merged: bool) -> f64 {
    let mut recording = Recording::new();
    let disk = recording.add_disk(SIZE);
    recording.record_log(disk, log).unwrap();
    let assumptions = Assumptions {
        merged,
        ..Assumptions::default()
    };
    let plan = Plan::of(&recording, &assumptions);
    assert_eq!(plan.intervals, 1);
    plan.shipped.mean
}

#[expect(clippy::cast_precision_loss, reason = "some kilobytes")]
fn length(log: &SealedLog) -> f64 {
    log.summary().file_length.get() as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn lengths_are_those_of_files(
        steps in prop::collection::vec((0_u64..8000, 1_u64..192, 0_u8..9), 1..400)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let log = log(&folder.path().join("log"), &steps);
        prop_assert_eq!(planned(&log, false), length(&log));
        let path = folder.path().join("merged");
        let merged = merge(&log, &[], &path, WriterOptions::default()).unwrap();
        prop_assert_eq!(planned(&log, true), length(&merged));
    }
}

#[test]
fn logs_of_hyper_v_are_recorded_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.hrl");
    let begun = Timestamp::from_nanos(1_700_000_000_000_000_000);
    let options = HrlOptions::new(HrlId::random(), begun);
    let mut log = HrlWriter::create(&path, &options).unwrap();
    for minute in 0..3 {
        let time = Timestamp::from_nanos(begun.as_nanos() + minute * 60_000_000_000);
        let change = Change::Write {
            offset: Offset::new(4096),
            data: &[1; 4096],
        };
        log.append(change, time).unwrap();
    }
    log.close(begun).unwrap();
    let mut recording = Recording::new();
    let disk = recording.add_disk(SIZE);
    recording
        .record_log(disk, &open_log(&path).unwrap())
        .unwrap();
    assert_eq!(recording.changes(), 3);
    assert_eq!(recording.span(), Duration::from_mins(2));
}
