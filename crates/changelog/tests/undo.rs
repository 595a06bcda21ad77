//! Applying a log and taking it back leaves the disk as it was.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use afterimage_block::{
    BlockRead, BlockWrite, Change, ContentDigest, DiskId, Extent, Length, MemoryDisk, Offset, Run,
    Timestamp,
};
use afterimage_changelog::{
    ChangeLog, Error, FileWriter, HrlId, HrlOptions, HrlWriter, LogHeader, SealedLog,
    WriterOptions, apply_with_undo, record_undo, to_hrl,
};
use common::{Failing, SIZE, Step, contents_after, disk, header, seal, steps};
use proptest::prelude::*;

fn undo(path: &Path) -> FileWriter {
    FileWriter::create_new(path, header(1, 1), WriterOptions::default()).unwrap()
}

fn runs(disk: &MemoryDisk) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut at = Offset::ZERO;
    while let Some(run) = disk.next_run(at).unwrap() {
        at = run.extent.end();
        runs.push(run);
    }
    runs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn applying_and_taking_back_is_nothing(
        generations in prop::collection::vec(steps(), 1..4), as_hrl in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk();
        let mut states = Vec::new();
        let mut undos = Vec::new();
        for (number, steps) in generations.iter().enumerate() {
            let path = |kind: &str| folder.path().join(format!("{number}.{kind}"));
            let native = seal(&path("ailog"), header(1, 1), steps, ContentDigest::NONE);
            let options = HrlOptions::new(HrlId::random(), Timestamp::default());
            let hrl = to_hrl(&native, &path("hrl"), &options, Timestamp::default()).unwrap();
            let log: &dyn ChangeLog = if as_hrl { &hrl } else { &native };
            states.push(disk.contents());
            let done = apply_with_undo(&[log], &disk, undo(&path("undo"))).unwrap();
            prop_assert_eq!(done.undo.summary().predecessor, log.content());
            let extents = |log: &dyn ChangeLog| {
                log.extents().unwrap().into_iter().collect::<afterimage_block::ExtentSet>()
            };
            prop_assert_eq!(extents(&done.undo), extents(log), "it takes back what was done, no more");
            undos.push(SealedLog::open(done.undo.path()).unwrap());
        }
        prop_assert!(disk.contents() == contents_after(generations.iter().flatten()));
        while let (Some(undo), Some(before)) = (undos.pop(), states.pop()) {
            undo.apply(&disk).unwrap();
            prop_assert!(disk.contents() == before);
        }
    }

    /// However few of the writes were made before it stopped.
    #[test]
    fn what_was_interrupted_can_be_taken_back(steps in steps(), budget in 0..12_usize) {
        let folder = tempfile::tempdir().unwrap();
        let log = seal(&folder.path().join("log"), header(1, 1), &steps, ContentDigest::NONE);
        let failing = Failing::after(budget, disk());
        let path = folder.path().join("undo");
        let result = apply_with_undo(&[&log], &failing, undo(&path));
        prop_assert_eq!(result.is_err(), log.index().unwrap().pieces() > budget);
        SealedLog::open(&path).unwrap().apply(&failing.disk).unwrap();
        prop_assert!(failing.disk.contents() == disk().contents());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// One undo log for all of them, however few of the writes were made before it stopped.
    #[test]
    fn several_logs_are_taken_back_at_once(
        generations in prop::collection::vec(steps(), 1..4), as_hrl in any::<bool>(), budget in 0..40_usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut logs: Vec<Box<dyn ChangeLog>> = Vec::new();
        for (number, steps) in generations.iter().enumerate() {
            let path = |kind: &str| folder.path().join(format!("{number}.{kind}"));
            let native = seal(&path("ailog"), header(1, 1), steps, ContentDigest::NONE);
            let options = HrlOptions::new(HrlId::random(), Timestamp::default());
            let hrl = to_hrl(&native, &path("hrl"), &options, Timestamp::default()).unwrap();
            logs.push(if as_hrl { Box::new(hrl) } else { Box::new(native) });
        }
        let logs: Vec<&dyn ChangeLog> = logs.iter().map(Box::as_ref).collect();

        let whole = disk();
        let done = apply_with_undo(&logs, &whole, undo(&folder.path().join("whole"))).unwrap();
        prop_assert!(whole.contents() == contents_after(generations.iter().flatten()));
        prop_assert_eq!(done.applied.len(), logs.len());
        prop_assert_eq!(done.undo.summary().predecessor, logs[logs.len() - 1].content());
        SealedLog::open(done.undo.path()).unwrap().apply(&whole).unwrap();
        prop_assert!(whole.contents() == disk().contents());

        let failing = Failing::after(budget, disk());
        let path = folder.path().join("undo");
        let writes: usize = logs.iter().map(|log| log.pieces().unwrap().len()).sum();
        let result = apply_with_undo(&logs, &failing, undo(&path));
        prop_assert_eq!(result.is_err(), writes > budget);
        SealedLog::open(&path).unwrap().apply(&failing.disk).unwrap();
        prop_assert!(failing.disk.contents() == disk().contents());
    }
}

/// The before-images are durable when the disk's first byte changes: what is in the file then is a
/// sealed log.
#[test]
fn the_undo_log_is_sealed_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let log = |number: u64| {
        let write = [Step::Write(number * 512, vec![1; 10])];
        let path = folder.path().join(number.to_string());
        seal(&path, header(1, 1), &write, ContentDigest::NONE)
    };
    let (one, two) = (log(1), log(2));
    let path = folder.path().join("undo");
    let failing = Failing::after(0, disk());
    apply_with_undo(&[&one, &two], &failing, undo(&path)).unwrap_err();
    let undo = SealedLog::open(&path).unwrap();
    assert_eq!(undo.index().unwrap().pieces(), 2);
}

#[test]
fn holes_are_holes_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::new(Length::new(SIZE));
    disk.write_at(Offset::new(4096), &[7; 8192]).unwrap();
    let before = runs(&disk);
    let write = [Step::Write(0, vec![1; usize::try_from(SIZE).unwrap()])];
    let log = seal(
        &folder.path().join("log"),
        header(1, 1),
        &write,
        ContentDigest::NONE,
    );
    let done = apply_with_undo(&[&log], &disk, undo(&folder.path().join("undo"))).unwrap();
    assert_ne!(runs(&disk), before);
    assert_eq!(
        done.undo.summary().payload,
        Length::new(8192),
        "holes cost nothing"
    );
    done.undo.apply(&disk).unwrap();
    assert_eq!(runs(&disk), before);
}

#[test]
fn an_undo_log_of_another_disk_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let write = [Step::Write(0, vec![1; 10])];
    let log = seal(
        &folder.path().join("log"),
        header(1, 1),
        &write,
        ContentDigest::NONE,
    );
    let path = folder.path().join("undo");
    let refused = |header: LogHeader, options: WriterOptions| {
        let disk = disk();
        let undo = FileWriter::create_new(&path, header, options).unwrap();
        let error = apply_with_undo(&[&log], &disk, undo).unwrap_err();
        assert!(disk.contents() == common::disk().contents());
        assert!(!path.exists(), "no half of an undo log is left");
        error
    };
    let other_disk = LogHeader {
        disk: DiskId::from_bytes([1; 16]),
        ..header(1, 1)
    };
    let other_size = LogHeader {
        disk_size: Length::mib(1),
        ..header(1, 1)
    };
    for header in [other_disk, other_size] {
        let error = refused(header, WriterOptions::default());
        assert!(matches!(error, Error::WrongDisk { .. }), "{error}");
    }
    let quota = WriterOptions::default().with_quota(Length::new(180));
    let error = refused(header(1, 1), quota);
    assert!(matches!(error, Error::OverQuota { .. }), "{error}");
}

#[test]
fn an_hrl_past_the_end_of_the_disk_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let options = HrlOptions::new(HrlId::random(), Timestamp::default());
    let mut hrl = HrlWriter::create(&folder.path().join("log"), &options).unwrap();
    let offset = Offset::new(SIZE - 1);
    hrl.append(
        Change::Write {
            offset,
            data: b"xy",
        },
        Timestamp::default(),
    )
    .unwrap();
    let hrl = hrl.close(Timestamp::default()).unwrap();
    let result = record_undo(&[&hrl], &disk(), undo(&folder.path().join("undo")));
    assert!(matches!(
        result.unwrap_err().cause(),
        Error::OutOfRange { .. }
    ));
}

/// A log of more than one thread applies, onto a disk of 16 MiB: every third 64 KiB zeroed or
/// discarded.
fn large(folder: &Path) -> SealedLog {
    let header = LogHeader {
        disk_size: Length::mib(16),
        ..header(1, 1)
    };
    let step = |number: u64| {
        let start = number * 37 % 256 * (64 << 10);
        let extent = Extent::new(Offset::new(start), Length::kib(64)).unwrap();
        match number % 6 {
            2 => Step::Zero(extent),
            5 => Step::Discard(extent),
            _ => {
                let value = number.to_le_bytes()[0];
                Step::Write(start + number % 512, vec![value; 60 << 10])
            }
        }
    };
    let steps: Vec<_> = (0..256).map(step).collect();
    seal(&folder.join("large"), header, &steps, ContentDigest::NONE)
}

#[test]
fn a_large_log_applied_with_threads_does_what_it_does_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let log = large(folder.path());
    let before = vec![0xEE; 16 << 20];
    let in_order = MemoryDisk::with_contents(&before);
    log.changes(&mut |_, change| Ok(change.apply_to(&in_order).map(drop)?))
        .unwrap();
    let disk = MemoryDisk::with_contents(&before);
    let applied = log.apply(&disk).unwrap();
    assert!(disk.contents() == in_order.contents());
    let pieces = log.pieces().unwrap();
    let written = pieces.iter().filter(|piece| piece.data_at.is_some());
    let written: u64 = written.map(|piece| piece.extent.length().get()).sum();
    let all: u64 = pieces.iter().map(|piece| piece.extent.length().get()).sum();
    assert!(written > 8 << 20);
    assert_eq!(
        (applied.written.get(), applied.zeroed.get()),
        (written, all - written)
    );

    // However many of the writes are made before it stops, whichever thread makes them.
    for budget in [1, 200] {
        let failing = Failing::after(budget, MemoryDisk::with_contents(&before));
        let path = folder.path().join(budget.to_string());
        let header = *log.header();
        let undo = FileWriter::create_new(&path, header, WriterOptions::default()).unwrap();
        apply_with_undo(&[&log], &failing, undo).unwrap_err();
        let undo = SealedLog::open(&path).unwrap();
        undo.apply(&failing.disk).unwrap();
        assert!(failing.disk.contents() == before);
        log.apply(&failing.disk).unwrap();
        assert!(failing.disk.contents() == in_order.contents());
    }
}
