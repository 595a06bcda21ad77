//! What is stopped or breaks leaves a staged target as it was.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use afterimage_block::Length;
use examples::resync::{Local, Remote, Server, Stop};

use super::{Disks, SIZE, every, push_to, run_local};

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

fn bytes(disks: &Disks, name: &str) -> Vec<u8> {
    fs::read(disks.path(name)).unwrap()
}

fn staged(disks: &Disks) -> Local {
    Local {
        stage: Some(disks.path("stage")),
        ..disks.local()
    }
}

/// Runs `local` slowly and stops it once so much is in the file at `path`.
fn stopped(local: &Local, path: &Path, length: u64) -> anyhow::Error {
    let stop = Stop::default();
    let local = Local {
        stop: stop.clone(),
        ..local.clone()
    };
    fails_after(local, path, length, || stop.ask())
}

/// Runs `local` slowly, and does this to it once so much is in the file at `path`.
fn fails_after(local: Local, path: &Path, length: u64, act: impl FnOnce()) -> anyhow::Error {
    let local = Local {
        limit: "4MiB/s".parse().unwrap(),
        ..local
    };
    let running = thread::spawn(move || run_local(&local));
    while fs::metadata(path).map_or(0, |found| found.len()) < length {
        assert!(!running.is_finished(), "{:?}", running.join());
        thread::sleep(Duration::from_millis(5));
    }
    act();
    running.join().unwrap().unwrap_err()
}

#[test]
fn a_target_is_changed_when_all_is_staged() {
    let disks = Disks::new(every(50));
    let local = Local {
        verify: true,
        ..staged(&disks)
    };
    let report = run_local(&local).unwrap();
    assert!(disks.are_equal() && report.sent > Length::ZERO);
    assert!(is_empty(&disks.path("stage")));
}

#[test]
fn a_staged_resync_that_is_stopped_has_changed_nothing() {
    let disks = Disks::new(|_| true);
    let before = bytes(&disks, "target");
    let log = disks.path("stage").join("staged.ailog");
    let error = stopped(&staged(&disks), &log, 1 << 20);
    assert!(format!("{error:#}").contains("as it was"), "{error:#}");
    assert!(bytes(&disks, "target") == before && is_empty(&disks.path("stage")));

    // With a state it is kept and gone on with.
    let local = Local {
        state: Some(disks.state("state")),
        ..staged(&disks)
    };
    stopped(&local, &log, 1 << 20);
    assert!(bytes(&disks, "target") == before && log.exists());
    // But not by one that does not have what is staged.
    let without = Local {
        dry_run: true,
        ..disks.local()
    };
    let differing = run_local(&without).unwrap().sent;
    let report = run_local(&local).unwrap();
    assert!(disks.are_equal() && is_empty(&disks.path("stage")));
    assert!(report.saved > Length::ZERO);
    let resumed = format!("; resumed at {}, saved {0}", report.saved);
    assert!(report.to_string().ends_with(&resumed), "{report}");
    // Of both runs, and what was staged behind the first one's state is found to be equal.
    assert!(report.sent <= differing, "{report}");
}

#[test]
fn what_is_kept_of_a_staged_resync_is_not_believed_without_its_stage() {
    let disks = Disks::new(|_| true);
    let local = Local {
        state: Some(disks.state("state")),
        ..staged(&disks)
    };
    let log = disks.path("stage").join("staged.ailog");
    stopped(&local, &log, 1 << 20);
    fs::remove_file(&log).unwrap();
    let plain = Local {
        stage: None,
        ..local.clone()
    };
    for local in [plain, local] {
        let dry_run = true;
        let differing = run_local(&Local {
            dry_run,
            state: None,
            ..local.clone()
        });
        let report = run_local(&local).unwrap();
        assert_eq!(report.saved, Length::ZERO);
        assert_eq!(report.sent, differing.unwrap().sent);
        assert!(disks.are_equal());
        fs::write(disks.path("target"), vec![0; SIZE]).unwrap();
    }
}

#[test]
fn a_plain_target_that_is_stopped_is_said_to_be_mixed() {
    let disks = Disks::new(|_| true);
    let stop = Stop::default();
    stop.ask();
    let local = Local {
        stop,
        ..disks.local()
    };
    let before = bytes(&disks, "target");
    let error = format!("{:#}", run_local(&local).unwrap_err());
    assert!(error.contains("target is as it was"), "{error}");
    assert!(bytes(&disks, "target") == before);

    let state = Some(disks.state("state"));
    let local = Local {
        state,
        ..disks.local()
    };
    let error = format!("{:#}", stopped(&local, &disks.path("state"), 1));
    assert!(error.contains("target is mixed"), "{error}");
    assert!(!disks.are_equal());
}

#[test]
fn what_was_decided_is_made_by_the_next_run() {
    let disks = Disks::new(|_| true);
    let before = bytes(&disks, "target");
    let [log, undo] = ["staged.ailog", "undo.ailog"].map(|name| disks.path("stage").join(name));
    fails_after(staged(&disks), &log, 1 << 20, || {
        // Nothing can be written where the undo log would be.
        fs::create_dir(&undo).unwrap();
    });
    assert!(bytes(&disks, "target") == before);
    fs::remove_dir(&undo).unwrap();
    let other = Local {
        source: disks.place("target"),
        target: disks.place("source"),
        ..staged(&disks)
    };
    let source = bytes(&disks, "source");
    let error = format!("{:#}", run_local(&other).unwrap_err());
    assert!(error.contains("another disk"), "{error}");
    assert!(bytes(&disks, "target") == before && bytes(&disks, "source") == source);

    let report = run_local(&staged(&disks)).unwrap();
    assert_eq!(report.equal, Length::new(SIZE as u64), "it was made before");
    assert!(disks.are_equal() && is_empty(&disks.path("stage")));
}

#[test]
fn a_staged_target_at_the_other_end_is_as_it_was_until_all_is_there() {
    let disks = Disks::new(|_| true);
    let server = Server {
        state: Some(disks.state("server.state")),
        cache: Some(disks.cache("server.cache")),
        stage: Some(disks.path("stage")),
        ..disks.server()
    };
    let push = |address| Remote {
        state: Some(disks.state("push.state")),
        cache: Some(disks.cache("push.cache")),
        ..disks.push(address)
    };
    let before = bytes(&disks, "target");
    push_to(&server, push, 1, 5 << 20).unwrap_err();
    assert!(bytes(&disks, "target") == before);
    // What the source holds now is what the target holds, though not what is staged.
    fs::write(disks.path("source"), &before).unwrap();
    push_to(&server, push, 1, usize::MAX).unwrap();
    assert!(disks.are_equal() && is_empty(&disks.path("stage")));
    let again = push_to(&server, push, 1, usize::MAX).unwrap();
    assert_eq!((again.sent, again.digests), (Length::ZERO, 1));
    let dry = |address| Remote {
        dry_run: true,
        state: None,
        ..push(address)
    };
    push_to(&server, dry, 1, usize::MAX).unwrap();
    assert!(is_empty(&disks.path("stage")));
}
