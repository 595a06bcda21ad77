//! After a failover: the machine that was failed over is the primary, in the other direction.

use std::fs;

use afterimage::block::{Access, BlockWrite, Length, Offset, RawDisk};
use afterimage::{
    Error, Failover, Notice, PointSelector, ProtectedMachine, Protection, ResyncReason, TestResult,
    cancel, clean_up, commit, fail_over,
};
use tokio::sync::broadcast::Receiver;

use crate::fixture::{Fixture, is_point, until, write};

impl Fixture {
    pub(crate) async fn fail_over_to(&self, out: &str) -> Result<(), Error> {
        let (replica, out) = (self.replica().await, self.path(out));
        let latest = PointSelector::Latest;
        fail_over(&replica, Failover::Planned, latest, &out, |_, _| ())
            .await
            .map(drop)
    }

    /// The machine with the disk that a failover to `out` made.
    pub(crate) fn failed_over(&self, out: &str) -> Protection {
        let out = self.path(out);
        self.protection("vm", &out.join("disk.raw"))
            .state_folder(out.join(".afterimage-vm"))
    }

    /// Replicates in reverse until there is a recovery point with one write more; how much was
    /// compared, and why.
    pub(crate) async fn reverse(&self, out: &str, value: u8) -> (ResyncReason, Length) {
        let protection = self.failed_over(out).reverse();
        let (machine, mut notices) = protection.start().await.unwrap();
        let resynced = until(&mut notices, |n| matches!(n, Notice::Resync { .. })).await;
        write(&machine, value);
        until(&mut notices, is_point).await;
        assert!(machine.stop().await.unwrap());
        match resynced {
            Notice::Resync {
                reason, compared, ..
            } => (reason, compared),
            other => panic!("{other:?}"),
        }
    }

    /// The newest recovery point must be what `disk` is.
    pub(crate) async fn assert_reversed(&self, disk: &str) {
        let (replica, test) = (self.replica().await, self.path("test"));
        let latest = PointSelector::Latest;
        fail_over(&replica, Failover::Test, latest, &test, |_, _| ())
            .await
            .unwrap();
        let (disk, image) = (
            fs::read(self.path(disk)).unwrap(),
            fs::read(test.join("disk.raw")).unwrap(),
        );
        assert!(disk == image, "disk and replica differ");
        clean_up(&replica, Some(&test), TestResult::Succeeded, "")
            .await
            .unwrap();
    }
}

pub(crate) fn refusal<T>(result: Result<T, Error>) -> String {
    match result {
        Err(error @ Error::NotAllowed(_)) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not refused"),
    }
}

/// Starts it once the run before, which was dropped, has let go of folder and disk.
pub(crate) async fn start(protection: Protection) -> (ProtectedMachine, Receiver<Notice>) {
    loop {
        match protection.clone().start().await {
            Err(Error::StateInUse(_) | Error::Disk(_)) => tokio::task::yield_now().await,
            started => return started.unwrap(),
        }
    }
}

#[tokio::test]
async fn what_was_not_written_since_the_failover_is_not_compared() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    fixture.fail_over_to("out").await.unwrap();
    commit(&fixture.replica().await, None).await.unwrap();
    let compared = fixture.reverse("out", 2).await;
    assert_eq!(compared, (ResyncReason::Reversed, Length::ZERO));
    fixture.assert_reversed("out/disk.raw").await;
}

#[tokio::test]
async fn what_was_written_since_the_failover_is_found() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    fixture.fail_over_to("out").await.unwrap();
    commit(&fixture.replica().await, None).await.unwrap();
    RawDisk::open(fixture.path("out/disk.raw"), Access::ReadWrite)
        .unwrap()
        .write_at(Offset::new(3 << 20), &[7; 512])
        .unwrap();
    let (_, compared) = fixture.reverse("out", 2).await;
    assert_eq!(compared, Length::mib(4), "the whole disk");
    fixture.assert_reversed("out/disk.raw").await;
}

#[tokio::test]
async fn an_older_point_is_brought_to_the_replica_from_its_logs() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    write(&machine, 2);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    let replica = fixture.replica().await;
    let oldest = replica.existing().await.unwrap().points[0].sequence;
    let (lost, out) = (Failover::Forced, fixture.path("out"));
    let point = PointSelector::Sequence(oldest);
    fail_over(&replica, lost, point, &out, |_, _| ())
        .await
        .unwrap();
    commit(&replica, None).await.unwrap();
    let (_, compared) = fixture.reverse("out", 3).await;
    assert!(
        !compared.is_zero() && compared < Length::mib(1),
        "{compared}"
    );
    fixture.assert_reversed("out/disk.raw").await;
}

#[tokio::test]
async fn only_the_committed_failover_of_last_can_be_reversed() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let replica = fixture.replica().await;
    fixture.fail_over_to("first").await.unwrap();
    let early = fixture.failed_over("first").reverse().start().await;
    assert!(refusal(early).contains("no failover is committed"));
    let forward = fixture.failed_over("first").start().await;
    assert!(refusal(forward).contains("not the primary's yet"));

    cancel(&replica, None).await.unwrap();
    let taken_back = fixture.failed_over("first").reverse().start().await;
    assert!(refusal(taken_back).contains("not failed over to the disks here"));
    fixture.protect_once().await;
    fixture.fail_over_to("second").await.unwrap();
    commit(&replica, None).await.unwrap();
    let first = fixture.failed_over("first").reverse().start().await;
    assert!(refusal(first).contains("not failed over to the disks here"));
    let never = fixture.vm().state_folder(fixture.path("fresh")).reverse();
    assert!(refusal(never.start().await).contains("nothing was failed over to here"));
    fixture.reverse("second", 2).await;
    fixture.assert_reversed("second/disk.raw").await;
}

#[tokio::test]
async fn a_failover_that_was_cut_short_makes_what_is_missing() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    fixture.fail_over_to("out").await.unwrap();
    let image = fixture.path("out/disk.raw");
    let whole = fs::read(&image).unwrap();
    fs::rename(&image, fixture.path("out/disk.raw.partial")).unwrap();
    let epoch = fixture
        .replica()
        .await
        .existing()
        .await
        .unwrap()
        .fence
        .epoch;
    fixture.fail_over_to("out").await.unwrap();
    fixture.fail_over_to("out").await.unwrap();
    let again = fixture.replica().await.existing().await.unwrap();
    assert_eq!(again.fence.epoch, epoch, "it is the same failover");
    assert!(fs::read(&image).unwrap() == whole);
    commit(&fixture.replica().await, None).await.unwrap();
    fixture.reverse("out", 2).await;
    let primary = fixture.fail_over_to("out").await.unwrap_err();
    assert!(matches!(primary, Error::Exists(_)), "{primary}");
}

#[tokio::test]
async fn a_crash_at_any_moment_of_a_reversal_does_no_harm() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    fixture.fail_over_to("out").await.unwrap();
    commit(&fixture.replica().await, None).await.unwrap();
    let state = fixture.path("out/.afterimage-vm/state.json");
    let before = fs::read(&state).unwrap();
    // Recorded at the replica and nothing here: the driver had no turn yet.
    let (machine, _) = fixture.failed_over("out").reverse().start().await.unwrap();
    drop(machine);
    let claimed = fixture.replica().await.existing().await.unwrap().fence;
    assert_eq!(claimed.session, None);
    fs::write(&state, before).unwrap();
    for value in 2..6 {
        let protection = fixture.failed_over("out").reverse();
        let (machine, mut notices) = start(protection).await;
        write(&machine, value);
        let told = until(&mut notices, |_| true).await;
        assert!(!matches!(told, Notice::GaveUp { .. }), "{told:?}");
        drop(machine);
    }
    let (machine, mut notices) = start(fixture.failed_over("out")).await;
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    fixture.assert_reversed("out/disk.raw").await;
}
