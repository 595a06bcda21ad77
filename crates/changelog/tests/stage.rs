//! A stage changes its disk as a whole, or not at all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, OpenOptions};
use std::ops::ControlFlow;
use std::path::Path;

use afterimage_block::{BlockRead, BlockWrite, Extent, Length, MemoryDisk, Offset, Run};
use afterimage_changelog::{Error, Made, Stage, Staged, StagedDisk, WriterOptions};
use common::{Failing, SIZE, Step, contents_after, disk, header, steps};
use proptest::prelude::*;

fn begin<'d>(folder: &Path, disk: &'d dyn BlockWrite) -> StagedDisk<'d> {
    let stage = Stage::at(folder);
    stage
        .begin(disk, header(1, 1), WriterOptions::default())
        .unwrap()
}

fn write(disk: &dyn BlockWrite, steps: &[Step]) {
    for change in steps.iter().filter_map(Step::change) {
        change.apply_to(disk).unwrap();
    }
}

fn contents(disk: &dyn BlockRead) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.size().get()).unwrap()];
    disk.read_at(Offset::ZERO, &mut bytes).unwrap();
    bytes
}

/// Its runs follow each other, and its holes are zeros.
fn check_runs(disk: &dyn BlockRead) {
    let (mut at, bytes) = (Offset::ZERO, contents(disk));
    while let Some(Run { extent, kind }) = disk.next_run(at).unwrap() {
        assert_eq!(extent.start(), at);
        at = extent.end();
        let [start, end] = [extent.start(), at].map(|at| usize::try_from(at.get()).unwrap());
        let is_zero = bytes[start..end].iter().all(|byte| *byte == 0);
        assert!(kind == afterimage_block::RunKind::Data || is_zero);
    }
    assert_eq!(at.get(), SIZE);
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

const GO: ControlFlow<()> = ControlFlow::Continue(());

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_staged_is_read_and_made_at_once(steps in steps(), broken in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let (disk, stage) = (disk(), Stage::at(folder.path()));
        let (before, after) = (disk.contents(), contents_after(&steps));
        let (first, second) = steps.split_at(broken.index(steps.len() + 1));
        let staged = begin(folder.path(), &disk);
        write(&staged, first);
        drop(staged);
        prop_assert!(matches!(stage.staged().unwrap(), Staged::Open(open) if open == header(1, 1)));
        let staged = stage.resume(&disk, WriterOptions::default()).unwrap();
        write(&staged, second);
        prop_assert!(contents(&staged) == after && disk.contents() == before);
        check_runs(&staged);
        let log = staged.decide().unwrap();
        prop_assert!(disk.contents() == before);
        prop_assert!(matches!(stage.staged().unwrap(), Staged::Decided(_)));
        prop_assert!(matches!(stage.make(&log, &disk, |_| GO).unwrap(), Made::All(_)));
        prop_assert!(disk.contents() == after && is_empty(folder.path()));
    }

    /// Stopped by a person after so many pieces, or by the disk after so many writes, and then, as after
    /// a crash, made or taken back by somebody who knows the folder only.
    #[test]
    fn whatever_stops_it_nothing_stays_half_made(
        steps in steps(), stop in 0..12_usize, fail in 0..12_usize, is_taken_back in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::at(folder.path());
        let failing = Failing::after(fail, disk());
        let (before, after) = (failing.disk.contents(), contents_after(&steps));
        let staged = begin(folder.path(), &failing);
        write(&staged, &steps);
        let log = staged.decide().unwrap();
        let mut left = stop;
        let made = stage.make(&log, &failing, |_| {
            left = left.checked_sub(1).map_or(usize::MAX, |left| left);
            if left == usize::MAX { ControlFlow::Break(()) } else { GO }
        });
        if let Ok(made) = made {
            let expected = if made == Made::TakenBack { before } else { after };
            prop_assert!(failing.disk.contents() == expected && is_empty(folder.path()));
            return Ok(());
        }
        let Staged::Decided(log) = stage.staged().unwrap() else { panic!("it is still there") };
        if is_taken_back {
            stage.take_back(&log, &failing.disk).unwrap();
            prop_assert!(failing.disk.contents() == before);
        } else {
            stage.make(&log, &failing.disk, |_| GO).unwrap();
            prop_assert!(failing.disk.contents() == after);
        }
        prop_assert!(is_empty(folder.path()));
    }
}

#[test]
fn what_a_crash_tore_is_not_there_and_the_rest_is() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, stage) = (disk(), Stage::at(folder.path()));
    let staged = begin(folder.path(), &disk);
    staged.write_at(Offset::new(512), &[1; 512]).unwrap();
    staged.write_at(Offset::new(1024), &[2; 512]).unwrap();
    staged.flush().unwrap();
    drop(staged);
    let path = folder.path().join("staged.ailog");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let staged = stage.resume(&disk, WriterOptions::default()).unwrap();
    let bytes = contents(&staged);
    assert!(bytes[512..1024] == [1; 512] && bytes[1024..] == disk.contents()[1024..]);
    stage.discard(staged).unwrap();
    assert!(matches!(stage.staged().unwrap(), Staged::Nothing));
}

#[test]
fn an_undo_log_that_was_not_finished_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, stage) = (disk(), Stage::at(folder.path()));
    let staged = begin(folder.path(), &disk);
    staged.write_at(Offset::new(512), &[1; 512]).unwrap();
    let log = staged.decide().unwrap();
    fs::write(folder.path().join("undo.ailog"), [0; 77]).unwrap();
    stage.make(&log, &disk, |_| GO).unwrap();
    assert_eq!(disk.contents()[512..1024], [1; 512]);
}

#[test]
fn changes_are_of_one_disk_and_held_once() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, stage) = (disk(), Stage::at(folder.path()));
    let larger = MemoryDisk::new(Length::new(2 * SIZE));
    let options = WriterOptions::default;
    let wrong = |error| matches!(error, Error::WrongDisk { .. });
    assert!(wrong(
        stage.begin(&larger, header(1, 1), options()).unwrap_err()
    ));
    let staged = begin(folder.path(), &disk);
    assert!(stage.begin(&disk, header(1, 1), options()).is_err());
    assert!(wrong(stage.resume(&larger, options()).unwrap_err()));
    let behind = Extent::new(Offset::new(SIZE - 512), Length::new(1024)).unwrap();
    assert!(staged.discard(behind).is_err());
    assert!(staged.write_at(Offset::new(SIZE), &[0]).is_err());
    let log = staged.decide().unwrap();
    assert!(wrong(stage.make(&log, &larger, |_| GO).unwrap_err()));
    assert!(wrong(stage.take_back(&log, &larger).unwrap_err()));
    let path = folder.path().join("staged.ailog");
    let mut bytes = fs::read(&path).unwrap();
    bytes[200] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = stage.staged().unwrap_err().to_string();
    assert!(error.contains("staged.ailog"), "{error}");
}
