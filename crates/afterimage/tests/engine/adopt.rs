//! Replicas that were made of another copy of a machine's disks.

use std::fs;

use afterimage::block::{Access, BlockWrite, Length, Offset, RawDisk};
use afterimage::{Notice, Protection, ResyncReason};

use crate::fixture::{Fixture, is_point, until, write};
use crate::reverse::refusal;

/// A machine whose disk has changed since a copy of it was made, which was protected where the replica is.
fn copied() -> Fixture {
    let fixture = Fixture::new();
    let disk = RawDisk::open(fixture.path("disk.raw"), Access::ReadWrite).unwrap();
    disk.write_at(Offset::new(1 << 20), &vec![7; 1 << 20])
        .unwrap();
    fs::create_dir(fixture.path("carried")).unwrap();
    fs::copy(fixture.path("disk.raw"), fixture.path("carried/disk.raw")).unwrap();
    disk.write_at(Offset::new(2 << 20), &[8; 4096]).unwrap();
    disk.write_at(Offset::new(1 << 20), &[0; 4096]).unwrap();
    fixture
}

fn copy(fixture: &Fixture) -> Protection {
    let copy = fixture.protection("vm", &fixture.path("carried/disk.raw"));
    copy.state_folder(fixture.path("carried.state"))
}

/// Protects a machine until it has a recovery point, and stops it.
async fn protect(protection: Protection) {
    let (machine, mut notices) = protection.start().await.unwrap();
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
}

#[tokio::test]
async fn only_what_differs_from_an_existing_copy_is_sent() {
    let fixture = copied();
    protect(copy(&fixture)).await;
    let (machine, mut notices) = fixture.vm().adopt().start().await.unwrap();
    let compared = until(&mut notices, |n| matches!(n, Notice::Resync { .. })).await;
    let Notice::Resync {
        reason,
        compared,
        sent,
    } = compared
    else {
        unreachable!()
    };
    assert_eq!(
        (reason, compared),
        (ResyncReason::ExistingCopy, Length::mib(4))
    );
    assert!(sent > Length::ZERO && sent < Length::kib(256), "{sent}");
    until(&mut notices, is_point).await;
    write(&machine, 3);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn a_disk_that_is_larger_than_its_copy_has_grown() {
    let fixture = copied();
    protect(copy(&fixture)).await;
    let open = || RawDisk::open(fixture.path("disk.raw"), Access::ReadWrite).unwrap();
    open().lengthen(Length::mib(6)).unwrap();
    open().write_at(Offset::new(5 << 20), &[9; 512]).unwrap();
    protect(fixture.vm().adopt()).await;
    fixture.assert_replicated().await;
}

#[tokio::test]
async fn who_made_the_copy_is_shut_out() {
    let fixture = copied();
    protect(copy(&fixture)).await;
    protect(fixture.vm().adopt()).await;
    let refused = copy(&fixture).start().await.err().unwrap().to_string();
    assert!(refused.contains("another one published"), "{refused}");
    // Nor does a machine keep a replica that another one adopts.
    let again = copy(&fixture).state_folder(fixture.path("twice")).adopt();
    protect(again).await;
    let refused = fixture.vm().start().await.err().unwrap().to_string();
    assert!(refused.contains("another one published"), "{refused}");
}

#[tokio::test]
async fn a_copy_that_still_runs_or_has_other_disks_is_refused() {
    let fixture = copied();
    let (machine, mut notices) = copy(&fixture).start().await.unwrap();
    until(&mut notices, is_point).await;
    let running = fixture.vm().adopt().start().await;
    assert!(refusal(running).contains("stopped with its last delta"));
    assert!(machine.stop().await.unwrap());
    let other = fixture.protection("vm", &fixture.disk("other"));
    let other = other.state_folder(fixture.path("other.state"));
    let refused = other.adopt().start().await.err().unwrap().to_string();
    assert!(refused.contains("the replica has disk"), "{refused}");
    // It was refused before anybody was fenced off.
    let (machine, mut notices) = copy(&fixture).start().await.unwrap();
    write(&machine, 1);
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
}
