//! Digests of the disk's state: what a log applies to, and what it produces.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use afterimage_block::{BlockRead, ContentDigest, Timestamp};
use afterimage_changelog::{
    ChangeLog, DiskStates, Error, FileWriter, HrlId, HrlOptions, Provenance, SealedLog,
    StateDigest, WriterOptions, apply_with_undo, merge, open_log, to_hrl,
};
use common::{Step, disk, header, write};
use sha2::{Digest, Sha256};

/// Any digest of all bytes will do.
fn state_of(disk: &impl BlockRead) -> StateDigest {
    let mut bytes = vec![0; disk.size().to_usize().unwrap()];
    disk.read_at(afterimage_block::Offset::ZERO, &mut bytes)
        .unwrap();
    StateDigest::new(Sha256::digest(bytes).into())
}

/// Logs of the generations from 1 on, and the states between them; the disk is as after the last.
fn chain(folder: &Path, count: u8) -> (Vec<SealedLog>, Vec<StateDigest>) {
    let disk = disk();
    let (mut logs, mut states): (Vec<SealedLog>, _) = (Vec::new(), vec![state_of(&disk)]);
    for number in 1..=count {
        let steps = [Step::Write(u64::from(number) * 100, vec![number; 300])];
        steps[0].change().unwrap().apply_to(&disk).unwrap();
        states.push(state_of(&disk));
        let known = DiskStates {
            before: Some(states[states.len() - 2]),
            after: Some(states[states.len() - 1]),
        };
        let predecessor = logs.last().map_or(ContentDigest::NONE, ChangeLog::content);
        let generation = u64::from(number);
        let path = folder.join(number.to_string());
        let log = write(&path, header(generation, generation), &steps);
        let log = log.seal(Provenance::from(predecessor).with_states(known));
        logs.push(log.unwrap());
    }
    (logs, states)
}

#[test]
fn a_disk_in_another_state_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (logs, states) = chain(folder.path(), 2);
    let disk = disk();
    for (number, log) in logs.iter().enumerate() {
        let log = open_log(log.path()).unwrap();
        assert_eq!(log.states().before, Some(states[number]));
        let (present, before) = (state_of(&disk), disk.contents());
        for wrong in states.iter().filter(|state| **state != present) {
            let error = log.apply_to_state(*wrong, &disk).unwrap_err();
            let (expected, present) = (states[number], *wrong);
            assert!(
                matches!(error.cause(), Error::WrongState { expected: e, present: p } if (*e, *p) == (expected, present)),
                "{error}"
            );
            assert!(!error.is_recoverable());
            assert!(disk.contents() == before);
        }
        log.apply_to_state(present, &disk).unwrap();
        assert_eq!(log.states().after, Some(state_of(&disk)), "what it says");
    }
    // What says nothing is refused by no state.
    let options = HrlOptions::new(HrlId::random(), Timestamp::default());
    let path = folder.path().join("hrl");
    let hrl = to_hrl(&logs[0], &path, &options, Timestamp::default()).unwrap();
    assert_eq!(hrl.states(), DiskStates::default());
    hrl.apply_to_state(states[2], &disk).unwrap();
}

#[test]
fn merging_and_taking_back_carry_the_states() {
    let folder = tempfile::tempdir().unwrap();
    let (logs, states) = chain(folder.path(), 3);
    let path = folder.path().join("merged");
    let merged = merge(&logs[0], &logs[1..], &path, WriterOptions::default()).unwrap();
    let expected = DiskStates {
        before: Some(states[0]),
        after: Some(states[3]),
    };
    assert_eq!(merged.states(), expected);
    assert_eq!(SealedLog::open(&path).unwrap().states(), expected);

    let disk = disk();
    let undo = folder.path().join("undo");
    let undo = FileWriter::create_new(&undo, header(1, 3), WriterOptions::default()).unwrap();
    let logs: Vec<&dyn ChangeLog> = logs.iter().map(|log| log as &dyn ChangeLog).collect();
    let undo = apply_with_undo(&logs, &disk, undo).unwrap().undo;
    assert_eq!(undo.states().before, Some(state_of(&disk)));
    undo.apply_to_state(state_of(&disk), &disk).unwrap();
    assert_eq!(undo.states().after, Some(state_of(&disk)));
}

#[test]
fn a_log_that_applies_to_another_state_does_not_follow() {
    let folder = tempfile::tempdir().unwrap();
    let (logs, states) = chain(folder.path(), 1);
    let next = |before| {
        let path = folder.path().join("next");
        let log = write(&path, header(2, 2), &[]);
        let states = DiskStates {
            before,
            after: None,
        };
        log.seal(Provenance::from(logs[0].content()).with_states(states))
            .unwrap()
    };
    next(Some(states[1])).check_follows(&logs[0]).unwrap();
    next(None).check_follows(&logs[0]).unwrap();
    let error = next(Some(states[0])).check_follows(&logs[0]).unwrap_err();
    assert!(matches!(error, Error::NotConsecutive { .. }), "{error}");
}
