//! Application-consistent points by commands. In a process of their own: a child that is being started
//! holds the locks of its parent for a moment, those of other tests too.

use std::fs;
use std::path::Path;
use std::time::Duration;

use afterimage::block::{BlockWrite, Length, Offset, RawDisk};
use afterimage::{
    ApplicationConsistent, Clock, Notice, Policy, ProtectedMachine, Protection, QuiesceHook, Store,
};
use tokio::sync::broadcast::Receiver;

async fn protect(folder: &Path, hook: QuiesceHook) -> (ProtectedMachine, Receiver<Notice>) {
    let disk = folder.join("disk.raw");
    drop(RawDisk::create(&disk, Length::mib(1)).expect("a new disk"));
    let policy = Policy {
        interval: Duration::from_secs(1),
        application_consistent: Some(ApplicationConsistent::default()),
        ..Policy::default()
    };
    let replica = folder.join("replica").display().to_string();
    let protection = Protection::new("vm".parse().expect("a name"), vec![disk], replica)
        .policy(policy)
        .clock(Clock::accelerated(10))
        .quiesce(hook);
    protection.start().await.expect("it starts")
}

async fn until(notices: &mut Receiver<Notice>, awaited: impl Fn(&Notice) -> bool) -> Notice {
    loop {
        let notice = notices.recv().await.expect("it comes");
        if awaited(&notice) {
            return notice;
        }
    }
}

fn is_point(notice: &Notice) -> bool {
    matches!(notice, Notice::RecoveryPoint { .. })
}

async fn application_consistent_points(folder: &Path) -> usize {
    let url = folder.join("replica").display().to_string();
    let store = Store::open_existing(&url).await.expect("a store");
    let replica = store.replica("vm".parse().expect("a name"));
    let manifest = replica.existing().await.expect("a manifest");
    let wanted = afterimage_store::Consistency::Application;
    let points = manifest.points.iter();
    points.filter(|point| point.consistency == wanted).count()
}

#[tokio::test]
async fn the_guest_holds_still_for_a_point_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("said");
    let say = |word: &str| format!("echo {word} >> '{}'", said.display());
    let hook = QuiesceHook {
        before: say("hold"),
        after: say("go on"),
    };
    let (machine, mut notices) = protect(folder.path(), hook).await;
    machine.disks()[0]
        .write_at(Offset::ZERO, &[1; 512])
        .unwrap();
    loop {
        until(&mut notices, is_point).await;
        if application_consistent_points(folder.path()).await > 0 {
            break;
        }
    }
    assert!(machine.stop().await.unwrap());
    let said = fs::read_to_string(&said).unwrap();
    assert!(said.starts_with("go on\nhold\ngo on\n"), "{said}");
}

#[tokio::test]
async fn a_hook_that_fails_leaves_crash_consistent_points_and_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let hook = QuiesceHook {
        before: "echo no guest >&2; exit 3".into(),
        after: "true".into(),
    };
    let (machine, mut notices) = protect(folder.path(), hook).await;
    let warned = until(&mut notices, |notice| {
        matches!(notice, Notice::CrashConsistentOnly { .. })
    });
    let Notice::CrashConsistentOnly { error } = warned.await else {
        panic!("awaited");
    };
    assert!(error.contains("no guest"), "{error}");
    machine.disks()[0]
        .write_at(Offset::ZERO, &[1; 512])
        .unwrap();
    until(&mut notices, is_point).await;
    assert!(machine.stop().await.unwrap());
    assert_eq!(application_consistent_points(folder.path()).await, 0);
}
