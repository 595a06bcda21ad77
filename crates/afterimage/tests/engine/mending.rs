//! What a scrub finds damaged, the primary mends while it runs.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use afterimage::{Clock, Liveness, Notice, Policy, Replica, ResyncReason, status};

use crate::fixture::{Fixture, is_point, until, write, write_much};

/// The objects that a scrub calls damaged, which it records.
pub(crate) async fn scrubbed(replica: &Replica) -> Vec<String> {
    let (mut scrub, mut damaged) = (replica.scrub(), Vec::new());
    while let Some(step) = scrub.step().await.unwrap() {
        replica.record(&step.damage).await.unwrap();
        damaged.extend(step.damage.into_iter().map(|damage| damage.object));
    }
    damaged
}

/// The object of a kind in the replica at `store` that is for the disk's last or first MiB, or the only one.
pub(crate) fn object(fixture: &Fixture, store: &str, kind: &str, first: bool) -> PathBuf {
    let disks = fixture.path(store).join("machines/vm/disks");
    let disk = fs::read_dir(disks).unwrap().next().unwrap().unwrap();
    let objects = fs::read_dir(disk.path().join(kind)).unwrap();
    let mut objects: Vec<_> = objects.map(|entry| entry.unwrap().path()).collect();
    objects.sort();
    if first {
        objects.remove(0)
    } else {
        objects.pop().unwrap()
    }
}

/// Damages an object of a machine that runs; what is sent anew is all that is.
async fn mends(kind: &str, first: bool, is_resynchronized: bool) {
    let fixture = Fixture::new();
    let content: Vec<u8> = (1..=251).cycle().take(4 << 20).collect();
    fs::write(fixture.path("disk.raw"), content).unwrap();
    let (machine, mut notices) = fixture.vm().start().await.unwrap();
    until(&mut notices, is_point).await;
    for value in 1..4 {
        write_much(&machine, value);
        until(&mut notices, is_point).await;
    }
    let path = object(&fixture, "replica", kind, first);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let replica = fixture.replica().await;
    assert_eq!(scrubbed(&replica).await.len(), 1, "{kind}");
    write(&machine, 5);
    if is_resynchronized {
        let resync = until(&mut notices, |n| matches!(n, Notice::Resync { .. })).await;
        let wanted = ResyncReason::ReplicaDamaged;
        assert!(matches!(resync, Notice::Resync { reason, .. } if reason == wanted));
        until(&mut notices, is_point).await;
    } else {
        until(&mut notices, is_point).await;
        while !replica.existing().await.unwrap().losses.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(fs::read(&path).unwrap() == whole, "it is put as it was");
    }
    assert_eq!(scrubbed(&replica).await, [""; 0], "{kind}");
    let manifest = replica.existing().await.unwrap();
    assert_eq!(manifest.open_losses().count(), 0);
    assert!(manifest.latest_point().is_some());
    let lost = manifest.damaged_points().count();
    assert_eq!(lost > 0, is_resynchronized, "{kind}: {lost}");
    assert!(machine.stop().await.unwrap());
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn a_chunk_that_the_disk_still_holds_is_put_as_it_was() {
    mends("chunks", false, false).await;
}

#[tokio::test]
async fn a_chunk_that_was_overwritten_since_is_sent_with_the_next_point() {
    mends("chunks", true, true).await;
}

#[tokio::test]
async fn what_a_page_names_is_sent_with_the_next_point() {
    mends("pages", true, true).await;
}

#[tokio::test]
async fn a_disk_without_root_is_sent_with_the_next_point() {
    mends("roots", true, true).await;
}

#[tokio::test]
async fn what_a_log_held_is_compared() {
    mends("logs", true, true).await;
}

#[tokio::test]
async fn an_idle_machine_is_known_to_be_alive_and_mends_at_a_heartbeat() {
    let fixture = Fixture::new();
    fs::write(fixture.path("disk.raw"), vec![7; 4 << 20]).unwrap();
    let second = Duration::from_secs(1);
    let policy = Policy {
        interval: second,
        heartbeat: second,
        ..Policy::default()
    };
    let (machine, mut notices) = fixture.vm().policy(policy).start().await.unwrap();
    until(&mut notices, is_point).await;
    let replica = fixture.replica().await;
    let liveness = async || {
        let status = status(&replica, Clock::timestamp()).await.unwrap();
        status.liveness
    };
    eventually(async || matches!(liveness().await, Liveness::Idle { .. })).await;
    let path = object(&fixture, "replica", "chunks", true);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(scrubbed(&replica).await.len(), 1);
    eventually(async || replica.existing().await.unwrap().losses.is_empty()).await;
    assert!(fs::read(&path).unwrap() == whole, "it is put as it was");
    assert!(machine.stop().await.unwrap());
}

async fn eventually(holds: impl AsyncFn() -> bool) {
    let awaited = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let patience = Duration::from_mins(1);
    tokio::time::timeout(patience, awaited).await.unwrap();
}
