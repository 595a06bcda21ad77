//! A third site: the replica is replicated on to a further one.

use std::fs;
use std::path::PathBuf;

use afterimage::block::{BlockWrite, Length, Offset};
use afterimage::{
    Advanced, Error, Extension, Failover, PointSelector, Policy, ProtectedMachine, Protection,
    Replica, Store, TestResult, cancel, clean_up, commit, fail_over, status,
};
use afterimage::{Clock, Notice};
use tokio::sync::broadcast::Receiver;

use crate::fixture::{Fixture, is_point, until, write, write_much};
use crate::mending::{object, scrubbed};
use crate::refusals;

impl Fixture {
    pub(crate) async fn far(&self) -> Replica {
        let url = self.path("far").display().to_string();
        let store = Store::open(&url).await.unwrap();
        store.replica("vm".parse().unwrap())
    }

    async fn extension(&self, policy: Policy) -> Result<Extension, Error> {
        let (near, far) = (self.replica().await, self.far().await);
        Extension::begin(near, &far, policy, self.0.path()).await
    }

    /// Extends until nothing is new.
    pub(crate) async fn extend(&self) -> Vec<Advanced> {
        let mut extension = self.extension(Policy::default()).await.unwrap();
        let mut all = Vec::new();
        while let Some(advanced) = extension.round(|_, _| ()).await.unwrap() {
            all.push(advanced);
        }
        all
    }

    pub(crate) async fn assert_extended(&self, disks: &[PathBuf]) {
        let out = self.path(&format!(
            "far-out-{}",
            fs::read_dir(self.0.path()).unwrap().count()
        ));
        let (far, latest) = (self.far().await, PointSelector::Latest);
        let done = fail_over(&far, Failover::Test, latest, &out, |_, _| ()).await;
        for (disk, image) in disks.iter().zip(done.unwrap().images) {
            assert!(
                fs::read(disk).unwrap() == fs::read(&image).unwrap(),
                "{}",
                image.display()
            );
        }
        clean_up(&far, Some(&out), TestResult::Succeeded, "")
            .await
            .unwrap();
    }
}

/// Writes and waits for the recovery point that has it, `count` times.
async fn points(machine: &ProtectedMachine, notices: &mut Receiver<Notice>, count: u8) {
    for value in 0..count {
        write(machine, value);
        until(notices, is_point).await;
    }
}

#[tokio::test]
async fn the_further_replica_comes_to_hold_what_the_nearer_one_does() {
    let fixture = Fixture::new();
    let disk = fixture.path("disk.raw");
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    points(&machine, &mut notices, 2).await;
    assert_eq!(fixture.extend().await.len(), 1, "the first copy");
    points(&machine, &mut notices, 4).await;
    assert!(machine.stop().await.unwrap());
    let [delta] = fixture.extend().await[..] else {
        panic!("several points lie between, and go over as one");
    };
    assert_eq!(delta.compared, Length::ZERO);
    assert!(delta.sent < Length::kib(64), "{}", delta.sent);
    assert!(fixture.extend().await.is_empty());
    fixture.assert_extended(&[disk]).await;
    let far = fixture.far().await.existing().await.unwrap();
    let near = fixture.replica().await.existing().await.unwrap();
    assert_eq!(far.points.last(), near.points.last());
    assert_eq!(far.points.len(), 2);
}

#[tokio::test]
async fn digests_tell_what_differs_where_the_logs_are_gone() {
    let fixture = Fixture::new();
    let disk = fixture.path("disk.raw");
    let policy = Policy {
        recovery_points_max: 1,
        ..Policy::default()
    };
    fixture.protect_once().await;
    fixture.extend().await;
    let (machine, mut notices) = fixture
        .vm()
        .policy(Policy {
            interval: Policy::INTERVAL_MIN,
            ..policy
        })
        .start()
        .await
        .unwrap();
    // What no point needs takes more than a quarter of the disk.
    for value in 0..24 {
        write_much(&machine, value);
        until(&mut notices, is_point).await;
    }
    assert!(machine.stop().await.unwrap());
    let [delta] = fixture.extend().await[..] else {
        panic!("one round");
    };
    assert_eq!(delta.compared, Length::mib(4), "the logs are folded");
    assert!(delta.sent < Length::mib(1), "{}", delta.sent);
    fixture.assert_extended(&[disk]).await;
}

#[tokio::test]
async fn what_is_doubted_is_compared() {
    let fixture = Fixture::new();
    let disk = fixture.path("disk.raw");
    fixture.protect_once().await;
    fixture.extend().await;
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    points(&machine, &mut notices, 2).await;
    assert!(machine.stop().await.unwrap());
    let mut extension = fixture.extension(Policy::default()).await.unwrap();
    extension.resynchronize().await.unwrap();
    let advanced = extension.round(|_, _| ()).await.unwrap().unwrap();
    assert_eq!(advanced.compared, Length::mib(4));
    fixture.assert_extended(&[disk]).await;
}

#[tokio::test]
async fn a_first_copy_that_was_cut_goes_on_with_another_point() {
    let fixture = Fixture::new();
    let disks = vec![fixture.path("disk.raw"), fixture.disk("data")];
    let url = fixture.path("replica").display().to_string();
    let protection = Protection::new("vm".parse().unwrap(), disks.clone(), url);
    let policy = Policy {
        interval: Policy::INTERVAL_MIN,
        recovery_points_max: 1,
        ..Policy::default()
    };
    let protection = protection.clock(Clock::accelerated(10)).policy(policy);
    let (machine, mut notices) = protection.start().await.unwrap();
    let second = |value: u8| {
        machine.disks()[1]
            .write_at(Offset::new(4096), &[value; 4096])
            .unwrap();
    };
    second(1);
    points(&machine, &mut notices, 2).await;
    let mut extension = fixture.extension(Policy::default()).await.unwrap();
    let (first_disk, mut is_done) = tokio::sync::mpsc::unbounded_channel();
    let progress = |done: Length, _| {
        if done > Length::mib(4) {
            let _ = first_disk.send(());
        }
    };
    tokio::select! {
        biased;
        _ = is_done.recv() => {}
        _ = extension.round(progress) => panic!("it was not cut"),
    }
    drop(extension);
    second(2);
    points(&machine, &mut notices, 12).await;
    assert!(machine.stop().await.unwrap());
    let all = fixture.extend().await;
    let last = all.last().unwrap();
    assert_eq!(
        last.compared,
        Length::mib(8),
        "what is of several points is compared"
    );
    fixture.assert_extended(&disks).await;
    let far = fixture.far().await.existing().await.unwrap();
    assert_eq!(far.points.len(), 1, "the first copy is of no point");
}

#[tokio::test]
async fn a_failover_of_the_further_replica_ends_the_extension_until_it_is_taken_back() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let mut extension = fixture.extension(Policy::default()).await.unwrap();
    extension.round(|_, _| ()).await.unwrap();
    let (far, latest) = (fixture.far().await, PointSelector::Latest);
    assert!(status(&far, Clock::timestamp()).await.unwrap().extended);
    let out = fixture.path("out");
    fail_over(&far, Failover::Forced, latest, &out, |_, _| ())
        .await
        .unwrap();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    points(&machine, &mut notices, 2).await;
    assert!(machine.stop().await.unwrap());
    let error = extension.round(|_, _| ()).await.unwrap_err();
    assert!(error.to_string().contains("epoch"), "{error}");
    let error = fixture.extension(Policy::default()).await.unwrap_err();
    assert!(error.to_string().contains("failed over"), "{error}");
    cancel(&far, None).await.unwrap();
    assert_eq!(fixture.extend().await.len(), 1);
    fixture.assert_extended(&[fixture.path("disk.raw")]).await;
}

#[tokio::test]
async fn a_committed_failover_ends_it_for_good() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    fixture.extend().await;
    let (far, latest) = (fixture.far().await, PointSelector::Latest);
    let out = fixture.path("out");
    fail_over(&far, Failover::Forced, latest, &out, |_, _| ())
        .await
        .unwrap();
    commit(&far, None).await.unwrap();
    let reversed = fixture.protection_to("far", "vm", &out.join("disk.raw"));
    let reversed = reversed.state_folder(out.join(".afterimage-vm")).reverse();
    let (machine, mut notices) = reversed.start().await.unwrap();
    points(&machine, &mut notices, 2).await;
    assert!(machine.stop().await.unwrap());
    let error = fixture.extension(Policy::default()).await.unwrap_err();
    assert!(
        error.to_string().contains("replica of a primary"),
        "{error}"
    );
    fixture.assert_extended(&[out.join("disk.raw")]).await;
}

#[tokio::test]
async fn a_replica_has_one_that_feeds_it() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let mut first = fixture.extension(Policy::default()).await.unwrap();
    let mut second = fixture.extension(Policy::default()).await.unwrap();
    let error = first.round(|_, _| ()).await.unwrap_err();
    assert!(error.to_string().contains("epoch"), "{error}");
    second.round(|_, _| ()).await.unwrap().unwrap();
    // A primary cannot ship to it,
    let diverted = fixture.protection_to("far", "vm", &fixture.path("disk.raw"));
    let error = refusals::refused(diverted).await;
    refusals::assert_says(&error, "fed by another replica");
    // nor an extension to a primary's own.
    let (near, own) = (fixture.far().await, fixture.replica().await);
    let error = Extension::begin(near, &own, Policy::default(), fixture.0.path()).await;
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("replica of a primary")
    );
}

/// Damages an object of the further replica, of whose content the nearer one holds the rest.
async fn mends_the_further_replica(kind: &str, is_overwritten: bool) {
    let fixture = Fixture::new();
    let content: Vec<u8> = (1..=251).cycle().take(4 << 20).collect();
    fs::write(fixture.path("disk.raw"), content).unwrap();
    fixture.protect_once().await;
    fixture.extend().await;
    let path = object(&fixture, "far", kind, true);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let far = fixture.far().await;
    assert_eq!(scrubbed(&far).await.len(), 1, "{kind}");
    if is_overwritten {
        let (machine, mut notices) = fixture.vm().start().await.unwrap();
        write(&machine, 3);
        until(&mut notices, is_point).await;
        assert!(machine.stop().await.unwrap());
    }
    fixture.extend().await;
    assert_eq!(far.existing().await.unwrap().open_losses().count(), 0);
    assert_eq!(scrubbed(&far).await, [""; 0], "{kind}");
    let is_as_it_was = fs::read(&path).is_ok_and(|present| present == whole);
    assert_eq!(is_as_it_was, !is_overwritten, "{kind}");
    fixture.assert_extended(&[fixture.path("disk.raw")]).await;
}

#[tokio::test]
async fn a_chunk_of_the_further_replica_is_put_as_it_was() {
    mends_the_further_replica("chunks", false).await;
}

#[tokio::test]
async fn a_chunk_of_the_further_replica_that_was_overwritten_goes_over_with_the_next_point() {
    mends_the_further_replica("chunks", true).await;
}

#[tokio::test]
async fn what_a_page_of_the_further_replica_names_goes_over_with_the_next_point() {
    mends_the_further_replica("pages", true).await;
}

#[tokio::test]
async fn a_nearer_replica_that_became_another_machines_is_refused() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let mut extension = fixture.extension(Policy::default()).await.unwrap();
    assert!(extension.round(|_, _| ()).await.unwrap().is_some());
    for folder in ["replica/machines", "vm.state"] {
        fs::remove_dir_all(fixture.path(folder)).unwrap();
    }
    fixture.protect_once().await;
    let error = extension.round(|_, _| ()).await.unwrap_err();
    refusals::assert_says(&error, "another machine");
    fixture.assert_extended(&[fixture.path("disk.raw")]).await;
}
