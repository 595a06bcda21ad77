//! Disks that are kept current are always at one generation, and go back to any that is kept.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use afterimage_block::{
    Access, BlockRead, BlockWrite, ContentDigest, Extent, Length, MemoryDisk, Offset, RawDisk,
    Sequence, Timestamp,
};
use afterimage_changelog::{
    Error, FileWriter, History, HistoryDisk, HistoryStep, Keys, LogHeader, SealedLog, WriterOptions,
};
use common::{Failing, SIZE, Step, disk, header, seal, steps};
use proptest::prelude::*;

fn open<'d>(folder: &Path, disks: &[&'d dyn BlockWrite]) -> Result<History<'d>, Error> {
    let id = header(1, 1).disk;
    let disks = disks.iter().map(|disk| HistoryDisk { id, disk: *disk });
    History::open(
        folder,
        disks.collect(),
        WriterOptions::default(),
        Keys::none(),
    )
}

fn step(first: u64, last: u64) -> HistoryStep {
    HistoryStep {
        first: Sequence::new(first),
        last: Sequence::new(last),
    }
}

fn log(folder: &Path, header: LogHeader, steps: &[Step]) -> SealedLog {
    seal(&folder.join("log"), header, steps, ContentDigest::NONE)
}

fn advance(history: &mut History<'_>, number: u64, logs: &[Vec<&SealedLog>]) -> Result<(), Error> {
    history.advance(step(number, number), Timestamp::default(), logs)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_kept_generation_comes_back(
        generations in prop::collection::vec((steps(), prop::option::of(steps())), 1..6),
        keep in 0..7_usize,
    ) {
        let (logs, undo) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (disk(), disk());
        let disks: [&dyn BlockWrite; 2] = [&one, &two];
        let mut states = Vec::new();
        for (number, (of_one, of_two)) in (1..).zip(&generations) {
            // Anew each time, as after a crash between two steps.
            let mut history = open(undo.path(), &disks).unwrap();
            states.push((one.contents(), two.contents()));
            let first = log(logs.path(), header(number, number), of_one);
            let path = logs.path().join("other");
            let second = of_two.as_ref().map(|steps| {
                seal(&path, header(number, number), steps, ContentDigest::NONE)
            });
            advance(&mut history, number, &[vec![&first], second.iter().collect()]).unwrap();
        }
        let mut history = open(undo.path(), &disks).unwrap();
        history.keep(keep).unwrap();
        for step in history.steps().unwrap() {
            let past = history.before(step).unwrap();
            let (first, second) = &states[usize::try_from(step.first.get()).unwrap() - 1];
            for (disk, was) in past.iter().zip([first, second]) {
                let mut read = vec![0; was.len()];
                disk.read_at(Offset::ZERO, &mut read).unwrap();
                prop_assert!(read == *was);
                let part = &mut read[..700];
                disk.read_at(Offset::new(5000), part).unwrap();
                prop_assert!(part[..] == was[5000..5700]);
            }
        }
        prop_assert!(history.before(step(9, 9)).is_err());
        for _ in 0..keep.min(generations.len()) {
            prop_assert!(history.roll_back().unwrap().is_some());
            let (first, second) = states.pop().unwrap();
            prop_assert!(one.contents() == first && two.contents() == second);
        }
        prop_assert_eq!(history.roll_back().unwrap(), None);
        prop_assert_eq!(fs::read_dir(undo.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_interrupted_is_taken_back(
        earlier in steps(), steps in steps(), budget in 0..12_usize, rolling in any::<bool>(),
    ) {
        let (logs, undo) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (disk(), disk());
        let base = one.contents();
        let first = log(logs.path(), header(1, 1), &earlier);
        let mut history = open(undo.path(), &[&one, &two]).unwrap();
        advance(&mut history, 1, &[vec![&first], vec![&first]]).unwrap();
        drop(history);
        let before = one.contents();

        let second = log(logs.path(), header(2, 2), &steps);
        let failing = Failing::after(budget, two);
        let mut history = open(undo.path(), &[&one, &failing]).unwrap();
        let done = if rolling {
            history.roll_back().map(drop)
        } else {
            advance(&mut history, 2, &[vec![&second], vec![&second]])
        };
        drop(history);
        let two = failing.disk;
        let history = open(undo.path(), &[&one, &two]).unwrap();
        prop_assert!(one.contents() == two.contents(), "both at one generation");
        let newest = history.steps().unwrap().last().map(|step| step.last.get());
        prop_assert_eq!(newest, match (rolling, done.is_ok()) {
            (true, _) => None,
            (false, true) => Some(2),
            (false, false) => Some(1),
        });
        if newest != Some(2) {
            let wanted = if rolling { base } else { before };
            prop_assert!(one.contents() == wanted);
        }
    }
}

#[test]
fn a_damaged_or_missing_undo_log_is_named_and_no_disk_touched() {
    let (logs, undo) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = disk();
    let log = log(
        logs.path(),
        header(1, 1),
        &[Step::Write(512, vec![7; 1024])],
    );
    let mut history = open(undo.path(), &[&disk]).unwrap();
    advance(&mut history, 1, &[vec![&log]]).unwrap();
    let after = disk.contents();
    let path = undo.path().join(step(1, 1).to_string()).join("0.ailog");
    let whole = fs::read(&path).unwrap();
    let mut refused = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        let error = history.roll_back().unwrap_err();
        assert!(matches!(&error, Error::InFile { path: named, .. } if *named == path));
        assert!(!error.is_recoverable() && disk.contents() == after);
    };
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        refused(&flipped);
    }
    for length in 0..whole.len() {
        refused(&whole[..length]);
    }
    fs::remove_file(&path).unwrap();
    let error = history.roll_back().unwrap_err();
    assert!(matches!(error, Error::Io { path: named, .. } if named == path));
    assert!(disk.contents() == after);
    fs::write(&path, &whole).unwrap();
    assert_eq!(history.roll_back().unwrap(), Some(step(1, 1)));
}

#[test]
fn what_does_not_follow_or_fit_is_refused() {
    let (logs, undo) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = disk();
    let before = disk.contents();
    let steps = [Step::Write(0, vec![9; 512])];
    let mut history = open(undo.path(), &[&disk]).unwrap();
    let of_other_generation = log(logs.path(), header(5, 6), &steps);
    let error = advance(&mut history, 5, &[vec![&of_other_generation]]).unwrap_err();
    assert!(matches!(error, Error::NotConsecutive { .. }));
    let mut of_other_disk = header(5, 5);
    of_other_disk.disk_size = Length::new(SIZE * 2);
    let of_other_disk = log(logs.path(), of_other_disk, &steps);
    let error = advance(&mut history, 5, &[vec![&of_other_disk]]).unwrap_err();
    assert!(matches!(error.cause(), Error::WrongDisk { .. }));
    assert!(disk.contents() == before && history.steps().unwrap().is_empty());
    // No generation comes after the last number.
    let last = log(logs.path(), header(u64::MAX, u64::MAX), &steps);
    advance(&mut history, u64::MAX, &[vec![&last]]).unwrap();
    let error = advance(&mut history, 1, &[vec![&last]]).unwrap_err();
    assert!(matches!(error, Error::NotConsecutive { .. }));
    let error = open(undo.path(), &[&disk]).unwrap_err();
    assert!(matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::WouldBlock));
}

/// Names the folder that the child is to work in.
const FOLDER: &str = "AFTERIMAGE_HISTORY_FOLDER";

/// What generation `number` writes to either disk.
fn generation(number: u64) -> Vec<Step> {
    let write = |at: u64| {
        let value = (number * 31 + at).to_le_bytes()[0];
        Step::Write(
            (number * 4099 + at * 7919) % (SIZE - 3000),
            vec![value; 3000],
        )
    };
    let zeroed = Extent::new(Offset::new(number * 512 % SIZE), Length::new(512)).unwrap();
    let mut steps: Vec<_> = (0..5).map(write).collect();
    steps.push(Step::Zero(zeroed));
    steps
}

fn images(folder: &Path) -> [RawDisk; 2] {
    ["one", "two"].map(|name| RawDisk::open(folder.join(name), Access::ReadWrite).unwrap())
}

/// The child: goes forwards, and at times back, until it is killed.
#[test]
#[ignore = "started and killed by the other test"]
fn goes_on_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        // Somebody asked for all that is ignored.
        return;
    };
    let [one, two] = images(&folder);
    let mut history = open(&folder.join("undo"), &[&one, &two]).unwrap();
    for round in 1..100_000_u64 {
        let steps = history.steps().unwrap();
        if round % 4 == 0 && steps.len() > 2 {
            history.roll_back().unwrap();
            continue;
        }
        let number = steps.last().map_or(1, |step| step.last.get() + 1);
        let log = log(&folder, header(number, number), &generation(number));
        advance(&mut history, number, &[vec![&log], vec![&log]]).unwrap();
        if round % 5 == 0 {
            history.keep(4).unwrap();
        }
    }
}

fn contents(disk: &RawDisk) -> Vec<u8> {
    let mut contents = vec![0; disk.size().to_usize().unwrap()];
    disk.read_at(Offset::ZERO, &mut contents).unwrap();
    contents
}

/// What either disk is at `generation`.
fn expected(last: u64) -> Vec<u8> {
    let disk = MemoryDisk::new(Length::new(SIZE));
    let steps: Vec<_> = (1..=last).flat_map(generation).collect();
    for change in steps.iter().filter_map(Step::change) {
        change.apply_to(&disk).unwrap();
    }
    disk.contents()
}

#[test]
fn killed_at_any_moment_the_disks_are_what_the_history_says() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("undo")).unwrap();
    for name in ["one", "two"] {
        RawDisk::create(folder.path().join(name), Length::new(SIZE)).unwrap();
    }
    let kills = std::env::var("AFTERIMAGE_KILLS").map_or(20, |kills| kills.parse().unwrap());
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    for _ in 0..kills {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "goes_on_until_it_is_killed", "--ignored"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(5000 + random % 60_000));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(9), "the child failed by itself");

        let [one, two] = images(folder.path());
        let history = open(&folder.path().join("undo"), &[&one, &two]).unwrap();
        let steps = history.steps().unwrap();
        let expected = expected(steps.last().map_or(0, |step| step.last.get()));
        assert!(contents(&one) == expected && contents(&two) == expected);
    }
    let [one, two] = images(folder.path());
    let mut history = open(&folder.path().join("undo"), &[&one, &two]).unwrap();
    assert!(
        !history.steps().unwrap().is_empty(),
        "the children did something"
    );
    while let Some(step) = history.roll_back().unwrap() {
        let expected = expected(step.first.get() - 1);
        assert!(contents(&one) == expected && contents(&two) == expected);
    }
}

#[test]
fn a_log_that_resizes_its_disk_is_refused() {
    let (logs, undo) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = disk();
    let path = logs.path().join("log");
    let mut log = FileWriter::create(&path, header(1, 1), WriterOptions::default()).unwrap();
    log.resize(Length::new(SIZE * 2), Timestamp::default())
        .unwrap();
    let log = log.seal(ContentDigest::NONE).unwrap();
    let mut history = open(undo.path(), &[&disk]).unwrap();
    let error = advance(&mut history, 1, &[vec![&log]]).unwrap_err();
    assert!(matches!(error.cause(), Error::Resized { .. }));
    assert_eq!(fs::read_dir(undo.path()).unwrap().count(), 0);
}

#[test]
fn undo_logs_that_find_no_space_leave_nothing() {
    let (logs, undo) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = disk();
    let before = disk.contents();
    let log = log(logs.path(), header(1, 1), &[Step::Write(0, vec![7; 8192])]);
    let id = header(1, 1).disk;
    let disks = vec![HistoryDisk { id, disk: &disk }];
    let options = WriterOptions::default().with_quota(Length::kib(4));
    let mut history = History::open(undo.path(), disks, options, Keys::none()).unwrap();
    let error = advance(&mut history, 1, &[vec![&log]]).unwrap_err();
    assert!(matches!(error.cause(), Error::OverQuota { .. }) && error.is_recoverable());
    assert!(disk.contents() == before);
    assert_eq!(fs::read_dir(undo.path()).unwrap().count(), 0);
}
