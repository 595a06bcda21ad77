//! The way back: disks that follow the replica, and are failed back to.

use std::fs;
use std::path::PathBuf;
use std::pin::pin;

use afterimage::block::{Access, BlockWrite, Length, Offset, RawDisk};
use afterimage::{
    Clock, Error, Failover, Follow, Follower, JobKind, JobState, Notice, PointSelector,
    ProtectedMachine, Protection, Pulled, Request, Standing, State, cancel, commit, fail_over,
    side_status, status,
};
use futures::poll;

use crate::fixture::{Fixture, is_point, until, write};
use crate::reverse::refusal;

const SIZE: usize = 4 << 20;

impl Fixture {
    /// The first primary's disk, as one that follows.
    pub(crate) fn follow(&self) -> Follow {
        self.follow_with("disk.raw", "vm.state")
    }

    fn follow_with(&self, disk: &str, state: &str) -> Follow {
        let replica = self.path("replica").display().to_string();
        Follow::new("vm".parse().unwrap(), vec![self.path(disk)], replica)
            .state_folder(self.path(state))
    }

    /// Protects the machine, fails it over to `out`, and lets that side write.
    pub(crate) async fn over_there(&self) {
        self.protect_once().await;
        self.fail_over_to("out").await.unwrap();
        commit(&self.replica().await, None).await.unwrap();
        self.reverse("out", 2).await;
    }

    /// Lets the primary at `out` run until another write is at the replica.
    async fn write_there(&self, value: u8) {
        let (machine, mut notices) = self.failed_over("out").start().await.unwrap();
        write(&machine, value);
        until(&mut notices, is_point).await;
        assert!(machine.stop().await.unwrap());
    }

    pub(crate) fn assert_same(&self, one: &str, other: &str) {
        let (one, other) = (fs::read(self.path(one)), fs::read(self.path(other)));
        assert!(one.unwrap() == other.unwrap(), "the disks differ");
    }

    /// Fails back to the follower, commits, and has it write in the first direction again.
    pub(crate) async fn fail_back_to(&self, follower: &mut Follower) -> PathBuf {
        let done = follower.fail_back().await.unwrap();
        commit(&self.replica().await, None).await.unwrap();
        done.images[0].clone()
    }
}

pub(crate) async fn pull(follower: &mut Follower) -> Pulled {
    follower.pull(|_, _| ()).await.unwrap()
}

fn change_directly(path: PathBuf) {
    RawDisk::open(path, Access::ReadWrite)
        .unwrap()
        .write_at(Offset::new(2 << 20), &[9; 512])
        .unwrap();
}

/// A guest that writes at random, and a plain observer of it.
struct Guest {
    random: fastrand::Rng,
    observer: Vec<u8>,
}

impl Guest {
    async fn run(&mut self, protection: Protection) -> ProtectedMachine {
        let (machine, mut notices) = protection.start().await.unwrap();
        for round in 0..2 {
            for _ in 0..8 {
                let length = self.random.usize(1..=64) * 512;
                let at = self.random.usize(0..=(self.observer.len() - length) / 512) * 512;
                let data = vec![self.random.u8(..); length];
                let offset = Offset::new(at as u64);
                machine.disks()[0].write_at(offset, &data).unwrap();
                self.observer[at..at + length].copy_from_slice(&data);
            }
            if round == 0 {
                until(&mut notices, is_point).await;
            }
        }
        machine
    }

    fn assert_saw(&self, path: PathBuf) {
        assert!(fs::read(path).unwrap() == self.observer, "not as observed");
    }
}

#[tokio::test]
async fn twenty_loops_of_failover_and_failback_lose_nothing() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.path("disk.raw")).unwrap();
    RawDisk::create(fixture.path("disk.raw"), Length::mib(1)).unwrap();
    let mut guest = Guest {
        random: fastrand::Rng::with_seed(5),
        observer: vec![0; 1 << 20],
    };
    let replica = async || fixture.replica().await;
    for lap in 0..20 {
        let here = guest.run(fixture.vm().reverse_after(lap)).await;
        assert!(here.stop().await.unwrap());
        let out = format!("out-{lap}");
        fixture.fail_over_to(&out).await.unwrap();
        commit(&replica().await, None).await.unwrap();
        guest.assert_saw(fixture.path(&out).join("disk.raw"));

        let there = guest.run(fixture.failed_over(&out).reverse()).await;
        let mut follower = fixture.follow().start().await.unwrap();
        pull(&mut follower).await;
        assert!(there.stop().await.unwrap());
        pull(&mut follower).await;
        fixture.fail_back_to(&mut follower).await;
        guest.assert_saw(fixture.path("disk.raw"));
        fixture.assert_same("disk.raw", &format!("{out}/disk.raw"));
    }
}

trait ReverseAfter {
    /// Reversed but in the first lap.
    fn reverse_after(self, laps: usize) -> Self;
}

impl ReverseAfter for Protection {
    fn reverse_after(self, laps: usize) -> Self {
        if laps == 0 { self } else { self.reverse() }
    }
}

#[tokio::test]
async fn only_what_differs_is_pulled_and_then_what_the_logs_name() {
    let fixture = Fixture::new();
    fixture.over_there().await;
    let mut follower = fixture.follow().start().await.unwrap();
    let first = pull(&mut follower).await;
    assert_eq!(first.compared, Length::mib(4));
    assert_eq!(first.written, Length::kib(64), "one block differs");
    fixture.assert_same("disk.raw", "out/disk.raw");
    let again = pull(&mut follower).await;
    assert_eq!(
        (again.compared, again.written),
        (Length::ZERO, Length::ZERO)
    );

    fixture.write_there(3).await;
    let second = pull(&mut follower).await;
    assert_eq!(second.compared, Length::ZERO);
    assert_eq!(second.written, Length::kib(4), "what was written there");
    fixture.assert_same("disk.raw", "out/disk.raw");

    drop(follower);
    change_directly(fixture.path("disk.raw"));
    let Err(Error::Diverges(changed)) = fixture.follow().start().await else {
        panic!("what was written to it is not asked for");
    };
    let follow = fixture.follow().token(changed.token());
    let mut follower = follow.start().await.unwrap();
    let refused = refusal(follower.fail_back().await);
    assert!(refused.contains("changed since the last pull"), "{refused}");
    let third = pull(&mut follower).await;
    assert_eq!(third.compared, Length::mib(4));
    fixture.assert_same("disk.raw", "out/disk.raw");
}

#[tokio::test]
async fn a_pull_can_be_given_up_at_any_moment_and_repeated() {
    let fixture = Fixture::new();
    fixture.over_there().await;
    for value in 3..9 {
        fixture.write_there(value).await;
    }
    let (mut given_up, mut turns) = (0, 0);
    loop {
        let mut follower = loop {
            // What was given up may still be about to let go of the disk.
            match fixture.follow().start().await {
                Err(Error::Disk(_) | Error::StateInUse(_)) => tokio::task::yield_now().await,
                started => break started.unwrap(),
            }
        };
        {
            let mut pull = pin!(follower.pull(|_, _| ()));
            let mut left = turns;
            while left > 0 && poll!(pull.as_mut()).is_pending() {
                left -= 1;
                tokio::task::yield_now().await;
            }
            if left > 0 {
                break;
            }
        }
        given_up += 1;
        turns += 1 + turns / 4;
        if follower.fail_back().await.is_err() {
            // The primary and the points do not depend on it.
            fixture.assert_reversed("out/disk.raw").await;
        }
    }
    assert!(given_up > 3, "only {given_up} pulls were given up");
    fixture.assert_same("disk.raw", "out/disk.raw");
}

#[tokio::test]
async fn what_only_a_lost_primary_holds_is_destroyed_by_its_token_alone() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    until(&mut notices, |n| matches!(n, Notice::State { .. })).await;
    machine.request(Request::Suspend).await.unwrap();
    write(&machine, 200);
    assert!(!machine.stop().await.unwrap());
    let replica = fixture.replica().await;
    let (lost, out) = (Failover::Forced, fixture.path("out"));
    fail_over(&replica, lost, PointSelector::Latest, &out, |_, _| ())
        .await
        .unwrap();
    commit(&replica, None).await.unwrap();
    let early = refusal(fixture.follow().start().await);
    assert!(early.contains("nobody is its primary yet"), "{early}");
    fixture.reverse("out", 2).await;

    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    machine.request(Request::Resume).await.unwrap();
    let gave_up = until(&mut notices, |n| matches!(n, Notice::GaveUp { .. })).await;
    let Notice::GaveUp { error, .. } = gave_up else {
        panic!("awaited");
    };
    assert!(error.contains("another one published"), "{error}");
    assert!(!machine.stop().await.unwrap());

    let there = status(&replica, Clock::timestamp()).await.unwrap();
    let here = side_status(&fixture.path("vm.state")).unwrap();
    assert_eq!(there.diverged.len(), 1, "{there:?}");
    assert_eq!(there.diverged[0].epoch, here.epoch);
    assert_eq!(there.diverged[0].bytes, here.alone.bytes());
    let Standing::Primary { state, problem, .. } = &here.standing else {
        panic!("{here:?}");
    };
    assert_eq!(*state, State::Critical);
    assert_eq!(problem.as_ref(), Some(&error));
    fixture.write_there(3).await;
    let there = status(&replica, Clock::timestamp()).await.unwrap();
    assert_eq!(there.diverged.len(), 1, "the primary's reports leave it");

    let before = fs::read(fixture.path("disk.raw")).unwrap();
    let other = "discard-epoch-77".parse().unwrap();
    let mut token = None;
    for follow in [fixture.follow(), fixture.follow().token(other)] {
        let Err(Error::Diverges(divergence)) = follow.start().await else {
            panic!("not refused");
        };
        let shown = Error::Diverges(divergence.clone()).to_string();
        assert!(shown.contains("4 KiB of `disk` at 819200+4096"), "{shown}");
        assert!(shown.contains(&divergence.token().to_string()), "{shown}");
        assert_eq!(divergence.bytes(), Length::kib(4));
        token = Some(divergence.token());
    }
    assert!(fs::read(fixture.path("disk.raw")).unwrap() == before);
    let follow = fixture.follow().token(token.unwrap());
    let mut follower = follow.start().await.unwrap();
    pull(&mut follower).await;
    fixture.assert_same("disk.raw", "out/disk.raw");
    let there = status(&replica, Clock::timestamp()).await.unwrap();
    assert!(there.diverged.is_empty(), "it is resolved");
    let here = side_status(&fixture.path("vm.state")).unwrap();
    assert!(here.alone.is_nothing(), "{here:?}");
    assert!(
        !fixture.path("vm.state/logs").exists(),
        "its logs take room"
    );
    fixture.fail_back_to(&mut follower).await;
    drop(follower);
    let (machine, mut notices) = fixture.vm().reverse().start().await.unwrap();
    write(&machine, 3);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    fixture.assert_reversed("disk.raw").await;
}

#[tokio::test]
async fn another_machine_is_pulled_to_and_failed_back_to() {
    let fixture = Fixture::new();
    fixture.over_there().await;
    fs::create_dir(fixture.path("new")).unwrap();
    let follow = || fixture.follow_with("new/any.raw", "new/state");
    fs::write(fixture.path("new/any.raw"), vec![1; SIZE]).unwrap();
    let refused = follow().start().await.err().unwrap().to_string();
    assert!(refused.contains("is not empty"), "{refused}");
    fs::remove_file(fixture.path("new/any.raw")).unwrap();
    let mut follower = follow().start().await.unwrap();
    pull(&mut follower).await;
    fixture.assert_same("new/any.raw", "out/disk.raw");
    let image = fixture.fail_back_to(&mut follower).await;
    drop(follower);
    let primary = fixture.protection("vm", &image);
    let primary = primary.state_folder(fixture.path("new/state")).reverse();
    let (machine, mut notices) = primary.start().await.unwrap();
    write(&machine, 3);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    fixture.assert_reversed("new/any.raw").await;
}

#[tokio::test]
async fn the_status_shows_a_failback_from_its_first_pull_on() {
    let fixture = Fixture::new();
    fixture.over_there().await;
    let tasks = async || {
        let there = status(&fixture.replica().await, Clock::timestamp()).await;
        let operations = there.unwrap().operations.into_iter();
        let failbacks = operations.map(|operation| operation.job);
        let failbacks: Vec<_> = failbacks
            .filter(|job| job.kind == JobKind::Failback)
            .collect();
        let [failback] = failbacks.as_slice() else {
            panic!("not one failback: {failbacks:?}");
        };
        let tasks = failback.tasks.iter().map(|task| task.state);
        (failback.state, tasks.collect::<Vec<_>>())
    };
    let [waits, runs, done] = [
        JobState::NotStarted,
        JobState::InProgress,
        JobState::Succeeded,
    ];
    let mut follower = fixture.follow().start().await.unwrap();
    pull(&mut follower).await;
    assert_eq!(tasks().await, (runs, vec![done, runs, waits]));
    fixture.write_there(3).await;
    pull(&mut follower).await;
    assert_eq!(tasks().await, (runs, vec![done, runs, waits]));
    fixture.fail_back_to(&mut follower).await;
    assert_eq!(tasks().await, (done, vec![done; 3]));
}

#[tokio::test]
async fn a_failback_is_taken_back_and_asked_for_again() {
    let fixture = Fixture::new();
    fixture.over_there().await;
    let mut follower = fixture.follow().start().await.unwrap();
    let early = refusal(follower.fail_back().await);
    assert!(early.contains("not at the last delta"), "{early}");
    pull(&mut follower).await;
    let first = follower.fail_back().await.unwrap();
    let again = follower.fail_back().await.unwrap();
    assert_eq!(first.sequence, again.sequence);
    drop(follower);
    let mut follower = fixture.follow().start().await.unwrap();
    let nothing = pull(&mut follower).await;
    assert_eq!(nothing.written, Length::ZERO);
    follower.fail_back().await.unwrap();

    cancel(&fixture.replica().await, None).await.unwrap();
    drop(follower);
    fixture.write_there(3).await;
    change_directly(fixture.path("disk.raw"));
    let Err(Error::Diverges(tried)) = fixture.follow().start().await else {
        panic!("what was written to it meanwhile is not asked for");
    };
    let follow = fixture.follow().token(tried.token());
    let mut follower = follow.start().await.unwrap();
    pull(&mut follower).await;
    fixture.assert_same("disk.raw", "out/disk.raw");
    fixture.fail_back_to(&mut follower).await;
}

#[tokio::test]
async fn disks_that_follow_are_protected_by_nobody_and_a_primary_does_not_follow() {
    let fixture = Fixture::new();
    fixture.over_there().await;
    let primary = fixture.follow_with("out/disk.raw", "out/.afterimage-vm");
    let refused = refusal(primary.start().await);
    assert!(refused.contains("the replica's primary"), "{refused}");
    drop(fixture.follow().start().await.unwrap());
    for protection in [fixture.vm(), fixture.vm().reverse()] {
        let refused = refusal(protection.start().await);
        assert!(refused.contains("follow the replica"), "{refused}");
    }
    let shared = fixture.follow_with("disk.raw", "other.state").start().await;
    assert!(matches!(shared, Err(Error::Disks(_))));
    let running = fixture.follow().start().await.unwrap();
    let twice = fixture.follow().start().await;
    assert!(matches!(twice, Err(Error::StateInUse(_))));
    drop(running);
}
