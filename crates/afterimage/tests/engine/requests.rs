//! What the owner of a machine asks of it, and of its replica.

use std::fs;
use std::num::NonZeroU64;
use std::time::Duration;

use afterimage::block::{BlockRead, BlockWrite, Extent, Length, Offset, Zeroing};
use afterimage::{
    Bandwidth, Clock, Error, ErrorCode, Failover, Job, JobAction, JobKind, JobState, Key, Liveness,
    Notice, PointSelector, Policy, Protection, Request, ResyncReason, State, Status, Store,
    TestPlace, TestResult, cancel, clean_up, commit, fail_over, open_point, status,
};
use futures::FutureExt;

use crate::fixture::{Fixture, is_point, until, write, write_much};
use crate::refusals;

fn is_state(wanted: State) -> impl Fn(&Notice) -> bool {
    move |notice| matches!(notice, Notice::State { state, .. } if *state == wanted)
}

#[tokio::test]
async fn a_suspended_machine_sends_nothing_and_then_all() {
    let fixture = Fixture::new();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    until(&mut notices, is_state(State::Replicating)).await;
    machine.request(Request::Suspend).await.unwrap();
    until(&mut notices, is_state(State::Suspended)).await;
    let before = fixture.replica().await.existing().await.unwrap();
    write(&machine, 5);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = fixture.replica().await.existing().await.unwrap();
    assert_eq!(before.last(), after.last(), "sent while suspended");
    let refused = machine.request(Request::Suspend).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    machine.request(Request::Resume).await.unwrap();
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    fixture.assert_replicated().await;
}

/// The status of the replica, once it is as `awaited`.
async fn status_when(fixture: &Fixture, awaited: impl Fn(&Status) -> bool) -> Status {
    let replica = fixture.replica().await;
    let shown = async {
        loop {
            let shown = status(&replica, Clock::timestamp()).await;
            match shown {
                Ok(shown) if awaited(&shown) => return shown,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let shown = tokio::time::timeout(Duration::from_mins(1), shown).await;
    shown.expect("it never was")
}

#[tokio::test]
async fn the_replica_hears_that_its_machine_is_suspended() {
    let fixture = Fixture::new();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    until(&mut notices, is_state(State::Replicating)).await;
    machine.request(Request::Suspend).await.unwrap();
    let shown = status_when(&fixture, |shown| shown.state == State::Suspended).await;
    assert!(
        matches!(shown.liveness, Liveness::Idle { .. }),
        "{:?}",
        shown.liveness
    );
    machine.request(Request::Resume).await.unwrap();
    write(&machine, 5);
    status_when(&fixture, |shown| shown.state == State::Replicating).await;
    machine.request(Request::Suspend).await.unwrap();
    status_when(&fixture, |shown| shown.state == State::Suspended).await;
    // What is told late does not undo what was published since.
    machine.request(Request::Resume).await.unwrap();
    assert!(machine.stop().await.unwrap());
    let shown = status_when(&fixture, |_| true).await;
    assert_eq!(shown.state, State::PreparedForFailover);
}

#[tokio::test]
async fn the_replica_hears_how_far_a_first_copy_is() {
    let fixture = Fixture::new();
    fs::write(fixture.path("disk.raw"), vec![7; 4 << 20]).unwrap();
    let slow = Policy {
        bandwidth: Bandwidth {
            otherwise: NonZeroU64::new(16 << 10),
            ..Bandwidth::default()
        },
        ..Fixture::policy()
    };
    let (machine, mut notices) = fixture.vm().policy(slow).start().await.unwrap();
    until(&mut notices, is_state(State::InitialReplicationInProgress)).await;
    let far = |job: &Job| job.state == JobState::InProgress && !job.progress.total.is_zero();
    let shown = status_when(&fixture, |shown| shown.jobs.iter().any(far)).await;
    assert_eq!(shown.state, State::InitialReplicationInProgress);
    assert!(matches!(shown.liveness, Liveness::Idle { .. }));
    let running = shown.jobs.iter().find(|job| far(job)).unwrap();
    assert_eq!(running.kind, JobKind::InitialReplication);
    assert!(shown.recovery_points.is_empty());
    assert!(!machine.stop().await.unwrap());
}

#[tokio::test]
async fn a_resynchronization_can_be_asked_for() {
    let fixture = Fixture::new();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    until(&mut notices, is_state(State::Replicating)).await;
    write(&machine, 6);
    machine.request(Request::Resync).await.unwrap();
    let resynced = until(&mut notices, |n| matches!(n, Notice::Resync { .. })).await;
    let Notice::Resync {
        reason, compared, ..
    } = resynced
    else {
        panic!("awaited");
    };
    assert_eq!(reason, ResyncReason::Requested);
    assert_eq!(compared, machine.size(), "the whole disk");
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn an_overflow_waits_for_approval_where_the_policy_says_so() {
    let fixture = Fixture::new();
    let policy = Policy {
        interval: Duration::from_secs(1),
        automatic_resync: false,
        resync_threshold_percent: 10,
        ..Policy::default()
    };
    let (machine, mut notices) = fixture.vm().policy(policy).start().await.unwrap();
    until(&mut notices, is_state(State::Replicating)).await;
    machine.request(Request::Suspend).await.unwrap();
    let disk = &machine.disks()[0];
    disk.write_at(Offset::ZERO, &vec![3; 1 << 20]).unwrap();
    let extent = Extent::new(Offset::new(2 << 20), Length::mib(1)).unwrap();
    disk.write_zeroes(extent, Zeroing::Deallocate).unwrap();
    until(&mut notices, |n| matches!(n, Notice::ResyncRequired { .. })).await;
    machine.request(Request::Resume).await.unwrap();
    until(&mut notices, is_state(State::WaitingForStartResynchronize)).await;
    machine.request(Request::Resync).await.unwrap();
    // The log that overflowed may make a point of its own before.
    until(&mut notices, |n| matches!(n, Notice::Resync { .. })).await;
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn an_unplanned_failover_fences_the_primary_until_it_is_taken_back() {
    let fixture = Fixture::new();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    write(&machine, 1);
    until(&mut notices, is_point).await;
    let replica = fixture.replica().await;
    let now = replica.existing().await.unwrap().points[0].time;
    let liveness = status(&replica, now).await.unwrap().liveness;
    assert!(matches!(liveness, Liveness::Alive { .. }), "{liveness:?}");
    let out = fixture.path("lost");
    let fail_over = |how| {
        let replica = &replica;
        let out = &out;
        async move { fail_over(replica, how, PointSelector::Latest, out, |_, _| ()).await }
    };
    write(&machine, 3);
    until(&mut notices, is_point).await;
    let refused = fail_over(Failover::Unplanned).await.unwrap_err();
    refusals::assert_says(&refused, "may be alive");
    assert!(!out.exists(), "nothing is begun");
    let failed_over = fail_over(Failover::Forced).await.unwrap();
    write(&machine, 2);
    let gave_up = until(&mut notices, |n| matches!(n, Notice::GaveUp { .. })).await;
    let Notice::GaveUp { error, .. } = gave_up else {
        panic!("awaited");
    };
    assert!(error.contains("fenced"), "{error}");
    let shown = status(&replica, Clock::timestamp()).await.unwrap();
    assert_eq!(shown.state, State::FailedOverWaitingCompletion);
    assert_eq!(shown.diverged.len(), 1, "the primary that is shut out");
    assert_eq!(shown.liveness, Liveness::Stopped);
    assert!(!machine.stop().await.unwrap());

    let epoch = failed_over.epoch.unwrap();
    for end in [
        commit(&replica, epoch.next()).await,
        cancel(&replica, epoch.next()).await,
    ] {
        refusals::assert_says(
            &end.unwrap_err(),
            &format!("by the failover of epoch {epoch}"),
        );
    }
    cancel(&replica, epoch).await.unwrap();
    fixture.protect_once().await;
    let shown = status(&replica, Clock::timestamp()).await.unwrap();
    assert!(shown.diverged.is_empty(), "it is the primary again");
    fixture.assert_replicated().await;
    let epoch = status(&replica, Clock::timestamp()).await.unwrap().epoch;
    commit(&replica, epoch).await.unwrap();
    commit(&replica, epoch).await.unwrap();
    commit(&replica, None).await.unwrap_err();
}

#[tokio::test]
async fn the_last_test_failover_is_shown_and_replication_goes_on() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let replica = fixture.replica().await;
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    let out = fixture.path("test");
    let test = |out| {
        fail_over(
            &replica,
            Failover::Test,
            PointSelector::Latest,
            out,
            |_, _| (),
        )
    };
    let done = test(&out).await.unwrap();
    write(&machine, 2);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    let shown = async || status(&replica, Clock::timestamp()).await.unwrap();
    let begun = shown().await.test.unwrap();
    assert_eq!(begun.sequence, done.sequence);
    assert_eq!(begun.place, TestPlace::Images(out.canonicalize().unwrap()));

    // One at a time, wherever it is.
    let second = fixture.path("second");
    let refused = test(&second).await.unwrap_err();
    refusals::assert_says(&refused, &format!("{} is not cleaned up", begun.place));
    assert!(!second.exists());
    let elsewhere = clean_up(&replica, Some(&second), TestResult::Failed, "").await;
    refusals::assert_says(&elsewhere.unwrap_err(), "its images are in");
    let long = "x".repeat(5000);
    let long = clean_up(&replica, Some(&out), TestResult::Failed, &long).await;
    refusals::assert_says(&long.unwrap_err(), "4096");

    let notes = "the shop does not start";
    let tested = clean_up(&replica, Some(&out), TestResult::Failed, notes)
        .await
        .unwrap();
    assert!(!out.exists(), "its images are removed");
    let after = shown().await;
    assert_eq!((after.test, after.tested.as_ref()), (None, Some(&tested)));
    assert_eq!(
        (tested.result, tested.notes.as_str()),
        (TestResult::Failed, notes)
    );
    let none = clean_up(&replica, Some(&out), TestResult::Failed, "").await;
    refusals::assert_says(&none.unwrap_err(), "there is no test failover");
    fixture.assert_replicated().await;
    assert_eq!(
        shown().await.tested,
        Some(tested),
        "the primary leaves it as it is"
    );
}

#[tokio::test]
async fn a_test_failover_that_was_cut_short_is_cleaned_up() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let (replica, out) = (fixture.replica().await, fixture.path("test"));
    let cut_short = |_, _| panic!("the process dies");
    let latest = PointSelector::Latest;
    let test = fail_over(&replica, Failover::Test, latest, &out, cut_short);
    std::panic::AssertUnwindSafe(test)
        .catch_unwind()
        .await
        .unwrap_err();
    fs::write(out.join("disk.raw.partial"), b"half").unwrap();
    let shown = status(&replica, Clock::timestamp()).await.unwrap();
    let running = shown.operations.last().unwrap();
    assert_eq!(running.job.kind, JobKind::TestFailover);
    assert_eq!(running.job.state, JobState::InProgress);
    clean_up(&replica, Some(&out), TestResult::Failed, "")
        .await
        .unwrap();
    assert!(!out.exists());
    let again = fail_over(&replica, Failover::Test, latest, &out, |_, _| ()).await;
    assert_eq!(again.unwrap().images.len(), 1);
}

#[tokio::test]
async fn what_operators_do_is_shown_as_jobs() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    write_much(&machine, 2);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    let (replica, out) = (fixture.replica().await, fixture.path("out"));
    let (latest, nothing) = (PointSelector::Latest, |_, _| ());
    let shown = async || {
        status(&replica, Clock::timestamp())
            .await
            .unwrap()
            .operations
    };
    let states = |job: &Job| job.tasks.iter().map(|task| task.state).collect::<Vec<_>>();

    // A failover whose images cannot be made, though the primary is fenced off.
    let log = fixture.find("replica/machines/vm", ".ailog");
    let content = fs::read(&log).unwrap();
    fs::write(&log, b"damaged").unwrap();
    fail_over(&replica, Failover::Planned, latest, &out, nothing)
        .await
        .unwrap_err();
    let failed = shown().await.pop().unwrap();
    assert_eq!(failed.job.kind, JobKind::PlannedFailover);
    assert_eq!(states(&failed.job), [JobState::Succeeded, JobState::Failed]);
    assert_eq!(failed.job.error.unwrap().code, ErrorCode::Damaged);
    assert_eq!(failed.actions, [JobAction::Restart, JobAction::Cancel]);

    fs::write(&log, content).unwrap();
    fail_over(&replica, Failover::Planned, latest, &out, nothing)
        .await
        .unwrap();
    let made = shown().await.pop().unwrap();
    assert_eq!(made.job.state, JobState::Succeeded);
    assert!(made.job.ended >= Some(made.job.started));
    assert_eq!(made.actions, [JobAction::Cancel]);
    commit(&replica, None).await.unwrap();
    fixture.reverse("out", 3).await;
    let kinds = shown()
        .await
        .into_iter()
        .map(|operation| operation.job.kind);
    let wanted = [
        JobKind::PlannedFailover,
        JobKind::PlannedFailover,
        JobKind::Commit,
        JobKind::ReverseReplication,
    ];
    assert_eq!(kinds.collect::<Vec<_>>(), wanted);
    assert!(
        shown()
            .await
            .iter()
            .all(|operation| operation.job.ended.is_some())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_opens_at_once_and_what_is_written_to_it_is_thrown_away() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let replica = fixture.replica().await;
    let address = format!("unix:{}", fixture.path("point.sock").display());
    let address = address.parse().unwrap();
    let open = || open_point(&replica, PointSelector::Latest, &address, fixture.0.path());
    let disk = fs::read(fixture.path("disk.raw")).unwrap();
    for _ in 0..2 {
        let opened = open().await.unwrap();
        let uri = opened.exports()[0].clone();
        let read = tokio::task::spawn_blocking(move || {
            let client = afterimage_nbd::Client::open(&uri).unwrap();
            let mut before = vec![0; 4 << 20];
            client.read_at(Offset::ZERO, &mut before).unwrap();
            client.write_at(Offset::new(1 << 20), &[9; 4096]).unwrap();
            let mut after = [0; 4096];
            client.read_at(Offset::new(1 << 20), &mut after).unwrap();
            assert_eq!(after, [9; 4096]);
            before
        });
        assert!(
            read.await.unwrap() == disk,
            "the point is the disk, each time"
        );
        let second = open().await.unwrap_err();
        refusals::assert_says(&second, "point.sock is not cleaned up");
        opened.close().await.unwrap();
        clean_up(&replica, None, TestResult::Succeeded, "")
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_point_of_a_test_is_held_until_it_is_cleaned_up() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    let replica = fixture.replica().await;
    let address = format!("unix:{}", fixture.path("point.sock").display());
    let address = address.parse().unwrap();
    let opened = open_point(&replica, PointSelector::Latest, &address, fixture.0.path());
    let opened = opened.await.unwrap();
    let held = opened.point().sequence;
    let disk = fs::read(fixture.path("disk.raw")).unwrap();
    let policy = Policy {
        recovery_points_max: 1,
        ..Fixture::policy()
    };
    let (machine, mut notices) = fixture.vm().policy(policy).start().await.unwrap();
    let oldest = async || replica.existing().await.unwrap().points[0].sequence;
    for value in 2..5 {
        write(&machine, value);
        until(&mut notices, is_point).await;
        assert_eq!(oldest().await, held);
    }
    let uri = opened.exports()[0].clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut content = vec![0; 4 << 20];
        let client = afterimage_nbd::Client::open(&uri).unwrap();
        client.read_at(Offset::ZERO, &mut content).unwrap();
        content
    });
    assert!(read.await.unwrap() == disk);
    clean_up(&replica, None, TestResult::Succeeded, "")
        .await
        .unwrap();
    opened.cleaned_up().await;
    opened.close().await.unwrap();
    write(&machine, 5);
    until(&mut notices, is_point).await;
    assert!(oldest().await > held);
    assert!(machine.stop().await.unwrap());
}

#[tokio::test]
async fn a_failed_over_machine_stays_shut_out() {
    let fixture = Fixture::new();
    fixture.protect_once().await;
    fixture.assert_replicated().await;
    let replica = fixture.replica().await;
    commit(&replica, None).await.unwrap();
    let error = refusals::refused(fixture.vm()).await;
    refusals::assert_says(&error, "prepared for a planned failover");
    refusals::assert_says(&error, "for good");
    cancel(&replica, None).await.unwrap_err();
}

#[tokio::test]
async fn disks_of_one_machine_share_their_recovery_points_in_memory_too() {
    let fixture = Fixture::new();
    let disks = vec![fixture.path("disk.raw"), fixture.disk("second")];
    let name: afterimage::MachineName = "pair".parse().unwrap();
    let protection = Protection::new(name.clone(), disks, "memory://pair");
    let (machine, mut notices) = protection.start().await.unwrap();
    for (number, disk) in machine.disks().iter().enumerate() {
        let value = u8::try_from(number + 1).unwrap();
        disk.write_at(Offset::ZERO, &[value; 512]).unwrap();
    }
    until(&mut notices, is_point).await;
    let images = machine.disks().into_iter().map(|disk| {
        let mut image = vec![0; 4 << 20];
        disk.read_at(Offset::ZERO, &mut image).unwrap();
        image
    });
    let images: Vec<_> = images.collect();
    assert!(machine.stop().await.unwrap());
    let replica = Store::open("memory://pair").await.unwrap().replica(name);
    let out = fixture.path("out");
    let planned = Failover::Planned;
    let done = fail_over(&replica, planned, PointSelector::Latest, &out, |_, _| ());
    let done = done.await.unwrap();
    for (image, path) in images.iter().zip(&done.images) {
        assert!(fs::read(path).unwrap() == *image, "{}", path.display());
    }
}

#[tokio::test]
async fn protection_that_ended_begins_again_with_what_the_replica_has() {
    let fixture = Fixture::new();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    write(&machine, 1);
    until(&mut notices, is_point).await;
    machine.request(Request::Disable).await.unwrap();
    until(&mut notices, is_state(State::Disabled)).await;
    let told = |notice: &Notice| matches!(notice, Notice::Job(job) if job.kind == JobKind::Disable && job.state == JobState::Succeeded);
    until(&mut notices, told).await;
    let replica = fixture.replica().await;
    let status = status(&replica, Clock::timestamp()).await.unwrap();
    assert_eq!(status.state, State::Disabled);
    let points = status.recovery_points;
    assert!(!points.is_empty(), "they stay");
    write(&machine, 2);
    machine.request(Request::Enable).await.unwrap();
    let resync = |n: &Notice| {
        matches!(
            n,
            Notice::Resync {
                reason: ResyncReason::ExistingCopy,
                ..
            }
        )
    };
    until(&mut notices, resync).await;
    until(&mut notices, is_point).await;
    let manifest = replica.existing().await.unwrap();
    assert!(points.iter().all(|point| manifest.points.contains(point)));
    assert!(machine.stop().await.unwrap());
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn a_first_copy_is_given_up_and_begun_anew() {
    let fixture = Fixture::new();
    let slow = Bandwidth {
        otherwise: NonZeroU64::new(64 << 10),
        ..Bandwidth::default()
    };
    let policy = Policy {
        bandwidth: slow,
        ..Policy::default()
    };
    fs::write(fixture.path("disk.raw"), vec![9; 4 << 20]).unwrap();
    let (machine, mut notices) = fixture.vm().policy(policy).start().await.unwrap();
    let copying = |n: &Notice| matches!(n, Notice::Job(job) if job.kind == JobKind::InitialReplication && !job.progress.done.is_zero());
    until(&mut notices, copying).await;
    machine.request(Request::Disable).await.unwrap();
    let cancelled = |n: &Notice| matches!(n, Notice::Job(job) if job.state == JobState::Cancelled);
    until(&mut notices, cancelled).await;
    write(&machine, 0);
    machine.stop().await.unwrap();
    // What was copied before is not taken for the disk as it is now.
    fixture.protect_once().await;
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn a_replica_is_encrypted_from_end_to_end() {
    const CANARY: &[u8] = b"the canary of an encrypted machine";
    let fixture = Fixture::new();
    let path = fixture.path("key");
    fs::write(&path, "5a".repeat(32)).unwrap();
    let key = Key::from_file(&path).unwrap();
    let (machine, mut notices) = fixture.vm().key(key.clone()).start().await.unwrap();
    machine.disks()[0].write_at(Offset::ZERO, CANARY).unwrap();
    until(&mut notices, is_point).await;
    machine.disks()[0]
        .write_at(Offset::new(1 << 20), CANARY)
        .unwrap();
    assert!(machine.stop().await.unwrap());
    let plain = fixture.replica().await;
    let error = status(&plain, Clock::timestamp()).await.unwrap_err();
    assert!(error.to_string().contains("is encrypted"), "{error}");
    let disk = fs::read(fixture.path("disk.raw")).unwrap();
    refusals::assert_says(&refusals::refused(fixture.vm()).await, "is encrypted");
    let url = fixture.path("replica").display().to_string();
    let store = Store::open_existing(&url).await.unwrap().with_key(key);
    let replica = store.replica(plain.name().clone());
    let out = fixture.path("out");
    let latest = PointSelector::Latest;
    fail_over(&replica, Failover::Forced, latest, &out, |_, _| ())
        .await
        .unwrap();
    assert!(fs::read(out.join("disk.raw")).unwrap() == disk);
    commit(&replica, None).await.unwrap();
    let mut folders = vec![fixture.path("replica")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let content = fs::read(&path).unwrap();
            let found = content.windows(CANARY.len()).any(|part| part == CANARY);
            assert!(!found, "{}", path.display());
        }
    }
    assert!(files > 4, "{files}");
}
