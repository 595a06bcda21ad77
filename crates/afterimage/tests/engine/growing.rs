//! Disks that are made larger while they are protected: by others while nothing runs, and by the machine.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use afterimage::block::{BlockRead, BlockWrite, Length, Offset, Sequence};
use afterimage::{
    Error, Failover, Notice, PointSelector, Policy, ProtectedMachine, Protection, Request,
    ResyncReason, TestResult, clean_up, commit, fail_over, serve_failover,
};
use tokio::sync::broadcast::Receiver;

use crate::fixture::{Fixture, is_point, until, write};
use crate::follow::pull;
use crate::reverse::start;

/// No whole number of blocks.
const LARGER: Length = Length::new((6 << 20) + 512);

fn lengthen(fixture: &Fixture) -> File {
    let path = fixture.path("disk.raw");
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(LARGER.get()).unwrap();
    file
}

/// Writes `value` at the end of the disk.
fn write_at_end(machine: &ProtectedMachine, value: u8) {
    let disk = &machine.disks()[0];
    let at = Offset::new(disk.size().get() - 512);
    disk.write_at(at, &[value; 512]).unwrap();
}

/// What was compared until the next recovery point, if anything, and why.
async fn compared(notices: &mut Receiver<Notice>) -> Option<(ResyncReason, Length)> {
    let mut found = None;
    loop {
        match until(notices, |_| true).await {
            Notice::Resync {
                reason, compared, ..
            } => found = Some((reason, compared)),
            Notice::RecoveryPoint { .. } => return found,
            _ => {}
        }
    }
}

impl Fixture {
    /// The sizes of the disk at the recovery points that there are, as test failovers make it.
    async fn sizes(&self) -> Vec<u64> {
        let (replica, out) = (self.replica().await, self.path("sizes"));
        let mut sizes = Vec::new();
        for point in replica.existing().await.unwrap().points {
            let by_number = PointSelector::Sequence(point.sequence);
            fail_over(&replica, Failover::Test, by_number, &out, |_, _| ())
                .await
                .unwrap();
            sizes.push(fs::metadata(out.join("disk.raw")).unwrap().len());
            clean_up(&replica, Some(&out), TestResult::Succeeded, "")
                .await
                .unwrap();
        }
        sizes
    }

    /// Older recovery points have the old size and newer ones the new; the newest is what the disk is.
    async fn assert_grown(&self) {
        let sizes = self.sizes().await;
        let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
        assert_eq!((first, last), (4 << 20, LARGER.get()), "{sizes:?}");
        assert!(sizes.is_sorted(), "{sizes:?}");
        self.assert_replicated().await;
    }

    /// Starts the machine with a disk that was lengthened; what was compared until there is a point
    /// with what is written to its new end.
    async fn start_larger(&self, protection: Protection) -> Option<(ResyncReason, Length)> {
        let (machine, mut notices) = start(protection).await;
        assert_eq!(machine.size(), LARGER);
        write_at_end(&machine, 5);
        let compared = compared(&mut notices).await;
        assert!(machine.stop().await.unwrap());
        compared
    }
}

#[tokio::test]
async fn a_disk_that_was_only_enlarged_is_not_compared() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    lengthen(&fixture);
    let compared = fixture.start_larger(fixture.vm().only_enlarged()).await;
    assert_eq!(compared, None);
    fixture.assert_grown().await;
}

#[tokio::test]
async fn of_a_disk_that_may_have_been_written_to_as_well_all_is_compared() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    lengthen(&fixture).write_all_at(&[3; 512], 1 << 20).unwrap();
    let compared = fixture.start_larger(fixture.vm()).await;
    assert_eq!(compared, Some((ResyncReason::ChangedUntracked, LARGER)));
    fixture.assert_grown().await;
}

/// After an unclean end nothing of the old part but what was tracked is in doubt, and of the new part
/// what is no hole.
#[tokio::test]
async fn of_the_new_part_what_is_no_hole_is_compared() {
    let fixture = Fixture::new();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    write(&machine, 1);
    until(&mut notices, is_point).await;
    drop(machine);
    lengthen(&fixture).write_all_at(&[3; 512], 5 << 20).unwrap();
    let compared = fixture.start_larger(fixture.vm()).await;
    let (reason, compared) = compared.unwrap();
    assert_eq!(reason, ResyncReason::Enlarged);
    assert!(compared <= Length::kib(128), "{compared}");
    fixture.assert_grown().await;
}

#[tokio::test]
async fn a_machine_enlarges_its_disk_and_goes_on() {
    let fixture = Fixture::new();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    write(&machine, 1);
    until(&mut notices, is_point).await;
    let mut all = machine.notices();
    // Both are answered, whichever barriers they grow at.
    let (some, all_of_it) = (machine.grow(0, Length::mib(5)), machine.grow(0, LARGER));
    let (some, all_of_it) = futures::join!(some, all_of_it);
    all_of_it.unwrap();
    let is_late = matches!(some, Err(Error::Shrunk { .. }));
    assert!(some.is_ok() || is_late);
    machine.grow(0, LARGER).await.unwrap();
    assert_eq!(machine.disks()[0].size(), LARGER);
    let shrunk = machine.grow(0, Length::mib(4)).await.unwrap_err();
    match &shrunk {
        Error::Shrunk { path, was, is } => {
            assert!(path.ends_with("disk.raw"));
            assert_eq!((*was, *is), (LARGER, Length::mib(4)));
        }
        other => panic!("{other}"),
    }
    assert!(!shrunk.is_recoverable());
    let uneven = machine.grow(0, Length::new(LARGER.get() + 100)).await;
    assert!(matches!(uneven, Err(Error::Disk(_))));
    assert!(matches!(
        machine.grow(1, LARGER).await,
        Err(Error::Disks(_))
    ));
    write_at_end(&machine, 7);
    let compared = compared(&mut all).await;
    assert_eq!(compared, None);
    assert!(machine.stop().await.unwrap());
    fixture.assert_grown().await;
}

#[tokio::test]
async fn a_disk_that_grew_is_recovered_after_a_crash() {
    let fixture = Fixture::new();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    write(&machine, 1);
    until(&mut notices, is_point).await;
    machine.grow(0, LARGER).await.unwrap();
    write_at_end(&machine, 7);
    drop(machine);
    let (machine, mut notices) = start(fixture.vm()).await;
    write(&machine, 3);
    assert_eq!(compared(&mut notices).await, None);
    assert!(machine.stop().await.unwrap());
    fixture.assert_grown().await;
}

#[tokio::test]
async fn no_disk_grows_while_nothing_is_replicated_and_why_is_told() {
    let fixture = Fixture::new();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    until(&mut notices, is_point).await;
    machine.request(Request::Disable).await.unwrap();
    let refused = machine.grow(0, LARGER).await.unwrap_err();
    match &refused {
        Error::Refused(refused) => {
            assert_eq!(refused.request, Request::ChangeDisks);
            assert!(refused.allowed.contains(&Request::Enable), "{refused}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(machine.disks()[0].size(), Length::mib(4));
    // Its file is larger already, and is taken over when protection begins anew.
    machine.stop().await.unwrap();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    assert_eq!(machine.size(), LARGER);
    write_at_end(&machine, 7);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    fixture.assert_grown().await;
}

/// It is made as large as the newest state at the replica was, which is zeros there.
#[tokio::test]
async fn a_failover_to_a_point_of_before_goes_on_with_the_larger_disk() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    until(&mut notices, |notice| {
        matches!(notice, Notice::State { .. })
    })
    .await;
    write(&machine, 2);
    until(&mut notices, is_point).await;
    machine.grow(0, LARGER).await.unwrap();
    write_at_end(&machine, 7);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    let replica = fixture.replica().await;
    let oldest: Sequence = replica.existing().await.unwrap().points[0].sequence;
    let (lost, out) = (Failover::Forced, fixture.path("out"));
    let selected = PointSelector::Sequence(oldest);
    fail_over(&replica, lost, selected, &out, |_, _| ())
        .await
        .unwrap();
    commit(&replica, None).await.unwrap();
    assert_eq!(fs::metadata(out.join("disk.raw")).unwrap().len(), 4 << 20);
    fixture.reverse("out", 3).await;
    assert_eq!(
        fs::metadata(out.join("disk.raw")).unwrap().len(),
        LARGER.get()
    );
    fixture.assert_reversed("out/disk.raw").await;
}

#[tokio::test]
async fn a_disk_that_follows_grows_with_the_machine() {
    let fixture = Fixture::new();
    fixture.over_there().await;
    let mut follower = fixture.follow().start().await.unwrap();
    pull(&mut follower).await;
    let (machine, mut notices) = fixture.failed_over("out").start().await.unwrap();
    until(&mut notices, |notice| {
        matches!(notice, Notice::State { .. })
    })
    .await;
    write(&machine, 3);
    until(&mut notices, is_point).await;
    machine.grow(0, LARGER).await.unwrap();
    write_at_end(&machine, 7);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    let pulled = pull(&mut follower).await;
    assert_eq!(pulled.compared, Length::ZERO);
    fixture.assert_same("disk.raw", "out/disk.raw");
    fixture.fail_back_to(&mut follower).await;
    drop(follower);
    let (machine, mut notices) = fixture.vm().reverse().start().await.unwrap();
    assert_eq!(machine.size(), LARGER);
    write_at_end(&machine, 8);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    fixture.assert_reversed("disk.raw").await;
}

#[tokio::test]
async fn a_further_replica_grows_with_the_nearer_one() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    fixture.extend().await;
    lengthen(&fixture);
    fixture.start_larger(fixture.vm().only_enlarged()).await;
    fixture.extend().await;
    fixture.assert_extended(&[fixture.path("disk.raw")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_served_with_the_size_of_its_point() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    lengthen(&fixture);
    fixture.start_larger(fixture.vm().only_enlarged()).await;
    let (replica, out) = (fixture.replica().await, fixture.path("served"));
    let address = format!("unix:{}", fixture.path("served.sock").display());
    let (how, latest) = (Failover::Planned, PointSelector::Latest);
    let address = address.parse().unwrap();
    let served = serve_failover(&replica, how, latest, &address, &out).await;
    let mut served = served.unwrap();
    served.hydrated().await.unwrap();
    assert_eq!(served.progress(), (LARGER, LARGER));
    served.close().await.unwrap();
    fixture.assert_same("disk.raw", "served/disk.raw");
}

/// The files under `folder`, and what is in them.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = fs::read(&path).unwrap();
                found.push((path, content));
            }
        }
    }
    found
}

/// The disk is larger, and written to there, and nothing that is saved knows of it.
#[tokio::test]
async fn a_crash_before_it_is_recorded_that_a_disk_grew_loses_nothing() {
    let fixture = Fixture::new();
    let policy = Policy {
        interval: Policy::INTERVAL_MAX,
        ..Policy::default()
    };
    let protection = fixture.vm().policy(policy);
    let (machine, mut notices) = protection.start().await.unwrap();
    until(&mut notices, is_point).await;
    // So that no log is shipped and deleted.
    machine.request(Request::Suspend).await.unwrap();
    write(&machine, 1);
    let before = files(&fixture.path("vm.state"));
    machine.grow(0, LARGER).await.unwrap();
    write_at_end(&machine, 7);
    drop(machine);
    until_free(&fixture).await;
    for (path, content) in before {
        if !path.exists() || path.ends_with("state.json") {
            fs::write(path, content).unwrap();
        }
    }
    let (machine, mut notices) = start(fixture.vm()).await;
    assert_eq!(machine.size(), LARGER);
    machine.request(Request::Resume).await.unwrap();
    let compared = compared(&mut notices).await;
    let (reason, compared) = compared.unwrap();
    assert_eq!(reason, ResyncReason::Enlarged);
    assert!(compared <= Length::kib(128), "{compared}");
    assert!(machine.stop().await.unwrap());
    fixture.assert_grown().await;
}

/// Waits until a machine that was dropped has let go of its folder.
async fn until_free(fixture: &Fixture) {
    let lock = fixture.path("vm.state/lock");
    while File::open(&lock).unwrap().try_lock().is_err() {
        tokio::task::yield_now().await;
    }
}
